//! The senders and recipients that a header names.

use std::ops::RangeInclusive;

use crate::decode;
use crate::evidence::Evidence;
use crate::header::{Fields, find_ignoring_case};
use crate::links::{domain_of, is_odd_top_domain};
use crate::rules::Rule;

/// Digits in the local part of From that are many.
const MANY_DIGITS: usize = 4;
/// Consonants in a row that no name has.
const MANY_CONSONANTS: usize = 5;
/// Bytes of a local part that a Subject may name: not by chance, and no more than there may be (RFC 5321 §4.5.3.1.1).
const LOCAL_BYTES: RangeInclusive<usize> = 4..=64;
/// Recipients that are many.
const MANY_RECIPIENTS: usize = 8;
/// Recipients that are looked at.
const MOST_RECIPIENTS: usize = 40;
/// Recipients whose names begin alike from which it is no chance.
const ALIKE_RECIPIENTS: usize = 3;

/// Domains whose mailboxes anyone gets for nothing, without what follows the dot.
const FREEMAIL: &[&[u8]] = &[
    b"hotmail",
    b"yahoo",
    b"aol",
    b"msn",
    b"excite",
    b"gmail",
    b"googlemail",
    b"outlook",
    b"live",
    b"mail",
    b"email",
    b"gmx",
    b"lycos",
    b"juno",
    b"netscape",
    b"hushmail",
    b"usa",
    b"caramail",
    b"bigfoot",
    b"altavista",
    b"yandex",
    b"rediffmail",
    b"netzero",
    b"flashmail",
    b"eudoramail",
    b"mailcity",
    b"iname",
    b"go",
    b"36",
    b"163",
    b"126",
    b"qq",
    b"sina",
    b"btamail",
    b"icloud",
    b"proton",
    b"protonmail",
    b"zoho",
    b"inbox",
];

/// A mailbox of a field: `Name <local@domain>`.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox<'a> {
    pub name: &'a [u8],
    pub local: &'a [u8],
    pub domain: &'a [u8],
}

impl<'a> Mailbox<'a> {
    /// The first mailbox of a field, if there is one that has an address.
    pub fn of(field: &'a [u8]) -> Option<Self> {
        let open = field.iter().rposition(|byte| *byte == b'<');
        let (name, address) = match open {
            Some(open) => (&field[..open], &field[open + 1..]),
            None => (&b""[..], field),
        };
        let at = address.iter().rposition(|byte| *byte == b'@')?;
        let start = address[..at]
            .iter()
            .rposition(|byte| matches!(byte, b' ' | b'\t' | b',' | b'<' | b':' | b'"' | b'\n'))
            .map_or(0, |place| place + 1);
        let name = name.trim_ascii();
        let name = name.strip_prefix(b"\"").unwrap_or(name);
        Some(Self {
            name: name.strip_suffix(b"\"").unwrap_or(name).trim_ascii(),
            local: &address[start..at],
            domain: domain_at(&address[at + 1..]),
        })
    }

    fn is_freemail(&self) -> bool {
        let provider = domain_of(self.domain)
            .split(|byte| *byte == b'.')
            .next()
            .unwrap_or_default();
        FREEMAIL.iter().any(|free| provider.eq_ignore_ascii_case(free))
    }
}

/// What the fields of sender and recipients show.
pub fn look(fields: &Fields<'_>, evidence: &mut Evidence) {
    let from = fields.from.and_then(Mailbox::of);
    match (fields.from, &from) {
        (None, _) => evidence.hit(Rule::MissingFrom, true),
        (Some(_), None) => evidence.hit(Rule::FromWithoutAddress, true),
        (Some(_), Some(from)) => look_at_sender(from, evidence),
    }
    if let Some(reply_to) = fields.reply_to {
        evidence.hit(Rule::ReplyToPresent, true);
        if let (Some(reply_to), Some(from)) = (Mailbox::of(reply_to), &from) {
            evidence.hit(
                Rule::ReplyToOther,
                !domain_of(reply_to.domain).eq_ignore_ascii_case(domain_of(from.domain)),
            );
            evidence.hit(Rule::ReplyToFreemail, reply_to.is_freemail() && !from.is_freemail());
        }
    }
    look_at_recipients(fields, from.as_ref(), evidence);
}

fn look_at_sender(from: &Mailbox<'_>, evidence: &mut Evidence) {
    let name = decode::words(from.name);
    let digits = |text: &[u8]| text.iter().filter(|byte| byte.is_ascii_digit()).count();
    evidence.hit(Rule::FromNameMissing, name.is_empty());
    evidence.hit(Rule::FromNameEncoded, from.name.starts_with(b"=?"));
    let letters = name.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    evidence.hit(
        Rule::FromNameCapitals,
        letters > 4 && !name.iter().any(u8::is_ascii_lowercase),
    );
    evidence.hit(Rule::FromNameExclaims, name.contains(&b'!') || name.contains(&b'$'));
    evidence.hit(Rule::FromManyDigits, digits(from.local) >= MANY_DIGITS);
    evidence.hit(
        Rule::FromDigitsFirst,
        from.local.first().is_some_and(u8::is_ascii_digit),
    );
    evidence.hit(Rule::FromRandom, has_consonants(from.local, MANY_CONSONANTS));
    evidence.hit(Rule::FromFreemail, from.is_freemail());
    evidence.hit(Rule::FromDomainDigits, digits(from.domain) >= 2);
    evidence.hit(
        Rule::FromOddTopDomain,
        from.domain
            .rsplit(|byte| *byte == b'.')
            .next()
            .is_some_and(is_odd_top_domain),
    );
    if let Some(at) = name.iter().position(|byte| *byte == b'@') {
        let claimed = domain_at(&name[at + 1..]);
        let within = |outer: &[u8], inner: &[u8]| {
            outer.len() >= inner.len() && outer[outer.len() - inner.len()..].eq_ignore_ascii_case(inner)
        };
        let same = within(claimed, from.domain) || within(from.domain, claimed);
        let is_domain = claimed.contains(&b'.');
        evidence.hit(Rule::FromNameIsOtherAddress, is_domain && !same);
        evidence.hit(Rule::FromNameIsAddress, is_domain && same);
    }
}

fn look_at_recipients(fields: &Fields<'_>, from: Option<&Mailbox<'_>>, evidence: &mut Evidence) {
    evidence.hit(
        Rule::MissingRecipients,
        fields.to.is_none() && fields.cc.is_none() && !fields.has_other_recipients,
    );
    let Some(to) = fields.to else { return };
    if to.len() < 64 && find_ignoring_case(to, b"undisclosed").is_some() || to.ends_with(b":;") {
        evidence.hit(Rule::RecipientsUndisclosed, true);
        return;
    }
    let Some(first) = to.split(|byte| *byte == b',').find_map(Mailbox::of) else {
        evidence.hit(Rule::ToWithoutAddress, true);
        return;
    };
    evidence.hit(
        Rule::ToNameIsLocalPart,
        !first.name.is_empty() && first.name.eq_ignore_ascii_case(first.local),
    );
    if let Some(from) = from {
        let same = from.local.eq_ignore_ascii_case(first.local) && from.domain.eq_ignore_ascii_case(first.domain);
        evidence.hit(Rule::ToIsFrom, same);
    }
    if let Some(subject) = fields.subject {
        let named = LOCAL_BYTES.contains(&first.local.len()) && find_ignoring_case(subject, first.local).is_some();
        // `[list] ...` is what a list says of itself.
        evidence.hit(Rule::SubjectNamesRecipient, named && !subject.contains(&b'['));
    }

    let others = [to, fields.cc.unwrap_or_default()];
    let mut beginnings = [[0; 3]; MOST_RECIPIENTS];
    let mut named = 0;
    let mailboxes = others
        .iter()
        .flat_map(|field| field.split(|byte| *byte == b','))
        .filter_map(Mailbox::of);
    let mut count = 0;
    for mailbox in mailboxes.take(MOST_RECIPIENTS) {
        count += 1;
        if let Some(beginning) = mailbox.local.first_chunk::<3>() {
            beginnings[named] = beginning.map(|byte| byte.to_ascii_lowercase());
            named += 1;
        }
    }
    evidence.hit(Rule::ToMany, count >= MANY_RECIPIENTS);
    evidence.hit(
        Rule::ToAlike,
        named >= ALIKE_RECIPIENTS && are_alike(&mut beginnings[..named], count),
    );
}

/// Whether half of `count` recipients, and no fewer than [`ALIKE_RECIPIENTS`], have names that begin alike.
#[cold]
fn are_alike(beginnings: &mut [[u8; 3]], count: usize) -> bool {
    beginnings.sort_unstable();
    let alike = beginnings.chunk_by(PartialEq::eq).map(<[_]>::len).max().unwrap_or(0);
    alike >= ALIKE_RECIPIENTS && alike * 2 >= count
}

/// The domain with which `text` begins.
pub fn domain_at(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')));
    &text[..end.unwrap_or(text.len())]
}

fn has_consonants(text: &[u8], most: usize) -> bool {
    text.split(|byte| !byte.is_ascii_alphabetic() || b"aeiouyAEIOUY".contains(byte))
        .any(|row| row.len() >= most)
}
