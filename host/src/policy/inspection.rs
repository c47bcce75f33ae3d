//! What a component is, and whether the daemon would take it: for its author, without a relay.
//!
//! It is compiled, looked at, loaded as the daemon loads it with the grants that its imports need, and each of its hooks is called once cold and
//! once warm, in a world in which nothing exists (see [`transcript`](super::transcript)). Where an answer has an action that needs another grant, that is
//! added and all is tried again. It changes nothing, and asks nobody outside of this process. What can be said is said,
//! also of one that would be refused; only what is no component at all is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::types::ComponentItem;

use super::Engine;
use super::decision::{Failure, Stage};
use super::instance::REFUSES_ITS_CONFIGURATION;
use super::plugin::{Compiled, function_grant, interface_grant};
use super::transcript::{Transcript, services, session};
use super::wasi;
use crate::config::{Grant, Instances};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    pub bytes: usize,
    /// `None` if it was compiled before.
    pub compiled_in: Option<Duration>,
    /// The packages that it speaks, with their versions: `gatepost:policy@0.1.0`.
    pub packages: BTreeSet<String>,
    /// What it exports, without the package.
    pub hooks: Vec<String>,
    /// The functions of the policies' interface that it imports, by the interface's part. (An interpreter imports all of WASI.)
    pub imports: BTreeMap<String, Vec<String>>,
    /// The grants that its imports need, and those that its answers in the trial needed. What other answers may need cannot be seen from outside.
    pub grants: BTreeSet<Grant>,
    /// The trial, or why the daemon would not load it.
    pub verdict: Result<Trial, String>,
}

/// What a loaded one did.
#[derive(Debug)]
pub struct Trial {
    /// Bytes of memories and tables of an instance that was started and configured.
    pub memory_bytes: Option<usize>,
    /// Started, configured, and probed if it may allow relaying.
    pub start_time: Duration,
    pub calls: Vec<TrialCall>,
}

/// One hook, called with nothing special.
#[derive(Debug)]
pub struct TrialCall {
    pub stage: Stage,
    /// The answer as a transcript shows it.
    pub said: Vec<String>,
    /// Why a call failed.
    pub failure: Option<String>,
    pub cold: Duration,
    pub warm: Duration,
}

impl Inspection {
    /// Whether the daemon would not load it only because it refuses its configuration.
    pub fn refuses_its_configuration(&self) -> bool {
        matches!(&self.verdict, Err(what) if what.contains(REFUSES_ITS_CONFIGURATION))
    }
}

/// One event for each hook, each in a session of its own.
const EVENTS: &str = "
=== connect
> CONNECT
=== ehlo
> EHLO client.test
=== auth
tls TLSv1.3
> AUTH PLAIN alice secret
=== mail
> MAIL FROM:<alice@elsewhere.test>
=== rcpt
> RCPT TO:<bob@ours.test>
=== data
> DATA
=== message
> MESSAGE
| From: Alice <alice@elsewhere.test>
| To: Bob <bob@ours.test>
| Subject: The minutes of Monday
| Date: Thu, 1 Jan 2026 00:00:00 +0000
| Message-ID: <1@elsewhere.test>
|
| We met on Monday and agreed to meet again.
=== queued
> QUEUED
=== route
> ROUTE
=== delivery
> DELIVERY deferred mail.example:25 451 4.3.0 try again
=== result
> RESULT RCPT 550 bob@ours.test
=== disconnect
> DISCONNECT
";

/// What it gets for the trial.
#[derive(Default)]
pub struct Given<'a> {
    /// Its `[plugin.config]`.
    pub config: toml::Table,
    /// Besides those that its imports need.
    pub grants: &'a [Grant],
    /// Names of endpoints; all of them say nothing.
    pub endpoints: &'a [String],
}

/// Looks at a component. Must be called within a tokio runtime.
pub async fn inspect(
    engine: &Engine,
    file: &Path,
    component: Arc<[u8]>,
    given: Given<'_>,
) -> Result<Inspection, String> {
    let bytes = component.len();
    let compiled = Compiled::new(engine, component).await?;
    let ty = compiled.component().component_type();
    let mut packages = BTreeSet::new();
    let mut apart = |name: &str| match name.split_once('/') {
        Some((package, rest)) => {
            let (interface, version) = rest.split_once('@').unwrap_or((rest, "no version"));
            packages.insert(format!("{package}@{version}"));
            interface.to_owned()
        }
        None => name.to_owned(),
    };
    let mut hooks: Vec<String> = ty.exports(engine.wasm()).map(|(name, _)| apart(name)).collect();
    hooks.sort();
    let mut imports = BTreeMap::new();
    let mut grants = BTreeSet::new();
    for (name, item) in ty.imports(engine.wasm()) {
        let interface = apart(name);
        if wasi::is_wasi(name) {
            continue;
        }
        let mut functions = Vec::new();
        if let ComponentItem::ComponentInstance(instance) = item.ty {
            for (function, item) in instance.exports(engine.wasm()) {
                if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                    grants.extend(function_grant(&interface, function));
                    functions.push(plain(function));
                }
            }
        }
        grants.extend(interface_grant(&interface));
        imports.insert(interface, functions);
    }
    let tried = Tried {
        engine,
        file,
        component: &compiled,
        config: given.config,
        endpoints: given.endpoints,
    };
    let all: BTreeSet<Grant> = grants.iter().chain(given.grants).copied().collect();
    let verdict = tried.with_what_answers_need(all, &mut grants).await;
    Ok(Inspection {
        bytes,
        compiled_in: compiled.compiled_in,
        packages,
        hooks,
        imports,
        grants,
        verdict,
    })
}

/// `[method]session.peer` is `session.peer`.
fn plain(function: &str) -> String {
    let bare = function.split_once(']').map_or(function, |(_, bare)| bare);
    bare.to_owned()
}

/// What is tried.
struct Tried<'a> {
    engine: &'a Engine,
    file: &'a Path,
    component: &'a Compiled,
    config: toml::Table,
    endpoints: &'a [String],
}

impl Tried<'_> {
    /// A trial with `all` grants and those that its answers need, which are added to `needed`.
    async fn with_what_answers_need(
        &self,
        mut all: BTreeSet<Grant>,
        needed: &mut BTreeSet<Grant>,
    ) -> Result<Trial, String> {
        let (mut trial, mut ungranted) = self.trial(&all).await?;
        // Each turn adds a grant.
        while let Some((stage, grant)) = ungranted {
            let more = all.iter().copied().chain([grant]).collect();
            match self.trial(&more).await {
                Ok(with_more) => {
                    (trial, ungranted) = with_more;
                    needed.insert(grant);
                    all = more;
                }
                // Without the grant it would be loaded, and fail.
                Err(refusal) => {
                    let call = trial.calls.iter_mut().find(|call| call.stage == stage);
                    if let Some(failure) = call.and_then(|call| call.failure.as_mut()) {
                        *failure += &format!(", and with it the relay would refuse it: {refusal}");
                    }
                    break;
                }
            }
        }
        Ok(trial)
    }

    /// A trial with exactly these grants, and the first hook whose answer needed one that is not among them.
    async fn trial(&self, grants: &BTreeSet<Grant>) -> Result<(Trial, Option<(Stage, Grant)>), String> {
        let began = Instant::now();
        let mut transcript = Transcript::parse(EVENTS).map_err(|error| error.to_string())?;
        let settings = &mut transcript.settings;
        settings.config = self.config.clone();
        settings.grants = Some(grants.iter().map(ToString::to_string).collect());
        if grants.contains(&Grant::Endpoint) {
            // Which it wants is its own business; the grant needs one.
            let none = "none".to_owned();
            let names = self.endpoints.iter().cloned().chain([none]);
            settings.endpoints.extend(names.map(|name| (name, String::new())));
        }
        let instances = Instances::Pooled;
        let world = services::start(self.engine, self.file, self.component, &transcript.settings, instances).await?;
        let start_time = began.elapsed();
        let plugin = world.policy.plugins().first();
        let memory_bytes = plugin.and_then(|plugin| plugin.memory_bytes());
        let mut calls: Vec<TrialCall> = Vec::new();
        let mut ungranted = None;
        for is_warm in [false, true] {
            for session in &transcript.sessions {
                let said: Vec<String> = session::play(&world, session).await.concat();
                let Some(decision) = world.recorder.take_last() else {
                    continue;
                };
                let took = decision.took;
                if let Some(Failure::Ungranted { grant, .. }) = decision.failure {
                    ungranted = ungranted.or(Some((decision.stage, grant)));
                }
                let failure = decision.failure.map(|failure| failure.to_string());
                match calls.iter_mut().find(|call| call.stage == decision.stage) {
                    Some(call) if is_warm => {
                        call.warm = took;
                        call.failure = call.failure.take().or(failure);
                    }
                    _ => calls.push(TrialCall {
                        stage: decision.stage,
                        said,
                        failure,
                        cold: took,
                        warm: took,
                    }),
                }
            }
        }
        let trial = Trial {
            memory_bytes,
            start_time,
            calls,
        };
        Ok((trial, ungranted))
    }
}
