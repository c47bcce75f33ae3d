//! spam-scan with a second opinion: the same points, and those of rspamd and spamd.
//!
//! A policy of its own, and a component of its own (`spam-opinion`): who asks nobody need not grant `endpoint`.
//!
//! Never: asks before it has its own points, or lets mail wait that they refuse.

use gatepost_sdk::prelude::*;

use crate::SpamScan;
use crate::config::{self, Config, Scanner, Settings};
use crate::opinion::{self, Kind, Unanswered};

/// The configured policy.
pub struct SecondOpinion(SpamScan);

impl Policy for SecondOpinion {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let settings = config::check(config)?;
        if settings.rspamd.is_none() && settings.spamd.is_none() {
            return Err(
                "rspamd, spamd: nobody would be asked: write [plugin.config.rspamd] or [plugin.config.spamd], or load spam-scan"
                    .to_owned(),
            );
        }
        for (kind, scanner) in [(Kind::Rspamd, &settings.rspamd), (Kind::Spamd, &settings.spamd)] {
            if scanner.is_some() {
                kind.require_endpoint()?;
            }
        }
        Ok(Self(SpamScan(settings)))
    }
}

impl OnMessage for SecondOpinion {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        let thresholds = self.0.thresholds(session);
        let opinions = |own| {
            let scanners = asked(&self.0.0, session, message, own);
            let opinions = opinion::ask(&scanners, session, message, thresholds.tag);
            // It would come again only to be refused.
            let is_refused = thresholds.reject.is_some_and(|reject| own >= reject);
            if is_refused && opinions.is_err() {
                return Ok(Vec::new());
            }
            opinions
        };
        self.0
            .scan(message, thresholds, opinions)
            .unwrap_or_else(|Unanswered(why)| later(why))
    }
}

/// Who is asked about a message with these points.
fn asked<'a>(settings: &'a Settings, session: &Session, message: &Message, own: i32) -> Vec<(Kind, &'a Scanner)> {
    let scanners = [(Kind::Rspamd, &settings.rspamd), (Kind::Spamd, &settings.spamd)];
    let scanners = scanners
        .into_iter()
        .filter_map(|(kind, scanner)| Some((kind, scanner.as_ref()?)));
    let is_wanted = |(_, scanner): &(Kind, &Scanner)| {
        let is_between = |(least, most): (config::Points, config::Points)| (least.0..=most.0).contains(&own);
        let is_of_user = || session.identity().is_some();
        scanner.between.is_none_or(is_between)
            && message.size() <= scanner.max_bytes
            && match (scanner.inbound, scanner.outbound) {
                (true, true) => true,
                (_, outbound) => outbound == is_of_user(),
            }
    };
    scanners.filter(is_wanted).collect()
}

fn later(why: String) -> Answer {
    Answer::defer(
        451,
        "4.7.1",
        "Message cannot be scanned for spam now, try again later (second-opinion-unavailable)",
    )
    .because(
        "second-opinion-unavailable",
        why,
        "the client can try again later; the administrator sees to it that the scanner runs, that [plugin.endpoints] of spam-opinion leads to it, and that `wall_ms` of the plugin is enough for a scan",
    )
    .otherwise("an answer of the scanner, or `unavailable = \"accept\"` for it")
}
