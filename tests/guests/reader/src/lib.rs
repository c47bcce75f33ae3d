//! The policy by which calls are measured: it asks for the client's address and one note, and passes.

use gatepost_sdk::notes::{self, Scope};
use gatepost_sdk::prelude::*;

#[derive(Default)]
pub struct Reader;

impl Unconfigured for Reader {}

impl OnRcpt for Reader {
    fn on_rcpt(&self, session: &Session, _: &Mailbox, _: &RelayView) -> Answer {
        let address = session.peer().address;
        match notes::get(Scope::Session, "", "seen") {
            Some(seen) if seen == address.as_bytes() => Answer::pass().leave_session(),
            _ => Answer::pass(),
        }
    }
}

gatepost_sdk::export!(Reader: on_rcpt);
