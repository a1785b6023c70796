//! Keys and values, owned by the caller: a prompt's are computed and stored once and shared by every row that forks from it.
//!
//! On the CPU in f32 and 8 bits they lie in plain memory as the kernel wants them (`host`); elsewhere they are tensors (`composed`), on
//! a GPU with a kernel of their own (`card`).
#[cfg(feature = "cuda")]
mod card;
mod composed;
mod host;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    attention::{Attend, WholeRows},
    fused,
    ops::Numerics,
};
use candle_core::{Result, Tensor, bail};
pub(super) use host::Held;
use std::sync::Arc;

/// Products of numbers in bf16 that this processor has for each of f32, where keys and values are held so.
#[must_use]
pub fn rounded_at_once() -> u8 {
    host::Held::Bf16.products_at_once()
}

/// Keys and values of one prompt, layer by layer. Immutable; forks share it.
#[derive(Clone, Debug)]
pub struct Prefix {
    layers: Layers,
    n_positions: usize,
}

#[derive(Clone, Debug)]
enum Layers {
    Host(Vec<host::Layer>),
    Composed(Vec<composed::Layer>),
}

impl Prefix {
    /// Returns the prompt's length in tokens.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Copies the first positions.
    ///
    /// # Errors
    /// If there are fewer, or none are asked for.
    pub fn first(&self, n_positions: usize) -> Result<Self> {
        if n_positions == 0 || n_positions > self.n_positions {
            bail!("{n_positions} of {} positions were asked for", self.n_positions)
        }
        let layers = match &self.layers {
            Layers::Host(layers) => {
                Layers::Host(layers.iter().map(|layer| layer.first(n_positions)).collect())
            }
            Layers::Composed(layers) => {
                Layers::Composed(layers.iter().map(|layer| layer.first(n_positions)).collect::<Result<_>>()?)
            }
        };
        Ok(Self { layers, n_positions })
    }

    /// Returns the device bytes held by keys and values.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        match &self.layers {
            Layers::Host(layers) => layers.iter().map(host::Layer::n_bytes).sum(),
            Layers::Composed(layers) => layers.iter().map(composed::Layer::n_bytes).sum(),
        }
    }
}

/// N rows that fork from one prefix in the same step; their own keys and values are the tail.
#[derive(Debug)]
pub struct Forks {
    prefix: Arc<Prefix>,
    n_rows: usize,
    tails: Tails,
    tail_len: usize,
}

#[derive(Debug)]
enum Tails {
    Host(host::Tails),
    Composed(composed::Tails),
    #[cfg(feature = "cuda")]
    Card(card::Tails),
}

impl Forks {
    /// Forks a prefix into rows. Nothing is copied.
    #[must_use]
    pub fn new(prefix: Arc<Prefix>, n_rows: usize) -> Self {
        let tails = prefix.layers.tails(n_rows);
        Self { prefix, n_rows, tails, tail_len: 0 }
    }

    /// Returns how many rows there are.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Drops a row; later rows move down by one.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn drop_row(&mut self, row_idx: usize) -> Result<()> {
        if row_idx >= self.n_rows {
            bail!("row {row_idx} of {} cannot be dropped", self.n_rows)
        }
        self.n_rows -= 1;
        match (&mut self.tails, self.n_rows) {
            (Tails::Host(tails), 0) => tails.clear(),
            (Tails::Host(tails), _) => tails.remove(row_idx),
            (Tails::Composed(tails), 0) => tails.clear(),
            (Tails::Composed(tails), _) => tails.remove(row_idx)?,
            #[cfg(feature = "cuda")]
            (Tails::Card(tails), 0) => tails.clear(),
            #[cfg(feature = "cuda")]
            (Tails::Card(tails), _) => tails.remove(row_idx),
        }
        Ok(())
    }

    /// Returns the device bytes held by the rows' own keys and values; the prefix is not counted.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        match &self.tails {
            Tails::Host(tails) => tails.n_bytes(),
            Tails::Composed(tails) => tails.n_bytes(),
            #[cfg(feature = "cuda")]
            Tails::Card(tails) => tails.n_bytes(),
        }
    }

    /// The prefix that the rows share.
    #[must_use]
    pub fn prefix(&self) -> &Arc<Prefix> {
        &self.prefix
    }

    /// Position of the next token: prompt and tail together.
    pub(super) fn next_position(&self) -> usize {
        self.prefix.n_positions + self.tail_len
    }

    /// Counts the position that every layer has written.
    pub(super) fn advance(&mut self) {
        self.tail_len += 1;
    }

    /// This group as the kernels take it; none where it has no rows left or lies elsewhere.
    fn on_host(&mut self, layer_idx: usize) -> Option<host::Group<'_>> {
        let (Layers::Host(layers), Tails::Host(tails)) = (&self.prefix.layers, &mut self.tails) else {
            return None;
        };
        let (n_rows, n_prefix, n_tail) = (self.n_rows, self.prefix.n_positions, self.tail_len);
        let prefix = layers.get(layer_idx)?;
        (n_rows > 0).then_some(host::Group { n_rows, prefix, n_prefix, tails, n_tail })
    }

    /// The same of a group on a GPU.
    #[cfg(feature = "cuda")]
    fn on_card(&mut self, layer_idx: usize) -> Option<card::Group<'_>> {
        let (n_rows, n_tail) = (self.n_rows, self.tail_len);
        let prefix = self.prefix.layers.composed(layer_idx)?;
        let Tails::Card(tails) = &mut self.tails else { return None };
        (n_rows > 0).then_some(card::Group { n_rows, prefix, tails, n_tail })
    }
}

/// Attention of a prompt that keeps its keys and values, behind the first positions of one that is known already.
#[derive(Debug)]
pub(super) struct Prefill<'a> {
    known: Option<&'a Prefix>,
    n_known: usize,
    rows: WholeRows,
    held: Held,
    layers: Option<Layers>,
}

impl<'a> Prefill<'a> {
    /// `n_positions` in all, of which the first `n_known` are those of `known`. `held`: how the kernel of the CPU holds them.
    pub(super) fn new(n_positions: usize, known: Option<&'a Prefix>, n_known: usize, held: Held) -> Self {
        let rows = WholeRows::new(n_positions, None, Numerics::Serve);
        Self { known, n_known, rows, held, layers: None }
    }

    /// Keeps keys and values (1, T, `n_kv_heads`, `head_dim`) of one layer; layers come in their order.
    fn keep(&mut self, layer_idx: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        // A cache outlives the call, so it must not keep a graph alive.
        let (key, value) = (key.detach(), value.detach());
        let layers = self.layers.get_or_insert_with(|| {
            if fused::takes(&key) { Layers::Host(Vec::new()) } else { Layers::Composed(Vec::new()) }
        });
        let known = self.known.map(|known| &known.layers);
        match (layers, known) {
            (Layers::Host(layers), None | Some(Layers::Host(_))) => {
                let known = known.and_then(|known| known.host(layer_idx));
                layers.push(host::Layer::after((known, self.n_known), (&key, &value), self.held)?);
            }
            (Layers::Composed(layers), None | Some(Layers::Composed(_))) => {
                let known = known.and_then(|known| known.composed(layer_idx));
                layers.push(composed::Layer::after(known, self.n_known, &key, &value)?);
            }
            _ => bail!("the known positions lie on another device"),
        }
        Ok(())
    }

    /// What the kernel of the GPU sees of the layer that was kept last, and how many positions of it were known.
    #[cfg(feature = "cuda")]
    fn on_card(&self, layer_idx: usize) -> Option<(&composed::Layer, usize)> {
        let layer = self.layers.as_ref()?.composed(layer_idx)?;
        Some((layer, self.n_known))
    }

    pub(super) fn into_prefix(self, n_positions: usize) -> Result<Prefix> {
        match self.layers {
            Some(layers) => Ok(Prefix { layers, n_positions }),
            None => bail!("a prompt went through no layer"),
        }
    }
}

impl Attend for Prefill<'_> {
    fn attend(&mut self, layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        self.keep(layer_idx, key, value)?;
        let n_before = self.n_known + key.dim(1)? - query.dim(1)?;
        match &self.layers {
            Some(Layers::Host(layers)) => host::prompt(query, &layers[layer_idx], n_before),
            Some(Layers::Composed(layers)) => {
                #[cfg(feature = "cuda")]
                if cuda::attention::takes(query) {
                    let rows = |tensor: &Tensor| tensor.squeeze(0);
                    let new = (&rows(query)?, &rows(key)?, &rows(value)?);
                    return card::prompt(&layers[layer_idx], new, n_before)?.unsqueeze(0);
                }
                layers[layer_idx].attend(&mut self.rows, query)
            }
            None => bail!("a prompt went through no layer"),
        }
    }
}

impl Layers {
    fn host(&self, layer_idx: usize) -> Option<&host::Layer> {
        match self {
            Self::Host(layers) => layers.get(layer_idx),
            Self::Composed(_) => None,
        }
    }

    fn composed(&self, layer_idx: usize) -> Option<&composed::Layer> {
        match self {
            Self::Host(_) => None,
            Self::Composed(layers) => layers.get(layer_idx),
        }
    }

    /// Empty tails of rows that fork from these.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "only a GPU's slots have numbers"))]
    fn tails(&self, n_rows: usize) -> Tails {
        match self {
            Self::Host(_) => Tails::Host(host::Tails::default()),
            #[cfg(feature = "cuda")]
            Self::Composed(layers) if layers.first().is_some_and(composed::Layer::suits_card) => {
                match card::Tails::new(layers.len(), n_rows) {
                    Some(tails) => Tails::Card(tails),
                    None => Tails::Composed(composed::Tails::default()),
                }
            }
            Self::Composed(_) => Tails::Composed(composed::Tails::default()),
        }
    }
}

/// Attention of one new token per row, in all groups.
#[derive(Debug)]
pub(super) struct Step<'a, 'b> {
    pub(super) groups: &'a mut [&'b mut Forks],
}

#[cfg(feature = "cuda")]
impl Step<'_, '_> {
    fn is_on_card(&self) -> bool {
        self.groups.iter().all(|group| matches!(group.tails, Tails::Card(_)))
    }

    fn on_card(&mut self, layer_idx: usize) -> Vec<card::Group<'_>> {
        self.groups.iter_mut().filter_map(|group| group.on_card(layer_idx)).collect()
    }
}

impl Attend for Step<'_, '_> {
    fn attend(&mut self, layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (query, key, value) = (query.detach(), key.detach(), value.detach());
        if fused::takes(&query) {
            let mut groups: Vec<host::Group<'_>> =
                self.groups.iter_mut().filter_map(|group| group.on_host(layer_idx)).collect();
            return host::step(layer_idx, (&query, &key, &value), &mut groups);
        }
        #[cfg(feature = "cuda")]
        if self.is_on_card() {
            let rows = |tensor: &Tensor| tensor.squeeze(1);
            let new = (&rows(&query)?, &rows(&key)?, &rows(&value)?);
            return card::step(layer_idx, new, self.on_card(layer_idx), None)?.unsqueeze(1);
        }
        let mut attended = Vec::with_capacity(self.groups.len());
        let mut first = 0;
        for group in self.groups.iter_mut().filter(|group| group.n_rows > 0) {
            let rows = |tensor: &Tensor| tensor.narrow(0, first, group.n_rows);
            let (Layers::Composed(layers), Tails::Composed(tails)) = (&group.prefix.layers, &mut group.tails)
            else {
                bail!("a group lies on another device")
            };
            let Some(prefix) = layers.get(layer_idx) else { bail!("a prompt has no layer {layer_idx}") };
            let new = (&rows(&query)?, &rows(&key)?, &rows(&value)?);
            attended.push(tails.attend(layer_idx, new, prefix, group.tail_len)?);
            first += group.n_rows;
        }
        match attended.as_slice() {
            [only] => Ok(only.clone()),
            groups => Tensor::cat(groups, 0),
        }
    }
}

/// Attention of a step and, before it in the same tensors, of some positions of a prompt.
#[derive(Debug)]
pub(super) struct Beside<'a, 'b> {
    pub(super) prompt: Prefill<'a>,
    /// Positions of the prompt.
    pub(super) n_positions: usize,
    pub(super) step: Step<'a, 'b>,
}

impl Attend for Beside<'_, '_> {
    /// `key` (1, positions + rows, n_kv_heads, head_dim), and so on. Where only rows are asked for, the prompt's keys and values are kept.
    fn attend(&mut self, layer_idx: usize, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let n_positions = self.n_positions;
        let n_rows = key.dim(1)? - n_positions;
        let of_prompt = |tensor: &Tensor| tensor.narrow(1, 0, n_positions)?.contiguous();
        // A step has a row for each, of one position.
        let of_rows = |tensor: &Tensor| {
            tensor.narrow(1, tensor.dim(1)? - n_rows, n_rows)?.contiguous()?.transpose(0, 1)
        };
        let (key_of_prompt, value_of_prompt) = (of_prompt(key)?, of_prompt(value)?);
        #[cfg(feature = "cuda")]
        if self.step.is_on_card() {
            self.prompt.keep(layer_idx, &key_of_prompt, &value_of_prompt)?;
            let n_asked = query.dim(1)?;
            let asked = |tensor: &Tensor| tensor.narrow(1, tensor.dim(1)? - n_asked, n_asked)?.squeeze(0);
            let new = (&asked(query)?, &asked(key)?, &asked(value)?);
            let groups = self.step.on_card(layer_idx);
            return card::step(layer_idx, new, groups, self.prompt.on_card(layer_idx))?.unsqueeze(0);
        }
        let prompt = if query.dim(1)? > n_rows {
            Some(self.prompt.attend(layer_idx, &of_prompt(query)?, &key_of_prompt, &value_of_prompt)?)
        } else {
            self.prompt.keep(layer_idx, &key_of_prompt, &value_of_prompt)?;
            None
        };
        let rows = self.step.attend(layer_idx, &of_rows(query)?, &of_rows(key)?, &of_rows(value)?)?;
        let rows = rows.transpose(0, 1)?;
        prompt.map_or(Ok(rows.clone()), |prompt| Tensor::cat(&[prompt, rows], 1))
    }
}
