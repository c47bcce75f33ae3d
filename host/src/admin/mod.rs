//! How a running daemon is looked at and steered: metrics and health over HTTP, actions over a Unix socket.
//!
//! [`http`] serves `/metrics`, `/healthz` and `/readyz` on `[admin] address` and changes nothing. [`socket`] serves the command line on
//! `state_dir/admin.sock` to root, the worker's own user, and who started the supervisor. What they do is in [`AdminActions`] and
//! [`Probes`], which the daemon implements; this module knows neither queue nor policy. Both are bounded in connections, bytes and time,
//! and no fault here reaches a mail session.

pub mod http;
pub mod protocol;
pub mod socket;

use std::future::Future;

use crate::message::{Id, QueueState};
use protocol::{LoadMode, PluginStatus, QueueAction, QueueItem, Selection, SettingsFile, Status};

/// Whether the daemon lives, and whether it takes mail. The error is a sentence for people. Must answer at once.
pub trait Probes: Send + Sync + 'static {
    /// `/healthz`: fails when only a restart would help.
    fn healthy(&self) -> Result<(), String>;
    /// `/readyz`: fails while starting, draining, or unable to accept mail (the spool is full).
    fn ready(&self) -> Result<(), String>;
}

/// What the command line asks of the daemon. Errors are sentences for people, and mean that nothing changed.
pub trait AdminActions: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// As SIGHUP; returns when it is in force, with a sentence.
    fn reload(&self) -> impl Future<Output = Result<String, String>> + Send;

    /// The oldest `limit` that are selected, and how many are selected in all.
    fn queue_list(
        &self,
        select: Selection,
        limit: u32,
    ) -> impl Future<Output = Result<(Vec<QueueItem>, u64), String>> + Send;

    /// The state of a message and the beginning of its header ([`protocol::HEADER_LIMIT`]).
    fn queue_show(&self, id: Id) -> impl Future<Output = Result<(QueueState, String), String>> + Send;

    /// The messages that were changed. One that was selected by id and is not there is an error.
    fn queue_change(
        &self,
        action: QueueAction,
        select: Selection,
    ) -> impl Future<Output = Result<Vec<Id>, String>> + Send;

    fn plugin_list(&self) -> impl Future<Output = Vec<PluginStatus>> + Send;

    /// Checks a component with the settings in force or others, makes it live, replaces the configured file; or puts it on trial. Returns a sentence.
    fn plugin_load(
        &self,
        name: String,
        component: Vec<u8>,
        settings: Option<SettingsFile>,
        mode: LoadMode,
    ) -> impl Future<Output = Result<String, String>> + Send;

    /// Back to the version before; returns a sentence.
    fn plugin_rollback(&self, name: String) -> impl Future<Output = Result<String, String>> + Send;

    /// Makes the version on trial live, as a load does; returns a sentence.
    fn plugin_promote(&self, name: String) -> impl Future<Output = Result<String, String>> + Send;

    /// Ends a trial; returns a sentence.
    fn plugin_abort(&self, name: String) -> impl Future<Output = Result<String, String>> + Send;

    /// Has a plugin asked, or not any more; returns a sentence.
    fn plugin_switch(&self, name: String, enabled: bool) -> impl Future<Output = Result<String, String>> + Send;
}
