//! One update of the policy: micro-batches side by side, their gradients summed. The lists of a prompt read it once.
use crate::{
    decode::batch::FinishedRow,
    model::{ops::token_logprobs, transformer::Transformer, weights::Parameters},
    train::{
        error::TrainError,
        fit::Workers,
        gradients::Gradients,
        losses::{
            StepTotals,
            dr_grpo::{
                Aggregation, ImportanceWeights, Outside, PolicyBatch, PolicySettings, RatioLevel, policy_loss,
            },
            policy_metrics::PolicyMetrics,
        },
        packing::{self, Example},
        rollout::LIST_TOKENS_MAX,
        settings::{TeacherSettings, grpo::GrpoSettings},
    },
};
use candle_core::Tensor;

/// Lists of one step.
pub(super) struct Rows<'a> {
    /// Prompt and list of each row.
    pub(super) examples: &'a [Example],
    /// What was sampled, with its log-probabilities.
    pub(super) rows: &'a [(Vec<u32>, FinishedRow)],
    /// One per token of each row.
    pub(super) advantages: &'a [Vec<f32>],
    /// Log-probabilities of each row under the policy that sampled; None where that is the one of now.
    pub(super) old: Option<&'a [Vec<f32>]>,
}

/// What an update computed.
pub(super) struct Updated {
    /// The loss of the step.
    pub(super) loss: f64,
    /// Its gradient.
    pub(super) gradients: Gradients,
    /// What the policy was like.
    pub(super) metrics: Option<PolicyMetrics>,
    /// Log-probabilities of each row under the policy that sampled.
    pub(super) old: Vec<Vec<f32>>,
}

/// Computes the loss of a step and its gradient. Rows with advantage 0 have no gradient but count in the divisor; where all have,
/// the gradient is 0.
pub(super) fn update(
    workers: &Workers,
    (model, parameters): (&Transformer, &Parameters),
    settings: &TeacherSettings,
    rows: &Rows<'_>,
) -> Result<Updated, TrainError> {
    let taught: Vec<usize> = (0..rows.rows.len()).filter(|&idx| !rows.rows[idx].1.ids.is_empty()).collect();
    let examples: Vec<Example> = taught.iter().map(|&idx| rows.examples[idx].clone()).collect();
    let buckets = packing::shared_buckets(&examples, settings.fit.micro_batch_tokens);
    let totals = StepTotals {
        n_rows: rows.rows.len(),
        n_tokens: examples.iter().map(|example| example.completion.len()).sum(),
    };
    let policy = policy(&settings.grpo);
    let old = vec![Vec::new(); rows.rows.len()];
    let mut sum = Updated { loss: 0.0, gradients: Gradients::default(), metrics: None, old };
    let of_bucket = |bucket: &Vec<usize>| {
        let chosen: Vec<usize> = bucket.iter().map(|&place| taught[place]).collect();
        Ok((micro_batch((model, parameters), (&policy, totals), (rows, &chosen))?, chosen))
    };
    workers.side_by_side(&buckets, of_bucket, |(part, chosen)| {
        sum.loss += part.loss;
        sum.gradients.add(part.gradients);
        sum.metrics = part.metrics.map(|metrics| sum.metrics.map_or(metrics, |before| before.plus(metrics)));
        chosen.into_iter().zip(part.old).for_each(|(idx, old)| sum.old[idx] = old);
    })?;
    Ok(sum)
}

/// Dr.GRPO without a reference; lists that another engine sampled count by how likely they are to the network that learns from them.
/// In the first update of a sample every ratio is 1 and no clip acts.
fn policy(grpo: &GrpoSettings) -> PolicySettings {
    let truncated = ImportanceWeights { min: 0.0, max: grpo.importance_max, outside: Outside::Truncate };
    PolicySettings {
        temperature: TEMPERATURE,
        epsilon_low: grpo.clip_low,
        epsilon_high: grpo.clip_high,
        ratio: RatioLevel::Token,
        aggregation: Aggregation::DrGrpo { max_completion_tokens: LIST_TOKENS_MAX },
        beta: 0.0,
        entropy_coef: grpo.entropy_coef,
        importance: (grpo.importance_max > 0.0).then_some(truncated),
    }
}

/// Lists are sampled by the plain model: whatever narrows the choice would make the decoder's log-probabilities lie.
const TEMPERATURE: f64 = 1.0;

fn micro_batch(
    (model, parameters): (&Transformer, &Parameters),
    (policy, totals): (&PolicySettings, StepTotals),
    (rows, chosen): (&Rows<'_>, &[usize]),
) -> Result<Updated, TrainError> {
    let examples: Vec<&Example> = chosen.iter().map(|&idx| &rows.examples[idx]).collect();
    let batch = packing::share_prompts(&examples);
    let device = model.device();
    let predictors = Tensor::from_slice(&batch.predictors, batch.predictors.len(), device)?;
    let hidden = model.hidden_of(&batch.packed)?.squeeze(0)?.index_select(&predictors, 0)?;
    let lengths: Vec<usize> = examples.iter().map(|example| example.completion.len()).collect();
    let advantages: Vec<f32> = chosen.iter().flat_map(|&idx| rows.advantages[idx].iter().copied()).collect();
    let (logits, columns) = (model.logits(&hidden)?, model.config().output_ids.columns(&batch.targets)?);
    // The network that samples is the one that learns: at first the old policy is the one of now. What the decoder said when it
    // sampled tells how far its kernels are from those of training.
    let old: Vec<f32> = match rows.old {
        Some(old) => chosen.iter().flat_map(|&idx| old[idx].iter().copied()).collect(),
        None => {
            let targets = Tensor::from_slice(&columns, columns.len(), device)?;
            token_logprobs(&logits.detach(), &targets, TEMPERATURE)?.to_vec1()?
        }
    };
    let sampled: Vec<f32> =
        chosen.iter().flat_map(|&idx| rows.rows[idx].1.logprobs.iter().copied()).collect();
    let policy_batch = PolicyBatch {
        ids: &columns,
        row_lengths: &lengths,
        advantages: &advantages,
        old_logprobs: &old,
        ref_logprobs: None,
        sampler_logprobs: Some(&sampled),
    };
    let loss = policy_loss(policy, totals, &logits, &policy_batch)?;
    let gradients = Gradients::collect(parameters.vars(), loss.loss.backward()?)?;
    let mut rest = old.as_slice();
    let of_row = |length: &usize| {
        let (row, others) = rest.split_at(*length);
        rest = others;
        row.to_vec()
    };
    let old = lengths.iter().map(of_row).collect();
    Ok(Updated {
        loss: f64::from(loss.loss.to_scalar::<f32>()?),
        gradients,
        metrics: Some(loss.metrics),
        old,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decode::batch::{Finish, GroupId},
        model::{
            config::DecoderConfig,
            ops::{Numerics, token_logprobs},
        },
        train::{optimizer::AdamW, settings::NetworkShape},
    };
    use candle_core::Device;

    const PROMPT: [u32; 3] = [5, 9, 2];

    fn logprobs(model: &Transformer, ids: &[u32]) -> Vec<f32> {
        let row: Vec<u32> = PROMPT.iter().chain(&ids[..ids.len() - 1]).copied().collect();
        let row = Tensor::new(&row[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let hidden = model.hidden(&row, None).unwrap();
        let hidden = hidden.narrow(1, PROMPT.len() - 1, ids.len()).unwrap().squeeze(0).unwrap();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        token_logprobs(&model.logits(&hidden).unwrap(), &ids, 1.0).unwrap().to_vec1().unwrap()
    }

    fn config() -> DecoderConfig {
        let shape = NetworkShape {
            hidden_size: 16,
            intermediate_size: 24,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            max_positions: 64,
        };
        shape.config(20, 1)
    }

    #[test]
    fn what_is_better_than_its_group_becomes_likelier_and_what_is_worse_less_however_steps_are_cut() {
        let config = config();
        let lists = [vec![7, 8, 1], vec![11, 12, 13, 1], vec![]];
        let row = |model: &Transformer, row_idx: usize| FinishedRow {
            group: GroupId(0),
            row_idx,
            ids: lists[row_idx].clone(),
            logprobs: if lists[row_idx].is_empty() { Vec::new() } else { logprobs(model, &lists[row_idx]) },
            finish: Finish::Stop,
            query_ends: Vec::new(),
        };
        let mut gradients = Vec::new();
        for micro_batch_tokens in [1, 1000] {
            let mut settings = TeacherSettings::demo();
            settings.fit.micro_batch_tokens = micro_batch_tokens;
            let mut parameters = Parameters::fresh(3, &Device::Cpu);
            let model = Transformer::load(&config, &mut parameters, Numerics::Train).unwrap();
            let rows: Vec<(Vec<u32>, FinishedRow)> =
                (0..lists.len()).map(|idx| (PROMPT.to_vec(), row(&model, idx))).collect();
            let advantages: Vec<Vec<f32>> = lists
                .iter()
                .zip([1.0, -1.0, 0.0])
                .map(|(list, advantage)| vec![advantage; list.len()])
                .collect();
            let examples: Vec<Example> = lists
                .iter()
                .map(|list| Example { prompt: PROMPT.to_vec(), completion: list.clone(), notes: vec![] })
                .collect();
            let rows = Rows { examples: &examples, rows: &rows, advantages: &advantages, old: None };
            let workers = Workers::new(&Device::Cpu).unwrap();
            let updated = update(&workers, (&model, &parameters), &settings, &rows).unwrap();
            // On the policy every ratio is 1: the loss is minus the mean of advantage x length / the constant.
            #[allow(clippy::cast_precision_loss, reason = "a limit of some hundred")]
            let expected = -(3.0 - 4.0) / (3.0 * LIST_TOKENS_MAX as f64);
            assert!((updated.loss - expected).abs() < 1e-6, "{} {expected}", updated.loss);
            assert!(updated.metrics.unwrap().sampler_difference_max() < 1e-5);
            let before: Vec<f32> =
                lists[..2].iter().map(|list| logprobs(&model, list).iter().sum()).collect();
            let mut optimizer = AdamW::new(settings.fit.adamw(), parameters.vars());
            optimizer.step(parameters.vars(), &updated.gradients, 1e-3).unwrap();
            let after: Vec<f32> = lists[..2].iter().map(|list| logprobs(&model, list).iter().sum()).collect();
            assert!(after[0] > before[0] && after[1] < before[1], "{before:?} {after:?}");
            // Another update of the same lists: what went far enough teaches nothing more.
            (settings.grpo.clip_low, settings.grpo.clip_high) = (1e-6, 1e-6);
            let again = Rows { old: Some(&updated.old), ..rows };
            let clipped =
                update(&workers, (&model, &parameters), &settings, &again).unwrap().metrics.unwrap();
            assert_eq!(updated.metrics.unwrap().clip_ratios().region_mean, 0.0);
            assert!(clipped.clip_ratios().region_mean > 0.0, "{:?}", clipped.clip_ratios().region_mean);
            gradients.push(updated.gradients);
        }
        let values = |gradients: &Gradients| gradients.get("model.embed_tokens.weight").unwrap().to_vec();
        let (one, whole) = (values(&gradients[0]), values(&gradients[1]));
        assert!(one.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
