//! Kernels of the GPU for what the library's operations are slow at. `build.rs` compiles the `.cu` files.
#![allow(clippy::wildcard_enum_match_arm, reason = "kernels are for three dtypes, whatever others there are")]
pub(super) mod attention;
pub(super) mod layer;
pub(super) mod outline;
pub(super) mod staging;

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Layout, Result, Shape, Storage, Tensor,
    backend::{BackendDevice, BackendStorage},
    bail,
    cuda::cudarc::driver::{CudaFunction, CudaStream, DevicePtr, DeviceRepr, LaunchArgs},
    cuda_backend::CudaDType,
    op::BackpropOp,
};
use std::sync::Arc;

mod ptx {
    #![allow(unreachable_pub, reason = "the file is written by a library")]
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// Heads are at most this wide, and a multiple of 8 numbers; the same stands in the `.cu` files.
const DIM_MAX: usize = 128;

/// Whether kernels take numbers (.., width): they read 16 bytes at a time.
pub(super) fn takes(tensor: &Tensor) -> bool {
    let width = tensor.dims().last().copied().unwrap_or(0);
    let is_known = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
    tensor.device().is_cuda() && is_known && width > 0 && width.is_multiple_of(8)
}

/// A kernel, and the stream on which it is launched.
struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// That of a module which computes in a tensor's dtype: `{name}_{dtype}`.
    fn of(tensor: &Tensor, (module, ptx): (&str, &str), name: &str) -> Result<Self> {
        let suffix = match tensor.dtype() {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            dtype => bail!("kernels of the GPU take no {dtype:?}"),
        };
        let device = device_of(tensor)?;
        let function = device.get_or_load_custom_func(&format!("{name}_{suffix}"), module, ptx)?;
        Ok(Self { function: function.into_cuda_function(), stream: device.cuda_stream() })
    }

    fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

fn device_of(tensor: &Tensor) -> Result<&CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device),
        Device::Cpu | Device::Metal(_) => bail!("a tensor does not lie on the GPU"),
    }
}

/// Memory for numbers where a tensor lies, which hold what was there before.
#[allow(unsafe_code, reason = "memory on a device is given out as it is")]
fn unwritten(beside: &Tensor, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    // SAFETY: numbers of these dtypes may be any bits, and who asks writes all of them before anybody reads.
    let storage = unsafe { device_of(beside)?.alloc_uninit(&shape, dtype)? };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// Where a contiguous tensor's numbers lie.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor does not lie on the GPU") };
    match storage.dtype() {
        DType::F32 => address_of::<f32>(storage, layout),
        DType::F16 => address_of::<half::f16>(storage, layout),
        DType::BF16 => address_of::<half::bf16>(storage, layout),
        DType::U8 => address_of::<u8>(storage, layout),
        DType::U32 => address_of::<u32>(storage, layout),
        dtype => bail!("kernels of the GPU take no {dtype:?}"),
    }
}

fn address_of<T: CudaDType + DeviceRepr>(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a kernel of the GPU was given numbers that are not contiguous")
    };
    let stream = storage.device().cuda_stream();
    let (address, _) = storage.as_cuda_slice::<T>()?.slice(start..end).device_ptr(&stream);
    Ok(address)
}

/// A count as kernels take it.
pub(super) fn number(count: usize) -> Result<i32> {
    i32::try_from(count).map_err(candle_core::Error::wrap)
}
