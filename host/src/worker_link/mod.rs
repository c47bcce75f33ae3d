//! How the worker gets everything that it cannot open itself: the link to its supervisor.
//!
//! The worker's standard input is a socket to the supervisor. Over it come *bundles*: the configuration as text, the bound listeners,
//! and every certificate, key, users file, password file and plugin as an open descriptor. The worker reads a descriptor once, to
//! its end, and closes it; it never learns how to open one of these files again. A bundle comes at the start and at every reload, always
//! whole, so that there is one way in which things change. [`receive`] is the first thing that a worker does, before it has a second thread.
//!
//! The link is local and both ends are the same executable, so a message that does not parse is a fault, not an input: the worker ends,
//! and the supervisor starts another one. If the supervisor goes away, the worker drains.

mod files;
mod wire;

use std::collections::HashMap;
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Uid;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::tls::CertificatePem;
pub use files::{Bundle, PluginFile, Secrets, UsersFile};
pub(crate) use files::{FILE_BYTES_MAX, files_of};
pub(crate) use wire::{Header, Item, ToSupervisor, ToWorker, pair, receive_message, send_message};

/// The argument that makes the executable a worker. Nobody types it: without a link as its standard input a worker ends at once.
pub const WORKER_ARGUMENT: &str = "worker";
/// What the worker takes for its drain; the supervisor kills it a little later ([`crate::supervisor::KILL_AFTER`]).
pub const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(25);
/// Updates that wait for the worker to take them. Reloads are rare; the supervisor's next one waits in the socket.
const UPDATES: usize = 4;

/// What a worker begins with.
pub struct Startup {
    pub bundle: Bundle,
    /// `state_dir/admin.sock`, mode 0600, listening, non-blocking.
    pub admin_socket: UnixListener,
    /// Whom the admin socket serves besides root and the worker's own user: who started the supervisor.
    pub supervisor_uid: u32,
    /// How often the supervisor had to start a worker again.
    pub restarts: u32,
    pub link: Link,
    pub updates: mpsc::Receiver<Update>,
}

/// A listening socket of the supervisor. Non-blocking.
#[derive(Debug)]
pub struct BoundListener {
    /// The listener's name in the configuration.
    pub name: String,
    /// As bound: with the real port where the configuration says 0.
    pub address: SocketAddr,
    /// The same number in a later bundle is the same socket: go on accepting on the one that is there. One that a later bundle does not
    /// have is to be closed.
    pub socket: u64,
    pub listener: TcpListener,
}

/// What the supervisor wants of a running worker.
pub enum Update {
    /// Put this in force, as far as it is good, and say through `done` what came of it. `cause` is for the log.
    Reload {
        bundle: Box<Bundle>,
        cause: String,
        done: Done,
    },
    /// Stop accepting, let the sessions end, then exit with status 0, all within [`DRAIN_TIME`]. Also when the supervisor is gone.
    Drain,
}

/// Hands the outcome of a reload to those who asked for it.
#[must_use = "somebody may wait for the outcome"]
pub struct Done(Vec<Asked>);

impl Done {
    /// A sentence for people: what is in force now, or what is not and why.
    pub fn finish(self, outcome: &Result<String, String>) {
        for asked in self.0 {
            // Who asked may have gone meanwhile.
            let _ = asked.send(outcome.clone());
        }
    }
}

/// The worker's way to ask its supervisor for something. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    socket: Arc<OwnedFd>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for an outcome.
type Asked = oneshot::Sender<Result<String, String>>;

#[derive(Default)]
struct Waiting {
    reloads: Vec<Asked>,
    stores: Vec<Asked>,
}

impl Link {
    /// Everything that was to be started is started: the relay is up.
    pub fn ready(&self) -> io::Result<()> {
        send_message(&*self.socket, &ToSupervisor::Ready, &[])
    }

    /// Has everything read again, as SIGHUP does, and returns when it is in force: the sentence given to [`Done::finish`], or why
    /// the old state stays. Whoever handles the [`Update`]s must not wait for this.
    pub async fn reload(&self) -> Result<String, String> {
        self.ask(&ToSupervisor::Reload, &[], |waiting| &mut waiting.reloads)
            .await
    }

    /// Has a plugin's configured file replaced by `component`, atomically. The caller has made that version live already, or does so
    /// afterwards: no reload follows.
    pub async fn store_plugin(&self, name: &str, component: &[u8]) -> Result<String, String> {
        let sealed = sealed_memory(component).map_err(|error| format!("no memory for the component: {error}"))?;
        let message = ToSupervisor::Store {
            plugin: name.to_owned(),
        };
        self.ask(&message, &[sealed], |waiting| &mut waiting.stores).await
    }

    async fn ask(
        &self,
        message: &ToSupervisor,
        fds: &[OwnedFd],
        queue: fn(&mut Waiting) -> &mut Vec<Asked>,
    ) -> Result<String, String> {
        let (sender, receiver) = oneshot::channel();
        {
            // Sent under the lock, so that answers come in the order of the queue.
            let mut waiting = self.waiting.lock();
            send_message(&*self.socket, message, fds)
                .map_err(|error| format!("the supervisor cannot be asked: {error}"))?;
            queue(&mut waiting).push(sender);
        }
        receiver
            .await
            .unwrap_or_else(|_| Err("the supervisor is gone".to_owned()))
    }
}

/// Takes over from the supervisor. To be called once, first of all, before any thread is started.
pub fn receive() -> anyhow::Result<Startup> {
    let socket =
        take_standard_input().context("this is the supervisor's part of gatepost; start it with `gatepost run`")?;
    let Some((ToWorker::Bundle, mut fds)) = receive_message(&socket)? else {
        bail!("the supervisor went away before it said what to do");
    };
    let header = read_header(&mut fds)?;
    if header.unprivileged && (Uid::current().is_root() || Uid::effective().is_root()) {
        bail!("the worker was to become another user and is still root");
    }
    let (supervisor_uid, restarts) = (header.supervisor_uid, header.restarts);
    let bundle = files::assemble(header, fds)?;
    let admin_socket = bind_admin_socket(&bundle.config)?;

    let (sender, updates) = mpsc::channel(UPDATES);
    let link = Link {
        socket: Arc::new(socket),
        waiting: Arc::default(),
    };
    let for_thread = link.clone();
    std::thread::Builder::new()
        .name("supervisor-link".into())
        .spawn(move || follow(&for_thread, &sender))
        .context("cannot start a thread")?;
    Ok(Startup {
        bundle,
        admin_socket,
        supervisor_uid,
        restarts,
        link,
        updates,
    })
}

/// Hands on what the supervisor says until it has nothing more to say.
fn follow(link: &Link, updates: &mpsc::Sender<Update>) {
    loop {
        let update = match receive_message(&*link.socket) {
            Ok(Some((ToWorker::Bundle, fds))) => reload(link, fds),
            Ok(Some((ToWorker::Refused { message }, _))) => {
                let asked = std::mem::take(&mut link.waiting.lock().reloads);
                Done(asked).finish(&Err(message));
                None
            }
            Ok(Some((ToWorker::Stored { outcome }, _))) => {
                let mut waiting = link.waiting.lock();
                if !waiting.stores.is_empty() {
                    let _ = waiting.stores.remove(0).send(outcome);
                }
                None
            }
            Ok(Some((ToWorker::Drain, _))) => Some(Update::Drain),
            Ok(None) => {
                tracing::warn!("the supervisor is gone; ending");
                let _ = updates.blocking_send(Update::Drain);
                return;
            }
            Err(error) => {
                tracing::error!(error = %error, "the link to the supervisor broke; ending");
                let _ = updates.blocking_send(Update::Drain);
                return;
            }
        };
        if let Some(update) = update
            && updates.blocking_send(update).is_err()
        {
            // Nobody takes updates any more: the worker is ending.
            return;
        }
    }
}

fn reload(link: &Link, mut fds: Vec<OwnedFd>) -> Option<Update> {
    let assembled = read_header(&mut fds).and_then(|header| {
        let cause = header.cause.clone();
        Ok((files::assemble(header, fds)?, cause))
    });
    let done = Done(std::mem::take(&mut link.waiting.lock().reloads));
    match assembled {
        Ok((bundle, cause)) => Some(Update::Reload {
            bundle: Box::new(bundle),
            cause,
            done,
        }),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "reload failed; what was in force stays");
            done.finish(&Err(format!("{error:#}")));
            None
        }
    }
}

fn read_header(fds: &mut Vec<OwnedFd>) -> anyhow::Result<Header> {
    if fds.is_empty() {
        bail!("a bundle without a header");
    }
    let mut text = String::new();
    std::fs::File::from(fds.remove(0))
        .read_to_string(&mut text)
        .context("the bundle's header")?;
    serde_json::from_str(&text).context("the bundle's header")
}

/// The link is standard input; from here on standard input is empty.
fn take_standard_input() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    if !wire::is_link(&socket) {
        return Err(io::Error::other("standard input is no link to a supervisor"));
    }
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket)
}

/// Binds `state_dir/admin.sock` (0600). A socket that is there is a dead worker's: the supervisor holds the folder's lock for us.
///
/// The worker does this, not the supervisor: the folder is the worker's own, and root had better not create, remove or chown
/// names in a folder that somebody else can write to.
fn bind_admin_socket(config: &Config) -> anyhow::Result<UnixListener> {
    let path = config.admin_socket();
    let about = || match unreachable_part(&config.state_dir) {
        Some(part) => format!(
            "{}: the worker runs as uid {} and may not enter {}",
            path.display(),
            Uid::effective(),
            part.display()
        ),
        None => path.display().to_string(),
    };
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(&path).with_context(about)?,
        Ok(_) => bail!("{}: is no socket; remove it", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(about),
    }
    // The umask (077, from the supervisor) makes it 0600 from its first moment.
    let socket = UnixListener::bind(&path).with_context(about)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).with_context(about)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The first folder on the way to `path` that this process may not pass, for the error that says so.
fn unreachable_part(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let mut ancestors: Vec<&Path> = absolute.ancestors().collect();
    ancestors.reverse();
    let may_pass = |folder: &Path| nix::unistd::access(folder, nix::unistd::AccessFlags::X_OK).is_ok();
    ancestors
        .into_iter()
        .find(|folder| !may_pass(folder))
        .map(Path::to_owned)
}

/// Bytes as a descriptor that nobody can change any more.
pub(crate) fn sealed_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let memory = memfd_create(c"gatepost", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALED | SealFlag::F_SEAL_SEAL))?;
    Ok(file.into())
}

/// What makes a descriptor of memory immutable.
pub(crate) const SEALED: nix::fcntl::SealFlag = nix::fcntl::SealFlag::F_SEAL_WRITE
    .union(nix::fcntl::SealFlag::F_SEAL_SHRINK)
    .union(nix::fcntl::SealFlag::F_SEAL_GROW);
