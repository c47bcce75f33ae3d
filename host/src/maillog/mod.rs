//! The log: one structured event for each thing that happens to a session or a message.
//!
//! The functions here are the only way in which sessions, messages and decisions reach the log, so each event has its fields in
//! one place; whatever else the daemon has to say (start, reload, faults) it says with `tracing`'s macros, and ends up in the same log. A line is
//! JSON, or text for a terminal. Values that come from peers are escaped in both: nothing that a client, a next hop or a
//! plugin says can forge a line or move a terminal's cursor.
//!
//! Logging never waits and never fails: lines go into a bounded buffer that a thread of its own writes out ([`sink`]). What finds it
//! full is lost, counted, and the count is logged.
//!
//! A message that is relayed costs two events, [`accepted`] and [`delivery`]; a session costs two more, and one for TLS.

mod format;
mod sink;
mod subscriber;

use std::fmt::{self, Display};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use tracing::Level;

use crate::config::{Log, LogFormat};
use crate::message::{Id, Recipient, SessionFacts};
use format::Format;
pub use sink::{BUFFER_BYTES, Sink};
use subscriber::LineSubscriber;

/// The `target` of the events of sessions and messages.
pub const MAIL: &str = "gatepost::mail";
/// The recipients that one event names; their number is always there.
pub const RECIPIENTS_NAMED: usize = 10;

/// How lines reach standard error.
pub enum Writing {
    /// Each by its own write, before the call returns: for processes that log little and may end at any moment.
    Direct,
    /// Through a bounded buffer and a thread; lines that find the buffer full are counted here.
    Buffered { lost: Counter },
}

/// Ends the log in good order: what was logged is written before this is gone.
pub struct LogGuard {
    sink: Arc<Sink>,
    subscriber: Arc<LineSubscriber>,
}

impl LogGuard {
    /// Takes over the level of a reloaded configuration. The format stays what it was at the start.
    pub fn set_level(&self, level: Level) {
        self.subscriber.set_level(level);
    }

    /// Returns when everything logged so far is written, or after [`sink::FLUSH_TIMEOUT`].
    pub fn flush(&self) {
        self.sink.flush();
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.sink.flush();
    }
}

/// Makes the log this process's own, panics included. Once a process; a second call is an error.
pub fn init(log: &Log, writing: Writing) -> Result<LogGuard, tracing::dispatcher::SetGlobalDefaultError> {
    let format = match log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
        LogFormat::Auto if std::io::stderr().is_terminal() => Format::Text,
        LogFormat::Auto => Format::Json,
    };
    let sink = match writing {
        Writing::Direct => Sink::direct(std::io::stderr()),
        Writing::Buffered { lost } => Sink::buffered(std::io::stderr(), format, lost),
    };
    let subscriber = Arc::new(LineSubscriber::new(format, log.level, sink.clone()));
    tracing::dispatcher::set_global_default(tracing::Dispatch::from(subscriber.clone()))?;
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        tracing::error!(place = panic.location().map(display), error = text, "panic");
    }));
    Ok(LogGuard { sink, subscriber })
}

/// A client connected and its session begins.
pub fn session_started(session: &SessionFacts) {
    tracing::info!(
        target: MAIL,
        session_id = %session.id,
        listener = &*session.listener,
        peer = %session.peer,
        local = %session.local,
        proxy = session.proxy.map(display),
        "connected"
    );
}

/// A connection got no session: `cause` as in the metric `gatepost_connections_refused_total`.
pub fn connection_refused(listener: &str, peer: SocketAddr, cause: &str, detail: &dyn Display) {
    tracing::info!(target: MAIL, listener, peer = %peer, cause, detail = %detail, "connection refused");
}

/// EHLO or HELO was accepted.
pub fn hello(session: &SessionFacts) {
    tracing::debug!(
        target: MAIL,
        session_id = %session.id,
        ehlo = session.ehlo.as_deref(),
        esmtp = session.esmtp,
        "hello"
    );
}

/// A TLS handshake succeeded; its facts are in the session.
pub fn tls(session: &SessionFacts) {
    let Some(tls) = &session.tls else { return };
    tracing::info!(
        target: MAIL,
        session_id = %session.id,
        version = &*tls.version,
        cipher = &*tls.cipher,
        server_name = tls.server_name.as_deref(),
        "tls"
    );
}

/// A TLS handshake failed.
pub fn tls_failed(session: &SessionFacts, error: &dyn Display) {
    tracing::info!(target: MAIL, session_id = %session.id, peer = %session.peer, error = %error, "tls failed");
}

/// The client authenticated; who it is now is in the session.
pub fn auth(session: &SessionFacts) {
    let Some(identity) = &session.identity else { return };
    tracing::info!(
        target: MAIL,
        session_id = %session.id,
        peer = %session.peer,
        identity = &*identity.name,
        mechanism = &*identity.method,
        "auth"
    );
}

/// The client did not authenticate. `user` is what it claimed to be, as far as that is known; the password is nowhere.
pub fn auth_failed(session: &SessionFacts, mechanism: &str, user: Option<&str>, reason: &str) {
    tracing::info!(
        target: MAIL,
        session_id = %session.id,
        peer = %session.peer,
        mechanism,
        user,
        reason,
        "auth failed"
    );
}

/// A refusal: of a command, a recipient, a message or the whole session.
pub struct Refusal<'a> {
    pub session: &'a SessionFacts,
    /// The id in the reply.
    pub id: Id,
    /// `RCPT`, `DATA`, `connect` ...
    pub command: &'a str,
    /// The reply, without the line end.
    pub reply: &'a str,
    /// The reason code.
    pub reason: &'a str,
    /// Who refused; `None` is the relay itself.
    pub plugin: Option<&'a str>,
    /// The hook that refused; `None` is the relay itself.
    pub stage: Option<&'a str>,
    pub sender: Option<&'a str>,
    pub recipient: Option<&'a str>,
    /// What the reply does not say; may be empty.
    pub detail: &'a str,
}

pub fn refused(refusal: &Refusal<'_>) {
    tracing::info!(
        target: MAIL,
        session_id = %refusal.session.id,
        id = %refusal.id,
        peer = %refusal.session.peer,
        command = refusal.command,
        reply = refusal.reply,
        reason = refusal.reason,
        plugin = refusal.plugin,
        stage = refusal.stage,
        sender = refusal.sender,
        recipient = refusal.recipient,
        identity = refusal.session.identity.as_ref().map(|identity| &*identity.name),
        detail = Some(refusal.detail).filter(|detail| !detail.is_empty()),
        "refused"
    );
}

/// One hook call and what came of it.
pub struct DecisionEvent<'a> {
    pub session_id: Id,
    pub message_id: Option<Id>,
    pub stage: &'a str,
    pub plugin: &'a str,
    /// The version's digest.
    pub version: &'a dyn Display,
    /// `pass`, `accept`, `reject` ...
    pub verdict: &'a str,
    pub actions: &'a [String],
    pub reason: &'a str,
    pub detail: &'a str,
    pub remedy: &'a str,
    /// What went wrong, if the call failed: then the verdict is what `on_failure` made of it.
    pub failure: Option<&'a dyn Display>,
    pub took: Duration,
}

/// Calls that failed are warnings, those that ended a stage are worth knowing, and the rest is for who looks closely.
pub fn decision(decision: &DecisionEvent<'_>) {
    macro_rules! event {
        ($level:expr) => {
            tracing::event!(
                target: MAIL,
                $level,
                session_id = %decision.session_id,
                message_id = decision.message_id.map(display),
                stage = decision.stage,
                plugin = decision.plugin,
                version = %decision.version,
                verdict = decision.verdict,
                actions = Some(Joined(decision.actions)).filter(|list| !list.0.is_empty()).map(display),
                reason = Some(decision.reason).filter(|reason| !reason.is_empty()),
                detail = Some(decision.detail).filter(|detail| !detail.is_empty()),
                remedy = Some(decision.remedy).filter(|remedy| !remedy.is_empty()),
                failure = decision.failure.map(display),
                took_us = decision.took.as_micros() as u64,
                "decision"
            )
        };
    }
    if decision.failure.is_some() {
        event!(Level::WARN);
    } else if decision.verdict != "pass" {
        event!(Level::INFO);
    } else {
        event!(Level::DEBUG);
    }
}

/// What the live version and its shadow said of one call, and did not agree.
pub struct ShadowEvent<'a> {
    pub session_id: Id,
    pub message_id: Option<Id>,
    pub stage: &'a str,
    pub plugin: &'a str,
    pub live: Said<'a>,
    pub shadow: Said<'a>,
}

/// One of the two.
pub struct Said<'a> {
    pub version: &'a dyn Display,
    /// The verdict, with its reply if it has one.
    pub verdict: &'a str,
    pub actions: &'a [String],
    pub reason: &'a str,
    pub failure: Option<&'a dyn Display>,
}

pub fn shadow_differs(event: &ShadowEvent<'_>) {
    let (live, shadow) = (&event.live, &event.shadow);
    let actions = |said: &Said<'_>| Joined(said.actions).to_string();
    tracing::info!(
        target: MAIL,
        session_id = %event.session_id,
        message_id = event.message_id.map(display),
        stage = event.stage,
        plugin = event.plugin,
        version = %live.version,
        verdict = live.verdict,
        actions = Some(actions(live)).filter(|list| !list.is_empty()),
        reason = Some(live.reason).filter(|reason| !reason.is_empty()),
        failure = live.failure.map(display),
        shadow_version = %shadow.version,
        shadow_verdict = shadow.verdict,
        shadow_actions = Some(actions(shadow)).filter(|list| !list.is_empty()),
        shadow_reason = Some(shadow.reason).filter(|reason| !reason.is_empty()),
        shadow_failure = shadow.failure.map(display),
        "shadow differs"
    );
}

/// A plugin failed so often that it is not called for a while; `on_failure` answers at once.
pub fn breaker_opened(plugin: &str, version: &dyn Display, pause: Duration) {
    tracing::warn!(target: MAIL, plugin, version = %version, pause_ms = pause.as_millis() as u64, "breaker opened");
}

/// It did well in trial calls, and is called as before.
pub fn breaker_closed(plugin: &str, version: &dyn Display) {
    tracing::warn!(target: MAIL, plugin, version = %version, "breaker closed");
}

/// A line that a plugin wrote.
pub fn plugin_log(session_id: Id, plugin: &str, stage: &str, level: Level, text: &str) {
    macro_rules! event {
        ($level:expr) => {
            tracing::event!(target: MAIL, $level, session_id = %session_id, plugin, stage, text, "plugin says")
        };
    }
    match level {
        Level::ERROR => event!(Level::ERROR),
        Level::WARN => event!(Level::WARN),
        Level::INFO => event!(Level::INFO),
        Level::DEBUG => event!(Level::DEBUG),
        Level::TRACE => event!(Level::TRACE),
    }
}

/// A message that is durable and gets its 250.
pub struct Accepted<'a> {
    pub session: &'a SessionFacts,
    pub message_id: Id,
    pub sender: &'a str,
    pub recipients: &'a [Recipient],
    pub size_bytes: u64,
    /// The reason, if it is held.
    pub held: Option<&'a str>,
    /// From MAIL to the moment before the 250.
    pub took: Duration,
}

pub fn accepted(message: &Accepted<'_>) {
    let named = message.recipients.iter().take(RECIPIENTS_NAMED);
    tracing::info!(
        target: MAIL,
        session_id = %message.session.id,
        message_id = %message.message_id,
        peer = %message.session.peer,
        identity = message.session.identity.as_ref().map(|identity| &*identity.name),
        sender = message.sender,
        recipients = %JoinedIter(named.map(|recipient| recipient.address.as_str())),
        recipient_count = message.recipients.len(),
        size_bytes = message.size_bytes,
        held = message.held,
        took_us = message.took.as_micros() as u64,
        "accepted"
    );
}

/// One attempt at one destination, for all recipients that it ended in the same way for.
pub struct DeliveryEvent<'a> {
    pub message_id: Id,
    pub sender: &'a str,
    pub recipients: &'a [&'a str],
    /// `delivered`, `deferred`, `failed` or `discarded`.
    pub result: &'a str,
    pub route: &'a str,
    /// The next hop's name, and its address once there was a connection.
    pub next_hop: &'a str,
    pub address: Option<SocketAddr>,
    /// `TLSv1.3` ..., if the connection had TLS.
    pub tls: Option<&'a str>,
    /// The next hop's reply, or the error that took its place.
    pub reply: &'a str,
    /// Which attempt this was, from 1.
    pub attempt: u32,
    /// Since the message was accepted.
    pub age: Duration,
    pub next_attempt: Option<SystemTime>,
}

/// Recipients that failed for good are warnings.
pub fn delivery(event: &DeliveryEvent<'_>) {
    let named = &event.recipients[..event.recipients.len().min(RECIPIENTS_NAMED)];
    macro_rules! event {
        ($level:expr) => {
            tracing::event!(
                target: MAIL,
                $level,
                message_id = %event.message_id,
                sender = event.sender,
                recipients = %Joined(named),
                recipient_count = event.recipients.len(),
                route = event.route,
                next_hop = event.next_hop,
                address = event.address.map(display),
                tls = event.tls,
                reply = event.reply,
                attempt = event.attempt,
                age_ms = event.age.as_millis() as u64,
                next_attempt = event.next_attempt.map(|at| display(format::Rfc3339(at))),
                "{}", event.result
            )
        };
    }
    if event.result == "failed" {
        event!(Level::WARN)
    } else {
        event!(Level::INFO)
    }
}

/// A bounce or a delay notice was made for a message.
pub fn dsn(message_id: Id, dsn_id: Id, kind: &str, recipient: &str) {
    tracing::info!(target: MAIL, message_id = %message_id, dsn_id = %dsn_id, kind, recipient, "dsn");
}

/// Somebody changed a message in the queue by hand: `action` is `retry`, `hold`, `release` or `remove`.
pub fn queue_changed(message_id: Id, action: &str) {
    tracing::info!(target: MAIL, message_id = %message_id, action, "queue changed");
}

/// What a session came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionTotals {
    pub commands: u64,
    pub accepted: u64,
    pub refused: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// The session ended; `cause` is `quit`, `lost`, `timeout`, `errors`, `early-talk`, `draining`, ...
pub fn disconnected(session: &SessionFacts, cause: &str, totals: &SessionTotals) {
    let took = SystemTime::now().duration_since(session.started).unwrap_or_default();
    tracing::info!(
        target: MAIL,
        session_id = %session.id,
        peer = %session.peer,
        cause,
        ehlo = session.ehlo.as_deref(),
        commands = totals.commands,
        accepted = totals.accepted,
        refused = totals.refused,
        received_bytes = totals.received_bytes,
        sent_bytes = totals.sent_bytes,
        took_ms = took.as_millis() as u64,
        "disconnected"
    );
}

/// A list as one value, with commas.
struct Joined<'a, T>(&'a [T]);

impl<T: Display> Display for Joined<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        JoinedIter(self.0.iter()).fmt(f)
    }
}

struct JoinedIter<I>(I);

impl<T: Display, I: Iterator<Item = T> + Clone> Display for JoinedIter<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.clone().enumerate().try_for_each(|(place, value)| match place {
            0 => value.fmt(f),
            _ => write!(f, ",{value}"),
        })
    }
}

#[cfg(test)]
mod tests;
