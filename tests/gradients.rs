//! Every trainable tensor gets a gradient, and the gradient is that of the loss.
use crate::support::device::{device, tolerance};
use candle_core::{Device, Tensor, backprop::GradStore};
use newshound::model::{
    config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
    ops::{Numerics, token_logprobs},
    reward_head::{ListFeatures, RewardHead},
    transformer::Transformer,
    weights::{Parameters, TensorSource},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::BTreeSet;

const N_ROWS: usize = 2;
const N_POSITIONS: usize = 6;

fn config(family: Family, tied_head: bool) -> DecoderConfig {
    let all = Biases { qkv: true, output: true, mlp: true };
    DecoderConfig {
        family,
        hidden_size: 12,
        intermediate_size: 20,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 6,
        vocab_size: 23,
        max_positions: 16,
        rms_norm_eps: 1e-6,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::None,
        tied_head,
        eos_ids: vec![],
        biases: if family == Family::Llama { all } else { Biases::of(family) },
        output_ids: OutputIds::All,
    }
}

/// A decoder with weights large enough that every part of it matters.
fn decoder(config: &DecoderConfig, numerics: Numerics) -> (Parameters, Transformer) {
    let mut parameters = Parameters::fresh(5, &device());
    let model = Transformer::load(config, &mut parameters, numerics).unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    for var in parameters.vars().values() {
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let values: Vec<f32> = values.iter().map(|value| value + rng.random_range(-0.4..0.4)).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &device()).unwrap()).unwrap();
    }
    (parameters, model)
}

fn ids(seed: u64) -> Tensor {
    let mut rng = StdRng::seed_from_u64(seed);
    let ids: Vec<u32> = (0..N_ROWS * N_POSITIONS).map(|_| rng.random_range(0..23)).collect();
    Tensor::from_vec(ids, (N_ROWS, N_POSITIONS), &device()).unwrap()
}

/// Left-padded, right-padded: both kinds of hole are in the loss's way.
fn mask() -> Tensor {
    let mask: [[f32; N_POSITIONS]; N_ROWS] = [[0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]];
    Tensor::new(&mask, &device()).unwrap()
}

fn loss(model: &Transformer) -> Tensor {
    let hidden = model.hidden(&ids(1), Some(&mask())).unwrap();
    model.cross_entropy(&hidden, &ids(2), &mask()).unwrap()
}

/// Two elements of every tensor, and one random direction through all of it, agree with central differences.
fn check_gradients(parameters: &Parameters, gradients: &GradStore, except: &[&str], loss: impl Fn() -> f64) {
    let mut rng = StdRng::seed_from_u64(3);
    for (name, var) in parameters.vars() {
        if except.contains(&name.as_str()) {
            assert!(gradients.get(var).is_none(), "{name} is fixed, but has a gradient");
            continue;
        }
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()), "{name}");
        assert!(gradient.iter().any(|value| *value != 0.0), "{name} has a gradient of zero");
        let n_values = gradient.len();
        let element = |idx: usize| (0..n_values).map(|at| f32::from(u8::from(at == idx))).collect();
        let largest = (0..n_values).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
        let anywhere: Vec<f32> = (0..n_values).map(|_| rng.random_range(-1.0..1.0)).collect();
        let directions: [Vec<f32>; 3] = [element(largest), element(rng.random_range(0..n_values)), anywhere];
        for direction in directions {
            let length = direction.iter().map(|value| value * value).sum::<f32>().sqrt();
            let direction: Vec<f32> = direction.iter().map(|value| value / length).collect();
            let step = 4e-3;
            let moved = |sign: f32| {
                let start = var.as_tensor().copy().unwrap();
                let offset = Tensor::from_vec(direction.clone(), var.shape(), var.device()).unwrap();
                var.set(&(&start + (offset * f64::from(sign * step)).unwrap()).unwrap()).unwrap();
                let value = loss();
                var.set(&start).unwrap();
                value
            };
            let numeric = (moved(1.0) - moved(-1.0)) / f64::from(2.0 * step);
            let exact: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            let tolerance = 2e-2 * exact.abs().max(0.1);
            assert!((numeric - exact).abs() <= tolerance, "{name}: {exact}, by differences {numeric}");
        }
    }
}

#[test]
fn every_tensor_of_every_family_has_the_gradient_of_finite_differences() {
    let asked: BTreeSet<u32> =
        ids(2).flatten_all().unwrap().to_vec1().unwrap().into_iter().chain([0, 22]).collect();
    assert!(asked.len() < 20, "{asked:?}");
    let pruned = OutputIds::Kept(asked.into_iter().collect());
    for (family, output_ids) in [
        (Family::Qwen2, OutputIds::All),
        (Family::Qwen3, OutputIds::All),
        (Family::Llama, OutputIds::All),
        (Family::Qwen2, pruned),
    ] {
        for tied_head in [true, false] {
            let config = DecoderConfig { output_ids: output_ids.clone(), ..config(family, tied_head) };
            let (parameters, model) = decoder(&config, Numerics::Train);
            let gradients = loss(&model).backward().unwrap();
            check_gradients(&parameters, &gradients, &[], || {
                f64::from(loss(&model).to_scalar::<f32>().unwrap())
            });
        }
    }
}

#[test]
fn cross_entropy_of_hidden_states_is_that_of_their_logits() {
    let (parameters, model) = decoder(&config(Family::Qwen2, true), Numerics::Train);
    let hidden = model.hidden(&ids(1), Some(&mask())).unwrap();
    let logprobs = token_logprobs(&model.logits(&hidden).unwrap(), &ids(2), 1.0).unwrap();
    let expected = (logprobs * mask()).unwrap().sum_all().unwrap().neg().unwrap();
    let got = loss(&model);
    let value = |loss: &Tensor| loss.to_scalar::<f32>().unwrap();
    assert!((value(&got) - value(&expected)).abs() < tolerance(1e-4) * value(&expected));
    let (got, expected) = (got.backward().unwrap(), expected.backward().unwrap());
    for (name, var) in parameters.vars() {
        let values = |gradients: &GradStore| {
            gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        for (got, expected) in values(&got).iter().zip(values(&expected)) {
            assert!(
                (got - expected).abs() < tolerance(1e-4) * (1.0 + expected.abs()),
                "{name}: {got}, not {expected}"
            );
        }
    }
}

#[test]
fn a_loss_without_weight_is_zero_and_moves_nothing() {
    let (parameters, model) = decoder(&config(Family::Qwen2, true), Numerics::Train);
    let hidden = model.hidden(&ids(1), None).unwrap();
    let loss = model.cross_entropy(&hidden, &ids(2), &mask().zeros_like().unwrap()).unwrap();
    assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
    let gradients = loss.backward().unwrap();
    for gradient in parameters.vars().values().filter_map(|var| gradients.get(var)) {
        assert_eq!(gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }
}

#[test]
fn a_network_for_serving_has_no_gradient_but_sees_new_values() {
    let config = config(Family::Qwen2, true);
    let (mut parameters, _) = decoder(&config, Numerics::Train);
    let serving = Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap();
    let before = loss(&serving);
    let gradients = before.backward().unwrap();
    assert!(parameters.vars().values().all(|var| gradients.get(var).is_none()));
    let norm = &parameters.vars()["model.norm.weight"];
    norm.set(&(norm.as_tensor() * 2.0).unwrap()).unwrap();
    assert_ne!(before.to_scalar::<f32>().unwrap(), loss(&serving).to_scalar::<f32>().unwrap());
}

#[test]
fn the_reward_head_has_the_gradient_of_finite_differences() {
    let mut parameters = Parameters::fresh(5, &Device::Cpu);
    let head = RewardHead::load(&mut parameters, 3, false).unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    for (name, var) in parameters.vars().iter().filter(|(name, _)| !name.contains("input")) {
        let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(-0.5..0.5)).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
        assert!(parameters.contains(name));
    }
    let lists: Vec<ListFeatures> = (1..4_u8)
        .map(|n_queries| ListFeatures {
            query_hidden: (0..n_queries)
                .map(|_| (0..3).map(|_| rng.random_range(-1.0..1.0)).collect())
                .collect(),
            query_logprob: (0..n_queries).map(|_| rng.random_range(-2.0..0.0)).collect(),
            mean_logprob: -0.7,
            consensus: None,
            affinity: None,
        })
        .collect();
    // The list part takes the scores of queries as they are: through them no gradient flows.
    let list_inputs = head.list_inputs(&lists, &head.score_queries(&lists).unwrap()).unwrap();
    let loss = || {
        let of_lists = head.forward_lists(&list_inputs).unwrap();
        let of_queries = head.forward_queries(&head.query_inputs(&lists).unwrap()).unwrap();
        (of_lists.sin().unwrap().sum_all().unwrap() + of_queries.sin().unwrap().sum_all().unwrap()).unwrap()
    };
    let gradients = loss().backward().unwrap();
    let fixed = ["foresight", "list.input_mean", "list.input_scale", "query.input_mean", "query.input_scale"];
    check_gradients(&parameters, &gradients, &fixed, || f64::from(loss().to_scalar::<f32>().unwrap()));
}
