//! Gated activation with its gradient.
use super::{exp::exp, values, with_values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// silu(gate) · up, elementwise.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

/// One chunk, compiled for several kinds of vector registers: the widest that the processor has are used. Without a fused
/// multiplication, they all give the same bits.
struct Forward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gated(*gate, *up);
        }
    }
}

/// The gradients of one chunk.
struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    grad: &'a [f32],
    gate_grad: &'a mut [f32],
    up_grad: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let inputs = self.gate.iter().zip(self.up).zip(self.grad);
        let outputs = self.gate_grad.iter_mut().zip(self.up_grad);
        for ((gate_grad, up_grad), ((gate, up), grad)) in outputs.zip(inputs) {
            let share = sigmoid(*gate);
            let silu = gate * share;
            *gate_grad = grad * up * (share + silu * (1.0 - share));
            *up_grad = grad * silu;
        }
    }
}

/// silu(gate) · up of two numbers, with the instructions of the function that it is called from.
#[inline(always)]
pub(in crate::model) fn gated(gate: f32, up: f32) -> f32 {
    gate * sigmoid(gate) * up
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "fused-swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (values(s1, l1)?, values(s2, l2)?);
        if l1.shape() != l2.shape() {
            bail!("gate {:?} and up {:?} differ in shape", l1.dims(), l2.dims())
        }
        let mut output = vec![0.0; gate.len()];
        output
            .par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
            .for_each(|(out, (gate, up))| pulp::Arch::new().dispatch(Forward { gate, up, out }));
        Ok((CpuStorage::F32(output), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gate_grad, up_grad) = with_values(gate, |gate| {
            with_values(up, |up| {
                with_values(grad, |grad| {
                    let (mut gate_grad, mut up_grad) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
                    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK));
                    let outputs = gate_grad.par_chunks_mut(CHUNK).zip(up_grad.par_chunks_mut(CHUNK));
                    outputs.zip(inputs).for_each(|((gate_grad, up_grad), ((gate, up), grad))| {
                        pulp::Arch::new().dispatch(Backward { gate, up, grad, gate_grad, up_grad });
                    });
                    Ok((gate_grad, up_grad))
                })
            })
        })?;
        let tensor = |grad| Tensor::from_vec(grad, gate.shape(), gate.device());
        Ok((Some(tensor(gate_grad)?), Some(tensor(up_grad)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, random};

    #[test]
    fn fused_swiglu_agrees_with_the_composed_one() {
        let (gate, up) = (random(&[3, 7, 11], 1), random(&[3, 7, 11], 2));
        check(&[&gate, &up], || super::swiglu(&gate, &up), || gate.silu()? * up.as_tensor());
    }
}
