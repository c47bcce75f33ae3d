//! One version of one plugin: its file checked, compiled, tried, and ready to be asked.
//!
//! Loading refuses, with an error that names the remedy, what could only fail later: code that is no component, code that was compiled elsewhere
//! (it would be native code), imports that the host does not have or that lack their grant, hooks of a wrong type, a
//! configuration that the plugin does not like. A plugin that loaded can still fail; then its calls do, one by one.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::exports::gatepost::policy as hooks;
use super::bindings::gatepost::policy as wit;
use super::breaker::{Breaker, Condition, Turn};
use super::decision::{Digest, Failure, Stage};
use super::engine::{Engine, MEMORY_BYTES_MAX};
use super::imports::{Call, Guest};
use super::instance::{Exports, HookAnswer, HookCall, Pool, REFUSES_ITS_CONFIGURATION};
use super::probation::{Counts, Probation};
use super::services::endpoint::Endpoints;
use super::wasi;
use crate::config::{self, Grant};
use crate::message::since_epoch;

const INTERFACE: &str = "gatepost:policy/";
const VERSION: &str = "@0.1.0";

/// Why a plugin cannot be loaded. The text names what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}plugin {plugin:?} ({file}): {what}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
pub struct LoadError {
    /// The configuration and the line of the plugin's entry or settings in it, if that is known: `gatepost.toml:12`.
    pub place: Option<String>,
    pub plugin: String,
    pub file: String,
    pub what: String,
}

impl LoadError {
    /// The same with its place in this configuration.
    pub fn placed_in(self, config: &config::Config) -> LoadError {
        let is_about_settings = self.what.contains(REFUSES_ITS_CONFIGURATION);
        LoadError {
            place: config.place_of_plugin(&self.plugin, is_about_settings),
            ..self
        }
    }
}

/// A loaded plugin.
pub struct Plugin {
    pub name: Arc<str>,
    pub settings: Arc<config::Plugin>,
    /// Of the component and its settings.
    pub version: Digest,
    /// Of the component alone.
    pub file_digest: Digest,
    stages: u16,
    pool: Pool,
    breaker: Breaker,
    calls: AtomicU64,
    failures: AtomicU64,
    /// Calls that the breaker kept from the guest.
    kept_back: AtomicU64,
    probation: Probation,
    withdrawn: AtomicBool,
}

/// A component that was checked and compiled. It becomes a plugin with settings.
#[derive(Clone)]
pub struct Compiled {
    component: Component,
    digest: Digest,
    /// `None` if it was compiled before.
    pub compiled_in: Option<Duration>,
}

impl Compiled {
    /// Checks and compiles, if it was not compiled before: takes a core for tenths of a second (Rust) to a minute (Python). The error is for
    /// people, without the file's name.
    pub async fn new(engine: &Engine, bytes: Arc<[u8]>) -> Result<Compiled, String> {
        engine.compile(bytes).await.map(|native| Compiled {
            component: native.component,
            digest: native.digest,
            compiled_in: native.compiled_in,
        })
    }

    pub(super) fn component(&self) -> &Component {
        &self.component
    }
}

impl Plugin {
    /// The version that these bytes and settings would have, and that of the bytes alone.
    pub fn version_of(settings: &config::Plugin, bytes: &[u8]) -> (Digest, Digest) {
        let file = Digest::of(bytes);
        (version(settings, &file), file)
    }

    /// Checks, compiles and tries a plugin. Compiling takes a core for tenths of a second (Rust) to a minute (Python), once.
    pub async fn load(engine: &Engine, settings: Arc<config::Plugin>, bytes: Arc<[u8]>) -> Result<Plugin, LoadError> {
        let compiled = Compiled::new(engine, bytes).await.map_err(|what| LoadError {
            place: None,
            plugin: settings.name.clone(),
            file: settings.file.display().to_string(),
            what,
        })?;
        match compiled.compiled_in {
            Some(took) => {
                let took_ms = took.as_millis() as u64;
                tracing::info!(plugin = settings.name, component = %compiled.digest, took_ms, "plugin compiled");
            }
            None => {
                tracing::debug!(plugin = settings.name, component = %compiled.digest, "plugin was compiled before");
            }
        }
        Plugin::of(engine, settings, &compiled).await
    }

    /// Checks and tries what was compiled.
    pub async fn of(engine: &Engine, settings: Arc<config::Plugin>, compiled: &Compiled) -> Result<Plugin, LoadError> {
        let error = |what: String| LoadError {
            place: None,
            plugin: settings.name.clone(),
            file: settings.file.display().to_string(),
            what,
        };
        if settings.budget.memory_bytes > MEMORY_BYTES_MAX as u64 {
            let most = MEMORY_BYTES_MAX >> 20;
            return Err(error(format!(
                "memory_mib of its budget is over {most}, the most that the pool has"
            )));
        }
        let component = &compiled.component;
        let missing = check_imports(component, engine, &settings);
        if !missing.is_empty() {
            return Err(error(missing.join("; ")));
        }
        let needs_wasi = component
            .component_type()
            .imports(engine.wasm())
            .any(|(name, _)| wasi::is_wasi(name));
        let linker = link(engine, needs_wasi).map_err(|cause| error(format!("{cause:#}")))?;
        let pre = linker
            .instantiate_pre(component)
            .map_err(|cause| error(format!("an import has another type than the host's: {cause:#}")))?;
        let (exports, stages) =
            find_hooks(&pre).map_err(|cause| error(format!("a hook has another type than the host's: {cause:#}")))?;
        if stages == 0 {
            return Err(error(format!(
                "it exports no hook: a plugin exports at least one of {INTERFACE}on-connect{VERSION} ... on-disconnect"
            )));
        }
        let configured = settings.config.as_object().is_some_and(|config| !config.is_empty());
        if configured && exports.lifecycle.is_none() {
            return Err(error(
                "it takes no configuration (it does not export lifecycle): remove [plugin.config]".into(),
            ));
        }
        let pool = Pool::new(
            engine.clone(),
            pre,
            exports,
            settings.clone(),
            Endpoints::new(&settings.endpoints),
        );
        let digests = (version(&settings, &compiled.digest), compiled.digest);
        let declined = pool.trial().await.map_err(|failure| error(failure.to_string()))?;
        Ok(Plugin::with(settings.clone(), digests, stages & !declined, pool))
    }

    fn with(settings: Arc<config::Plugin>, digests: (Digest, Digest), stages: u16, pool: Pool) -> Plugin {
        let (version, file_digest) = digests;
        Plugin {
            name: settings.name.as_str().into(),
            settings,
            version,
            file_digest,
            stages,
            pool,
            breaker: Breaker::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            kept_back: AtomicU64::new(0),
            probation: Probation::default(),
            withdrawn: AtomicBool::new(false),
        }
    }

    /// The same version with instances, counts and a breaker of its own.
    pub fn again(&self) -> Plugin {
        self.over(Endpoints::new(&self.settings.endpoints))
    }

    /// The same for probes, with endpoints that answer with nothing or fail.
    pub fn scratch(&self, endpoints_answer: bool) -> Plugin {
        self.over(Endpoints::scratch(&self.settings.endpoints, endpoints_answer))
    }

    fn over(&self, endpoints: Endpoints) -> Plugin {
        let digests = (self.version, self.file_digest);
        Plugin::with(self.settings.clone(), digests, self.stages, self.pool.empty(endpoints))
    }

    /// Its version, as decisions have it, and its component, as people compare files: `0123456789ab (component ba9876543210)`.
    pub fn in_words(&self) -> String {
        in_words(&self.version, &self.file_digest)
    }

    pub fn has(&self, stage: Stage) -> bool {
        self.stages & 1 << stage as u16 != 0
    }

    pub fn stages(&self) -> impl Iterator<Item = Stage> {
        Stage::ALL.into_iter().filter(|stage| self.has(*stage))
    }

    /// Instances made since it was loaded, and those that wait.
    pub fn instances(&self) -> (u64, usize) {
        (self.pool.started(), self.pool.idle())
    }

    /// What an instance that waits holds in memories and tables, if there is one.
    pub fn memory_bytes(&self) -> Option<usize> {
        self.pool.memory_bytes()
    }

    /// What all of its instances hold in memories and tables, those in use too.
    pub fn held_bytes(&self) -> usize {
        self.pool.held_bytes()
    }

    /// Hook calls since it was loaded, and how many of them failed.
    pub fn calls(&self) -> (u64, u64) {
        (
            self.calls.load(Ordering::Relaxed),
            self.failures.load(Ordering::Relaxed),
        )
    }

    /// This version was rolled back: sessions that hold it shall not begin another transaction with it.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Calls one of its hooks. The caller checks the answer, and then says how it went: [`Plugin::settle`].
    pub async fn call(
        &self,
        call: Box<Call>,
        began: Instant,
        hook: HookCall<'_>,
    ) -> (Result<HookAnswer, Failure>, Box<Call>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now_ms = since_epoch(call.now).as_millis() as u64;
        if !self.breaker.admits(now_ms) {
            return (Err(Failure::BreakerOpen), call);
        }
        self.pool.call(call, began, hook).await
    }

    /// Notes how a call ended, whoever saw the failure: the pool, or the check of the answer. Once for each call. Says so if the breaker turns.
    pub fn settle(&self, failure: Option<&Failure>) -> Option<Turn> {
        match failure {
            None => self.breaker.succeeded(),
            // It was not asked.
            Some(Failure::BreakerOpen) => {
                self.kept_back.fetch_add(1, Ordering::Relaxed);
                None
            }
            Some(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.probation.failed(self.counts(), Instant::now());
                self.breaker.failed(since_epoch(SystemTime::now()).as_millis() as u64)
            }
        }
    }

    /// Calls that reached the guest, and how many of them failed.
    fn counts(&self) -> Counts {
        let calls = self.calls.load(Ordering::Relaxed);
        Counts {
            calls: calls.saturating_sub(self.kept_back.load(Ordering::Relaxed)),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Watches its failures from now on, until then; `wake` is told if there are too many.
    pub fn begin_probation(&self, ends: Option<Instant>, wake: Arc<Notify>) {
        self.probation.begin(self.counts(), ends, wake);
    }

    pub fn end_probation(&self) {
        self.probation.end();
    }

    /// What it failed its probation with, if it did; said once.
    pub fn take_failed_probation(&self) -> Option<Counts> {
        self.probation.take_failure()
    }

    /// Whether its circuit breaker lets calls through.
    pub fn condition(&self, now_ms: u64) -> Condition {
        self.breaker.condition(now_ms)
    }
}

/// A version for people.
pub fn in_words(version: &impl Display, component: &impl Display) -> String {
    format!("{version} (component {component})")
}

fn version(settings: &config::Plugin, file: &Digest) -> Digest {
    let mut whole = Sha256::new();
    whole.update(file.0);
    // The Debug form covers every setting, and is only ever compared within one build.
    whole.update(format!("{:?}", settings.at(Path::new(""))));
    Digest(whole.finalize().into())
}

/// What the component imports and may not: one text each.
fn check_imports(component: &Component, engine: &Engine, settings: &config::Plugin) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, item) in component.component_type().imports(engine.wasm()) {
        let ty = item.ty;
        if wasi::is_wasi(name) {
            missing.extend(wasi::refusal(name));
            continue;
        }
        let interface = name
            .strip_prefix(INTERFACE)
            .and_then(|rest| rest.split_once('@'))
            .map(|(interface, _)| interface);
        let Some(interface) = interface.filter(|interface| is_offered(interface)) else {
            missing.push(format!("it imports {name}, which this host does not have"));
            continue;
        };
        let mut need = |grant: Grant, what: String| {
            if !settings.grants.contains(&grant) {
                missing.push(format!(
                    "it imports {what}, which needs the grant \"{grant}\": add it to grants of the plugin"
                ));
            }
        };
        if let Some(grant) = interface_grant(interface) {
            need(grant, name.to_owned());
        }
        if let ComponentItem::ComponentInstance(instance) = ty {
            for (function, item) in instance.exports(engine.wasm()) {
                if let (ComponentItem::ComponentFunc(_), Some(grant)) = (item.ty, function_grant(interface, function)) {
                    need(grant, format!("{name}.{function}"));
                }
            }
        }
    }
    missing
}

fn is_offered(interface: &str) -> bool {
    const FREE: [&str; 10] = [
        "types", "messages", "login", "queue", "log", "hooks", "clock", "random", "metrics", "notes",
    ];
    FREE.contains(&interface) || interface_grant(interface).is_some()
}

pub(super) fn interface_grant(interface: &str) -> Option<Grant> {
    Some(match interface {
        "state" => Grant::State,
        "dns" => Grant::Dns,
        "credentials" => Grant::Credentials,
        "authentication" => Grant::Authentication,
        "endpoint" => Grant::Endpoint,
        "signing" => Grant::Sign,
        _ => return None,
    })
}

pub(super) fn function_grant(interface: &str, function: &str) -> Option<Grant> {
    match (interface, function) {
        ("messages", _) => Some(Grant::ReadMessage),
        ("login", "[method]attempt.password") => Some(Grant::ReadPassword),
        ("login", "[method]attempt.verify") => Some(Grant::Credentials),
        _ => None,
    }
}

/// Everything that the host has; what a plugin may not have was refused before.
fn link(engine: &Engine, needs_wasi: bool) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine.wasm());
    fn own(guest: &mut Guest) -> &mut Guest {
        guest
    }
    wit::types::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::messages::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::login::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::queue::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::log::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::hooks::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::clock::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::random::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::metrics::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::notes::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::state::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::dns::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::credentials::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::authentication::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::signing::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    wit::endpoint::add_to_linker::<_, HasSelf<_>>(&mut linker, own)?;
    if needs_wasi {
        wasi::link(&mut linker)?;
    }
    Ok(linker)
}

/// The hooks that are there, and a bit for each stage. An interface of that name with other functions is an error.
fn find_hooks(pre: &wasmtime::component::InstancePre<Guest>) -> wasmtime::Result<(Exports, u16)> {
    let there = |hook: &str| {
        pre.component()
            .get_export_index(None, format!("{INTERFACE}{hook}{VERSION}"))
            .is_some()
    };
    let mut exports = Exports::default();
    let mut stages = 0;
    if there("lifecycle") {
        exports.lifecycle = Some(hooks::lifecycle::GuestIndices::new(pre)?);
    }
    macro_rules! find {
        ($($stage:ident $module:ident),*) => { $(
            if there(Stage::$stage.name()) {
                exports.$module = Some(hooks::$module::GuestIndices::new(pre)?);
                stages |= 1 << Stage::$stage as u16;
            }
        )* };
    }
    find!(Connect on_connect, Ehlo on_ehlo, Auth on_auth, Mail on_mail, Rcpt on_rcpt, Data on_data, Message on_message,
          Queued on_queued, Route on_route, Delivery on_delivery, Result on_result, Disconnect on_disconnect);
    Ok((exports, stages))
}
