//! Limits how many messages, recipients and connections an identity, an address, a network or a sender domain may have in a time.
//!
//! Each limit is a token bucket in the host's state store. All buckets that a command touches are taken from at once or not at all. What is
//! counted is the command: RCPT for a recipient, and for the message too as long as it has no recipient, whether or not it is refused later, since
//! it cost its work either way. So a message and its first recipient cost one call and one round trip together.
//! A limit for a subject that the command does not have (the identity of a stranger, the domain of the null sender) does not apply.
//!
//! Never: refuses for good, or decides about relaying. With no limits of messages and recipients it takes leave of a session at once.
//!
//! Without the state store it does what `when_state_is_gone` says: mail passes, or is deferred. The log says so once a session.

mod config;
mod network;

use config::{Config, Count, Limit, Per, WhenStateIsGone};
use gatepost_sdk::notes::{self, Scope};
use gatepost_sdk::prelude::*;
use gatepost_sdk::state::{self, Bucket, StateError, Taken};
use network::Prefixes;

/// Bytes of an identity, address or domain in a bucket's key; what is longer is cut. The host takes keys of 512 bytes.
const MOST_SUBJECT_BYTES: usize = 400;

/// The session's log has the line about the state store.
const NOTE_STATE_GONE: &str = "state-gone";

/// Room for a subject when its key is made, so that it need not grow.
const USUAL_SUBJECT_BYTES: usize = 40;

/// The configured policy.
pub struct RateLimit {
    connections: Vec<Limit>,
    messages: Vec<Limit>,
    recipients: Vec<Limit>,
    prefixes: Prefixes,
    when_state_is_gone: WhenStateIsGone,
}

/// What a command says about whom to count.
#[derive(Default)]
struct Facts {
    identity: Option<String>,
    address: Option<String>,
    sender: Option<String>,
}

impl Policy for RateLimit {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let when_state_is_gone = config.when_state_is_gone;
        let (limits, prefixes) = config::check(config)?;
        let of = |count| limits.iter().filter(|limit| limit.count == count).cloned().collect();
        Ok(Self {
            connections: of(Count::Connections),
            messages: of(Count::Messages),
            recipients: of(Count::Recipients),
            prefixes,
            when_state_is_gone,
        })
    }
}

impl OnConnect for RateLimit {
    fn on_connect(&self, session: &Session) -> Answer {
        let answer = self.take(&[&self.connections], session);
        if self.messages.is_empty() && self.recipients.is_empty() {
            answer.leave_session()
        } else {
            answer
        }
    }
}

impl OnRcpt for RateLimit {
    fn on_rcpt(&self, session: &Session, _recipient: &Mailbox, _relay: &RelayView) -> Answer {
        if !self.messages.is_empty() && session.recipient_count() == 0 {
            self.take(&[&self.messages, &self.recipients], session)
        } else {
            self.take(&[&self.recipients], session)
        }
    }
}

impl RateLimit {
    /// Takes one from each bucket of these limits, or from none.
    fn take(&self, kinds: &[&[Limit]], session: &Session) -> Answer {
        let limits = || kinds.iter().copied().flatten();
        let facts = Facts::of(session, limits());
        let buckets: Vec<Bucket> = draw(limits(), &facts, self.prefixes)
            .map(|(_, bucket)| bucket)
            .collect();
        if buckets.is_empty() {
            return Answer::pass();
        }
        match state::take_all(&buckets) {
            Ok(Taken::Ok) => Answer::pass(),
            Ok(Taken::Refused((place, wait_ms))) => draw(limits(), &facts, self.prefixes)
                .nth(place as usize)
                .map_or_else(Answer::pass, |(limit, bucket)| limit.refusal(&bucket, wait_ms)),
            Err(error) => self.without_state(kinds, &error),
        }
    }

    /// The answer where limits of these kinds cannot be looked at.
    #[cold]
    fn without_state(&self, kinds: &[&[Limit]], error: &StateError) -> Answer {
        let (held, count) = match self.when_state_is_gone {
            WhenStateIsGone::Allow => ("not held", "limits_not_held"),
            WhenStateIsGone::Defer => ("not known, and mail waits", "deferred_without_state"),
        };
        gatepost_sdk::metrics::count(count, 1);
        if notes::get(Scope::Session, "", NOTE_STATE_GONE).is_none() {
            gatepost_sdk::log::error(&format!("limits are {held}: the state store failed: {error:?}"));
            notes::set(Scope::Session, NOTE_STATE_GONE, Some(b"1"));
        }
        if self.when_state_is_gone == WhenStateIsGone::Allow {
            return Answer::pass();
        }
        let text = "Limits cannot be looked at now: try again later";
        let of_connections = |limit: &Limit| limit.count == Count::Connections;
        let answer = match kinds.iter().copied().flatten().next().is_some_and(of_connections) {
            true => Answer::disconnect(421, "4.3.0", text),
            false => Answer::defer(451, "4.3.0", text),
        };
        answer.because(
            "state-unavailable",
            format!("the state store failed: {error:?}"),
            "wait; the administrator looks after the state server, or sets `when_state_is_gone` to \"allow\"",
        )
    }
}

impl Facts {
    /// What these limits need to know; nothing else is asked for.
    fn of<'a>(session: &Session, limits: impl Iterator<Item = &'a Limit>) -> Self {
        let mut facts = Self::default();
        for limit in limits {
            match limit.per {
                Per::Identity if facts.identity.is_none() => {
                    facts.identity = session.identity().map(|identity| identity.name);
                }
                Per::Address | Per::Network if facts.address.is_none() => facts.address = Some(session.peer().address),
                Per::SenderDomain if facts.sender.is_none() => facts.sender = session.sender(),
                _ => {}
            }
        }
        facts
    }
}

/// The buckets from which a command with these facts draws, each with its limit; those limits that do not apply to it have none.
fn draw<'a>(
    limits: impl Iterator<Item = &'a Limit>,
    facts: &Facts,
    prefixes: Prefixes,
) -> impl Iterator<Item = (&'a Limit, Bucket)> {
    limits.filter_map(move |limit| Some((limit, limit.bucket(facts, prefixes)?)))
}

impl Limit {
    /// The answer where this bucket lacks tokens for so long.
    fn refusal(&self, bucket: &Bucket, wait_ms: u64) -> Answer {
        let Bucket {
            rate,
            per_seconds,
            burst,
            ..
        } = bucket;
        let Self { count, per, .. } = self;
        let subject = &bucket.key[self.key_prefix.len()..];
        let wait_s = wait_ms.div_ceil(1000).max(1);
        let text = format!("Too many {count}: try again in {wait_s} s");
        let answer = match count {
            // RFC 5321 §3.8: a server that cannot serve a connection says 421 and closes.
            Count::Connections => Answer::disconnect(421, "4.7.0", text),
            Count::Messages | Count::Recipients => Answer::defer(450, "4.7.1", text),
        };
        answer
            .because(
                "rate-limited",
                format!(
                    "{count} per {per} {subject}: {rate} in {per_seconds} s, {burst} at once; the next in {wait_s} s"
                ),
                "wait; the administrator can raise the limit, or make an exception under its `overrides`",
            )
            .otherwise(format!("the same {wait_s} s later"))
    }

    /// The bucket from which a command with these facts draws; none if the limit does not apply to it.
    fn bucket(&self, facts: &Facts, prefixes: Prefixes) -> Option<Bucket> {
        let mut key = String::with_capacity(self.key_prefix.len() + USUAL_SUBJECT_BYTES);
        key.push_str(&self.key_prefix);
        match self.per {
            Per::Identity => key.push_str(facts.identity.as_deref()?),
            Per::Address => key.push_str(facts.address.as_deref()?),
            Per::Network => prefixes.push_network(&mut key, facts.address.as_deref()?.parse().ok()?),
            Per::SenderDomain => key.push_str(&gatepost_sdk::split_address(facts.sender.as_deref()?).domain),
        }
        let mut end = key.len().min(self.key_prefix.len() + MOST_SUBJECT_BYTES);
        while !key.is_char_boundary(end) {
            end -= 1;
        }
        key.truncate(end);
        let subject = &key[self.key_prefix.len()..];
        if subject.is_empty() {
            return None;
        }
        let rates = self.rates_of(subject)?;
        Some(Bucket {
            key,
            cost: 1,
            rate: rates.rate,
            per_seconds: rates.per_seconds,
            burst: rates.burst,
        })
    }
}

gatepost_sdk::export!(RateLimit: on_connect, on_rcpt);

#[cfg(test)]
mod tests;
