//! A tiny world and what small stages make of it, once for all tests that train.
use candle_core::Device;
use newshound::{
    text::tokens::Tokens,
    train::{
        events::{Scope, World},
        pretrain,
        settings::{FitSettings, NetworkShape, PretrainSettings, SftSettings},
        sft, tokenizer,
    },
    world::{self, Size, WorldSettings},
};
use std::{path::PathBuf, sync::LazyLock};

pub const VOCABULARY: usize = 700;

pub struct Stages {
    _dir: tempfile::TempDir,
    /// Folder of the world.
    pub at: PathBuf,
    /// Its training readers.
    pub training: World,
    /// Validation readers too.
    pub watched: World,
    /// Folder of the tokenizer.
    pub tokenizer: PathBuf,
}

pub static STAGES: LazyLock<Stages> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (at, tokenizer_at) = (dir.path().join("world"), dir.path().join("tokenizer"));
    world::generate(&WorldSettings::of(Size::Tiny, 5), &at, &mut |_, _| ()).unwrap();
    let training = World::read(&at, Scope::Training).unwrap();
    let watched = World::read(&at, Scope::Validation).unwrap();
    tokenizer::run(&training, VOCABULARY, &tokenizer_at).unwrap();
    Stages { _dir: dir, at, training, watched, tokenizer: tokenizer_at }
});

/// A network that has only read, of width 16.
pub static SMALL: LazyLock<PathBuf> = LazyLock::new(|| pretrained("small", 16));

/// A network of width 32 that has learned some of the form of a list.
pub static FINE_TUNED: LazyLock<PathBuf> = LazyLock::new(|| {
    let (tokens, json) = tokens();
    let settings = SftSettings {
        prompt_tokens: 96,
        cuts_per_reader: 2,
        subjects: 40,
        singles_per_reader: 2,
        single_signal_steps: 20,
        fit: fit(60, 2),
        ..SftSettings::demo()
    };
    let init = pretrained("large", 32);
    sft::run(&STAGES.training, (&tokens, &json), (&init, &Device::Cpu), &settings, &at("fine-tuned")).unwrap()
});

pub fn tokens() -> (Tokens, Vec<u8>) {
    tokenizer::read(&STAGES.tokenizer).unwrap()
}

pub fn fit(steps: u64, micro_batches: usize) -> FitSettings {
    FitSettings {
        steps,
        micro_batches,
        peak_learning_rate: 5e-3,
        warmup_steps: 2,
        checkpoint_every: 2,
        ..PretrainSettings::demo().fit
    }
}

fn at(name: &str) -> PathBuf {
    STAGES.at.parent().unwrap().join(name)
}

fn pretrained(name: &str, hidden_size: usize) -> PathBuf {
    let network = NetworkShape {
        hidden_size,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions: 512,
    };
    let settings = PretrainSettings { network, row_tokens: 64, word_vectors: true, fit: fit(4, 2) };
    pretrain::run(&STAGES.training, &STAGES.tokenizer, &settings, &at(name), &Device::Cpu).unwrap()
}
