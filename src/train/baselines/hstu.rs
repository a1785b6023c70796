//! HSTU: pointwise gated attention over clicks, the strongest baseline of the paper.
//!
//! Source: Zhai et al., "Actions Speak Louder than Words", ICML 2024, arXiv 2402.17152. U, V, Q, K = SiLU(X W); A = SiLU(Q K^T + bias) / 50 over
//! what came before; Y = (norm(A V) * U) W'. Departs from it: the divisor is the longest history, not each one's length; the relative bias knows positions and no times; the loss is the cross-entropy
//! over all articles.
use super::{
    CLICKS_MAX, SequenceModel, WIDTH,
    parts::{LayerNorm, Linear, causal_mask, heads, joined, normalised},
};
use crate::model::weights::{ModelError, TensorSource};
use candle_core::{Result, Tensor};

const N_BLOCKS: usize = 2;
const N_HEADS: usize = 2;

/// The network.
#[derive(Debug)]
pub struct Hstu {
    blocks: Vec<Block>,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Block {
    norm: LayerNorm,
    gated: Linear,
    output: Linear,
    /// (CLICKS_MAX, 1): by how many clicks ago.
    distances: Tensor,
}

impl SequenceModel for Hstu {
    const NAME: &'static str = "HSTU";
    const WORD: &'static str = "hstu";

    fn load(_articles: &Tensor, source: &mut dyn TensorSource) -> std::result::Result<Self, ModelError> {
        let blocks =
            (0..N_BLOCKS).map(|idx| Block::load(idx, source)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { blocks, norm: LayerNorm::load("norm", WIDTH, source)? })
    }

    fn hidden(&self, clicks: &Tensor) -> Result<Tensor> {
        let mask = causal_mask(clicks.dim(1)?, clicks.device())?;
        let mut hidden = clicks.clone();
        for block in &self.blocks {
            hidden = block.forward(&hidden, &mask)?;
        }
        self.norm.forward(&hidden)
    }
}

impl Block {
    fn load(idx: usize, source: &mut dyn TensorSource) -> std::result::Result<Self, ModelError> {
        let name = |part: &str| format!("blocks.{idx}.{part}");
        Ok(Self {
            norm: LayerNorm::load(&name("norm"), WIDTH, source)?,
            gated: Linear::load(&name("gated"), (WIDTH, 4 * WIDTH), source)?,
            output: Linear::load(&name("output"), (WIDTH, WIDTH), source)?,
            distances: source.tensor(&name("distances.weight"), &[CLICKS_MAX, 1])?,
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "at most fifty clicks")]
    fn forward(&self, hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let n = hidden.dim(1)?;
        let projected = self.gated.forward(&self.norm.forward(hidden)?)?.silu()?;
        let part = |idx: usize| projected.narrow(2, idx * WIDTH, WIDTH);
        let (gate, value) = (part(0)?, heads(&part(1)?, N_HEADS)?);
        let (query, key) = (heads(&part(2)?, N_HEADS)?, heads(&part(3)?, N_HEADS)?);
        let scores = query.matmul(&key.t()?)?.broadcast_add(&self.bias(n)?)?;
        let weights = (scores.silu()?.broadcast_mul(mask)? / CLICKS_MAX as f64)?;
        let attended = normalised(&joined(&weights.matmul(&value)?)?)?;
        hidden + self.output.forward(&(attended * gate)?)?
    }

    /// (T, T): the bias of each pair by its distance; later positions get that of distance 0, and are masked.
    fn bias(&self, n: usize) -> Result<Tensor> {
        let distance = |at: usize| u32::try_from((at / n).saturating_sub(at % n)).unwrap_or(0);
        let distances = Tensor::from_iter((0..n * n).map(distance), self.distances.device())?;
        self.distances.index_select(&distances, 0)?.reshape((n, n))
    }
}
