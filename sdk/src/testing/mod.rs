//! Asks a policy under `cargo test`, on the author's machine: no component, no relay.
//!
//! A [`Script`] holds a policy made of a configuration, and a host that a test fills with facts: the client, the envelope, the message, DNS, the clock,
//! state. Its `on_...` functions ask the policy's hooks, and carry out what the daemon would before the next one (a recipient that is not refused is in the
//! envelope, a policy that took leave is not asked again). Answers are compared with answers:
//!
//! ```
//! use gatepost_sdk::prelude::*;
//! use gatepost_sdk::testing::Script;
//! # #[derive(Default)]
//! # struct NoReply;
//! # impl Unconfigured for NoReply {}
//! # impl OnRcpt for NoReply {
//! #     fn on_rcpt(&self, _: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
//! #         if relay.ours && recipient.local().eq_ignore_ascii_case("noreply") {
//! #             return Answer::reject(550, "5.1.1", "Nobody reads noreply: write to support");
//! #         }
//! #         Answer::pass()
//! #     }
//! # }
//!
//! let mut script = Script::<NoReply>::new("{}").unwrap();
//! script.sender("someone@elsewhere.test");
//! assert_eq!(script.on_rcpt("support@ours.test"), Answer::pass());
//! assert_eq!(
//!     script.on_rcpt("NoReply@ours.test"),
//!     Answer::reject(550, "5.1.1", "Nobody reads noreply: write to support")
//! );
//! ```
//!
//! What it leaves to the daemon: grants, budgets, and whether an answer keeps the rules of its hook. For these, and for the component itself, write a
//! transcript and run `gatepost plugin test`.

mod script;
mod state;
pub(crate) mod world;

pub use script::Script;
pub use state::Store;

/// Where the clock of a script begins: 2026-01-01T00:00:00Z, in milliseconds since 1970.
pub const START_MS: u64 = 1_767_225_600_000;

#[cfg(test)]
mod tests;
