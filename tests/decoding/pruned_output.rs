//! A pruned output vocabulary: the tokens that are left share what the whole head gives them.
use super::{SAMPLED, STOP, VOCAB, drain, model, request};
use crate::support::device::{device, tolerance};
use candle_core::{Device, Tensor};
use newshound::{
    decode::{
        batch::{Batch, FinishedRow, GroupRequest},
        sampler::SamplerSettings,
    },
    model::{
        config::{DecoderConfig, OutputIds},
        kv_cache::Forks,
        precision::Precision,
        transformer::Transformer,
        weights::Parameters,
    },
};
use std::sync::Arc;

const CONSTRAINED: SamplerSettings = SamplerSettings { constrained: true, ..SAMPLED };

/// Calls with every form of serving and both kinds of heads.
fn for_each_head(check: impl Fn(&dyn Fn(OutputIds) -> Arc<Transformer>)) {
    let rounded: &[Precision] = if device().is_cpu() { &[Precision::Int8] } else { &[] };
    for precision in [Precision::F32].iter().chain(rounded) {
        for tied_head in [true, false] {
            check(&|output_ids| {
                let config = DecoderConfig { tied_head, output_ids, ..model().config().clone() };
                let network = precision.load(&config, &mut Parameters::fresh(7, &device()), &device());
                Arc::new(network.unwrap())
            });
        }
    }
}

fn rows(model: &Arc<Transformer>, sampler: SamplerSettings) -> Vec<FinishedRow> {
    let mut batch = Batch::new(Arc::clone(model));
    let boundary_ids = (0..VOCAB).step_by(6).collect();
    batch.admit(GroupRequest { sampler, boundary_ids, max_new_tokens: 40, ..request(4, 9, 12) }).unwrap();
    drain(&mut batch).into_values().collect()
}

#[test]
fn a_full_map_changes_no_bit() {
    for_each_head(|network| {
        let (all, full) = (network(OutputIds::All), network(OutputIds::Kept((0..VOCAB).collect())));
        for sampler in [SAMPLED, CONSTRAINED, SamplerSettings::GREEDY] {
            assert_eq!(rows(&full, sampler), rows(&all, sampler), "{sampler:?}");
        }
    });
}

#[test]
fn what_is_written_has_its_share_of_the_kept_logits_of_the_whole_head() {
    let kept: Arc<[u32]> = (0..=STOP).step_by(3).collect();
    for_each_head(|network| {
        let (whole, pruned) = (network(OutputIds::All), network(OutputIds::Kept(Arc::clone(&kept))));
        let mut n_tokens = 0;
        for sampler in [SAMPLED, CONSTRAINED] {
            for row in rows(&pruned, sampler) {
                // As the batch goes, since sums in 8 bits depend on the way.
                let (prompt, mut hidden) = whole.prefill(&request(4, 9, 12).prompt).unwrap();
                let mut forks = Forks::new(Arc::new(prompt), 1);
                for (id, logprob) in row.ids.iter().zip(&row.logprobs) {
                    let logits = whole.logits(&hidden).unwrap().to_device(&Device::Cpu).unwrap();
                    let columns = Tensor::new(&*kept, &Device::Cpu).unwrap();
                    let logits = logits.index_select(&columns, 1).unwrap();
                    let logprobs = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
                    let expected = logprobs[0][kept.binary_search(id).expect("only kept tokens are written")];
                    assert!((logprob - expected).abs() < tolerance(1e-4), "{logprob}, expected {expected}");
                    n_tokens += 1;
                    hidden = whole.step(&mut [&mut forks], &[*id]).unwrap();
                }
            }
        }
        assert!(n_tokens > 200, "{n_tokens} tokens are too few to tell");
    });
}
