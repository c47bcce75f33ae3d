//! DNS look-ups of policies in batches: records as text, and DNS lists (RFC 5782).
//!
//! A batch is looked up in parallel; how many questions of all batches run at once is the resolver's bound. The answers come in the order of
//! the questions. That a name does not exist is an answer (an empty list); only a question that cannot be asked and a
//! resolver that gives no answer are errors. When the caller goes away, its look-ups end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::task::JoinSet;

use crate::dns::{self, Dns};

/// Queries in one batch; those beyond are answered [`DnsError::Invalid`].
pub const QUERIES_MAX: usize = 32;

/// The longest name that can be asked for, in bytes (RFC 1035 §2.3.4, without the root's dot).
const NAME_BYTES_MAX: usize = 253;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    A,
    Aaaa,
    Mx,
    Ptr,
    Txt,
}

/// One look-up. For [`RecordType::Ptr`] the name is an address, or its name under `in-addr.arpa` or `ip6.arpa`.
#[derive(Clone, Debug)]
pub struct Query {
    pub name: String,
    pub kind: RecordType,
}

/// Whether a list has the subject: an address (asked for reversed) or a domain.
#[derive(Clone, Debug)]
pub struct ListQuery {
    pub zone: String,
    pub subject: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// No answer, SERVFAIL or time-out: it may exist.
    #[error("{0}")]
    Temporary(String),
    #[error("the name cannot be asked for")]
    Invalid,
}

/// The records as text (`10 mail.example.org` for MX, names in lower case without the last dot); bytes of TXT records that are not UTF-8
/// are replaced.
pub async fn lookup(dns: &Dns, queries: &[Query]) -> Vec<Result<Vec<String>, DnsError>> {
    batch(dns, queries, |dns, query| async move { one(&dns, &query).await }).await
}

/// The return codes (`127.0.0.2`), none if the subject is not listed. Answers outside of 127.0.0.0/8 come from lists that are
/// broken or gone, and are left out.
pub async fn lists(dns: &Dns, queries: &[ListQuery]) -> Vec<Result<Vec<String>, DnsError>> {
    batch(dns, queries, |dns, query| async move {
        let name = list_name(&query).ok_or(DnsError::Invalid)?;
        let codes = answers(dns.a(&name).await)?;
        Ok(texts(codes.into_iter().filter(Ipv4Addr::is_loopback)))
    })
    .await
}

/// Asks for everything at once, and puts the answers in order.
async fn batch<Q, F, A>(dns: &Dns, queries: &[Q], ask: F) -> Vec<Result<Vec<String>, DnsError>>
where
    Q: Clone,
    F: Fn(Dns, Q) -> A,
    A: Future<Output = Result<Vec<String>, DnsError>> + Send + 'static,
{
    let mut answers = vec![Err(DnsError::Invalid); queries.len()];
    // Dropped with this future, and its tasks with it.
    let mut tasks = JoinSet::new();
    for (place, query) in queries.iter().take(QUERIES_MAX).enumerate() {
        let asked = ask(dns.clone(), query.clone());
        tasks.spawn(async move { (place, asked.await) });
    }
    while let Some(done) = tasks.join_next().await {
        // A task that panicked leaves its answer as it is.
        if let Ok((place, answer)) = done {
            answers[place] = answer;
        }
    }
    answers
}

async fn one(dns: &Dns, query: &Query) -> Result<Vec<String>, DnsError> {
    if query.kind == RecordType::Ptr {
        let address = query
            .name
            .parse()
            .ok()
            .or_else(|| reversed(&query.name))
            .ok_or(DnsError::Invalid)?;
        return answers(dns.ptr(address).await);
    }
    let name = asked_name(&query.name).ok_or(DnsError::Invalid)?;
    Ok(match query.kind {
        RecordType::A => texts(answers(dns.a(&name).await)?),
        RecordType::Aaaa => texts(answers(dns.aaaa(&name).await)?),
        RecordType::Mx => {
            let mut found = answers(dns.mx(&name).await)?;
            found.sort_by(|one, other| (one.preference, &one.exchange).cmp(&(other.preference, &other.exchange)));
            // The null MX (RFC 7505) is written as in a zone.
            let exchange = |mx: &dns::Mx| {
                if mx.exchange.is_empty() {
                    ".".to_owned()
                } else {
                    mx.exchange.clone()
                }
            };
            found
                .iter()
                .map(|mx| format!("{} {}", mx.preference, exchange(mx)))
                .collect()
        }
        RecordType::Txt => {
            let found = answers(dns.txt(&name).await)?;
            found
                .into_iter()
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .collect()
        }
        RecordType::Ptr => unreachable!("answered above"),
    })
}

/// What is not there is an answer.
fn answers<T>(found: Result<Vec<T>, dns::DnsError>) -> Result<Vec<T>, DnsError> {
    match found {
        Ok(records) => Ok(records),
        Err(dns::DnsError::NoName | dns::DnsError::NoData) => Ok(Vec::new()),
        Err(dns::DnsError::Temporary(why)) => Err(DnsError::Temporary(why)),
    }
}

fn texts(found: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    found.into_iter().map(|item| item.to_string()).collect()
}

/// The name under which a list keeps the subject: an address with its octets (RFC 5782 §2.1) or nibbles (§2.4) reversed, a
/// domain as it is.
fn list_name(query: &ListQuery) -> Option<String> {
    let zone = asked_name(&query.zone)?;
    let subject = query
        .subject
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(&query.subject);
    let name = match subject.parse() {
        Ok(address) => dns::dnsbl_name(address, &zone),
        Err(_) => format!("{}.{zone}", asked_name(subject)?),
    };
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

/// A name in the form in which it is asked for: lower case, A-labels, without the last dot. None if it cannot be one.
fn asked_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(name).ok()?
    };
    // More than a host may be called (`_dmarc`), but nothing that would have to be escaped.
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    (name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)).then_some(name)
}

/// The address of a name under `in-addr.arpa` or `ip6.arpa`.
fn reversed(name: &str) -> Option<IpAddr> {
    let name = asked_name(name)?;
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = octets
            .rsplit('.')
            .map(|octet| octet.parse().ok())
            .collect::<Option<_>>()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    }
    let nibble = |label: &str| {
        u128::from_str_radix(label, 16)
            .ok()
            .filter(|_| label.len() == 1 && label != "+")
    };
    let nibbles: Vec<u128> = name
        .strip_suffix(".ip6.arpa")?
        .rsplit('.')
        .map(nibble)
        .collect::<Option<_>>()?;
    let bits = nibbles.iter().fold(0, |bits, nibble| bits << 4 | nibble);
    (nibbles.len() == 32).then_some(IpAddr::from(Ipv6Addr::from(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing;

    #[test]
    fn names_of_lists_are_reversed_addresses_or_domains() {
        for (subject, name) in [
            ("192.0.2.99", Some("99.2.0.192.bl.example")),
            ("[192.0.2.99]", Some("99.2.0.192.bl.example")),
            ("::ffff:192.0.2.99", Some("99.2.0.192.bl.example")),
            (
                "2001:db8::b",
                Some("b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example"),
            ),
            ("Spam.EXAMPLE.", Some("spam.example.bl.example")),
            ("b\u{fc}cher.example", Some("xn--bcher-kva.example.bl.example")),
            ("", None),
            ("a..b", None),
            ("a b", None),
            ("a\0", None),
            (&"a".repeat(64), None),
            (&"a.".repeat(126), None),
        ] {
            let query = ListQuery {
                zone: "BL.example.".to_owned(),
                subject: subject.to_owned(),
            };
            assert_eq!(list_name(&query).as_deref(), name, "{subject:?}");
        }
        let no_zone = ListQuery {
            zone: String::new(),
            subject: "192.0.2.1".to_owned(),
        };
        assert_eq!(list_name(&no_zone), None);
    }

    #[test]
    fn reverse_names_lead_to_addresses() {
        let six = "b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.d.0.1.0.0.2.ip6.arpa.";
        assert_eq!(reversed(six), "2001:db8::b".parse().ok());
        assert_eq!(reversed("99.2.0.192.in-addr.arpa"), "192.0.2.99".parse().ok());
        for bad in [
            "",
            "in-addr.arpa",
            "2.0.192.in-addr.arpa",
            "256.2.0.192.in-addr.arpa",
            "b.ip6.arpa",
            "host.example",
        ] {
            assert_eq!(reversed(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn batches_are_answered_in_order() {
        let dns = testing::resolver_of(&[
            ("mail.example", "A", "192.0.2.1"),
            ("mail.example", "AAAA", "2001:db8::1"),
            ("example", "MX", "20 b.example"),
            ("example", "MX", "10 A.example"),
            ("null.example", "MX", "0 ."),
            ("example", "TXT", "v=spf1 -all"),
            ("1.2.0.192.in-addr.arpa", "PTR", "Mail.Example"),
        ])
        .await;
        use RecordType::{A, Aaaa, Mx, Ptr, Txt};
        type Case<'a> = (&'a str, RecordType, Result<&'a [&'a str], DnsError>);
        let cases: &[Case] = &[
            ("mail.example", A, Ok(&["192.0.2.1"])),
            ("MAIL.example.", Aaaa, Ok(&["2001:db8::1"])),
            ("example", Mx, Ok(&["10 a.example", "20 b.example"])),
            ("null.example", Mx, Ok(&["0 ."])),
            ("example", Txt, Ok(&["v=spf1 -all"])),
            ("192.0.2.1", Ptr, Ok(&["mail.example"])),
            ("1.2.0.192.in-addr.arpa", Ptr, Ok(&["mail.example"])),
            ("absent.example", A, Ok(&[])),
            ("mail.example", Mx, Ok(&[])),
            ("bad name", A, Err(DnsError::Invalid)),
            ("mail.example", Ptr, Err(DnsError::Invalid)),
        ];
        let mut queries: Vec<Query> = cases
            .iter()
            .map(|(name, kind, _)| Query {
                name: (*name).to_owned(),
                kind: *kind,
            })
            .collect();
        for (found, (name, kind, expected)) in lookup(&dns, &queries).await.into_iter().zip(cases) {
            let expected = expected
                .clone()
                .map(|texts| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expected, "{name} {kind:?}");
        }
        queries[0].name = "servfail.example".to_owned();
        assert!(matches!(
            lookup(&dns, &queries[..1]).await[..],
            [Err(DnsError::Temporary(_))]
        ));
        let many = vec![queries[7].clone(); QUERIES_MAX + 2];
        let found = lookup(&dns, &many).await;
        assert_eq!(
            found.iter().filter(|answer| **answer == Ok(Vec::new())).count(),
            QUERIES_MAX
        );
        assert_eq!(found[QUERIES_MAX..], [Err(DnsError::Invalid), Err(DnsError::Invalid)]);
    }

    #[tokio::test]
    async fn lists_answer_with_their_codes() {
        let dns = testing::resolver_of(&[
            ("2.0.0.127.bl.example", "A", "127.0.0.2"),
            ("2.0.0.127.bl.example", "A", "127.0.0.10"),
            ("spam.example.bl.example", "A", "127.0.1.2"),
            ("2.0.0.127.parked.example", "A", "203.0.113.1"),
        ])
        .await;
        let query = |zone: &str, subject: &str| ListQuery {
            zone: zone.to_owned(),
            subject: subject.to_owned(),
        };
        let queries = [
            query("bl.example", "127.0.0.2"),
            query("bl.example", "127.0.0.1"),
            query("bl.example", "SPAM.example"),
            query("parked.example", "127.0.0.2"),
            query("servfail.example", "127.0.0.2"),
            query("bl.example", ""),
        ];
        let mut found = lists(&dns, &queries).await;
        if let Ok(codes) = &mut found[0] {
            codes.sort();
        }
        let listed = |codes: &[&str]| Ok(codes.iter().map(|code| (*code).to_owned()).collect());
        assert_eq!(
            found[..4],
            [
                listed(&["127.0.0.10", "127.0.0.2"]),
                listed(&[]),
                listed(&["127.0.1.2"]),
                listed(&[])
            ]
        );
        assert!(matches!(
            found[4..],
            [Err(DnsError::Temporary(_)), Err(DnsError::Invalid)]
        ));
    }
}
