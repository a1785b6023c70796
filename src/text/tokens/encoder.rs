//! Text to ids for encoders (sentence embedder, signal cleaner), cut to the length that the encoder was made for.
use super::TokensError;
use crate::text::vocabulary::{TOKENIZER_BYTES_MAX, tokenizer};
use serde_json::Value;
use std::{io::ErrorKind, path::Path, sync::Arc};
use tokenizers::{Tokenizer, TruncationParams};

/// Tokens an encoder's input must at least have room for: the two around a text, and some text.
const TOKENS_MIN: usize = 4;

/// Tokenizer of one encoder, with the tokens that it puts around a text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EncoderTokens {
    tokenizer: Arc<Tokenizer>,
}

impl EncoderTokens {
    /// Takes a Hugging Face `tokenizer.json`; longer texts are cut so that `tokens_max` ids remain, those around the text included.
    ///
    /// # Errors
    /// If it is not a tokenizer or is too large, or if `tokens_max` leaves no room for text.
    pub fn from_bytes(tokenizer_json: &[u8], tokens_max: usize) -> Result<Self, TokensError> {
        if tokenizer_json.len() > TOKENIZER_BYTES_MAX {
            return Err(TokensError::TooLarge { got: tokenizer_json.len(), max: TOKENIZER_BYTES_MAX });
        }
        let unreadable = |reason: String| TokensError::Unreadable { reason };
        if tokens_max < TOKENS_MIN {
            return Err(unreadable(format!("{tokens_max} tokens leave no room for text")));
        }
        let mut json: Value =
            serde_json::from_slice(tokenizer_json).map_err(|error| unreadable(error.to_string()))?;
        let Some(object) = json.as_object_mut() else {
            return Err(unreadable("not a JSON object".to_owned()));
        };
        // Without added tokens a text that spells `[SEP]` stays text; those around it come from the post-processor.
        object.insert("added_tokens".to_owned(), Value::Array(Vec::new()));
        let mut tokenizer =
            tokenizer(&serde_json::to_vec(&json).map_err(|error| unreadable(error.to_string()))?)?;
        let truncation = TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { tokenizer: Arc::new(tokenizer) })
    }

    /// Opens the tokenizer of a Hugging Face folder. The length is the smallest of `positions_max`, `max_seq_length` of
    /// `sentence_bert_config.json` and `model_max_length` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// As `from_bytes`, if `tokenizer.json` is missing, or if one of the other two is there and cannot be read.
    pub fn open(dir: &Path, positions_max: usize) -> Result<Self, TokensError> {
        let path = dir.join("tokenizer.json");
        let file = || path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|source| TokensError::File { file: file(), source })?;
        let sentence =
            limit(&dir.join("sentence_bert_config.json"), "max_seq_length")?.unwrap_or(positions_max);
        let model = limit(&dir.join("tokenizer_config.json"), "model_max_length")?.unwrap_or(positions_max);
        Self::from_bytes(&bytes, positions_max.min(sentence).min(model))
    }

    /// Ids of a text with the tokens around it, cut to the encoder's length. Whatever the text spells, it stays text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_fast(text, true).map(|found| found.get_ids().to_vec()).unwrap_or_default()
    }
}

/// A length that a file beside the tokenizer sets; none where there is no such file, or no such length in it.
fn limit(path: &Path, key: &str) -> Result<Option<usize>, TokensError> {
    let file = || path.display().to_string();
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|source| TokensError::File { file: file(), source })?,
    };
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| TokensError::Unreadable { reason: format!("{}: {error}", file()) })?;
    // Unlimited is written as a number of thirty digits, which is not an integer here and so no limit.
    Ok(json.get(key).and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok()))
}
