//! Looks at the same thing at the same time are one look, of which all have what it finds.
use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OnceCell;

/// The looks under way, by key.
#[derive(Debug)]
pub struct Looks<K, T> {
    by_key: Mutex<HashMap<K, Arc<OnceCell<T>>>>,
}

impl<K, T> Default for Looks<K, T> {
    fn default() -> Self {
        Self { by_key: Mutex::default() }
    }
}

impl<K: Copy + Eq + Hash, T: Clone> Looks<K, T> {
    /// Looks, or waits for what somebody finds who looks already. If she goes, another of those who wait looks.
    pub async fn share(&self, key: K, look: impl Future<Output = T>) -> T {
        let cell = Arc::clone(self.lock().entry(key).or_default());
        let waiting = Waiting { looks: self, key, cell };
        waiting.cell.get_or_init(|| look).await.clone()
    }
}

impl<K, T> Looks<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<T>>>> {
        // The map is whole after every statement, so a panic elsewhere while it was locked broke nothing.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a look; it is forgotten when it is over, or nobody waits for it any more.
struct Waiting<'a, K: Copy + Eq + Hash, T> {
    looks: &'a Looks<K, T>,
    key: K,
    cell: Arc<OnceCell<T>>,
}

impl<K: Copy + Eq + Hash, T> Drop for Waiting<'_, K, T> {
    fn drop(&mut self) {
        let mut by_key = self.looks.lock();
        // Shared and given back under the lock alone, or two who leave together would each count the other: two have it, the map and this one.
        let cell = std::mem::take(&mut self.cell);
        let is_over = cell.initialized() || Arc::strong_count(&cell) == 2;
        // A later look of the same key is not this one's to forget.
        if is_over && by_key.get(&self.key).is_some_and(|other| Arc::ptr_eq(other, &cell)) {
            by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    /// A crowd that looks for the same, of which the first is gone by then, and how often it was looked.
    async fn crowd(first_leaves: bool) -> usize {
        let looks = Arc::new(Looks::default());
        let (n_looks, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let (looks, n_looks, gate) = (Arc::clone(&looks), Arc::clone(&n_looks), Arc::clone(&gate));
                tokio::spawn(async move {
                    let look = async {
                        let number = n_looks.fetch_add(1, Ordering::SeqCst);
                        gate.notified().await;
                        number
                    };
                    looks.share("reader", look).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        if first_leaves {
            calls[0].abort();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for call in calls.into_iter().skip(usize::from(first_leaves)) {
            assert_eq!(call.await.unwrap(), usize::from(first_leaves), "all have what one found");
        }
        assert!(looks.lock().is_empty());
        n_looks.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_crowd_looks_once() {
        assert_eq!(crowd(false).await, 1);
    }

    #[tokio::test]
    async fn where_the_one_who_looks_goes_another_does() {
        assert_eq!(crowd(true).await, 2);
    }

    #[tokio::test]
    async fn what_was_found_is_not_kept_and_other_keys_are_looked_for_apart() {
        let looks = Looks::default();
        for (reader, found) in [("one", 1), ("one", 2), ("other", 3)] {
            assert_eq!(looks.share(reader, async { found }).await, found);
        }
    }
}
