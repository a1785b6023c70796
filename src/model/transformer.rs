//! The one decoder definition, for serving and for training.
mod layer;
mod output;
mod packed;

pub use packed::{Beginning, Packed};

use super::{
    attention::{Attend, PackedRows, WholeRows},
    config::DecoderConfig,
    kv_cache::{Beside, Forks, Held, Prefill, Prefix, Step},
    linear::{Bias, Linear, Weight},
    ops::{self, Numerics},
    rotary::{Rotary, Rotation},
    weights::{ModelError, TensorSource},
    workers::awake,
};
use candle_core::{DType, Device, Result, Tensor, bail};
use layer::{Layer, Taken, last};

/// A decoder of one of the supported families: token ids in, hidden states and logits out.
#[derive(Debug)]
pub struct Transformer {
    config: DecoderConfig,
    numerics: Numerics,
    rotary: Rotary,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Absent where only hidden states are asked for. While it learns it has every token, also those that are never written.
    head: Option<Linear>,
}

impl Transformer {
    /// Builds a decoder with its output head.
    ///
    /// With `Numerics::Serve` the weights are taken out of any graph, so that a loss computed from this network has no gradient; what
    /// becomes of the source's values later may be seen or not. With `Numerics::Train` every tensor gets a gradient.
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(
        config: &DecoderConfig,
        source: &mut dyn TensorSource,
        numerics: Numerics,
    ) -> std::result::Result<Self, ModelError> {
        let mut decoder = Self::load_body(config, source, numerics)?;
        let head = if config.tied_head {
            Linear::tied(decoder.embedding.clone())
        } else {
            let shape = (config.hidden_size, config.vocab_size);
            Linear::load(&mut Taken { source, numerics }, "lm_head", shape, Bias::Absent)?
        };
        decoder.head = Some(match numerics {
            Numerics::Serve => output::pruned(&head, &config.output_ids)?,
            Numerics::Train => head,
        });
        Ok(decoder)
    }

    /// Builds a decoder that has hidden states, but no logits.
    pub(super) fn load_body(
        config: &DecoderConfig,
        source: &mut dyn TensorSource,
        numerics: Numerics,
    ) -> std::result::Result<Self, ModelError> {
        // Embedding models are published without the outer name.
        let bare = !source.contains("model.embed_tokens.weight") && source.contains("embed_tokens.weight");
        let prefix = if bare { "" } else { "model." };
        let mut source = Taken { source, numerics };
        let embedding = source
            .weight(&format!("{prefix}embed_tokens.weight"), (config.vocab_size, config.hidden_size))?;
        let layer = |layer_idx| {
            let name = format!("{prefix}layers.{layer_idx}");
            let layer = Layer::load(config, &mut source, &name)?;
            Ok(match numerics {
                Numerics::Serve => layer.laid_out()?,
                Numerics::Train => layer,
            })
        };
        let layers = (0..config.n_layers).map(layer).collect::<std::result::Result<Vec<_>, ModelError>>()?;
        let norm = source.tensor(&format!("{prefix}norm.weight"), &[config.hidden_size])?;
        let rotary = Rotary::new(config);
        Ok(Self { config: config.clone(), numerics, rotary, embedding, layers, norm, head: None })
    }

    /// The shape it was built with.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Computes hidden states (B, T, D) after the final norm of whole rows, causal.
    ///
    /// `ids` (B, T) u32. `mask` (B, T), 1 where a token is real, left or right padded; positions count real tokens.
    /// None: all real. Hidden states of padding are finite and mean nothing.
    /// # Errors
    /// If shapes differ, a row is empty or longer than the model's positions, or an id is not below the vocabulary.
    pub fn hidden(&self, ids: &Tensor, mask: Option<&Tensor>) -> std::result::Result<Tensor, ModelError> {
        let (n_rows, n_positions) = ids.dims2()?;
        self.check_length(n_positions)?;
        let device = self.device();
        let (rotation, real) = match mask {
            None => {
                let positions: Vec<u32> = (0..).take(n_positions).collect();
                (self.rotary.at(&positions, &[n_positions], self.embedding.dtype(), device)?, None)
            }
            Some(mask) => {
                let (positions, real) = read_mask(mask, n_rows, n_positions)?;
                let leading = [n_rows, n_positions];
                (self.rotary.at(&positions, &leading, self.embedding.dtype(), device)?, Some(real))
            }
        };
        let mut rows = WholeRows::new(n_positions, real.map(Into::into), self.numerics);
        Ok(self.run(ids, &rotation, &mut rows, n_positions)?)
    }

    /// Computes hidden states (1, T, D) after the final norm of packed sequences, causal within each.
    ///
    /// # Errors
    /// If nothing is packed, a sequence is longer than the model's positions, or an id is not below the vocabulary.
    pub fn hidden_of(&self, packed: &Packed) -> std::result::Result<Tensor, ModelError> {
        self.check_length(packed.longest())?;
        self.check_ids(packed.ids())?;
        let n_tokens = packed.ids().len();
        let rotation =
            self.rotary.at(packed.positions(), &[n_tokens], self.embedding.dtype(), self.device())?;
        let ids = Tensor::from_slice(packed.ids(), (1, n_tokens), self.device())?;
        let mut rows = PackedRows::new(packed.spans(), self.numerics);
        Ok(self.run(&ids, &rotation, &mut rows, n_tokens)?)
    }

    /// Computes a prompt's keys and values; returns them and the hidden state (1, D) of its last position.
    ///
    /// # Errors
    /// If the prompt is empty or longer than the model's positions, or an id is not below the vocabulary.
    pub fn prefill(&self, ids: &[u32]) -> std::result::Result<(Prefix, Tensor), ModelError> {
        self.prefill_behind(ids, None, 0)
    }

    /// The same for a prompt whose first `n_known` ids are those of `known`: only what follows is computed.
    ///
    /// # Errors
    /// As for `prefill`; if nothing follows, or `known` has fewer positions or is of another network.
    pub fn prefill_after(
        &self,
        known: &Prefix,
        n_known: usize,
        ids: &[u32],
    ) -> std::result::Result<(Prefix, Tensor), ModelError> {
        self.prefill_behind(ids, Some(known), n_known)
    }

    /// How keys and values are held on the CPU.
    fn held(&self) -> Held {
        match self.embedding {
            Weight::Int8(_) => Held::Bf16,
            Weight::Plain(_) | Weight::Packed(_) => Held::F32,
        }
    }

    fn check_known(
        &self,
        known: Option<&Prefix>,
        n_known: usize,
        ids: &[u32],
    ) -> std::result::Result<(), ModelError> {
        self.check_length(ids.len())?;
        self.check_ids(ids)?;
        let n_there = known.map_or(0, Prefix::n_positions);
        if n_known >= ids.len() || n_known > n_there {
            let n_ids = ids.len();
            return Err(message(format!("{n_known} of {n_ids} positions should be known, {n_there} are")));
        }
        Ok(())
    }

    fn prefill_behind(
        &self,
        ids: &[u32],
        known: Option<&Prefix>,
        n_known: usize,
    ) -> std::result::Result<(Prefix, Tensor), ModelError> {
        self.check_known(known, n_known, ids)?;
        let (n_positions, n_new) = (ids.len(), ids.len() - n_known);
        let positions: Vec<u32> = (0..).take(n_positions).skip(n_known).collect();
        let rotation = self.rotary.at(&positions, &[n_new], self.embedding.dtype(), self.device())?;
        let mut prefill = Prefill::new(n_positions, known, n_known, self.held());
        let ids = Tensor::from_slice(&ids[n_known..], (1, n_new), self.device())?;
        let last = self.run(&ids, &rotation, &mut prefill, 1)?.detach().squeeze(1)?;
        Ok((prefill.into_prefix(n_positions)?, last))
    }

    /// Feeds one token to every row of every group (ids in group order, then row order); returns hidden states (R, D) in that order.
    ///
    /// On an error no group has moved, and the step can be tried again.
    /// # Errors
    /// If there is not one id per row, an id is not below the vocabulary, or a row stands at the last position.
    pub fn step(&self, groups: &mut [&mut Forks], ids: &[u32]) -> std::result::Result<Tensor, ModelError> {
        let rotation = self.step_rotation(groups, ids, &[])?;
        let tensor = Tensor::from_slice(ids, (ids.len(), 1), self.device())?;
        // A step has a row for each, of one position.
        let rotation = rotation.of_rows()?;
        let hidden = self.run(&tensor, &rotation, &mut Step { groups: &mut *groups }, 1)?.detach();
        groups.iter_mut().for_each(|group| group.advance());
        Ok(hidden.squeeze(1)?)
    }

    /// The same, and beside it some positions of a prompt, so that weights are read once for both: those of `ids` behind the first
    /// `n_known` of `known`. Returns the rows' hidden states, and keys and values of all of `prompt`.
    ///
    /// # Errors
    /// As for `step` and `prefill_after`.
    pub fn step_beside(
        &self,
        groups: &mut [&mut Forks],
        ids: &[u32],
        (known, n_known, prompt): (Option<&Prefix>, usize, &[u32]),
    ) -> std::result::Result<(Tensor, Prefix), ModelError> {
        self.check_known(known, n_known, prompt)?;
        let n_positions = prompt.len() - n_known;
        let positions: Vec<u32> = (0..).take(prompt.len()).skip(n_known).collect();
        let rotation = self.step_rotation(groups, ids, &positions)?;
        let all = [&prompt[n_known..], ids].concat();
        let tensor = Tensor::from_slice(&all, (1, all.len()), self.device())?;
        let step = Step { groups: &mut *groups };
        let prefill = Prefill::new(prompt.len(), known, n_known, self.held());
        let mut beside = Beside { prompt: prefill, n_positions, step };
        let hidden = self.run(&tensor, &rotation, &mut beside, ids.len())?.detach();
        let prefix = beside.prompt.into_prefix(prompt.len())?;
        groups.iter_mut().for_each(|group| group.advance());
        Ok((hidden.squeeze(0)?, prefix))
    }

    /// Rotations of `before` and of each row's next position, behind one another.
    fn step_rotation(
        &self,
        groups: &[&mut Forks],
        ids: &[u32],
        before: &[u32],
    ) -> std::result::Result<Rotation, ModelError> {
        self.check_ids(ids)?;
        let mut positions = before.to_vec();
        for group in groups {
            self.check_length(group.next_position() + 1)?;
            let position = u32::try_from(group.next_position()).map_err(candle_core::Error::wrap)?;
            positions.extend(std::iter::repeat_n(position, group.n_rows()));
        }
        let n_rows = positions.len() - before.len();
        if ids.is_empty() || n_rows != ids.len() {
            return Err(message(format!("{} ids were given for {n_rows} rows", ids.len())));
        }
        Ok(self.rotary.at(&positions, &[positions.len()], self.embedding.dtype(), self.device())?)
    }

    /// Hidden states (B, `n_read`, D) of the last positions. Of the others the last layer has keys and values only: nothing reads more.
    fn run(
        &self,
        ids: &Tensor,
        rotation: &Rotation,
        attend: &mut dyn Attend,
        n_read: usize,
    ) -> Result<Tensor> {
        let mut run = || self.run_layers(ids, rotation, attend, n_read);
        // While a GPU computes, nobody on the host has a part.
        if self.device().is_cpu() { awake(run) } else { run() }
    }

    fn run_layers(
        &self,
        ids: &Tensor,
        rotation: &Rotation,
        attend: &mut dyn Attend,
        n_read: usize,
    ) -> Result<Tensor> {
        let (n_rows, n_positions) = ids.dims2()?;
        let embedded = self.embedding.select(&ids.flatten_all()?)?;
        let mut hidden = embedded.reshape((n_rows, n_positions, self.config.hidden_size))?;
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            let n_asked = if layer_idx + 1 == self.layers.len() { n_read } else { n_positions };
            let (query, key, value) = layer.projected(&hidden, rotation, n_asked, self.numerics)?;
            let attended = attend.attend(layer_idx, &query, &key, &value)?;
            hidden = layer.answered(&last(&hidden, n_asked)?, &attended, self.numerics)?;
        }
        ops::rms_norm(&hidden, &self.norm, self.config.rms_norm_eps, self.numerics)
    }

    fn check_length(&self, n_positions: usize) -> std::result::Result<(), ModelError> {
        let max = self.config.max_positions;
        if n_positions == 0 || n_positions > max {
            return Err(message(format!("{n_positions} positions were asked for, the model has 1 to {max}")));
        }
        Ok(())
    }

    /// A GPU would read beyond the embedding where the CPU reports an error.
    fn check_ids(&self, ids: &[u32]) -> std::result::Result<(), ModelError> {
        match ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(id) => {
                Err(message(format!("id {id} is not below the vocabulary of {}", self.config.vocab_size)))
            }
            None => Ok(()),
        }
    }
}

/// Returns each position's number among its row's real tokens, and whether it is one.
fn read_mask(mask: &Tensor, n_rows: usize, n_positions: usize) -> Result<(Vec<u32>, Vec<bool>)> {
    if mask.dims2()? != (n_rows, n_positions) {
        bail!("mask has shape {:?}, ids have {:?}", mask.dims(), (n_rows, n_positions))
    }
    let real: Vec<bool> =
        mask.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().map(|&flag| flag != 0.0).collect();
    let positions = real.chunks(n_positions).flat_map(|row| {
        row.iter().scan(0_u32, |n_real, &is_real| {
            let position = *n_real;
            *n_real += u32::from(is_real);
            Some(position)
        })
    });
    Ok((positions.collect(), real))
}

fn message(text: String) -> ModelError {
    ModelError::Forward(candle_core::Error::Msg(text))
}
