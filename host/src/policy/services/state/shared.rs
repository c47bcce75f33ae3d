//! The store that several relays share: a Redis or Valkey server.
//!
//! Each call is one invocation of `state.lua`, which the server runs atomically, and so one round trip. A call waits for at most
//! [`CALL_TIMEOUT`]; without a connection it fails at once. How there comes to be a connection is in `connection`. Nothing here is kept of what
//! the server holds.

mod connection;

use std::sync::Arc;

use redis::{Script, ScriptInvocation, Value};
use zeroize::Zeroizing;

use super::{
    BUCKETS_MAX, Bucket, IS_A_BUCKET, IS_A_VALUE, IS_NO_NUMBER, KEY_BYTES_MAX, StateError, Taken, VALUE_BYTES_MAX,
    unavailable,
};
use crate::config::StateServer;

use connection::Connection;
pub use connection::{CALL_TIMEOUT, CONNECT_TIMEOUT, PAUSE, PAUSE_MAX};

/// A key in the server is this, the plugin's name, a colon, and the plugin's key. Names of plugins have no colon.
const PREFIX: &str = "gatepost:";

/// Whose clock says what is expired and what came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The server's, so that all relays agree.
    Server,
    /// Each call says what time it is: for tests.
    Caller,
}

/// All plugins' stores in one server. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    connection: Arc<Connection>,
    clock: Clock,
}

/// One plugin's keys.
#[derive(Clone)]
pub struct Namespace {
    shared: Shared,
    prefix: Arc<str>,
}

impl Shared {
    /// Connects, and goes on trying where that fails: there is a store in any case, and the log says whether its server is there. Waits for at most
    /// [`CONNECT_TIMEOUT`]. Needs a tokio runtime, where the connection is looked after until the last clone is dropped.
    pub async fn open(server: StateServer, password: Option<Zeroizing<String>>, clock: Clock) -> Shared {
        let script = Script::new(include_str!("shared/state.lua"));
        let connection = Arc::new(Connection::open(server, password, script).await);
        Shared { connection, clock }
    }

    /// The store of one plugin.
    pub fn namespace(&self, plugin: &str) -> Namespace {
        Namespace {
            shared: self.clone(),
            prefix: format!("{PREFIX}{plugin}:").into(),
        }
    }

    /// Counts from the next connection on.
    pub fn set_password(&self, password: Option<Zeroizing<String>>) {
        self.connection.set_password(password);
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// Calls that the server did not answer, or answered with an error, since the start.
    pub fn failures(&self) -> u64 {
        self.connection.failures()
    }
}

impl Namespace {
    pub async fn get(&self, key: &str, now_ms: u64) -> Result<Option<Vec<u8>>, StateError> {
        let mut asked = self.ask("get", [key], now_ms)?;
        match self.answer(&mut asked).await? {
            Answer::Ok(value) => Ok(value),
            Answer::Refused { .. } => Err(unavailable(NOT_OURS)),
        }
    }

    pub async fn set(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>, now_ms: u64) -> Result<(), StateError> {
        let mut asked = self.ask("set", [key], now_ms)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(StateError::TooLarge);
        }
        asked.arg(value).arg(optional(ttl_seconds));
        self.answer(&mut asked).await.map(drop)
    }

    pub async fn delete(&self, key: &str) -> Result<(), StateError> {
        let mut asked = self.ask("delete", [key], 0)?;
        self.answer(&mut asked).await.map(drop)
    }

    pub async fn increment(
        &self,
        key: &str,
        by: i64,
        ttl_seconds: Option<u32>,
        now_ms: u64,
    ) -> Result<i64, StateError> {
        let mut asked = self.ask("increment", [key], now_ms)?;
        asked.arg(by).arg(optional(ttl_seconds));
        let answer = self.answer(&mut asked).await?;
        let Answer::Ok(Some(digits)) = answer else {
            return Err(unavailable(NOT_OURS));
        };
        let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        number.ok_or(unavailable(NOT_OURS))
    }

    pub async fn take_all(&self, buckets: &[Bucket<'_>], now_ms: u64) -> Result<Taken, StateError> {
        match self.change("take", buckets, now_ms).await? {
            Answer::Ok(_) => Ok(Taken::Ok),
            Answer::Refused { index, .. } if index as usize >= buckets.len() => Err(unavailable(NOT_OURS)),
            Answer::Refused { index, wait_ms } => Ok(Taken::Refused { index, wait_ms }),
        }
    }

    pub async fn refund(&self, buckets: &[Bucket<'_>], now_ms: u64) -> Result<(), StateError> {
        self.change("refund", buckets, now_ms).await.map(drop)
    }

    async fn change(&self, operation: &str, buckets: &[Bucket<'_>], now_ms: u64) -> Result<Answer, StateError> {
        if buckets.len() > BUCKETS_MAX {
            return Err(StateError::TooLarge);
        }
        let mut asked = self.ask(operation, buckets.iter().map(|bucket| bucket.key), now_ms)?;
        if buckets.is_empty() {
            return Ok(Answer::Ok(None));
        }
        for bucket in buckets {
            let numbers = [bucket.cost, bucket.rate, bucket.per_seconds, bucket.burst];
            asked.arg(&numbers);
        }
        self.answer(&mut asked).await
    }

    /// An invocation with the script's first two arguments, and keys that are not too long.
    fn ask<'k>(
        &self,
        operation: &str,
        keys: impl IntoIterator<Item = &'k str>,
        now_ms: u64,
    ) -> Result<ScriptInvocation<'_>, StateError> {
        let mut asked = self.shared.connection.script().prepare_invoke();
        for key in keys {
            if key.len() > KEY_BYTES_MAX {
                return Err(StateError::TooLarge);
            }
            asked.key([&self.prefix, key].concat());
        }
        asked.arg(operation);
        match self.shared.clock {
            Clock::Server => asked.arg(""),
            Clock::Caller => asked.arg(now_ms),
        };
        Ok(asked)
    }

    async fn answer(&self, asked: &mut ScriptInvocation<'_>) -> Result<Answer, StateError> {
        let (verdict, value) = self.shared.connection.ask(asked).await?;
        match (verdict.as_str(), value) {
            ("ok", Value::Nil) => Ok(Answer::Ok(None)),
            ("ok", Value::BulkString(value)) => Ok(Answer::Ok(Some(value))),
            ("refused", Value::BulkString(place)) => refused(&place).ok_or(unavailable(NOT_OURS)),
            ("unavailable", Value::BulkString(why)) => Err(unavailable(match &*why {
                b"bucket" => IS_A_BUCKET,
                b"value" => IS_A_VALUE,
                _ => IS_NO_NUMBER,
            })),
            _ => Err(unavailable(NOT_OURS)),
        }
    }
}

/// What the script says if it is not `unavailable`.
enum Answer {
    Ok(Option<Vec<u8>>),
    Refused { index: u32, wait_ms: u64 },
}

/// A server that says this has something else in the place of our script, or entries that are not ours.
const NOT_OURS: &str = "the state server answers what the script never says";

/// `INDEX WAIT`; a wait beyond all numbers is for ever.
fn refused(text: &[u8]) -> Option<Answer> {
    let (index, wait) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(Answer::Refused {
        index: index.parse().ok()?,
        wait_ms: wait.parse().unwrap_or(u64::MAX),
    })
}

fn optional(ttl_seconds: Option<u32>) -> String {
    ttl_seconds.map_or_else(String::new, |seconds| seconds.to_string())
}
