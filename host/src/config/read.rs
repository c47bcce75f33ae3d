//! From a document to a [`Config`]: one function a table, each with its keys, their defaults, and the rules between
//! them.
//!
//! Every key is asked for before a function gives up on a table, so that one bad value hides no other error. Opens no
//! file but `/proc/sys/kernel/hostname`, for a relay that is given no name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::document::{Document, Section};
use super::places::PluginLines;
use super::values::{Count, Domain, JsonMap, MaybeDuration, Server, Size, normalise_domain};
use super::*;

pub(super) fn config(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    let mut config = Document::read(text, path, top)?;
    config.file = Some(path.to_owned());
    Ok(config)
}

/// What `state_dir` is in a text that may be no TOML as a whole: its line is read by itself.
pub(super) fn state_dir_alone(text: &[u8], path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new(""));
    let found = String::from_utf8_lossy(text)
        .lines()
        .map(str::trim_start)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| line.starts_with("state_dir"))
        .find_map(|line| {
            line.parse::<toml::Table>()
                .ok()?
                .get("state_dir")?
                .as_str()
                .map(PathBuf::from)
        });
    folder.join(found.unwrap_or_else(|| DEFAULT_STATE_DIR.into()))
}

fn top(top: &mut Section<'_, '_>) -> Option<Config> {
    let hostname = match top.has("hostname") {
        true => top.get::<Domain>("hostname").map(|name| name.0),
        false => Some(machine_name()),
    };
    let state_dir = top.get("state_dir").unwrap_or_else(|| top.path_of(DEFAULT_STATE_DIR));
    let state = state(top);
    let user = top.get("user");
    let relay_domains = domains(top, "relay_domains");
    let trusted_networks = top.get("trusted_networks").unwrap_or_default();

    let limits = limits(top.table("limits", "[limits]"));
    let tls_present = top.has("tls");
    let tls = tls(top.table("tls", "[tls]"));
    let auth = auth(top.table("auth", "[auth]"));
    let delivery = delivery(
        top.table("delivery", "[delivery]"),
        hostname.as_deref().unwrap_or_default(),
    );
    let routes = routes(top, &delivery.default);
    let dns = dns(top.table("dns", "[dns]"));
    let dkim = dkim(top);
    let admin = admin(top.table("admin", "[admin]"));
    let log = log(top.table("log", "[log]"));
    let plugins = plugins(top);

    let can_authenticate = auth.users.is_some()
        || plugins
            .iter()
            .any(|plugin| plugin.grants.contains(&Grant::Authenticate));
    let listeners = listeners(
        top,
        Offers {
            tls: tls_present,
            auth: can_authenticate,
        },
    );

    Some(Config {
        file: None,
        hostname: hostname?,
        state_dir,
        state,
        user,
        relay_domains,
        trusted_networks,
        limits,
        listeners,
        tls,
        auth,
        delivery,
        routes,
        dns,
        dkim,
        admin,
        log,
        plugins,
        places: top.places().take(),
    })
}

fn state(top: &mut Section<'_, '_>) -> Option<StateServer> {
    let password_file = top.file("state_password_file");
    if top.has("state_password_file") && !top.has("state") {
        top.problem("state_password_file", "needs \"state\": it is that server's password");
    }
    Some(StateServer {
        password_file,
        ..top.get("state")?
    })
}

/// The kernel's name for this machine; `localhost` where that is no domain name.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    normalise_domain(name.trim()).unwrap_or_else(|_| "localhost".to_owned())
}

fn domains(section: &mut Section<'_, '_>, key: &'static str) -> BTreeSet<String> {
    let domains = section.get::<BTreeSet<Domain>>(key).unwrap_or_default();
    domains.into_iter().map(|domain| domain.0).collect()
}

fn count(section: &mut Section<'_, '_>, key: &'static str, default: u32) -> u32 {
    section.get::<Count>(key).map_or(default, |count| count.0)
}

fn size(section: &mut Section<'_, '_>, key: &'static str, default: u64) -> u64 {
    section.get::<Size>(key).map_or(default, |size| size.0)
}

fn limits(mut s: Section<'_, '_>) -> Limits {
    let limits = Limits {
        connections: count(&mut s, "connections", Limits::CONNECTIONS),
        connections_per_address: count(&mut s, "connections_per_address", Limits::CONNECTIONS_PER_ADDRESS),
        recipients: count(&mut s, "recipients", Limits::RECIPIENTS),
        message_size: size(&mut s, "message_size", Limits::MESSAGE_SIZE),
        messages: count(&mut s, "messages", Limits::MESSAGES),
        errors: count(&mut s, "errors", Limits::ERRORS),
        auth_failures: count(&mut s, "auth_failures", Limits::AUTH_FAILURES),
        idle_commands: count(&mut s, "idle_commands", Limits::IDLE_COMMANDS),
        idle_timeout: s.get("idle_timeout").unwrap_or(Limits::IDLE_TIMEOUT),
        command_timeout: s.get("command_timeout").unwrap_or(Limits::COMMAND_TIMEOUT),
        data_timeout: s.get("data_timeout").unwrap_or(Limits::DATA_TIMEOUT),
        data_rate_min: size(&mut s, "data_rate_min", Limits::DATA_RATE_MIN),
        session_timeout: s.get("session_timeout").unwrap_or(Limits::SESSION_TIMEOUT),
    };
    if s.has("message_size") && limits.message_size < MESSAGE_SIZE_MIN {
        s.problem(
            "message_size",
            format!("at least {MESSAGE_SIZE_MIN} bytes (RFC 5321 §4.5.3.1.7)"),
        );
    }
    limits
}

/// RFC 5321 §4.5.3.1.7: what every server must take.
const MESSAGE_SIZE_MIN: u64 = 64 * 1024;

/// What the rest of the file lets a listener have.
struct Offers {
    tls: bool,
    auth: bool,
}

fn listeners(top: &mut Section<'_, '_>, offers: Offers) -> Vec<Listener> {
    let mut lines = BTreeMap::new();
    let mut listeners: Vec<Listener> = Vec::new();
    let sections = top.tables("listener", "[[listener]]");
    if sections.is_empty() && !top.has("listener") {
        top.fault("there is no [[listener]], so nothing could arrive");
    }
    for mut section in sections {
        let Some(listener) = listener(&mut section, &offers) else {
            continue;
        };
        unique(&mut section, &mut lines, &listener.name);
        let same = |other: &&Listener| other.address == listener.address && listener.address.port() != 0;
        if let Some(other) = listeners.iter().find(same) {
            let name = other.name.clone();
            section.problem(
                "address",
                format!("{} is also the address of \"{name}\"", listener.address),
            );
        }
        listeners.push(listener);
    }
    listeners
}

fn listener(s: &mut Section<'_, '_>, offers: &Offers) -> Option<Listener> {
    let name = s.name("name");
    let address = s.required("address");
    let tls_default = if offers.tls {
        ListenerTls::Starttls
    } else {
        ListenerTls::None
    };
    let tls = s.get("tls").unwrap_or(tls_default);
    let auth = s.get("auth").unwrap_or(AuthOffer::Off);
    let allow_plaintext_auth = s.get("allow_plaintext_auth").unwrap_or(false);
    let proxy_from = s.get("proxy_from").unwrap_or_default();

    if tls != ListenerTls::None && !offers.tls {
        s.problem("tls", format!("\"{tls}\" needs a [tls] table with certificate and key"));
    }
    if auth != AuthOffer::Off && !offers.auth {
        s.problem(
            "auth",
            "needs users in [auth], or a plugin with the grant \"authenticate\"",
        );
    }
    if auth != AuthOffer::Off && tls == ListenerTls::None && !allow_plaintext_auth {
        s.problem(
            "auth",
            "is never offered without TLS: set tls = \"starttls\", or allow_plaintext_auth = true",
        );
    }
    Some(Listener {
        name: name?,
        address: address?,
        tls,
        auth,
        allow_plaintext_auth,
        proxy_from,
    })
}

/// `None` for a table that is absent: then nothing in it is required.
fn tls(mut s: Section<'_, '_>) -> Option<Tls> {
    let minimum_version = s.get("minimum_version").unwrap_or(TlsVersion::V1_2);
    let additional = s.tables("additional", "[[tls.additional]]");
    let additional = additional
        .into_iter()
        .filter_map(|mut section| certificate(&mut section))
        .collect();
    Some(Tls {
        default: certificate(&mut s)?,
        additional,
        minimum_version,
    })
}

fn certificate(s: &mut Section<'_, '_>) -> Option<CertificateFiles> {
    let (certificate, key) = (s.required_file("certificate"), s.required_file("key"));
    Some(CertificateFiles {
        certificate: certificate?,
        key: key?,
    })
}

fn auth(mut s: Section<'_, '_>) -> Auth {
    Auth { users: s.file("users") }
}

fn delivery(mut s: Section<'_, '_>, hostname: &str) -> Delivery {
    let outset = Route {
        name: DEFAULT_ROUTE.to_owned(),
        domains: BTreeSet::new(),
        next_hop: None,
        tls: TlsMode::Opportunistic,
        credentials: None,
        connections: Route::CONNECTIONS,
        messages_per_connection: Route::MESSAGES_PER_CONNECTION,
        source_address: None,
    };
    let default = hop(&mut s, DEFAULT_ROUTE.to_owned(), BTreeSet::new(), &outset);
    let delivery = Delivery {
        default,
        connections_total: count(&mut s, "connections_total", Delivery::CONNECTIONS_TOTAL),
        idle_timeout: s.get("idle_timeout").unwrap_or(Delivery::IDLE_TIMEOUT),
        retry: s.get("retry").unwrap_or_else(|| Delivery::RETRY.to_vec()),
        expire_after: s.get("expire_after").unwrap_or(Delivery::EXPIRE_AFTER),
        delay_notice: s
            .get::<MaybeDuration>("delay_notice")
            .map_or(Some(Delivery::DELAY_NOTICE), |notice| notice.0),
        bounce_hostname: s
            .get::<Domain>("bounce_hostname")
            .map_or(hostname.to_owned(), |domain| domain.0),
        timeouts: timeouts(s.table("timeouts", "[delivery.timeouts]")),
    };
    if delivery.retry.is_empty() {
        s.problem("retry", "needs at least one pause");
    }
    delivery
}

fn timeouts(mut s: Section<'_, '_>) -> Timeouts {
    Timeouts {
        connect: s.get("connect").unwrap_or(Timeouts::CONNECT),
        greeting: s.get("greeting").unwrap_or(Timeouts::GREETING),
        command: s.get("command").unwrap_or(Timeouts::COMMAND),
        data: s.get("data").unwrap_or(Timeouts::DATA),
        data_block: s.get("data_block").unwrap_or(Timeouts::DATA_BLOCK),
        data_end: s.get("data_end").unwrap_or(Timeouts::DATA_END),
        quit: s.get("quit").unwrap_or(Timeouts::QUIT),
    }
}

fn routes(top: &mut Section<'_, '_>, default: &Route) -> Vec<Route> {
    let mut lines = BTreeMap::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut routes = Vec::new();
    for mut section in top.tables("route", "[[route]]") {
        let name = section.name("name");
        let domains = domains(&mut section, "domains");
        let route = hop(&mut section, name.clone().unwrap_or_default(), domains, default);
        let Some(name) = name else {
            continue;
        };
        if name == DEFAULT_ROUTE {
            section.problem("name", "\"default\" is what [delivery] itself describes");
        }
        unique(&mut section, &mut lines, &name);
        for domain in &route.domains {
            if let Some(owner) = owners.insert(domain.clone(), name.clone()) {
                section.problem("domains", format!("\"{domain}\" already belongs to route \"{owner}\""));
            }
        }
        routes.push(route);
    }
    routes
}

/// The keys that `[[route]]` and `[delivery]` share; what is absent comes from `default`.
fn hop(s: &mut Section<'_, '_>, name: String, domains: BTreeSet<String>, default: &Route) -> Route {
    let next_hop: Option<NextHop> = s.get("next_hop");
    let username: Option<String> = s.get("username");
    let password_file = s.file("password_file");
    let local = matches!(&next_hop, Some(NextHop::Smtp { host, .. }) if is_loopback(host));
    let implicit = matches!(next_hop, Some(NextHop::Smtp { implicit_tls: true, .. }));
    // A password is not handed to whoever answers: with one, the certificate counts unless the file says otherwise.
    let tls_default = if username.is_some() && !local {
        TlsMode::Verify
    } else {
        default.tls
    };
    let tls = s.get("tls").unwrap_or(tls_default);
    let route = Route {
        name,
        domains,
        tls,
        connections: count(s, "connections", default.connections),
        messages_per_connection: count(s, "messages_per_connection", default.messages_per_connection),
        source_address: s.get("source_address").or(default.source_address),
        credentials: match (username, password_file) {
            (Some(username), Some(password_file)) => Some(Credentials {
                username,
                password_file,
            }),
            (Some(_), None) if !s.has("password_file") => {
                s.problem("username", "needs \"password_file\" beside it");
                None
            }
            (None, Some(_)) if !s.has("username") => {
                s.problem("password_file", "needs \"username\" beside it");
                None
            }
            _ => None,
        },
        next_hop,
    };
    if s.has("username") && s.has("next_hop") && !matches!(route.next_hop, None | Some(NextHop::Smtp { .. })) {
        s.problem("username", "only means something where next_hop is smtp:// or smtps://");
    } else if s.has("username") && !s.has("next_hop") {
        s.problem(
            "username",
            "needs \"next_hop\": a password is not for whatever server MX records name",
        );
    } else if s.has("username") && matches!(tls, TlsMode::None | TlsMode::Opportunistic) && !implicit && !local {
        s.problem(
            "tls",
            format!("\"{tls}\" would send the password in the clear: write \"verify\" or \"required\""),
        );
    }
    if implicit && tls == TlsMode::None {
        s.problem("tls", "\"none\" contradicts smtps://");
    }
    route
}

fn dns(mut s: Section<'_, '_>) -> Dns {
    let servers = s.get::<Vec<Server>>("servers").unwrap_or_default();
    Dns {
        servers: servers.into_iter().map(|server| server.0).collect(),
        timeout: s.get("timeout").unwrap_or(Dns::TIMEOUT),
        attempts: count(&mut s, "attempts", Dns::ATTEMPTS),
    }
}

fn admin(mut s: Section<'_, '_>) -> Admin {
    let admin = Admin {
        address: s.get("address"),
        token_file: s.file("token_file"),
    };
    if admin.token_file.is_some() && !s.has("address") {
        s.problem("token_file", "needs \"address\": it guards actions over HTTP");
    }
    admin
}

fn log(mut s: Section<'_, '_>) -> Log {
    Log {
        format: s.get("format").unwrap_or(LogFormat::Auto),
        level: s.get("level").unwrap_or(tracing::Level::INFO),
    }
}

fn plugins(top: &mut Section<'_, '_>) -> Vec<Plugin> {
    let mut lines = BTreeMap::new();
    let mut plugins = Vec::new();
    for mut section in top.tables("plugin", "[[plugin]]") {
        if let Some(plugin) = plugin(&mut section) {
            unique(&mut section, &mut lines, &plugin.name);
            let lines = PluginLines {
                entry: section.line(),
                config: section.line_of("config"),
            };
            section.places().borrow_mut().add_plugin(&plugin.name, lines);
            plugins.push(plugin);
        }
    }
    plugins
}

fn plugin(s: &mut Section<'_, '_>) -> Option<Plugin> {
    let name = s.name("name");
    let file = s.required_file("file");
    let grants: BTreeSet<Grant> = s.get("grants").unwrap_or_default();
    let endpoints: BTreeMap<String, Endpoint> = s.map("endpoints", "[plugin.endpoints]");
    let config: JsonMap = s.map("config", "[plugin.config]");
    let max_instances = count(s, "max_instances", Plugin::MAX_INSTANCES);
    let budget = budget(s.table("budget", "[plugin.budget]"));
    let max_memory_bytes = s.get::<Count>("max_memory_mib").map(mib);
    if max_memory_bytes.is_some_and(|most| most < budget.memory_bytes) {
        let one = budget.memory_bytes >> 20;
        let problem = format!("is less than one instance may have: memory_mib of [plugin.budget] is {one}");
        s.problem("max_memory_mib", problem);
    }
    let plugin = Plugin {
        on_failure: s.get("on_failure").unwrap_or(OnFailure::Defer),
        always: s.get("always").unwrap_or(false),
        instances: s.get("instances").unwrap_or(Instances::Pooled),
        max_instances,
        max_memory_bytes: max_memory_bytes
            .unwrap_or_else(|| Plugin::max_memory_bytes(max_instances, budget.memory_bytes)),
        max_uses: count(s, "max_uses", Plugin::MAX_USES),
        budget,
        name: name.clone().unwrap_or_default(),
        file: file.unwrap_or_default(),
        config: serde_json::Value::Object(config.into_iter().collect()),
        grants,
        endpoints,
    };
    let granted = plugin.grants.contains(&Grant::Endpoint);
    if s.has("endpoints") && !granted {
        s.problem("endpoints", "needs \"endpoint\" among the grants");
    }
    if granted && !s.has("endpoints") {
        s.problem(
            "grants",
            "\"endpoint\" needs a table [plugin.endpoints] that names them",
        );
    }
    if plugin.instances == Instances::Fresh && s.has("max_uses") {
        s.problem("max_uses", "means nothing with instances = \"fresh\"");
    }
    (name.is_some() && s.has("file")).then_some(plugin)
}

fn mib(count: Count) -> u64 {
    u64::from(count.0) << 20
}

fn budget(mut s: Section<'_, '_>) -> Budget {
    let millis = |count: Count| Duration::from_millis(count.0.into());
    Budget {
        cpu: s.get("cpu_ms").map_or(Budget::CPU, millis),
        wall: s.get("wall_ms").map_or(Budget::WALL, millis),
        memory_bytes: s.get::<Count>("memory_mib").map_or(Budget::MEMORY_BYTES, mib),
        host_call_bytes: size(&mut s, "host_call_bytes", Budget::HOST_CALL_BYTES),
        log_lines: count(&mut s, "log_lines", Budget::LOG_LINES),
    }
}

fn dkim(top: &mut Section<'_, '_>) -> Vec<Dkim> {
    let mut lines: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut keys = Vec::new();
    for mut section in top.tables("dkim", "[[dkim]]") {
        let domain = section.required::<Domain>("domain").map(|domain| domain.0);
        // Labels like those of a domain (RFC 6376 §3.1).
        let selector = section.required::<Domain>("selector").map(|selector| selector.0);
        let key = section.required_file("key");
        let (Some(domain), Some(selector), Some(key)) = (domain, selector, key) else {
            continue;
        };
        let name = (domain, selector);
        if let Some(line) = lines.get(&name) {
            section.problem("selector", format!("is already that of the key in line {line}"));
        }
        lines.entry(name.clone()).or_insert_with(|| section.line());
        let (domain, selector) = name;
        keys.push(Dkim { domain, selector, key });
    }
    keys
}

/// Remembers where each name is given, and objects to a second time.
fn unique(section: &mut Section<'_, '_>, lines: &mut BTreeMap<String, usize>, name: &str) {
    if let Some(line) = lines.get(name) {
        section.problem("name", format!("is already the name of the one in line {line}"));
    } else {
        lines.insert(name.to_owned(), section.line());
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
