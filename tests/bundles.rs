//! Tests of bundles.
mod archives;
mod rounded;

use candle_core::{DType, Device};
use newshound::{
    bundle::{
        load::{self, BundleError, BundleSource},
        manifest::{FORMAT_VERSION, Manifest},
        save::{self, Staged},
    },
    model::{
        config::{DecoderConfig, OutputIds},
        ops::Numerics,
        precision::Precision,
        reward_head::RewardHead,
        transformer::Transformer,
        weights::Parameters,
    },
    text::{prompt::PROMPT_VERSION, tokens::Tokens},
    train::{
        error::TrainError,
        pack_bundle::{self, Parts, Provenance},
        settings::NetworkShape,
    },
};
use std::{collections::BTreeMap, fs, path::Path};

const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "reward_head.safetensors"];

fn tokenizer() -> Vec<u8> {
    let path = crate::support::goldens::root().join("models/qwen2-tied/tokenizer.json");
    fs::read(path).unwrap()
}

fn config(vocab_size: usize) -> DecoderConfig {
    let shape = NetworkShape {
        hidden_size: 16,
        intermediate_size: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions: 64,
    };
    shape.config(vocab_size, 511)
}

fn manifest() -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        name: "test".to_owned(),
        version: "1".to_owned(),
        prompt_version: PROMPT_VERSION,
        prompt_tokens_max: 60,
        files: BTreeMap::new(),
        commands: vec!["one".to_owned(), "two".to_owned()],
        seeds: BTreeMap::from([("pretrain".to_owned(), 1)]),
        training: BTreeMap::new(),
    }
}

fn files(vocab_size: usize) -> save::Files {
    let config = config(vocab_size);
    let mut weights = Parameters::fresh(1, &Device::Cpu);
    Transformer::load(&config, &mut weights, Numerics::Train).unwrap();
    let mut head = Parameters::fresh(2, &Device::Cpu);
    RewardHead::load(&mut head, config.hidden_size, false).unwrap();
    let contents = [
        config.to_json().into_bytes(),
        weights.to_safetensors(DType::F16).unwrap(),
        tokenizer(),
        head.to_safetensors(DType::F32).unwrap(),
    ];
    FILES.iter().map(|name| (*name).to_owned()).zip(contents).collect()
}

fn saved(dir: &Path) -> Manifest {
    save::save(dir, manifest(), files(512)).unwrap()
}

fn open(dir: &Path) -> Result<load::Bundle, BundleError> {
    load::load(BundleSource::At(dir), Precision::F32, &Device::Cpu)
}

fn error_of(dir: &Path) -> BundleError {
    open(dir).expect_err("the bundle is broken")
}

/// Rewrites the manifest as text.
fn edit_manifest(dir: &Path, edit: impl Fn(String) -> String) {
    let path = dir.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited, "the edit must change something");
    fs::write(path, edited).unwrap();
}

#[test]
fn saved_bundle_loads_with_the_same_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    let manifest = saved(&at);
    let bundle = open(&at).unwrap();
    assert_eq!(bundle.manifest, manifest);
    assert!(bundle.head.is_some());
    assert_eq!(bundle.model.config(), &config(512));
    assert_eq!(bundle.id.0.len(), 16);
}

#[test]
fn a_bundle_whose_model_cannot_write_a_list_is_refused() {
    let tokens = Tokens::from_bytes(&tokenizer()).unwrap();
    let (stop, line) = (tokens.im_end(), tokens.boundary_ids()[0]);
    for (ids, is_fit) in [([line, stop], true), ([line, stop - 1], false), ([line + 1, stop], false)] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("bundle");
        let output_ids = OutputIds::Kept(ids.into_iter().collect());
        let config = DecoderConfig { output_ids, eos_ids: Vec::new(), ..config(512) };
        let mut files = files(512);
        files[0].1 = config.to_json().into_bytes();
        match save::save(&at, manifest(), files) {
            Ok(_) => assert!(is_fit && open(&at).unwrap().model.config() == &config, "{ids:?}"),
            Err(error) => {
                assert!(!is_fit && error.to_string().contains("config.json: output_ids"), "{error}")
            }
        }
    }
}

#[test]
fn same_content_is_the_same_bytes_and_id() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    saved(&a);
    saved(&b);
    assert_eq!(open(&a).unwrap().id, open(&b).unwrap().id);
    assert_eq!(fs::read(a.join("manifest.json")).unwrap(), fs::read(b.join("manifest.json")).unwrap());
}

#[test]
fn flipped_bit_in_any_file_is_a_digest_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    saved(&at);
    for name in FILES {
        let whole = fs::read(at.join(name)).unwrap();
        for place in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            fs::write(at.join(name), &bytes).unwrap();
            assert!(
                matches!(error_of(&at), BundleError::Digest { file, .. } if file == name),
                "{name} at {place}"
            );
        }
        fs::write(at.join(name), &whole[..whole.len() - 1]).unwrap();
        assert!(
            matches!(error_of(&at), BundleError::Digest { file, .. } if file == name),
            "{name} cut short"
        );
        fs::write(at.join(name), whole).unwrap();
    }
    assert!(open(&at).is_ok(), "restored");
}

#[test]
fn missing_and_extra_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    for name in FILES.into_iter().chain(["manifest.json"]) {
        saved(&at);
        fs::remove_file(at.join(name)).unwrap();
        assert!(error_of(&at).to_string().contains(name), "{name}");
        fs::remove_dir_all(&at).unwrap();
    }
    saved(&at);
    fs::write(at.join("extra.bin"), b"x").unwrap();
    assert!(error_of(&at).to_string().contains("extra.bin"));
}

#[test]
fn other_versions_are_refused_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    saved(&at);
    edit_manifest(&at, |text| text.replace("\"format_version\": 1", "\"format_version\": 2"));
    assert!(error_of(&at).to_string().contains("format version 2"));
    saved(&at);
    edit_manifest(&at, |text| {
        text.replace(
            &format!("\"prompt_version\": {PROMPT_VERSION}"),
            &format!("\"prompt_version\": {}", PROMPT_VERSION + 1),
        )
    });
    assert!(error_of(&at).to_string().contains("prompt version"));
    saved(&at);
    edit_manifest(&at, |text| text.replace("\"name\"", "\"nickname\""));
    assert!(error_of(&at).to_string().contains("nickname"));
}

#[test]
fn what_does_not_load_is_not_saved_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    saved(&at);
    let id = open(&at).unwrap().id;
    // The tokenizer has 512 tokens.
    let refused = save::save(&at, manifest(), files(511)).unwrap_err();
    assert!(refused.to_string().contains("tokenizer.json"), "{refused}");
    for prompt_tokens_max in [0, 40, 65] {
        let refused = save::save(&at, Manifest { prompt_tokens_max, ..manifest() }, files(512)).unwrap_err();
        assert!(
            refused.to_string().contains(&format!("prompt_tokens_max is {prompt_tokens_max}")),
            "{refused}"
        );
    }
    assert_eq!(open(&at).unwrap().id, id);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the bundle");
}

#[test]
fn write_that_never_publishes_leaves_the_old_bundle_and_the_next_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    saved(&at);
    let id = open(&at).unwrap().id;
    // As if the process had been killed between writing and renaming.
    drop(Staged::write(&at, &vec![("config.json".to_owned(), b"half".to_vec())], "manifest.json").unwrap());
    assert_eq!(open(&at).unwrap().id, id);
    save::save(&at, Manifest { version: "2".to_owned(), ..manifest() }, files(512)).unwrap();
    assert_eq!(open(&at).unwrap().manifest.version, "2");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the bundle");
}

#[test]
fn a_folder_that_holds_other_things_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let letter = dir.path().join("letter.txt");
    fs::write(&letter, "dear").unwrap();
    let refused = save::save(dir.path(), manifest(), files(512)).unwrap_err();
    assert!(refused.to_string().contains("holds no manifest.json"), "{refused}");
    assert_eq!(fs::read_to_string(&letter).unwrap(), "dear");
    assert!(save::save(&letter, manifest(), files(512)).is_err(), "a file is no folder");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    saved(&empty);
}

#[test]
fn crash_between_the_two_renames_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (at, replaced) = (dir.path().join("bundle"), dir.path().join(".bundle.replaced"));
    saved(&at);
    fs::rename(&at, &replaced).unwrap();
    let staged =
        Staged::write(&at, &vec![("config.json".to_owned(), b"new".to_vec())], "manifest.json").unwrap();
    assert!(open(&replaced).is_ok(), "the only whole copy stays until a newer one is in place");
    staged.publish().unwrap();
    assert!(at.join("config.json").is_file() && !replaced.exists());
}

#[test]
fn prompt_budget_that_model_or_tokenizer_does_not_allow_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bundle");
    for prompt_tokens_max in [0, 40, 65] {
        saved(&at);
        let other = format!("\"prompt_tokens_max\": {prompt_tokens_max}");
        edit_manifest(&at, |text| text.replace("\"prompt_tokens_max\": 60", &other));
        let error = error_of(&at).to_string();
        assert!(error.contains(&format!("prompt_tokens_max is {prompt_tokens_max}")), "{error}");
    }
}

/// A bundle of a model folder with a tokenizer, and of nothing else.
fn packed(model: &Path, out: &Path) -> Result<Manifest, TrainError> {
    pack_bundle::run(parts_of(model), provenance(), out)
}

fn parts_of(model: &Path) -> Parts {
    Parts {
        model: model.to_owned(),
        tokenizer: model.to_owned(),
        head: None,
        cleaner: None,
        others: Vec::new(),
        figures: Vec::new(),
        bytes_max: None,
    }
}

fn provenance() -> Provenance {
    Provenance {
        name: "test".to_owned(),
        version: "1".to_owned(),
        prompt_tokens_max: 60,
        commands: Vec::new(),
        seeds: BTreeMap::new(),
        training: BTreeMap::new(),
    }
}

#[test]
fn a_model_that_was_trained_with_another_prompt_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("run");
    fs::create_dir(&model).unwrap();
    for (name, bytes) in files(512) {
        fs::write(model.join(name), bytes).unwrap();
    }
    let pack = |prompt_version: u32| {
        let state = format!(
            r#"{{"step": 1, "target_tokens": 1, "settings_sha256": "", "prompt_version": {prompt_version}}}"#
        );
        fs::write(model.join("state.json"), state).unwrap();
        packed(&model, &dir.path().join("bundle")).map(|_| ())
    };
    let refused = pack(PROMPT_VERSION - 1).unwrap_err().to_string();
    assert!(refused.contains(&format!("prompt version {}", PROMPT_VERSION - 1)), "{refused}");
    assert!(!dir.path().join("bundle").exists());
    pack(PROMPT_VERSION).unwrap();
}

/// The card is one of the bundle's files, so who changes it changes the bundle.
#[test]
fn a_card_holds_the_figures_every_command_seed_and_digest_and_the_bundle_loads() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("run"), dir.path().join("bundle"));
    fs::create_dir(&model).unwrap();
    for (name, bytes) in files(512) {
        fs::write(model.join(name), bytes).unwrap();
    }
    let (mut parts, mut provenance) = (parts_of(&model), provenance());
    parts.figures = vec!["| Recall@10 | mean |".to_owned(), "| paired | 0.25 |".to_owned()];
    parts.others = vec![("articles.jsonl".to_owned(), b"{}".to_vec())];
    provenance.commands = vec!["newshound-trainer sft".to_owned(), "newshound-trainer head".to_owned()];
    provenance.seeds = BTreeMap::from([("sft".to_owned(), 41)]);
    let facts = [("sft.steps", "7"), ("init|from", "a|b\\|c\nd")];
    provenance.training = facts.map(|(fact, of)| (fact.to_owned(), of.to_owned())).into();
    let manifest = pack_bundle::run(parts, provenance, &out).unwrap();
    load::load(BundleSource::At(&out), Precision::F32, &Device::Cpu).unwrap();
    let card = fs::read_to_string(out.join("CARD.md")).unwrap();
    let others = manifest.files.iter().filter(|(name, _)| *name != "CARD.md");
    let digests: Vec<&str> = others.map(|(_, entry)| entry.sha256.as_str()).collect();
    assert_eq!(digests.len(), 4);
    let said = [
        "| Recall@10 | mean |",
        "| paired | 0.25 |",
        "| sft | 41 |",
        "| sft.steps | 7 |",
        r"| init\|from | a\|b\\\|c d |",
    ];
    let commands = manifest.commands.iter().map(String::as_str);
    for text in digests.into_iter().chain(said).chain(commands) {
        assert!(card.contains(text), "{text} is missing: {card}");
    }
}
