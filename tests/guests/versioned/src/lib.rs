//! Says which version it is to who asks for `version@`. A test makes another version of it by changing the digits in the component's bytes.

use gatepost_sdk::prelude::*;

#[derive(Default)]
pub struct Versioned;

impl Unconfigured for Versioned {}

static VERSION: &[u8; 12] = b"VERSION-0000";

impl OnRcpt for Versioned {
    fn on_rcpt(&self, _: &Session, recipient: &Mailbox, _: &RelayView) -> Answer {
        if recipient.local() == "version" {
            let version = std::hint::black_box(VERSION);
            return Answer::reject(550, "5.7.1", String::from_utf8_lossy(version));
        }
        Answer::pass()
    }
}

gatepost_sdk::export!(Versioned: on_rcpt);
