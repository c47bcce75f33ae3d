//! What the daemon counts, as Prometheus families named `gatepost_*`.
//!
//! One [`Metrics`] per process, behind an `Arc`. What happens once per command is counted through handles that exist from the
//! start, by index; families whose labels come from the configuration (listener, plugin, route) give a handle when that thing is loaded, which
//! its owner keeps. So no event on the hot path looks up a label or allocates. Counting never fails and never waits.
//!
//! Labels that a plugin chooses are bounded: past [`DYNAMIC_LABELS_MAX`] values a family counts under `other`.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::message::{TlsFacts, since_epoch};

/// The most values that a label of a plugin's or a reply's choosing may take in one family.
pub const DYNAMIC_LABELS_MAX: usize = 256;

/// Time of a hook call, in seconds: from a warm call (1 µs) to its wall budget.
const HOOK_SECONDS: [f64; 13] = [
    2e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.0, 10.0,
];
/// Time until a message is durable, in seconds: a sync of flash to one of a busy disk.
const APPEND_SECONDS: [f64; 11] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 2.0];
/// Time from acceptance to a recipient's end (delivered or bounced), in seconds: at once to days.
const QUEUE_SECONDS: [f64; 10] = [
    0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 14_400.0, 86_400.0, 432_000.0,
];

/// What a client sent, or what made the daemon reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The connection itself: the banner.
    Connect,
    Helo,
    Ehlo,
    Starttls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    /// The end of a message: the final dot, or BDAT LAST.
    Message,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    /// Anything else, known or not; and replies that no command asked for (421 on a time-out or a shutdown).
    Other,
}

impl Command {
    const ALL: [Command; 16] = [
        Command::Connect,
        Command::Helo,
        Command::Ehlo,
        Command::Starttls,
        Command::Auth,
        Command::Mail,
        Command::Rcpt,
        Command::Data,
        Command::Bdat,
        Command::Message,
        Command::Rset,
        Command::Noop,
        Command::Vrfy,
        Command::Help,
        Command::Quit,
        Command::Other,
    ];

    fn label(self) -> &'static str {
        match self {
            Command::Connect => "connect",
            Command::Helo => "helo",
            Command::Ehlo => "ehlo",
            Command::Starttls => "starttls",
            Command::Auth => "auth",
            Command::Mail => "mail",
            Command::Rcpt => "rcpt",
            Command::Data => "data",
            Command::Bdat => "bdat",
            Command::Message => "message",
            Command::Rset => "rset",
            Command::Noop => "noop",
            Command::Vrfy => "vrfy",
            Command::Help => "help",
            Command::Quit => "quit",
            Command::Other => "other",
        }
    }
}

/// How an AUTH exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthResult {
    Ok,
    /// Wrong user or password.
    Bad,
    /// Cancelled, malformed, an unknown mechanism, or at the wrong time.
    Protocol,
    /// The users file or a plugin could not answer.
    Error,
}

/// How an attempt to deliver to a recipient ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    Delivered,
    /// 4xx, a connection that failed: it will be tried again.
    Deferred,
    /// 5xx, or expired.
    Failed,
    /// Dropped by a policy after acceptance.
    Discarded,
}

/// Labels with fixed names. Values are static where they can be.
macro_rules! labels {
    ($($name:ident { $($field:ident: $kind:ty),+ })+) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($field: $kind),+ }
    )+};
}

labels! {
    ListenerLabel { listener: String }
    CauseLabel { cause: &'static str }
    CommandLabel { command: &'static str }
    ReplyLabels { stage: &'static str, class: &'static str }
    ReasonLabel { reason: String }
    AuthLabels { mechanism: Mechanism, result: &'static str }
    TlsLabels { version: String }
    HookLabels { plugin: String, stage: &'static str }
    HookFailureLabels { plugin: String, stage: &'static str, cause: &'static str }
    PluginLabel { plugin: String }
    RollbackLabels { plugin: String, version: &'static str }
    ShadowLabels { plugin: String, outcome: &'static str }
    PluginCounterLabels { plugin: String, name: String }
    DeliveryLabels { route: String, result: &'static str }
    StateLabel { state: &'static str }
    CertificateLabel { file: String }
}

/// A mechanism's name, which is `PLAIN`, `LOGIN`, `SCRAM-SHA-256`, or `other`: clients may name anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mechanism(&'static str);

impl EncodeLabelValue for Mechanism {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Every family of the daemon.
pub struct Metrics {
    registry: Registry,
    /// Outbound and inbound bytes on SMTP sockets, before encryption.
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    /// Messages that got their 250.
    pub messages_accepted: Counter,
    /// Bytes of them.
    pub message_bytes: Counter,
    /// Handshakes that failed.
    pub tls_failed: Counter,
    /// Log lines that found the log's buffer full.
    pub log_lines_lost: Counter,
    /// Files in the bundle that could not be used at a reload (certificate, users, plugin), the old version staying.
    pub reloads_failed: Counter,
    pub reloads: Counter,
    /// 1 while there is a connection to the state server; 0 where none is configured.
    pub state_server_up: Gauge,
    /// Calls of policies that the state server did not answer, or answered with an error.
    pub state_failures: Counter,
    pub spool: SpoolMetrics,
    /// Seconds from acceptance to a recipient's end.
    pub queue_seconds: Histogram,

    sessions: Family<ListenerLabel, Counter>,
    sessions_open: Family<ListenerLabel, Gauge>,
    connections_refused: Family<CauseLabel, Counter>,
    commands: [Counter; Command::ALL.len()],
    /// By command, then by class: 2xx, 3xx, 4xx, 5xx.
    replies: [[Counter; REPLY_CLASSES.len()]; Command::ALL.len()],
    messages_refused: Family<ReasonLabel, Counter>,
    refusal_reasons: BoundedLabels,
    auth: Family<AuthLabels, Counter>,
    tls: Family<TlsLabels, Counter>,
    hook_seconds: Family<HookLabels, Histogram, fn() -> Histogram>,
    hook_failures: Family<HookFailureLabels, Counter>,
    plugin_instances: Family<PluginLabel, Gauge>,
    plugin_memory_bytes: Family<PluginLabel, Gauge>,
    plugin_breaker_open: Family<PluginLabel, Gauge>,
    plugin_breaker_opened: Family<PluginLabel, Counter>,
    plugin_rollbacks: Family<RollbackLabels, Counter>,
    shadow_calls: Family<ShadowLabels, Counter>,
    plugin_counters: Family<PluginCounterLabels, Counter>,
    plugin_counter_names: BoundedLabels,
    deliveries: Family<DeliveryLabels, Counter>,
    certificate_end: Family<CertificateLabel, Gauge>,
    worker_restarts: Gauge,
}

const REPLY_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What the spool reports.
#[derive(Clone, Debug)]
pub struct SpoolMetrics {
    /// Messages that wait for an attempt, held ones excluded.
    pub waiting: Gauge,
    pub held: Gauge,
    /// Messages that an attempt is running for.
    pub active: Gauge,
    /// On disk, dead records included.
    pub bytes: Gauge,
    /// Seconds from handing a message over until it is durable.
    pub append_seconds: Histogram,
    /// Syncs; messages accepted divided by these is how many share one.
    pub syncs: Counter,
    /// Records that were set aside because they could not be read.
    pub corrupt_records: Counter,
    /// When the oldest waiting message was accepted, in seconds since 1970; 0 if there is none.
    pub oldest_unix: Gauge,
}

/// The handles of one listener: keep it as long as the listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    sessions: Counter,
    open: Gauge,
}

/// Counts one open session from [`ListenerMetrics::session`] until it is dropped.
#[derive(Debug)]
pub struct OpenSession {
    open: Gauge,
}

impl ListenerMetrics {
    pub fn session(&self) -> OpenSession {
        self.sessions.inc();
        self.open.inc();
        OpenSession {
            open: self.open.clone(),
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The handles of one hook of one plugin: keep it with the loaded plugin.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    seconds: Histogram,
    failures: Family<HookFailureLabels, Counter>,
    plugin: String,
    stage: &'static str,
}

impl HookMetrics {
    /// A call that returned, with the time that it took (waiting for an instance included).
    pub fn called(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// A call that failed. `cause` is the limit or the fault: `trap`, `cpu`, `wall`, `memory`, `host-call-bytes`, `log-lines`, `instance` ...
    pub fn failed(&self, cause: &'static str) {
        let labels = HookFailureLabels {
            plugin: self.plugin.clone(),
            stage: self.stage,
            cause,
        };
        self.failures.get_or_create(&labels).inc();
    }
}

/// The handles of one route: keep it with the route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    delivered: Counter,
    deferred: Counter,
    failed: Counter,
    discarded: Counter,
}

impl RouteMetrics {
    /// One recipient of one attempt.
    pub fn recipient(&self, result: DeliveryResult) {
        match result {
            DeliveryResult::Delivered => self.delivered.inc(),
            DeliveryResult::Deferred => self.deferred.inc(),
            DeliveryResult::Failed => self.failed.inc(),
            DeliveryResult::Discarded => self.discarded.inc(),
        };
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("gatepost");
        let r = &mut registry;

        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The version that runs", version);
        let started = Gauge::<i64>::default();
        started.set(since_epoch(SystemTime::now()).as_secs() as i64);
        add(
            r,
            "worker_start_time_seconds",
            "When the worker started, in seconds since 1970",
            started,
        );

        let commands: Family<CommandLabel, Counter> = added(r, "commands", "Commands received");
        let replies: Family<ReplyLabels, Counter> = added(
            r,
            "replies",
            "Replies sent, by the command that they answer and their class",
        );
        let class_counters =
            |stage: &'static str| REPLY_CLASSES.map(|class| replies.get_or_create_owned(&ReplyLabels { stage, class }));
        let hook_seconds = Family::new_with_constructor((|| Histogram::new(HOOK_SECONDS)) as fn() -> Histogram);
        r.register_with_unit(
            "hook",
            "Time of hook calls, waiting for an instance included",
            Unit::Seconds,
            hook_seconds.clone(),
        );
        let queue_seconds = Histogram::new(QUEUE_SECONDS);
        r.register_with_unit(
            "queue",
            "Time from a message's acceptance to a recipient's end",
            Unit::Seconds,
            queue_seconds.clone(),
        );

        Metrics {
            received_bytes: added(r, "received_bytes", "Bytes read from SMTP clients, decrypted"),
            sent_bytes: added(r, "sent_bytes", "Bytes written to SMTP clients, before encryption"),
            messages_accepted: added(
                r,
                "messages_accepted",
                "Messages that were made durable and got their 250",
            ),
            message_bytes: added(r, "message_bytes", "Bytes of accepted messages"),
            tls_failed: added(r, "tls_handshakes_failed", "TLS handshakes that failed"),
            log_lines_lost: added(
                r,
                "log_lines_lost",
                "Log lines lost because the log could not be written fast enough",
            ),
            reloads_failed: added(
                r,
                "reloads_failed",
                "Reloads that left the old state in force, wholly or in part",
            ),
            reloads: added(r, "reloads", "Reloads that came into force"),
            state_server_up: added(
                r,
                "state_server_up",
                "1 while the state server that the configuration names is connected",
            ),
            state_failures: added(
                r,
                "state_failures",
                "Policies' calls that the state server did not answer, or answered with an error",
            ),
            spool: SpoolMetrics::new(r),
            queue_seconds,
            sessions: added(r, "sessions", "Sessions begun"),
            sessions_open: added(r, "sessions_open", "Sessions that are open now"),
            connections_refused: added(r, "connections_refused", "Connections refused before a session began"),
            commands: Command::ALL.map(|command| {
                commands.get_or_create_owned(&CommandLabel {
                    command: command.label(),
                })
            }),
            replies: Command::ALL.map(|command| class_counters(command.label())),
            messages_refused: added(
                r,
                "refusals",
                "Refused recipients, messages and sessions, by reason code",
            ),
            refusal_reasons: BoundedLabels::default(),
            auth: added(r, "auth", "Ends of AUTH exchanges"),
            tls: added(
                r,
                "tls_handshakes",
                "TLS handshakes that succeeded, by protocol version",
            ),
            hook_seconds,
            hook_failures: added(r, "hook_failures", "Hook calls that failed, by the limit or fault"),
            plugin_instances: added(r, "plugin_instances", "Plugin instances in memory"),
            plugin_memory_bytes: added(
                r,
                "plugin_memory_bytes",
                "Memories and tables of all instances of a plugin",
            ),
            plugin_breaker_open: added(
                r,
                "plugin_breaker_open",
                "1 while a plugin's circuit breaker is open or half open",
            ),
            plugin_breaker_opened: added(
                r,
                "plugin_breaker_opened",
                "How often a plugin's circuit breaker opened",
            ),
            plugin_rollbacks: added(
                r,
                "plugin_rollbacks",
                "Versions that were taken back by themselves because they failed too often: live ones and canaries",
            ),
            shadow_calls: added(
                r,
                "shadow_calls",
                "Calls of shadows, by what they said: the same as the live version, something else, or nothing (dropped)",
            ),
            plugin_counters: added(r, "plugin_counter", "Counters that plugins keep themselves"),
            plugin_counter_names: BoundedLabels::default(),
            deliveries: added(r, "deliveries", "Ends of delivery attempts, by recipient"),
            certificate_end: added(
                r,
                "certificate_not_after_seconds",
                "End of a certificate, in seconds since 1970",
            ),
            worker_restarts: added(
                r,
                "worker_restarts",
                "How often the worker was restarted since the supervisor started",
            ),
            registry,
        }
    }

    /// The handles of a listener.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let label = ListenerLabel {
            listener: name.to_owned(),
        };
        ListenerMetrics {
            sessions: self.sessions.get_or_create_owned(&label),
            open: self.sessions_open.get_or_create_owned(&label),
        }
    }

    /// The handles of a plugin's hook; `stage` is the hook's name without `on-`: `connect`, `rcpt`, `message` ...
    pub fn hook(&self, plugin: &str, stage: &'static str) -> HookMetrics {
        HookMetrics {
            seconds: self.hook_seconds.get_or_create_owned(&HookLabels {
                plugin: plugin.to_owned(),
                stage,
            }),
            failures: self.hook_failures.clone(),
            plugin: plugin.to_owned(),
            stage,
        }
    }

    /// How many instances of a plugin are in memory.
    pub fn plugin_instances(&self, plugin: &str) -> Gauge {
        self.plugin_instances.get_or_create_owned(&PluginLabel {
            plugin: plugin.to_owned(),
        })
    }

    /// What all instances of a plugin hold, in bytes.
    pub fn plugin_memory_bytes(&self, plugin: &str) -> Gauge {
        self.plugin_memory_bytes.get_or_create_owned(&PluginLabel {
            plugin: plugin.to_owned(),
        })
    }

    /// 1 while a plugin's circuit breaker is not closed.
    pub fn plugin_breaker_open(&self, plugin: &str) -> Gauge {
        self.plugin_breaker_open.get_or_create_owned(&PluginLabel {
            plugin: plugin.to_owned(),
        })
    }

    pub fn plugin_breaker_opened(&self, plugin: &str) {
        let plugin = plugin.to_owned();
        self.plugin_breaker_opened.get_or_create(&PluginLabel { plugin }).inc();
    }

    /// A version was taken back by itself: a `live` one, or a `canary`.
    pub fn plugin_rolled_back(&self, plugin: &str, version: &'static str) {
        let plugin = plugin.to_owned();
        self.plugin_rollbacks
            .get_or_create(&RollbackLabels { plugin, version })
            .inc();
    }

    /// A call that a shadow was to have: `same`, `different` or `dropped`.
    pub fn shadow_call(&self, plugin: &str, outcome: &'static str) {
        let plugin = plugin.to_owned();
        self.shadow_calls.get_or_create(&ShadowLabels { plugin, outcome }).inc();
    }

    /// A counter that a plugin named itself.
    pub fn plugin_counter(&self, plugin: &str, name: &str) -> Counter {
        let (plugin, name) = (plugin.to_owned(), self.plugin_counter_names.bounded(name));
        self.plugin_counters
            .get_or_create_owned(&PluginCounterLabels { plugin, name })
    }

    /// The handles of a route.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let counter = |result| {
            let labels = DeliveryLabels {
                route: name.to_owned(),
                result,
            };
            self.deliveries.get_or_create_owned(&labels)
        };
        RouteMetrics {
            delivered: counter("delivered"),
            deferred: counter("deferred"),
            failed: counter("failed"),
            discarded: counter("discarded"),
        }
    }

    /// A connection that got no session. `cause` is `limit`, `address-limit`, `proxy` or `draining`.
    pub fn connection_refused(&self, cause: &'static str) {
        self.connections_refused.get_or_create(&CauseLabel { cause }).inc();
    }

    pub fn command(&self, command: Command) {
        self.commands[command as usize].inc();
    }

    /// A reply that was sent; `code` is its three digits.
    pub fn reply(&self, to: Command, code: u16) {
        // Codes outside 200 to 599 are not SMTP and are not sent.
        if let Some(counter) = (code / 100)
            .checked_sub(2)
            .and_then(|class| self.replies[to as usize].get(usize::from(class)))
        {
            counter.inc();
        }
    }

    /// A recipient, message or session that was refused, with the reason code of the gate or of a plugin.
    pub fn refused(&self, reason: &str) {
        let reason = self.refusal_reasons.bounded(reason);
        self.messages_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub fn auth(&self, mechanism: &str, result: AuthResult) {
        let mechanism = ["PLAIN", "LOGIN", "SCRAM-SHA-256"]
            .into_iter()
            .find(|known| *known == mechanism);
        let result = match result {
            AuthResult::Ok => "ok",
            AuthResult::Bad => "bad",
            AuthResult::Protocol => "protocol",
            AuthResult::Error => "error",
        };
        let labels = AuthLabels {
            mechanism: Mechanism(mechanism.unwrap_or("other")),
            result,
        };
        self.auth.get_or_create(&labels).inc();
    }

    /// A finished handshake with a client.
    pub fn tls(&self, facts: &TlsFacts) {
        self.tls
            .get_or_create(&TlsLabels {
                version: facts.version.to_string(),
            })
            .inc();
    }

    /// The ends of the certificates in force, by file.
    pub fn certificates(&self, loaded: &[crate::tls::Loaded]) {
        self.certificate_end.clear();
        for certificate in loaded {
            if let Some(end) = certificate.not_after_unix {
                let label = CertificateLabel {
                    file: certificate.file.display().to_string(),
                };
                self.certificate_end.get_or_create(&label).set(end as i64);
            }
        }
    }

    /// As the supervisor says it.
    pub fn set_worker_restarts(&self, restarts: u32) {
        self.worker_restarts.set(i64::from(restarts));
    }

    /// All families in the OpenMetrics text format; its media type is [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut page = String::with_capacity(32 * 1024);
        text::encode(&mut page, &self.registry).expect("a String takes all that is written to it");
        page
    }
}

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl SpoolMetrics {
    fn new(r: &mut Registry) -> SpoolMetrics {
        let messages: Family<StateLabel, Gauge> = added(r, "spool_messages", "Messages in the queue");
        let state = |state| messages.get_or_create_owned(&StateLabel { state });
        let append_seconds = Histogram::new(APPEND_SECONDS);
        r.register_with_unit(
            "spool_append",
            "Time until an accepted message is durable",
            Unit::Seconds,
            append_seconds.clone(),
        );
        SpoolMetrics {
            waiting: state("waiting"),
            held: state("held"),
            active: state("active"),
            bytes: added(r, "spool_bytes", "Bytes that the spool takes on disk"),
            append_seconds,
            syncs: added(r, "spool_syncs", "Syncs of the spool; several messages share one"),
            corrupt_records: added(
                r,
                "spool_corrupt_records",
                "Spool records set aside because they could not be read",
            ),
            oldest_unix: added(
                r,
                "queue_oldest_timestamp_seconds",
                "Acceptance of the oldest waiting message, in seconds since 1970; 0 if none waits",
            ),
        }
    }
}

fn add<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn added<M: prometheus_client::registry::Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    add(registry, name, help, M::default())
}

/// The values that a label has taken so far, when others than the daemon choose them.
#[derive(Debug, Default)]
struct BoundedLabels(Mutex<HashSet<String>>);

impl BoundedLabels {
    fn bounded(&self, value: &str) -> String {
        let mut known = self.0.lock();
        if known.contains(value) {
            return value.to_owned();
        }
        if known.len() >= DYNAMIC_LABELS_MAX {
            return "other".to_owned();
        }
        known.insert(value.to_owned());
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn has(metrics: &Metrics, line: &str) {
        let page = metrics.encode();
        assert!(page.lines().any(|found| found == line), "no line {line:?} in\n{page}");
    }

    #[test]
    fn what_happens_is_on_the_page() {
        let metrics = Metrics::new();
        let listener = metrics.listener("mx");
        let first = listener.session();
        let second = listener.session();
        drop(first);
        metrics.connection_refused("limit");
        for _ in 0..3 {
            metrics.command(Command::Rcpt);
        }
        metrics.reply(Command::Rcpt, 250);
        metrics.reply(Command::Rcpt, 550);
        metrics.reply(Command::Message, 354);
        metrics.reply(Command::Other, 421);
        for nonsense in [0, 99, 199, 600, u16::MAX] {
            metrics.reply(Command::Other, nonsense);
        }
        metrics.refused("not-authenticated");
        metrics.auth("PLAIN", AuthResult::Ok);
        metrics.auth("X-\"ODD\"\n", AuthResult::Protocol);
        metrics.tls(&TlsFacts {
            version: Arc::from("TLSv1.3"),
            cipher: Arc::from("c"),
            server_name: None,
        });
        let hook = metrics.hook("auth-relay", "rcpt");
        hook.called(Duration::from_micros(3));
        hook.failed("trap");
        metrics.plugin_instances("auth-relay").set(4);
        metrics.plugin_memory_bytes("auth-relay").set(1 << 20);
        metrics.plugin_breaker_open("auth-relay").set(1);
        metrics.plugin_breaker_opened("auth-relay");
        metrics.plugin_rolled_back("auth-relay", "canary");
        metrics.shadow_call("auth-relay", "different");
        metrics.plugin_counter("auth-relay", "granted").inc();
        metrics.route("default").recipient(DeliveryResult::Deferred);
        metrics.spool.held.set(2);
        metrics.spool.append_seconds.observe(0.002);
        metrics.set_worker_restarts(1);
        for line in [
            "gatepost_sessions_total{listener=\"mx\"} 2",
            "gatepost_sessions_open{listener=\"mx\"} 1",
            "gatepost_connections_refused_total{cause=\"limit\"} 1",
            "gatepost_commands_total{command=\"rcpt\"} 3",
            "gatepost_replies_total{stage=\"rcpt\",class=\"2xx\"} 1",
            "gatepost_replies_total{stage=\"rcpt\",class=\"5xx\"} 1",
            "gatepost_replies_total{stage=\"message\",class=\"3xx\"} 1",
            "gatepost_replies_total{stage=\"other\",class=\"4xx\"} 1",
            "gatepost_replies_total{stage=\"other\",class=\"2xx\"} 0",
            "gatepost_refusals_total{reason=\"not-authenticated\"} 1",
            "gatepost_auth_total{mechanism=\"PLAIN\",result=\"ok\"} 1",
            "gatepost_auth_total{mechanism=\"other\",result=\"protocol\"} 1",
            "gatepost_tls_handshakes_total{version=\"TLSv1.3\"} 1",
            "gatepost_hook_seconds_count{plugin=\"auth-relay\",stage=\"rcpt\"} 1",
            "gatepost_hook_seconds_bucket{le=\"0.000005\",plugin=\"auth-relay\",stage=\"rcpt\"} 1",
            "gatepost_hook_failures_total{plugin=\"auth-relay\",stage=\"rcpt\",cause=\"trap\"} 1",
            "gatepost_plugin_instances{plugin=\"auth-relay\"} 4",
            "gatepost_plugin_memory_bytes{plugin=\"auth-relay\"} 1048576",
            "gatepost_plugin_breaker_open{plugin=\"auth-relay\"} 1",
            "gatepost_plugin_breaker_opened_total{plugin=\"auth-relay\"} 1",
            "gatepost_plugin_rollbacks_total{plugin=\"auth-relay\",version=\"canary\"} 1",
            "gatepost_shadow_calls_total{plugin=\"auth-relay\",outcome=\"different\"} 1",
            "gatepost_plugin_counter_total{plugin=\"auth-relay\",name=\"granted\"} 1",
            "gatepost_deliveries_total{route=\"default\",result=\"deferred\"} 1",
            "gatepost_spool_messages{state=\"held\"} 2",
            "gatepost_spool_append_seconds_count 1",
            "gatepost_worker_restarts 1",
            "# EOF",
        ] {
            has(&metrics, line);
        }
        drop(second);
        has(&metrics, "gatepost_sessions_open{listener=\"mx\"} 0");
    }

    #[test]
    fn labels_that_others_choose_are_bounded() {
        let metrics = Metrics::new();
        for number in 0..2 * DYNAMIC_LABELS_MAX {
            metrics.refused(&format!("reason-{number}"));
        }
        let page = metrics.encode();
        assert_eq!(page.matches("gatepost_refusals_total{").count(), DYNAMIC_LABELS_MAX + 1);
        has(
            &metrics,
            &format!("gatepost_refusals_total{{reason=\"other\"}} {DYNAMIC_LABELS_MAX}"),
        );
    }

    #[test]
    fn every_command_counts_for_itself() {
        for (place, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command as usize, place);
        }
    }
}
