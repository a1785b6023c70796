//! Goldens: train_steps of policy and distillation losses. A whole network, three optimiser steps on fixed rollouts.
use super::train_steps::{Case, cases_of, check_steps};
use crate::support::{
    device::{device, tolerance},
    goldens,
};
use candle_core::{DType, Tensor};
use newshound::{
    model::{
        ops::{Numerics, token_logprobs},
        transformer::Transformer,
        weights::Checkpoint,
    },
    train::{
        checkpoint,
        fit::{LossAndGradients, MicroBatch},
        gradients::Gradients,
        losses::{
            StepTotals,
            advantages::{AdvantageSettings, Scale, group_advantages},
            dr_grpo::{Aggregation, PolicyBatch, PolicySettings, RatioLevel, of_rows, policy_loss},
            kl::KlEstimates,
            policy_metrics::PolicyMetrics,
            reverse_kl::{Divergence, divergence},
            sampled::{SampledTokens, sampled_policy_gradient, teacher_advantages},
            unprojected::{TokenMean, Unprojected},
        },
    },
};
use serde_json::Value;

/// Hidden states (n, D) at the positions that predict sampled tokens.
fn hidden(model: &Transformer, batch: &MicroBatch) -> Tensor {
    let width = batch.ids.len() / batch.n_rows;
    let ids = Tensor::from_slice(&batch.ids, (batch.n_rows, width), &device()).unwrap();
    let hidden = model.hidden(&ids, None).unwrap().flatten_to(1).unwrap();
    hidden.index_select(&Tensor::new(batch.predictors.as_slice(), &device()).unwrap(), 0).unwrap()
}

/// Values of sampled tokens (n), row after row, of a padded tensor (B, T).
fn unpadded(case: &Case, name: &str) -> Vec<f32> {
    let mask = case.values("completion_mask");
    let real = case.values(name).into_iter().zip(mask).filter(|(_, flag)| *flag != 0.0);
    real.map(|(value, _)| value).collect()
}

fn row_lengths(case: &Case) -> Vec<usize> {
    case.json["completions"].as_array().unwrap().iter().map(|row| row.as_array().unwrap().len()).collect()
}

fn number(case: &Case, key: &str) -> f64 {
    case.json[key].as_f64().unwrap()
}

fn part(case: &Case, loss: &Tensor) -> LossAndGradients {
    let gradients = Gradients::collect(case.parameters.vars(), loss.backward().unwrap()).unwrap();
    LossAndGradients { loss: f64::from(loss.to_scalar::<f32>().unwrap()), gradients }
}

#[test]
fn golden_dr_grpo_steps_give_losses_metrics_gradients_and_parameters() {
    cases_of("dr_grpo").into_iter().for_each(check_dr_grpo);
}

fn check_dr_grpo(case: Case) {
    let (batch, lengths) = (case.batch(), row_lengths(&case));
    let group_size = case.json["group_size"].as_u64().unwrap() as usize;
    let rewards: Vec<_> = case.values("rewards").into_iter().map(|reward| vec![Some(reward)]).collect();
    let advantage_settings = AdvantageSettings { group_size, weights: &[1.0], scale: Scale::None };
    let advantages = group_advantages(&advantage_settings, &rewards).unwrap();
    goldens::assert_close(&advantages, &case.values("advantages"), 1e-5, "advantages");
    let advantages = of_rows(&lengths, &advantages);
    let old = unpadded(&case, "old_logprobs");
    let settings = PolicySettings {
        temperature: 1.0,
        epsilon_low: number(&case, "epsilon_low"),
        epsilon_high: number(&case, "epsilon_high"),
        ratio: RatioLevel::Token,
        aggregation: Aggregation::DrGrpo {
            max_completion_tokens: usize::try_from(
                case.json["loss_constant_max_completion_length"].as_u64().unwrap(),
            )
            .unwrap(),
        },
        beta: 0.0,
        entropy_coef: 0.0,
        importance: None,
    };
    let rows = PolicyBatch {
        ids: &batch.targets,
        row_lengths: &lengths,
        advantages: &advantages,
        old_logprobs: &old,
        ref_logprobs: None,
        sampler_logprobs: None,
    };
    let totals = StepTotals { n_rows: lengths.len(), n_tokens: batch.targets.len() };
    check_steps(case, |case, model, step| {
        let logits = model.logits(&hidden(model, &batch)).unwrap();
        let share = policy_loss(&settings, totals, &logits, &rows).unwrap();
        check_metrics(&case.json["steps"][step]["metrics"], &share.metrics);
        part(case, &share.loss)
    });
}

fn check_metrics(expected: &Value, metrics: &PolicyMetrics) {
    let clipped = metrics.clip_ratios();
    let pairs = [
        ("entropy", metrics.entropy(), 1e-4),
        ("clip_ratio/low_mean", clipped.low_mean, 1e-6),
        ("clip_ratio/high_mean", clipped.high_mean, 1e-6),
        ("clip_ratio/region_mean", clipped.region_mean, 1e-6),
        ("clip_ratio/low_min", clipped.low_min, 1e-6),
        ("clip_ratio/high_max", clipped.high_max, 1e-6),
    ];
    for (name, got, tolerance) in pairs {
        let expected = expected[name].as_f64().unwrap();
        assert!((got - expected).abs() <= tolerance, "{name}: {got}, expected {expected}");
    }
}

#[test]
fn golden_reverse_kl_steps_give_losses_gradients_and_parameters() {
    cases_of("reverse_kl").into_iter().for_each(check_reverse_kl);
}

fn check_reverse_kl(case: Case) {
    let batch = case.batch();
    let teacher = teacher(&case);
    let taught = hidden(&teacher, &batch);
    let logits = teacher.logits(&taught).unwrap();
    let ids = Tensor::new(batch.targets.as_slice(), &device()).unwrap();
    let logprobs = token_logprobs(&logits, &ids, 1.0).unwrap().to_vec1::<f32>().unwrap();
    goldens::assert_close(
        &logprobs,
        &unpadded(&case, "teacher_logprobs"),
        tolerance(1e-4),
        "teacher's log-probabilities",
    );
    let mean = TokenMean { temperature: 1.0, n_tokens: batch.targets.len() };
    check_steps(case, |case, model, _| {
        let hidden = hidden(model, &batch);
        let student = Unprojected { hidden: &hidden, head: &model.head_weight().unwrap() };
        let taught = Unprojected { hidden: &taught, head: &teacher.head_weight().unwrap() };
        let got = divergence(Divergence::ReverseKl, mean, &student, &taught).unwrap();
        part(case, &got.loss)
    });
}

fn teacher(case: &Case) -> Transformer {
    let folder = goldens::root().join(case.json["teacher"].as_str().unwrap());
    let (config, _) = checkpoint::open_model(&folder, &device()).unwrap();
    let mut checkpoint = Checkpoint::open(&folder, DType::F32, &device()).unwrap();
    Transformer::load(&config, &mut checkpoint, Numerics::Serve).unwrap()
}

#[test]
fn golden_sampled_reverse_kl_steps_give_losses_gradients_and_parameters() {
    cases_of("sampled_reverse_kl").into_iter().for_each(check_sampled_reverse_kl);
}

fn check_sampled_reverse_kl(case: Case) {
    let batch = case.batch();
    let (sampler, teacher) = (unpadded(&case, "old_logprobs"), unpadded(&case, "teacher_logprobs"));
    let advantages = teacher_advantages(1.0, &sampler, &teacher).unwrap();
    let [teacher_kl, _, _] = KlEstimates::of(&sampler, &teacher).means();
    let mean = TokenMean { temperature: 1.0, n_tokens: batch.targets.len() };
    let tokens = SampledTokens { ids: &batch.targets, sampler_logprobs: &sampler, advantages: &advantages };
    check_steps(case, |case, model, step| {
        let expected = case.json["steps"][step]["metrics"]["teacher_kl"].as_f64().unwrap();
        assert!((teacher_kl - expected).abs() <= 1e-5 * expected.abs());
        let hidden = hidden(model, &batch);
        let student = Unprojected { hidden: &hidden, head: &model.head_weight().unwrap() };
        part(case, &sampled_policy_gradient(mean, &student, &tokens).unwrap().loss)
    });
}
