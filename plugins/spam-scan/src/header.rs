//! Reads a header once: the fields that rules look at, and which rules they meet.
//!
//! It takes any bytes: a line that is no field is passed over. Fields stay raw, as they are folded.

use crate::bytes::line_end;

/// Names of `X-Spam-...` fields that are kept for removal.
const MOST_SPAM_FIELDS: usize = 16;
/// Bytes of a field's name.
const MOST_NAME_BYTES: usize = 64;

/// Names of fields of [`is_written`] that are kept.
const MOST_WRITTEN: usize = 32;

/// Names that nearly all of today's mail has, spelled as most programs spell them: they say nothing. In the mail that is trained on it is
/// not so: who wrote without MIME were people.
const USUAL: [&[u8]; 9] = [
    b"From",
    b"To",
    b"Cc",
    b"Subject",
    b"Date",
    b"Message-ID",
    b"MIME-Version",
    b"Content-Type",
    b"Content-Transfer-Encoding",
];

/// Whether the program that wrote the message writes a field of this name. Fields that are added on the way, as by lists and by who receives,
/// are none of these.
fn is_written(name: &[u8]) -> bool {
    // By their lengths, so that most names are compared with few.
    let names: &[&str] = match name.len() {
        2 => &["to", "cc"],
        4 => &["from", "date"],
        6 => &["x-face"],
        7 => &["subject"],
        8 => &["reply-to", "x-mailer", "x-sender", "comments", "priority"],
        9 => &["x-mimeole", "x-library"],
        10 => &["message-id", "user-agent", "x-priority", "importance"],
        12 => &[
            "content-type",
            "mime-version",
            "organization",
            "thread-index",
            "thread-topic",
        ],
        13 => &["content-class"],
        14 => &["x-message-flag"],
        15 => &["x-ms-has-attach"],
        16 => &["mail-followup-to", "x-precedence-ref"],
        17 => &["x-msmail-priority"],
        19 => &["content-disposition"],
        20 => &["x-ms-tnef-correlator"],
        25 => &["content-transfer-encoding"],
        _ => &[],
    };
    names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// The fields that rules look at. Of a field that is there several times, the first.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    pub from: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    pub to: Option<&'a [u8]>,
    pub cc: Option<&'a [u8]>,
    pub subject: Option<&'a [u8]>,
    pub date: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    /// X-Mailer or User-Agent.
    pub mailer: Option<&'a [u8]>,
    pub priority: Option<&'a [u8]>,
    pub importance: Option<&'a [u8]>,
    pub content_type: Option<&'a [u8]>,
    pub encoding: Option<&'a [u8]>,
    pub disposition: Option<&'a [u8]>,
    pub unsubscribe: Option<&'a [u8]>,
    pub has_outlook_priority: bool,
    pub has_outlook_mime: bool,
    pub has_mime_version: bool,
    /// There is In-Reply-To or References, and it is not empty.
    pub is_reply: bool,
    /// Resent-To or Apparently-To.
    pub has_other_recipients: bool,
    /// Names of fields that the program wrote and spelled, but for [`USUAL`].
    pub written: Vec<&'a [u8]>,
    /// Distinct names of fields that speak as a spam scanner would.
    pub spam_fields: Vec<&'a str>,
}

/// Reads the header with which `text` begins, and says where the body does: behind the first empty line, or at the end if there is none.
pub fn read(text: &[u8]) -> (Fields<'_>, usize) {
    let mut fields = Fields::default();
    let mut at = 0;
    while at < text.len() {
        let mut end = line_end(text, at).unwrap_or(text.len());
        if matches!(&text[at..end], b"\r\n" | b"\n") {
            return (fields, end);
        }
        while matches!(text.get(end), Some(b' ' | b'\t')) {
            end = line_end(text, end).unwrap_or(text.len());
        }
        // No name that matters is longer.
        if let Some(colon) = text[at..end]
            .iter()
            .take(MOST_NAME_BYTES)
            .position(|byte| *byte == b':')
        {
            let (name, value) = (&text[at..at + colon], &text[at + colon + 1..end]);
            let name = name.trim_ascii_end();
            if fields.written.len() < MOST_WRITTEN && is_written(name) && !USUAL.contains(&name) {
                fields.written.push(name);
            }
            fields.take(name, value.trim_ascii());
        }
        at = end;
    }
    (fields, text.len())
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &'a [u8], value: &'a [u8]) {
        let is = |expected: &str| name.eq_ignore_ascii_case(expected.as_bytes());
        match name.len() {
            2 if is("to") => first(&mut self.to, value),
            2 if is("cc") => first(&mut self.cc, value),
            4 if is("from") => first(&mut self.from, value),
            4 if is("date") => first(&mut self.date, value),
            7 if is("subject") => first(&mut self.subject, value),
            8 if is("reply-to") => first(&mut self.reply_to, value),
            8 if is("x-mailer") => first(&mut self.mailer, value),
            9 if is("resent-to") => self.has_other_recipients = true,
            9 if is("x-mimeole") => self.has_outlook_mime = true,
            10 if is("message-id") => first(&mut self.message_id, value),
            10 if is("user-agent") => first(&mut self.mailer, value),
            10 if is("x-priority") => first(&mut self.priority, value),
            10 if is("importance") => first(&mut self.importance, value),
            10 if is("references") => self.is_reply |= !value.is_empty(),
            11 if is("in-reply-to") => self.is_reply |= !value.is_empty(),
            12 if is("content-type") => first(&mut self.content_type, value),
            12 if is("mime-version") => self.has_mime_version = true,
            13 if is("apparently-to") => self.has_other_recipients = true,
            16 if is("list-unsubscribe") => first(&mut self.unsubscribe, value),
            17 if is("x-msmail-priority") => self.has_outlook_priority = true,
            19 if is("content-disposition") => first(&mut self.disposition, value),
            25 if is("content-transfer-encoding") => first(&mut self.encoding, value),
            7.. if name[..7].eq_ignore_ascii_case(b"x-spam-") => self.take_spam_field(name),
            _ => {}
        }
    }

    fn take_spam_field(&mut self, name: &'a [u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        let known = self.spam_fields.iter().any(|other| other.eq_ignore_ascii_case(name));
        if !known && self.spam_fields.len() < MOST_SPAM_FIELDS && name.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.spam_fields.push(name);
        }
    }
}

/// Whether a media type begins as `expected` does, in any case: `text/html; charset=...` as `text/`.
pub fn begins(value: Option<&[u8]>, expected: &str) -> bool {
    value.is_some_and(|value| {
        value
            .get(..expected.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(expected.as_bytes()))
    })
}

/// The boundary of a multipart's Content-Type.
pub fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    parameter(content_type, b"boundary")
}

/// A parameter of a field (RFC 2045 §5.1), if it is there and not empty.
pub fn parameter<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = find_ignoring_case(field, name)? + name.len();
    let rest = field[at..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let value = match rest.strip_prefix(b"\"") {
        Some(quoted) => &quoted[..quoted.iter().position(|byte| *byte == b'"')?],
        None => {
            &rest[..rest
                .iter()
                .position(|byte| matches!(byte, b';' | b' ' | b'\t' | b'\r' | b'\n'))
                .unwrap_or(rest.len())]
        }
    };
    (!value.is_empty()).then_some(value)
}

/// Where `what` begins, in any case.
pub fn find_ignoring_case(text: &[u8], what: &[u8]) -> Option<usize> {
    let first = what.first()?.to_ascii_lowercase();
    text.windows(what.len())
        .position(|window| window[0].to_ascii_lowercase() == first && window.eq_ignore_ascii_case(what))
}

fn first<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8]) {
    if slot.is_none() {
        *slot = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_any_case_and_folding() {
        let header = b"FROM: a@b.example\r\nsubject:  one\r\n two\r\nSubject: second\r\nno field\r\nDate:\r\nX-Spam-Flag: NO\r\nx-spam-flag: NO\r\nX-SPAM-Level: *\r\nCc: x\r\n\r\n";
        let (fields, offset) = read(header);
        assert_eq!(offset, header.len());
        assert_eq!(fields.from, Some(&b"a@b.example"[..]));
        assert_eq!(fields.subject, Some(&b"one\r\n two"[..]));
        assert!(fields.date.is_some() && fields.cc.is_some() && fields.message_id.is_none());
        assert_eq!(fields.spam_fields, ["X-Spam-Flag", "X-SPAM-Level"]);
    }

    #[test]
    fn the_body_begins_behind_the_first_empty_line() {
        let cases: &[(&[u8], usize)] = &[
            (b"A: b\r\n\r\nbody\r\n\r\n", 8),
            (b"A: b\n\nbody", 6),
            (b"\r\nbody", 2),
            (b"A: b\r\n", 6),
            (b"A: b", 4),
            (b"", 0),
        ];
        for (message, expected) in cases {
            assert_eq!(read(message).1, *expected, "{}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn boundaries_come_in_three_ways() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (b"multipart/mixed; boundary=abc", Some(b"abc")),
            (b"multipart/mixed; boundary=abc; x=y", Some(b"abc")),
            (b"multipart/mixed;\r\n\tBOUNDARY = \"a b; c\"", Some(b"a b; c")),
            (b"multipart/mixed; boundary=", None),
            (b"multipart/mixed; boundary=\"abc", None),
            (b"multipart/mixed", None),
        ];
        for (value, expected) in cases {
            assert_eq!(boundary(value), *expected, "{}", String::from_utf8_lossy(value));
        }
    }
}
