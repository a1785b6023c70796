//! Counts each moment of the device once, also while two model threads run.
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Until when the device's time is accounted for, and by how many threads it is used now.
///
/// While a replaced model ends its last requests, two threads compute side by side. What both have used at once is accounted for by the
/// one that ends its step first, and what one uses is idle for nobody.
#[derive(Debug)]
pub struct DeviceClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    until: Instant,
    n_computing: usize,
}

impl DeviceClock {
    /// All time before `start` is accounted for.
    pub fn from(start: Instant) -> Self {
        Self { state: Mutex::new(State { until: start, n_computing: 0 }) }
    }

    /// Returns the time up to `now` in which nobody has computed.
    pub fn idle(&self, now: Instant) -> Duration {
        self.lock().idle(now)
    }

    /// The same, and lets a thread begin to compute.
    pub fn begin(&self, now: Instant) -> Duration {
        let mut state = self.lock();
        let idle = state.idle(now);
        state.n_computing += 1;
        idle
    }

    /// Lets a thread that began at `started` end; returns as much of its time as nobody has accounted for.
    pub fn end(&self, started: Instant, now: Instant) -> Duration {
        let mut state = self.lock();
        state.n_computing = state.n_computing.saturating_sub(1);
        state.claim(started, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked between two numbers has ended its server.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn idle(&mut self, now: Instant) -> Duration {
        match self.n_computing {
            0 => self.claim(self.until, now),
            _ => Duration::ZERO,
        }
    }

    fn claim(&mut self, from: Instant, now: Instant) -> Duration {
        let claimed = now.saturating_duration_since(from.max(self.until));
        self.until = self.until.max(now);
        claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_is_idle_or_somebodys_and_only_once() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let clock = DeviceClock::from(start);
        let check = |got: Duration, expected: u64| assert_eq!(got, Duration::from_millis(expected));
        check(clock.begin(at(10)), 10);
        // Another begins meanwhile, and one looks for work.
        check(clock.begin(at(15)), 0);
        check(clock.idle(at(17)), 0);
        check(clock.end(at(10), at(20)), 10);
        check(clock.idle(at(22)), 0);
        check(clock.end(at(15), at(25)), 5);
        check(clock.idle(at(30)), 5);
        // One step lies within another.
        check(clock.begin(at(30)), 0);
        check(clock.begin(at(31)), 0);
        check(clock.end(at(31), at(33)), 2);
        check(clock.end(at(30), at(40)), 7);
    }
}
