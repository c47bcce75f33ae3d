//! spam-scan with a second opinion of rspamd and spamd, as a component: all that it does is in `spam-scan`.
//!
//! It is apart because grants follow from what a component imports: who asks nobody need not grant `endpoint`.

use gatepost_sdk::prelude::*;
use spam_scan::{Config, SecondOpinion};

/// The configured policy.
pub struct SpamOpinion(SecondOpinion);

impl Policy for SpamOpinion {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        SecondOpinion::new(config).map(Self)
    }
}

impl OnMessage for SpamOpinion {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        self.0.on_message(session, message)
    }
}

gatepost_sdk::export!(SpamOpinion: on_message);
