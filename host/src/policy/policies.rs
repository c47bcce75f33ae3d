//! The policy in force, the versions on trial, and the one way in which any of that changes.
//!
//! A change is compiled, tried and probed first, and then swapped in at once; on an error nothing has changed. One change at a time. The version
//! that a plugin had before is kept ready, so that taking a new one back takes no compiler.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::canary::Canary;
use super::decision::{Digest, Stage};
use super::probation::PROBATION;
use super::shadow::Beside;
use super::trial::{Running, Trial, Trials};
use super::{Engine, Files, LoadError, Plugin, Policy, Services, probe};
use crate::config::Config;
use crate::message::Id;

/// The policy in force, and how it is replaced.
pub struct Policies {
    pub(super) engine: Engine,
    current: RwLock<Arc<Policy>>,
    canary: Canary,
    /// Changed only under `changing`.
    pub(super) trials: Mutex<Trials>,
    /// One change at a time.
    pub(super) changing: tokio::sync::Mutex<Held>,
    numbers: AtomicU64,
    /// Told when a version on probation, or a canary, fails too often.
    pub(super) failed: Arc<Notify>,
}

/// What changes are made from.
pub(super) struct Held {
    pub config: Config,
    /// The version that each plugin had before, by name, ready to be put in force again.
    previous: HashMap<String, Arc<Plugin>>,
}

/// What is to be in force together.
pub(super) struct Force {
    pub plugins: Vec<Arc<Plugin>>,
    pub disabled: BTreeSet<String>,
    pub services: Arc<Services>,
    pub trials: Vec<Arc<Trial>>,
}

/// The same as policies: everybody's, and that of the canary's sessions with their share.
pub(super) struct Built {
    pub policy: Arc<Policy>,
    pub canary: Option<(u8, Arc<Policy>)>,
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
        Policies::start_without(engine, config, files, services, BTreeSet::new()).await
    }

    /// The same with some plugins disabled from the start.
    pub async fn start_without(
        engine: Engine,
        config: &Config,
        files: &Files,
        services: Arc<Services>,
        disabled: BTreeSet<String>,
    ) -> Result<Policies, Vec<LoadError>> {
        let plugins = load_all(&engine, config, files, |_| None).await?;
        let policy = Policy::new(1, plugins, disabled, Box::default(), services);
        probe::run(&policy, config).await.map_err(|error| vec![error])?;
        Ok(Policies {
            engine,
            current: RwLock::new(Arc::new(policy)),
            canary: Canary::default(),
            trials: Mutex::default(),
            changing: tokio::sync::Mutex::new(Held {
                config: config.clone(),
                previous: HashMap::new(),
            }),
            numbers: AtomicU64::new(1),
            failed: Arc::default(),
        })
    }

    /// The policy in force for all but a canary's sessions.
    pub fn current(&self) -> Arc<Policy> {
        self.current.read().clone()
    }

    /// The policy that a session begins with. It asks once and keeps it.
    pub fn for_session(&self, session: Id) -> Arc<Policy> {
        self.canary.for_session(session).unwrap_or_else(|| self.current())
    }

    /// Whether any session's policy has this hook.
    pub fn wants(&self, stage: Stage) -> bool {
        self.current.read().wants(stage) || self.canary.policy().is_some_and(|policy| policy.wants(stage))
    }

    /// Replaces the policy: everything new is compiled and tried first, what did not change is taken over, the whole is probed, then one
    /// swap. On an error nothing has changed. A version (a component with its settings) that takes another's place is on probation from then on.
    pub async fn replace(
        &self,
        config: &Config,
        files: &Files,
        services: Arc<Services>,
    ) -> Result<Arc<Policy>, Vec<LoadError>> {
        self.change(config, files, services, None).await
    }

    /// The same to take a plugin's version back: the one that comes is not watched, and sessions that hold the one that goes must come again.
    pub async fn take_back(
        &self,
        plugin: &str,
        config: &Config,
        files: &Files,
        services: Arc<Services>,
    ) -> Result<Arc<Policy>, Vec<LoadError>> {
        self.change(config, files, services, Some(plugin)).await
    }

    async fn change(
        &self,
        config: &Config,
        files: &Files,
        services: Arc<Services>,
        back: Option<&str>,
    ) -> Result<Arc<Policy>, Vec<LoadError>> {
        let mut held = self.changing.lock().await;
        let before = self.current();
        let running = self.trials.lock().running.clone();
        let known = |version: &Digest| {
            let is_it = |plugin: &&Arc<Plugin>| plugin.version == *version;
            let ready = before.plugins.iter().chain(held.previous.values()).find(is_it).cloned();
            // What was on trial begins anew: with other services behind it, and without the failures that it had.
            let tried = || running.iter().map(|trial| trial.plugin()).find(is_it);
            ready.or_else(|| tried().map(|plugin| Arc::new(plugin.again())))
        };
        let plugins = load_all(&self.engine, config, files, known).await?;
        let (trials, mut ended) = super::trial::sort(running, &plugins);
        let is_there = |name: &String| plugins.iter().any(|plugin| *plugin.name == **name);
        let mut force = Force {
            disabled: before.disabled.iter().filter(|name| is_there(name)).cloned().collect(),
            plugins,
            services,
            trials,
        };
        let mut built = self.build(&force);
        probe::run(&built.policy, config).await.map_err(|error| vec![error])?;
        if let Some((_, policy)) = &built.canary
            && let Err(error) = probe::run(policy, config).await
        {
            let is_canary = |trial: &mut Arc<Trial>| matches!(trial.running, Running::Canary { .. });
            for trial in force.trials.extract_if(.., is_canary) {
                trial.plugin().withdraw();
                ended.push((trial, format!("with what was changed: {error}")));
            }
            built = self.build(&force);
        }
        for new in &force.plugins {
            let same_name = before.plugins.iter().find(|old| old.name == new.name);
            let Some(old) = same_name.filter(|old| old.version != new.version) else {
                continue;
            };
            if back == Some(&*new.name) {
                old.withdraw();
                new.end_probation();
            } else {
                new.begin_probation(Some(Instant::now() + PROBATION), self.failed.clone());
            }
            held.previous.insert(new.name.to_string(), Arc::new(old.again()));
        }
        held.previous.retain(|name, _| is_configured(config, name));
        held.config = config.clone();
        let policy = built.policy.clone();
        self.put(force.trials, built);
        self.trials.lock().note_ended(ended);
        Ok(policy)
    }

    /// Leaves a plugin out, or asks it again. The whole is probed before. Returns a sentence.
    pub async fn switch(&self, plugin: &str, enabled: bool) -> Result<String, String> {
        let held = self.changing.lock().await;
        let before = self.current();
        if !before.plugins.iter().any(|known| *known.name == *plugin) {
            return Err(format!("there is no plugin {plugin:?}"));
        }
        let mut force = self.force(&before);
        let changed = match enabled {
            true => force.disabled.remove(plugin),
            false => force.disabled.insert(plugin.to_owned()),
        };
        let is = if enabled { "enabled" } else { "disabled" };
        if !changed {
            return Ok(format!("{plugin} is {is} already"));
        }
        let built = self.build(&force);
        for policy in std::iter::once(&built.policy).chain(built.canary.iter().map(|(_, policy)| policy)) {
            probe::run(policy, &held.config)
                .await
                .map_err(|error| error.to_string())?;
        }
        self.put(force.trials, built);
        Ok(match enabled {
            true => format!("{plugin} is enabled: sessions that begin from now on are asked about"),
            false => format!(
                "{plugin} is disabled: sessions that begin from now on go by without it, until it is enabled or the relay is started anew"
            ),
        })
    }

    /// What is in force now, to change something of it.
    pub(super) fn force(&self, current: &Policy) -> Force {
        Force {
            plugins: current.plugins.clone(),
            disabled: current.disabled.clone(),
            services: current.services.clone(),
            trials: self.trials.lock().running.clone(),
        }
    }

    pub(super) fn build(&self, force: &Force) -> Built {
        let policy = |plugins: Vec<Arc<Plugin>>| {
            let shadows = force.trials.iter().filter_map(|trial| match &trial.running {
                Running::Shadow(shadow) => Some(Beside::new(shadow.clone(), &force.services)),
                Running::Canary { .. } => None,
            });
            let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let (disabled, services) = (force.disabled.clone(), force.services.clone());
            Arc::new(Policy::new(number, plugins, disabled, shadows.collect(), services))
        };
        let canary = force.trials.iter().find_map(|trial| match &trial.running {
            Running::Canary { percent, plugin } => Some((*percent, policy(with(&force.plugins, plugin)))),
            Running::Shadow(_) => None,
        });
        Built {
            policy: policy(force.plugins.clone()),
            canary,
        }
    }

    /// Puts policies in force, and retires those that were.
    pub(super) fn put(&self, trials: Vec<Arc<Trial>>, built: Built) {
        let before = std::mem::replace(&mut *self.current.write(), built.policy);
        before.retire();
        if let Some(before) = self.canary.put(built.canary) {
            before.retire();
        }
        self.trials.lock().running = trials;
    }
}

/// These plugins with another version of one of them.
pub(super) fn with(plugins: &[Arc<Plugin>], other: &Arc<Plugin>) -> Vec<Arc<Plugin>> {
    let one = |plugin: &Arc<Plugin>| if plugin.name == other.name { other } else { plugin }.clone();
    plugins.iter().map(one).collect()
}

fn is_configured(config: &Config, name: &str) -> bool {
    config.plugins.iter().any(|plugin| plugin.name == name)
}

async fn load_all(
    engine: &Engine,
    config: &Config,
    files: &Files,
    known: impl Fn(&Digest) -> Option<Arc<Plugin>>,
) -> Result<Vec<Arc<Plugin>>, Vec<LoadError>> {
    let mut loaded = Vec::new();
    let mut errors = Vec::new();
    for settings in &config.plugins {
        let Some(bytes) = files.get(&settings.name) else {
            errors.push(LoadError {
                place: None,
                plugin: settings.name.clone(),
                file: settings.file.display().to_string(),
                what: "the file was not read".into(),
            });
            continue;
        };
        let (version, _) = Plugin::version_of(settings, bytes);
        if let Some(same) = known(&version) {
            loaded.push(same);
            continue;
        }
        match Plugin::load(engine, Arc::new(settings.clone()), bytes.clone()).await {
            Ok(plugin) => loaded.push(Arc::new(plugin)),
            Err(error) => errors.push(error),
        }
    }
    match errors.is_empty() {
        true => Ok(loaded),
        false => Err(errors.into_iter().map(|error| error.placed_in(config)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::decision::{Decision, Journal};
    use super::super::services::authentication::Authenticator;
    use super::super::services::state::State;
    use super::super::{Compiler, PIN_MAX};
    use super::*;
    use crate::auth::Users;
    use crate::dkim::Keys;
    use crate::dns::Dns;

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
            keys: Keys::default(),
            state: State::in_memory(),
            authenticator: Authenticator::new(&dns, "relay.test"),
            dns,
            counters: Arc::default(),
            journal: Arc::new(Nobody),
        });
        let (engine, files) = (Engine::new(Compiler::here()).unwrap(), Files::new());
        let policies = Policies::start(engine, &config, &files, services.clone())
            .await
            .unwrap();
        let old = policies.current();
        assert!(
            !old.is_stale(tokio::time::Instant::now() + 2 * PIN_MAX),
            "it is in force"
        );
        let new = policies.replace(&config, &files, services).await.unwrap();
        let now = tokio::time::Instant::now();
        assert!(!old.is_stale(now));
        assert!(old.is_stale(now + PIN_MAX));
        assert!(!new.is_stale(now + PIN_MAX));
    }
}
