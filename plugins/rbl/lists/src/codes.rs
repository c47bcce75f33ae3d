//! Return codes: which are meant, and what they weigh.

use std::net::Ipv4Addr;

use serde::Deserialize;

/// What one return code means, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Negative where the list speaks for its subjects.
    pub weight: i32,
    /// For people: `spam source`.
    #[serde(default)]
    pub reason: String,
}

/// Codes that are meant together: `127.0.0.2`, `127.0.0.4-7`, `127.0.0.&8`, `127.0.*.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern([Octet; 4]);

/// One number of a code. The order is that of how much is left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Octet {
    Exactly(u8),
    /// The ends included.
    Range(u8, u8),
    /// One of these bits is set, at least.
    Bits(u8),
    Any,
}

impl Pattern {
    /// None if it is no pattern of codes in 127.0.0.0/8.
    pub fn parse(text: &str) -> Option<Self> {
        let mut octets = [Octet::Any; 4];
        let mut parts = text.split('.');
        for octet in &mut octets {
            *octet = Octet::parse(parts.next()?)?;
        }
        (parts.next().is_none() && octets[0] == Octet::Exactly(127)).then_some(Self(octets))
    }

    pub fn matches(&self, code: Ipv4Addr) -> bool {
        self.0
            .iter()
            .zip(code.octets())
            .all(|(wanted, octet)| wanted.matches(octet))
    }

    /// Whether it matches a code that lists use to refuse because that was written down, and not because it matches anything.
    pub fn means_it(&self, code: Ipv4Addr) -> bool {
        let telling = if code.octets()[1] == 255 { 1 } else { 3 };
        self.0[telling] != Octet::Any
    }

    /// How much it leaves open: what leaves open less goes before. An octet that may be anything weighs more than all that is half open.
    pub fn openness(&self) -> u32 {
        let of = |octet: &Octet| match octet {
            Octet::Exactly(_) => 0,
            Octet::Range(..) | Octet::Bits(_) => 1,
            Octet::Any => 4,
        };
        self.0.iter().map(of).sum()
    }
}

impl Octet {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Some(bits) = text.strip_prefix('&') {
            return bits.parse().ok().filter(|bits| *bits != 0).map(Self::Bits);
        }
        match text.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (from.parse().ok()?, to.parse().ok()?);
                (from < to).then_some(Self::Range(from, to))
            }
            None => text.parse().ok().map(Self::Exactly),
        }
    }

    fn matches(self, octet: u8) -> bool {
        match self {
            Self::Exactly(wanted) => octet == wanted,
            Self::Range(from, to) => (from..=to).contains(&octet),
            Self::Bits(bits) => octet & bits != 0,
            Self::Any => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("127.0.0.2", &["127.0.0.2"], &["127.0.0.3", "127.0.1.2"]),
            ("127.0.*.3", &["127.0.0.3", "127.0.255.3"], &["127.1.0.3", "127.0.0.4"]),
            ("127.0.0.4-7", &["127.0.0.4", "127.0.0.7"], &["127.0.0.3", "127.0.0.8"]),
            (
                "127.0.0.&12",
                &["127.0.0.4", "127.0.0.8", "127.0.0.14"],
                &["127.0.0.2", "127.0.0.3"],
            ),
            ("127.0.2-9.&1", &["127.0.5.3"], &["127.0.1.3", "127.0.5.2"]),
        ];
        for (text, those, not_those) in cases {
            let pattern = Pattern::parse(text).expect(text);
            let matches = |code: &&str| pattern.matches(code.parse().expect("a code"));
            assert!(those.iter().all(matches), "{text}");
            assert!(!not_those.iter().any(matches), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_none() {
        for text in [
            "",
            "127.0.0",
            "127.0.0.2.3",
            "10.0.0.1",
            "*.0.0.1",
            "127.0.0.256",
            "127.0.0.7-4",
            "127.0.0.4-4",
            "127.0.0.&0",
            "127.0.0.&",
            "127.0.0.-",
            "127.0.0.2 ",
        ] {
            assert_eq!(Pattern::parse(text), None, "{text}");
        }
    }
}
