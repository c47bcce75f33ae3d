//! The configuration: what the TOML file can say, as plain values with every default filled in.
//!
//! [`Config::load`] reads and checks the whole file and reports all that is wrong with it at once, each error with
//! file, line, key and, where there is one, the nearest valid name. It opens no file but the configuration itself:
//! whether a certificate, a users file or a plugin can be read is the business of who needs it (and of `gatepost
//! check`). Nothing here panics and nothing is guessed: a key that is not known is an error, a key that is absent has
//! the default that is named here.
//!
//! How keys become values is in `read` (one function a table), how text becomes durations, sizes, networks and next
//! hops in `values`, how errors find their line in `document`, and where later errors
//! find it in `places`.

mod document;
mod embedded;
mod places;
mod read;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use crate::message::AuthOffer;
pub use document::{ConfigError, ConfigErrors};
pub use embedded::{EMBEDDED_PLUGINS, embedded_state_dir, embedded_toml};
pub use places::Places;
pub use values::{normalise_domain, parse_duration};

/// Everything that the file says. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that this was read from; `None` is the embedded default.
    pub file: Option<PathBuf>,
    /// The name that the relay greets with and writes into Received fields (RFC 5321 §4.1.1.1). Absent: the machine's
    /// name.
    pub hostname: String,
    /// Spool, state, cache and `admin.sock`. Absent: [`DEFAULT_STATE_DIR`] beside the configuration file.
    pub state_dir: PathBuf,
    /// `state` and `state_password_file`: the server that keeps the plugins' state, for several relays. Absent: each relay keeps it itself.
    pub state: Option<StateServer>,
    /// What the worker becomes when the supervisor was started as root. Absent: `gatepost`, else `nobody`.
    pub user: Option<String>,
    /// The domains whose recipients are taken from anyone: lower case, A-labels, no trailing dot (see
    /// [`normalise_domain`]).
    pub relay_domains: BTreeSet<String>,
    /// Visible to plugins; grants nothing by itself.
    pub trusted_networks: Vec<IpNet>,
    pub limits: Limits,
    /// At least one; names and addresses are unique.
    pub listeners: Vec<Listener>,
    /// There whenever a listener needs it.
    pub tls: Option<Tls>,
    pub auth: Auth,
    pub delivery: Delivery,
    /// In the order of the file; names are unique, and no domain is in two of them.
    pub routes: Vec<Route>,
    pub dns: Dns,
    /// In the order of the file; no two are of one domain and selector.
    pub dkim: Vec<Dkim>,
    pub admin: Admin,
    pub log: Log,
    /// In the order of the file, which is the order in which they are asked; names are unique.
    pub plugins: Vec<Plugin>,
    /// Where in `file` it stands what only others find wrong.
    pub places: Places,
}

/// Whether a client is in one of these networks. An IPv4 client in IPv6 clothes is an IPv4 client.
pub fn trusts(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|network| network.contains(&client))
}

impl Config {
    /// Whether a client is in one of `trusted_networks`.
    pub fn trusts(&self, client: IpAddr) -> bool {
        trusts(&self.trusted_networks, client)
    }

    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let bytes =
            std::fs::read(path).map_err(|error| ConfigErrors::whole_file(path, format!("cannot read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            ConfigErrors::at_line(path, line, "not UTF-8 text".to_owned())
        })?;
        Config::parse(&text, path)
    }

    /// The configuration of `--config`, or without it the embedded default in [`embedded_state_dir`], as a rule in the current
    /// folder.
    pub fn open(path: Option<&Path>) -> Result<Config, ConfigErrors> {
        match path {
            Some(path) => Config::load(path),
            None => Config::embedded(&embedded_state_dir()),
        }
    }

    /// Checks a configuration that is already in memory. `path` names it in errors, and relative paths start at its
    /// folder.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
        read::config(text, path)
    }

    /// The configuration of `gatepost run` with no `--config`: three loopback listeners, the reference plugins,
    /// delivery into a maildir under `state_dir`. It is a TOML text like any other: [`embedded_toml`].
    pub fn embedded(state_dir: &Path) -> Result<Config, ConfigErrors> {
        embedded::config(state_dir)
    }

    /// The local socket of the command line: `state_dir/admin.sock`.
    pub fn admin_socket(&self) -> PathBuf {
        self.state_dir.join(ADMIN_SOCKET)
    }

    /// The same for a file that has errors: the relay that runs keeps to what it read before, and can be asked while the file is mended. `None`
    /// if the file cannot be read.
    pub fn admin_socket_despite_errors(path: &Path) -> Option<PathBuf> {
        Some(read::state_dir_alone(&std::fs::read(path).ok()?, path).join(ADMIN_SOCKET))
    }

    /// How there comes to be a file that this configuration names and that is not there, where something can be said.
    pub fn remedy_for_missing(&self, path: &Path) -> Option<String> {
        let pair = self.tls.iter().flat_map(Tls::certificates);
        let mut pair = pair.filter(|pair| pair.certificate == path || pair.key == path);
        if let Some(pair) = pair.next() {
            return Some(format!(
                "for a trial: `mkdir -p {} && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN={} -keyout {} -out {}`",
                pair.key.parent().unwrap_or(Path::new(".")).display(),
                self.hostname,
                pair.key.display(),
                pair.certificate.display()
            ));
        }
        if self.auth.users.as_deref() == Some(path) {
            return Some("`gatepost user add NAME` makes it".to_owned());
        }
        let file = path.display();
        if self.dkim.iter().any(|dkim| dkim.key == path) {
            return Some(format!(
                "`openssl genpkey -algorithm ed25519 -out {file} && chmod 600 {file}` makes a key"
            ));
        }
        if self.admin.token_file.as_deref() == Some(path) {
            return Some(format!("`(umask 077 && openssl rand -hex 32 > {file})` makes a token"));
        }
        let mut credentials = self.all_routes().filter_map(|route| route.credentials.as_ref());
        if let Some(credentials) = credentials.find(|credentials| credentials.password_file == path) {
            let username = &credentials.username;
            return Some(format!(
                "write the password of {username:?} into it, one line, and `chmod 600 {file}`"
            ));
        }
        let state_password = self.state.as_ref().and_then(|state| state.password_file.as_deref());
        if state_password == Some(path) {
            return Some(format!(
                "write the password of the server in \"state\" into it, one line, and `chmod 600 {file}`"
            ));
        }
        let is_plugin = self.plugins.iter().any(|plugin| plugin.file == path);
        is_plugin
            .then(|| "`gatepost plugin build` makes it of a project, `make build` the plugins that ship".to_owned())
    }

    /// That of everything else first, then those of `[[route]]`.
    pub fn all_routes(&self) -> impl Iterator<Item = &Route> {
        std::iter::once(&self.delivery.default).chain(&self.routes)
    }

    /// Where the configuration names a file: `gatepost.toml:12: "key" in [[dkim]]`. `None` without a file of its own, or if it does not name it.
    pub fn place_of_file(&self, path: &Path) -> Option<String> {
        let (line, key) = self.places.file(path)?;
        Some(format!("{}:{line}: {key}", self.file.as_ref()?.display()))
    }

    /// Where a plugin's entry begins, or its own settings if it is about them and there are any: `gatepost.toml:12`.
    pub fn place_of_plugin(&self, name: &str, is_about_settings: bool) -> Option<String> {
        let lines = self.places.plugin(name)?;
        let line = lines.config.filter(|_| is_about_settings).unwrap_or(lines.entry);
        Some(format!("{}:{line}", self.file.as_ref()?.display()))
    }

    /// What is allowed, and seldom meant: for `gatepost check` and the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let private = PRIVATE_NETWORKS.map(|text| text.parse::<IpNet>().expect("a constant network"));
        for network in &self.trusted_networks {
            let usual_bits = if network.addr().is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
            if network.prefix_len() < usual_bits && !private.iter().any(|private| private.contains(network)) {
                warnings.push(format!(
                    "trusted_networks: {network} is wider than one owner's networks are (/{usual_bits}), and a policy may let all of it relay: name your own"
                ));
            }
        }
        if self.relay_domains.is_empty() {
            warnings.push("relay_domains is empty: no mail from strangers is taken at all".to_owned());
        }
        if let Some(state) = self.state.as_ref().filter(|state| state.is_in_the_clear()) {
            warnings.push(format!(
                "state: what plugins keep goes to {state} in the clear, the password too: write \"rediss://\" unless the network is yours alone"
            ));
        }
        if self.plugins.is_empty() {
            warnings.push("there is no [[plugin]]: nobody may relay, and nothing is filtered".to_owned());
        }
        warnings
    }

    /// The configured plugin of that name. The error says which there are.
    pub fn plugin(&self, name: &str) -> Result<&Plugin, String> {
        let found = self.plugins.iter().find(|plugin| plugin.name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = self.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
            let known = known.join(", ");
            format!("there is no plugin {name:?} in the configuration; there are: {known}")
        })
    }

    /// Gives the plugin of that name other settings. Returns those that it had; `None`, and nothing is changed, if there is none.
    pub fn put_plugin(&mut self, settings: Plugin) -> Option<Plugin> {
        let entry = self.plugins.iter_mut().find(|plugin| plugin.name == settings.name)?;
        // These do not stand in the file.
        self.places.forget_plugin(&settings.name);
        Some(std::mem::replace(entry, settings))
    }

    /// The configured route of that name.
    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    /// The route for a recipient's domain, which must be normalised: a configured one, else the default.
    pub fn route_for(&self, domain: &str) -> &Route {
        let configured = self.routes.iter().find(|route| route.domains.contains(domain));
        configured.unwrap_or(&self.delivery.default)
    }
}

/// The shortest prefixes of public networks that are one owner's.
const WIDEST_V4: u8 = 12;
const WIDEST_V6: u8 = 19;
/// Networks in which no stranger is, however wide (RFC 1918, RFC 6598, RFC 4193, loopback).
const PRIVATE_NETWORKS: [&str; 4] = ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7"];

/// The name of the command line's socket in `state_dir`.
const ADMIN_SOCKET: &str = "admin.sock";

/// Beside the configuration file, so that a trial leaves nothing elsewhere on the machine.
pub const DEFAULT_STATE_DIR: &str = "var/gatepost";

/// `state`: `redis://[user@]host[:6379][/database]`, `rediss://` with TLS, or `redis+unix:PATH`. The server is Redis (5 or later) or Valkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateServer {
    /// With TLS the certificate must be valid for the host.
    pub endpoint: Endpoint,
    /// Absent: the server's default user.
    pub user: Option<String>,
    /// Absent: 0.
    pub database: u16,
    /// `state_password_file`: one line. Absent: no AUTH.
    pub password_file: Option<PathBuf>,
}

impl StateServer {
    /// Whether what goes to it crosses a network that others may listen to.
    fn is_in_the_clear(&self) -> bool {
        matches!(&self.endpoint, Endpoint::Tcp { host, .. } if !is_loopback(host))
    }
}

/// Whether connections to this host stay on this machine.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `[limits]`: what one client, or all of them, may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `connections`: open at a time, all listeners together. Default [`Limits::CONNECTIONS`].
    pub connections: u32,
    /// `connections_per_address`: open at a time from one IPv4 address or IPv6 /64. Default
    /// [`Limits::CONNECTIONS_PER_ADDRESS`].
    pub connections_per_address: u32,
    /// `recipients` of one transaction. Default [`Limits::RECIPIENTS`].
    pub recipients: u32,
    /// `message_size`: bytes of a message; announced by SIZE (RFC 1870). Default [`Limits::MESSAGE_SIZE`].
    pub message_size: u64,
    /// `messages` of one session, then 421. Default [`Limits::MESSAGES`].
    pub messages: u32,
    /// `errors`: 4xx and 5xx replies in one session, then 421. Default [`Limits::ERRORS`].
    pub errors: u32,
    /// `auth_failures` of one session, then 421. Default [`Limits::AUTH_FAILURES`].
    pub auth_failures: u32,
    /// `idle_commands`: commands that move no mail (NOOP, RSET, VRFY, EHLO ...) in one session, then 421. Default
    /// [`Limits::IDLE_COMMANDS`].
    pub idle_commands: u32,
    /// `idle_timeout`: silence between commands, then 421. Default [`Limits::IDLE_TIMEOUT`].
    pub idle_timeout: Duration,
    /// `command_timeout`: from the first byte of a command line to its last, and a TLS handshake. Default
    /// [`Limits::COMMAND_TIMEOUT`].
    pub command_timeout: Duration,
    /// `data_timeout`: silence within message data. Default [`Limits::DATA_TIMEOUT`].
    pub data_timeout: Duration,
    /// `data_rate_min`: bytes a second that message data must keep up once `data_timeout` has passed. Default
    /// [`Limits::DATA_RATE_MIN`].
    pub data_rate_min: u64,
    /// `session_timeout`: the whole session; checked between transactions. Default [`Limits::SESSION_TIMEOUT`].
    pub session_timeout: Duration,
}

impl Limits {
    /// An idle session costs some 20 KiB: 10,000 of them are 200 MB.
    pub const CONNECTIONS: u32 = 10_000;
    /// Large senders keep some 20 to 100 connections open; a single address that wants more is at fault.
    pub const CONNECTIONS_PER_ADDRESS: u32 = 200;
    /// RFC 5321 §4.5.3.1.8 demands 100 at least; list servers send up to 1,000.
    pub const RECIPIENTS: u32 = 1_000;
    /// What the large providers take (25 MiB).
    pub const MESSAGE_SIZE: u64 = 25 * 1024 * 1024;
    /// A sender that reuses its connections may send for long, but must come back to a new policy at some time.
    pub const MESSAGES: u32 = 10_000;
    /// Postfix's smtpd_hard_error_limit, which the senders of the world have got used to.
    pub const ERRORS: u32 = 20;
    pub const AUTH_FAILURES: u32 = 3;
    /// Postfix's smtpd_junk_command_limit.
    pub const IDLE_COMMANDS: u32 = 100;
    /// RFC 5321 §4.5.3.2.7: at least 5 minutes.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
    /// A line is 512 to some 12,000 bytes (RFC 5321 §4.5.3.1.4, RFC 4954 §4): a minute for it is generous.
    pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
    /// RFC 5321 §4.5.3.2.5: the client gives each block 3 minutes.
    pub const DATA_TIMEOUT: Duration = Duration::from_secs(3 * 60);
    /// 64 bytes a second: slower than any modem, faster than who only wants to hold the connection.
    pub const DATA_RATE_MIN: u64 = 64;
    pub const SESSION_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);
}

/// `[[listener]]`
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    /// Absent: `starttls` when there is a `[tls]`, else `none`.
    pub tls: ListenerTls,
    /// Absent: `off`.
    pub auth: AuthOffer,
    /// AUTH without TLS, which is refused otherwise, loopback included. Absent: false.
    pub allow_plaintext_auth: bool,
    /// The upstreams that begin each connection with a PROXY header (and must). Absent: none.
    pub proxy_from: Vec<IpNet>,
}

/// `tls` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTls {
    None,
    /// RFC 3207.
    Starttls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `certificate` and `key`: for clients that send no server name, or one that no other certificate has.
    pub default: CertificateFiles,
    /// `[[tls.additional]]`: chosen by the server name that the client asks for (SNI).
    pub additional: Vec<CertificateFiles>,
    /// `minimum_version`. Absent: 1.2 (RFC 9325 §3.1.1).
    pub minimum_version: TlsVersion,
}

impl Tls {
    /// All pairs, the default one first.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateFiles> {
        std::iter::once(&self.default).chain(&self.additional)
    }
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// `[auth]`
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// The users file, as `gatepost user add` writes it.
    pub users: Option<PathBuf>,
}

/// `[delivery]`
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Where mail goes that no `[[route]]` claims: the keys `next_hop` (absent: MX), `tls`, `username`,
    /// `password_file`, `connections`, `messages_per_connection`, `source_address` of `[delivery]` itself. Its name
    /// is [`DEFAULT_ROUTE`], and it has no domains.
    pub default: Route,
    /// `connections_total`: outbound, all destinations together. Default [`Delivery::CONNECTIONS_TOTAL`].
    pub connections_total: u32,
    /// `idle_timeout`: how long an outbound connection is kept for the next message. Default
    /// [`Delivery::IDLE_TIMEOUT`].
    pub idle_timeout: Duration,
    /// `retry`: the pauses before the second, third ... attempt; the last one repeats until `expire_after`. Never
    /// empty. Default [`Delivery::RETRY`].
    pub retry: Vec<Duration>,
    /// `expire_after`: then a recipient that still fails for a time is bounced. Default [`Delivery::EXPIRE_AFTER`].
    pub expire_after: Duration,
    /// `delay_notice`: after that time the sender is told, once, that its message still waits; `"off"` is `None`.
    /// Default [`Delivery::DELAY_NOTICE`].
    pub delay_notice: Option<Duration>,
    /// `bounce_hostname`: bounces come from `MAILER-DAEMON@` this name. Absent: `hostname`.
    pub bounce_hostname: String,
    pub timeouts: Timeouts,
}

/// The name of the route that `[delivery]` itself describes; no `[[route]]` can have it.
pub const DEFAULT_ROUTE: &str = "default";

impl Delivery {
    pub const CONNECTIONS_TOTAL: u32 = 1_000;
    /// Shorter than the 5 minutes that servers wait (RFC 5321 §4.5.3.2.7), long enough to serve a burst.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
    /// Soon at first, for greylisting and restarts; then as RFC 5321 §4.5.4.1 advises, 30 minutes and more.
    pub const RETRY: [Duration; 8] = [
        Duration::from_secs(60),
        Duration::from_secs(5 * 60),
        Duration::from_secs(10 * 60),
        Duration::from_secs(30 * 60),
        Duration::from_secs(60 * 60),
        Duration::from_secs(2 * 60 * 60),
        Duration::from_secs(3 * 60 * 60),
        Duration::from_secs(4 * 60 * 60),
    ];
    /// RFC 5321 §4.5.4.1: at least 4 to 5 days.
    pub const EXPIRE_AFTER: Duration = Duration::from_secs(5 * 24 * 60 * 60);
    /// Half a working day: early enough for the sender to telephone.
    pub const DELAY_NOTICE: Duration = Duration::from_secs(4 * 60 * 60);
}

/// `[[route]]`, and the same keys in `[delivery]` for what no route claims. What a route leaves out, it takes from
/// `[delivery]`, except `next_hop`, `username` and `password_file`.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    /// Recipient domains, normalised; exact. A route without any is only reached when a policy names it.
    pub domains: BTreeSet<String>,
    /// Absent: the MX of the recipient's domain.
    pub next_hop: Option<NextHop>,
    /// Absent: `opportunistic`.
    pub tls: TlsMode,
    /// `username` and `password_file` (one line); never without TLS unless the next hop is a loopback address.
    pub credentials: Option<Credentials>,
    /// `connections` to one destination at a time. Default [`Route::CONNECTIONS`].
    pub connections: u32,
    /// `messages_per_connection`, then a new one. Default [`Route::MESSAGES_PER_CONNECTION`].
    pub messages_per_connection: u32,
    /// `source_address` that connections come from. Absent: the system chooses.
    pub source_address: Option<IpAddr>,
}

impl Route {
    /// Postfix's default_destination_concurrency_limit: what every receiver of the world takes.
    pub const CONNECTIONS: u32 = 20;
    pub const MESSAGES_PER_CONNECTION: u32 = 100;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// `smtp://host[:25]`; `implicit_tls` is `smtps://host[:465]`. The host is a name or an address, without brackets.
    Smtp {
        host: String,
        port: u16,
        implicit_tls: bool,
    },
    /// `maildir:PATH`
    Maildir(PathBuf),
    /// `discard:` takes everything and keeps nothing.
    Discard,
}

/// How outbound connections use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never STARTTLS, not even where it is offered.
    None,
    /// STARTTLS where it is offered, with whatever certificate; in the clear otherwise (RFC 7435).
    Opportunistic,
    /// No delivery without TLS; the certificate is not looked at.
    Required,
    /// No delivery without TLS and a certificate that is valid for the next hop's name.
    Verify,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password_file: PathBuf,
}

/// `[delivery.timeouts]`: how long the client side waits for each reply (RFC 5321 §4.5.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `connect`: TCP and, with implicit TLS or STARTTLS, each handshake. Default [`Timeouts::CONNECT`].
    pub connect: Duration,
    /// `greeting`: the 220. Default [`Timeouts::GREETING`].
    pub greeting: Duration,
    /// `command`: EHLO, STARTTLS, AUTH, MAIL, RCPT, RSET. Default [`Timeouts::COMMAND`].
    pub command: Duration,
    /// `data`: the 354. Default [`Timeouts::DATA`].
    pub data: Duration,
    /// `data_block`: each write of message data. Default [`Timeouts::DATA_BLOCK`].
    pub data_block: Duration,
    /// `data_end`: the reply to the final dot, or to a BDAT chunk. Default [`Timeouts::DATA_END`].
    pub data_end: Duration,
    /// `quit`. Default [`Timeouts::QUIT`].
    pub quit: Duration,
}

impl Timeouts {
    /// Postfix's smtp_connect_timeout: a dead MX must not hold up the live one behind it.
    pub const CONNECT: Duration = Duration::from_secs(30);
    /// RFC 5321 §4.5.3.2.1
    pub const GREETING: Duration = Duration::from_secs(5 * 60);
    /// RFC 5321 §4.5.3.2.2 and §4.5.3.2.3
    pub const COMMAND: Duration = Duration::from_secs(5 * 60);
    /// RFC 5321 §4.5.3.2.4
    pub const DATA: Duration = Duration::from_secs(2 * 60);
    /// RFC 5321 §4.5.3.2.5
    pub const DATA_BLOCK: Duration = Duration::from_secs(3 * 60);
    /// RFC 5321 §4.5.3.2.6: too short a wait here makes duplicates.
    pub const DATA_END: Duration = Duration::from_secs(10 * 60);
    /// The mail is delivered by then; nothing is lost if the goodbye is.
    pub const QUIT: Duration = Duration::from_secs(10);
}

/// `[[dkim]]`: a key with which mail of a domain is signed (RFC 6376).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dkim {
    /// Lower case, A-labels, no trailing dot.
    pub domain: String,
    /// Lower case. The public key is at `SELECTOR._domainkey.DOMAIN`.
    pub selector: String,
    /// The private key, PEM: RSA or Ed25519.
    pub key: PathBuf,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// `servers`, tried in order; port 53 unless given. Empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// `timeout` of one question to one server. Default [`Dns::TIMEOUT`].
    pub timeout: Duration,
    /// `attempts` for one look-up. Default [`Dns::ATTEMPTS`].
    pub attempts: u32,
}

impl Dns {
    /// resolv.conf(5) has the same.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
    /// resolv.conf(5) has the same.
    pub const ATTEMPTS: u32 = 2;
}

/// `[admin]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// HTTP for `/metrics`, `/healthz`, `/readyz`. Absent: none.
    pub address: Option<SocketAddr>,
    /// Actions over HTTP need this file's token. Absent: no actions over HTTP.
    pub token_file: Option<PathBuf>,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Absent: `auto`.
    pub format: LogFormat,
    /// Absent: `info`.
    pub level: tracing::Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text when standard error is a terminal, else JSON.
    Auto,
    Text,
    Json,
}

/// `[[plugin]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    pub file: PathBuf,
    /// Absent: none.
    pub grants: BTreeSet<Grant>,
    /// Absent: `defer`.
    pub on_failure: OnFailure,
    /// Asked even after an earlier plugin said `accept`. Absent: false.
    pub always: bool,
    /// Absent: `pooled`.
    pub instances: Instances,
    /// `max_instances` at a time; a call waits for one within its wall time. Default [`Plugin::MAX_INSTANCES`].
    pub max_instances: u32,
    /// `max_memory_mib`: memories and tables of all instances together, in bytes here. At least `memory_mib` of the budget. Default
    /// [`Plugin::max_memory_bytes`].
    pub max_memory_bytes: u64,
    /// `max_uses` of a pooled instance, then a new one. Default [`Plugin::MAX_USES`].
    pub max_uses: u32,
    pub budget: Budget,
    /// `[plugin.endpoints]`: what the plugin may connect to, by the name it uses. Only with the grant `endpoint`.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// `[plugin.config]` as JSON: an object, empty if absent. Dates and times become strings.
    pub config: serde_json::Value,
}

impl Plugin {
    /// With 64 MiB of memory each as the limit, and a few MiB in practice.
    pub const MAX_INSTANCES: u32 = 64;
    /// Of all instances together, unless something else is said: 16 that hold as much as they may by default, or some hundred of usual ones.
    pub const MAX_MEMORY_BYTES: u64 = 1 << 30;
    /// Some guests leak a little with each call (ComponentizeJS fails after about 1,800).
    pub const MAX_USES: u32 = 1_000;

    /// What all instances may hold together if it is not said: what `max_instances` could hold, as far as that is no more than
    /// [`Plugin::MAX_MEMORY_BYTES`].
    pub fn max_memory_bytes(max_instances: u32, memory_bytes: u64) -> u64 {
        let all = memory_bytes.saturating_mul(max_instances.into());
        all.min(Plugin::MAX_MEMORY_BYTES).max(memory_bytes)
    }

    /// The same settings for a component in this file. Where a component is read from says nothing about what it does.
    pub fn at(&self, file: &Path) -> Plugin {
        Plugin {
            file: file.to_owned(),
            ..self.clone()
        }
    }
}

/// What a plugin is allowed to do and to reach. In the file, the names with `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grant {
    /// Verify against the users file, list an identity's senders.
    Credentials,
    /// Read the password that a client sent.
    ReadPassword,
    /// Vouch for an identity.
    Authenticate,
    /// Allow relaying to a recipient.
    Relay,
    /// Rewrite the reverse-path and recipients, add recipients.
    EditEnvelope,
    ReadMessage,
    EditMessage,
    /// Choose a configured route, source address, TLS policy.
    Route,
    /// Have the host sign.
    Sign,
    /// The key-value store and its token buckets.
    State,
    Dns,
    /// SPF, DKIM, DMARC, ARC, iprev.
    Authentication,
    /// Connect to the endpoints in `[plugin.endpoints]`.
    Endpoint,
}

impl Grant {
    pub const ALL: [Grant; 13] = [
        Grant::Credentials,
        Grant::ReadPassword,
        Grant::Authenticate,
        Grant::Relay,
        Grant::EditEnvelope,
        Grant::ReadMessage,
        Grant::EditMessage,
        Grant::Route,
        Grant::Sign,
        Grant::State,
        Grant::Dns,
        Grant::Authentication,
        Grant::Endpoint,
    ];
}

/// What the client gets when a plugin traps, runs out of a budget or cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// 451
    Defer,
    /// As if the plugin had said `pass`.
    Skip,
    /// 550
    Reject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instances {
    /// Used again, up to `max_uses` calls.
    Pooled,
    /// A new one for each call.
    Fresh,
}

/// `[plugin.budget]`: the limits of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// `cpu_ms`. Default [`Budget::CPU`].
    pub cpu: Duration,
    /// `wall_ms`: the whole call, waiting for an instance and instantiation included. Default [`Budget::WALL`].
    pub wall: Duration,
    /// `memory_mib`: memories and tables together, in bytes here. Default [`Budget::MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// `host_call_bytes`: what crosses into and out of the plugin. Default [`Budget::HOST_CALL_BYTES`].
    pub host_call_bytes: u64,
    /// `log_lines`. Default [`Budget::LOG_LINES`].
    pub log_lines: u32,
}

impl Budget {
    /// A scorer reads some 100 MiB a second: enough for the largest message by default.
    pub const CPU: Duration = Duration::from_millis(500);
    /// One DNS look-up with both of its attempts timing out, and a little more.
    pub const WALL: Duration = Duration::from_secs(12);
    pub const MEMORY_BYTES: u64 = 64 * 1024 * 1024;
    /// The largest message by default, read twice, with room for look-ups.
    pub const HOST_CALL_BYTES: u64 = 64 * 1024 * 1024;
    pub const LOG_LINES: u32 = 100;
}

/// Where a named endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// `tcp://host:port`; the host is a name or an address, without brackets.
    Tcp { host: String, port: u16 },
    /// `tls://host:port`: TCP with a certificate that is valid for the host.
    Tls { host: String, port: u16 },
    /// `unix:PATH`
    Unix(PathBuf),
}
