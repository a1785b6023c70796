//! A decoder layer between its attention: matrix products, and kernels of ours between them, which stand in `layer.cu`.
use super::{
    super::{linear::Linear, rotary::Rotation},
    DIM_MAX, Kernel, address, device_of, number, ptx, takes, unwritten,
};
use candle_core::{
    D, DType, Result, Tensor, bail,
    cuda::cudarc::{
        cublas::{
            result::gemm_ex,
            sys::{cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t},
        },
        driver::{DeviceRepr, LaunchConfig, PushKernelArg},
    },
};
use std::ffi::c_void;

// The same number stands in `layer.cu`.
const THREADS: usize = 128;
const LANES: usize = 32;

/// How queries, keys and values of a position stand behind one another.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Heads {
    n_heads: i32,
    n_kv_heads: i32,
    dim: i32,
    eps: f32,
}

#[allow(unsafe_code, reason = "kernel arguments are bytes")]
// SAFETY: plain numbers, laid out as `Shape` in `layer.cu`.
unsafe impl DeviceRepr for Heads {}

/// A layer's weights as a GPU multiplies them: those that read the same rows are one matrix, of which the layer's own are views.
#[derive(Debug)]
pub(in super::super) struct Joined {
    /// (`n_heads` + 2 · `n_kv_heads`) · dim outputs of queries, keys and values.
    projections: (Tensor, Option<Tensor>),
    /// Gates, and behind them what they gate.
    gated: Tensor,
    heads: [usize; 3],
}

impl Joined {
    /// Joins query, key and value, and gate and up. None where a layer is not on a GPU as the kernels want it: whole, without an
    /// adapter, with a bias of no other product than the first three.
    pub(in super::super) fn new(
        projections: [&mut Linear; 3],
        gated: [&mut Linear; 2],
        plain: [&Linear; 2],
        heads: [usize; 3],
    ) -> Result<Option<Self>> {
        let [n_heads, n_kv_heads, dim] = heads;
        let are_plain = plain.iter().all(|layer| layer.is_bare() && layer.weight().plain().is_ok_and(takes));
        let are_heads = dim <= DIM_MAX && dim.is_multiple_of(8) && n_heads.is_multiple_of(n_kv_heads);
        if !are_plain || !are_heads || !gated.iter().all(|layer| layer.is_bare()) {
            return Ok(None);
        }
        let (Some(projections), Some((gated, None))) = (Linear::join(projections)?, Linear::join(gated)?)
        else {
            return Ok(None);
        };
        Ok(Some(Self { projections, gated, heads }))
    }

    /// Queries (.., `n_heads`, dim), keys and values (.., `n_kv_heads`, dim) of rows (.., D) that are normed, rotated.
    pub(in super::super) fn projected(
        &self,
        normed: &Tensor,
        head_norms: Option<(&Tensor, &Tensor)>,
        eps: f64,
        rotation: &Rotation,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let [n_heads, n_kv_heads, dim] = self.heads;
        let (weight, bias) = &self.projections;
        let n_rows = normed.elem_count() / normed.dim(D::Minus1)?;
        let (input, output) = product(normed, weight, n_rows * weight.dim(0)?)?;
        // One for each row, or for each position of several rows.
        let n_angles = 2 * rotation.cos.elem_count() / dim;
        if rotation.sin.elem_count() != rotation.cos.elem_count()
            || n_angles == 0
            || !n_rows.is_multiple_of(n_angles)
        {
            bail!("rotations {:?} do not fit {n_rows} rows", rotation.cos.dims())
        }
        let (query_norm, key_norm) = head_norms.unzip();
        let read = [bias.as_ref(), query_norm, key_norm, Some(&rotation.cos), Some(&rotation.sin)];
        if read.into_iter().flatten().any(|tensor| tensor.dtype() != input.dtype()) {
            bail!("a layer has numbers of more than one kind")
        }
        let of_optional = |tensor: Option<&Tensor>| tensor.map_or(Ok(0), address);
        let tables = [of_optional(bias.as_ref())?, of_optional(query_norm)?, of_optional(key_norm)?];
        let (input_at, output_at) = (address(&input)?, address(&output)?);
        let (cos, sin) = (address(&rotation.cos)?, address(&rotation.sin)?);
        #[allow(clippy::cast_possible_truncation, reason = "the kernels take the small constant as f32")]
        let shape = Heads {
            n_heads: number(n_heads)?,
            n_kv_heads: number(n_kv_heads)?,
            dim: number(dim)?,
            eps: eps as f32,
        };
        let n_of_row = n_heads + 2 * n_kv_heads;
        let config = over(n_rows, n_of_row.div_ceil(THREADS / LANES))?;
        let (rows, angles) = (number(n_rows)?, number(n_angles)?);
        let kernel = Kernel::of(&input, LAYER, "rotate")?;
        let mut launch = kernel.builder();
        launch.arg(&input_at).arg(&tables[0]).arg(&tables[1]).arg(&tables[2]).arg(&cos).arg(&sin);
        launch.arg(&output_at).arg(&rows).arg(&angles).arg(&shape);
        #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
        // SAFETY: arguments are those of `layer.cu`; all are as long as the shape says, and live until the one stream is past them.
        unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
        let leading = &normed.dims()[..normed.rank() - 1];
        let mut start = 0;
        let mut of_kind = |n: usize| {
            let part = output.narrow(0, start, n_rows * n * dim)?;
            start += n_rows * n * dim;
            part.reshape([leading, &[n, dim]].concat())
        };
        Ok((of_kind(n_heads)?, of_kind(n_kv_heads)?, of_kind(n_kv_heads)?))
    }

    /// silu(gate) · up of rows (.., D) that are normed: (.., I).
    pub(in super::super) fn gated(&self, normed: &Tensor) -> Result<Tensor> {
        let (n_rows, width) = (normed.elem_count() / normed.dim(D::Minus1)?, self.gated.dim(0)? / 2);
        let (input, output) = product(normed, &self.gated, n_rows * width)?;
        let (input_at, output_at, n_numbers) = (address(&input)?, address(&output)?, number(width)?);
        let n_packs = width * input.dtype().size_in_bytes() / 16;
        let config = over(n_rows, n_packs.div_ceil(THREADS))?;
        let kernel = Kernel::of(&input, LAYER, "gate")?;
        let mut launch = kernel.builder();
        launch.arg(&input_at).arg(&output_at).arg(&n_numbers);
        #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
        // SAFETY: as above.
        unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
        output.reshape([&normed.dims()[..normed.rank() - 1], &[width]].concat())
    }
}

const LAYER: (&str, &str) = ("newshound_layer", ptx::LAYER);

/// Root mean square norm of rows (.., D).
pub(in super::super) fn normed(input: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let input = input.contiguous()?;
    let width = weight.elem_count();
    if input.dim(D::Minus1)? != width || input.dtype() != weight.dtype() {
        bail!("rows {:?} do not fit a norm {:?}", input.dims(), weight.dims())
    }
    let output = unwritten(&input, input.dtype(), input.shape())?;
    let (input_at, weight_at, output_at) = (address(&input)?, address(weight)?, address(&output)?);
    #[allow(clippy::cast_possible_truncation, reason = "the kernels take the small constant as f32")]
    let (width_of_row, eps) = (number(width)?, eps as f32);
    let kernel = Kernel::of(&input, LAYER, "norm")?;
    let mut launch = kernel.builder();
    launch.arg(&input_at).arg(&weight_at).arg(&output_at).arg(&width_of_row).arg(&eps);
    let config = over(input.elem_count() / width, 1)?;
    #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
    // SAFETY: arguments are those of `layer.cu`; all are as long as the width says, and live until the one stream is past them.
    unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
    Ok(output)
}

/// Maps rows (.., in) by a weight (out, in); and room for what becomes of the outputs, since to ask for memory twice takes longer than
/// small kernels do.
fn product(rows: &Tensor, weight: &Tensor, n_more: usize) -> Result<(Tensor, Tensor)> {
    let n_outputs = rows.elem_count() / rows.dim(D::Minus1)? * weight.dim(0)?;
    let all = unwritten(rows, rows.dtype(), n_outputs + n_more)?;
    let outputs = all.narrow(0, 0, n_outputs)?;
    multiply(rows, weight, &outputs, 0.0)?;
    Ok((outputs, all.narrow(0, n_outputs, n_more)?))
}

/// Adds what a layer without a bias maps rows (.., in) to, to `sum` (.., out), in its own memory where that is contiguous: nobody
/// else may read it any more.
pub(in super::super) fn add_product(sum: &Tensor, rows: &Tensor, layer: &Linear) -> Result<Tensor> {
    let sum = sum.contiguous()?;
    multiply(rows, layer.weight().plain()?, &sum, 1.0)?;
    Ok(sum)
}

/// output = rows · weightᵀ + `kept` · output.
fn multiply(rows: &Tensor, weight: &Tensor, output: &Tensor, kept: f32) -> Result<()> {
    let (n_out, n_in) = weight.dims2()?;
    let n_rows = rows.elem_count() / n_in;
    if rows.dim(D::Minus1)? != n_in || output.elem_count() != n_rows * n_out || rows.dtype() != weight.dtype()
    {
        bail!("rows {:?} do not fit a weight {:?} and {:?}", rows.dims(), weight.dims(), output.dims())
    }
    let dtype = match rows.dtype() {
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::F16 => cudaDataType_t::CUDA_R_16F,
        DType::BF16 => cudaDataType_t::CUDA_R_16BF,
        dtype => bail!("products of a GPU take no {dtype:?}"),
    };
    let one = 1.0_f32;
    let scalar = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
    let (n_out, n_in, n_rows) = (number(n_out)?, number(n_in)?, number(n_rows)?);
    let (weight_at, rows_at, output_at) = (address(weight)?, address(rows)?, address(output)?);
    let blas = device_of(rows)?.cublas_handle();
    // The library counts by columns: what are rows here are columns there.
    #[allow(unsafe_code, reason = "the library takes addresses")]
    // SAFETY: shapes were compared above, everything is contiguous, and lives until the one stream is past it.
    unsafe {
        gemm_ex(
            *blas.handle(),
            cublasOperation_t::CUBLAS_OP_T,
            cublasOperation_t::CUBLAS_OP_N,
            n_out,
            n_rows,
            n_in,
            scalar(&one),
            weight_at as *const c_void,
            dtype,
            n_in,
            rows_at as *const c_void,
            dtype,
            n_in,
            scalar(&kept),
            output_at as *mut c_void,
            dtype,
            n_out,
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(candle_core::Error::wrap)
}

/// Blocks for each row, and so many beside one another.
fn over(n_rows: usize, n_beside: usize) -> Result<LaunchConfig> {
    let grid_dim = (u32::try_from(n_rows)?, u32::try_from(n_beside)?, 1);
    Ok(LaunchConfig { grid_dim, block_dim: (u32::try_from(THREADS)?, 1, 1), shared_mem_bytes: 0 })
}
