//! Distillation losses of every case: over the whole vocabulary, of sampled tokens, and of a remote teacher's few values.
use super::{Identity, Positions, assert_gradient, assert_number, cases, gradient, name};
use candle_core::{Device, Tensor, Var};
use newshound::{
    model::ops::token_logprobs,
    train::losses::{
        kl::KlEstimates,
        reverse_kl::{Divergence, divergence},
        sampled::{SampledTokens, sampled_policy_gradient, teacher_advantages},
        top_k::{TeacherTopK, sampled_reverse_kl_with_tail, top_k_forward_kl_with_tail},
        unprojected::{TokenLosses, TokenMean},
    },
};
use serde_json::Value;

/// One case without its padding.
struct Case {
    name: String,
    expected: Value,
    positions: Positions,
    mean: TokenMean,
    student: Var,
    teacher: Var,
    ids: Vec<u32>,
}

const KINDS: [(&str, Divergence); 3] = [
    ("reverse_kl", Divergence::ReverseKl),
    ("forward_kl", Divergence::ForwardKl),
    ("jsd_0.5", Divergence::JensenShannon { teacher_share: 0.5 }),
];

fn read_cases() -> Vec<Case> {
    let read = |case: &Value| {
        let positions = Positions::of(case);
        let temperature = case["temperature"].as_f64().unwrap();
        Case {
            name: name(case).to_owned(),
            expected: case["expected"].clone(),
            mean: TokenMean { temperature, n_tokens: positions.real.len() },
            student: positions.logits(&case["student_logits"]),
            teacher: positions.logits(&case["teacher_logits"]),
            ids: positions.ids(&case["completion_ids"], 1),
            positions,
        }
    };
    cases("distillation.json").iter().map(read).collect()
}

impl Case {
    fn agrees(&self, key: &str, got: &TokenLosses) {
        let (expected, what) = (&self.expected[key], format!("{} {key}", self.name));
        let loss = f64::from(got.loss.to_scalar::<f32>().unwrap());
        assert_number(loss, &expected["loss_mean_over_tokens"], &what);
        if expected["loss_sum"].is_number() {
            let sum = got.per_token.iter().map(|loss| f64::from(*loss)).sum();
            assert_number(sum, &expected["loss_sum"], &what);
        }
        if expected["per_token"].is_array() {
            let expected = self.positions.values(&expected["per_token"]);
            for (got, expected) in got.per_token.iter().zip(&expected) {
                assert!(
                    (got - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                    "{what}: {got}, {expected}"
                );
            }
        }
        let key = if expected["grad_logits"].is_array() { "grad_logits" } else { "grad_logits_of_mean" };
        let expected = self.positions.gradient(&expected[key]);
        assert_gradient(&gradient(&got.loss, &self.student), &expected, &what);
    }

    fn divergence(&self, kind: Divergence) -> TokenLosses {
        let (student, teacher) = (Identity::of(&self.student), Identity::of(&self.teacher));
        let student = student.unprojected(&self.student);
        divergence(kind, self.mean, &student, &teacher.unprojected(&self.teacher)).unwrap()
    }

    /// Log-probability of each sampled token under some logits, the teacher's cut to the student's width.
    fn logprobs(&self, logits: &Var) -> Vec<f32> {
        let ids = Tensor::new(self.ids.as_slice(), &Device::Cpu).unwrap();
        let logits = logits.narrow(1, 0, self.student.dim(1).unwrap()).unwrap().contiguous().unwrap();
        token_logprobs(&logits, &ids, self.mean.temperature).unwrap().to_vec1().unwrap()
    }
}

#[test]
fn golden_divergences_over_the_whole_vocabulary_agree_in_value_and_gradient() {
    for case in read_cases() {
        for (key, kind) in KINDS {
            case.agrees(key, &case.divergence(kind));
        }
    }
}

#[test]
fn golden_sampled_policy_gradients_agree_in_value_and_gradient() {
    for case in read_cases() {
        let expected = &case.expected["sampled_policy_gradient"];
        let values = |key: &str| case.positions.values(&expected[key]);
        let (sampler, teacher) = (values("sampler_logprobs"), values("teacher_logprobs"));
        let advantages = teacher_advantages(1.0, &sampler, &teacher).unwrap();
        crate::support::goldens::assert_close(&advantages, &values("advantages"), 1e-5, &case.name);
        crate::support::goldens::assert_close(&case.logprobs(&case.teacher), &teacher, 1e-4, &case.name);
        let [teacher_kl, _, _] = KlEstimates::of(&sampler, &teacher).means();
        assert_number(teacher_kl, &expected["teacher_kl_metric"], &case.name);
        let tokens = SampledTokens { ids: &case.ids, sampler_logprobs: &sampler, advantages: &advantages };
        let head = Identity::of(&case.student);
        let got = sampled_policy_gradient(case.mean, &head.unprojected(&case.student), &tokens).unwrap();
        case.agrees("sampled_policy_gradient", &got);
    }
}

#[test]
fn golden_estimators_of_student_and_teacher_agree() {
    for case in read_cases() {
        let estimates = KlEstimates::of(&case.logprobs(&case.student), &case.logprobs(&case.teacher));
        for (key, got) in ["k1", "k2", "k3"].into_iter().zip(estimates.means()) {
            let expected = &case.expected["estimators_student_vs_teacher"][key];
            assert_number(got, expected, &format!("{} {key}", case.name));
        }
    }
}

#[test]
fn golden_losses_of_a_remote_teacher_agree_in_value_and_gradient() {
    for case in read_cases() {
        let head = Identity::of(&case.student);
        let student = head.unprojected(&case.student);
        let teacher = case.logprobs(&case.teacher);
        let got = sampled_reverse_kl_with_tail(case.mean, &student, &case.ids, &teacher).unwrap();
        case.agrees("server_top1_reverse_kl_tail", &got);

        let key = "server_topk_forward_kl_tail";
        let k = case.expected[key]["k"].as_u64().unwrap() as usize;
        let ids = case.positions.ids(&case.expected[key]["teacher_topk_ids"], k);
        let logprobs = case.positions.keep(&super::flat(&case.expected[key]["teacher_topk_logprobs"]), k);
        let best = TeacherTopK { k, ids: &ids, logprobs: &logprobs };
        case.agrees(key, &top_k_forward_kl_with_tail(case.mean, &student, &best).unwrap());
    }
}

/// Shares of micro-batches, each divided by the step's tokens, add up to the step.
#[test]
fn gradient_of_distillation_is_independent_of_the_split_into_micro_batches() {
    for case in read_cases() {
        let (student_head, teacher_head) = (Identity::of(&case.student), Identity::of(&case.teacher));
        for (_, kind) in KINDS {
            let expected = gradient(&case.divergence(kind).loss, &case.student);
            let mut sum = vec![0.0; expected.len()];
            let n_tokens = case.positions.real.len();
            for start in (0..n_tokens).step_by(5) {
                let length = 5.min(n_tokens - start);
                let part = |logits: &Var| logits.narrow(0, start, length).unwrap();
                let (student, teacher) = (part(&case.student), part(&case.teacher));
                let mut student_part = student_head.unprojected(&case.student);
                let mut teacher_part = teacher_head.unprojected(&case.teacher);
                (student_part.hidden, teacher_part.hidden) = (&student, &teacher);
                let share = divergence(kind, case.mean, &student_part, &teacher_part).unwrap();
                let part = gradient(&share.loss, &case.student);
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            assert_gradient(&sum, &expected, &case.name);
        }
    }
}

/// An id the teacher did not return is one of the tail.
#[test]
fn missing_id_of_a_remote_teacher_belongs_to_the_tail() {
    for case in read_cases() {
        let head = Identity::of(&case.student);
        let student = head.unprojected(&case.student);
        let teacher = case.logprobs(&case.teacher);
        let padded: Vec<f32> = teacher.iter().flat_map(|&logprob| [logprob, f32::NEG_INFINITY]).collect();
        let padded_ids: Vec<u32> = case.ids.iter().flat_map(|&id| [id, 0]).collect();
        let loss = |k: usize, ids: &[u32], logprobs: &[f32]| {
            let best = TeacherTopK { k, ids, logprobs };
            let got = top_k_forward_kl_with_tail(case.mean, &student, &best).unwrap();
            (got.per_token, gradient(&got.loss, &case.student))
        };
        assert_eq!(loss(2, &padded_ids, &padded), loss(1, &case.ids, &teacher), "{}", case.name);
    }
}

#[test]
fn teacher_that_does_not_fit_is_refused() {
    let case = &read_cases()[0];
    let head = Identity::of(&case.student);
    let student = head.unprojected(&case.student);
    let (rows, n_ids) = case.student.dims2().unwrap();
    let fits = |kind, rows: usize, n_ids: usize| {
        let logits = Var::zeros((rows, n_ids), candle_core::DType::F32, &Device::Cpu).unwrap();
        let head = Identity::of(&logits);
        divergence(kind, case.mean, &student, &head.unprojected(&logits)).is_ok()
    };
    assert!(fits(Divergence::ReverseKl, rows, n_ids) && fits(Divergence::ReverseKl, rows, n_ids + 1));
    assert!(!fits(Divergence::ReverseKl, rows, n_ids - 1) && !fits(Divergence::ReverseKl, rows - 1, n_ids));
    for teacher_share in [0.0, 1.0, f64::NAN] {
        assert!(!fits(Divergence::JensenShannon { teacher_share }, rows, n_ids));
    }
    let teacher = case.logprobs(&case.teacher);
    let missing = vec![f32::NEG_INFINITY; rows];
    assert!(sampled_reverse_kl_with_tail(case.mean, &student, &case.ids, &missing).is_err());
    assert!(sampled_reverse_kl_with_tail(case.mean, &student, &case.ids, &teacher[1..]).is_err());
    let wide = vec![u32::try_from(n_ids).unwrap(); rows];
    assert!(sampled_reverse_kl_with_tail(case.mean, &student, &wide, &teacher).is_err());
    assert!(teacher_advantages(1.0, &teacher, &teacher[1..]).is_err());
}
