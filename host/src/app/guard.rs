//! Takes back what fails: a version in force that does not pass its probation goes, and the one before it comes; a canary ends.
//!
//! Waits for the policy engine's word, and acts as an administrator would, through the supervisor, so that the next worker has it too, and the
//! configured file if that is a component's. What cannot be taken back stays, and the log says so.

use std::sync::Arc;

use super::App;
use super::actions::SUPERSEDED;
use super::reload::MEND;
use crate::policy::Plugin;
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
    let metrics = &app.relay.metrics;
    if canary {
        let ended = app.relay.policies.end_trial_of(name, Some(plugin.version), &why).await;
        // An administrator may have been faster.
        if ended.is_ok() {
            metrics.plugin_rolled_back(name, "canary");
            let live = app.live(name);
            let (to, what) = (digest(live.as_deref()), live.map(|live| what_differs(&plugin, &live)));
            tracing::error!(plugin = name, version = %plugin.version, from = %bad, to, what, calls, failures, "canary aborted");
        }
        return;
    }
    let outcome = app
        .take_back(name, format!("by itself: {why}"), Some(plugin.version))
        .await;
    if outcome.as_ref().is_err_and(|error| error == SUPERSEDED) {
        return;
    }
    // It may be in force and its file could not be replaced; the error says so.
    let error = outcome.err();
    match app.live(name).filter(|live| live.version != plugin.version) {
        Some(live) => {
            metrics.plugin_rolled_back(name, "live");
            let what = what_differs(&plugin, &live);
            let remedy = app.versions.lock().stands_in(name).then_some(MEND);
            let to = digest(Some(&live));
            tracing::error!(plugin = name, version = %plugin.version, from = %bad, to, what, calls, failures, remedy, error, "plugin rolled back");
        }
        None => {
            tracing::error!(plugin = name, version = %plugin.version, component = %bad, calls, failures, error, "plugin not rolled back")
        }
    }
}

fn digest(plugin: Option<&Plugin>) -> String {
    plugin.map_or_else(String::new, |plugin| plugin.file_digest.to_string())
}

/// What of a version went: digests are those of components, and tell nothing of settings.
fn what_differs(from: &Plugin, to: &Plugin) -> &'static str {
    let same_settings = *from.settings == to.settings.at(&from.settings.file);
    match (from.file_digest == to.file_digest, same_settings) {
        (true, _) => "settings",
        (false, true) => "component",
        (false, false) => "component and settings",
    }
}
