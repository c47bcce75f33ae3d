//! What a guest can ask the host for: the other side of `wit/imports.wit`, `types.wit` and `messages`.
//!
//! Every function here reads from the [`Call`] in progress, and says in it what was read. Nothing is decided here, and nothing waits but
//! the functions that the bindings call `async`. A guest that breaks a bound gets an error value where the interface has one, else it
//! traps; it can never make the host panic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost_smtp::address::Address;
use tokio::time::{Instant, timeout_at};
use wasmtime::component::{Resource, ResourceTable};

use super::bindings::gatepost::policy as wit;
use super::decision::{Journal, READS_MAX, Read, Stage, Told};
use super::memory::{Account, Limiter};
use super::services::authentication::{Authenticator, Check, EnvelopeChecks, MessageChecks, Request, Sender, Status};
use super::services::content::Content;
use super::services::counters::Counters;
use super::services::endpoint::{self, Endpoints};
use super::services::lists;
use super::services::state::{Bucket, Namespace, State, StateError, Taken};
use super::wasi::Wasi;
use crate::auth::{Login, Users};
use crate::config::{self, Grant};
use crate::dkim;
use crate::dns::{Dns, ReverseName};
use crate::message::{AuthOffer, Envelope, Id, Notes, SessionFacts, since_epoch};

/// Bytes of one log line of a guest.
pub(super) const LOG_LINE_BYTES_MAX: usize = 4 * 1024;
/// Queries in one `dns` call, buckets in one `take-all`.
const BATCH_MAX: usize = 32;
/// Connections to endpoints that an instance holds at a time.
const CONNECTIONS_MAX: usize = 16;
/// The handle of the message as the client sent it; every other is the message as edited.
const ORIGINAL: u32 = 1;

/// The session of the call; the host knows which.
pub struct Session;
/// The mailbox of the call.
pub struct Mailbox;
/// The message of the call; the handle says whether the edited or the original one.
pub struct Message;
/// The login attempt of the call.
pub struct Attempt;
/// A connection to an endpoint.
pub struct Connection(endpoint::Connection);

/// What stands behind the imports, the same for all plugins of a policy version.
pub struct Services {
    pub relay_domains: Arc<BTreeSet<String>>,
    pub users: Arc<Users>,
    /// With which mail is signed.
    pub keys: dkim::Keys,
    pub state: State,
    pub dns: Dns,
    pub authenticator: Authenticator,
    pub counters: Arc<Counters>,
    pub journal: Arc<dyn Journal>,
}

/// A transaction as policies see it.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub envelope: Envelope,
    pub notes: Notes,
    pub tags: Vec<(String, String)>,
}

/// An answer of an earlier hook.
#[derive(Clone, Debug)]
pub struct PastAnswer {
    pub plugin: Arc<str>,
    pub stage: Stage,
    pub verdict: &'static str,
    pub reason: Arc<str>,
}

/// What the hooks of one session may see and write. It travels: for the time of a hook call it lives in the instance's store, and nothing of
/// it is copied for that.
pub struct Call {
    pub stage: Stage,
    pub session: Arc<SessionFacts>,
    /// There from MAIL to the end of the transaction.
    pub transaction: Option<Arc<Transaction>>,
    /// There in on-mail (`None` is the null sender) and in on-rcpt, as edited so far.
    pub mailbox: Option<Address>,
    /// Those of the command in on-mail and on-rcpt.
    pub parameters: Vec<(String, Option<String>)>,
    /// There in on-message.
    pub content: Option<Arc<Content>>,
    /// There from on-message on.
    pub message: Option<Id>,
    /// There in on-auth.
    pub login: Option<Arc<Login>>,
    pub services: Arc<Services>,
    /// What earlier hooks said.
    pub past: Vec<PastAnswer>,
    /// The one clock reading of this call.
    pub now: SystemTime,
    /// What the guest asked in this call, and was told.
    pub read: Vec<Read>,
    log_lines: u32,
    /// Checks of who sent the message, computed in this transaction.
    pub checks: Checks,
    /// The peer's address as guests are told it.
    peer: Option<Arc<str>>,
}

/// Results of the host's own checks, kept for later policies of the transaction.
#[derive(Clone, Default)]
pub struct Checks {
    pub envelope: Option<Arc<EnvelopeChecks>>,
    pub message: Option<Arc<MessageChecks>>,
}

/// The data of an instance's store.
pub struct Guest {
    pub limiter: Limiter,
    pub cpu: Duration,
    pub ticks_left: u64,
    pub cpu_used_up: bool,
    pub host_calls_used_up: bool,
    pub call: Option<Box<Call>>,
    /// A bit for each stage whose hook the guest does not want.
    pub declined: u16,
    host_call_bytes_max: u64,
    host_call_bytes: u64,
    log_lines_max: u32,
    plugin: Arc<str>,
    endpoints: Arc<Endpoints>,
    /// When endpoints are no longer waited for in this call. None before the first one.
    endpoints_until: Option<Instant>,
    settings: Arc<config::Plugin>,
    connections: ResourceTable,
    namespace: Option<Namespace>,
    /// Made when the guest first asks for some of it.
    wasi: Option<Box<Wasi>>,
}

impl Guest {
    /// `memory` is what all instances of the plugin hold together.
    pub fn new(
        settings: Arc<config::Plugin>,
        plugin: Arc<str>,
        endpoints: Arc<Endpoints>,
        memory: Arc<Account>,
    ) -> Guest {
        let mut connections = ResourceTable::new();
        connections.set_max_capacity(CONNECTIONS_MAX);
        Guest {
            limiter: Limiter::new(settings.budget.memory_bytes as usize, memory),
            cpu: settings.budget.cpu,
            ticks_left: 0,
            cpu_used_up: false,
            host_calls_used_up: false,
            call: None,
            declined: 0,
            host_call_bytes_max: settings.budget.host_call_bytes,
            host_call_bytes: 0,
            log_lines_max: settings.budget.log_lines,
            plugin,
            endpoints,
            endpoints_until: None,
            settings,
            connections,
            namespace: None,
            wasi: None,
        }
    }

    /// Puts a call into the store, which waits for endpoints no longer than until then.
    pub fn begin(&mut self, call: Box<Call>, endpoints_until: Instant) {
        self.call = Some(call);
        self.endpoints_until = Some(endpoints_until);
        self.host_call_bytes = 0;
        self.limiter.refused = None;
    }

    pub(super) fn wasi(&mut self) -> &mut Wasi {
        let log_lines = self.log_lines_max;
        self.wasi.get_or_insert_with(|| Box::new(Wasi::new(log_lines)))
    }

    /// Takes what the guest wrote to its standard output and standard error to the log, an unfinished last line too if `all`.
    pub fn log_output(&mut self, all: bool) {
        for (error, line) in self.take_output(all) {
            let level = if error {
                tracing::Level::WARN
            } else {
                tracing::Level::INFO
            };
            self.log_line(level, &line);
        }
    }

    /// What the guest wrote to standard output and standard error and was not taken yet; true stands for standard error.
    pub fn take_output(&mut self, all: bool) -> Vec<(bool, String)> {
        self.wasi.as_ref().map_or_else(Vec::new, |wasi| wasi.take_lines(all))
    }

    fn log_line(&mut self, level: tracing::Level, message: &str) {
        let most = self.log_lines_max;
        // What a guest says in `configure` belongs to no session; its error text is what the administrator sees.
        let Some(call) = &mut self.call else { return };
        call.log_lines += 1;
        let journal = &call.services.journal;
        match call.log_lines {
            lines if lines <= most => {
                let line = super::answer::cut(message, LOG_LINE_BYTES_MAX);
                journal.plugin_log(call.session.id, &self.plugin, call.stage, level, line);
            }
            lines if lines == most + 1 => {
                let note = "further lines of this call are dropped (log_lines)";
                journal.plugin_log(call.session.id, &self.plugin, call.stage, tracing::Level::WARN, note);
            }
            _ => {}
        }
    }

    /// The clock reading of the call in progress, noted as read.
    pub(super) fn clock(&mut self) -> Option<SystemTime> {
        let call = self.call.as_mut()?;
        call.saw("clock.now", Told::Number(since_epoch(call.now).as_millis() as u64));
        Some(call.now)
    }

    /// From the system's generator; noted as read if there is a call.
    pub(super) fn random_u64(&mut self) -> wasmtime::Result<u64> {
        let number = getrandom::u64().map_err(|error| wasmtime::format_err!("no random numbers: {error}"))?;
        if let Some(call) = &mut self.call {
            call.saw("random.get-u64", Told::Number(number));
        }
        Ok(number)
    }

    /// The same, many of them.
    pub(super) fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.charge(length)?;
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).map_err(|error| wasmtime::format_err!("no random numbers: {error}"))?;
        if let Some(call) = &mut self.call {
            call.saw("random.bytes", Told::Amount(length));
        }
        Ok(bytes)
    }

    /// The call in progress; a guest that asks for something outside of a hook (in `configure`, in a start function) traps.
    fn call(&mut self) -> wasmtime::Result<&mut Call> {
        Ok(self.call_of()?.0)
    }

    /// The same, and the name of the plugin that asks.
    fn call_of(&mut self) -> wasmtime::Result<(&mut Call, &Arc<str>)> {
        match &mut self.call {
            Some(call) => Ok((call, &self.plugin)),
            None => Err(wasmtime::format_err!("there is no session outside of a hook")),
        }
    }

    /// Counts bytes that cross; traps beyond `host_call_bytes`.
    fn charge(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.host_call_bytes = self.host_call_bytes.saturating_add(bytes as u64);
        if self.host_call_bytes > self.host_call_bytes_max {
            self.host_calls_used_up = true;
            return Err(wasmtime::format_err!("host_call_bytes is used up"));
        }
        Ok(())
    }

    /// The grants were checked when the plugin was loaded; this is the second lock on the same door.
    fn need(&self, grant: Grant) -> wasmtime::Result<()> {
        match self.settings.grants.contains(&grant) {
            true => Ok(()),
            false => Err(wasmtime::format_err!("the grant {grant} is missing")),
        }
    }

    fn content(&mut self, message: &Resource<Message>) -> wasmtime::Result<Arc<Content>> {
        self.need(Grant::ReadMessage)?;
        let call = self.call()?;
        let content = call
            .content
            .as_ref()
            .ok_or_else(|| wasmtime::format_err!("there is no message in {}", call.stage))?;
        Ok(match message.rep() {
            ORIGINAL => Arc::new(content.original()),
            _ => content.clone(),
        })
    }

    fn login(&mut self) -> wasmtime::Result<Arc<Login>> {
        let call = self.call()?;
        call.login
            .clone()
            .ok_or_else(|| wasmtime::format_err!("there is no login in {}", call.stage))
    }
}

impl Call {
    pub fn new(session: Arc<SessionFacts>, services: Arc<Services>) -> Call {
        Call {
            stage: Stage::Connect,
            now: session.started,
            session,
            transaction: None,
            mailbox: None,
            parameters: Vec::new(),
            content: None,
            message: None,
            login: None,
            services,
            past: Vec::new(),
            read: Vec::new(),
            log_lines: 0,
            checks: Checks::default(),
            peer: None,
        }
    }

    /// The same call over other services: what is written in it is not seen in this one.
    pub fn copy_with(&self, services: Arc<Services>) -> Call {
        Call {
            stage: self.stage,
            now: self.now,
            session: self.session.clone(),
            transaction: self.transaction.clone(),
            mailbox: self.mailbox.clone(),
            parameters: self.parameters.clone(),
            content: self.content.clone(),
            message: self.message,
            login: self.login.clone(),
            services,
            past: self.past.clone(),
            read: Vec::new(),
            log_lines: 0,
            checks: self.checks.clone(),
            peer: self.peer.clone(),
        }
    }

    /// Makes it ready for the next hook call.
    pub fn begin(&mut self, stage: Stage, now: SystemTime) {
        self.stage = stage;
        self.now = now;
        self.read.clear();
        self.log_lines = 0;
    }

    fn saw(&mut self, what: &'static str, told: Told) {
        self.saw_about(what, None, told);
    }

    fn saw_about(&mut self, what: &'static str, about: Option<&str>, told: Told) {
        if self.read.len() < READS_MAX {
            self.read.push(Read {
                what,
                about: about.map(Into::into),
                told,
            });
        }
    }
}

/// `to_string` of an `Arc` goes through a formatter.
fn owned(text: &Arc<str>) -> String {
    String::from(&**text)
}

fn text(value: &Arc<str>) -> Told {
    Told::Text(value.clone())
}

fn maybe(value: Option<&Arc<str>>) -> Told {
    value.map_or(Told::Nothing, text)
}

impl wit::types::Host for Guest {}

impl wit::types::HostSession for Guest {
    fn id(&mut self, _: Resource<Session>) -> wasmtime::Result<String> {
        Ok(self.call()?.session.id.to_string())
    }

    fn hostname(&mut self, _: Resource<Session>) -> wasmtime::Result<String> {
        let call = self.call()?;
        let hostname = call.services.authenticator.hostname().clone();
        call.saw("session.hostname", text(&hostname));
        Ok(owned(&hostname))
    }

    fn listener(&mut self, _: Resource<Session>) -> wasmtime::Result<wit::types::Listener> {
        let call = self.call()?;
        let session = call.session.clone();
        call.saw("session.listener", text(&session.listener));
        Ok(wit::types::Listener {
            name: owned(&session.listener),
            auth: match session.auth_offered {
                AuthOffer::Off => wit::types::AuthOffer::Off,
                AuthOffer::Optional => wit::types::AuthOffer::Optional,
                AuthOffer::Required => wit::types::AuthOffer::Required,
            },
        })
    }

    fn peer(&mut self, _: Resource<Session>) -> wasmtime::Result<wit::types::Peer> {
        let call = self.call()?;
        let address = call
            .peer
            .get_or_insert_with(|| call.session.peer.ip().to_canonical().to_string().into())
            .clone();
        call.saw("session.peer", text(&address));
        let session = &call.session;
        Ok(wit::types::Peer {
            address: owned(&address),
            port: session.peer.port(),
            trusted: session.trusted,
            proxied: session.proxy.is_some(),
        })
    }

    async fn reverse_name(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<String>> {
        let call = self.call()?;
        let name = match call.session.reverse_name.clone() {
            Some(name) => name,
            None => {
                let (dns, peer) = (call.services.dns.clone(), call.session.peer.ip());
                let found = dns
                    .reverse_name(peer)
                    .await
                    .ok()
                    .and_then(ReverseName::confirmed)
                    .map(Arc::from);
                Arc::make_mut(&mut self.call()?.session).reverse_name = Some(found.clone());
                found
            }
        };
        self.call()?.saw("session.reverse-name", maybe(name.as_ref()));
        Ok(name.as_ref().map(owned))
    }

    fn tls(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<wit::types::Tls>> {
        let call = self.call()?;
        let tls = call.session.tls.clone();
        call.saw("session.tls", maybe(tls.as_ref().map(|tls| &tls.version)));
        Ok(tls.map(|tls| wit::types::Tls {
            version: owned(&tls.version),
            cipher: owned(&tls.cipher),
            server_name: tls.server_name.as_ref().map(owned),
        }))
    }

    fn ehlo_name(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<String>> {
        let call = self.call()?;
        let name = call.session.ehlo.clone();
        call.saw("session.ehlo-name", maybe(name.as_ref()));
        Ok(name.as_ref().map(owned))
    }

    fn identity(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<wit::types::Identity>> {
        let call = self.call()?;
        let identity = call.session.identity.clone();
        call.saw(
            "session.identity",
            maybe(identity.as_ref().map(|identity| &identity.name)),
        );
        Ok(identity.map(|identity| wit::types::Identity {
            name: owned(&identity.name),
            method: owned(&identity.method),
        }))
    }

    fn envelope(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<wit::types::Envelope>> {
        let call = self.call()?;
        let Some(transaction) = call.transaction.clone() else {
            call.saw("session.envelope", Told::Nothing);
            return Ok(None);
        };
        let envelope = &transaction.envelope;
        call.saw("session.envelope", Told::Text(envelope.sender.as_str().into()));
        let recipients: Vec<String> = envelope.recipients.iter().map(|rcpt| rcpt.address.clone()).collect();
        self.charge(recipients.iter().map(String::len).sum())?;
        Ok(Some(wit::types::Envelope {
            sender: envelope.sender.clone(),
            recipients,
        }))
    }

    fn sender(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<String>> {
        let call = self.call()?;
        let sender = call
            .transaction
            .as_ref()
            .map(|transaction| transaction.envelope.sender.clone());
        call.saw(
            "session.sender",
            sender
                .as_deref()
                .map_or(Told::Nothing, |sender| Told::Text(sender.into())),
        );
        Ok(sender)
    }

    fn recipient_count(&mut self, _: Resource<Session>) -> wasmtime::Result<u32> {
        let call = self.call()?;
        let recipients = call
            .transaction
            .as_ref()
            .map_or(0, |transaction| transaction.envelope.recipients.len());
        call.saw("session.recipient-count", Told::Number(recipients as u64));
        Ok(u32::try_from(recipients).unwrap_or(u32::MAX))
    }

    fn message_size(&mut self, _: Resource<Session>) -> wasmtime::Result<Option<u64>> {
        let call = self.call()?;
        let size = call.content.as_ref().map(|content| content.original().size());
        call.saw("session.message-size", size.map_or(Told::Nothing, Told::Number));
        Ok(size)
    }

    fn is_our_domain(&mut self, _: Resource<Session>, domain: String) -> wasmtime::Result<bool> {
        let call = self.call()?;
        let ours = gatepost_smtp::address::canonical_domain(&domain)
            .is_ok_and(|domain| call.services.relay_domains.contains(domain.as_ref()));
        call.saw_about("session.is-our-domain", Some(&domain), Told::Flag(ours));
        Ok(ours)
    }

    fn earlier_answers(&mut self, _: Resource<Session>) -> wasmtime::Result<Vec<wit::types::PastAnswer>> {
        let call = self.call()?;
        call.saw("session.earlier-answers", Told::Amount(call.past.len()));
        let told = |past: &PastAnswer| wit::types::PastAnswer {
            plugin: owned(&past.plugin),
            stage: past.stage.name().to_owned(),
            verdict: past.verdict.to_owned(),
            reason: owned(&past.reason),
        };
        Ok(call.past.iter().map(told).collect())
    }

    fn drop(&mut self, _: Resource<Session>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::types::HostMailbox for Guest {
    fn address(&mut self, _: Resource<Mailbox>) -> wasmtime::Result<String> {
        let mailbox = self.call()?.mailbox.as_ref();
        Ok(mailbox.map_or_else(String::new, |address| address.as_str().to_owned()))
    }

    fn local(&mut self, _: Resource<Mailbox>) -> wasmtime::Result<String> {
        let mailbox = self.call()?.mailbox.as_ref();
        Ok(mailbox.map_or_else(String::new, |address| address.canonical_local().to_owned()))
    }

    fn domain(&mut self, _: Resource<Mailbox>) -> wasmtime::Result<String> {
        let domain = self.call()?.mailbox.as_ref().and_then(Address::canonical_domain);
        Ok(domain.unwrap_or_default().to_owned())
    }

    fn parameters(&mut self, _: Resource<Mailbox>) -> wasmtime::Result<Vec<wit::types::Parameter>> {
        let call = self.call()?;
        call.saw("mailbox.parameters", Told::Amount(call.parameters.len()));
        let told = |(name, value): &(String, Option<String>)| wit::types::Parameter {
            name: name.clone(),
            value: value.clone(),
        };
        Ok(call.parameters.iter().map(told).collect())
    }

    fn drop(&mut self, _: Resource<Mailbox>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::messages::Host for Guest {}

impl wit::messages::HostMessage for Guest {
    fn size(&mut self, message: Resource<Message>) -> wasmtime::Result<u64> {
        let size = self.content(&message)?.size();
        self.call()?.saw("message.size", Told::Number(size));
        Ok(size)
    }

    fn body_offset(&mut self, message: Resource<Message>) -> wasmtime::Result<u64> {
        let offset = self.content(&message)?.body_offset().map_err(wasmtime::Error::new)?;
        self.call()?.saw("message.body-offset", Told::Number(offset));
        Ok(offset)
    }

    fn header(&mut self, message: Resource<Message>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let values = self.content(&message)?.header(&name).map_err(wasmtime::Error::new)?;
        self.charge(values.iter().map(|value| value.len()).sum())?;
        self.call()?
            .saw_about("message.header", Some(&name), Told::Amount(values.len()));
        Ok(values.iter().map(|value| value.to_vec()).collect())
    }

    fn read(&mut self, message: Resource<Message>, offset: u64, length: u32) -> wasmtime::Result<Vec<u8>> {
        let bytes = self
            .content(&message)?
            .read(offset, length)
            .map_err(wasmtime::Error::new)?;
        self.charge(bytes.len())?;
        self.call()?.saw("message.read", Told::Amount(bytes.len()));
        Ok(bytes.into())
    }

    fn original(&mut self, _: Resource<Message>) -> wasmtime::Result<Resource<Message>> {
        Ok(Resource::new_own(ORIGINAL))
    }

    fn drop(&mut self, _: Resource<Message>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::login::Host for Guest {}

impl wit::login::HostAttempt for Guest {
    fn mechanism(&mut self, _: Resource<Attempt>) -> wasmtime::Result<String> {
        Ok(self.login()?.mechanism.to_owned())
    }

    fn user(&mut self, _: Resource<Attempt>) -> wasmtime::Result<String> {
        let login = self.login()?;
        self.call()?.saw("attempt.user", Told::Text(login.name.as_str().into()));
        Ok(login.name.clone())
    }

    fn password(&mut self, _: Resource<Attempt>) -> wasmtime::Result<String> {
        self.need(Grant::ReadPassword)?;
        let login = self.login()?;
        // That it was read is worth knowing; what it was is not.
        self.call()?.saw("attempt.password", Told::Amount(login.password.len()));
        Ok(login.password.to_string())
    }

    async fn verify(&mut self, _: Resource<Attempt>) -> wasmtime::Result<bool> {
        self.need(Grant::Credentials)?;
        let login = self.login()?;
        let users = self.call()?.services.users.clone();
        let good = users
            .verify_plain(&login.name, &login.password)
            .await
            .map_err(wasmtime::Error::new)?;
        self.call()?.saw("attempt.verify", Told::Flag(good));
        Ok(good)
    }

    fn drop(&mut self, _: Resource<Attempt>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::queue::Host for Guest {}

impl wit::log::Host for Guest {
    fn log(&mut self, level: wit::log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            wit::log::Level::Debug => tracing::Level::DEBUG,
            wit::log::Level::Info => tracing::Level::INFO,
            wit::log::Level::Warn => tracing::Level::WARN,
            wit::log::Level::Error => tracing::Level::ERROR,
        };
        // What was written before stands before.
        self.log_output(false);
        self.log_line(level, &message);
        Ok(())
    }
}

impl wit::hooks::Host for Guest {
    fn decline(&mut self, hook: String) -> wasmtime::Result<()> {
        if self.call.is_some() {
            return Err(wasmtime::format_err!(
                "hooks are declined in configure, and this is a hook"
            ));
        }
        let stage = Stage::ALL.into_iter().find(|stage| stage.name() == hook);
        let stage = stage.ok_or_else(|| wasmtime::format_err!("{:?} is no hook", super::answer::cut(&hook, 64)))?;
        self.declined |= 1 << stage as u16;
        Ok(())
    }
}

impl wit::clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        let call = self.call()?;
        let now = since_epoch(call.now).as_millis() as u64;
        call.saw("clock.now", Told::Number(now));
        Ok(now)
    }
}

impl wit::random::Host for Guest {
    fn get_u64(&mut self) -> wasmtime::Result<u64> {
        let number = getrandom::u64().map_err(|error| wasmtime::format_err!("no random numbers: {error}"))?;
        self.call()?.saw("random.get-u64", Told::Number(number));
        Ok(number)
    }
}

impl wit::metrics::Host for Guest {
    fn count(&mut self, name: String, by: u64) -> wasmtime::Result<()> {
        let (call, plugin) = self.call_of()?;
        call.services.counters.count(plugin, &name, by);
        Ok(())
    }
}

impl wit::notes::Host for Guest {
    fn get(&mut self, scope: wit::notes::Scope, plugin: String, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let (call, own) = self.call_of()?;
        let (what, notes) = match scope {
            wit::notes::Scope::Session => ("notes.session", Some(&call.session.notes)),
            wit::notes::Scope::Transaction => (
                "notes.transaction",
                call.transaction.as_ref().map(|transaction| &transaction.notes),
            ),
        };
        // A plugin does not know what the configuration calls it: an empty name is its own.
        let owner = if plugin.is_empty() { own } else { plugin.as_str() };
        let value = notes.and_then(|notes| notes.get(owner, &key)).map(<[u8]>::to_vec);
        let told = value.as_ref().map_or(Told::Nothing, |value| Told::Amount(value.len()));
        call.saw_about(what, Some(&key), told);
        Ok(value)
    }

    fn set(&mut self, scope: wit::notes::Scope, key: String, value: Option<Vec<u8>>) -> wasmtime::Result<bool> {
        let (call, own) = self.call_of()?;
        let notes = match scope {
            wit::notes::Scope::Session => &mut Arc::make_mut(&mut call.session).notes,
            wit::notes::Scope::Transaction => match &mut call.transaction {
                Some(transaction) => &mut Arc::make_mut(transaction).notes,
                None => return Ok(false),
            },
        };
        Ok(notes.set(own, &key, value))
    }
}

impl Guest {
    /// This plugin's own store.
    fn namespace(&mut self) -> wasmtime::Result<&Namespace> {
        self.need(Grant::State)?;
        let Some(call) = &self.call else {
            return Err(wasmtime::format_err!("there is no state outside of a hook"));
        };
        Ok(self
            .namespace
            .get_or_insert_with(|| call.services.state.namespace(&self.plugin)))
    }

    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(since_epoch(self.call()?.now).as_millis() as u64)
    }
}

impl From<StateError> for wit::state::StateError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::TooLarge => wit::state::StateError::TooLarge,
            StateError::Unavailable(why) => wit::state::StateError::Unavailable(why.to_string()),
        }
    }
}

fn buckets(given: &[wit::state::Bucket]) -> Vec<Bucket<'_>> {
    given
        .iter()
        .map(|bucket| Bucket {
            key: &bucket.key,
            cost: bucket.cost,
            rate: bucket.rate,
            per_seconds: bucket.per_seconds,
            burst: bucket.burst,
        })
        .collect()
}

impl wit::state::Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::state::StateError>> {
        let now_ms = self.now_ms()?;
        let value = self.namespace()?.get(&key, now_ms).await;
        let told = match &value {
            Ok(Some(value)) => Told::Amount(value.len()),
            _ => Told::Nothing,
        };
        self.call()?.saw_about("state.get", Some(&key), told);
        Ok(value.map_err(Into::into))
    }

    async fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_seconds: Option<u32>,
    ) -> wasmtime::Result<Result<(), wit::state::StateError>> {
        self.charge(value.len())?;
        let now_ms = self.now_ms()?;
        let done = self.namespace()?.set(&key, &value, ttl_seconds, now_ms).await;
        self.call()?
            .saw_about("state.set", Some(&key), Told::Flag(done.is_ok()));
        Ok(done.map_err(Into::into))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), wit::state::StateError>> {
        let done = self.namespace()?.delete(&key).await;
        self.call()?
            .saw_about("state.delete", Some(&key), Told::Flag(done.is_ok()));
        Ok(done.map_err(Into::into))
    }

    async fn increment(
        &mut self,
        key: String,
        by: i64,
        ttl_seconds: Option<u32>,
    ) -> wasmtime::Result<Result<i64, wit::state::StateError>> {
        let now_ms = self.now_ms()?;
        let now = self.namespace()?.increment(&key, by, ttl_seconds, now_ms).await;
        let told = now
            .as_ref()
            .map_or(Told::Nothing, |now| Told::Number(now.unsigned_abs()));
        self.call()?.saw_about("state.increment", Some(&key), told);
        Ok(now.map_err(Into::into))
    }

    async fn take_all(
        &mut self,
        given: Vec<wit::state::Bucket>,
    ) -> wasmtime::Result<Result<wit::state::Taken, wit::state::StateError>> {
        let now_ms = self.now_ms()?;
        let taken = self.namespace()?.take_all(&buckets(&given), now_ms).await;
        let about = match &taken {
            Ok(Taken::Refused { index, .. }) => given.get(*index as usize),
            _ => given.first(),
        };
        let told = Told::Flag(matches!(taken, Ok(Taken::Ok)));
        self.call()?
            .saw_about("state.take-all", about.map(|bucket| bucket.key.as_str()), told);
        Ok(match taken {
            Ok(Taken::Ok) => Ok(wit::state::Taken::Ok),
            Ok(Taken::Refused { index, wait_ms }) => Ok(wit::state::Taken::Refused((index, wait_ms))),
            Err(error) => Err(error.into()),
        })
    }

    async fn refund(&mut self, given: Vec<wit::state::Bucket>) -> wasmtime::Result<Result<(), wit::state::StateError>> {
        let now_ms = self.now_ms()?;
        let done = self.namespace()?.refund(&buckets(&given), now_ms).await;
        self.call()?.saw_about("state.refund", None, Told::Flag(done.is_ok()));
        Ok(done.map_err(Into::into))
    }
}

impl wit::credentials::Host for Guest {
    fn senders(&mut self, identity: String) -> wasmtime::Result<Vec<String>> {
        self.need(Grant::Credentials)?;
        let call = self.call()?;
        // A plugin may vouch for identities that the users file does not have; they own what their name says, too.
        let senders = Users::senders(&identity, &call.services.relay_domains);
        call.saw_about("credentials.senders", Some(&identity), Told::Amount(senders.len()));
        Ok(senders)
    }
}

impl wit::signing::Host for Guest {
    fn selectors(&mut self, domain: String) -> wasmtime::Result<Vec<String>> {
        self.need(Grant::Sign)?;
        let call = self.call()?;
        let selectors: Vec<String> = call.services.keys.selectors(&domain).map(str::to_owned).collect();
        call.saw_about("signing.selectors", Some(&domain), Told::Amount(selectors.len()));
        Ok(selectors)
    }
}

impl From<lists::DnsError> for wit::dns::DnsError {
    fn from(error: lists::DnsError) -> Self {
        match error {
            lists::DnsError::Temporary(why) => wit::dns::DnsError::Temporary(why),
            lists::DnsError::Invalid => wit::dns::DnsError::Invalid,
        }
    }
}

type DnsAnswers = Vec<Result<Vec<String>, wit::dns::DnsError>>;

impl Guest {
    /// Writes a batch of look-ups into the call's record, and gives the answers in the guest's form.
    fn looked_up<'a>(
        &mut self,
        what: &'static str,
        names: impl Iterator<Item = &'a str>,
        answers: Vec<Result<Vec<String>, lists::DnsError>>,
    ) -> wasmtime::Result<DnsAnswers> {
        self.charge(answers.iter().flatten().flatten().map(String::len).sum())?;
        let call = self.call()?;
        for (name, answer) in names.zip(&answers) {
            let told = match answer {
                Ok(records) if records.is_empty() => Told::Nothing,
                Ok(records) => Told::Text(records.join(" ").into()),
                Err(_) => Told::Text("failed".into()),
            };
            call.saw_about(what, Some(name), told);
        }
        Ok(answers.into_iter().map(|answer| answer.map_err(Into::into)).collect())
    }
}

impl wit::dns::Host for Guest {
    async fn lookup(&mut self, queries: Vec<wit::dns::Query>) -> wasmtime::Result<DnsAnswers> {
        self.need(Grant::Dns)?;
        at_most(queries.len())?;
        let asked: Vec<lists::Query> = queries
            .into_iter()
            .map(|query| lists::Query {
                name: query.name,
                kind: match query.kind {
                    wit::dns::RecordType::A => lists::RecordType::A,
                    wit::dns::RecordType::Aaaa => lists::RecordType::Aaaa,
                    wit::dns::RecordType::Mx => lists::RecordType::Mx,
                    wit::dns::RecordType::Ptr => lists::RecordType::Ptr,
                    wit::dns::RecordType::Txt => lists::RecordType::Txt,
                },
            })
            .collect();
        let dns = self.call()?.services.dns.clone();
        let answers = lists::lookup(&dns, &asked).await;
        self.looked_up("dns.lookup", asked.iter().map(|query| query.name.as_str()), answers)
    }

    async fn lists(&mut self, queries: Vec<wit::dns::ListQuery>) -> wasmtime::Result<DnsAnswers> {
        self.need(Grant::Dns)?;
        at_most(queries.len())?;
        let asked: Vec<lists::ListQuery> = queries
            .into_iter()
            .map(|query| lists::ListQuery {
                zone: query.zone,
                subject: query.subject,
            })
            .collect();
        let dns = self.call()?.services.dns.clone();
        let answers = lists::lists(&dns, &asked).await;
        self.looked_up("dns.lists", asked.iter().map(|query| query.zone.as_str()), answers)
    }
}

fn at_most(queries: usize) -> wasmtime::Result<()> {
    match queries <= BATCH_MAX {
        true => Ok(()),
        false => Err(wasmtime::format_err!(
            "{queries} queries in one call; at most {BATCH_MAX}"
        )),
    }
}

impl Guest {
    /// SPF and iprev of this transaction, computed once.
    async fn envelope_checks(&mut self) -> wasmtime::Result<Arc<EnvelopeChecks>> {
        self.need(Grant::Authentication)?;
        let call = self.call()?;
        if let Some(known) = &call.checks.envelope {
            return Ok(known.clone());
        }
        let (session, transaction) = (call.session.clone(), call.transaction.clone());
        let authenticator = call.services.authenticator.clone();
        let sender = Sender {
            peer: session.peer.ip(),
            ehlo: session.ehlo.as_deref().unwrap_or_default(),
            reverse_path: transaction
                .as_ref()
                .map_or("", |transaction| &transaction.envelope.sender),
        };
        let found = Arc::new(authenticator.check_envelope(&sender).await);
        self.call()?.checks.envelope = Some(found.clone());
        Ok(found)
    }

    /// All checks of this transaction's message, computed once.
    async fn message_checks(&mut self) -> wasmtime::Result<Arc<MessageChecks>> {
        let envelope = self.envelope_checks().await?;
        let call = self.call()?;
        if let Some(known) = &call.checks.message {
            return Ok(known.clone());
        }
        let Some(content) = &call.content else {
            return Err(wasmtime::format_err!("there is no message in {}", call.stage));
        };
        // As the client sent it: what policies changed would break its signatures.
        let (content, authenticator) = (content.original(), call.services.authenticator.clone());
        let found = Arc::new(authenticator.check_message(&envelope, &content).await);
        self.call()?.checks.message = Some(found.clone());
        Ok(found)
    }

    fn checked(&mut self, what: &'static str, checks: &[Check]) -> wasmtime::Result<Vec<wit::authentication::Check>> {
        let call = self.call()?;
        for check in checks {
            call.saw_about(
                what,
                Some(check.method.name()),
                Told::Text(check.subject.as_str().into()),
            );
        }
        Ok(checks
            .iter()
            .map(|check| wit::authentication::Check {
                method: check.method.name().to_owned(),
                status: match check.status {
                    Status::Pass => wit::authentication::Status::Pass,
                    Status::Fail => wit::authentication::Status::Fail,
                    Status::SoftFail => wit::authentication::Status::Softfail,
                    Status::Neutral => wit::authentication::Status::Neutral,
                    Status::None => wit::authentication::Status::None,
                    Status::TempError => wit::authentication::Status::Temperror,
                    Status::PermError => wit::authentication::Status::Permerror,
                },
                subject: check.subject.clone(),
                detail: check.detail.clone(),
            })
            .collect())
    }
}

impl wit::authentication::Host for Guest {
    async fn check_envelope(&mut self, _: Resource<Session>) -> wasmtime::Result<Vec<wit::authentication::Check>> {
        let found = self.envelope_checks().await?;
        self.checked("authentication.check-envelope", found.checks())
    }

    async fn check_message(
        &mut self,
        _: Resource<Session>,
        _: Resource<Message>,
    ) -> wasmtime::Result<Vec<wit::authentication::Check>> {
        let found = self.message_checks().await?;
        self.checked("authentication.check-message", &found.checks)
    }

    async fn author_policy(
        &mut self,
        _: Resource<Session>,
        _: Resource<Message>,
    ) -> wasmtime::Result<Option<wit::authentication::DmarcPolicy>> {
        let found = self.message_checks().await?;
        let policy = found.author_policy.as_ref();
        let told = policy.map_or(Told::Nothing, |policy| Told::Text(policy.domain.as_str().into()));
        self.call()?.saw("authentication.author-policy", told);
        Ok(policy.map(|policy| wit::authentication::DmarcPolicy {
            domain: policy.domain.clone(),
            request: match policy.request {
                Request::None => wit::authentication::DmarcRequest::None,
                Request::Quarantine => wit::authentication::DmarcRequest::Quarantine,
                Request::Reject => wit::authentication::DmarcRequest::Reject,
            },
            percent: policy.percent,
        }))
    }

    async fn arc_sets(
        &mut self,
        _: Resource<Session>,
        _: Resource<Message>,
    ) -> wasmtime::Result<Vec<wit::authentication::ArcSet>> {
        let found = self.message_checks().await?;
        self.charge(found.arc_sets.iter().map(|set| set.results.len()).sum())?;
        self.call()?
            .saw("authentication.arc-sets", Told::Amount(found.arc_sets.len()));
        let sets = found.arc_sets.iter().map(|set| wit::authentication::ArcSet {
            sealer: set.sealer.clone(),
            results: set.results.clone(),
        });
        Ok(sets.collect())
    }
}

impl From<endpoint::EndpointError> for wit::endpoint::EndpointError {
    fn from(error: endpoint::EndpointError) -> Self {
        match error {
            endpoint::EndpointError::Unknown => wit::endpoint::EndpointError::Unknown,
            endpoint::EndpointError::Unreachable(why) => wit::endpoint::EndpointError::Unreachable(why),
            endpoint::EndpointError::Timeout => wit::endpoint::EndpointError::Timeout,
            endpoint::EndpointError::TooLarge => wit::endpoint::EndpointError::TooLarge,
        }
    }
}

impl Guest {
    fn endpoints_until(&self) -> wasmtime::Result<Instant> {
        self.endpoints_until
            .ok_or_else(|| wasmtime::format_err!("there are no endpoints outside of a hook"))
    }
}

/// Waits for an endpoint, and stops waiting while the call has time left to answer. From then on nothing is begun.
async fn in_time<T>(
    until: Instant,
    waiting: impl Future<Output = Result<T, endpoint::EndpointError>>,
) -> Result<T, endpoint::EndpointError> {
    if Instant::now() >= until {
        return Err(endpoint::EndpointError::Timeout);
    }
    timeout_at(until, waiting)
        .await
        .unwrap_or(Err(endpoint::EndpointError::Timeout))
}

impl wit::endpoint::Host for Guest {
    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        self.need(Grant::Endpoint)?;
        let names: Vec<String> = self.settings.endpoints.keys().cloned().collect();
        // There is no call in `configure`.
        if let Some(call) = &mut self.call {
            call.saw("endpoint.names", Told::Amount(names.len()));
        }
        Ok(names)
    }

    async fn connect(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, wit::endpoint::EndpointError>> {
        self.need(Grant::Endpoint)?;
        let until = self.endpoints_until()?;
        let connected = in_time(until, self.endpoints.connect(&name)).await;
        self.call()?
            .saw_about("endpoint.connect", Some(&name), Told::Flag(connected.is_ok()));
        Ok(match connected {
            Ok(connection) => Ok(self.connections.push(Connection(connection))?),
            Err(error) => Err(error.into()),
        })
    }

    async fn http(
        &mut self,
        name: String,
        request: wit::endpoint::Request,
    ) -> wasmtime::Result<Result<wit::endpoint::Response, wit::endpoint::EndpointError>> {
        self.need(Grant::Endpoint)?;
        self.charge(request.body.len())?;
        let until = self.endpoints_until()?;
        let request = endpoint::Request {
            method: request.method,
            path: request.path,
            headers: request.headers,
            body: request.body,
        };
        let response = in_time(until, self.endpoints.http(&name, request)).await;
        let told = response
            .as_ref()
            .map_or(Told::Nothing, |response| Told::Number(response.status.into()));
        self.call()?.saw_about("endpoint.http", Some(&name), told);
        Ok(match response {
            Ok(response) => {
                self.charge(response.body.len())?;
                Ok(wit::endpoint::Response {
                    status: response.status,
                    headers: response.headers,
                    body: response.body,
                })
            }
            Err(error) => Err(error.into()),
        })
    }
}

impl wit::endpoint::HostConnection for Guest {
    async fn write(
        &mut self,
        connection: Resource<Connection>,
        bytes: Vec<u8>,
    ) -> wasmtime::Result<Result<(), wit::endpoint::EndpointError>> {
        self.charge(bytes.len())?;
        let until = self.endpoints_until()?;
        let written = in_time(until, self.connections.get_mut(&connection)?.0.write(&bytes)).await;
        Ok(written.map_err(Into::into))
    }

    async fn read(
        &mut self,
        connection: Resource<Connection>,
        most: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, wit::endpoint::EndpointError>> {
        let until = self.endpoints_until()?;
        // What came in time is given also when it is asked for too late: who asked two and waited for the first hears the second.
        let reading = self.connections.get_mut(&connection)?.0.read(most);
        let read = timeout_at(until, reading)
            .await
            .unwrap_or(Err(endpoint::EndpointError::Timeout));
        if let Ok(bytes) = &read {
            self.charge(bytes.len())?;
            self.call()?.saw("endpoint.read", Told::Amount(bytes.len()));
        }
        Ok(read.map_err(Into::into))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.connections.delete(connection)?;
        Ok(())
    }
}
