//! Page-locked memory of the host, into which a GPU copies several times as fast as into other memory, and without a stop in between.
use super::{address, device_of};
use candle_core::{
    DType, Result, Tensor,
    cuda::cudarc::driver::{CudaContext, result},
};
use std::{ffi::c_void, ptr::NonNull, sync::Arc};

/// Room for so many f32, which grows.
#[derive(Debug, Default)]
pub(in super::super) struct Staging(Option<Pages>);

#[derive(Debug)]
struct Pages {
    numbers: NonNull<f32>,
    n_numbers: usize,
    context: Arc<CudaContext>,
}

#[allow(unsafe_code, reason = "page-locked memory is the driver's to give")]
// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Pages {}

impl Pages {
    #[allow(unsafe_code, reason = "page-locked memory is the driver's to give")]
    fn new(context: &Arc<CudaContext>, n_numbers: usize) -> Result<Self> {
        context.bind_to_thread().map_err(candle_core::Error::wrap)?;
        // SAFETY: without flags it is memory that the processor reads as any other; it is written before it is read.
        let address = unsafe { result::malloc_host(n_numbers * size_of::<f32>(), 0) };
        let address = address.map_err(candle_core::Error::wrap)?;
        match NonNull::new(address.cast::<f32>()) {
            Some(numbers) => {
                // SAFETY: so many numbers were given.
                unsafe { std::slice::from_raw_parts_mut(numbers.as_ptr(), n_numbers) }.fill(0.0);
                Ok(Self { numbers, n_numbers, context: Arc::clone(context) })
            }
            None => candle_core::bail!("the driver gave no page-locked memory"),
        }
    }

    #[allow(unsafe_code, reason = "page-locked memory is the driver's to give")]
    fn numbers(&mut self) -> &mut [f32] {
        // SAFETY: so many numbers were given, written once, and are borrowed with this value.
        unsafe { std::slice::from_raw_parts_mut(self.numbers.as_ptr(), self.n_numbers) }
    }
}

impl Drop for Pages {
    #[allow(unsafe_code, reason = "page-locked memory is the driver's to take back")]
    fn drop(&mut self) {
        // Where the context is gone, so is the memory.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it came from `malloc_host`, and every copy into it was waited for.
            let _ = unsafe { result::free_host(self.numbers.as_ptr().cast::<c_void>()) };
        }
    }
}

impl Staging {
    /// Calls `take` with the numbers of two tensors in order, as f32.
    #[allow(unsafe_code, reason = "copies that are waited for later")]
    pub(in super::super) fn read<R>(
        &mut self,
        tensors: [&Tensor; 2],
        take: impl FnOnce(&[f32], &[f32]) -> Result<R>,
    ) -> Result<R> {
        let [first, second] = tensors.map(|tensor| tensor.to_dtype(DType::F32)?.contiguous());
        let (first, second) = (first?, second?);
        let (n_first, n_all) = (first.elem_count(), first.elem_count() + second.elem_count());
        let stream = device_of(&first)?.cuda_stream();
        if self.0.as_ref().is_none_or(|pages| pages.n_numbers < n_all) {
            self.0 = None;
            self.0 = Some(Pages::new(stream.context(), n_all)?);
        }
        let Some(pages) = &mut self.0 else { candle_core::bail!("there is no room to copy into") };
        let (of_first, of_second) = pages.numbers()[..n_all].split_at_mut(n_first);
        let (first_at, second_at) = (address(&first)?, address(&second)?);
        let copies = [(first_at, &mut *of_first), (second_at, &mut *of_second)].map(|(from, numbers)| {
            // SAFETY: as many numbers as the tensor has, which lives until the wait below.
            unsafe { result::memcpy_dtoh_async(numbers, from, stream.cu_stream()) }
        });
        // Also where one of them has failed, nobody may touch the memory before.
        stream.synchronize().map_err(candle_core::Error::wrap)?;
        for copied in copies {
            copied.map_err(candle_core::Error::wrap)?;
        }
        take(of_first, of_second)
    }
}
