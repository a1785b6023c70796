//! How a network's numbers are held while it serves: the one place that builds a decoder in each way.
use super::{
    config::DecoderConfig,
    int8::Matrix,
    linear::Weight,
    ops::Numerics,
    panels::Panels,
    transformer::Transformer,
    weights::{ModelError, TensorSource},
};
use candle_core::{DType, Device, Tensor};
use std::{fmt, str::FromStr};

/// The form of weights and of what flows between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits throughout.
    F32,
    /// bfloat16 throughout: for GPUs; on a CPU it is slower than f32.
    Bf16,
    /// 16-bit floats throughout: for GPUs.
    F16,
    /// Weights and inputs of linear layers and of the output head in 8 bits, and the embedding, whose rows are the output head's in most
    /// small models; all else in f32: for CPUs.
    Int8,
}

/// The words of `Precision`, for messages and help.
pub const PRECISIONS: &str = "f32, bf16, f16 or int8";

impl Precision {
    /// How numbers between layers are held, and how a source should hand out tensors.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Int8 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Builds a decoder for serving. `source` hands out tensors of `dtype` on `device`.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or not finite, or 8 bits are asked of a GPU.
    pub fn load(
        self,
        config: &DecoderConfig,
        source: &mut impl TensorSource,
        device: &Device,
    ) -> Result<Transformer, ModelError> {
        let lay_out: fn(&Tensor) -> Result<Weight, ModelError> = match self {
            Self::F32 if device.is_cpu() => Panels::weight,
            Self::Int8 if device.is_cpu() => Matrix::weight,
            Self::F32 | Self::Bf16 | Self::F16 => return Transformer::load(config, source, Numerics::Serve),
            Self::Int8 => {
                let reason = "8 bits are for the CPU; on a GPU use bf16".to_owned();
                return Err(ModelError::Forward(candle_core::Error::Msg(reason)));
            }
        };
        Transformer::load(config, &mut LaidOut { source, lay_out }, Numerics::Serve)
    }
}

/// Hands out another source's weights of linear layers and of the embedding as kernels of ours read them; biases and norms as they are.
struct LaidOut<'a, S> {
    /// Tensors in f32 on the CPU.
    source: &'a mut S,
    lay_out: fn(&Tensor) -> Result<Weight, ModelError>,
}

impl<S: TensorSource> TensorSource for LaidOut<'_, S> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.source.tensor(name, shape)
    }

    fn weight(&mut self, name: &str, shape: (usize, usize)) -> Result<Weight, ModelError> {
        let tensor = self.source.tensor(name, &[shape.0, shape.1])?;
        // Together with what adapts it: nothing is trained like this.
        let layer = name.strip_suffix(".weight").unwrap_or(name);
        (self.lay_out)(&match self.source.adapter(layer, (shape.1, shape.0))? {
            Some(adapter) => adapter.merged(&tensor)?.detach(),
            None => tensor,
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("expected {PRECISIONS}")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}
