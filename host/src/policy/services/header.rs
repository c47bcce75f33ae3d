//! The header of a message as bytes: where its fields are, and which new fields may stand in it.
//!
//! Reads whatever a client sent and finds the fields in it, as other relays do: the header ends at the first line that
//! is neither a field nor the continuation of one; if that line is empty, it belongs to the header. Never decodes, never
//! changes a byte, never fails on what it reads. What policies write is held to RFC 5322 and refused otherwise.

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;

use super::content::EditError;

/// The longest value that a policy may give a field, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The longest name that a policy may give a field, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// The longest line of a header, without its end (RFC 5322 §2.1.1).
const LINE_BYTES_MAX: usize = 998;

/// The header of a message, the empty line behind it included, and where its fields are.
#[derive(Debug)]
pub(super) struct Header {
    pub bytes: Bytes,
    pub fields: Vec<Field>,
    /// The header is longer than what was read of it: it ends behind the last whole field.
    pub cut: bool,
}

/// One field, as places in the header's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    start: u32,
    name_len: u32,
    /// Behind the colon.
    value: u32,
    /// Behind the line end.
    end: u32,
}

impl Field {
    /// Its name, without the white space before the colon that RFC 5322 §4.5 tells us to bear.
    pub fn name<'a>(&self, header: &'a [u8]) -> &'a [u8] {
        &header[self.start as usize..(self.start + self.name_len) as usize]
    }

    /// All of it, the line end included.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Its value: folds as they are, without the space behind the colon and without the line end.
    pub fn value(&self, header: &[u8]) -> Range<usize> {
        value_range(header, self.value as usize, self.end as usize)
    }
}

/// The value in `bytes[value..end]`, which begins behind the colon and ends behind the line end.
pub(super) fn value_range(bytes: &[u8], value: usize, end: usize) -> Range<usize> {
    let whole = &bytes[value..end];
    let trimmed = whole.strip_suffix(b"\n").unwrap_or(whole);
    let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
    let space = usize::from(trimmed.first() == Some(&b' '));
    value + space..value + trimmed.len()
}

impl Header {
    /// Finds the fields at the beginning of `start`, which is the whole message, or (`more`) as much as is looked at of a
    /// longer one.
    pub fn scan(start: &Bytes, more: bool) -> Header {
        let mut fields: Vec<Field> = Vec::with_capacity(32);
        let mut separated = false;
        let mut at = 0;
        while at < start.len() {
            let line = &start[at..];
            let end = match memchr(b'\n', line) {
                Some(place) => at + place + 1,
                // The last line of a message may lack its end; of a part of one it may lack more.
                None if more => break,
                None => start.len(),
            };
            match line[0] {
                b' ' | b'\t' if !fields.is_empty() => {
                    if let Some(field) = fields.last_mut() {
                        field.end = end as u32;
                    }
                }
                b'\r' | b'\n' if matches!(&start[at..end], b"\r\n" | b"\n") => {
                    separated = true;
                    at = end;
                    break;
                }
                _ => match field(&start[at..end]) {
                    Some((name_len, colon)) => fields.push(Field {
                        start: at as u32,
                        name_len: name_len as u32,
                        value: (at + colon + 1) as u32,
                        end: end as u32,
                    }),
                    None => break,
                },
            }
            at = end;
        }
        let reached_end = more && !separated && memchr(b'\n', &start[at..]).is_none();
        if reached_end && let Some(last) = fields.pop() {
            // Its continuation may lie in what was not read.
            at = last.start as usize;
        }
        Header {
            bytes: start.slice(..at),
            fields,
            cut: reached_end,
        }
    }

    /// The empty line, as it was written; nothing if there is none.
    pub fn separator(&self) -> &[u8] {
        &self.bytes[self.fields.last().map_or(0, |last| last.end as usize)..]
    }
}

/// The length of the name and the place of the colon, if this line is a field.
fn field(line: &[u8]) -> Option<(usize, usize)> {
    let colon = memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then_some((name.len(), colon))
}

/// A new field as it is written: `name: value` with its line end, lines over 998 bytes folded where they have white space.
pub(super) fn new_field(name: &str, value: &[u8]) -> Result<Bytes, EditError> {
    check_name(name)?;
    field_named(name.as_bytes(), value)
}

/// The same with the name of a field that is there, as it is spelt there.
pub(super) fn field_named(name: &[u8], value: &[u8]) -> Result<Bytes, EditError> {
    check_value(name, value)?;
    let mut bytes = Vec::with_capacity(name.len() + value.len() + 4);
    bytes.extend_from_slice(name);
    bytes.push(b':');
    if !value.is_empty() && !value.starts_with(b"\r\n") {
        bytes.push(b' ');
    }
    for (count, line) in value.split(|byte| *byte == b'\n').enumerate() {
        if count > 0 {
            bytes.push(b'\n');
        }
        let room = if count > 0 {
            LINE_BYTES_MAX
        } else {
            LINE_BYTES_MAX.saturating_sub(bytes.len())
        };
        fold(line.strip_suffix(b"\r").unwrap_or(line), room, &mut bytes);
        if line.ends_with(b"\r") {
            bytes.push(b'\r');
        }
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(Bytes::from(bytes))
}

/// Writes one line of a value, in several lines where it is too long and has white space to break at: unfolded
/// (RFC 5322 §2.2.3) it is what it was.
fn fold(mut line: &[u8], mut room: usize, into: &mut Vec<u8>) {
    while line.len() > room {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        // Never a line of nothing but white space, which some readers take for the end of the header.
        let first_word = line.iter().position(|byte| !blank(byte)).unwrap_or(line.len());
        let last_word = line.iter().rposition(|byte| !blank(byte)).unwrap_or(0);
        let within = (first_word + 1..=room.min(last_word))
            .rev()
            .find(|at| blank(&line[*at]));
        let beyond = || (room.max(first_word)..last_word).find(|at| blank(&line[*at]));
        let Some(at) = within.or_else(beyond) else {
            break;
        };
        into.extend_from_slice(&line[..at]);
        into.extend_from_slice(b"\r\n");
        line = &line[at..];
        room = LINE_BYTES_MAX;
    }
    into.extend_from_slice(line);
}

/// RFC 5322 §2.2: printable characters without the colon.
fn check_name(name: &str) -> Result<(), EditError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(EditError::TooLarge {
            what: "a field's name",
            bytes_max: NAME_BYTES_MAX,
        });
    }
    let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    fits.then_some(()).ok_or_else(|| EditError::Name(name.to_owned()))
}

/// No NUL, and line ends only where a folded line follows.
fn check_value(name: &[u8], value: &[u8]) -> Result<(), EditError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(EditError::TooLarge {
            what: "a field's value",
            bytes_max: VALUE_BYTES_MAX,
        });
    }
    let bad = |fault| {
        Err(EditError::Value {
            name: String::from_utf8_lossy(name).into_owned(),
            fault,
        })
    };
    if memchr(0, value).is_some() {
        return bad("a NUL");
    }
    if let Some(at) = bare_line_end(value) {
        return bad(if value[at] == b'\r' { "a bare CR" } else { "a bare LF" });
    }
    for line in value.split(|byte| *byte == b'\n').skip(1) {
        if !matches!(line.first(), Some(b' ' | b'\t')) {
            return bad("a folded line that does not begin with white space");
        }
        if line.trim_ascii().is_empty() {
            return bad("a folded line of nothing but white space");
        }
    }
    Ok(())
}

/// The place of the first CR without LF, or LF without CR.
pub(super) fn bare_line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2_iter(b'\r', b'\n', bytes).find(|at| match bytes[*at] {
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => *at == 0 || bytes[at - 1] != b'\r',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str) -> (Vec<(String, String)>, &str) {
        let header = Header::scan(&Bytes::copy_from_slice(text.as_bytes()), false);
        let fields = header.fields.iter().map(|field| {
            let name = String::from_utf8_lossy(field.name(&header.bytes)).into_owned();
            let value = String::from_utf8_lossy(&header.bytes[field.value(&header.bytes)]).into_owned();
            (name, value)
        });
        (fields.collect(), &text[header.bytes.len()..])
    }

    fn pairs(found: &[(String, String)]) -> Vec<(&str, &str)> {
        found
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn fields_are_found_in_whatever_comes() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case] = &[
            ("", &[], ""),
            ("\r\n", &[], ""),
            ("\r\nbody\r\n", &[], "body\r\n"),
            ("A: b\r\n\r\nbody\r\n", &[("A", "b")], "body\r\n"),
            ("A:b\r\nC:\r\n\r\n", &[("A", "b"), ("C", "")], ""),
            (
                "A:  b\r\n c\r\n\td\r\nE: f\r\n\r\nx",
                &[("A", " b\r\n c\r\n\td"), ("E", "f")],
                "x",
            ),
            ("A:\r\n folded\r\n\r\n", &[("A", "\r\n folded")], ""),
            ("Subject : spaced\r\n\r\n", &[("Subject", "spaced")], ""),
            ("A: no end", &[("A", "no end")], ""),
            ("no colon\r\nA: b\r\n\r\n", &[], "no colon\r\nA: b\r\n\r\n"),
            (
                "A: b\r\nthe empty line is missing\r\n",
                &[("A", "b")],
                "the empty line is missing\r\n",
            ),
            (
                "From me Mon Jan 1 00:00:00\r\nA: b\r\n",
                &[],
                "From me Mon Jan 1 00:00:00\r\nA: b\r\n",
            ),
            (" folded first\r\nA: b\r\n", &[], " folded first\r\nA: b\r\n"),
            (": no name\r\n", &[], ": no name\r\n"),
            ("N\u{e9}: b\r\n", &[], "N\u{e9}: b\r\n"),
            ("A: b\n\nbody\n", &[("A", "b")], "body\n"),
            ("A: b\r\n\r", &[("A", "b")], "\r"),
        ];
        for (text, fields, body) in cases {
            let (found, rest) = scanned(text);
            assert_eq!((pairs(&found).as_slice(), rest), (*fields, *body), "in {text:?}");
        }
    }

    #[test]
    fn a_part_of_a_header_ends_behind_a_field_that_is_surely_whole() {
        for (part, kept) in [
            ("A: b\r\nC: d\r\nE", "A: b\r\n"),
            ("A: b\r\nC: d\r\n", "A: b\r\n"),
            ("A", ""),
            ("", ""),
        ] {
            let header = Header::scan(&Bytes::from(part), true);
            assert_eq!((&header.bytes[..], header.cut), (kept.as_bytes(), true), "in {part:?}");
        }
        let ends = Header::scan(&Bytes::from("A: b\r\n\r\nbod"), true);
        assert_eq!((&ends.bytes[..], ends.cut), (&b"A: b\r\n\r\n"[..], false));
        let malformed = Header::scan(&Bytes::from("A: b\r\nno colon\r\nC"), true);
        assert_eq!((&malformed.bytes[..], malformed.cut), (&b"A: b\r\n"[..], false));
    }

    #[test]
    fn what_policies_write_is_held_to_the_rules() {
        for (name, value, written) in [
            ("X-A", "b", "X-A: b\r\n"),
            ("X-A", "", "X-A:\r\n"),
            ("X-A", "b\r\n c", "X-A: b\r\n c\r\n"),
            ("X-A", "\r\n b", "X-A:\r\n b\r\n"),
        ] {
            assert_eq!(
                new_field(name, value.as_bytes()).expect("a good field"),
                written.as_bytes()
            );
        }
        for (name, value, fault) in [
            ("", "b", "is not a field's name"),
            ("X A", "b", "is not a field's name"),
            ("X:A", "b", "is not a field's name"),
            ("X\r\nA", "b", "is not a field's name"),
            ("\u{dc}", "b", "is not a field's name"),
            ("X-A", "a\0b", "a NUL"),
            ("X-A", "a\rb", "a bare CR"),
            ("X-A", "a\nb", "a bare LF"),
            ("X-A", "a\r\r\n b", "a bare CR"),
            ("X-A", "a\r", "a bare CR"),
            ("X-A", "a\r\nX-B: c", "does not begin with white space"),
            ("X-A", "a\r\n", "does not begin with white space"),
            ("X-A", "a\r\n \r\n b", "nothing but white space"),
        ] {
            let error = new_field(name, value.as_bytes()).expect_err("a bad field").to_string();
            assert!(error.contains(fault), "{name:?} {value:?}: {error}");
        }
        assert!(new_field("X", &vec![b'a'; VALUE_BYTES_MAX + 1]).is_err());
        assert!(new_field(&"X".repeat(NAME_BYTES_MAX + 1), b"a").is_err());
    }

    #[test]
    fn long_lines_are_folded_where_they_can_be() {
        let word = "w".repeat(300);
        let long = [word.as_str(); 12].join(" ");
        let giant = format!("{} tail   ", "g".repeat(5000));
        for value in [
            long.clone(),
            giant,
            format!("{long}\r\n\t{long}"),
            " ".repeat(3000),
            "g".repeat(3000),
        ] {
            let written = new_field("X-Long", value.as_bytes()).expect("a good field");
            let text = String::from_utf8(written.to_vec()).expect("ASCII");
            assert_eq!(text.replace("\r\n", ""), format!("X-Long: {value}").replace("\r\n", ""));
            let folds = text.trim_end_matches("\r\n").split("\r\n");
            for line in folds.skip(1) {
                assert!(line.starts_with([' ', '\t']) && !line.trim().is_empty());
            }
            let longest_word = value
                .split_ascii_whitespace()
                .map(str::len)
                .max()
                .unwrap_or(value.len());
            if (1..900).contains(&longest_word) {
                assert!(text.split("\r\n").all(|line| line.len() <= 998));
            }
        }
    }
}
