//! Takes back what fails: a version in force that does not pass its probation goes, and the one before it comes; a canary ends.
//!
//! Waits for the policy engine's word, and acts as an administrator would, through the supervisor, so that the next worker and the
//! configured file have it too. What cannot be taken back stays, and the log says so.

use std::sync::Arc;

use super::App;
use super::actions::SUPERSEDED;
use crate::policy::trial::Failed;

/// Runs as long as the worker.
pub(super) async fn run(app: Arc<App>) {
    loop {
        let failed = app.relay.policies.next_failed().await;
        act(&app, failed).await;
    }
}

async fn act(app: &App, Failed { plugin, counts, canary }: Failed) {
    let (name, bad) = (&*plugin.name, plugin.file_digest);
    let (calls, failures) = (counts.calls, counts.failures);
    let why = format!("{failures} of its first {calls} calls failed");
    let policies = &app.relay.policies;
    let good = || {
        let current = policies.current();
        let live = current.plugins().iter().find(|live| *live.name == *name);
        live.map_or_else(String::new, |live| live.file_digest.to_string())
    };
    let metrics = &app.relay.metrics;
    if canary {
        // An administrator may have been faster.
        if policies.end_trial_of(name, Some(plugin.version), &why).await.is_ok() {
            metrics.plugin_rolled_back(name, "canary");
            tracing::error!(plugin = name, from = %bad, to = good(), calls, failures, "canary aborted");
        }
        return;
    }
    let outcome = app.take_back(name, format!("by itself: {why}"), Some(bad)).await;
    if outcome.as_ref().is_err_and(|error| error == SUPERSEDED) {
        return;
    }
    let to = good();
    // It may be in force and its file could not be replaced; the error says so.
    let error = outcome.err();
    if error.is_none() || to != bad.to_string() {
        metrics.plugin_rolled_back(name, "live");
        tracing::error!(plugin = name, from = %bad, to, calls, failures, error, "plugin rolled back");
    } else {
        tracing::error!(plugin = name, version = %bad, calls, failures, error, "plugin not rolled back");
    }
}
