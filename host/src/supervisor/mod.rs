//! The process that starts the relay: binds the listeners, opens the files that hold secrets, and keeps a worker running.
//!
//! It stays what it was started as (root, for ports below 1024 and keys of mode 0600); the worker, a new process of the same
//! executable, becomes `user` before its first instruction and gets sockets and files as descriptors ([`crate::worker_link`]). The supervisor
//! has one thread, never reads from the network, parses nothing but its own configuration, and never looks into a certificate, users file or plugin:
//! it only keeps what they held.
//!
//! - SIGHUP, and the worker's wish, read the configuration again; a bad one is logged and what was in force stays.
//! - Certificates, keys, users, password and plugin files are watched; one that changes is passed on within some seconds.
//! - `plugin load`, `rollback`, `enable` and `disable` get their turn here too. One thing is under way at a time, and the worker says what became of it.
//! - What the worker took over last is kept in memory, the files' contents included. The next worker starts from that, never from files that
//!   nobody has accepted.
//! - SIGTERM and SIGINT drain: [`KILL_AFTER`] later, or at the second signal, the worker is killed.
//! - A worker that dies is started again, after a pause that grows from [`RESTART_PAUSE`] to [`RESTART_PAUSE_MAX`]. One that never got ready
//!   ends the supervisor instead, with status 1: what is wrong is in the log, and will not get better by itself.
//! - If the supervisor is killed, the kernel kills the worker: no relay without somebody who looks after it.

mod launch;
mod listeners;
mod open;
mod privileges;
mod remembered;
mod watch;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Uid;

use crate::config::{self, Config, ConfigError, ConfigErrors, embedded_toml};
use crate::maillog::{self, Writing};
use crate::worker_link::{
    Change, DRAIN_TIME, Header, InForce, Item, Kept, ToSupervisor, ToWorker, check_sealed, receive_message,
    sealed_memory, send_message,
};
use launch::Worker;
use listeners::{Listeners, Prepared};
use open::Contents;
use privileges::{StateDir, User};
use remembered::Remembered;
use watch::Watch;

/// The first pause before a dead worker is replaced; it doubles with each death.
pub const RESTART_PAUSE: Duration = Duration::from_millis(100);
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A worker that lived this long died of something new: the pause starts over.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(60);
/// A drain that takes longer is ended by SIGKILL; a little more than the worker allows itself.
pub const KILL_AFTER: Duration = DRAIN_TIME.saturating_add(Duration::from_secs(5));
/// Changes of plugins that wait for their turn; further ones are refused.
const CHANGES_WAITING_MAX: usize = 16;
/// What those are told who ask for a change during a drain.
const ENDING: &str = "the relay is ending";

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
#[derive(Clone)]
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
    /// What the worker took over last (before the first one is ready: what it shall begin with).
    good: Bundle,
    /// What else the next worker has to know.
    remembered: Remembered,
    /// Why the files on disk are not what is in force, where that is so.
    refused: Option<String>,
    listeners: Listeners,
    watch: Watch,
    phase: Phase,
    /// What the worker is at; nothing else is sent to it before it has settled that.
    trying: Option<Trying>,
    wanted: VecDeque<Wanted>,
    /// How many reloads this worker has asked for.
    asked: u64,
    restarts: u32,
    pause: Duration,
    /// Some worker has been ready once.
    was_ready: bool,
}

/// Everything that a worker gets, the sockets apart.
struct Bundle {
    read: ReadConfig,
    contents: Contents,
    /// The plugins whose component in `contents` is older than their file.
    kept: Vec<Kept>,
    /// Settings in force that are not those of the configuration. They are the worker's word: nothing here is done by them.
    stand_ins: Vec<config::Plugin>,
}

impl Bundle {
    /// Of a configuration and its files, as the worker is to see them.
    fn new(read: ReadConfig, contents: Contents) -> Bundle {
        Bundle {
            read,
            contents,
            kept: Vec::new(),
            stand_ins: Vec::new(),
        }
    }

    /// The settings of a plugin that are in force.
    fn settings(&self, plugin: &str) -> Option<&config::Plugin> {
        let stands_in = self.stand_ins.iter().find(|settings| settings.name == plugin);
        stands_in.or_else(|| self.read.config.plugin(plugin).ok())
    }
}

enum Trying {
    Start,
    Reload {
        bundle: Box<Bundle>,
        prepared: Prepared,
        cause: String,
    },
    Change(Asked),
}

enum Wanted {
    Reload { cause: String },
    Change(Asked),
}

/// A change of one plugin.
struct Asked {
    number: u64,
    plugin: String,
    change: Change,
    /// What is to be loaded.
    component: Option<Arc<OwnedFd>>,
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
        let contents = Contents::read(&read.config)?;
        let mut listeners = Listeners::default();
        listeners.bind(&read.config)?.commit(&mut listeners);
        let watch = Watch::new(&contents);
        let mut supervisor = Supervisor {
            options,
            signals,
            user,
            state_dir,
            good: Bundle::new(read, contents),
            remembered: Remembered::default(),
            refused: None,
            listeners,
            watch,
            phase: Phase::Ended(ExitCode::FAILURE),
            trying: None,
            wanted: VecDeque::new(),
            asked: 0,
            restarts: 0,
            pause: RESTART_PAUSE,
            was_ready: false,
        };
        supervisor.launch()?;
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
                        Ok(signal @ (Signal::SIGTERM | Signal::SIGINT)) => self.terminate(signal),
                        Ok(Signal::SIGHUP) => self.want_reload("SIGHUP"),
                        // SIGCHLD: the state of the worker is looked at below, whatever woke us.
                        _ => {}
                    }
                }
            }
            if spoken {
                self.listen(log);
            }
            self.hear_the_rest(log);
            self.look_after_worker();
            self.begin_wanted();
            self.look_at_files();
        }
    }

    /// Waits for a signal, a word of the worker, or the next thing to do. Returns whether there is a signal, and a word.
    fn wait(&self) -> anyhow::Result<(bool, bool)> {
        let now = Instant::now();
        let (link, until) = match &self.phase {
            Phase::Running(worker) if self.trying.is_none() => (worker.link(), self.watch.next_look()),
            // Its word, or its end, wakes us.
            Phase::Running(worker) => (worker.link(), now + watch::LOOK_EVERY),
            Phase::Pausing { until } => (None, *until),
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

    /// Starts a worker and sends it what is good.
    fn launch(&mut self) -> anyhow::Result<()> {
        let prepared = self.listeners.bind(&self.good.read.config)?;
        let worker = launch::start(&self.options.worker_arguments, self.user.as_ref())?;
        self.asked = 0;
        let lock = (Item::Lock, self.state_dir.lock()?);
        let sent = self.send_bundle(&worker, &self.good, &prepared, "start", Some(lock));
        tracing::info!(pid = worker.pid().as_raw(), "worker started");
        self.phase = Phase::Running(worker);
        self.trying = Some(Trying::Start);
        if let Err(error) = sent {
            // It may have died already; then the reason is its own, in the log, and looking after it says the rest.
            tracing::warn!(error = format!("{error:#}"), "the worker does not take its start");
        }
        Ok(())
    }

    fn send_bundle(
        &self,
        worker: &Worker,
        bundle: &Bundle,
        prepared: &Prepared,
        cause: &str,
        lock: Option<(Item, OwnedFd)>,
    ) -> anyhow::Result<()> {
        let read = &bundle.read;
        let is_start = lock.is_some();
        let mut all = Vec::from_iter(lock);
        let (mut previous, mut taken_back, mut disabled) = Default::default();
        if is_start {
            all.extend(self.remembered.items()?);
            previous = self.remembered.settings();
            (taken_back, disabled) = (self.remembered.taken_back(), self.remembered.disabled());
        }
        all.push((Item::Config, sealed_memory(read.text.as_bytes())?));
        all.extend(self.listeners.items(&read.config, prepared)?);
        all.extend(bundle.contents.items()?);
        let (items, fds): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let header = Header {
            config_path: read.path.clone(),
            embedded: matches!(self.options.source, Source::Embedded { .. }),
            unprivileged: self.user.is_some(),
            supervisor_uid: Uid::current().as_raw(),
            restarts: self.restarts,
            cause: cause.to_owned(),
            asked: self.asked,
            kept: bundle.kept.clone(),
            stand_ins: bundle.stand_ins.clone(),
            previous,
            taken_back,
            disabled,
            items,
        };
        let header = sealed_memory(&serde_json::to_vec(&header)?)?;
        let all: Vec<OwnedFd> = std::iter::once(header).chain(fds).collect();
        let link = worker.link().context("the worker has closed its link")?;
        send_message(link, &ToWorker::Bundle, &all).context("the worker does not listen")
    }

    fn terminate(&mut self, cause: Signal) {
        let ended = Phase::Ended(ExitCode::SUCCESS);
        self.wanted.clear();
        // The worker takes no reload any more, and sockets that it would have had must not keep clients waiting.
        if matches!(self.trying, Some(Trying::Reload { .. })) {
            self.trying = None;
        }
        self.phase = match std::mem::replace(&mut self.phase, ended) {
            Phase::Running(worker) => {
                tracing::info!(cause = cause.as_str(), "draining");
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

    /// Everything is to be read again, once the worker is done with what it is at. One that waits already will see the same files.
    fn want_reload(&mut self, cause: &str) {
        if self.wanted.iter().any(|wanted| matches!(wanted, Wanted::Reload { .. })) {
            return;
        }
        if self.trying.is_some() {
            tracing::info!(cause, "the reload waits until the worker is done with the last change");
        }
        let cause = cause.to_owned();
        self.wanted.push_back(Wanted::Reload { cause });
    }

    fn want_change(&mut self, number: u64, plugin: String, change: Change, fds: Vec<OwnedFd>) -> Result<(), String> {
        let mut component = None;
        if let Change::Load { .. } = change {
            let came = fds.into_iter().next().ok_or("no component came with it")?;
            check_sealed(&came).map_err(|error| format!("the component: {error}"))?;
            component = Some(Arc::new(came));
        }
        let changes = self.wanted.iter().filter(|wanted| matches!(wanted, Wanted::Change(_)));
        if changes.count() >= CHANGES_WAITING_MAX {
            return Err("too many changes wait for their turn: try again later".into());
        }
        self.wanted.push_back(Wanted::Change(Asked {
            number,
            plugin,
            change,
            component,
        }));
        Ok(())
    }

    /// Begins what waits longest, if the worker has nothing to do.
    fn begin_wanted(&mut self) {
        while let (Phase::Running(worker), None) = (&self.phase, &self.trying)
            && let Some(wanted) = self.wanted.pop_front()
        {
            match wanted {
                Wanted::Reload { cause } => match self.read_again() {
                    Ok(bundle) => self.pass_on(bundle, cause),
                    Err(error) => self.refuse(&cause, error),
                },
                Wanted::Change(asked) => {
                    let (number, plugin, change) = (asked.number, asked.plugin.clone(), asked.change.clone());
                    let component = asked.component.iter().map(|component| component.try_clone());
                    let sent = component.collect::<io::Result<Vec<_>>>().and_then(|component| {
                        let link = worker.link().ok_or(io::ErrorKind::NotConnected)?;
                        send_message(link, &ToWorker::Change { number, plugin, change }, &component)
                    });
                    match sent {
                        Ok(()) => self.trying = Some(Trying::Change(asked)),
                        Err(error) => self.answer(&ToWorker::Changed {
                            number: asked.number,
                            outcome: Err(format!("the worker does not take it: {error}")),
                        }),
                    }
                }
            }
        }
    }

    /// The configuration and its files as they are on disk now.
    fn read_again(&self) -> Result<Bundle, String> {
        let read = self.options.source.read().map_err(|errors| errors.to_string())?;
        let kept = |what: &str| format!("{what} cannot change while the relay runs: restart it");
        let current = &self.good.read.config;
        if read.config.state_dir != current.state_dir {
            return Err(kept("state_dir"));
        }
        let server = |config: &Config| {
            config
                .state
                .as_ref()
                .map(|state| (state.to_string(), state.user.clone()))
        };
        if server(&read.config) != server(current) {
            return Err(kept("state"));
        }
        if read.config.user != current.user {
            return Err(kept("user"));
        }
        if read.config.dns != current.dns {
            return Err(kept("[dns]"));
        }
        let contents = Contents::read(&read.config).map_err(|error| format!("{error:#}"))?;
        Ok(Bundle::new(read, contents))
    }

    /// Gives the worker something new. It becomes what is good when the worker says so.
    fn pass_on(&mut self, bundle: Bundle, cause: String) {
        for (path, stamp) in bundle.contents.stamps() {
            self.watch.know(path, stamp);
        }
        let prepared = match self.listeners.bind(&bundle.read.config) {
            Ok(prepared) => prepared,
            Err(error) => return self.refuse(&cause, format!("{error:#}")),
        };
        let Phase::Running(worker) = &self.phase else { return };
        match self.send_bundle(worker, &bundle, &prepared, &cause, None) {
            Ok(()) => tracing::info!(cause, "reload passed on"),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the worker does not take the reload; replacing it"
                );
                worker.kill();
            }
        }
        self.trying = Some(Trying::Reload {
            bundle: Box::new(bundle),
            prepared,
            cause,
        });
    }

    /// What is on disk cannot be used, and needs no worker to see it.
    fn refuse(&mut self, cause: &str, error: String) {
        tracing::error!(cause, error, "reload failed; what was in force stays");
        self.answer(&ToWorker::Refused {
            message: error.clone(),
            asked: self.asked,
        });
        self.refused = Some(error);
    }

    fn answer(&self, answer: &ToWorker) {
        if let Phase::Running(worker) | Phase::Draining { worker, .. } = &self.phase
            && let Some(link) = worker.link()
            && let Err(error) = send_message(link, answer, &[])
        {
            tracing::warn!(error = %error, "the worker does not take an answer");
        }
    }

    /// The worker has taken over what it was given, or has not.
    fn settled(&mut self, outcome: Result<InForce, String>, log: &maillog::LogGuard) {
        match (self.trying.take(), outcome) {
            (Some(Trying::Reload { bundle, prepared, .. }), Ok(in_force)) => {
                let mut bundle = *bundle;
                let kept = in_force.kept.iter().map(|kept| &kept.plugin);
                for plugin in kept.chain(in_force.stand_ins.iter().map(|settings| &settings.name)) {
                    if let Some(component) = self.good.contents.plugin(plugin) {
                        bundle.contents.set_plugin(plugin, component.clone());
                    }
                }
                bundle.kept = in_force.kept;
                bundle.stand_ins = in_force.stand_ins;
                self.remembered.replaced(&in_force.replaced, &self.good, None);
                self.remembered.keep_configured(&bundle.read.config);
                prepared.commit(&mut self.listeners);
                log.set_level(bundle.read.config.log.level);
                self.watch.follow(&bundle.contents);
                self.refused = not_used(&bundle.kept);
                self.good = bundle;
            }
            // The worker has said so in the log.
            (Some(Trying::Reload { .. }), Err(error)) => self.refused = Some(error),
            (Some(Trying::Change(asked)), outcome) => {
                let outcome = outcome.and_then(|in_force| self.changed(&asked, in_force));
                let number = asked.number;
                self.answer(&ToWorker::Changed { number, outcome });
            }
            // A reload that the drain overtook.
            (None, _) if matches!(self.phase, Phase::Draining { .. }) => {}
            (other @ (Some(Trying::Start) | None), _) => {
                tracing::warn!("the worker settles what nobody asked it");
                self.trying = other;
            }
        }
    }

    /// What was asked for is so: the next worker begins with it, and a component goes into the plugin's file. Not if its settings are not the
    /// configured ones: the next start would put it in force with those, which nobody has tried.
    fn changed(&mut self, asked: &Asked, in_force: InForce) -> Result<String, String> {
        let (plugin, said) = (&asked.plugin, in_force.said);
        let (component, taken_back) = match (&asked.change, &asked.component) {
            (Change::Load { taken_back }, Some(component)) => (component, taken_back.as_deref()),
            (change, _) => {
                self.remembered.switched(plugin, *change == Change::Enable);
                return Ok(said);
            }
        };
        self.remembered.replaced(&in_force.replaced, &self.good, taken_back);
        self.good.contents.set_plugin(plugin, component.clone());
        self.good.stand_ins = in_force.stand_ins;
        if self.good.stand_ins.iter().any(|settings| settings.name == *plugin) {
            return Ok(said);
        }
        self.store(plugin, component).map_err(|error| {
            format!(
                "{said}, but its file could not be replaced, so the next reload or start of the relay will undo this: {error:#}"
            )
        })?;
        if let Some(place) = self.good.kept.iter().position(|kept| kept.plugin == *plugin) {
            self.good.kept.remove(place);
            // Only if that was all that was wrong.
            self.refused = not_used(&self.good.kept);
        }
        Ok(said)
    }

    fn look_at_files(&mut self) {
        if !matches!(self.phase, Phase::Running(_)) || self.trying.is_some() {
            return;
        }
        let changed = self.watch.look(Instant::now());
        if changed.is_empty() {
            return;
        }
        let names: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
        // With the configuration in force: one that is being edited is not read before somebody says so.
        match Contents::read(&self.good.read.config) {
            Ok(contents) => {
                let bundle = Bundle::new(self.good.read.clone(), contents);
                self.pass_on(bundle, names.join(", "));
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "a changed file cannot be read; what was in force stays");
                self.refused = Some(error);
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
        match receive_message::<ToSupervisor>(link) {
            Ok(Some((ToSupervisor::Ready, _))) => {
                worker.ready();
                self.trying = None;
                if !std::mem::replace(&mut self.was_ready, true) {
                    (self.options.announce)(&self.good.read.config);
                }
                let config = &self.good.read.config;
                tracing::info!(hostname = config.hostname, plugins = config.plugins.len(), "ready");
            }
            Ok(Some((ToSupervisor::Reload, _))) => {
                self.asked += 1;
                match self.phase {
                    // Answered with the bundle itself, or why there is none.
                    Phase::Running(_) => self.want_reload("asked for"),
                    _ => self.answer(&ToWorker::Refused {
                        message: ENDING.into(),
                        asked: self.asked,
                    }),
                }
            }
            Ok(Some((ToSupervisor::Change { number, plugin, change }, fds))) => {
                let outcome = match self.phase {
                    Phase::Running(_) => self.want_change(number, plugin, change, fds),
                    _ => Err(ENDING.into()),
                };
                if let Err(error) = outcome {
                    let outcome = Err(error);
                    self.answer(&ToWorker::Changed { number, outcome });
                }
            }
            Ok(Some((ToSupervisor::Settled(outcome), _))) => self.settled(outcome, log),
            // Gone, or no longer itself: its end is noticed by SIGCHLD, but a closed socket must not be polled again.
            Ok(None) => worker.close_link(),
            Err(error) => {
                tracing::error!(error = %error, "the worker's message cannot be understood; replacing it");
                worker.close_link();
                worker.kill();
            }
        }
    }

    /// A worker that has ended may have said something before: what it took over is in force, whatever it died of then.
    fn hear_the_rest(&mut self, log: &maillog::LogGuard) {
        while let Phase::Running(worker) | Phase::Draining { worker, .. } = &mut self.phase
            && worker.ended().is_some()
            && let Some(link) = worker.link()
        {
            let mut fds = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(count) if count > 0 => self.listen(log),
                _ => return,
            }
        }
    }

    /// Replaces a plugin's configured file by a component.
    fn store(&mut self, plugin: &str, component: &OwnedFd) -> anyhow::Result<()> {
        let plugins = &self.good.read.config.plugins;
        let configured = plugins.iter().find(|known| known.name == plugin);
        let path = &configured
            .with_context(|| format!("no plugin {plugin:?} is configured"))?
            .file;
        let stamp = open::replace(path, component).with_context(|| path.display().to_string())?;
        self.watch.know(path, stamp);
        tracing::info!(plugin, file = %path.display(), "plugin file replaced");
        Ok(())
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
                    self.forget_worker();
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

    /// The worker has died: what it was at has failed, and who asked for it is gone.
    fn forget_worker(&mut self) {
        if let Some(Trying::Reload { cause, .. }) = self.trying.take() {
            // Not tried again by itself: it may be what the worker died of.
            self.refused = Some(format!("the worker died while it took over a change ({cause})"));
        }
        self.wanted.retain(|wanted| matches!(wanted, Wanted::Reload { .. }));
    }

    fn start_again(&mut self, now: Instant) {
        match &self.refused {
            None => tracing::info!("the new worker gets what was in force"),
            Some(why) => tracing::warn!(
                why,
                "the new worker gets what was in force, from memory: what is on disk was refused; mend it, then send SIGHUP"
            ),
        }
        if let Err(error) = self.launch() {
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

/// Why plugins' files are not what is in force.
fn not_used(kept: &[Kept]) -> Option<String> {
    let why: Vec<&str> = kept.iter().map(|kept| kept.why.as_str()).collect();
    (!why.is_empty()).then(|| why.join("; "))
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
