//! Keys and values of rows in a GPU's memory, where two launches a layer serve up to thirty groups of a step.
use super::{
    super::cuda::{
        address,
        attention::{self, ROWS_MAX},
        number,
    },
    composed::Layer,
};
use candle_core::{Result, Tensor, bail};

/// Positions by which room for tails grows, so that they are seldom copied.
const ROOM_CHUNK: usize = 64;

/// The tails of a group's rows. The slot of a row that is dropped stays unused: to move the others would take longer than they last.
#[derive(Debug)]
pub(super) struct Tails {
    n_layers: usize,
    /// (`n_layers` · 2 · `n_kv_heads`, slots, room, dim): of each layer keys, then values. None before the first step.
    numbers: Option<Tensor>,
    /// Slots that there are, of rows that were dropped too.
    n_slots: usize,
    /// The slot of each row.
    slots: Vec<u16>,
}

impl Tails {
    /// None: there are more rows than slots have numbers.
    pub(super) fn new(n_layers: usize, n_rows: usize) -> Option<Self> {
        let slots = (0..n_rows).map(u16::try_from).collect::<std::result::Result<_, _>>().ok()?;
        Some(Self { n_layers, numbers: None, n_slots: n_rows, slots })
    }

    pub(super) fn remove(&mut self, row_idx: usize) {
        self.slots.remove(row_idx);
    }

    pub(super) fn clear(&mut self) {
        (self.numbers, self.slots) = (None, Vec::new());
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.numbers.as_ref().map_or(0, |numbers| numbers.elem_count() * numbers.dtype().size_in_bytes())
    }

    /// Makes room for one more than `n_tail` positions of heads like those of `prefix` (`n_kv_heads`, P, dim).
    fn with_room(&mut self, prefix: &Tensor, n_tail: usize) -> Result<&Tensor> {
        let has_room = match &self.numbers {
            Some(numbers) => numbers.dim(2)? > n_tail,
            None => false,
        };
        if !has_room {
            let (n_kv_heads, _, dim) = prefix.dims3()?;
            let shape = (self.n_layers * 2 * n_kv_heads, self.n_slots, n_tail + ROOM_CHUNK, dim);
            let larger = Tensor::zeros(shape, prefix.dtype(), prefix.device())?;
            if let Some(before) = &self.numbers {
                larger.slice_set(before, 2, 0)?;
            }
            self.numbers = Some(larger);
        }
        match &self.numbers {
            Some(numbers) => Ok(numbers),
            None => bail!("tails have no room"),
        }
    }
}

/// Rows of one prompt in one layer, which stand behind one another among the rows of a step.
pub(super) struct Group<'a> {
    pub(super) n_rows: usize,
    pub(super) prefix: &'a Layer,
    pub(super) tails: &'a mut Tails,
    pub(super) n_tail: usize,
}

impl Group<'_> {
    /// The group as the kernel takes it: in parts, where it has more rows than the kernel names at once.
    fn parts(&mut self, layer_idx: usize, first_row: usize) -> Result<Vec<attention::Group>> {
        let (n_kv_heads, n_prefix, _) = self.prefix.key.dims3()?;
        let tails = self.tails.with_room(&self.prefix.key, self.n_tail)?;
        let of =
            |place: usize| address(&tails.narrow(0, (2 * layer_idx + place) * n_kv_heads, n_kv_heads)?);
        let mut whole = of_prefix(self.prefix, n_prefix)?;
        whole.tails = [of(0)?, of(1)?];
        whole.is_prompt = 0;
        (whole.tail_rows, whole.tail_room) = (number(tails.dim(1)?)?, number(tails.dim(2)?)?);
        whole.n_tail = number(self.n_tail)?;
        let parts = self.tails.slots.chunks(ROWS_MAX).zip((first_row..).step_by(ROWS_MAX));
        parts.map(|(slots, first_row)| whole.of_rows(first_row, slots)).collect()
    }
}

/// Attends one new token per row in all groups, and before them in the same tensors some positions of a prompt, whose keys and
/// values `beside` has already, behind the first `n_known`: `query` (T, `n_heads`, dim), `key`, `value` (T, `n_kv_heads`, dim), in the groups' order.
/// Returns (T, `n_heads` · dim).
pub(super) fn step(
    layer_idx: usize,
    (query, key, value): (&Tensor, &Tensor, &Tensor),
    groups: Vec<Group<'_>>,
    beside: Option<(&Layer, usize)>,
) -> Result<Tensor> {
    let n_all = query.dim(0)?;
    let n_of_groups: usize = groups.iter().map(|group| group.n_rows).sum();
    let Some(mut n_rows) = n_all.checked_sub(n_of_groups) else {
        bail!("groups have {n_of_groups} rows, {n_all} came")
    };
    let mut parts = Vec::with_capacity(groups.len() + 1);
    match beside {
        Some((prefix, n_known)) if n_rows > 0 => {
            let mut group = of_prefix(prefix, n_known + 1)?;
            group.n_rows = number(n_rows)?;
            parts.push(group);
        }
        None if n_rows > 0 => bail!("groups have {n_of_groups} rows, {n_all} came"),
        Some(_) | None => {}
    }
    for mut group in groups {
        parts.extend(group.parts(layer_idx, n_rows)?);
        n_rows += group.n_rows;
    }
    attention::attend(&query.contiguous()?, (&key.contiguous()?, &value.contiguous()?), &parts)
}

/// Attends the last T positions of a prompt behind the first `n_known`: `query` (T, `n_heads`, dim), `key`, `value` (T, `n_kv_heads`, dim), which
/// `prefix` has already. Returns (T, `n_heads` · dim).
pub(super) fn prompt(prefix: &Layer, new: (&Tensor, &Tensor, &Tensor), n_known: usize) -> Result<Tensor> {
    step(0, new, Vec::new(), Some((prefix, n_known)))
}

/// Rows that are positions of a prompt, of which the first sees `n_seen`.
fn of_prefix(prefix: &Layer, n_seen: usize) -> Result<attention::Group> {
    Ok(attention::Group {
        prefix: [address(&prefix.key)?, address(&prefix.value)?],
        tails: [0; 2],
        prefix_room: number(prefix.key.dim(1)?)?,
        n_prefix: number(n_seen)?,
        is_prompt: 1,
        tail_rows: 0,
        tail_room: 0,
        n_tail: 0,
        first_row: 0,
        n_rows: 0,
        slots: [0; ROWS_MAX],
    })
}
