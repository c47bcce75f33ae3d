//! The outbound brake: an identity that suddenly sends far more than it ever did has its mail held, and somebody is told.
//!
//! What is compared is the number of recipients in a window of time with what is usual for this identity: a mean over the windows in which it
//! sent, which forgets slowly while it does not. Only what was let through is learnt, so an abused account does not teach the brake that abuse is
//! usual. A brake that was pulled stays so for `hold_seconds`. Mail is held, not refused: nothing of its owner's is lost, and who abuses the
//! account is not told.
//!
//! The count is atomic, over all connections (and relays, where they share their state). What is usual is not: two messages at a time may lose one
//! another's note of it, which changes a mean by little.

use std::collections::BTreeMap;

use gatepost_sdk::prelude::*;
use gatepost_sdk::state::{self, StateError};
use gatepost_sdk::{clock, log, metrics};
use serde::Deserialize;

use crate::cut_subject;

/// The last window weighs one in so many in what is usual.
const WEIGHT: u64 = 8;
/// What is usual is kept in thousandths of a recipient.
const MILLI: u64 = 1_000;
const DAY_SECONDS: u64 = 86_400;
/// Recipients that the event names.
const NAMED_RECIPIENTS: usize = 3;

/// `[plugin.config.brake]`, as written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrakeConfig {
    window_seconds: u32,
    /// So many recipients in a window pass whatever is usual.
    at_least: u32,
    /// And so many times what is usual.
    factor: u32,
    /// After so long without mail nothing is usual any more.
    history_days: u32,
    /// How long mail is held once the brake was pulled.
    hold_seconds: u32,
    overrides: BTreeMap<String, BrakeOverride>,
}

impl Default for BrakeConfig {
    fn default() -> Self {
        Self {
            window_seconds: 600,
            at_least: 50,
            factor: 5,
            history_days: 30,
            hold_seconds: 3_600,
            overrides: BTreeMap::new(),
        }
    }
}

/// Other numbers for one identity.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrakeOverride {
    #[serde(default)]
    unlimited: bool,
    at_least: Option<u32>,
    factor: Option<u32>,
}

/// The checked configuration.
pub struct Brake {
    window_seconds: u32,
    history_seconds: u32,
    hold_seconds: u32,
    usual: Numbers,
    /// None is unlimited.
    overrides: BTreeMap<String, Option<Numbers>>,
}

#[derive(Clone, Copy)]
struct Numbers {
    at_least: u32,
    factor: u32,
}

/// What is remembered of an identity: `WINDOW COUNT USUAL HELD`, in decimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct History {
    /// The last window in which something was let through, in window lengths since 1970, and how much.
    window: u64,
    count: u64,
    /// In thousandths of a recipient a window.
    usual_milli: u64,
    /// Until when mail is held, in seconds since 1970.
    held_until: u64,
}

impl Brake {
    /// # Errors
    /// The key, what is wrong with it, and what would be right.
    pub fn new(written: BrakeConfig) -> Result<Self, String> {
        for (key, value) in [
            ("window_seconds", written.window_seconds),
            ("at_least", written.at_least),
            ("factor", written.factor),
            ("history_days", written.history_days),
            ("hold_seconds", written.hold_seconds),
        ] {
            if value == 0 {
                return Err(format!(".{key}: must be at least 1"));
            }
        }
        let history_seconds = u64::from(written.history_days) * DAY_SECONDS;
        let history_seconds = u32::try_from(history_seconds).map_err(|_| ".history_days: at most 49710".to_owned())?;
        let usual = Numbers {
            at_least: written.at_least,
            factor: written.factor,
        };
        let overrides = written.overrides.into_iter().map(|(identity, other)| {
            let numbers = other
                .check(usual)
                .map_err(|error| format!(".overrides.\"{identity}\"{error}"))?;
            Ok((identity, numbers))
        });
        Ok(Self {
            window_seconds: written.window_seconds,
            history_seconds,
            hold_seconds: written.hold_seconds,
            usual,
            overrides: overrides.collect::<Result<_, String>>()?,
        })
    }

    /// The answer for a message that is there, from whoever is authenticated. Strangers are not braked.
    ///
    /// # Errors
    /// The state store failed.
    pub fn look(&self, session: &Session) -> Result<Answer, StateError> {
        let Some(Identity { name, .. }) = session.identity() else {
            return Ok(Answer::pass());
        };
        let Some(numbers) = self.overrides.get(&name).copied().unwrap_or(Some(self.usual)) else {
            return Ok(Answer::pass());
        };
        let subject = cut_subject(&name);
        let now = clock::now() / 1_000;
        let history_key = format!("brake/{subject}");
        let mut history = state::get(&history_key)?.map_or_else(History::default, |text| History::read(&text));
        if now < history.held_until {
            return Ok(self.held(&name, history.held_until - now));
        }
        let window = now / u64::from(self.window_seconds);
        history.roll(window, self.history_seconds / self.window_seconds);
        let count_key = format!("brake/{subject}/{window}");
        let recipients = i64::from(session.recipient_count());
        let count = state::increment(&count_key, recipients, Some(self.window_seconds.saturating_mul(2)))?;
        let count = u64::try_from(count).unwrap_or(0);
        let limit = numbers.limit(history.usual_milli);
        if count <= limit {
            history.count = count;
            state::set(&history_key, history.text().as_bytes(), Some(self.history_seconds))?;
            return Ok(Answer::pass());
        }
        history.held_until = now + u64::from(self.hold_seconds);
        let lasts = self.history_seconds.max(self.hold_seconds);
        state::set(&history_key, history.text().as_bytes(), Some(lasts))?;
        // Of several connections that are over the limit at the same time, one is the first.
        if state::increment(&format!("brake/{subject}/pulled"), 1, Some(self.hold_seconds))? == 1 {
            self.event(session, &name, count, limit, history.usual_milli);
        }
        Ok(self.held(&name, u64::from(self.hold_seconds)))
    }

    fn held(&self, name: &str, seconds: u64) -> Answer {
        metrics::count("messages_held", 1);
        Answer::pass()
            .quarantine(hold(name))
            .because(
                "outbound-brake",
                format!("{name} sent far more than usual: mail is held for {seconds} s from now"),
                "the administrator looks at it with `gatepost queue list`, and then `gatepost queue release` or `gatepost queue remove`",
            )
            .otherwise(format!("mail of {name} {seconds} s later, or `brake.overrides` for it"))
    }

    /// Says who, from where, what, and what can be done.
    #[cold]
    fn event(&self, session: &Session, name: &str, count: u64, limit: u64, usual_milli: u64) {
        metrics::count("brake_pulled", 1);
        let peer = session.peer();
        let envelope = session.envelope();
        let (sender, recipients) = envelope.map_or_else(Default::default, |it| (it.sender, it.recipients));
        let named: Vec<String> = recipients
            .iter()
            .take(NAMED_RECIPIENTS)
            .map(|to| format!("<{to}>"))
            .collect();
        let more = if recipients.len() > named.len() { " ..." } else { "" };
        // By the reason and not by the sender, of whom who abuses an account may have many.
        let (held, user) = (pattern(&hold(name)), quoted(name));
        let (window, hold, usual) = (self.window_seconds, self.hold_seconds, usual_milli.div_ceil(MILLI));
        log::warn(&format!(
            "outbound brake pulled: {name} from [{}] (listener {}, EHLO {}) sent to {count} recipients within {window} s, where {usual} are usual and {limit} pass; \
             now <{sender}> to {}{more}. Mail of {name} is held for {hold} s. \
             Look: gatepost queue list --held {held}. Release: gatepost queue release --held {held}. \
             Drop: gatepost queue remove --held {held}. Stop the account: gatepost user passwd {user}",
            peer.address,
            session.listener().name,
            session.ehlo_name().unwrap_or_default(),
            named.join(" "),
        ));
    }
}

/// The reason for which the mail of this identity is held.
fn hold(name: &str) -> String {
    format!("outbound brake: {name} sent far more than usual")
}

/// A text that names things, as a shell's word: whatever a client chose in it is no more than that.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A pattern of `gatepost queue` that this text alone fits.
fn pattern(text: &str) -> String {
    quoted(&text.replace('\\', r"\\").replace('*', r"\*"))
}

impl BrakeOverride {
    fn check(&self, usual: Numbers) -> Result<Option<Numbers>, String> {
        match (self.unlimited, self.at_least, self.factor) {
            (true, None, None) => Ok(None),
            (true, ..) => Err(": `unlimited` stands alone: leave out the numbers, or `unlimited`".to_owned()),
            (false, Some(0), _) => Err(".at_least: must be at least 1".to_owned()),
            (false, _, Some(0)) => Err(".factor: must be at least 1".to_owned()),
            (false, at_least, factor) => Ok(Some(Numbers {
                at_least: at_least.unwrap_or(usual.at_least),
                factor: factor.unwrap_or(usual.factor),
            })),
        }
    }
}

impl Numbers {
    /// Recipients of a window that pass.
    fn limit(self, usual_milli: u64) -> u64 {
        let times_usual = usual_milli.saturating_mul(u64::from(self.factor)) / MILLI;
        times_usual.max(u64::from(self.at_least))
    }
}

impl History {
    /// What cannot be read is nothing.
    fn read(text: &[u8]) -> Self {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self {
            window: next(),
            count: next(),
            usual_milli: next(),
            held_until: next(),
        }
    }

    fn text(self) -> String {
        format!(
            "{} {} {} {}",
            self.window, self.count, self.usual_milli, self.held_until
        )
    }

    /// Takes the last window into what is usual, if another one has begun. What is usual fades in the time without mail, and is gone after so many windows.
    fn roll(&mut self, window: u64, windows_of_history: u32) {
        if window <= self.window {
            return;
        }
        let without_mail = (window - self.window - 1).min(u64::from(windows_of_history));
        let usual = self.usual_milli.saturating_mul(WEIGHT - 1) / WEIGHT;
        let usual = usual.saturating_add(self.count.saturating_mul(MILLI) / WEIGHT);
        let of_history = u64::from(windows_of_history.max(1));
        self.usual_milli = usual.saturating_mul(of_history - without_mail.min(of_history)) / of_history;
        self.window = window;
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_a_mean_that_fades() {
        let mut history = History::default();
        // The windows, what was sent in each, and what is usual when the window begins, in thousandths.
        let windows = [
            (100, 80, 0),
            (101, 80, 10_000),
            (102, 0, 18_750),
            (103, 0, 16_406),
            (203, 0, 12_933),
            (1_000, 0, 2_308),
        ];
        for (window, count, usual) in windows {
            history.roll(window, 1_000);
            assert_eq!(history.usual_milli, usual, "{window}");
            history.count = count;
        }
        history.roll(2_001, 1_000);
        assert_eq!(history.usual_milli, 0, "all is forgotten");
        history.roll(2_000, 1_000);
        assert_eq!(history.window, 2_001, "a clock that was set back begins nothing");
    }

    #[test]
    fn what_an_administrator_copies_is_one_word_of_a_shell() {
        let cases = [
            ("alice@ours.test", "'alice@ours.test'"),
            ("o'x; $(reboot) #@ours.test", r"'o'\''x; $(reboot) #@ours.test'"),
            (r"st*r\@ours.test", r"'st\*r\\@ours.test'"),
        ];
        for (address, expected) in cases {
            assert_eq!(pattern(address), expected);
        }
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let history = History {
            window: 1,
            count: u64::MAX,
            usual_milli: 3,
            held_until: 4,
        };
        assert_eq!(History::read(history.text().as_bytes()), history);
        for odd in [&b""[..], b"x", b"\xff", b"1 x 3"] {
            History::read(odd);
        }
        assert_eq!(History::read(b"7 x 3").usual_milli, 3);
    }
}
