//! Attention on a GPU in two launches for up to thirty groups of a step; the kernels stand in `attention.cu`.
use super::{DIM_MAX, Kernel, address, number, ptx, takes as takes_width, unwritten};
use candle_core::{
    DType, Result, Tensor,
    cuda::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg},
};
use std::ops::Range;

// The same numbers stand in `attention.cu`, with their reasons.
const GROUPS_MAX: usize = 30;
/// Rows of a group that one launch names; a larger group is several.
pub(in super::super) const ROWS_MAX: usize = 32;
const THREADS: u32 = 128;
const WARPS: usize = 4;
const QUERIES: usize = 32;
const PIECE: usize = 64;
/// Rows of a prompt in a launch: enough to fill a card.
const PROMPT_ROWS: usize = 512;

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
    /// Pieces of the prefix that its rows see.
    fn pieces_of_prefix(&self) -> usize {
        let more = if self.is_prompt == 1 { self.n_rows - 1 } else { 0 };
        count(self.n_prefix + more).div_ceil(PIECE)
    }

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
struct Shape {
    n_heads: i32,
    n_kv_heads: i32,
    dim: i32,
    scale: f32,
    /// Of all groups.
    n_rows: i32,
    /// Of the row that has the most.
    n_pieces: i32,
}

#[allow(unsafe_code, reason = "kernel arguments are bytes")]
// SAFETY: plain numbers, laid out as in `attention.cu`.
unsafe impl DeviceRepr for Groups {}
#[allow(unsafe_code, reason = "kernel arguments are bytes")]
// SAFETY: as above.
unsafe impl DeviceRepr for Shape {}

/// Whether the kernels take heads (.., dim).
pub(in super::super) fn takes(tensor: &Tensor) -> bool {
    takes_width(tensor) && tensor.dims().last().is_some_and(|&dim| dim <= DIM_MAX)
}

/// Attends rows, `query` (R, `n_heads`, dim) and their new `key`, `value` (R, `n_kv_heads`, dim), all contiguous. Returns (R, `n_heads` · dim).
///
/// New keys and values of rows that have tails are written there. Groups have every row.
pub(in super::super) fn attend(
    query: &Tensor,
    (key, value): (&Tensor, &Tensor),
    groups: &[Group],
) -> Result<Tensor> {
    let (n_rows, n_heads, dim) = query.dims3()?;
    let parts = parts_of(groups, n_rows)?;
    let n_floats = |part: &Part| part.rows.len() * n_heads * n_pieces(&part.groups) * (dim + 2);
    // Behind the output, of each piece a sum of values, the largest score and the sum of weights, in f32.
    let (n_outputs, n_floats) = (n_rows * n_heads * dim, parts.iter().map(n_floats).max().unwrap_or(0));
    let n_more = n_floats * DType::F32.size_in_bytes() / query.dtype().size_in_bytes();
    let all = unwritten(query, query.dtype(), n_outputs + n_more)?;
    let output = all.narrow(0, 0, n_outputs)?.reshape((n_rows, n_heads * dim))?;
    let pieces = all.narrow(0, n_outputs, n_more)?;
    for Part { rows, groups } in parts {
        let of_part = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
        attend_groups([&of_part(query)?, key, value, &of_part(&output)?, &pieces], &groups)?;
    }
    Ok(output)
}

/// Groups of one launch, whose rows are counted from the first of some.
struct Part {
    rows: Range<usize>,
    groups: Vec<Group>,
}

/// Prompts by themselves, for they have many rows and few groups, so that both kinds in one launch would be mostly blocks without work; and long ones
/// by parts, for the room of pieces grows with rows times positions.
fn parts_of(groups: &[Group], n_rows: usize) -> Result<Vec<Part>> {
    let (prompts, steps): (Vec<Group>, Vec<Group>) =
        groups.iter().copied().partition(|group| group.is_prompt == 1);
    let steps = steps.chunks(GROUPS_MAX).map(|groups| Part { rows: 0..n_rows, groups: groups.to_vec() });
    let mut parts: Vec<Part> = steps.collect();
    for prompt in prompts {
        for start in (0..count(prompt.n_rows)).step_by(PROMPT_ROWS) {
            let n_rows = PROMPT_ROWS.min(count(prompt.n_rows) - start);
            let first_row = count(prompt.first_row) + start;
            let mut part = prompt;
            (part.first_row, part.n_rows) = (0, number(n_rows)?);
            part.n_prefix += number(start)?;
            parts.push(Part { rows: first_row..first_row + n_rows, groups: vec![part] });
        }
    }
    Ok(parts)
}

/// Of the row that has the most.
fn n_pieces(groups: &[Group]) -> usize {
    let of = |group: &Group| group.pieces_of_prefix() + usize::from(group.is_prompt == 0);
    groups.iter().map(of).max().unwrap_or(0)
}

fn attend_groups([query, key, value, output, pieces]: [&Tensor; 5], groups: &[Group]) -> Result<()> {
    let (n_rows, n_heads, dim) = query.dims3()?;
    let (_, n_kv_heads, _) = key.dims3()?;
    let most = |of: &dyn Fn(&Group) -> usize| groups.iter().map(of).max().unwrap_or(0);
    let rows_of_group = most(&|group| count(group.n_rows));
    let blocks_of_group =
        most(&|group| group.pieces_of_prefix() + if group.is_prompt == 0 { count(group.n_rows) } else { 0 });
    let query_blocks = (rows_of_group * n_heads / n_kv_heads).div_ceil(QUERIES);
    #[allow(clippy::cast_precision_loss, reason = "head widths are small")]
    let scale = 1.0 / (dim as f32).sqrt();
    let shape = Shape {
        n_heads: number(n_heads)?,
        n_kv_heads: number(n_kv_heads)?,
        dim: number(dim)?,
        scale,
        n_rows: number(n_rows)?,
        n_pieces: number(n_pieces(groups))?,
    };
    let mut all = Groups([groups[0]; GROUPS_MAX]);
    all.0[..groups.len()].copy_from_slice(groups);
    let [query_at, key_at, value_at, output_at] = [query, key, value, output].map(address);
    let (query_at, key_at, value_at, output_at) = (query_at?, key_at?, value_at?, output_at?);
    let pieces_at = address(pieces)?;
    let module = ("newshound_attention", ptx::ATTENTION);

    let attend = Kernel::of(query, module, "attend")?;
    let mut launch = attend.builder();
    launch.arg(&query_at).arg(&key_at).arg(&value_at).arg(&pieces_at).arg(&all).arg(&shape);
    let config = blocks(blocks_of_group, groups.len(), n_kv_heads * query_blocks)?;
    #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
    // SAFETY: arguments are those of `attention.cu`; who makes a group vouches for its addresses and lengths, the tensors behind
    // them live until this call returns, and the one stream of the device keeps the order of what is done to them.
    unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;

    let merge = Kernel::of(query, module, "merge")?;
    let mut launch = merge.builder();
    launch.arg(&pieces_at).arg(&output_at).arg(&all).arg(&shape);
    let config = blocks(rows_of_group, groups.len(), n_heads.div_ceil(WARPS))?;
    #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
    // SAFETY: as above.
    unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
    Ok(())
}

fn blocks(x: usize, y: usize, z: usize) -> Result<LaunchConfig> {
    let grid_dim = (u32::try_from(x)?, u32::try_from(y)?, u32::try_from(z)?);
    Ok(LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 })
}

/// A count of a kernel's, which is never negative.
fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}
