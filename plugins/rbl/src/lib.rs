//! Refuses clients that DNS lists name, by the sum of the lists' weights: lists of addresses for the client, lists of domains for its EHLO name, its
//! confirmed reverse name and the sender's domain.
//!
//! Asked at RCPT, for recipients of ours, so that those who authenticated, trusted networks and mail to postmaster are spared, and the log has
//! the recipients that were refused. All lists are asked in one batch: about the client once in a session, about a sender once in a transaction.
//! Of a client that no list names, or that is spared, this policy takes leave, unless what lists say of a sender could still matter; what is known stays
//! in notes. Before somebody is refused, the lists that speak against are asked what no list has, so that one that lists everything refuses nobody.
//!
//! Never: looks up anything without a configured list, or counts a DNS failure against a client.
//!
//! A list that fails or answers nonsense weighs nothing, and the log says so. Fails at load if a zone or a code is none.

mod config;

use std::ops::RangeInclusive;

use config::{Action, Config, DomainList, Settings, Which};
use dns_lists::{About, Finding, Question, Verdict};
use gatepost_sdk::notes::{self, Scope};
use gatepost_sdk::prelude::{Answer, Mailbox, OnRcpt, Peer, Policy, RelayView, Session};

/// The key of the notes: of the session about its client, of the transaction about its sender.
const NOTE: &str = "verdict";

/// The plugin's own notes.
const OWN: &str = "";

/// One session in so many asks whether the lists are alive. Which, the client's port says: a policy remembers nothing from session to session.
const SESSIONS_A_TEST: u16 = 64;
/// The remainder of those ports.
const TESTED_PORT: u16 = 1;

/// The configured policy.
pub struct Rbl {
    settings: Settings,
    /// What the lists can say of a sender, from the best to the worst; 0 to 0 if none is asked.
    sender_range: RangeInclusive<i32>,
}

impl Policy for Rbl {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let settings = config::check(config)?;
        let about_sender = settings
            .domain_lists
            .iter()
            .filter(|list| list.names.contains(&Which::Sender));
        let (least, most) = about_sender.fold((0_i32, 0_i32), |(least, most), list| {
            let (down, up) = list.list.range();
            (least.saturating_add(down), most.saturating_add(up))
        });
        Ok(Self {
            settings,
            sender_range: least..=most,
        })
    }
}

impl OnRcpt for Rbl {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        // What is not ours needs a permission to relay, and listed strangers do not get one anyway.
        if !relay.ours || self.is_exempt(&recipient.local()) {
            return Answer::pass();
        }
        if self.asks_nobody() || session.identity().is_some() {
            return Answer::pass().leave_session();
        }
        let peer = session.peer();
        if peer.trusted {
            return Answer::pass().leave_session();
        }
        let (client, sender) = self.verdicts(session, &peer);
        let verdict = client.clone().and(&sender);
        if verdict.score >= self.settings.threshold {
            return self.refusal(&peer.address, &verdict);
        }
        if self.senders_matter(client.score) {
            Answer::pass()
        } else {
            Answer::pass().leave_session()
        }
    }
}

impl Rbl {
    fn asks_nobody(&self) -> bool {
        self.settings.lists.is_empty() && self.settings.domain_lists.is_empty()
    }

    fn is_exempt(&self, local: &str) -> bool {
        self.settings
            .exempt_local_parts
            .iter()
            .any(|exempt| exempt.eq_ignore_ascii_case(local))
    }

    /// Whether what lists say of a sender can change the answer for a client with this score.
    fn senders_matter(&self, score: i32) -> bool {
        let with = |weight: &i32| score.saturating_add(*weight) >= self.settings.threshold;
        with(self.sender_range.start()) != with(self.sender_range.end())
    }

    /// What lists say of the client, and of the sender if that can matter: from the notes, and else from the lists, in one batch.
    fn verdicts(&self, session: &Session, peer: &Peer) -> (Verdict, Verdict) {
        let noted = |scope| notes::get(scope, OWN, NOTE).as_deref().and_then(Verdict::from_note);
        let client = noted(Scope::Session);
        let asks_sender = match &client {
            Some(client) => self.senders_matter(client.score),
            None => self.sender_range != (0..=0),
        };
        let sender = if asks_sender {
            noted(Scope::Transaction)
        } else {
            Some(Verdict::default())
        };
        if let (Some(client), Some(sender)) = (client.clone(), sender.clone()) {
            return (client, sender);
        }

        let mut questions = Vec::new();
        if client.is_none() {
            if peer.port % SESSIONS_A_TEST == TESTED_PORT {
                self.tell_dead();
            }
            self.ask_about_client(&mut questions, session, peer);
        }
        if sender.is_none() {
            let domain = session.sender().unwrap_or_default();
            let domain = gatepost_sdk::split_address(&domain).domain;
            self.ask_about_name(&mut questions, Which::Sender, About::SenderDomain, &domain);
        }
        let mut findings = dns_lists::ask(questions);
        if self.is_near(&findings, client.as_ref()) {
            findings = dns_lists::without_broken(findings);
        }
        let (of_sender, of_client): (Vec<Finding<'_>>, _) = findings
            .into_iter()
            .partition(|finding| finding.about == About::SenderDomain);
        // If the notes are full, the next recipient asks again.
        let note = |scope, verdict: Verdict| {
            notes::set(scope, NOTE, Some(&verdict.to_note()));
            verdict
        };
        let client = client.unwrap_or_else(|| {
            let verdict = Verdict::of(of_client);
            // Who is let go is not asked about again, and needs no note.
            if verdict.score < self.settings.threshold && !self.senders_matter(verdict.score) {
                verdict
            } else {
                note(Scope::Session, verdict)
            }
        });
        let sender = sender.unwrap_or_else(|| note(Scope::Transaction, Verdict::of(of_sender)));
        (client, sender)
    }

    /// Whether what was found can bring about a refusal, now or, if good words for the client are not true, of a later sender: then it is to be looked
    /// at closely. `client` is what was known before.
    fn is_near(&self, findings: &[Finding<'_>], client: Option<&Verdict>) -> bool {
        let has_good_words = findings
            .iter()
            .any(|finding| finding.about != About::SenderDomain && finding.weight < 0);
        let later = if has_good_words { *self.sender_range.end() } else { 0 };
        let known = client.map_or(0, |client| client.score);
        dns_lists::against(findings).saturating_add(known).saturating_add(later) >= self.settings.threshold
    }

    fn ask_about_client<'a>(&'a self, questions: &mut Vec<Question<'a>>, session: &Session, peer: &Peer) {
        questions.extend(self.settings.lists.iter().map(|list| Question {
            list,
            about: About::Client,
            subject: peer.address.clone(),
        }));
        let is_asked = |name| self.settings.domain_lists.iter().any(|list| list.names.contains(&name));
        if is_asked(Which::Ehlo) {
            let name = session.ehlo_name().unwrap_or_default();
            self.ask_about_name(questions, Which::Ehlo, About::EhloName, &name);
        }
        if is_asked(Which::ReverseName) {
            let name = session.reverse_name().unwrap_or_default();
            self.ask_about_name(questions, Which::ReverseName, About::ReverseName, &name);
        }
    }

    fn ask_about_name<'a>(&'a self, questions: &mut Vec<Question<'a>>, which: Which, about: About, name: &str) {
        for DomainList {
            list,
            names,
            whole_name,
        } in &self.settings.domain_lists
        {
            let subject = if *whole_name {
                dns_lists::host_name(name)
            } else {
                dns_lists::registered_domain(name, &self.settings.suffixes)
            };
            if let (true, Some(subject)) = (names.contains(&which), subject) {
                questions.push(Question { list, about, subject });
            }
        }
    }

    fn tell_dead(&self) {
        let domains = self.settings.domain_lists.iter().map(|list| &list.list);
        dns_lists::tell_dead(self.settings.lists.iter().chain(domains));
    }

    fn refusal(&self, address: &str, verdict: &Verdict) -> Answer {
        let Verdict { score, text, detail } = verdict;
        let threshold = self.settings.threshold;
        let answer = match self.settings.action {
            Action::Reject => Answer::reject(550, "5.7.1", text),
            Action::Defer => Answer::defer(450, "4.7.1", text),
            Action::Tag => {
                let about_client = format!("{} [{address}] blocked using ", About::Client);
                Answer::pass().tag(
                    "listed",
                    text.replace(&about_client, "").replace(" blocked using ", " on "),
                )
            }
        };
        answer
            .because(
                "listed",
                format!("{detail}: score {score}, threshold {threshold}"),
                "have the address or domain taken off the lists (each list's site says how), or send through a server that is on none; the administrator can change weights and threshold of rbl",
            )
            .otherwise(format!("a score below {threshold}, authentication, or a trusted network"))
    }
}

gatepost_sdk::export!(Rbl: on_rcpt);

#[cfg(test)]
mod tests;
