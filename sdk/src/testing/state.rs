//! The store behind `state` in a script: in memory, by the script's clock, and with the answers of the daemon's.
//!
//! It is written again rather than shared because the daemon's is made for many threads and a disk. That both answer alike is what the daemon's
//! `tests/state_alike.rs` holds them to.

use std::collections::BTreeMap;

use crate::state::{Bucket, StateError, Taken};

/// Bytes of a key, and of a value; buckets in one call. The daemon's bounds.
const MOST_KEY_BYTES: usize = 512;
const MOST_VALUE_BYTES: usize = 64 * 1024;
const MOST_BUCKETS: usize = 32;
/// Tokens are counted in billionths.
const NANO: u128 = 1_000_000_000;

/// A plugin's own store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    entries: BTreeMap<String, Entry>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    expires_ms: u64,
}

#[derive(Clone, Debug)]
enum Value {
    Bytes(Vec<u8>),
    Counter(i64),
    Bucket(Level),
}

/// How full a bucket was, and when.
#[derive(Clone, Copy, Debug)]
struct Level {
    nano_tokens: u128,
    at_ms: u64,
}

impl Store {
    /// # Errors
    /// The key is too long, or that of a token bucket.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        check_key(key)?;
        match self.live(key) {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes.clone())),
            Some(Value::Counter(number)) => Ok(Some(number.to_string().into_bytes())),
            Some(Value::Bucket(_)) => Err(unavailable("the key is a token bucket")),
        }
    }

    /// # Errors
    /// The key or the value is too long.
    pub fn set(&mut self, key: &str, value: &[u8], ttl_seconds: Option<u32>) -> Result<(), StateError> {
        check_key(key)?;
        if value.len() > MOST_VALUE_BYTES {
            return Err(StateError::TooLarge);
        }
        let expires_ms = self.expiry(ttl_seconds);
        self.put(key, Value::Bytes(value.to_vec()), expires_ms);
        Ok(())
    }

    /// # Errors
    /// The key is too long.
    pub fn delete(&mut self, key: &str) -> Result<(), StateError> {
        check_key(key)?;
        self.entries.remove(key);
        Ok(())
    }

    /// # Errors
    /// The key is too long, or holds no number.
    pub fn increment(&mut self, key: &str, by: i64, ttl_seconds: Option<u32>) -> Result<i64, StateError> {
        check_key(key)?;
        let (before, expires_ms) = match self.live(key) {
            None => (0, self.expiry(ttl_seconds)),
            Some(Value::Counter(number)) => (*number, self.entries[key].expires_ms),
            Some(Value::Bytes(bytes)) => {
                let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
                let number = number.ok_or_else(|| unavailable("the key holds no number"))?;
                (number, self.entries[key].expires_ms)
            }
            Some(Value::Bucket(_)) => return Err(unavailable("the key is a token bucket")),
        };
        let after = before.saturating_add(by);
        self.put(key, Value::Counter(after), expires_ms);
        Ok(after)
    }

    /// # Errors
    /// A key is too long or holds a value, or there are too many buckets.
    pub fn take_all(&mut self, buckets: &[Bucket]) -> Result<Taken, StateError> {
        self.change_all(buckets, |level, bucket, now_ms| level.take(bucket, now_ms))
    }

    /// # Errors
    /// As of [`Store::take_all`].
    pub fn refund(&mut self, buckets: &[Bucket]) -> Result<(), StateError> {
        self.change_all(buckets, |level, bucket, now_ms| Ok(level.give(bucket, now_ms)))?;
        Ok(())
    }

    /// Changes all buckets, or none if `change` refuses one with the milliseconds to wait.
    fn change_all(
        &mut self,
        buckets: &[Bucket],
        change: impl Fn(Level, &Bucket, u64) -> Result<Level, u64>,
    ) -> Result<Taken, StateError> {
        if buckets.len() > MOST_BUCKETS {
            return Err(StateError::TooLarge);
        }
        for bucket in buckets {
            check_key(&bucket.key)?;
        }
        let mut changed = self.clone();
        for (place, bucket) in buckets.iter().enumerate() {
            let level = match changed.live(&bucket.key) {
                None => Level::full(bucket, self.now_ms),
                Some(Value::Bucket(level)) => *level,
                Some(_) => return Err(unavailable("the key of a token bucket holds a value")),
            };
            match change(level, bucket, self.now_ms) {
                Ok(level) => {
                    let expires_ms = level.full_at_ms(bucket);
                    changed.put(&bucket.key, Value::Bucket(level), expires_ms);
                }
                Err(wait_ms) => return Ok(Taken::Refused((place as u32, wait_ms))),
            }
        }
        *self = changed;
        Ok(Taken::Ok)
    }

    fn live(&self, key: &str) -> Option<&Value> {
        let entry = self.entries.get(key)?;
        (entry.expires_ms > self.now_ms).then_some(&entry.value)
    }

    fn put(&mut self, key: &str, value: Value, expires_ms: u64) {
        self.entries.insert(key.to_owned(), Entry { value, expires_ms });
    }

    fn expiry(&self, ttl_seconds: Option<u32>) -> u64 {
        ttl_seconds.map_or(u64::MAX, |seconds| {
            self.now_ms.saturating_add(u64::from(seconds) * 1000)
        })
    }
}

impl Level {
    fn full(bucket: &Bucket, now_ms: u64) -> Self {
        Self {
            nano_tokens: capacity(bucket),
            at_ms: now_ms,
        }
    }

    /// The level without the cost, or the milliseconds until there is enough; `u64::MAX` if there never is.
    fn take(self, bucket: &Bucket, now_ms: u64) -> Result<Self, u64> {
        let now = self.refilled(bucket, now_ms);
        let cost = u128::from(bucket.cost) * NANO;
        match now.nano_tokens.checked_sub(cost) {
            Some(nano_tokens) => Ok(Self { nano_tokens, ..now }),
            None if cost > capacity(bucket) => Err(u64::MAX),
            None => Err(time_for(cost - now.nano_tokens, bucket)),
        }
    }

    fn give(self, bucket: &Bucket, now_ms: u64) -> Self {
        let now = self.refilled(bucket, now_ms);
        let given = now.nano_tokens + u128::from(bucket.cost) * NANO;
        Self {
            nano_tokens: given.min(capacity(bucket)),
            ..now
        }
    }

    fn refilled(self, bucket: &Bucket, now_ms: u64) -> Self {
        let elapsed_ms = u128::from(now_ms.saturating_sub(self.at_ms));
        let gained = (elapsed_ms * a_millisecond(bucket)).div_ceil(per_seconds(bucket));
        Self {
            nano_tokens: (self.nano_tokens + gained).min(capacity(bucket)),
            at_ms: now_ms,
        }
    }

    /// When it has been full again for a moment, and need not be kept: a full bucket is one that was never used.
    fn full_at_ms(self, bucket: &Bucket) -> u64 {
        let lacking = capacity(bucket) - self.nano_tokens.min(capacity(bucket));
        self.at_ms.saturating_add(time_for(lacking, bucket)).saturating_add(1)
    }
}

fn capacity(bucket: &Bucket) -> u128 {
    u128::from(bucket.burst) * NANO
}

fn per_seconds(bucket: &Bucket) -> u128 {
    u128::from(bucket.per_seconds.max(1))
}

/// What comes in each millisecond, times `per_seconds`.
fn a_millisecond(bucket: &Bucket) -> u128 {
    u128::from(bucket.rate) * (NANO / 1000)
}

/// The milliseconds until so much has come in, rounded up.
fn time_for(nano_tokens: u128, bucket: &Bucket) -> u64 {
    match (nano_tokens, a_millisecond(bucket)) {
        (0, _) => 0,
        (_, 0) => u64::MAX,
        (_, a_millisecond) => {
            u64::try_from((nano_tokens * per_seconds(bucket)).div_ceil(a_millisecond)).unwrap_or(u64::MAX)
        }
    }
}

fn check_key(key: &str) -> Result<(), StateError> {
    if key.len() > MOST_KEY_BYTES {
        return Err(StateError::TooLarge);
    }
    Ok(())
}

fn unavailable(why: &str) -> StateError {
    StateError::Unavailable(why.to_owned())
}
