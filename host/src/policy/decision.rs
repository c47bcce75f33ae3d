//! What a policy was asked and what it said, as values.
//!
//! Every hook call ends in one [`Decision`], whatever happened to it; the log line, the metrics and the chain's outcome are all
//! made from it, so that nothing that a policy sees or says can bypass what explains it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost_smtp::reply::Reply;
use sha2::{Digest as _, Sha256};

use crate::config::Grant;
use crate::message::Id;

/// The hooks, in the order in which a message passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    Connect,
    Ehlo,
    Auth,
    Mail,
    Rcpt,
    Data,
    Message,
    Queued,
    Route,
    Delivery,
    Result,
    Disconnect,
}

impl Stage {
    pub const ALL: [Stage; 12] = [
        Stage::Connect,
        Stage::Ehlo,
        Stage::Auth,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Message,
        Stage::Queued,
        Stage::Route,
        Stage::Delivery,
        Stage::Result,
        Stage::Disconnect,
    ];

    /// The hook's name in the interface: `on-rcpt`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Connect => "on-connect",
            Stage::Ehlo => "on-ehlo",
            Stage::Auth => "on-auth",
            Stage::Mail => "on-mail",
            Stage::Rcpt => "on-rcpt",
            Stage::Data => "on-data",
            Stage::Message => "on-message",
            Stage::Queued => "on-queued",
            Stage::Route => "on-route",
            Stage::Delivery => "on-delivery",
            Stage::Result => "on-result",
            Stage::Disconnect => "on-disconnect",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The SHA-256 of a plugin's file and of its configuration and grants: which version said it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of a file alone.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    /// The first 12 hexadecimal digits, as git does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What happens, as the policy wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Accept,
    Reject(Reply),
    Defer(Reply),
    Disconnect(Reply),
    Discard,
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Accept => "accept",
            Verdict::Reject(_) => "reject",
            Verdict::Defer(_) => "defer",
            Verdict::Disconnect(_) => "disconnect",
            Verdict::Discard => "discard",
        }
    }
}

/// Why, for the log and for whoever asks later; never for the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// In kebab case: `sender-not-owned`.
    pub reason: String,
    pub detail: String,
    pub remedy: String,
    /// What would have changed the answer.
    pub otherwise: Option<String>,
}

/// One thing that a policy asked the host for, and what it was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The import: `session.peer`, `state.take-all`.
    pub what: &'static str,
    /// What was asked for, where the import has an argument.
    pub about: Option<Box<str>>,
    pub told: Told,
}

/// An answer of the host to a policy, short enough to keep.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Nothing,
    Flag(bool),
    Number(u64),
    Text(Arc<str>),
    /// So many bytes, or elements of a list, which are not kept.
    Amount(usize),
}

/// The most reads of one call that are kept.
pub const READS_MAX: usize = 64;

/// Why a hook call had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The guest trapped; the text has the guest's backtrace.
    Trap(String),
    /// `cpu_ms` was used up.
    Cpu,
    /// `wall_ms` passed.
    Wall,
    /// `memory_mib` was reached.
    Memory,
    /// `max_memory_mib` was reached.
    TotalMemory,
    /// `host_call_bytes` crossed.
    HostCallBytes,
    /// No instance was free in time.
    Busy,
    /// It could not be instantiated or configured.
    Start(String),
    /// The answer breaks a rule of the interface.
    Answer(String),
    /// The answer has an action whose grant the plugin does not have.
    Ungranted { action: &'static str, grant: Grant },
    /// It failed too often lately and is not called for a while.
    BreakerOpen,
}

impl Failure {
    /// The limit or kind in one word, for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::Trap(_) => "trap",
            Failure::Cpu => "cpu",
            Failure::Wall => "wall",
            Failure::Memory => "memory",
            Failure::TotalMemory => "memory-total",
            Failure::HostCallBytes => "host-call-bytes",
            Failure::Busy => "busy",
            Failure::Start(_) => "start",
            Failure::Answer(_) | Failure::Ungranted { .. } => "answer",
            Failure::BreakerOpen => "breaker-open",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Trap(text) => write!(f, "it trapped: {text}"),
            Failure::Cpu => f.write_str("it used up its budget of CPU time (cpu_ms)"),
            Failure::Wall => f.write_str("it took longer than wall_ms"),
            Failure::Memory => f.write_str("it reached its limit of memory (memory_mib)"),
            Failure::TotalMemory => {
                f.write_str("all of its instances together reached their limit of memory (max_memory_mib)")
            }
            Failure::HostCallBytes => f.write_str("it moved more than host_call_bytes in and out"),
            Failure::Busy => f.write_str("all of its max_instances were in use until wall_ms had passed"),
            Failure::Start(text) => write!(f, "it could not be started: {text}"),
            Failure::Answer(text) => write!(f, "its answer breaks a rule: {text}"),
            Failure::Ungranted { action, grant } => {
                write!(
                    f,
                    "its answer breaks a rule: the action {action} needs the grant {grant}"
                )
            }
            Failure::BreakerOpen => f.write_str("it failed too often lately and is not asked for a while"),
        }
    }
}

/// One hook call, whole: what was asked of whom, what it read, and what came of it.
#[derive(Clone, Debug)]
pub struct Decision {
    pub session: Id,
    /// There from on-message on.
    pub message: Option<Id>,
    pub stage: Stage,
    pub plugin: Arc<str>,
    pub version: Digest,
    /// In order; at most [`READS_MAX`].
    pub read: Vec<Read>,
    /// What is in force: the plugin's own answer, or what `on_failure` makes of a failure.
    pub verdict: Verdict,
    /// The names of the actions, with their main value: `allow-relay`, `tag spam=yes`.
    pub actions: Vec<String>,
    pub why: Option<Explanation>,
    pub failure: Option<Failure>,
    pub at: SystemTime,
    pub took: Duration,
}

impl Decision {
    /// The reason code, or an empty text.
    pub fn reason(&self) -> &str {
        match (&self.why, &self.failure) {
            (_, Some(failure)) => failure.kind(),
            (Some(why), None) => &why.reason,
            (None, None) => "",
        }
    }
}

/// What one version said of one call, checked.
#[derive(Clone, Debug)]
pub struct Said {
    pub version: Digest,
    pub verdict: Verdict,
    pub actions: Vec<String>,
    pub reason: String,
    pub failure: Option<Failure>,
}

/// What the version in force and the one beside it said of the same call.
pub struct Comparison<'a> {
    pub session: Id,
    pub message: Option<Id>,
    pub stage: Stage,
    pub plugin: &'a str,
    pub live: &'a Said,
    pub shadow: &'a Said,
}

/// What becomes of plugins by itself, besides their decisions.
pub enum Notice<'a> {
    /// It failed so often that it is not called for a while.
    BreakerOpened {
        plugin: &'a str,
        version: Digest,
        pause: Duration,
    },
    /// Trial calls did well: it is called as before.
    BreakerClosed {
        plugin: &'a str,
        version: Digest,
    },
    ShadowAgrees(&'a Comparison<'a>),
    ShadowDiffers(&'a Comparison<'a>),
    /// A call that the shadow did not get, because too many of its calls were running.
    ShadowDropped {
        plugin: &'a str,
    },
}

/// Where decisions and plugins' log lines go. Called on the hot path: it must not wait.
pub trait Journal: Send + Sync {
    fn decision(&self, decision: &Decision);
    /// A line that a plugin wrote during a hook.
    fn plugin_log(&self, session: Id, plugin: &str, stage: Stage, level: tracing::Level, text: &str);
    /// What probes and tests need not know.
    fn notice(&self, _: &Notice<'_>) {}
}
