//! From a recipient to the hosts that take its mail: which destination it belongs to, and where that is.
//!
//! The order is the policy's choice, then a configured route for the domain, then the default next hop, then MX (RFC
//! 5321 §5.1). A destination is what connections are shared by; its hosts are looked up when one is opened. Answers
//! say whether a failure is the domain's own (permanent) or the network's (temporary). Connects to nothing.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use gatepost_smtp::address::{Address, Literal, canonical_domain};
use gatepost_smtp::client::Answer;
use gatepost_smtp::reply::{Enhanced, Reply};

use super::hooks::RouteChoice;
use super::settings::{DeliveryConfig, RouteRuntime, SMTP_PORT};
use crate::config::{NextHop, TlsMode};
use crate::dns::{Dns, DnsError, Mx};

/// The most addresses that one attempt calls, over all hosts of a destination.
pub const MAX_ADDRESSES: usize = 6;
/// The most MX hosts that are looked at; more is a mistake or an attack.
const MAX_MX: usize = 20;

/// What connections are shared by.
#[derive(Clone)]
pub struct Key {
    pub route: Arc<RouteRuntime>,
    pub target: Target,
    pub source: Option<IpAddr>,
    pub tls: TlsMode,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The route's next hop.
    NextHop,
    /// The MX of this canonical domain.
    Domain(Box<str>),
    /// An address literal.
    Address(IpAddr),
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        // The same route object: after a reload the same name may mean other things.
        Arc::ptr_eq(&self.route, &other.route)
            && self.target == other.target
            && self.source == other.source
            && self.tls == other.tls
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.route).hash(state);
        self.target.hash(state);
    }
}

/// The destination of a recipient, or why it has none.
pub fn destination(config: &DeliveryConfig, address: &str, choice: &RouteChoice) -> Result<Key, Answer> {
    let given = domain_of(address);
    let domain = given.map(canonical_domain);
    let route = match (&choice.route, &domain) {
        (Some(name), _) => config.route(name).ok_or_else(|| {
            let text = format!("a policy chose the route \"{name}\", which is not configured");
            Answer::local(Reply::new(451, Enhanced(4, 3, 5), text))
        })?,
        (None, Some(Ok(domain))) => config.route_for(domain),
        // `postmaster` alone is our own (RFC 5321 §4.5.1).
        (None, None) => config.route_for(&config.hostname),
        (None, Some(Err(_))) => &config.default,
    };
    let target = match (&route.route.next_hop, domain) {
        (Some(_), _) => Target::NextHop,
        (None, Some(Ok(domain))) => Target::Domain(domain.into()),
        (None, None) => Target::Domain(config.hostname.as_str().into()),
        (None, Some(Err(_))) => match Address::parse(address).ok().and_then(|parsed| parsed.literal()) {
            Some(Literal::Ip(ip)) => Target::Address(ip),
            _ => {
                return Err(Answer::local(Reply::new(
                    550,
                    Enhanced(5, 1, 2),
                    "the recipient's domain is not a name",
                )));
            }
        },
    };
    Ok(Key {
        target,
        source: choice.source_address.or(route.route.source_address),
        tls: choice.tls.unwrap_or(route.route.tls),
        route: route.clone(),
    })
}

/// What is behind the `@` that ends the local part (a quoted one may hold others); `None` for `postmaster`.
fn domain_of(address: &str) -> Option<&str> {
    address.rsplit_once('@').map(|(_, domain)| domain)
}

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host's name, or its address as text.
    pub host: Arc<str>,
    pub address: SocketAddr,
}

impl Key {
    /// For the log: `mail.example.org:25`, `maildir:PATH`, `discard:`, or the domain whose MX it is.
    pub fn describe(&self) -> String {
        match (&self.target, &self.route.route.next_hop) {
            (Target::Domain(domain), _) => domain.to_string(),
            (Target::Address(ip), _) => format!("[{ip}]"),
            (Target::NextHop, Some(NextHop::Smtp { host, port, .. })) => format!("{host}:{port}"),
            (Target::NextHop, Some(NextHop::Maildir(path))) => format!("maildir:{}", path.display()),
            (Target::NextHop, Some(NextHop::Discard)) => "discard:".to_owned(),
            (Target::NextHop, None) => String::new(),
        }
    }

    /// TLS from the first byte.
    pub fn implicit_tls(&self) -> bool {
        matches!(
            &self.route.route.next_hop,
            Some(NextHop::Smtp { implicit_tls: true, .. })
        )
    }

    /// Where to connect, in the order in which to try. At least one place.
    pub async fn places(&self, config: &DeliveryConfig, dns: &Dns) -> Result<Vec<Place>, Answer> {
        match (&self.target, &self.route.route.next_hop) {
            (Target::NextHop, Some(NextHop::Smtp { host, port, .. })) => fixed(dns, host, *port).await,
            (Target::Domain(domain), _) => mail_exchangers(config, dns, domain).await,
            (Target::Address(ip), _) => {
                let address = SocketAddr::new(*ip, config.mx_port);
                if is_ourselves(&config.listeners, address) || is_nowhere_else(address) {
                    return Err(loops_back("the address literal"));
                }
                Ok(vec![Place {
                    host: ip.to_string().into(),
                    address,
                }])
            }
            (Target::NextHop, _) => Err(Answer::local(Reply::new(
                451,
                Enhanced(4, 3, 5),
                "no next hop to connect to",
            ))),
        }
    }
}

/// A configured next hop. That its name cannot be found is the configuration's fault or the resolver's, never the
/// recipient's: always temporary.
async fn fixed(dns: &Dns, host: &str, port: u16) -> Result<Vec<Place>, Answer> {
    let name: Arc<str> = host.into();
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![Place {
            host: name,
            address: SocketAddr::new(ip, port),
        }]);
    }
    let found = dns.addresses(host).await.map_err(|error| {
        let text = format!("cannot find the address of the next hop {host}: {error}");
        Answer::local(Reply::new(451, Enhanced(4, 4, 3), text))
    })?;
    let place = |ip| Place {
        host: name.clone(),
        address: SocketAddr::new(ip, port),
    };
    Ok(found.into_iter().take(MAX_ADDRESSES).map(place).collect())
}

/// RFC 5321 §5.1.
async fn mail_exchangers(config: &DeliveryConfig, dns: &Dns, domain: &str) -> Result<Vec<Place>, Answer> {
    let records = match dns.mx(domain).await {
        Ok(records) => order(records, |bound| (super::schedule::chance() * bound as f64) as usize),
        // No MX: the domain's own address counts as one, with preference 0.
        Err(DnsError::NoData) => vec![Mx {
            preference: 0,
            exchange: domain.to_owned(),
        }],
        Err(DnsError::NoName) => {
            let text = format!("the domain {domain} does not exist");
            return Err(Answer::local(Reply::new(550, Enhanced(5, 1, 2), text)));
        }
        Err(DnsError::Temporary(error)) => {
            let text = format!("cannot look up the mail exchangers of {domain}: {error}");
            return Err(Answer::local(Reply::new(451, Enhanced(4, 4, 3), text)));
        }
    };
    // RFC 7505 §3: a single exchange that is the root.
    if records.iter().all(|mx| mx.exchange.is_empty()) {
        let text = format!("the domain {domain} takes no mail (null MX)");
        return Err(Answer::local(Reply::new(556, Enhanced(5, 1, 10), text)));
    }
    let mut places = Vec::new();
    let mut own = records
        .iter()
        .find(|mx| mx.exchange.eq_ignore_ascii_case(&config.hostname))
        .map(|mx| mx.preference);
    let mut problem = None;
    for mx in records.iter().filter(|mx| !mx.exchange.is_empty()) {
        // What is no better than ourselves would send the mail back to us. Records come best first.
        if own.is_some_and(|own| mx.preference >= own) {
            break;
        }
        match dns.addresses(&mx.exchange).await {
            Ok(addresses) => {
                let addresses: Vec<_> = addresses
                    .into_iter()
                    .map(|ip| SocketAddr::new(ip, config.mx_port))
                    .collect();
                if addresses
                    .iter()
                    .any(|address| is_ourselves(&config.listeners, *address))
                {
                    own = Some(mx.preference);
                    places.retain(|(preference, _): &(u16, Place)| *preference < mx.preference);
                    break;
                }
                let host: Arc<str> = mx.exchange.as_str().into();
                places.extend(addresses.into_iter().map(|address| {
                    (
                        mx.preference,
                        Place {
                            host: host.clone(),
                            address,
                        },
                    )
                }));
            }
            Err(error) => {
                let temporary = !error.is_not_found();
                if problem
                    .as_ref()
                    .is_none_or(|(was_temporary, _)| temporary && !was_temporary)
                {
                    problem = Some((
                        temporary,
                        format!("cannot find the address of {}: {error}", mx.exchange),
                    ));
                }
            }
        }
        if places.len() >= MAX_ADDRESSES && own.is_none() {
            break;
        }
    }
    if !places.is_empty() {
        return Ok(places.into_iter().map(|(_, place)| place).take(MAX_ADDRESSES).collect());
    }
    Err(match problem {
        Some((true, text)) => Answer::local(Reply::new(451, Enhanced(4, 4, 3), text)),
        _ if own.is_some() => loops_back(domain),
        // RFC 5321 §5.1: MX records, and none of them usable, must be an error. It may be a slip in the zone, so only
        // a domain that has no address at all fails for good.
        Some((false, text)) if records.len() == 1 && records[0].exchange == domain => {
            Answer::local(Reply::new(550, Enhanced(5, 1, 2), text))
        }
        Some((_, text)) => Answer::local(Reply::new(451, Enhanced(4, 4, 4), text)),
        None => Answer::local(Reply::new(
            451,
            Enhanced(4, 4, 4),
            format!("no mail exchanger of {domain} has an address"),
        )),
    })
}

fn loops_back(what: &str) -> Answer {
    let text = format!("mail for {what} loops back to ourselves: the best mail exchanger is this host");
    Answer::local(Reply::new(554, Enhanced(5, 4, 6), text))
}

/// Best preference first, in random order within one. `below` gives a number under its argument.
fn order(mut records: Vec<Mx>, mut below: impl FnMut(usize) -> usize) -> Vec<Mx> {
    for last in (1..records.len()).rev() {
        records.swap(last, below(last + 1).min(last));
    }
    records.sort_by_key(|mx| mx.preference);
    records.truncate(MAX_MX);
    records
}

/// Whether no other machine can be meant. On the port for mail, a server that listens there trusts what comes from loopback, and nobody may reach
/// it by writing `user@[127.0.0.1]`.
fn is_nowhere_else(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    address.port() == SMTP_PORT && (ip.is_loopback() || ip.is_unspecified())
}

/// Whether a connection to `address` would end at one of our own listeners.
fn is_ourselves(listeners: &[SocketAddr], address: SocketAddr) -> bool {
    listeners.iter().any(|listener| {
        listener.port() == address.port()
            && (listener.ip() == address.ip() || (listener.ip().is_unspecified() && is_local(address.ip())))
    })
}

/// Whether this machine has the address: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchangers_are_sorted_and_shuffled_within_a_preference() {
        let mx = |preference, exchange: &str| Mx {
            preference,
            exchange: exchange.to_owned(),
        };
        let records = || vec![mx(20, "c"), mx(10, "a"), mx(10, "b"), mx(5, "z")];
        let names = |records: Vec<Mx>| records.into_iter().map(|mx| mx.exchange).collect::<String>();
        let mut seen: Vec<String> = (0..4)
            .map(|pick| names(order(records(), |bound| pick % bound)))
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["zabc", "zbac"]);
    }

    #[test]
    fn the_domain_is_behind_the_last_at() {
        for (address, domain) in [("a@b", Some("b")), ("\"a@b\"@c", Some("c")), ("postmaster", None)] {
            assert_eq!(domain_of(address), domain);
        }
    }

    #[test]
    fn loopback_is_local_and_a_documentation_address_is_not() {
        assert!(is_local(IpAddr::from([127, 0, 0, 1])));
        assert!(!is_local(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn an_address_literal_of_this_machine_loops_back_whoever_listens() {
        let ours = |text: &str| is_nowhere_else(text.parse().unwrap());
        for address in [
            "127.0.0.1:25",
            "127.8.9.1:25",
            "0.0.0.0:25",
            "[::1]:25",
            "[::]:25",
            "[::ffff:127.0.0.1]:25",
        ] {
            assert!(ours(address), "{address}");
        }
        assert!(!ours("192.0.2.1:25") && !ours("127.0.0.1:2525"));
    }
}
