//! `[plugin.config]`: how long strangers wait and are remembered, and who need not wait.
//!
//! Errors name the key, and in lists the place.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a stranger has to wait.
    delay_s: u32,
    /// How long after its first attempt a stranger may come again.
    retry_window_s: u32,
    /// How long after its last message somebody who came again is let through.
    keep_s: u32,
    /// From so many successes on, a network is let through altogether; 0 is never.
    network_successes: u32,
    /// How many leading bits of an IPv4 address are its network.
    ipv4_prefix: u8,
    /// How many leading bits of an IPv6 address are its network.
    ipv6_prefix: u8,
    /// Whether senders need not wait whose SPF says pass.
    exempt_spf_pass: bool,
    /// Addresses, networks, and confirmed reverse names with all below them.
    allow_clients: Vec<String>,
    /// Addresses, and domains with all below them.
    allow_senders: Vec<String>,
    /// Addresses, `@domains`, and local parts.
    allow_recipients: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Senders wait for half an hour or so (RFC 5321 §4.5.4.1): a longer delay costs mail its time, and few spammers come again at all.
            delay_s: 300,
            // Senders try for four or five days (RFC 5321 §4.5.4.1), the slow ones every few hours.
            retry_window_s: 2 * 86_400,
            // So that what comes once a month passes.
            keep_s: 36 * 86_400,
            network_successes: 5,
            ipv4_prefix: 24,
            ipv6_prefix: 64,
            exempt_spf_pass: false,
            allow_clients: Vec::new(),
            allow_senders: Vec::new(),
            // RFC 5321 §4.5.1 and RFC 2142 §4.
            allow_recipients: vec!["postmaster".to_owned(), "abuse".to_owned()],
        }
    }
}

/// What was checked.
#[derive(Debug)]
pub struct Settings {
    pub delay_ms: u64,
    pub retry_window_s: u32,
    pub keep_s: u32,
    /// None: never.
    pub network_successes: Option<u32>,
    pub exempt_spf_pass: bool,
    pub clients: Vec<IpNet>,
    /// In lower case.
    pub client_names: Vec<String>,
    pub senders: Vec<Mailboxes>,
    pub recipients: Vec<Mailboxes>,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
}

/// Some addresses. Upper and lower case make no difference.
#[derive(Debug, PartialEq, Eq)]
pub enum Mailboxes {
    One {
        local: String,
        domain: String,
    },
    /// All of a domain and of those below it.
    Domain(String),
    /// All with this local part.
    Local(String),
}

impl Mailboxes {
    pub fn cover(&self, address: &gatepost_sdk::Address<'_>) -> bool {
        match self {
            Self::One { local, domain } => {
                address.domain == domain.as_str() && address.local.eq_ignore_ascii_case(local)
            }
            Self::Domain(domain) => is_at_or_below(&address.domain, domain),
            Self::Local(local) => address.local.eq_ignore_ascii_case(local),
        }
    }
}

/// Whether a name, in lower case, is this domain or below it.
pub fn is_at_or_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Settings {
    /// The network of an address: `192.0.2.7` is in `192.0.2.0/24`.
    pub fn network(&self, address: IpAddr) -> IpNet {
        let bits = if address.is_ipv4() {
            self.ipv4_prefix
        } else {
            self.ipv6_prefix
        };
        // The lengths were checked.
        IpNet::new(address, bits).map_or_else(|_| address.into(), |network| network.trunc())
    }
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Settings, String> {
    let Config {
        delay_s,
        retry_window_s,
        keep_s,
        network_successes,
        ipv4_prefix,
        ipv6_prefix,
        exempt_spf_pass,
        allow_clients,
        allow_senders,
        allow_recipients,
    } = config;
    if retry_window_s <= delay_s {
        return Err(format!(
            "retry_window_s: {retry_window_s} is over before the delay of {delay_s} s is: nobody could come again in time"
        ));
    }
    if keep_s == 0 {
        return Err("keep_s: 0 would let nobody through: it must be at least 1".to_owned());
    }
    for (key, prefix, most) in [("ipv4_prefix", ipv4_prefix, 32), ("ipv6_prefix", ipv6_prefix, 128)] {
        if !(1..=most).contains(&prefix) {
            return Err(format!("{key}: {prefix} is not in 1 to {most}"));
        }
    }
    let (mut clients, mut client_names) = (Vec::new(), Vec::new());
    for (place, text) in allow_clients.iter().enumerate() {
        if let Some(network) = network(text) {
            clients.push(network);
        } else if let Some(name) = domain(text) {
            client_names.push(name);
        } else {
            return Err(format!(
                "allow_clients[{place}]: `{text}` is no client: write `192.0.2.7`, `192.0.2.0/24` or `mail.example.org`"
            ));
        }
    }
    let sender = |(place, text): (usize, &String)| {
        mailbox(text)
            .or_else(|| domain(text).map(Mailboxes::Domain))
            .ok_or_else(|| {
                format!("allow_senders[{place}]: `{text}` is no sender: write `me@example.org` or `example.org`")
            })
    };
    let recipient = |(place, text): (usize, &String)| {
        let all_of_domain = || text.strip_prefix('@').and_then(domain).map(Mailboxes::Domain);
        let local = || (!text.is_empty() && !text.contains('@')).then(|| Mailboxes::Local(text.clone()));
        mailbox(text).or_else(all_of_domain).or_else(local).ok_or_else(|| {
            format!("allow_recipients[{place}]: `{text}` is no recipient: write `me@example.org`, `@example.org` or `postmaster`")
        })
    };
    Ok(Settings {
        delay_ms: u64::from(delay_s) * 1000,
        retry_window_s,
        keep_s,
        network_successes: (network_successes > 0).then_some(network_successes),
        exempt_spf_pass,
        clients,
        client_names,
        senders: allow_senders.iter().enumerate().map(sender).collect::<Result<_, _>>()?,
        recipients: allow_recipients
            .iter()
            .enumerate()
            .map(recipient)
            .collect::<Result<_, _>>()?,
        ipv4_prefix,
        ipv6_prefix,
    })
}

/// A network, or an address as the network of this one.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    (name.contains('.') && name.split('.').all(is_label)).then_some(name)
}

fn mailbox(text: &str) -> Option<Mailboxes> {
    let address = gatepost_sdk::split_address(text);
    (!address.local.is_empty() && domain(&address.domain).is_some()).then(|| Mailboxes::One {
        local: address.local.into_owned(),
        domain: address.domain.into_owned(),
    })
}
