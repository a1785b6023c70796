//! A `tokenizer.json` of any kind, read twice: once as its authors meant it, once for text that strangers wrote.
use super::tokens::TokensError;
use std::collections::BTreeSet;
use tokenizers::Tokenizer;

/// Largest `tokenizer.json` read, in bytes; the largest public ones have 35 MB. A larger file is refused.
pub const TOKENIZER_BYTES_MAX: usize = 64 << 20;

/// Whether control tokens appear in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// They are written out, as `<|im_end|>`.
    Keep,
    /// They are left out.
    Skip,
}

/// One tokenizer in two forms that share one vocabulary.
///
/// Tokenizers match their added tokens in any text, and their option against it spares only those marked `special`.
/// Text of a user therefore goes through a second form that has no added tokens at all.
#[derive(Debug)]
pub struct Vocabulary {
    full: Tokenizer,
    plain: Tokenizer,
    added_ids: BTreeSet<u32>,
    n_ids: usize,
}

impl Vocabulary {
    /// Reads a Hugging Face `tokenizer.json`. Truncation and padding named there are switched off.
    ///
    /// # Errors
    /// If the file is too large or is not a tokenizer.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Self, TokensError> {
        if tokenizer_json.len() > TOKENIZER_BYTES_MAX {
            return Err(TokensError::TooLarge { got: tokenizer_json.len(), max: TOKENIZER_BYTES_MAX });
        }
        let unreadable =
            |error: &dyn std::fmt::Display| TokensError::Unreadable { reason: error.to_string() };
        let mut json: serde_json::Value =
            serde_json::from_slice(tokenizer_json).map_err(|error| unreadable(&error))?;
        let full = tokenizer(tokenizer_json)?;
        let Some(object) = json.as_object_mut() else {
            return Err(TokensError::Unreadable { reason: "not a JSON object".to_owned() });
        };
        object.insert("added_tokens".to_owned(), serde_json::Value::Array(Vec::new()));
        let plain = tokenizer(&serde_json::to_vec(&json).map_err(|error| unreadable(&error))?)?;
        let added_ids: BTreeSet<u32> = full.get_added_tokens_decoder().into_keys().collect();
        let highest = full.get_vocab(true).into_values().max();
        let n_ids = highest.map_or(0, |id| id as usize + 1);
        Ok(Self { full, plain, added_ids, n_ids })
    }

    /// Ids of text that came from a user. Never the id of an added token, whatever the text holds.
    ///
    /// Text that the vocabulary cannot express gives no ids; byte-level vocabularies express everything.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        let mut ids =
            self.plain.encode_fast(text, false).map(|found| found.get_ids().to_vec()).unwrap_or_default();
        // Some vocabularies list a control token among the ordinary ones and take whole words from the list.
        ids.retain(|id| !self.added_ids.contains(id));
        ids
    }

    /// Ids of text that the operator wrote, where control tokens are meant: `<|im_end|>` becomes one id. Never for user text.
    pub fn encode_trusted(&self, text: &str) -> Vec<u32> {
        self.full.encode_fast(text, false).map(|found| found.get_ids().to_vec()).unwrap_or_default()
    }

    /// As `encode_trusted`, with what the tokenizer itself puts around a text (a token of beginning, say).
    pub fn encode_framed(&self, text: &str) -> Vec<u32> {
        self.full.encode_fast(text, true).map(|found| found.get_ids().to_vec()).unwrap_or_default()
    }

    /// Text of ids. Broken UTF-8 becomes U+FFFD; ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32], controls: Controls) -> String {
        let kept: Vec<u32> = match controls {
            Controls::Keep => ids.to_vec(),
            Controls::Skip => ids.iter().copied().filter(|id| !self.added_ids.contains(id)).collect(),
        };
        self.full.decode(&kept, false).unwrap_or_default()
    }

    /// The id of an added token by its text.
    pub fn added_id(&self, token: &str) -> Option<u32> {
        self.full.token_to_id(token).filter(|id| self.added_ids.contains(id))
    }

    /// Ids of added tokens.
    pub fn added_ids(&self) -> &BTreeSet<u32> {
        &self.added_ids
    }

    /// One more than the highest id, added tokens included.
    pub fn n_ids(&self) -> usize {
        self.n_ids
    }
}

/// Reads a tokenizer that neither cuts nor pads, whatever its file says: the callers have limits of their own.
///
/// # Errors
/// If it is not a tokenizer.
pub fn tokenizer(json: &[u8]) -> Result<Tokenizer, TokensError> {
    let mut tokenizer =
        Tokenizer::from_bytes(json).map_err(|error| TokensError::Unreadable { reason: error.to_string() })?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| TokensError::Unreadable { reason: error.to_string() })?;
    Ok(tokenizer)
}
