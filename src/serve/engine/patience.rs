//! How long a job may be expected to wait when it comes.
//!
//! As long as is set, until somebody would wait that long; from then on only as long as keeps the model busy, until there is nobody left for it to
//! begin with. A long queue evens out the waves in which jobs come. One that has once been full holds no wave but more work than there is, and all
//! that its length does then is to make everybody wait (the "bad queue" of K. Nichols and V. Jacobson, "Controlling Queue Delay", 2012; B.
//! Maurer, "Fail at Scale", 2015): as many are answered through a short one, each sooner. So whoever is too far behind in it by then leaves it
//! (`thread::leaving`). Clients whose deadline is nearer than the usual limit are refused by that, and make no queue short: one that is in a
//! hurry says nothing of how long others may wait.
use super::{Class, Duration, Room};

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

/// Who stays in a queue that was full, asked of one after the other in the order in which they go: whoever has room beside those before her, and
/// of those who have to wait as many as may.
#[derive(Debug)]
pub(super) struct Shortening {
    /// Room that nobody has.
    pub(super) free: Room,
    /// Rows that may still begin.
    pub(super) rows_left: usize,
    /// How many may wait who have no room, by class, those before them counted.
    pub(super) most: [usize; Class::ALL.len()],
    /// What those who stay need.
    pub(super) need: Room,
    /// How many of them have to wait.
    pub(super) n_behind: usize,
}

impl Shortening {
    /// Whether a job stays. `is_bulk`: it was asked for as bulk, and whoever joined that waits with it.
    pub(super) fn stays(&mut self, class: Class, is_bulk: bool, need: Room) -> bool {
        let has_room = self.need.and(need).fits(self.free) && self.need.rows < self.rows_left;
        let stays = has_room || is_bulk || self.n_behind < self.most[class as usize];
        if stays {
            self.need = self.need.and(need);
            self.n_behind += usize::from(!has_room);
        }
        stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_room_stays_and_of_the_others_as_many_as_may_wait() {
        let need = Room { rows: 4, tokens: 100 };
        let stay = |free, rows_left, classes: &[(Class, bool)]| {
            let most = [1, 2, usize::MAX];
            let mut shortening = Shortening { free, rows_left, most, need: Room::default(), n_behind: 0 };
            classes.iter().map(|&(class, is_bulk)| shortening.stays(class, is_bulk, need)).collect::<Vec<_>>()
        };
        let readers = [(Class::Interactive, false); 4];
        let others = [(Class::Default, false); 4];
        let room = |rows, tokens| Room { rows, tokens };
        assert_eq!(stay(room(0, 0), 8, &readers), [true, false, false, false]);
        assert_eq!(stay(room(0, 0), 8, &others), [true, true, false, false]);
        assert_eq!(stay(room(16, 400), 16, &readers), [true; 4], "all have room");
        assert_eq!(
            stay(room(16, 200), 16, &readers),
            [true, true, true, false],
            "two have tokens, one may wait"
        );
        assert_eq!(
            stay(room(16, 400), 4, &readers),
            [true, true, false, false],
            "one may begin, one may wait"
        );
        assert_eq!(
            stay(
                room(0, 0),
                8,
                &[(Class::Interactive, false), (Class::Default, true), (Class::Default, false)]
            ),
            [true, true, false]
        );
    }

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
