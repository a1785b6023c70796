//! Why a request has no answer, and what follows from it.
use crate::{
    cleaner::CleanerError,
    experiment::assign::ForceError,
    serve::{engine::EngineError, metrics::outcome::Outcome, solo},
};
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tracing::{debug, warn};

/// Why a request has no answer. One variant per thing its sender can do about it.
#[derive(Clone, Debug, Error)]
pub enum ServeError {
    /// Come back later.
    #[error("{queued} requests may wait, and that many do")]
    QueueFull {
        /// Places in the queue.
        queued: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// Come back later.
    #[error("requests of {tokens} tokens may wait, and they do")]
    TokenBacklog {
        /// Tokens that may wait.
        tokens: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// Come back later.
    #[error("it would wait longer for the model than {} ms", .wait_max.as_millis())]
    QueueSlow {
        /// The longest that a request may wait.
        wait_max: Duration,
        /// When to come back.
        retry_after: Duration,
    },
    /// Come back later.
    #[error("waited {waited_ms} ms for the model")]
    QueueAge {
        /// How long it waited.
        waited_ms: u64,
        /// When to come back.
        retry_after: Duration,
    },
    /// Come back later, and for less: others are served.
    #[error("the tenant's {tokens_per_minute} tokens a minute are used up")]
    TenantLimit {
        /// The tenant; empty where none is told.
        tenant: String,
        /// What it may take.
        tokens_per_minute: u64,
        /// When to come back.
        retry_after: Duration,
    },
    /// Allow more time, or less than all that is asked.
    #[error("it takes some {} ms, and {} ms are left", .takes.as_millis(), .left.as_millis())]
    DeadlineUnreachable {
        /// How long the least takes that the request allows, as far as it is known.
        takes: Duration,
        /// How long the client waits.
        left: Duration,
        /// When to come back; none where it would not be in time either if it need not wait.
        retry_after: Option<Duration>,
    },
    /// Allow more time.
    #[error("deadline passed")]
    DeadlineHit,
    /// Come back later: the reader's answers are used no more, and may be in memory.
    #[error("too many readers are being forgotten")]
    ForgetBusy {
        /// When to come back.
        retry_after: Duration,
    },
    /// Call again: the reader's answers are used no more, and may be in memory.
    #[error("forgetting the reader takes longer than the call may")]
    ForgetLate,
    /// Ask another server: this one is going to stop.
    #[error("server is draining")]
    Draining,
    /// Ask another server: this one lost its model.
    #[error("model thread has ended")]
    EngineGone,
    /// Ask for another way of reranking.
    #[error("bundle has no reward head")]
    NoRewardHead,
    /// Try another seed or a lower temperature.
    #[error("none of {n_candidates} candidates is a valid list")]
    NoValidList {
        /// How many there were.
        n_candidates: usize,
    },
    /// Report it: the model failed.
    #[error("model failed")]
    Engine(#[source] Arc<crate::decode::batch::DecodeError>),
    /// Try again: the model failed in a step that it made for all who were being answered.
    #[error("step of the model failed")]
    Step(#[source] Arc<crate::decode::batch::DecodeError>),
    /// Report it: the signal cleaner failed.
    #[error("signal cleaner failed")]
    Cleaner(#[source] Arc<CleanerError>),
    /// Send other signals: nothing is left that a model may read.
    #[error("all signals are personal data")]
    OnlyPersonalData,
    /// Send other signals: nothing is left that the model is told.
    #[error("all signals are about sensitive topics")]
    OnlySensitiveTopics,
    /// Send signals: nothing is known of the reader, and there is no list for everybody, or she may not have it.
    #[error("nothing is known of the reader")]
    NoSignals,
    /// Ask for another arm, or for none.
    #[error(transparent)]
    Arm(#[from] ForceError),
    /// Come back: what servers share of the reader may not be removed yet. It is tried again, and ends by itself.
    #[error("shared cache does not answer; it may still hold answers of the reader")]
    SharedCacheSilent,
    /// Report it: a task of the server panicked.
    #[error("a task of the server panicked")]
    Panicked,
}

impl ServeError {
    /// Whether a limit of time was reached, which may be that of another request that asked the same.
    pub(super) fn is_limit(&self) -> bool {
        matches!(self, Self::QueueAge { .. } | Self::DeadlineHit)
    }

    /// Whether the queue is too long for it; of a generation that had begun: it had to leave one that was made short.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self, Self::QueueSlow { .. })
    }

    /// Whether the failure is the question's own, so that asked again at once it would most likely cost the same for nothing: its rows are no
    /// lists, its prompt or rows broke the model, its signals the cleaner, or it made a task panic. A failed step is everybody's who was in
    /// it, and says nothing of any of them.
    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            Self::NoValidList { .. } | Self::Engine(_) | Self::Cleaner(_) | Self::Panicked => true,
            Self::QueueFull { .. }
            | Self::TokenBacklog { .. }
            | Self::QueueSlow { .. }
            | Self::QueueAge { .. }
            | Self::TenantLimit { .. }
            | Self::DeadlineUnreachable { .. }
            | Self::DeadlineHit
            | Self::ForgetBusy { .. }
            | Self::ForgetLate
            | Self::Draining
            | Self::EngineGone
            | Self::Step(_)
            | Self::NoRewardHead
            | Self::OnlyPersonalData
            | Self::OnlySensitiveTopics
            | Self::NoSignals
            | Self::SharedCacheSilent
            | Self::Arm(_) => false,
        }
    }

    /// Says in the log why there is no answer: loudly where a person must look.
    pub(super) fn tell(&self) {
        if self.outcome() == Outcome::Failed {
            warn!(error = %crate::telemetry::Chain(self), "request has no answer");
        } else {
            debug!(error = %self, "request has no answer");
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::QueueFull { .. }
            | Self::TokenBacklog { .. }
            | Self::QueueSlow { .. }
            | Self::QueueAge { .. }
            | Self::ForgetBusy { .. }
            | Self::Draining => Outcome::Shed,
            Self::DeadlineUnreachable { .. } | Self::DeadlineHit | Self::ForgetLate => Outcome::Deadline,
            // The tenant's doing, and no sign of how much there is room for.
            Self::TenantLimit { .. }
            | Self::NoRewardHead
            | Self::OnlyPersonalData
            | Self::OnlySensitiveTopics
            | Self::NoSignals
            | Self::Arm(_) => Outcome::Rejected,
            Self::NoValidList { .. } => Outcome::NoList,
            Self::EngineGone
            | Self::Engine(_)
            | Self::Step(_)
            | Self::Cleaner(_)
            | Self::SharedCacheSilent
            | Self::Panicked => Outcome::Failed,
        }
    }
}

impl From<solo::Panicked> for ServeError {
    fn from(_: solo::Panicked) -> Self {
        Self::Panicked
    }
}

impl From<EngineError> for ServeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull { queued, retry_after } => Self::QueueFull { queued, retry_after },
            EngineError::TokenBacklog { tokens, retry_after } => Self::TokenBacklog { tokens, retry_after },
            EngineError::QueueSlow { wait_max, retry_after } => Self::QueueSlow { wait_max, retry_after },
            EngineError::QueueAge { waited_ms, retry_after } => Self::QueueAge { waited_ms, retry_after },
            EngineError::DeadlineHit => Self::DeadlineHit,
            EngineError::Gone => Self::EngineGone,
            EngineError::Fault(error) => Self::Engine(error),
            EngineError::Step(error) => Self::Step(error),
        }
    }
}
