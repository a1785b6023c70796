//! Which list is chosen, and what is shown of it.
use super::script::LIST;
use super::server::{Plan, ask, cache_status, options, request, texts};
use crate::support::lexicon::lexicon;
use newshound::serve::rpc::proto::{self, RerankMethod};

fn asking(method: RerankMethod) -> proto::GenerateQueriesRequest {
    let mut request = request("reader");
    options(&mut request).rerank = method.into();
    options(&mut request).return_candidates = true;
    request
}

#[tokio::test]
async fn auto_means_the_head_where_there_is_one() {
    let server = Plan::new().with_head().start().await;
    let response = ask(&mut server.client().await, asking(RerankMethod::Auto)).await;
    assert_eq!(response.rerank(), RerankMethod::RewardHead);
    let best = response.best.unwrap();
    let scores: Vec<f32> = response.candidates.iter().map(|list| list.list_score.unwrap()).collect();
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(best.list_score, Some(highest), "{scores:?}");
    assert!(best.queries.iter().all(|query| query.score.is_some()));
}

#[tokio::test]
async fn auto_means_consensus_where_there_is_no_head() {
    let odd = "something else entirely\nnobody wrote this\nnor this one";
    let text = move |row_idx: usize, _| if row_idx == 0 { odd.to_owned() } else { LIST.to_owned() };
    let server = Plan::new().writing(text).start().await;
    let mut client = server.client().await;
    let response = ask(&mut client, asking(RerankMethod::Auto)).await;
    assert_eq!(response.rerank(), RerankMethod::Consensus);
    assert_eq!(response.best.as_ref().unwrap().index, 1, "row 0 stands alone, the others are the same");
    let consensus: Vec<f32> = response.candidates.iter().map(|list| list.consensus.unwrap()).collect();
    assert!(consensus[0] < consensus[1] && consensus[1] < 1.0, "{consensus:?}");
    assert_eq!(consensus[1..], [consensus[1]; 3]);
    let likeliest = ask(&mut client, asking(RerankMethod::Logprob)).await;
    assert_eq!((likeliest.rerank(), likeliest.best.unwrap().index), (RerankMethod::Logprob, 0));
}

#[tokio::test]
async fn a_head_that_reads_affinity_chooses_what_the_signals_ask_for() {
    let news = ["solar", "harbour", "council"];
    let lexicon = || lexicon(&news, &[("running shoes", &[(1, 1.0)]), ("night sky", &[(0, 1.0)])]);
    let about = |word: &str| format!("{word} talks go on\nzzz 1111\nyyy 2222");
    let text = move |row_idx: usize, _| about(news[row_idx % 3]);
    let server = Plan::new().writing(text).with_lexicon(lexicon()).start().await;
    let mut client = server.client().await;
    for (typed, expected) in [("running shoes for winter", 1), ("the night sky", 0)] {
        let mut request = asking(RerankMethod::Auto);
        options(&mut request).candidate_count = Some(3);
        request.signals[0].text = typed.to_owned();
        let response = ask(&mut client, request).await;
        assert_eq!(response.best.unwrap().index, expected, "{typed}");
        let scores: Vec<f32> = response.candidates.iter().map(|list| list.list_score.unwrap()).collect();
        assert!(
            scores.iter().enumerate().all(|(at, score)| at == expected as usize || *score < 0.01),
            "{scores:?}"
        );
    }
}

/// Two rows know of one story, two of another, all of a third; the last one is no list.
fn divided(row_idx: usize, _: u64) -> String {
    let own = if row_idx < 2 { "city council vote" } else { "winter storm warning" };
    let alone = ["zzz 1111", "yyy 2222", "xxx 3333", "www 4444", "https://no.list"][row_idx];
    format!("{alone}\nharbour strike talks\n{own}")
}

#[tokio::test]
async fn stitch_makes_one_list_of_the_best_queries_of_all() {
    for (plan, has_head) in [(Plan::new(), false), (Plan::new().with_head(), true)] {
        let server = plan.writing(divided).start().await;
        let mut client = server.client().await;
        let mut request = asking(RerankMethod::Stitch);
        options(&mut request).candidate_count = Some(5);
        let response = ask(&mut client, request.clone()).await;
        assert_eq!(response.rerank(), RerankMethod::Stitch);
        let best = response.best.clone().unwrap();
        assert!(best.stitched && response.candidates.iter().all(|list| !list.stitched));
        let whole = &response.candidates[best.index as usize];
        assert_eq!((best.list_score, best.consensus), (whole.list_score, whole.consensus));
        // Each query stands in a valid candidate with the same score, whatever the head says.
        let stands = |list: &proto::QueryList, query: &proto::Query| {
            list.queries.iter().any(|other| (&other.text, other.score) == (&query.text, query.score))
        };
        assert_eq!(best.queries.len(), 3);
        assert!(best.queries.iter().all(|query| response.candidates.iter().any(|list| stands(list, query))));
        let again = ask(&mut client, request).await;
        assert_eq!((cache_status(&again), again.best), (proto::CacheStatus::Hit, response.best));
        assert_eq!(best.queries.iter().all(|query| query.score.is_some()), has_head);
        if !has_head {
            assert!(
                !response.candidates.iter().any(|list| best.queries.iter().all(|query| stands(list, query)))
            );
            let mut rest = texts(&best);
            assert_eq!(rest.remove(0), "harbour strike talks", "what all agree with comes first");
            rest.sort_unstable();
            assert_eq!(rest, ["city council vote", "winter storm warning"]);
        }
    }
}

#[tokio::test]
async fn a_list_alone_has_no_consensus() {
    let server = Plan::new().with_head().start().await;
    let mut request = asking(RerankMethod::Auto);
    options(&mut request).candidate_count = Some(1);
    let best = ask(&mut server.client().await, request).await.best.unwrap();
    assert!(best.consensus.is_none() && best.list_score.is_some());
}

#[tokio::test]
async fn none_takes_the_first_valid_list() {
    let text = |row_idx: usize, _| if row_idx < 2 { "no list".to_owned() } else { LIST.to_owned() };
    let server = Plan::new().with_head().writing(text).start().await;
    let response = ask(&mut server.client().await, asking(RerankMethod::None)).await;
    assert_eq!((response.rerank(), response.best.unwrap().index), (RerankMethod::None, 2));
    let valid: Vec<bool> = response.candidates.iter().map(|list| list.valid).collect();
    assert_eq!(valid, [false, false, true, true]);
    assert!(response.candidates[0].queries.is_empty() && response.candidates[0].list_score.is_none());
}

#[tokio::test]
async fn query_count_keeps_the_best_queries_in_their_order() {
    let long = format!("{LIST}\nfourth story today\nfifth story today");
    let server = Plan::new().with_head().writing(move |_, _| long.clone()).start().await;
    let mut client = server.client().await;
    let whole = ask(&mut client, asking(RerankMethod::Auto)).await.best.unwrap();
    assert_eq!(whole.queries.len(), 5);
    let mut request = asking(RerankMethod::Auto);
    options(&mut request).query_count = Some(3);
    let response = ask(&mut client, request).await;
    let best = response.best.unwrap();
    let expected: Vec<_> =
        whole.queries.iter().filter(|query| query.rank <= 3).map(|query| query.text.as_str()).collect();
    assert_eq!(texts(&best), expected);
    assert_eq!(response.candidates[0].queries.len(), 5, "candidates are shown whole");
}

#[tokio::test]
async fn a_list_that_reached_the_token_limit_is_not_valid() {
    let server = Plan::new().start().await;
    let mut request = request("reader");
    let n_tokens = super::script::tokens().encode_text(LIST).len() + 1;
    options(&mut request).return_candidates = true;
    options(&mut request).max_output_tokens = Some(u32::try_from(n_tokens).unwrap());
    let mut client = server.client().await;
    assert!(ask(&mut client, request.clone()).await.candidates[0].valid);
    options(&mut request).max_output_tokens = Some(u32::try_from(n_tokens - 1).unwrap());
    let status = client.generate_queries(request).await.unwrap_err();
    let details = super::server::refusal(&status, tonic::Code::NotFound, "NO_VALID_LIST");
    assert_eq!(details.error_info().unwrap().metadata["candidates"], "4");
}
