//! SPF (RFC 7208): whether a domain lets a client send its mail.
//!
//! `check_host()` of the RFC over the daemon's resolver, to the letter: `mail-auth`, which does everything else here, takes records that the RFC
//! calls errors, and knows no limit of void look-ups. Every look-up counts against the RFC's bounds (§4.6.4), so a record of a stranger costs at most
//! 10 terms, and 10 names for one of them. How long it may take is the caller's.

mod record;

use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::dns::{Dns, DnsError};
use crate::message::since_epoch;
use record::{Directive, MacroString, Mechanism, Prefixes, Qualifier, Record};

/// Terms that ask DNS, in one check (§4.6.4).
pub const TERMS_MAX: usize = 10;
/// Of their look-ups, those that may find nothing (§4.6.4).
pub const VOID_LOOKUPS_MAX: usize = 2;
/// Mail exchangers of one domain, and names of one address, that are looked up (§4.6.4).
pub const NAMES_MAX: usize = 10;
/// Bytes of a name that can be asked for.
const NAME_BYTES_MAX: usize = 253;

/// Who sends, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub address: IpAddr,
    pub helo: &'a str,
    /// Without a local part it is `postmaster`'s (§4.3).
    pub sender: &'a str,
    /// The relay's own name, for explanations.
    pub receiver: &'a str,
}

/// §2.6
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    None,
    Neutral,
    Pass,
    Fail,
    SoftFail,
    TempError,
    PermError,
}

/// What the check came to, and what the domain has to say to a failure (§6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub outcome: Outcome,
    pub explanation: Option<String>,
}

impl Found {
    fn of(outcome: Outcome) -> Found {
        Found {
            outcome,
            explanation: None,
        }
    }
}

/// Asks `domain` about a client.
pub async fn check(dns: &Dns, client: &Client<'_>, domain: &str) -> Found {
    let (local, sender_domain) = match client.sender.rsplit_once('@') {
        Some(("", domain)) => ("postmaster", domain),
        Some((local, domain)) => (local, domain),
        None => ("postmaster", client.sender),
    };
    let mut check = Check {
        dns,
        client,
        local,
        sender_domain,
        terms: 0,
        void_lookups: 0,
        names: None,
    };
    match check.host(domain).await {
        Ok(found) => found,
        Err(error) => Found::of(error.into()),
    }
}

/// What ends a check at once.
#[derive(Clone, Copy, Debug)]
enum Error {
    Temporary,
    Permanent,
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Outcome {
        match error {
            Error::Temporary => Outcome::TempError,
            Error::Permanent => Outcome::PermError,
        }
    }
}

impl From<record::Malformed> for Error {
    fn from(_: record::Malformed) -> Error {
        Error::Permanent
    }
}

struct Check<'a> {
    dns: &'a Dns,
    client: &'a Client<'a>,
    local: &'a str,
    sender_domain: &'a str,
    terms: usize,
    void_lookups: usize,
    /// The client's confirmed names, once they were asked for.
    names: Option<Vec<String>>,
}

impl Check<'_> {
    /// `check_host()` (§4).
    async fn host(&mut self, domain: &str) -> Result<Found, Error> {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if !is_domain(domain) {
            return Ok(Found::of(Outcome::None));
        }
        let texts = match self.dns.txt(domain).await {
            Ok(texts) => texts,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(_) => return Err(Error::Temporary),
        };
        let mut records = texts.iter().filter(|text| record::is_record(text));
        let record = match (records.next(), records.next()) {
            (None, _) => return Ok(Found::of(Outcome::None)),
            (Some(text), None) => Record::parse(text)?,
            (Some(_), Some(_)) => return Err(Error::Permanent),
        };
        for Directive { qualifier, mechanism } in &record.directives {
            if !self.matches(mechanism, domain).await? {
                continue;
            }
            let outcome = match qualifier {
                Qualifier::Pass => Outcome::Pass,
                Qualifier::Neutral => Outcome::Neutral,
                Qualifier::SoftFail => Outcome::SoftFail,
                Qualifier::Fail => Outcome::Fail,
            };
            let explanation = match (&record.explanation, qualifier) {
                (Some(explanation), Qualifier::Fail) => self.explanation(explanation, domain).await,
                _ => None,
            };
            return Ok(Found { outcome, explanation });
        }
        let Some(redirect) = &record.redirect else {
            return Ok(Found::of(Outcome::Neutral));
        };
        self.count_term()?;
        let target = self.expand(redirect, domain).await;
        let found = Box::pin(self.host(&target)).await?;
        match found.outcome {
            // §6.1
            Outcome::None => Err(Error::Permanent),
            _ => Ok(found),
        }
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Error> {
        // RFC 8616 §4: a term made of a local part that is not ASCII never matches.
        if !self.local.is_ascii()
            && mechanism
                .target()
                .is_some_and(|target| target.uses('l') || target.uses('s'))
        {
            return self.count_term().map(|()| false);
        }
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip(network) => Ok(network.contains(&self.client.address)),
            Mechanism::Include(target) => {
                self.count_term()?;
                let target = self.expand(target, domain).await;
                // §5.2
                match Box::pin(self.host(&target)).await?.outcome {
                    Outcome::Pass => Ok(true),
                    Outcome::Fail | Outcome::SoftFail | Outcome::Neutral => Ok(false),
                    Outcome::None | Outcome::PermError => Err(Error::Permanent),
                    Outcome::TempError => Err(Error::Temporary),
                }
            }
            Mechanism::A(target, prefixes) => {
                self.count_term()?;
                let target = self.target(target.as_ref(), domain).await;
                self.has_address(&target, *prefixes).await
            }
            Mechanism::Mx(target, prefixes) => {
                self.count_term()?;
                let target = self.target(target.as_ref(), domain).await;
                let exchangers = self.dns.mx(&target).await;
                let exchangers = self.found(exchangers)?;
                if exchangers.len() > NAMES_MAX {
                    return Err(Error::Permanent);
                }
                for exchanger in exchangers {
                    if self.has_address(&exchanger.exchange, *prefixes).await? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Ptr(target) => {
                self.count_term()?;
                let target = self.target(target.as_ref(), domain).await;
                let target = target.strip_suffix('.').unwrap_or(&target).to_ascii_lowercase();
                let names = self.names().await;
                Ok(names.iter().any(|name| is_within(name, &target)))
            }
            Mechanism::Exists(target) => {
                self.count_term()?;
                let target = self.expand(target, domain).await;
                // IPv4 whatever the client has (§5.7).
                let addresses = self.dns.a(&target).await;
                Ok(!self.found(addresses)?.is_empty())
            }
        }
    }

    fn count_term(&mut self) -> Result<(), Error> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(Error::Permanent);
        }
        Ok(())
    }

    /// What is not there is nothing, and counted.
    fn found<T>(&mut self, looked_up: Result<Vec<T>, DnsError>) -> Result<Vec<T>, Error> {
        match looked_up {
            Ok(records) => Ok(records),
            Err(error) if error.is_not_found() => {
                self.void_lookups += 1;
                if self.void_lookups > VOID_LOOKUPS_MAX {
                    return Err(Error::Permanent);
                }
                Ok(Vec::new())
            }
            Err(_) => Err(Error::Temporary),
        }
    }

    /// Whether one of a name's addresses is, as far as the prefixes go, the client's.
    async fn has_address(&mut self, name: &str, prefixes: Prefixes) -> Result<bool, Error> {
        let looked_up = addresses(self.dns, name, self.client.address).await;
        let found = self.found(looked_up)?;
        let is_client = |address: &IpAddr| {
            let bits = if address.is_ipv4() { prefixes.v4 } else { prefixes.v6 };
            IpNet::new(*address, bits).is_ok_and(|network| network.contains(&self.client.address))
        };
        Ok(found.iter().any(is_client))
    }

    /// The client's names that lead back to it (§5.5). What fails is no name.
    async fn names(&mut self) -> &[String] {
        if self.names.is_none() {
            let mut confirmed = Vec::new();
            let claimed = self.dns.ptr(self.client.address).await.unwrap_or_default();
            for name in claimed.into_iter().take(NAMES_MAX) {
                let addresses = addresses(self.dns, &name, self.client.address).await;
                if addresses.is_ok_and(|found| found.contains(&self.client.address)) {
                    confirmed.push(name);
                }
            }
            self.names = Some(confirmed);
        }
        self.names.as_deref().unwrap_or_default()
    }

    async fn target(&mut self, target: Option<&MacroString>, domain: &str) -> String {
        match target {
            Some(target) => self.expand(target, domain).await,
            None => domain.to_owned(),
        }
    }

    /// A name to ask for: what is too long loses labels on the left (§7.3).
    async fn expand(&mut self, text: &MacroString, domain: &str) -> String {
        let expanded = self.expand_text(text, domain).await;
        let mut name = expanded.strip_suffix('.').unwrap_or(&expanded);
        while name.len() > NAME_BYTES_MAX {
            match name.split_once('.') {
                Some((_, rest)) => name = rest,
                None => break,
            }
        }
        name.to_owned()
    }

    async fn expand_text(&mut self, text: &MacroString, domain: &str) -> String {
        let own_name = match text.uses('p') {
            true => self.own_name(domain).await,
            false => String::new(),
        };
        text.expand(|letter| match letter {
            's' => format!("{}@{}", self.local, self.sender_domain),
            'l' => self.local.to_owned(),
            'o' => self.sender_domain.to_owned(),
            'd' => domain.to_owned(),
            'i' => dotted(self.client.address),
            'p' => own_name.clone(),
            'v' if self.client.address.is_ipv4() => "in-addr".to_owned(),
            'v' => "ip6".to_owned(),
            'h' => self.client.helo.to_owned(),
            'c' => self.client.address.to_string(),
            'r' => self.client.receiver.to_owned(),
            't' => since_epoch(SystemTime::now()).as_secs().to_string(),
            _ => String::new(),
        })
    }

    /// The macro `p` (§7.3): the client's name, best one that belongs to the domain.
    async fn own_name(&mut self, domain: &str) -> String {
        let domain = domain.to_ascii_lowercase();
        let names = self.names().await;
        let same = names.iter().find(|name| **name == domain);
        let within = || names.iter().find(|name| is_within(name, &domain));
        let best = same.or_else(within).or(names.first());
        best.map_or_else(|| "unknown".to_owned(), Clone::clone)
    }

    /// What the domain says to a failure; nothing if it cannot be had (§6.2).
    async fn explanation(&mut self, explanation: &MacroString, domain: &str) -> Option<String> {
        let name = self.expand(explanation, domain).await;
        let texts = self.dns.txt(&name).await.ok()?;
        let [text] = &texts[..] else { return None };
        let text = MacroString::parse(std::str::from_utf8(text).ok()?, true).ok()?;
        Some(self.expand_text(&text, domain).await)
    }
}

/// A name's addresses of the client's kind.
async fn addresses(dns: &Dns, name: &str, client: IpAddr) -> Result<Vec<IpAddr>, DnsError> {
    Ok(match client {
        IpAddr::V4(_) => dns.a(name).await?.into_iter().map(IpAddr::V4).collect(),
        IpAddr::V6(_) => dns.aaaa(name).await?.into_iter().map(IpAddr::V6).collect(),
    })
}

/// Whether a domain may be asked (§4.3): several labels, none of them empty or too long, and no address.
fn is_domain(domain: &str) -> bool {
    let mut labels = domain.split('.');
    domain.len() <= NAME_BYTES_MAX
        && domain.contains('.')
        && !domain.contains(['[', ']', '@'])
        && labels.all(|label| (1..=63).contains(&label.len()))
}

/// Whether a name is this domain or under it. Both are in lower case.
fn is_within(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `192.0.2.1`, or an IPv6 address nibble by nibble: `2.0.0.1.0.d.b.8...` (§7.3).
fn dotted(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            let digits: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            digits.join(".")
        }
    }
}

#[cfg(test)]
mod tests;
