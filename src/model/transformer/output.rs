//! The output head: logits of the tokens that may be written, a column for each, and losses of them.
use super::{
    super::{
        config::OutputIds,
        linear::{Linear, Weight},
        ops::{self, Numerics},
        packed,
        room::Room,
        weights::ModelError,
        workers::awake,
    },
    Transformer, message,
};
use candle_core::{DType, Tensor};
use std::{borrow::Cow, sync::Arc};

impl Transformer {
    /// Computes logits (.., C) f32 of hidden states (.., D): a column for each of the config's `output_ids`.
    ///
    /// # Errors
    /// If the width is not D, or the network was built without an output head.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.head()?.forward(hidden)?.to_dtype(DType::F32)?)
    }

    /// Calls `take` with hidden states (n, D) and their logits (n, C), each row after row.
    ///
    /// # Errors
    /// If the width is not D, the network was built without an output head, or `take` fails.
    pub fn read_logits<R>(
        &self,
        hidden: &Tensor,
        room: &mut Room,
        take: impl FnOnce(&[f32], &[f32]) -> candle_core::Result<R>,
    ) -> Result<R, ModelError> {
        let head = self.head()?;
        if self.device().is_cpu() {
            return Ok(awake(|| head.read(hidden, room, take))?);
        }
        // While a GPU computes, nobody on the host has a part.
        Ok(head.read(hidden, room, |hidden, logits| awake(|| take(hidden, logits)))?)
    }

    /// The weight (C, D) of the output head, for losses that compute logits of a few positions at a time.
    ///
    /// # Errors
    /// If the network was built without an output head, or in 8 bits.
    pub fn head_weight(&self) -> Result<Tensor, ModelError> {
        Ok(self.head()?.weight().plain()?.clone())
    }

    /// The same with the columns of another network, which has the same tokens.
    ///
    /// # Errors
    /// As for `head_weight`, or if the other writes a token that this one does not.
    pub fn head_weight_of(&self, other: &OutputIds) -> Result<Tensor, ModelError> {
        let (own, weight) = (&self.config.output_ids, self.head_weight()?);
        match other {
            OutputIds::Kept(ids) if other != own => {
                let columns = Tensor::new(own.columns(ids)?, self.device())?;
                Ok(weight.index_select(&columns, 0)?)
            }
            OutputIds::Kept(_) | OutputIds::All => Ok(weight),
        }
    }

    /// Sums, over positions, each weight times the negative log-probability of its token, in nats: a scalar.
    ///
    /// `hidden` (.., D), `ids` (..) u32: the token that follows each position, `weights` (..): 0 where none is asked
    /// of the model. Much cheaper than logits of all positions. Differentiable.
    /// # Errors
    /// If shapes differ, an id is never written, or the network was built without an output head or in 8 bits.
    pub fn cross_entropy(
        &self,
        hidden: &Tensor,
        ids: &Tensor,
        weights: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let columns = self.config.output_ids.columns(&ids.flatten_all()?.to_vec1::<u32>()?)?;
        let weights = weights.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let rows = hidden.reshape(((), self.config.hidden_size))?;
        Ok(ops::linear_cross_entropy(&rows, &self.head_weight()?, &columns, &weights)?)
    }

    pub(in super::super) fn head(&self) -> Result<Cow<'_, Linear>, ModelError> {
        let head = self.head.as_ref().ok_or_else(|| message("the network has no output head".to_owned()))?;
        Ok(match self.numerics {
            Numerics::Serve => Cow::Borrowed(head),
            // Anew each time: a copy would neither learn nor follow what is learned.
            Numerics::Train => Cow::Owned(pruned(head, &self.config.output_ids)?),
        })
    }
}

/// A head of the tokens that may be written, whose numbers are those of the whole one.
pub(super) fn pruned(head: &Linear, output_ids: &OutputIds) -> Result<Linear, ModelError> {
    let OutputIds::Kept(ids) = output_ids else { return Ok(head.clone()) };
    let ids = Tensor::new(&**ids, head.weight().device())?;
    Ok(Linear::tied(match head.weight() {
        Weight::Plain(weight) => Weight::Plain(weight.index_select(&ids, 0)?),
        Weight::Packed(weight) => Weight::Packed(Arc::new(packed::Matrix::pack(&weight.outputs(&ids)?)?)),
        Weight::Int8(weight) => Weight::Int8(Arc::new(weight.kept(&ids)?)),
    }))
}
