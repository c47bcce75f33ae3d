//! What the command line and a running daemon say to each other over `state_dir/admin.sock`: one request a
//! connection, one JSON line each way.
//!
//! Types and the choice of messages by pattern only: no socket, no spool. Whoever connects is checked by the daemon
//! (peer credentials) before a line is read. A line that does not parse is answered with [`Response::Error`], never
//! with a closed connection.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::message::{Envelope, Id, QueueState, Recipient, RecipientStatus};

/// The longest line in either direction, in bytes: a listing of [`LIST_LIMIT`] messages with long addresses fits.
pub const LINE_LIMIT: usize = 16 * 1024 * 1024;
/// The most messages in one [`Response::Queue`].
pub const LIST_LIMIT: u32 = 10_000;
/// The largest component that `plugin load` sends, in bytes; those of JavaScript have some 12 MiB.
pub const COMPONENT_LIMIT: u64 = 128 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered with [`Response::Status`].
    Status,
    /// Read the configuration, certificates, users and plugins again, as SIGHUP does. Answered with
    /// [`Response::Done`] once it is in force, or with an error when the old one stays.
    Reload,
    /// Answered with [`Response::Queue`]: the oldest `limit` (at most [`LIST_LIMIT`]) that are selected.
    QueueList { select: Selection, limit: u32 },
    /// Answered with [`Response::Message`].
    QueueShow { id: Id },
    /// Answered with [`Response::Changed`].
    QueueChange { action: QueueAction, select: Selection },
    /// Answered with [`Response::Plugins`], in the order in which they are asked.
    PluginList,
    /// After the line come `length` bytes, the component. It is checked, made live, and replaces the configured file (unless its settings are not
    /// the configured ones); or it goes on trial, and nothing is replaced. Answered with [`Response::Done`].
    PluginLoad {
        name: String,
        length: u64,
        /// Absent: the settings that are in force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settings: Option<SettingsFile>,
        #[serde(default, skip_serializing_if = "LoadMode::is_live")]
        mode: LoadMode,
    },
    /// Back to the version before. Answered with [`Response::Done`].
    PluginRollback { name: String },
    /// The version on trial becomes live, as with `PluginLoad`. Answered with [`Response::Done`].
    PluginPromote { name: String },
    /// The version on trial goes. Answered with [`Response::Done`].
    PluginAbort { name: String },
    /// Ask this plugin again. Answered with [`Response::Done`].
    PluginEnable { name: String },
    /// Do not ask this plugin any more. Answered with [`Response::Done`].
    PluginDisable { name: String },
}

/// A whole configuration, of which the plugin's entry counts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    /// Names it in errors; relative paths start at its folder. The daemon does not open it.
    pub path: PathBuf,
    pub text: String,
}

/// Without the text, which is long, and may have what is not for a log.
impl std::fmt::Debug for SettingsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.text.len())
    }
}

/// What a component that is loaded is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMode {
    /// Decide.
    #[default]
    Live,
    /// Run beside the live version and decide nothing.
    Shadow,
    /// Decide for so many of a hundred sessions.
    Canary { percent: u8 },
}

impl LoadMode {
    fn is_live(&self) -> bool {
        *self == LoadMode::Live
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueAction {
    /// Attempt it now. A held message is not selected.
    Retry,
    /// Leave it alone until it is released.
    Hold,
    Release,
    /// Forget it, without a bounce.
    Remove,
}

/// Which messages of the queue are meant. Patterns are compared without regard to case; `*` stands for any characters, `\*` for a star.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    All,
    Ids(Vec<Id>),
    /// All patterns that are given must fit.
    Matching(Patterns),
}

/// Patterns for parts of a message's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patterns {
    /// One of the recipients that still wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The reverse-path; an empty pattern is the null sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Why the message is held; it fits no message that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

impl Selection {
    /// `held`: why the message is, if it is.
    pub fn matches(&self, id: Id, envelope: &Envelope, held: Option<&str>) -> bool {
        match self {
            Selection::All => true,
            Selection::Ids(ids) => ids.contains(&id),
            Selection::Matching(patterns) => patterns.fit(envelope, held),
        }
    }
}

impl Patterns {
    fn fit(&self, envelope: &Envelope, held: Option<&str>) -> bool {
        let is_pending = |rcpt: &&Recipient| rcpt.status == RecipientStatus::Pending;
        let waits = |pattern: &String| {
            let mut waiting = envelope.recipients.iter().filter(is_pending);
            waiting.any(|rcpt| fits(pattern, &rcpt.address))
        };
        let is_held = |pattern: &String| held.is_some_and(|why| fits(pattern, why));
        self.recipient.as_ref().is_none_or(waits)
            && self
                .sender
                .as_ref()
                .is_none_or(|pattern| fits(pattern, &envelope.sender))
            && self.held.as_ref().is_none_or(is_held)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// It failed and nothing changed; a sentence for people.
    Error {
        message: String,
    },
    /// It is done; a sentence for people.
    Done {
        message: String,
    },
    Status(Status),
    Queue {
        messages: Vec<QueueItem>,
        /// How many were selected, listed or not.
        total: u64,
    },
    Message {
        id: Id,
        state: Box<QueueState>,
        /// The header of the message, at most [`HEADER_LIMIT`] bytes of it, with what is not UTF-8 replaced.
        header: String,
    },
    /// The messages that were changed. One that was selected by id and is not there is an error instead.
    Changed {
        ids: Vec<Id>,
    },
    Plugins {
        plugins: Vec<PluginStatus>,
    },
}

/// How much of a message's header [`Response::Message`] carries, in bytes.
pub const HEADER_LIMIT: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub hostname: String,
    /// Seconds since the worker started.
    pub uptime_s: u64,
    /// Open inbound sessions.
    pub sessions: u64,
    /// Messages in the queue, held ones included.
    pub queued: u64,
    pub held: u64,
    /// Name and bound address of each listener.
    pub listeners: Vec<(String, SocketAddr)>,
}

/// A line of `queue list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueItem {
    pub id: Id,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub received_unix: u64,
    pub sender: String,
    /// Those that still wait.
    pub recipients: Vec<String>,
    /// The reason, if it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    pub attempts: u32,
    /// Seconds since 1970; absent is at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_unix: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl QueueItem {
    pub fn new(id: Id, state: &QueueState) -> QueueItem {
        let waiting = state
            .envelope
            .recipients
            .iter()
            .filter(|rcpt| rcpt.status == RecipientStatus::Pending);
        QueueItem {
            id,
            size: state.size,
            received_unix: crate::message::since_epoch(state.origin.received).as_secs(),
            sender: state.envelope.sender.clone(),
            recipients: waiting.map(|rcpt| rcpt.address.clone()).collect(),
            held: state.held.clone(),
            attempts: state.attempts,
            next_attempt_unix: state.next_attempt.map(|at| crate::message::since_epoch(at).as_secs()),
            last_error: state.last_error.clone(),
        }
    }
}

/// A line of `plugin list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginStatus {
    pub name: String,
    /// The version that is live, as the log's decisions have it: a digest over the component and its settings.
    #[serde(default)]
    pub version: String,
    /// The SHA-256 of the component that is live: the first 12 hexadecimal digits.
    pub digest: String,
    /// That of the version that `plugin rollback` would bring back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// That version, as the log's decisions have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
    /// The version `previous` has other settings than the one that is live.
    #[serde(default)]
    pub previous_has_other_settings: bool,
    /// Its settings are not those of the configuration, which has not changed since they came into force.
    #[serde(default)]
    pub stands_in: bool,
    /// The stages that it has a hook for.
    pub hooks: Vec<String>,
    pub grants: Vec<String>,
    /// Calls since this version went live, and how many of them failed (trap, budget).
    pub calls: u64,
    pub failures: u64,
    /// Why the file that is there now is not the version that is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Nothing is asked of it.
    #[serde(default)]
    pub disabled: bool,
    /// What its circuit breaker does, unless that is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Why the version `previous` is not live any more, if it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<String>,
    /// The version on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
    /// How the last trial ended, if none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_ended: Option<String>,
}

/// A version on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStatus {
    pub mode: LoadMode,
    /// As the log's decisions have it: a digest over the component and its settings.
    #[serde(default)]
    pub version: String,
    /// The SHA-256 of its component: the first 12 hexadecimal digits.
    pub digest: String,
    /// Its settings are not those of the version that is live.
    #[serde(default)]
    pub other_settings: bool,
    /// Seconds since 1970.
    pub since_unix: u64,
    pub calls: u64,
    pub failures: u64,
    /// Of a shadow: how often it said the same as the live version, and something else; and calls that it did not get, because
    /// too many of its calls were running.
    #[serde(default)]
    pub same: u64,
    #[serde(default)]
    pub different: u64,
    #[serde(default)]
    pub dropped: u64,
}

/// Whether a text fits a pattern in which `*` stands for any characters, and `\*` and `\\` for the sign itself, without regard to (ASCII) case.
///
/// Greedy with one point to go back to, so the cost is at most the product of the lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (signs(pattern), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(None) => {
                star = Some((p, t));
                p += 1;
            }
            Some(Some(byte)) if byte.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(Option::is_none)
}

/// The signs of a pattern; None stands for any characters.
fn signs(pattern: &str) -> Vec<Option<u8>> {
    let mut signs = Vec::with_capacity(pattern.len());
    let mut rest = pattern.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let (sign, next) = match (first, behind) {
            (b'\\', [escaped @ (b'*' | b'\\'), next @ ..]) => (Some(*escaped), next),
            (b'*', _) => (None, behind),
            _ => (Some(*first), behind),
        };
        signs.push(sign);
        rest = next;
    }
    signs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Recipient;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("alice@example.test", "Alice@Example.Test", true),
            ("*@example.test", "alice@example.test", true),
            ("*@example.test", "alice@example.test.", false),
            ("a*e@*.test", "alice@example.test", true),
            ("*a*a*b", "aaaaaaaa", false),
            ("**", "", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            (r"a\\*", r"a\b", true),
            (r"a\b", r"a\b", true),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn a_selection_looks_at_waiting_recipients_only() {
        let rcpt = |address: &str, status| Recipient {
            address: address.into(),
            status,
            ..Recipient::default()
        };
        let envelope = Envelope {
            sender: "alice@here.test".into(),
            recipients: vec![
                rcpt("bob@there.test", RecipientStatus::Pending),
                rcpt("carol@gone.test", RecipientStatus::Delivered { reply: "250 ok".into() }),
            ],
            ..Envelope::default()
        };
        let matching = |recipient: Option<&str>, sender: Option<&str>| {
            Selection::Matching(Patterns {
                recipient: recipient.map(str::to_owned),
                sender: sender.map(str::to_owned),
                held: None,
            })
        };
        let held_for = |why: &str| {
            Selection::Matching(Patterns {
                held: Some(why.to_owned()),
                ..Patterns::default()
            })
        };
        for (select, expected) in [
            (Selection::All, true),
            (Selection::Ids(vec![Id(1), Id(2)]), true),
            (Selection::Ids(vec![Id(2)]), false),
            (matching(Some("*@there.test"), None), true),
            (matching(Some("*@gone.test"), None), false),
            (matching(Some("*@there.test"), Some("alice@*")), true),
            (matching(Some("*@there.test"), Some("")), false),
        ] {
            assert_eq!(select.matches(Id(1), &envelope, None), expected, "{select:?}");
        }
        let held = Some("outbound brake: alice sent");
        assert!(held_for("outbound brake: alice *").matches(Id(1), &envelope, held));
        assert!(!held_for("outbound brake: bob *").matches(Id(1), &envelope, held));
        assert!(!held_for("*").matches(Id(1), &envelope, None));
    }

    /// Other programs speak this protocol too: the text is part of the contract.
    #[test]
    fn the_lines_on_the_socket() {
        for (request, line) in [
            (Request::Status, r#"{"command":"status"}"#),
            (
                Request::QueueList {
                    select: Selection::All,
                    limit: 10,
                },
                r#"{"command":"queue-list","select":"all","limit":10}"#,
            ),
            (
                Request::QueueChange {
                    action: QueueAction::Retry,
                    select: Selection::Ids(vec![Id(1)]),
                },
                r#"{"command":"queue-change","action":"retry","select":{"ids":["0000000000001"]}}"#,
            ),
            (
                Request::PluginLoad {
                    name: "rbl".into(),
                    length: 5,
                    settings: None,
                    mode: LoadMode::Live,
                },
                r#"{"command":"plugin-load","name":"rbl","length":5}"#,
            ),
            (
                Request::PluginLoad {
                    name: "rbl".into(),
                    length: 5,
                    settings: Some(SettingsFile {
                        path: "new.toml".into(),
                        text: "a = 1".into(),
                    }),
                    mode: LoadMode::Canary { percent: 10 },
                },
                r#"{"command":"plugin-load","name":"rbl","length":5,"settings":{"path":"new.toml","text":"a = 1"},"mode":{"canary":{"percent":10}}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        let changed = Response::Changed { ids: vec![Id(1)] };
        assert_eq!(
            serde_json::to_string(&changed).unwrap(),
            r#"{"answer":"changed","ids":["0000000000001"]}"#
        );
    }
}
