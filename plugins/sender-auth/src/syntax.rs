//! The words of an Authentication-Results field (RFC 8601 §2.2), without what stands between them: white space, folds, comments.
//!
//! Takes any bytes. What has no end (a comment, a quoted string) is [`Broken`].

/// A comment or a quoted string does not end.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// One piece of the field.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A token, or what stands in quotes. Bytes that are not UTF-8 are replaced.
    Word(String),
    /// `;`, `=`, and whatever else is no part of a token.
    Mark(u8),
}

/// Reads a value from its beginning.
pub struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    pub fn of(value: &'a [u8]) -> Pieces<'a> {
        Pieces { rest: value }
    }

    /// The next piece; none at the end.
    pub fn next(&mut self) -> Result<Option<Piece>, Broken> {
        self.skip_blanks()?;
        let Some((&first, behind)) = self.rest.split_first() else {
            return Ok(None);
        };
        if first == b'"' {
            self.rest = behind;
            return self.quoted().map(Some);
        }
        let length = self.rest.iter().position(|byte| !in_token(*byte));
        let length = length.unwrap_or(self.rest.len());
        if length == 0 {
            self.rest = behind;
            return Ok(Some(Piece::Mark(first)));
        }
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(Some(Piece::Word(String::from_utf8_lossy(word).into_owned())))
    }

    fn skip_blanks(&mut self) -> Result<(), Broken> {
        let mut depth = 0_usize;
        while let Some((&byte, behind)) = self.rest.split_first() {
            match byte {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.rest = behind.get(1..).ok_or(Broken)?;
                    continue;
                }
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if depth > 0 => {}
                _ => return Ok(()),
            }
            self.rest = behind;
        }
        if depth > 0 { Err(Broken) } else { Ok(()) }
    }

    /// Behind the opening quote.
    fn quoted(&mut self) -> Result<Piece, Broken> {
        let mut word = Vec::new();
        loop {
            let (&byte, behind) = self.rest.split_first().ok_or(Broken)?;
            self.rest = behind;
            match byte {
                b'"' => return Ok(Piece::Word(String::from_utf8_lossy(&word).into_owned())),
                b'\\' => {
                    let (&escaped, behind) = behind.split_first().ok_or(Broken)?;
                    word.push(escaped);
                    self.rest = behind;
                }
                b'\r' | b'\n' => {}
                _ => word.push(byte),
            }
        }
    }
}

/// RFC 2045 §5.1. 8-bit bytes are let in, so that what they belong to is seen as one word.
pub fn in_token(byte: u8) -> bool {
    !byte.is_ascii_control() && !b" ()<>@,;:\\\"/[]?=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_words_is_passed_over() {
        let cases: &[(&str, &[&str])] = &[
            ("relay.test; none", &["relay.test", ";", "none"]),
            (
                "\r\n\t(a (nested \\) one)) relay.test\r\n\t1 ;x",
                &["relay.test", "1", ";", "x"],
            ),
            ("\"relay\\.test\" (c)", &["relay.test"]),
            ("\"re\r\n lay\"", &["re lay"]),
            ("a=b@c/1", &["a", "=", "b", "@", "c", "/", "1"]),
            (")a", &[")", "a"]),
            ("", &[]),
            ("(only)", &[]),
        ];
        for (value, expected) in cases {
            let mut pieces = Pieces::of(value.as_bytes());
            let mut found = Vec::new();
            while let Some(piece) = pieces.next().expect("nothing is broken") {
                found.push(match piece {
                    Piece::Word(word) => word,
                    Piece::Mark(mark) => char::from(mark).to_string(),
                });
            }
            assert_eq!(found, *expected, "{value:?}");
        }
    }

    #[test]
    fn what_has_no_end_is_broken() {
        for value in ["(a", "(a\\", "((a)", "\"a", "\"a\\", "(\\"] {
            assert_eq!(Pieces::of(value.as_bytes()).next(), Err(Broken), "{value:?}");
        }
    }
}
