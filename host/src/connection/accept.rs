//! The end of a message: its policies, the relay gate once more, the trace field, the spool, and only then the 250.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use gatepost_smtp::reply::Reply;
use gatepost_smtp::session::Answer;

use super::Connection;
use crate::dkim::{self, Signer};
use crate::maillog::{self, Accepted};
use crate::message::{Body, Envelope, Id, NewMessage, Origin, Recipient};
use crate::policy::Transaction;
use crate::policy::chain::{self, Effects, Event, Fate, Question, Queued};
use crate::policy::decision::{Stage, Verdict};
use crate::policy::services::content::Content;
use crate::policy::services::trace::{self, Received};

/// Bytes copied at once where a message has to be stored twice.
const COPY_BYTES: usize = 256 * 1024;

impl Connection {
    /// Takes the bytes of the message that have come. An error of the disk is kept for the end, where it becomes a 452.
    pub(super) async fn take_data(&mut self) {
        let failed = match &mut self.body {
            Some(body) => body.push(self.session.data()).await.err(),
            None => return,
        };
        if let Some(error) = failed {
            tracing::error!(session_id = %self.scope.session.id, error = %error, "the spool cannot take a message");
            self.body = None;
        }
    }

    pub(super) async fn on_message(&mut self, size: u64) -> io::Result<Answer> {
        let id = Id::new();
        self.scope.message = Some(id);
        let answer = self.take_message(id, size).await;
        self.body = None;
        Ok(answer)
    }

    async fn take_message(&mut self, id: Id, size: u64) -> Answer {
        let finished = match self.body.take() {
            Some(body) => body.finish().await,
            None => Err(io::Error::other("the message was not stored whole")),
        };
        let body = match finished {
            Ok(body) if body.len() == size => body,
            Ok(_) => return self.spool_failed("the message was not stored whole"),
            Err(error) => return self.spool_failed(&error.to_string()),
        };
        let mut effects = Effects::default();
        let mut content = None;
        if self.policy.wants(Stage::Message) {
            self.scope.content = Some(Arc::new(Content::new(body.clone())));
            let mut outcome = chain::ask(&self.policy, &mut self.scope, Question::Message).await;
            content = self.scope.content.take();
            effects = std::mem::take(&mut outcome.effects);
            if outcome.verdict == Verdict::Discard {
                // Nothing of it is kept; that it came and went is in the journal.
                return Answer::AcceptWith(Reply::queued(&id.to_string()));
            }
            if let Some(refusal) = self.verdict(Stage::Message, outcome) {
                return refusal;
            }
        }
        if let Some(answer) = effects.added.iter().find_map(|added| self.refuse_added(added)) {
            return answer;
        }
        let routes = effects.fates.iter().filter_map(|(_, fate)| match fate {
            Fate::Route(route) => Some(route.as_str()),
            _ => None,
        });
        if let Some(answer) = routes
            .chain(effects.route.as_deref())
            .find_map(|route| self.refuse_route(route))
        {
            return answer;
        }
        let Some(transaction) = self.scope.transaction.clone() else {
            return self.spool_failed("there is no transaction");
        };
        let (kept, held) = split(&transaction, &effects);
        let edited = content.filter(|content| content.is_edited());
        let now = SystemTime::now();
        let sole = match kept.as_slice() {
            [one] if held.is_empty() => Some(one.address.as_str()),
            _ => None,
        };
        let head = trace::received(&Received {
            session: &self.scope.session,
            hostname: &self.settings.hostname,
            id,
            smtputf8: transaction.envelope.params.smtputf8,
            recipient: sole,
            at: now,
        });
        let finished = match edited {
            // A large message that was edited below its top is copied: not on a thread that serves others.
            Some(content) if matches!(body, Body::File { .. }) => {
                tokio::task::block_in_place(|| Arc::unwrap_or_clone(content).finish(Bytes::from(head)))
            }
            Some(content) => Arc::unwrap_or_clone(content).finish(Bytes::from(head)),
            None => Ok((Bytes::from(head), body)),
        };
        let (head, body) = match finished {
            Ok(finished) => finished,
            Err(error) => return self.spool_failed(&error.to_string()),
        };
        // Last, as any change behind a signature breaks it.
        let head = match self.signed(std::mem::take(&mut effects.signers), head, &body).await {
            Ok(head) => head,
            Err(refusal) => return refusal,
        };
        let origin = Arc::new(Origin {
            session: self.scope.session.clone(),
            notes: transaction.notes.clone(),
            tags: transaction.tags.clone(),
            received: now,
        });
        let new = |id: Id, recipients: Vec<Recipient>, body: Body, held: Option<String>| NewMessage {
            id,
            envelope: Envelope {
                recipients,
                ..transaction.envelope.without_recipients()
            },
            head: head.clone(),
            body,
            origin: origin.clone(),
            held,
        };
        // The quarantined part first: if the rest fails, the client comes again, and an administrator sees the part twice; the other way
        // round a recipient would.
        if !held.is_empty() && !kept.is_empty() {
            let why = held[0].1.clone();
            let copy = match self.copy(&body).await {
                Ok(copy) => copy,
                Err(error) => return self.spool_failed(&error.to_string()),
            };
            let recipients = held.into_iter().map(|(rcpt, _)| rcpt).collect();
            if let Err(answer) = self.append(new(Id::new(), recipients, copy, Some(why)), size).await {
                return answer;
            }
            if let Err(answer) = self.append(new(id, kept, body, None), size).await {
                return answer;
            }
        } else {
            let why = held.first().map(|(_, why)| why.clone());
            let recipients: Vec<Recipient> = kept.into_iter().chain(held.into_iter().map(|(rcpt, _)| rcpt)).collect();
            if recipients.is_empty() {
                return Answer::AcceptWith(Reply::queued(&id.to_string()));
            }
            if let Err(answer) = self.append(new(id, recipients, body, why), size).await {
                return answer;
            }
        }
        if self.policy.wants(Stage::Queued) {
            let recipients: Vec<&str> = transaction
                .envelope
                .recipients
                .iter()
                .map(|rcpt| rcpt.address.as_str())
                .collect();
            let queued = Queued {
                id,
                sender: &transaction.envelope.sender,
                recipients: &recipients,
                size,
                attempts: 0,
                age: Duration::ZERO,
                tags: &transaction.tags,
            };
            chain::tell(&self.policy, &mut self.scope, Event::Queued(&queued)).await;
        }
        Answer::AcceptWith(Reply::queued(&id.to_string()))
    }

    /// The head with the signatures that policies want on top of it. A message that cannot be signed is not taken: its domain asks others not to
    /// take it unsigned.
    async fn signed(&mut self, signers: Vec<Signer>, head: Bytes, body: &Body) -> Result<Bytes, Answer> {
        if signers.is_empty() {
            return Ok(head);
        }
        match dkim::sign(signers, head.clone(), body.clone()).await {
            Ok(fields) => Ok([fields, head].concat().into()),
            Err(error) => {
                tracing::error!(session_id = %self.scope.session.id, %error, "a message cannot be signed");
                self.blame("not-signed", &error.to_string());
                Err(Answer::Refuse(Reply::policy_failed()))
            }
        }
    }

    /// Makes it durable, and says so in the log.
    async fn append(&mut self, message: NewMessage, size: u64) -> Result<(), Answer> {
        let (id, envelope, held) = (message.id, message.envelope.clone(), message.held.clone());
        let began = Instant::now();
        if let Err(error) = self.relay.spool.append(message).await {
            return Err(self.spool_failed(&error.to_string()));
        }
        let metrics = &self.relay.metrics;
        metrics.spool.append_seconds.observe(began.elapsed().as_secs_f64());
        metrics.messages_accepted.inc();
        metrics.message_bytes.inc_by(size);
        self.totals.accepted += 1;
        maillog::accepted(&Accepted {
            session: &self.scope.session,
            message_id: id,
            sender: &envelope.sender,
            recipients: &envelope.recipients,
            size_bytes: size,
            held: held.as_deref(),
            took: self.mail_began.elapsed(),
        });
        Ok(())
    }

    /// A second copy of a body, for a message that is stored in two parts. In memory that costs nothing.
    async fn copy(&self, body: &Body) -> io::Result<Body> {
        if let Body::Memory(bytes) = body {
            return Ok(Body::Memory(bytes.clone()));
        }
        let spool = &self.relay.spool;
        let mut writer = spool.body_writer();
        while writer.len() < body.len() {
            let part = spool.read(body, writer.len(), COPY_BYTES).await?;
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            writer.push(&part).await?;
        }
        writer.finish().await
    }

    fn spool_failed(&mut self, detail: &str) -> Answer {
        tracing::error!(session_id = %self.scope.session.id, error = detail, "a message was not stored; the client gets 452");
        self.blame("spool-failed", detail);
        Answer::Refuse(Reply::spool_full())
    }
}

/// The recipients to deliver to, and those whose copy is held, with the reason.
fn split(transaction: &Transaction, effects: &Effects) -> (Vec<Recipient>, Vec<(Recipient, String)>) {
    let added = effects.added.iter().map(|address| Recipient {
        address: address.as_str().to_owned(),
        ..Recipient::default()
    });
    let mut kept = Vec::new();
    let mut held = Vec::new();
    for (index, mut rcpt) in transaction.envelope.recipients.iter().cloned().chain(added).enumerate() {
        if effects.route.is_some() {
            rcpt.route.clone_from(&effects.route);
        }
        let fate = effects
            .fates
            .iter()
            .rev()
            .find(|(at, _)| *at as usize == index)
            .map(|(_, fate)| fate);
        match (fate, &effects.quarantine) {
            (Some(Fate::Discard), _) => {}
            (Some(Fate::Quarantine(why)), _) | (_, Some(why)) => held.push((rcpt, why.clone())),
            (Some(Fate::Route(route)), None) => {
                rcpt.route = Some(route.clone());
                kept.push(rcpt);
            }
            (Some(Fate::Keep) | None, None) => kept.push(rcpt),
        }
    }
    (kept, held)
}
