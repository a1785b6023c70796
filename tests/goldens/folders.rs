//! Goldens of causal models through the trainer's commands: `score`, `generate --greedy`, and the loss of training.
use super::{CAUSAL, CLASSIFIERS, EMBEDDERS, SCORERS};
use crate::support::{
    device::{device, tolerance},
    goldens::{assert_close, entries, f32s, json, models, root, u32s},
};
use newshound::{
    decode::sampler::SamplerSettings,
    model::{ops::Numerics, transformer::Transformer},
    train::{
        checkpoint,
        fit::{self, MicroBatch},
        generate::{self, GenerateSettings},
        model_folder::ModelFolder,
        score,
    },
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Causal folders with what the reference computed.
fn cases() -> Vec<(PathBuf, Value)> {
    let folders = models(|class| CAUSAL.contains(&class));
    assert!(!folders.is_empty(), "no causal golden was found");
    folders.into_iter().map(|folder| (folder.clone(), json(&folder.join("expected.json")))).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn lines(output: &[u8]) -> Vec<Value> {
    String::from_utf8(output.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Continuations of the reference: prompt, continuation, log-probabilities.
fn scored(expected: &Value) -> Vec<(Vec<u32>, Vec<u32>, Vec<f32>)> {
    let prompt = |scored: &Value| u32s(&expected["prompts"][scored["prompt"].as_u64().unwrap() as usize]);
    list(expected, "scored")
        .iter()
        .map(|scored| (prompt(scored), u32s(&scored["continuation"]), f32s(&scored["logprobs"])))
        .collect()
}

#[test]
fn golden_model_folders_are_all_of_a_kind_that_is_checked() {
    let known = [CAUSAL, SCORERS, EMBEDDERS, CLASSIFIERS].concat();
    let folders = entries(&root().join("models"));
    assert!(!folders.is_empty());
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let class = json(&folder.join("config.json"))["architectures"][0].clone();
        assert!(
            known.contains(&class.as_str().unwrap_or_default()),
            "{}: nothing checks {class}",
            folder.display()
        );
    }
}

#[test]
fn golden_continuations_have_the_scores_of_the_reference() {
    for (path, expected) in cases() {
        let folder = ModelFolder::open(&path, &device()).unwrap();
        let expected = scored(&expected);
        assert!(!expected.is_empty(), "{}", path.display());
        let input: String = expected
            .iter()
            .map(|(prompt, continuation, _)| {
                format!("{}\n", json!({"prompt_ids": prompt, "completion_ids": continuation}))
            })
            .collect();
        let mut output = Vec::new();
        score::run(&folder, 1.0, &mut input.as_bytes(), &mut output).unwrap();
        let got = lines(&output);
        assert_eq!(got.len(), expected.len(), "{}", path.display());
        for (got, (_, continuation, logprobs)) in got.iter().zip(&expected) {
            assert_eq!(&u32s(&got["token_ids"]), continuation);
            assert_close(&f32s(&got["logprobs"]), logprobs, tolerance(1e-4), &path.display().to_string());
        }
    }
}

#[test]
fn golden_prompts_are_continued_as_by_the_reference() {
    for (path, expected) in cases() {
        let (prompts, greedy) = (list(&expected, "prompts"), list(&expected, "greedy"));
        assert!(!prompts.is_empty() && prompts.len() == greedy.len(), "{}", path.display());
        for (prompt, expected) in prompts.iter().zip(greedy) {
            let mut folder = ModelFolder::open(&path, &device()).unwrap();
            // The reference writes on past the end of a text.
            folder.stop_ids.clear();
            let max_new_tokens = u32s(&expected["tokens"]).len();
            let settings =
                GenerateSettings { sampler: SamplerSettings::GREEDY, max_new_tokens, n: 1, seed: 0 };
            let (input, mut output) = (json!({"prompt_ids": prompt}).to_string(), Vec::new());
            generate::run(folder, settings, &mut input.as_bytes(), &mut output).unwrap();
            let got = lines(&output).remove(0);
            assert_eq!(u32s(&got["token_ids"]), u32s(&expected["tokens"]), "{}", path.display());
            assert_eq!(got["finish"], "length");
        }
    }
}

#[test]
fn golden_continuations_cost_in_training_what_the_reference_says() {
    for (path, expected) in cases() {
        let (config, mut parameters) = checkpoint::open_model(&path, &device()).unwrap();
        let model = Transformer::load(&config, &mut parameters, Numerics::Train).unwrap();
        for (prompt, targets, logprobs) in scored(&expected) {
            let ids = [prompt.as_slice(), &targets].concat();
            let first = u32::try_from(prompt.len() - 1).unwrap();
            let predictors = (first..first + u32::try_from(targets.len()).unwrap()).collect();
            let n_targets = targets.len();
            let batch = MicroBatch { ids, n_rows: 1, predictors, targets };
            let loss = fit::loss_and_gradients(&model, &parameters, &batch, n_targets).unwrap().loss;
            let expected =
                -logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / n_targets as f64;
            assert!(
                (loss - expected).abs() <= f64::from(tolerance(1e-4)),
                "{}: {loss}, expected {expected}",
                path.display()
            );
        }
    }
}

#[test]
fn a_bad_line_is_named_and_the_lines_before_it_are_answered() {
    let (path, _) = cases().remove(0);
    let good = r#"{"prompt_ids": [1, 2], "completion_ids": [3]}"#;
    for bad in [
        r#"{"prompt_ids": [1], "completion_ids": []}"#,
        r#"{"prompt_ids": [1], "completion_ids": [4000000000]}"#,
        r#"{"prompt": "a", "prompt_ids": [1], "completion_ids": [1]}"#,
        r#"{"prompt_ids": [1], "completion_ids": [1], "temperature": 1}"#,
        "not JSON",
    ] {
        let folder = ModelFolder::open(Path::new(&path), &device()).unwrap();
        let mut output = Vec::new();
        let input = format!("{good}\n{bad}\n{good}\n");
        let error = score::run(&folder, 1.0, &mut input.as_bytes(), &mut output).unwrap_err();
        assert!(error.to_string().contains("line 2") || error.to_string().contains(":2"), "{bad}: {error}");
        assert_eq!(lines(&output).len(), 1, "{bad}");
    }
}
