//! The form in which the program that wrote a message writes its header: how it spells the names of fields, and how its dates,
//! Message-IDs, mailboxes, types and boundaries are made. Programs for bulk mail give themselves away by it.
//!
//! Each form is one more word of the message, and training says what it is worth. What a field says does not count here, only how, but for the
//! program's own name: its words are forms, too, and so is each other form together with it, as a program that is not what it says has
//! forms that are not its own. Fields that are added on the way, as by lists, are not looked at.

use crate::evidence::{Form, Words};
use crate::header::Fields;
use crate::word;

/// Bytes of a Message-ID's left side, or of a boundary, whose form counts: behind them there is little but chance.
const MOST_BYTES: usize = 24;
/// Bytes of a date that count.
const MOST_DATE_BYTES: usize = 48;
/// Bytes of a type, or of an encoding, that count.
const MOST_TYPE_BYTES: usize = 60;
/// Words of a program's name that count.
const MOST_PROGRAM_WORDS: usize = 12;
/// Words of it that tell programs apart: behind them are versions.
const PROGRAM_NAME_WORDS: usize = 3;

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
const PROGRAM: u32 = word::hash(b"form:program");

/// Passes the forms of a header on.
pub fn look(fields: &Fields<'_>, words: &mut impl Words) {
    let mailer = fields.mailer.unwrap_or_default();
    look_at_program(mailer, words);
    let mut forms = Forms {
        words,
        program: name_of_program(mailer),
    };
    for name in &fields.written {
        forms.take(bytes(NAME, name));
    }
    if let Some(date) = fields.date {
        let date = &date[..date.len().min(MOST_DATE_BYTES)];
        forms.take(date.iter().fold(DATE, |form, byte| word::pair(form, class(*byte))));
    }
    if let Some(id) = fields.message_id {
        let id = id.strip_prefix(b"<").unwrap_or(id);
        let at = id.iter().position(|byte| *byte == b'@').unwrap_or(id.len());
        forms.take(runs(ID_LEFT, &id[..at]));
        forms.take(word::pair(ID_RIGHT, right_side(&id[at..])));
    }
    for (salt, field) in [(FROM, fields.from), (TO, fields.to)] {
        if let Some(field) = field {
            forms.take(word::pair(salt, mailboxes(field)));
        }
    }
    if let Some(encoding) = fields.encoding {
        forms.take(lower(ENCODING, encoding));
    }
    if let Some(content_type) = fields.content_type {
        let boundary = content_type
            .windows(b"boundary=".len())
            .position(|window| window.eq_ignore_ascii_case(b"boundary="));
        let (before, boundary) = content_type.split_at(boundary.unwrap_or(content_type.len()));
        forms.take(lower(TYPE, before.trim_ascii_end()));
        if let Some(boundary) = boundary.get(b"boundary=".len()..) {
            forms.take(runs(BOUNDARY, boundary));
        }
    }
}

/// Passes forms on, each as it is and together with the program.
struct Forms<'a, W> {
    words: &'a mut W,
    program: u32,
}

impl<W: Words> Forms<'_, W> {
    fn take(&mut self, form: u32) {
        self.words.take_form(Form::Header, form);
        self.words.take_form(Form::Program, word::pair(self.program, form));
    }
}

/// The words of the program's name, and each with the one before.
fn look_at_program(mailer: &[u8], words: &mut impl Words) {
    let mut before = PROGRAM;
    let names = mailer.split(|byte| !byte.is_ascii_alphanumeric());
    for name in names.filter(|name| !name.is_empty()).take(MOST_PROGRAM_WORDS) {
        let name = word::pair(PROGRAM, word::hash(name));
        words.take_form(Form::Program, name);
        words.take_form(Form::Program, word::pair(before, name));
        before = name;
    }
}

/// A number for the program, whatever its version.
fn name_of_program(mailer: &[u8]) -> u32 {
    let names = mailer.split(|byte| !byte.is_ascii_alphabetic());
    let names = names.filter(|name| !name.is_empty()).take(PROGRAM_NAME_WORDS);
    names.fold(PROGRAM, |program, name| word::pair(program, word::hash(name)))
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

    #[derive(Default)]
    struct All {
        header: Vec<u32>,
        program: Vec<u32>,
    }

    impl Words for All {
        fn take(&mut self, _: u32) {}

        fn take_form(&mut self, form: Form, hash: u32) {
            match form {
                Form::Header => self.header.push(hash),
                Form::Program => self.program.push(hash),
            }
        }
    }

    fn forms(header: &str) -> Vec<u32> {
        let mut all = All::default();
        look(&crate::header::read(header.as_bytes()).0, &mut all);
        all.header
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
                "Content-Type: Multipart/Mixed;\n\tboundary=\"xy34Z567\"",
            ),
        ];
        for (one, other) in alike {
            assert_eq!(forms(one), forms(other), "{one}");
        }
        let unlike = [
            (
                "Message-ID: <20260312.4a5f@a.example>",
                "Message-ID: <20260312-4a5f@a.example>",
            ),
            ("Message-ID: <1@a.example>", "Message-ID: <1@A>"),
            ("Message-ID: <1@a.example>", "Message-Id: <1@a.example>"),
            ("Subject: x", "SUBJECT: x"),
            ("Subject: x", "Subject: x\nX-Priority: 3"),
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
        assert!(forms("Subject: a\nMIME-Version: 1.0\nCc:").is_empty());
    }

    #[test]
    fn a_program_is_its_name_and_each_form_is_seen_together_with_it() {
        let of_program = |header: &str| {
            let mut all = All::default();
            look(&crate::header::read(header.as_bytes()).0, &mut all);
            all.program
        };
        let date = "Date: Fri, 6 Mar 2026 10:00:00 +0000";
        let (none, one) = (
            of_program(date),
            of_program(&format!("X-Mailer: Blue Mail 4.1\n{date}")),
        );
        assert_eq!(none.len(), 1, "no program, and the form of the date");
        // Four words, each alone and behind the one before, the field's name and the date.
        assert_eq!(one.len(), 4 * 2 + 2);
        assert_ne!(one.last(), none.last());
        let next = of_program(&format!("X-Mailer: Blue Mail 17.20\n{date}"));
        assert_eq!(one, next, "a version is a number, whatever it is");
        let many = format!("X-Mailer: {}", "a ".repeat(1000));
        assert_eq!(of_program(&many).len(), MOST_PROGRAM_WORDS * 2 + 1);
    }
}
