//! `score` and `generate` on model folders that are not ours.
use crate::support::goldens::root;
use candle_core::Device;
use clap::Parser;
use newshound::{
    decode::sampler::SamplerSettings,
    model::device::DeviceChoice,
    train::{
        arguments::Command,
        commands,
        generate::{self, GenerateSettings},
        model_folder::ModelFolder,
        score,
    },
};
use serde_json::{Value, json};
use std::{fs, path::Path};

const MODEL: &str = "models/qwen2-tied";
const PROMPT: &str = r#"{"prompt": "port strike ends in oslo today"}"#;

/// The model with another tokenizer.json.
fn with_tokenizer(edit: impl Fn(&mut Value)) -> tempfile::TempDir {
    let (from, to) = (root().join(MODEL), tempfile::tempdir().unwrap());
    for name in ["config.json", "model.safetensors"] {
        fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(from.join("tokenizer.json")).unwrap()).unwrap();
    edit(&mut tokenizer);
    fs::write(to.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    to
}

fn scores(model: &Path) -> String {
    let line = r#"{"prompt": "port strike ends", "completion": " in oslo today"}"#;
    let mut output = Vec::new();
    score::run(&ModelFolder::open(model, &Device::Cpu).unwrap(), 1.0, &mut line.as_bytes(), &mut output)
        .unwrap();
    String::from_utf8(output).unwrap()
}

/// Tokenizers saved after training cut and pad; scores were those of the cut text.
#[test]
fn padding_and_truncation_of_a_tokenizer_are_not_applied() {
    let plain = with_tokenizer(|_| {});
    let cutting = with_tokenizer(|tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 32}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    });
    assert_eq!(scores(cutting.path()), scores(plain.path()));
}

fn continued(max_new_tokens: usize) -> Result<Value, String> {
    let settings = GenerateSettings { sampler: SamplerSettings::GREEDY, max_new_tokens, n: 1, seed: 0 };
    let mut folder = ModelFolder::open(&root().join(MODEL), &Device::Cpu).unwrap();
    folder.stop_ids.clear();
    let mut output = Vec::new();
    generate::run(folder, settings, &mut PROMPT.as_bytes(), &mut output)
        .map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&output).unwrap())
}

/// The sum of prompt and new tokens overflowed.
#[test]
fn continuations_end_at_the_last_position_and_longer_ones_are_refused() {
    let folder = ModelFolder::open(&root().join(MODEL), &Device::Cpu).unwrap();
    let prompt = folder.tokenizer.as_ref().unwrap().encode("port strike ends in oslo today", false).unwrap();
    let room = folder.model.config().max_positions - prompt.len();
    assert_eq!(continued(room).unwrap()["token_ids"].as_array().unwrap().len(), room);
    for too_many in [room + 1, usize::MAX] {
        let refused = continued(too_many).unwrap_err();
        assert!(refused.contains("positions"), "{refused}");
    }
}

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[test]
fn a_prompt_has_1_to_256_continuations() {
    let refused = |n: &str| {
        let arguments = ["trainer", "generate", "--model", "no/such/model", "--n", n];
        let command = Arguments::try_parse_from(arguments).unwrap().command;
        commands::run(command, DeviceChoice::Cpu, &mut Vec::new(), &Default::default())
            .unwrap_err()
            .to_string()
    };
    for n in ["1", "256"] {
        assert!(refused(n).contains("no/such/model"), "{n}: {}", refused(n));
    }
    for n in ["0", "257"] {
        assert!(refused(n).contains("--n must be 1 to 256"), "{n}: {}", refused(n));
    }
}
