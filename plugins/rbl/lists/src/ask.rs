//! One batch of questions, and what the answers come to.
//!
//! A list that fails, refuses or answers nonsense says nothing about its subject: that is an event, a line in the log and a count.

use std::fmt;

use gatepost_sdk::dns::{self, DnsError, ListQuery};
use gatepost_sdk::{log, metrics};

use crate::list::{List, Meaning};

/// Questions of one batch; the host's bound.
pub const MOST_QUESTIONS: usize = 32;

/// What a subject is to the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    Client,
    EhloName,
    ReverseName,
    SenderDomain,
    Link,
}

/// As it stands in a reply.
impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "Client host",
            Self::EhloName => "EHLO name",
            Self::ReverseName => "Reverse name",
            Self::SenderDomain => "Sender domain",
            Self::Link => "Link to",
        })
    }
}

/// What a list is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub list: &'a List,
    pub about: About,
    /// An address, or a domain.
    pub subject: String,
}

/// What a list said: it has the subject.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    pub list: &'a List,
    pub about: About,
    pub subject: String,
    /// The return code that counts.
    pub code: String,
    pub weight: i32,
    pub reason: &'a str,
}

/// Asks, at most [`MOST_QUESTIONS`] at once. Of several codes of one answer the one that weighs most, up or down, counts.
pub fn ask(questions: Vec<Question<'_>>) -> Vec<Finding<'_>> {
    let answers = look_up(questions.iter().map(|question| (question.list, &*question.subject)));
    let mut findings = Vec::new();
    for (question, answer) in questions.into_iter().zip(answers) {
        let Question { list, about, subject } = question;
        let Some(codes) = heard(list, answer) else {
            continue;
        };
        let mut heaviest: Option<(i32, &str, String)> = None;
        for code in codes {
            let Some((weight, reason)) = listing(list, &code) else {
                continue;
            };
            let is_heavier = heaviest
                .as_ref()
                .is_none_or(|(least, _, _)| weight.unsigned_abs() >= least.unsigned_abs());
            if is_heavier {
                heaviest = Some((weight, reason, code));
            }
        }
        if let Some((weight, reason, code)) = heaviest {
            findings.push(Finding {
                list,
                about,
                subject,
                code,
                weight,
                reason,
            });
        }
    }
    findings
}

/// The lists' answers in the order of the questions, in as many batches as it takes.
pub(crate) fn look_up<'a>(questions: impl Iterator<Item = (&'a List, &'a str)>) -> Vec<Result<Vec<String>, DnsError>> {
    let queries: Vec<ListQuery> = questions
        .map(|(list, subject)| ListQuery {
            zone: list.zone.clone(),
            subject: subject.to_owned(),
        })
        .collect();
    queries.chunks(MOST_QUESTIONS).flat_map(dns::lists).collect()
}

/// The codes; none if the list could not be heard, which is an event.
fn heard(list: &List, answer: Result<Vec<String>, DnsError>) -> Option<Vec<String>> {
    match answer {
        Ok(codes) => Some(codes),
        Err(DnsError::Temporary(error)) => {
            event("list_failed", &format!("{} did not answer: {error}", list.zone));
            None
        }
        Err(DnsError::Invalid) => {
            event("list_failed", &format!("{} cannot be asked about this name", list.zone));
            None
        }
    }
}

/// What a code weighs, and why; none if it is no listing, which is an event.
fn listing<'a>(list: &'a List, code: &str) -> Option<(i32, &'a str)> {
    match list.meaning(code) {
        Meaning::Listed { weight, reason } => Some((weight, reason)),
        Meaning::Refused(why) => {
            let zone = &list.zone;
            event(
                "list_refused",
                &format!(
                    "{zone} answered {code}, which is no listing: it is ignored ({why}; ask through a resolver of your own, or take the list out)"
                ),
            );
            None
        }
        Meaning::Nonsense => {
            let zone = &list.zone;
            event(
                "list_nonsense",
                &format!(
                    "{zone} answered {code}, which is no listing: it is ignored (the list may be gone: take it out)"
                ),
            );
            None
        }
    }
}

/// What an administrator should look at some day.
pub(crate) fn event(counter: &str, line: &str) {
    log::warn(line);
    metrics::count(counter, 1);
}
