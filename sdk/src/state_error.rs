//! What a store that failed is called in logs and details.

use crate::bindings::gatepost::policy::state::StateError;

impl StateError {
    /// In words for the administrator; its `Display` is generated, and shows Rust's form.
    pub fn in_words(&self) -> &str {
        match self {
            Self::Unavailable(why) => why,
            Self::TooLarge => "a key, a value or the list of buckets is too large",
        }
    }
}
