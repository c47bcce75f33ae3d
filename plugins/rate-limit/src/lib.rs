//! Limits how many connections, messages, recipients, bytes, failed logins and rejected recipients an identity, an address, a network or a domain may have in a
//! time, and brakes identities that suddenly send far more than usual.
//!
//! Each limit is a token bucket in the host's state store. All buckets that a command touches are taken from at once or not at all. What is
//! counted is the command: RCPT for a recipient, and for the message too as long as it has no recipient, whether or not it is refused later, since
//! it cost its work either way. So a message and its first recipient cost one call and one round trip together. Failed logins and rejected
//! recipients are taken from their buckets when they have happened; before that, a command only looks whether something is left: it takes one and
//! gives it back.
//! A limit for a subject that the command does not have (the identity of a stranger, the domain of the null sender) does not apply.
//!
//! Never decides about relaying, and refuses for good only what no waiting would help: a message that is larger than its allowance. A hook that the
//! configuration has no use for is not called.
//!
//! Without the state store it does what `when_state_is_gone` says: mail passes, or is deferred. The log says so once a session.

mod brake;
mod config;
mod network;

use brake::Brake;
use config::{Checked, Config, Count, Limit, Per, WhenStateIsGone};
use gatepost_sdk::login::Attempt;
use gatepost_sdk::notes::{self, Scope};
use gatepost_sdk::prelude::*;
use gatepost_sdk::state::{self, Bucket, StateError, Taken};
use gatepost_sdk::{log, metrics};
use network::Prefixes;

/// Bytes of an identity, address or domain in a bucket's key; what is longer is cut. The host takes keys of 512 bytes.
const MOST_SUBJECT_BYTES: usize = 400;

/// The session's log has the line about the state store.
const NOTE_STATE_GONE: &str = "state-gone";

/// Room for a subject when its key is made, so that it need not grow.
const USUAL_SUBJECT_BYTES: usize = 40;

/// The reason of a refusal.
const RATE_LIMITED: &str = "rate-limited";

/// The configured policy.
pub struct RateLimit {
    connections: Vec<Limit>,
    messages: Vec<Limit>,
    recipients: Vec<Limit>,
    bytes: Vec<Limit>,
    failed_logins: Vec<Limit>,
    rejected_recipients: Vec<Limit>,
    /// Those of the last two that are looked at when a client connects.
    of_clients: Vec<Limit>,
    /// Who is not authenticated meets no limit after connecting.
    only_identities: bool,
    brake: Option<Brake>,
    prefixes: Prefixes,
    when_state_is_gone: WhenStateIsGone,
}

/// What a command says about whom to count.
#[derive(Default)]
struct Facts {
    identity: Option<String>,
    address: Option<String>,
    sender: Option<String>,
    recipient_domain: Option<String>,
}

/// What a hook knows besides the session.
#[derive(Clone, Copy)]
enum About<'a> {
    Session,
    /// The name that is tried.
    Login(&'a str),
    Recipient(&'a Mailbox),
    /// An address as text.
    Refused(&'a str),
}

/// Why a command shall not go on.
enum Stop<'a> {
    /// This bucket of this limit lacks tokens for so long.
    Limit(&'a Limit, Bucket, u64),
    NoState(StateError),
}

impl Policy for RateLimit {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let Checked {
            limits,
            prefixes,
            when_state_is_gone,
            brake,
        } = config::check(config)?;
        let of = |count| -> Vec<Limit> { limits.iter().filter(|limit| limit.count == count).cloned().collect() };
        let happened = |limit: &&Limit| matches!(limit.count, Count::FailedLogins | Count::RejectedRecipients);
        let later = |limit: &&Limit| limit.count != Count::Connections;
        let policy = Self {
            connections: of(Count::Connections),
            messages: of(Count::Messages),
            recipients: of(Count::Recipients),
            bytes: of(Count::Bytes),
            failed_logins: of(Count::FailedLogins),
            rejected_recipients: of(Count::RejectedRecipients),
            of_clients: limits
                .iter()
                .filter(happened)
                .filter(|limit| limit.is_of_clients())
                .cloned()
                .collect(),
            only_identities: limits
                .iter()
                .filter(later)
                .all(|limit| limit.per == Per::Identity && limit.count != Count::FailedLogins),
            brake,
            prefixes,
            when_state_is_gone,
        };
        policy.decline_hooks();
        Ok(policy)
    }
}

impl OnConnect for RateLimit {
    fn on_connect(&self, session: &Session) -> Answer {
        let facts = Facts::of(session, About::Session, self.connections.iter().chain(&self.of_clients));
        match self.take(&[&self.connections], &self.of_clients, &facts, 1) {
            Ok(_) => Answer::pass(),
            // RFC 5321 §3.8: a server that cannot serve a connection says 421 and closes.
            Err(stop) => self.stopped(&stop, session, Answer::disconnect, [421, 421]),
        }
    }
}

impl OnAuth for RateLimit {
    fn on_auth(&self, session: &Session, attempt: &Attempt) -> Verdict {
        let user = attempt.user();
        let facts = Facts::of(session, About::Login(&user), self.failed_logins.iter());
        let Err(stop) = self.take(&[], &self.failed_logins, &facts, 1) else {
            return Verdict::Pass;
        };
        let answer = self.stopped(&stop, session, Answer::defer, [454, 454]);
        let Decision::Defer(reply) = answer.decision else {
            return Verdict::Pass;
        };
        // A verdict has no place for the reason.
        if let Some(why) = answer.why {
            log::info(&format!(
                "login of {user:?} was not tried: {}: {}",
                why.reason, why.detail
            ));
        }
        Verdict::Defer(reply)
    }
}

impl OnRcpt for RateLimit {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, _relay: &RelayView) -> Answer {
        let looked_at = self.messages.iter().chain(&self.recipients);
        let facts = Facts::of(
            session,
            About::Recipient(recipient),
            looked_at.chain(&self.rejected_recipients),
        );
        let may_apply = |limit: &Limit| limit.per != Per::Identity || facts.identity.is_some();
        let counts_messages = self.only_identities || self.messages.iter().any(may_apply);
        let is_first = counts_messages && session.recipient_count() == 0;
        let messages: &[Limit] = if is_first { &self.messages } else { &[] };
        match self.take(&[messages, &self.recipients], &self.rejected_recipients, &facts, 1) {
            Ok(0) if is_first && self.only_identities && session.identity().is_none() => Answer::pass().leave_session(),
            Ok(_) => Answer::pass(),
            Err(stop) => self.stopped(&stop, session, Answer::defer, [450, 451]),
        }
    }
}

impl OnMessage for RateLimit {
    fn on_message(&self, session: &Session, _message: &Message) -> Answer {
        if !self.bytes.is_empty() {
            let size = u32::try_from(session.message_size().unwrap_or(0)).unwrap_or(u32::MAX);
            let facts = Facts::of(session, About::Session, self.bytes.iter());
            if let Err(stop) = self.take(&[&self.bytes], &[], &facts, size) {
                return self.stopped(&stop, session, Answer::defer, [450, 451]);
            }
        }
        match self.brake.as_ref().map(|brake| brake.look(session)) {
            None => Answer::pass(),
            Some(Ok(answer)) => answer,
            Some(Err(error)) => self.stopped(&Stop::NoState(error), session, Answer::defer, [450, 451]),
        }
    }
}

impl OnResult for RateLimit {
    fn on_result(&self, session: &Session, event: &CommandResult) {
        let (limits, about) = match (event.command.as_str(), event.code) {
            ("AUTH", 535) => (&self.failed_logins, About::Login(&event.subject)),
            ("RCPT", 500..) => (&self.rejected_recipients, About::Refused(&event.subject)),
            _ => return,
        };
        let facts = Facts::of(session, about, limits.iter());
        let mut buckets = buckets(&[limits], &[], &facts, self.prefixes, 1).0;
        // A bucket that is empty has no say in what the others count.
        while !buckets.is_empty() {
            match state::take_all(&buckets) {
                Ok(Taken::Refused((place, _))) if (place as usize) < buckets.len() => {
                    drop(buckets.remove(place as usize))
                }
                Ok(_) => return,
                Err(error) => return self.say_without_state(&error),
            }
        }
    }
}

impl RateLimit {
    /// Hooks in which nothing would be looked at are not called.
    fn decline_hooks(&self) {
        let none = |limits: &[&[Limit]]| limits.iter().all(|limits| limits.is_empty());
        let idle = [
            ("on-connect", none(&[&self.connections, &self.of_clients])),
            ("on-auth", none(&[&self.failed_logins])),
            (
                "on-rcpt",
                none(&[&self.messages, &self.recipients, &self.rejected_recipients]),
            ),
            ("on-message", none(&[&self.bytes]) && self.brake.is_none()),
            ("on-result", none(&[&self.failed_logins, &self.rejected_recipients])),
        ];
        for (hook, _) in idle.into_iter().filter(|(_, is_idle)| *is_idle) {
            gatepost_sdk::decline(hook);
        }
    }

    /// Takes the cost from each bucket of these limits, or from none, and looks whether the buckets of `looks` have one left. How many buckets there
    /// were.
    fn take<'a>(
        &'a self,
        kinds: &[&'a [Limit]],
        looks: &'a [Limit],
        facts: &Facts,
        cost: u32,
    ) -> Result<usize, Stop<'a>> {
        let (buckets, taken) = buckets(kinds, looks, facts, self.prefixes, cost);
        if buckets.is_empty() {
            return Ok(0);
        }
        match state::take_all(&buckets) {
            Ok(Taken::Ok) => {}
            Ok(Taken::Refused((place, wait_ms))) => {
                let limits = kinds.iter().copied().flatten().chain(looks);
                return match draw(limits, facts, self.prefixes, cost).nth(place as usize) {
                    Some((limit, bucket)) => Err(Stop::Limit(limit, bucket, wait_ms)),
                    None => Ok(buckets.len()),
                };
            }
            Err(error) => return Err(Stop::NoState(error)),
        }
        if buckets.len() > taken {
            state::refund(&buckets[taken..]).map_err(Stop::NoState)?;
        }
        Ok(buckets.len())
    }

    /// The answer where a command shall not go on, with the codes for a limit and for a store that failed.
    #[cold]
    fn stopped(
        &self,
        stop: &Stop<'_>,
        session: &Session,
        refuse: fn(u16, &'static str, String) -> Answer,
        [of_limit, of_state]: [u16; 2],
    ) -> Answer {
        let error = match stop {
            Stop::Limit(limit, bucket, wait_ms) => return limit.refusal(bucket, *wait_ms, session, refuse, of_limit),
            Stop::NoState(error) => error,
        };
        self.say_without_state(error);
        if self.when_state_is_gone == WhenStateIsGone::Allow {
            return Answer::pass();
        }
        refuse(
            of_state,
            "4.3.0",
            "Limits cannot be looked at now: try again later".to_owned(),
        )
        .because(
            "state-unavailable",
            format!("the state store failed: {}", error.in_words()),
            "wait; the administrator looks after the state server, or sets `when_state_is_gone` to \"allow\"",
        )
    }

    /// Tells the log, once a session, and the counters.
    #[cold]
    fn say_without_state(&self, error: &StateError) {
        let (held, count) = match self.when_state_is_gone {
            WhenStateIsGone::Allow => ("not held", "limits_not_held"),
            WhenStateIsGone::Defer => ("not known, and mail waits", "deferred_without_state"),
        };
        metrics::count(count, 1);
        if notes::get(Scope::Session, "", NOTE_STATE_GONE).is_none() {
            log::error(&format!(
                "limits are {held}: the state store failed: {}",
                error.in_words()
            ));
            notes::set(Scope::Session, NOTE_STATE_GONE, Some(b"1"));
        }
    }
}

impl Facts {
    /// What these limits need to know; nothing else is asked for.
    fn of<'a>(session: &Session, about: About<'_>, limits: impl Iterator<Item = &'a Limit>) -> Self {
        let mut facts = Self::default();
        for limit in limits {
            match limit.per {
                Per::Identity if facts.identity.is_none() => {
                    facts.identity = match about {
                        About::Login(user) => Some(user.to_lowercase()),
                        _ => session.identity().map(|identity| identity.name),
                    };
                }
                Per::Address | Per::Network if facts.address.is_none() => facts.address = Some(session.peer().address),
                Per::SenderDomain if facts.sender.is_none() => facts.sender = session.sender(),
                Per::RecipientDomain if facts.recipient_domain.is_none() => {
                    facts.recipient_domain = match about {
                        About::Recipient(mailbox) => Some(mailbox.domain()),
                        About::Refused(address) => Some(gatepost_sdk::split_address(address).domain.into_owned()),
                        About::Session | About::Login(_) => None,
                    };
                }
                _ => {}
            }
        }
        facts
    }
}

/// The buckets of these kinds with this cost, and behind them those that are only looked at, with the cost of one; and how many are of the kinds.
fn buckets(kinds: &[&[Limit]], looks: &[Limit], facts: &Facts, prefixes: Prefixes, cost: u32) -> (Vec<Bucket>, usize) {
    let taken = kinds.iter().copied().flatten();
    let mut buckets: Vec<Bucket> = draw(taken, facts, prefixes, cost).map(|(_, bucket)| bucket).collect();
    let taken = buckets.len();
    buckets.extend(draw(looks.iter(), facts, prefixes, 1).map(|(_, bucket)| bucket));
    (buckets, taken)
}

/// The buckets from which a command with these facts draws, each with its limit; those limits that do not apply to it have none.
fn draw<'a>(
    limits: impl Iterator<Item = &'a Limit>,
    facts: &Facts,
    prefixes: Prefixes,
    cost: u32,
) -> impl Iterator<Item = (&'a Limit, Bucket)> {
    limits.filter_map(move |limit| Some((limit, limit.bucket(facts, prefixes, cost)?)))
}

/// At most [`MOST_SUBJECT_BYTES`] of a subject, cut between characters.
fn cut_subject(subject: &str) -> &str {
    let mut end = subject.len().min(MOST_SUBJECT_BYTES);
    while !subject.is_char_boundary(end) {
        end -= 1;
    }
    &subject[..end]
}

impl Limit {
    /// The answer where this bucket lacks tokens for so long.
    fn refusal(
        &self,
        bucket: &Bucket,
        wait_ms: u64,
        session: &Session,
        refuse: fn(u16, &'static str, String) -> Answer,
        code: u16,
    ) -> Answer {
        let Bucket {
            rate,
            per_seconds,
            burst,
            cost,
            ..
        } = bucket;
        let Self { count, per, .. } = self;
        let subject = &bucket.key[self.key_prefix.len()..];
        let limit = format!("{count} per {per} {subject}: {rate} in {per_seconds} s, {burst} at once");
        if wait_ms == u64::MAX {
            // RFC 1870 §6.1: no waiting makes the message smaller.
            let size = session.message_size().unwrap_or(u64::from(*cost));
            return Answer::reject(
                552,
                "5.3.4",
                format!("Message too large for its sender: {size} bytes, {burst} may be"),
            )
            .because(
                RATE_LIMITED,
                format!("{limit}; the message has {size}"),
                "send less at once; the administrator can raise `burst`, or make an exception under its `overrides`",
            )
            .otherwise(format!("a message of {burst} bytes"));
        }
        let wait_s = wait_ms.div_ceil(1000).max(1);
        let enhanced = if code == 450 { "4.7.1" } else { "4.7.0" };
        refuse(
            code,
            enhanced,
            format!("Too many {}: try again in {wait_s} s", count.words()),
        )
        .because(
            RATE_LIMITED,
            format!("{limit}; the next in {wait_s} s"),
            "wait; the administrator can raise the limit, or make an exception under its `overrides`",
        )
        .otherwise(format!("the same {wait_s} s later"))
    }

    /// The bucket from which a command with these facts draws; none if the limit does not apply to it.
    fn bucket(&self, facts: &Facts, prefixes: Prefixes, cost: u32) -> Option<Bucket> {
        let mut key = String::with_capacity(self.key_prefix.len() + USUAL_SUBJECT_BYTES);
        key.push_str(&self.key_prefix);
        match self.per {
            Per::Identity => key.push_str(facts.identity.as_deref()?),
            Per::Address => key.push_str(facts.address.as_deref()?),
            Per::Network => prefixes.push_network(&mut key, facts.address.as_deref()?.parse().ok()?),
            Per::SenderDomain => key.push_str(&gatepost_sdk::split_address(facts.sender.as_deref()?).domain),
            Per::RecipientDomain => key.push_str(facts.recipient_domain.as_deref()?),
        }
        let end = self.key_prefix.len() + cut_subject(&key[self.key_prefix.len()..]).len();
        key.truncate(end);
        let subject = &key[self.key_prefix.len()..];
        if subject.is_empty() {
            return None;
        }
        let rates = self.rates_of(subject)?;
        Some(Bucket {
            key,
            cost,
            rate: rates.rate,
            per_seconds: rates.per_seconds,
            burst: rates.burst,
        })
    }
}

gatepost_sdk::export!(RateLimit: on_connect, on_auth, on_rcpt, on_message, on_result);

#[cfg(test)]
mod tests;
