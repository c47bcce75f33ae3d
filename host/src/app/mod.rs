//! Putting the relay together: what `gatepost run` starts, and what its worker is.
//!
//! `run` hands over to the supervisor, which starts this executable again as a worker; `worker` builds everything from what the
//! supervisor passed, serves until told to drain, and puts reloads in force as a whole or not at all. Nothing here handles a message.

mod actions;
mod first_start;
mod guard;
mod outbound;
mod reload;
mod versions;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::admin::http::Pages;
use crate::admin::socket::Allowed;
use crate::admin::{self, Probes};
use crate::auth::Users;
use crate::config::{Config, embedded_state_dir};
use crate::delivery::{Delivery, DeliveryConfig, DeliveryHandle};
use crate::dkim;
use crate::dns::Dns;
use crate::journal::LogJournal;
use crate::limits::Connections;
use crate::maillog::{self, LogGuard, Writing};
use crate::metrics::Metrics;
use crate::policy::breaker::Condition;
use crate::policy::services::authentication::Authenticator;
use crate::policy::services::counters::Counters;
use crate::policy::services::state::{Clock, Shared, State};
use crate::policy::{Compiler, Engine, Files, Policies, Services};
use crate::relay::{Relay, Settings};
use crate::spool::{Spool, SpoolOptions};
use crate::supervisor::{self, Source};
use crate::tls::TlsStore;
use crate::worker_link::{self, BoundListener, DRAIN_TIME, Link, Secrets, Startup, Update, UsersFile};
use reload::Listeners;
use versions::Versions;

/// How often gauges of the spool and the plugins are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_secs(2);
/// What of [`DRAIN_TIME`] is left for settling and closing the spool after the sessions have ended.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// `gatepost run`. Returns when the relay has ended; the exit status is the supervisor's.
pub fn run(config: Option<&Path>) -> anyhow::Result<()> {
    let source = match config {
        Some(path) => Source::File(path.to_owned()),
        None => Source::Embedded {
            state_dir: embedded_state_dir(),
        },
    };
    let options = supervisor::Options {
        source,
        prepare: first_start::prepare,
        announce: first_start::announce,
        worker_arguments: vec![OsString::from(worker_link::WORKER_ARGUMENT)],
    };
    match supervisor::run(&options) {
        code if code == ExitCode::SUCCESS => Ok(()),
        _ => std::process::exit(1),
    }
}

/// The worker: everything but what needs privileges.
pub fn worker() -> ExitCode {
    let startup = match worker_link::receive() {
        Ok(startup) => startup,
        Err(error) => {
            eprintln!("gatepost: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let metrics = Arc::new(Metrics::new());
    let writing = Writing::Buffered {
        lost: metrics.log_lines_lost.clone(),
    };
    let log = match maillog::init(&startup.bundle.config.log, writing) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("gatepost: the log cannot be set up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "no threads for the worker");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(serve(startup, metrics, &log));
    // What is still running has had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Loads and probes the policy of a configuration, as a start would, and forgets it: what is wrong with it.
pub fn try_policy(config: &Config, users: Users, files: &Files) -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let backing = Backing {
            state: State::in_memory(),
            dns: Dns::scratch(false),
            counters: Arc::default(),
            journal: Arc::new(LogJournal::new(Arc::new(Metrics::new()))),
        };
        // Whether the keys can be used is looked at apart.
        let services = backing.services(config, Arc::new(users), dkim::Keys::default());
        let engine = Engine::new(Compiler::of_commands())
            .map_err(|error| anyhow::anyhow!("the WebAssembly engine: {error:#}"))?;
        let errors = Policies::start(engine, config, files, services).await.err();
        let texts = errors.iter().flatten().map(ToString::to_string);
        Ok(texts.collect())
    })
}

/// What stands behind the plugins' imports and outlasts reloads.
struct Backing {
    state: State,
    dns: Dns,
    counters: Arc<Counters>,
    journal: Arc<LogJournal>,
}

impl Backing {
    /// The services of one configuration.
    fn services(&self, config: &Config, users: Arc<Users>, keys: dkim::Keys) -> Arc<Services> {
        Arc::new(Services {
            relay_domains: Arc::new(config.relay_domains.clone()),
            users,
            keys,
            state: self.state.clone(),
            dns: self.dns.clone(),
            authenticator: Authenticator::new(&self.dns, &config.hostname),
            counters: self.counters.clone(),
            journal: self.journal.clone(),
        })
    }
}

/// The running worker, as far as reloads and administrators reach it.
struct App {
    relay: Arc<Relay>,
    delivery: DeliveryHandle,
    backing: Backing,
    link: Link,
    versions: parking_lot::Mutex<Versions>,
    listeners: parking_lot::Mutex<Listeners>,
    /// What is in force, with the plugins' settings that stand in for configured ones.
    config: parking_lot::Mutex<Config>,
    /// The admin listener's socket number, and who serves it.
    pages: parking_lot::Mutex<Option<(u64, tokio::task::JoinHandle<()>)>>,
    began: std::time::Instant,
}

impl App {
    /// Serves the admin pages on this socket, and no more on the one before.
    fn serve_pages(self: &Arc<App>, bound: Option<BoundListener>, hostname: &str) -> anyhow::Result<()> {
        let mut serving = self.pages.lock();
        if serving.as_ref().map(|(socket, _)| *socket) == bound.as_ref().map(|bound| bound.socket) {
            return Ok(());
        }
        if let Some((_, task)) = serving.take() {
            task.abort();
        }
        if let Some(bound) = bound {
            let pages = Arc::new(Pages {
                metrics: self.relay.metrics.clone(),
                probes: self.clone(),
                hostname: hostname.to_owned(),
            });
            let listener = TcpListener::from_std(bound.listener)?;
            *serving = Some((bound.socket, tokio::spawn(admin::http::serve(listener, pages))));
        }
        Ok(())
    }
}

async fn serve(startup: Startup, metrics: Arc<Metrics>, log: &LogGuard) -> anyhow::Result<()> {
    let Startup {
        bundle,
        admin_socket,
        supervisor_uid,
        restarts,
        link,
        mut updates,
    } = startup;
    metrics.set_worker_restarts(restarts);
    let mut config = bundle.config;
    warn_of_configuration(&config);
    let users = Arc::new(users(bundle.secrets.users.as_ref())?);
    let tls = match bundle.secrets.certificates.as_slice() {
        [] => None,
        certificates => {
            let minimum = config
                .tls
                .as_ref()
                .context("certificates without [tls]")?
                .minimum_version;
            let (store, loaded) = TlsStore::new(certificates, minimum)?;
            warn_of_certificates(&loaded);
            metrics.certificates(&loaded);
            Some(store)
        }
    };
    let (spool, state) = open_stores(&config, &metrics, bundle.secrets.state_password.clone()).await?;
    let dns = Dns::configured(&config.dns).map_err(anyhow::Error::msg)?;
    let journal = Arc::new(LogJournal::new(metrics.clone()));
    let counters = Arc::new(Counters::default());
    let backing = Backing {
        state: state.clone(),
        dns: dns.clone(),
        counters,
        journal,
    };
    let keys = dkim::Keys::read(&config.dkim, &bundle.secrets.dkim)?;
    let services = backing.services(&config, users.clone(), keys);
    let versions = Versions::new(&mut config, &bundle.plugins, &bundle.kept, &bundle.history);
    let compiler = Compiler::confined().cached_in(&config.state_dir.join("compiled"));
    let engine = Engine::new(compiler).map_err(|error| anyhow::anyhow!("the WebAssembly engine: {error:#}"))?;
    if !engine.is_pooled() {
        tracing::warn!("too little address space for a pool of instances: hook calls will cost more");
    }
    let disabled = bundle.history.disabled;
    let policies = Policies::start_without(engine, &config, &versions.files(), services, disabled)
        .await
        .map_err(|errors| anyhow::anyhow!("{}", reload::join(&errors)))?;
    let delivery_config = delivery_config(&config, &metrics, &bundle.secrets)?;
    let relay = Arc::new(Relay::new(
        policies,
        spool.clone(),
        tls,
        metrics.clone(),
        Connections::new(&config.limits),
        Settings::new(&config, users),
    ));
    let outbound = Arc::new(outbound::Outbound::new(relay.clone()));
    let delivery = Delivery::start(
        Arc::new(delivery_config),
        spool.clone(),
        dns.clone(),
        outbound,
        metrics.clone(),
    );
    let mut listeners = Listeners::default();
    listeners.update(&relay, &config, bundle.listeners)?;
    let app = Arc::new(App {
        relay: relay.clone(),
        delivery,
        backing,
        link: link.clone(),
        versions: parking_lot::Mutex::new(versions),
        listeners: parking_lot::Mutex::new(listeners),
        config: parking_lot::Mutex::new(config.clone()),
        pages: parking_lot::Mutex::default(),
        began: std::time::Instant::now(),
    });
    app.serve_pages(bundle.admin_http, &config.hostname)?;
    let allowed = Allowed {
        supervisor_uid,
        worker_uid: nix::unistd::Uid::effective().as_raw(),
    };
    tokio::spawn(admin::socket::serve(
        UnixListener::from_std(admin_socket)?,
        allowed,
        app.clone(),
    ));
    let (state_ends, state_ended) = tokio::sync::oneshot::channel::<()>();
    let state_task = tokio::spawn({
        let state = state.clone();
        async move {
            state
                .run(async {
                    let _ = state_ended.await;
                })
                .await;
        }
    });
    tokio::spawn(gauges(app.clone()));
    tokio::spawn(guard::run(app.clone()));
    link.ready()
        .context("the supervisor cannot be told that the relay is up")?;

    // The only place where anything is replaced, so one thing at a time, in the supervisor's order.
    loop {
        match updates.recv().await {
            Some(Update::Reload { bundle, cause, done }) => {
                let outcome = app.reload(*bundle, log).await;
                match &outcome {
                    Ok(in_force) => {
                        metrics.reloads.inc();
                        tracing::info!(cause, "reloaded: {}", in_force.said);
                    }
                    Err(error) => {
                        metrics.reloads_failed.inc();
                        tracing::error!(cause, error, "reload failed; what was in force stays");
                    }
                }
                done.finish(outcome);
            }
            Some(Update::Load {
                plugin,
                component,
                settings,
                taken_back,
                done,
            }) => {
                let settings = settings.map(|settings| *settings);
                let outcome = app.load(&plugin, component.into(), settings, taken_back).await;
                match &outcome {
                    Ok(in_force) => tracing::info!(plugin, "plugin loaded: {}", in_force.said),
                    Err(error) => tracing::error!(plugin, error, "plugin load refused; the old version stays"),
                }
                done.finish(outcome);
            }
            Some(Update::Switch { plugin, enabled, done }) => {
                let outcome = app.switch(&plugin, enabled).await;
                match &outcome {
                    Ok(in_force) => tracing::warn!(plugin, enabled, "plugin switched: {}", in_force.said),
                    Err(error) => tracing::error!(plugin, enabled, error, "plugin not switched"),
                }
                done.finish(outcome);
            }
            Some(Update::Drain) | None => break,
        }
    }

    relay.start_draining();
    let sessions = app.listeners.lock().take();
    if timeout(DRAIN_TIME - CLOSE_TIME, sessions.join_all()).await.is_err() {
        tracing::warn!("some sessions did not end in time");
    }
    app.delivery.drain(CLOSE_TIME / 2).await;
    let _ = state_ends.send(());
    let _ = timeout(CLOSE_TIME, state_task).await;
    let _ = timeout(CLOSE_TIME, spool.close()).await;
    tracing::info!("ended");
    Ok(())
}

/// The plugins' store of this relay alone.
async fn open_embedded_state(folder: PathBuf) -> anyhow::Result<State> {
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let now_ms = crate::message::since_epoch(std::time::SystemTime::now()).as_millis() as u64;
        State::open(&folder, now_ms).with_context(|| folder.display().to_string())
    });
    opened.await?
}

fn delivery_config(config: &Config, metrics: &Metrics, secrets: &Secrets) -> anyhow::Result<DeliveryConfig> {
    DeliveryConfig::new(config, metrics, |path| {
        secrets
            .passwords
            .get(path)
            .cloned()
            .with_context(|| format!("{} was not passed", path.display()))
    })
}

fn users(file: Option<&UsersFile>) -> anyhow::Result<Users> {
    Ok(match file {
        Some(file) => Users::parse(&file.bytes, &file.path)?,
        None => Users::parse(b"", Path::new("users"))?,
    })
}

/// The spool and the plugins' store. Reading them back takes as long as there is mail.
async fn open_stores(
    config: &Config,
    metrics: &Metrics,
    state_password: Option<Zeroizing<String>>,
) -> anyhow::Result<(Spool, State)> {
    let state_dir = config.state_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Spool::open(&state_dir.join("spool"), SpoolOptions::default()));
    let (spool, recovered) = opened.await??;
    let state = match &config.state {
        Some(server) => State::Shared(Shared::open(server.clone(), state_password, Clock::Server).await),
        None => open_embedded_state(config.state_dir.join("state")).await?,
    };
    for damaged in &recovered.set_aside {
        metrics.spool.corrupt_records.inc();
        tracing::error!(
            file = %damaged.file.display(),
            offset = damaged.offset,
            reason = damaged.reason,
            message_id = damaged.id.map(|id| id.to_string()),
            copy = damaged.copy.as_ref().map(|copy| copy.display().to_string()),
            "a damaged record of the spool was set aside; the rest is delivered"
        );
    }
    if recovered.messages > 0 || recovered.torn_bytes > 0 {
        tracing::info!(
            messages = recovered.messages,
            held = recovered.held,
            torn_bytes = recovered.torn_bytes,
            took_ms = recovered.took.as_millis() as u64,
            "the queue is back"
        );
    }
    Ok((spool, state))
}

fn warn_of_configuration(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!(warning, "the configuration is taken, but seldom meant like this");
    }
}

fn warn_of_certificates(loaded: &[crate::tls::Loaded]) {
    for certificate in loaded {
        for warning in &certificate.warnings {
            tracing::warn!(file = %certificate.file.display(), warning, "a certificate needs attention");
        }
    }
}

/// Keeps the gauges that nothing else moves.
async fn gauges(app: Arc<App>) {
    let mut commits = 0;
    let metrics = &app.relay.metrics;
    loop {
        let stats = app.relay.spool.stats();
        let spool = &metrics.spool;
        spool
            .waiting
            .set((stats.messages - stats.held.min(stats.messages)) as i64);
        spool.held.set(stats.held as i64);
        spool.active.set(stats.claimed as i64);
        spool.bytes.set(stats.log_bytes as i64);
        spool.oldest_unix.set(
            stats
                .oldest
                .map_or(0, |at| crate::message::since_epoch(at).as_secs() as i64),
        );
        spool.syncs.inc_by(stats.commits - commits);
        commits = stats.commits;
        let now_ms = crate::message::since_epoch(std::time::SystemTime::now()).as_millis() as u64;
        for plugin in app.relay.policies.current().plugins() {
            metrics.plugin_instances(&plugin.name).set(plugin.instances().1 as i64);
            metrics
                .plugin_memory_bytes(&plugin.name)
                .set(plugin.held_bytes() as i64);
            let shut = plugin.condition(now_ms) != Condition::Closed;
            metrics.plugin_breaker_open(&plugin.name).set(shut.into());
        }
        if let State::Shared(state) = &app.backing.state {
            metrics.state_server_up.set(state.is_up().into());
            let failures = &metrics.state_failures;
            failures.inc_by(state.failures().saturating_sub(failures.get()));
        }
        app.relay.policies.sweep_shadows(now_ms);
        app.backing.counters.for_each(|plugin, name, value| {
            let counter = metrics.plugin_counter(plugin, name);
            counter.inc_by(value.saturating_sub(counter.get()));
        });
        sleep(GAUGES_EVERY).await;
    }
}

impl Probes for App {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if self.relay.is_draining() {
            return Err("draining".into());
        }
        self.relay.spool.check_room(0).map_err(|error| error.to_string())
    }
}
