//! The process that starts the relay: binds the listeners, opens the files that hold secrets, and keeps a worker running.
//!
//! It stays what it was started as (root, for ports below 1024 and keys of mode 0600); the worker, a new process of the same
//! executable, becomes `user` before its first instruction and gets sockets and files as descriptors ([`crate::worker_link`]). The supervisor
//! has one thread, never reads from the network, parses nothing but its own configuration, and never looks into a certificate, users file or plugin:
//! it only opens them.
//!
//! - SIGHUP, and the worker's wish, read the configuration again; a bad one is logged and what was in force stays.
//! - Certificates, keys, users, password and plugin files are watched; one that changes is passed on within some seconds.
//! - SIGTERM and SIGINT drain: [`KILL_AFTER`] later, or at the second signal, the worker is killed.
//! - A worker that dies is started again, after a pause that grows from [`RESTART_PAUSE`] to [`RESTART_PAUSE_MAX`]. One that never got ready
//!   ends the supervisor instead, with status 1: what is wrong is in the log, and will not get better by itself.
//! - If the supervisor is killed, the kernel kills the worker: no relay without somebody who looks after it.

mod launch;
mod listeners;
mod open;
mod privileges;
mod watch;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Uid;

use crate::config::{Config, ConfigError, ConfigErrors, embedded_toml};
use crate::maillog::{self, Writing};
use crate::worker_link::{
    DRAIN_TIME, Header, Item, ToSupervisor, ToWorker, receive_message, sealed_memory, send_message,
};
use launch::Worker;
use listeners::Listeners;
use open::Opened;
use privileges::{StateDir, User};
use watch::Watch;

/// The first pause before a dead worker is replaced; it doubles with each death.
pub const RESTART_PAUSE: Duration = Duration::from_millis(100);
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A worker that lived this long died of something new: the pause starts over.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(60);
/// A drain that takes longer is ended by SIGKILL; a little more than the worker allows itself.
pub const KILL_AFTER: Duration = DRAIN_TIME.saturating_add(Duration::from_secs(5));

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    /// The embedded default, with its state in this folder.
    Embedded {
        state_dir: PathBuf,
    },
}

/// What `gatepost run` runs.
pub struct Options {
    pub source: Source,
    /// Makes what the embedded default names and a first start lacks (certificate, users file). Called once, as whoever started the
    /// supervisor, after `state_dir` is there and before any file is opened.
    pub prepare: fn(&Config) -> anyhow::Result<()>,
    /// Called once, when the first worker is ready.
    pub announce: fn(&Config),
    /// The arguments that make this executable a worker: [`crate::worker_link::WORKER_ARGUMENT`]. They carry no secret.
    pub worker_arguments: Vec<OsString>,
}

/// Runs until told to stop. Faults before the first worker runs go to standard error and end it with status 1, as does a worker that
/// fails at its start; a drain ends with 0.
pub fn run(options: &Options) -> ExitCode {
    let read = match options.source.read() {
        Ok(read) => read,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    let log = match maillog::init(&read.config.log, Writing::Direct) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("gatepost: the log cannot be set up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = Supervisor::start(options, read).and_then(|mut supervisor| supervisor.run(&log));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "cannot run");
            ExitCode::FAILURE
        }
    }
}

/// A configuration, and the text that it is: the worker gets the text and parses it the same way.
struct ReadConfig {
    path: PathBuf,
    text: String,
    config: Config,
}

impl Source {
    fn read(&self) -> Result<ReadConfig, ConfigErrors> {
        match self {
            Source::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
                let config = Config::parse(&text, path)?;
                Ok(ReadConfig {
                    path: path.clone(),
                    text,
                    config,
                })
            }
            Source::Embedded { state_dir } => {
                let path = PathBuf::from("embedded default");
                let text = embedded_toml(state_dir);
                let config = Config::parse(&text, &path)?;
                Ok(ReadConfig {
                    path,
                    text,
                    config: Config { file: None, ..config },
                })
            }
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigErrors {
    // Loading it says best what is wrong with it, and in which line.
    Config::load(path).err().unwrap_or_else(|| {
        ConfigErrors(vec![ConfigError {
            file: path.to_owned(),
            line: None,
            message: format!("cannot read: {error}"),
        }])
    })
}

struct Supervisor<'o> {
    options: &'o Options,
    signals: SignalFd,
    /// What the worker becomes; `None` if it stays what the supervisor is.
    user: Option<User>,
    state_dir: StateDir,
    current: ReadConfig,
    listeners: Listeners,
    watch: Watch,
    phase: Phase,
    restarts: u32,
    pause: Duration,
    /// Some worker has been ready once.
    was_ready: bool,
}

enum Phase {
    Running(Worker),
    /// The last worker died; the next one starts then.
    Pausing {
        until: Instant,
    },
    Draining {
        worker: Worker,
        kill_at: Instant,
    },
    Ended(ExitCode),
}

impl Supervisor<'_> {
    fn start(options: &Options, read: ReadConfig) -> anyhow::Result<Supervisor<'_>> {
        // Before anything is made: files and sockets are for their owner alone.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let signals = watch_signals().context("signals cannot be received")?;
        privileges::raise_descriptor_limit(&read.config.limits);
        let user = User::for_worker(read.config.user.as_deref())?;
        let state_dir = StateDir::take(&read.config.state_dir, user.as_ref())?;
        (options.prepare)(&read.config)?;
        let opened = Opened::open(&read.config)?;
        let mut listeners = Listeners::default();
        listeners.bind(&read.config)?.commit(&mut listeners);
        let watch = Watch::new(&opened);
        let mut supervisor = Supervisor {
            options,
            signals,
            user,
            state_dir,
            current: read,
            listeners,
            watch,
            phase: Phase::Ended(ExitCode::FAILURE),
            restarts: 0,
            pause: RESTART_PAUSE,
            was_ready: false,
        };
        supervisor.launch(opened)?;
        Ok(supervisor)
    }

    fn run(&mut self, log: &maillog::LogGuard) -> anyhow::Result<ExitCode> {
        loop {
            if let Phase::Ended(code) = self.phase {
                return Ok(code);
            }
            let (signalled, spoken) = self.wait()?;
            if signalled {
                while let Some(info) = self.signals.read_signal()? {
                    match Signal::try_from(info.ssi_signo as i32) {
                        Ok(Signal::SIGTERM | Signal::SIGINT) => self.terminate(),
                        Ok(Signal::SIGHUP) => {
                            // Logged within; nobody waits for an answer.
                            let _ = self.reload("SIGHUP", log);
                        }
                        // SIGCHLD: the state of the worker is looked at below, whatever woke us.
                        _ => {}
                    }
                }
            }
            if spoken {
                self.listen(log);
            }
            self.look_after_worker();
            self.look_at_files();
        }
    }

    /// Waits for a signal, a word of the worker, or the next thing to do. Returns whether there is a signal, and a word.
    fn wait(&self) -> anyhow::Result<(bool, bool)> {
        let now = Instant::now();
        let next_look = self.watch.next_look();
        let (link, until) = match &self.phase {
            Phase::Running(worker) => (worker.link(), next_look),
            Phase::Pausing { until } => (None, next_look.min(*until)),
            Phase::Draining { worker, kill_at } => (worker.link(), *kill_at),
            Phase::Ended(_) => (None, now),
        };
        // Rounded up: a wait that ends a little before its time would spin.
        let wait_ms = until.saturating_duration_since(now).as_millis() + 1;
        let timeout = PollTimeout::from(u16::try_from(wait_ms).unwrap_or(u16::MAX));
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(link.map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        Ok((
            fds[0].any().unwrap_or(false),
            fds.get(1).and_then(PollFd::any).unwrap_or(false),
        ))
    }

    /// Starts a worker and sends it everything.
    fn launch(&mut self, opened: Opened) -> anyhow::Result<()> {
        let worker = launch::start(&self.options.worker_arguments, self.user.as_ref())?;
        let mut items = vec![(Item::Lock, self.state_dir.lock()?)];
        let sent = self.items(opened).and_then(|rest| {
            items.extend(rest);
            self.send_bundle(&worker, items, "start")
        });
        tracing::info!(pid = worker.pid().as_raw(), "worker started");
        self.phase = Phase::Running(worker);
        if let Err(error) = sent {
            // It may have died already; then the reason is its own, in the log, and looking after it says the rest.
            tracing::warn!(error = format!("{error:#}"), "the worker does not take its start");
        }
        Ok(())
    }

    fn items(&self, opened: Opened) -> anyhow::Result<Vec<(Item, OwnedFd)>> {
        let mut items = vec![(Item::Config, sealed_memory(self.current.text.as_bytes())?)];
        items.extend(self.listeners.items(&self.current.config)?);
        items.extend(opened.into_items());
        Ok(items)
    }

    fn send_bundle(&self, worker: &Worker, items: Vec<(Item, OwnedFd)>, cause: &str) -> anyhow::Result<()> {
        let (items, fds): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let header = Header {
            config_path: self.current.path.clone(),
            embedded: matches!(self.options.source, Source::Embedded { .. }),
            unprivileged: self.user.is_some(),
            supervisor_uid: Uid::current().as_raw(),
            restarts: self.restarts,
            cause: cause.to_owned(),
            items,
        };
        let header = sealed_memory(&serde_json::to_vec(&header)?)?;
        let all: Vec<OwnedFd> = std::iter::once(header).chain(fds).collect();
        let link = worker.link().context("the worker has closed its link")?;
        send_message(link, &ToWorker::Bundle, &all).context("the worker does not listen")
    }

    fn terminate(&mut self) {
        let ended = Phase::Ended(ExitCode::SUCCESS);
        self.phase = match std::mem::replace(&mut self.phase, ended) {
            Phase::Running(worker) => {
                tracing::info!("draining");
                // Nobody can connect from now on: the worker closes its copies as soon as it hears of it.
                self.listeners.close();
                if let Some(link) = worker.link()
                    && let Err(error) = send_message(link, &ToWorker::Drain, &[])
                {
                    tracing::warn!(error = %error, "the worker cannot be told to drain");
                    worker.kill();
                }
                Phase::Draining {
                    worker,
                    kill_at: Instant::now() + KILL_AFTER,
                }
            }
            Phase::Draining { worker, kill_at } => {
                tracing::warn!("told to stop again; killing the worker");
                worker.kill();
                Phase::Draining { worker, kill_at }
            }
            Phase::Pausing { .. } => Phase::Ended(ExitCode::SUCCESS),
            Phase::Ended(code) => Phase::Ended(code),
        };
    }

    /// Reads everything again and passes it on. What cannot be read or bound leaves everything as it was.
    fn reload(&mut self, cause: &str, log: &maillog::LogGuard) -> Result<(), String> {
        if matches!(self.phase, Phase::Draining { .. } | Phase::Ended(_)) {
            return Err("the relay is ending".into());
        }
        let outcome = self.try_reload(cause, log);
        if let Err(error) = &outcome {
            tracing::error!(cause, error, "reload failed; what was in force stays");
        }
        outcome
    }

    fn try_reload(&mut self, cause: &str, log: &maillog::LogGuard) -> Result<(), String> {
        let read = self.options.source.read().map_err(|errors| errors.to_string())?;
        let kept = |what: &str| format!("{what} cannot change while the relay runs: restart it");
        if read.config.state_dir != self.current.config.state_dir {
            return Err(kept("state_dir"));
        }
        if read.config.user != self.current.config.user {
            return Err(kept("user"));
        }
        if read.config.dns != self.current.config.dns {
            return Err(kept("[dns]"));
        }
        let opened = Opened::open(&read.config).map_err(|error| format!("{error:#}"))?;
        let bound = self
            .listeners
            .bind(&read.config)
            .map_err(|error| format!("{error:#}"))?;
        bound.commit(&mut self.listeners);
        log.set_level(read.config.log.level);
        self.current = read;
        self.pass_on(opened, cause);
        Ok(())
    }

    /// Gives a running worker what is open now; one that is yet to start opens it then.
    fn pass_on(&mut self, opened: Opened, cause: &str) {
        self.watch = Watch::new(&opened);
        let Phase::Running(worker) = &self.phase else { return };
        let sent = self
            .items(opened)
            .and_then(|items| self.send_bundle(worker, items, cause));
        match sent {
            Ok(()) => tracing::info!(cause, "reload passed on"),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the worker does not take the reload; replacing it"
                );
                worker.kill();
            }
        }
    }

    fn look_at_files(&mut self) {
        let Phase::Running(_) = self.phase else { return };
        let changed = self.watch.look(Instant::now());
        if changed.is_empty() {
            return;
        }
        let names: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
        match Opened::open(&self.current.config) {
            Ok(opened) => self.pass_on(opened, &names.join(", ")),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "a changed file cannot be opened; what was in force stays"
                );
                self.watch.give_up_on(&changed);
            }
        }
    }

    /// Hears what the worker has to say.
    fn listen(&mut self, log: &maillog::LogGuard) {
        let (Phase::Running(worker) | Phase::Draining { worker, .. }) = &mut self.phase else {
            return;
        };
        let Some(link) = worker.link() else { return };
        let answer = match receive_message::<ToSupervisor>(link) {
            Ok(Some((ToSupervisor::Ready, _))) => {
                worker.ready();
                if !std::mem::replace(&mut self.was_ready, true) {
                    (self.options.announce)(&self.current.config);
                }
                tracing::info!("ready");
                None
            }
            Ok(Some((ToSupervisor::Reload, _))) => {
                // A reload that works is answered with the bundle itself.
                self.reload("asked for", log)
                    .err()
                    .map(|message| ToWorker::Refused { message })
            }
            Ok(Some((ToSupervisor::Store { plugin }, fds))) => {
                let outcome = self.store(&plugin, fds).map_err(|error| format!("{error:#}"));
                Some(ToWorker::Stored { outcome })
            }
            // Gone, or no longer itself: its end is noticed by SIGCHLD, but a closed socket must not be polled again.
            Ok(None) => {
                worker.close_link();
                None
            }
            Err(error) => {
                tracing::error!(error = %error, "the worker's message cannot be understood; replacing it");
                worker.close_link();
                worker.kill();
                None
            }
        };
        if let (Some(answer), Phase::Running(worker)) = (answer, &self.phase)
            && let Some(link) = worker.link()
            && let Err(error) = send_message(link, &answer, &[])
        {
            tracing::warn!(error = %error, "the worker does not take an answer");
        }
    }

    /// Replaces a plugin's configured file by what the worker sends.
    fn store(&mut self, plugin: &str, fds: Vec<OwnedFd>) -> anyhow::Result<String> {
        let configured = self.current.config.plugins.iter().find(|known| known.name == plugin);
        let path = &configured
            .with_context(|| format!("no plugin {plugin:?} is configured"))?
            .file;
        let component = fds.into_iter().next().context("no component came with it")?;
        let stamp = open::replace(path, component).with_context(|| path.display().to_string())?;
        self.watch.know(path, stamp);
        tracing::info!(plugin, file = %path.display(), "plugin file replaced");
        Ok(format!("{} replaced", path.display()))
    }

    /// Notices a worker's death, kills one that drains for too long, starts the next one when its time has come.
    fn look_after_worker(&mut self) {
        let now = Instant::now();
        let ended = Phase::Ended(ExitCode::FAILURE);
        self.phase = match std::mem::replace(&mut self.phase, ended) {
            Phase::Running(mut worker) => match worker.ended() {
                None => Phase::Running(worker),
                Some(how) if !self.was_ready => {
                    tracing::error!(how = %how, "the worker could not start");
                    Phase::Ended(ExitCode::FAILURE)
                }
                Some(how) => {
                    if worker.ran_for(now) >= RESTART_FORGIVEN {
                        self.pause = RESTART_PAUSE;
                    }
                    let pause = self.pause;
                    self.pause = (pause * 2).min(RESTART_PAUSE_MAX);
                    self.restarts += 1;
                    tracing::error!(how = %how, pause_ms = pause.as_millis() as u64, "the worker died; starting another one");
                    Phase::Pausing { until: now + pause }
                }
            },
            Phase::Draining { mut worker, kill_at } => match worker.ended() {
                Some(how) => {
                    tracing::info!(how = %how, "ended");
                    Phase::Ended(if how.is_success() {
                        ExitCode::SUCCESS
                    } else {
                        ExitCode::FAILURE
                    })
                }
                None => {
                    if now >= kill_at {
                        tracing::warn!("the drain takes too long; killing the worker");
                        worker.kill();
                        Phase::Draining {
                            worker,
                            kill_at: now + KILL_AFTER,
                        }
                    } else {
                        Phase::Draining { worker, kill_at }
                    }
                }
            },
            Phase::Pausing { until } if now >= until => {
                self.phase = Phase::Pausing { until };
                self.start_again(now);
                return;
            }
            other => other,
        };
    }

    fn start_again(&mut self, now: Instant) {
        let started = Opened::open(&self.current.config).and_then(|opened| {
            self.watch = Watch::new(&opened);
            self.launch(opened)
        });
        if let Err(error) = started {
            let pause = self.pause;
            self.pause = (pause * 2).min(RESTART_PAUSE_MAX);
            tracing::error!(
                error = format!("{error:#}"),
                pause_ms = pause.as_millis() as u64,
                "no worker can be started"
            );
            self.phase = Phase::Pausing { until: now + pause };
        }
    }
}

fn watch_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

#[cfg(test)]
mod tests;
