//! The tokenizer wrapper: user text can never become a control token.
use std::sync::Arc;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum TokensError {
    #[error("tokenizer could not be read: {reason}")]
    Unreadable { reason: String },
    #[error("tokenizer has no control token {name}")]
    MissingControl { name: &'static str },
}

/// ChatML tokenizer of one model. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens {}

impl Tokens {
    /// Reads a Hugging Face `tokenizer.json`.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Self, TokensError> { todo!() }
    /// Ids of text that came from a user; never a control id whatever the text holds.
    pub fn encode_text(&self, text: &str) -> Vec<u32> { todo!() }
    /// Text of ids; control tokens are left out, broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String { todo!() }
    /// `<|im_start|>`
    pub fn im_start(&self) -> u32 { todo!() }
    /// `<|im_end|>`: ends every generation.
    pub fn im_end(&self) -> u32 { todo!() }
    /// `<|endoftext|>`: separates documents in pre-training, pads batches.
    pub fn end_of_text(&self) -> u32 { todo!() }
    /// Ids that end a generation.
    pub fn stop_ids(&self) -> Arc<[u32]> { todo!() }
    /// Ids whose text holds a line feed: a query ends there.
    pub fn boundary_ids(&self) -> Arc<[u32]> { todo!() }
    /// Number of tokens, control tokens included.
    pub fn n_tokens(&self) -> usize { todo!() }
}
