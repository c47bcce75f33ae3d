//! Refuses messages with links to domains that DNS lists name, by the sum of the lists' weights for one domain.
//!
//! One read fetches header and the beginning of the body; of the domains that are linked to there, the first few are asked about, all lists in one batch.
//! Before a message is refused, the lists that speak against it are asked what no list has, so that one that lists everything refuses nothing.
//! Mail of authenticated users is looked at as any other: a stolen account is found by what it sends.
//!
//! Never: follows a link, looks up anything without a configured list, or counts a DNS failure against a message.
//!
//! Takes any bytes. A list that fails or answers nonsense weighs nothing, and the log says so. Fails at load if a zone or a code is none.

mod config;
mod lenient;
mod links;

use config::{Action, Config, Settings};
use dns_lists::{About, Finding, Question, Verdict};
use gatepost_sdk::metrics;
use gatepost_sdk::prelude::{Answer, Message, OnMessage, Policy, Session};

/// Bytes of a header that are read if the body is as long as is read of it, or longer.
const HEADER_BYTES: u32 = 32 * 1024;

/// One message in so many asks whether the lists are alive, by the client's port: a policy remembers nothing from message to message.
const MESSAGES_A_TEST: u16 = 64;
/// The remainder of those ports.
const TESTED_PORT: u16 = 1;

/// The configured policy.
pub struct RblLinks(Settings);

impl Policy for RblLinks {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config::check(config).map(Self)
    }
}

impl OnMessage for RblLinks {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        if self.0.lists.is_empty() {
            return Answer::pass().leave_session();
        }
        let domains = self.domains(&message.read(0, HEADER_BYTES + self.0.body_bytes));
        if domains.is_empty() {
            return Answer::pass();
        }
        if session.peer().port % MESSAGES_A_TEST == TESTED_PORT {
            dns_lists::tell_dead(&self.0.lists);
        }
        match self.worst(&domains) {
            Some(verdict) if !self.is_exempt(session) => self.refusal(&verdict),
            _ => Answer::pass(),
        }
    }
}

impl RblLinks {
    /// The registered domains to which a message links, each once, at most `hosts`.
    fn domains(&self, message: &[u8]) -> Vec<String> {
        let mut domains: Vec<String> = Vec::new();
        let mut left_out = 0;
        links::each(message, &mut |host| {
            let Some(domain) = dns_lists::registered_domain(host, &self.0.suffixes) else {
                return;
            };
            if domains.contains(&domain) || self.is_ignored(host) {
                return;
            }
            if domains.len() < self.0.hosts {
                domains.push(domain);
            } else {
                left_out += 1;
            }
        });
        if left_out > 0 {
            metrics::count("links_left_out", left_out);
        }
        domains
    }

    fn is_ignored(&self, host: &str) -> bool {
        let host = host.to_lowercase();
        let is_below = |domain: &String| {
            host.strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.0.ignore.iter().any(is_below)
    }

    /// What the lists say of the worst of these domains, if that reaches the threshold. Good words for one domain do not help another.
    fn worst(&self, domains: &[String]) -> Option<Verdict> {
        let questions = domains.iter().flat_map(|domain| {
            self.0.lists.iter().map(|list| Question {
                list,
                about: About::Link,
                subject: domain.clone(),
            })
        });
        let findings = dns_lists::ask(questions.collect());
        if dns_lists::against(&findings) < self.0.threshold {
            return None;
        }
        let findings = dns_lists::without_broken(findings);
        let verdicts = domains.iter().map(|domain| {
            let of_domain = |finding: &&Finding<'_>| finding.subject == *domain;
            Verdict::of(findings.iter().filter(of_domain).cloned().collect())
        });
        verdicts
            .max_by_key(|verdict| verdict.score)
            .filter(|verdict| verdict.score >= self.0.threshold)
    }

    /// Whether it goes to nobody but those whom one may ask about a refusal.
    fn is_exempt(&self, session: &Session) -> bool {
        let recipients = session
            .envelope()
            .map(|envelope| envelope.recipients)
            .unwrap_or_default();
        let is_exempt = |recipient: &String| {
            let local = gatepost_sdk::split_address(recipient).local;
            self.0
                .exempt_local_parts
                .iter()
                .any(|exempt| exempt.eq_ignore_ascii_case(&local))
        };
        !recipients.is_empty() && recipients.iter().all(is_exempt)
    }

    fn refusal(&self, verdict: &Verdict) -> Answer {
        let Verdict { score, text, detail } = verdict;
        let threshold = self.0.threshold;
        let answer = match self.0.action {
            Action::Reject => Answer::reject(550, "5.7.1", format!("Message refused: {text}")),
            Action::Quarantine => Answer::pass().quarantine(text),
            Action::Tag => Answer::pass().tag("listed-link", text),
        };
        answer
            .because(
                "listed-link",
                format!("{detail}: score {score}, threshold {threshold}"),
                "write without the link, or have the domain taken off the lists (each list's site says how); the administrator can change `ignore`, weights and threshold of rbl-links",
            )
            .otherwise(format!("a score below {threshold} for each linked domain"))
    }
}

gatepost_sdk::export!(RblLinks: on_message);

#[cfg(test)]
mod tests;
