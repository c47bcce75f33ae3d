//! An SPF record as text and as values (RFC 7208 §12), and its macros (§7).
//!
//! A record is right as a whole or not at all: whatever is no term is [`Malformed`], wherever it stands. Takes any bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What every record begins with.
pub const VERSION: &[u8] = b"v=spf1";

/// The record has a syntax error.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// A record, taken apart.
#[derive(Debug, Default)]
pub struct Record {
    pub directives: Vec<Directive>,
    pub redirect: Option<MacroString>,
    pub explanation: Option<MacroString>,
}

#[derive(Debug)]
pub struct Directive {
    pub qualifier: Qualifier,
    pub mechanism: Mechanism,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

/// Without a domain it is about the current one.
#[derive(Debug)]
pub enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Prefixes),
    Mx(Option<MacroString>, Prefixes),
    Ptr(Option<MacroString>),
    Ip(IpNet),
    Exists(MacroString),
}

impl Mechanism {
    /// The domain that it names.
    pub fn target(&self) -> Option<&MacroString> {
        match self {
            Mechanism::Include(target) | Mechanism::Exists(target) => Some(target),
            Mechanism::A(target, _) | Mechanism::Mx(target, _) | Mechanism::Ptr(target) => target.as_ref(),
            Mechanism::All | Mechanism::Ip(_) => None,
        }
    }
}

/// How many leading bits of an address count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    pub v4: u8,
    pub v6: u8,
}

impl Prefixes {
    const WHOLE: Prefixes = Prefixes { v4: 32, v6: 128 };
}

/// Text with macros.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MacroString(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Macro(Macro),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Macro {
    /// In lower case.
    pub letter: char,
    url_escape: bool,
    /// How many parts from the right are kept; 0 is all.
    keep: usize,
    reverse: bool,
    delimiters: String,
}

/// Whether a TXT record is an SPF record (§4.5).
pub fn is_record(text: &[u8]) -> bool {
    let (start, rest) = text.split_at(VERSION.len().min(text.len()));
    start.eq_ignore_ascii_case(VERSION) && matches!(rest.first(), None | Some(b' '))
}

impl Record {
    /// Reads a text that [`is_record`].
    pub fn parse(text: &[u8]) -> Result<Record, Malformed> {
        let terms = text.get(VERSION.len()..).unwrap_or_default();
        if !terms.is_ascii() || terms.iter().any(u8::is_ascii_control) {
            return Err(Malformed);
        }
        let mut record = Record::default();
        let terms = String::from_utf8_lossy(terms);
        for term in terms.split(' ').filter(|term| !term.is_empty()) {
            record.add(term)?;
        }
        Ok(record)
    }

    fn add(&mut self, term: &str) -> Result<(), Malformed> {
        let end = term.find([':', '/', '=']);
        if let Some(end) = end
            && term.as_bytes()[end] == b'='
        {
            return self.add_modifier(&term[..end], &term[end + 1..]);
        }
        let qualifier = match term.as_bytes()[0] {
            b'-' => Some(Qualifier::Fail),
            b'~' => Some(Qualifier::SoftFail),
            b'?' => Some(Qualifier::Neutral),
            b'+' => Some(Qualifier::Pass),
            _ => None,
        };
        let term = if qualifier.is_some() { &term[1..] } else { term };
        self.directives.push(Directive {
            qualifier: qualifier.unwrap_or(Qualifier::Pass),
            mechanism: mechanism(term)?,
        });
        Ok(())
    }

    fn add_modifier(&mut self, name: &str, value: &str) -> Result<(), Malformed> {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name {
            return Err(Malformed);
        }
        let slot = match name.to_ascii_lowercase().as_str() {
            "redirect" => &mut self.redirect,
            "exp" => &mut self.explanation,
            _ => return MacroString::parse(value, false).map(drop),
        };
        // §6: at most once each.
        if slot.is_some() {
            return Err(Malformed);
        }
        *slot = Some(domain_spec(value)?);
        Ok(())
    }
}

fn mechanism(term: &str) -> Result<Mechanism, Malformed> {
    let end = term.find([':', '/']).unwrap_or(term.len());
    let (name, rest) = term.split_at(end);
    let argument = rest.strip_prefix(':');
    let alone = rest.is_empty();
    Ok(match (name.to_ascii_lowercase().as_str(), argument) {
        ("all", None) if alone => Mechanism::All,
        ("include", Some(domain)) => Mechanism::Include(domain_spec(domain)?),
        ("exists", Some(domain)) => Mechanism::Exists(domain_spec(domain)?),
        ("ptr", None) if alone => Mechanism::Ptr(None),
        ("ptr", Some(domain)) => Mechanism::Ptr(Some(domain_spec(domain)?)),
        ("a", _) => {
            let (domain, prefixes) = domain_and_prefixes(rest)?;
            Mechanism::A(domain, prefixes)
        }
        ("mx", _) => {
            let (domain, prefixes) = domain_and_prefixes(rest)?;
            Mechanism::Mx(domain, prefixes)
        }
        ("ip4", Some(network)) => Mechanism::Ip(self::network::<Ipv4Addr>(network, 32)?),
        ("ip6", Some(network)) => Mechanism::Ip(self::network::<Ipv6Addr>(network, 128)?),
        _ => return Err(Malformed),
    })
}

fn network<A: std::str::FromStr + Into<IpAddr>>(text: &str, longest: u8) -> Result<IpNet, Malformed> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, prefix(bits, longest)?),
        None => (text, longest),
    };
    let address: A = address.parse().map_err(|_| Malformed)?;
    IpNet::new(address.into(), bits).map_err(|_| Malformed)
}

/// `0`, or digits that do not begin with one.
fn prefix(text: &str, longest: u8) -> Result<u8, Malformed> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(Malformed);
    }
    text.parse().ok().filter(|bits| *bits <= longest).ok_or(Malformed)
}

/// What stands behind `a` and `mx`: `[":" domain-spec] ["/" bits] ["//" bits]`.
fn domain_and_prefixes(rest: &str) -> Result<(Option<MacroString>, Prefixes), Malformed> {
    let mut prefixes = Prefixes::WHOLE;
    let mut rest = rest;
    // A slash within a macro is a delimiter.
    let outside = |at: usize, text: &str| !text[at..].contains('}');
    if let Some(at) = rest.rfind("//").filter(|at| outside(*at, rest)) {
        prefixes.v6 = prefix(&rest[at + 2..], 128)?;
        rest = &rest[..at];
    }
    if let Some(at) = rest.rfind('/').filter(|at| outside(*at, rest)) {
        // A domain may have slashes: only what ends in digits is a length, as the last label of a domain is not all digits.
        let bits = &rest[at + 1..];
        if bits.is_empty() || bits.bytes().all(|byte| byte.is_ascii_digit()) {
            prefixes.v4 = prefix(bits, 32)?;
            rest = &rest[..at];
        }
    }
    let domain = match rest {
        "" => None,
        _ => Some(domain_spec(rest.strip_prefix(':').ok_or(Malformed)?)?),
    };
    Ok((domain, prefixes))
}

/// A macro-string that ends in a macro or in a label that can be a top-level domain's (§7.1).
fn domain_spec(text: &str) -> Result<MacroString, Malformed> {
    let parsed = MacroString::parse(text, false)?;
    let ends_well = match parsed.0.last() {
        Some(Part::Macro(_)) => true,
        Some(Part::Text(end)) => {
            // `%%`, `%_` and `%-` are macros by the grammar.
            ["%%", "%_", "%-"].iter().any(|escape| text.ends_with(escape)) || {
                let end = end.strip_suffix('.').unwrap_or(end);
                end.rsplit_once('.').is_some_and(|(_, label)| is_top_label(label))
            }
        }
        None => false,
    };
    ends_well.then_some(parsed).ok_or(Malformed)
}

/// Letters, digits and hyphens, not all digits, no hyphen at the ends.
fn is_top_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !label.is_empty()
        && label.bytes().all(fits)
        && !label.bytes().all(|byte| byte.is_ascii_digit())
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl MacroString {
    /// In an explanation (`explains`) there are blanks, and three more macros (§7.2).
    pub fn parse(text: &str, explains: bool) -> Result<MacroString, Malformed> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '%' => match chars.next().ok_or(Malformed)? {
                    '%' => plain.push('%'),
                    '_' => plain.push(' '),
                    '-' => plain.push_str("%20"),
                    '{' => {
                        if !plain.is_empty() {
                            parts.push(Part::Text(std::mem::take(&mut plain)));
                        }
                        let rest = chars.as_str();
                        let end = rest.find('}').ok_or(Malformed)?;
                        parts.push(Part::Macro(Macro::parse(&rest[..end], explains)?));
                        chars = rest[end + 1..].chars();
                    }
                    _ => return Err(Malformed),
                },
                ' ' if explains => plain.push(' '),
                '!'..='~' => plain.push(char),
                _ => return Err(Malformed),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(MacroString(parts))
    }

    /// Whether one of its macros has this letter.
    pub fn uses(&self, letter: char) -> bool {
        self.0
            .iter()
            .any(|part| matches!(part, Part::Macro(macro_) if macro_.letter == letter))
    }

    /// The text, with what `value` says for each macro's letter.
    pub fn expand(&self, value: impl Fn(char) -> String) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Macro(part) => text.push_str(&part.expand(&value(part.letter))),
            }
        }
        text
    }
}

impl Macro {
    /// What stands between the braces: a letter, digits, `r`, delimiters.
    fn parse(text: &str, explains: bool) -> Result<Macro, Malformed> {
        let letter = text.chars().next().ok_or(Malformed)?;
        let known =
            "slodiphv".contains(letter.to_ascii_lowercase()) || explains && "crt".contains(letter.to_ascii_lowercase());
        if !known {
            return Err(Malformed);
        }
        let rest = &text[1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = rest.split_at(digits);
        let keep = match digits {
            "" => 0,
            digits => match digits.parse::<u32>() {
                Ok(0) => return Err(Malformed),
                Ok(keep) => keep as usize,
                // More parts than any name has.
                Err(_) => usize::MAX,
            },
        };
        let (reverse, delimiters) = match rest.strip_prefix(['r', 'R']) {
            Some(delimiters) => (true, delimiters),
            None => (false, rest),
        };
        if !delimiters.chars().all(|char| ".-+,/_=".contains(char)) {
            return Err(Malformed);
        }
        Ok(Macro {
            letter: letter.to_ascii_lowercase(),
            url_escape: letter.is_ascii_uppercase(),
            keep,
            reverse,
            delimiters: if delimiters.is_empty() { "." } else { delimiters }.to_owned(),
        })
    }

    fn expand(&self, value: &str) -> String {
        let mut parts: Vec<&str> = value.split(|char| self.delimiters.contains(char)).collect();
        if self.reverse {
            parts.reverse();
        }
        let kept = match self.keep {
            0 => 0,
            keep => parts.len().saturating_sub(keep),
        };
        let text = parts[kept..].join(".");
        match self.url_escape {
            true => url_escaped(&text),
            false => text,
        }
    }
}

/// All but what RFC 3986 §2.3 calls unreserved.
fn url_escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            _ if byte.is_ascii_alphanumeric() => escaped.push(byte as char),
            // Writing to a String cannot fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}
