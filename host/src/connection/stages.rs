//! Answers to what the session asks: each stage's policies are asked, then the relay gate, and the outcome becomes a reply.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_smtp::address::Address;
use gatepost_smtp::command::{self, MailFrom, Ret};
use gatepost_smtp::reply::Reply;
use gatepost_smtp::session::{Answer, Ask, Extensions};
use tokio::time::sleep;

use super::{Blame, Connection};
use crate::maillog;
use crate::message::{Envelope, MailParams, Notify, RcptParams, Recipient};
use crate::policy::Transaction;
use crate::policy::chain::{self, Outcome, Question};
use crate::policy::decision::{Stage, Verdict};
use crate::policy::gate::{self, Class};

/// The least time before the banner, so that who talks without waiting for it is seen to: programs that abuse a relay, or that were made to
/// speak to it by somebody else's web page, do. Clients that wait lose no more than this, once a connection.
const GREETING_PAUSE: Duration = Duration::from_millis(20);

impl Connection {
    /// The answer to what the session asks. An error ends the connection.
    pub(super) async fn answer(&mut self, ask: Ask) -> io::Result<Answer> {
        match ask {
            Ask::Connect => self.on_connect().await,
            Ask::Ehlo { name, esmtp } => self.on_ehlo(&name, esmtp).await,
            Ask::Auth(step) => Ok(Box::pin(self.on_auth(step)).await),
            Ask::Mail(mail) => self.on_mail(mail).await,
            Ask::Rcpt(rcpt) => self.on_rcpt(rcpt).await,
            Ask::Data => self.on_data().await,
            Ask::Message { size } => Box::pin(self.on_message(size)).await,
        }
    }

    async fn on_connect(&mut self) -> io::Result<Answer> {
        let outcome = chain::ask(&self.policy, &mut self.scope, Question::Connect).await;
        sleep(outcome.effects.delay.max(GREETING_PAUSE)).await;
        // Whoever talked while we thought talked before the banner: the session sees it now.
        let space = self.session.input_space();
        let (session, clock) = (&mut self.session, self.relay.clock());
        let take = |bytes: &[u8]| {
            // The session offered this much room.
            let _ = session.receive(bytes, clock);
        };
        match self.stream.read_now(space, take) {
            Some(Ok(0)) => self.session.received_eof(),
            Some(Err(error)) => return Err(error),
            _ => {}
        }
        Ok(self.verdict(Stage::Connect, outcome).unwrap_or(Answer::Accept))
    }

    async fn on_ehlo(&mut self, name: &str, esmtp: bool) -> io::Result<Answer> {
        let facts = Arc::make_mut(&mut self.scope.session);
        facts.ehlo = Some(name.into());
        facts.esmtp = esmtp;
        let outcome = chain::ask(&self.policy, &mut self.scope, Question::Ehlo(name)).await;
        self.pause(&outcome).await?;
        maillog::hello(&self.scope.session);
        let withdrawn = outcome
            .effects
            .withdrawn
            .iter()
            .filter_map(|name| Extensions::from_keyword(name));
        let withdrawn = withdrawn.fold(Extensions::NONE, Extensions::union);
        let accept = match withdrawn == Extensions::NONE {
            true => Answer::Accept,
            false => Answer::Withdraw(withdrawn),
        };
        Ok(self.verdict(Stage::Ehlo, outcome).unwrap_or(accept))
    }

    async fn on_mail(&mut self, mail: MailFrom) -> io::Result<Answer> {
        if self.policy.is_stale(tokio::time::Instant::now()) {
            self.blame(
                "policy-replaced",
                "the session's policy was replaced too long ago, or taken back",
            );
            return Ok(Answer::Disconnect(Reply::shutting_down()));
        }
        let age = self.scope.session.started.elapsed().unwrap_or_default();
        if age > self.listener.limits.session_timeout {
            self.blame("session-too-long", "session_timeout has passed");
            return Ok(Answer::Disconnect(Reply::shutting_down()));
        }
        if !self.may_go_on() {
            self.blame(
                "credentials-changed",
                "the user's password was changed since the session began, or the user removed",
            );
            return Ok(Answer::Disconnect(Reply::shutting_down()));
        }
        if let Err(full) = self.relay.spool.check_room(mail.size.unwrap_or(0)) {
            self.blame("spool-full", &full.to_string());
            return Ok(Answer::Refuse(Reply::spool_full()));
        }
        self.mail_began = Instant::now();
        self.scope.end_transaction();
        self.scope.transaction = Some(Arc::new(Transaction {
            envelope: Envelope {
                sender: mail
                    .reverse_path
                    .as_ref()
                    .map(|path| path.as_str().to_owned())
                    .unwrap_or_default(),
                params: MailParams {
                    size: mail.size,
                    eight_bit: mail.body == Some(command::Body::EightBitMime),
                    smtputf8: mail.smtputf8,
                    ret_full: mail.ret.map(|ret| ret == Ret::Full),
                    envid: mail.envid.as_ref().map(|envid| envid.to_string()),
                },
                recipients: Vec::new(),
            },
            ..Transaction::default()
        }));
        let outcome = if self.policy.wants(Stage::Mail) {
            let parameters = mail_parameters(&mail);
            let question = Question::Mail(mail.reverse_path.as_ref(), &parameters);
            chain::ask(&self.policy, &mut self.scope, question).await
        } else {
            Outcome::pass()
        };
        self.pause(&outcome).await?;
        let refusal = self.verdict(Stage::Mail, outcome);
        if refusal.is_some() {
            self.scope.end_transaction();
        }
        Ok(refusal.unwrap_or(Answer::Accept))
    }

    async fn on_rcpt(&mut self, rcpt: command::Recipient) -> io::Result<Answer> {
        let class = self.class(&rcpt.address);
        let parameters = match self.policy.wants(Stage::Rcpt) {
            true => rcpt_parameters(&rcpt),
            false => Vec::new(),
        };
        let question = Question::Rcpt(&rcpt.address, &parameters, class);
        let mut outcome = chain::ask(&self.policy, &mut self.scope, question).await;
        self.pause(&outcome).await?;
        let effects = std::mem::take(&mut outcome.effects);
        let discard = outcome.verdict == Verdict::Discard;
        if let Some(refusal) = self.verdict(Stage::Rcpt, outcome) {
            self.blame.get_or_insert_default().recipient = Some(rcpt.address.to_string());
            return Ok(refusal);
        }
        // The last word on the final address, whatever the policies said (even on one that will be discarded: the answer must not tell).
        let rewritten = effects.recipient.as_ref();
        let last = gate::last_word(&rcpt.address, class, rewritten, effects.relay_allowed, |address| {
            self.class(address)
        });
        if let Err(reason) = last.admitted {
            let (reason, detail) = match &effects.relay_why {
                Some(why) => (why.reason.clone(), format!("{}; remedy: {}", why.detail, why.remedy)),
                None => (reason.code().to_owned(), format!("remedy: {}", reason.remedy())),
            };
            let id = self.scope.session.id;
            let reply = Reply::relay_denied(rcpt.address.as_str(), &reason, &id.to_string());
            self.blame(&reason, &detail);
            self.blame.get_or_insert_default().recipient = Some(rcpt.address.to_string());
            return Ok(Answer::Refuse(reply));
        }
        if let Some(answer) = effects.added.iter().find_map(|added| self.refuse_added(added)) {
            return Ok(answer);
        }
        if let Some(answer) = effects.route.as_deref().and_then(|route| self.refuse_route(route)) {
            return Ok(answer);
        }
        let Some(transaction) = &mut self.scope.transaction else {
            return Err(io::Error::other("RCPT outside of a transaction"));
        };
        let recipients = &mut Arc::make_mut(transaction).envelope.recipients;
        if !discard {
            recipients.push(Recipient {
                address: last.address.as_str().to_owned(),
                original: effects.recipient.is_some().then(|| rcpt.address.as_str().to_owned()),
                params: RcptParams {
                    notify: rcpt.notify.map(|notify| Notify {
                        success: notify.success,
                        failure: notify.failure,
                        delay: notify.delay,
                    }),
                    orcpt: rcpt.orcpt.as_ref().map(|orcpt| orcpt.to_string()),
                },
                route: effects.route,
                ..Recipient::default()
            });
        }
        recipients.extend(effects.added.iter().map(|added| Recipient {
            address: added.as_str().to_owned(),
            ..Recipient::default()
        }));
        Ok(Answer::Accept)
    }

    async fn on_data(&mut self) -> io::Result<Answer> {
        let outcome = chain::ask(&self.policy, &mut self.scope, Question::Data).await;
        if let Some(refusal) = self.verdict(Stage::Data, outcome) {
            return Ok(refusal);
        }
        self.body = Some(self.relay.spool.body_writer());
        Ok(Answer::Accept)
    }

    pub(super) fn class(&self, address: &Address) -> Class {
        let plaintext_auth = self.listener.settings.allow_plaintext_auth;
        gate::classify(
            address,
            &self.scope.session,
            plaintext_auth,
            &self.settings.relay_domains,
        )
    }

    /// A policy added a recipient that the gate does not admit: the policy is at fault, and the client gets 451. Nobody was asked whether this
    /// one may be relayed: what was allowed is the recipient that the client named.
    pub(super) fn refuse_added(&mut self, added: &Address) -> Option<Answer> {
        let reason = gate::admit(self.class(added), false).err()?;
        self.blame(
            "added-recipient-denied",
            &format!("a policy added {added}, which may not be relayed to: {reason}"),
        );
        Some(Answer::Refuse(self.with_id(Reply::policy_failed())))
    }

    /// A policy chose a route that the configuration does not have.
    pub(super) fn refuse_route(&mut self, route: &str) -> Option<Answer> {
        if self.settings.routes.contains(route) {
            return None;
        }
        self.blame(
            "unknown-route",
            &format!("a policy chose the route {route:?}, which no [[route]] has"),
        );
        Some(Answer::Refuse(self.with_id(Reply::policy_failed())))
    }

    /// A refusal is the client's to quote when it complains: the id leads to the log.
    fn with_id(&self, reply: Reply) -> Reply {
        let text = format!("{} [{}]", reply.text(), self.scope.session.id);
        reply.with_text(text)
    }

    /// Waits as long as the policies want. What was said so far goes out first.
    pub(super) async fn pause(&mut self, outcome: &Outcome) -> io::Result<()> {
        if !outcome.effects.delay.is_zero() {
            self.flush().await?;
            sleep(outcome.effects.delay).await;
        }
        Ok(())
    }

    /// The answer that a verdict makes, if it refuses; the blame for the log with it.
    pub(super) fn verdict(&mut self, stage: Stage, outcome: Outcome) -> Option<Answer> {
        let refuse: fn(Reply) -> Answer = match &outcome.verdict {
            Verdict::Pass | Verdict::Accept | Verdict::Discard => return None,
            Verdict::Disconnect(_) => Answer::Disconnect,
            Verdict::Reject(_) | Verdict::Defer(_) => Answer::Refuse,
        };
        let (Verdict::Reject(reply) | Verdict::Defer(reply) | Verdict::Disconnect(reply)) = outcome.verdict else {
            return None;
        };
        let why = outcome.why.unwrap_or_default();
        let reply = self.with_id(reply);
        self.blame = Some(Box::new(Blame {
            reason: why.reason,
            detail: why.detail,
            plugin: outcome.by,
            stage: Some(stage),
            ..Blame::default()
        }));
        Some(refuse(reply))
    }

    pub(super) fn blame(&mut self, reason: &str, detail: &str) {
        self.blame = Some(Box::new(Blame {
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            ..Blame::default()
        }));
    }
}

/// MAIL's parameters as the client wrote them, for policies.
fn mail_parameters(mail: &MailFrom) -> Vec<(String, Option<String>)> {
    let mut parameters = Vec::new();
    let mut push = |name: &str, value: Option<String>| parameters.push((name.to_owned(), value));
    if let Some(size) = mail.size {
        push("SIZE", Some(size.to_string()));
    }
    match mail.body {
        Some(command::Body::SevenBit) => push("BODY", Some("7BIT".into())),
        Some(command::Body::EightBitMime) => push("BODY", Some("8BITMIME".into())),
        None => {}
    }
    if mail.smtputf8 {
        push("SMTPUTF8", None);
    }
    match mail.ret {
        Some(Ret::Full) => push("RET", Some("FULL".into())),
        Some(Ret::Headers) => push("RET", Some("HDRS".into())),
        None => {}
    }
    if let Some(envid) = &mail.envid {
        push("ENVID", Some(envid.to_string()));
    }
    if let Some(auth) = &mail.auth {
        push("AUTH", Some(auth.to_string()));
    }
    parameters
}

fn rcpt_parameters(rcpt: &command::Recipient) -> Vec<(String, Option<String>)> {
    let mut parameters = Vec::new();
    if let Some(notify) = rcpt.notify {
        let named = [
            (notify.success, "SUCCESS"),
            (notify.failure, "FAILURE"),
            (notify.delay, "DELAY"),
        ];
        let names: Vec<&str> = named.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        let value = if names.is_empty() {
            "NEVER".to_owned()
        } else {
            names.join(",")
        };
        parameters.push(("NOTIFY".to_owned(), Some(value)));
    }
    if let Some(orcpt) = &rcpt.orcpt {
        parameters.push(("ORCPT".to_owned(), Some(orcpt.to_string())));
    }
    parameters
}

impl Outcome {
    fn pass() -> Outcome {
        Outcome {
            verdict: Verdict::Pass,
            by: None,
            why: None,
            effects: chain::Effects::default(),
        }
    }
}
