//! What a layer reads of two others of which the one gates the other.
use super::{How, Input, Linear, Weight};
use crate::model::{int8, ops};
use candle_core::Result;
use std::cell::RefCell;

/// Numbers that a thread keeps room for between layers: rows of a step in large networks. What is larger is asked for anew.
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
        if !matches!(reader.weight, Weight::Int8(_)) || reader.weight.shape()?.1 != n_out {
            let mut output = vec![0.0; n_numbers];
            multiply(&mut output)?;
            return reader.input(&input.of_rows(output)?);
        }
        // Taken, not borrowed: while a thread waits for its part of a product, it may do another's work.
        let mut room = ROOM.take();
        room.resize(room.len().max(n_numbers), 0.0);
        multiply(&mut room[..n_numbers])?;
        let rows = int8::Rows::round(&room[..n_numbers], n_out);
        if room.len() <= KEPT_MAX {
            ROOM.set(room);
        }
        Ok(Input::Rounded { rows, dims: [input.leading(), &[n_out]].concat() })
    }
}
