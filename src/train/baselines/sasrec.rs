//! SASRec: causal self-attention over clicks.
//!
//! Source: Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781. Departs from it: the loss is the
//! cross-entropy over all articles, not over one negative sample (better, see arXiv 2308.07192); norms stand before their blocks; no dropout.
use super::{
    CLICKS_MAX, SequenceModel, WIDTH,
    parts::{LayerNorm, Linear, causal_bias, heads, joined},
};
use crate::model::{
    ops::{Numerics, softmax},
    weights::{ModelError, TensorSource},
};
use candle_core::{Result, Tensor};

/// Blocks; the source's two.
const N_BLOCKS: usize = 2;
const N_HEADS: usize = 2;

/// The network.
#[derive(Debug)]
pub struct SasRec {
    /// (CLICKS_MAX, D)
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Block {
    attention_norm: LayerNorm,
    query_key_value: Linear,
    output: Linear,
    norm: LayerNorm,
    inner: Linear,
    outer: Linear,
}

impl SequenceModel for SasRec {
    const NAME: &'static str = "SASRec";
    const WORD: &'static str = "sasrec";

    fn load(_articles: &Tensor, source: &mut dyn TensorSource) -> std::result::Result<Self, ModelError> {
        let positions = source.tensor("positions.weight", &[CLICKS_MAX, WIDTH])?;
        let blocks =
            (0..N_BLOCKS).map(|idx| Block::load(idx, source)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { positions, blocks, norm: LayerNorm::load("norm", WIDTH, source)? })
    }

    fn hidden(&self, clicks: &Tensor) -> Result<Tensor> {
        let n = clicks.dim(1)?;
        let bias = causal_bias(n, clicks.device())?;
        let mut hidden = clicks.broadcast_add(&self.positions.narrow(0, 0, n)?)?;
        for block in &self.blocks {
            hidden = block.forward(&hidden, &bias)?;
        }
        self.norm.forward(&hidden)
    }
}

impl Block {
    fn load(idx: usize, source: &mut dyn TensorSource) -> std::result::Result<Self, ModelError> {
        let name = |part: &str| format!("blocks.{idx}.{part}");
        Ok(Self {
            attention_norm: LayerNorm::load(&name("attention_norm"), WIDTH, source)?,
            query_key_value: Linear::load(&name("query_key_value"), (WIDTH, 3 * WIDTH), source)?,
            output: Linear::load(&name("output"), (WIDTH, WIDTH), source)?,
            norm: LayerNorm::load(&name("norm"), WIDTH, source)?,
            inner: Linear::load(&name("inner"), (WIDTH, WIDTH), source)?,
            outer: Linear::load(&name("outer"), (WIDTH, WIDTH), source)?,
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "the width of a head")]
    fn forward(&self, hidden: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let projected = self.query_key_value.forward(&self.attention_norm.forward(hidden)?)?;
        let part = |idx: usize| heads(&projected.narrow(2, idx * WIDTH, WIDTH)?, N_HEADS);
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let scale = ((WIDTH / N_HEADS) as f64).sqrt();
        let scores = (query.matmul(&key.t()?)? / scale)?.broadcast_add(bias)?;
        let attended = joined(&softmax(&scores, Numerics::Train)?.matmul(&value)?)?;
        let hidden = (hidden + self.output.forward(&attended)?)?;
        let inner = self.inner.forward(&self.norm.forward(&hidden)?)?.relu()?;
        hidden + self.outer.forward(&inner)?
    }
}
