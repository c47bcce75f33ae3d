//! The command line's socket: one request a connection, one JSON line each way.
//!
//! Who connects is asked of the kernel (SO_PEERCRED) before a byte is read: root, the worker's own user and whoever started the supervisor
//! are served, everybody else gets one line that says so. At most [`CONNECTIONS`] at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Error as JsonError;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::AdminActions;
use super::protocol::{COMPONENT_LIMIT, LINE_LIMIT, LIST_LIMIT, Request, Response};

/// At a time; further ones wait to be accepted.
pub const CONNECTIONS: usize = 16;
/// For the request, a component included, and for the answer to be taken.
pub const TRANSFER_TIME: Duration = Duration::from_secs(60);
/// After an error of accept (no descriptors left), before the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Whom the socket serves, by user id.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Who started the supervisor.
    pub supervisor_uid: u32,
    pub worker_uid: u32,
}

impl Allowed {
    fn includes(self, uid: u32) -> bool {
        uid == 0 || uid == self.supervisor_uid || uid == self.worker_uid
    }
}

/// Serves until the task is dropped.
pub async fn serve<A: AdminActions>(listener: UnixListener, allowed: Allowed, actions: Arc<A>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let actions = actions.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, allowed, &*actions).await {
                        tracing::debug!(error = %error, "admin socket: a connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "admin socket: cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<A: AdminActions>(mut stream: UnixStream, allowed: Allowed, actions: &A) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let response = if allowed.includes(uid) {
        let request = timeout(TRANSFER_TIME, read_request(&mut stream)).await;
        match request.unwrap_or_else(|_| Ok(Err("the request took too long".into())))? {
            Ok((request, component)) => {
                tracing::debug!(uid, request = ?request, "admin socket");
                act(request, component, actions).await
            }
            Err(message) => Response::Error { message },
        }
    } else {
        tracing::warn!(uid, "admin socket: refused");
        let message = format!("uid {uid} may not steer this relay: be root, or the user who started it");
        Response::Error { message }
    };
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(TRANSFER_TIME, async {
        stream.write_all(&line).await?;
        stream.shutdown().await
    })
    .await?
}

/// The request and, for `plugin load`, the component behind it. The inner error is for the client.
async fn read_request<S: AsyncRead + Unpin>(stream: S) -> io::Result<Result<(Request, Vec<u8>), String>> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream)
        .take(LINE_LIMIT as u64 + 1)
        .read_until(b'\n', &mut line)
        .await?;
    if !line.ends_with(b"\n") {
        return Ok(Err(format!("the request is no line of at most {LINE_LIMIT} bytes")));
    }
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => return Ok(Err(unknown(&error))),
    };
    let mut component = Vec::new();
    if let Request::PluginLoad { length, .. } = &request {
        if *length > COMPONENT_LIMIT {
            return Ok(Err(format!(
                "a component of {length} bytes is larger than {COMPONENT_LIMIT}"
            )));
        }
        stream.take(*length).read_to_end(&mut component).await?;
        if component.len() as u64 != *length {
            return Ok(Err(format!(
                "the component ended after {} of {length} bytes",
                component.len()
            )));
        }
    }
    Ok(Ok((request, component)))
}

fn unknown(error: &JsonError) -> String {
    format!("the request cannot be understood ({error}): are the command and the daemon of the same version?")
}

async fn act<A: AdminActions>(request: Request, component: Vec<u8>, actions: &A) -> Response {
    let done = |message| Response::Done { message };
    let answer = match request {
        Request::Status => Ok(Response::Status(actions.status().await)),
        Request::Reload => actions.reload().await.map(done),
        Request::QueueList { select, limit } => {
            let listed = actions.queue_list(select, limit.min(LIST_LIMIT)).await;
            listed.map(|(messages, total)| Response::Queue { messages, total })
        }
        Request::QueueShow { id } => {
            let shown = actions.queue_show(id).await;
            shown.map(|(state, header)| Response::Message {
                id,
                state: Box::new(state),
                header,
            })
        }
        Request::QueueChange { action, select } => actions
            .queue_change(action, select)
            .await
            .map(|ids| Response::Changed { ids }),
        Request::PluginList => Ok(Response::Plugins {
            plugins: actions.plugin_list().await,
        }),
        Request::PluginLoad {
            name, settings, mode, ..
        } => actions.plugin_load(name, component, settings, mode).await.map(done),
        Request::PluginRollback { name } => actions.plugin_rollback(name).await.map(done),
        Request::PluginPromote { name } => actions.plugin_promote(name).await.map(done),
        Request::PluginAbort { name } => actions.plugin_abort(name).await.map(done),
        Request::PluginEnable { name } => actions.plugin_switch(name, true).await.map(done),
        Request::PluginDisable { name } => actions.plugin_switch(name, false).await.map(done),
    };
    answer.unwrap_or_else(|message| Response::Error { message })
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{LoadMode, PluginStatus, QueueAction, QueueItem, Selection, SettingsFile, Status};
    use super::*;
    use crate::message::{Id, QueueState};

    /// Says what it was asked.
    struct Echo;

    impl AdminActions for Echo {
        async fn status(&self) -> Status {
            Status {
                version: "1".into(),
                hostname: "relay.test".into(),
                uptime_s: 1,
                sessions: 2,
                queued: 3,
                held: 4,
                listeners: vec![],
            }
        }

        async fn reload(&self) -> Result<String, String> {
            Err("line 3".into())
        }

        async fn queue_list(&self, _: Selection, limit: u32) -> Result<(Vec<QueueItem>, u64), String> {
            Ok((vec![], u64::from(limit)))
        }

        async fn queue_show(&self, id: Id) -> Result<(QueueState, String), String> {
            Err(format!("no message {id}"))
        }

        async fn queue_change(&self, action: QueueAction, _: Selection) -> Result<Vec<Id>, String> {
            Ok(if action == QueueAction::Hold {
                vec![Id(1)]
            } else {
                vec![]
            })
        }

        async fn plugin_list(&self) -> Vec<PluginStatus> {
            vec![]
        }

        async fn plugin_load(
            &self,
            name: String,
            component: Vec<u8>,
            settings: Option<SettingsFile>,
            mode: LoadMode,
        ) -> Result<String, String> {
            let with = settings.map_or_else(String::new, |file| format!(" with {}", file.text));
            Ok(format!(
                "{name}: {}{with} {mode:?}",
                String::from_utf8_lossy(&component)
            ))
        }

        async fn plugin_promote(&self, name: String) -> Result<String, String> {
            Ok(format!("{name} promoted"))
        }

        async fn plugin_abort(&self, name: String) -> Result<String, String> {
            Ok(format!("{name} aborted"))
        }

        async fn plugin_switch(&self, name: String, enabled: bool) -> Result<String, String> {
            Ok(format!("{name} {enabled}"))
        }

        async fn plugin_rollback(&self, name: String) -> Result<String, String> {
            Ok(name)
        }
    }

    async fn ask(allowed: Allowed, request: &[u8]) -> String {
        let (ours, mut client) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move { connection(ours, allowed, &Echo).await });
        // Who is refused may be answered before all is sent.
        let _ = client.write_all(request).await;
        let _ = client.shutdown().await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        server.await.unwrap().unwrap();
        answer
    }

    fn me() -> Allowed {
        let uid = nix::unistd::Uid::effective().as_raw();
        Allowed {
            supervisor_uid: uid,
            worker_uid: uid,
        }
    }

    #[tokio::test]
    async fn requests_and_answers() {
        for (request, expected) in [
            (
                r#"{"command":"status"}"#,
                r#"{"answer":"status","version":"1","hostname":"relay.test","uptime_s":1,"sessions":2,"queued":3,"held":4,"listeners":[]}"#,
            ),
            (r#"{"command":"reload"}"#, r#"{"answer":"error","message":"line 3"}"#),
            (
                r#"{"command":"queue-list","select":"all","limit":4000000000}"#,
                r#"{"answer":"queue","messages":[],"total":10000}"#,
            ),
            (
                r#"{"command":"queue-show","id":"0000000000001"}"#,
                r#"{"answer":"error","message":"no message 0000000000001"}"#,
            ),
            (
                r#"{"command":"queue-change","action":"hold","select":"all"}"#,
                r#"{"answer":"changed","ids":["0000000000001"]}"#,
            ),
            (r#"{"command":"plugin-list"}"#, r#"{"answer":"plugins","plugins":[]}"#),
            (
                r#"{"command":"plugin-rollback","name":"rbl"}"#,
                r#"{"answer":"done","message":"rbl"}"#,
            ),
            (
                "{\"command\":\"plugin-load\",\"name\":\"rbl\",\"length\":4}\nwasm",
                r#"{"answer":"done","message":"rbl: wasm Live"}"#,
            ),
            (
                "{\"command\":\"plugin-load\",\"name\":\"rbl\",\"length\":4,\"mode\":{\"canary\":{\"percent\":10}}}\nwasm",
                r#"{"answer":"done","message":"rbl: wasm Canary { percent: 10 }"}"#,
            ),
            (
                "{\"command\":\"plugin-load\",\"name\":\"rbl\",\"length\":4,\"settings\":{\"path\":\"x\",\"text\":\"a = 1\"},\"mode\":\"shadow\"}\nwasm",
                r#"{"answer":"done","message":"rbl: wasm with a = 1 Shadow"}"#,
            ),
            (
                r#"{"command":"plugin-promote","name":"rbl"}"#,
                r#"{"answer":"done","message":"rbl promoted"}"#,
            ),
            (
                r#"{"command":"plugin-abort","name":"rbl"}"#,
                r#"{"answer":"done","message":"rbl aborted"}"#,
            ),
            (
                r#"{"command":"plugin-enable","name":"rbl"}"#,
                r#"{"answer":"done","message":"rbl true"}"#,
            ),
            (
                r#"{"command":"plugin-disable","name":"rbl"}"#,
                r#"{"answer":"done","message":"rbl false"}"#,
            ),
            (
                "{\"command\":\"plugin-load\",\"name\":\"rbl\",\"length\":40}\nwasm",
                r#"{"answer":"error","message":"the component ended after 5 of 40 bytes"}"#,
            ),
            (
                r#"{"command":"plugin-load","name":"rbl","length":134217729}"#,
                r#"{"answer":"error","message":"a component of 134217729 bytes is larger than 134217728"}"#,
            ),
            (
                r#"{"command":"explode"}"#,
                "{\"answer\":\"error\",\"message\":\"the request cannot be understood (unknown variant `explode`",
            ),
            (
                "",
                "{\"answer\":\"error\",\"message\":\"the request cannot be understood (EOF",
            ),
        ] {
            let answer = ask(me(), format!("{request}\n").as_bytes()).await;
            assert!(
                answer.starts_with(expected) && answer.ends_with("}\n"),
                "{request}: {answer}"
            );
        }
        let answer = ask(me(), b"{\"command\":").await;
        assert_eq!(
            answer,
            "{\"answer\":\"error\",\"message\":\"the request is no line of at most 16777216 bytes\"}\n"
        );
    }

    #[test]
    fn who_is_served() {
        let allowed = Allowed {
            supervisor_uid: 1000,
            worker_uid: 65534,
        };
        for (uid, expected) in [(0, true), (1000, true), (65534, true), (1001, false)] {
            assert_eq!(allowed.includes(uid), expected, "{uid}");
        }
    }

    #[tokio::test]
    async fn a_stranger_is_told_so() {
        let uid = nix::unistd::Uid::effective();
        if uid.is_root() {
            eprintln!("SKIPPED: root is never a stranger; who_is_served has the rule");
            return;
        }
        let others = Allowed {
            supervisor_uid: uid.as_raw() + 1,
            worker_uid: uid.as_raw() + 1,
        };
        let answer = ask(others, b"{\"command\":\"status\"}\n").await;
        assert!(answer.contains("may not steer this relay"), "{answer}");
    }
}
