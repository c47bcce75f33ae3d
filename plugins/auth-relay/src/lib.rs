//! Says who may relay: authenticated senders as the addresses they own, and, if configured, trusted networks.
//!
//! It is asked at RCPT. For a recipient elsewhere it either allows relaying or passes with the reason, and the host's relay gate then
//! refuses with that reason. Whoever authenticated is held to its own addresses for our recipients too.
//!
//! Never: allows a stranger anything, allows a source-routed address, or remembers anything. A stranger costs one call in a session: it can be
//! allowed nothing before it authenticates, and then all policies are asked again.
//!
//! Fails at load if the configuration names an address that is none.

mod ownership;

use std::collections::{BTreeMap, BTreeSet};

use gatepost_sdk::credentials;
use gatepost_sdk::prelude::*;
use ownership::{Owned, OwnedError};
use serde::Deserialize;

/// `[plugin.config]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Clients in one of the host's `trusted_networks` may relay without authentication.
    allow_trusted_networks: bool,
    /// Addresses that an identity owns besides those of the users file.
    senders: BTreeMap<String, Vec<String>>,
    /// Identities, and local users in trusted networks, that may never send.
    never_send: BTreeSet<String>,
    /// Whether an identity may write to our own recipients under any address.
    own_sender_only_for_relay: bool,
    /// Whether an identity may send with the null reverse-path.
    allow_null_sender: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_trusted_networks: false,
            senders: BTreeMap::new(),
            never_send: BTreeSet::new(),
            own_sender_only_for_relay: false,
            // Delivery and read receipts are sent by mail programs, and must have it (RFC 8098 §3, RFC 5321 §4.5.5).
            allow_null_sender: true,
        }
    }
}

/// The configured policy.
pub struct AuthRelay {
    config: Config,
    senders: BTreeMap<String, Vec<Owned>>,
}

/// What an identity's claim to a reverse-path comes to.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Owned,
    NotOwned,
    MayNotSend,
    NullSender,
}

impl Policy for AuthRelay {
    type Config = Config;

    fn new(mut config: Config) -> Result<Self, String> {
        let senders = std::mem::take(&mut config.senders)
            .into_iter()
            .map(|(identity, addresses)| {
                let owned: Result<Vec<Owned>, OwnedError> = addresses.iter().map(|text| text.parse()).collect();
                owned
                    .map(|owned| (identity.clone(), owned))
                    .map_err(|error| format!("senders.{identity}: {error}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { config, senders })
    }
}

impl OnRcpt for AuthRelay {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        if relay.reason.as_deref() == Some("source-routed") {
            return Answer::pass();
        }
        if let Some(identity) = session.identity() {
            if relay.ours && self.ours_is_free() {
                return Answer::pass();
            }
            let sender = session.sender().unwrap_or_default();
            let claim = self.claim(&identity.name, &sender, || credentials::senders(&identity.name));
            return self.answer_identity(&claim, &identity.name, &sender, &recipient.address(), relay.ours);
        }
        let peer = self.config.allow_trusted_networks.then(|| session.peer());
        match peer.filter(|peer| peer.trusted) {
            Some(_) if relay.ours => Answer::pass(),
            Some(peer) => {
                let sender = session.sender().unwrap_or_default();
                self.answer_network(&peer.address, &sender, &recipient.address())
            }
            // A stranger: the host knows why relaying is denied better than this policy does.
            None => Answer::pass().leave_session(),
        }
    }
}

impl AuthRelay {
    /// Whether nothing that an identity says about itself matters for a recipient of ours.
    fn ours_is_free(&self) -> bool {
        self.config.own_sender_only_for_relay && self.config.never_send.is_empty()
    }

    /// `in_users_file` is asked only if the configuration does not settle it.
    fn claim(&self, identity: &str, sender: &str, in_users_file: impl FnOnce() -> Vec<String>) -> Claim {
        if self.config.never_send.contains(identity) {
            return Claim::MayNotSend;
        }
        if sender.is_empty() {
            return if self.config.allow_null_sender {
                Claim::Owned
            } else {
                Claim::NullSender
            };
        }
        let address = gatepost_sdk::split_address(sender);
        let configured = self
            .senders
            .get(identity)
            .is_some_and(|owned| owned.iter().any(|owned| owned.covers(&address)));
        if configured
            || in_users_file()
                .iter()
                .any(|owned| gatepost_sdk::split_address(owned).is_same_mailbox(&address))
        {
            Claim::Owned
        } else {
            Claim::NotOwned
        }
    }

    fn answer_identity(&self, claim: &Claim, identity: &str, sender: &str, recipient: &str, ours: bool) -> Answer {
        // Another policy may know better, so a relay is left to the gate, which refuses it with this reason.
        let refuse = |reason: &str, detail: String, remedy: &str, otherwise: &str| {
            let answer = if ours {
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
            Claim::MayNotSend => may_not_send(identity, recipient),
            _ if ours && self.config.own_sender_only_for_relay => Answer::pass(),
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

    /// A client without authentication, in a trusted network, to a recipient elsewhere.
    fn answer_network(&self, address: &str, sender: &str, recipient: &str) -> Answer {
        let local = gatepost_sdk::split_address(sender).local;
        if self.config.never_send.contains(&*local) || self.config.never_send.contains(sender) {
            return may_not_send(sender, recipient);
        }
        Answer::pass()
            .allow_relay()
            .because("trusted-network", format!("{address} is in a trusted network"), "")
    }
}

/// Refused by the policy itself: no other one shall allow it.
fn may_not_send(who: &str, recipient: &str) -> Answer {
    let reason = "identity-may-not-send";
    Answer::reject(550, "5.7.1", format!("<{recipient}>: Relay access denied ({reason})"))
        .because(
            reason,
            format!("{who} is in `never_send`"),
            "send with an account made for sending; if this one must send, take it out of `never_send` of auth-relay",
        )
        .otherwise("another identity")
}

gatepost_sdk::export!(AuthRelay: on_rcpt);

#[cfg(test)]
mod tests;
