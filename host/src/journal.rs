//! Where decisions of policies go: the log, and the metrics of the hook. On the hot path; never waits.

use std::sync::{Arc, OnceLock};

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::maillog::{self, DecisionEvent};
use crate::message::Id;
use crate::metrics::{HookMetrics, Metrics};
use crate::policy::decision::{Decision, Journal, Stage};

/// The journal of a running daemon.
pub struct LogJournal {
    metrics: Arc<Metrics>,
    /// By plugin. A handful, so that looking through is faster than hashing.
    hooks: RwLock<Vec<(Arc<str>, PerStage)>>,
}

#[derive(Default)]
struct PerStage([OnceLock<HookMetrics>; Stage::ALL.len()]);

impl LogJournal {
    pub fn new(metrics: Arc<Metrics>) -> LogJournal {
        LogJournal {
            metrics,
            hooks: RwLock::default(),
        }
    }

    /// Hands the metrics of a decision's hook to `count`.
    fn with_hook(&self, decision: &Decision, count: impl FnOnce(&HookMetrics)) {
        let plugin = &decision.plugin;
        let known = |hooks: &[(Arc<str>, PerStage)]| hooks.iter().position(|(name, _)| name == plugin);
        let mut hooks = self.hooks.read();
        let place = match known(&hooks) {
            Some(place) => place,
            None => {
                drop(hooks);
                let mut added = self.hooks.write();
                let place = known(&added).unwrap_or(added.len());
                if place == added.len() {
                    added.push((plugin.clone(), PerStage::default()));
                }
                hooks = RwLockWriteGuard::downgrade(added);
                place
            }
        };
        count(hooks[place].1.0[decision.stage as usize].get_or_init(|| {
            let stage = decision.stage.name().trim_start_matches("on-");
            self.metrics.hook(plugin, stage)
        }));
    }
}

impl Journal for LogJournal {
    fn decision(&self, decision: &Decision) {
        self.with_hook(decision, |hook| match &decision.failure {
            Some(failure) => hook.failed(failure.kind()),
            None => hook.called(decision.took),
        });
        maillog::decision(&DecisionEvent {
            session_id: decision.session,
            message_id: decision.message,
            stage: decision.stage.name(),
            plugin: &decision.plugin,
            version: &decision.version,
            verdict: decision.verdict.name(),
            actions: &decision.actions,
            reason: decision.reason(),
            detail: decision.why.as_ref().map_or("", |why| &why.detail),
            failure: decision
                .failure
                .as_ref()
                .map(|failure| failure as &dyn std::fmt::Display),
            took: decision.took,
        });
    }

    fn plugin_log(&self, session: Id, plugin: &str, stage: Stage, level: tracing::Level, text: &str) {
        maillog::plugin_log(session, plugin, stage.name(), level, text);
    }
}
