//! `[plugin.config]`: a list of limits, each checked and made ready for the hooks.
//!
//! Errors name the limit by its place in the list and the key.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::brake::{Brake, BrakeConfig};
use crate::network::Prefixes;

/// Buckets in one round trip to the state store; the host's bound, and so the bound of limits that a command may meet.
pub const MOST_LIMITS_AT_ONCE: usize = 32;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// In any order: all of them hold.
    pub limits: Vec<LimitConfig>,
    /// How many leading bits of an IPv4 address are its network.
    pub ipv4_prefix: u8,
    /// How many leading bits of an IPv6 address are its network.
    pub ipv6_prefix: u8,
    pub when_state_is_gone: WhenStateIsGone,
    /// None: nobody is braked.
    pub brake: Option<BrakeConfig>,
}

/// What becomes of a command whose limits cannot be looked at.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenStateIsGone {
    /// It passes: no limit holds.
    #[default]
    Allow,
    /// The client is to try again later.
    Defer,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            ipv4_prefix: 24,
            ipv6_prefix: 64,
            when_state_is_gone: WhenStateIsGone::default(),
            brake: None,
        }
    }
}

/// One limit, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    pub count: Count,
    pub per: Per,
    pub rate: u32,
    pub per_seconds: u32,
    /// How many at once; `rate` if absent.
    pub burst: Option<u32>,
    /// Other numbers for some identities, addresses, networks or domains. What is absent is as in the limit.
    #[serde(default)]
    pub overrides: BTreeMap<String, Override>,
}

/// Other numbers for one key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    #[serde(default)]
    pub unlimited: bool,
    pub rate: Option<u32>,
    pub per_seconds: Option<u32>,
    pub burst: Option<u32>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    /// At connect.
    Connections,
    /// At RCPT, with the first recipient.
    Messages,
    /// At RCPT.
    Recipients,
    /// When the message is there.
    Bytes,
    /// AUTH that got a 535. Looked at when a client connects, and before its password is.
    FailedLogins,
    /// RCPT that got a 5xx, whoever said it. Looked at when a client connects, and at RCPT.
    RejectedRecipients,
}

/// For whom it is counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Who authenticated; for failed logins, the name that was tried.
    Identity,
    Address,
    Network,
    SenderDomain,
    RecipientDomain,
}

impl Count {
    /// Who is known when this is counted.
    fn subjects(self) -> &'static [Per] {
        use Per::{Address, Identity, Network, RecipientDomain, SenderDomain};
        match self {
            Self::Connections => &[Address, Network],
            Self::FailedLogins => &[Identity, Address, Network],
            Self::Messages | Self::Bytes => &[Identity, Address, Network, SenderDomain],
            Self::Recipients | Self::RejectedRecipients => &[Identity, Address, Network, SenderDomain, RecipientDomain],
        }
    }

    /// As replies name it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Messages => "messages",
            Self::Recipients => "recipients",
            Self::Bytes => "bytes",
            Self::FailedLogins => "failed logins",
            Self::RejectedRecipients => "rejected recipients",
        }
    }
}

/// A bucket's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub rate: u32,
    pub per_seconds: u32,
    pub burst: u32,
}

/// A limit that was checked.
#[derive(Clone, Debug)]
pub struct Limit {
    pub count: Count,
    pub per: Per,
    pub rates: Rates,
    /// What the bucket's key begins with: it tells two limits for the same subject apart, and holds when the list is put in another order.
    pub key_prefix: String,
    /// None is unlimited.
    overrides: BTreeMap<String, Option<Rates>>,
}

impl Limit {
    /// The numbers for one identity, address, network or domain; none if it is not limited.
    pub fn rates_of(&self, subject: &str) -> Option<Rates> {
        self.overrides.get(subject).copied().unwrap_or(Some(self.rates))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailedLogins => "failed-logins",
            Self::RejectedRecipients => "rejected-recipients",
            _ => self.words(),
        })
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Address => "address",
            Self::Network => "network",
            Self::SenderDomain => "sender-domain",
            Self::RecipientDomain => "recipient-domain",
        })
    }
}

impl Limit {
    /// Whether a client that only connected can be told from others by it.
    pub fn is_of_clients(&self) -> bool {
        matches!(self.per, Per::Address | Per::Network)
    }
}

/// A configuration that was checked.
pub struct Checked {
    pub limits: Vec<Limit>,
    pub prefixes: Prefixes,
    pub when_state_is_gone: WhenStateIsGone,
    pub brake: Option<Brake>,
}

/// The limits that one command may meet, and what an error calls them.
type Together = (&'static str, fn(&Limit) -> bool);

const TOGETHER: [Together; 4] = [
    (
        "connections, and failed-logins and rejected-recipients per address and network",
        |limit| match limit.count {
            Count::Connections => true,
            Count::FailedLogins | Count::RejectedRecipients => limit.is_of_clients(),
            _ => false,
        },
    ),
    ("failed-logins", |limit| limit.count == Count::FailedLogins),
    ("messages, recipients and rejected-recipients together", |limit| {
        matches!(
            limit.count,
            Count::Messages | Count::Recipients | Count::RejectedRecipients
        )
    }),
    ("bytes", |limit| limit.count == Count::Bytes),
];

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Checked, String> {
    let prefixes = Prefixes::new(config.ipv4_prefix, config.ipv6_prefix)?;
    let mut limits: Vec<Limit> = Vec::with_capacity(config.limits.len());
    for (place, written) in config.limits.into_iter().enumerate() {
        let limit = check_limit(written, prefixes).map_err(|error| format!("limits[{place}]{error}"))?;
        if limits.iter().any(|other| other.key_prefix == limit.key_prefix) {
            return Err(format!(
                "limits[{place}]: there is another limit of {} per {} with per_seconds = {}: keep one of them",
                limit.count, limit.per, limit.rates.per_seconds
            ));
        }
        limits.push(limit);
        for (which, is_one) in TOGETHER {
            if limits.iter().filter(|limit| is_one(limit)).count() > MOST_LIMITS_AT_ONCE {
                return Err(format!(
                    "limits[{place}]: at most {MOST_LIMITS_AT_ONCE} limits of {which}"
                ));
            }
        }
    }
    let brake = config.brake.map(Brake::new).transpose();
    Ok(Checked {
        limits,
        prefixes,
        when_state_is_gone: config.when_state_is_gone,
        brake: brake.map_err(|error| format!("brake{error}"))?,
    })
}

fn check_limit(written: LimitConfig, prefixes: Prefixes) -> Result<Limit, String> {
    let LimitConfig {
        count,
        per,
        rate,
        per_seconds,
        burst,
        overrides,
    } = written;
    if !count.subjects().contains(&per) {
        let possible: Vec<String> = count.subjects().iter().map(|per| format!("`{per}`")).collect();
        return Err(format!(".per: {count} have no {per}: use {}", possible.join(", ")));
    }
    let rates = check_rates(rate, per_seconds, burst)?;
    let overrides = overrides
        .into_iter()
        .map(|(subject, other)| {
            let subject = canonical_subject(count, per, &subject, prefixes)
                .map_err(|error| format!(".overrides.\"{subject}\": {error}"))?;
            let rates = check_override(&other, rates).map_err(|error| format!(".overrides.\"{subject}\"{error}"))?;
            Ok((subject, rates))
        })
        .collect::<Result<_, String>>()?;
    Ok(Limit {
        count,
        per,
        rates,
        key_prefix: format!("{count}/{per}/{per_seconds}/"),
        overrides,
    })
}

fn check_rates(rate: u32, per_seconds: u32, burst: Option<u32>) -> Result<Rates, String> {
    let rates = Rates {
        rate,
        per_seconds,
        burst: burst.unwrap_or(rate),
    };
    for (key, value) in [
        ("rate", rates.rate),
        ("per_seconds", rates.per_seconds),
        ("burst", rates.burst),
    ] {
        if value == 0 {
            return Err(format!(".{key}: must be at least 1"));
        }
    }
    Ok(rates)
}

fn check_override(other: &Override, base: Rates) -> Result<Option<Rates>, String> {
    let Override {
        unlimited,
        rate,
        per_seconds,
        burst,
    } = *other;
    if unlimited {
        return match (rate, per_seconds, burst) {
            (None, None, None) => Ok(None),
            _ => Err(": `unlimited` stands alone: leave out the numbers, or `unlimited`".to_owned()),
        };
    }
    // Who raises the rate alone wants that many at once as well, as where no burst is written.
    let burst = burst.or(if rate.is_some() { None } else { Some(base.burst) });
    check_rates(
        rate.unwrap_or(base.rate),
        per_seconds.unwrap_or(base.per_seconds),
        burst,
    )
    .map(Some)
}

/// Puts an override's key as the hooks will ask for it.
fn canonical_subject(count: Count, per: Per, subject: &str, prefixes: Prefixes) -> Result<String, String> {
    match per {
        // Names that are tried come in any case, and mean the same user.
        Per::Identity if count == Count::FailedLogins => Ok(subject.to_lowercase()),
        Per::Identity => Ok(subject.to_owned()),
        Per::SenderDomain | Per::RecipientDomain => Ok(subject.trim_end_matches('.').to_ascii_lowercase()),
        Per::Address => subject
            .parse::<IpAddr>()
            .map(|address| address.to_string())
            .map_err(|_| "is no IP address".to_owned()),
        Per::Network => prefixes.parse(subject),
    }
}
