//! Takes an address apart as the host does for [`Mailbox`](crate::types::Mailbox): for addresses that come as text, from the
//! envelope or from a configuration.
//!
//! It judges nothing: what is no address has an empty domain. Domains in Unicode stay as they are: only ASCII is put in lower case.

use std::borrow::Cow;

/// An address in its parts, for comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The local part without quotes, as written.
    pub local: Cow<'a, str>,
    /// In lower case, without trailing dot. Empty if there is no `@`.
    pub domain: Cow<'a, str>,
}

impl Address<'_> {
    /// Whether both name the same mailbox, if upper and lower case in the local part are taken as the same. (RFC 5321 §2.4 leaves that to
    /// the domain; no domain in use tells them apart.)
    #[must_use]
    pub fn is_same_mailbox(&self, other: &Address<'_>) -> bool {
        self.domain == other.domain && self.local.eq_ignore_ascii_case(&other.local)
    }
}

/// Takes `"a b"@Example.org.` apart into `a b` and `example.org`. The domain begins behind the last `@`.
#[must_use]
pub fn split_address(text: &str) -> Address<'_> {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return Address {
            local: unquote(text),
            domain: Cow::Borrowed(""),
        };
    };
    Address {
        local: unquote(local),
        domain: lower(domain.strip_suffix('.').unwrap_or(domain)),
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// `"a\"b"` is `a"b` (RFC 5321 §4.1.2, quoted-string).
fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inside) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    let mut plain = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_apart() {
        let cases = [
            ("alice@example.org", "alice", "example.org"),
            ("Alice@EXAMPLE.org.", "Alice", "example.org"),
            (r#""a b"@example.org"#, "a b", "example.org"),
            (r#""a\"b\\"@example.org"#, r#"a"b\"#, "example.org"),
            (r#""u@r"@example.org"#, "u@r", "example.org"),
            ("u@r@example.org", "u@r", "example.org"),
            ("postmaster", "postmaster", ""),
            ("", "", ""),
            ("@", "", ""),
            ("\"", "\"", ""),
            ("ä@Bücher.Example", "ä", "bücher.example"),
        ];
        for (text, local, domain) in cases {
            let address = split_address(text);
            assert_eq!((&*address.local, &*address.domain), (local, domain), "{text}");
        }
    }

    #[test]
    fn case_and_quotes_do_not_make_another_mailbox() {
        assert!(split_address("\"Alice\"@Example.org").is_same_mailbox(&split_address("alice@example.org.")));
        assert!(!split_address("alice@example.org").is_same_mailbox(&split_address("alice@example.com")));
        assert!(!split_address("al@example.org").is_same_mailbox(&split_address("alice@example.org")));
    }
}
