//! GRU4Rec: a gated recurrent unit over clicks.
//!
//! Source: Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, arXiv 1511.06939. Departs from it: one
//! sequence per reader instead of sessions in parallel; the loss is the cross-entropy over all articles, as in the authors' later work
//! (arXiv 1706.03847).
use super::{SequenceModel, WIDTH, parts::Linear};
use crate::model::weights::{ModelError, TensorSource};
use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;

/// The network: one layer.
#[derive(Debug)]
pub struct Gru4Rec {
    /// Reset gate, update gate and candidate, of the click.
    of_click: Linear,
    /// The same, of the state.
    of_state: Linear,
}

impl SequenceModel for Gru4Rec {
    const NAME: &'static str = "GRU4Rec";
    const WORD: &'static str = "gru4rec";

    fn load(_articles: &Tensor, source: &mut dyn TensorSource) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            of_click: Linear::load("of_click", (WIDTH, 3 * WIDTH), source)?,
            of_state: Linear::load("of_state", (WIDTH, 3 * WIDTH), source)?,
        })
    }

    fn hidden(&self, clicks: &Tensor) -> Result<Tensor> {
        let (n_rows, n, _) = clicks.dims3()?;
        let of_clicks = self.of_click.forward(clicks)?;
        let mut state = Tensor::zeros((n_rows, WIDTH), clicks.dtype(), clicks.device())?;
        let mut states = Vec::with_capacity(n);
        for at in 0..n {
            let of_click = of_clicks.narrow(1, at, 1)?.squeeze(1)?;
            let of_state = self.of_state.forward(&state)?;
            let part = |of: &Tensor, idx: usize| of.narrow(1, idx * WIDTH, WIDTH);
            let reset = sigmoid(&(part(&of_click, 0)? + part(&of_state, 0)?)?)?;
            let update = sigmoid(&(part(&of_click, 1)? + part(&of_state, 1)?)?)?;
            let candidate = (part(&of_click, 2)? + (reset * part(&of_state, 2)?)?)?.tanh()?;
            state = (&candidate + (update * (&state - &candidate)?)?)?;
            states.push(state.clone());
        }
        Tensor::stack(&states, 1)
    }
}
