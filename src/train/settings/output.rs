//! Which tokens a network may write.
use serde::{Deserialize, Serialize};

/// The output vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputTokens {
    /// As the network that is fine-tuned.
    Inherited,
    /// Those of the lists that are taught, and what ends a list. The output head shrinks to them.
    Taught,
}

impl OutputTokens {
    /// No change.
    pub fn inherited() -> Self {
        Self::Inherited
    }

    /// Whether nothing changes. Settings of such a run are those of runs from before there was a choice.
    pub fn is_inherited(&self) -> bool {
        *self == Self::Inherited
    }
}
