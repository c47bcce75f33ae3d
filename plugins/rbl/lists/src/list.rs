//! A configured list: its zone, what its answers mean, and how much it can weigh at all.
//!
//! Errors begin with the key, so that whoever reads a configuration puts the list's place before it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::codes::{Code, Pattern};

/// Bytes of what a code's reason may have: it stands in replies, of which there are 1,000 bytes.
const MOST_REASON_BYTES: usize = 200;

/// What a list keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Addresses,
    Domains,
}

/// A list that was checked.
#[derive(Debug)]
pub struct List {
    /// In lower case, without dots at the ends.
    pub zone: String,
    pub kind: Kind,
    /// Whether it keeps the test points of RFC 5782 §5, and may be judged by them.
    pub has_test_points: bool,
    weight: i32,
    /// What leaves open less before what leaves open more.
    codes: Vec<(Pattern, Code)>,
}

/// What a return code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    Listed {
        weight: i32,
        reason: &'a str,
    },
    /// The list says that it does not serve this resolver, for this reason.
    Refused(&'static str),
    /// It cannot come from a DNS list.
    Nonsense,
}

impl List {
    /// # Errors
    /// The key, what is wrong with it, and what would be right: ``.zone: `a b` is no domain``.
    pub fn new(
        zone: &str,
        kind: Kind,
        weight: i32,
        codes: BTreeMap<String, Code>,
        has_test_points: bool,
    ) -> Result<Self, String> {
        let plain = zone.trim_matches('.').to_ascii_lowercase();
        let in_zone = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if plain.is_empty() || !plain.chars().all(in_zone) {
            return Err(format!(".zone: `{zone}` is no domain: write it as `bl.example.org`"));
        }
        let mut codes = codes
            .into_iter()
            .map(|(text, code)| {
                let pattern = Pattern::parse(&text).ok_or_else(|| {
                    format!(
                        ".codes: `{text}` is no return code: write `127.0.0.2`, `127.0.0.4-7`, `127.0.0.&8` (a bit), or `127.0.*.3`"
                    )
                })?;
                if code.reason.len() > MOST_REASON_BYTES || code.reason.contains(char::is_control) {
                    return Err(format!(
                        ".codes.\"{text}\".reason: at most {MOST_REASON_BYTES} bytes in one line"
                    ));
                }
                Ok((pattern, code))
            })
            .collect::<Result<Vec<_>, String>>()?;
        codes.sort_by_key(|(pattern, _)| pattern.openness());
        Ok(Self {
            zone: plain,
            kind,
            has_test_points,
            weight,
            codes,
        })
    }

    /// What a return code means. Of patterns that leave open equally much and match alike, as bits do, the heaviest counts.
    pub fn meaning(&self, code: &str) -> Meaning<'_> {
        let Some(code) = code.parse().ok().filter(Ipv4Addr::is_loopback) else {
            // Outside of 127.0.0.0/8 it is no DNS list any more, but somebody who answers everything (RFC 5782 §2.1).
            return Meaning::Nonsense;
        };
        let refusal = refusal(code);
        let counts = |pattern: &Pattern| pattern.matches(code) && (refusal.is_none() || pattern.means_it(code));
        let mut matching = self.codes.iter().filter(|(pattern, _)| counts(pattern));
        if let Some((first, named)) = matching.next() {
            let heaviest = matching
                .take_while(|(pattern, _)| pattern.openness() == first.openness())
                .map(|(_, named)| named)
                .fold(named, |one, other| {
                    if other.weight.unsigned_abs() > one.weight.unsigned_abs() {
                        other
                    } else {
                        one
                    }
                });
            return Meaning::Listed {
                weight: heaviest.weight,
                reason: &heaviest.reason,
            };
        }
        refusal.map_or(
            Meaning::Listed {
                weight: self.weight,
                reason: "",
            },
            Meaning::Refused,
        )
    }

    /// The least and the most that it can weigh for one subject; nothing is always possible.
    pub fn range(&self) -> (i32, i32) {
        let weights = self.codes.iter().map(|(_, code)| code.weight).chain([self.weight, 0]);
        (weights.clone().min().unwrap_or(0), weights.max().unwrap_or(0))
    }
}

/// Why a list answers with this code to those whom it does not serve; none if it is an ordinary one.
fn refusal(code: Ipv4Addr) -> Option<&'static str> {
    match code.octets() {
        [127, 255, 255, 252] => Some("the zone is not what the list calls it"),
        [127, 255, 255, 254] => Some("it does not serve public resolvers"),
        [127, 255, 255, 255] => Some("this resolver asks it too much"),
        [127, 255, 255, _] => Some("it does not serve this resolver"),
        // What URIBL says to those whom it does not serve, and dnswl.org; a DBL to who asks it about addresses.
        [127, 0, 0, 1] | [127, 0, _, 255] => Some("it does not serve this resolver or question"),
        _ => None,
    }
}

/// Puts the checked lists of one key together: places go before errors, and a zone that is there twice is one.
///
/// # Errors
/// The key with the list's place, what is wrong, and what would be right.
pub fn check_all<T>(
    key: &str,
    lists: impl IntoIterator<Item = Result<T, String>>,
    list: impl Fn(&T) -> &List,
) -> Result<Vec<T>, String> {
    let mut checked: Vec<T> = Vec::new();
    for (place, written) in lists.into_iter().enumerate() {
        let new = written.map_err(|error| format!("{key}[{place}]{error}"))?;
        let zone = &list(&new).zone;
        if checked.iter().any(|other| list(other).zone == *zone) {
            return Err(format!(
                "{key}[{place}].zone: `{zone}` is there twice: keep one, with all its codes"
            ));
        }
        checked.push(new);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(codes: &[(&str, i32, &str)]) -> List {
        let code = |(text, weight, reason): &(&str, i32, &str)| {
            let reason = (*reason).to_owned();
            (
                (*text).to_owned(),
                Code {
                    weight: *weight,
                    reason,
                },
            )
        };
        List::new(
            "BL.example.",
            Kind::Addresses,
            1,
            codes.iter().map(code).collect(),
            true,
        )
        .expect("valid")
    }

    #[test]
    fn the_narrowest_code_counts_and_of_bits_the_heaviest() {
        let list = list(&[
            ("127.0.0.*", 2, "wide"),
            ("127.0.0.10-20", 3, "range"),
            ("127.0.0.12", 4, "exact"),
            ("127.0.1.&2", 5, "black"),
            ("127.0.1.&4", -6, "good"),
            ("127.0.1.&8", 1, "grey"),
        ]);
        let cases = [
            ("127.0.0.2", 2, "wide"),
            ("127.0.0.11", 3, "range"),
            ("127.0.0.12", 4, "exact"),
            ("127.0.1.10", 5, "black"),
            ("127.0.1.14", -6, "good"),
            ("127.0.1.8", 1, "grey"),
            ("127.0.2.8", 1, ""),
        ];
        for (code, weight, reason) in cases {
            assert_eq!(list.meaning(code), Meaning::Listed { weight, reason }, "{code}");
        }
        assert_eq!(list.range(), (-6, 5));
        assert_eq!(list.zone, "bl.example");
    }

    #[test]
    fn codes_that_refuse_are_told_from_nonsense_unless_they_are_named() {
        let bare = list(&[]);
        for code in [
            "127.255.255.252",
            "127.255.255.254",
            "127.255.255.255",
            "127.255.255.1",
            "127.0.0.1",
            "127.0.0.255",
        ] {
            assert!(matches!(bare.meaning(code), Meaning::Refused(_)), "{code}");
        }
        for code in ["203.0.113.7", "nonsense", "", "127.0.0", "::1"] {
            assert_eq!(bare.meaning(code), Meaning::Nonsense, "{code}");
        }
        let named = list(&[("127.0.0.1", 7, ""), ("127.255.255.*", 8, "")]);
        for (code, weight) in [("127.0.0.1", 7), ("127.255.255.254", 8)] {
            assert_eq!(named.meaning(code), Meaning::Listed { weight, reason: "" }, "{code}");
        }
        // Who says "any number" does not mean those.
        let wide = list(&[("127.*.*.*", 9, "")]);
        for code in ["127.255.255.254", "127.0.0.1", "127.0.0.255"] {
            assert!(matches!(wide.meaning(code), Meaning::Refused(_)), "{code}");
        }
        assert_eq!(wide.meaning("127.0.0.2"), Meaning::Listed { weight: 9, reason: "" });
    }
}
