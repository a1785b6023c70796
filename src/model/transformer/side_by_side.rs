//! Steps of rows. Of a small network every thread takes some of the rows through all layers by itself: where threads share each product,
//! what lies between products one thread does alone while the others wait.
use super::{Forks, ModelError, Step, Transformer, Weight, awake};
use candle_core::Tensor;
use std::cmp::Reverse;

/// Bytes of a pass's weights, so that they stay in a cache which all cores share: larger ones come from memory, and then once for all
/// threads is better.
const WEIGHT_BYTES_MAX: usize = 16 << 20;
/// Rows for each thread, at least: kernels compute several rows at a time. With fewer, all threads share what there is.
const ROWS_MIN: usize = 12;

impl Transformer {
    /// Hidden states (R, D) of one token for every row of every group, in group order, then row order. No group moves.
    pub(super) fn stepped(
        &self,
        groups: &mut [&mut Forks],
        ids: &[u32],
    ) -> std::result::Result<Tensor, ModelError> {
        let is_small = self.device().is_cpu() && self.weight_bytes() <= WEIGHT_BYTES_MAX;
        if !is_small || n_rows(groups) != ids.len() {
            return self.stepped_together(groups, ids);
        }
        awake(|| self.stepped_by(rayon::current_num_threads(), groups, ids))
    }

    fn stepped_by(
        &self,
        n_threads: usize,
        groups: &mut [&mut Forks],
        ids: &[u32],
    ) -> std::result::Result<Tensor, ModelError> {
        let Some((n_groups, n_first)) = cut(groups, n_threads) else {
            return self.stepped_together(groups, ids);
        };
        let (groups, others) = groups.split_at_mut(n_groups);
        let (ids, of_others) = ids.split_at(n_first);
        let n_of_others = n_threads / 2;
        let (hidden, other) = rayon::join(
            || self.stepped_by(n_threads - n_of_others, groups, ids),
            || self.stepped_by(n_of_others, others, of_others),
        );
        Ok(Tensor::cat(&[hidden?, other?], 0)?)
    }

    fn stepped_together(
        &self,
        groups: &mut [&mut Forks],
        ids: &[u32],
    ) -> std::result::Result<Tensor, ModelError> {
        let rotation = self.step_rotation(groups, ids, &[])?;
        let tensor = Tensor::from_slice(ids, (ids.len(), 1), self.device())?;
        // A step has a row for each, of one position.
        let rotation = rotation.of_rows()?;
        let hidden = self.run(&tensor, &rotation, &mut Step { groups }, 1)?.detach();
        Ok(hidden.squeeze(1)?)
    }

    fn weight_bytes(&self) -> usize {
        let config = &self.config;
        let (query, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let of_layer = config.hidden_size * (2 * query + 2 * kv + 3 * config.intermediate_size);
        let of_one = match &self.embedding {
            Weight::Int8(_) => size_of::<i8>(),
            weight @ (Weight::Plain(_) | Weight::Packed(_)) => weight.dtype().size_in_bytes(),
        };
        config.n_layers * of_layer * of_one
    }
}

fn n_rows(groups: &[&mut Forks]) -> usize {
    groups.iter().map(|group| group.n_rows()).sum()
}

/// Between which groups rows are cut so that the first half of the threads has its share, or nearly: the groups before and their rows. None
/// where a side would have fewer than `ROWS_MIN` for each of its threads.
fn cut(groups: &[&mut Forks], n_threads: usize) -> Option<(usize, usize)> {
    let (all, n_of_others) = (n_rows(groups), n_threads / 2);
    let share = all * (n_threads - n_of_others) / n_threads.max(1);
    let ends = groups.iter().scan(0, |end, group| {
        *end += group.n_rows();
        Some(*end)
    });
    let nearest = (1..).zip(ends).min_by_key(|&(n_groups, end)| (end.abs_diff(share), Reverse(n_groups)));
    nearest.filter(|&(_, end)| {
        n_threads > 1 && end >= (n_threads - n_of_others) * ROWS_MIN && all - end >= n_of_others * ROWS_MIN
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{config::DecoderConfig, ops::Numerics, weights::Parameters};
    use candle_core::Device;
    use std::sync::Arc;

    const CONFIG: &[u8] = br#"{"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 32, "vocab_size": 40, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "eos_token_id": 2}"#;

    #[test]
    fn rows_are_cut_between_groups_near_each_half_of_the_threads() {
        let config = DecoderConfig::parse(CONFIG, "config.json").unwrap();
        let mut parameters = Parameters::fresh(1, &Device::Cpu);
        let model = Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap();
        let prefix = Arc::new(model.prefill(&[1, 3]).unwrap().0);
        for (rows, n_threads, expected) in [
            (&[16, 16][..], 2, Some((1, 16))),
            (&[15, 16], 2, Some((1, 15))),
            (&[16, 15], 2, Some((1, 16))),
            (&[12, 20], 2, Some((1, 12))),
            (&[0, 12, 0, 12, 0], 2, Some((3, 12))),
            (&[8, 8, 8, 8, 8], 2, Some((3, 24))),
            (&[8; 9], 3, Some((6, 48))),
            (&[8; 6], 4, Some((3, 24))),
            (&[8; 5], 4, None),
            (&[11, 20], 2, None),
            (&[40], 2, None),
            (&[40, 40], 1, None),
            (&[], 2, None),
        ] {
            let mut groups: Vec<Forks> = rows.iter().map(|&n| Forks::new(Arc::clone(&prefix), n)).collect();
            let groups: Vec<&mut Forks> = groups.iter_mut().collect();
            assert_eq!(cut(&groups, n_threads), expected, "{rows:?}");
        }
    }
}
