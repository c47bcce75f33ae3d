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

/// Places for forms that are met on the way through a body, and places that one of them may take.
const PLACES: usize = 256;
const PROBES: usize = 4;

/// The forms of a body's markup and links, each once. Of more than there is room for, the first are kept.
#[derive(Clone, Copy, Debug)]
pub struct Forms([u32; PLACES]);

impl Default for Forms {
    fn default() -> Self {
        Self([0; PLACES])
    }
}

impl Forms {
    /// Takes a form.
    pub fn take(&mut self, form: u32) {
        for probe in 0..PROBES {
            let place = &mut self.0[(form as usize + probe) % PLACES];
            if *place == 0 {
                *place = form;
            }
            if *place == form {
                return;
            }
        }
    }

    /// Passes them on.
    pub fn tell(&self, words: &mut impl Words) {
        self.0
            .iter()
            .filter(|form| **form != 0)
            .for_each(|form| words.take_form(*form));
    }
}
