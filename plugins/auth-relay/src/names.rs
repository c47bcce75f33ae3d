//! Lists of domains and host names in the configuration, and of networks.

use std::net::IpAddr;

use gatepost_sdk::{Address, split_address};
use ipnet::IpNet;

/// One entry of `recipient_domains` or `trusted_names`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `example.org`
    Exactly(String),
    /// `.example.org`: what is below it, and not itself.
    Below(String),
    /// `*`
    Any,
}

impl Name {
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let plain = plain(text);
        let is_name = |name: &str| {
            // Names of hosts have no underscore, those of mail domains sometimes.
            let in_label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            name.split('.')
                .all(|label| !label.is_empty() && label.chars().all(in_label))
        };
        match plain.strip_prefix('.') {
            Some(above) if is_name(above) => Ok(Self::Below(plain)),
            None if is_name(&plain) => Ok(Self::Exactly(plain)),
            _ => Err(format!(
                "`{text}` is no name: write `example.org` (A-labels), `.example.org` for what is below it, or `*`"
            )),
        }
    }

    /// Whether a name is meant, however it is written.
    pub fn covers(&self, name: &str) -> bool {
        let name = plain(name);
        match self {
            Self::Exactly(exactly) => *exactly == name,
            Self::Below(below) => name.len() > below.len() && name.ends_with(&**below),
            Self::Any => true,
        }
    }
}

/// In lower case, without trailing dot.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A network, or one address as a network of its own.
///
/// # Errors
/// What would be right.
pub fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let Ok(network) = text.parse::<IpNet>().or_else(|_| address()) else {
        return Err(format!(
            "`{text}` is no network: write `192.0.2.0/24`, `2001:db8::/32`, or one address"
        ));
    };
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(format!("`{text}` has bits beyond its prefix; did you mean `{whole}`?")),
    }
}

/// `never_send`: accounts that exist for something else.
#[derive(Debug, Default)]
pub struct NeverSend {
    names: Vec<String>,
}

impl NeverSend {
    pub fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    pub fn has_identity(&self, identity: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(identity))
    }

    /// Whether an address is that of such an account: a name alone is meant at any host.
    pub fn has_address(&self, address: &Address<'_>) -> bool {
        self.names.iter().any(|name| match name.contains('@') {
            true => split_address(name).is_same_mailbox(address),
            false => name.eq_ignore_ascii_case(&address.local),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cover_what_they_say() {
        let cases = [
            ("example.org", "Example.ORG.", true),
            ("example.org", "sub.example.org", false),
            (".Example.org.", "a.sub.example.org", true),
            (".example.org", "example.org", false),
            (".example.org", ".example.org", false),
            (".example.org", "notexample.org", false),
            ("*", "anything", true),
        ];
        for (entry, name, expected) in cases {
            let parsed = Name::parse(entry).expect("well-formed");
            assert_eq!(parsed.covers(name), expected, "{entry} {name}");
        }
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "@example.org",
            "a b",
            "*.example.org",
            "bücher.example",
        ] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_never_sends_is_known_in_every_spelling() {
        let never = NeverSend::new(vec!["www-data".to_owned(), "Web@example.test".to_owned()]);
        let cases = [
            ("www-data@web1.example.test", true),
            ("WWW-Data@web1.example.test", true),
            ("\"www-data\"@web1.example.test", true),
            ("www-data", true),
            ("www-data2@web1.example.test", false),
            ("web@EXAMPLE.test.", true),
            ("web@other.test", false),
            ("", false),
        ];
        for (sender, expected) in cases {
            assert_eq!(never.has_address(&split_address(sender)), expected, "{sender}");
        }
        for (identity, expected) in [
            ("www-data", true),
            ("WWW-DATA", true),
            ("web@example.test", true),
            ("web", false),
        ] {
            assert_eq!(never.has_identity(identity), expected, "{identity}");
        }
    }
}
