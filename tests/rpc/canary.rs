//! What one reader does stands in nobody else's answer, and in no metric, record, log line or trace: words that stand nowhere else are
//! planted, and looked for.
use super::experiments::{flags, text};
use super::lines::Listener;
use super::script::{Gate, Log, Script};
use super::server::{Client, Plan, Server, few_or, options, parts, request, signal, within};
use super::traces::Collector;
use newshound::serve::{
    experiments::log,
    rpc::proto::{GenerateQueriesRequest, Stream},
    settings::{LogSettings, Salt},
};
use std::sync::Arc;
use tempfile::TempDir;

/// Not that of other tests, whose servers are heard too.
const CANARY: &str = "quokkavellum";

/// Requests of others.
fn n_others() -> usize {
    few_or(24, 10_000)
}

/// The demo's network, with experiments and their log in this folder, and its traces there.
async fn serving(dir: &TempDir, collector: &Collector) -> Server {
    let path = dir.path().join("experiments.json");
    std::fs::write(&path, text(&flags())).unwrap();
    let log = LogSettings {
        dir: dir.path().join("records"),
        queue_max: 20_000,
        file_bytes_max: 1 << 26,
        files_max: 4,
        reader_salt: Salt("no secret of anybody".to_owned()),
    };
    let plan = collector.plan(Plan::new()).with(|settings| {
        settings.experiments.file = Some(path);
        settings.experiments.log = Some(log);
    });
    super::swap_bundles::demo_with(plan.settings).await
}

fn planted(number: usize) -> GenerateQueriesRequest {
    let mut request = request(&format!("{CANARY}-{}", number % 4));
    request.correlation_id = CANARY.to_owned();
    let signals = (0..4).map(|at| {
        let mut signal =
            signal(Stream::Search, &format!("{CANARY} {CANARY} shoes {number}"), 1_700_000_000 + at);
        (signal.category, signal.source) = (Some(CANARY.to_owned()), Some(CANARY.to_owned()));
        signal
    });
    request.signals = signals.collect();
    request
}

/// Asks; a reader for whom the network writes no list has an answer too, which is no leak.
async fn answer(client: &mut Client, mut request: GenerateQueriesRequest) -> String {
    options(&mut request).candidate_count = Some(2);
    match within(client.generate_queries(request)).await {
        Ok(response) => format!("{:?}", response.into_inner()),
        Err(status) => format!("{status:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_of_one_reader_reach_no_other_reader_metric_record_log_or_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, collector) = (Listener::new(), Collector::start(false).await);
    let mut server = serving(&dir, &collector).await;
    let mut planting = server.client().await;
    let planter = tokio::spawn(async move {
        // As long as the others ask: in the same batches, and from kept prompts.
        for number in 0.. {
            answer(&mut planting, planted(number)).await;
        }
    });
    let mut client = server.client().await;
    for number in 0..n_others() {
        // Each is generated, and none found in the cache.
        let mut other = request(&format!("reader{}", number % 8));
        other.signals.push(signal(Stream::Search, &format!("storm warning {number}"), 1_700_000_200));
        let answered = answer(&mut client, other).await;
        assert!(!answered.contains(CANARY), "{answered}");
    }
    assert!(server.metric("newshound_prefix_tokens_total").await.unwrap() > 0.0, "prompts were kept");
    // Nobody's answer was there before she asked.
    assert_eq!(server.metric("newshound_cache_requests_total{status=\"hit\"}").await, Some(0.0));
    let (_, metrics) = server.get("/metrics").await;
    assert!(!metrics.contains(CANARY));
    planter.abort();
    server.signal();
    server.ended().await.unwrap();
    let files = log::files(&dir.path().join("records")).unwrap();
    let records: String = files.into_iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(records.lines().count() >= n_others() / 2, "answers were exposures");
    assert!(!records.contains(CANARY));
    let logged = listener.heard();
    let n_logged = logged.lines().filter(|line| line.contains("request ended")).count();
    assert!(n_logged >= n_others(), "{n_logged} of {} requests are in the log", n_others());
    assert_eq!(logged.lines().find(|line| line.contains(CANARY)), None);
    assert!(collector.has_got("newshound.outcome"), "bytes are kept as they are sent");
    assert!(!collector.has_got(CANARY));
}

/// Everything that a stream tells.
async fn streamed(client: &mut Client, mut request: GenerateQueriesRequest) -> String {
    options(&mut request).stream_queries = true;
    let mut stream = within(client.stream_generate_queries(request)).await.unwrap().into_inner();
    let mut told = String::new();
    while let Some(event) = within(stream.message()).await.unwrap() {
        told.push_str(&format!("{event:?}"));
    }
    told
}

/// A network that has learned to copy: what is planted comes back to the one who planted it, at every answer, and to nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_network_copies_from_its_prompt_reaches_the_prompts_reader_alone() {
    let (gate, log) = (Arc::new(Gate::default()), Arc::new(Log::default()));
    gate.open();
    let script = (Arc::clone(&gate), Arc::clone(&log));
    let make = move || Script::echo(script.0, script.1);
    let server = Server::start(Plan::new().settings, parts(false), make, gate, log).await;
    let (mut planting, mut client) = (server.client().await, server.client().await);
    let planter = tokio::spawn(async move {
        for number in 0..few_or(100, 10_000) {
            let mut planted = planted(number);
            // It comes back in any case.
            planted.correlation_id.clear();
            let told = streamed(&mut planting, planted).await;
            assert!(told.contains(CANARY), "{told}");
        }
    });
    for number in 0..few_or(100, 10_000) {
        let mut other = request(&format!("reader{}", number % 8));
        other.signals = vec![signal(Stream::Search, &format!("storm warning {number}"), 1_700_000_200)];
        let told = streamed(&mut client, other).await;
        assert!(told.contains("storm") && !told.contains(CANARY), "{told}");
    }
    planter.await.unwrap();
}
