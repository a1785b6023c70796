//! Goldens: train_steps. Gradients of a reference step, clipped and applied by our optimiser, give its parameters.
use crate::support::{
    device::{device, tolerance},
    goldens,
};
use candle_core::{DType, Tensor};
use newshound::{
    model::{
        config::DecoderConfig,
        ops::Numerics,
        transformer::Transformer,
        weights::{Checkpoint, Parameters},
    },
    train::{
        checkpoint,
        fit::{self, LossAndGradients, MicroBatch},
        gradients::Gradients,
        optimizer::{AdamW, AdamWSettings},
    },
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

/// One reference run: its numbers, its tensors, and the model it started from.
pub struct Case {
    pub name: String,
    pub json: Value,
    pub tensors: HashMap<String, Tensor>,
    pub config: DecoderConfig,
    pub parameters: Parameters,
}

fn cases() -> Vec<Case> {
    let files: Vec<PathBuf> = goldens::entries(&goldens::root().join("train_steps"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    assert!(!files.is_empty(), "no train steps in {}", goldens::root().display());
    files
        .into_iter()
        .map(|path| {
            let json = goldens::json(&path);
            let model = goldens::root().join(json["model"].as_str().unwrap());
            let (config, parameters) = checkpoint::open_model(&model, &device()).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Case {
                name,
                tensors: goldens::tensors(&path.with_extension("safetensors")),
                json,
                config,
                parameters,
            }
        })
        .collect()
}

/// Losses whose steps are taken, here or in `trained_losses`; of two that fit a name, the longer is meant.
const LOSSES: [&str; 4] = ["sampled_reverse_kl", "reverse_kl", "dr_grpo", "cross_entropy"];

fn loss_of(case: &Case) -> Option<&'static str> {
    LOSSES.into_iter().find(|loss| case.name.contains(loss))
}

/// The cases of one loss.
pub fn cases_of(loss: &str) -> Vec<Case> {
    cases().into_iter().filter(|case| loss_of(case) == Some(loss)).collect()
}

#[test]
fn golden_train_steps_are_all_of_a_loss_that_is_checked() {
    for case in cases() {
        assert!(loss_of(&case).is_some(), "{} is not checked", case.name);
    }
}

impl Case {
    fn adamw(&self) -> AdamW {
        let number = |name: &str| self.json["optimizer"][name].as_f64().unwrap();
        let betas: Vec<f64> = self.json["optimizer"]["betas"]
            .as_array()
            .unwrap()
            .iter()
            .map(|beta| beta.as_f64().unwrap())
            .collect();
        let settings = AdamWSettings {
            beta1: betas[0],
            beta2: betas[1],
            eps: number("eps"),
            weight_decay: number("weight_decay"),
        };
        AdamW::new(settings, self.parameters.vars())
    }

    fn learning_rate(&self) -> f64 {
        self.json["optimizer"]["lr"].as_f64().unwrap()
    }

    fn max_grad_norm(&self) -> f64 {
        self.json["max_grad_norm"].as_f64().unwrap()
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// README: 99.9 % of elements within 2e-6, all within 2 x learning rate x steps.
    fn check_parameters(&self, n_steps: u32) {
        let (mut n_far, mut n_all) = (0, 0);
        for (name, var) in self.parameters.vars() {
            let expected = self.values(&format!("param_after_{n_steps}/{name}"));
            let got: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(got.len(), expected.len(), "{}: {name}", self.name);
            for (got, expected) in got.iter().zip(&expected) {
                let difference = f64::from((got - expected).abs());
                let limit = 2.0 * self.learning_rate() * f64::from(n_steps);
                assert!(difference <= limit, "{}: {name} is {difference} off after {n_steps}", self.name);
                n_far += usize::from(difference > 2e-6);
                n_all += 1;
            }
        }
        assert!(n_far * 1000 <= n_all, "{}: {n_far} of {n_all} elements are far after {n_steps}", self.name);
    }

    /// The reference's rows, each prompt with its completion, as one micro-batch of ours.
    pub fn batch(&self) -> MicroBatch {
        let rows: Vec<(Vec<u32>, Vec<u32>)> = self.json["prompts"]
            .as_array()
            .unwrap()
            .iter()
            .zip(self.json["completions"].as_array().unwrap())
            .map(|(prompt, completion)| (goldens::u32s(prompt), goldens::u32s(completion)))
            .collect();
        let width = rows.iter().map(|(prompt, completion)| prompt.len() + completion.len()).max().unwrap();
        let mut batch = MicroBatch { ids: vec![], n_rows: rows.len(), predictors: vec![], targets: vec![] };
        for (row_idx, (prompt, completion)) in rows.iter().enumerate() {
            batch.ids.extend(prompt.iter().chain(completion));
            batch.ids.resize((row_idx + 1) * width, 0);
            let first = row_idx * width + prompt.len() - 1;
            batch
                .predictors
                .extend((first..first + completion.len()).map(|position| u32::try_from(position).unwrap()));
            batch.targets.extend(completion);
        }
        batch
    }
}

#[test]
fn golden_gradients_clipped_and_applied_give_the_parameters_after_one_step() {
    for case in cases() {
        let by_name: BTreeMap<String, Vec<f32>> = case
            .parameters
            .vars()
            .keys()
            .map(|name| (name.clone(), case.values(&format!("grad/{name}"))))
            .collect();
        let mut gradients = Gradients::from_map(by_name);
        let norm = gradients.clip(case.max_grad_norm());
        let expected = case.json["steps"][0]["grad_norm_before_clip"].as_f64().unwrap();
        assert!(
            (norm - expected).abs() <= 1e-5 * expected,
            "{}: norm {norm}, expected {expected}",
            case.name
        );
        case.adamw().step(case.parameters.vars(), &gradients, case.learning_rate()).unwrap();
        case.check_parameters(1);
    }
}

#[test]
fn golden_cross_entropy_steps_give_losses_gradients_and_parameters() {
    for case in cases_of("cross_entropy") {
        let batch = case.batch();
        check_steps(case, |case, model, _| {
            fit::loss_and_gradients(model, &case.parameters, &batch, batch.targets.len()).unwrap()
        });
    }
}

/// Takes every step of a case by our optimiser; `part_of` computes a step's loss and gradients from its number.
pub fn check_steps(mut case: Case, part_of: impl Fn(&Case, &Transformer, usize) -> LossAndGradients) {
    let model = Transformer::load(&case.config, &mut case.parameters, Numerics::Train).unwrap();
    let mut optimizer = case.adamw();
    let steps = case.json["steps"].as_array().unwrap().clone();
    assert!(!steps.is_empty(), "{} has no step", case.name);
    for (step, expected) in steps.iter().enumerate() {
        let mut part = part_of(&case, &model, step);
        let loss = expected["loss"].as_f64().unwrap();
        assert!(
            (part.loss - loss).abs() <= f64::from(tolerance(1e-5)) * loss.abs().max(1.0),
            "{}: loss {} at step {step}, expected {loss}",
            case.name,
            part.loss
        );
        if step == 0 {
            check_gradients(&case, &part.gradients);
        }
        let norm = part.gradients.clip(case.max_grad_norm());
        let expected = expected["grad_norm_before_clip"].as_f64().unwrap();
        assert!(
            (norm - expected).abs() <= 1e-3 * expected,
            "{}: norm {norm} at step {step}, expected {expected}",
            case.name
        );
        optimizer.step(case.parameters.vars(), &part.gradients, case.learning_rate()).unwrap();
        if step == 0 || step == 2 {
            case.check_parameters(u32::try_from(step).unwrap() + 1);
        }
    }
}

/// README: within 1e-4 of the largest gradient.
fn check_gradients(case: &Case, gradients: &Gradients) {
    let names: Vec<&String> = case.parameters.vars().keys().collect();
    let expected: Vec<Vec<f32>> = names.iter().map(|name| case.values(&format!("grad/{name}"))).collect();
    let largest = expected.iter().flatten().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (name, expected) in names.iter().zip(&expected) {
        let got = gradients.get(name).unwrap();
        goldens::assert_close(
            got,
            expected,
            tolerance(1e-4) * largest,
            &format!("{} grad/{name}", case.name),
        );
    }
}

/// The checkpoint reader of inference and the one of training see the same tensors.
#[test]
fn golden_models_of_train_steps_open_for_serving_too() {
    for case in cases() {
        let model = goldens::root().join(case.json["model"].as_str().unwrap());
        let mut checkpoint = Checkpoint::open(&model, DType::F32, &device()).unwrap();
        assert!(Transformer::load(&case.config, &mut checkpoint, Numerics::Serve).is_ok(), "{}", case.name);
    }
}
