//! Distillation from a few log-probabilities per token: all that a remote teacher returns.
//!
//! The vocabulary falls into cells: each id the teacher spoke of, and a tail that holds all other ids together.
use super::{
    sparse::{RowLoss, sparse_losses},
    unprojected::{TokenLosses, TokenMean, Unprojected},
};
use candle_core::{Result, bail};

/// Largest log-probability of all ids outside of the tail together: the tail keeps a logarithm. Source: trl.
const LOG_TOTAL_MAX: f64 = -1e-7;

/// The teacher's best ids at each of n positions, position after position.
#[derive(Clone, Copy, Debug)]
pub struct TeacherTopK<'a> {
    /// Ids per position, at least 1.
    pub k: usize,
    /// Ids (n · k), distinct at a position.
    pub ids: &'a [u32],
    /// Their log-probabilities (n · k), nats; negative infinity where the teacher returned fewer than k.
    pub logprobs: &'a [f32],
}

/// Computes a micro-batch's share of the reverse KL between two cells: the sampled token, and all other ids.
///
/// `ids` and `teacher_logprobs` (n): the sampled tokens and what the teacher says of them, nats.
/// # Errors
/// If lengths differ, an id is not below V or a log-probability is not finite.
/// Source: `ServerDistillationTrainer._compute_sparse_top_1_divergence_loss` of trl, beta 1 with a tail.
pub fn sampled_reverse_kl_with_tail(
    mean: TokenMean,
    student: &Unprojected<'_>,
    ids: &[u32],
    teacher_logprobs: &[f32],
) -> Result<TokenLosses> {
    if ids.len() != teacher_logprobs.len() || teacher_logprobs.iter().any(|logprob| !logprob.is_finite()) {
        bail!("{} ids were given {} teacher's log-probabilities", ids.len(), teacher_logprobs.len())
    }
    sparse_losses(mean, student, (ids, 1), |position, log_p| {
        let (log_p, log_q) = (f64::from(log_p[0]), f64::from(teacher_logprobs[position]));
        let (p, difference) = (log_p.exp(), log_p - log_q);
        let tail_difference = log_rest(p) - log_rest(log_q.exp());
        let value = p * difference + (1.0 - p) * tail_difference;
        let rest_factor = tail_difference - value;
        RowLoss { value, rest_factor, corrections: vec![p * (difference - tail_difference)] }
    })
}

/// Computes a micro-batch's share of the forward KL between k + 1 cells: the teacher's best ids, and all others.
///
/// # Errors
/// If lengths differ or an id is not below V.
/// Source: `ServerDistillationTrainer._compute_server_forward_kl_loss` of trl, with a tail.
pub fn top_k_forward_kl_with_tail(
    mean: TokenMean,
    student: &Unprojected<'_>,
    teacher: &TeacherTopK<'_>,
) -> Result<TokenLosses> {
    if teacher.k == 0 || teacher.ids.len() != teacher.logprobs.len() {
        bail!("{} ids of k = {} were given {} logs", teacher.ids.len(), teacher.k, teacher.logprobs.len())
    }
    sparse_losses(mean, student, (teacher.ids, teacher.k), |position, log_p| {
        let log_q = &teacher.logprobs[position * teacher.k..][..teacher.k];
        let cells = || {
            let pairs = log_p.iter().zip(log_q).map(|(p, q)| (f64::from(*p), f64::from(*q)));
            pairs.map(|(log_p, log_q)| (log_p, log_q, log_p.exp(), log_q.exp()))
        };
        let present = || cells().filter(|(_, log_q, _, _)| log_q.is_finite());
        let log_tail_p = log_rest(present().map(|(_, _, p, _)| p).sum());
        let log_tail_q = log_rest(present().map(|(_, _, _, q)| q).sum());
        let tail_q = log_tail_q.exp();
        let value = present().map(|(log_p, log_q, _, q)| q * (log_q - log_p)).sum::<f64>()
            + tail_q * (log_tail_q - log_tail_p);
        // With the cells' probabilities the gradient is p - q of an id that has a cell of its own, and
        // p (1 - q / p of the tail) of any other.
        let tail_ratio = (log_tail_q - log_tail_p).exp();
        let correction = |(_, log_q, p, q): (f64, f64, f64, f64)| {
            if log_q.is_finite() { p * tail_ratio - q } else { 0.0 }
        };
        RowLoss { value, rest_factor: 1.0 - tail_ratio, corrections: cells().map(correction).collect() }
    })
}

/// Log of what is left beside a total probability.
fn log_rest(total: f64) -> f64 {
    (-total.ln().min(LOG_TOTAL_MAX).exp_m1()).ln()
}
