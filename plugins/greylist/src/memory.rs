//! What is remembered, in the host's store: who waits, who came again, and how often a network did.
//!
//! Two kinds of keys: `t/NETWORK/SENDER/RECIPIENT` holds when a triplet was first seen and whether it came again, `n/NETWORK` how many of its triplets
//! did. Every entry expires. Two relays, or instances, that write at the same moment can lose a success, and nothing else.

use gatepost_sdk::state::{self, StateError};

use crate::config::Settings;

/// Bytes of a sender and of a recipient in a key, whose bound at the host is 512; of what is longer the beginning counts.
const MOST_ADDRESS_BYTES: usize = 220;
/// Successes of a network that are counted are so far apart at least: one burst of spam is one success.
const COUNT_EVERY_MS: u64 = 3_600_000;
/// What is let through is written again only so often, so that a busy sender costs reads.
const REFRESH_EVERY_MS: u64 = 86_400_000;

/// What is known of a triplet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It came for the first time at this moment and has not come again in time.
    Waiting { first_ms: u64 },
    /// It came again; this was its last message that was noted.
    Passed { last_ms: u64 },
}

impl Known {
    fn of(value: &[u8]) -> Option<Self> {
        let (kind, at) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let at = at.parse().ok()?;
        match kind {
            "waiting" => Some(Self::Waiting { first_ms: at }),
            "passed" => Some(Self::Passed { last_ms: at }),
            _ => None,
        }
    }

    fn value(self) -> String {
        match self {
            Self::Waiting { first_ms } => format!("waiting {first_ms}"),
            Self::Passed { last_ms } => format!("passed {last_ms}"),
        }
    }
}

/// One triplet's place.
pub struct Triplet {
    key: String,
}

impl Triplet {
    /// Of a network, a reverse-path (empty: the null sender) and a forward-path.
    ///
    /// The sender's local part counts without what stands behind `+`, and every number in it as `#`: mailing lists put a number of their own into each message
    /// (`bounce-4711-42@list.example`), and would never come again as the same.
    pub fn new(network: &str, sender: &str, recipient: &str) -> Self {
        let mut key = format!("t/{network}/");
        let from = gatepost_sdk::split_address(sender);
        let mut local = String::new();
        for c in from.local.chars().take_while(|c| *c != '+') {
            if !c.is_ascii_digit() {
                local.push(c.to_ascii_lowercase());
            } else if !local.ends_with('#') {
                local.push('#');
            }
        }
        if !sender.is_empty() {
            push(&mut key, &format!("{local}@{}", from.domain));
        }
        key.push('/');
        push(&mut key, &recipient.to_ascii_lowercase());
        Self { key }
    }

    pub fn known(&self) -> Result<Option<Known>, StateError> {
        Ok(state::get(&self.key)?.as_deref().and_then(Known::of))
    }

    pub fn wait(&self, settings: &Settings, now_ms: u64) -> Result<(), StateError> {
        let waiting = Known::Waiting { first_ms: now_ms };
        state::set(&self.key, waiting.value().as_bytes(), Some(settings.retry_window_s))
    }

    pub fn pass(&self, settings: &Settings, now_ms: u64) -> Result<(), StateError> {
        let passed = Known::Passed { last_ms: now_ms };
        state::set(&self.key, passed.value().as_bytes(), Some(settings.keep_s))
    }

    /// Lets it pass for as long again, counted from now.
    pub fn refresh(&self, settings: &Settings, last_ms: u64, now_ms: u64) -> Result<(), StateError> {
        if is_due(settings, last_ms, now_ms) {
            self.pass(settings, now_ms)?;
        }
        Ok(())
    }
}

/// How often triplets of a network came again.
pub struct Network {
    key: String,
    successes: u32,
    /// When the last one was counted.
    last_ms: u64,
}

impl Network {
    pub fn load(network: &str) -> Result<Self, StateError> {
        let key = format!("n/{network}");
        let value = state::get(&key)?;
        let known = value.as_deref().and_then(|value| {
            let (successes, last_ms) = std::str::from_utf8(value).ok()?.split_once(' ')?;
            Some((successes.parse().ok()?, last_ms.parse().ok()?))
        });
        let (successes, last_ms) = known.unwrap_or((0, 0));
        Ok(Self {
            key,
            successes,
            last_ms,
        })
    }

    pub fn has(&self, wanted: u32) -> bool {
        self.successes >= wanted
    }

    /// One more success, unless there was one just now.
    pub fn succeeded(&self, settings: &Settings, now_ms: u64) -> Result<(), StateError> {
        if now_ms.saturating_sub(self.last_ms) >= COUNT_EVERY_MS {
            self.write(settings, self.successes.saturating_add(1), now_ms)?;
        }
        Ok(())
    }

    /// Lets it pass for as long again, counted from now.
    pub fn refresh(&self, settings: &Settings, now_ms: u64) -> Result<(), StateError> {
        if is_due(settings, self.last_ms, now_ms) {
            self.write(settings, self.successes, now_ms)?;
        }
        Ok(())
    }

    fn write(&self, settings: &Settings, successes: u32, now_ms: u64) -> Result<(), StateError> {
        let value = format!("{successes} {now_ms}");
        state::set(&self.key, value.as_bytes(), Some(settings.keep_s))
    }
}

/// Whether what was written then is to be written again: once a day, and more often if it is kept for less than four days.
fn is_due(settings: &Settings, last_ms: u64, now_ms: u64) -> bool {
    let quarter_ms = u64::from(settings.keep_s) * 1000 / 4;
    now_ms.saturating_sub(last_ms) >= REFRESH_EVERY_MS.min(quarter_ms)
}

/// Adds an address, cut to its bound.
fn push(key: &mut String, address: &str) {
    let end = (0..=address.len().min(MOST_ADDRESS_BYTES))
        .rev()
        .find(|end| address.is_char_boundary(*end));
    key.push_str(&address[..end.unwrap_or(0)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_extensions_make_no_other_sender() {
        let cases = [
            ("Me@Example.ORG.", "t/n/me@example.org/bob@ours.test"),
            ("me+tag-17@example.org", "t/n/me@example.org/bob@ours.test"),
            (
                "bounce-4711-42@list.example",
                "t/n/bounce-#-#@list.example/bob@ours.test",
            ),
            ("42@list.example", "t/n/#@list.example/bob@ours.test"),
            ("", "t/n//bob@ours.test"),
        ];
        for (sender, expected) in cases {
            assert_eq!(Triplet::new("n", sender, "Bob@Ours.test").key, expected);
        }
        let long = "\u{fc}".repeat(1000) + "@example.org";
        let widest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128";
        assert!(Triplet::new(widest, &long, &long).key.len() <= 512);
    }

    #[test]
    fn what_was_not_written_by_us_is_not_known() {
        for known in [Known::Waiting { first_ms: 1 }, Known::Passed { last_ms: u64::MAX }] {
            assert_eq!(Known::of(known.value().as_bytes()), Some(known));
        }
        for value in [&b""[..], b"waiting", b"waiting x", b"left 1", b"\xff 1", b"passed -1"] {
            assert_eq!(Known::of(value), None);
        }
    }
}
