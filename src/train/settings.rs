//! Settings of the stages: defaults in code with their reasons, a TOML file over them, flags over both.
pub mod grpo;
mod head;
mod layered;
pub mod lora;
pub mod output;
pub mod remote;
pub mod rewards;

use super::{optimizer::AdamWSettings, schedule::Schedule, watch::WatchSettings};
use crate::model::config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling};
use grpo::GrpoSettings;
pub use head::{HeadSettings, RubricSettings};
pub use layered::layered;
use lora::LoraSettings;
use output::OutputTokens;
use remote::{CallSettings, HttpJudgeSettings};
use rewards::RewardSettings;
use serde::{Deserialize, Serialize};

/// Budget of the demo student's prompts: about twenty signals. Longer prompts cost training time in proportion.
pub const PROMPT_TOKENS: usize = 256;

/// Tokens of the demo student, control tokens included. 8192: 98 % of the names of its world are one token. With 6144 more
/// than half of them are cut into pieces that they share with others, and the student cannot tell what they have to do with.
pub const DEMO_VOCABULARY: usize = 8192;

/// Shape of a fresh network. The vocabulary's size comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkShape {
    /// Width of the hidden states. 192: three million parameters in all.
    pub hidden_size: usize,
    /// Width inside the feed-forward block. 512: 8/3 of the hidden size, the usual ratio of gated blocks.
    pub intermediate_size: usize,
    /// Blocks. 4: each costs attention and element-wise work beside its products, and the task needs few hops.
    pub n_layers: usize,
    /// Query heads. 6 of width 32.
    pub n_heads: usize,
    /// Key and value heads. 2: a third of the cache of six.
    pub n_kv_heads: usize,
    /// Longest row. 2048: the longest prompt the server accepts, and the list.
    pub max_positions: usize,
}

impl NetworkShape {
    /// The demo student.
    pub fn demo() -> Self {
        Self {
            hidden_size: 192,
            intermediate_size: 512,
            n_layers: 4,
            n_heads: 6,
            n_kv_heads: 2,
            max_positions: 2048,
        }
    }

    /// Returns the decoder config of this shape: Qwen2 with a tied head.
    pub fn config(&self, vocab_size: usize, eos_id: u32) -> DecoderConfig {
        DecoderConfig {
            family: Family::Qwen2,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.hidden_size / self.n_heads.max(1),
            vocab_size,
            max_positions: self.max_positions,
            rms_norm_eps: 1e-6,
            // Rows are short: a small base turns every pair of dimensions within a row.
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            tied_head: true,
            eos_ids: vec![eos_id],
            biases: Biases::of(Family::Qwen2),
            output_ids: OutputIds::All,
        }
    }
}

/// The optimisation loop, shared by pre-training and fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitSettings {
    /// Optimiser steps.
    pub steps: u64,
    /// Seed of fresh parameters and of the order of examples.
    pub seed: u64,
    /// Micro-batches of one step; they are computed side by side, so a multiple of the cores.
    pub micro_batches: usize,
    /// Most tokens of one micro-batch, padding included. 512: its arrays are reused from one operation to the next,
    /// while larger ones are asked of the system and zeroed every time.
    pub micro_batch_tokens: usize,
    /// Highest learning rate.
    pub peak_learning_rate: f64,
    /// Last learning rate as a share of the highest.
    pub final_learning_rate_ratio: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Gradients are scaled down to this norm.
    pub max_grad_norm: f64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept; older ones are deleted.
    pub checkpoints_kept: usize,
}

impl FitSettings {
    /// Returns the learning-rate schedule.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.peak_learning_rate,
            final_ratio: self.final_learning_rate_ratio,
            warmup_steps: self.warmup_steps.min(self.steps),
            n_steps: self.steps,
        }
    }

    /// Returns the optimiser's constants.
    pub fn adamw(&self) -> AdamWSettings {
        AdamWSettings { beta1: 0.9, beta2: self.beta2, eps: 1e-8, weight_decay: self.weight_decay }
    }
}

/// Pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSettings {
    /// The fresh network.
    pub network: NetworkShape,
    /// Tokens of one packed row. 256: longer than almost every article; attention costs the square.
    pub row_tokens: usize,
    /// Whether embeddings start as word vectors of the same documents. Yes: what keeps company is then known from the first step.
    pub word_vectors: bool,
    /// The loop.
    pub fit: FitSettings,
}

impl PretrainSettings {
    /// Settings of the demo student.
    pub fn demo() -> Self {
        Self {
            network: NetworkShape::demo(),
            row_tokens: 256,
            word_vectors: true,
            fit: FitSettings {
                // Two and a half million tokens.
                steps: 300,
                seed: 1,
                // Eight thousand tokens a step. What is learned depends on the tokens seen, not on the steps they are cut into.
                micro_batches: 16,
                micro_batch_tokens: 512,
                // High for a model this small, and stable with clipping at 1.
                peak_learning_rate: 3e-3,
                final_learning_rate_ratio: 0.1,
                warmup_steps: 40,
                weight_decay: 0.1,
                // 0.95 forgets the large early gradients sooner than 0.999; the run has few steps.
                beta2: 0.95,
                max_grad_norm: 1.0,
                checkpoint_every: 50,
                checkpoints_kept: 2,
            },
        }
    }
}

/// Supervised fine-tuning: signals to lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftSettings {
    /// Budget of the prompt in tokens; the oldest signals are left out first.
    pub prompt_tokens: usize,
    /// Moments per training reader at which the past is cut from the future. 4: five days apart, so that prompts differ.
    pub cuts_per_reader: usize,
    /// Later clicks count up to this many hours after the cut, where they are the targets. 72: a reader clicks less than
    /// once a day, and interests drift.
    pub later_hours: i64,
    /// What is learned to be written. The judge's lists: single clicks are too noisy to learn from (LOG.md).
    pub targets: Targets,
    /// A pause longer than this ends a visit. 30: the usual one of web analytics.
    pub session_gap_minutes: i64,
    /// Subjects by which the judge's lists are written: signals about one subject are taught the same list. Of 480, 720, 1,000 and
    /// 2,000 the third is the least whose lists find what those of the signals' own meanings find (LOG.md). 0: none.
    pub subjects: usize,
    /// Whether the student learns at the end of every signal to name its subject, beside the list: what a signal means is then
    /// learned from each of them, and not only from those that the list is about.
    pub notes: bool,
    /// Signals of each training reader that are learned one by one. 8: nearly half of what a reader of the demo's world searches and reads.
    pub singles_per_reader: usize,
    /// The first steps of the loop, which read single signals only; none where the lists are of later clicks.
    pub single_signal_steps: u64,
    /// Which tokens may be written from now on. Inherited: what others cost in quality is for each world to measure.
    #[serde(default = "OutputTokens::inherited", skip_serializing_if = "OutputTokens::is_inherited")]
    pub output_tokens: OutputTokens,
    /// Adapters in place of full training. None: all parameters are trained.
    #[serde(default = "LoraSettings::none", skip_serializing_if = "LoraSettings::is_none")]
    pub lora: LoraSettings,
    /// The loop.
    pub fit: FitSettings,
}

/// Which lists fine-tuning learns to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// Those that the judge of the rewards would write after the same signals.
    Judge,
    /// Those that would have found what the reader clicked soon after, as GPT4Rec learns from titles of later clicks.
    LaterClicks,
    /// Those that would have found what another reader clicked: the form alone. What a language model that read the news and was never
    /// taught the task makes of a prompt, for comparison.
    Form,
}

impl SftSettings {
    /// Settings of the demo student.
    pub fn demo() -> Self {
        let fit = FitSettings {
            // Twenty-three million tokens: some 50 minutes of two cores.
            steps: 3_500,
            seed: 2,
            peak_learning_rate: 2e-3,
            final_learning_rate_ratio: 0.05,
            checkpoint_every: 100,
            ..PretrainSettings::demo().fit
        };
        Self {
            prompt_tokens: PROMPT_TOKENS,
            cuts_per_reader: 4,
            later_hours: 72,
            targets: Targets::Judge,
            session_gap_minutes: 30,
            subjects: 1_000,
            notes: true,
            singles_per_reader: 8,
            single_signal_steps: 300,
            output_tokens: OutputTokens::Inherited,
            lora: LoraSettings::none(),
            fit,
        }
    }
}

/// Dr.GRPO on the five rewards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSettings {
    /// Budget of the prompt in tokens; the oldest signals are left out first.
    pub prompt_tokens: usize,
    /// Moments per training reader at which lists are asked for.
    pub cuts_per_reader: usize,
    /// Lists sampled per prompt: the group whose mean each is compared with.
    pub lists_per_prompt: usize,
    /// Options of the algorithm. What differs from Dr.GRPO as it was published: a list is worth what it adds to the best of four, since
    /// several are sampled and the best is served (LOG.md).
    #[serde(default = "GrpoSettings::plain")]
    pub grpo: GrpoSettings,
    /// What each reward counts. Those of all other tables, the watch's and the head's among them, count as always.
    #[serde(default = "RewardSettings::usual", skip_serializing_if = "RewardSettings::is_usual")]
    pub rewards: RewardSettings,
    /// A judge elsewhere, whose word counts beside the five rewards. None: a language model for each list costs more than the rest.
    #[serde(default = "HttpJudgeSettings::none", skip_serializing_if = "HttpJudgeSettings::is_none")]
    pub http_judge: HttpJudgeSettings,
    /// Adapters in place of full training. None: all parameters are trained.
    #[serde(default = "LoraSettings::none", skip_serializing_if = "LoraSettings::is_none")]
    pub lora: LoraSettings,
    /// The look at validation readers.
    pub watch: WatchSettings,
    /// The loop. `micro_batches`: prompts of one step.
    pub fit: FitSettings,
}

/// Looks as often as checkpoints are written, at readers enough that Recall@10 is known to some two hundredths.
const WATCH: WatchSettings = WatchSettings { every: 100, readers: 300, lists: 1 };
/// A student takes longer, and its best steps differ by a hundredth, as much as is known of Recall@10 with six hundred readers.
const STUDENT_WATCH: WatchSettings = WatchSettings { every: 250, readers: 600, lists: 1 };

impl TeacherSettings {
    /// Settings of the demo teacher.
    pub fn demo() -> Self {
        let fit = FitSettings {
            // Lists had not levelled off after 300 (LOG.md).
            steps: 1_000,
            seed: 4,
            // Eight prompts of eight lists: of fewer, the mean of a group and the direction of a step are noise.
            micro_batches: 8,
            // A tenth of fine-tuning's: each step sees 64 lists and one number for each. At twice this rate lists lose their form (LOG.md).
            peak_learning_rate: 2e-4,
            final_learning_rate_ratio: 0.1,
            warmup_steps: 10,
            weight_decay: 0.0,
            checkpoint_every: WATCH.every,
            ..PretrainSettings::demo().fit
        };
        Self {
            prompt_tokens: PROMPT_TOKENS,
            cuts_per_reader: 2,
            lists_per_prompt: 8,
            grpo: GrpoSettings { best_of: 4, ..GrpoSettings::plain() },
            rewards: RewardSettings::usual(),
            http_judge: HttpJudgeSettings::none(),
            lora: LoraSettings::none(),
            watch: WATCH,
            fit,
        }
    }
}

/// Distillation of a teacher into a student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentSettings {
    /// Whose lists are learned from, and how.
    pub mode: Distillation,
    /// Budget of the prompt in tokens; the oldest signals are left out first.
    pub prompt_tokens: usize,
    /// Moments per training reader at which lists are written.
    pub cuts_per_reader: usize,
    /// Lists per prompt. 2: every token is taught, so other prompts teach more than other lists.
    pub lists_per_prompt: usize,
    /// Limits of the calls to a teacher that is served elsewhere. Those of [`CallSettings::usual`].
    #[serde(default = "CallSettings::usual", skip_serializing)]
    pub teacher_calls: CallSettings,
    /// Adapters in place of full training. None: all parameters are trained.
    #[serde(default = "LoraSettings::none", skip_serializing_if = "LoraSettings::is_none")]
    pub lora: LoraSettings,
    /// The look at validation readers.
    pub watch: WatchSettings,
    /// The loop. `micro_batches`: prompts of one step.
    pub fit: FitSettings,
}

/// How a student learns from a teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distillation {
    /// KL(student ‖ teacher) on lists that the student writes.
    ReverseKl,
    /// KL(teacher ‖ student) on lists that the teacher writes.
    ForwardKl,
    /// Cross-entropy on lists that the teacher writes.
    Supervised,
}

impl StudentSettings {
    /// Settings of the demo student.
    pub fn demo() -> Self {
        let fit = FitSettings {
            // Its distance to the teacher still falls after 1,000 (LOG.md).
            steps: 3_000,
            seed: 5,
            // Sixteen prompts of two lists.
            micro_batches: 16,
            // At twice this rate it stays further from the teacher (LOG.md).
            peak_learning_rate: 5e-4,
            final_learning_rate_ratio: 0.05,
            warmup_steps: 20,
            weight_decay: 0.0,
            checkpoint_every: STUDENT_WATCH.every,
            ..PretrainSettings::demo().fit
        };
        Self {
            mode: Distillation::ReverseKl,
            prompt_tokens: PROMPT_TOKENS,
            cuts_per_reader: 4,
            lists_per_prompt: 2,
            teacher_calls: CallSettings::usual(),
            lora: LoraSettings::none(),
            watch: STUDENT_WATCH,
            fit,
        }
    }
}
