//! The experiments file may change while the server runs, and may be wrong.
use super::{
    experiments::{file, flags, serving, text},
    server::{Plan, Server, ask, parts, request},
};
use newshound::serve::{
    self, Listeners, RunError,
    models::{
        facts::Origin,
        workshop::{LoadError, Loaded, Loader},
    },
    settings::ServeSettings,
    watched::FileError,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

/// As files should be replaced: at once.
pub fn replace(dir: &Path, text: &str) {
    let new = dir.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, dir.join("experiments.json")).unwrap();
}

fn off() -> Value {
    let mut off = flags();
    off["newshound.x"]["state"] = json!("DISABLED");
    off
}

async fn watched() -> (tempfile::TempDir, Server) {
    let (dir, path) = file(&flags());
    let plan = Plan::new().with(|settings| {
        settings.experiments.file = Some(path);
        settings.experiments.check_interval = Duration::from_millis(1);
    });
    (dir, plan.start().await)
}

#[tokio::test]
async fn a_new_file_is_in_force_without_a_restart() {
    let (dir, server) = watched().await;
    let mut client = server.client().await;
    assert_eq!(ask(&mut client, request("reader")).await.arms.len(), 1);
    replace(dir.path(), &text(&off()));
    server.until("newshound_experiments_enabled", 0.0).await;
    assert!(ask(&mut client, request("reader")).await.arms.is_empty(), "the kill switch works");
    replace(dir.path(), &text(&flags()));
    server.until("newshound_experiments_enabled", 1.0).await;
    assert_eq!(server.metric("newshound_experiments_reads_total{result=\"loaded\"}").await, Some(3.0));
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_one_in_force_and_is_told_once() {
    let (dir, server) = watched().await;
    let mut client = server.client().await;
    replace(dir.path(), "{\"flags\": ");
    server.until("newshound_experiments_file_refused", 1.0).await;
    assert_eq!(ask(&mut client, request("reader")).await.arms.len(), 1);
    std::fs::remove_file(dir.path().join("experiments.json")).unwrap();
    server.until("newshound_experiments_reads_total{result=\"unreadable\"}", 1.0).await;
    assert_eq!(ask(&mut client, request("reader")).await.arms.len(), 1);
    replace(dir.path(), &text(&flags()));
    server.until("newshound_experiments_file_refused", 0.0).await;
    assert_eq!(server.metric("newshound_experiments_reads_total{result=\"refused\"}").await, Some(1.0));
    assert_eq!(server.metric("newshound_experiments_reads_total{result=\"loaded\"}").await, Some(1.0));
}

/// Why a server with such settings does not start.
pub async fn refused(change: impl FnOnce(&mut ServeSettings)) -> RunError {
    let mut settings = ServeSettings::demo();
    change(&mut settings);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = Listeners::bind(any, any).await.unwrap();
    let make = || -> super::script::Script {
        let text: super::script::Text = Arc::new(|_, _| String::new());
        super::script::Script::new(text, Arc::default(), Arc::default(), super::script::Mishap::None)
    };
    let first = Loaded::new(parts(false), Origin::BuiltIn, make);
    let loader: Loader = Arc::new(|_| Err(LoadError::Panicked));
    serve::run_with(settings, first, loader, listeners, std::future::ready(())).await.unwrap_err()
}

#[tokio::test]
async fn a_server_does_not_start_with_a_file_that_is_wrong_or_not_there() {
    let mut wrong = flags();
    wrong["newshound.x"]["variants"]["few"]["rerank"] = json!("reward_head");
    wrong["newshound.x"]["variants"]["many"]["candidate_count"] = json!(33);
    let (dir, path) = file(&wrong);
    let error = refused(|settings| settings.experiments.file = Some(path)).await;
    let RunError::File(FileError::Mistakes(mistakes)) = error else { panic!("{error}") };
    assert_eq!(mistakes.mistakes.len(), 2, "the bundle has no head, and 32 are the most: {mistakes}");
    let absent = dir.path().join("absent.json");
    let error = refused(|settings| settings.experiments.file = Some(absent)).await;
    assert!(matches!(error, RunError::File(FileError::Read { .. })), "{error}");
}

#[tokio::test]
async fn the_sample_file_is_served() {
    let sample: Value = serde_json::from_str(include_str!("../../deploy/experiments.json")).unwrap();
    let (_dir, server) = serving(&sample["flags"]).await;
    let arms = ask(&mut server.client().await, request("reader")).await.arms;
    assert_eq!(arms.len(), 1);
    assert_eq!(arms[0].arm_id(), "eight", "the request says nothing of its locale");
}
