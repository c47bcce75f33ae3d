//! How the worker gets everything that it cannot open itself: the link to its supervisor.
//!
//! The worker's standard input is a socket to the supervisor. Over it come *bundles*: the configuration as text, the bound listeners,
//! and what every certificate, key, users file, password file and plugin held, as sealed memory. The worker reads a descriptor once, to
//! its end, and closes it; it never learns how to open one of these files. A bundle comes at the start and at every reload, always
//! whole. A change of one plugin (another component, enabled or not) goes the same way: the worker asks for it, and takes it over when the supervisor says so. One thing is under way
//! at a time, in the order that the supervisor gives, and the worker says of each whether it is in force; so that nothing older ever
//! replaces something newer, and the supervisor knows what to start another worker with. [`receive`] is the first thing that a
//! worker does, before it has a second thread.
//!
//! The link is local and both ends are the same executable, so a message that does not parse is a fault, not an input: the worker ends,
//! and the supervisor starts another one. If the supervisor goes away, the worker drains.

mod files;
mod wire;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, Read, Seek};
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

use crate::config::{self, Config};
use crate::tls::CertificatePem;
pub use files::{Bundle, History, PluginFile, Secrets, UsersFile};
pub(crate) use files::{FILE_BYTES_MAX, files_of};
pub use wire::{Change, InForce, Kept};
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
    /// Make this component, with these settings or else those that are in force, the plugin's version in force, if it is good. That was asked
    /// for by [`Link::load_plugin`].
    Load {
        plugin: String,
        component: Vec<u8>,
        settings: Option<Box<config::Plugin>>,
        taken_back: Option<String>,
        done: Done,
    },
    /// Ask this plugin, or do so no more. That was asked for by [`Link::switch_plugin`].
    Switch { plugin: String, enabled: bool, done: Done },
    /// Stop accepting, let the sessions end, then exit with status 0, all within [`DRAIN_TIME`]. Also when the supervisor is gone.
    Drain,
}

/// Hands the outcome of an update to the supervisor, and to those who asked for the reload. The supervisor sends nothing more before it.
#[must_use = "the supervisor waits for the outcome"]
pub struct Done {
    link: Link,
    asked: Vec<Asked>,
}

impl Done {
    /// What is in force now, or why what was in force stays.
    pub fn finish(self, outcome: Result<InForce, String>) {
        let told = outcome.as_ref().map(|in_force| in_force.said.clone());
        let told = told.map_err(String::clone);
        if let Err(error) = send_message(&*self.link.socket, &ToSupervisor::Settled(outcome), &[]) {
            tracing::error!(error = %error, "the supervisor cannot be told what is in force");
        }
        answer(self.asked, &told);
    }
}

fn answer(asked: Vec<Asked>, outcome: &Result<String, String>) {
    for asked in asked {
        // Who asked may have gone meanwhile.
        let _ = asked.send(outcome.clone());
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
    /// In the order in which they asked.
    reloads: VecDeque<Asked>,
    reloads_answered: u64,
    /// By the number of the change, with the settings of a load: the supervisor has nothing to do with them before they are in force.
    changes: HashMap<u64, (Asked, Option<config::Plugin>)>,
    last_change: u64,
}

impl Waiting {
    /// The reloads that an answer to the first `asked` of all answers.
    fn reloads(&mut self, asked: u64) -> Vec<Asked> {
        let count = asked.saturating_sub(self.reloads_answered) as usize;
        self.reloads_answered = self.reloads_answered.max(asked);
        self.reloads.drain(..count.min(self.reloads.len())).collect()
    }
}

impl Link {
    /// Everything that was to be started is started: the relay is up.
    pub fn ready(&self) -> io::Result<()> {
        send_message(&*self.socket, &ToSupervisor::Ready, &[])
    }

    /// Has everything read again, as SIGHUP does, and returns when it is in force: the sentence given to [`Done::finish`], or why
    /// the old state stays. Whoever handles the [`Update`]s must not wait for this.
    pub async fn reload(&self) -> Result<String, String> {
        let (sender, receiver) = oneshot::channel();
        {
            // Sent under the lock, so that the order of the queue is that of the messages.
            let mut waiting = self.waiting.lock();
            self.ask(&ToSupervisor::Reload, &[])?;
            waiting.reloads.push_back(sender);
        }
        answered(receiver).await
    }

    /// Has a version take a plugin's place: an [`Update::Load`] comes when it is its turn; if that ends well, the supervisor replaces the
    /// configured file, atomically, unless its settings are not those of the configuration. Returns when both is done. `taken_back` says why the
    /// version in force goes, if this is the one before it. Whoever handles the [`Update`]s must not wait for this.
    pub async fn load_plugin(
        &self,
        name: &str,
        component: &[u8],
        settings: Option<config::Plugin>,
        taken_back: Option<String>,
    ) -> Result<String, String> {
        let sealed = sealed_memory(component).map_err(|error| format!("no memory for the component: {error}"))?;
        self.change(name, Change::Load { taken_back }, settings, &[sealed])
            .await
    }

    /// Has a plugin asked, or not any more, by this worker and those after it: an [`Update::Switch`] comes. Returns when that is done.
    pub async fn switch_plugin(&self, name: &str, enabled: bool) -> Result<String, String> {
        let change = if enabled { Change::Enable } else { Change::Disable };
        self.change(name, change, None, &[]).await
    }

    async fn change(
        &self,
        name: &str,
        change: Change,
        settings: Option<config::Plugin>,
        fds: &[OwnedFd],
    ) -> Result<String, String> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            let number = waiting.last_change + 1;
            let plugin = name.to_owned();
            self.ask(&ToSupervisor::Change { number, plugin, change }, fds)?;
            waiting.last_change = number;
            waiting.changes.insert(number, (sender, settings));
        }
        answered(receiver).await
    }

    fn ask(&self, message: &ToSupervisor, fds: &[OwnedFd]) -> Result<(), String> {
        send_message(&*self.socket, message, fds).map_err(|error| format!("the supervisor cannot be asked: {error}"))
    }
}

async fn answered(receiver: oneshot::Receiver<Result<String, String>>) -> Result<String, String> {
    receiver
        .await
        .unwrap_or_else(|_| Err("the supervisor is gone".to_owned()))
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
            Ok(Some((ToWorker::Change { number, plugin, change }, fds))) => {
                let asked = link
                    .waiting
                    .lock()
                    .changes
                    .get_mut(&number)
                    .map(|(_, settings)| settings.take());
                change_one(link, plugin, change, asked.flatten(), fds)
            }
            Ok(Some((ToWorker::Refused { message, asked }, _))) => {
                let asked = link.waiting.lock().reloads(asked);
                answer(asked, &Err(message));
                None
            }
            Ok(Some((ToWorker::Changed { number, outcome }, _))) => {
                let asked = link.waiting.lock().changes.remove(&number);
                answer(asked.into_iter().map(|(asked, _)| asked).collect(), &outcome);
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
    let mut done = Done {
        link: link.clone(),
        asked: Vec::new(),
    };
    let assembled = read_header(&mut fds).and_then(|header| {
        done.asked = link.waiting.lock().reloads(header.asked);
        let cause = header.cause.clone();
        Ok((files::assemble(header, fds)?, cause))
    });
    match assembled {
        Ok((bundle, cause)) => Some(Update::Reload {
            bundle: Box::new(bundle),
            cause,
            done,
        }),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "reload failed; what was in force stays");
            done.finish(Err(format!("{error:#}")));
            None
        }
    }
}

fn change_one(
    link: &Link,
    plugin: String,
    change: Change,
    settings: Option<config::Plugin>,
    fds: Vec<OwnedFd>,
) -> Option<Update> {
    let done = Done {
        link: link.clone(),
        asked: Vec::new(),
    };
    let taken_back = match change {
        Change::Load { taken_back } => taken_back,
        Change::Enable | Change::Disable => {
            let enabled = change == Change::Enable;
            return Some(Update::Switch { plugin, enabled, done });
        }
    };
    let component = fds.into_iter().next().context("no component came with it");
    match component.and_then(|fd| Ok(files::read(fd, FILE_BYTES_MAX)?)) {
        Ok(component) => Some(Update::Load {
            plugin,
            component: component.to_vec(),
            settings: settings.map(Box::new),
            taken_back,
            done,
        }),
        Err(error) => {
            done.finish(Err(format!("{error:#}")));
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
    sealed_copy(bytes, bytes.len() as u64)
}

/// The same of what is left to read; an error if that is more than `most` bytes.
pub(crate) fn sealed_copy(from: impl Read, most: u64) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let memory = memfd_create(c"gatepost", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut copy = std::fs::File::from(memory);
    if io::copy(&mut from.take(most + 1), &mut copy)? > most {
        return Err(too_large(most));
    }
    copy.rewind()?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALED | SealFlag::F_SEAL_SEAL))?;
    Ok(copy.into())
}

fn too_large(most: u64) -> io::Error {
    io::Error::other(format!("more than {most} bytes"))
}

/// An error unless a descriptor is memory that nobody can change: another kind of file could change while it is read, or hold us up.
pub(crate) fn check_sealed(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    match seals.is_ok_and(|seals| seals.contains(SEALED)) {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "is no sealed memory")),
    }
}

/// What sealed memory holds, if it is that.
fn read_sealed(fd: OwnedFd, most: u64) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    check_sealed(&fd)?;
    files::read(fd, most)
}

/// What makes a descriptor of memory immutable.
const SEALED: nix::fcntl::SealFlag = nix::fcntl::SealFlag::F_SEAL_WRITE
    .union(nix::fcntl::SealFlag::F_SEAL_SHRINK)
    .union(nix::fcntl::SealFlag::F_SEAL_GROW);
