//! Limits how many messages, recipients and connections an identity, an address, a network or a sender domain may have in a time.
//!
//! Each limit is a token bucket in the host's state store. All buckets that a command touches are taken from at once or not at all. What is
//! counted is the command: MAIL for a message, RCPT for a recipient, whether or not it is refused later, since it cost its work either way.
//! A limit for a subject that the command does not have (the identity of a stranger, the domain of the null sender) does not apply.
//!
//! Never: refuses for good, or decides about relaying. With no limits configured a hook returns without asking the host anything.
//!
//! Fails open: if the state store cannot be reached, mail passes, and the log says so.

mod config;
mod network;

use std::net::IpAddr;

use config::{Config, Count, Limit, Per, Rates};
use gatepost_sdk::prelude::*;
use gatepost_sdk::state::{self, Bucket, Taken};
use network::Prefixes;

/// Bytes of an identity, address or domain in a bucket's key; what is longer is cut. The host takes keys of 512 bytes.
const MOST_SUBJECT_BYTES: usize = 400;

/// The configured policy.
pub struct RateLimit {
    connections: Limits,
    messages: Limits,
    recipients: Limits,
    prefixes: Prefixes,
}

/// The limits of one kind, and which facts they need.
#[derive(Default)]
struct Limits {
    limits: Vec<Limit>,
    need_identity: bool,
    need_peer: bool,
    need_sender: bool,
}

/// What a command says about whom to count.
#[derive(Default)]
struct Facts {
    identity: Option<String>,
    address: Option<String>,
    sender_domain: Option<String>,
}

/// A bucket, and the limit for which it stands.
struct Drawn<'a> {
    limit: &'a Limit,
    rates: Rates,
    subject: String,
}

impl Policy for RateLimit {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let (limits, prefixes) = config::check(config)?;
        let mut policy = Self {
            connections: Limits::default(),
            messages: Limits::default(),
            recipients: Limits::default(),
            prefixes,
        };
        for limit in limits {
            match limit.count {
                Count::Connections => policy.connections.push(limit),
                Count::Messages => policy.messages.push(limit),
                Count::Recipients => policy.recipients.push(limit),
            }
        }
        Ok(policy)
    }
}

impl OnConnect for RateLimit {
    fn on_connect(&self, session: &Session) -> Answer {
        self.take(&self.connections, session, || None)
    }
}

impl OnMail for RateLimit {
    fn on_mail(&self, session: &Session, sender: &Mailbox, _parameters: &[Parameter]) -> Answer {
        self.take(&self.messages, session, || Some(sender.domain.clone()))
    }
}

impl OnRcpt for RateLimit {
    fn on_rcpt(
        &self,
        session: &Session,
        _recipient: &Mailbox,
        _parameters: &[Parameter],
        _relay: &RelayView,
    ) -> Answer {
        self.take(&self.recipients, session, || {
            session
                .sender()
                .map(|sender| gatepost_sdk::split_address(&sender).domain.into_owned())
        })
    }
}

impl RateLimit {
    fn take(&self, limits: &Limits, session: &Session, sender_domain: impl FnOnce() -> Option<String>) -> Answer {
        if limits.limits.is_empty() {
            return Answer::pass();
        }
        let facts = Facts {
            identity: limits
                .need_identity
                .then(|| session.identity())
                .flatten()
                .map(|identity| identity.name),
            address: limits.need_peer.then(|| session.peer().address),
            sender_domain: limits.need_sender.then(sender_domain).flatten(),
        };
        let drawn = limits.drawn(&facts, self.prefixes);
        if drawn.is_empty() {
            return Answer::pass();
        }
        let buckets: Vec<Bucket> = drawn.iter().map(Drawn::bucket).collect();
        match state::take_all(&buckets) {
            Ok(Taken::Ok) => Answer::pass(),
            Ok(Taken::Refused((place, wait_ms))) => match drawn.get(place as usize) {
                Some(drawn) => drawn.refusal(wait_ms),
                None => Answer::pass(),
            },
            Err(error) => {
                gatepost_sdk::log::error(&format!("limits are not held: the state store failed: {error:?}"));
                Answer::pass()
            }
        }
    }
}

impl Limits {
    fn push(&mut self, limit: Limit) {
        match limit.per {
            Per::Identity => self.need_identity = true,
            Per::Address | Per::Network => self.need_peer = true,
            Per::SenderDomain => self.need_sender = true,
        }
        self.limits.push(limit);
    }

    /// The limits that apply, each with the subject for which it counts.
    fn drawn(&self, facts: &Facts, prefixes: Prefixes) -> Vec<Drawn<'_>> {
        self.limits
            .iter()
            .filter_map(|limit| {
                let subject = facts.subject(limit.per, prefixes)?;
                Some(Drawn {
                    limit,
                    rates: limit.rates_of(&subject)?,
                    subject,
                })
            })
            .collect()
    }
}

impl Facts {
    fn subject(&self, per: Per, prefixes: Prefixes) -> Option<String> {
        let subject = match per {
            Per::Identity => self.identity.clone(),
            Per::Address => self.address.clone(),
            Per::Network => self
                .address
                .as_ref()
                .and_then(|text| text.parse::<IpAddr>().ok())
                .map(|ip| prefixes.network_of(ip)),
            Per::SenderDomain => self.sender_domain.clone(),
        };
        subject.filter(|subject| !subject.is_empty())
    }
}

impl Drawn<'_> {
    fn bucket(&self) -> Bucket {
        let mut end = self.subject.len().min(MOST_SUBJECT_BYTES);
        while !self.subject.is_char_boundary(end) {
            end -= 1;
        }
        let Rates {
            rate,
            per_seconds,
            burst,
        } = self.rates;
        Bucket {
            key: [&self.limit.key_prefix, &self.subject[..end]].concat(),
            cost: 1,
            rate,
            per_seconds,
            burst,
        }
    }

    fn refusal(&self, wait_ms: u64) -> Answer {
        let Limit { count, per, .. } = self.limit;
        let Rates {
            rate,
            per_seconds,
            burst,
        } = self.rates;
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
                    "{count} per {per} {}: {rate} in {per_seconds} s, {burst} at once; the next in {wait_s} s",
                    self.subject
                ),
                "wait; the administrator can raise the limit, or make an exception under its `overrides`",
            )
            .otherwise(format!("the same {wait_s} s later"))
    }
}

gatepost_sdk::export!(RateLimit: on_connect, on_mail, on_rcpt);

#[cfg(test)]
mod tests;
