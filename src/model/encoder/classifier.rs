//! Sequence classification: a label per row. The signal cleaner is one (keep or drop).
use super::{
    Encoder,
    config::{EncoderConfig, EncoderFamily},
    embedder::read,
};
use crate::model::{
    linear::{Bias, Linear},
    ops::Numerics,
    weights::{Checkpoint, ModelError, TensorSource},
};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// Classifies rows of token ids (`BertForSequenceClassification`, `RobertaForSequenceClassification`).
#[derive(Debug)]
pub struct Classifier {
    encoder: Encoder,
    /// Followed by tanh: BERT's pooler, or the first layer of RoBERTa's head.
    dense: Linear,
    output: Linear,
}

impl Classifier {
    /// Opens a Hugging Face folder.
    ///
    /// # Errors
    /// If a file is missing or broken, or a tensor does not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = EncoderConfig::parse(&read(dir, "config.json")?, "config.json")?;
        Self::load(&config, &mut Checkpoint::open(dir, DType::F32, device)?, Numerics::Serve)
    }

    /// Builds the encoder and its classification head.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(
        config: &EncoderConfig,
        source: &mut dyn TensorSource,
        numerics: Numerics,
    ) -> Result<Self, ModelError> {
        let encoder = Encoder::load(config, source, numerics)?;
        let (dense, output) = match config.family {
            EncoderFamily::Bert => (format!("{}pooler.dense", encoder.prefix()), "classifier"),
            EncoderFamily::Roberta => ("classifier.dense".to_owned(), "classifier.out_proj"),
        };
        let width = config.hidden_size;
        let dense = Linear::load(source, &dense, (width, width), Bias::Added)?;
        let output = Linear::load(source, output, (width, config.labels.len()), Bias::Added)?;
        Ok(Self { encoder, dense, output })
    }

    /// The encoder beneath; its config has the longest row and the labels.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Logits (B, labels) f32 of rows of ids, those around the text included.
    ///
    /// # Errors
    /// If there is no row, a row is empty or too long, or an id is not below the vocabulary.
    pub fn logits(&self, rows: &[Vec<u32>]) -> Result<Tensor, ModelError> {
        let (ids, mask) = self.encoder.padded(rows)?;
        let hidden = self.encoder.hidden(&ids, &mask)?;
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?; // (B, D)
        let pooled = self.dense.forward(&first)?.tanh()?;
        Ok(self.output.forward(&pooled)?.to_dtype(DType::F32)?)
    }
}
