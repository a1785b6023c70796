//! How a request ends.

/// What became of a request; each counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Generated for it.
    Ok,
    /// Answered from the cache, or with the list of a cohort.
    Cached,
    /// Answered by a generation that another request started.
    Coalesced,
    /// Refused because the queue was full or it waited too long.
    Shed,
    /// Refused because of what it asked.
    Rejected,
    /// Its client went away.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// The model wrote no valid list for it; nothing is broken.
    NoList,
    /// We could not answer.
    Failed,
}

impl Outcome {
    /// Every way.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Cached,
        Self::Coalesced,
        Self::Shed,
        Self::Rejected,
        Self::Cancelled,
        Self::Deadline,
        Self::NoList,
        Self::Failed,
    ];

    /// Its word in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cached => "cached",
            Self::Coalesced => "coalesced",
            Self::Shed => "shed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::NoList => "no_list",
            Self::Failed => "failed",
        }
    }
}
