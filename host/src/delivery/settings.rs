//! The configuration as delivery uses it: routes found by domain, secrets in place, TLS ready.
//!
//! Made once for each configuration and shared unchanged; a reload makes a new one. Opens no file: passwords
//! come from whoever was privileged enough to read them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gatepost_smtp::client::Credentials;
use zeroize::Zeroizing;

use super::tls::ClientTls;
use crate::config::{Config, Route, Timeouts, TlsMode};
use crate::metrics::{Metrics, RouteMetrics};

/// The port of SMTP between relays (RFC 5321 §4.5.4.2).
pub const SMTP_PORT: u16 = 25;

/// A configuration, ready for use.
pub struct DeliveryConfig {
    /// For EHLO, and to know ourselves among MX hosts.
    pub hostname: String,
    /// Bounces come from `MAILER-DAEMON@` this name.
    pub bounce_hostname: String,
    /// Where mail goes that no route claims.
    pub default: Arc<RouteRuntime>,
    routes: HashMap<String, Arc<RouteRuntime>>,
    domains: HashMap<String, Arc<RouteRuntime>>,
    /// Outbound connections, all destinations together.
    pub connections_total: usize,
    pub idle_timeout: Duration,
    /// The pauses before the second, third ... attempt; the last one repeats. Never empty.
    pub retry: Vec<Duration>,
    pub expire_after: Duration,
    pub delay_notice: Option<Duration>,
    pub timeouts: Timeouts,
    /// Our own listeners: an MX that leads to one of them is ourselves.
    pub listeners: Vec<SocketAddr>,
    /// Where MX hosts and address literals are called: [`SMTP_PORT`], except in tests.
    pub mx_port: u16,
    pub tls: ClientTls,
}

/// A route with its secrets.
pub struct RouteRuntime {
    pub route: Route,
    pub credentials: Option<Credentials>,
    pub metrics: RouteMetrics,
}

impl DeliveryConfig {
    /// `secret` reads a password file; it is called for each route that names one. Fails if a secret cannot be had,
    /// or if certificates are to be verified and the system has no trust anchors.
    pub fn new(
        config: &Config,
        metrics: &Metrics,
        secret: impl Fn(&Path) -> anyhow::Result<Zeroizing<String>>,
    ) -> anyhow::Result<DeliveryConfig> {
        let runtime = |route: &Route| -> anyhow::Result<Arc<RouteRuntime>> {
            let credentials = match &route.credentials {
                None => None,
                Some(configured) => {
                    let password = secret(&configured.password_file)
                        .with_context(|| format!("the password of route \"{}\"", route.name))?;
                    Some(Credentials {
                        username: configured.username.clone(),
                        password: password.to_string(),
                    })
                }
            };
            Ok(Arc::new(RouteRuntime {
                route: route.clone(),
                credentials,
                metrics: metrics.route(&route.name),
            }))
        };
        let delivery = &config.delivery;
        let default = runtime(&delivery.default)?;
        let mut routes = HashMap::new();
        let mut domains = HashMap::new();
        for route in &config.routes {
            let made = runtime(route)?;
            for domain in &route.domains {
                domains.insert(domain.clone(), made.clone());
            }
            routes.insert(route.name.clone(), made);
        }
        routes.insert(default.route.name.clone(), default.clone());
        let verifies = routes.values().any(|route| route.route.tls == TlsMode::Verify);
        Ok(DeliveryConfig {
            hostname: config.hostname.clone(),
            bounce_hostname: delivery.bounce_hostname.clone(),
            default,
            routes,
            domains,
            connections_total: delivery.connections_total as usize,
            idle_timeout: delivery.idle_timeout,
            retry: delivery.retry.clone(),
            expire_after: delivery.expire_after,
            delay_notice: delivery.delay_notice,
            timeouts: delivery.timeouts.clone(),
            listeners: config.listeners.iter().map(|listener| listener.address).collect(),
            mx_port: SMTP_PORT,
            tls: ClientTls::new(verifies)?,
        })
    }

    /// The route of that name; [`crate::config::DEFAULT_ROUTE`] is the default's.
    pub fn route(&self, name: &str) -> Option<&Arc<RouteRuntime>> {
        self.routes.get(name)
    }

    /// The route for a recipient's domain, which must be canonical.
    pub fn route_for(&self, domain: &str) -> &Arc<RouteRuntime> {
        self.domains.get(domain).unwrap_or(&self.default)
    }
}
