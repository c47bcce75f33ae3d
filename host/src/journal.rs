//! Where decisions of policies go: the log, and the metrics of the hook. On the hot path; never waits.

use std::sync::{Arc, OnceLock};

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::maillog::{self, DecisionEvent, ShadowEvent};
use crate::message::Id;
use crate::metrics::{HookMetrics, Metrics};
use crate::policy::decision::{Comparison, Decision, Journal, Notice, Said, Stage, Verdict};

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
            remedy: decision.why.as_ref().map_or("", |why| &why.remedy),
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

    fn notice(&self, notice: &Notice<'_>) {
        match notice {
            Notice::BreakerOpened { plugin, version, pause } => {
                self.metrics.plugin_breaker_opened(plugin);
                maillog::breaker_opened(plugin, version, *pause);
            }
            Notice::BreakerClosed { plugin, version } => maillog::breaker_closed(plugin, version),
            Notice::ShadowAgrees(comparison) => self.metrics.shadow_call(comparison.plugin, "same"),
            Notice::ShadowDiffers(comparison) => {
                self.metrics.shadow_call(comparison.plugin, "different");
                shadow_differs(comparison);
            }
            Notice::ShadowDropped { plugin } => self.metrics.shadow_call(plugin, "dropped"),
        }
    }
}

fn shadow_differs(comparison: &Comparison<'_>) {
    let verdict = |said: &Said| match &said.verdict {
        Verdict::Reject(reply) | Verdict::Defer(reply) | Verdict::Disconnect(reply) => {
            format!("{} {} {}", said.verdict.name(), reply.code(), reply.text())
        }
        Verdict::Pass | Verdict::Accept | Verdict::Discard => said.verdict.name().to_owned(),
    };
    let (live, shadow) = (verdict(comparison.live), verdict(comparison.shadow));
    maillog::shadow_differs(&ShadowEvent {
        session_id: comparison.session,
        message_id: comparison.message,
        stage: comparison.stage.name(),
        plugin: comparison.plugin,
        live: said(comparison.live, &live),
        shadow: said(comparison.shadow, &shadow),
    });
}

fn said<'a>(said: &'a Said, verdict: &'a str) -> maillog::Said<'a> {
    maillog::Said {
        version: &said.version,
        verdict,
        actions: &said.actions,
        reason: &said.reason,
        failure: said.failure.as_ref().map(|failure| failure as &dyn std::fmt::Display),
    }
}
