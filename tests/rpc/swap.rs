//! The model of a running server is changed: every request ends on the model with which it began, and nothing of one model is another's.
pub mod admin;
mod residents;
mod shelf;

use super::{
    labels::labels,
    server::{Plan, ask, cache_status, options, refusal, request, texts, with_mode, within},
};
use newshound::serve::rpc::proto::{
    self, CacheMode, CacheStatus,
    admin::{ModelState, SwapModelRequest},
};
use shelf::{Shelf, words_of};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tonic::Code;

fn seeded(seed: u64) -> proto::GenerateQueriesRequest {
    let mut request = with_mode(CacheMode::Bypass, request("reader"));
    options(&mut request).seed = Some(seed);
    request
}

fn generation(response: &proto::GenerateQueriesResponse) -> u64 {
    response.model.as_ref().unwrap().generation
}

/// Asks all the time until it is told to stop; returns bundle, seed and answer of each.
async fn load(
    mut client: super::server::Client,
    stop: Arc<AtomicBool>,
    first_seed: u64,
) -> Vec<(String, u64, Vec<String>)> {
    let mut answers = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let seed = first_seed + number % 3;
        let response = ask(&mut client, seeded(seed)).await;
        let bundle = response.model.as_ref().unwrap().bundle_id.clone();
        let queries = texts(response.best.as_ref().unwrap());
        answers.push((bundle, seed, queries.into_iter().map(str::to_owned).collect()));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_under_load_fail_no_call_and_mix_no_answer() {
    let (shelf, server) = Shelf::of(&["alpha", "beta"]).serve(Plan::new()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    for first_seed in [0, 100] {
        asking.push(tokio::spawn(load(server.client().await, Arc::clone(&stop), first_seed)));
    }
    let mut admin = admin::connect(&server).await;
    for number in 0..100 {
        let folder = if number % 2 == 0 { "beta" } else { "alpha" };
        let loaded = admin::load(&mut admin, folder).await.unwrap();
        let swapped = admin::swap(&mut admin, loaded.model.unwrap().generation).await.unwrap();
        assert_eq!(swapped.state(), ModelState::Serving);
        assert_eq!(server.get("/healthz").await.0, 200);
    }
    stop.store(true, Ordering::Relaxed);
    let mut of_each: HashMap<(String, u64), Vec<String>> = HashMap::new();
    for answers in asking {
        for (bundle, seed, queries) in within(answers).await.unwrap() {
            let word = words_of(&bundle);
            assert!(queries.iter().all(|query| query.starts_with(word)), "{bundle} wrote {queries:?}");
            let first = of_each.entry((bundle, seed)).or_insert_with(|| queries.clone());
            assert_eq!(*first, queries, "a model writes the same for the same seed");
        }
    }
    assert!(of_each.len() > 6, "both models answered: {of_each:?}");
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"failed\"}").await, Some(0.0));
    assert_eq!(server.metric("newshound_model_generation").await, Some(101.0));
    let swapped = server.metric("newshound_model_changes_total{change=\"swap\",result=\"ok\"}").await;
    assert_eq!(swapped, Some(100.0));
    server.until("newshound_models_in_memory", 1.0).await;
    assert_eq!(shelf.n_alive(), 1, "each of the others gave its memory back");
}

#[tokio::test]
async fn a_stored_answer_is_labelled_with_its_generation_before_and_after_a_swap() {
    let (_shelf, server) = Shelf::of(&["alpha", "beta"]).serve(Plan::new()).await;
    let mut client = server.client().await;
    let mut labelled = async |status: CacheStatus| {
        let answer = within(client.generate_queries(request("reader"))).await.unwrap();
        assert_eq!(cache_status(answer.get_ref()), status);
        labels(answer.metadata())[2].map(str::to_owned)
    };
    for status in [CacheStatus::Miss, CacheStatus::Hit] {
        assert_eq!(labelled(status).await.as_deref(), Some("1"));
    }
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    for status in [CacheStatus::Miss, CacheStatus::Hit] {
        assert_eq!(labelled(status).await.as_deref(), Some("2"));
    }
}

#[tokio::test]
async fn a_request_ends_on_the_model_with_which_it_began_and_that_one_leaves_with_it() {
    let (shelf, server) = Shelf::of(&["alpha", "beta"]).gated("alpha").serve(Plan::new()).await;
    let mut client = server.client().await;
    let begun = tokio::spawn(async move { ask(&mut client, request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();

    // The same question: it joins nothing of the old model and finds nothing of it.
    let mut client = server.client().await;
    let of_new = ask(&mut client, request("reader")).await;
    assert_eq!((generation(&of_new), cache_status(&of_new)), (2, CacheStatus::Miss));
    assert!(texts(of_new.best.as_ref().unwrap())[0].starts_with("beta"));
    let states = admin::states(&mut admin).await;
    assert_eq!(states, [(1, ModelState::Retiring), (2, ModelState::Serving)]);
    // Both threads are counted; the new one shows that its rows have ended a moment after it has handed them over.
    server.until("newshound_running_rows", 4.0).await;
    assert_eq!(server.metric("newshound_models_in_memory").await, Some(2.0));

    shelf.open("alpha");
    let of_old = within(begun).await.unwrap();
    assert_eq!(generation(&of_old), 1);
    assert!(texts(of_old.best.as_ref().unwrap())[0].starts_with("alpha"));
    server.until("newshound_models_in_memory", 1.0).await;
    assert_eq!(shelf.n_alive(), 1);
    assert_eq!(admin::states(&mut admin).await, [(2, ModelState::Serving)]);
    assert_eq!(server.metric("newshound_running_rows").await, Some(0.0));
}

#[tokio::test]
async fn a_stream_tells_one_model_from_its_beginning_to_its_end() {
    use proto::generate_queries_event::Event;
    let (shelf, server) = Shelf::of(&["alpha", "beta"]).gated("alpha").serve(Plan::new()).await;
    let streamed = within(server.client().await.stream_generate_queries(request("reader"))).await;
    let mut events = streamed.unwrap().into_inner();
    server.until("newshound_running_rows", 4.0).await;
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    shelf.open("alpha");
    let mut told = Vec::new();
    while let Some(event) = within(events.message()).await.unwrap() {
        match event.event.unwrap() {
            Event::Accepted(accepted) => told.push(accepted.model.unwrap().generation),
            Event::Growing(growing) => panic!("nobody asked to see {growing:?}"),
            Event::Candidate(candidate) => {
                assert!(texts(&candidate.list.unwrap())[0].starts_with("alpha"));
            }
            Event::Done(done) => told.push(generation(&done)),
        }
    }
    assert_eq!(told, [1, 1]);
}

#[tokio::test]
async fn stored_answers_are_found_by_the_bundle_that_wrote_them() {
    let (_shelf, server) = Shelf::of(&["alpha", "beta"]).serve(Plan::new()).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let mut asked = async || {
        let response = ask(&mut client, request("reader")).await;
        (cache_status(&response), generation(&response))
    };
    assert_eq!(asked().await, (CacheStatus::Miss, 1));
    assert_eq!(asked().await, (CacheStatus::Hit, 1));
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    assert_eq!(asked().await, (CacheStatus::Miss, 2));
    server.until("newshound_models_in_memory", 1.0).await;
    let back = admin::rollback(&mut admin).await.unwrap();
    assert_eq!(back.model.unwrap().generation, 3, "the same bundle, loaded again");
    assert_eq!(
        asked().await,
        (CacheStatus::Hit, 1),
        "what it would write is there, and who wrote it is told"
    );
}

#[tokio::test]
async fn a_rollback_finds_the_old_model_while_it_lives_and_two_are_none() {
    let (shelf, server) = Shelf::of(&["alpha", "beta"]).gated("alpha").serve(Plan::new()).await;
    let mut client = server.client().await;
    let begun = tokio::spawn(async move { ask(&mut client, request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    let mut admin = admin::connect(&server).await;
    refusal(&admin::rollback(&mut admin).await.unwrap_err(), Code::FailedPrecondition, "NO_PREVIOUS_MODEL");
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    assert_eq!(admin::rollback(&mut admin).await.unwrap().model.unwrap().generation, 1, "it was still there");
    shelf.open("alpha");
    within(begun).await.unwrap();
    server.until("newshound_models_in_memory", 1.0).await;
    let again = admin::rollback(&mut admin).await.unwrap().model.unwrap();
    assert_eq!((again.generation, words_of(&again.bundle_id)), (3, "beta"), "two rollbacks are none");
}

#[tokio::test]
async fn a_rollback_takes_the_place_of_a_model_that_waits() {
    let (shelf, server) = Shelf::of(&["alpha", "beta", "gamma"]).serve(Plan::new()).await;
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    admin::load(&mut admin, "gamma").await.unwrap();
    let back = admin::rollback(&mut admin).await.unwrap().model.unwrap();
    assert_eq!(words_of(&back.bundle_id), "alpha");
    assert_eq!(admin::states(&mut admin).await, [(4, ModelState::Serving)]);
    server.until("newshound_models_in_memory", 1.0).await;
    assert_eq!(shelf.n_alive(), 1);
}

#[tokio::test]
async fn a_rollback_loads_the_bundle_that_answered_and_no_other() {
    let (shelf, server) = Shelf::of(&["alpha", "beta"]).serve(Plan::new()).await;
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    server.until("newshound_models_in_memory", 1.0).await;
    shelf.replace("alpha", "gamma");
    let status = admin::rollback(&mut admin).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "BUNDLE_REFUSED");
    assert_eq!(generation(&ask(&mut server.client().await, request("reader")).await), 2);
}

#[tokio::test]
async fn a_third_model_is_refused_until_there_is_a_place() {
    let (shelf, server) = Shelf::of(&["alpha", "beta", "gamma"]).gated("alpha").serve(Plan::new()).await;
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    let status = admin::load(&mut admin, "gamma").await.unwrap_err();
    let details = refusal(&status, Code::FailedPrecondition, "MODELS_FULL");
    assert_eq!(details.error_info().unwrap().metadata["models_max"], "2");
    assert!(status.message().contains("waits to be swapped in"), "{status:?}");

    // One that ends its last requests has the place for as long as they take, and the next one waits for it.
    let mut client = server.client().await;
    let begun = tokio::spawn(async move { ask(&mut client, request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    admin::swap(&mut admin, 2).await.unwrap();
    let mut waiting = admin::connect(&server).await;
    let loading = tokio::spawn(async move { admin::load(&mut waiting, "gamma").await });
    server.until("newshound_rpc_in_flight{method=\"LoadModel\"}", 1.0).await;
    assert_eq!(shelf.n_alive(), 2, "it is not read before there is a place");
    shelf.open("alpha");
    within(begun).await.unwrap();
    assert_eq!(within(loading).await.unwrap().unwrap().model.unwrap().generation, 3);

    admin::unload(&mut admin, 3).await.unwrap();
    server.until("newshound_models_in_memory", 1.0).await;
    assert_eq!(shelf.n_alive(), 1);
    admin::load(&mut admin, "gamma").await.unwrap();
}

#[tokio::test]
async fn nobody_changes_a_model_that_is_not_the_one_they_know() {
    let (_shelf, server) = Shelf::of(&["alpha", "beta"]).serve(Plan::new()).await;
    let mut admin = admin::connect(&server).await;
    admin::load(&mut admin, "beta").await.unwrap();
    let swap = |generation, expected_generation| SwapModelRequest { generation, expected_generation };
    let status = admin.swap_model(swap(2, Some(7))).await.unwrap_err();
    let details = refusal(&status, Code::Aborted, "GENERATION_MISMATCH");
    assert_eq!(details.error_info().unwrap().metadata["current_generation"], "1");
    refusal(&admin.swap_model(swap(3, Some(1))).await.unwrap_err(), Code::NotFound, "MODEL_UNKNOWN");
    refusal(&admin.swap_model(swap(0, None)).await.unwrap_err(), Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(generation(&ask(&mut server.client().await, request("reader")).await), 1);
    admin.swap_model(swap(2, Some(1))).await.unwrap();
    refusal(&admin.swap_model(swap(2, Some(1))).await.unwrap_err(), Code::Aborted, "GENERATION_MISMATCH");
    refusal(&admin.swap_model(swap(2, None)).await.unwrap_err(), Code::NotFound, "MODEL_UNKNOWN");
    refusal(&admin::unload(&mut admin, 2).await.unwrap_err(), Code::NotFound, "MODEL_UNKNOWN");
    let refused = server.metric("newshound_model_changes_total{change=\"swap\",result=\"refused\"}").await;
    assert_eq!(refused, Some(4.0), "a field that is not there asks for nothing");
    assert_eq!(generation(&ask(&mut server.client().await, request("another")).await), 2);
}
