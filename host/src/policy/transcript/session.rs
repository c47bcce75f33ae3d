//! Plays one session of a transcript: facts into the scope, events into the chain, what was decided out of the journal.
//!
//! Between the events it does what a connection would: a recipient that is admitted is in the envelope, a refused sender ends the transaction.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepost_smtp::address::Address;
use gatepost_smtp::reply::Reply;
use zeroize::Zeroizing;

use super::super::chain::{self, Attempt, AuthOutcome, Event, Outcome, Question, Queued, Scope};
use super::super::decision::Verdict;
use super::super::gate;
use super::super::imports::Transaction;
use super::super::services::content::Content;
use super::parse::{Fact, Parameters, Session, Step, What};
use super::render;
use super::services::World;
use crate::auth::Login;
use crate::message::{AuthOffer, Body, Envelope, Id, Identity, Recipient, SessionFacts, TlsFacts};

/// The ids of a session and of its message, the same in every run.
const SESSION_ID: Id = Id(1);
const MESSAGE_ID: Id = Id(2);

/// What the policy said to each event, in order; nothing where it was not asked.
pub async fn play(world: &World, session: &Session) -> Vec<Vec<String>> {
    let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
    let local = SocketAddr::from(([192, 0, 2, 25], 25));
    let facts = SessionFacts {
        id: SESSION_ID,
        ehlo: Some("client.test".into()),
        esmtp: true,
        ..SessionFacts::new("mx".into(), AuthOffer::Optional, local, peer)
    };
    let mut player = Player {
        world,
        scope: Scope::new(Arc::new(facts), world.policy.services.clone()),
    };
    let mut said = Vec::new();
    for step in &session.steps {
        match step {
            Step::Fact(fact) => player.learn(fact),
            Step::Event(event) => {
                player.scope.set_clock(*world.now.lock());
                player.happen(&event.what).await;
                let (decisions, log) = world.recorder.take();
                said.push(decisions.iter().flat_map(|decision| render(decision, &log)).collect());
            }
        }
    }
    said
}

struct Player<'a> {
    world: &'a World,
    scope: Scope,
}

impl Player<'_> {
    fn learn(&mut self, fact: &Fact) {
        let session = Arc::make_mut(&mut self.scope.session);
        match fact {
            Fact::Peer(address) => session.peer = *address,
            Fact::Trusted => session.trusted = true,
            Fact::Proxied => session.proxy = Some(session.local),
            Fact::Listener(name, auth) => {
                session.listener = name.as_str().into();
                session.auth_offered = *auth;
            }
            Fact::Tls(version) => {
                session.tls = Some(TlsFacts {
                    version: version.as_str().into(),
                    cipher: "TLS13_AES_256_GCM_SHA384".into(),
                    server_name: None,
                });
                self.scope.ask_all_again();
            }
            Fact::ReverseName(name) => session.reverse_name = Some(Some(name.as_str().into())),
            Fact::Identity(name, method) => {
                session.identity = Some(Identity {
                    name: name.as_str().into(),
                    method: method.as_str().into(),
                });
                self.scope.ask_all_again();
            }
            Fact::Wait(time) => *self.world.now.lock() += *time,
        }
    }

    async fn happen(&mut self, what: &What) {
        match what {
            What::Connect => drop(self.ask(Question::Connect).await),
            What::Ehlo(name) => {
                Arc::make_mut(&mut self.scope.session).ehlo = Some(name.as_str().into());
                self.ask(Question::Ehlo(name)).await;
            }
            What::Auth {
                mechanism,
                user,
                password,
            } => self.auth(mechanism, user, password).await,
            What::Mail(sender, parameters) => self.mail(sender.as_ref(), parameters).await,
            What::Rcpt(recipient, parameters) => self.rcpt(recipient, parameters).await,
            What::Data => drop(self.ask(Question::Data).await),
            What::Message(text) => {
                self.scope.content = Some(Arc::new(Content::new(Body::Memory(Bytes::from(text.clone())))));
                self.scope.message = Some(MESSAGE_ID);
                self.scope.transaction.get_or_insert_default();
                self.ask(Question::Message).await;
            }
            What::Queued => {
                let envelope = self.envelope();
                let recipients = addresses(&envelope);
                let queued = self.queued(&envelope, &recipients, 0);
                chain::tell(&self.world.policy, &mut self.scope, Event::Queued(&queued)).await;
            }
            What::Route { attempts } => {
                let envelope = self.envelope();
                let recipients = addresses(&envelope);
                let queued = self.queued(&envelope, &recipients, *attempts);
                let mut scope = self.behind_the_queue();
                chain::ask(&self.world.policy, &mut scope, Question::Route(&queued)).await;
            }
            What::Delivery {
                outcome,
                next_hop,
                reply,
            } => {
                let envelope = self.envelope();
                let recipients = addresses(&envelope);
                let queued = self.queued(&envelope, &recipients, 0);
                let attempt = Attempt {
                    recipient: recipients.first().copied().unwrap_or_default(),
                    outcome: *outcome,
                    next_hop,
                    reply,
                };
                let mut scope = self.behind_the_queue();
                chain::tell_delivery(&self.world.policy, &mut scope, &queued, &attempt).await;
            }
            What::Result { command, code, subject } => {
                let event = Event::Result {
                    command,
                    reply: &Reply::new(*code, None, ""),
                    reason: "",
                    subject,
                };
                chain::tell(&self.world.policy, &mut self.scope, event).await;
            }
            What::Disconnect => chain::tell(&self.world.policy, &mut self.scope, Event::Disconnect).await,
        }
    }

    async fn ask(&mut self, question: Question<'_>) -> Outcome {
        chain::ask(&self.world.policy, &mut self.scope, question).await
    }

    async fn auth(&mut self, mechanism: &'static str, user: &str, password: &str) {
        let login = Login {
            mechanism,
            name: user.to_owned(),
            password: Zeroizing::new(password.to_owned()),
        };
        let outcome = chain::ask_auth(&self.world.policy, &mut self.scope, Arc::new(login)).await;
        if let AuthOutcome::Success(identity) = outcome {
            Arc::make_mut(&mut self.scope.session).identity = Some(identity);
            self.scope.ask_all_again();
        }
    }

    async fn mail(&mut self, sender: Option<&Address>, parameters: &Parameters) {
        self.scope.end_transaction();
        self.scope.transaction = Some(Arc::new(Transaction {
            envelope: Envelope {
                sender: sender.map(|sender| sender.as_str().to_owned()).unwrap_or_default(),
                ..Envelope::default()
            },
            ..Transaction::default()
        }));
        if !goes_on(&self.ask(Question::Mail(sender, parameters)).await) {
            self.scope.end_transaction();
        }
    }

    async fn rcpt(&mut self, recipient: &Address, parameters: &Parameters) {
        self.scope.transaction.get_or_insert_default();
        let class = self.class(recipient);
        let outcome = self.ask(Question::Rcpt(recipient, parameters, class)).await;
        let effects = &outcome.effects;
        let last = gate::last_word(
            recipient,
            class,
            effects.recipient.as_ref(),
            effects.relay_allowed,
            |rewritten| self.class(rewritten),
        );
        if !goes_on(&outcome) || last.admitted.is_err() {
            return;
        }
        let admitted: Vec<Recipient> = std::iter::once(last.address)
            .chain(&effects.added)
            .map(|address| Recipient {
                address: address.as_str().to_owned(),
                ..Recipient::default()
            })
            .collect();
        if let Some(transaction) = &mut self.scope.transaction {
            Arc::make_mut(transaction).envelope.recipients.extend(admitted);
        }
    }

    /// Whoever took leave of the session is asked about its messages all the same, and nothing that is written there stays.
    fn behind_the_queue(&self) -> Scope {
        let mut scope = Scope::new(self.scope.session.clone(), self.world.policy.services.clone());
        scope.message = Some(MESSAGE_ID);
        scope.transaction.clone_from(&self.scope.transaction);
        scope.set_clock(*self.world.now.lock());
        scope
    }

    fn class(&self, address: &Address) -> gate::Class {
        gate::classify(address, &self.scope.session, false, &self.world.config.relay_domains)
    }

    fn envelope(&self) -> Envelope {
        let transaction = self.scope.transaction.as_ref();
        transaction
            .map(|transaction| transaction.envelope.clone())
            .unwrap_or_default()
    }

    fn queued<'a>(&self, envelope: &'a Envelope, recipients: &'a [&'a str], attempts: u32) -> Queued<'a> {
        Queued {
            id: MESSAGE_ID,
            sender: &envelope.sender,
            recipients,
            size: self.scope.content.as_ref().map_or(0, |content| content.size()),
            attempts,
            age: Duration::ZERO,
            tags: &[],
        }
    }
}

fn addresses(envelope: &Envelope) -> Vec<&str> {
    envelope
        .recipients
        .iter()
        .map(|recipient| recipient.address.as_str())
        .collect()
}

fn goes_on(outcome: &Outcome) -> bool {
    matches!(outcome.verdict, Verdict::Pass | Verdict::Accept)
}
