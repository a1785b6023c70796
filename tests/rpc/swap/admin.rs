//! Calls of the admin service, and what it refuses whatever the models are.
use super::super::server::{Plan, Server, ask, refusal, request, within};
use super::{generation, shelf::Shelf};
use newshound::serve::rpc::proto::admin::{
    ListModelsRequest, LoadModelRequest, Model, ModelState, RollbackModelRequest, SwapModelRequest,
    UnloadModelRequest, model_admin_service_client::ModelAdminServiceClient,
};
use serde_json::json;
use std::time::{Duration, Instant};
use tonic::{Code, Status, transport::Channel};

pub type Client = ModelAdminServiceClient<Channel>;

pub async fn connect(server: &Server) -> Client {
    Client::connect(format!("http://{}", server.admin.unwrap())).await.unwrap()
}

pub fn named(folder: &str) -> LoadModelRequest {
    LoadModelRequest { folder: folder.to_owned(), ..Default::default() }
}

pub async fn load(client: &mut Client, folder: &str) -> Result<Model, Status> {
    within(client.load_model(named(folder))).await.map(|loaded| loaded.into_inner().model.unwrap())
}

pub async fn swap(client: &mut Client, generation: u64) -> Result<Model, Status> {
    let request = SwapModelRequest { generation, expected_generation: None };
    within(client.swap_model(request)).await.map(|swapped| swapped.into_inner().model.unwrap())
}

pub async fn rollback(client: &mut Client) -> Result<Model, Status> {
    let request = RollbackModelRequest::default();
    within(client.rollback_model(request)).await.map(|back| back.into_inner().model.unwrap())
}

pub async fn unload(client: &mut Client, generation: u64) -> Result<(), Status> {
    within(client.unload_model(UnloadModelRequest { generation })).await.map(|_| ())
}

pub async fn states(client: &mut Client) -> Vec<(u64, ModelState)> {
    let listed = within(client.list_models(ListModelsRequest {})).await.unwrap().into_inner();
    assert_eq!(listed.models_max, 2);
    listed.models.iter().map(|model| (model.model.as_ref().unwrap().generation, model.state())).collect()
}

#[tokio::test]
async fn only_folders_below_the_directory_are_loaded() {
    let (_shelf, server) = Shelf::of(&["alpha"]).serve(Plan::new()).await;
    let mut admin = connect(&server).await;
    for escaping in ["", ".", "..", "../alpha", "/etc", "alpha/../alpha", ".hidden", "a b"] {
        let status = load(&mut admin, escaping).await.unwrap_err();
        let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "folder", "{escaping:?}");
    }
    refusal(&load(&mut admin, "absent").await.unwrap_err(), Code::NotFound, "FOLDER_UNKNOWN");
    // What was refused holds no place.
    load(&mut admin, "alpha").await.unwrap();
}

#[tokio::test]
async fn a_bundle_that_is_not_the_one_asked_for_is_refused() {
    let (shelf, server) = Shelf::of(&["alpha", "beta"]).serve(Plan::new()).await;
    let mut admin = connect(&server).await;
    let status = admin
        .load_model(LoadModelRequest { bundle_id: "0123456789abcdef".to_owned(), ..named("beta") })
        .await
        .unwrap_err();
    refusal(&status, Code::FailedPrecondition, "BUNDLE_REFUSED");
    let status =
        admin.load_model(LoadModelRequest { bundle_id: "v2".to_owned(), ..named("beta") }).await.unwrap_err();
    refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    let status = admin
        .load_model(LoadModelRequest { expected_generation: Some(2), ..named("beta") })
        .await
        .unwrap_err();
    refusal(&status, Code::Aborted, "GENERATION_MISMATCH");
    server.until("newshound_models_in_memory", 1.0).await;
    assert_eq!(shelf.n_alive(), 1);
}

#[tokio::test]
async fn without_a_directory_no_model_is_loaded_and_without_an_address_nobody_asks() {
    let mut settings = Plan::new().settings;
    settings.admin.addr = Some(([127, 0, 0, 1], 0).into());
    let mut plan = Plan::new();
    plan.settings = settings;
    let server = plan.start().await;
    let mut admin = connect(&server).await;
    refusal(&load(&mut admin, "alpha").await.unwrap_err(), Code::FailedPrecondition, "MODELS_OFF");
    assert_eq!(states(&mut admin).await, [(1, ModelState::Serving)]);
    let probe = newshound::client::reach::Reach::plain(&server.admin.unwrap().to_string());
    let probe = newshound::serve::rpc::client::Client::connect(&probe).await.unwrap();
    assert!(probe.is_serving().await.unwrap(), "the admin port can be probed too");
    assert!(Plan::new().start().await.admin.is_none());
    // The readers' port knows no such service.
    let mut elsewhere = Client::new(server.channel().await);
    let status = within(elsewhere.list_models(ListModelsRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_model_that_experiments_cannot_do_without_is_kept() {
    let flags = json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"scored": {"rerank": "reward_head"}, "first": {"rerank": "none"}},
        "targeting": {"fractional": [["scored", 1], ["first", 1]]},
    }});
    let (dir, path) = super::super::experiments::file(&flags);
    let plan = Plan::new().with(|settings| {
        settings.experiments.file = Some(path);
        settings.experiments.check_interval = Duration::from_millis(5);
    });
    let (_shelf, server) = Shelf::of(&["alpha", "beta"]).with_head("alpha").serve(plan).await;
    let mut admin = connect(&server).await;
    load(&mut admin, "beta").await.unwrap();
    let status = swap(&mut admin, 2).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "HEAD_NEEDED");
    assert!(status.message().contains("scores"), "{status:?}");
    assert_eq!(generation(&ask(&mut server.client().await, request("reader")).await), 1);

    let mut without = flags.clone();
    without["newshound.x"]["variants"]["scored"] = json!({"rerank": "consensus"});
    std::fs::write(dir.path().join("experiments.json"), super::super::experiments::text(&without)).unwrap();
    server.until("newshound_experiments_reads_total{result=\"loaded\"}", 2.0).await;
    swap(&mut admin, 2).await.unwrap();
    // From now on the file is held to the new model.
    std::fs::write(dir.path().join("experiments.json"), super::super::experiments::text(&flags)).unwrap();
    server.until("newshound_experiments_reads_total{result=\"refused\"}", 1.0).await;
    // And what it refuses is looked at again when a model comes that can do it.
    rollback(&mut admin).await.unwrap();
    server.until("newshound_experiments_reads_total{result=\"loaded\"}", 3.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_load_and_a_load_does_not_hold_the_end() {
    let (shelf, mut server) = Shelf::of(&["alpha", "beta", "gamma"]).serve(Plan::new()).await;
    shelf.door.shut();
    let mut leaving = connect(&server).await;
    let left = tokio::spawn(async move { load(&mut leaving, "beta").await });
    server.until("newshound_models_in_memory", 2.0).await;
    left.abort();
    server.until("newshound_rpc_in_flight{method=\"LoadModel\"}", 0.0).await;
    let mut admin = connect(&server).await;
    let status = load(&mut admin, "gamma").await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "MODELS_FULL");
    shelf.door.open();
    within(async { while states(&mut admin).await.len() < 2 {} }).await;
    swap(&mut admin, 2).await.unwrap();
    server.until("newshound_models_in_memory", 1.0).await;

    shelf.door.shut();
    let loading = tokio::spawn(async move { load(&mut admin, "gamma").await });
    server.until("newshound_models_in_memory", 2.0).await;
    let begun = Instant::now();
    server.signal();
    server.ended().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(within(loading).await.unwrap().is_err());
}
