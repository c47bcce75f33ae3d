//! The first time of a version in force, in which too many failures have it taken back.
//!
//! Counts nothing itself: the plugin says its sums at each failure, so a call that does well costs nothing. Says once that it was too much,
//! and wakes who acts on it; what is done about it is not decided here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long a version is watched after it came into force by a change. A canary is watched as long as it is one.
pub const PROBATION: Duration = Duration::from_secs(10 * 60);
/// Fewer failures than this are no reason to take a version back.
pub const FAILURES_MIN: u64 = 5;
/// Nor are failures of less than one call in so many.
pub const CALLS_PER_FAILURE: u64 = 10;

/// Calls since the watch began, and how many of them failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub calls: u64,
    pub failures: u64,
}

impl Counts {
    fn are_too_much(self) -> bool {
        self.failures >= FAILURES_MIN && self.failures.saturating_mul(CALLS_PER_FAILURE) >= self.calls
    }

    fn since(self, before: Counts) -> Counts {
        Counts {
            calls: self.calls.saturating_sub(before.calls),
            failures: self.failures.saturating_sub(before.failures),
        }
    }
}

/// The watch over one plugin version.
#[derive(Default)]
pub struct Probation(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Off,
    On {
        /// `None`: until it is ended.
        ends: Option<Instant>,
        before: Counts,
        wake: Arc<Notify>,
    },
    Failed(Counts),
}

impl Probation {
    /// Begins to watch: from these sums on, until then, and `wake` is told.
    pub fn begin(&self, before: Counts, ends: Option<Instant>, wake: Arc<Notify>) {
        *self.0.lock() = State::On { ends, before, wake };
    }

    pub fn end(&self) {
        *self.0.lock() = State::Off;
    }

    /// A call failed; the sums are with it.
    pub fn failed(&self, sums: Counts, now: Instant) {
        let mut state = self.0.lock();
        let State::On { ends, before, wake } = &*state else {
            return;
        };
        if ends.is_some_and(|ends| now >= ends) {
            *state = State::Off;
            return;
        }
        let counts = sums.since(*before);
        if counts.are_too_much() {
            wake.notify_one();
            *state = State::Failed(counts);
        }
    }

    /// What it failed with, if it did; said once.
    pub fn take_failure(&self) -> Option<Counts> {
        let mut state = self.0.lock();
        match *state {
            State::Failed(counts) => {
                *state = State::Off;
                Some(counts)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(calls: u64, failures: u64) -> Counts {
        Counts { calls, failures }
    }

    #[test]
    fn the_threshold_is_a_number_and_a_share() {
        let began = Instant::now();
        let in_time = began + PROBATION - Duration::from_millis(1);
        for (sums, at, expected) in [
            (counts(104, 7), in_time, None),
            (counts(105, 8), in_time, Some(counts(5, 5))),
            (counts(150, 8), in_time, Some(counts(50, 5))),
            (counts(151, 8), in_time, None),
            (counts(200, 13), in_time, Some(counts(100, 10))),
            (counts(105, 8), began + PROBATION, None),
        ] {
            let probation = Probation::default();
            probation.begin(counts(100, 3), Some(began + PROBATION), Arc::default());
            probation.failed(sums, at);
            assert_eq!(probation.take_failure(), expected, "{sums:?}");
            assert_eq!(probation.take_failure(), None, "said once");
        }
    }

    #[tokio::test]
    async fn who_acts_on_it_is_woken_once() {
        let (probation, wake) = (Probation::default(), Arc::new(Notify::new()));
        let now = Instant::now();
        probation.failed(counts(9, 9), now);
        assert_eq!(probation.take_failure(), None, "nobody watches");
        probation.begin(counts(0, 0), None, wake.clone());
        probation.failed(counts(9, 9), now + 2 * PROBATION);
        wake.notified().await;
        assert_eq!(probation.take_failure(), Some(counts(9, 9)));
    }
}
