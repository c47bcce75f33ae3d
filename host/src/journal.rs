//! Where decisions of policies go: the log, and the metrics of the hook. On the hot path; never waits.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::maillog::{self, DecisionEvent};
use crate::message::Id;
use crate::metrics::{HookMetrics, Metrics};
use crate::policy::decision::{Decision, Journal, Stage};

/// The journal of a running daemon.
pub struct LogJournal {
    metrics: Arc<Metrics>,
    hooks: RwLock<HashMap<Arc<str>, Arc<PerStage>>>,
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

    fn stages(&self, plugin: &Arc<str>) -> Arc<PerStage> {
        if let Some(stages) = self.hooks.read().get(plugin) {
            return stages.clone();
        }
        self.hooks.write().entry(plugin.clone()).or_default().clone()
    }
}

impl Journal for LogJournal {
    fn decision(&self, decision: &Decision) {
        let stages = self.stages(&decision.plugin);
        let stage = decision.stage.name().trim_start_matches("on-");
        let hook = stages.0[decision.stage as usize].get_or_init(|| self.metrics.hook(&decision.plugin, stage));
        match &decision.failure {
            Some(failure) => hook.failed(failure.kind()),
            None => hook.called(decision.took),
        }
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
