//! The model of a running server is changed for another with weights of its own: the demo, and the demo with other numbers in it.
use super::script::{Gate, Log};
use super::server::{Client, Plan, Server, ask, options, request, texts, with_mode, within};
use super::swap::admin;
use candle_core::{DType, Device, Tensor};
use newshound::{
    bundle::{
        archive,
        load::{self, BundleSource},
        manifest::Manifest,
        save,
    },
    model::precision::Precision,
    serve::{
        models::{facts::Origin, workshop},
        rpc::proto::{self, CacheMode, reader_service_client::ReaderServiceClient},
        settings::ServeSettings,
    },
};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tonic::Code;

const SEEDS: [u64; 3] = [1, 2, 3];

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo")
}

/// Folders `one` (the demo), `two` (its network a little colder) and `broken` (a bit of `two` turned over).
fn shelf() -> TempDir {
    let shelf = tempfile::tempdir().unwrap();
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(demo().join("manifest.json")).unwrap()).unwrap();
    let mut files: save::Files =
        manifest.files.keys().map(|name| (name.clone(), fs::read(demo().join(name)).unwrap())).collect();
    save::save(&shelf.path().join("one"), manifest.clone(), files.clone()).unwrap();
    for (name, bytes) in &mut files {
        if name == "model.safetensors" {
            *bytes = colder(bytes);
        }
    }
    let two = Manifest { version: "two".to_owned(), ..manifest };
    for folder in ["two", "broken"] {
        save::save(&shelf.path().join(folder), two.clone(), files.clone()).unwrap();
    }
    let weights = shelf.path().join("broken/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(weights, bytes).unwrap();
    shelf
}

/// The weights with a last norm of seven tenths, which flattens every distribution.
fn colder(bytes: &[u8]) -> Vec<u8> {
    let mut tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap();
    let norm = tensors.get_mut("model.norm.weight").unwrap();
    let dtype = norm.dtype();
    let scale = Tensor::new(0.7f32, &Device::Cpu).unwrap();
    *norm = norm.to_dtype(DType::F32).unwrap().broadcast_mul(&scale).unwrap().to_dtype(dtype).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    fs::read(path).unwrap()
}

/// A server of the demo's bundle.
pub async fn demo_with(settings: ServeSettings) -> Server {
    let bundle = load::load(BundleSource::At(&demo()), Precision::F32, &Device::Cpu).unwrap();
    let first = workshop::Loaded::of(bundle, Origin::At(demo())).unwrap();
    let loader = workshop::bundles(Precision::F32, Device::Cpu);
    Server::start_with(settings, first, loader, Arc::new(Gate::default()), Arc::new(Log::default())).await
}

async fn serving(shelf: &TempDir) -> Server {
    serving_with(shelf, |_| {}).await
}

async fn serving_with(shelf: &TempDir, change: impl FnOnce(&mut ServeSettings)) -> Server {
    let plan = Plan::new().with(|settings| {
        settings.admin.addr = Some(([127, 0, 0, 1], 0).into());
        settings.admin.models_dir = Some(shelf.path().to_owned());
        change(settings);
    });
    let dir = shelf.path().join("one");
    let bundle = load::load(BundleSource::At(&dir), Precision::F32, &Device::Cpu).unwrap();
    let loader = workshop::bundles(Precision::F32, Device::Cpu);
    let first = workshop::Loaded::of(bundle, Origin::At(dir)).unwrap();
    Server::start_with(plan.settings, first, loader, Arc::new(Gate::default()), Arc::new(Log::default()))
        .await
}

fn seeded(seed: u64) -> proto::GenerateQueriesRequest {
    let mut request = with_mode(CacheMode::Bypass, request("reader"));
    let options = options(&mut request);
    (options.seed, options.candidate_count) = (Some(seed), Some(3));
    request
}

/// Version of the bundle, seed, and the list.
type Answered = (String, u64, Vec<String>);

async fn answered(client: &mut Client, seed: u64) -> Answered {
    let response = ask(client, seeded(seed)).await;
    let list = texts(response.best.as_ref().unwrap()).into_iter().map(str::to_owned).collect();
    (response.model.unwrap().version, seed, list)
}

async fn asking(mut client: Client, stop: Arc<AtomicBool>, n_answers: Arc<AtomicUsize>) -> Vec<Answered> {
    let mut answers = Vec::new();
    for seed in SEEDS.into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        answers.push(answered(&mut client, seed).await);
        n_answers.fetch_add(1, Ordering::Relaxed);
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_leave_each_answer_to_the_weights_that_it_names() {
    let shelf = shelf();
    let server = serving(&shelf).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let mut alone: HashMap<(String, u64), Vec<String>> = HashMap::new();
    for folder in ["one", "two"] {
        if folder == "two" {
            admin::load(&mut admin, folder).await.unwrap();
            admin::swap(&mut admin, 2).await.unwrap();
        }
        for seed in SEEDS {
            let (version, seed, list) = answered(&mut client, seed).await;
            alone.insert((version, seed), list);
        }
    }
    assert_eq!(alone.len(), 2 * SEEDS.len());
    let versions: HashSet<&String> = alone.keys().map(|(version, _)| version).collect();
    for seed in SEEDS {
        let lists: HashSet<_> = versions.iter().map(|&version| &alone[&(version.clone(), seed)]).collect();
        assert_eq!(lists.len(), 2, "the models write different lists");
    }

    let stop = Arc::new(AtomicBool::new(false));
    let n_answers = Arc::new(AtomicUsize::new(0));
    let load = [server.client().await, server.client().await]
        .map(|client| tokio::spawn(asking(client, Arc::clone(&stop), Arc::clone(&n_answers))));
    for folder in ["one", "two", "one", "two"] {
        let loaded = admin::load(&mut admin, folder).await.unwrap();
        admin::swap(&mut admin, loaded.model.unwrap().generation).await.unwrap();
        // Requests that began before it and after it.
        let wanted = n_answers.load(Ordering::Relaxed) + 4;
        within(async {
            while n_answers.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    admin::rollback(&mut admin).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for answers in load {
        for (version, seed, list) in within(answers).await.unwrap() {
            assert_eq!(list, alone[&(version, seed)]);
        }
    }
    server.until("newshound_models_in_memory", 1.0).await;
    // The rollback found its model in memory, or loaded it.
    let n_loaded = server.metric("newshound_model_load_seconds_count").await;
    assert!(matches!(n_loaded, Some(5.0 | 6.0)), "{n_loaded:?}");
}

/// A server of `one`, with `two` beside it for the readers of an arm.
async fn serving_both(shelf: &TempDir) -> (TempDir, Server) {
    let flags = serde_json::json!({"newshound.x": {
        "state": "ENABLED",
        "variants": {"control": {}, "next": {"bundle": "student"}},
        "metadata": {"allow_forced_arm": true},
    }});
    let (dir, path) = super::experiments::file(&flags);
    let two = Some(shelf.path().join("two"));
    let change = |settings: &mut ServeSettings| {
        settings.models.residents.insert("student".to_owned(), two);
        settings.experiments.file = Some(path);
    };
    (dir, serving_with(shelf, change).await)
}

fn forcing(arm: &str, request: proto::GenerateQueriesRequest) -> proto::GenerateQueriesRequest {
    let forced = proto::ForcedArm { experiment_id: "x".to_owned(), arm_id: arm.to_owned() };
    let experiment = proto::ExperimentContext { forced_arms: vec![forced], ..Default::default() };
    proto::GenerateQueriesRequest { experiment: Some(experiment), ..request }
}

/// Two networks of one shape share a process, threads of its pool and a device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_students_answer_side_by_side_as_each_does_alone() {
    let shelf = shelf();
    let (_dir, server) = serving_both(&shelf).await;
    let listed = |response: proto::GenerateQueriesResponse| {
        let list: Vec<_> = texts(response.best.as_ref().unwrap()).into_iter().map(str::to_owned).collect();
        (response.model.unwrap().version, list)
    };
    let mut client = server.client().await;
    let mut alone = Vec::new();
    for (arm, seed) in SEEDS.into_iter().flat_map(|seed| [("control", seed), ("next", seed)]) {
        alone.push(((arm, seed), listed(ask(&mut client, forcing(arm, seeded(seed))).await)));
    }
    for pair in alone.chunks(2) {
        assert_ne!(pair[0].1.1, pair[1].1.1, "the students write different lists");
        assert_eq!(pair[1].1.0, "two");
    }
    let beside = alone.iter().map(|&((arm, seed), _)| {
        let (mut client, request) = (client.clone(), forcing(arm, seeded(seed)));
        tokio::spawn(async move { ask(&mut client, request).await })
    });
    for (answered, (_, expected)) in beside.collect::<Vec<_>>().into_iter().zip(&alone) {
        assert_eq!(listed(within(answered).await.unwrap()), *expected);
    }
}

#[tokio::test]
async fn a_reader_is_forgotten_by_every_model_that_answers() {
    let shelf = shelf();
    let (_dir, server) = serving_both(&shelf).await;
    let client = server.client().await;
    let spared = async |arm: &str| {
        let known = async || server.metric("newshound_prefix_tokens_total").await.unwrap();
        let before = known().await;
        let request = with_mode(CacheMode::Bypass, request("reader"));
        ask(&mut client.clone(), forcing(arm, request)).await;
        known().await - before
    };
    let mut kept = Vec::new();
    for arm in ["control", "next"] {
        spared(arm).await;
        kept.push((arm, spared(arm).await));
    }
    let mut readers = ReaderServiceClient::new(server.channel().await);
    within(readers.forget_user(proto::ForgetUserRequest { user: request("reader").user })).await.unwrap();
    for (arm, of_all) in kept {
        let of_opening = spared(arm).await;
        assert!(0.0 < of_opening && of_opening < of_all, "{arm}: {of_opening} of {of_all}");
    }
}

#[tokio::test]
async fn a_corrupted_bundle_is_refused_and_the_old_one_keeps_serving() {
    let shelf = shelf();
    let server = serving(&shelf).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let before = answered(&mut client, 1).await;
    let status = admin::load(&mut admin, "broken").await.unwrap_err();
    super::server::refusal(&status, Code::FailedPrecondition, "BUNDLE_REFUSED");
    assert!(status.message().contains("model.safetensors: sha256"), "{status:?}");
    assert_eq!(answered(&mut client, 1).await, before);
    let failed = server.metric("newshound_model_changes_total{change=\"load\",result=\"failed\"}").await;
    assert_eq!(failed, Some(1.0));
    server.until("newshound_models_in_memory", 1.0).await;
    admin::load(&mut admin, "two").await.unwrap();
}

#[tokio::test]
async fn an_archive_is_loaded_as_its_folder_is_and_a_corrupted_one_is_refused() {
    let shelf = shelf();
    let at = |name: &str| shelf.path().join(name);
    archive::write(&at("two"), &at("two.tar")).unwrap();
    let mut bytes = fs::read(at("two.tar")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(at("turned.tar"), &bytes).unwrap();
    fs::write(at("cut.tar"), &bytes[..middle]).unwrap();
    let server = serving(&shelf).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let before = answered(&mut client, 1).await;
    for (name, why) in [("turned.tar", "sha256"), ("cut.tar", "the archive ends after")] {
        let status = admin::load(&mut admin, name).await.unwrap_err();
        super::server::refusal(&status, Code::FailedPrecondition, "BUNDLE_REFUSED");
        assert!(status.message().contains(why), "{status:?}");
        assert_eq!(answered(&mut client, 1).await, before);
    }
    let loaded = admin::load(&mut admin, "two.tar").await.unwrap().model.unwrap();
    admin::swap(&mut admin, loaded.generation).await.unwrap();
    assert_eq!(answered(&mut client, 1).await.0, "two");
    // What answered before is read from its folder again, and what answers now from its archive.
    admin::rollback(&mut admin).await.unwrap();
    admin::rollback(&mut admin).await.unwrap();
    assert_eq!(answered(&mut client, 1).await.0, "two");
}

/// Keys and values of another network would be read without complaint where the shapes agree.
#[tokio::test]
async fn no_model_reads_what_another_kept_of_a_prompt() {
    let shelf = shelf();
    let server = serving(&shelf).await;
    let (mut client, mut admin) = (server.client().await, admin::connect(&server).await);
    let spared = async |client: &mut Client| {
        let known = async || server.metric("newshound_prefix_tokens_total").await.unwrap();
        let before = known().await;
        ask(client, with_mode(CacheMode::Bypass, request("reader"))).await;
        known().await - before
    };
    assert_eq!(spared(&mut client).await, 0.0);
    assert!(spared(&mut client).await > 0.0);
    admin::load(&mut admin, "two").await.unwrap();
    admin::swap(&mut admin, 2).await.unwrap();
    server.until("newshound_prefix_bytes", 0.0).await;
    assert_eq!(spared(&mut client).await, 0.0, "not even the opening");
    assert!(spared(&mut client).await > 0.0);
}
