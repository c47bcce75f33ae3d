//! The DMARC records that apply to an author's domain (RFC 9989 §4.10), for `mail-auth`, which judges by them.
//!
//! They are looked up here, over the daemon's bound and cache, and because the library neither says whose record it took, nor knows `pct`, nor
//! that several records of a name are none. What is not among them the library looks up itself.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::proto::op::ResponseCode;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::dmarc::{Dmarc, Psd};
use mail_auth::{DnsError, Error, ResolverCache, Txt};

use crate::dns::{self, Dns};

/// What a record begins with.
const VERSION: &[u8] = b"v=DMARC1";
/// From so many labels on, those behind the first are cut to one fewer (RFC 9989 §4.10), so that a walk asks for eight names at most.
const LABELS_MAX: usize = 8;

/// The records of a domain and of those above it.
pub struct Records(Vec<Record>);

struct Record {
    /// As the library asks for it, with a dot at the end.
    name: Box<str>,
    found: Txt,
    percent: u8,
}

impl Records {
    /// Walks from `author`, in A-labels, up to the top-level domain, or to the record that says that it ends there.
    pub async fn of(dns: &Dns, author: &str) -> Records {
        let mut records = Vec::new();
        let mut domain = author;
        loop {
            let record = Record::of(dns, domain).await;
            let is_last = match &record.found {
                Txt::Dmarc(record) => record.psd != Psd::Default,
                Txt::Error(error) => matches!(error, Error::Dns(DnsError::Resolver(_))),
                _ => false,
            };
            records.push(record);
            domain = match above(domain) {
                Some(above) if !is_last => above,
                _ => return Records(records),
            };
        }
    }

    /// The domain that published this record, and its `pct`.
    pub fn owner(&self, record: &Arc<Dmarc>) -> Option<(&str, u8)> {
        let is_it = |other: &&Record| matches!(&other.found, Txt::Dmarc(other) if Arc::ptr_eq(other, record));
        let found = self.0.iter().find(is_it)?;
        let domain = found.name.strip_prefix("_dmarc.")?.strip_suffix('.')?;
        Some((domain, found.percent))
    }
}

/// The next domain of the walk.
fn above(domain: &str) -> Option<&str> {
    let labels = domain.split('.').count();
    let dropped = if labels >= LABELS_MAX {
        labels + 1 - LABELS_MAX
    } else {
        1
    };
    domain.splitn(dropped + 1, '.').nth(dropped)
}

impl Record {
    async fn of(dns: &Dns, domain: &str) -> Record {
        let name = format!("_dmarc.{domain}");
        let texts = dns.txt(&name).await;
        let (found, percent) = match texts.as_deref() {
            Ok(texts) => {
                let is_record = |text: &&Vec<u8>| {
                    text.get(..VERSION.len())
                        .is_some_and(|start| start.eq_ignore_ascii_case(VERSION))
                };
                let mut records = texts.iter().filter(is_record);
                match (records.next(), records.next()) {
                    (Some(text), None) => (Dmarc::parse(text).into(), percent(text)),
                    _ => (absent(ResponseCode::NoError), 100),
                }
            }
            Err(dns::DnsError::NoName) => (absent(ResponseCode::NXDomain), 100),
            Err(dns::DnsError::NoData) => (absent(ResponseCode::NoError), 100),
            Err(dns::DnsError::Temporary(why)) => (Txt::Error(Error::Dns(DnsError::Resolver(why.clone()))), 100),
        };
        Record {
            name: format!("{name}.").into(),
            found,
            percent,
        }
    }
}

fn absent(code: ResponseCode) -> Txt {
    Txt::Error(Error::Dns(DnsError::RecordNotFound(code)))
}

/// The tag `pct` of a DMARC record (RFC 7489 §6.3), which RFC 9989 dropped and domains still publish. 100 if it is not there or is none.
fn percent(record: &[u8]) -> u8 {
    let text = String::from_utf8_lossy(record);
    let mut tags = text.rsplit(';').filter_map(|tag| tag.split_once('='));
    let named = tags.find(|(name, _)| name.trim().eq_ignore_ascii_case("pct"));
    let percent = named.and_then(|(_, value)| value.trim().parse().ok());
    percent.filter(|percent| *percent <= 100).unwrap_or(100)
}

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let record = self.0.iter().find(|record| record.name.borrow() == name)?;
        Some(record.found.clone())
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_drops_one_label_at_a_time_and_of_many_all_but_seven() {
        let walk =
            |domain: &'static str| -> Vec<&str> { std::iter::successors(Some(domain), |name| above(name)).collect() };
        assert_eq!(walk("a.b.example"), ["a.b.example", "b.example", "example"]);
        let long = walk("a.b.c.d.e.f.g.h.i.example");
        assert_eq!(long.len(), LABELS_MAX);
        assert_eq!(long[1], "d.e.f.g.h.i.example");
    }
}
