//! One network, computed in different ways, gives the same numbers.
use crate::support::device::{self, device};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2, qwen3};
use newshound::model::{
    config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
    kv_cache::Forks,
    ops::Numerics,
    precision::Precision,
    transformer::{Packed, Transformer},
    weights::Parameters,
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

const FAMILIES: [Family; 3] = [Family::Qwen2, Family::Qwen3, Family::Llama];

fn config(family: Family) -> DecoderConfig {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 64,
    };
    DecoderConfig {
        family,
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        vocab_size: 61,
        max_positions: 512,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: if family == Family::Llama { llama3 } else { RopeScaling::None },
        tied_head: false,
        eos_ids: vec![2],
        biases: Biases::of(family),
        output_ids: OutputIds::All,
    }
}

/// The same weights in both numerics; large enough for attention to be far from uniform.
fn decoders(family: Family) -> (Parameters, Transformer, Transformer) {
    let config = config(family);
    let mut parameters = Parameters::fresh(13, &device());
    let train = Transformer::load(&config, &mut parameters, Numerics::Train).unwrap();
    for (name, var) in parameters.vars() {
        let scaled = match name {
            norm if norm.contains("norm") => (var.as_tensor() * 1.25).unwrap(),
            bias if bias.ends_with("bias") => biases(var.dims()),
            _ => (var.as_tensor() * 15.0).unwrap(),
        };
        var.set(&scaled).unwrap();
    }
    // A GPU serves from a copy of some weights.
    let serve = Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap();
    (parameters, serve, train)
}

/// Biases start at zero, which would hide them; these are fixed and not zero.
fn biases(shape: &[usize]) -> Tensor {
    let n_values = u16::try_from(shape.iter().product::<usize>()).unwrap();
    let values: Vec<f32> = (0..n_values).map(|idx| (f32::from(idx) * 1.7).sin() * 0.3).collect();
    Tensor::from_vec(values, shape, &device()).unwrap()
}

fn row(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|idx| u32::try_from((idx * idx * 7 + idx * 3 + seed * 11) % 61).unwrap()).collect()
}

fn logits(model: &Transformer, ids: &[u32]) -> Tensor {
    let ids = Tensor::new(ids, &device()).unwrap().unsqueeze(0).unwrap();
    model.logits(&model.hidden(&ids, None).unwrap()).unwrap().squeeze(0).unwrap()
}

#[track_caller]
fn assert_same(got: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let on_cpu = |tensor: &Tensor| tensor.to_device(&Device::Cpu).unwrap();
    let difference =
        (on_cpu(got) - on_cpu(expected)).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let difference = difference.to_scalar::<f32>().unwrap();
    assert!(difference <= device::tolerance(tolerance), "{what}: differ by {difference}");
}

#[test]
fn serving_and_training_numerics_agree() {
    for family in FAMILIES {
        let (_, serve, train) = decoders(family);
        // 300 positions cross the block border of serving attention.
        for length in [1, 2, 40, 300] {
            let ids = row(length, 1);
            assert_same(&logits(&serve, &ids), &logits(&train, &ids), 1e-4, &format!("{family:?} {length}"));
        }
    }
}

#[test]
fn padding_changes_nothing_for_real_tokens() {
    for family in FAMILIES {
        let (_, serve, train) = decoders(family);
        let (short, long) = (row(7, 2), row(300, 3));
        for model in [&serve, &train] {
            for left in [true, false] {
                let padding = vec![0_u32; 293];
                let (padded, start) = match left {
                    true => ([padding, short.clone()].concat(), 293),
                    false => ([short.clone(), padding].concat(), 0),
                };
                let mask: Vec<u32> = (0..300).map(|at| u32::from(at >= start && at < start + 7)).collect();
                let ids = Tensor::new(vec![padded, long.clone()], &device()).unwrap();
                let mask = Tensor::new(vec![mask, vec![1; 300]], &device()).unwrap();
                let both = model.logits(&model.hidden(&ids, Some(&mask)).unwrap()).unwrap();
                let what = format!("{family:?}, left {left}");
                let of_short = both.get(0).unwrap().narrow(0, start, 7).unwrap();
                assert_same(&of_short, &logits(model, &short), 1e-4, &what);
                assert_same(&both.get(1).unwrap(), &logits(model, &long), 1e-4, &what);
            }
        }
    }
}

/// What sequences have in common is computed once, and each of them is what it is alone; gradients of that are checked where they are
/// computed (`fused/attention.rs`).
#[test]
fn packed_sequences_agree_with_rows_of_their_own() {
    for family in FAMILIES {
        let (_, serve, train) = decoders(family);
        let (long, short) = (row(290, 2), row(1, 4));
        let (tails, alone) = ([row(9, 3), row(20, 5)], row(12, 6));
        for model in [&serve, &train] {
            let mut packed = Packed::default();
            let of_long = packed.begin(&long);
            let mut places = vec![(long.clone(), of_long.places())];
            for tail in &tails {
                places.push(([&long[..], tail].concat(), packed.behind(&of_long, tail)));
            }
            places.push((alone.clone(), packed.begin(&alone).places()));
            let of_short = packed.begin(&short);
            assert!(packed.behind(&of_short, &[]).is_empty());
            places.push(([&short[..], &tails[0]].concat(), packed.behind(&of_short, &tails[0])));
            let got = model.logits(&model.hidden_of(&packed).unwrap()).unwrap().squeeze(0).unwrap();
            for (ids, own) in places {
                let expected = logits(model, &ids).narrow(0, ids.len() - own.len(), own.len()).unwrap();
                let got = got.narrow(0, own.start, own.len()).unwrap();
                assert_same(&got, &expected, 1e-4, &format!("{family:?}, {} ids", ids.len()));
            }
        }
        assert!(train.hidden_of(&Packed::default()).is_err());
    }
}

/// Steps two groups of different prompts together past the first growth of their tails, dropping rows on the way,
/// and compares every hidden state with that of the whole row computed at once.
#[test]
fn cached_steps_agree_with_whole_rows() {
    for family in FAMILIES {
        let (mut parameters, serve, _) = decoders(family);
        cached_steps_agree(&serve, |got, expected, what| assert_same(got, expected, 1e-4, what), 4);
        if device().is_cpu() {
            let rounded = Precision::Int8.load(&config(family), &mut parameters, &device()).unwrap();
            cached_steps_agree(&rounded, assert_near, 2);
        }
    }
}

/// Whole rows have keys and values as they are, steps in 8 bits have them in bf16; weights that are this large make much of that. What
/// lay at another place would differ by more than its own size.
#[track_caller]
fn assert_near(got: &Tensor, expected: &Tensor, what: &str) {
    let size = |tensor: Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let share = size((got - expected).unwrap()) / size(expected.clone());
    assert!(share < 0.3, "{what}: differ by {share} of their size");
}

/// `n_bytes`: those of a number of keys and values.
fn cached_steps_agree(serve: &Transformer, agree: impl Fn(&Tensor, &Tensor, &str), n_bytes: usize) {
    let prompts = [row(5, 1), row(290, 2)];
    let mut rows = vec![vec![prompts[0].clone(); 3], vec![prompts[1].clone(); 2]];
    let mut groups: Vec<Forks> = Vec::new();
    for (prompt, rows) in prompts.iter().zip(&rows) {
        let (prefix, hidden) = serve.prefill(prompt).unwrap();
        let last = logits(serve, prompt).narrow(0, prompt.len() - 1, 1).unwrap();
        agree(&serve.logits(&hidden).unwrap(), &last, "prefill");
        assert_eq!(prefix.n_positions(), prompt.len());
        // Layers, key and value, positions, heads of eight numbers, each filled up to whole registers where that is faster.
        assert!(prefix.n_bytes() >= 3 * 2 * prompt.len() * 2 * 8 * n_bytes);
        groups.push(Forks::new(Arc::new(prefix), rows.len()));
    }
    for step in 0..70_usize {
        if step == 20 {
            groups[0].drop_row(1).unwrap();
            rows[0].remove(1);
        }
        if step == 50 {
            groups[1].drop_row(1).unwrap();
            rows[1].remove(1);
        }
        let mut ids = Vec::new();
        for (row_idx, row) in rows.iter_mut().flatten().enumerate() {
            ids.push(u32::try_from((step * 13 + row_idx * 29 + row.len()) % 61).unwrap());
            row.push(ids[row_idx]);
        }
        let mut borrowed: Vec<&mut Forks> = groups.iter_mut().collect();
        let stepped = serve.step(&mut borrowed, &ids).unwrap();
        if ![0, 19, 20, 31, 32, 33, 50, 69].contains(&step) {
            continue;
        }
        for (row_idx, row) in rows.iter().flatten().enumerate() {
            let whole = logits(serve, row).narrow(0, row.len() - 1, 1).unwrap();
            let cached = serve.logits(&stepped.narrow(0, row_idx, 1).unwrap()).unwrap();
            agree(&cached, &whole, &format!("{:?} step {step} row {row_idx}", serve.config().family));
        }
    }
}

#[test]
fn a_prompt_behind_known_positions_agrees_with_the_whole_prompt() {
    for family in FAMILIES {
        let (mut parameters, serve, _) = decoders(family);
        let rounded = device().is_cpu().then(|| {
            let rounded = Precision::Int8.load(&config(family), &mut parameters, &device()).unwrap();
            // Held in pairs, of which one position may be known and the other not; sums have one order.
            (rounded, 0.0)
        });
        for (serve, tolerance) in [Some((serve, 1e-4)), rounded].into_iter().flatten() {
            known_positions_agree(&serve, tolerance, family);
        }
    }
}

fn known_positions_agree(serve: &Transformer, tolerance: f32, family: Family) {
    let prompt = row(300, 2);
    let (whole, hidden) = serve.prefill(&prompt).unwrap();
    let mut whole = Forks::new(Arc::new(whole), 2);
    let after_whole = serve.step(&mut [&mut whole], &[7, 8]).unwrap();
    for n_known in [1, 31, 32, 33, 160, 299] {
        // Known from another prompt that goes on differently.
        let other = [&prompt[..n_known], &row(40, 5)].concat();
        let (other, _) = serve.prefill(&other).unwrap();
        let (prefix, last) = serve.prefill_after(&other, n_known, &prompt).unwrap();
        let what = format!("{family:?}, {n_known} known");
        assert_eq!(prefix.n_positions(), 300);
        assert_same(&last, &hidden, tolerance, &what);
        let mut forks = Forks::new(Arc::new(prefix), 2);
        assert_same(&serve.step(&mut [&mut forks], &[7, 8]).unwrap(), &after_whole, tolerance, &what);
    }
    let (known, _) = serve.prefill(&prompt[..10]).unwrap();
    assert!(serve.prefill_after(&known, 11, &prompt).is_err());
    assert!(serve.prefill_after(&known, 10, &prompt[..10]).is_err());
    assert!(known.first(0).is_err() && known.first(11).is_err());
}

#[test]
fn a_step_that_does_not_fit_is_refused_and_can_be_tried_again() {
    let (_, serve, _) = decoders(Family::Qwen2);
    let (prefix, _) = serve.prefill(&row(511, 1)).unwrap();
    let mut forks = Forks::new(Arc::new(prefix), 2);
    assert!(serve.step(&mut [&mut forks], &[1]).is_err());
    assert!(serve.step(&mut [&mut forks], &[1, 61]).is_err());
    assert!(serve.step(&mut [], &[]).is_err());
    assert!(forks.drop_row(2).is_err());
    assert!(serve.step(&mut [&mut forks], &[1, 60]).is_ok());
    // Position 512 is the model's last; there is no 513th.
    assert!(serve.step(&mut [&mut forks], &[1, 60]).is_err());
    assert!(serve.prefill(&[]).is_err());
    assert!(serve.prefill(&[61]).is_err());
    assert!(serve.prefill(&row(512, 1)).is_ok());
    assert!(serve.prefill(&row(513, 1)).is_err());
}

#[test]
fn a_group_without_rows_takes_part_in_a_step() {
    let (_, serve, _) = decoders(Family::Qwen2);
    let prefix = Arc::new(serve.prefill(&row(4, 1)).unwrap().0);
    let (mut empty, mut full) = (Forks::new(Arc::clone(&prefix), 1), Forks::new(prefix, 1));
    empty.drop_row(0).unwrap();
    assert_eq!((empty.n_rows(), empty.n_bytes()), (0, 0));
    let hidden = serve.step(&mut [&mut empty, &mut full], &[9]).unwrap();
    assert_eq!(hidden.dims(), [1, 32]);
}

fn published(config: &DecoderConfig) -> Value {
    let mut json: Value = serde_json::from_str(&config.to_json()).unwrap();
    json["sliding_window"] = json!(512);
    json["max_window_layers"] = json!(0);
    json["attention_bias"] = json!(config.biases.qkv);
    json
}

/// The oracle computes on the CPU, whatever we compute on.
fn oracle_weights(parameters: &Parameters) -> VarBuilder<'static> {
    let copy = |var: &Var| var.as_tensor().copy().unwrap().to_device(&Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> =
        parameters.vars().iter().map(|(name, var)| (name.clone(), copy(var))).collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

#[test]
fn last_logits_agree_with_an_independent_implementation() {
    let ids = row(40, 5);
    let tensor = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    for family in FAMILIES {
        let (parameters, serve, _) = decoders(family);
        let (weights, json) = (oracle_weights(&parameters), published(&config(family)));
        let oracle = match family {
            Family::Qwen2 => {
                let config: qwen2::Config = serde_json::from_value(json).unwrap();
                qwen2::ModelForCausalLM::new(&config, weights).unwrap().forward(&tensor, 0)
            }
            Family::Qwen3 => {
                let config: qwen3::Config = serde_json::from_value(json).unwrap();
                qwen3::ModelForCausalLM::new(&config, weights).unwrap().forward(&tensor, 0)
            }
            Family::Llama => {
                let config: llama::LlamaConfig = serde_json::from_value(json).unwrap();
                let config = config.into_config(false);
                let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
                llama::Llama::load(weights, &config).unwrap().forward(&tensor, 0, &mut cache)
            }
        };
        let oracle = oracle.unwrap().flatten_all().unwrap();
        let ours = logits(&serve, &ids).get(39).unwrap();
        assert_same(&ours, &oracle, 2e-4, &format!("{family:?}"));
    }
}
