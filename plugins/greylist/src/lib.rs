//! Greylisting: who writes to somebody for the first time is asked to come again, and whoever does passes from then on.
//!
//! Asked at RCPT, for recipients of ours. A triplet of the client's network, the sender and the recipient waits for `delay_s`; when it comes again it
//! passes, and so does all that it sends while it is not silent for longer than `keep_s`. A network of which several triplets came again passes
//! altogether, and of its clients this policy takes leave, as of those who authenticated, trusted networks and allowed clients.
//!
//! Never: refuses for good, decides about relaying, or asks SPF and DNS about anybody who need not wait anyway.
//!
//! Fails open: without its memory greylisting would refuse everybody for ever, so mail passes if the state store cannot be reached, and the log
//! says so. Fails at load if what shall be allowed is no address, network or domain.

mod config;
mod memory;

use std::net::IpAddr;

use config::{Config, Mailboxes, Settings, is_at_or_below};
use gatepost_sdk::authentication::{self, Status};
use gatepost_sdk::prelude::*;
use gatepost_sdk::state::StateError;
use gatepost_sdk::{clock, metrics};
use memory::{Known, Network, Triplet};

/// The configured policy.
pub struct Greylist(Settings);

impl Policy for Greylist {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config::check(config).map(Self)
    }
}

impl OnRcpt for Greylist {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        // What is not ours is the relay gate's business.
        if !relay.ours {
            return Answer::pass();
        }
        if session.identity().is_some() {
            return Answer::pass().leave_session();
        }
        let peer = session.peer();
        // The host says it as it is, so it is always one; if ever not, nobody is to suffer.
        let Ok(address) = peer.address.parse::<IpAddr>() else {
            return Answer::pass();
        };
        if peer.trusted || self.0.clients.iter().any(|network| network.contains(&address)) {
            return Answer::pass().leave_session();
        }
        let recipient = recipient.address();
        let sender = session.sender().unwrap_or_default();
        if covers(&self.0.recipients, &recipient) || covers(&self.0.senders, &sender) {
            return Answer::pass();
        }
        let network = self.0.network(address).to_string();
        self.decide(session, &network, &sender, &recipient)
            .unwrap_or_else(|error| {
                let why = error.in_words();
                gatepost_sdk::log::error(&format!("nobody is greylisted: the state store failed: {why}"));
                metrics::count("store_failed", 1);
                Answer::pass()
            })
    }
}

impl Greylist {
    fn decide(&self, session: &Session, network: &str, sender: &str, recipient: &str) -> Result<Answer, StateError> {
        let settings = &self.0;
        let now_ms = clock::now();
        let known_network = match settings.network_successes {
            Some(wanted) => {
                let known = Network::load(network)?;
                if known.has(wanted) {
                    known.refresh(settings, now_ms)?;
                    return Ok(Answer::pass().leave_session());
                }
                Some(known)
            }
            None => None,
        };
        let triplet = Triplet::new(network, sender, recipient);
        let first_ms = match triplet.known()? {
            Some(Known::Passed { last_ms }) => {
                triplet.refresh(settings, last_ms, now_ms)?;
                return Ok(Answer::pass());
            }
            Some(Known::Waiting { first_ms }) if now_ms >= first_ms.saturating_add(settings.delay_ms) => {
                triplet.pass(settings, now_ms)?;
                if let Some(known) = known_network {
                    known.succeeded(settings, now_ms)?;
                }
                metrics::count("came_again", 1);
                return Ok(Answer::pass());
            }
            _ if self.is_exempt(session) => return Ok(Answer::pass()),
            Some(Known::Waiting { first_ms }) => first_ms,
            None => {
                triplet.wait(settings, now_ms)?;
                now_ms
            }
        };
        metrics::count("greylisted", 1);
        Ok(self.deferral(network, sender, recipient, now_ms.saturating_sub(first_ms)))
    }

    /// What costs DNS look-ups, and so is asked last.
    fn is_exempt(&self, session: &Session) -> bool {
        let settings = &self.0;
        let is_named = || {
            let name = session.reverse_name().unwrap_or_default().to_ascii_lowercase();
            settings.client_names.iter().any(|domain| is_at_or_below(&name, domain))
        };
        let passes_spf = || {
            authentication::check_envelope(session)
                .iter()
                .any(|check| check.method == "spf" && check.status == Status::Pass)
        };
        (!settings.client_names.is_empty() && is_named()) || (settings.exempt_spf_pass && passes_spf())
    }

    fn deferral(&self, network: &str, sender: &str, recipient: &str, waited_ms: u64) -> Answer {
        let wait_s = self.0.delay_ms.saturating_sub(waited_ms).div_ceil(1000).max(1);
        let waited_s = waited_ms / 1000;
        Answer::defer(451, "4.7.1", format!("Greylisted: try again in {wait_s} s"))
            .because(
                "greylisted",
                format!("<{sender}> to <{recipient}> from {network}: first seen {waited_s} s ago, {wait_s} s to wait"),
                "nothing: a mail server tries again by itself, and passes then; the administrator can name the client, sender or recipient in the allow lists of greylist",
            )
            .otherwise(format!("the same {wait_s} s later, authentication, or a trusted network"))
    }
}

fn covers(allowed: &[Mailboxes], address: &str) -> bool {
    if allowed.is_empty() {
        return false;
    }
    let address = gatepost_sdk::split_address(address);
    allowed.iter().any(|mailboxes| mailboxes.cover(&address))
}

gatepost_sdk::export!(Greylist: on_rcpt);

#[cfg(test)]
mod tests;
