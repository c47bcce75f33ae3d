//! Asking the policies of one stage, in order: later ones see what earlier ones changed, and the first that decides ends it.
//!
//! This is the only place where a plugin's answer takes effect. It ends in an [`Outcome`], from which the caller makes a reply; the relay gate is
//! asked after it, never here. Each call becomes one [`Decision`] in the journal.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost_smtp::address::Address;
use gatepost_smtp::reply::{Enhanced, Reply};

use super::Policy;
use super::answer::{self, TAG_BYTES_MAX, cut};
use super::bindings::exports::gatepost::policy as hooks;
use super::bindings::gatepost::policy::{queue, types as wit};
use super::breaker::Turn;
use super::decision::{Decision, Explanation, Failure, Notice, Said, Stage, Verdict};
use super::imports::{Call, Checks, PastAnswer, Services};
use super::instance::{HookAnswer, HookCall};
use super::plugin::Plugin;
use super::services::content::Place;
use super::shadow::Copied;
use crate::auth::Login;
use crate::config::{Grant, OnFailure};
use crate::dkim::{SIGNATURES_MAX, Signer};
use crate::message::{Id, Identity, SessionFacts};

/// The most that all delays of one stage may add up to.
pub const DELAY_MAX: Duration = Duration::from_secs(30);
/// Earlier answers that a session keeps for its policies.
const PAST_MAX: usize = 64;
/// Recipients that policies may add to one message.
const ADDED_RECIPIENTS_MAX: usize = 100;
/// The longest delay that on-delivery may name, in seconds.
const ATTEMPT_DELAY_MAX_S: u32 = 7 * 24 * 3600;
/// Tags of one message.
const TAGS_MAX: usize = 64;

/// What a session carries from hook to hook.
pub struct Scope {
    /// What policies see of it, which is away while a hook call runs.
    call: Option<Box<Call>>,
    /// The plugins that have nothing more to say to this client, by name.
    left: Vec<Arc<str>>,
    /// What policies are told that the time is; none: what it is.
    clock: Option<SystemTime>,
}

/// Why a scope is never found empty: a hook call borrows it, and gives back what it took, however it ends.
const GIVEN_BACK: &str = "a hook call gives it back before the scope can be used again";

impl Deref for Scope {
    type Target = Call;

    fn deref(&self) -> &Call {
        self.call.as_deref().expect(GIVEN_BACK)
    }
}

impl DerefMut for Scope {
    fn deref_mut(&mut self) -> &mut Call {
        self.call.as_deref_mut().expect(GIVEN_BACK)
    }
}

impl Scope {
    /// A scope for sessions that keep to the policy whose services these are.
    pub fn new(session: Arc<SessionFacts>, services: Arc<Services>) -> Scope {
        Scope {
            call: Some(Box::new(Call::new(session, services))),
            left: Vec::new(),
            clock: None,
        }
    }

    /// Has policies told that it is this time, until it is set again.
    pub fn set_clock(&mut self, now: SystemTime) {
        self.clock = Some(now);
    }

    /// A scope of one call, for what is said beside the chain.
    pub(super) fn of(call: Box<Call>) -> Scope {
        Scope {
            call: Some(call),
            left: Vec::new(),
            clock: None,
        }
    }

    /// Asks all plugins again, also those that had nothing more to say: by STARTTLS or AUTH the client became another.
    pub fn ask_all_again(&mut self) {
        self.left.clear();
    }

    fn has_left(&self, plugin: &Plugin) -> bool {
        self.left.contains(&plugin.name)
    }

    /// Forgets the transaction and everything that belonged to it.
    pub fn end_transaction(&mut self) {
        self.transaction = None;
        self.mailbox = None;
        self.parameters = Vec::new();
        self.content = None;
        self.message = None;
        self.checks = Checks::default();
    }

    /// Calls a hook of a plugin.
    async fn call(
        &mut self,
        plugin: &Plugin,
        stage: Stage,
        started: Started,
        hook: HookCall<'_>,
    ) -> Result<HookAnswer, Failure> {
        let mut call = self.call.take().expect(GIVEN_BACK);
        call.begin(stage, self.clock.unwrap_or(started.at));
        let (result, call) = plugin.call(call, started.clock, hook).await;
        self.call = Some(call);
        result
    }
}

/// What the policies of a stage are asked.
pub enum Question<'a> {
    Connect,
    Ehlo(&'a str),
    /// The reverse-path; `None` is the null sender.
    Mail(Option<&'a Address>, &'a [(String, Option<String>)]),
    Rcpt(&'a Address, &'a [(String, Option<String>)], super::gate::Class),
    Data,
    Message,
    Route(&'a Queued<'a>),
}

impl Question<'_> {
    fn stage(&self) -> Stage {
        match self {
            Question::Connect => Stage::Connect,
            Question::Ehlo(_) => Stage::Ehlo,
            Question::Mail(..) => Stage::Mail,
            Question::Rcpt(..) => Stage::Rcpt,
            Question::Data => Stage::Data,
            Question::Message => Stage::Message,
            Question::Route(_) => Stage::Route,
        }
    }

    fn mailbox(&self) -> Option<&Address> {
        match self {
            Question::Mail(sender, _) => *sender,
            Question::Rcpt(recipient, ..) => Some(recipient),
            _ => None,
        }
    }

    fn parameters(&self) -> &[(String, Option<String>)] {
        match self {
            Question::Mail(_, parameters) | Question::Rcpt(_, parameters, _) => parameters,
            _ => &[],
        }
    }
}

/// A queued message, for the hooks behind the queue.
pub struct Queued<'a> {
    pub id: Id,
    pub sender: &'a str,
    pub recipients: &'a [&'a str],
    pub size: u64,
    pub attempts: u32,
    pub age: Duration,
    pub tags: &'a [(String, String)],
}

/// What observers are told.
pub enum Event<'a> {
    Queued(&'a Queued<'a>),
    Result {
        command: &'a str,
        reply: &'a Reply,
        reason: &'a str,
        subject: &'a str,
    },
    Disconnect,
}

/// How an attempt ended, for on-delivery.
pub struct Attempt<'a> {
    pub recipient: &'a str,
    pub outcome: AttemptOutcome,
    pub next_hop: &'a str,
    pub reply: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    Delivered,
    Deferred,
    Failed,
}

/// What all policies of a stage said together.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The plugin whose decision (or failure) ended the stage.
    pub by: Option<Arc<str>>,
    pub why: Option<Explanation>,
    pub effects: Effects,
}

/// The actions of a stage that the caller has to carry out. Edits of the envelope's sender, of the message, tags and notes are done already.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub delay: Duration,
    /// on-rcpt: a policy with the grant `relay` allowed this recipient.
    pub relay_allowed: bool,
    /// on-rcpt: why the last policy with that grant that gave a reason did not allow it.
    pub relay_why: Option<Explanation>,
    /// on-rcpt: the final address, if a policy rewrote it.
    pub recipient: Option<Address>,
    /// on-rcpt, on-message: recipients to add, unless the relay gate refuses them.
    pub added: Vec<Address>,
    pub route: Option<String>,
    pub quarantine: Option<String>,
    pub fates: Vec<(u32, Fate)>,
    /// on-message: who signs the message when all is done with it.
    pub signers: Vec<Signer>,
    pub withdrawn: Vec<String>,
    pub source_address: Option<std::net::IpAddr>,
    pub tls: Option<TlsPolicy>,
}

/// What a policy wants for one recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Discard,
    Quarantine(String),
    Route(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    Opportunistic,
    Required,
    Verified,
}

/// What the policies say of a login.
#[derive(Debug)]
pub enum AuthOutcome {
    /// The users file decides.
    Pass,
    Success(Identity),
    Failure(Arc<str>),
    Defer(Reply),
}

/// Asks the policies of a stage that decides.
pub async fn ask(policy: &Policy, scope: &mut Scope, question: Question<'_>) -> Outcome {
    let stage = question.stage();
    let mut outcome = Outcome {
        verdict: Verdict::Pass,
        by: None,
        why: None,
        effects: Effects::default(),
    };
    if !policy.wants(stage) {
        return outcome;
    }
    scope.mailbox = question.mailbox().cloned();
    scope.parameters = question.parameters().to_vec();
    let mut asked = Asked::new(question);
    for plugin in policy.at(stage) {
        if scope.has_left(plugin) || outcome.verdict == Verdict::Accept && !plugin.settings.always {
            continue;
        }
        let copied = beside(policy, plugin, scope, stage, asked.hook());
        let started = Started::now();
        let result = scope.call(plugin, stage, started, asked.hook()).await;
        let applied = result
            .and_then(|said| match said {
                HookAnswer::Answer(said) => answer::check(stage, &plugin.settings.grants, said),
                _ => Err(Failure::Answer("it is of another hook".into())),
            })
            .and_then(|checked| {
                let actions: Vec<String> = checked.actions.iter().map(answer::describe).collect();
                scope
                    .apply(plugin, checked.actions, &mut asked, &mut outcome.effects)
                    .map_err(Failure::Answer)?;
                Ok((checked.verdict, actions, checked.why))
            });
        let (verdict, actions, why, failure) = match applied {
            Ok((verdict, actions, why)) => {
                if stage == Stage::Rcpt && why.is_some() && plugin.settings.grants.contains(&Grant::Relay) {
                    outcome.effects.relay_why.clone_from(&why);
                }
                (verdict, actions, why, None)
            }
            Err(failure) => (on_failure(plugin, stage), Vec::new(), None, Some(failure)),
        };
        let decision = scope.record(plugin, stage, started, verdict.clone(), actions, why, failure);
        if let Some(copied) = copied {
            copied.run(&decision);
        }
        // Behind an `accept` only those with `always` are asked: whatever else one of them decides takes its place.
        if verdict != Verdict::Pass && verdict != outcome.verdict {
            outcome.by = Some(plugin.name.clone());
            outcome.verdict = verdict;
            outcome.why = decision.why.or_else(|| {
                decision.failure.map(|failure| Explanation {
                    reason: "policy-failed".into(),
                    detail: failure.to_string(),
                    remedy: "see the log of the plugin".into(),
                    otherwise: None,
                })
            });
        }
        if verdict_refuses(&outcome.verdict) || outcome.verdict == Verdict::Discard {
            break;
        }
    }
    outcome.effects.delay = outcome.effects.delay.min(DELAY_MAX);
    if stage == Stage::Rcpt {
        outcome.effects.recipient = asked.rewritten;
    }
    outcome
}

/// Asks the policies about a login.
pub async fn ask_auth(policy: &Policy, scope: &mut Scope, login: Arc<Login>) -> AuthOutcome {
    scope.login = Some(login);
    let outcome = ask_each_about_login(policy, scope).await;
    scope.login = None;
    outcome
}

async fn ask_each_about_login(policy: &Policy, scope: &mut Scope) -> AuthOutcome {
    for plugin in policy.at(Stage::Auth) {
        if scope.has_left(plugin) {
            continue;
        }
        let copied = beside(policy, plugin, scope, Stage::Auth, HookCall::Auth);
        let started = Started::now();
        let result = scope.call(plugin, Stage::Auth, started, HookCall::Auth).await;
        let said = result.and_then(|said| match said {
            HookAnswer::Auth(verdict) => auth_outcome(plugin, verdict).map_err(Failure::Answer),
            _ => Err(Failure::Answer("it is of another hook".into())),
        });
        let (outcome, failure) = match said {
            Ok(outcome) => (outcome, None),
            Err(failure) => {
                let outcome = match on_failure(plugin, Stage::Auth) {
                    Verdict::Pass => AuthOutcome::Pass,
                    Verdict::Reject(_) => AuthOutcome::Failure(plugin.name.clone()),
                    _ => AuthOutcome::Defer(Reply::auth_unavailable()),
                };
                (outcome, Some(failure))
            }
        };
        let (verdict, actions) = auth_verdict(&outcome);
        let decision = scope.record(plugin, Stage::Auth, started, verdict, actions, None, failure);
        if let Some(copied) = copied {
            copied.run(&decision);
        }
        if !matches!(outcome, AuthOutcome::Pass) {
            return outcome;
        }
    }
    AuthOutcome::Pass
}

/// Tells the observers of an event. Their failures are journalled and change nothing.
pub async fn tell(policy: &Policy, scope: &mut Scope, event: Event<'_>) {
    let stage = match event {
        Event::Queued(_) => Stage::Queued,
        Event::Result { .. } => Stage::Result,
        Event::Disconnect => Stage::Disconnect,
    };
    if !policy.wants(stage) {
        return;
    }
    let queued = match &event {
        Event::Queued(message) => Some(message.to_wit()),
        _ => None,
    };
    let result = match &event {
        Event::Result {
            command,
            reply,
            reason,
            subject,
        } => Some(hooks::on_result::CommandResult {
            command: (*command).to_owned(),
            code: reply.code(),
            text: reply.text().to_owned(),
            reason: (*reason).to_owned(),
            subject: (*subject).to_owned(),
        }),
        _ => None,
    };
    for plugin in policy.at(stage) {
        if scope.has_left(plugin) {
            continue;
        }
        let hook = match (&queued, &result) {
            (Some(message), _) => HookCall::Queued(message),
            (_, Some(result)) => HookCall::Result(result),
            _ => HookCall::Disconnect,
        };
        let copied = beside(policy, plugin, scope, stage, hook);
        let started = Started::now();
        let result = scope.call(plugin, stage, started, hook).await;
        let decision = scope.record(plugin, stage, started, Verdict::Pass, Vec::new(), None, result.err());
        if let Some(copied) = copied {
            copied.run(&decision);
        }
    }
}

/// Tells on-delivery how an attempt ended; the last plugin that names a delay sets it.
pub async fn tell_delivery(
    policy: &Policy,
    scope: &mut Scope,
    message: &Queued<'_>,
    attempt: &Attempt<'_>,
) -> Option<Duration> {
    if !policy.wants(Stage::Delivery) {
        return None;
    }
    let queued = message.to_wit();
    let result = queue::AttemptResult {
        recipient: attempt.recipient.to_owned(),
        outcome: match attempt.outcome {
            AttemptOutcome::Delivered => queue::Outcome::Delivered,
            AttemptOutcome::Deferred => queue::Outcome::Deferred,
            AttemptOutcome::Failed => queue::Outcome::Failed,
        },
        next_hop: attempt.next_hop.to_owned(),
        reply: attempt.reply.to_owned(),
    };
    let mut delay = None;
    for plugin in policy.at(Stage::Delivery) {
        let hook = HookCall::Delivery(&queued, &result);
        let copied = beside(policy, plugin, scope, Stage::Delivery, hook);
        let started = Started::now();
        let said = scope.call(plugin, Stage::Delivery, started, hook).await;
        let (actions, failure) = match said {
            Ok(HookAnswer::Delay(Some(seconds))) => {
                let seconds = seconds.min(ATTEMPT_DELAY_MAX_S);
                delay = Some(Duration::from_secs(seconds.into()));
                (vec![delay_action(seconds)], None)
            }
            Ok(_) => (Vec::new(), None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        let decision = scope.record(plugin, Stage::Delivery, started, Verdict::Pass, actions, None, failure);
        if let Some(copied) = copied {
            copied.run(&decision);
        }
    }
    delay
}

/// Copies a call for the version that runs beside this plugin, if there is one.
fn beside(policy: &Policy, plugin: &Plugin, scope: &Scope, stage: Stage, hook: HookCall<'_>) -> Option<Box<Copied>> {
    policy.beside(plugin)?.copy(scope, stage, hook)
}

/// What an answer comes to that decides nothing: checked as [`ask`] and the others check theirs, its actions tried on a scope of its own.
pub(super) fn weigh(plugin: &Plugin, stage: Stage, result: Result<HookAnswer, Failure>, mut scope: Scope) -> Said {
    let weighed = result.and_then(|said| match said {
        HookAnswer::Answer(said) => {
            let checked = answer::check(stage, &plugin.settings.grants, said)?;
            let actions = checked.actions.iter().map(answer::describe).collect();
            let mut asked = Asked::new(Question::Connect);
            scope
                .apply(plugin, checked.actions, &mut asked, &mut Effects::default())
                .map_err(Failure::Answer)?;
            Ok((checked.verdict, actions, checked.why.map(|why| why.reason)))
        }
        HookAnswer::Auth(verdict) => {
            let outcome = auth_outcome(plugin, verdict).map_err(Failure::Answer)?;
            let (verdict, actions) = auth_verdict(&outcome);
            Ok((verdict, actions, None))
        }
        HookAnswer::Delay(Some(seconds)) => Ok((
            Verdict::Pass,
            vec![delay_action(seconds.min(ATTEMPT_DELAY_MAX_S))],
            None,
        )),
        HookAnswer::Delay(None) | HookAnswer::Nothing => Ok((Verdict::Pass, Vec::new(), None)),
    });
    let (verdict, actions, reason, failure) = match weighed {
        Ok((verdict, actions, reason)) => (verdict, actions, reason.unwrap_or_default(), None),
        Err(failure) => {
            let reason = failure.kind().to_owned();
            (on_failure(plugin, stage), Vec::new(), reason, Some(failure))
        }
    };
    Said {
        version: plugin.version,
        verdict,
        actions,
        reason,
        failure,
    }
}

fn delay_action(seconds: u32) -> String {
    format!("next attempt in {seconds} s")
}

/// A login's outcome as verdict and actions of a decision.
fn auth_verdict(outcome: &AuthOutcome) -> (Verdict, Vec<String>) {
    match outcome {
        AuthOutcome::Pass => (Verdict::Pass, Vec::new()),
        AuthOutcome::Success(identity) => (Verdict::Accept, vec![format!("authenticate {}", identity.name)]),
        AuthOutcome::Failure(_) => (Verdict::Reject(Reply::auth_failed()), Vec::new()),
        AuthOutcome::Defer(reply) => (Verdict::Defer(reply.clone()), Vec::new()),
    }
}

fn verdict_refuses(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Reject(_) | Verdict::Defer(_) | Verdict::Disconnect(_))
}

/// What the client gets for a plugin that failed. The details are in the journal.
fn on_failure(plugin: &Plugin, stage: Stage) -> Verdict {
    match plugin.settings.on_failure {
        OnFailure::Skip => Verdict::Pass,
        OnFailure::Defer if stage == Stage::Connect => {
            Verdict::Defer(Reply::new(421, Enhanced(4, 3, 0), "Policy temporarily unavailable"))
        }
        OnFailure::Defer => Verdict::Defer(Reply::policy_failed()),
        OnFailure::Reject => {
            let code = if stage == Stage::Connect { 554 } else { 550 };
            Verdict::Reject(Reply::new(code, Enhanced(5, 3, 0), "Policy unavailable"))
        }
    }
}

fn auth_outcome(plugin: &Plugin, verdict: hooks::on_auth::Verdict) -> Result<AuthOutcome, String> {
    Ok(match verdict {
        hooks::on_auth::Verdict::Pass => AuthOutcome::Pass,
        hooks::on_auth::Verdict::Success(name) => {
            if !plugin.settings.grants.contains(&Grant::Authenticate) {
                return Err("success needs the grant authenticate".into());
            }
            if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
                return Err("the identity is empty, over 255 bytes or has control characters".into());
            }
            AuthOutcome::Success(Identity {
                name: name.into(),
                method: format!("plugin:{}", plugin.name).into(),
            })
        }
        hooks::on_auth::Verdict::Failure => AuthOutcome::Failure(plugin.name.clone()),
        hooks::on_auth::Verdict::Defer(_) => AuthOutcome::Defer(Reply::auth_unavailable()),
    })
}

#[derive(Clone, Copy)]
struct Started {
    at: SystemTime,
    clock: std::time::Instant,
}

impl Started {
    fn now() -> Started {
        Started {
            at: SystemTime::now(),
            clock: std::time::Instant::now(),
        }
    }
}

/// A question in the form that guests take, changed as policies rewrite it.
struct Asked<'a> {
    question: Question<'a>,
    relay: wit::RelayView,
    queued: Option<queue::QueuedMessage>,
    rewritten: Option<Address>,
}

impl<'a> Asked<'a> {
    fn new(question: Question<'a>) -> Asked<'a> {
        let relay = match &question {
            Question::Rcpt(_, _, super::gate::Class::Foreign(reason)) => wit::RelayView {
                ours: false,
                reason: Some(reason.code().to_owned()),
            },
            _ => wit::RelayView {
                ours: true,
                reason: None,
            },
        };
        let queued = match &question {
            Question::Route(message) => Some(message.to_wit()),
            _ => None,
        };
        Asked {
            question,
            relay,
            queued,
            rewritten: None,
        }
    }

    fn hook(&self) -> HookCall<'_> {
        match (&self.question, &self.queued) {
            (Question::Ehlo(name), _) => HookCall::Ehlo(name),
            (Question::Mail(..), _) => HookCall::Mail,
            (Question::Rcpt(..), _) => HookCall::Rcpt(&self.relay),
            (Question::Data, _) => HookCall::Data,
            (Question::Message, _) => HookCall::Message,
            (_, Some(message)) => HookCall::Route(message),
            _ => HookCall::Connect,
        }
    }
}

impl Queued<'_> {
    fn to_wit(&self) -> queue::QueuedMessage {
        queue::QueuedMessage {
            id: self.id.to_string(),
            sender: self.sender.to_owned(),
            recipients: self.recipients.iter().map(|rcpt| (*rcpt).to_owned()).collect(),
            size: self.size,
            attempts: self.attempts,
            age_seconds: self.age.as_secs(),
            tags: self.tags.to_vec(),
        }
    }
}

impl Scope {
    /// Carries out the actions of one answer, or none of them: the error names the one that cannot be.
    fn apply(
        &mut self,
        plugin: &Plugin,
        actions: Vec<wit::Action>,
        asked: &mut Asked<'_>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        if actions.is_empty() {
            return Ok(());
        }
        let mut next = effects.clone();
        let mut transaction = self.transaction.clone();
        let mut content = self.content.clone();
        let mut mailbox = self.mailbox.clone();
        let mut rewritten = asked.rewritten.clone();
        let mut leaves = false;
        for action in actions {
            let edit = content.as_mut().map(Arc::make_mut).ok_or("there is no message");
            let fields = transaction.as_mut().map(Arc::make_mut).ok_or("there is no transaction");
            match action {
                wit::Action::AllowRelay => next.relay_allowed = true,
                wit::Action::RewriteSender(text) => {
                    let sender = match text.as_str() {
                        "" => None,
                        text => Some(address(text)?),
                    };
                    fields?.envelope.sender = text;
                    mailbox = sender;
                }
                wit::Action::RewriteRecipient(text) => {
                    let recipient = address(&text)?;
                    mailbox = Some(recipient.clone());
                    rewritten = Some(recipient);
                    // What was allowed was another address.
                    next.relay_allowed = false;
                }
                wit::Action::AddRecipient(text) => {
                    if next.added.len() == ADDED_RECIPIENTS_MAX {
                        return Err(format!("it adds more than {ADDED_RECIPIENTS_MAX} recipients"));
                    }
                    next.added.push(address(&text)?);
                }
                wit::Action::AddHeader(header) => {
                    let place = match header.at {
                        wit::HeaderPlace::Top => Place::Top,
                        wit::HeaderPlace::Bottom => Place::Bottom,
                    };
                    edit?
                        .add_header(&header.name, &header.value, place)
                        .map_err(|error| error.to_string())?;
                }
                wit::Action::ReplaceHeader(header) => {
                    edit?
                        .replace_header(&header.name, header.occurrence, &header.value)
                        .map_err(|error| error.to_string())?;
                }
                wit::Action::RemoveHeader(header) => {
                    edit?
                        .remove_header(&header.name, header.occurrence)
                        .map_err(|error| error.to_string())?;
                }
                wit::Action::ReplaceBody(body) => edit?.replace_body(body).map_err(|error| error.to_string())?,
                wit::Action::Route(route) => next.route = Some(route),
                wit::Action::Recipient(one) => {
                    if one.index as usize >= fields?.envelope.recipients.len() {
                        return Err(format!("there is no recipient number {}", one.index));
                    }
                    let fate = match one.fate {
                        wit::Fate::Keep => Fate::Keep,
                        wit::Fate::Discard => Fate::Discard,
                        wit::Fate::Quarantine(why) => Fate::Quarantine(cut(&why, TAG_BYTES_MAX).to_owned()),
                        wit::Fate::Route(route) => Fate::Route(route),
                    };
                    next.fates.push((one.index, fate));
                }
                wit::Action::Quarantine(why) => next.quarantine = Some(cut(&why, TAG_BYTES_MAX).to_owned()),
                wit::Action::Sign(signature) => {
                    if next.signers.len() == SIGNATURES_MAX {
                        return Err(format!("a message gets at most {SIGNATURES_MAX} signatures"));
                    }
                    let signer = self.services.keys.signer(&signature.domain, &signature.selector)?;
                    next.signers.push(signer.clone());
                }
                wit::Action::Delay(ms) => next.delay += Duration::from_millis(ms.into()),
                wit::Action::Tag(tag) => {
                    let tags = &mut fields?.tags;
                    if tags.len() == TAGS_MAX || tag.name.len() + tag.value.len() > TAG_BYTES_MAX {
                        return Err(format!(
                            "a message has at most {TAGS_MAX} tags of {TAG_BYTES_MAX} bytes"
                        ));
                    }
                    tags.push((tag.name, tag.value));
                }
                wit::Action::WithdrawExtension(name) => {
                    if ["STARTTLS", "AUTH"]
                        .iter()
                        .any(|fixed| name.eq_ignore_ascii_case(fixed))
                    {
                        return Err(format!("{name} cannot be withdrawn"));
                    }
                    next.withdrawn.push(name);
                }
                wit::Action::SourceAddress(text) => {
                    let address = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
                    next.source_address = Some(address);
                }
                wit::Action::TlsPolicy(policy) => {
                    next.tls = Some(match policy {
                        wit::TlsPolicy::Opportunistic => TlsPolicy::Opportunistic,
                        wit::TlsPolicy::Required => TlsPolicy::Required,
                        wit::TlsPolicy::Verified => TlsPolicy::Verified,
                    });
                }
                wit::Action::LeaveSession => leaves = true,
            }
        }
        if leaves {
            self.left.push(plugin.name.clone());
        }
        *effects = next;
        self.transaction = transaction;
        self.content = content;
        self.mailbox = mailbox;
        asked.rewritten = rewritten;
        Ok(())
    }

    /// Makes the record of a call and hands it to the journal; also what later hooks, and the plugin's circuit breaker, learn of it. What held
    /// the reads is used again: the record that comes back is without them.
    #[expect(clippy::too_many_arguments, reason = "each is one field of the record")]
    fn record(
        &mut self,
        plugin: &Plugin,
        stage: Stage,
        started: Started,
        verdict: Verdict,
        actions: Vec<String>,
        why: Option<Explanation>,
        failure: Option<Failure>,
    ) -> Decision {
        if let Some(turn) = plugin.settle(failure.as_ref()) {
            self.services.journal.notice(&turned(plugin, turn));
        }
        let mut decision = Decision {
            session: self.session.id,
            message: self.message,
            stage,
            plugin: plugin.name.clone(),
            version: plugin.version,
            read: std::mem::take(&mut self.read),
            verdict,
            actions,
            why,
            failure,
            at: started.at,
            took: started.clock.elapsed(),
        };
        if decision.verdict != Verdict::Pass || !decision.reason().is_empty() {
            let past = &mut self.past;
            if past.len() == PAST_MAX {
                past.remove(0);
            }
            past.push(PastAnswer {
                plugin: plugin.name.clone(),
                stage,
                verdict: if decision.failure.is_some() {
                    "failed"
                } else {
                    decision.verdict.name()
                },
                reason: decision.reason().into(),
            });
        }
        self.services.journal.decision(&decision);
        self.read = std::mem::take(&mut decision.read);
        decision
    }
}

fn turned(plugin: &Plugin, turn: Turn) -> Notice<'_> {
    let (plugin, version) = (&*plugin.name, plugin.version);
    match turn {
        Turn::Opened { pause } => Notice::BreakerOpened { plugin, version, pause },
        Turn::Closed => Notice::BreakerClosed { plugin, version },
    }
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| format!("{text:?} is no address: {error}"))
}
