//! Tests of training.
use crate::support::{
    device::{device, tolerance},
    stages::{STAGES, VOCABULARY, tokens},
};
use candle_core::{DType, Device};
use newshound::{
    model::{ops::Numerics, transformer::Transformer, weights::Parameters},
    train::{
        checkpoint,
        error::TrainError,
        events::{Scope, Split, World},
        fit::{self, MicroBatch, Workers},
        pretrain,
        schedule::Schedule,
        settings::{FitSettings, NetworkShape, PretrainSettings, SftSettings},
        sft, tokenizer,
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn fit_settings(steps: u64) -> FitSettings {
    FitSettings {
        steps,
        seed: 1,
        micro_batches: 2,
        micro_batch_tokens: 256,
        peak_learning_rate: 1e-2,
        warmup_steps: 2,
        checkpoint_every: 4,
        ..PretrainSettings::demo().fit
    }
}

fn pretrain_settings(steps: u64) -> PretrainSettings {
    let network = NetworkShape {
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions: 512,
    };
    PretrainSettings { network, row_tokens: 64, word_vectors: true, fit: fit_settings(steps) }
}

fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn losses_of_pretraining_and_fine_tuning_fall_and_leave_a_model_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("pretrain"), dir.path().join("sft"));
    let pretrained =
        pretrain::run(&STAGES.training, &STAGES.tokenizer, &pretrain_settings(24), &first, &device())
            .unwrap();
    // Single signals first, then whole prompts: both phases must teach.
    let settings = SftSettings {
        prompt_tokens: 96,
        subjects: 40,
        single_signal_steps: 12,
        fit: fit_settings(24),
        ..SftSettings::demo()
    };
    let (tokens, json) = tokens();
    let tuned =
        sft::run(&STAGES.training, (&tokens, &json), (&first, &device()), &settings, &second).unwrap();
    for run in [&first, &second] {
        let losses = losses(run);
        assert_eq!(losses.len(), 24);
        assert!(mean(&losses[18..]) < mean(&losses[..4]) - 0.3, "{}: {losses:?}", run.display());
        assert!(fs::read_to_string(run.join("loss.svg")).unwrap().contains("<svg"));
    }
    for folder in [pretrained, tuned] {
        let (config, mut parameters) = checkpoint::open_model(&folder, &Device::Cpu).unwrap();
        assert!(Transformer::load(&config, &mut parameters, Numerics::Train).is_ok());
        assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), json);
    }
}

#[test]
fn resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, halves) = (dir.path().join("whole"), dir.path().join("halves"));
    let settings = pretrain_settings(8);
    let expected = pretrained(&settings, &whole).unwrap();
    pretrained(&settings, &halves).unwrap();
    // As if the machine had gone down between the fourth step and the last.
    fs::remove_dir_all(halves.join("step-00000008")).unwrap();
    fs::create_dir(halves.join(".step-00000008.staging")).unwrap();
    assert!(checkpoint::latest(&halves).unwrap().unwrap().ends_with("step-00000004"));
    let got = pretrained(&settings, &halves).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"] {
        assert!(
            fs::read(expected.join(name)).unwrap() == fs::read(got.join(name)).unwrap(),
            "{name} differs"
        );
    }
    assert_eq!(losses(&whole), losses(&halves));
}

#[test]
fn checkpoint_of_other_settings_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = pretrain_settings(1);
    pretrained(&settings, dir.path()).unwrap();
    assert!(pretrained(&settings, dir.path()).is_ok(), "done already");
    settings.fit.seed = 2;
    let error = pretrained(&settings, dir.path()).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = pretrain_settings(6);
    (settings.fit.checkpoint_every, settings.fit.checkpoints_kept) = (2, 2);
    pretrained(&settings, dir.path()).unwrap();
    let there = |step: u32| dir.path().join(format!("step-{step:08}")).is_dir();
    assert_eq!([there(2), there(4), there(6)], [false, true, true]);
}

/// Pre-trains on the shared world. On the CPU, where a run can be repeated bit for bit.
fn pretrained(settings: &PretrainSettings, out: &Path) -> Result<PathBuf, TrainError> {
    pretrain::run(&STAGES.training, &STAGES.tokenizer, settings, out, &Device::Cpu)
}

/// Rows of unlike numbers of targets, so that a mean of means would differ.
fn rows() -> Vec<MicroBatch> {
    (1..5_u32)
        .map(|n| MicroBatch {
            ids: (0..8).map(|id| id * n % 50).collect(),
            n_rows: 1,
            predictors: (0..n).collect(),
            targets: (0..n).map(|id| (7 * id + n) % 50).collect(),
        })
        .collect()
}

fn joined(rows: &[MicroBatch]) -> MicroBatch {
    let mut all = MicroBatch { ids: vec![], n_rows: rows.len(), predictors: vec![], targets: vec![] };
    for (row_idx, row) in (0..).zip(rows) {
        all.ids.extend(&row.ids);
        all.predictors.extend(row.predictors.iter().map(|position| position + 8 * row_idx));
        all.targets.extend(&row.targets);
    }
    all
}

#[test]
fn loss_and_gradient_do_not_depend_on_the_cut_into_micro_batches() {
    let config = pretrain_settings(1).network.config(50, 49);
    let mut parameters = Parameters::fresh(3, &device());
    let model = Transformer::load(&config, &mut parameters, Numerics::Train).unwrap();
    let workers = Workers::new(&device()).unwrap();
    let rows = rows();
    let limit = tolerance(1e-5);
    let whole = workers.loss_and_gradients(&model, &parameters, &[joined(&rows)]).unwrap();
    let cuts = [
        rows.clone(),
        vec![joined(&rows[..1]), joined(&rows[1..])],
        vec![joined(&rows[..3]), rows[3].clone()],
    ];
    for cut in cuts {
        let parts = workers.loss_and_gradients(&model, &parameters, &cut).unwrap();
        assert!((parts.loss - whole.loss).abs() < f64::from(limit), "{} {}", parts.loss, whole.loss);
        for name in parameters.vars().keys() {
            let (got, expected) = (parts.gradients.get(name).unwrap(), whole.gradients.get(name).unwrap());
            let close = got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < limit);
            assert!(close, "{name}");
        }
    }
}

#[test]
fn step_without_targets_is_refused() {
    let config = pretrain_settings(1).network.config(50, 49);
    let mut parameters = Parameters::fresh(3, &device());
    let model = Transformer::load(&config, &mut parameters, Numerics::Train).unwrap();
    let batch = MicroBatch { ids: vec![1, 2], n_rows: 1, predictors: vec![], targets: vec![] };
    assert!(Workers::new(&device()).unwrap().loss_and_gradients(&model, &parameters, &[batch]).is_err());
}

#[test]
fn schedule_rises_to_the_peak_and_falls_to_the_floor() {
    let schedule = Schedule { peak: 1.0, final_ratio: 0.1, warmup_steps: 4, n_steps: 20 };
    assert_eq!(schedule.rate(0), 0.25);
    assert_eq!(schedule.rate(3), 1.0);
    assert_eq!(schedule.rate(4), 1.0);
    assert!((4..19).all(|step| schedule.rate(step) > schedule.rate(step + 1)));
    assert!((schedule.rate(19) - 0.1).abs() < 1e-12 && (schedule.rate(25) - 0.1).abs() < 1e-12);
    let constant = Schedule { peak: 1.0, final_ratio: 0.1, warmup_steps: 0, n_steps: 1 };
    assert_eq!(constant.rate(0), 1.0);
}

#[test]
fn tokenizer_is_the_same_bytes_twice_and_keeps_line_feeds_and_controls_apart() {
    let (tokens, json) = tokens();
    assert_eq!(tokenizer::train(&STAGES.training, VOCABULARY).unwrap(), json);
    assert!(tokens.n_tokens() <= VOCABULARY);
    let last = u32::try_from(tokens.n_tokens()).unwrap() - 1;
    assert_eq!([tokens.end_of_text(), tokens.im_start(), tokens.im_end()], [last - 2, last - 1, last]);
    assert_eq!(tokens.boundary_ids().len(), 1, "a line feed is one token and part of no other");
    for text in ["one two\nthree", "a.\n\nb", "tail \n"] {
        let ids = tokens.encode_text(text);
        let n_feeds = ids.iter().filter(|id| tokens.boundary_ids().contains(id)).count();
        assert_eq!(n_feeds, text.matches('\n').count(), "{text:?}");
        assert_eq!(tokens.decode(&ids), text);
    }
}

#[test]
fn vocabulary_without_room_for_bytes_and_controls_is_refused() {
    assert!(tokenizer::train(&STAGES.training, 258).is_err());
    assert!(tokenizer::train(&STAGES.training, 259).is_ok());
}

#[test]
fn training_scope_holds_training_readers_only_and_nothing_held_out() {
    let everything = World::read(&STAGES.at, Scope::Evaluation).unwrap();
    assert!(
        everything.readers.iter().any(|reader| reader.split == Split::Test && !reader.held_out.is_empty())
    );
    let training = &STAGES.training;
    assert!(training.readers.iter().all(|reader| reader.split == Split::Train && reader.held_out.is_empty()));
    assert!(!training.readers.is_empty());
    let cutoff = training.cutoff_unix_s;
    assert!(
        training.readers.iter().flat_map(|reader| &reader.events).all(|event| event.time_unix_s < cutoff)
    );
}

#[test]
fn checkpoint_with_a_missing_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let settings = pretrain_settings(1);
    let folder = pretrained(&settings, dir.path()).unwrap();
    fs::remove_file(folder.join("optimizer.safetensors")).unwrap();
    let error = pretrained(&settings, dir.path()).unwrap_err();
    assert!(error.to_string().contains("optimizer.safetensors"), "{error}");
    let (_config, parameters) = checkpoint::open_model(&folder, &fit::DEVICE).unwrap();
    assert_eq!(
        parameters.to_safetensors(DType::F32).unwrap(),
        fs::read(folder.join("model.safetensors")).unwrap()
    );
}

#[test]
fn fine_tuning_that_would_read_single_signals_only_is_refused() {
    let (dir, (tokens, json)) = (tempfile::tempdir().unwrap(), tokens());
    let first = pretrained(&pretrain_settings(1), &dir.path().join("pretrain")).unwrap();
    let mut settings = SftSettings {
        prompt_tokens: 96,
        subjects: 40,
        single_signal_steps: 2,
        fit: fit_settings(2),
        ..SftSettings::demo()
    };
    let run = |settings: &SftSettings| {
        sft::run(
            &STAGES.training,
            (&tokens, &json),
            (&first, &Device::Cpu),
            settings,
            &dir.path().join("sft"),
        )
    };
    let error = run(&settings).unwrap_err();
    assert!(error.to_string().contains("single_signal_steps"), "{error}");
    settings.single_signal_steps = 1;
    run(&settings).unwrap();
}
