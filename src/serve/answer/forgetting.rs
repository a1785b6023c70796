//! What was made for a reader is used no more, and removed: here, and where servers share answers.
use super::{Answerer, ServeError};
use crate::serve::{models::Models, owner::Owner};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Readers that are forgotten at the same time: each has all that is stored looked through, and waits for the models. Who comes later is told to come back.
pub(super) const READERS_MAX: usize = 8;
/// How long forgetting a reader may take: far longer than a step of any model.
const TIME_MAX: Duration = Duration::from_secs(10);
/// When to come back for it: most take less.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Answerer {
    /// Lets nothing be used any more that was made for a reader, or begun, until now. Where servers share answers, hers are removed there; if
    /// that cannot be done now, it is as soon as it can, and until then this server reads none of them.
    ///
    /// # Errors
    /// If that can be neither done nor remembered; then only this server's own answers are used no more.
    pub async fn invalidate(&self, whose: &[u8]) -> Result<(), ServeError> {
        self.metrics.cache_invalidation("invalidate");
        self.end(Owner::of(whose)).await.map(|_| ())
    }

    /// Invalidates, and returns when nothing of it is in memory, of none of the models, but what is being generated for requests that still
    /// wait; and nothing where servers share answers.
    ///
    /// # Errors
    /// If too many are being forgotten, it takes longer than the caller or we wait, a task panicked, or shared answers could not be removed;
    /// then it is invalidated, and may be in memory, or be shared until it ends.
    pub async fn forget(
        self: &Arc<Self>,
        whose: &[u8],
        models: &Models,
        deadline: Option<Instant>,
    ) -> Result<(), ServeError> {
        let owner = Owner::of(whose);
        let ended = self.end(owner).await;
        let turn = Arc::clone(&self.forgetting).try_acquire_owned();
        let turn = turn.map_err(|_| ServeError::ForgetBusy { retry_after: RETRY_AFTER })?;
        let latest = Instant::now() + TIME_MAX;
        let until = deadline.map_or(latest, |deadline| deadline.min(latest));
        let answerer = Arc::clone(self);
        let forgetting = async {
            // The place is taken as long as the look lasts, whoever still waits for it.
            let stored = tokio::task::spawn_blocking(move || (answerer.cache.keys_of(owner), turn));
            let (keys, _turn) = stored.await.map_err(|_| ServeError::Panicked)?;
            for key in keys {
                self.cache.remove(key).await;
            }
            models.forget(owner).await;
            Ok::<(), ServeError>(())
        };
        match tokio::time::timeout_at(until.into(), forgetting).await {
            Ok(forgotten) => forgotten?,
            Err(_) => return Err(ServeError::ForgetLate),
        }
        self.metrics.cache_invalidation("forget");
        match ended? {
            Told::Yes => Ok(()),
            Told::NotYet => Err(ServeError::SharedCacheSilent),
        }
    }

    /// Ends a reader's epoch, here and where answers are shared; says whether nothing of her is there any more.
    async fn end(&self, owner: Owner) -> Result<Told, ServeError> {
        let Some(shared) = &self.shared else {
            self.epochs.end(owner);
            return Ok(Told::Yes);
        };
        // First nothing is read there; otherwise a question of the new epoch could find what was stored in the old one.
        let ending = shared.end(owner);
        self.epochs.end(owner);
        let told = ending.map_err(|_| ServeError::SharedCacheSilent)?.tell().await;
        Ok(if told.is_ok() { Told::Yes } else { Told::NotYet })
    }
}

/// Whether the shared cache has been told of something.
enum Told {
    Yes,
    NotYet,
}
