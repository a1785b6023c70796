//! What the cleaner says of a reader's signals, for those who ask for that beside the answer.
use super::{Answerer, Arc, Duration, Instant};
use crate::{
    cleaner::Verdict,
    serve::{generation::Writer, question::Judged},
    telemetry::Chain,
};
use std::future::Future;
use tokio::time::timeout_at;
use tracing::{debug, warn};

/// What is left of a caller's time when judging is given up: the answer is there, and has to reach her.
const SENDING: Duration = Duration::from_millis(20);

/// Who asks, and until when she waits.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Her tenant, if it has a name.
    pub tenant: Option<String>,
    /// None: she waits for ever.
    pub deadline: Option<Instant>,
}

impl Answerer {
    /// The verdict on each of these texts, charged as a prompt of the same length, which it is cleaned like. None at all where the tenant's budget, the
    /// caller's time or the cleaner does not allow it: they are extra, and an answer that is there is not lost with them.
    pub async fn judge(&self, asker: &Asker, writer: &Arc<Writer>, texts: Vec<Judged>) -> Vec<Verdict> {
        if texts.is_empty() || writer.cleaner.is_none() {
            return Vec::new();
        }
        let n_bytes = texts.iter().map(|judged| judged.text.len()).sum();
        let tokens = writer.engine.prompt_tokens(n_bytes, writer.prompt_tokens_max);
        let Ok(mut charge) = self.budgets.charge(asker.tenant.as_deref(), tokens, Instant::now()) else {
            debug!("signals have no verdicts: the tenant's budget is used up");
            return Vec::new();
        };
        // Also where it is given up: what has begun ends all the same.
        charge.used(tokens as u64);
        match in_time(asker.deadline, writer.verdicts(texts)).await {
            Some(Ok(verdicts)) => verdicts,
            Some(Err(error)) => {
                warn!(error = %Chain(&error), "signals have no verdicts");
                Vec::new()
            }
            None => {
                debug!("signals have no verdicts: there is no time for them");
                Vec::new()
            }
        }
    }
}

/// What comes of work, if it ends early enough for an answer to be sent before the deadline.
async fn in_time<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    let Some(deadline) = deadline else { return Some(work.await) };
    let until = deadline.checked_sub(SENDING).unwrap_or(deadline);
    timeout_at(until.into(), work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn what_does_not_end_before_the_deadline_is_given_up_while_there_is_time_to_send_the_rest() {
        let deadline = Instant::now() + 2 * SENDING;
        assert_eq!(in_time(Some(deadline), pending::<()>()).await, None);
        assert_eq!(in_time(Some(Instant::now()), pending::<()>()).await, None);
        assert_eq!(in_time(Some(deadline + 1000 * SENDING), ready(1)).await, Some(1));
        assert_eq!(in_time(None, ready(1)).await, Some(1));
    }
}
