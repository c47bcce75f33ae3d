//! The smallest useful policy: mail to `noreply@` any of our domains is refused, with a text that helps.

use gatepost_sdk::prelude::*;

#[derive(Default)]
struct NoReply;

impl Unconfigured for NoReply {}

impl OnRcpt for NoReply {
    fn on_rcpt(&self, _: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        if relay.ours && recipient.local().eq_ignore_ascii_case("noreply") {
            return Answer::reject(550, "5.1.1", "Nobody reads noreply: write to support");
        }
        Answer::pass()
    }
}

gatepost_sdk::export!(NoReply: on_rcpt);
