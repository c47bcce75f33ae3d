//! The one resolver of the daemon: typed look-ups over hickory, with a bound on how many run at once.
//!
//! Delivery, the policy's `dns` import and the confirmed reverse names of peers all ask here, so that they share
//! one cache and one bound. It never invents an answer: a look-up ends in records, in "the name or the record
//! does not exist" ([`DnsError::NoName`], [`DnsError::NoData`]), or in a temporary failure that says nothing about the
//! name. Names are taken as absolute: no search list is applied.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;

/// How many look-ups run at once; further ones wait (and time out as temporary failures by their caller's clock).
pub const MAX_CONCURRENT_LOOKUPS: usize = 512;
/// How long one query waits for one server.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a query is sent again to the servers before it fails.
pub const QUERY_RETRIES: usize = 2;
/// How many answers the cache holds.
pub const CACHE_ENTRIES: u64 = 16_384;
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

/// What a DNSBL says about an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The return codes, in 127.0.0.0/8; a list that answers anything else is broken or gone, and counts as not listing.
    pub codes: Vec<Ipv4Addr>,
}

/// The resolver. Cheap to clone; clones share cache and bound.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
    permits: Arc<Semaphore>,
}

impl Dns {
    /// A resolver that asks `servers` (address and port, UDP then TCP), or those of the system when there are none.
    ///
    /// Fails if the system's configuration cannot be read. Must be called within a tokio runtime.
    pub fn new(servers: &[SocketAddr]) -> Result<Dns, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| {
                format!("the system's resolver configuration (/etc/resolv.conf): {error}; set [dns] servers")
            })?
        } else {
            let servers = servers.iter().map(name_server).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers),
                TokioRuntimeProvider::default(),
            )
        };
        let options = builder.options_mut();
        options.timeout = QUERY_TIMEOUT;
        options.attempts = QUERY_RETRIES;
        options.cache_size = CACHE_ENTRIES;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Dns { resolver, permits: Arc::new(Semaphore::new(MAX_CONCURRENT_LOOKUPS)) })
    }

    /// The resolver underneath, for a library that takes one (`mail-auth`). Its look-ups share the cache, not the bound.
    pub fn resolver(&self) -> &TokioResolver {
        &self.resolver
    }

    /// The MX records of `domain`, in no order.
    pub async fn mx(&self, domain: &str) -> Result<Vec<Mx>, DnsError> {
        self.lookup(domain, RecordType::MX, |data| match data {
            RData::MX(mx) => Some(Mx { preference: mx.preference, exchange: plain(&mx.exchange) }),
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
        self.lookup_name(Name::from(canonical(address)), RecordType::PTR, |data| match data {
            RData::PTR(name) => Some(plain(&name.0)),
            _ => None,
        })
        .await
    }

    /// The first reverse name of `address` that resolves to it again (RFC 8601 §2.7.3, "iprev"); `None` if it has none, or
    /// none of the first [`MAX_REVERSE_NAMES`] leads back.
    pub async fn confirmed_name(&self, address: IpAddr) -> Result<Option<String>, DnsError> {
        let names = match self.ptr(address).await {
            Ok(names) => names,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let address = canonical(address);
        let mut temporary = None;
        for name in names.into_iter().take(MAX_REVERSE_NAMES) {
            let confirmed = match address {
                IpAddr::V4(v4) => self.a(&name).await.map(|found| found.contains(&v4)),
                IpAddr::V6(v6) => self.aaaa(&name).await.map(|found| found.contains(&v6)),
            };
            match confirmed {
                Ok(true) => return Ok(Some(name)),
                Err(error @ DnsError::Temporary(_)) => temporary = Some(error),
                Ok(false) | Err(_) => {}
            }
        }
        temporary.map_or(Ok(None), Err)
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
        let name = if name.is_ascii() { Name::from_ascii(name) } else { Name::from_utf8(name) };
        // What is no name (a label of 64 bytes, an empty one) cannot exist either.
        self.lookup_name(name.map_err(|_| DnsError::NoName)?, kind, pick)
            .await
    }

    async fn lookup_name<T>(
        &self,
        mut name: Name,
        kind: RecordType,
        pick: fn(&RData) -> Option<T>,
    ) -> Result<Vec<T>, DnsError> {
        name.set_fqdn(true);
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed: it lives as long as the resolver");
        let found = self.resolver.lookup(name, kind).await.map_err(classify)?;
        let records: Vec<T> = found
            .answers()
            .iter()
            .filter_map(|record| pick(&record.data))
            .collect();
        if records.is_empty() { Err(DnsError::NoData) } else { Ok(records) }
    }
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

fn classify(error: NetError) -> DnsError {
    if error.is_nx_domain() {
        DnsError::NoName
    } else if error.is_no_records_found() {
        // Also what hickory makes of SERVFAIL and REFUSED: only NOERROR means that there is nothing.
        match no_records_code(&error) {
            Some(hickory_resolver::proto::op::ResponseCode::NoError) => DnsError::NoData,
            _ => DnsError::Temporary(error.to_string()),
        }
    } else {
        DnsError::Temporary(error.to_string())
    }
}

fn no_records_code(error: &NetError) -> Option<hickory_resolver::proto::op::ResponseCode> {
    match error {
        NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(none)) => Some(none.response_code),
        _ => None,
    }
}
