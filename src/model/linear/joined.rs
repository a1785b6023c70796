//! Layers that read the same rows, as one matrix.
use super::{Linear, Weight};
use candle_core::{Result, Tensor};

impl Linear {
    /// Puts the outputs of layers behind one another, and makes the layers views of the whole: its weight, and its bias where they
    /// have one. None, and nothing is changed, where one of them is not plain, has an adapter, or alone has a bias or none.
    pub(in super::super) fn join<const N: usize>(
        layers: [&mut Self; N],
    ) -> Result<Option<(Tensor, Option<Tensor>)>> {
        let plain = |layer: &Self| match &layer.weight {
            Weight::Plain(weight) if layer.adapter.is_none() => Some(weight.clone()),
            Weight::Plain(_) | Weight::Packed(_) | Weight::Int8(_) => None,
        };
        let Some(weights) = layers.iter().map(|layer| plain(layer)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let biases: Vec<Tensor> = layers.iter().filter_map(|layer| layer.bias.clone()).collect();
        if !biases.is_empty() && biases.len() < N {
            return Ok(None);
        }
        let weight = Tensor::cat(&weights, 0)?;
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        let mut start = 0;
        for layer in layers {
            let (n_out, _) = layer.weight.shape()?;
            layer.weight = Weight::Plain(weight.narrow(0, start, n_out)?);
            layer.bias = bias.as_ref().map(|bias| bias.narrow(0, start, n_out)).transpose()?;
            start += n_out;
        }
        Ok(Some((weight, bias)))
    }

    /// Whether it is a weight and nothing else.
    pub(in super::super) fn is_bare(&self) -> bool {
        self.bias.is_none() && self.adapter.is_none()
    }
}
