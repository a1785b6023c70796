//! What is sensitive reaches neither the model nor a list.
use super::server::{Plan, Server, ask, options, refusal, request, signal, texts, within};
use newshound::serve::{
    rpc::proto::{self, generate_queries_event::Event},
    settings::Gates,
};
use std::path::PathBuf;
use tempfile::TempDir;
use tonic::Code;

fn file() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topics.toml");
    std::fs::write(&file, "[topics]\nhealth = [\"chemotherapy\"]\nspace = [\"solar storm\"]").unwrap();
    (dir, file)
}

const LISTS: [&str; 2] = [
    "solar storm tonight\ntrain strike talks\ncity council vote\nharvest festival dates",
    "solar storm tonight\ntrain strike talks\ncity council vote",
];

fn plan(gates: Gates) -> (TempDir, Plan) {
    let (dir, file) = file();
    let plan = Plan::new().writing(|row_idx, _| LISTS[row_idx.min(1)].to_owned());
    let plan = plan.with(|settings| {
        settings.topics.file = Some(file);
        settings.topics.gates = gates;
    });
    (dir, plan)
}

async fn server(gates: Gates) -> (TempDir, Server) {
    let (dir, plan) = plan(gates);
    (dir, plan.start().await)
}

fn sick() -> proto::GenerateQueriesRequest {
    let mut request = request("reader");
    request.signals.push(signal(proto::Stream::Click, "Chemotherapy: what helps", 1_700_000_200));
    request
}

#[tokio::test]
async fn sensitive_signals_and_queries_are_left_out_and_counted() {
    let (_dir, server) = server(Gates::Both).await;
    let mut client = server.client().await;
    let answer = ask(&mut client, sick()).await;
    let best = answer.best.as_ref().unwrap();
    assert_eq!(texts(best), ["train strike talks", "city council vote", "harvest festival dates"]);
    let usage = answer.usage.unwrap();
    assert_eq!(
        (usage.cleaned_signals, usage.candidates_invalid),
        (1, 3),
        "three lists are too short without it"
    );
    let counted = async |what: &str, topic: &str| {
        server.metric(&format!("newshound_sensitive_total{{what=\"{what}\",topic=\"{topic}\"}}")).await
    };
    assert_eq!(counted("signal", "health").await, Some(1.0));
    assert_eq!(counted("query", "space").await, Some(4.0));
    let series = "newshound_invalid_output_total{reason=\"sensitive\"}";
    assert_eq!(server.metric(series).await, Some(3.0));
    let mut only = sick();
    only.signals.drain(..2);
    let status = within(client.generate_queries(only)).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "ONLY_SENSITIVE_TOPICS");
}

#[tokio::test]
async fn each_gate_can_stand_alone() {
    let (_dir, of_queries) = server(Gates::Queries).await;
    let answer = ask(&mut of_queries.client().await, sick()).await;
    assert_eq!((answer.usage.unwrap().cleaned_signals, answer.best.unwrap().queries.len()), (0, 3));
    let (_dir, of_signals) = server(Gates::Signals).await;
    let answer = ask(&mut of_signals.client().await, sick()).await;
    let usage = answer.usage.unwrap();
    assert_eq!((usage.cleaned_signals, usage.candidates_invalid), (1, 0));
}

#[tokio::test]
async fn sensitive_queries_are_not_shown_while_lists_are_written() {
    let (_dir, plan) = plan(Gates::Both);
    let server = plan.gated().start().await;
    let mut client = server.client().await;
    let mut asked = request("reader");
    options(&mut asked).stream_queries = true;
    let mut stream = within(client.stream_generate_queries(asked)).await.unwrap().into_inner();
    let mut next = async || within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Accepted(_)));
    server.gate.allow(super::script::tokens().encode_text("solar storm tonight\n").len() - 1);
    for _ in 0..4 {
        let Event::Growing(growing) = next().await else { panic!("nothing grew") };
        assert!(growing.queries.is_empty() && growing.output_tokens > 0, "{growing:?}");
    }
    server.gate.open();
    loop {
        match next().await {
            Event::Growing(growing) => {
                assert!(growing.queries.iter().all(|query| query.text != "solar storm tonight"));
            }
            Event::Done(_) => break,
            _ => {}
        }
    }
}
