//! Low-rank adapters: a frozen matrix W learns W + alpha / rank · B A, and A and B alone are trained.
//!
//! Source: LoRA, arXiv 2106.09685; names and scale as PEFT has them.
use super::fused;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// The matrices that are adapted: those of attention and of the feed-forward block. Embeddings, norms and biases stay as they are.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// How a network is adapted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// Rank of every adapter.
    pub rank: usize,
    /// Adapters count alpha / rank.
    pub alpha: f64,
    /// Seed of fresh adapters.
    pub seed: u64,
}

/// The adapter of one matrix.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// A (rank, in).
    pub down: Tensor,
    /// B (out, rank).
    pub up: Tensor,
    /// What their product counts.
    pub scale: f64,
}

impl Lora {
    /// Whether a linear layer of that name has an adapter.
    #[must_use]
    pub fn adapts(&self, layer: &str) -> bool {
        layer.rsplit('.').next().is_some_and(|name| TARGETS.contains(&name))
    }

    /// What the product of an adapter counts.
    #[must_use]
    pub fn scale(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "ranks are small")]
        let rank = self.rank.max(1) as f64;
        self.alpha / rank
    }
}

impl Adapter {
    /// Adds what the adapter says of rows (n, in) to what the matrix said of them (n, out).
    ///
    /// # Errors
    /// If shapes differ.
    pub(super) fn add_to(&self, output: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let adapted = rows.matmul(&self.down.t()?)?.matmul(&self.up.t()?)?;
        output + (adapted * self.scale)?
    }

    /// The matrix (out, in) that does alone what the given one does with the adapter.
    ///
    /// # Errors
    /// If shapes differ.
    pub fn merged(&self, weight: &Tensor) -> Result<Tensor> {
        weight + (self.up.matmul(&self.down)? * self.scale)?
    }
}

/// Rows (n, in) times a frozen matrix (out, in): (n, out), differentiable in the rows alone.
///
/// The library computes and keeps a gradient of both sides of a product, and the one of the matrix is as large as the matrix: what
/// adapters save would be lost. On the CPU alone: on a GPU the library's own product is used, and frozen matrices still get gradients.
///
/// # Errors
/// If shapes differ.
pub(super) fn frozen_product(rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let output = rows.detach().matmul(&weight.t()?)?;
    rows.apply_op1(FrozenProduct { output, weight: weight.clone() })
}

struct FrozenProduct {
    output: Tensor,
    weight: Tensor,
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = fused::with_values(&self.output, |values| Ok(values.to_vec()))?;
        Ok((CpuStorage::F32(values), self.output.shape().clone()))
    }

    fn bwd(&self, _rows: &Tensor, _result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.matmul(&self.weight).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fused::testing::{check, random};
    use super::*;

    #[test]
    fn a_frozen_product_has_the_values_and_the_gradient_of_a_product() {
        let (rows, weight) = (random(&[7, 5], 1), random(&[3, 5], 2));
        let frozen = weight.detach();
        check(&[&rows], || frozen_product(&rows, &frozen), || rows.matmul(&weight.t()?));
        let loss = frozen_product(&rows, &frozen).unwrap().sum_all().unwrap();
        assert!(loss.backward().unwrap().get(&weight).is_none());
    }

    #[test]
    fn only_the_seven_projections_are_adapted() {
        let lora = Lora { rank: 4, alpha: 8.0, seed: 0 };
        assert!(lora.adapts("model.layers.0.self_attn.q_proj") && lora.adapts("layers.3.mlp.down_proj"));
        assert!(!lora.adapts("lm_head") && !lora.adapts("model.layers.0.input_layernorm"));
        assert_eq!(lora.scale(), 2.0);
    }
}
