//! Accepting connections: each gets its place among the limits, its PROXY header read where one is due, and a task of its own.
//!
//! Never speaks SMTP, except for the 421 to whom there is no place for. An error of accept (no descriptors left, say) is logged and
//! waited out; it never ends the listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepost_smtp::reply::Reply;
use gatepost_smtp::session::{Extensions, SessionConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::auth::MECHANISMS;
use crate::config::{self, ListenerTls};
use crate::connection;
use crate::limits::{Refused, Slot};
use crate::maillog;
use crate::message::{AuthOffer, SessionFacts};
use crate::metrics::ListenerMetrics;
use crate::proxy;
use crate::relay::Relay;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long who gets no session may take for its 421.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Received fields of a message, above which it goes in circles (RFC 5321 §6.3).
const RECEIVED_MAX: u32 = 100;
/// RFC 5321 §4.5.3.1.4 has 512 bytes; extensions lengthen it (RFC 3461 §5, RFC 6531 §3.4), and paths are up to 256 bytes.
const COMMAND_LINE_BYTES: usize = 2048;
/// RFC 4954 §4
const AUTH_LINE_BYTES: usize = 12_288;

/// One listener with what its sessions share.
pub struct Listener {
    pub name: Arc<str>,
    pub settings: config::Listener,
    pub session: Arc<SessionConfig>,
    pub limits: config::Limits,
    pub metrics: ListenerMetrics,
}

impl Listener {
    pub fn new(settings: config::Listener, config: &config::Config, metrics: ListenerMetrics) -> Listener {
        let limits = &config.limits;
        let auth = settings.auth != AuthOffer::Off;
        let session = SessionConfig {
            hostname: config.hostname.clone(),
            implicit_tls: settings.tls == ListenerTls::Implicit,
            starttls: settings.tls == ListenerTls::Starttls,
            // Who must authenticate must have TLS first, unless the administrator wants it otherwise.
            tls_required: settings.auth == AuthOffer::Required
                && settings.tls == ListenerTls::Starttls
                && !settings.allow_plaintext_auth,
            auth_required: settings.auth == AuthOffer::Required,
            allow_plaintext_auth: settings.allow_plaintext_auth,
            mechanisms: if auth {
                MECHANISMS.map(String::from).to_vec()
            } else {
                Vec::new()
            },
            extensions: Extensions::ALL,
            max_message_size: limits.message_size,
            max_recipients: limits.recipients,
            max_messages: Some(limits.messages),
            max_received: RECEIVED_MAX,
            max_errors: limits.errors,
            max_commands: limits.idle_commands,
            max_command_line: COMMAND_LINE_BYTES,
            max_auth_line: AUTH_LINE_BYTES,
            idle_timeout: limits.idle_timeout,
            command_timeout: limits.command_timeout,
            data_grace: limits.data_timeout,
            min_data_rate: limits.data_rate_min,
        };
        Listener {
            name: settings.name.as_str().into(),
            settings,
            session: Arc::new(session),
            limits: limits.clone(),
            metrics,
        }
    }

    fn expects_proxy(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.settings
            .proxy_from
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// Accepts until the daemon drains or the sender of `current` is dropped, then waits for the sessions that are open. A session has the
/// settings that `current` has when it begins.
pub async fn run(relay: Arc<Relay>, mut current: watch::Receiver<Arc<Listener>>, socket: TcpListener) {
    let name = current.borrow().name.clone();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => {
                    let listener = current.borrow().clone();
                    sessions.spawn(begin(relay.clone(), listener, stream, peer));
                }
                Err(error) => {
                    tracing::warn!(listener = &*name, error = %error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // Sessions that ended give their memory back.
            Some(ended) = sessions.join_next() => log_panic(&name, ended),
            () = relay.drained() => break,
            changed = current.changed() => if changed.is_err() { break },
        }
    }
    drop(socket);
    while let Some(ended) = sessions.join_next().await {
        log_panic(&name, ended);
    }
}

fn log_panic(listener: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(listener, error = %error, "a session ended by a fault of the relay");
    }
}

/// What comes before the session: limits, the PROXY header, the facts.
async fn begin(relay: Arc<Relay>, listener: Arc<Listener>, mut stream: TcpStream, peer: SocketAddr) {
    // Replies are small and complete: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else { return };
    let proxied = listener.expects_proxy(peer);
    let admitted = match proxied {
        true => relay.connections.admit_upstream(),
        false => relay.connections.admit(peer.ip()),
    };
    let mut slot: Slot = match admitted {
        Ok(slot) => slot,
        Err(refused) => return refuse(&relay, &listener, stream, peer, refused).await,
    };
    let mut facts = SessionFacts::new(
        listener.name.clone(),
        listener.settings.auth,
        canonical(local),
        canonical(peer),
    );
    if proxied {
        match proxy::read_header(&mut stream).await {
            Ok(proxy::Source::Client { peer: client, local }) => {
                facts.proxy = Some(peer);
                facts.peer = canonical(client);
                facts.local = canonical(local);
                if let Err(refused) = slot.charge(client.ip()) {
                    return refuse(&relay, &listener, stream, client, refused).await;
                }
            }
            Ok(proxy::Source::Upstream) => {}
            Err(error) => {
                relay.metrics.connection_refused("proxy");
                return maillog::connection_refused(&listener.name, peer, "proxy", &error);
            }
        }
    }
    facts.trusted = relay.settings().trusts(facts.peer.ip());
    connection::serve(relay, listener, stream, facts).await;
    drop(slot);
}

/// An IPv4 client of a dual-stack socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// There is no place: 421 in the clear, or just the end where TLS is expected.
async fn refuse(relay: &Relay, listener: &Listener, mut stream: TcpStream, peer: SocketAddr, refused: Refused) {
    relay.metrics.connection_refused(refused.cause());
    maillog::connection_refused(&listener.name, peer, refused.cause(), &refused);
    if listener.settings.tls != ListenerTls::Implicit {
        let mut reply = Vec::new();
        Reply::too_many_connections().write_to(&mut reply);
        let _ = timeout(REFUSE_TIMEOUT, async {
            stream.write_all(&reply).await?;
            stream.shutdown().await
        })
        .await;
    }
}
