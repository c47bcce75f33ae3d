//! What administrators can ask of a running relay.

use std::sync::Arc;

use crate::admin::AdminActions;
use crate::admin::protocol::{
    HEADER_LIMIT, LoadMode, PluginStatus, QueueAction, QueueItem, Selection, SettingsFile, Status, TrialStatus,
};
use crate::config::{self, Config};
use crate::message::{Body, Id, QueueState, since_epoch};
use crate::policy::breaker::Condition;
use crate::policy::decision::Digest;
use crate::policy::trial::{Mode, Running, Trial};
use crate::policy::{Plugin, plugin};

use super::App;

/// Messages looked at between two chances for others to run.
const PAGE: usize = 1_000;
/// Why what somebody asked for was done.
pub(super) const BY_ADMINISTRATOR: &str = "by an administrator";
/// Why a version is not taken back that is not in force any more.
pub(super) const SUPERSEDED: &str = "another version came into force meanwhile";

impl App {
    /// The selected messages, the oldest first.
    fn selected(&self, select: &Selection) -> Result<Vec<(Id, Arc<QueueState>)>, String> {
        let spool = &self.relay.spool;
        if let Selection::Ids(ids) = select {
            return ids
                .iter()
                .map(|id| {
                    spool
                        .show(*id)
                        .map(|state| (*id, state))
                        .ok_or_else(|| format!("there is no message {id} in the queue"))
                })
                .collect();
        }
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = spool.list(after, PAGE);
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.id);
            found.extend(
                page.into_iter()
                    .filter(|listed| select.matches(listed.id, &listed.state.envelope, listed.state.held.as_deref()))
                    .map(|listed| (listed.id, listed.state)),
            );
        }
    }

    /// Puts the version that the plugin had before in force again, and says of the one that is why it goes; only if that is `from`, where
    /// it says so.
    pub(super) async fn take_back(&self, name: &str, why: String, from: Option<Digest>) -> Result<String, String> {
        self.check_plugin(name)?;
        let is_live = |from| self.live(name).is_some_and(|live| live.version == from);
        if !from.is_none_or(is_live) {
            return Err(SUPERSEDED.to_owned());
        }
        let previous = self.versions.lock().previous(name).cloned();
        let previous = previous.ok_or_else(|| format!("there is no version of {name} before the one that is live"))?;
        // When its turn comes, it is looked at again whether this is still the version before.
        let settings = Some(previous.settings);
        self.link
            .load_plugin(name, &previous.component, settings, Some(why))
            .await
    }

    /// The plugin's version in force.
    pub(super) fn live(&self, name: &str) -> Option<Arc<Plugin>> {
        let policy = self.relay.policies.current();
        let live = policy.plugins().iter().find(|live| *live.name == *name);
        live.cloned()
    }

    /// Whether there is a plugin of this name.
    fn check_plugin(&self, name: &str) -> Result<(), String> {
        self.config.lock().plugin(name).map(|_| ())
    }
}

/// The settings of a plugin in a configuration that somebody sent.
fn settings_in(file: &SettingsFile, name: &str) -> Result<config::Plugin, String> {
    let config = Config::parse(&file.text, &file.path).map_err(|errors| errors.to_string())?;
    let settings = config.plugin(name);
    settings
        .cloned()
        .map_err(|error| format!("{}: {error}", file.path.display()))
}

impl AdminActions for App {
    async fn status(&self) -> Status {
        let stats = self.relay.spool.stats();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: self.relay.settings().hostname.clone(),
            uptime_s: self.began.elapsed().as_secs(),
            sessions: self.relay.connections.open().into(),
            queued: stats.messages as u64,
            held: stats.held as u64,
            listeners: self.listeners.lock().bound.clone(),
        }
    }

    async fn reload(&self) -> Result<String, String> {
        self.link.reload().await
    }

    async fn queue_list(&self, select: Selection, limit: u32) -> Result<(Vec<QueueItem>, u64), String> {
        let found = self.selected(&select)?;
        let total = found.len() as u64;
        Ok((
            found
                .iter()
                .take(limit as usize)
                .map(|(id, state)| QueueItem::new(*id, state))
                .collect(),
            total,
        ))
    }

    async fn queue_show(&self, id: Id) -> Result<(QueueState, String), String> {
        let spool = &self.relay.spool;
        let state = spool
            .show(id)
            .ok_or_else(|| format!("there is no message {id} in the queue"))?;
        let (head, body) = spool.content(id).await.map_err(|error| error.to_string())?;
        let start = match &body {
            Body::Memory(bytes) => bytes.slice(..bytes.len().min(HEADER_LIMIT)),
            Body::File { .. } => spool
                .read(&body, 0, HEADER_LIMIT)
                .await
                .map_err(|error| error.to_string())?,
        };
        let whole = [&*head, &*start].concat();
        let end = memchr::memmem::find(&whole, b"\r\n\r\n").map_or(whole.len(), |at| at + 2);
        let header = String::from_utf8_lossy(&whole[..end.min(HEADER_LIMIT)]).into_owned();
        Ok(((*state).clone(), header))
    }

    async fn queue_change(&self, action: QueueAction, select: Selection) -> Result<Vec<Id>, String> {
        let mut changed = Vec::new();
        if matches!(action, QueueAction::Retry | QueueAction::Release) {
            self.delivery.forget_outages();
        }
        for (id, state) in self.selected(&select)? {
            let spool = &self.relay.spool;
            let named = matches!(select, Selection::Ids(_));
            let done = match action {
                QueueAction::Retry if state.held.is_some() && !named => continue,
                QueueAction::Retry if state.held.is_some() => return Err(format!("{id} is held: release it instead")),
                QueueAction::Release if state.held.is_none() && !named => continue,
                QueueAction::Retry => spool.retry(id).await,
                QueueAction::Hold => spool.hold(id, BY_ADMINISTRATOR).await,
                QueueAction::Release => spool.release(id).await,
                QueueAction::Remove => spool.remove(id).await,
            };
            match done {
                Ok(()) => {
                    let name = match action {
                        QueueAction::Retry => "retry",
                        QueueAction::Hold => "hold",
                        QueueAction::Release => "release",
                        QueueAction::Remove => "remove",
                    };
                    crate::maillog::queue_changed(id, name);
                    changed.push(id);
                }
                // Delivered meanwhile.
                Err(crate::spool::SpoolError::NotFound(_)) if !named => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(changed)
    }

    async fn plugin_list(&self) -> Vec<PluginStatus> {
        let policies = &self.relay.policies;
        let policy = policies.current();
        let versions = self.versions.lock();
        let now_ms = since_epoch(std::time::SystemTime::now()).as_millis() as u64;
        let before = |name: &str| {
            let previous = versions.previous(name)?;
            let (version, component) = Plugin::version_of(&previous.settings, &previous.component);
            Some((version.to_string(), component.to_string()))
        };
        policy
            .plugins()
            .iter()
            .map(|plugin| {
                let (calls, failures) = plugin.calls();
                let (previous_version, previous) = before(&plugin.name).unzip();
                PluginStatus {
                    name: plugin.name.to_string(),
                    version: plugin.version.to_string(),
                    digest: plugin.file_digest.to_string(),
                    previous,
                    previous_version,
                    previous_has_other_settings: versions.previous_has_other_settings(&plugin.name),
                    stands_in: versions.stands_in(&plugin.name),
                    hooks: plugin.stages().map(|stage| stage.name().to_owned()).collect(),
                    grants: plugin.settings.grants.iter().map(ToString::to_string).collect(),
                    calls,
                    failures,
                    refused: versions.refused(&plugin.name).map(str::to_owned),
                    disabled: policy.is_disabled(&plugin.name),
                    breaker: match plugin.condition(now_ms) {
                        Condition::Closed => None,
                        Condition::Open(left) => Some(format!("open for {:.1} s", left.as_secs_f64())),
                        Condition::HalfOpen => Some("half open: trial calls decide".into()),
                    },
                    taken_back: versions.taken_back(&plugin.name).map(str::to_owned),
                    trial: policies.trial(&plugin.name).map(|trial| trial_status(&trial)),
                    trial_ended: policies.ended_trial(&plugin.name),
                }
            })
            .collect()
    }

    async fn plugin_load(
        &self,
        name: String,
        component: Vec<u8>,
        settings: Option<SettingsFile>,
        mode: LoadMode,
    ) -> Result<String, String> {
        self.check_plugin(&name)?;
        let settings = settings.map(|file| settings_in(&file, &name)).transpose()?;
        let mode = match mode {
            LoadMode::Live => return self.link.load_plugin(&name, &component, settings, None).await,
            LoadMode::Shadow => Mode::Shadow,
            LoadMode::Canary { percent } => Mode::Canary { percent },
        };
        let policies = &self.relay.policies;
        policies.begin_trial(&name, component.into(), settings, mode).await
    }

    async fn plugin_rollback(&self, name: String) -> Result<String, String> {
        if let Some((why, previous)) = self.versions.lock().went_by_itself(&name) {
            let (version, component) = Plugin::version_of(&previous.settings, &previous.component);
            return Err(format!(
                "the version before, {}, was taken back {why}: `gatepost plugin load {name} FILE` puts it in force all the same (with `--settings FILE`, its settings)",
                plugin::in_words(&version, &component)
            ));
        }
        self.take_back(&name, BY_ADMINISTRATOR.into(), None).await
    }

    async fn plugin_promote(&self, name: String) -> Result<String, String> {
        self.check_plugin(&name)?;
        let (component, settings) = self.relay.policies.trial_version(&name)?;
        let settings = Some((*settings).clone());
        self.link.load_plugin(&name, &component, settings, None).await
    }

    async fn plugin_abort(&self, name: String) -> Result<String, String> {
        self.check_plugin(&name)?;
        self.relay.policies.end_trial(&name, BY_ADMINISTRATOR).await
    }

    async fn plugin_switch(&self, name: String, enabled: bool) -> Result<String, String> {
        self.check_plugin(&name)?;
        self.link.switch_plugin(&name, enabled).await
    }
}

fn trial_status(trial: &Trial) -> TrialStatus {
    let plugin = trial.plugin();
    let (calls, failures) = plugin.calls();
    let (mode, tally) = match &trial.running {
        Running::Shadow(shadow) => (LoadMode::Shadow, shadow.tally()),
        Running::Canary { percent, .. } => (LoadMode::Canary { percent: *percent }, Default::default()),
    };
    TrialStatus {
        mode,
        version: plugin.version.to_string(),
        digest: plugin.file_digest.to_string(),
        other_settings: trial.has_other_settings(),
        since_unix: since_epoch(trial.since).as_secs(),
        calls,
        failures,
        same: tally.same,
        different: tally.different,
        dropped: tally.dropped,
    }
}
