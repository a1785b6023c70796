//! Arguments of the stages that make a model.
use crate::train::{
    error::TrainError, remote::teacher::Protocol, settings::DEMO_VOCABULARY, student::TeacherAt,
};
use clap::{Args, ValueEnum};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use toml::Value;

/// Arguments of `tokenizer`.
#[derive(Args, Debug)]
pub struct TokenizerArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Tokens in all, control tokens included.
    #[arg(long, default_value_t = DEMO_VOCABULARY)]
    pub(in super::super) vocab_size: usize,
    /// Folder to write tokenizer.json into.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
}

/// Arguments of `pretrain`.
#[derive(Args, Debug)]
pub struct PretrainArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Folder with tokenizer.json.
    #[arg(long)]
    pub(in super::super) tokenizer: PathBuf,
    /// Folder of the run: checkpoints, metrics.jsonl, loss.svg.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    #[command(flatten)]
    pub(in super::super) fit: FitArgs,
}

/// Arguments of `sft`.
#[derive(Args, Debug)]
pub struct SftArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Folder with tokenizer.json.
    #[arg(long)]
    pub(in super::super) tokenizer: PathBuf,
    /// Model to start from: a model folder or a run's folder.
    #[arg(long)]
    pub(in super::super) init: PathBuf,
    /// Folder of the signal cleaner that will stand before the prompts; the bundle must hold the same.
    #[arg(long)]
    pub(in super::super) cleaner: Option<PathBuf>,
    /// Folder of the run: checkpoints, metrics.jsonl, loss.svg.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    #[command(flatten)]
    pub(in super::super) fit: FitArgs,
}

/// Arguments of `teacher`.
#[derive(Args, Debug)]
pub struct TeacherArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Fine-tuned model to start from: a model folder or a run's folder, with tokenizer.json.
    #[arg(long)]
    pub(in super::super) init: PathBuf,
    /// Folder of the signal cleaner that stands before the prompts.
    #[arg(long)]
    pub(in super::super) cleaner: Option<PathBuf>,
    /// Lists that another engine sampled for the prompts that `prompts` writes; JSON lines with `prompt_ids`, `token_ids`, `logprobs`
    /// and `finish` (stop or length). Needs `grpo.importance_max` in the settings.
    #[arg(long)]
    pub(in super::super) rollouts: Option<PathBuf>,
    /// Folder of the run: checkpoints, the best of them, metrics.jsonl, watch.jsonl, reward.svg.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    #[command(flatten)]
    pub(in super::super) fit: FitArgs,
}

/// Arguments of `prompts`.
#[derive(Args, Debug)]
pub struct PromptsArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Fine-tuned model whose tokenizer is meant: a model folder or a run's folder.
    #[arg(long)]
    pub(in super::super) init: PathBuf,
    /// Folder of the signal cleaner that stands before the prompts.
    #[arg(long)]
    pub(in super::super) cleaner: Option<PathBuf>,
    /// The teacher's TOML file over the defaults.
    #[arg(long)]
    pub(in super::super) settings: Option<PathBuf>,
}

/// Arguments of `serve-reward`.
#[derive(Args, Debug)]
pub struct ServeRewardArgs {
    /// Whose lists are rewarded: those for the prompts that `prompts` writes with the same arguments.
    #[command(flatten)]
    pub(in super::super) prompts: PromptsArgs,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:5000")]
    pub(in super::super) addr: SocketAddr,
}

/// Arguments of `student`.
#[derive(Args, Debug)]
pub struct StudentArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Who learns: a model folder or a run's folder, with tokenizer.json.
    #[arg(long)]
    pub(in super::super) init: PathBuf,
    /// Whom it learns from: a folder with the same tokenizer; or `vllm URL` or `trl-server URL`, a server of a model that reads the
    /// same tokens.
    #[arg(long, num_args = 1..=2, value_names = ["DIR or PROTOCOL", "URL"], required = true)]
    pub(in super::super) teacher: Vec<String>,
    /// Folder of the signal cleaner that stands before the prompts.
    #[arg(long)]
    pub(in super::super) cleaner: Option<PathBuf>,
    /// Folder of the run: checkpoints, the best of them, metrics.jsonl, watch.jsonl, loss.svg.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    #[command(flatten)]
    pub(in super::super) fit: FitArgs,
}

impl StudentArgs {
    /// Where the teacher is.
    pub(in super::super) fn teacher(&self) -> Result<TeacherAt<'_>, TrainError> {
        match &self.teacher[..] {
            [protocol, url] => Protocol::from_str(protocol, false)
                .map(|protocol| TeacherAt::Served(protocol, url))
                .map_err(|_| TrainError::Settings {
                    reason: format!("--teacher: {protocol} is neither vllm nor trl-server"),
                }),
            folder => Ok(TeacherAt::Folder(Path::new(folder.first().map_or("", String::as_str)))),
        }
    }
}

/// What the loops let the command line change; everything else is in the settings file.
#[derive(Args, Debug)]
pub struct FitArgs {
    /// TOML file over the defaults; unknown keys are refused.
    #[arg(long)]
    pub(in super::super) settings: Option<PathBuf>,
    /// Optimiser steps.
    #[arg(long)]
    pub(in super::super) steps: Option<u32>,
    /// Seed of parameters and order.
    #[arg(long)]
    pub(in super::super) seed: Option<u32>,
}

impl FitArgs {
    pub(in super::super) fn flags(&self) -> [(&'static str, Option<Value>); 2] {
        let value = |flag: Option<u32>| flag.map(|flag| Value::Integer(i64::from(flag)));
        [("fit.steps", value(self.steps)), ("fit.seed", value(self.seed))]
    }
}

/// Arguments of `head`.
#[derive(Args, Debug)]
pub struct HeadArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Fine-tuned model: a model folder or a run's folder, with tokenizer.json.
    #[arg(long)]
    pub(in super::super) model: PathBuf,
    /// Folder of the signal cleaner that will stand before the prompts; the bundle must hold the same.
    #[arg(long)]
    pub(in super::super) cleaner: Option<PathBuf>,
    /// File to write, a safetensors file; the report goes beside it as .json.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    /// TOML file over the defaults; unknown keys are refused.
    #[arg(long)]
    pub(in super::super) settings: Option<PathBuf>,
    /// Seed of sampling and fitting.
    #[arg(long)]
    pub(in super::super) seed: Option<u32>,
}

/// Arguments of `rubric`.
#[derive(Args, Debug)]
pub struct RubricArgs {
    /// World folder.
    #[arg(long)]
    pub(in super::super) world: PathBuf,
    /// Folder with tokenizer.json, which says how much of a reader's signals a prompt shows.
    #[arg(long)]
    pub(in super::super) tokenizer: PathBuf,
    /// Folder of the signal cleaner that stands before the prompts.
    #[arg(long)]
    pub(in super::super) cleaner: Option<PathBuf>,
    /// File to write, a safetensors file; the report goes beside it as .json.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    /// TOML file over the defaults; unknown keys are refused.
    #[arg(long)]
    pub(in super::super) settings: Option<PathBuf>,
    /// Seed of corruptions and fitting.
    #[arg(long)]
    pub(in super::super) seed: Option<u32>,
}

/// Arguments of `pipeline`.
#[derive(Args, Debug)]
pub struct PipelineArgs {
    /// How large it all is.
    #[arg(long, value_enum)]
    pub(in super::super) profile: ProfileName,
    /// Folder for what the stages leave, the bundle and its figures.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
    /// World folder instead of a fresh one.
    #[arg(long)]
    pub(in super::super) world: Option<PathBuf>,
    /// Also make what teacher and student are compared with, and bundles of all: `baselines` holds those against the bars of the
    /// method.
    #[arg(long)]
    pub(in super::super) compare: bool,
}

/// Profiles by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ProfileName {
    /// Half a minute: for tests
    Tiny,
    /// A fifth of the demo's readers, a third of its steps
    Small,
    /// The demo bundle
    Demo,
}
