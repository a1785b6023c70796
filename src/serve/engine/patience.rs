//! How long a job may be expected to wait when it comes.
//!
//! As long as is set, until somebody would wait that long; from then on only as long as keeps the model busy, until there is nobody left for it to
//! begin with. A long queue evens out the waves in which jobs come. One that has once been full holds no wave but more work than there is, and all
//! that its length does then is to make everybody wait (the "bad queue" of K. Nichols and V. Jacobson, "Controlling Queue Delay", 2012; B.
//! Maurer, "Fail at Scale", 2015): as many are answered through a short one, each sooner. So whoever is too far behind in it by then leaves it
//! (`thread::leaving`). Clients whose deadline is nearer than the usual limit are refused by that, and make no queue short: one that is in a
//! hurry says nothing of how long others may wait.
use super::{Class, Duration};

/// No prompt is made ready sooner.
const PREPARATION_MIN: Duration = Duration::from_micros(1);

/// Whether the queue was full.
#[derive(Debug, Default)]
pub(super) struct Patience {
    has_overflowed: bool,
}

impl Patience {
    /// Whether the queue is short.
    pub(super) fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// Somebody came who would have waited too long.
    pub(super) fn overflowed(&mut self) {
        self.has_overflowed = true;
    }

    /// The thread could begin with another job, and there is none.
    pub(super) fn ran_dry(&mut self) {
        self.has_overflowed = false;
    }

    /// The longest that a job of a class may be expected to wait, where that is `usual`, the next place is free after `leaves`, and a job is made ready in
    /// `preparation`: in a short queue somebody is ready when one leaves. Nobody waits for bulk, so that its queue may be as long as it likes.
    pub(super) fn wait_max(
        &self,
        class: Class,
        usual: Duration,
        (leaves, preparation): (Duration, Duration),
    ) -> Duration {
        // One that comes next waits until one has left, so that less would let nobody in.
        let short = leaves + preparation.max(PREPARATION_MIN);
        if self.has_overflowed && class < Class::Bulk { usual.min(short) } else { usual }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const USUAL: Duration = Duration::from_secs(5);

    #[test]
    fn a_queue_that_was_full_is_short_until_it_has_run_dry() {
        let mut patience = Patience::default();
        let of = |patience: &Patience, class| patience.wait_max(class, USUAL, (10 * MS, 3 * MS));
        assert_eq!(of(&patience, Class::Default), USUAL);
        patience.overflowed();
        for (class, expected) in
            [(Class::Interactive, 13 * MS), (Class::Default, 13 * MS), (Class::Bulk, USUAL)]
        {
            assert_eq!(of(&patience, class), expected, "{class:?}");
        }
        patience.ran_dry();
        assert_eq!(of(&patience, Class::Default), USUAL);
    }

    #[test]
    fn a_short_queue_takes_the_next_one_and_is_never_longer_than_the_usual() {
        let mut patience = Patience::default();
        patience.overflowed();
        let of = |measured| patience.wait_max(Class::Default, USUAL, measured);
        assert!(of((10 * MS, Duration::ZERO)) > 10 * MS);
        assert_eq!(of((2 * USUAL, MS)), USUAL);
    }
}
