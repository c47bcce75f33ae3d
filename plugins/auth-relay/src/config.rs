//! `[plugin.config]`: what identities own, and what else they and trusted networks have to keep to.
//!
//! Everything is parsed when the plugin is loaded. Errors name the key.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::hours::{Hours, HoursError, Offset, OffsetError};
use crate::names::{self, Name, NeverSend};
use crate::ownership::{Owned, OwnedError};

/// Users of Unix systems under which web servers, their scripts and services run: nobody reads mail there, and what they send comes from a program.
const SYSTEM_USERS: [&str; 11] = [
    "www-data", "www", "wwwrun", "apache", "httpd", "http", "nginx", "lighttpd", "nobody", "daemon", "bin",
];

/// The identity for all that have no entry of their own.
const ANYONE: &str = "*";

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Clients in one of the host's `trusted_networks` may relay without authentication.
    allow_trusted_networks: bool,
    /// Addresses that an identity owns besides those of the users file.
    senders: BTreeMap<String, Vec<String>>,
    /// What parts a tag from the local part of an address; empty: there are no tags.
    tag_separator: String,
    /// Identities, and local users in trusted networks, that may never send.
    never_send: Vec<String>,
    /// Whether an identity may write to our own recipients under any address.
    own_sender_only_for_relay: bool,
    /// Whether an identity may send with the null reverse-path.
    allow_null_sender: bool,
    /// Whether identities send, and trusted networks relay, only under TLS.
    require_tls: bool,
    /// The offset of `hours` from UTC.
    utc_offset: String,
    /// What identities have to keep to; `*` is for those without an entry.
    identities: BTreeMap<String, IdentityConfig>,
    /// What clients in a trusted network have to keep to; the smallest network that fits counts.
    networks: BTreeMap<String, NetworkConfig>,
    /// Confirmed reverse names of the clients in trusted networks that may relay. None: any, or no name at all.
    trusted_names: Option<Vec<String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_trusted_networks: false,
            senders: BTreeMap::new(),
            tag_separator: String::new(),
            never_send: SYSTEM_USERS.map(str::to_owned).into(),
            own_sender_only_for_relay: false,
            // Delivery and read receipts are sent by mail programs, and must have it (RFC 8098 §3, RFC 5321 §4.5.5).
            allow_null_sender: true,
            require_tls: false,
            utc_offset: "+00:00".to_owned(),
            identities: BTreeMap::new(),
            networks: BTreeMap::new(),
            trusted_names: None,
        }
    }
}

/// An entry of `identities`, as written. What is absent is not limited.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct IdentityConfig {
    networks: Option<Vec<String>>,
    hours: Option<Vec<String>>,
    recipient_domains: Option<Vec<String>>,
}

/// An entry of `networks`, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkConfig {
    recipient_domains: Vec<String>,
}

/// The configuration, checked.
pub struct Settings {
    pub allow_trusted_networks: bool,
    pub own_sender_only_for_relay: bool,
    pub allow_null_sender: bool,
    pub require_tls: bool,
    pub senders: BTreeMap<String, Vec<Owned>>,
    pub tag_separator: Option<char>,
    pub never_send: NeverSend,
    pub utc_offset: Offset,
    pub trusted_names: Option<Vec<Name>>,
    identities: BTreeMap<String, Limits>,
    /// The smallest networks first.
    networks: Vec<(IpNet, Vec<Name>)>,
}

/// What an identity has to keep to; none of what is absent.
#[derive(Debug, PartialEq, Eq)]
pub struct Limits {
    /// From where it may send.
    pub networks: Option<Vec<IpNet>>,
    /// When.
    pub hours: Option<Vec<Hours>>,
    /// To whom it may relay.
    pub recipient_domains: Option<Vec<Name>>,
}

impl Settings {
    /// What an identity has to keep to, and the key in `identities` that says so.
    pub fn limits(&self, identity: &str) -> Option<(&str, &Limits)> {
        let of = |name: &str| self.identities.get_key_value(name);
        let found = of(identity).or_else(|| of(ANYONE));
        found.map(|(key, limits)| (key.as_str(), limits))
    }

    /// The smallest configured network in which an address is, and the domains to which it may relay.
    pub fn network(&self, address: &str) -> Option<(IpNet, &[Name])> {
        let address: IpAddr = address.parse().ok()?;
        let found = self.networks.iter().find(|(network, _)| network.contains(&address));
        found.map(|(network, domains)| (*network, domains.as_slice()))
    }
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Settings, String> {
    let owned = |addresses: Vec<String>| {
        let owned: Result<Vec<Owned>, OwnedError> = addresses.iter().map(|text| text.parse()).collect();
        owned.map_err(|error| error.to_string())
    };
    let identities = each("identities", config.identities, |limits| {
        Ok(Limits {
            networks: list(".networks", limits.networks, names::network)?,
            hours: list(".hours", limits.hours, |text| {
                text.parse().map_err(|error: HoursError| error.to_string())
            })?,
            recipient_domains: list(".recipient_domains", limits.recipient_domains, Name::parse)?,
        })
    });
    let mut networks = config
        .networks
        .into_iter()
        .map(|(text, limits)| {
            let place = |error| format!("networks.\"{text}\"{error}");
            let network = names::network(&text).map_err(|error| place(format!(": {error}")))?;
            let domains = list(".recipient_domains", Some(limits.recipient_domains), Name::parse).map_err(place)?;
            Ok((network, domains.unwrap_or_default()))
        })
        .collect::<Result<Vec<_>, String>>()?;
    networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
    Ok(Settings {
        allow_trusted_networks: config.allow_trusted_networks,
        own_sender_only_for_relay: config.own_sender_only_for_relay,
        allow_null_sender: config.allow_null_sender,
        require_tls: config.require_tls,
        senders: each("senders", config.senders, |addresses| {
            owned(addresses).map_err(|error| format!(": {error}"))
        })?,
        tag_separator: tag_separator(&config.tag_separator)?,
        never_send: NeverSend::new(config.never_send),
        utc_offset: config
            .utc_offset
            .parse()
            .map_err(|error: OffsetError| format!("utc_offset: {error}"))?,
        trusted_names: list("trusted_names", config.trusted_names, Name::parse)?,
        identities: identities?,
        networks,
    })
}

/// Checks each entry of a table; errors begin with its key.
fn each<A, B>(
    table: &str,
    entries: BTreeMap<String, A>,
    check: impl Fn(A) -> Result<B, String>,
) -> Result<BTreeMap<String, B>, String> {
    entries
        .into_iter()
        .map(|(key, entry)| match check(entry) {
            Ok(checked) => Ok((key, checked)),
            Err(error) => Err(format!("{table}.{key}{error}")),
        })
        .collect()
}

/// Checks each entry of a list that says what is allowed. An empty one would allow nothing, which is what `never_send` is for.
fn list<T>(
    key: &str,
    texts: Option<Vec<String>>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let Some(texts) = texts else { return Ok(None) };
    if texts.is_empty() {
        return Err(format!(
            "{key}: is empty, so nothing would be allowed: name what is, or leave it out to allow all"
        ));
    }
    let parsed: Result<Vec<T>, String> = texts.iter().map(|text| parse(text)).collect();
    parsed.map(Some).map_err(|error| format!("{key}: {error}"))
}

fn tag_separator(text: &str) -> Result<Option<char>, String> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (separator, None) if separator.is_none_or(|c| c.is_ascii_punctuation() && !"@.\"".contains(c)) => Ok(separator),
        _ => Err(format!("tag_separator: `{text}` is none: write `+`, `-`, or nothing")),
    }
}
