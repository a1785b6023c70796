//! Stored answers, by everything that can change them, for a while, within a bound of memory.
use crate::{
    bundle::manifest::BundleId,
    signals::{UserKey, UserSignals},
};
use moka::future::Cache;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// sha256 over the user's key, the canonical signals, the bundle and the options: two requests with equal keys have equal answers.
///
/// The whole digest is compared when a stored answer is read, so nobody gets an answer that was made from another's signals.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// `options`: a canonical encoding of every option that can change the answer.
    pub fn new(user: &UserKey, signals: &UserSignals, bundle: &BundleId, options: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"newshound answer 1");
        for part in [user.as_str().as_bytes(), &signals.digest(), bundle.0.as_bytes(), options] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

#[derive(Debug)]
struct Stored<A> {
    answer: Arc<A>,
    since: Instant,
    n_bytes: u32,
}

impl<A> Clone for Stored<A> {
    fn clone(&self) -> Self {
        Self { answer: Arc::clone(&self.answer), since: self.since, n_bytes: self.n_bytes }
    }
}

/// Answers of type `A` by key. Errors are never stored.
pub struct AnswerCache<A> {
    stored: Cache<CacheKey, Stored<A>>,
}

impl<A> fmt::Debug for AnswerCache<A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AnswerCache").finish_non_exhaustive()
    }
}

impl<A: Send + Sync + 'static> AnswerCache<A> {
    /// An empty cache. `bytes_max`: at most this much is stored, by the callers' own estimate; `ttl`: how long.
    pub fn new(bytes_max: u64, ttl: Duration) -> Self {
        let stored = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, stored: &Stored<A>| stored.n_bytes)
            .time_to_live(ttl)
            .build();
        Self { stored }
    }

    /// The answer stored under a key, and its age at `now`.
    pub async fn get(&self, key: CacheKey, now: Instant) -> Option<(Arc<A>, Duration)> {
        let stored = self.stored.get(&key).await?;
        Some((stored.answer, now.saturating_duration_since(stored.since)))
    }

    /// Stores an answer of about `n_bytes`.
    pub async fn put(&self, key: CacheKey, answer: Arc<A>, n_bytes: usize, now: Instant) {
        let n_bytes = u32::try_from(n_bytes).unwrap_or(u32::MAX);
        self.stored.insert(key, Stored { answer, since: now, n_bytes }).await;
    }

    /// Number of entries and their weight in bytes, without those that are too old or too many.
    pub async fn size(&self) -> (u64, u64) {
        // Entries that expire are taken away by later reads and writes, of which there may be none.
        self.stored.run_pending_tasks().await;
        (self.stored.entry_count(), self.stored.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{SignalDraft, Stream};

    fn signals(text: &str) -> UserSignals {
        let draft = SignalDraft {
            stream: Stream::Search,
            text: text.to_owned(),
            time_unix_s: 1_700_000_000,
            category: None,
            source: None,
            dwell_ms: None,
            weight: None,
        };
        UserSignals::new(vec![draft]).unwrap()
    }

    fn key(user: &str, text: &str, bundle: &str, options: &[u8]) -> CacheKey {
        CacheKey::new(&UserKey::new(user).unwrap(), &signals(text), &BundleId(bundle.to_owned()), options)
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let same = key("user", "text", "bundle", b"options");
        assert_eq!(same, key("user", "text", "bundle", b"options"));
        for other in [
            key("other", "text", "bundle", b"options"),
            key("user", "other", "bundle", b"options"),
            key("user", "text", "other", b"options"),
            key("user", "text", "bundle", b"other"),
        ] {
            assert_ne!(same, other);
        }
        assert_ne!(key("user", "text", "bundl", b"eoptions"), same, "parts do not run into each other");
    }

    #[tokio::test]
    async fn a_stored_answer_is_read_back_with_its_age() {
        let cache = AnswerCache::new(1000, Duration::from_secs(60));
        let now = Instant::now();
        let (one, other) = (key("user", "a", "b", b""), key("other", "a", "b", b""));
        cache.put(one, Arc::new(7), 10, now).await;
        let later = now + Duration::from_secs(3);
        assert_eq!(cache.get(one, later).await, Some((Arc::new(7), Duration::from_secs(3))));
        assert_eq!(cache.get(other, later).await, None);
    }

    #[tokio::test]
    async fn what_weighs_more_than_the_bound_is_not_kept() {
        let cache = AnswerCache::new(100, Duration::from_secs(60));
        let now = Instant::now();
        cache.put(key("fits", "a", "b", b""), Arc::new(1), 100, now).await;
        cache.put(key("too heavy", "a", "b", b""), Arc::new(2), 101, now).await;
        assert_eq!(cache.size().await, (1, 100));
        assert!(cache.get(key("fits", "a", "b", b""), now).await.is_some());
        assert!(cache.get(key("too heavy", "a", "b", b""), now).await.is_none());
    }

    #[tokio::test]
    async fn what_has_expired_has_no_size() {
        let ttl = Duration::from_millis(1);
        let cache = AnswerCache::new(100, ttl);
        let now = Instant::now();
        cache.put(key("user", "a", "b", b""), Arc::new(1), 10, now).await;
        // The cache reads the system's clock, so the millisecond really has to pass.
        while now.elapsed() < 4 * ttl {
            tokio::task::yield_now().await;
        }
        assert_eq!(cache.size().await, (0, 0));
    }
}
