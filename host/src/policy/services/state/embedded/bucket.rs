//! The arithmetic of token buckets, in whole numbers: rounding gives away at most a billionth of a token each time one is taken.
//!
//! Knows nothing of keys, locks or clocks, and cannot fail.

use super::super::Bucket;

/// Tokens are counted in billionths.
const NANO: u64 = 1_000_000_000;

/// How full a bucket was, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub nano_tokens: u64,
    pub at_ms: u64,
}

impl Level {
    pub fn full(bucket: &Bucket<'_>, now_ms: u64) -> Level {
        Level {
            nano_tokens: capacity(bucket),
            at_ms: now_ms,
        }
    }

    /// The level after the cost was taken, or the milliseconds until there is enough (`u64::MAX`: there never is).
    pub fn take(self, bucket: &Bucket<'_>, now_ms: u64) -> Result<Level, u64> {
        let now = self.refilled(bucket, now_ms);
        let cost = u64::from(bucket.cost) * NANO;
        match now.nano_tokens.checked_sub(cost) {
            Some(nano_tokens) => Ok(Level { nano_tokens, ..now }),
            None if cost > capacity(bucket) => Err(u64::MAX),
            None => Err(time_for(cost - now.nano_tokens, bucket)),
        }
    }

    /// The level after the cost was given back.
    pub fn give(self, bucket: &Bucket<'_>, now_ms: u64) -> Level {
        let now = self.refilled(bucket, now_ms);
        let given = now.nano_tokens.saturating_add(u64::from(bucket.cost) * NANO);
        Level {
            nano_tokens: given.min(capacity(bucket)),
            ..now
        }
    }

    /// How long it takes, from the time of this level, until the bucket is full, in milliseconds.
    pub fn until_full_ms(self, bucket: &Bucket<'_>) -> u64 {
        time_for(capacity(bucket) - self.nano_tokens.min(capacity(bucket)), bucket)
    }

    /// The level now. A clock that was set back adds nothing and takes nothing; a burst that became smaller cuts.
    fn refilled(self, bucket: &Bucket<'_>, now_ms: u64) -> Level {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let gained = scaled(elapsed_ms, a_millisecond(bucket), per_seconds(bucket));
        let sum = self.nano_tokens.saturating_add(gained).min(capacity(bucket));
        Level {
            nano_tokens: sum,
            at_ms: now_ms,
        }
    }
}

/// Fits: 2^32 * 10^9 < 2^62.
fn capacity(bucket: &Bucket<'_>) -> u64 {
    u64::from(bucket.burst) * NANO
}

fn per_seconds(bucket: &Bucket<'_>) -> u64 {
    u64::from(bucket.per_seconds.max(1))
}

/// What comes in each millisecond, times `per_seconds`, in billionths of a token.
fn a_millisecond(bucket: &Bucket<'_>) -> u64 {
    u64::from(bucket.rate) * (NANO / 1000)
}

/// The milliseconds until so much has come in, rounded up.
fn time_for(nano_tokens: u64, bucket: &Bucket<'_>) -> u64 {
    match (nano_tokens, a_millisecond(bucket)) {
        (0, _) => 0,
        (_, 0) => u64::MAX,
        (_, a_millisecond) => scaled(nano_tokens, per_seconds(bucket), a_millisecond),
    }
}

/// `number * by / per`, rounded up; the largest number if it is larger. Most fit in 64 bits, whose division is fast.
fn scaled(number: u64, by: u64, per: u64) -> u64 {
    match number.checked_mul(by) {
        Some(product) => product.div_ceil(per),
        None => u64::try_from((u128::from(number) * u128::from(by)).div_ceil(u128::from(per))).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bucket(cost: u32, rate: u32, per_seconds: u32, burst: u32) -> Bucket<'static> {
        Bucket {
            key: "",
            cost,
            rate,
            per_seconds,
            burst,
        }
    }

    #[test]
    fn a_bucket_gives_what_came_in() {
        let ten_a_minute = bucket(1, 10, 60, 3);
        let mut level = Level::full(&ten_a_minute, 0);
        // When, and what happens: 0 is taken, else the wait in milliseconds.
        let steps = [
            (0, 0),
            (0, 0),
            (0, 0),
            (0, 6000),
            (5999, 1),
            (6000, 0),
            (6000, 6000),
            (18_000, 0),
            (18_000, 0),
            (18_000, 6000),
        ];
        for (at_ms, expected) in steps {
            match level.take(&ten_a_minute, at_ms) {
                Ok(after) => {
                    assert_eq!(expected, 0, "at {at_ms}");
                    level = after;
                }
                Err(wait) => assert_eq!(wait, expected, "at {at_ms}"),
            }
        }
    }

    #[test]
    fn odd_buckets_are_harmless() {
        let cases = [
            ("costs more than it holds", bucket(4, 10, 60, 3), Err(u64::MAX)),
            ("holds nothing", bucket(1, 10, 60, 0), Err(u64::MAX)),
            ("costs nothing", bucket(0, 0, 0, 0), Ok(())),
            ("never filled, but full", bucket(3, 0, 60, 3), Ok(())),
            ("no time", bucket(1, 1, 0, 1), Ok(())),
            ("all large", bucket(u32::MAX, u32::MAX, u32::MAX, u32::MAX), Ok(())),
        ];
        for (name, bucket, expected) in cases {
            assert_eq!(
                Level::full(&bucket, u64::MAX).take(&bucket, u64::MAX).map(|_| ()),
                expected,
                "{name}"
            );
        }
        let never = bucket(1, 0, 60, 1);
        let empty = Level::full(&never, 0).take(&never, 0).expect("it is full");
        assert_eq!(empty.take(&never, u64::MAX), Err(u64::MAX));
        assert_eq!(empty.until_full_ms(&never), u64::MAX);
        let huge = bucket(u32::MAX, 1, u32::MAX, u32::MAX);
        let empty = Level::full(&huge, 0).take(&huge, 0).expect("it is full");
        assert_eq!(empty.take(&huge, 1), Err(u64::MAX), "the wait is beyond all numbers");
    }

    #[test]
    fn what_is_given_back_does_not_overflow_and_time_does_not_run_back() {
        let three = bucket(2, 1, 1, 3);
        let level = Level::full(&three, 1000).take(&three, 1000).expect("it is full");
        assert_eq!(level.give(&three, 1000), Level::full(&three, 1000));
        assert_eq!(level.give(&three, 1000).give(&three, 1000), Level::full(&three, 1000));
        assert_eq!(
            level.take(&three, 0),
            Err(1000),
            "at an earlier time nothing has come in"
        );
        let smaller = bucket(1, 1, 1, 1);
        assert_eq!(
            Level::full(&three, 0).take(&smaller, 0).expect("one").nano_tokens,
            0,
            "a smaller burst cuts"
        );
    }

    #[test]
    fn slow_buckets_lose_nothing_to_rounding() {
        let one_a_day = bucket(1, 1, 86_400, 1);
        let mut level = Level::full(&one_a_day, 0).take(&one_a_day, 0).expect("it is full");
        let mut at_ms = 0;
        for _ in 0..100 {
            at_ms += level.take(&one_a_day, at_ms).expect_err("it is empty");
            level = level.take(&one_a_day, at_ms).expect("the wait is over");
        }
        assert_eq!(at_ms, 100 * 86_400_000);
    }
}
