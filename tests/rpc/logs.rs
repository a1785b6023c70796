//! What is logged at the level that shows most of what a server does, other crates included.
use super::{
    lines::Listener,
    server::{Plan, ask, options, request, within},
};
use newshound::serve::rpc::proto::{ExperimentContext, ForcedArm, GenerateQueriesRequest};
use std::time::Duration;
use tonic::Request;

/// A word that stands nowhere else.
const CANARY: &str = "zanzibarquux";
/// A caller's trace.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A request with the canary in every field that takes text.
fn marked(key: &str) -> GenerateQueriesRequest {
    let mut request = request(&format!("{CANARY}-{key}"));
    request.correlation_id = CANARY.to_owned();
    let (locale, tier) = (CANARY.to_owned(), CANARY.to_owned());
    request.experiment = Some(ExperimentContext { locale, tier, ..Default::default() });
    for signal in &mut request.signals {
        signal.text = format!("{CANARY} {}", signal.text);
        signal.category = Some(CANARY.to_owned());
        signal.source = Some(CANARY.to_owned());
    }
    request
}

#[tokio::test]
async fn no_log_line_holds_what_a_reader_or_the_model_wrote() {
    let listener = Listener::new();
    let text = |row_idx: usize, _| match row_idx {
        0 => format!("{CANARY} alone"),
        _ => format!("{CANARY} storm tonight\n{CANARY} strike talks\n{CANARY} council vote"),
    };
    let (_dir, path) = super::experiments::file(&super::experiments::flags());
    let plan = Plan::new().writing(text).gated();
    let server = plan.with(|settings| settings.experiments.file = Some(path)).start().await;
    let mut client = server.client().await;
    let mut leaving = server.client().await;
    let left = tokio::spawn(async move { leaving.generate_queries(marked("leaves")).await });
    server.until("newshound_running_rows", 4.0).await;
    left.abort();
    let mut hurried = Request::new(marked("hurries"));
    hurried.set_timeout(Duration::from_millis(100));
    within(client.generate_queries(hurried)).await.unwrap_err();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 0.0).await;
    server.gate.open();
    server.until("newshound_running_rows", 0.0).await;

    let mut traced = Request::new(marked("asks"));
    traced.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
    within(client.generate_queries(traced)).await.unwrap();
    within(client.stream_generate_queries(marked("streams"))).await.unwrap();
    let mut chosen = marked("chooses");
    let arm = ForcedArm { experiment_id: "x".to_owned(), arm_id: "few".to_owned() };
    chosen.experiment.get_or_insert_default().forced_arms = vec![arm];
    ask(&mut client, chosen).await;
    let mut listless = marked("has no list");
    options(&mut listless).candidate_count = Some(1);
    client.generate_queries(listless).await.unwrap_err();
    let mut broken = marked("has broken fields\u{7}");
    broken.signals[0].stream = 0;
    client.generate_queries(broken).await.unwrap_err();

    let logged = listener.heard();
    for told in ["client is gone", "none of 1 candidates is a valid list", "request ended", "x=few"] {
        assert!(logged.contains(told), "{told} is not logged");
    }
    let of_trace: Vec<&str> = logged.lines().filter(|line| line.contains(TRACE)).collect();
    assert!(of_trace.iter().any(|line| line.contains("request ended")), "{of_trace:?}");
    let leak = logged.lines().find(|line| line.contains(CANARY));
    assert!(leak.is_none(), "{leak:?}");
}
