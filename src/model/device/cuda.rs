//! One GPU as this house uses it: one stream for all threads, memory that stays with the process, products in full f32.
use candle_core::{
    CudaDevice, Device, Error, Result,
    backend::BackendDevice,
    cuda::{
        self,
        cudarc::driver::{
            CudaContext,
            result::{device, mem_pool},
            sys::{CUdevice, CUmemPool_attribute},
        },
    },
};

/// Opens the first GPU.
///
/// # Errors
/// If there is no driver, no card, or the card refuses.
pub(super) fn open() -> Result<Device> {
    // What candle opens by itself has a stream per thread: what one thread has written need not be there when another reads it.
    let gpu = Device::new_cuda_with_stream(0)?;
    let stream = gpu.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    trust_the_stream(context);
    keep_memory(context.cu_device())?;
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

/// Switches the bookkeeping of many streams off: two events per tensor, and a wait or a record per operand of each operation,
/// which would take longer than the small operations of a decoding step themselves.
#[allow(
    unsafe_code,
    reason = "the call is marked unsafe because it hands the order of streams to the caller"
)]
fn trust_the_stream(context: &CudaContext) {
    // SAFETY: the bookkeeping orders uses of memory on different streams. This device has one stream, on which everything that is
    // made on it is allocated, used and freed, so the stream itself keeps the order.
    unsafe { context.disable_event_tracking() }
}

/// Lets the process keep memory that it has freed. By default the driver gives it back to the system whenever the host waits for
/// a result, which is several times per token, and maps it again at the next operation.
#[allow(unsafe_code, reason = "the driver's interface has no safe form of it")]
fn keep_memory(card: CUdevice) -> Result<()> {
    let mut bytes_kept = u64::MAX;
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the card is that of an open context, its default pool lives as long as the card, and this attribute is a u64.
    unsafe {
        let pool = device::get_default_mem_pool(card).map_err(Error::wrap)?;
        mem_pool::set_attribute(pool, threshold, (&raw mut bytes_kept).cast()).map_err(Error::wrap)
    }
}
