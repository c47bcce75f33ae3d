//! Has every hook, and says in reasons and log lines what it was told there: what a transcript gives a policy, a test can read.

use gatepost_sdk::dns::{Query, RecordType};
use gatepost_sdk::login::Attempt;
use gatepost_sdk::notes::{self, Scope};
use gatepost_sdk::prelude::*;
use gatepost_sdk::queue::{AttemptResult, QueuedMessage};
use gatepost_sdk::{clock, credentials, dns, endpoint, log, state};

#[derive(Default)]
pub struct Witness;

impl Unconfigured for Witness {}

/// Passes, and says this for a reason.
fn told(what: impl std::fmt::Debug) -> Answer {
    Answer::pass().because(format!("{what:?}"), "", "")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

impl OnConnect for Witness {
    fn on_connect(&self, session: &Session) -> Answer {
        let (listener, peer, tls) = (session.listener(), session.peer(), session.tls());
        told((
            listener.name,
            listener.auth,
            peer.address,
            peer.port,
            peer.trusted,
            peer.proxied,
            tls.map(|tls| tls.version),
            session.reverse_name(),
        ))
    }
}

impl OnEhlo for Witness {
    fn on_ehlo(&self, session: &Session, name: &str) -> Answer {
        if name == "leaving.test" {
            return Answer::pass().leave_session();
        }
        told((name, session.ehlo_name()))
    }
}

impl OnAuth for Witness {
    fn on_auth(&self, _: &Session, attempt: &Attempt) -> Verdict {
        match attempt.verify() {
            true => Verdict::Success(format!("{}-by-{}", attempt.user(), attempt.mechanism())),
            false => Verdict::Failure,
        }
    }
}

impl OnMail for Witness {
    fn on_mail(&self, session: &Session, sender: &Mailbox) -> Answer {
        let parameters: Vec<_> = sender
            .parameters()
            .into_iter()
            .map(|given| (given.name, given.value))
            .collect();
        let identity = session.identity().map(|identity| (identity.name, identity.method));
        told((sender.address(), identity, parameters, clock::now()))
    }
}

impl OnRcpt for Witness {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        match &*recipient.local() {
            "state" => told((
                state::get("kept").map(|value| value.map(text)),
                state::increment("seen", 1, None),
            )),
            "dns" => told(dns::lookup(&[Query {
                name: "mail.example".to_owned(),
                kind: RecordType::A,
            }])),
            "scan" => told(endpoint::connect("scanner").and_then(|connection| {
                connection.write(b"PING")?;
                connection.read(100).map(text)
            })),
            "senders" => told(credentials::senders("alice")),
            "note" => told(notes::set(Scope::Transaction, "seen", Some(b"yes"))),
            _ => told((
                relay.ours,
                relay.reason.as_deref().unwrap_or_default(),
                session.recipient_count(),
            )),
        }
    }
}

impl OnData for Witness {
    fn on_data(&self, session: &Session) -> Answer {
        told(
            session
                .envelope()
                .map(|envelope| (envelope.sender, envelope.recipients)),
        )
    }
}

impl OnMessage for Witness {
    fn on_message(&self, _: &Session, message: &Message) -> Answer {
        let subject: Vec<String> = message.header("subject").into_iter().map(text).collect();
        let body = message.read(message.body_offset(), 100);
        told((message.size(), subject, text(body))).add_header("X-Seen", "by\r\n\twitness")
    }
}

fn message(message: &QueuedMessage) -> String {
    format!(
        "{} <{}> {:?} {}",
        message.size, message.sender, message.recipients, message.attempts
    )
}

impl OnRoute for Witness {
    fn on_route(&self, _: &Session, queued: &QueuedMessage) -> Answer {
        told((message(queued), notes::get(Scope::Transaction, "", "seen").map(text)))
    }
}

impl OnDelivery for Witness {
    fn on_delivery(&self, _: &Session, queued: &QueuedMessage, outcome: &AttemptResult) -> Option<u32> {
        log::info(&format!("{} {outcome:?}", message(queued)));
        Some(60)
    }
}

impl OnQueued for Witness {
    fn on_queued(&self, _: &Session, queued: &QueuedMessage) {
        log::info(&message(queued));
    }
}

impl OnResult for Witness {
    fn on_result(&self, _: &Session, event: &CommandResult) {
        log::warn(&format!("{} {} {}", event.command, event.code, event.subject));
    }
}

impl OnDisconnect for Witness {
    fn on_disconnect(&self, session: &Session) {
        log::debug(&format!("{} answers", session.earlier_answers().len()));
    }
}

gatepost_sdk::export!(
    Witness: on_connect, on_ehlo, on_auth, on_mail, on_rcpt, on_data, on_message, on_route, on_delivery, on_queued, on_result, on_disconnect
);
