//! How far answers fell short stands in the log.
use super::{
    super::feedback::{exposures, plan, records},
    *,
};
use newshound::experiment::record::Exposure;

#[tokio::test]
async fn the_log_says_how_far_an_exposed_answer_fell_short() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = plan(&dir).gated().with(pressed_at_once).start().await;
    let client = server.client().await;
    let running = press(&server, &client).await;
    let open = |user: &str| GenerateQueriesRequest { options: None, ..request(user) };
    let waiting = call(&client, open("reader"));
    server.until("newshound_prompt_tokens_count", 5.0).await;
    server.gate.open();
    let answers = [done(running).await, done(waiting).await];
    drop(client);
    let records = records(&mut server, dir.path()).await;
    for (answer, degraded) in answers.iter().zip([None, Some("greedy")]) {
        let is_it = |exposure: &&&Exposure| exposure.response_id == answer.response_id;
        let exposures = exposures(&records);
        assert_eq!(exposures.iter().find(is_it).unwrap().degraded.as_deref(), degraded);
    }
}

#[tokio::test]
async fn the_log_has_exposures_of_old_answers_and_of_lists_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let ttl = Duration::from_millis(1);
    let settings = |settings: &mut ServeSettings| {
        settings.cache.ttl = ttl;
        settings.degradation.cohort_file = Some(cohorts());
    };
    let mut server = plan(&dir).gated().with(pressed_at_once).with(settings).start().await;
    let mut client = server.client().await;
    let open = |user: &str| GenerateQueriesRequest { options: None, ..request(user) };
    server.gate.open();
    ask(&mut client, open("reader")).await;
    server.outlast(ttl).await;
    let running = press(&server, &client).await;
    let stale = ask(&mut client, open("reader")).await;
    let cohort = ask(&mut client, GenerateQueriesRequest { signals: Vec::new(), ..open("new") }).await;
    server.gate.open();
    done(running).await;
    drop(client);
    let records = records(&mut server, dir.path()).await;
    for (answer, rung) in [(stale, Rung::Stale), (cohort, Rung::Cohort)] {
        assert_eq!(answer.degradation.unwrap().rung(), rung);
        let is_it = |exposure: &&&Exposure| exposure.response_id == answer.response_id;
        let exposures = exposures(&records);
        let degraded = exposures.iter().find(is_it).unwrap().degraded.as_deref();
        assert_eq!(degraded, Some(if rung == Rung::Stale { "stale" } else { "cohort" }));
    }
}
