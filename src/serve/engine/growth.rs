//! Whether lists are watched while they are written.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many of those who wait for the same look at it while it is written: rows are shown as they grow where anybody does.
#[derive(Debug, Default)]
pub struct Growth(AtomicUsize);

impl Growth {
    /// One more looks, until this is dropped.
    pub fn look(self: &Arc<Self>) -> Look {
        self.0.fetch_add(1, Ordering::Relaxed);
        Look(Arc::clone(self))
    }

    /// Whether anybody looks.
    pub fn is_watched(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// One who looks.
#[derive(Debug)]
pub struct Look(Arc<Growth>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shown_as_long_as_anybody_looks() {
        let growth = Arc::<Growth>::default();
        assert!(!growth.is_watched());
        let (one, other) = (growth.look(), growth.look());
        drop(one);
        assert!(growth.is_watched());
        drop(other);
        assert!(!growth.is_watched());
    }
}
