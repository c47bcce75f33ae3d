//! What changed in the state of a queued message, as small as it can be said: after an attempt mostly the fate of some
//! recipients and the time of the next attempt.
//!
//! Values are absolute, so that a change that is applied twice does no harm. Nothing here does I/O.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::message::{Envelope, QueueState, Recipient};

/// A change as it is written into the log.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Delta(Delta),
    /// The envelope changed beyond what a delta says: the whole state.
    State(Arc<QueueState>),
}

/// The fields of a state that attempts and operators change, and the recipients that did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Delta {
    /// By place in the envelope.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<(usize, Recipient)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<String>,
    #[serde(default)]
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_attempt: Option<SystemTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    delay_notified: bool,
}

impl Change {
    pub(super) fn between(old: &QueueState, new: &Arc<QueueState>) -> Change {
        let same_shape = Arc::ptr_eq(&old.origin, &new.origin)
            && same_frame(&old.envelope, &new.envelope)
            && old.envelope.recipients.len() == new.envelope.recipients.len();
        if !same_shape {
            return Change::State(new.clone());
        }
        let pairs = old.envelope.recipients.iter().zip(&new.envelope.recipients);
        let recipients = pairs
            .enumerate()
            .filter(|(_, (old, new))| !same_recipient(old, new))
            .map(|(place, (_, new))| (place, new.clone()))
            .collect();
        Change::Delta(Delta {
            recipients,
            held: new.held.clone(),
            attempts: new.attempts,
            next_attempt: new.next_attempt,
            last_error: new.last_error.clone(),
            delay_notified: new.delay_notified,
        })
    }
}

impl Delta {
    /// False if it names a recipient that the state does not have: it belongs to another message.
    pub(super) fn apply(self, state: &mut QueueState) -> bool {
        for (place, recipient) in self.recipients {
            let Some(slot) = state.envelope.recipients.get_mut(place) else {
                return false;
            };
            *slot = recipient;
        }
        state.held = self.held;
        state.attempts = self.attempts;
        state.next_attempt = self.next_attempt;
        state.last_error = self.last_error;
        state.delay_notified = self.delay_notified;
        true
    }
}

fn same_frame(a: &Envelope, b: &Envelope) -> bool {
    a.sender == b.sender && a.params == b.params
}

fn same_recipient(a: &Recipient, b: &Recipient) -> bool {
    // Destructured, so that a new field cannot be forgotten here.
    let Recipient {
        address,
        original,
        params,
        route,
        status,
    } = a;
    *address == b.address && *original == b.original && *params == b.params && *route == b.route && *status == b.status
}
