//! `[topics]`: what is sensitive.
use super::access::path;
use crate::settings::Reader;
use std::path::PathBuf;

/// `[topics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// `file`: words by topic; see the documentation of `serve::topics`. Default empty: nothing is sensitive, because what is differs by
    /// platform and law.
    pub file: Option<PathBuf>,
    /// `gates`: what is left out that is about one of them, both, signals (from prompts) or queries (from lists). Default both: a model that was not
    /// told of an illness may still write of it, and one that was may hint at it.
    pub gates: Gates,
}

/// Where what is sensitive is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gates {
    /// From prompts and from lists.
    Both,
    /// From prompts.
    Signals,
    /// From lists.
    Queries,
}

impl Gates {
    const ALL: [Self; 3] = [Self::Both, Self::Signals, Self::Queries];

    /// Its word in settings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Signals => "signals",
            Self::Queries => "queries",
        }
    }
}

impl TopicSettings {
    pub(super) fn demo() -> Self {
        Self { file: None, gates: Gates::Both }
    }
}

pub(super) fn read(reader: &mut Reader, default: TopicSettings) -> TopicSettings {
    let gates = |text: &str| Gates::ALL.into_iter().find(|gates| gates.word() == text);
    TopicSettings {
        file: path(reader, "topics.file"),
        gates: reader.text("topics.gates", "one of both, signals, queries", gates, default.gates),
    }
}
