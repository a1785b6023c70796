//! Where a network computes: the one place that opens a device.
#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Device;
use std::{fmt, num::NonZero, str::FromStr};
use thiserror::Error;
use tracing::{info, warn};

/// Which device a network is wanted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that CUDA gives, the CPU where it gives none.
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU that CUDA gives.
    Cuda,
}

/// The words of `DeviceChoice`, for messages and help.
pub const CHOICES: &str = "auto, cpu or cuda";

/// Why there is no GPU.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Another build is needed.
    #[error("this program was built without CUDA")]
    NotBuilt,
    /// The driver refused.
    #[error("CUDA gives no device")]
    NoDevice(#[source] candle_core::Error),
}

impl DeviceChoice {
    /// Opens the device, and logs which it is. Each call on a GPU opens it anew: tensors of two calls do not mix.
    ///
    /// # Errors
    /// If a GPU is asked for and there is none.
    pub fn open(self) -> Result<Device, DeviceError> {
        let device = match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda => first_gpu()?,
            Self::Auto => match first_gpu() {
                Ok(gpu) => gpu,
                // That is what the build is for, so nobody need look.
                Err(DeviceError::NotBuilt) => Device::Cpu,
                Err(DeviceError::NoDevice(reason)) => {
                    // Where backtraces are wanted, candle writes one below its words.
                    let reason = reason.to_string();
                    warn!(reason = reason.lines().next(), "no GPU; the CPU takes its place");
                    Device::Cpu
                }
            },
        };
        info!(device = name(&device), with_cuda = cfg!(feature = "cuda"), "device opened");
        Ok(device)
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(format!("expected {CHOICES}")),
        }
    }
}

/// Names a device for people: `cpu`, or `cuda:0` and the name of the card.
#[must_use]
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => cuda::name(gpu),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => "cuda".to_owned(),
        Device::Metal(_) => "metal".to_owned(),
    }
}

/// Returns how many networks compute side by side at best: one per core on the CPU; on a GPU, which spreads each operation
/// over all of itself, one.
#[must_use]
pub fn side_by_side(device: &Device) -> usize {
    if device.is_cpu() { std::thread::available_parallelism().map_or(1, NonZero::get) } else { 1 }
}

#[cfg(feature = "cuda")]
fn first_gpu() -> Result<Device, DeviceError> {
    cuda::open().map_err(DeviceError::NoDevice)
}

#[cfg(not(feature = "cuda"))]
fn first_gpu() -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_has_a_word_and_other_words_are_refused() {
        let parsed: Vec<DeviceChoice> =
            ["auto", "cpu", "cuda"].iter().map(|word| word.parse().unwrap()).collect();
        assert_eq!(parsed, [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda]);
        assert_eq!("gpu".parse::<DeviceChoice>(), Err("expected auto, cpu or cuda".to_owned()));
    }

    #[test]
    fn the_cpu_is_always_there_and_a_gpu_only_where_it_was_built_for() {
        assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
        let auto = DeviceChoice::Auto.open().unwrap();
        assert_eq!(auto.is_cuda(), DeviceChoice::Cuda.open().is_ok());
        assert!(cfg!(feature = "cuda") || auto.is_cpu());
        assert_eq!(side_by_side(&Device::Cpu), std::thread::available_parallelism().unwrap().get());
    }
}
