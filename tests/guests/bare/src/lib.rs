//! Exports a hook and nothing else: no `lifecycle`, so it takes no configuration. The SDK's `export!` always has one.

use std::cell::OnceCell;

use gatepost_sdk::prelude::*;

#[derive(Default)]
pub struct Bare;

impl Unconfigured for Bare {}

impl gatepost_sdk::__private::Held for Bare {
    fn with_cell<R>(body: impl FnOnce(&OnceCell<Bare>) -> R) -> R {
        body(&OnceCell::from(Bare))
    }
}

impl OnRcpt for Bare {
    fn on_rcpt(&self, _: &Session, _: &Mailbox, _: &RelayView) -> Answer {
        Answer::pass()
    }
}

gatepost_sdk::__export_hook!(on_rcpt Bare);
