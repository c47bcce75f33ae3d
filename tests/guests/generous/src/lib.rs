//! Lets strangers relay, always or only in the case that its configuration names: what a relay must find out before it goes live.

use gatepost_sdk::dns::{self, Query, RecordType};
use gatepost_sdk::prelude::*;

pub struct Generous(Config);

#[derive(serde::Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Only then: `never`, `bounce` (the null sender), `own-sender` (one of our own), `tls`, `ipv6`, `source-routed`, `no-dns`, `dns`.
    when: Option<String>,
}

impl Policy for Generous {
    type Config = Config;

    fn new(config: Config) -> Result<Generous, String> {
        Ok(Generous(config))
    }
}

impl OnRcpt for Generous {
    fn on_rcpt(&self, session: &Session, _: &Mailbox, relay: &RelayView) -> Answer {
        let sender = || session.sender().unwrap_or_default();
        let works = || {
            let name = "partner.test".to_owned();
            let kind = RecordType::A;
            dns::lookup(&[Query { name, kind }])
                .into_iter()
                .all(|answer| answer.is_ok())
        };
        let allow = match self.0.when.as_deref() {
            None => true,
            Some("bounce") => sender().is_empty(),
            Some("own-sender") => sender().ends_with("@ours.test"),
            Some("tls") => session.tls().is_some(),
            Some("ipv6") => session.peer().address.contains(':'),
            Some("source-routed") => relay.reason.as_deref() == Some("source-routed"),
            Some("no-dns") => !works(),
            Some("dns") => works(),
            Some(_) => false,
        };
        match allow {
            true => Answer::pass().allow_relay(),
            false => Answer::pass(),
        }
    }
}

gatepost_sdk::export!(Generous: on_rcpt);
