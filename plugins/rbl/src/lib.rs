//! Refuses clients that DNS lists name, by the sum of the lists' weights.
//!
//! Asked at RCPT, for recipients of ours, so that those who authenticated, trusted networks and mail to postmaster are spared, and the log has
//! the recipients that were refused. All lists are asked in one batch, once in a session. Of a client that no list names, or that is spared, this
//! policy takes leave; what lists say of another stays in a session note.
//!
//! Never: looks up anything without a configured list, or counts a DNS failure against a client.
//!
//! A list that fails or answers nonsense weighs nothing, and the log says so. Fails at load if a zone or a code is none.

mod config;
mod verdict;

use config::{Action, Config, List};
use gatepost_sdk::dns::{self, ListQuery};
use gatepost_sdk::notes::{self, Scope};
use gatepost_sdk::prelude::{Answer, Mailbox, OnRcpt, Policy, RelayView, Session};
use verdict::Verdict;

/// The key of the session note.
const NOTE: &str = "verdict";

/// The plugin's own notes.
const OWN: &str = "";

/// The configured policy.
pub struct Rbl {
    lists: Vec<List>,
    threshold: i32,
    action: Action,
    exempt_local_parts: Vec<String>,
}

impl Policy for Rbl {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self {
            lists: config::check(config.lists, config.threshold)?,
            threshold: config.threshold,
            action: config.action,
            exempt_local_parts: config.exempt_local_parts,
        })
    }
}

impl OnRcpt for Rbl {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        // What is not ours needs a permission to relay, and listed strangers do not get one anyway.
        if !relay.ours || self.is_exempt(&recipient.local()) {
            return Answer::pass();
        }
        if self.lists.is_empty() || session.identity().is_some() {
            return Answer::pass().leave_session();
        }
        let peer = session.peer();
        if peer.trusted {
            return Answer::pass().leave_session();
        }
        let known = notes::get(Scope::Session, OWN, NOTE);
        if let Some(verdict) = known.as_deref().and_then(Verdict::from_note) {
            return self.answer(&peer.address, &verdict);
        }
        let verdict = self.ask(&peer.address);
        if verdict.score < self.threshold {
            return Answer::pass().leave_session();
        }
        // If the notes are full, the next recipient asks again.
        notes::set(Scope::Session, NOTE, Some(&verdict.to_note()));
        self.answer(&peer.address, &verdict)
    }
}

impl Rbl {
    fn is_exempt(&self, local: &str) -> bool {
        self.exempt_local_parts
            .iter()
            .any(|exempt| exempt.eq_ignore_ascii_case(local))
    }

    /// Asks the lists.
    fn ask(&self, address: &str) -> Verdict {
        let query = |list: &List| ListQuery {
            zone: list.zone.clone(),
            subject: address.to_owned(),
        };
        let queries: Vec<ListQuery> = self.lists.iter().map(query).collect();
        verdict::weigh(&self.lists, &dns::lists(&queries), |line| {
            gatepost_sdk::log::warn(&line)
        })
    }

    fn answer(&self, address: &str, verdict: &Verdict) -> Answer {
        let Verdict { score, against } = verdict;
        let text = format!("Client host [{address}] blocked using {against}");
        let answer = match self.action {
            Action::Reject => Answer::reject(550, "5.7.1", text),
            Action::Defer => Answer::defer(450, "4.7.1", text),
            Action::Tag => Answer::pass().tag("listed", against.as_str()),
        };
        answer
            .because(
                "listed",
                format!("{address} is on {against}: score {score}, threshold {}", self.threshold),
                "have the address taken off the lists, or send through a server that is on none; the administrator can change weights and threshold of rbl",
            )
            .otherwise(format!("a score below {}, authentication, or a trusted network", self.threshold))
    }
}

gatepost_sdk::export!(Rbl: on_rcpt);

#[cfg(test)]
mod tests;
