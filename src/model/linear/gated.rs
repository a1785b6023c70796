//! What a layer reads of two others of which the one gates the other.
use super::{How, Input, Linear, Weight};
use crate::model::{int8, ops};
use candle_core::Result;
use std::cell::RefCell;

/// Numbers that a thread keeps room for between layers, 16 MB: rows of a step in large networks. What a long prompt takes is asked for anew.
const KEPT_MAX: usize = 1 << 22;

thread_local! {
    /// Room for what is only read once, so that no layer asks for fresh memory, which the system would have to clear.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Linear {
    /// silu(gate) · up of an input, elementwise, as `reader` reads it.
    ///
    /// # Errors
    /// As for `forward_all`, if the layers differ in shape, or if the reader has another width.
    pub fn gated(gate: &Self, up: &Self, input: &Input, reader: &Self) -> Result<Input> {
        if let Input::Plain(rows) = input {
            return reader.input(&ops::swiglu(&gate.plain(rows)?, &up.plain(rows)?)?);
        }
        let n_out = up.weight.shape()?.0;
        let n_numbers = input.n_rows() * n_out;
        let multiply = |output: &mut [f32]| input.multiply((How::Gated, &[gate, up]), vec![output]);
        let is_rounded = matches!(reader.weight, Weight::Int8(_)) && reader.weight.shape()?.1 == n_out;
        if !is_rounded || n_numbers > KEPT_MAX {
            let mut output = vec![0.0; n_numbers];
            multiply(&mut output)?;
            return reader.input(&input.of_rows(output)?);
        }
        // Taken, not borrowed: while a thread waits for its part of a product, it may do another's work.
        let mut room = ROOM.take();
        room.resize(room.len().max(n_numbers), 0.0);
        multiply(&mut room[..n_numbers])?;
        let rows = int8::Rows::round(&room[..n_numbers], n_out);
        ROOM.set(room);
        Ok(Input::Rounded { rows, dims: [input.leading(), &[n_out]].concat() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{fused, packed};
    use candle_core::{Device, Tensor};
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::sync::Arc;

    /// A weight of each kind.
    fn kinds(weight: &Tensor) -> [Weight; 3] {
        [
            Weight::Plain(weight.clone()),
            Weight::Packed(Arc::new(packed::Matrix::pack(weight).unwrap())),
            Weight::Int8(Arc::new(int8::Matrix::round(weight).unwrap())),
        ]
    }

    #[test]
    fn what_is_read_is_what_two_layers_say_alone() {
        let (width, inner) = (24, 70);
        let mut rng = StdRng::seed_from_u64(5);
        let mut random = |(n_rows, n_columns): (usize, usize)| {
            let values: Vec<f32> = (0..n_rows * n_columns).map(|_| rng.random_range(-2.0..2.0)).collect();
            Tensor::from_vec(values, (n_rows, n_columns), &Device::Cpu).unwrap()
        };
        let [gates, ups, downs] = [(inner, width), (inner, width), (width, inner)]
            .map(|shape| kinds(&random(shape)).map(Linear::tied));
        // Fewer rows after more: what stood in the room before is not read.
        for (n_rows, layers) in [9, 2].into_iter().flat_map(|n| (0..3).map(move |kind| (n, kind))) {
            let (gate, up) = (&gates[layers], &ups[layers]);
            let rows = random((n_rows, width));
            let input = gate.input(&rows).unwrap();
            let numbers = |layer: &Linear| {
                layer.forward(&rows).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let gated: Vec<f32> =
                numbers(gate).iter().zip(numbers(up)).map(|(gate, up)| fused::gated(*gate, up)).collect();
            let gated = Tensor::from_vec(gated, (n_rows, inner), &Device::Cpu).unwrap();
            for down in &downs {
                let read = Linear::gated(gate, up, &input, down).unwrap();
                let [got] = Linear::forward_all([down], &read).unwrap();
                let expected = down.forward(&gated).unwrap();
                assert_eq!(got.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap(), "{layers}");
            }
        }
        let input = gates[2].input(&random((1, width))).unwrap();
        assert!(Linear::gated(&gates[2], &ups[2], &input, &ups[2]).is_err(), "a reader of another width");
    }
}
