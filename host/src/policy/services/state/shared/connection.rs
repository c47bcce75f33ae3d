//! The one connection to the state server, and who looks after it.
//!
//! All calls share the connection; the server answers them in their order. A task makes it, and makes it again when it has ended: at the server's
//! wish, or because a call was not answered in time. Meanwhile calls fail at once, so nobody pays for a dead server but those who were waiting when it
//! died. The log has one line when the server goes, and one when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, Script, ScriptInvocation, ServerErrorKind, Value,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::super::super::endpoint;
use super::super::StateError;
use crate::config::StateServer;

/// The longest that a call waits for its answer. A server in reach answers within some milliseconds; a client that waits for its reply should not notice.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that an attempt to connect takes, with TLS and AUTH.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before the next attempt; it doubles up to [`PAUSE_MAX`], and begins anew after a connection that lasted for so long.
pub const PAUSE: Duration = Duration::from_millis(100);
pub const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Calls that wait to be written; more wait for a place, within their time.
const WAITING_MAX: usize = 256;

const CLOSED: &str = "the server closed the connection";
const NOT_YET: &str = "not connected yet";

/// Dropping it ends the connection.
pub struct Connection {
    link: Arc<Link>,
    task: AbortHandle,
}

/// What callers and the task share.
struct Link {
    server: StateServer,
    script: Script,
    password: Mutex<Option<Zeroizing<String>>>,
    condition: RwLock<Condition>,
    failures: AtomicU64,
}

enum Condition {
    Up(Live),
    /// Since when, and why.
    Down(Instant, String),
}

#[derive(Clone)]
struct Live {
    redis: MultiplexedConnection,
    /// A call has found it dead, and says why.
    dead: Arc<Dead>,
}

#[derive(Default)]
struct Dead {
    why: Mutex<Option<String>>,
    said: Notify,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Returns after the first attempt, whatever came of it.
    pub async fn open(server: StateServer, password: Option<Zeroizing<String>>, script: Script) -> Connection {
        let link = Arc::new(Link {
            server,
            script,
            password: Mutex::new(password),
            condition: RwLock::new(Condition::Down(Instant::now(), NOT_YET.into())),
            failures: AtomicU64::new(0),
        });
        let (tried, first) = oneshot::channel();
        let task = tokio::spawn(link.clone().look_after(tried)).abort_handle();
        let connection = Connection { link, task };
        let _ = first.await;
        connection
    }

    pub fn set_password(&self, password: Option<Zeroizing<String>>) {
        *self.link.password.lock() = password;
    }

    pub fn is_up(&self) -> bool {
        matches!(*self.link.condition.read(), Condition::Up(_))
    }

    pub fn failures(&self) -> u64 {
        self.link.failures.load(Ordering::Relaxed)
    }

    pub fn script(&self) -> &Script {
        &self.link.script
    }

    /// One call of the script, within [`CALL_TIMEOUT`].
    pub async fn ask(&self, asked: &ScriptInvocation<'_>) -> Result<(String, Value), StateError> {
        let answer = self.link.ask(asked).await;
        answer.map_err(|why| {
            self.link.failures.fetch_add(1, Ordering::Relaxed);
            StateError::Unavailable(format!("state server {}: {why}", self.link.server).into())
        })
    }
}

impl Link {
    async fn ask(&self, asked: &ScriptInvocation<'_>) -> Result<(String, Value), String> {
        let mut live = match &*self.condition.read() {
            Condition::Up(live) => live.clone(),
            Condition::Down(_, why) => return Err(why.clone()),
        };
        let why = match timeout(CALL_TIMEOUT, asked.invoke_async(&mut live.redis)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !ends_connection(&error) => return Err(error.to_string()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
        };
        live.dead.why.lock().get_or_insert_with(|| why.clone());
        live.dead.said.notify_one();
        Err(why)
    }

    /// Connects, for as long as the task is not aborted. `tried` hears of the first attempt.
    async fn look_after(self: Arc<Link>, tried: oneshot::Sender<()>) {
        let mut tried = Some(tried);
        let mut pause = PAUSE;
        loop {
            let login = self.login();
            let connected = timeout(CONNECT_TIMEOUT, self.connect(&login)).await;
            let why = match connected {
                Err(_) => format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
                Ok(Err(why)) => why,
                Ok(Ok((live, driver))) => {
                    self.came(live.clone());
                    drop(tried.take());
                    let began = Instant::now();
                    let why = tokio::select! {
                        () = driver => CLOSED.to_owned(),
                        () = live.dead.said.notified() => live.dead.why.lock().take().unwrap_or_default(),
                    };
                    if began.elapsed() >= PAUSE_MAX {
                        pause = PAUSE;
                    }
                    why
                }
            };
            self.went(why);
            drop(tried.take());
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(self.server.database.into());
        if let Some(user) = &self.server.user {
            login = login.set_username(user);
        }
        if let Some(password) = &*self.password.lock() {
            login = login.set_password(password.as_str());
        }
        login
    }

    async fn connect(&self, login: &RedisConnectionInfo) -> Result<(Live, impl Future<Output = ()>), String> {
        let stream = endpoint::open(&self.server.endpoint, None)
            .await
            .map_err(|error| error.to_string())?;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING_MAX);
        let (mut redis, driver) = MultiplexedConnection::new_with_config(login, stream, config)
            .await
            .map_err(|error| error.to_string())?;
        // A write that changes nothing: a server that still loads its data, a replica, and one where our user has no rights say so now. It also leaves
        // the script with the server.
        let mut driver = Box::pin(driver);
        let mut probe = self.script.key(super::PREFIX);
        let probe = probe.arg("delete").arg("");
        tokio::select! {
            () = &mut driver => return Err(CLOSED.to_owned()),
            done = probe.invoke_async::<Value>(&mut redis) => done.map_err(|error| error.to_string())?,
        };
        let dead = Arc::default();
        Ok((Live { redis, dead }, driver))
    }

    fn came(&self, live: Live) {
        let before = std::mem::replace(&mut *self.condition.write(), Condition::Up(live));
        let Condition::Down(since, _) = before else { return };
        let after_ms = since.elapsed().as_millis() as u64;
        tracing::info!(server = %self.server, after_ms, "the state server is there: policies share their state");
    }

    /// Told to the log once, not for each attempt that fails too.
    fn went(&self, why: String) {
        let mut condition = self.condition.write();
        match &mut *condition {
            Condition::Down(_, known) if *known != NOT_YET => *known = why,
            _ => {
                tracing::error!(
                    server = %self.server,
                    why,
                    "the state server is gone: policies have no state until it is back, and do what their configuration says for that"
                );
                *condition = Condition::Down(Instant::now(), why);
            }
        }
    }
}

/// Whether another connection may do better. A server that became a replica takes no writes, and its name may lead to another one by now.
fn ends_connection(error: &RedisError) -> bool {
    let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
    is_replica || error.is_io_error() || error.is_unrecoverable_error()
}
