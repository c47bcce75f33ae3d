//! Versions on trial: how a shadow or a canary begins and ends, and what is told of it.
//!
//! A trial begins as a load does (checked, compiled, tried, and probed as if it were in force) and changes nothing for sessions that it is not for. It
//! ends by a word of the administrator, when its version comes into force, when the plugin's settings change, and a canary also when it
//! fails too often. It ends with the worker too: one that the worker died of is not tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::decision::Digest;
use super::policies::{Policies, with};
use super::probation::Counts;
use super::shadow::Shadow;
use super::{Plugin, Policy, probe};
use crate::config;

/// Shadows at a time. Each has a store of its own in memory.
pub const SHADOWS_MAX: usize = 4;

/// What a version on trial may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is asked beside the one in force, and decides nothing.
    Shadow,
    /// It decides for so many of a hundred sessions.
    Canary { percent: u8 },
}

/// A version on trial.
pub struct Trial {
    /// What becomes the plugin's component if the trial goes well.
    pub component: Arc<[u8]>,
    /// The settings of the version in force when it began.
    beside: Arc<config::Plugin>,
    pub since: SystemTime,
    pub running: Running,
}

pub enum Running {
    Shadow(Arc<Shadow>),
    Canary { percent: u8, plugin: Arc<Plugin> },
}

impl Trial {
    pub fn plugin(&self) -> &Arc<Plugin> {
        match &self.running {
            Running::Shadow(shadow) => &shadow.plugin,
            Running::Canary { plugin, .. } => plugin,
        }
    }

    fn kind(&self) -> &'static str {
        match self.running {
            Running::Shadow(_) => "shadow",
            Running::Canary { .. } => "canary",
        }
    }

    /// Whether it has other settings than the version in force.
    pub fn has_other_settings(&self) -> bool {
        let tried = &self.plugin().settings;
        **tried != self.beside.at(&tried.file)
    }
}

/// The trials that run, and how each plugin's last one ended.
#[derive(Default)]
pub(super) struct Trials {
    pub running: Vec<Arc<Trial>>,
    ended: HashMap<String, String>,
}

impl Trials {
    pub fn note_ended(&mut self, ended: Ended) {
        for (trial, why) in ended {
            let plugin = trial.plugin();
            let kind = trial.kind();
            tracing::info!(plugin = &*plugin.name, version = %plugin.version, component = %plugin.file_digest, kind, why, "plugin trial ended");
            let text = format!("the {kind} {} ended: {why}", plugin.in_words());
            self.ended.insert(plugin.name.to_string(), text);
        }
    }
}

/// Trials that cannot go on, with the reason.
type Ended = Vec<(Arc<Trial>, String)>;

/// The trials that go on beside these plugins, and those that cannot, with the reason.
pub(super) fn sort(running: Vec<Arc<Trial>>, plugins: &[Arc<Plugin>]) -> (Vec<Arc<Trial>>, Ended) {
    let (mut go_on, mut ended) = (Vec::new(), Vec::new());
    for trial in running {
        let tried = trial.plugin();
        let live = plugins.iter().find(|plugin| plugin.name == tried.name);
        let why = match live {
            None => Some("the plugin is not configured any more"),
            Some(live) if live.version == tried.version => Some("its version is in force now"),
            Some(live) if *live.settings != trial.beside.at(&live.settings.file) => {
                Some("the plugin's settings have changed")
            }
            Some(_) => None,
        };
        match why {
            Some(why) => ended.push((trial, why.to_owned())),
            None => go_on.push(trial),
        }
    }
    (go_on, ended)
}

/// A version that failed too often.
pub struct Failed {
    pub plugin: Arc<Plugin>,
    pub counts: Counts,
    /// It decided for a share of the sessions only.
    pub canary: bool,
}

impl Policies {
    /// Begins a trial of a component beside the plugin's version in force, with the same settings or with others; one that runs already for
    /// this plugin is replaced.
    pub async fn begin_trial(
        &self,
        name: &str,
        component: Arc<[u8]>,
        settings: Option<config::Plugin>,
        mode: Mode,
    ) -> Result<String, String> {
        let held = self.changing.lock().await;
        let before = self.current();
        let live = before.plugins().iter().find(|plugin| *plugin.name == *name);
        let live = live.ok_or_else(|| format!("there is no plugin {name:?}"))?;
        if before.is_disabled(name) {
            return Err(format!(
                "{name} is disabled, so nothing is asked of it: enable it first"
            ));
        }
        let mut force = self.force(&before);
        let old = force.trials.iter().position(|trial| *trial.plugin().name == *name);
        let old = old.map(|place| force.trials.swap_remove(place));
        check_room(&force.trials, mode)?;
        let beside = live.settings.clone();
        let settings = settings.map_or_else(|| beside.clone(), Arc::new);
        let (version, _) = Plugin::version_of(&settings, &component);
        if live.version == version {
            return Err(format!("{name} is in force in this version already"));
        }
        let plugin = Plugin::load(&self.engine, settings, component.clone()).await;
        let plugin = plugin.map_err(|error| error.what)?;
        let (digest, is) = (plugin.file_digest, plugin.in_words());
        let running = match mode {
            Mode::Shadow => Running::Shadow(Arc::new(Shadow::new(plugin))),
            Mode::Canary { percent } => Running::Canary {
                percent,
                plugin: Arc::new(plugin),
            },
        };
        let trial = Arc::new(Trial {
            component,
            beside,
            since: SystemTime::now(),
            running,
        });
        // As if it were in force: a shadow that could not become it would be asked in vain.
        self.probe_with(&before, trial.plugin(), &held.config).await?;
        if let Running::Canary { plugin, .. } = &trial.running {
            plugin.begin_probation(None, self.failed.clone());
        }
        force.trials.push(trial.clone());
        let built = self.build(&force);
        self.put(force.trials, built);
        let mut trials = self.trials.lock();
        if let Some(old) = old {
            withdraw(&old);
            trials.note_ended(vec![(old, format!("{is} took its place"))]);
        }
        trials.ended.remove(name);
        let (kind, other_settings) = (trial.kind(), trial.has_other_settings());
        tracing::info!(plugin = name, live = %live.version, version = %version, component = %digest, other_settings, kind, "plugin trial began");
        let with = if other_settings { " with other settings" } else { "" };
        Ok(match mode {
            Mode::Shadow => format!(
                "{name} runs as a shadow in version {is}{with}, beside {}",
                live.in_words()
            ),
            Mode::Canary { percent } => format!(
                "{name} decides in version {is}{with} for {percent} % of the sessions that begin from now on, in {} for the others",
                live.in_words()
            ),
        })
    }

    async fn probe_with(&self, policy: &Policy, plugin: &Arc<Plugin>, config: &config::Config) -> Result<(), String> {
        let plugins = with(policy.plugins(), plugin);
        let disabled = policy.disabled.clone();
        let probed = Policy::new(
            policy.number,
            plugins,
            disabled,
            Box::default(),
            policy.services.clone(),
        );
        probe::run(&probed, config).await.map_err(|error| error.to_string())
    }

    /// The component on trial and its settings, to put them in force.
    pub fn trial_version(&self, name: &str) -> Result<(Arc<[u8]>, Arc<config::Plugin>), String> {
        let trial = self.trial(name).ok_or_else(|| none(name))?;
        Ok((trial.component.clone(), trial.plugin().settings.clone()))
    }

    /// Ends a plugin's trial; what is in force stays. A canary's sessions must come again.
    pub async fn end_trial(&self, name: &str, why: &str) -> Result<String, String> {
        self.end_trial_of(name, None, why).await
    }

    /// The same, only if it is (still) of this version.
    pub async fn end_trial_of(&self, name: &str, version: Option<Digest>, why: &str) -> Result<String, String> {
        let _one = self.changing.lock().await;
        let before = self.current();
        let mut force = self.force(&before);
        let is_it = |trial: &Arc<Trial>| {
            let plugin = trial.plugin();
            *plugin.name == *name && version.is_none_or(|version| plugin.version == version)
        };
        let place = force.trials.iter().position(is_it).ok_or_else(|| none(name))?;
        let trial = force.trials.remove(place);
        // What is in force was probed when it came into force.
        let built = self.build(&force);
        self.put(force.trials, built);
        withdraw(&trial);
        let (kind, is) = (trial.kind(), trial.plugin().in_words());
        self.trials.lock().note_ended(vec![(trial, why.to_owned())]);
        Ok(format!("the {kind} {is} of {name} ended"))
    }

    /// The trial of a plugin.
    pub fn trial(&self, name: &str) -> Option<Arc<Trial>> {
        let trials = self.trials.lock();
        let found = trials.running.iter().find(|trial| *trial.plugin().name == *name);
        found.cloned()
    }

    /// How the last trial of a plugin ended, if none runs.
    pub fn ended_trial(&self, name: &str) -> Option<String> {
        self.trials.lock().ended.get(name).cloned()
    }

    /// Waits for a version that fails too often: one in force that is on probation, or a canary.
    pub async fn next_failed(&self) -> Failed {
        loop {
            if let Some(failed) = self.find_failed() {
                return failed;
            }
            self.failed.notified().await;
        }
    }

    fn find_failed(&self) -> Option<Failed> {
        let failed = |plugin: &Arc<Plugin>, canary| {
            let counts = plugin.take_failed_probation()?;
            let plugin = plugin.clone();
            Some(Failed { plugin, counts, canary })
        };
        let running = self.trials.lock().running.clone();
        let current = self.current();
        let mut live = current.plugins().iter();
        live.find_map(|plugin| failed(plugin, false))
            .or_else(|| running.iter().find_map(|trial| failed(trial.plugin(), true)))
    }

    /// Forgets what has expired in the shadows' stores.
    pub fn sweep_shadows(&self, now_ms: u64) {
        let running = self.trials.lock().running.clone();
        for trial in running {
            if let Running::Shadow(shadow) = &trial.running {
                shadow.sweep(now_ms);
            }
        }
    }
}

fn check_room(running: &[Arc<Trial>], mode: Mode) -> Result<(), String> {
    let shadows = running
        .iter()
        .filter(|trial| matches!(trial.running, Running::Shadow(_)));
    let canary = running
        .iter()
        .find(|trial| matches!(trial.running, Running::Canary { .. }));
    match (mode, canary) {
        (Mode::Canary { percent }, _) if !(1..=99).contains(&percent) => {
            Err("a canary's share is between 1 and 99 percent of the sessions".into())
        }
        (Mode::Canary { .. }, Some(other)) => {
            let other = &other.plugin().name;
            Err(format!(
                "{other} has a canary, and there is one at a time: promote or abort that first"
            ))
        }
        (Mode::Shadow, _) if shadows.count() >= SHADOWS_MAX => Err(format!(
            "{SHADOWS_MAX} shadows run already: promote or abort one of them first"
        )),
        _ => Ok(()),
    }
}

fn withdraw(trial: &Trial) {
    if let Running::Canary { plugin, .. } = &trial.running {
        plugin.withdraw();
    }
}

fn none(name: &str) -> String {
    format!("{name} has no version on trial (`plugin load --shadow` or `--canary` begins one)")
}
