//! Putting a new bundle in force. Everything is checked first; an error means that nothing has changed.
//!
//! The one exception is a plugin's file that is no good: its old component stays, and the rest of the bundle is taken over, so that a
//! bad upload does not hold up a renewed certificate.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::actions::SUPERSEDED;
use super::versions::{self, Version};
use super::{App, delivery_config, users, warn_of_certificates, warn_of_configuration};
use crate::config::{self, Config};
use crate::dkim;
use crate::listener::{self, Listener};
use crate::maillog::LogGuard;
use crate::policy::services::state::State;
use crate::policy::{Files, LoadError, Policy, Services};
use crate::relay::{Relay, Settings};
use crate::tls::TlsStore;
use crate::worker_link::{BoundListener, Bundle, InForce, Kept};

/// Where a component came from that is in no file of the configuration: the command that sent it names the file.
const GIVEN: &str = "the component given";
/// How long settings last that the configuration does not have.
pub(super) const LASTS: &str =
    "that lasts until the plugin's entry there or its file changes, or the relay is started anew";
/// What is to be done about settings that are not taken over.
pub(super) const MEND: &str = "mend the plugin's entry in the configuration, then reload (SIGHUP)";

/// The listeners that accept now, by the number of their socket.
#[derive(Default)]
pub struct Listeners {
    open: HashMap<u64, watch::Sender<Arc<Listener>>>,
    tasks: JoinSet<()>,
    pub bound: Vec<(String, std::net::SocketAddr)>,
}

impl Listeners {
    /// Goes on with the sockets that are there, begins with new ones, and stops accepting on those that are not there any more.
    pub fn update(&mut self, relay: &Arc<Relay>, config: &Config, bound: Vec<BoundListener>) -> anyhow::Result<()> {
        let mut open = HashMap::new();
        self.bound.clear();
        for bound in bound {
            let settings = config.listeners.iter().find(|listener| listener.name == bound.name);
            let settings = settings.with_context(|| format!("the listener {} is not configured", bound.name))?;
            let metrics = relay.metrics.listener(&bound.name);
            let listener = Arc::new(Listener::new(settings.clone(), config, metrics));
            self.bound.push((bound.name, bound.address));
            match self.open.remove(&bound.socket) {
                Some(current) => {
                    current.send_replace(listener);
                    open.insert(bound.socket, current);
                }
                None => {
                    let socket = TcpListener::from_std(bound.listener)?;
                    let (sender, receiver) = watch::channel(listener);
                    self.tasks.spawn(listener::run(relay.clone(), receiver, socket));
                    open.insert(bound.socket, sender);
                }
            }
        }
        // The senders of the others end with this, and their listeners with them.
        self.open = open;
        Ok(())
    }

    /// The tasks of all listeners, to wait for.
    pub fn take(&mut self) -> JoinSet<()> {
        self.open.clear();
        std::mem::take(&mut self.tasks)
    }
}

impl App {
    /// Puts a bundle in force.
    pub(super) async fn reload(self: &Arc<App>, bundle: Bundle, log: &LogGuard) -> Result<InForce, String> {
        self.take_over(bundle, log).await.map_err(|error| format!("{error:#}"))
    }

    /// Puts one plugin's version in force: a component with these settings, or with those that are in force. `taken_back` says why the version
    /// that is goes, if this is the one before it.
    pub(super) async fn load(
        &self,
        plugin: &str,
        component: Arc<[u8]>,
        settings: Option<config::Plugin>,
        taken_back: Option<String>,
    ) -> Result<InForce, String> {
        let mut config = self.config.lock().clone();
        let in_force = config.plugin(plugin)?.clone();
        let mut version = Version {
            settings: settings.unwrap_or_else(|| in_force.clone()),
            component,
        };
        let mut files = {
            let versions = self.versions.lock();
            if taken_back.is_some() && versions.previous(plugin) != Some(&version) {
                return Err(SUPERSEDED.to_owned());
            }
            versions.files()
        };
        // Another file is read only if the configuration says so.
        version.settings.file = in_force.file;
        config.put_plugin(version.settings.clone());
        files.insert(plugin.to_owned(), version.component.clone());
        let policies = &self.relay.policies;
        let services = policies.current().services.clone();
        let policy = match taken_back {
            None => policies.replace(&config, &files, services).await,
            Some(_) => policies.take_back(plugin, &config, &files, services).await,
        };
        let policy = policy.map_err(|mut errors| {
            for error in errors.iter_mut().filter(|error| error.plugin == plugin) {
                // Not what the configured file holds.
                error.file = GIVEN.to_owned();
            }
            join(&errors)
        })?;
        *self.config.lock() = config;
        let mut versions = self.versions.lock();
        let replaced = versions.accept_one(version, taken_back);
        let live = policy.plugins().iter().find(|live| &*live.name == plugin);
        let digest = live.map(|live| live.in_words()).unwrap_or_default();
        let until = match versions.stands_in(plugin) {
            true => format!(" with other settings than the configuration has: {LASTS}"),
            false => String::new(),
        };
        Ok(InForce {
            said: format!("{plugin} is live in version {digest}{until}"),
            kept: Vec::new(),
            replaced: replaced.then(|| plugin.to_owned()).into_iter().collect(),
            stand_ins: versions.stand_ins(),
        })
    }

    /// Has a plugin asked, or not any more.
    pub(super) async fn switch(&self, plugin: &str, enabled: bool) -> Result<InForce, String> {
        let said = self.relay.policies.switch(plugin, enabled).await?;
        Ok(InForce {
            said,
            ..InForce::default()
        })
    }

    async fn take_over(self: &Arc<App>, bundle: Bundle, log: &LogGuard) -> anyhow::Result<InForce> {
        let configured = bundle.config;
        let mut config = configured.clone();
        let users = Arc::new(users(bundle.secrets.users.as_ref())?);
        let delivery = delivery_config(&config, &self.relay.metrics, &bundle.secrets)?;
        let certificates = bundle.secrets.certificates;
        let minimum = config.tls.as_ref().map(|tls| tls.minimum_version);
        // Checked before anything changes; the store in use keeps its tickets.
        let in_force = self.relay.tls.read().clone();
        let tls = match (minimum, in_force) {
            (None, _) => None,
            (Some(minimum), Some(store)) => {
                let (prepared, loaded) = store.prepare(&certificates, minimum)?;
                Some((store, Some(prepared), loaded))
            }
            (Some(minimum), None) => {
                let (store, loaded) = TlsStore::new(&certificates, minimum)?;
                Some((store, None, loaded))
            }
        };
        let keys = dkim::Keys::read(&config.dkim, &bundle.secrets.dkim)?;
        let services = self.backing.services(&config, users.clone(), keys);
        let mut files: Files = bundle
            .plugins
            .iter()
            .map(|file| (file.name.clone(), versions::bytes(file)))
            .collect();
        let held = self.versions.lock().hold(&mut config, &mut files);
        let (policy, kept) = self.replace_policy(&mut config, &mut files, services).await?;
        let (replaced, stand_ins) = {
            let mut versions = self.versions.lock();
            let replaced = versions.accept(&configured, &config, &files, &kept);
            (replaced, versions.stand_ins())
        };
        warn_of_configuration(&config);

        let store = tls.map(|(store, prepared, loaded)| {
            if let Some(prepared) = prepared {
                store.put(prepared);
            }
            warn_of_certificates(&loaded);
            self.relay.metrics.certificates(&loaded);
            store
        });
        *self.relay.tls.write() = store;
        if let State::Shared(state) = &self.backing.state {
            state.set_password(bundle.secrets.state_password);
        }
        self.relay.connections.set_limits(&config.limits);
        self.relay.replace_settings(Settings::new(&config, users));
        self.delivery.reload(Arc::new(delivery));
        self.listeners.lock().update(&self.relay, &config, bundle.listeners)?;
        self.serve_pages(bundle.admin_http, &config.hostname)?;
        log.set_level(config.log.level);
        *self.config.lock() = config;
        let names: Vec<&str> = kept.iter().map(|kept| kept.why.as_str()).collect();
        let mut said = match names.is_empty() {
            true => format!("policy {} in force, {} plugins", policy.number, policy.plugins().len()),
            false => format!(
                "policy {} in force; kept the old version of: {}",
                policy.number,
                names.join("; ")
            ),
        };
        for plugin in held {
            tracing::warn!(
                plugin,
                remedy = MEND,
                "plugin settings not taken over: those that stand in for them stay"
            );
            said += &format!("; {plugin} goes on with other settings than the configuration has: {LASTS}");
        }
        Ok(InForce {
            said,
            kept,
            replaced,
            stand_ins,
        })
    }

    /// Replaces the policy by one with these files; a plugin whose new file is no good keeps its old one, if it has one, and what stands in for
    /// its settings. Both are put into what is given. Returns the plugins that did.
    async fn replace_policy(
        &self,
        config: &mut Config,
        files: &mut Files,
        services: Arc<Services>,
    ) -> anyhow::Result<(Arc<Policy>, Vec<Kept>)> {
        let policies = &self.relay.policies;
        let errors = match policies.replace(config, files, services.clone()).await {
            Ok(policy) => return Ok((policy, Vec::new())),
            Err(errors) => errors,
        };
        let mut kept = Vec::new();
        {
            let versions = self.versions.lock();
            let good = versions.files();
            for error in &errors {
                match good.get(&error.plugin) {
                    Some(old) if files.get(&error.plugin) != Some(old) => {
                        files.insert(error.plugin.clone(), old.clone());
                        let entry = config.plugin(&error.plugin).ok();
                        if let Some(settings) = entry.and_then(|entry| versions.stand_in_for(entry)) {
                            config.put_plugin(settings.clone());
                        }
                        kept.push(Kept {
                            plugin: error.plugin.clone(),
                            why: error.to_string(),
                        });
                    }
                    // The old file is no good under the new configuration either.
                    _ => anyhow::bail!("{}", join(&errors)),
                }
            }
        }
        let policy = policies
            .replace(config, files, services)
            .await
            .map_err(|errors| anyhow::anyhow!("{}", join(&errors)))?;
        for error in &errors {
            tracing::error!(plugin = error.plugin, "{error}; the old version stays");
        }
        Ok((policy, kept))
    }
}

pub fn join(errors: &[LoadError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("\n")
}
