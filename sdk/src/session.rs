//! Facts of a session that follow from others.

use crate::types::Session;

impl Session {
    /// The reverse-path as earlier policies left it, without brackets; empty for the null sender. None outside a transaction.
    #[must_use]
    pub fn sender(&self) -> Option<String> {
        self.envelope().map(|envelope| envelope.sender)
    }
}
