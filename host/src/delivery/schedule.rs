//! When a message is tried again.
//!
//! Pure: time and chance come in as arguments.

use std::time::Duration;

/// Pauses vary by up to this part of themselves, either way, so that what failed together does not return together.
pub const JITTER: f64 = 0.1;

/// The pause after attempt number `attempts` (from 1). `retry` is never empty; its last pause repeats. `chance` is in
/// 0.0..1.0.
pub fn pause(retry: &[Duration], attempts: u32, chance: f64) -> Duration {
    let index = (attempts.max(1) as usize - 1).min(retry.len().saturating_sub(1));
    let base = retry.get(index).copied().unwrap_or(Duration::from_secs(60));
    base.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance)
}

/// A number in 0.0..1.0. Falls back to the middle where the system has no randomness: this is only for spreading.
pub fn chance() -> f64 {
    getrandom::u64().map_or(0.5, |bits| (bits >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_list_and_the_last_repeats() {
        let retry = [60, 300, 3600].map(Duration::from_secs);
        let cases = [
            (1, 0.5, 60),
            (2, 0.5, 300),
            (3, 0.5, 3600),
            (99, 0.5, 3600),
            (1, 0.0, 54),
            (2, 0.0, 270),
            (0, 0.5, 60),
        ];
        for (attempts, chance, seconds) in cases {
            assert_eq!(
                pause(&retry, attempts, chance).as_secs_f64().round() as u64,
                seconds,
                "attempt {attempts}"
            );
        }
        assert!(pause(&retry, 1, 0.999) < Duration::from_secs(67));
        assert!((0..1000).map(|_| chance()).all(|chance| (0.0..1.0).contains(&chance)));
    }
}
