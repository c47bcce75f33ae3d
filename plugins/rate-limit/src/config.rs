//! `[plugin.config]`: a list of limits, each checked and made ready for the hooks.
//!
//! Errors name the limit by its place in the list and the key.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

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

/// What is counted: connections at connect, the others at RCPT.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    Connections,
    Messages,
    Recipients,
}

/// For whom it is counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    Identity,
    Address,
    Network,
    SenderDomain,
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
            Self::Connections => "connections",
            Self::Messages => "messages",
            Self::Recipients => "recipients",
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
        })
    }
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<(Vec<Limit>, Prefixes), String> {
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
        // Messages and recipients are counted together.
        let (kind, of_kind): (_, fn(Count) -> bool) = match limit.count {
            Count::Connections => ("connections", |count| count == Count::Connections),
            _ => ("messages and recipients together", |count| count != Count::Connections),
        };
        if limits.iter().filter(|other| of_kind(other.count)).count() == MOST_LIMITS_AT_ONCE {
            return Err(format!(
                "limits[{place}]: at most {MOST_LIMITS_AT_ONCE} limits of {kind}"
            ));
        }
        limits.push(limit);
    }
    Ok((limits, prefixes))
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
    if count == Count::Connections && matches!(per, Per::Identity | Per::SenderDomain) {
        return Err(format!(
            ".per: connections have no {per} yet: use `address` or `network`"
        ));
    }
    let rates = check_rates(rate, per_seconds, burst)?;
    let overrides = overrides
        .into_iter()
        .map(|(subject, other)| {
            let subject = canonical_subject(per, &subject, prefixes)
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
fn canonical_subject(per: Per, subject: &str, prefixes: Prefixes) -> Result<String, String> {
    match per {
        Per::Identity => Ok(subject.to_owned()),
        Per::SenderDomain => Ok(subject.trim_end_matches('.').to_ascii_lowercase()),
        Per::Address => subject
            .parse::<IpAddr>()
            .map(|address| address.to_string())
            .map_err(|_| "is no IP address".to_owned()),
        Per::Network => prefixes.parse(subject),
    }
}
