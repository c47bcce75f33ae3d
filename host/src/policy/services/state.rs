//! The key-value store of policies: what stands behind the interface `state`.
//!
//! Each plugin has a [`Namespace`] of its own and sees no other. Values expire; token buckets are taken from all at once or not
//! at all. There are two stores with the same answers: `embedded` is this relay's own, in memory and on disk; `shared` is a Redis or Valkey
//! server that several relays ask. The embedded one never waits, and is told the time (milliseconds since 1970); the shared one waits for at most
//! [`CALL_TIMEOUT`] and goes by its server's clock, so that all relays agree.

mod embedded;
mod shared;

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::path::Path;

pub use embedded::Embedded;
pub use shared::{CALL_TIMEOUT, CONNECT_TIMEOUT, Clock, PAUSE, PAUSE_MAX, Shared};

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Buckets in one [`Namespace::take_all`].
pub const BUCKETS_MAX: usize = 32;

/// All plugins' stores. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub enum State {
    Embedded(Embedded),
    Shared(Shared),
}

/// One plugin's store. Cheap to clone; get it once, not for each call.
#[derive(Clone)]
pub enum Namespace {
    Embedded(embedded::Namespace),
    Shared(shared::Namespace),
}

/// Why the store did not do it. Nothing was changed, unless a shared store did not answer in time: what it was asked may still happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The store is full or cannot be reached, or the key holds something else.
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
    /// The key, the value, or the list of buckets.
    #[error(
        "the key is over {KEY_BYTES_MAX} bytes, the value over {VALUE_BYTES_MAX}, or there are over {BUCKETS_MAX} buckets"
    )]
    TooLarge,
}

const fn unavailable(why: &'static str) -> StateError {
    StateError::Unavailable(Cow::Borrowed(why))
}

const IS_A_BUCKET: &str = "the key is a token bucket";
const IS_A_VALUE: &str = "the key of a token bucket holds a value";
const IS_NO_NUMBER: &str = "the key holds no number";

/// A token bucket, and how much is to be taken from it. It holds at most `burst` tokens, gets `rate` of them in each `per_seconds`
/// (0 counts as 1), and begins full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    pub key: &'a str,
    pub cost: u32,
    pub rate: u32,
    pub per_seconds: u32,
    pub burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Ok,
    /// Nothing was taken: the bucket at this place lacks tokens for so many milliseconds; `u64::MAX` if it will never have them.
    Refused {
        index: u32,
        wait_ms: u64,
    },
}

impl State {
    /// An embedded store that ends with the process: for probes, shadow runs and tests.
    pub fn in_memory() -> State {
        State::Embedded(Embedded::in_memory())
    }

    /// The embedded store in a folder, as [`Embedded::open`].
    pub fn open(folder: &Path, now_ms: u64) -> io::Result<State> {
        Embedded::open(folder, now_ms).map(State::Embedded)
    }

    /// The store of one plugin.
    pub fn namespace(&self, plugin: &str) -> Namespace {
        match self {
            State::Embedded(store) => Namespace::Embedded(store.namespace(plugin)),
            State::Shared(store) => Namespace::Shared(store.namespace(plugin)),
        }
    }

    /// Looks after the store until `shutdown` is done: the embedded one is swept and saved. A shared one looks after itself.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        match self {
            State::Embedded(store) => store.run(shutdown).await,
            State::Shared(_) => shutdown.await,
        }
    }
}

impl Namespace {
    /// The value of a key; a counter's is its number in decimal digits.
    pub async fn get(&self, key: &str, now_ms: u64) -> Result<Option<Vec<u8>>, StateError> {
        match self {
            Namespace::Embedded(own) => own.get(key, now_ms),
            Namespace::Shared(own) => own.get(key, now_ms).await,
        }
    }

    /// Sets a key, whatever it was before. Without `ttl_seconds` it stays until it is deleted.
    pub async fn set(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>, now_ms: u64) -> Result<(), StateError> {
        match self {
            Namespace::Embedded(own) => own.set(key, value, ttl_seconds, now_ms),
            Namespace::Shared(own) => own.set(key, value, ttl_seconds, now_ms).await,
        }
    }

    /// Removes a key, whatever it is.
    pub async fn delete(&self, key: &str) -> Result<(), StateError> {
        match self {
            Namespace::Embedded(own) => own.delete(key),
            Namespace::Shared(own) => own.delete(key).await,
        }
    }

    /// Adds to a counter (0 if absent; it stays at the ends of its range) and says what it is then. `ttl_seconds` counts from its creation. A value that
    /// was set and is a number becomes a counter.
    pub async fn increment(
        &self,
        key: &str,
        by: i64,
        ttl_seconds: Option<u32>,
        now_ms: u64,
    ) -> Result<i64, StateError> {
        match self {
            Namespace::Embedded(own) => own.increment(key, by, ttl_seconds, now_ms),
            Namespace::Shared(own) => own.increment(key, by, ttl_seconds, now_ms).await,
        }
    }

    /// Takes from all buckets or from none, atomically. The same bucket may stand in the list twice.
    pub async fn take_all(&self, buckets: &[Bucket<'_>], now_ms: u64) -> Result<Taken, StateError> {
        match self {
            Namespace::Embedded(own) => own.take_all(buckets, now_ms),
            Namespace::Shared(own) => own.take_all(buckets, now_ms).await,
        }
    }

    /// Gives back what `take_all` took: no bucket gets fuller than full.
    pub async fn refund(&self, buckets: &[Bucket<'_>], now_ms: u64) -> Result<(), StateError> {
        match self {
            Namespace::Embedded(own) => own.refund(buckets, now_ms),
            Namespace::Shared(own) => own.refund(buckets, now_ms).await,
        }
    }
}
