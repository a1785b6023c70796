//! Bundles that answer beside the default one: arms name them, and each goes its own way.
use super::{
    admin, generation,
    shelf::{Shelf, words_of},
};
use crate::rpc::{
    experiments::{file, text},
    feedback::{exposures, plan, records},
    reload::{refused, replace},
    server::{Client, Plan, Server, ask, cache_status, refusal, request, texts, within},
};
use newshound::{
    experiment::readers::Collector,
    serve::{
        RunError,
        rpc::proto::{
            self, CacheStatus,
            admin::{ListModelsRequest, LoadModelRequest, Model, ModelState, RollbackModelRequest},
        },
        watched::FileError,
    },
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use tempfile::TempDir;
use tonic::{Code, Status};

/// Half of the readers get the default bundle, and half another.
fn flags(bundle: &str) -> Value {
    json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"control": {}, "next": {"bundle": bundle}},
        "targeting": {"fractional": [["control", 1], ["next", 1]]},
        "metadata": {"hash_version": 2, "allow_forced_arm": true},
    }})
}

/// A server of such an experiment, with a log; `alpha` answers by default.
async fn serving(dir: &TempDir, shelf: Shelf, flags: &Value) -> (Shelf, Server) {
    let plan = plan(dir).with(|settings| settings.experiments.check_interval = Duration::from_millis(1));
    std::fs::write(dir.path().join("experiments.json"), text(flags)).unwrap();
    shelf.serve(plan).await
}

fn of(arm: &str) -> proto::GenerateQueriesRequest {
    let forced = proto::ForcedArm { experiment_id: "x".to_owned(), arm_id: arm.to_owned() };
    let experiment = proto::ExperimentContext { forced_arms: vec![forced], ..Default::default() };
    proto::GenerateQueriesRequest { experiment: Some(experiment), ..request("reader") }
}

/// Which model wrote an answer, in its own words and by what is told of it, and where it came from.
fn told(response: &proto::GenerateQueriesResponse) -> (&'static str, u64, CacheStatus) {
    let word = words_of(&response.model.as_ref().unwrap().bundle_id);
    let list = texts(response.best.as_ref().unwrap());
    assert!(list.iter().all(|query| query.starts_with(word)), "{word} wrote {list:?}");
    (word, generation(response), cache_status(response))
}

async fn load(admin: &mut admin::Client, folder: &str, resident: &str) -> Result<Model, Status> {
    let request = LoadModelRequest { resident: resident.to_owned(), ..admin::named(folder) };
    within(admin.load_model(request)).await.map(|loaded| loaded.into_inner().model.unwrap())
}

async fn back(admin: &mut admin::Client, resident: &str) -> Model {
    let request = RollbackModelRequest { resident: resident.to_owned(), expected_generation: None };
    within(admin.rollback_model(request)).await.unwrap().into_inner().model.unwrap()
}

/// Asks for many readers, as their hash has it; returns how many were in each arm.
async fn crowd(client: &mut Client, expected: [&str; 2]) -> [usize; 2] {
    let mut n_in = [0, 0];
    for reader in 0..20 {
        let request = proto::GenerateQueriesRequest { options: None, ..request(&format!("u{reader}")) };
        let response = ask(client, request).await;
        let arm_idx = usize::from(response.arms[0].arm_id() == "next");
        assert_eq!(told(&response).0, expected[arm_idx]);
        n_in[arm_idx] += 1;
    }
    assert!(n_in.iter().all(|n| *n > 0));
    n_in
}

#[tokio::test]
async fn each_arm_is_answered_by_its_bundle_and_everything_that_is_told_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::of(&["alpha", "beta"]).with_resident("student", Some("beta"));
    let (shelf, mut server) = serving(&dir, shelf, &flags("student")).await;
    let mut client = server.client().await;
    let n_in = crowd(&mut client, ["alpha", "beta"]).await;
    assert_eq!(told(&ask(&mut client, of("control")).await), ("alpha", 1, CacheStatus::Miss));
    assert_eq!(told(&ask(&mut client, of("next")).await), ("beta", 2, CacheStatus::Miss));
    assert_eq!(told(&ask(&mut client, of("next")).await), ("beta", 2, CacheStatus::Hit));

    let explain =
        proto::ExplainAssignmentRequest { user: request("reader").user, experiment: of("next").experiment };
    let explained = within(client.explain_assignment(explain)).await.unwrap().into_inner();
    assert_eq!(explained.policy.unwrap().bundle(), "student");
    for (arm, n) in [("control", n_in[0] + 1), ("next", n_in[1] + 1)] {
        let series = |name: &str| format!("newshound_arm_{name}{{experiment=\"x\",arm=\"{arm}\"}}");
        assert!(server.metric(&series("cost_nanos_total")).await.unwrap() > 0.0, "{arm}");
        assert!(server.metric(&series("duration_seconds_count")).await.unwrap() >= n as f64, "{arm}");
    }
    assert_eq!(server.metric("newshound_models_in_memory").await, Some(2.0));
    assert_eq!(server.metric("newshound_model_generation").await, Some(1.0));
    assert_eq!(server.metric("newshound_model_generation{resident=\"student\"}").await, Some(2.0));
    assert_eq!(server.metric(ABSENT).await, Some(0.0));
    assert_eq!(shelf.n_alive(), 2);

    drop(client);
    let records = records(&mut server, dir.path()).await;
    for exposure in exposures(&records) {
        let arm = &exposure.arms[0];
        assert_eq!(words_of(&exposure.bundle), if arm.arm == "next" { "beta" } else { "alpha" });
        assert!(arm.absent_bundle.is_none() && exposure.cost.is_some());
    }
}

/// Most rows of all models' batches.
const CAPACITY: &str = "newshound_capacity_rows";
const ABSENT: &str = "newshound_degraded_total{rung=\"full\",reason=\"bundle_absent\"}";

#[tokio::test]
async fn who_is_changed_leaves_the_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::of(&["alpha", "beta", "gamma"]).with_resident("student", Some("beta"));
    let (shelf, server) = serving(&dir, shelf, &flags("student")).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let mut asked = async |arm: &str| told(&ask(&mut client, of(arm)).await);
    assert_eq!(asked("control").await, ("alpha", 1, CacheStatus::Miss));
    assert_eq!(asked("next").await, ("beta", 2, CacheStatus::Miss));

    let loaded = load(&mut admin, "gamma", "student").await.unwrap();
    assert_eq!((loaded.state(), loaded.resident.as_str()), (ModelState::Loaded, "student"));
    let status = load(&mut admin, "gamma", "").await.unwrap_err();
    let details = refusal(&status, Code::FailedPrecondition, "MODELS_FULL");
    assert_eq!(details.error_info().unwrap().metadata["models_max"], "3");
    admin::swap(&mut admin, 3).await.unwrap();
    assert_eq!(asked("control").await, ("alpha", 1, CacheStatus::Hit));
    assert_eq!(asked("next").await, ("gamma", 3, CacheStatus::Miss));
    assert_eq!(server.metric("newshound_model_generation{resident=\"student\"}").await, Some(3.0));

    // The default one, with the resident where it is.
    server.until("newshound_models_in_memory", 2.0).await;
    load(&mut admin, "beta", "").await.unwrap();
    admin::swap(&mut admin, 4).await.unwrap();
    assert_eq!(asked("control").await, ("beta", 4, CacheStatus::Miss), "an arm has its own answers");
    assert_eq!(asked("next").await, ("gamma", 3, CacheStatus::Hit));

    assert_eq!(words_of(&back(&mut admin, "student").await.model.unwrap().bundle_id), "beta");
    assert_eq!(asked("next").await, ("beta", 2, CacheStatus::Hit), "what it wrote before");
    assert_eq!(asked("control").await, ("beta", 4, CacheStatus::Hit));
    server.until("newshound_models_in_memory", 2.0).await;
    let listed = within(admin.list_models(ListModelsRequest {})).await.unwrap().into_inner();
    let of_each = listed.models.iter().map(|model| (model.resident.as_str(), model.state()));
    assert_eq!(of_each.collect::<Vec<_>>(), [("", ModelState::Serving), ("student", ModelState::Serving)]);
    assert_eq!((listed.models_max, shelf.n_alive()), (3, 2));
}

#[tokio::test]
async fn readers_whose_bundle_has_gone_get_the_default_one_and_that_is_told_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::of(&["alpha", "beta"]).with_resident("student", Some("beta"));
    let (shelf, mut server) = serving(&dir, shelf, &flags("student")).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    crowd(&mut client, ["alpha", "beta"]).await;
    let of_both = server.metric(CAPACITY).await.unwrap();
    admin::unload(&mut admin, 2).await.unwrap();
    server.until("newshound_models_in_memory", 1.0).await;
    server.until(CAPACITY, of_both / 2.0).await;
    assert_eq!((shelf.n_alive(), server.metric(ABSENT).await), (1, Some(0.0)));
    assert_eq!(server.metric("newshound_model_generation{resident=\"student\"}").await, Some(0.0));

    let n_in = crowd(&mut client, ["alpha", "alpha"]).await;
    let response = ask(&mut client, of("next")).await;
    assert_eq!((told(&response).1, response.arms[0].absent_bundle()), (1, "student"));
    assert_eq!(ask(&mut client, of("control")).await.arms[0].absent_bundle, None);
    assert_eq!(server.metric(ABSENT).await, Some((n_in[1] + 1) as f64));
    let of_extent = async |extent: &str| {
        let answers = "newshound_answer_duration_seconds_count{class=\"default\",extent=";
        server.metric(&format!("{answers}\"{extent}\"}}")).await
    };
    assert_eq!(of_extent("less").await, Some(0.0), "a list of the default bundle is all that was asked");
    // Both crowds of twenty, and two readers more.
    assert_eq!(of_extent("whole").await, Some(42.0));

    // The default one is never unloaded, and what was given up comes back.
    refusal(&admin::unload(&mut admin, 1).await.unwrap_err(), Code::NotFound, "MODEL_UNKNOWN");
    assert_eq!(back(&mut admin, "student").await.model.unwrap().generation, 3);
    let response = ask(&mut client, of("next")).await;
    assert_eq!((told(&response).0, response.arms[0].absent_bundle.is_none()), ("beta", true));

    drop((client, admin));
    let records = records(&mut server, dir.path()).await;
    let mut collector = Collector::new("x");
    for (record, exposure) in records.iter().zip(exposures(&records)) {
        let arm = &exposure.arms[0];
        let wrote = if arm.arm == "next" && arm.absent_bundle.is_none() { "beta" } else { "alpha" };
        assert_eq!(words_of(&exposure.bundle), wrote);
        collector.add(&serde_json::to_string(record).unwrap());
    }
    let readers = collector.readers(None).unwrap();
    for reader in &readers.readers {
        let expected = if reader.arm == "next" { (2, 1) } else { (2, 0) };
        assert_eq!((reader.n_answers, reader.n_degraded), expected, "{reader:?}");
    }
    assert_eq!(readers.in_full.len(), readers.readers.len());
}

#[tokio::test]
async fn a_resident_may_come_after_the_file_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::of(&["alpha", "beta"]).with_resident("student", None);
    // As after a restart, when what was loaded by command is gone.
    let (_shelf, server) = serving(&dir, shelf, &flags("student")).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let response = ask(&mut client, of("next")).await;
    assert_eq!((told(&response).0, response.arms[0].absent_bundle()), ("alpha", "student"));
    assert_eq!(server.metric(ABSENT).await, Some(1.0));
    load(&mut admin, "beta", "student").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    let response = ask(&mut client, of("next")).await;
    assert_eq!((told(&response).0, response.arms[0].absent_bundle.is_none()), ("beta", true));
}

#[tokio::test]
async fn a_file_that_names_what_the_settings_do_not_is_refused_unless_the_experiment_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let (_shelf, server) = serving(&dir, Shelf::of(&["alpha", "beta"]), &json!({})).await;
    // Before the file changes the server has read it: with the next one it would not start.
    let mut client = server.client().await;
    replace(dir.path(), &text(&flags("student")));
    server.until("newshound_experiments_file_refused", 1.0).await;
    assert!(ask(&mut client, request("reader")).await.arms.is_empty(), "the old file stays in force");
    let mut off = flags("student");
    off["newshound.x"]["state"] = json!("DISABLED");
    replace(dir.path(), &text(&off));
    server.until("newshound_experiments_file_refused", 0.0).await;
}

#[tokio::test]
async fn a_server_does_not_start_with_a_bundle_that_is_not_there() {
    let (_dir, path) = file(&flags("student"));
    let error = refused(|settings| settings.experiments.file = Some(path)).await;
    let RunError::File(FileError::Mistakes(mistakes)) = error else { panic!("{error}") };
    assert!(mistakes.mistakes[0].ends_with("no resident (residents: none)"), "{mistakes}");
    let absent = Some(Path::new("absent").to_owned());
    let error =
        refused(|settings| drop(settings.models.residents.insert("student".to_owned(), absent))).await;
    assert!(matches!(&error, RunError::Resident { name, .. } if name == "student"), "{error}");
}

#[tokio::test]
async fn residents_have_the_names_of_the_settings_and_heads_that_arms_need() {
    let shelf = Shelf::of(&["alpha", "beta"]).with_head("alpha").with_resident("student", None);
    let scored = json!({"newshound.y": {"state": "ENABLED", "variants": {"a": {"rerank": "reward_head"}}}});
    let (_dir, path) = file(&scored);
    let plan = Plan::new().with(|settings| settings.experiments.file = Some(path));
    let (_shelf, server) = shelf.serve(plan).await;
    let mut admin = admin::connect(&server).await;
    refusal(&load(&mut admin, "beta", "other").await.unwrap_err(), Code::NotFound, "RESIDENT_UNKNOWN");
    let expecting = LoadModelRequest {
        resident: "student".to_owned(),
        expected_generation: Some(1),
        ..admin::named("beta")
    };
    let status = within(admin.load_model(expecting)).await.unwrap_err();
    let details = refusal(&status, Code::Aborted, "GENERATION_MISMATCH");
    assert_eq!(details.error_info().unwrap().metadata["current_generation"], "0");
    let nothing = RollbackModelRequest { resident: "student".to_owned(), expected_generation: Some(0) };
    let status = within(admin.rollback_model(nothing)).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "NO_PREVIOUS_MODEL");
    load(&mut admin, "beta", "student").await.unwrap();
    refusal(&admin::swap(&mut admin, 2).await.unwrap_err(), Code::FailedPrecondition, "HEAD_NEEDED");
    admin::unload(&mut admin, 2).await.unwrap();
    load(&mut admin, "alpha", "student").await.unwrap();
    admin::swap(&mut admin, 3).await.unwrap();
}

/// One model stands still while another, which is slow and goes on, still answers those who asked it.
#[tokio::test]
async fn a_model_that_stands_still_cuts_its_own_callers_alone_before_the_server_ends() {
    const STEP: Duration = Duration::from_millis(200);
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::of(&["alpha", "beta"]).gated("alpha").gated("beta");
    let shelf = shelf.with_resident("student", Some("beta"));
    let hasty = plan(&dir).with(|settings| settings.engine.step_max = 10 * STEP);
    std::fs::write(dir.path().join("experiments.json"), text(&flags("student"))).unwrap();
    let (shelf, mut server) = shelf.serve(hasty).await;
    let (mut one, mut other) = (server.client().await, server.client().await);
    let of_alpha = tokio::spawn(async move { within(one.generate_queries(of("control"))).await });
    let of_beta = tokio::spawn(async move { within(other.generate_queries(of("next"))).await });
    while !of_alpha.is_finished() {
        shelf.allow("beta", 1);
        tokio::time::sleep(STEP).await;
    }
    refusal(&of_alpha.await.unwrap().unwrap_err(), Code::Unavailable, "ENGINE_GONE");
    assert!(!of_beta.is_finished(), "its model has not written all yet");
    shelf.open("beta");
    assert_eq!(told(of_beta.await.unwrap().unwrap().get_ref()).0, "beta");
    assert!(matches!(server.ended().await, Err(RunError::EngineFailed)));
}
