//! What the configuration says an identity owns: a mailbox, a whole domain, or everything.

use std::fmt;
use std::str::FromStr;

use gatepost_sdk::{Address, split_address};

/// One entry of `senders`.
#[derive(Debug, PartialEq, Eq)]
pub enum Owned {
    /// `alice@example.test`
    Mailbox(Address<'static>),
    /// `@example.test`: any local part. Its subdomains are not in it.
    Domain(String),
    /// `*`: for another mail server that authenticates and has its own rules.
    Everything,
}

/// The entry is none of the three forms.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnedError(String);

impl Owned {
    pub fn covers(&self, address: &Address<'_>) -> bool {
        match self {
            Self::Mailbox(mailbox) => mailbox.is_same_mailbox(address),
            Self::Domain(domain) => *domain == address.domain,
            Self::Everything => true,
        }
    }
}

impl FromStr for Owned {
    type Err = OwnedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        let Address { local, domain } = split_address(text);
        // A star stands for nothing inside an address, and who writes one means it to.
        if domain.is_empty() || text.contains(char::is_whitespace) || text.contains(['<', '>', '*']) {
            return Err(OwnedError(text.to_owned()));
        }
        if local.is_empty() {
            return Ok(Self::Domain(domain.into_owned()));
        }
        Ok(Self::Mailbox(Address {
            local: local.into_owned().into(),
            domain: domain.into_owned().into(),
        }))
    }
}

impl fmt::Display for OwnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no address: write `alice@example.test`, `@example.test` for a whole domain, or `*` for any sender",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_covers_what_it_says() {
        let cases = [
            ("alice@example.test", "Alice@EXAMPLE.test.", true),
            ("alice@example.test", "\"alice\"@example.test", true),
            ("alice@example.test", "alice@sub.example.test", false),
            ("alice@example.test", "alice", false),
            ("@example.test", "anyone@Example.Test", true),
            ("@example.test", "anyone@sub.example.test", false),
            ("@example.test", "anyone@notexample.test", false),
            ("@example.test", "alice@example.test@elsewhere.test", false),
            ("*", "anyone@anywhere.test", true),
        ];
        for (entry, sender, expected) in cases {
            let owned: Owned = entry.parse().expect("the entry is well-formed");
            assert_eq!(owned.covers(&split_address(sender)), expected, "{entry} {sender}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "alice", "alice@", "@", "@.", "<a@b.test>", "a b@c.test", "**"] {
            assert!(text.parse::<Owned>().is_err(), "{text}");
        }
    }
}
