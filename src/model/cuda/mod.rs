//! Kernels of the GPU for what the library's operations are slow at. `build.rs` compiles the `.cu` files.
pub(super) mod attention;

use candle_core::{
    CudaStorage, DType, Layout, Result, Storage, Tensor,
    backend::BackendStorage,
    bail,
    cuda::cudarc::driver::{DevicePtr, DeviceRepr},
    cuda_backend::CudaDType,
};

mod ptx {
    #![allow(unreachable_pub, reason = "the file is written by a library")]
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// Where a contiguous tensor's numbers lie.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor does not lie on the GPU") };
    match storage.dtype() {
        DType::F32 => address_of::<f32>(storage, layout),
        DType::F16 => address_of::<half::f16>(storage, layout),
        DType::BF16 => address_of::<half::bf16>(storage, layout),
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
