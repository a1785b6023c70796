//! Divergences between a student and a teacher over the whole vocabulary, on tokens the student sampled.
use super::unprojected::{ChunkLosses, TokenLosses, TokenMean, Unprojected, token_losses};
use candle_core::{D, Result, Tensor, bail};

/// What is measured between p, the student, and q, the teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divergence {
    /// KL(p ‖ q): the student gives up what the teacher would not say. Source: MiniLLM, arXiv 2306.08543; the
    /// on-policy stage of arXiv 2602.15005.
    ReverseKl,
    /// KL(q ‖ p): the student covers all the teacher would say.
    ForwardKl,
    /// share · KL(q ‖ m) + (1 - share) · KL(p ‖ m), with m = share · q + (1 - share) · p. Source: generalised JSD of
    /// GKD, arXiv 2306.13649.
    JensenShannon {
        /// Share of the teacher, above 0 and below 1.
        teacher_share: f64,
    },
}

/// Computes a micro-batch's share of the divergence, in nats per token; gradient flows to the student only.
///
/// `student` and `teacher` hold the same positions. Where the teacher has more ids than the student, as larger members
/// of a family do whose embedding is padded further, its logits beyond the student's are cut before the softmax.
/// Logits of all positions never exist at once.
/// # Errors
/// If positions differ, the teacher has fewer ids than the student, or the share is not between 0 and 1.
/// Source: `GKDTrainer.generalized_jsd_loss` of trl.
pub fn divergence(
    kind: Divergence,
    mean: TokenMean,
    student: &Unprojected<'_>,
    teacher: &Unprojected<'_>,
) -> Result<TokenLosses> {
    let ((n_positions, n_ids), (n_taught, n_teacher_ids)) = (student.dims()?, teacher.dims()?);
    if n_positions != n_taught || n_teacher_ids < n_ids {
        bail!("a student of {n_positions} x {n_ids} logits has a teacher of {n_taught} x {n_teacher_ids}")
    }
    if let Divergence::JensenShannon { teacher_share } = kind
        && !(teacher_share > 0.0 && teacher_share < 1.0)
    {
        bail!("the teacher's share is {teacher_share}, expected above 0 and below 1")
    }
    token_losses(student, mean, |log_p, range| {
        let log_q = teacher.log_probs(range, n_ids, mean.temperature)?;
        match kind {
            Divergence::ReverseKl => reverse_kl(log_p, &log_q),
            Divergence::ForwardKl => forward_kl(log_p, &log_q),
            Divergence::JensenShannon { teacher_share } => jensen_shannon(log_p, &log_q, teacher_share),
        }
    })
}

/// Value sum p (log p - log q); gradient p ((log p - log q) - value).
fn reverse_kl(log_p: &Tensor, log_q: &Tensor) -> Result<ChunkLosses> {
    let difference = (log_p - log_q)?;
    let (value, gradient) = mean_and_gradient(&log_p.exp()?, &difference)?;
    Ok(ChunkLosses { per_token: value, gradient })
}

/// Value sum q (log q - log p); gradient p - q.
fn forward_kl(log_p: &Tensor, log_q: &Tensor) -> Result<ChunkLosses> {
    let q = log_q.exp()?;
    let value = (&q * (log_q - log_p)?)?.sum(D::Minus1)?;
    Ok(ChunkLosses { per_token: value, gradient: (log_p.exp()? - q)? })
}

fn jensen_shannon(log_p: &Tensor, log_q: &Tensor, teacher_share: f64) -> Result<ChunkLosses> {
    let log_m = log_add_exp(&(log_p + (1.0 - teacher_share).ln())?, &(log_q + teacher_share.ln())?)?;
    // The mixture moves with the student too, but its share of the gradient of both terms cancels.
    let student_term = ((log_p - &log_m)? * (1.0 - teacher_share))?;
    let (student_value, gradient) = mean_and_gradient(&log_p.exp()?, &student_term)?;
    let teacher_value = ((log_q.exp()? * (log_q - log_m)?)? * teacher_share)?.sum(D::Minus1)?;
    Ok(ChunkLosses { per_token: (student_value + teacher_value)?, gradient })
}

/// Returns the mean (c) of `values` (c, V) under p, and its gradient p (values - mean) where values' own gradient
/// under p is 0.
fn mean_and_gradient(p: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
    let mean = (p * values)?.sum_keepdim(D::Minus1)?;
    let gradient = (p * values.broadcast_sub(&mean)?)?;
    Ok((mean.squeeze(D::Minus1)?, gradient))
}

/// log(e^a + e^b), finite wherever a or b is: a mixture of two vanishing probabilities has no log of 0.
fn log_add_exp(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let distance = (a - b)?.abs()?;
    a.maximum(b)? + (distance.neg()?.exp()? + 1.0)?.log()?
}
