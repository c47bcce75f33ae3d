//! Mailboxes and paths of RFC 5321 §4.1.2, with the canonical forms that policy compares and the
//! tricks that relays fell for, reported.
//!
//! An [`Address`] keeps what the client wrote and adds what it means: the local part without quotes,
//! the domain in lower case as A-labels without a trailing dot. It never decides whether an address
//! may be relayed to, never looks anything up, and never accepts what it cannot write again: anything
//! outside the grammar is an [`AddressError`].
//!
//! Where the grammar stops and the flags begin: `u@r@ours`, `u@r@`, `u@ours:25` and a bare `"u%r"` are
//! syntax errors; `u%r@ours`, `r!u@ours`, `"u@r"@ours` parse and are reported by
//! [`Address::routing`], `@ours:u@r` by [`Address::source_route`] and `u@[192.0.2.1]` by
//! [`Address::literal`].

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::AddressError;

/// Longest path that is taken, angle brackets included, in bytes (RFC 5321 §4.5.3.1.3). The local
/// part has no bound of its own: the RFC's 64 bytes are what everybody must take, and bounce
/// addresses (SRS, VERP, BATV) are longer every day.
pub const MAX_PATH: usize = 256;
/// Longest domain, in bytes (RFC 5321 §4.5.3.1.2), as given and as A-labels.
pub const MAX_DOMAIN: usize = 255;
/// Longest label of a domain, in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// A mailbox, or the bare `postmaster` of RFC 5321 §4.5.1.
///
/// Two addresses are equal when they are canonically so: `"info"@Ours.Example.` and
/// `info@ours.example` are. The local part's case counts (RFC 5321 §2.4).
#[derive(Clone)]
pub struct Address {
    /// `local@domain` or `postmaster` as given, without a source route.
    text: Box<str>,
    /// Where the local part ends in `text`.
    local_end: usize,
    /// The local part without quotes, where that differs.
    local: Option<Box<str>>,
    /// The domain in canonical form, where that differs.
    domain: Option<Box<str>>,
    literal: Option<Literal>,
    source_route: bool,
}

/// What an address literal (`user@[...]`) names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literal {
    /// `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Ip(IpAddr),
    /// `[tag:...]` of some other kind; nobody can deliver there.
    General,
}

/// How a local part could make a next hop send the mail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// `u%r@ours`: the percent hack.
    Percent,
    /// `r!u@ours`: a UUCP path.
    Bang,
    /// `"u@r"@ours`: an address in an address.
    At,
}

impl Address {
    /// Parses a mailbox, `local@domain` without angle brackets, or `postmaster` in any case. A source
    /// route in front is recognised and taken off.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        if text.len() > MAX_PATH - 2 {
            return Err(AddressError::TooLong);
        }
        let (source_route, text) = match text.strip_prefix('@') {
            Some(_) => (true, strip_source_route(text)?),
            None => (false, text),
        };
        let (local, rest) = split_local(text)?;
        let canonical_local = local.starts_with('"').then(|| unquote(local));
        if rest.is_empty() {
            if text.eq_ignore_ascii_case("postmaster") && !source_route {
                return Ok(Address {
                    text: text.into(),
                    local_end: text.len(),
                    local: None,
                    domain: None,
                    literal: None,
                    source_route,
                });
            }
            return Err(AddressError::NoDomain);
        }
        let given = rest.strip_prefix('@').ok_or(AddressError::Local)?;
        let (domain, literal) = if given.starts_with('[') {
            let (literal, canonical) = parse_literal(given)?;
            (canonical, Some(literal))
        } else {
            (canonical_domain(given)?, None)
        };
        Ok(Address {
            text: text.into(),
            local_end: text.len() - rest.len(),
            local: canonical_local.map(Into::into),
            domain: match domain {
                Cow::Borrowed(same) if same.len() == given.len() => None,
                other => Some(other.into()),
            },
            literal,
            source_route,
        })
    }

    /// As the client wrote it, without a source route: `local@domain` or `postmaster`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as given, quotes included.
    pub fn local(&self) -> &str {
        &self.text[..self.local_end]
    }

    /// The local part without quotes and backslashes: `info@` for `"info@"`.
    pub fn canonical_local(&self) -> &str {
        self.local.as_deref().unwrap_or_else(|| self.local())
    }

    /// The domain or literal as given; `None` for the bare `postmaster`.
    pub fn domain(&self) -> Option<&str> {
        self.text.get(self.local_end + 1..)
    }

    /// The domain in lower case as A-labels without a trailing dot, or the literal in its shortest
    /// form; `None` for the bare `postmaster`.
    pub fn canonical_domain(&self) -> Option<&str> {
        self.domain.as_deref().or_else(|| self.domain())
    }

    /// What the literal names, if the domain is one.
    pub fn literal(&self) -> Option<Literal> {
        self.literal
    }

    /// Whether the client put the obsolete `@a,@b:` in front (RFC 5321 appendix C).
    pub fn source_route(&self) -> bool {
        self.source_route
    }

    /// Whether the local part is `postmaster`, in any case.
    pub fn is_postmaster(&self) -> bool {
        self.canonical_local().eq_ignore_ascii_case("postmaster")
    }

    /// Whether all of it is ASCII, so that it needs no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// How the local part, quoted or not, could make a next hop send the mail elsewhere. An `@` or `%`
    /// with nothing behind it, or a `!` with nothing in front of it, names no host: `"info@"` is an
    /// ordinary local part.
    pub fn routing(&self) -> Option<Routing> {
        let local = self.canonical_local();
        // Full-width forms count: a next hop that normalises to NFKC turns them into the ASCII ones.
        let names_a_host = |signs: &[char]| {
            local
                .find(signs)
                .is_some_and(|at| !local[at..].chars().skip(1).all(|c| signs.contains(&c)))
        };
        if names_a_host(&['@', '\u{ff20}', '\u{fe6b}']) {
            Some(Routing::At)
        } else if names_a_host(&['%', '\u{ff05}', '\u{fe6a}']) {
            Some(Routing::Percent)
        } else if local.rfind(['!', '\u{ff01}', '\u{fe57}']).is_some_and(|at| at > 0) {
            Some(Routing::Bang)
        } else {
            None
        }
    }

    /// The form to compare and to store: canonical local part (quoted only if it must be) and
    /// canonical domain.
    pub fn canonical(&self) -> String {
        let local = quote_if_needed(self.canonical_local());
        match self.canonical_domain() {
            Some(domain) => format!("{local}@{domain}"),
            None => local.into_owned(),
        }
    }

    /// The form to send to a server that has no SMTPUTF8: the domain as A-labels. `None` if the local
    /// part is not ASCII (RFC 6531 §3.2: such a message cannot go there).
    pub fn to_ascii(&self) -> Option<Cow<'_, str>> {
        if !self.local().is_ascii() {
            return None;
        }
        Some(match (&self.domain, self.canonical_domain()) {
            (Some(_), Some(domain)) => Cow::Owned(format!("{}@{domain}", self.local())),
            _ => Cow::Borrowed(&self.text),
        })
    }

    /// The form to send to a server that has SMTPUTF8: as given, without a trailing dot.
    pub fn to_utf8(&self) -> &str {
        self.text.strip_suffix('.').unwrap_or(&self.text)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        self.canonical_local() == other.canonical_local() && self.canonical_domain() == other.canonical_domain()
    }
}

impl Eq for Address {}

impl std::hash::Hash for Address {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.canonical_local().hash(state);
        self.canonical_domain().hash(state);
    }
}

/// As given, without a source route.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = if self.source_route { " (source-routed)" } else { "" };
        write!(f, "<{}>{route}", self.text)
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Address::parse(text)
    }
}

/// A domain name in canonical form: lower case, A-labels, no trailing dot. Names as configuration
/// and policy give them go through here too, so that one comparison fits all.
pub fn canonical_domain(given: &str) -> Result<Cow<'_, str>, AddressError> {
    let name = given.strip_suffix('.').unwrap_or(given);
    if given.len() > MAX_DOMAIN {
        return Err(AddressError::TooLong);
    }
    let plain = name
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    let canonical = if plain && !has_a_label(name) {
        Cow::Borrowed(name)
    } else if name.is_ascii() && !has_a_label(name) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        let mapped = idna::domain_to_ascii(name).map_err(|_| AddressError::Domain)?;
        let mapped = mapped.strip_suffix('.').unwrap_or(&mapped);
        Cow::Owned(mapped.to_owned())
    };
    if canonical.len() > MAX_DOMAIN {
        return Err(AddressError::TooLong);
    }
    if canonical.split('.').all(is_label) {
        Ok(canonical)
    } else {
        Err(AddressError::Domain)
    }
}

/// Whether some label begins with `xn--`, in any case.
fn has_a_label(name: &str) -> bool {
    name.split('.').any(|label| {
        label
            .as_bytes()
            .get(..4)
            .is_some_and(|head| head.eq_ignore_ascii_case(b"xn--"))
    })
}

/// A label of letters, digits, hyphens, and underscores: the grammar has no underscore, the world has.
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=MAX_LABEL).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Takes `@a,@b:` off the front.
fn strip_source_route(text: &str) -> Result<&str, AddressError> {
    let (route, mailbox) = text.split_once(':').ok_or(AddressError::SourceRoute)?;
    for hop in route.split(',') {
        let domain = hop.strip_prefix('@').ok_or(AddressError::SourceRoute)?;
        canonical_domain(domain).map_err(|_| AddressError::SourceRoute)?;
    }
    Ok(mailbox)
}

/// Splits the local part off, quotes included; the rest begins with the `@`, or is empty.
fn split_local(text: &str) -> Result<(&str, &str), AddressError> {
    if text.starts_with('"') {
        let mut escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                // RFC 5321 §4.1.2: quoted text is printable ASCII; RFC 6531 §3.3 adds the rest.
                c if c.is_control() => return Err(AddressError::Local),
                '"' if !escaped => {
                    let (local, rest) = text.split_at(at + 1);
                    return if local.len() == 2 {
                        Err(AddressError::NoLocal)
                    } else {
                        Ok((local, rest))
                    };
                }
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        return Err(AddressError::Local);
    }
    // An atom holds no `@`, so a second one lands in the domain and is refused there.
    let (local, rest) = text.split_at(text.find('@').unwrap_or(text.len()));
    if local.is_empty() {
        return Err(AddressError::NoLocal);
    }
    let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_atext);
    if local.split('.').all(is_atom) {
        Ok((local, rest))
    } else {
        Err(AddressError::Local)
    }
}

/// RFC 5322 §3.2.3, and any printable non-ASCII character (RFC 6531 §3.3).
fn is_atext(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^' | '_' | '`' | '{' | '|' | '}'
        | '~' => true,
        c => !c.is_ascii() && !c.is_control() && !c.is_whitespace(),
    }
}

/// The content of a quoted string that `split_local` took.
fn unquote(quoted: &str) -> String {
    let mut content = String::with_capacity(quoted.len());
    let mut escaped = false;
    for c in quoted[1..quoted.len() - 1].chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            content.push(c);
            escaped = false;
        }
    }
    content
}

/// The shortest way to write a local part (RFC 5321 §4.1.2: "SHOULD avoid" quoting).
fn quote_if_needed(local: &str) -> Cow<'_, str> {
    let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_atext);
    if local.split('.').all(is_atom) {
        return Cow::Borrowed(local);
    }
    let mut quoted = String::with_capacity(local.len() + 2);
    quoted.push('"');
    for c in local.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// RFC 5321 §4.1.3.
fn parse_literal(given: &str) -> Result<(Literal, Cow<'_, str>), AddressError> {
    let inner = given
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or(AddressError::Literal)?;
    let tagged = inner.split_once(':');
    match tagged {
        None => {
            let ip: Ipv4Addr = inner.parse().map_err(|_| AddressError::Literal)?;
            Ok((Literal::Ip(ip.into()), Cow::Borrowed(given)))
        }
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6") => {
            let ip: Ipv6Addr = address.parse().map_err(|_| AddressError::Literal)?;
            Ok((Literal::Ip(ip.into()), Cow::Owned(format!("[IPv6:{ip}]"))))
        }
        Some((tag, content)) => {
            let dcontent = |b: u8| matches!(b, b'!'..=b'Z' | b'^'..=b'~');
            let valid = !tag.is_empty()
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !tag.ends_with('-')
                && !content.is_empty()
                && content.bytes().all(dcontent);
            if valid {
                Ok((Literal::General, Cow::Borrowed(given)))
            } else {
                Err(AddressError::Literal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        // given, canonical local part, canonical domain
        let cases = [
            ("u@ours.example", "u", "ours.example"),
            ("U.v+w@OURS.Example.", "U.v+w", "ours.example"),
            ("\"info@\"@ours.example", "info@", "ours.example"),
            ("\"a\\\"b\\\\ c\"@x", "a\"b\\ c", "x"),
            ("\"plain\"@x", "plain", "x"),
            ("u@b\u{fc}cher.example", "u", "xn--bcher-kva.example"),
            ("u@B\u{dc}CHER.example", "u", "xn--bcher-kva.example"),
            ("u@XN--bcher-kva.example", "u", "xn--bcher-kva.example"),
            ("u@ours\u{3002}example", "u", "ours.example"),
            (
                "\u{43f}\u{43e}\u{447}\u{442}\u{430}@x.y",
                "\u{43f}\u{43e}\u{447}\u{442}\u{430}",
                "x.y",
            ),
            ("u@[192.0.2.1]", "u", "[192.0.2.1]"),
            ("u@[ipv6:2001:DB8:0::1]", "u", "[IPv6:2001:db8::1]"),
            ("u@[tag:x]", "u", "[tag:x]"),
            ("u@a_b.example", "u", "a_b.example"),
        ];
        for (given, local, domain) in cases {
            let address = Address::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(address.as_str(), given);
            assert_eq!(address.canonical_local(), local, "{given}");
            assert_eq!(address.canonical_domain(), Some(domain), "{given}");
            assert!(!address.source_route());
            assert_eq!(
                Address::parse(&address.canonical()).as_ref(),
                Ok(&address),
                "the canonical form of {given} means the same"
            );
        }
    }

    #[test]
    fn what_is_no_address() {
        let long_label = format!("u@{}.example", "a".repeat(64));
        let long_path = format!("{}@x.example", "a".repeat(MAX_PATH));
        let cases = [
            ("", AddressError::NoLocal),
            ("u", AddressError::NoDomain),
            ("\"postmaster\"", AddressError::NoDomain),
            ("\"u%r\"", AddressError::NoDomain),
            ("u%r", AddressError::NoDomain),
            ("@", AddressError::SourceRoute),
            ("u@", AddressError::Domain),
            ("u@r@ours", AddressError::Domain),
            ("u@r@", AddressError::Domain),
            ("u@ours:25", AddressError::Domain),
            ("u@ours..example", AddressError::Domain),
            ("u@ours.example..", AddressError::Domain),
            ("u@.", AddressError::Domain),
            ("u@-a.example", AddressError::Domain),
            ("u@a b.example", AddressError::Domain),
            ("u@xn--\u{e9}", AddressError::Domain),
            ("u@xn--zzzzzzzz99999", AddressError::Domain),
            (".u@x", AddressError::Local),
            ("u.@x", AddressError::Local),
            ("a..b@x", AddressError::Local),
            ("a b@x", AddressError::Local),
            ("a<b@x", AddressError::Local),
            ("a\u{a0}b@x", AddressError::Local),
            ("\"\"@x", AddressError::NoLocal),
            ("\"a@x", AddressError::Local),
            ("\"a\"b@x", AddressError::Local),
            ("\"a\tb\"@x", AddressError::Local),
            ("\"a\\\"@x", AddressError::Local),
            ("u@[1.2.3]", AddressError::Literal),
            ("u@[1.2.3.4", AddressError::Literal),
            ("u@[1.2.3.4]:25", AddressError::Literal),
            ("u@[IPv6:1.2.3.4]", AddressError::Literal),
            ("u@[IPv6:]", AddressError::Literal),
            ("u@[:x]", AddressError::Literal),
            ("u@[]", AddressError::Literal),
            ("@a", AddressError::SourceRoute),
            ("@a,b:u@c", AddressError::SourceRoute),
            ("@a:", AddressError::NoLocal),
            ("@a:postmaster", AddressError::NoDomain),
            (long_label.as_str(), AddressError::Domain),
            (long_path.as_str(), AddressError::TooLong),
        ];
        for (given, error) in cases {
            assert_eq!(Address::parse(given), Err(error), "{given}");
        }
    }

    #[test]
    fn relay_tricks_are_refused_or_reported() {
        let routed = |given: &str| Address::parse(given).map(|address| address.routing());
        let cases = [
            ("u@ours", Ok(None)),
            ("\"info@\"@ours", Ok(None)),
            ("\"@\"@ours", Ok(None)),
            ("\"info@@\"@ours", Ok(None)),
            ("u%@ours", Ok(None)),
            ("!u@ours", Ok(None)),
            ("u%r@ours", Ok(Some(Routing::Percent))),
            ("\"u%r\"@ours", Ok(Some(Routing::Percent))),
            ("r!u@ours", Ok(Some(Routing::Bang))),
            ("\"r!u\"@ours", Ok(Some(Routing::Bang))),
            ("r!@ours", Ok(Some(Routing::Bang))),
            ("\"u@r\"@ours", Ok(Some(Routing::At))),
            ("\"u@r@\"@ours", Ok(Some(Routing::At))),
            ("\"u\\@r\"@ours", Ok(Some(Routing::At))),
            ("\"@r:u\"@ours", Ok(Some(Routing::At))),
            ("u\u{ff20}r@ours", Ok(Some(Routing::At))),
            ("u\u{ff05}r@ours", Ok(Some(Routing::Percent))),
            ("u@r@ours", Err(AddressError::Domain)),
        ];
        for (given, expected) in cases {
            assert_eq!(routed(given), expected, "{given}");
        }
        let routed = Address::parse("@ours,@[1.2.3.4]:u@r");
        assert_eq!(routed, Err(AddressError::SourceRoute));
        let routed = Address::parse("@ours,@b.example:u@r").expect("RFC 5321 appendix C");
        assert!(routed.source_route());
        assert_eq!(routed.as_str(), "u@r");
        assert_eq!(
            Address::parse("u@[127.0.0.1]").map(|a| a.literal()),
            Ok(Some(Literal::Ip(Ipv4Addr::LOCALHOST.into())))
        );
    }

    #[test]
    fn postmaster_may_stand_alone() {
        let address = Address::parse("PostMaster").expect("RFC 5321 §4.5.1");
        assert!(address.is_postmaster());
        assert_eq!(address.domain(), None);
        assert_eq!(address.canonical_domain(), None);
        assert_eq!(address.to_ascii().as_deref(), Some("PostMaster"));
    }

    #[test]
    fn forms_for_the_wire() {
        // given, without SMTPUTF8, with it
        let cases = [
            ("u@X.example.", Some("u@x.example"), "u@X.example"),
            (
                "u@b\u{fc}cher.example",
                Some("u@xn--bcher-kva.example"),
                "u@b\u{fc}cher.example",
            ),
            ("\u{fc}@x.example", None, "\u{fc}@x.example"),
            ("\"a b\"@x.example", Some("\"a b\"@x.example"), "\"a b\"@x.example"),
        ];
        for (given, ascii, utf8) in cases {
            let address = Address::parse(given).expect(given);
            assert_eq!(address.to_ascii().as_deref(), ascii);
            assert_eq!(address.to_utf8(), utf8);
        }
    }
}
