//! One GPU as this house uses it: one stream for all threads, products in full f32.
use candle_core::{CudaDevice, Device, Result, backend::BackendDevice, cuda};

/// Opens the first GPU.
///
/// # Errors
/// If there is no driver, no card, or the card refuses.
pub(super) fn open() -> Result<Device> {
    // What candle opens by itself has a stream per thread: what one thread has written need not be there when another reads it.
    let gpu = Device::new_cuda_with_stream(0)?;
    // Products in TF32 have 10 bits of mantissa, and would not agree with those of the CPU.
    cuda::set_gemm_reduced_precision_f32(false);
    Ok(gpu)
}

/// `cuda:0` and the name of the card.
pub(super) fn name(gpu: &CudaDevice) -> String {
    let place = match gpu.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Cpu | candle_core::DeviceLocation::Metal { .. } => "cuda".to_owned(),
    };
    match gpu.cuda_stream().context().name() {
        Ok(card) => format!("{place} ({card})"),
        Err(_) => place,
    }
}
