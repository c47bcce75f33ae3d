//! The author's side: facts in, answers out.
//!
//! Setters return the script, so that they chain; what they set stays until it is set again. A script fails by panicking, with what the test has to do.

use std::time::Duration;

use super::state::Store;
use super::world::{Content, Login, World, make, run, take_declined};
use crate::authentication::{ArcSet, Check, DmarcPolicy, DmarcRequest, Status};
use crate::dns::{DnsError, RecordType};
use crate::endpoint::{EndpointError, Request, Response};
use crate::hooks::{
    CommandResult, OnAuth, OnConnect, OnData, OnDelivery, OnDisconnect, OnEhlo, OnMail, OnMessage, OnQueued, OnRcpt,
    OnResult, OnRoute, Verdict,
};
use crate::log::Level;
use crate::login::Attempt;
use crate::messages::Message;
use crate::notes::Scope;
use crate::policy::Policy;
use crate::queue::{AttemptResult, QueuedMessage};
use crate::types::{
    Action, Answer, AuthOffer, Decision, Envelope, Identity, Listener, Mailbox, Parameter, PastAnswer, RelayView,
    Session, Tls,
};

/// A policy, and the session that it is asked about.
///
/// A script begins with a stranger at 192.0.2.1 who said `EHLO client.test` on the listener `mx`, without TLS; mail for `ours.test` is taken from
/// anyone; it is 2026-01-01, DNS knows no name, and the store is empty.
pub struct Script<P> {
    policy: P,
    pub(super) world: World,
    relay: Option<RelayView>,
    left: bool,
    declined: Vec<String>,
}

/// Without the policy, which need not be `Debug` for that.
impl<P> std::fmt::Debug for Script<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script")
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}

impl<P: Policy> Script<P> {
    /// Makes the policy of `[plugin.config]` as JSON, as the daemon does.
    ///
    /// # Errors
    /// What the administrator would read.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_endpoints(config, &[])
    }

    /// The same for a policy that has endpoints of these names. They answer with nothing until the script says otherwise.
    ///
    /// # Errors
    /// What the administrator would read.
    pub fn with_endpoints(config: &str, endpoints: &[&str]) -> Result<Self, String> {
        take_declined();
        let config = crate::config::parse(config)?;
        let policy = make(endpoints, || P::new(config))?;
        let mut world = World::default();
        for name in endpoints {
            world.endpoints.entry((*name).to_owned()).or_default();
        }
        Ok(Self {
            policy,
            world,
            relay: None,
            left: false,
            declined: take_declined(),
        })
    }
}

/// The session.
impl<P> Script<P> {
    /// The policy, for tests of its parts.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The relay's own name; `relay.test` without it.
    pub fn hostname(&mut self, name: &str) -> &mut Self {
        self.world.hostname = name.to_owned();
        self
    }

    /// The listener that took the connection.
    pub fn listener(&mut self, name: &str, auth: AuthOffer) -> &mut Self {
        self.world.listener = Listener {
            name: name.to_owned(),
            auth,
        };
        self
    }

    /// The client's address.
    pub fn peer(&mut self, address: &str) -> &mut Self {
        self.world.peer.address = address.to_owned();
        self
    }

    /// The client's port; 40,000 if it is not set.
    pub fn peer_port(&mut self, port: u16) -> &mut Self {
        self.world.peer.port = port;
        self
    }

    /// Whether the client is in one of `trusted_networks`.
    pub fn trusted(&mut self, trusted: bool) -> &mut Self {
        self.world.peer.trusted = trusted;
        self
    }

    /// Whether the client's address came in a PROXY header.
    pub fn proxied(&mut self, proxied: bool) -> &mut Self {
        self.world.peer.proxied = proxied;
        self
    }

    /// The client's confirmed reverse name; empty for none.
    pub fn reverse_name(&mut self, name: &str) -> &mut Self {
        self.world.reverse_name = some(name);
        self
    }

    /// TLS of this version (`TLSv1.3`); empty for none.
    pub fn tls(&mut self, version: &str) -> &mut Self {
        self.world.tls = some(version).map(|version| Tls {
            version,
            cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
            server_name: None,
        });
        self.left = false;
        self
    }

    /// The name in EHLO, without asking `on_ehlo`; empty before it.
    pub fn ehlo(&mut self, name: &str) -> &mut Self {
        self.world.ehlo_name = some(name);
        self
    }

    /// Who authenticated, with PLAIN; empty for nobody. All policies are asked again.
    pub fn identity(&mut self, name: &str) -> &mut Self {
        self.world.identity = some(name).map(|name| Identity {
            name,
            method: "PLAIN".to_owned(),
        });
        self.left = false;
        self
    }

    /// `relay_domains`.
    pub fn our_domains(&mut self, domains: &[&str]) -> &mut Self {
        self.world.our_domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        self
    }

    /// A key of `[[dkim]]`.
    pub fn signing_key(&mut self, domain: &str, selector: &str) -> &mut Self {
        self.world.signing_keys.push((domain.to_owned(), selector.to_owned()));
        self
    }

    /// A user of the users file.
    pub fn user(&mut self, name: &str, password: &str) -> &mut Self {
        self.world.users.insert(name.to_owned(), password.to_owned());
        self
    }

    /// What another policy said in an earlier hook: `greylist`, `on-rcpt`, `pass`, `known-sender`.
    pub fn earlier_answer(&mut self, plugin: &str, stage: &str, verdict: &str, reason: &str) -> &mut Self {
        self.world.earlier.push(PastAnswer {
            plugin: plugin.to_owned(),
            stage: stage.to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
        });
        self
    }

    /// A new session of the same client: no transaction, no notes, no earlier answers. State, clock and DNS stay.
    pub fn reconnect(&mut self) -> &mut Self {
        self.world.end_transaction();
        self.world.notes.clear();
        self.world.earlier.clear();
        self.world.identity = None;
        self.left = false;
        self
    }
}

/// The transaction.
impl<P> Script<P> {
    /// Begins a transaction with this reverse-path (empty: the null sender), without asking `on_mail`.
    pub fn sender(&mut self, address: &str) -> &mut Self {
        self.world.end_transaction();
        self.world.envelope = Some(Envelope {
            sender: address.to_owned(),
            recipients: Vec::new(),
        });
        self
    }

    /// The recipients that were accepted, without asking `on_rcpt`.
    pub fn recipients(&mut self, addresses: &[&str]) -> &mut Self {
        self.envelope().recipients = addresses.iter().map(|address| (*address).to_owned()).collect();
        self
    }

    /// The parameters of the next MAIL and RCPT.
    pub fn parameters(&mut self, parameters: &[(&str, Option<&str>)]) -> &mut Self {
        let parameter = |(name, value): &(&str, Option<&str>)| Parameter {
            name: (*name).to_owned(),
            value: value.map(str::to_owned),
        };
        self.world.parameters = parameters.iter().map(parameter).collect();
        self
    }

    /// What the host thinks of the next recipients: empty is ours, else the reason for which it would refuse. Without it the script judges by
    /// [`our_domains`](Self::our_domains) and who the client is.
    pub fn relay_reason(&mut self, reason: &str) -> &mut Self {
        self.relay = Some(RelayView {
            ours: reason.is_empty(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        });
        self
    }

    /// The message, header and body. Every line end becomes CRLF.
    pub fn message(&mut self, text: &str) -> &mut Self {
        self.message_bytes(text.replace("\r\n", "\n").replace('\n', "\r\n"))
    }

    /// The message, byte for byte.
    pub fn message_bytes(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.world.content = Some(Content { bytes: bytes.into() });
        self
    }

    /// What the host's own checks of the sender say: `spf` and `iprev` are known from MAIL on, all of them with the message.
    pub fn check(&mut self, method: &str, status: Status, subject: &str) -> &mut Self {
        self.check_in_detail(method, status, subject, "")
    }

    /// The same with a detail.
    pub fn check_in_detail(&mut self, method: &str, status: Status, subject: &str, detail: &str) -> &mut Self {
        self.world.checks.push(Check {
            method: method.to_owned(),
            status,
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        });
        self
    }

    /// The DMARC record that applies to the author's domain.
    pub fn author_policy(&mut self, domain: &str, request: DmarcRequest, percent: u8) -> &mut Self {
        self.world.author_policy = Some(DmarcPolicy {
            domain: domain.to_owned(),
            request,
            percent,
        });
        self
    }

    /// One more hop of an ARC chain that verified: who sealed it, and what its ARC-Authentication-Results says.
    pub fn arc_set(&mut self, sealer: &str, results: &str) -> &mut Self {
        self.world.arc_sets.push(ArcSet {
            sealer: sealer.to_owned(),
            results: results.as_bytes().to_vec(),
        });
        self
    }

    fn envelope(&mut self) -> &mut Envelope {
        self.world.envelope.get_or_insert_with(|| Envelope {
            sender: String::new(),
            recipients: Vec::new(),
        })
    }
}

/// The world.
impl<P> Script<P> {
    /// The time, in milliseconds since 1970.
    pub fn at(&mut self, now_ms: u64) -> &mut Self {
        self.world.now_ms = now_ms;
        self
    }

    /// Time passes.
    pub fn wait(&mut self, time: Duration) -> &mut Self {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.world.now_ms = self.world.now_ms.saturating_add(ms);
        self
    }

    /// The next numbers of `random`. Behind them come numbers that are the same in every run.
    pub fn random(&mut self, numbers: &[u64]) -> &mut Self {
        self.world.random.extend(numbers);
        self
    }

    /// The records of a name, as text (`10 mail.example.org` for MX). A name without records does not exist.
    pub fn dns(&mut self, name: &str, kind: RecordType, records: &[&str]) -> &mut Self {
        self.world.set_records(name, kind, Ok(texts(records)));
        self
    }

    /// No server answers for this name.
    pub fn dns_fails(&mut self, name: &str, kind: RecordType, why: &str) -> &mut Self {
        self.world
            .set_records(name, kind, Err(DnsError::Temporary(why.to_owned())));
        self
    }

    /// The return codes of a DNS list for an address or a domain.
    pub fn listed(&mut self, zone: &str, subject: &str, codes: &[&str]) -> &mut Self {
        self.world.set_listing(zone, subject, Ok(texts(codes)));
        self
    }

    /// A DNS list does not answer about this address or domain.
    pub fn list_fails(&mut self, zone: &str, subject: &str, why: &str) -> &mut Self {
        self.world
            .set_listing(zone, subject, Err(DnsError::Temporary(why.to_owned())));
        self
    }

    /// The policy's own store, to fill or to look into; it has the script's clock.
    pub fn state(&mut self) -> &mut Store {
        self.world.store.now_ms = self.world.now_ms;
        &mut self.world.store
    }

    /// The store cannot be reached from now on, for this reason; empty: it can.
    pub fn state_fails(&mut self, why: &str) -> &mut Self {
        self.world.store_fails = some(why);
        self
    }

    /// A note of this or (`plugin` is its name) another plugin, as the policy would find it.
    pub fn set_note(&mut self, scope: Scope, plugin: &str, key: &str, value: &[u8]) -> &mut Self {
        if scope == Scope::Transaction {
            self.envelope();
        }
        assert!(
            self.world.set_note(scope, plugin, key, Some(value)),
            "the notes are full"
        );
        self
    }

    /// What a connection to an endpoint reads.
    pub fn endpoint_says(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        self.world.endpoints.entry(name.to_owned()).or_default().says = bytes.to_vec();
        self
    }

    /// The next response to an HTTP request; the last one is given again and again.
    pub fn endpoint_responds(&mut self, name: &str, status: u16, body: &[u8]) -> &mut Self {
        let endpoint = self.world.endpoints.entry(name.to_owned()).or_default();
        endpoint.responses.push_back(Response {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
        });
        self
    }

    /// An endpoint that cannot be used.
    pub fn endpoint_fails(&mut self, name: &str, error: EndpointError) -> &mut Self {
        self.world.endpoints.entry(name.to_owned()).or_default().fails = Some(error);
        self
    }
}

/// What the policy left behind.
impl<P> Script<P> {
    /// The lines that it logged since the last look, oldest first.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.world.log)
    }

    /// One of its counters.
    pub fn counter(&self, name: &str) -> u64 {
        self.world.counters.get(name).copied().unwrap_or_default()
    }

    /// One of its notes.
    pub fn note(&self, scope: Scope, key: &str) -> Option<Vec<u8>> {
        self.world.note(scope, "", key)
    }

    /// The names and zones that it asked DNS for since the last look.
    pub fn take_dns_questions(&mut self) -> Vec<String> {
        std::mem::take(&mut self.world.asked)
    }

    /// What it wrote to connections of an endpoint since the last look.
    pub fn take_written(&mut self, endpoint: &str) -> Vec<u8> {
        let endpoint = self.world.endpoints.get_mut(endpoint);
        endpoint
            .map(|endpoint| std::mem::take(&mut endpoint.written))
            .unwrap_or_default()
    }

    /// The HTTP requests that it sent to an endpoint since the last look.
    pub fn take_requests(&mut self, endpoint: &str) -> Vec<Request> {
        let endpoint = self.world.endpoints.get_mut(endpoint);
        endpoint
            .map(|endpoint| std::mem::take(&mut endpoint.requests))
            .unwrap_or_default()
    }

    /// The envelope so far.
    pub fn envelope_now(&self) -> Option<&Envelope> {
        self.world.envelope.as_ref()
    }

    /// Whether the policy declined this hook (`on-message`) when it was made: the daemon would not call it, and a script panics if it is.
    pub fn has_declined(&self, hook: &str) -> bool {
        self.declined.iter().any(|declined| declined == hook)
    }

    /// Whether it took leave of the session: the daemon would not ask it again, and a script panics if it is.
    pub fn has_left(&self) -> bool {
        self.left
    }
}

/// The hooks.
impl<P> Script<P> {
    /// A connection came in.
    pub fn on_connect(&mut self) -> Answer
    where
        P: OnConnect,
    {
        self.ask("on-connect", |policy, session| policy.on_connect(session))
    }

    /// EHLO with this name.
    pub fn on_ehlo(&mut self, name: &str) -> Answer
    where
        P: OnEhlo,
    {
        self.ehlo(name);
        self.ask("on-ehlo", |policy, session| policy.on_ehlo(session, name))
    }

    /// AUTH. `verify` says yes to the users of [`user`](Self::user).
    pub fn on_auth(&mut self, mechanism: &str, user: &str, password: &str) -> Verdict
    where
        P: OnAuth,
    {
        self.world.login = Some(Login {
            mechanism: mechanism.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        });
        let verdict = self.call("on-auth", |policy, session| policy.on_auth(session, &Attempt(())));
        self.world.login = None;
        if let Verdict::Success(name) = &verdict {
            let name = name.clone();
            self.identity(&name);
        }
        verdict
    }

    /// MAIL FROM this reverse-path; a transaction begins unless it is refused.
    pub fn on_mail(&mut self, address: &str) -> Answer
    where
        P: OnMail,
    {
        self.sender(address);
        address.clone_into(&mut self.world.mailbox);
        let answer = self.ask("on-mail", |policy, session| policy.on_mail(session, &Mailbox(())));
        if !goes_on(&answer) {
            self.world.end_transaction();
        }
        for action in &answer.actions {
            if let Action::RewriteSender(address) = action {
                address.clone_into(&mut self.envelope().sender);
            }
        }
        answer
    }

    /// RCPT TO this forward-path; it is in the envelope unless it is refused or discarded.
    pub fn on_rcpt(&mut self, address: &str) -> Answer
    where
        P: OnRcpt,
    {
        self.envelope();
        address.clone_into(&mut self.world.mailbox);
        let relay = self.relay.clone().unwrap_or_else(|| self.judge(address));
        let answer = self.ask("on-rcpt", |policy, session| {
            policy.on_rcpt(session, &Mailbox(()), &relay)
        });
        let allowed = answer.actions.contains(&Action::AllowRelay);
        if goes_on(&answer) && (relay.ours || allowed) {
            let mut recipient = address.to_owned();
            for action in &answer.actions {
                match action {
                    Action::RewriteRecipient(address) => address.clone_into(&mut recipient),
                    Action::AddRecipient(address) => self.envelope().recipients.push(address.clone()),
                    _ => {}
                }
            }
            self.envelope().recipients.push(recipient);
        }
        answer
    }

    /// DATA.
    pub fn on_data(&mut self) -> Answer
    where
        P: OnData,
    {
        self.ask("on-data", |policy, session| policy.on_data(session))
    }

    /// The end of the message that [`message`](Self::message) set. The transaction stays, so that the next message can be asked about.
    pub fn on_message(&mut self) -> Answer
    where
        P: OnMessage,
    {
        assert!(
            self.world.content.is_some(),
            "set a message first: script.message(\"...\")"
        );
        self.envelope();
        self.ask("on-message", |policy, session| policy.on_message(session, &Message(())))
    }

    /// A queued message is about to be tried. See [`queued`](Self::queued).
    pub fn on_route(&mut self, message: &QueuedMessage) -> Answer
    where
        P: OnRoute,
    {
        run(&mut self.world, || self.policy.on_route(&Session(()), message))
    }

    /// An attempt ended.
    pub fn on_delivery(&mut self, message: &QueuedMessage, outcome: &AttemptResult) -> Option<u32>
    where
        P: OnDelivery,
    {
        run(&mut self.world, || {
            self.policy.on_delivery(&Session(()), message, outcome)
        })
    }

    /// The message is in the queue.
    pub fn on_queued(&mut self, message: &QueuedMessage)
    where
        P: OnQueued,
    {
        self.call("on-queued", |policy, session| policy.on_queued(session, message));
    }

    /// A command was refused, or AUTH was answered.
    pub fn on_result(&mut self, event: &CommandResult)
    where
        P: OnResult,
    {
        self.call("on-result", |policy, session| policy.on_result(session, event));
    }

    /// The connection ended.
    pub fn on_disconnect(&mut self)
    where
        P: OnDisconnect,
    {
        self.call("on-disconnect", |policy, session| policy.on_disconnect(session));
    }

    /// The envelope so far as a queued message, before its first attempt.
    pub fn queued(&self) -> QueuedMessage {
        let envelope = self.world.envelope.clone();
        let (sender, recipients) =
            envelope.map_or_else(Default::default, |envelope| (envelope.sender, envelope.recipients));
        QueuedMessage {
            id: "0000000000002".to_owned(),
            sender,
            recipients,
            size: self
                .world
                .content
                .as_ref()
                .map_or(0, |content| content.bytes.len() as u64),
            attempts: 0,
            age_seconds: 0,
            tags: Vec::new(),
        }
    }

    /// Asks a hook that decides, and notes what it said as the daemon does.
    fn ask(&mut self, stage: &str, hook: impl FnOnce(&P, &Session) -> Answer) -> Answer {
        let answer = self.call(stage, hook);
        let reason = answer.why.as_ref().map(|why| why.reason.clone()).unwrap_or_default();
        if answer.decision != Decision::Pass || !reason.is_empty() {
            self.earlier_answer("policy", stage, name(&answer.decision), &reason);
        }
        self.left |= answer.actions.contains(&Action::LeaveSession);
        answer
    }

    fn call<R>(&mut self, stage: &str, hook: impl FnOnce(&P, &Session) -> R) -> R {
        assert!(
            !self.has_declined(stage),
            "the policy declined {stage} under this configuration, so it is not called"
        );
        assert!(
            !self.left,
            "the policy took leave of this session, so {stage} is not called; reconnect() begins another one"
        );
        run(&mut self.world, || hook(&self.policy, &Session(())))
    }

    /// What the host would say of a forward-path.
    fn judge(&self, address: &str) -> RelayView {
        let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        let world = &self.world;
        let reason = if local.contains(['@', '%', '!']) {
            "source-routed"
        } else if domain.is_empty() || world.is_our_domain(domain) {
            ""
        } else if world.identity.is_some() || world.peer.trusted {
            "domain-not-ours"
        } else if world.listener.auth == AuthOffer::Off {
            "network-not-trusted"
        } else if world.tls.is_none() {
            "auth-not-offered-without-tls"
        } else {
            "not-authenticated"
        };
        RelayView {
            ours: reason.is_empty(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        }
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn goes_on(answer: &Answer) -> bool {
    matches!(answer.decision, Decision::Pass | Decision::Accept)
}

fn name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Pass => "pass",
        Decision::Accept => "accept",
        Decision::Reject(_) => "reject",
        Decision::Defer(_) => "defer",
        Decision::Disconnect(_) => "disconnect",
        Decision::Discard => "discard",
    }
}
