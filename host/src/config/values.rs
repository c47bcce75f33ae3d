//! How the text of a value becomes a duration, a size, a network, a domain, a next hop, or one of a few words.
//!
//! Pure functions from text to value. The messages say what was expected, with an example; the caller adds file, line
//! and key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Problem, Value, nearest};
use super::{
    AuthOffer, Endpoint, Grant, Instances, ListenerTls, LogFormat, NextHop, OnFailure, StateServer, TlsMode, TlsVersion,
};

/// A domain as it is compared: lower case, A-labels, no trailing dot (RFC 5890 §2.3.2.1); else why it is none.
pub fn normalise_domain(text: &str) -> Result<String, String> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    Uts46::new()
        .to_ascii(bare.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, DnsLength::Verify)
        .map(|domain| domain.into_owned())
        .map_err(|_| format!("{text:?} is not a domain name"))
}

/// A duration as it is written: `90s`, `1h30m`, `250ms`; units are ms, s, m, h, d, w. More than zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS_MS: [(&str, u64); 6] = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("w", 604_800_000),
    ];
    let mut rest = text;
    let mut total_ms = Some(0u64);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let (unit, after) = after.split_at(after.bytes().take_while(u8::is_ascii_alphabetic).count());
        let unit_ms = UNITS_MS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
        total_ms = (|| total_ms?.checked_add(number.parse::<u64>().ok()?.checked_mul(unit_ms?)?))();
        if total_ms.is_none() {
            break;
        }
        rest = after;
    }
    match total_ms {
        Some(ms) if ms > 0 && ms <= DURATION_MAX_MS => Ok(Duration::from_millis(ms)),
        _ => Err(format!(
            "{text:?} is not a duration: write \"30s\", \"5m\", \"4h\" or \"5d\""
        )),
    }
}

/// Ten years: longer is a slip, and no sum of times with "now" can overflow below it.
const DURATION_MAX_MS: u64 = 10 * 366 * 86_400_000;

/// A number of bytes as it is written: `25MiB`, `64KiB`, `10MB`, `512`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("", 1),
        ("B", 1),
        ("KB", 1_000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
    ];
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()))
        .map(|(_, size)| *size);
    let bytes = (|| number.parse::<u64>().ok()?.checked_mul(unit?))();
    match bytes {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(format!(
            "{text:?} is not a size: write \"25MiB\", \"64KiB\" or a number of bytes"
        )),
    }
}

/// A host and a port out of `host`, `host:port`, `address`, `[IPv6]` or `[IPv6]:port`.
fn parse_host(text: &str, port_default: Option<u16>) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']').ok_or("the \"[\" has no \"]\"")?;
            let host: std::net::Ipv6Addr = host
                .parse()
                .map_err(|_| format!("{host:?} in brackets is not an IPv6 address"))?;
            let port = match after.strip_prefix(':') {
                None if after.is_empty() => None,
                None => return Err(format!("unexpected {after:?} after \"]\"")),
                port => port,
            };
            (host.to_string(), port)
        }
        None => {
            let (host, port) = text
                .split_once(':')
                .map_or((text, None), |(host, port)| (host, Some(port)));
            if port.is_some_and(|port| port.contains(':')) {
                return Err(format!("write an IPv6 address in brackets: \"[{text}]\""));
            }
            match host.parse::<IpAddr>() {
                Ok(address) => (address.to_string(), port),
                Err(_) => (normalise_domain(host)?, port),
            }
        }
    };
    let port = match port {
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(format!("{port:?} is not a port"))?,
        None => port_default.ok_or("a port is missing")?,
    };
    Ok((host, port))
}

/// The ports that a next hop has unless it says another (RFC 5321 §4.5.4.2, RFC 8314 §7.3).
const SMTP_PORT: u16 = 25;
const SMTPS_PORT: u16 = 465;

impl Value for NextHop {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<NextHop, Problem> {
        let text = text(value, "a next hop such as \"smtp://mail.example:25\"")?;
        let smtp = |text, port, implicit_tls| {
            let (host, port) = parse_host(text, Some(port))?;
            Ok::<_, Problem>(NextHop::Smtp {
                host,
                port,
                implicit_tls,
            })
        };
        match text.split_once(':') {
            Some(("smtp", rest)) if rest.starts_with("//") => smtp(&rest[2..], SMTP_PORT, false),
            Some(("smtps", rest)) if rest.starts_with("//") => smtp(&rest[2..], SMTPS_PORT, true),
            Some(("maildir", path)) if !path.is_empty() => Ok(NextHop::Maildir(document.path(path))),
            Some(("discard", "")) => Ok(NextHop::Discard),
            _ => Err(format!(
                "{text:?} is not a next hop: write \"smtp://host:25\", \"smtps://host:465\", \"maildir:PATH\" or \"discard:\""
            )
            .into()),
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHop::Smtp {
                host,
                port,
                implicit_tls,
            } => {
                let scheme = if *implicit_tls { "smtps" } else { "smtp" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}"),
                    false => write!(f, "{scheme}://{host}:{port}"),
                }
            }
            NextHop::Maildir(path) => write!(f, "maildir:{}", path.display()),
            NextHop::Discard => f.write_str("discard:"),
        }
    }
}

/// The port that Redis and Valkey have unless it is said.
const REDIS_PORT: u16 = 6379;

impl Value for StateServer {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<StateServer, Problem> {
        let text = text(value, "a state server such as \"redis://127.0.0.1:6379\"")?;
        let server = |endpoint, user: Option<&str>, database| StateServer {
            endpoint,
            user: user.map(str::to_owned),
            database,
            password_file: None,
        };
        let (tls, rest) = match text.split_once(':') {
            Some(("redis+unix", path)) if !path.is_empty() => {
                return Ok(server(Endpoint::Unix(document.path(path)), None, 0));
            }
            Some(("redis", rest)) if rest.starts_with("//") => (false, &rest[2..]),
            Some(("rediss", rest)) if rest.starts_with("//") => (true, &rest[2..]),
            // Not shown again: what stands there may be a password.
            _ => {
                return Err(
                    "is no state server: write \"redis://host:6379\", \"rediss://host:6379\" or \"redis+unix:PATH\""
                        .into(),
                );
            }
        };
        let (user, rest) = rest
            .rsplit_once('@')
            .map_or((None, rest), |(user, rest)| (Some(user), rest));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(
                "a password does not stand here: put it into a file, and name that in \"state_password_file\"".into(),
            );
        }
        let (host, database) = rest
            .split_once('/')
            .map_or((rest, ""), |(host, database)| (host, database));
        let database = match database {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| format!("{number:?} is no number of a database, such as 0"))?,
        };
        let (host, port) = parse_host(host, Some(REDIS_PORT))?;
        let endpoint = match tls {
            true => Endpoint::Tls { host, port },
            false => Endpoint::Tcp { host, port },
        };
        Ok(server(endpoint, user.filter(|user| !user.is_empty()), database))
    }
}

/// As logs show it, without the user.
impl fmt::Display for StateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match &self.endpoint {
            Endpoint::Tcp { host, port } => ("redis", host, port),
            Endpoint::Tls { host, port } => ("rediss", host, port),
            Endpoint::Unix(path) => return write!(f, "redis+unix:{}", path.display()),
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}/{}", self.database),
            false => write!(f, "{scheme}://{host}:{port}/{}", self.database),
        }
    }
}

impl Value for Endpoint {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<Endpoint, Problem> {
        let text = text(value, "an endpoint such as \"unix:/run/clamav/clamd.ctl\"")?;
        match text.split_once(':') {
            Some(("tcp", rest)) if rest.starts_with("//") => {
                let (host, port) = parse_host(&rest[2..], None)?;
                Ok(Endpoint::Tcp { host, port })
            }
            Some(("tls", rest)) if rest.starts_with("//") => {
                let (host, port) = parse_host(&rest[2..], None)?;
                Ok(Endpoint::Tls { host, port })
            }
            Some(("unix", path)) if !path.is_empty() => Ok(Endpoint::Unix(document.path(path))),
            _ => Err(format!(
                "{text:?} is not an endpoint: write \"tcp://host:port\", \"tls://host:port\" or \"unix:PATH\""
            )
            .into()),
        }
    }
}

/// Words that a key can have, each with its meaning: how they are read, and how they are shown again.
macro_rules! words {
    ($($type:ty { $($word:literal => $value:path),+ $(,)? })+) => {$(
        impl Value for $type {
            fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<Self, Problem> {
                let words = [$($word),+];
                let given = text(value, &format!("one of {}", words.join(", ")))?;
                match given {
                    $($word => Ok($value),)+
                    _ => Err(not_a_word(given, &words).into()),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match *self {
                    $($value => $word,)+
                })
            }
        }
    )+};
}

words! {
    ListenerTls { "none" => ListenerTls::None, "starttls" => ListenerTls::Starttls, "implicit" => ListenerTls::Implicit }
    TlsMode {
        "none" => TlsMode::None,
        "opportunistic" => TlsMode::Opportunistic,
        "required" => TlsMode::Required,
        "verify" => TlsMode::Verify,
    }
    TlsVersion { "1.2" => TlsVersion::V1_2, "1.3" => TlsVersion::V1_3 }
    LogFormat { "auto" => LogFormat::Auto, "text" => LogFormat::Text, "json" => LogFormat::Json }
    OnFailure { "defer" => OnFailure::Defer, "skip" => OnFailure::Skip, "reject" => OnFailure::Reject }
    Instances { "pooled" => Instances::Pooled, "fresh" => Instances::Fresh }
    Grant {
        "credentials" => Grant::Credentials,
        "read-password" => Grant::ReadPassword,
        "authenticate" => Grant::Authenticate,
        "relay" => Grant::Relay,
        "edit-envelope" => Grant::EditEnvelope,
        "read-message" => Grant::ReadMessage,
        "edit-message" => Grant::EditMessage,
        "route" => Grant::Route,
        "sign" => Grant::Sign,
        "state" => Grant::State,
        "dns" => Grant::Dns,
        "authentication" => Grant::Authentication,
        "endpoint" => Grant::Endpoint,
    }
}

/// Types of other modules, whose `Display` is not ours to write.
impl Value for AuthOffer {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<AuthOffer, Problem> {
        match text(value, "one of off, optional, required")? {
            "off" => Ok(AuthOffer::Off),
            "optional" => Ok(AuthOffer::Optional),
            "required" => Ok(AuthOffer::Required),
            given => Err(not_a_word(given, &["off", "optional", "required"]).into()),
        }
    }
}

impl Value for tracing::Level {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<tracing::Level, Problem> {
        let words = ["error", "warn", "info", "debug", "trace"];
        let given = text(value, "one of error, warn, info, debug, trace")?;
        match words.contains(&given).then(|| given.parse()) {
            Some(Ok(level)) => Ok(level),
            _ => Err(not_a_word(given, &words).into()),
        }
    }
}

fn not_a_word(given: &str, words: &[&str]) -> String {
    let advice = nearest(given, words).map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
    format!("{given:?} is none of {}{advice}", words.join(", "))
}

/// The text of a string value; `expected` ends the sentence if it is none.
fn text<'v>(value: &'v Spanned<DeValue<'_>>, expected: &str) -> Result<&'v str, Problem> {
    value.get_ref().as_str().ok_or_else(|| mismatch(value, expected))
}

fn mismatch(value: &Spanned<DeValue<'_>>, expected: &str) -> Problem {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("expected {expected}, found {found}").into()
}

/// A whole number of at least 1, where the file has no other unit than "so many".
pub(super) struct Count(pub u32);

/// No count in the file has a meaning beyond it.
const COUNT_MAX: i64 = 100_000_000;

impl Value for Count {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<Count, Problem> {
        let expected = format!("a whole number from 1 to {COUNT_MAX}");
        let number = value.get_ref().as_integer().ok_or_else(|| mismatch(value, &expected))?;
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(count @ 1..=COUNT_MAX) => Ok(Count(count as u32)),
            _ => Err(format!("expected {expected}, found {number}").into()),
        }
    }
}

/// A number of bytes.
pub(super) struct Size(pub u64);

impl Value for Size {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<Size, Problem> {
        let expected = "a size such as \"25MiB\", or a number of bytes";
        match value.get_ref() {
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(bytes) if bytes > 0 => Ok(Size(bytes)),
                _ => Err(format!("expected {expected}, found {number}").into()),
            },
            _ => Ok(Size(parse_size(text(value, expected)?)?)),
        }
    }
}

impl Value for Duration {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<Duration, Problem> {
        Ok(parse_duration(text(value, "a duration such as \"30s\" or \"5m\"")?)?)
    }
}

/// A duration, or the word "off".
pub(super) struct MaybeDuration(pub Option<Duration>);

impl Value for MaybeDuration {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<MaybeDuration, Problem> {
        match text(value, "a duration such as \"4h\", or \"off\"")? {
            "off" => Ok(MaybeDuration(None)),
            text => Ok(MaybeDuration(Some(parse_duration(text)?))),
        }
    }
}

impl Value for bool {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<bool, Problem> {
        value
            .get_ref()
            .as_bool()
            .ok_or_else(|| mismatch(value, "true or false"))
    }
}

impl Value for String {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<String, Problem> {
        match text(value, "a string")? {
            "" => Err("must not be empty".into()),
            text => Ok(text.to_owned()),
        }
    }
}

impl Value for PathBuf {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<PathBuf, Problem> {
        match text(value, "a path")? {
            "" => Err("must not be empty".into()),
            text => Ok(document.path(text)),
        }
    }
}

impl Value for SocketAddr {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<SocketAddr, Problem> {
        let expected = "an IP address and a port such as \"0.0.0.0:25\" or \"[::]:25\"";
        let text = text(value, expected)?;
        text.parse().map_err(|_| format!("{text:?} is not {expected}").into())
    }
}

impl Value for IpAddr {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<IpAddr, Problem> {
        let text = text(value, "an IP address")?;
        text.parse()
            .map_err(|_| format!("{text:?} is not an IP address").into())
    }
}

/// A DNS server: an address, with a port unless that is 53.
pub(super) struct Server(pub SocketAddr);

/// RFC 1035 §4.2
const DNS_PORT: u16 = 53;

impl Value for Server {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<Server, Problem> {
        let expected = "an IP address such as \"192.0.2.53\", with a port if that is not 53";
        let text = text(value, expected)?;
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let address = text
            .parse()
            .or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, DNS_PORT)));
        address
            .map(Server)
            .map_err(|_| format!("{text:?} is not {expected}").into())
    }
}

impl Value for IpNet {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<IpNet, Problem> {
        let expected = "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or one address";
        let text = text(value, expected)?;
        let net: IpNet = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| Problem::from(format!("{text:?} is not {expected}")))?;
        if let IpNet::V6(v6) = net
            && let (Some(v4), Some(bits)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        {
            return Err(format!(
                "{text:?} is IPv4 inside IPv6, and clients are told apart by IPv4: did you mean \"{v4}/{bits}\"?"
            )
            .into());
        }
        match net.trunc() == net {
            true => Ok(net),
            false => Err(format!("{text:?} has bits beyond its prefix; did you mean \"{}\"?", net.trunc()).into()),
        }
    }
}

/// A domain, normalised.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Domain(pub String);

impl Value for Domain {
    fn read(value: &Spanned<DeValue<'_>>, _: &Document<'_>) -> Result<Domain, Problem> {
        Ok(Domain(normalise_domain(text(
            value,
            "a domain such as \"example.test\"",
        )?)?))
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<Vec<T>, Problem> {
        let entries = value
            .get_ref()
            .as_array()
            .ok_or_else(|| mismatch(value, "a list, in [ ]"))?;
        let read = |entry: &Spanned<DeValue<'_>>| {
            T::read(entry, document).map_err(|problem| Problem {
                at: problem.at.or(Some(entry.span().start)),
                ..problem
            })
        };
        entries.iter().map(read).collect()
    }
}

impl<T: Value + Ord> Value for BTreeSet<T> {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<BTreeSet<T>, Problem> {
        Ok(Vec::read(value, document)?.into_iter().collect())
    }
}

/// Anything that TOML can say, as JSON (dates as strings).
impl Value for serde_json::Value {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<serde_json::Value, Problem> {
        let outside = |problem: String| Problem {
            at: Some(value.span().start),
            text: problem,
        };
        Ok(match value.get_ref() {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| outside(format!("{number} does not fit into 64 bits")))?
                .into(),
            DeValue::Float(number) => {
                let fraction = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
                fraction
                    .ok_or_else(|| outside(format!("{number} has no form in JSON")))?
                    .into()
            }
            DeValue::Boolean(truth) => (*truth).into(),
            DeValue::Datetime(date) => date.to_string().into(),
            DeValue::Array(entries) => entries
                .iter()
                .map(|entry| Self::read(entry, document))
                .collect::<Result<Vec<_>, _>>()?
                .into(),
            DeValue::Table(table) => object(table, document)?.into(),
        })
    }
}

fn object(table: &DeTable<'_>, document: &Document<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Problem> {
    let pair = |(key, value): (&Spanned<_>, &_)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        Ok((key.to_string(), serde_json::Value::read(value, document)?))
    };
    table.iter().map(pair).collect()
}

/// The user's own keys with JSON values.
pub(super) type JsonMap = BTreeMap<String, serde_json::Value>;
