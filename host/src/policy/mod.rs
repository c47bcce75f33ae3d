//! The policy engine: the ordered set of plugins in force, asked at every stage, each in its own sandbox.
//!
//! [`Policy`] is one immutable version of that set; a session keeps the one it began with. [`Policies`] holds the one in force and
//! replaces it atomically. The way of a question: [`chain`] asks each plugin of the stage, [`plugin`] decides whether it may be called,
//! `instance` calls it within its budgets, `imports` answers what it asks, `answer` checks what it says, and the outcome and
//! the [`decision`]s go back. [`gate`] has the last word on relaying, and is no part of any plugin; [`probe`] asks what strangers would ask, before a
//! policy is live.
//!
//! Never here: sockets, SMTP dialogs, the spool. How it fails: a plugin's failure is a verdict (`on_failure`) and a line in the journal;
//! a plugin that cannot be loaded is an error at load, and what was in force stays so.

mod answer;
mod bindings;
pub mod chain;
pub mod decision;
pub mod engine;
pub mod gate;
mod imports;
mod instance;
pub mod plugin;
pub mod probe;
pub mod services;
pub mod transcript;
pub mod trial;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::config::{self, Config};

pub use engine::Engine;
pub use imports::{Services, Transaction};
pub use plugin::{LoadError, Plugin};

use decision::Stage;

/// How long a session may go on with a policy that is no longer in force. Then it gets 421 at its next transaction.
pub const PIN_MAX: Duration = Duration::from_secs(10 * 60);

/// One version of the whole policy: the plugins in their order, and what stands behind their imports.
pub struct Policy {
    /// Counts up with each change, for logs and tests.
    pub number: u64,
    pub services: Arc<Services>,
    plugins: Vec<Arc<Plugin>>,
    by_stage: [Box<[Arc<Plugin>]>; Stage::ALL.len()],
    /// Since when another one is in force.
    retired: OnceLock<Instant>,
}

impl Policy {
    fn new(number: u64, plugins: Vec<Arc<Plugin>>, services: Arc<Services>) -> Policy {
        let by_stage = Stage::ALL.map(|stage| plugins.iter().filter(|plugin| plugin.has(stage)).cloned().collect());
        Policy {
            number,
            services,
            plugins,
            by_stage,
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

    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
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

/// The policy in force, and how it is replaced.
pub struct Policies {
    engine: Engine,
    current: RwLock<Arc<Policy>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    numbers: AtomicU64,
}

impl Policies {
    /// Loads the first policy and probes it. Any plugin that cannot be loaded is an error: a relay must not start with half of its rules, nor
    /// with one that opens it.
    pub async fn start(
        engine: Engine,
        config: &Config,
        files: &Files,
        services: Arc<Services>,
    ) -> Result<Policies, Vec<LoadError>> {
        let loaded = load_all(&engine, &config.plugins, files, &[]).await?;
        let policy = Policy::new(1, loaded, services);
        probe::run(&policy, config).await.map_err(|error| vec![error])?;
        Ok(Policies {
            engine,
            current: RwLock::new(Arc::new(policy)),
            changing: tokio::sync::Mutex::new(()),
            numbers: AtomicU64::new(1),
        })
    }

    /// The policy in force. A session asks once and keeps it.
    pub fn current(&self) -> Arc<Policy> {
        self.current.read().clone()
    }

    /// Replaces the policy: everything new is compiled and tried first, what did not change is taken over, the whole is probed, then one
    /// swap. On an error nothing has changed.
    pub async fn replace(
        &self,
        config: &Config,
        files: &Files,
        services: Arc<Services>,
    ) -> Result<Arc<Policy>, Vec<LoadError>> {
        let _one = self.changing.lock().await;
        let before = self.current();
        let loaded = load_all(&self.engine, &config.plugins, files, &before.plugins).await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let policy = Arc::new(Policy::new(number, loaded, services));
        probe::run(&policy, config).await.map_err(|error| vec![error])?;
        // The first time counts; each policy is replaced once.
        let _ = before.retired.set(Instant::now());
        *self.current.write() = policy.clone();
        Ok(policy)
    }
}

async fn load_all(
    engine: &Engine,
    plugins: &[config::Plugin],
    files: &Files,
    before: &[Arc<Plugin>],
) -> Result<Vec<Arc<Plugin>>, Vec<LoadError>> {
    let mut loaded = Vec::new();
    let mut errors = Vec::new();
    for settings in plugins {
        let Some(bytes) = files.get(&settings.name) else {
            errors.push(LoadError {
                plugin: settings.name.clone(),
                file: settings.file.display().to_string(),
                what: "the file was not read".into(),
            });
            continue;
        };
        let (version, _) = Plugin::version_of(settings, bytes);
        if let Some(same) = before.iter().find(|plugin| plugin.version == version) {
            loaded.push(same.clone());
            continue;
        }
        match Plugin::load(engine, Arc::new(settings.clone()), bytes.clone()).await {
            Ok(plugin) => loaded.push(Arc::new(plugin)),
            Err(error) => errors.push(error),
        }
    }
    match errors.is_empty() {
        true => Ok(loaded),
        false => Err(errors),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::auth::Users;
    use crate::dns::Dns;
    use crate::message::Id;
    use decision::{Decision, Journal};
    use services::authentication::Authenticator;
    use services::state::State;

    struct Nobody;

    impl Journal for Nobody {
        fn decision(&self, _: &Decision) {}
        fn plugin_log(&self, _: Id, _: &str, _: Stage, _: tracing::Level, _: &str) {}
    }

    #[tokio::test]
    async fn a_session_keeps_a_replaced_policy_for_a_while() {
        let config = "hostname = \"relay.test\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\n";
        let config = Config::parse(config, Path::new("gatepost.toml")).unwrap();
        let dns = Dns::scratch(false);
        let services = Arc::new(Services {
            relay_domains: Arc::default(),
            users: Arc::new(Users::parse(b"", Path::new("users")).unwrap()),
            state: State::in_memory(),
            authenticator: Authenticator::new(&dns, "relay.test"),
            dns,
            counters: Arc::default(),
            journal: Arc::new(Nobody),
        });
        let (engine, files) = (Engine::new().unwrap(), Files::new());
        let policies = Policies::start(engine, &config, &files, services.clone())
            .await
            .unwrap();
        let old = policies.current();
        assert!(!old.is_stale(Instant::now() + 2 * PIN_MAX), "it is in force");
        let new = policies.replace(&config, &files, services).await.unwrap();
        let now = Instant::now();
        assert!(!old.is_stale(now));
        assert!(old.is_stale(now + PIN_MAX));
        assert!(!new.is_stale(now + PIN_MAX));
    }
}
