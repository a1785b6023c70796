//! Whether the model thread moves: it beats once for each of its steps, and rests where there is nothing to do.
use super::Duration;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often somebody looks. Looks are counted and no clock is read: a process that stood still as a whole has not looked either.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A count of beats, odd while the thread is at work. Written by that thread only.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicU64);

impl Pulse {
    /// The thread is at work, and begins with another step.
    pub(super) fn beat(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + 1 + before % 2, Ordering::Relaxed);
    }

    /// It waits for work.
    pub(super) fn rest(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + before % 2, Ordering::Relaxed);
    }

    /// Resolves when a step has not ended for about so long.
    pub(super) async fn stands_still(&self, step_max: Duration) {
        let mut looks = Looks::default();
        while looks.look(self) <= step_max.as_secs() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What somebody saw who looks again and again.
#[derive(Default)]
struct Looks {
    seen: u64,
    n_same: u64,
}

impl Looks {
    /// How often the same step has been seen, before this look.
    fn look(&mut self, pulse: &Pulse) -> u64 {
        let now = pulse.0.load(Ordering::Relaxed);
        self.n_same = if now % 2 == 1 && now == self.seen { self.n_same + 1 } else { 0 };
        self.seen = now;
        self.n_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_that_works_and_does_not_beat_stands_still() {
        let (pulse, mut looks) = (Pulse::default(), Looks::default());
        let mut look = |n| (0..n).map(|_| looks.look(&pulse)).collect::<Vec<_>>();
        assert_eq!(look(3), [0, 0, 0], "it has not begun");
        pulse.beat();
        assert_eq!(look(3), [0, 1, 2]);
        pulse.beat();
        assert_eq!(look(2), [0, 1]);
        pulse.rest();
        assert_eq!(look(3), [0, 0, 0], "it rests");
        pulse.rest();
        pulse.beat();
        assert_eq!(look(2), [0, 1]);
    }
}
