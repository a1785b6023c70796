//! Why a group is refused or a step fails.
use super::batch::GroupId;
use crate::model::weights::ModelError;
use thiserror::Error;

/// Why a group is refused or a step fails.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// There is nothing to continue.
    #[error("prompt is empty")]
    EmptyPrompt,
    /// No row, or no token to sample.
    #[error("request for {n_rows} rows of {max_new_tokens} tokens asks for nothing")]
    EmptyRequest {
        /// Rows asked for.
        n_rows: usize,
        /// Tokens per row asked for.
        max_new_tokens: usize,
    },
    /// The prompt holds an id that the model has no embedding for.
    #[error("prompt holds id {id}, the model knows {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids that the model knows.
        vocab_size: usize,
    },
    /// The id is taken by a group in the batch.
    #[error("group {} is already in the batch", .id.0)]
    GroupExists {
        /// The group.
        id: GroupId,
    },
    /// The group does not fit the model.
    #[error(
        "prompt of {prompt_tokens} and {max_new_tokens} new tokens exceed the model's {max_positions} positions"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens to sample per row.
        max_new_tokens: usize,
        /// Positions of the model.
        max_positions: usize,
    },
    /// A group's logits are broken. The group has been dropped; every other group goes on.
    #[error("group {} got logits that are not finite", .id.0)]
    NotFinite {
        /// The group.
        id: GroupId,
    },
    /// The model failed. A request that was being admitted is not in the batch. After a step, rows may lack keys and
    /// values of their last token: cancel every group.
    #[error("model failed")]
    Model(#[from] ModelError),
}

impl DecodeError {
    /// Whether a request is at fault, and no row has moved for it.
    #[must_use]
    pub fn is_of_request(&self) -> bool {
        match self {
            Self::EmptyPrompt
            | Self::EmptyRequest { .. }
            | Self::UnknownId { .. }
            | Self::GroupExists { .. }
            | Self::TooLong { .. } => true,
            Self::NotFinite { .. } | Self::Model(_) => false,
        }
    }
}

impl From<candle_core::Error> for DecodeError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(ModelError::Forward(error))
    }
}
