//! Exposures and outcomes reach the log, whatever the answer came from, and say nothing of what readers did.
use super::{
    experiments::{flags, text},
    server::{Client, Plan, Server, ask, refusal, request, with_mode, within},
};
use newshound::{
    experiment::record::{EventKind, Exposure, Outcomes, Record},
    serve::{
        experiments::log,
        rpc::proto::{self, CacheMode, feedback_service_client::FeedbackServiceClient},
        settings::{LogSettings, Salt},
    },
};
use std::path::Path;
use tempfile::TempDir;
use tonic::{Code, transport::Channel};

/// A server with experiments, and a log in this folder.
pub fn plan(dir: &TempDir) -> Plan {
    let path = dir.path().join("experiments.json");
    std::fs::write(&path, text(&flags())).unwrap();
    let log = LogSettings {
        dir: dir.path().join("records"),
        queue_max: 100,
        file_bytes_max: 1 << 20,
        files_max: 4,
        reader_salt: Salt("no secret of anybody".to_owned()),
    };
    Plan::new().with(|settings| {
        settings.experiments.file = Some(path);
        settings.experiments.log = Some(log);
    })
}

async fn logging(dir: &TempDir) -> Server {
    plan(dir).start().await
}

/// Everything in the log, once the server has ended.
pub async fn records(server: &mut Server, dir: &Path) -> Vec<Record> {
    server.signal();
    server.ended().await.unwrap();
    let texts = log::files(&dir.join("records"))
        .unwrap()
        .into_iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    let text: String = texts.collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn exposures(records: &[Record]) -> Vec<&Exposure> {
    let exposures = records.iter().filter_map(|record| match record {
        Record::Exposure(exposure) => Some(exposure),
        Record::Outcomes(_) => None,
    });
    exposures.collect()
}

fn outcomes(records: &[Record]) -> Vec<&Outcomes> {
    let outcomes = records.iter().filter_map(|record| match record {
        Record::Outcomes(outcomes) => Some(outcomes),
        Record::Exposure(_) => None,
    });
    outcomes.collect()
}

pub fn report(response_id: &str, request_id: &str) -> proto::ReportOutcomeRequest {
    let outcome = |event: proto::OutcomeEvent, value| proto::Outcome {
        event: event.into(),
        query_rank: Some(1),
        value,
        event_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
    };
    proto::ReportOutcomeRequest {
        response_id: response_id.to_owned(),
        outcomes: vec![
            outcome(proto::OutcomeEvent::Clicked, None),
            outcome(proto::OutcomeEvent::Dwell, Some(12.5)),
        ],
        request_id: request_id.to_owned(),
    }
}

async fn feedback(server: &Server) -> FeedbackServiceClient<Channel> {
    FeedbackServiceClient::new(server.channel().await)
}

/// A request of which no experiment sets anything itself.
fn open(user: &str) -> proto::GenerateQueriesRequest {
    proto::GenerateQueriesRequest { options: None, ..request(user) }
}

#[tokio::test]
async fn every_answer_under_an_arm_is_exposed_also_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = logging(&dir).await;
    let mut client: Client = server.client().await;
    let mut responses = Vec::new();
    for request in [open("one"), open("one"), with_mode(CacheMode::Bypass, open("one")), request("two")] {
        responses.push(ask(&mut client, request).await);
    }
    let mut stream = within(client.stream_generate_queries(open("one"))).await.unwrap().into_inner();
    while within(stream.message()).await.unwrap().is_some() {}
    // A request that is refused exposes nobody.
    within(client.generate_queries(proto::GenerateQueriesRequest::default())).await.unwrap_err();
    drop((client, stream));

    let records = records(&mut server, dir.path()).await;
    let exposures = exposures(&records);
    let served: Vec<_> = exposures.iter().map(|exposure| exposure.served.as_str()).collect();
    assert_eq!(served, ["miss", "hit", "bypass", "miss", "hit"]);
    for (exposure, response) in exposures.iter().zip(&responses) {
        assert_eq!(exposure.response_id, response.response_id);
        assert_eq!(Some(exposure.arms[0].arm.as_str()), response.arms[0].arm_id.as_deref());
        assert_eq!(exposure.config.len(), 16);
        assert_eq!(Some(&exposure.bundle), response.model.as_ref().map(|model| &model.bundle_id));
        assert_eq!((exposure.arms[0].by.as_str(), exposure.arms[0].hash_version), ("hash", 2));
        assert_eq!(exposure.arms[0].split.values().collect::<Vec<_>>(), [&1, &1]);
    }
    assert_eq!(exposures[0].reader, exposures[1].reader);
    assert_ne!(exposures[0].reader, exposures[3].reader);
    assert!(exposures[0].arms[0].overridden.is_empty());
    assert_eq!(exposures[3].arms[0].overridden, ["candidate_count"], "this request set it itself");
}

#[tokio::test]
async fn who_joins_a_generation_is_exposed_like_who_began_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = plan(&dir).gated().start().await;
    let client = server.client().await;
    let call = || {
        let mut client = client.clone();
        tokio::spawn(async move { client.generate_queries(open("one")).await })
    };
    let calls = [call(), call()];
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    server.gate.open();
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    drop(client);
    let records = records(&mut server, dir.path()).await;
    let mut served: Vec<_> = exposures(&records).iter().map(|exposure| exposure.served.as_str()).collect();
    served.sort_unstable();
    assert_eq!(served, ["coalesced", "miss"]);
}

#[tokio::test]
async fn a_report_is_joined_and_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = logging(&dir).await;
    let mut client = server.client().await;
    let response = ask(&mut client, open("one")).await;
    let mut feedback = feedback(&server).await;
    let mut send = async |report| within(feedback.report_outcome(report)).await.unwrap().into_inner();
    let first = send(report(&response.response_id, "a1")).await;
    assert_eq!((&first.arms, first.duplicate), (&response.arms, false));
    let again = send(report(&response.response_id, "a1")).await;
    assert_eq!((&again.arms, again.duplicate), (&response.arms, true));
    let unknown = send(report("0123456789abcdef-7", "a1")).await;
    assert!(unknown.arms.is_empty() && !unknown.duplicate, "another server made it");
    let arm = response.arms[0].arm_id();
    let series = format!("newshound_arm_events_total{{experiment=\"x\",arm=\"{arm}\",event=\"clicked\"}}");
    assert_eq!(server.metric(&series).await, Some(1.0));
    assert_eq!(server.metric("newshound_feedback_reports_total{result=\"duplicate\"}").await, Some(1.0));
    drop((client, feedback));

    let records = records(&mut server, dir.path()).await;
    let outcomes = outcomes(&records);
    assert_eq!(outcomes.len(), 2);
    assert_eq!(
        (outcomes[0].response_id.as_str(), outcomes[0].request_id.as_str()),
        (&*response.response_id, "a1")
    );
    let events: Vec<_> = outcomes[0].events.iter().map(|event| (event.what, event.value)).collect();
    assert_eq!(events, [(EventKind::Clicked, None), (EventKind::Dwell, Some(12.5))]);
    assert_eq!(outcomes[0].events[0].time_unix_ms, Some(1_700_000_000_005));
}

#[tokio::test]
async fn each_broken_field_of_a_report_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = logging(&dir).await;
    let mut feedback = feedback(&server).await;
    let mut refused = async |change: &dyn Fn(&mut proto::ReportOutcomeRequest), field: &str| {
        let mut report = report("0-1", "a");
        change(&mut report);
        let status = within(feedback.report_outcome(report)).await.unwrap_err();
        let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    };
    refused(&|report| report.response_id = "no id".to_owned(), "response_id").await;
    refused(&|report| report.response_id = "a".repeat(65), "response_id").await;
    refused(&|report| report.request_id.clear(), "request_id").await;
    refused(&|report| report.request_id = "a\n".to_owned(), "request_id").await;
    refused(&|report| report.request_id = "solar eclipse".to_owned(), "request_id").await;
    refused(&|report| report.request_id = "a".repeat(65), "request_id").await;
    refused(&|report| report.outcomes.clear(), "outcomes").await;
    refused(&|report| report.outcomes = vec![report.outcomes[0]; 65], "outcomes").await;
    refused(&|report| report.outcomes[1].event = 0, "outcomes[1].event").await;
    refused(&|report| report.outcomes[1].event = 99, "outcomes[1].event").await;
    refused(&|report| report.outcomes[0].query_rank = Some(0), "outcomes[0].query_rank").await;
    refused(&|report| report.outcomes[0].query_rank = Some(9), "outcomes[0].query_rank").await;
    refused(&|report| report.outcomes[0].value = Some(1.0), "outcomes[0].value").await;
    refused(&|report| report.outcomes[1].value = None, "outcomes[1].value").await;
    refused(&|report| report.outcomes[1].value = Some(f64::NAN), "outcomes[1].value").await;
    refused(&|report| report.outcomes[1].value = Some(86_401.0), "outcomes[1].value").await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    refused(&|report| report.outcomes[0].event_time = time(-1), "outcomes[0].event_time").await;
    refused(&|report| report.outcomes[0].event_time = time(7_258_118_400), "outcomes[0].event_time").await;
}

#[tokio::test]
async fn a_server_without_a_log_takes_no_reports_and_answers_all_the_same() {
    let server = Plan::new().start().await;
    let status = feedback(&server).await.report_outcome(report("0-1", "a")).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "FEEDBACK_OFF");
    ask(&mut server.client().await, request("reader")).await;
}

#[tokio::test]
async fn a_lost_disk_costs_records_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    // Every line begins a file, for which there will be no folder.
    let plan = plan(&dir).with(|settings| settings.experiments.log.as_mut().unwrap().file_bytes_max = 1);
    let server = plan.start().await;
    let mut client = server.client().await;
    ask(&mut client, open("one")).await;
    server.until("newshound_records_total{result=\"written\"}", 1.0).await;
    std::fs::remove_dir_all(dir.path().join("records")).unwrap();
    for user in ["two", "three"] {
        assert_eq!(ask(&mut client, open(user)).await.arms.len(), 1);
    }
    server.until("newshound_records_total{result=\"failed\"}", 2.0).await;
}

#[tokio::test]
async fn the_log_holds_nothing_that_readers_wrote_or_the_model_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = logging(&dir).await;
    let mut client = server.client().await;
    let response = ask(&mut client, open("zanzibarquux-reader")).await;
    within(feedback(&server).await.report_outcome(report(&response.response_id, "a1"))).await.unwrap();
    drop(client);
    let records = records(&mut server, dir.path()).await;
    let text = serde_json::to_string(&records).unwrap();
    assert_eq!(records.len(), 2);
    for word in ["zanzibarquux", "marathon", "shoes", "solar", "no secret"] {
        assert!(!text.contains(word), "{word}");
    }
}
