//! Training kernels of the CPU, of which rotation serves as well: each op computes its forward and its backward pass in one sweep over memory.
//!
//! The composed operations in `ops` say what is computed and serve every other device; each kernel here has a test
//! that compares its values and gradients with them.
mod attention;
mod bias;
mod cross_entropy;
mod exp;
mod logprobs;
mod norm;
mod rope;
mod swiglu;

pub(super) use attention::{Span, attention};
pub(super) use bias::add_bias;
pub(super) use cross_entropy::linear_cross_entropy;
pub(crate) use exp::exp;
pub(super) use exp::exponentiate;
pub(super) use logprobs::token_logprobs;
pub(super) use norm::rms_norm;
pub(super) use rope::rope;
pub(super) use swiglu::{gated, swiglu};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

/// Whether the kernels can take a tensor: f32 on the CPU.
pub(super) fn takes(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// Borrows the values of a contiguous f32 operand.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused kernel was given values that are not contiguous"),
    }
}

/// Calls `read` with the values of a tensor, in order.
pub(super) fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(values(storage, layout)?),
        Storage::Cuda(_) | Storage::Metal(_) => bail!("a fused kernel was given values outside of the CPU"),
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Compares a kernel with the composed operations it replaces.
    use candle_core::{Device, Result, Tensor, Var};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    pub(crate) fn random(shape: &[usize], seed: u64) -> Var {
        let mut rng = StdRng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.5..1.5)).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Values and gradients of both functions agree; gradients are taken of a fixed random mixture of the values.
    #[track_caller]
    pub(crate) fn check(
        inputs: &[&Var],
        fused: impl Fn() -> Result<Tensor>,
        composed: impl Fn() -> Result<Tensor>,
    ) {
        let (fused, composed) = (fused().unwrap(), composed().unwrap());
        assert_eq!(fused.dims(), composed.dims());
        close(&fused, &composed, "value");
        let mixture = random(fused.dims(), 99);
        let gradients =
            |output: &Tensor| (output * mixture.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let (fused, composed) = (gradients(&fused), gradients(&composed));
        for (idx, input) in inputs.iter().enumerate() {
            let what = format!("gradient {idx}");
            close(fused.get(input).expect(&what), composed.get(input).expect(&what), &what);
        }
    }

    #[track_caller]
    fn close(got: &Tensor, expected: &Tensor, what: &str) {
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, expected) in values(got).into_iter().zip(values(expected)) {
            assert!((got - expected).abs() <= 2e-5 * (1.0 + expected.abs()), "{what}: {got}, not {expected}");
        }
    }
}
