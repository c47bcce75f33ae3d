//! Greylisting in Rust: who writes to somebody for the first time is asked to come again. Grant: state.
//!
//! ```toml
//! [plugin.config]
//! delay_s = 300            # how long a stranger has to wait
//! keep_s  = 2592000        # how long it is remembered
//! allow   = ["192.0.2.7", "friends.example"]   # client addresses and sender domains that need not wait
//! ```

use std::num::NonZeroU32;

use gatepost_sdk::prelude::*;
use gatepost_sdk::state::StateError;
use gatepost_sdk::{clock, state};

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    delay_s: NonZeroU32,
    keep_s: NonZeroU32,
    allow: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            delay_s: NonZeroU32::new(300).expect("it is not zero"),
            keep_s: NonZeroU32::new(30 * 86_400).expect("it is not zero"),
            allow: Vec::new(),
        }
    }
}

struct Greylist(Config);

impl Policy for Greylist {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl OnRcpt for Greylist {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        // What is not ours is the relay gate's business, and who logged in is no stranger.
        if !relay.ours || session.identity().is_some() {
            return Answer::pass();
        }
        let client = session.peer().address;
        let sender = session.sender().unwrap_or_default();
        let domain = sender.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
        if self.0.allow.iter().any(|allowed| *allowed == client || *allowed == domain) {
            return Answer::pass();
        }
        let key = format!("{client} {sender} {}", recipient.address());
        let now = clock::now();
        // Without its memory greylisting would refuse everybody for ever.
        let Ok(first) = self.first_seen(&key, now) else {
            return Answer::pass();
        };
        let over = first + u64::from(self.0.delay_s.get()) * 1000;
        if over <= now {
            return Answer::pass();
        }
        let left = (over - now).div_ceil(1000);
        Answer::defer(450, "4.7.1", format!("Greylisted: try again in {left} seconds")).because(
            "greylisted",
            key,
            "Wait, or put the client or the sender's domain into allow",
        )
    }
}

impl Greylist {
    /// When it was first seen, which may be now.
    fn first_seen(&self, key: &str, now: u64) -> Result<u64, StateError> {
        let known = state::get(key)?.and_then(|known| String::from_utf8(known).ok()?.parse().ok());
        if known.is_none() {
            state::set(key, now.to_string().as_bytes(), Some(self.0.keep_s.get()))?;
        }
        Ok(known.unwrap_or(now))
    }
}

gatepost_sdk::export!(Greylist: on_rcpt);
