//! The tokenizer of a model that speaks ChatML: user text can never become a control token.
pub mod encoder;

use super::vocabulary::{Controls, Vocabulary};
use std::sync::Arc;
use thiserror::Error;

/// Opens a turn of a conversation.
pub const IM_START: &str = "<|im_start|>";
/// Ends a turn of a conversation, and with it every generation.
pub const IM_END: &str = "<|im_end|>";
/// Separates documents in pre-training and pads batches.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Why a tokenizer cannot be used.
#[derive(Debug, Error)]
pub enum TokensError {
    /// The file is not a tokenizer.
    #[error("tokenizer could not be read: {reason}")]
    Unreadable {
        /// What the reader said.
        reason: String,
    },
    /// The file is larger than any tokenizer.
    #[error("tokenizer has {got} bytes, limit is {max}")]
    TooLarge {
        /// Bytes found.
        got: usize,
        /// Most bytes.
        max: usize,
    },
    /// A token that ChatML needs is not among the added tokens.
    #[error("tokenizer has no control token {name}")]
    MissingControl {
        /// The token's text.
        name: &'static str,
    },
    /// A file beside the tokenizer could not be read.
    #[error("{file} could not be read")]
    File {
        /// Name of the file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// ChatML tokenizer of one model. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens {
    vocabulary: Arc<Vocabulary>,
    im_start: u32,
    im_end: u32,
    end_of_text: u32,
    stop_ids: Arc<[u32]>,
    boundary_ids: Arc<[u32]>,
}

impl Tokens {
    /// Reads a Hugging Face `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not a tokenizer, is too large, or lacks a control token of ChatML.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Self, TokensError> {
        let vocabulary = Vocabulary::from_bytes(tokenizer_json)?;
        let control = |name| vocabulary.added_id(name).ok_or(TokensError::MissingControl { name });
        let (im_start, im_end, end_of_text) = (control(IM_START)?, control(IM_END)?, control(END_OF_TEXT)?);
        let n_ids = u32::try_from(vocabulary.n_ids())
            .map_err(|_| TokensError::Unreadable { reason: "an id fills 32 bits".to_owned() })?;
        let boundary_ids = (0..n_ids)
            .filter(|id| !vocabulary.added_ids().contains(id))
            .filter(|&id| vocabulary.decode(&[id], Controls::Keep).contains('\n'))
            .collect();
        let stop_ids = Arc::new([im_end, end_of_text]);
        Ok(Self { vocabulary: Arc::new(vocabulary), im_start, im_end, end_of_text, stop_ids, boundary_ids })
    }

    /// Ids of text that came from a user; never a control id whatever the text holds.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        self.vocabulary.encode_text(text)
    }

    /// Text of ids; control tokens are left out, broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.vocabulary.decode(ids, Controls::Skip)
    }

    /// Id of `<|im_start|>`.
    pub fn im_start(&self) -> u32 {
        self.im_start
    }

    /// Id of `<|im_end|>`, which ends every generation.
    pub fn im_end(&self) -> u32 {
        self.im_end
    }

    /// Id of `<|endoftext|>`, which separates documents in pre-training and pads batches.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// Ids that end a generation.
    pub fn stop_ids(&self) -> Arc<[u32]> {
        self.stop_ids.clone()
    }

    /// Ids whose text holds a line feed: a query ends there. Sorted.
    pub fn boundary_ids(&self) -> Arc<[u32]> {
        self.boundary_ids.clone()
    }

    /// Number of tokens, control tokens included: one more than the highest id.
    pub fn n_tokens(&self) -> usize {
        self.vocabulary.n_ids()
    }

    /// The vocabulary beneath, for text that the operator wrote.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}
