//! GenerateQueries: what comes back.
use super::script::LIST;
use super::server::{Plan, ask, cache_status, options, refusal, request, texts};
use newshound::serve::rpc::proto;

#[tokio::test]
async fn a_request_is_answered_with_its_provenance() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let request = proto::GenerateQueriesRequest { correlation_id: "mine".to_owned(), ..request("reader") };
    let response = ask(&mut client, request).await;

    let best = response.best.as_ref().unwrap();
    assert_eq!(texts(best), LIST.lines().collect::<Vec<_>>());
    assert!(best.valid);
    assert_eq!(best.finish_reason(), proto::FinishReason::Stop);
    assert_eq!(best.list_score, None, "there is no head");
    assert_eq!(best.queries.iter().map(|query| query.rank).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(response.rerank(), proto::RerankMethod::Consensus);
    assert_eq!(response.correlation_id, "mine");
    assert!(!response.response_id.is_empty());
    assert!(response.candidates.is_empty(), "nobody asked for them");
    assert_eq!(cache_status(&response), proto::CacheStatus::Miss);
    let model = response.model.unwrap();
    assert_eq!((model.name.as_str(), model.version.as_str()), ("scripted", "7"));
    assert_eq!((model.bundle_id.as_str(), model.has_reward_head), ("0123456789abcdef", false));
}

#[tokio::test]
async fn usage_says_what_was_computed() {
    let server = Plan::new().start().await;
    let response = ask(&mut server.client().await, request("reader")).await;
    let usage = response.usage.unwrap();
    assert!(usage.prompt_tokens > 0);
    assert_eq!(usage.prefill_tokens_computed, usage.prompt_tokens, "once, for four candidates");
    assert_eq!((usage.candidates_started, usage.candidates_completed), (4, 4));
    assert_eq!((usage.candidates_invalid, usage.truncated_signals), (0, 0));
    let per_candidate = response.best.unwrap().output_tokens;
    assert_eq!(usage.output_tokens, 4 * per_candidate);
    let timing = response.timing.unwrap();
    for phase in
        [&timing.queue, &timing.tokenize, &timing.prefill, &timing.decode, &timing.rerank, &timing.total]
    {
        assert!(phase.is_some());
    }
    let ms = |duration: Option<prost_types::Duration>| {
        let duration = duration.unwrap();
        duration.seconds * 1000 + i64::from(duration.nanos) / 1_000_000
    };
    assert!(ms(timing.time_to_first_candidate) <= ms(timing.total) + 1);
}

#[tokio::test]
async fn candidates_come_back_by_number_when_asked_for() {
    let server = Plan::new().start().await;
    let mut request = request("reader");
    options(&mut request).return_candidates = true;
    let response = ask(&mut server.client().await, request).await;
    assert_eq!(response.candidates.iter().map(|list| list.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(response.candidates.contains(&response.best.unwrap()));
}

#[tokio::test]
async fn candidate_count_is_eight_unless_said_and_may_be_one_or_thirty_two() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    for (count, expected) in [(None, 8), (Some(1), 1), (Some(32), 32)] {
        let mut request = request("reader");
        options(&mut request).candidate_count = count;
        assert_eq!(ask(&mut client, request).await.usage.unwrap().candidates_started, expected);
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_lists_and_another_gives_others() {
    let server = Plan::new()
        .writing(|row_idx, seed| format!("{LIST}\nstory {row_idx} number {}", seed % 1000))
        .start()
        .await;
    let mut client = server.client().await;
    let mut lists = Vec::new();
    for seed in [1, 1, 2] {
        let mut request = super::server::with_mode(proto::CacheMode::Bypass, request("reader"));
        options(&mut request).seed = Some(seed);
        options(&mut request).return_candidates = true;
        lists.push(ask(&mut client, request).await.candidates);
    }
    assert_eq!(lists[0], lists[1]);
    assert_ne!(lists[0], lists[2]);
    let first: std::collections::HashSet<_> =
        lists[0].iter().map(|list| list.queries[3].text.clone()).collect();
    assert_eq!(first.len(), 4, "rows of one request have streams of their own");
}

#[tokio::test]
async fn signals_beyond_the_limit_are_left_out_and_counted() {
    let server = Plan::new().start().await;
    let mut request = request("reader");
    request.signals = (0..30)
        .map(|at| {
            super::server::signal(proto::Stream::Search, &format!("search number {at}"), 1_700_000_000 + at)
        })
        .collect();
    let usage = ask(&mut server.client().await, request).await.usage.unwrap();
    assert!(usage.truncated_signals >= 30 - 24, "{usage:?}");
}

/// A click, an address and personal data: what rules and streams decide, whatever the classifier's weights say.
fn mixed_signals() -> Vec<proto::Signal> {
    let texts = [
        (proto::Stream::Search, "%20%20", 3),
        (proto::Stream::Page, "write to jane@example.org", 2),
        (proto::Stream::Click, "city council votes on trams", 1),
        (proto::Stream::Search, "www.mailbox.com", 0),
    ];
    texts.map(|(stream, text, at)| super::server::signal(stream, text, 1_700_000_000 + at)).to_vec()
}

#[tokio::test]
async fn noise_and_personal_data_stay_out_of_the_prompt_and_are_counted() {
    let cleaned = Plan::new().with_cleaner().start().await;
    let mut only_click = request("reader");
    only_click.signals = vec![mixed_signals().remove(2)];
    let mut all = request("another");
    all.signals = mixed_signals();
    let mut client = cleaned.client().await;
    let expected = ask(&mut client, only_click).await.usage.unwrap();
    let response = ask(&mut client, all.clone()).await;
    let usage = response.usage.unwrap();
    assert_eq!((usage.cleaned_signals, usage.prompt_tokens), (3, expected.prompt_tokens));
    assert!(response.model.unwrap().has_cleaner && response.signal_verdicts.is_empty());
    assert!(response.timing.unwrap().clean.is_some());
    assert_eq!(cleaned.metric("newshound_signals_total{verdict=\"personal\"}").await, Some(1.0));

    let plain = Plan::new().start().await;
    options(&mut all).return_signal_verdicts = true;
    let response = ask(&mut plain.client().await, all).await;
    assert_eq!(response.usage.unwrap().cleaned_signals, 1, "noise is read, and personal data is not");
    assert!(response.signal_verdicts.is_empty() && !response.model.unwrap().has_cleaner);
}

#[tokio::test]
async fn verdicts_come_back_in_the_order_of_the_request_also_from_the_cache() {
    use proto::SignalVerdict::{Keep, Malformed, Navigational, Personal};
    let server = Plan::new().with_cleaner().start().await;
    let mut client = server.client().await;
    let mut request = request("reader");
    options(&mut request).return_signal_verdicts = true;
    request.signals = mixed_signals();
    let verdicts = |response: &proto::GenerateQueriesResponse| response.signal_verdicts().collect::<Vec<_>>();
    let first = ask(&mut client, request.clone()).await;
    assert_eq!(verdicts(&first), [Malformed, Personal, Keep, Navigational]);
    request.signals.reverse();
    let second = ask(&mut client, request).await;
    assert_eq!(cache_status(&second), proto::CacheStatus::Hit);
    assert_eq!(verdicts(&second), [Navigational, Keep, Personal, Malformed]);
}

#[tokio::test]
async fn a_reader_with_nothing_but_personal_data_is_refused_and_the_model_never_sees_it() {
    let server = Plan::new().with_cleaner().start().await;
    let mut request = request("reader");
    request.signals = vec![mixed_signals().remove(1)];
    let status = server.client().await.generate_queries(request).await.unwrap_err();
    refusal(&status, tonic::Code::FailedPrecondition, "ONLY_PERSONAL_DATA");
    assert!(!status.message().contains("jane"), "{}", status.message());
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"rejected\"}").await, Some(1.0));
    assert_eq!(server.metric("newshound_candidates_total{fate=\"valid\"}").await, Some(0.0));
}
