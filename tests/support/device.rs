//! The device of tests that run the network: the first GPU of a build with CUDA, where there is one, else the CPU.
//!
//! Tests of kernels that only the CPU has, and of equality bit for bit, stay on the CPU.
use candle_core::Device;
use newshound::model::device::DeviceChoice;
use std::sync::LazyLock;

/// One for all tests: tensors of two openings of a GPU do not mix.
static DEVICE: LazyLock<Device> = LazyLock::new(|| DeviceChoice::Auto.open().unwrap());

pub fn device() -> Device {
    DEVICE.clone()
}

/// How far numbers may be from their reference: on the CPU as given, on a GPU ten times as far. In f32 without TF32 a GPU differs
/// from a CPU only by the order of its sums and the last bits of its exponentials, as one CPU library does from another; but it sums
/// in an order that depends on the shape, so that one and the same number comes out of more than one order.
pub fn tolerance(on_cpu: f32) -> f32 {
    if DEVICE.is_cpu() { on_cpu } else { 10.0 * on_cpu }
}
