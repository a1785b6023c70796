//! The whole way with a real network: a tiny one with random weights, whose lists are never valid.
use super::script::{Gate, Log, Mishap, Script, tokens};
use super::server::{Plan, Server, options, parts, refusal, request, within};
use candle_core::Device;
use newshound::{
    decode::batch::Batch,
    model::{
        config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
        ops::Numerics,
        transformer::Transformer,
        weights::Parameters,
    },
    serve::{
        RunError,
        models::{
            facts::Origin,
            workshop::{LoadError, Loaded, Loader},
        },
        rpc::proto::generate_queries_event::Event,
    },
};
use std::{sync::Arc, time::Duration};

/// A tiny network for these tokens.
pub fn config() -> DecoderConfig {
    let tokens = tokens();
    DecoderConfig {
        family: Family::Qwen2,
        hidden_size: 32,
        intermediate_size: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        vocab_size: tokens.n_tokens(),
        max_positions: 1024,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tied_head: true,
        eos_ids: vec![tokens.im_end()],
        biases: Biases::of(Family::Qwen2),
        output_ids: OutputIds::All,
    }
}

fn network() -> Transformer {
    Transformer::load(&config(), &mut Parameters::fresh(7, &Device::Cpu), Numerics::Serve).unwrap()
}

async fn start() -> Server {
    let make = || Batch::new(Arc::new(network()));
    let parts = newshound::serve::Parts { max_positions: 1024, ..parts(false) };
    // Every generation of it fails, and these tests ask again.
    let settings = Plan::new().with(|settings| settings.cache.failure_ttl = Duration::ZERO).settings;
    Server::start(settings, parts, make, Arc::new(Gate::default()), Arc::new(Log::default())).await
}

#[tokio::test]
async fn a_random_network_writes_no_list_and_leaves_no_row_behind() {
    let server = start().await;
    let status = within(server.client().await.generate_queries(request("reader"))).await.unwrap_err();
    refusal(&status, tonic::Code::NotFound, "NO_VALID_LIST");
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.metric("newshound_kv_bytes").await, Some(0.0));
    assert_eq!(server.metric("newshound_candidates_total{fate=\"invalid\"}").await, Some(4.0));
}

#[tokio::test]
async fn a_deadline_of_five_milliseconds_right_after_the_start_is_refused_at_the_door() {
    let parts = newshound::serve::Parts { max_positions: 1024, ..parts(false) };
    let first = Loaded::warm(parts, Origin::BuiltIn, network()).unwrap();
    let (gate, log) = (Arc::new(Gate::default()), Arc::new(Log::default()));
    let loader: Loader = Arc::new(|_| Err(LoadError::Panicked));
    let server = Server::start_with(Plan::new().settings, first, loader, gate, log).await;
    let mut client = server.client().await;
    let refused = "newshound_deadline_missed_total{phase=\"door\"}";
    within(async {
        // The client's own clock may be the first.
        while server.metric(refused).await == Some(0.0) {
            let mut hurried = tonic::Request::new(request("reader"));
            hurried.set_timeout(Duration::from_millis(5));
            client.generate_queries(hurried).await.unwrap_err();
            assert_eq!(server.metric("newshound_prompt_tokens_count").await, Some(0.0));
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_model_has_no_room_for_a_prompt_does_not_start() {
    let output_tokens = Plan::new().settings.generation.output_tokens_max;
    let fits = output_tokens + newshound::text::prompt::budget_min(&tokens());
    let start = async |max_positions| {
        let parts = newshound::serve::Parts { max_positions, ..parts(false) };
        let (gate, log) = (Arc::new(Gate::default()), Arc::new(Log::default()));
        let script = (Arc::clone(&gate), Arc::clone(&log));
        let make = move || Script::new(Plan::new().text, script.0, script.1, Mishap::None);
        let mut server = Server::start(Plan::new().settings, parts, make, gate, log).await;
        server.signal();
        server.ended().await
    };
    assert!(start(fits).await.is_ok());
    let refused = start(fits - 1).await.unwrap_err();
    assert!(matches!(refused, RunError::Model(LoadError::Positions(_))), "{refused}");
}

#[tokio::test]
async fn the_same_seed_samples_the_same_rows_in_company_as_alone() {
    let server = start().await;
    let lists = async |seed: u64| {
        let mut request = request("reader");
        options(&mut request).seed = Some(seed);
        options(&mut request).max_output_tokens = Some(12);
        let mut stream =
            within(server.client().await.stream_generate_queries(request)).await.unwrap().into_inner();
        let mut lists = Vec::new();
        while let Ok(Some(event)) = within(stream.message()).await {
            if let Some(Event::Candidate(candidate)) = event.event {
                lists.push(candidate.list.unwrap());
            }
        }
        lists.sort_by_key(|list| list.index);
        lists
    };
    let alone = lists(1).await;
    assert_eq!(alone.len(), 4);
    let (in_company, _, _) = tokio::join!(lists(1), lists(2), lists(3));
    assert_eq!(in_company, alone);
}

/// A reader's kept prompt serves her alone; everybody shares the opening.
#[tokio::test]
async fn a_reader_who_comes_back_is_computed_anew_from_where_her_prompt_differs_and_others_from_the_opening()
{
    let server = start().await;
    let spared = async |reader: &str, seed: Option<u64>| {
        let known = async || server.metric("newshound_prefix_tokens_total").await.unwrap();
        let before = known().await;
        let mut request = request(reader);
        options(&mut request).seed = seed;
        within(server.client().await.generate_queries(request)).await.unwrap_err();
        known().await - before
    };
    let opening = f64::from(u32::try_from(newshound::text::prompt::opening(&tokens()).len()).unwrap());
    assert_eq!(spared("one", None).await, 0.0);
    assert!(server.metric("newshound_prefix_bytes").await.unwrap() > 0.0);
    assert_eq!(spared("another", None).await, opening, "the same signals, and nothing of the first reader's");
    assert!(spared("one", None).await > opening);
    assert_eq!(
        spared("one", Some(1)).await,
        0.0,
        "whoever asks for a seed is answered as if nothing were known"
    );
}
