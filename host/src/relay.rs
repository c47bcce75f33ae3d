//! What all connections of a worker share: the policy in force, the spool, the users, and the settings that a reload replaces.
//!
//! Only holds and hands out; a session takes what it needs when it begins, so that a reload never changes a session under way.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ipnet::IpNet;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::auth::Users;
use crate::config::{self, Config};
use crate::limits::Connections;
use crate::metrics::Metrics;
use crate::policy::Policies;
use crate::spool::Spool;
use crate::tls::TlsStore;

/// The runtime of a worker.
pub struct Relay {
    pub policies: Policies,
    pub spool: Spool,
    /// There when the configuration has a `[tls]`.
    pub tls: RwLock<Option<Arc<TlsStore>>>,
    pub metrics: Arc<Metrics>,
    pub connections: Connections,
    settings: RwLock<Arc<Settings>>,
    draining: AtomicBool,
    drain: Notify,
    began: Instant,
}

/// What a reload replaces as a whole.
pub struct Settings {
    pub hostname: String,
    pub relay_domains: Arc<BTreeSet<String>>,
    pub trusted_networks: Vec<IpNet>,
    /// The names of the configured routes; a policy may name no other.
    pub routes: BTreeSet<String>,
    pub users: Arc<Users>,
}

impl Settings {
    pub fn new(config: &Config, users: Arc<Users>) -> Settings {
        Settings {
            hostname: config.hostname.clone(),
            relay_domains: Arc::new(config.relay_domains.clone()),
            trusted_networks: config.trusted_networks.clone(),
            routes: config.routes.iter().map(|route| route.name.clone()).collect(),
            users,
        }
    }

    pub fn trusts(&self, client: IpAddr) -> bool {
        config::trusts(&self.trusted_networks, client)
    }
}

impl Relay {
    pub fn new(
        policies: Policies,
        spool: Spool,
        tls: Option<Arc<TlsStore>>,
        metrics: Arc<Metrics>,
        connections: Connections,
        settings: Settings,
    ) -> Relay {
        Relay {
            policies,
            spool,
            tls: RwLock::new(tls),
            metrics,
            connections,
            settings: RwLock::new(Arc::new(settings)),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            began: Instant::now(),
        }
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    pub fn replace_settings(&self, settings: Settings) {
        *self.settings.write() = Arc::new(settings);
    }

    /// The monotonic time as the protocol core takes it.
    pub fn clock(&self) -> std::time::Duration {
        self.began.elapsed()
    }

    /// Asks every session to end at its next safe point, and the listeners to take no more.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
        self.drain.notify_waiters();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Resolves once [`Relay::start_draining`] was called.
    pub async fn drained(&self) {
        let notified = self.drain.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_draining() {
            notified.await;
        }
    }
}
