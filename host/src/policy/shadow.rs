//! A version that is asked beside the one in force and decides nothing: it gets the same calls, and what it says is compared.
//!
//! The call is copied before the version in force is asked (behind `Arc`s, so that costs little), and runs in a task of its own after that one's
//! answer is known. At most [`RUNNING_MAX`] run at a time for a shadow; what finds no place is dropped and counted. It reads what the live version
//! reads (users, DNS, the live version's notes, its endpoints with the same grants); what it writes goes nowhere: its store is
//! its own and begins empty, its notes and edits end with the call. Whatever becomes of it, the session never hears of it.
//!
//! A hook that only the new version has is not called: there is nothing to compare it with. One that it does not have any more counts as `pass`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bindings::exports::gatepost::policy as hooks;
use super::bindings::gatepost::policy::{queue, types as wit};
use super::chain::{self, Scope};
use super::decision::{Comparison, Decision, Digest, Journal, Notice, Said, Stage, Verdict};
use super::imports::{Call, Services};
use super::instance::HookCall;
use super::plugin::Plugin;
use super::services::counters::Counters;
use super::services::state::{Embedded, State};
use crate::message::Id;

/// Calls of one shadow at a time. Each holds an instance, and what its call sees: a message of some 256 KiB in memory at most.
pub const RUNNING_MAX: usize = 8;

/// A version that runs beside the one in force, for as long as it does.
pub struct Shadow {
    pub plugin: Arc<Plugin>,
    state: Embedded,
    counters: Arc<Counters>,
    places: Arc<Semaphore>,
    same: AtomicU64,
    different: AtomicU64,
    dropped: AtomicU64,
}

/// How often a shadow said the same as the live version, something else, or had no place to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub same: u64,
    pub different: u64,
    pub dropped: u64,
}

impl Shadow {
    pub fn new(plugin: Plugin) -> Shadow {
        Shadow {
            plugin: Arc::new(plugin),
            state: Embedded::in_memory(),
            counters: Arc::default(),
            places: Arc::new(Semaphore::new(RUNNING_MAX)),
            same: AtomicU64::new(0),
            different: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    pub fn tally(&self) -> Tally {
        Tally {
            same: self.same.load(Ordering::Relaxed),
            different: self.different.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Forgets what has expired in its store.
    pub fn sweep(&self, now_ms: u64) {
        self.state.sweep(now_ms);
    }
}

/// A shadow in one policy: what stands behind its imports there.
pub struct Beside {
    pub shadow: Arc<Shadow>,
    services: Arc<Services>,
}

impl Beside {
    /// The policy's services, but for what can be written.
    pub fn new(shadow: Arc<Shadow>, services: &Services) -> Beside {
        let services = Services {
            relay_domains: services.relay_domains.clone(),
            users: services.users.clone(),
            keys: services.keys.clone(),
            state: State::Embedded(shadow.state.clone()),
            dns: services.dns.clone(),
            authenticator: services.authenticator.clone(),
            counters: shadow.counters.clone(),
            journal: Arc::new(Marked(services.journal.clone())),
        };
        Beside {
            shadow,
            services: Arc::new(services),
        }
    }

    /// Copies a call before the live version gets it, if there is a place to run it.
    pub fn copy(&self, call: &Call, stage: Stage, hook: HookCall<'_>) -> Option<Box<Copied>> {
        let shadow = self.shadow.clone();
        let Ok(place) = shadow.places.clone().try_acquire_owned() else {
            shadow.dropped.fetch_add(1, Ordering::Relaxed);
            let plugin = &shadow.plugin.name;
            call.services.journal.notice(&Notice::ShadowDropped { plugin });
            return None;
        };
        Some(Box::new(Copied {
            journal: call.services.journal.clone(),
            call: Box::new(call.copy_with(self.services.clone())),
            stage,
            hook: Hook::from(hook),
            shadow,
            place,
        }))
    }
}

/// The log lines of a shadow's guest say whose they are.
struct Marked(Arc<dyn Journal>);

impl Journal for Marked {
    fn decision(&self, _: &Decision) {}

    fn plugin_log(&self, session: Id, plugin: &str, stage: Stage, level: tracing::Level, text: &str) {
        self.0
            .plugin_log(session, &format!("{plugin} (shadow)"), stage, level, text);
    }
}

/// A call that waits for the live version's answer.
pub struct Copied {
    shadow: Arc<Shadow>,
    journal: Arc<dyn Journal>,
    call: Box<Call>,
    stage: Stage,
    hook: Hook,
    place: OwnedSemaphorePermit,
}

impl Copied {
    /// Has the shadow answer in a task of its own, and compares. Returns at once.
    pub fn run(self: Box<Copied>, live: &Decision) {
        // It reads the clock that the live version read.
        tokio::spawn(self.answer(live.at, Said::of(live)));
    }

    async fn answer(self: Box<Copied>, at: SystemTime, live: Said) {
        let Copied {
            shadow,
            journal,
            mut call,
            stage,
            hook,
            place,
        } = *self;
        let (session, message) = (call.session.id, call.message);
        let plugin = &*shadow.plugin;
        let said = match plugin.has(stage) {
            false => Said::pass(plugin.version),
            true => {
                call.begin(stage, at);
                let (result, call) = plugin.call(call, Instant::now(), hook.as_call()).await;
                let said = chain::weigh(plugin, stage, result, Scope::of(call));
                plugin.settle(said.failure.as_ref());
                said
            }
        };
        let same = said.is_like(&live);
        let count = if same { &shadow.same } else { &shadow.different };
        count.fetch_add(1, Ordering::Relaxed);
        let comparison = Comparison {
            session,
            message,
            stage,
            plugin: &plugin.name,
            live: &live,
            shadow: &said,
        };
        journal.notice(&match same {
            true => Notice::ShadowAgrees(&comparison),
            false => Notice::ShadowDiffers(&comparison),
        });
        drop(place);
    }
}

impl Said {
    fn of(decision: &Decision) -> Said {
        Said {
            version: decision.version,
            verdict: decision.verdict.clone(),
            actions: decision.actions.clone(),
            reason: decision.reason().to_owned(),
            failure: decision.failure.clone(),
        }
    }

    fn pass(version: Digest) -> Said {
        Said {
            version,
            verdict: Verdict::Pass,
            actions: Vec::new(),
            reason: String::new(),
            failure: None,
        }
    }

    /// Whether it comes to the same for the client and the message. Reasons may differ: they are told to nobody but the log.
    fn is_like(&self, other: &Said) -> bool {
        match (&self.failure, &other.failure) {
            (None, None) => self.verdict == other.verdict && self.actions == other.actions,
            (Some(one), Some(other)) => one.kind() == other.kind(),
            _ => false,
        }
    }
}

/// A [`HookCall`] that owns what it asks.
enum Hook {
    Connect,
    Ehlo(String),
    Auth,
    Mail,
    Rcpt(wit::RelayView),
    Data,
    Message,
    Queued(queue::QueuedMessage),
    Route(queue::QueuedMessage),
    Delivery(queue::QueuedMessage, queue::AttemptResult),
    Result(hooks::on_result::CommandResult),
    Disconnect,
}

impl From<HookCall<'_>> for Hook {
    fn from(call: HookCall<'_>) -> Hook {
        match call {
            HookCall::Connect => Hook::Connect,
            HookCall::Ehlo(name) => Hook::Ehlo(name.to_owned()),
            HookCall::Auth => Hook::Auth,
            HookCall::Mail => Hook::Mail,
            HookCall::Rcpt(relay) => Hook::Rcpt(relay.clone()),
            HookCall::Data => Hook::Data,
            HookCall::Message => Hook::Message,
            HookCall::Queued(message) => Hook::Queued(message.clone()),
            HookCall::Route(message) => Hook::Route(message.clone()),
            HookCall::Delivery(message, result) => Hook::Delivery(message.clone(), result.clone()),
            HookCall::Result(result) => Hook::Result(result.clone()),
            HookCall::Disconnect => Hook::Disconnect,
        }
    }
}

impl Hook {
    fn as_call(&self) -> HookCall<'_> {
        match self {
            Hook::Connect => HookCall::Connect,
            Hook::Ehlo(name) => HookCall::Ehlo(name),
            Hook::Auth => HookCall::Auth,
            Hook::Mail => HookCall::Mail,
            Hook::Rcpt(relay) => HookCall::Rcpt(relay),
            Hook::Data => HookCall::Data,
            Hook::Message => HookCall::Message,
            Hook::Queued(message) => HookCall::Queued(message),
            Hook::Route(message) => HookCall::Route(message),
            Hook::Delivery(message, result) => HookCall::Delivery(message, result),
            Hook::Result(result) => HookCall::Result(result),
            Hook::Disconnect => HookCall::Disconnect,
        }
    }
}
