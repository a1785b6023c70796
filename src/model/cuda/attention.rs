//! Attention on a GPU in one launch for up to thirty groups of a step; the kernel stands in `attention.cu`.
use super::{address_of, number, ptx};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor,
    backend::BackendStorage,
    bail,
    cuda::cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg},
    cuda_backend::CudaDType,
};

// The same numbers stand in `attention.cu`, with their reasons.
const GROUPS_MAX: usize = 30;
/// Rows of a group that one launch names; a larger group is several.
pub(in super::super) const ROWS_MAX: usize = 32;
const THREADS: u32 = 128;
const HEADS_MAX: usize = 8;
const DIM_MAX: usize = 128;

/// Some rows of one prompt, as the kernel takes them. Addresses are those of numbers of the queries' dtype on their device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(in super::super) struct Group {
    /// (`n_kv_heads`, `prefix_room`, dim)
    pub(in super::super) prefix: [u64; 2],
    /// Keys and values (`n_kv_heads`, `tail_rows`, `tail_room`, dim); none where rows are positions of the prefix.
    pub(in super::super) tails: [u64; 2],
    pub(in super::super) prefix_room: i32,
    /// Positions of the prefix that the first row sees.
    pub(in super::super) n_prefix: i32,
    /// 1: rows are positions of the prefix one after the other, of which each sees one more.
    pub(in super::super) is_prompt: i32,
    pub(in super::super) tail_rows: i32,
    pub(in super::super) tail_room: i32,
    /// Positions in tails; the kernel writes the next.
    pub(in super::super) n_tail: i32,
    /// Where the group begins among the rows of the queries.
    pub(in super::super) first_row: i32,
    pub(in super::super) n_rows: i32,
    /// Where in the tails each row has its own.
    pub(in super::super) slots: [u16; ROWS_MAX],
}

impl Group {
    /// The group's rows of these slots alone, which begin at a row of the queries.
    pub(in super::super) fn of_rows(&self, first_row: usize, slots: &[u16]) -> Result<Self> {
        let mut part = *self;
        (part.first_row, part.n_rows) = (number(first_row)?, number(slots.len())?);
        part.slots[..slots.len()].copy_from_slice(slots);
        Ok(part)
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Groups([Group; GROUPS_MAX]);

#[derive(Clone, Copy)]
#[repr(C)]
struct Heads {
    n_heads: i32,
    n_kv_heads: i32,
    dim: i32,
    scale: f32,
}

#[allow(unsafe_code, reason = "kernel arguments are bytes")]
// SAFETY: plain numbers, laid out as in `attention.cu`.
unsafe impl DeviceRepr for Groups {}
#[allow(unsafe_code, reason = "kernel arguments are bytes")]
// SAFETY: as above.
unsafe impl DeviceRepr for Heads {}

/// Whether the kernel takes heads (.., dim).
pub(in super::super) fn takes(tensor: &Tensor) -> bool {
    let dim = tensor.dims().last().copied().unwrap_or(0);
    let is_known = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
    tensor.device().is_cuda() && is_known && dim > 0 && dim <= DIM_MAX && dim.is_multiple_of(8)
}

/// Attends rows, `query` (R, `n_heads`, dim) and their new `key`, `value` (R, `n_kv_heads`, dim), all contiguous. Returns (R, `n_heads` · dim).
///
/// New keys and values of rows that have tails are written there.
pub(in super::super) fn attend(
    query: &Tensor,
    (key, value): (&Tensor, &Tensor),
    groups: Vec<Group>,
) -> Result<Tensor> {
    query.apply_op3_no_bwd(key, value, &Attend { groups })
}

struct Attend {
    groups: Vec<Group>,
}

impl Attend {
    fn launch<T: CudaDType + DeviceRepr>(
        &self,
        name: &str,
        operands: [(&CudaStorage, &Layout); 3],
    ) -> Result<(CudaStorage, Shape)> {
        let [(query, layout), (_, key_layout), _] = operands;
        let (n_rows, n_heads, dim) = layout.shape().dims3()?;
        let (_, n_kv_heads, _) = key_layout.shape().dims3()?;
        let [query_at, key_at, value_at] = operands.map(|(storage, layout)| address_of::<T>(storage, layout));
        let (query_at, key_at, value_at) = (query_at?, key_at?, value_at?);
        let device: &CudaDevice = query.device();
        #[allow(unsafe_code, reason = "memory on a device is given out as it is")]
        // SAFETY: the launches below write every row, for the groups have all of them.
        let output = unsafe { device.alloc::<T>(n_rows * n_heads * dim)? };
        let (output_at, _) = output.device_ptr(&device.cuda_stream());
        #[allow(clippy::cast_precision_loss, reason = "head widths are small")]
        let scale = 1.0 / (dim as f32).sqrt();
        let heads =
            Heads { n_heads: number(n_heads)?, n_kv_heads: number(n_kv_heads)?, dim: number(dim)?, scale };
        let parts = (n_heads / n_kv_heads).div_ceil(HEADS_MAX);
        let blocks_of_heads = u32::try_from(n_kv_heads * parts)?;
        let function = device.get_or_load_custom_func(name, "newshound_attention", ptx::ATTENTION)?;
        for groups in self.groups.chunks(GROUPS_MAX) {
            let rows = groups.iter().map(|group| group.n_rows).max().unwrap_or(0);
            let config = LaunchConfig {
                grid_dim: (u32::try_from(rows)?, u32::try_from(groups.len())?, blocks_of_heads),
                block_dim: (THREADS, 1, 1),
                shared_mem_bytes: 0,
            };
            let mut all = Groups([groups[0]; GROUPS_MAX]);
            all.0[..groups.len()].copy_from_slice(groups);
            let mut launch = function.builder();
            launch.arg(&query_at).arg(&key_at).arg(&value_at).arg(&output_at).arg(&all).arg(&heads);
            #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
            // SAFETY: arguments are those of `attention.cu`; who makes a group vouches for its addresses and lengths, the tensors behind
            // them live until this call returns, and the one stream of the device keeps the order of what is done to them.
            unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
        }
        Ok((CudaStorage::wrap_cuda_slice(output, device.clone()), Shape::from((n_rows, n_heads * dim))))
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("attention of the GPU was asked of the CPU")
    }

    fn cuda_fwd(
        &self,
        query: &CudaStorage,
        query_layout: &Layout,
        key: &CudaStorage,
        key_layout: &Layout,
        value: &CudaStorage,
        value_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let operands = [(query, query_layout), (key, key_layout), (value, value_layout)];
        match query.dtype() {
            DType::F32 => self.launch::<f32>("attend_f32", operands),
            DType::F16 => self.launch::<half::f16>("attend_f16", operands),
            DType::BF16 => self.launch::<half::bf16>("attend_bf16", operands),
            dtype => bail!("attention on a GPU takes no {dtype:?}"),
        }
    }
}
