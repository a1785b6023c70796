//! Who goes before whom, and for whom a wait is a reason to get less.
use super::*;

/// One request runs at a time, nobody is old, and generations are noted by their rows in the order in which they begin.
async fn one_by_one() -> (Server, Arc<Mutex<Vec<usize>>>) {
    let settings = |settings: &mut ServeSettings| {
        settings.engine.rows_max = 5;
        settings.engine.queue_requests_max = 4;
        settings.engine.aging = Duration::from_secs(600);
    };
    let begun = Arc::new(Mutex::new(Vec::new()));
    let of_text = Arc::clone(&begun);
    let text = move |row_idx: usize, _| {
        let mut begun = of_text.lock().unwrap();
        begun.extend((row_idx == 0).then_some(0));
        *begun.last_mut().unwrap() += 1;
        LIST.to_owned()
    };
    (Plan::new().gated().with(settings).writing(text).start().await, begun)
}

#[tokio::test]
async fn a_reader_who_joins_what_bulk_asked_for_takes_it_to_the_front() {
    let (server, begun) = one_by_one().await;
    let client = server.client().await;
    let mut calls = vec![call(&client, of(Priority::Default, 5))];
    server.until("newshound_running_rows", 5.0).await;
    for (priority, n_candidates, n_prompts) in
        [(Priority::Bulk, 4, 2.0), (Priority::Default, 3, 3.0), (Priority::Interactive, 4, 3.0)]
    {
        calls.push(call(&client, of(priority, n_candidates)));
        server.until("newshound_prompt_tokens_count", n_prompts).await;
    }
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    server.gate.open();
    for call in calls {
        done(call).await;
    }
    assert_eq!(*begun.lock().unwrap(), [5, 4, 3]);
}

#[tokio::test]
async fn who_is_waited_for_goes_first_and_bulk_has_half_of_the_queue() {
    let (server, begun) = one_by_one().await;
    let client = server.client().await;
    let mut calls = vec![call(&client, of(Priority::Default, 5))];
    server.until("newshound_running_rows", 5.0).await;
    let waiting =
        [(Priority::Bulk, 4), (Priority::Bulk, 3), (Priority::Default, 2), (Priority::Interactive, 1)];
    for (priority, n_candidates) in waiting {
        if priority == Priority::Default {
            let third = within(client.clone().generate_queries(of(Priority::Bulk, 6))).await;
            refusal(&third.unwrap_err(), Code::ResourceExhausted, "QUEUE_FULL");
        }
        calls.push(call(&client, of(priority, n_candidates)));
        server.until("newshound_prompt_tokens_count", calls.len() as f64).await;
    }
    for (class, decision, expected) in [
        ("bulk", "admitted", 2.0),
        ("bulk", "refused", 1.0),
        ("default", "admitted", 2.0),
        ("interactive", "admitted", 1.0),
        ("interactive", "refused", 0.0),
    ] {
        let series = format!("newshound_admissions_total{{class=\"{class}\",decision=\"{decision}\"}}");
        assert_eq!(server.metric(&series).await, Some(expected), "{series}");
    }
    server.gate.open();
    for call in calls {
        done(call).await;
    }
    assert_eq!(*begun.lock().unwrap(), [5, 1, 2, 4, 3]);
}

#[tokio::test]
async fn bulk_waits_for_all_of_it_unless_it_allows_less() {
    let server = Plan::new().gated().with(pressed_at_once).start().await;
    let client = server.client().await;
    let running = press(&server, &client).await;
    let prompts = server.metric("newshound_prompt_tokens_count").await.unwrap();
    let bulk = |user: &str, lowest: Rung| {
        let mut request = request(user);
        options(&mut request).lowest_rung = lowest.into();
        GenerateQueriesRequest { priority: Priority::Bulk.into(), ..request }
    };
    let calls = [bulk("open", Rung::Unspecified), bulk("lax", Rung::Stale)].map(|it| call(&client, it));
    server.until("newshound_prompt_tokens_count", prompts + 2.0).await;
    server.gate.open();
    done(running).await;
    let [all, less] = calls;
    let (all, less) = (done(all).await, done(less).await);
    assert_eq!((all.degradation, n_candidates(&all)), (None, 4));
    assert_eq!(less.degradation, short(Rung::Greedy, DegradationReason::Pressure));
}
