//! The form in which the program that wrote a message writes its header: how it spells the names of fields, and how its dates,
//! Message-IDs, mailboxes, types and boundaries are made. Programs for bulk mail give themselves away by it.
//!
//! Each form is one more word of the message, and training says what it is worth. What a field says does not count here, only how; fields
//! that are added on the way, as by lists, are not looked at.

use crate::evidence::Words;
use crate::header::Fields;
use crate::word;

/// Bytes of a Message-ID's left side, or of a boundary, whose form counts: behind them there is little but chance.
const MOST_BYTES: usize = 24;
/// Bytes of a date that count.
const MOST_DATE_BYTES: usize = 48;
/// Bytes of a type, or of an encoding, that count.
const MOST_TYPE_BYTES: usize = 60;

// The same form in another field is another one.
const DATE: u32 = word::hash(b"form:date");
const ID_LEFT: u32 = word::hash(b"form:id-left");
const ID_RIGHT: u32 = word::hash(b"form:id-right");
const FROM: u32 = word::hash(b"form:from");
const TO: u32 = word::hash(b"form:to");
const TYPE: u32 = word::hash(b"form:type");
const BOUNDARY: u32 = word::hash(b"form:boundary");
const ENCODING: u32 = word::hash(b"form:encoding");
const NAME: u32 = word::hash(b"form:name");

/// Passes the forms of a header on.
pub fn look(fields: &Fields<'_>, words: &mut impl Words) {
    for name in &fields.written {
        words.take_form(bytes(NAME, name));
    }
    if let Some(date) = fields.date {
        let date = &date[..date.len().min(MOST_DATE_BYTES)];
        words.take_form(date.iter().fold(DATE, |form, byte| word::pair(form, class(*byte))));
    }
    if let Some(id) = fields.message_id {
        let id = id.strip_prefix(b"<").unwrap_or(id);
        let at = id.iter().position(|byte| *byte == b'@').unwrap_or(id.len());
        words.take_form(runs(ID_LEFT, &id[..at]));
        words.take_form(word::pair(ID_RIGHT, right_side(&id[at..])));
    }
    for (salt, field) in [(FROM, fields.from), (TO, fields.to)] {
        if let Some(field) = field {
            words.take_form(word::pair(salt, mailboxes(field)));
        }
    }
    if let Some(encoding) = fields.encoding {
        words.take_form(lower(ENCODING, encoding));
    }
    if let Some(content_type) = fields.content_type {
        let boundary = content_type
            .windows(b"boundary=".len())
            .position(|window| window.eq_ignore_ascii_case(b"boundary="));
        let (before, boundary) = content_type.split_at(boundary.unwrap_or(content_type.len()));
        words.take_form(lower(TYPE, before.trim_ascii_end()));
        if let Some(boundary) = boundary.get(b"boundary=".len()..) {
            words.take_form(runs(BOUNDARY, boundary));
        }
    }
}

/// A digit, a capital, a small letter, or the sign itself.
const fn class(byte: u8) -> u32 {
    (match byte {
        b'0'..=b'9' => b'0',
        b'A'..=b'Z' => b'A',
        b'a'..=b'z' => b'a',
        _ => byte,
    }) as u32
}

/// The form of a text in which a run of digits, of capitals or of small letters is one, however long.
fn runs(salt: u32, text: &[u8]) -> u32 {
    let mut form = salt;
    let mut before = 0;
    for byte in text.iter().take(MOST_BYTES) {
        let class = class(*byte);
        if class != before || !byte.is_ascii_alphanumeric() {
            form = word::pair(form, class);
        }
        before = class;
    }
    form
}

/// A text, without regard to case and to how it is folded.
fn lower(salt: u32, text: &[u8]) -> u32 {
    let kept = text
        .iter()
        .take(MOST_TYPE_BYTES)
        .filter(|byte| !byte.is_ascii_whitespace());
    kept.fold(salt, |form, byte| word::pair(form, byte.to_ascii_lowercase().into()))
}

fn bytes(salt: u32, text: &[u8]) -> u32 {
    text.iter().fold(salt, |form, byte| word::pair(form, (*byte).into()))
}

/// Whether the right side of a Message-ID has a dot, small letters, or is a number.
fn right_side(text: &[u8]) -> u32 {
    let has = |is: fn(&u8) -> bool| u32::from(text.iter().any(is));
    has(|byte| *byte == b'.')
        | has(u8::is_ascii_lowercase) << 1
        | has(u8::is_ascii_uppercase) << 2
        | u32::from(text.get(1).is_some_and(u8::is_ascii_digit)) << 3
}

/// How mailboxes are written: with which sign they begin, whether an address stands in angle brackets, and whether there are several.
fn mailboxes(field: &[u8]) -> u32 {
    let first = match field.first() {
        Some(sign @ (b'"' | b'<' | b'=' | b'\'')) => u32::from(*sign),
        _ => 0,
    };
    let count = field.iter().filter(|byte| **byte == b'@').count().min(4) as u32;
    first << 8 | u32::from(field.contains(&b'<')) << 4 | count
}

#[cfg(test)]
mod tests {
    use super::*;

    struct All(Vec<u32>);

    impl Words for All {
        fn take(&mut self, _: u32) {}

        fn take_form(&mut self, hash: u32) {
            self.0.push(hash);
        }
    }

    fn forms(header: &str) -> Vec<u32> {
        let mut all = All(Vec::new());
        look(&crate::header::read(header.as_bytes()).0, &mut all);
        all.0
    }

    #[test]
    fn a_form_is_how_a_field_is_made_and_not_what_it_says() {
        let alike = [
            (
                "Message-ID: <20260312.4a5f@a.example>",
                "Message-ID: <19990101.7b8c@other.example>",
            ),
            ("From: Alice <a@b.example>", "From: Bob Baker <bob@c.example>"),
            (
                "Date: Fri, 6 Mar 2026 10:00:00 +0000",
                "Date: Mon, 9 Jun 2025 23:59:59 +0100",
            ),
            (
                "Content-Type: multipart/mixed; boundary=\"a1B2\"",
                "content-type: Multipart/Mixed;\n\tboundary=\"xy34Z567\"",
            ),
        ];
        for (one, other) in alike {
            // The name, which is spelled as it is, comes first.
            let behind = |header: &str| {
                forms(header).split_off(usize::from(!header.starts_with("From") && !header.starts_with("Date")))
            };
            assert_eq!(behind(one), behind(other), "{one}");
        }
        let unlike = [
            (
                "Message-ID: <20260312.4a5f@a.example>",
                "Message-ID: <20260312-4a5f@a.example>",
            ),
            ("Message-ID: <1@a.example>", "Message-ID: <1@A>"),
            ("Message-ID: <1@a.example>", "Message-Id: <1@a.example>"),
            ("From: Alice <a@b.example>", "From: \"Alice\" <a@b.example>"),
            ("To: a@b.example", "To: a@b.example, b@b.example"),
            (
                "Date: Fri, 6 Mar 2026 10:00:00 +0000",
                "Date: Fri, 06 Mar 2026 10:00:00 +0000",
            ),
            ("From: a@b.example", "To: a@b.example"),
        ];
        for (one, other) in unlike {
            assert_ne!(forms(one), forms(other), "{one}");
        }
        assert!(forms("Received: by a.example\nList-Id: <x>\nDelivered-To: y\nX-Loop: z").is_empty());
    }
}
