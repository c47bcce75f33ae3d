//! Says who may relay: authenticated senders as the addresses they own, and, if configured, trusted networks.
//!
//! It is asked at RCPT. For a recipient elsewhere it either allows relaying or passes with the reason, and the host's relay gate then
//! refuses with that reason. Whoever authenticated is held to its own addresses for our recipients too. What the configuration forbids by name (an
//! account that never sends, a network, an hour, a recipient) it refuses itself, so that no other policy allows it.
//!
//! Facts are asked for when a rule needs them: without any, who the client is and what it calls itself suffice.
//!
//! Never: allows a stranger anything, allows a source-routed address, or remembers anything. A stranger costs one call in a session: it can be
//! allowed nothing before it authenticates, and then all policies are asked again.
//!
//! Fails at load if the configuration names an address, a network, a name or hours that are none.

mod bounds;
mod config;
mod hours;
mod names;
mod ownership;
mod refusal;

use config::{Config, Settings};
use gatepost_sdk::prelude::*;
use gatepost_sdk::{Address, credentials, split_address};
use refusal::{may_not_send, tls_required};

/// The configured policy.
pub struct AuthRelay(Settings);

/// What an identity's claim to a reverse-path comes to.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Owned,
    NotOwned,
    NullSender,
}

impl Policy for AuthRelay {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config::check(config).map(Self)
    }
}

impl OnRcpt for AuthRelay {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        if relay.reason.as_deref() == Some("source-routed") {
            return Answer::pass();
        }
        if let Some(identity) = session.identity() {
            return self.answer_identity(session, &identity.name, recipient, relay.ours);
        }
        let peer = self.0.allow_trusted_networks.then(|| session.peer());
        match peer.filter(|peer| peer.trusted) {
            Some(_) if relay.ours => Answer::pass(),
            Some(peer) => self.answer_network(session, &peer.address, recipient),
            // A stranger: the host knows why relaying is denied better than this policy does.
            None => Answer::pass().leave_session(),
        }
    }
}

impl AuthRelay {
    fn answer_identity(&self, session: &Session, identity: &str, recipient: &Mailbox, ours: bool) -> Answer {
        if self.0.never_send.has_identity(identity) {
            return may_not_send(identity, recipient);
        }
        if self.0.require_tls && session.tls().is_none() {
            return tls_required(identity);
        }
        if let Some(refusal) = bounds::of_identity(&self.0, session, identity, recipient, ours) {
            return refusal;
        }
        if ours && self.0.own_sender_only_for_relay {
            return Answer::pass();
        }
        let sender = session.sender().unwrap_or_default();
        let claim = self.claim(identity, &sender, || credentials::senders(identity));
        answer_claim(&claim, identity, &sender, recipient, ours)
    }

    /// `in_users_file` is asked only if the configuration does not settle it.
    fn claim(&self, identity: &str, sender: &str, in_users_file: impl FnOnce() -> Vec<String>) -> Claim {
        if sender.is_empty() {
            return if self.0.allow_null_sender {
                Claim::Owned
            } else {
                Claim::NullSender
            };
        }
        let forms = self.forms(sender);
        let is_any = |is_one: &dyn Fn(&Address<'_>) -> bool| forms.iter().flatten().any(is_one);
        let configured = self
            .0
            .senders
            .get(identity)
            .is_some_and(|owned| owned.iter().any(|owned| is_any(&|form| owned.covers(form))));
        if configured
            || in_users_file()
                .iter()
                .any(|owned| is_any(&|form| split_address(owned).is_same_mailbox(form)))
        {
            Claim::Owned
        } else {
            Claim::NotOwned
        }
    }

    /// The address, and the same without its tag if there are tags and it has one.
    fn forms<'a>(&self, sender: &'a str) -> [Option<Address<'a>>; 2] {
        let address = split_address(sender);
        let place = self.0.tag_separator.and_then(|separator| address.local.find(separator));
        let untagged = place.map(|place| Address {
            local: address.local[..place].to_owned().into(),
            domain: address.domain.clone(),
        });
        [Some(address), untagged]
    }

    /// A client without authentication, in a trusted network, to a recipient elsewhere.
    fn answer_network(&self, session: &Session, address: &str, recipient: &Mailbox) -> Answer {
        let sender = session.sender().unwrap_or_default();
        if self
            .forms(&sender)
            .iter()
            .flatten()
            .any(|form| self.0.never_send.has_address(form))
        {
            return may_not_send(&sender, recipient);
        }
        if self.0.require_tls && session.tls().is_none() {
            return tls_required(address);
        }
        if let Some(refusal) = bounds::of_network(&self.0, session, address, recipient) {
            return refusal;
        }
        Answer::pass()
            .allow_relay()
            .because("trusted-network", format!("{address} is in a trusted network"), "")
    }
}

fn answer_claim(claim: &Claim, identity: &str, sender: &str, recipient: &Mailbox, ours: bool) -> Answer {
    // Another policy may know better, so a relay is left to the gate, which refuses it with this reason.
    let refuse = |reason: &str, detail: String, remedy: &str, otherwise: &str| {
        let answer = if ours {
            let recipient = recipient.address();
            Answer::reject(
                550,
                "5.7.1",
                format!("<{recipient}>: Sender address rejected ({reason})"),
            )
        } else {
            Answer::pass()
        };
        answer.because(reason, detail, remedy).otherwise(otherwise)
    };
    match claim {
        Claim::Owned if ours => Answer::pass(),
        Claim::Owned => {
            Answer::pass()
                .allow_relay()
                .because("sender-owned", format!("{identity} sends as <{sender}>"), "")
        }
        Claim::NotOwned => refuse(
            "sender-not-owned",
            format!("{identity} does not own <{sender}>"),
            "send as an address of your own, or ask the administrator to add this one to `senders` of auth-relay",
            "a reverse-path that the identity owns",
        ),
        Claim::NullSender => refuse(
            "null-sender",
            format!("{identity} sends with the null reverse-path"),
            "send as an address of your own, or ask the administrator for `allow_null_sender` of auth-relay",
            "a reverse-path that the identity owns, or `allow_null_sender = true`",
        ),
    }
}

gatepost_sdk::export!(AuthRelay: on_rcpt);

#[cfg(test)]
mod tests;
