//! Whose mail a message says it is: the one domain in From (RFC 5322 §3.6.2), by which DMARC asks (RFC 9989 §4.10).
//!
//! Read strictly, as programs that show a message differ in what they make of a field that is not well formed: where one could show another domain,
//! there is none. Takes any bytes.

use bytes::Bytes;

/// The domain of all mailboxes in the only From field, in lower case and A-labels (RFC 5890). None if there is no such field or several, no domain, several, or what no name
/// server would be asked for.
pub fn domain(fields: &[Bytes]) -> Option<String> {
    let [field] = fields else { return None };
    let addresses = addresses(field)?;
    let mut domains = addresses.iter().map(|address| domain_of(address));
    let first = domains.next()??;
    domains.all(|domain| domain.as_ref() == Some(&first)).then_some(first)
}

fn domain_of(address: &[u8]) -> Option<String> {
    let mut parts = address.split(|byte| *byte == b'@');
    let (Some(_), Some(domain), None) = (parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    // What IDNA makes of it is what DNS is asked for.
    let ascii = idna::domain_to_ascii(std::str::from_utf8(domain).ok()?).ok()?;
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    (ascii.len() <= 253 && ascii.split('.').all(is_label)).then_some(ascii)
}

/// The addresses of a list of mailboxes, and what stands unquoted beside one and has an `@`, which some programs show in its place; without blanks, comments and what stands in quotes. None if it is not clear where they end.
fn addresses(field: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    // What stands outside of angle brackets since the last comma: an address, or somebody's name.
    let mut bare = Vec::new();
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            byte if byte.is_ascii_control() => return None,
            b'"' => bare.extend(quoted(&mut bytes)?),
            b'(' => comment(&mut bytes)?,
            b'<' => {
                found.push(bracketed(&mut bytes)?);
            }
            b'>' | b')' => return None,
            b',' | b';' => {
                found.extend(address(&mut bare));
            }
            // It was the name of a group.
            b':' => bare.clear(),
            byte => bare.push(byte),
        }
    }
    found.extend(address(&mut bare));
    Some(found)
}

fn address(bare: &mut Vec<u8>) -> Option<Vec<u8>> {
    let bare = std::mem::take(bare);
    bare.contains(&b'@').then_some(bare)
}

fn bracketed(bytes: &mut impl Iterator<Item = u8>) -> Option<Vec<u8>> {
    let mut address = Vec::new();
    loop {
        match bytes.next()? {
            b'>' => return Some(address),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'"' => address.extend(quoted(bytes)?),
            b'(' => comment(bytes)?,
            byte if byte.is_ascii_control() || byte == b'<' => return None,
            byte => address.push(byte),
        }
    }
}

/// A local part or a name in quotes stands for itself: what is in it is no address.
fn quoted(bytes: &mut impl Iterator<Item = u8>) -> Option<[u8; 1]> {
    loop {
        match bytes.next()? {
            b'"' => return Some([b'"']),
            b'\\' => _ = bytes.next()?,
            b'\t' | b'\r' | b'\n' => {}
            byte if byte.is_ascii_control() => return None,
            _ => {}
        }
    }
}

/// Behind its first parenthesis.
fn comment(bytes: &mut impl Iterator<Item = u8>) -> Option<()> {
    let mut depth = 1;
    while depth > 0 {
        match bytes.next()? {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'\\' => _ = bytes.next()?,
            b'\t' | b'\r' | b'\n' => {}
            byte if byte.is_ascii_control() => return None,
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_is_the_authors() {
        for (from, expected) in [
            ("a@bank.test", Some("bank.test")),
            ("Bank <A@Bank.Test>", Some("bank.test")),
            ("\"x@y.test, z\" (b@c.test) <a@bank.test>", Some("bank.test")),
            ("\"a@b\"@bank.test", Some("bank.test")),
            ("a @ bank.test (really)", Some("bank.test")),
            ("a@bank.test, B\r\n <b@bank.test>", Some("bank.test")),
            ("Us: a@bank.test, b@BANK.test;", Some("bank.test")),
            // Some write a name that is an address, without quotes, and some programs take it for the address.
            ("a@bank.test <a@bank.test>", Some("bank.test")),
            ("boss@elsewhere.test <a@bank.test>", None),
            ("The boss@elsewhere.test\r\n (x) <a@bank.test>", None),
            ("a@bücher.test", Some("xn--bcher-kva.test")),
            ("a@_x.bank.test", Some("_x.bank.test")),
            ("a@bank", Some("bank")),
            ("", None),
            ("Bank", None),
            ("<>", None),
            ("a@", None),
            ("a@bank.test, b@other.test", None),
            ("<a@bank.test> <a@other.test>", None),
            ("<a@other.test> a@bank.test, b@bank.test", None),
            ("<@relay.test:a@bank.test>", None),
            ("a@bank.test@other.test", None),
            ("a@bank.test b@other.test", None),
            ("a@bank.test.", None),
            ("a@bank..test", None),
            ("a@-x.bank.test", None),
            ("a@bank.test/", None),
            ("a@%62ank.test", None),
            ("a@[127.0.0.1]", None),
            ("a@bank.test\u{1}@other.test", None),
            ("\"a\u{0}\" <a@bank.test>", None),
            ("<a@bank.test", None),
            ("\"a@bank.test", None),
            ("(a@bank.test", None),
            ("a@bank.test)", None),
            ("<a<b@bank.test>>", None),
        ] {
            let found = domain(&[Bytes::copy_from_slice(from.as_bytes())]);
            assert_eq!(found.as_deref(), expected, "{from:?}");
        }
        let long = format!("a@{}.bank.test", "x".repeat(64));
        assert_eq!(domain(&[long.into()]), None);
        assert_eq!(domain(&[Bytes::from_static(b"a@\xe4.bank.test")]), None);
    }

    #[test]
    fn one_field_has_the_author() {
        assert_eq!(domain(&[]), None);
        let twice = [Bytes::from_static(b"a@bank.test"), Bytes::from_static(b"a@bank.test")];
        assert_eq!(domain(&twice), None);
    }
}
