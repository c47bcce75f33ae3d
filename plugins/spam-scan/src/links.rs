//! Looks at links: what is odd about them. The names of their hosts do not matter.

use crate::word;

/// Bytes of a link's authority (RFC 3986 §3.2).
const MOST_AUTHORITY_BYTES: usize = 256;
/// Bytes of a link.
const MOST_LINK_BYTES: usize = 1024;

/// Domains that are told apart.
const MOST_DOMAINS: usize = 8;

/// Top-level domains that are cheap to use up.
const ODD_TOP_DOMAINS: &[&[u8]] = &[
    b"biz",
    b"info",
    b"ws",
    b"cc",
    b"tk",
    b"ml",
    b"ga",
    b"cf",
    b"gq",
    b"xyz",
    b"top",
    b"click",
    b"link",
    b"icu",
    b"pw",
    b"buzz",
    b"rest",
    b"cam",
    b"bid",
    b"loan",
    b"win",
    b"work",
    b"monster",
    b"cyou",
    b"sbs",
    b"date",
    b"men",
    b"stream",
    b"download",
];

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Links {
    /// The sender's domain, by its number; 0 if it is not known.
    sender: u32,
    pub count: u32,
    /// Links to the sender's domain.
    pub to_sender: u32,
    /// Domains that were met, by their numbers, and how many they are.
    domains: [u32; MOST_DOMAINS],
    pub domain_count: u32,
    pub numeric_host: bool,
    pub userinfo: bool,
    pub percent_host: bool,
    pub port: bool,
    pub odd_top_domain: bool,
    pub digits: bool,
    pub redirect: bool,
    pub removal: bool,
    pub personal: bool,
}

impl Links {
    /// For the mail of a sender of this domain.
    pub fn of(sender: &[u8]) -> Self {
        Self {
            sender: if sender.is_empty() { 0 } else { number_of(sender) },
            ..Self::default()
        }
    }

    /// Looks at the link whose scheme ends with the colon at `colon`, and says where it ends: behind the scheme, if it is none.
    pub fn look(&mut self, text: &[u8], colon: usize) -> usize {
        let scheme = |name: &[u8]| colon >= name.len() && text[colon - name.len()..colon].eq_ignore_ascii_case(name);
        if !text[colon + 1..].starts_with(b"//") || !(scheme(b"http") || scheme(b"https")) {
            return colon + 1;
        }
        self.look_at_host(text, colon + 3)
    }

    /// Looks at the link whose host begins at `start`, and says where the link ends.
    pub fn look_at_host(&mut self, text: &[u8], start: usize) -> usize {
        self.count += 1;
        let rest = &text[start..text.len().min(start + MOST_LINK_BYTES)];
        let end = rest
            .iter()
            .position(|byte| matches!(byte, 0..=b' ' | b'"' | b'\'' | b'<' | b'>' | b')' | b']'))
            .unwrap_or(rest.len());
        let link = &rest[..end];
        let slash = link
            .iter()
            .take(MOST_AUTHORITY_BYTES)
            .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
            .unwrap_or(link.len().min(MOST_AUTHORITY_BYTES));
        self.look_at_authority(&link[..slash]);
        self.look_at_path(&link[slash..]);
        start + end
    }

    fn look_at_authority(&mut self, authority: &[u8]) {
        let mut host = authority;
        if let Some(at) = host.iter().rposition(|byte| *byte == b'@') {
            self.userinfo = true;
            host = &host[at + 1..];
        }
        if let Some(place) = host.iter().position(|byte| *byte == b':') {
            let port = &host[place + 1..];
            self.port |= port.first().is_some_and(u8::is_ascii_digit) && !matches!(port, b"80" | b"443");
            host = &host[..place];
        }
        self.percent_host |= host.contains(&b'%');
        self.numeric_host |= is_public_number(host);
        self.look_at_domain(number_of(host));
        let top = host
            .iter()
            .rposition(|byte| *byte == b'.')
            .map_or(&b""[..], |dot| &host[dot + 1..]);
        self.odd_top_domain |= is_odd_top_domain(top);
        self.digits |=
            top.iter().any(u8::is_ascii_alphabetic) && host.iter().filter(|byte| byte.is_ascii_digit()).count() >= 2;
    }

    fn look_at_domain(&mut self, domain: u32) {
        self.to_sender += u32::from(domain == self.sender);
        let known = &mut self.domains[..];
        let count = self.domain_count as usize;
        if count < known.len() && !known[..count].contains(&domain) {
            known[count] = domain;
            self.domain_count += 1;
        }
    }

    fn look_at_path(&mut self, path: &[u8]) {
        for (place, byte) in path.iter().enumerate() {
            match byte {
                b'@' => self.personal = true,
                b':' => self.redirect |= path[place..].starts_with(b"://"),
                b'r' | b'R' | b'u' | b'U' | b'o' | b'O' => {
                    let starts = |what: &[u8]| {
                        path[place..]
                            .get(..what.len())
                            .is_some_and(|start| start.eq_ignore_ascii_case(what))
                    };
                    self.removal |= starts(b"remov") || starts(b"unsub") || starts(b"optout") || starts(b"opt-out");
                }
                _ => {}
            }
        }
    }
}

/// A number for the domain that a host belongs to.
fn number_of(host: &[u8]) -> u32 {
    word::hash(domain_of(host))
}

/// `example.org` of `www.example.org`, `example.co.uk` of `www.example.co.uk`: by the look of it, there is no list.
pub fn domain_of(host: &[u8]) -> &[u8] {
    let host = host.strip_suffix(b".").unwrap_or(host);
    let mut labels = host.rsplit(|byte| *byte == b'.');
    let top = labels.next().unwrap_or_default().len();
    let second = labels.next().unwrap_or_default().len();
    let third = labels.next().unwrap_or_default().len();
    let mut length = top + 1 + second;
    if top == 2 && second <= 3 && third > 0 {
        length += 1 + third;
    }
    &host[host.len().saturating_sub(length)..]
}

/// Whether a name's last label is of those that are cheap to use up.
pub fn is_odd_top_domain(top: &[u8]) -> bool {
    ODD_TOP_DOMAINS.iter().any(|odd| top.eq_ignore_ascii_case(odd))
}

/// `203.0.113.7`, `3405803783` or `0xcb007107`, but no address of a private network: those are in developers' mail.
fn is_public_number(host: &[u8]) -> bool {
    let hexadecimal = host.len() > 4 && (host.starts_with(b"0x") || host.starts_with(b"0X"));
    let digits = host.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let dots = host.iter().filter(|byte| **byte == b'.').count();
    let private = [&b"10."[..], b"127.", b"192.168.", b"0."]
        .iter()
        .any(|start| host.starts_with(start));
    hexadecimal || (digits && !private && (dots == 3 || (dots == 0 && host.len() >= 8)))
}
