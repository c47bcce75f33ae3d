//! The policy engine: the ordered set of plugins in force, asked at every stage, each in its own sandbox.
//!
//! [`Policy`] is one immutable version of that set; a session keeps the one it began with. [`Policies`] holds the one in force, and the
//! versions that are on trial ([`shadow`], [`canary`]), and replaces them atomically. The way of a question: [`chain`] asks each plugin of the stage,
//! [`plugin`] (made by [`compile`] and the checks of a load) decides whether it may be called ([`breaker`]), `instance` calls it within its budgets, `imports` answers what it asks, `answer`
//! checks what it says, and the outcome and the [`decision`]s go back. [`gate`] has the last word on relaying, and is no part of any plugin; [`probe`]
//! asks what strangers would ask, before a policy is live; [`probation`] watches what has just become so.
//!
//! Never here: sockets, SMTP dialogs, the spool. How it fails: a plugin's failure is a verdict (`on_failure`) and a line in the journal;
//! a plugin that cannot be loaded is an error at load, and what was in force stays so.

mod answer;
mod bindings;
pub mod breaker;
mod canary;
pub mod chain;
pub mod compile;
pub mod decision;
pub mod engine;
pub mod gate;
mod imports;
pub mod inspection;
mod instance;
mod memory;
pub mod plugin;
mod policies;
pub mod probation;
pub mod probe;
pub mod services;
pub mod shadow;
pub mod transcript;
pub mod trial;
mod wasi;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

pub use compile::Compiler;
pub use engine::Engine;
pub use imports::{Services, Transaction};
pub use plugin::{LoadError, Plugin};
pub use policies::Policies;

use decision::Stage;
use shadow::Beside;

/// How long a session may go on with a policy that is no longer in force. Then it gets 421 at its next transaction.
pub const PIN_MAX: Duration = Duration::from_secs(10 * 60);

/// One version of the whole policy: the plugins in their order, and what stands behind their imports.
pub struct Policy {
    /// Counts up with each change, for logs and tests.
    pub number: u64,
    pub services: Arc<Services>,
    plugins: Vec<Arc<Plugin>>,
    /// Plugins that are not asked, by name.
    disabled: BTreeSet<String>,
    by_stage: [Box<[Arc<Plugin>]>; Stage::ALL.len()],
    /// Versions that are asked beside plugins, and decide nothing.
    beside: Box<[Beside]>,
    /// Since when another one is in force.
    retired: OnceLock<Instant>,
}

impl Policy {
    fn new(
        number: u64,
        plugins: Vec<Arc<Plugin>>,
        disabled: BTreeSet<String>,
        beside: Box<[Beside]>,
        services: Arc<Services>,
    ) -> Policy {
        let asked = |stage| {
            let with_hook = plugins.iter().filter(move |plugin: &&Arc<Plugin>| plugin.has(stage));
            with_hook.filter(|plugin| !disabled.contains(&*plugin.name)).cloned()
        };
        let by_stage = Stage::ALL.map(|stage| asked(stage).collect());
        Policy {
            number,
            services,
            plugins,
            disabled,
            by_stage,
            beside,
            retired: OnceLock::new(),
        }
    }

    /// Whether any plugin has this hook. A stage without costs nothing.
    pub fn wants(&self, stage: Stage) -> bool {
        !self.by_stage[stage as usize].is_empty()
    }

    /// The plugins with this hook, in order.
    pub fn at(&self, stage: Stage) -> &[Arc<Plugin>] {
        &self.by_stage[stage as usize]
    }

    /// All plugins, disabled ones too.
    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
    }

    pub fn is_disabled(&self, plugin: &str) -> bool {
        self.disabled.contains(plugin)
    }

    /// The version that runs beside a plugin.
    fn beside(&self, plugin: &Plugin) -> Option<&Beside> {
        // Nearly always there is none at all.
        match self.beside.is_empty() {
            true => None,
            false => self
                .beside
                .iter()
                .find(|beside| beside.shadow.plugin.name == plugin.name),
        }
    }

    /// It is not in force any more: sessions that hold it have [`PIN_MAX`] from now.
    fn retire(&self) {
        // The first time counts.
        let _ = self.retired.set(Instant::now());
    }

    /// Whether a session that holds this policy has to come back for a newer one: after [`PIN_MAX`], or because a plugin of it was rolled
    /// back.
    pub fn is_stale(&self, now: Instant) -> bool {
        if self.plugins.iter().any(|plugin| plugin.is_withdrawn()) {
            return true;
        }
        self.retired
            .get()
            .is_some_and(|retired| now.duration_since(*retired) >= PIN_MAX)
    }
}

/// The bytes of each plugin's file, by the plugin's name.
pub type Files = HashMap<String, Arc<[u8]>>;
