//! Readers of whom nothing is known.
use super::{
    ladder::short,
    server::{Plan, Server, ask, cache_status, options, refusal, request, texts, within},
};
use newshound::serve::rpc::proto::{
    CacheStatus, DegradationReason, ExperimentContext, GenerateQueriesRequest, Rung,
    generate_queries_event::Event,
};
use std::path::Path;
use tonic::Code;

async fn with_lists() -> Server {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/cohorts.toml");
    Plan::new().with(|settings| settings.degradation.cohort_file = Some(file)).start().await
}

fn cold(locale: &str) -> GenerateQueriesRequest {
    let experiment = Some(ExperimentContext { locale: locale.to_owned(), ..Default::default() });
    GenerateQueriesRequest { signals: Vec::new(), experiment, ..request("new reader") }
}

#[tokio::test]
async fn a_reader_without_signals_gets_the_list_of_her_locale_and_hears_why() {
    let server = with_lists().await;
    let mut client = server.client().await;
    for (locale, first) in [("en-GB", "top stories this morning"), ("", "world news today")] {
        let answer = ask(&mut client, cold(locale)).await;
        assert_eq!(answer.degradation, short(Rung::Cohort, DegradationReason::NoSignals));
        assert_eq!(texts(answer.best.as_ref().unwrap())[0], first);
        assert_eq!(cache_status(&answer), CacheStatus::Miss);
    }
    let mut events = within(client.stream_generate_queries(cold(""))).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = within(events.message()).await.unwrap() {
        last = event.event;
    }
    let Some(Event::Done(done)) = last else { panic!("{last:?}") };
    assert_eq!(done.degradation, short(Rung::Cohort, DegradationReason::NoSignals));
    assert_eq!(server.log.prefills(), 0, "the model is not asked");
    let series = "newshound_degraded_total{rung=\"cohort\",reason=\"no_signals\"}";
    assert_eq!(server.metric(series).await, Some(3.0));
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"cached\"}").await, Some(3.0));
}

#[tokio::test]
async fn without_a_list_that_she_may_have_the_signals_are_asked_for() {
    let server = with_lists().await;
    let mut client = server.client().await;
    let mut strict = cold("en-GB");
    options(&mut strict).lowest_rung = Rung::Stale.into();
    let of_nowhere = Plan::new().start().await;
    for (client, asked) in [(&mut client, strict), (&mut of_nowhere.client().await, cold("en-GB"))] {
        let status = within(client.generate_queries(asked)).await.unwrap_err();
        let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "signals");
    }
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"rejected\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_topic_that_is_newer_than_the_lists_is_in_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (lists, topics) = (dir.path().join("cohorts.toml"), dir.path().join("topics.toml"));
    let list =
        "\"\" = [\"world news\", \"solar storm tonight\", \"train strike talks\", \"city council vote\"]";
    std::fs::write(&lists, format!("[lists]\n{list}")).unwrap();
    std::fs::write(&topics, "[topics]\nspace = [\"solar storm\"]").unwrap();
    let plan = Plan::new().with(|settings| {
        settings.degradation.cohort_file = Some(lists);
        settings.topics.file = Some(topics);
    });
    let server = plan.start().await;
    let answer = ask(&mut server.client().await, cold("")).await;
    let best = answer.best.as_ref().unwrap();
    assert_eq!(texts(best), ["world news", "train strike talks", "city council vote"]);
}
