//! StreamGenerateQueries: accepted, every candidate as it ends, done.
use super::script::LIST;
use super::server::{Client, Plan, cache_status, options, request, texts, within};
use newshound::serve::rpc::proto::{self, generate_queries_event::Event};

async fn events(client: &mut Client, request: proto::GenerateQueriesRequest) -> Vec<Event> {
    let mut stream = within(client.stream_generate_queries(request)).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = within(stream.message()).await.unwrap() {
        events.push(event.event.unwrap());
    }
    events
}

fn candidates(events: &[Event]) -> Vec<&proto::Candidate> {
    events
        .iter()
        .filter_map(|event| if let Event::Candidate(candidate) = event { Some(candidate) } else { None })
        .collect()
}

#[tokio::test]
async fn events_come_in_order_and_the_best_so_far_is_marked() {
    // Later rows are longer, so they end later; they are less likely, so the first one stays the best.
    let text = |row_idx: usize, _| format!("{LIST}{}", "\nanother story today".repeat(row_idx.min(1)));
    let server = Plan::new().writing(text).start().await;
    let events = events(&mut server.client().await, request("reader")).await;

    let Event::Accepted(accepted) = &events[0] else { panic!("{events:?}") };
    let Event::Done(done) = &events[events.len() - 1] else { panic!("{events:?}") };
    assert_eq!(accepted.response_id, done.response_id);
    assert_eq!(events.len(), 2 + 4);
    let candidates = candidates(&events);
    let first = candidates[0].list.as_ref().unwrap();
    assert_eq!((first.index, candidates[0].best_so_far), (0, true));
    assert!(candidates[1..].iter().all(|candidate| !candidate.best_so_far), "{candidates:?}");
    assert_eq!(done.best.as_ref().unwrap().index, 0);
    assert!(done.candidates.is_empty(), "they were sent before");
}

#[tokio::test]
async fn a_later_list_that_is_better_becomes_the_best_so_far() {
    // The likeliest row is the longest here.
    let text =
        |row_idx: usize, _| format!("{LIST}{}", if row_idx == 0 { "\nanother story today" } else { "" });
    let server = Plan::new().writing(text).start().await;
    let mut request = request("reader");
    options(&mut request).rerank = proto::RerankMethod::Logprob.into();
    let events = events(&mut server.client().await, request).await;
    let last = candidates(&events)[3].clone();
    assert_eq!((last.list.unwrap().index, last.best_so_far), (0, true));
}

#[tokio::test]
async fn a_candidate_is_sent_before_the_others_end() {
    let text = |row_idx: usize, _| {
        if row_idx == 0 { LIST.to_owned() } else { format!("{LIST}\nanother story today") }
    };
    let server = Plan::new().writing(text).gated().start().await;
    let mut client = server.client().await;
    let mut stream = within(client.stream_generate_queries(request("reader"))).await.unwrap().into_inner();
    let mut next = async || within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Accepted(_)));
    let n_tokens = super::script::tokens().encode_text(LIST).len() + 1;
    server.gate.allow(n_tokens - 1);
    let Event::Candidate(candidate) = next().await else { panic!("no candidate") };
    assert_eq!(candidate.list.unwrap().index, 0);
    server.until("newshound_running_rows", 3.0).await;
    server.gate.open();
    for _ in 0..3 {
        assert!(matches!(next().await, Event::Candidate(_)));
    }
    assert!(matches!(next().await, Event::Done(_)));
}

/// Steps after which the first query of a list has ended, whose last token comes with the next one.
fn steps_of_a_query(text: &str) -> usize {
    let first = format!("{}\n", text.lines().next().unwrap());
    super::script::tokens().encode_text(&first).len() - 1
}

fn seen_growing(request: proto::GenerateQueriesRequest) -> proto::GenerateQueriesRequest {
    let mut request = request;
    options(&mut request).stream_queries = true;
    request
}

#[tokio::test]
async fn candidates_are_shown_while_they_are_written_where_that_is_asked_for() {
    let server = Plan::new().with_head().gated().start().await;
    let mut client = server.client().await;
    let asked = seen_growing(request("reader"));
    let mut stream = within(client.stream_generate_queries(asked)).await.unwrap().into_inner();
    let mut next = async || within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Accepted(_)));
    server.gate.allow(steps_of_a_query(LIST));
    for index in 0..4 {
        let Event::Growing(growing) = next().await else { panic!("nothing grew") };
        assert_eq!((growing.index, growing.queries.len()), (index, 1));
        let query = &growing.queries[0];
        assert_eq!((query.text.as_str(), query.rank), (LIST.lines().next().unwrap(), 1));
        assert!(query.score.is_some() && growing.foreseen_score.is_none(), "this head does not foresee");
    }
    server.gate.open();
    let mut n_queries = [1; 4];
    let mut has_ended = [false; 4];
    loop {
        match next().await {
            Event::Growing(growing) => {
                let index = growing.index as usize;
                let texts: Vec<&str> = growing.queries.iter().map(|query| query.text.as_str()).collect();
                assert!(!has_ended[index] && texts.len() > n_queries[index], "{index}: {texts:?}");
                assert_eq!(texts, LIST.lines().take(texts.len()).collect::<Vec<_>>());
                n_queries[index] = texts.len();
            }
            Event::Candidate(candidate) => has_ended[candidate.list.unwrap().index as usize] = true,
            Event::Done(done) => {
                assert_eq!(texts(done.best.as_ref().unwrap()), LIST.lines().collect::<Vec<_>>());
                break;
            }
            Event::Accepted(_) => panic!("accepted twice"),
        }
    }
    assert_eq!(has_ended, [true; 4]);
}

#[tokio::test]
async fn who_joins_sees_lists_grow_and_who_does_not_look_is_not_shown_them() {
    let server = Plan::new().gated().start().await;
    let mut blind = server.client().await;
    let unseen = tokio::spawn(async move { events(&mut blind, request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    let mut client = server.client().await;
    let asked = seen_growing(request("reader"));
    let mut stream = within(client.stream_generate_queries(asked)).await.unwrap().into_inner();
    let mut next = async || within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Accepted(_)));
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    server.gate.allow(steps_of_a_query(LIST));
    for _ in 0..4 {
        assert!(matches!(next().await, Event::Growing(_)));
    }
    server.gate.open();
    let unseen = within(unseen).await.unwrap();
    assert_eq!(unseen.len(), 2 + 4, "{unseen:?}");
    assert_eq!(server.log.prefills(), 1);
}

/// What must not be in a list must not be in one that grows either.
#[tokio::test]
async fn what_is_personal_or_no_query_is_not_shown_while_it_is_written() {
    // The parser takes the first for a query, which the rules of personal data do not, and refuses the other two.
    let lines = [
        "call 020 7946 0958 today",
        "solar storm tonight",
        "one",
        "mail jane.doe@example.com",
        "train strike talks",
    ];
    let text = move |_, _| lines.join("\n");
    let server = Plan::new().with_head().writing(text).gated().start().await;
    let mut client = server.client().await;
    let asked = seen_growing(request("reader"));
    let mut stream = within(client.stream_generate_queries(asked)).await.unwrap().into_inner();
    let mut next = async || within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Accepted(_)));
    server.gate.allow(steps_of_a_query(&text(0, 0)));
    for _ in 0..4 {
        let Event::Growing(growing) = next().await else { panic!("nothing grew") };
        assert!(growing.queries.is_empty() && growing.output_tokens > 0, "{growing:?}");
    }
    let n_tokens = super::script::tokens().encode_text(&text(0, 0)).len();
    server.gate.allow(n_tokens - 2 - steps_of_a_query(&text(0, 0)));
    loop {
        let Event::Growing(growing) = next().await else { panic!("ended too early") };
        let texts: Vec<&str> = growing.queries.iter().map(|query| query.text.as_str()).collect();
        assert!(texts.is_empty() || texts == ["solar storm tonight"], "{texts:?}");
        let scores = growing.queries.iter().filter(|query| query.score.is_some()).count();
        assert_eq!(scores, 0, "the head saw more lines than are shown");
        if growing.index == 3 && !texts.is_empty() {
            break;
        }
    }
}

#[tokio::test]
async fn malformed_candidates_are_sent_but_never_lead() {
    let text = |row_idx: usize, _| if row_idx == 0 { "one line only".to_owned() } else { LIST.to_owned() };
    let server = Plan::new().writing(text).start().await;
    let events = events(&mut server.client().await, request("reader")).await;
    let candidates = candidates(&events);
    assert_eq!(candidates.len(), 4);
    let malformed = candidates.iter().find(|candidate| candidate.list.as_ref().unwrap().index == 0).unwrap();
    assert!(!malformed.best_so_far && !malformed.list.as_ref().unwrap().valid);
    let Event::Done(done) = &events[5] else { panic!("{events:?}") };
    assert_eq!(done.usage.unwrap().candidates_invalid, 1);
}

#[tokio::test]
async fn a_stored_answer_streams_the_same_candidates() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let first = events(&mut client, request("reader")).await;
    let second = events(&mut client, request("reader")).await;
    assert_eq!(candidates(&second).len(), 4);
    let lists = |events: &[Event]| {
        let mut lists: Vec<_> =
            candidates(events).iter().map(|candidate| candidate.list.clone().unwrap()).collect();
        lists.sort_by_key(|list| list.index);
        // Scores move until the last list has ended; a stored answer has the final ones.
        let own = |list: &proto::QueryList| texts(list).join("\n");
        lists.iter().map(|list| (list.index, own(list))).collect::<Vec<_>>()
    };
    assert_eq!(lists(&first), lists(&second));
    let Event::Done(done) = &second[5] else { panic!("{second:?}") };
    assert_eq!(cache_status(done), proto::CacheStatus::Hit);
    let mut leaders = candidates(&second).into_iter().filter(|candidate| candidate.best_so_far);
    let last = leaders.next_back().unwrap().list.as_ref().unwrap().index;
    assert_eq!(last, done.best.as_ref().unwrap().index, "the last leader of a stored answer is its best");
    assert_eq!(server.log.prefills(), 1);
}

#[tokio::test]
async fn a_broken_request_is_refused_before_anything_is_accepted() {
    let server = Plan::new().start().await;
    let mut request = request("");
    options(&mut request).candidate_count = Some(0);
    let status = server.client().await.stream_generate_queries(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}
