//! The one resolver of the daemon: typed look-ups over hickory, with a bound on how many run at once.
//!
//! Delivery, the policy's `dns` import and the confirmed reverse names of peers all ask here, so that they share
//! one cache and one bound. It never invents an answer: a look-up ends in records, in "the name or the record
//! does not exist" ([`DnsError::NoName`], [`DnsError::NoData`]), or in a temporary failure that says nothing about the
//! name. Names are taken as absolute: no search list is applied.

mod answers;
pub mod scripted;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{self, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;

use crate::config;
use answers::{Answers, Found};

/// How many look-ups run at once; further ones wait (and time out as temporary failures by their caller's clock).
pub const MAX_CONCURRENT_LOOKUPS: usize = 512;
/// How many answers hickory's own cache holds, which serves libraries that take the resolver.
pub const CACHE_ENTRIES: u64 = 2_048;
/// How long an absence is believed at most (RFC 2308 §5 advises one to three hours).
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3 * 3600);
/// How many names of an address are tried for forward confirmation (RFC 8601 §3 asks for a bound).
pub const MAX_REVERSE_NAMES: usize = 5;

/// Why a look-up has no records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN), or is none that the DNS could hold.
    #[error("the name does not exist")]
    NoName,
    /// The name exists and has no record of this type.
    #[error("the name has no such record")]
    NoData,
    /// No server gave a usable answer in time (SERVFAIL, REFUSED, time-out ...): ask again later.
    #[error("{0}")]
    Temporary(String),
}

impl DnsError {
    /// The answer is definite: there is no such record.
    pub fn is_not_found(&self) -> bool {
        !matches!(self, DnsError::Temporary(_))
    }
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// Lower is better.
    pub preference: u16,
    /// In lower case, without the trailing dot; empty is the root of the null MX (RFC 7505).
    pub exchange: String,
}

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReverseName {
    /// This leads back to it.
    Confirmed(String),
    /// None of its names, of which this is the first, leads back to it; nor does any that was not tried ([`MAX_REVERSE_NAMES`]) count.
    Unconfirmed(String),
    /// It has no name.
    None,
}

impl ReverseName {
    /// The name that leads back to the address.
    pub fn confirmed(self) -> Option<String> {
        match self {
            ReverseName::Confirmed(name) => Some(name),
            ReverseName::Unconfirmed(_) | ReverseName::None => None,
        }
    }
}

/// What a DNSBL says about an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The return codes, in 127.0.0.0/8; a list that answers anything else is broken or gone, and counts as not
    /// listing.
    pub codes: Vec<Ipv4Addr>,
}

/// The resolver. Cheap to clone; clones share cache and bound.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
    answers: Answers,
    permits: Arc<Semaphore>,
    /// Nobody is asked: no name exists (true), or every look-up fails.
    scratch: Option<bool>,
}

impl Dns {
    /// A resolver that asks `servers` (UDP, then TCP), or those of the system when there are none, with the default
    /// times.
    pub fn new(servers: &[SocketAddr]) -> Result<Dns, String> {
        Dns::configured(&config::Dns {
            servers: servers.to_vec(),
            timeout: config::Dns::TIMEOUT,
            attempts: config::Dns::ATTEMPTS,
        })
    }

    /// The resolver of a configuration.
    ///
    /// Fails if the system's configuration is asked for and cannot be read. Must be called within a tokio runtime.
    pub fn configured(config: &config::Dns) -> Result<Dns, String> {
        let mut builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| {
                format!("the system's resolver configuration (/etc/resolv.conf): {error}; set [dns] servers")
            })?
        } else {
            let servers = config.servers.iter().map(name_server).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers),
                TokioRuntimeProvider::default(),
            )
        };
        let options = builder.options_mut();
        options.timeout = config.timeout;
        // hickory counts the first one apart.
        options.attempts = config.attempts.saturating_sub(1) as usize;
        options.cache_size = CACHE_ENTRIES;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Dns {
            resolver,
            answers: Answers::new(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_LOOKUPS)),
            scratch: None,
        })
    }

    /// One that asks nobody, for probes: it answers that no name exists, or fails. A library that takes the resolver sees it fail.
    pub fn scratch(answer: bool) -> Dns {
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        let resolver = TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default()).build();
        Dns {
            resolver: resolver.expect("without servers there is nothing that could be wrong with them"),
            answers: Answers::new(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_LOOKUPS)),
            scratch: Some(answer),
        }
    }

    /// The resolver underneath, for a library that takes one (`mail-auth`). Its look-ups have hickory's cache, and not
    /// the bound.
    pub fn resolver(&self) -> &TokioResolver {
        &self.resolver
    }

    /// The MX records of `domain`, in no order.
    pub async fn mx(&self, domain: &str) -> Result<Vec<Mx>, DnsError> {
        self.lookup(domain, RecordType::MX, |data| match data {
            RData::MX(mx) => Some(Mx {
                preference: mx.preference,
                exchange: plain(&mx.exchange),
            }),
            _ => None,
        })
        .await
    }

    /// The IPv4 addresses of `host`.
    pub async fn a(&self, host: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        self.lookup(host, RecordType::A, |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .await
    }

    /// The IPv6 addresses of `host`.
    pub async fn aaaa(&self, host: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        self.lookup(host, RecordType::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(aaaa.0),
            _ => None,
        })
        .await
    }

    /// All addresses of `host`, IPv6 first. One family's temporary failure does not hide the other's addresses, but if
    /// there are none at all it makes the result temporary.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let (six, four) = tokio::join!(self.aaaa(host), self.a(host));
        match (six, four) {
            (Err(error @ DnsError::Temporary(_)), Err(_)) | (Err(_), Err(error)) => Err(error),
            (six, four) => {
                let six = six.unwrap_or_default().into_iter().map(IpAddr::V6);
                Ok(six
                    .chain(four.unwrap_or_default().into_iter().map(IpAddr::V4))
                    .collect())
            }
        }
    }

    /// The names that `address` claims (PTR), in lower case and without the trailing dot.
    pub async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        let address = canonical(address);
        let zone = if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
        self.lookup(&dnsbl_name(address, zone), RecordType::PTR, |data| match data {
            RData::PTR(name) => Some(plain(&name.0)),
            _ => None,
        })
        .await
    }

    /// The first reverse name of `address` that resolves to it again (RFC 8601 §2.7.3, "iprev").
    pub async fn reverse_name(&self, address: IpAddr) -> Result<ReverseName, DnsError> {
        let mut names = match self.ptr(address).await {
            Ok(names) => names,
            Err(error) if error.is_not_found() => return Ok(ReverseName::None),
            Err(error) => return Err(error),
        };
        names.truncate(MAX_REVERSE_NAMES);
        let address = canonical(address);
        let mut temporary = None;
        for place in 0..names.len() {
            let confirmed = match address {
                IpAddr::V4(v4) => self.a(&names[place]).await.map(|found| found.contains(&v4)),
                IpAddr::V6(v6) => self.aaaa(&names[place]).await.map(|found| found.contains(&v6)),
            };
            match confirmed {
                Ok(true) => return Ok(ReverseName::Confirmed(names.swap_remove(place))),
                Err(error @ DnsError::Temporary(_)) => temporary = Some(error),
                Ok(false) | Err(_) => {}
            }
        }
        temporary.map_or_else(|| Ok(ReverseName::Unconfirmed(names.swap_remove(0))), Err)
    }

    /// The TXT records of `name`, each with its strings joined (RFC 7208 §3.3).
    pub async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        self.lookup(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        })
        .await
    }

    /// Asks the DNSBL `zone` about `address` (RFC 5782 §2.1, §2.4). `None`: not listed.
    pub async fn dnsbl(&self, address: IpAddr, zone: &str) -> Result<Option<Listing>, DnsError> {
        match self.a(&dnsbl_name(address, zone)).await {
            Ok(mut codes) => {
                codes.retain(|code| code.octets()[0] == 127);
                Ok((!codes.is_empty()).then_some(Listing { codes }))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn lookup<T>(&self, name: &str, kind: RecordType, pick: fn(&RData) -> Option<T>) -> Result<Vec<T>, DnsError> {
        let found = match self.answers.get(name, kind, Instant::now()) {
            Some(found) => found,
            None => self.ask(name, kind).await,
        };
        let records: Vec<T> = found?.iter().filter_map(pick).collect();
        if records.is_empty() {
            Err(DnsError::NoData)
        } else {
            Ok(records)
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Found {
        // What is no name (a label of 64 bytes, an empty one) cannot exist either.
        let absolute = parsed(name).ok_or(DnsError::NoName)?;
        if let Some(answers) = self.scratch {
            let probe = DnsError::Temporary("this is a probe".into());
            return Err(if answers { DnsError::NoName } else { probe });
        }
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed: it lives as long as the resolver");
        let (found, until) = match self.resolver.lookup(absolute, kind).await {
            Ok(found) => {
                let records = found.answers().iter().map(|record| record.data.clone());
                (Ok(records.collect()), Some(found.valid_until()))
            }
            Err(error) => {
                let until = negative_ttl(&error).map(|ttl| Instant::now() + ttl);
                (Err(classify(error)), until)
            }
        };
        if let Some(until) = until {
            self.answers.keep(name, kind, found.clone(), until);
        }
        found
    }
}

/// A name as the DNS has it. Labels may have any octets (RFC 2181 §11); those that SPF makes of local parts do.
fn parsed(name: &str) -> Option<Name> {
    if name == "." {
        return Some(Name::root());
    }
    let plain = name.strip_suffix('.').unwrap_or(name);
    let mut name = if plain.is_ascii() {
        Name::from_labels(plain.split('.').map(str::as_bytes)).ok()?
    } else {
        Name::from_utf8(plain).ok()?
    };
    name.set_fqdn(true);
    Some(name)
}

/// The name under which a DNSBL keeps `address`: its octets or nibbles reversed, before `zone`.
pub fn dnsbl_name(address: IpAddr, zone: &str) -> String {
    let mut name = String::with_capacity(64 + zone.len() + 1);
    match canonical(address) {
        IpAddr::V4(v4) => {
            for octet in v4.octets().iter().rev() {
                // Writing to a String cannot fail.
                let _ = write!(name, "{octet}.");
            }
        }
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
            }
        }
    }
    name.push_str(zone);
    name
}

/// An IPv4 address in IPv6 clothes (::ffff:0:0/96) is the IPv4 address.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn plain(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    // A negative answer of the only server that the administrator named is to be believed.
    NameServerConfig::new(address.ip(), true, connections)
}

/// How long an absence holds, if it was told (RFC 2308 §5).
fn negative_ttl(error: &NetError) -> Option<Duration> {
    let NetError::Dns(net::DnsError::NoRecordsFound(none)) = error else {
        return None;
    };
    let is_definite = matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError);
    let seconds = none.negative_ttl.filter(|_| is_definite)?;
    Some(Duration::from_secs(seconds.into()).min(NEGATIVE_TTL_MAX))
}

fn classify(error: NetError) -> DnsError {
    match &error {
        NetError::Dns(net::DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => DnsError::NoName,
            ResponseCode::NoError => DnsError::NoData,
            // SERVFAIL, REFUSED ...: that says nothing about the name.
            code => DnsError::Temporary(format!("the name server answered {code}")),
        },
        _ => DnsError::Temporary(error.to_string()),
    }
}

/// The scripted name server for tests, where a zone that is none is a mistake in the test.
#[cfg(test)]
pub(crate) mod testing {
    use super::Dns;
    use super::scripted;

    pub(crate) async fn resolver(zone: impl AsRef<str>) -> Dns {
        let zone = zone.as_ref().parse().expect("a zone");
        scripted::resolver(zone).await.expect("a resolver")
    }

    /// The same over records as name, type and value.
    pub(crate) async fn resolver_of(records: &[(&str, &str, &str)]) -> Dns {
        let lines = records
            .iter()
            .map(|(name, kind, value)| format!("{name} {kind} {value}\n"));
        resolver(lines.collect::<String>()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: &str = "
        both.example A 192.0.2.1
        both.example AAAA 2001:db8::1
        four.example A 192.0.2.4
        user+tag=x!y/z.example A 192.0.2.5
        mail.example MX 10 MX1.example.
        mail.example MX 20 mx2.example.
        null.example MX 0 .
        text.example TXT v=spf1 -all
        broken.example FAIL
        1.2.0.192.in-addr.arpa PTR liar.example.
        1.2.0.192.in-addr.arpa PTR both.example.
        9.2.0.192.in-addr.arpa PTR liar.example.
        8.2.0.192.in-addr.arpa PTR broken.example.
        1.2.0.192.bl.example A 127.0.0.2
        1.2.0.192.bl.example A 127.0.0.10
        4.2.0.192.bl.example A 203.0.113.1
        3.2.0.192.bl.example FAIL
    ";

    #[tokio::test]
    async fn records_are_typed_and_absence_is_told_from_failure() {
        let dns = testing::resolver(ZONE).await;
        let mut mx = dns.mx("mail.example").await.expect("MX records");
        mx.sort_by_key(|mx| mx.preference);
        let shown: Vec<(u16, &str)> = mx.iter().map(|mx| (mx.preference, &*mx.exchange)).collect();
        assert_eq!(shown, [(10, "mx1.example"), (20, "mx2.example")]);
        assert_eq!(
            dns.mx("null.example").await.map(|mx| mx[0].exchange.clone()).as_deref(),
            Ok("")
        );
        assert_eq!(dns.mx("four.example").await, Err(DnsError::NoData));
        assert_eq!(dns.mx("absent.example").await, Err(DnsError::NoName));
        assert_eq!(dns.mx("not..a.name").await, Err(DnsError::NoName));
        let long = format!("{}.example", "x".repeat(64));
        assert_eq!(dns.a(&long).await, Err(DnsError::NoName));
        assert_eq!(
            dns.a("user+tag=x!y/z.example").await,
            Ok(vec![Ipv4Addr::new(192, 0, 2, 5)])
        );
        assert!(matches!(dns.mx("broken.example").await, Err(DnsError::Temporary(_))));
        assert_eq!(dns.txt("text.example").await, Ok(vec![b"v=spf1 -all".to_vec()]));
        let addresses = dns.addresses("both.example").await.expect("addresses");
        assert_eq!(
            addresses,
            ["2001:db8::1", "192.0.2.1"].map(|text| text.parse::<IpAddr>().expect("an address"))
        );
        assert_eq!(dns.addresses("four.example").await.map(|found| found.len()), Ok(1));
        assert_eq!(dns.addresses("absent.example").await, Err(DnsError::NoName));
        assert!(matches!(
            dns.addresses("broken.example").await,
            Err(DnsError::Temporary(_))
        ));
    }

    #[tokio::test]
    async fn a_reverse_name_counts_only_if_it_leads_back() {
        let dns = testing::resolver(ZONE).await;
        let name = async |last: u8| dns.reverse_name(IpAddr::from([192, 0, 2, last])).await;
        let both = Ok(ReverseName::Confirmed("both.example".to_owned()));
        assert_eq!(name(1).await, both);
        assert_eq!(name(9).await, Ok(ReverseName::Unconfirmed("liar.example".to_owned())));
        assert_eq!(name(7).await, Ok(ReverseName::None));
        assert!(matches!(name(8).await, Err(DnsError::Temporary(_))));
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]);
        assert_eq!(dns.reverse_name(mapped).await, both);
    }

    #[tokio::test]
    async fn a_list_lists_with_loopback_codes_only() {
        let dns = testing::resolver(ZONE).await;
        let ask = async |last: u8| dns.dnsbl(IpAddr::from([192, 0, 2, last]), "bl.example").await;
        let listed = ask(1).await.expect("an answer").expect("a listing");
        assert_eq!(listed.codes, [[127, 0, 0, 2], [127, 0, 0, 10]].map(Ipv4Addr::from));
        assert_eq!(ask(2).await, Ok(None));
        assert_eq!(ask(4).await, Ok(None));
        assert!(matches!(ask(3).await, Err(DnsError::Temporary(_))));
    }

    #[tokio::test]
    async fn a_scratch_resolver_asks_nobody() {
        assert_eq!(Dns::scratch(true).a("both.example").await, Err(DnsError::NoName));
        let failed = Dns::scratch(false).a("both.example").await;
        assert!(matches!(failed, Err(DnsError::Temporary(_))), "{failed:?}");
        // mail-auth has the resolver itself: it must not find anybody, and say so at once.
        let began = std::time::Instant::now();
        let found = Dns::scratch(true).resolver().lookup_ip("both.example.").await;
        assert!(found.is_err() && began.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn the_name_under_which_a_list_has_an_address() {
        let cases = [
            ("192.0.2.1", "1.2.0.192.bl.example"),
            ("::ffff:192.0.2.1", "1.2.0.192.bl.example"),
            (
                "2001:db8::567:89ab",
                "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example",
            ),
        ];
        for (address, name) in cases {
            assert_eq!(dnsbl_name(address.parse().expect("an address"), "bl.example"), name);
        }
    }
}
