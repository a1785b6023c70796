//! Which list is chosen, and what is shown of it.
use super::script::LIST;
use super::server::{Plan, ask, options, request, texts};
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
