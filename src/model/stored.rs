//! One safetensors file in memory: its header is checked against its bytes before any tensor is read.
use super::{int8, weights::ModelError};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use safetensors::{
    Dtype,
    tensor::{TensorInfo, View},
};
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

/// A header above this is refused: the largest published checkpoints stay below 1 MiB per file.
const HEADER_BYTES_MAX: usize = 16 * 1024 * 1024;
const LENGTH_BYTES: usize = 8;
const METADATA_KEY: &str = "__metadata__";

/// A checked safetensors file.
#[derive(Debug)]
pub(super) struct StoredFile {
    name: String,
    bytes: Cow<'static, [u8]>,
    data_start: usize,
    tensors: BTreeMap<String, TensorInfo>,
}

impl StoredFile {
    /// Reads the header and checks that the tensors it lists cover the file exactly, without gap or overlap.
    ///
    /// # Errors
    /// `Unreadable`, naming the file and, where one is at fault, the tensor.
    pub(super) fn parse(name: String, bytes: Cow<'static, [u8]>) -> Result<Self, ModelError> {
        let (data_start, tensors) =
            read_header(&bytes).map_err(|reason| ModelError::Unreadable { file: name.clone(), reason })?;
        Ok(Self { name, bytes, data_start, tensors })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Names of what can be read; the scales of a weight in 8 bits belong to it.
    pub(super) fn tensor_names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys().filter(|name| {
            let weight = name.strip_suffix(SCALE_SUFFIX).and_then(|weight| self.tensors.get(weight));
            weight.is_none_or(|weight| weight.dtype != Dtype::I8)
        })
    }

    pub(super) fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|info| info.shape.as_slice())
    }

    /// Reads one tensor into `dtype`, through f32 on the host.
    ///
    /// # Errors
    /// If it is missing, has another shape, is stored in a dtype that is no float of 16 or 32 bits, or holds
    /// a value that is not finite in `dtype`.
    pub(super) fn read(
        &self,
        tensor: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        let missing = || ModelError::MissingTensor { file: self.name.clone(), tensor: tensor.to_owned() };
        let info = self.tensors.get(tensor).ok_or_else(missing)?;
        if info.shape != shape {
            return Err(ModelError::WrongShape {
                file: self.name.clone(),
                tensor: tensor.to_owned(),
                got: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let values = match (info.dtype, shape) {
            (Dtype::I8, &[n_out, n_in]) => self.read_rounded(tensor, (n_out, n_in))?,
            _ => widen(self.data(info), info.dtype).ok_or_else(|| self.unreadable(format!(
                "tensor {tensor} is stored as {:?}; F32, F16 and BF16 can be read, and I8 with a scale per output",
                info.dtype
            )))?,
        };
        if !all_finite(&values, dtype) {
            return Err(ModelError::NotFinite { file: self.name.clone(), tensor: tensor.to_owned() });
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    }

    fn data(&self, info: &TensorInfo) -> &[u8] {
        let (start, end) = info.data_offsets;
        &self.bytes[self.data_start + start..self.data_start + end]
    }

    fn unreadable(&self, reason: String) -> ModelError {
        ModelError::Unreadable { file: self.name.clone(), reason }
    }

    /// Whether a weight is stored in 8 bits.
    pub(super) fn is_rounded(&self) -> bool {
        self.tensors.values().any(|info| info.dtype == Dtype::I8)
    }

    /// Reads a weight (out, in) that is stored in 8 bits, each output in steps of its own size.
    fn read_rounded(&self, tensor: &str, (n_out, n_in): (usize, usize)) -> Result<Vec<f32>, ModelError> {
        let name = format!("{tensor}{SCALE_SUFFIX}");
        let info = self
            .tensors
            .get(&name)
            .ok_or_else(|| ModelError::MissingTensor { file: self.name.clone(), tensor: name.clone() })?;
        let n_scales: usize = info.shape.iter().product();
        let scales = widen(self.data(info), info.dtype).filter(|_| n_scales == n_out).ok_or_else(|| {
            let reason =
                format!("{name} has shape {:?} as {:?}, expected {n_out} floats", info.shape, info.dtype);
            self.unreadable(reason)
        })?;
        let bytes = self.tensors.get(tensor).map_or(&[][..], |info| self.data(info));
        let rows = bytes.chunks_exact(n_in.max(1)).zip(scales);
        let values =
            rows.flat_map(|(row, scale)| row.iter().map(move |&byte| f32::from(byte.cast_signed()) * scale));
        Ok(values.collect())
    }
}

/// Behind a weight's name: the sizes of its outputs' steps, (out, 1). Source: compressed-tensors, as vLLM and others read it.
const SCALE_SUFFIX: &str = "_scale";

/// Writes tensors as one safetensors file, sorted by name: matrices in 8 bits with a scale per output, all else in f32.
///
/// # Errors
/// `NotFinite` for a value that is not.
pub(super) fn write_rounded(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, ModelError> {
    let mut stored = Vec::with_capacity(2 * tensors.len());
    for (name, tensor) in tensors {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if !all_finite(&values, DType::F32) {
            return Err(ModelError::NotFinite { file: OUTPUT_NAME.to_owned(), tensor: name.clone() });
        }
        let shape = tensor.dims().to_vec();
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let &[n_out, n_in] = shape.as_slice() {
            let (bytes, scales) = int8::rounded(&values, n_in);
            let bytes = bytes.iter().map(|byte| byte.cast_unsigned()).collect();
            stored.push((name.clone(), Narrowed { dtype: Dtype::I8, shape, bytes }));
            let scales = Narrowed { dtype: Dtype::F32, shape: vec![n_out, 1], bytes: floats(&scales) };
            stored.push((format!("{name}{SCALE_SUFFIX}"), scales));
        } else {
            stored.push((name.clone(), Narrowed { dtype: Dtype::F32, shape, bytes: floats(&values) }));
        }
    }
    serialize(stored)
}

/// Writes tensors as one safetensors file in `dtype` (f32, f16 or bf16), sorted by name: same values, same bytes.
///
/// # Errors
/// `Unreadable` for another dtype; `NotFinite` for a value that `dtype` cannot hold.
pub(super) fn write(tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Result<Vec<u8>, ModelError> {
    let unreadable = |reason: String| ModelError::Unreadable { file: OUTPUT_NAME.to_owned(), reason };
    let mut narrowed = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if !all_finite(&values, dtype) {
            return Err(ModelError::NotFinite { file: OUTPUT_NAME.to_owned(), tensor: name.clone() });
        }
        let (dtype, bytes) = narrow(&values, dtype)
            .ok_or_else(|| unreadable(format!("cannot be written as {dtype:?}; use f32, f16 or bf16")))?;
        narrowed.push((name.clone(), Narrowed { dtype, shape: tensor.dims().to_vec(), bytes }));
    }
    serialize(narrowed)
}

fn serialize(tensors: Vec<(String, Narrowed)>) -> Result<Vec<u8>, ModelError> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| ModelError::Unreadable { file: OUTPUT_NAME.to_owned(), reason: error.to_string() })
}

const OUTPUT_NAME: &str = "safetensors output";

struct Narrowed {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Narrowed {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn read_header(bytes: &[u8]) -> Result<(usize, BTreeMap<String, TensorInfo>), String> {
    let length = bytes.first_chunk::<LENGTH_BYTES>().ok_or("is shorter than the length of its header")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "header length overflows")?;
    if length > HEADER_BYTES_MAX {
        return Err(format!("claims a header of {length} bytes, limit is {HEADER_BYTES_MAX}"));
    }
    let data_start = LENGTH_BYTES + length;
    let header = bytes
        .get(LENGTH_BYTES..data_start)
        .ok_or_else(|| format!("claims a header of {length} bytes, file has {}", bytes.len()))?;
    let entries: BTreeMap<String, Value> =
        serde_json::from_slice(header).map_err(|error| format!("header is not a JSON object: {error}"))?;
    let mut tensors = BTreeMap::new();
    for (name, value) in entries.into_iter().filter(|(name, _)| name != METADATA_KEY) {
        let info: TensorInfo =
            serde_json::from_value(value).map_err(|error| format!("tensor {name} in the header: {error}"))?;
        tensors.insert(name, info);
    }
    check_layout(&tensors, bytes.len() - data_start)?;
    Ok((data_start, tensors))
}

fn check_layout(tensors: &BTreeMap<String, TensorInfo>, data_bytes: usize) -> Result<(), String> {
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|(_, info)| info.data_offsets);
    let mut covered = 0;
    for (name, info) in by_offset {
        let (start, end) = info.data_offsets;
        if start != covered || end < start {
            return Err(format!("tensor {name} lies at bytes {start}..{end}, expected a start at {covered}"));
        }
        if end > data_bytes {
            return Err(format!(
                "tensor {name} ends at byte {end}, but the file holds {data_bytes} bytes of data"
            ));
        }
        let n_bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        if n_bits != (end - start).checked_mul(8) {
            return Err(format!(
                "tensor {name} of shape {:?} and {:?} does not fill bytes {start}..{end}",
                info.shape, info.dtype
            ));
        }
        covered = end;
    }
    if covered == data_bytes {
        Ok(())
    } else {
        Err(format!("header describes {covered} bytes of data, file holds {data_bytes}"))
    }
}

fn widen(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    let words = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    // Departs from an exhaustive match: the format's dtype list is open, and all others are refused alike.
    if dtype == Dtype::F32 {
        Some(bytes.as_chunks::<4>().0.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
    } else if dtype == Dtype::F16 {
        let halves: Vec<f16> = words().map(f16::from_bits).collect();
        Some(halves.to_f32_vec())
    } else if dtype == Dtype::BF16 {
        Some(words().map(|bits| bf16::from_bits(bits).to_f32()).collect())
    } else {
        None
    }
}

fn narrow(values: &[f32], dtype: DType) -> Option<(Dtype, Vec<u8>)> {
    if dtype == DType::F32 {
        Some((Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
    } else if dtype == DType::F16 {
        Some((Dtype::F16, values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()))
    } else if dtype == DType::BF16 {
        Some((Dtype::BF16, values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()))
    } else {
        None
    }
}

/// Whether every value is finite, also after rounding to `dtype`.
pub(super) fn all_finite(values: &[f32], dtype: DType) -> bool {
    // 65,520 is the first value that rounds to infinity in f16.
    let limit = if dtype == DType::F16 { 65_519.996 } else { f32::MAX };
    // No early return: the fold vectorises, and almost every tensor is finite.
    values.iter().fold(true, |finite, value| finite & (value.abs() <= limit))
}
