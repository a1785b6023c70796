//! Counts each moment of the device once, also while several model threads run.
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Until when the device's time is accounted for, and whose it is.
///
/// While several models compute side by side, each gets an equal part of such a time. What one of them uses
/// is idle for nobody.
#[derive(Debug)]
pub struct DeviceClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    until: Instant,
    /// Threads that compute now, with their part so far.
    computing: Vec<(u64, Duration)>,
    n_begun: u64,
}

/// What a thread has begun to compute.
#[derive(Debug)]
pub struct Begun(u64);

impl DeviceClock {
    /// All time before `start` is accounted for.
    pub fn from(start: Instant) -> Self {
        Self { state: Mutex::new(State { until: start, computing: Vec::new(), n_begun: 0 }) }
    }

    /// Returns the time up to `now`, since the last call of whatever thread, in which nobody has computed.
    pub fn idle(&self, now: Instant) -> Duration {
        self.lock().share_until(now)
    }

    /// The same, and lets a thread begin to compute.
    pub fn begin(&self, now: Instant) -> (Begun, Duration) {
        let mut state = self.lock();
        let idle = state.share_until(now);
        state.n_begun += 1;
        let number = state.n_begun;
        state.computing.push((number, Duration::ZERO));
        (Begun(number), idle)
    }

    /// Lets a thread end; returns its part of the time.
    pub fn end(&self, Begun(number): Begun, now: Instant) -> Duration {
        let mut state = self.lock();
        // Nobody is idle while it computes.
        state.share_until(now);
        let place = state.computing.iter().position(|&(other, _)| other == number);
        place.map_or(Duration::ZERO, |place| state.computing.swap_remove(place).1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked between two numbers has ended its server.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the time up to `now` to those who compute, in equal parts; returns it where nobody does.
    fn share_until(&mut self, now: Instant) -> Duration {
        let mut rest = now.saturating_duration_since(self.until);
        self.until = self.until.max(now);
        let mut n_left = u32::try_from(self.computing.len()).unwrap_or(u32::MAX);
        for (_, part) in &mut self.computing {
            // What is left of a nanosecond is in the last part.
            let own = rest / n_left;
            *part += own;
            rest -= own;
            n_left -= 1;
        }
        rest
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
        let mut total = Duration::ZERO;
        let mut check = |got: Duration, expected: u64| {
            assert_eq!(got, Duration::from_millis(expected));
            total += got;
        };
        let (one, idle) = clock.begin(at(10));
        check(idle, 10);
        // Another begins meanwhile, and a third looks for work.
        let (other, idle) = clock.begin(at(16));
        check(idle, 0);
        check(clock.idle(at(18)), 0);
        check(clock.end(one, at(20)), 8);
        check(clock.end(other, at(26)), 8);
        check(clock.idle(at(30)), 4);
        // One step lies within another.
        let (long, _) = clock.begin(at(30));
        let (short, _) = clock.begin(at(500));
        check(clock.end(short, at(510)), 5);
        check(clock.end(long, at(1_000)), 965);
        assert_eq!(total, Duration::from_millis(1_000));
    }

    #[test]
    fn not_a_nanosecond_is_lost_between_two() {
        let start = Instant::now();
        let clock = DeviceClock::from(start);
        let ((one, _), (other, _)) = (clock.begin(start), clock.begin(start));
        let end = start + Duration::from_nanos(7);
        assert_eq!(clock.end(one, end) + clock.end(other, end), Duration::from_nanos(7));
    }
}
