//! Goldens: losses. Advantages, policy losses and distillation losses, with their gradients, on fixed logits.
mod advantages;
mod distillation;
mod policy;

use crate::support::goldens;
use candle_core::{DType, Device, Tensor, Var};
use newshound::train::losses::unprojected::Unprojected;
use serde_json::Value;

/// Every file of `losses/`, and what checks it.
const FILES: [&str; 3] = ["distillation.json", "group_advantages.json", "policy_loss.json"];

#[test]
fn golden_losses_are_all_of_a_file_that_is_checked() {
    let there = goldens::entries(&goldens::root().join("losses"));
    let names: Vec<&str> = there.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, FILES, "a file that nothing checks, or none for a check");
}

/// Cases of a file of `losses/`; each file must hold some.
fn cases(file: &str) -> Vec<Value> {
    let golden = goldens::json(&goldens::root().join("losses").join(file));
    let cases = golden["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty(), "{file} holds no case");
    cases
}

fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap()
}

/// README: absolute or relative 1e-5.
fn assert_number(got: f64, expected: &Value, what: &str) {
    let expected = f64::from(goldens::f32_of(expected));
    assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{what}: {got}, expected {expected}");
}

/// README: absolute 1e-6 + relative 1e-4.
fn assert_gradient(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        let tolerance = 1e-6 + 1e-4 * expected.abs();
        assert!((got - expected).abs() <= tolerance, "{what}[{idx}]: {got}, expected {expected}");
    }
}

/// Every number of a nested array, in order.
fn flat(value: &Value) -> Vec<f32> {
    leaves(value).into_iter().map(goldens::f32_of).collect()
}

fn leaves(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

/// Which of the padded (B, T) positions hold a sampled token.
struct Positions {
    real: Vec<usize>,
    row_lengths: Vec<usize>,
    n_padded: usize,
}

impl Positions {
    fn of(case: &Value) -> Self {
        let mask = flat(&case["mask"]);
        let real = (0..mask.len()).filter(|&idx| mask[idx] != 0.0).collect();
        let rows = case["mask"].as_array().unwrap();
        let length = |row: &Value| flat(row).iter().filter(|&&flag| flag != 0.0).count();
        Self { real, row_lengths: rows.iter().map(length).collect(), n_padded: mask.len() }
    }

    /// Keeps what belongs to sampled tokens, `width` values each.
    fn keep<T: Copy>(&self, values: &[T], width: usize) -> Vec<T> {
        assert_eq!(values.len(), self.n_padded * width);
        self.real.iter().flat_map(|&idx| &values[idx * width..(idx + 1) * width]).copied().collect()
    }

    /// Values of sampled tokens (n) of a padded array (B, T).
    fn values(&self, value: &Value) -> Vec<f32> {
        self.keep(&flat(value), 1)
    }

    /// Ids of sampled tokens, `width` each, of a padded array.
    fn ids(&self, value: &Value, width: usize) -> Vec<u32> {
        let id = |leaf: &Value| u32::try_from(leaf.as_u64().unwrap()).unwrap();
        self.keep(&leaves(value).into_iter().map(id).collect::<Vec<_>>(), width)
    }

    /// Logits of sampled tokens (n, V) as a variable.
    fn logits(&self, value: &Value) -> Var {
        let padded = flat(value);
        let width = padded.len() / self.n_padded;
        let logits = self.keep(&padded, width);
        Var::from_vec(logits, (self.real.len(), width), &Device::Cpu).unwrap()
    }

    /// A padded gradient, whose padding must be 0, as that of sampled tokens.
    fn gradient(&self, value: &Value) -> Vec<f32> {
        let padded = flat(value);
        let kept = self.keep(&padded, padded.len() / self.n_padded);
        let sum = |values: &[f32]| values.iter().map(|value| value.abs()).sum::<f32>();
        assert!((sum(&padded) - sum(&kept)).abs() <= 1e-5, "padding has a gradient");
        kept
    }
}

/// Logits as hidden states behind a head that changes nothing: their gradient is that of the hidden states.
struct Identity {
    head: Tensor,
}

impl Identity {
    fn of(logits: &Var) -> Self {
        Self { head: Tensor::eye(logits.dim(1).unwrap(), DType::F32, &Device::Cpu).unwrap() }
    }

    fn unprojected<'a>(&'a self, logits: &'a Var) -> Unprojected<'a> {
        Unprojected { hidden: logits, head: &self.head }
    }
}

fn gradient(loss: &Tensor, of: &Var) -> Vec<f32> {
    loss.backward().unwrap().get(of).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
