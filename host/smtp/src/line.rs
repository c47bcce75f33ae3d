//! The input buffer of a session, and the command lines in it.
//!
//! [`Input`] holds what has been received and not been used yet, within [`MAX_INPUT`]. It cuts command
//! lines at CRLF and says what is wrong with those that are none. It never interprets a line, and it
//! never grows for the sake of one: an over-long line is thrown away as it comes.

use std::ops::Range;

/// Most bytes of input that wait in a session.
pub const MAX_INPUT: usize = 64 * 1024;
/// A buffer with more room than this is given back when it is empty, in bytes.
const KEEP_CAPACITY: usize = 8 * 1024;

/// Received bytes in front of the session.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    /// What is before this has been used.
    start: usize,
    /// The part from `start` to here holds no LF.
    searched: usize,
    /// The rest of an over-long line is being thrown away.
    skipping: bool,
}

/// One line of the input. `Text` is a range of the buffer, without the CRLF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Text(Range<usize>),
    /// Over the limit.
    TooLong,
    /// Ended by LF alone, or with a CR or a NUL in it; the range is without the LF.
    Malformed(Range<usize>),
}

/// Most bytes that a line may have, its CRLF included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineLimits {
    pub ordinary: usize,
    /// For a line that begins with `AUTH `, and for the responses of its exchange.
    pub auth: usize,
}

impl LineLimits {
    fn for_line(self, line: &[u8]) -> usize {
        let is_auth = line.get(..5).is_some_and(|head| head.eq_ignore_ascii_case(b"AUTH "));
        // The buffer must be able to hold the line.
        let limit = if is_auth { self.auth } else { self.ordinary };
        limit.min(MAX_INPUT / 2)
    }
}

impl Input {
    /// How many bytes `push` takes now.
    pub fn space(&self) -> usize {
        MAX_INPUT - self.len()
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a line, or what there is of it, has begun.
    pub fn is_midway(&self) -> bool {
        self.skipping || !self.is_empty()
    }

    /// Adds received bytes, at most `space()` of them.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What has not been used yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Bytes that were used since the last `push`, or will be; empty if they are no longer there.
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Uses up the next `count` bytes and returns where they are for `slice`.
    pub fn consume(&mut self, count: usize) -> Range<usize> {
        let from = self.start;
        self.start = (from + count).min(self.bytes.len());
        from..self.start
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Input::default();
    }

    /// Gives a large buffer back if there is nothing in it.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.bytes.capacity() > KEEP_CAPACITY {
            self.bytes = Vec::new();
            self.start = 0;
            self.searched = 0;
        }
    }

    /// Uses up the next line, if it has come whole (RFC 5321 §2.3.8: CRLF ends a line; a bare LF makes
    /// one that is refused, so that people at a terminal learn of it).
    pub fn next_line(&mut self, limits: LineLimits) -> Option<Line> {
        let from = self.searched.max(self.start);
        let Some(at) = memchr::memchr(b'\n', &self.bytes[from..]) else {
            self.searched = self.bytes.len();
            if self.skipping || self.len() > limits.for_line(self.rest()) {
                self.skipping = true;
                self.start = self.bytes.len();
            }
            return None;
        };
        let range = self.consume(from + at + 1 - self.start);
        if std::mem::take(&mut self.skipping) {
            return Some(Line::TooLong);
        }
        let line = &self.bytes[range.clone()];
        if line.len() > limits.for_line(line) {
            return Some(Line::TooLong);
        }
        match line.strip_suffix(b"\r\n") {
            Some(text) if memchr::memchr2(b'\r', 0, text).is_none() => Some(Line::Text(range.start..range.end - 2)),
            _ => Some(Line::Malformed(range.start..range.end - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LineLimits = LineLimits { ordinary: 10, auth: 20 };

    /// The lines of `bytes`, fed in pieces of `step`; what is wrong with a line in brackets.
    fn lines(bytes: &[u8], step: usize) -> Vec<String> {
        let mut input = Input::default();
        let mut lines = Vec::new();
        for piece in bytes.chunks(step) {
            input.push(piece);
            while let Some(line) = input.next_line(LIMITS) {
                lines.push(match line {
                    Line::Text(range) => String::from_utf8_lossy(input.slice(range)).into(),
                    Line::TooLong => "[TooLong]".to_owned(),
                    Line::Malformed(_) => "[Malformed]".to_owned(),
                });
            }
        }
        lines
    }

    #[test]
    fn cut_at_crlf_alike_in_pieces_of_any_size() {
        let bytes = b"NOOP\r\n\r\n12345678\r\n123456789\r\nAUTH 67890\r\nauth 6789012345678\r\n\
            AUTH 67890123456789\r\n1234567890123456789012345678901234567890\r\nNOOP\nNO\rOP\r\n\
            NO\0OP\r\nNOOP\r\r\n\n\r\nrest";
        let expected = [
            "NOOP",
            "",
            "12345678",
            "[TooLong]",
            "AUTH 67890",
            "auth 6789012345678",
            "[TooLong]",
            "[TooLong]",
            "[Malformed]",
            "[Malformed]",
            "[Malformed]",
            "[Malformed]",
            "[Malformed]",
            "",
        ];
        for step in 1..=bytes.len() {
            assert_eq!(lines(bytes, step), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut input = Input::default();
        for _ in 0..1000 {
            input.push(&[b'x'; 100]);
            assert_eq!(input.next_line(LIMITS), None);
            assert!(input.is_empty());
        }
        input.push(b"\r\nNOOP\r\n");
        assert_eq!(input.next_line(LIMITS), Some(Line::TooLong));
        assert!(matches!(input.next_line(LIMITS), Some(Line::Text(_))));
    }
}
