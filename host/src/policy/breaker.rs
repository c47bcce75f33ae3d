//! The circuit breaker of a plugin version: leaves one alone that fails again and again, and looks now and then whether it is well again.
//!
//! Closed, calls go through. [`FAILURES`] in a row open it: calls fail at once, without the guest, for [`PAUSE`]. Then it is half open: at most
//! [`TRIALS`] calls go through at a time, the others still fail. As many that do well close it; one that fails opens it again, for twice as long, up to
//! [`PAUSE_MAX`]. Never waits, knows no clock: who asks says what time it is.
//!
//! Closed and well, as nearly always, it costs one relaxed load before a call and one after it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Failures in a row that open it.
pub const FAILURES: u32 = 10;
/// The first pause; it doubles each time that a trial fails.
pub const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(64);
/// Trial calls at a time, and how many of them must do well to close it.
pub const TRIALS: u32 = 3;
/// After this long without an end of its trials (callers can be dropped), others are let through.
pub const TRIAL_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Breaker {
    /// It is open or half open: `inner` has to be asked.
    tripped: AtomicBool,
    /// Failures since the last success; not below [`FAILURES`] while `tripped`.
    in_a_row: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: State,
    /// How often it opened since it was closed.
    openings: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until_ms: u64,
    },
    HalfOpen {
        admitted: u32,
        succeeded: u32,
        patience_ms: u64,
    },
}

/// What a call's end made of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Opened { pause: Duration },
    Closed,
}

/// What an administrator sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Closed,
    /// Calls fail at once, for so much longer.
    Open(Duration),
    /// Trial calls decide.
    HalfOpen,
}

impl Breaker {
    /// Whether a call may go through now.
    pub fn admits(&self, now_ms: u64) -> bool {
        !self.tripped.load(Ordering::Relaxed) || self.admits_trial(now_ms)
    }

    #[cold]
    fn admits_trial(&self, now_ms: u64) -> bool {
        let mut inner = self.inner.lock();
        let patience_ms = now_ms + TRIAL_PATIENCE.as_millis() as u64;
        match &mut inner.state {
            State::Closed => true,
            State::Open { until_ms } if now_ms < *until_ms => false,
            State::HalfOpen {
                admitted,
                patience_ms: until,
                ..
            } if *admitted < TRIALS || now_ms >= *until => {
                *admitted = if *admitted < TRIALS { *admitted + 1 } else { 1 };
                *until = patience_ms;
                true
            }
            State::HalfOpen { .. } => false,
            open @ State::Open { .. } => {
                *open = State::HalfOpen {
                    admitted: 1,
                    succeeded: 0,
                    patience_ms,
                };
                true
            }
        }
    }

    /// A call that went through did well.
    pub fn succeeded(&self) -> Option<Turn> {
        match self.in_a_row.load(Ordering::Relaxed) {
            0 => None,
            _ => self.recovers(),
        }
    }

    #[cold]
    fn recovers(&self) -> Option<Turn> {
        let mut inner = self.inner.lock();
        match &mut inner.state {
            State::Closed => {
                self.in_a_row.store(0, Ordering::Relaxed);
                None
            }
            // It began before the breaker opened.
            State::Open { .. } => None,
            State::HalfOpen {
                admitted, succeeded, ..
            } => {
                *succeeded += 1;
                *admitted = admitted.saturating_sub(1);
                if *succeeded < TRIALS {
                    return None;
                }
                *inner = Inner::default();
                self.in_a_row.store(0, Ordering::Relaxed);
                self.tripped.store(false, Ordering::Relaxed);
                Some(Turn::Closed)
            }
        }
    }

    /// A call that went through failed.
    #[cold]
    pub fn failed(&self, now_ms: u64) -> Option<Turn> {
        let mut inner = self.inner.lock();
        let in_a_row = self.in_a_row.load(Ordering::Relaxed).saturating_add(1);
        self.in_a_row.store(in_a_row, Ordering::Relaxed);
        match inner.state {
            State::Closed if in_a_row < FAILURES => return None,
            // It began before the breaker opened.
            State::Open { .. } => return None,
            State::Closed | State::HalfOpen { .. } => {}
        }
        let pause = PAUSE.saturating_mul(1 << inner.openings.min(16)).min(PAUSE_MAX);
        inner.openings = inner.openings.saturating_add(1);
        inner.state = State::Open {
            until_ms: now_ms + pause.as_millis() as u64,
        };
        self.tripped.store(true, Ordering::Relaxed);
        Some(Turn::Opened { pause })
    }

    pub fn condition(&self, now_ms: u64) -> Condition {
        match self.inner.lock().state {
            State::Closed => Condition::Closed,
            State::Open { until_ms } if now_ms < until_ms => Condition::Open(Duration::from_millis(until_ms - now_ms)),
            State::Open { .. } | State::HalfOpen { .. } => Condition::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A breaker that has just opened at 0.
    fn opened() -> Breaker {
        let breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert!(breaker.admits(0));
            assert_eq!(breaker.failed(0), None);
        }
        assert!(breaker.admits(0), "not yet");
        assert_eq!(breaker.failed(0), Some(Turn::Opened { pause: PAUSE }));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_no_others() {
        let breaker = Breaker::default();
        for _ in 0..10 * FAILURES {
            assert_eq!(breaker.failed(0), None);
            assert_eq!(breaker.succeeded(), None);
        }
        assert!(breaker.admits(0));
        let breaker = opened();
        assert!(!breaker.admits(999));
        assert_eq!(breaker.condition(400), Condition::Open(Duration::from_millis(600)));
    }

    #[test]
    fn calls_that_began_before_it_opened_change_nothing() {
        let breaker = opened();
        assert_eq!(breaker.failed(10), None);
        assert_eq!(breaker.succeeded(), None);
        assert!(!breaker.admits(999));
        assert!(breaker.admits(1_000));
    }

    #[test]
    fn trials_that_do_well_close_it() {
        let breaker = opened();
        for _ in 0..TRIALS {
            assert!(breaker.admits(1_000));
        }
        assert!(!breaker.admits(1_000), "so many at a time");
        assert_eq!(breaker.condition(1_000), Condition::HalfOpen);
        for _ in 1..TRIALS {
            assert_eq!(breaker.succeeded(), None);
        }
        assert_eq!(breaker.succeeded(), Some(Turn::Closed));
        assert_eq!(breaker.condition(1_000), Condition::Closed);
        assert!(breaker.admits(1_000));
        // And everything begins anew, the pause too.
        for _ in 1..FAILURES {
            assert_eq!(breaker.failed(1_000), None);
        }
        assert_eq!(breaker.failed(1_000), Some(Turn::Opened { pause: PAUSE }));
    }

    #[test]
    fn the_pause_doubles_up_to_a_bound() {
        let breaker = opened();
        let (mut now_ms, mut pause) = (0, PAUSE);
        for _ in 0..40 {
            now_ms += pause.as_millis() as u64;
            assert!(breaker.admits(now_ms));
            pause = (2 * pause).min(PAUSE_MAX);
            assert_eq!(breaker.failed(now_ms), Some(Turn::Opened { pause }));
            assert!(!breaker.admits(now_ms + pause.as_millis() as u64 - 1));
        }
        assert_eq!(pause, PAUSE_MAX);
    }

    #[test]
    fn trials_that_never_end_do_not_keep_it_shut() {
        let breaker = opened();
        for _ in 0..TRIALS {
            assert!(breaker.admits(1_000));
        }
        let later = 1_000 + TRIAL_PATIENCE.as_millis() as u64;
        assert!(!breaker.admits(later - 1));
        assert!(breaker.admits(later));
    }
}
