//! How large a pipeline is.
use super::Network;
use crate::{
    train::{
        encoder_fit::EncoderSettings,
        settings::{
            DEMO_VOCABULARY, Distillation, FitSettings, HeadSettings, NetworkShape, PretrainSettings,
            SftSettings, StudentSettings, Targets, TeacherSettings,
        },
        watch::WatchSettings,
    },
    world::Size,
};

/// Steps after which the demo's network writes lists, most of them valid, and knows no more than that (`world/README.md`).
const FORM_STEPS: u64 = 300;

/// Settings of all stages.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// The world's size.
    pub size: Size,
    /// The world's seed.
    pub world_seed: u64,
    /// Tokens of the vocabulary, control tokens included.
    pub vocab_size: usize,
    /// The signal cleaner.
    pub cleaner: EncoderSettings,
    /// The teacher's first stage.
    pub teacher_pretrain: PretrainSettings,
    /// The teacher's second stage.
    pub teacher_sft: SftSettings,
    /// The teacher's last stage.
    pub teacher: TeacherSettings,
    /// The student's first stage.
    pub student_pretrain: PretrainSettings,
    /// The student's second stage.
    pub student_sft: SftSettings,
    /// The student's last stage.
    pub student: StudentSettings,
    /// The reward head.
    pub head: HeadSettings,
}

impl Profile {
    /// For tests: the smallest networks that go through every stage, in a tiny world.
    pub fn tiny() -> Self {
        let sft = SftSettings {
            prompt_tokens: 64,
            cuts_per_reader: 2,
            subjects: 40,
            singles_per_reader: 2,
            single_signal_steps: 400,
            // Enough that a third of the lists is valid: the head needs some.
            fit: FitSettings { micro_batch_tokens: 256, ..tiny_fit(1_200, 2) },
            ..SftSettings::demo()
        };
        let watch = WatchSettings { every: 3, readers: 12, lists: 1 };
        Self {
            name: "tiny",
            size: Size::Tiny,
            world_seed: 5,
            vocab_size: 700,
            cleaner: EncoderSettings {
                vocab_size: 400,
                hidden_size: 32,
                intermediate_size: 64,
                n_layers: 1,
                n_heads: 2,
                steps: 60,
                ..EncoderSettings::cleaner()
            },
            teacher_pretrain: tiny_pretrain(48),
            teacher_sft: sft.clone(),
            teacher: TeacherSettings {
                prompt_tokens: 64,
                cuts_per_reader: 1,
                lists_per_prompt: 4,
                watch,
                fit: FitSettings { peak_learning_rate: 1e-3, ..tiny_fit(3, 3) },
                ..TeacherSettings::demo()
            },
            student_pretrain: tiny_pretrain(32),
            student_sft: sft,
            student: StudentSettings {
                prompt_tokens: 64,
                cuts_per_reader: 1,
                watch,
                fit: FitSettings { peak_learning_rate: 1e-3, ..tiny_fit(6, 4) },
                ..StudentSettings::demo()
            },
            head: HeadSettings {
                cuts_per_reader: 2,
                prompt_tokens: 64,
                corrupted_per_prompt: 1,
                ..HeadSettings::demo()
            },
        }
    }

    /// The demo's stages on a fifth of its readers, with a third of the steps but for pre-training.
    pub fn small() -> Self {
        let demo = Self::demo();
        let fewer = |fit: FitSettings| FitSettings {
            steps: fit.steps / 3,
            warmup_steps: fit.warmup_steps / 3,
            ..fit
        };
        let sooner = |watch: WatchSettings| WatchSettings { every: watch.every / 3, ..watch };
        let sft = |sft: SftSettings| SftSettings {
            single_signal_steps: sft.single_signal_steps / 3,
            fit: fewer(sft.fit),
            ..sft
        };
        Self {
            name: "small",
            size: Size::Small,
            teacher_sft: sft(demo.teacher_sft),
            teacher: TeacherSettings {
                watch: sooner(demo.teacher.watch),
                fit: fewer(demo.teacher.fit),
                ..demo.teacher
            },
            student_sft: sft(demo.student_sft),
            student: StudentSettings {
                watch: sooner(demo.student.watch),
                fit: fewer(demo.student.fit),
                ..demo.student
            },
            ..demo
        }
    }

    /// The demo bundle.
    pub fn demo() -> Self {
        Self {
            name: "demo",
            size: Size::Full,
            world_seed: 7,
            vocab_size: DEMO_VOCABULARY,
            cleaner: EncoderSettings::cleaner(),
            // Nearly twice the student's size: more would not be trained in the hours of two cores.
            teacher_pretrain: PretrainSettings {
                network: NetworkShape {
                    hidden_size: 256,
                    intermediate_size: 1024,
                    n_heads: 8,
                    ..NetworkShape::demo()
                },
                ..PretrainSettings::demo()
            },
            // Twice the student's: what a network of this size has learned depends on the tokens that it has seen, and a teacher must know more.
            teacher_sft: {
                let sft = SftSettings::demo();
                SftSettings { fit: FitSettings { steps: 2 * sft.fit.steps, ..sft.fit.clone() }, ..sft }
            },
            teacher: TeacherSettings::demo(),
            student_pretrain: PretrainSettings::demo(),
            student_sft: SftSettings::demo(),
            student: StudentSettings::demo(),
            head: HeadSettings::demo(),
        }
    }

    pub(super) fn teacher_before(&self) -> Network<'_> {
        Network { name: "teacher", pretrain: &self.teacher_pretrain, sft: &self.teacher_sft }
    }

    pub(super) fn student_before(&self) -> Network<'_> {
        Network { name: "student", pretrain: &self.student_pretrain, sft: &self.student_sft }
    }

    /// The teacher that is taught the form of a list and not the task, for comparison.
    pub(super) fn prompt_only(&self) -> SftSettings {
        let fit =
            FitSettings { steps: FORM_STEPS.min(self.teacher_sft.fit.steps), ..self.teacher_sft.fit.clone() };
        SftSettings { targets: Targets::Form, single_signal_steps: 0, fit, ..self.teacher_sft.clone() }
    }

    /// The student that learns from its teacher's lists, for comparison.
    pub(super) fn supervised(&self) -> StudentSettings {
        StudentSettings { mode: Distillation::Supervised, ..self.student.clone() }
    }

    /// The seed of every stage.
    pub(super) fn seeds(&self) -> [(&'static str, u64); 9] {
        [
            ("world", self.world_seed),
            ("cleaner", self.cleaner.seed),
            ("teacher-pretrain", self.teacher_pretrain.fit.seed),
            ("teacher-sft", self.teacher_sft.fit.seed),
            ("teacher", self.teacher.fit.seed),
            ("student-pretrain", self.student_pretrain.fit.seed),
            ("student-sft", self.student_sft.fit.seed),
            ("student", self.student.fit.seed),
            ("head", self.head.seed),
        ]
    }
}

fn tiny_fit(steps: u64, micro_batches: usize) -> FitSettings {
    FitSettings {
        steps,
        micro_batches,
        peak_learning_rate: 5e-3,
        warmup_steps: 2,
        checkpoint_every: steps,
        ..PretrainSettings::demo().fit
    }
}

fn tiny_pretrain(hidden_size: usize) -> PretrainSettings {
    PretrainSettings {
        network: NetworkShape {
            hidden_size,
            intermediate_size: 2 * hidden_size,
            n_layers: 2,
            n_heads: 2,
            n_kv_heads: 1,
            max_positions: 512,
        },
        row_tokens: 64,
        word_vectors: true,
        fit: tiny_fit(10, 2),
    }
}
