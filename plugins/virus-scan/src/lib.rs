//! Has clamd look for viruses in messages, and refuses, keeps back or tags what it finds.
//!
//! A message is streamed to clamd and never held whole. What earlier policies changed is scanned, as it is what will be delivered. Fields in which
//! a sender speaks as a virus scanner are removed.
//!
//! Never: takes a message for clean of which clamd did not say so, or tells a client what was found.
//!
//! Fails at load if nothing would be scanned, or if the plugin has no endpoint of the configured name. Where clamd fails, `unavailable` of the configuration decides, not `on_failure` of the plugin.

mod clamd;
mod config;

use clamd::Scan;
use config::{Action, Config, TooLarge, Unavailable};
use gatepost_sdk::prelude::{Answer, Decision, Message, OnMessage, Policy, Session};
use gatepost_sdk::{log, metrics};

/// In which this policy speaks.
const FIELD: &str = "X-Virus-Scanned";

/// What may pretend to be a scanner's word: this policy's field, and that of other mail filters of ClamAV.
const SCANNERS_FIELDS: [&str; 2] = [FIELD, "X-Virus-Status"];

/// The configured policy.
pub struct VirusScan(Config);

impl Policy for VirusScan {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config::check(config).map(Self)
    }
}

impl OnMessage for VirusScan {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        let forged = SCANNERS_FIELDS
            .into_iter()
            .filter(|name| !message.header(name).is_empty());
        let passed = forged.fold(Answer::pass(), Answer::remove_header);
        if !self.is_wanted(session) {
            return passed;
        }
        let size = message.size();
        let scan = if size > self.0.max_bytes {
            Scan::TooLarge
        } else {
            clamd::scan(&self.0.endpoint, message)
        };
        self.answer(passed, &scan, size)
    }
}

impl VirusScan {
    /// The envelope is asked for only if it matters where the message goes.
    fn is_wanted(&self, session: &Session) -> bool {
        let Config { inbound, outbound, .. } = self.0;
        if inbound && outbound {
            return true;
        }
        let recipients = session
            .envelope()
            .map(|envelope| envelope.recipients)
            .unwrap_or_default();
        recipients.iter().any(|recipient| {
            let domain = gatepost_sdk::split_address(recipient).domain;
            // `postmaster` alone is ours.
            inbound == (domain.is_empty() || session.is_our_domain(&domain))
        })
    }

    /// `passed` is the answer for a message of which nothing is to be said.
    fn answer(&self, passed: Answer, scan: &Scan, size: u64) -> Answer {
        match scan {
            Scan::Clean => self.marked(passed, "clean"),
            Scan::Found(signature) => self.found(passed, signature),
            Scan::TooLarge => self.too_large(passed, size),
            Scan::Failed(why) => self.failed(passed, why),
        }
    }

    /// Says why. What passes all the same is a warning in the log; of what is refused the host's own lines say as much.
    fn explained(answer: Answer, reason: &str, detail: String, remedy: &str, otherwise: &str) -> Answer {
        if matches!(answer.decision, Decision::Pass) {
            log::warn(&format!("{reason}: {detail}"));
        }
        answer.because(reason, detail, remedy).otherwise(otherwise)
    }

    fn marked(&self, passed: Answer, word: &str) -> Answer {
        if self.0.header {
            passed.add_header(FIELD, word)
        } else {
            passed
        }
    }

    fn found(&self, passed: Answer, signature: &str) -> Answer {
        metrics::count("found", 1);
        let field = format!("infected ({signature})");
        let answer = match self.0.action {
            Action::Reject => Answer::reject(550, "5.7.1", "Message refused: a virus was found in it (virus-found)"),
            Action::Quarantine => self.marked(passed, &field).quarantine(format!("virus: {signature}")),
            Action::Tag => passed.add_header(FIELD, field).tag("virus", signature),
        };
        Self::explained(
            answer,
            "virus-found",
            format!("clamd found {signature}"),
            "have the computer that sent it checked for viruses; if the finding is wrong, the administrator can list the signature in an .ign2 file of clamd's database",
            "a message in which clamd finds nothing",
        )
    }

    fn too_large(&self, passed: Answer, size: u64) -> Answer {
        metrics::count("too_large", 1);
        let answer = match self.0.too_large {
            TooLarge::Reject => Answer::reject(
                552,
                "5.3.4",
                "Message refused: it is too large to be scanned for viruses (too-large-to-scan)",
            ),
            TooLarge::Quarantine => self
                .marked(passed, "no (too large)")
                .quarantine("too large to be scanned for viruses"),
            TooLarge::Accept => self.marked(passed, "no (too large)"),
        };
        let most = self.0.max_bytes;
        let limit = if size > most {
            format!("max_bytes is {most}")
        } else {
            "clamd has a lower limit".to_owned()
        };
        Self::explained(
            answer,
            "too-large-to-scan",
            format!("{size} bytes; {limit}"),
            "send less at once; the administrator can raise `max_bytes` of virus-scan, and `StreamMaxLength` of clamd to the same size",
            "a smaller message, or another value of `too_large`",
        )
    }

    fn failed(&self, passed: Answer, why: &str) -> Answer {
        metrics::count("unavailable", 1);
        let answer = match self.0.unavailable {
            Unavailable::Defer => Answer::defer(
                451,
                "4.7.1",
                "Message cannot be scanned for viruses now, try again later (virus-scanner-unavailable)",
            ),
            Unavailable::Accept => self.marked(passed, "no (scanner unavailable)"),
        };
        Self::explained(
            answer,
            "virus-scanner-unavailable",
            format!("clamd: {why}"),
            "the client can try again later; the administrator sees to it that clamd runs, that [plugin.endpoints] of virus-scan leads to it, and that `wall_ms` of the plugin is enough for a scan",
            "an answer of clamd, or `unavailable = \"accept\"`",
        )
    }
}

gatepost_sdk::export!(VirusScan: on_message);

#[cfg(test)]
mod tests;
