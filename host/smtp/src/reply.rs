//! SMTP replies: made, written and parsed.
//!
//! A [`Reply`] is a value that can always be written: its text is printable ASCII, its lines fit
//! 512 bytes, and the class of its enhanced code is that of its code. Every standard reply of the
//! server has a constructor in `standard` and nowhere else. [`ReplyReader`] is the other direction: bounded
//! parsing of what a remote server says.
//!
//! It never decides which reply is due, and never fails on odd text: what cannot be sent is
//! replaced when the reply is made.

mod standard;

use std::borrow::Cow;
use std::fmt;

use crate::error::ReplyError;

/// Longest reply line that is written, CRLF included, in bytes (RFC 5321 §4.5.3.1.5).
pub const MAX_LINE: usize = 512;
/// Most lines that one reply is written in; text beyond is cut.
pub const MAX_LINES: usize = 32;
/// Longest line that is taken from a remote server, in bytes: servers overrun the 512 of the RFC.
pub const MAX_RECEIVED_LINE: usize = 2048;
/// Most lines that are taken from a remote server in one reply.
pub const MAX_RECEIVED_LINES: usize = 128;

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl Enhanced {
    /// Parses `5.7.1`: class 2, 4 or 5, subject and detail of at most three digits.
    pub fn parse(text: &str) -> Option<Enhanced> {
        let mut parts = text.split('.');
        let mut next = || {
            let part = parts.next()?;
            let plain = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| part.parse::<u16>().ok()).flatten()
        };
        let (class, subject, detail) = (next()?, next()?, next()?);
        let class = u8::try_from(class).ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        parts.next().is_none().then_some(Enhanced(class, subject, detail))
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One SMTP reply of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    code: u16,
    enhanced: Option<Enhanced>,
    /// Printable ASCII; lines are separated by `\n`.
    text: Cow<'static, str>,
}

impl Reply {
    /// A one-line reply. What a reply cannot carry is repaired, so that this cannot fail: a code
    /// outside 200..=599 becomes 451, the enhanced class becomes the code's, an enhanced code on a
    /// 3xx is dropped, and CR, LF, NUL, other controls and non-ASCII in `text` are replaced.
    pub fn new(code: u16, enhanced: impl Into<Option<Enhanced>>, text: impl Into<Cow<'static, str>>) -> Reply {
        let code = if (200..=599).contains(&code) { code } else { 451 };
        Reply {
            code,
            enhanced: enhanced.into().and_then(|e| fit_class(code, e)),
            text: sanitize(text.into()),
        }
    }

    /// A reply from parts that need no repair, for constants of this crate.
    pub(crate) const fn fixed(code: u16, enhanced: Enhanced, text: &'static str) -> Reply {
        Reply {
            code,
            enhanced: Some(enhanced),
            text: Cow::Borrowed(text),
        }
    }

    /// A reply of several lines, each treated as `new` treats its text.
    pub fn multi_line<I, S>(code: u16, enhanced: impl Into<Option<Enhanced>>, lines: I) -> Reply
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut reply = Reply::new(code, enhanced, "");
        let text = reply.text.to_mut();
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            text.extend(line.as_ref().chars().map(printable));
        }
        reply
    }

    /// A refusal that a policy asked for: the code must be 4xx or 5xx and the enhanced code's class
    /// the same. A missing enhanced code becomes `4.7.1` or `5.7.1`. The text is repaired as in `new`.
    pub fn refusal(
        code: u16,
        enhanced: Option<Enhanced>,
        text: impl Into<Cow<'static, str>>,
    ) -> Result<Reply, ReplyError> {
        if !(400..=599).contains(&code) {
            return Err(ReplyError::Code);
        }
        let class = class_of(code);
        let enhanced = enhanced.unwrap_or(Enhanced(class, 7, 1));
        if enhanced.0 != class {
            return Err(ReplyError::Enhanced);
        }
        Ok(Reply::new(code, enhanced, text))
    }

    /// The three-digit code, 200..=599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced status code, if it has one.
    pub fn enhanced(&self) -> Option<Enhanced> {
        self.enhanced
    }

    /// The text without codes; several lines are separated by `\n`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text's lines, without codes. There is always at least one, which may be empty.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// 2xx: the command is done.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 3xx: go on (354, 334).
    pub fn is_intermediate(&self) -> bool {
        (300..400).contains(&self.code)
    }

    /// 4xx: try again later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5xx: do not try again.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// 4xx or 5xx.
    pub fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    /// The same codes with another text, treated as in `new`.
    pub fn with_text(&self, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::new(self.code, self.enhanced, text)
    }

    /// Appends the reply as it goes over the wire. A line over [`MAX_LINE`] is split, at a space if
    /// there is one, and text beyond [`MAX_LINES`] lines is cut.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut prefix = [0u8; PREFIX_MAX];
        let prefix_len = self.write_prefix(&mut prefix);
        let prefix = &mut prefix[..prefix_len];
        let room = MAX_LINE - 2 - prefix_len;
        if self.text.len() <= room && memchr::memchr(b'\n', self.text.as_bytes()).is_none() {
            out.reserve(prefix_len + self.text.len() + 2);
            out.extend_from_slice(prefix);
            out.extend_from_slice(self.text.as_bytes());
            out.extend_from_slice(b"\r\n");
            return;
        }
        let mut pieces = self
            .lines()
            .flat_map(|line| pieces(line, room))
            .take(MAX_LINES)
            .peekable();
        while let Some(piece) = pieces.next() {
            prefix[3] = if pieces.peek().is_some() { b'-' } else { b' ' };
            out.extend_from_slice(prefix);
            out.extend_from_slice(piece.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// `250 2.1.0 `: the code, a separator at index 3, and the enhanced code.
    fn write_prefix(&self, prefix: &mut [u8; PREFIX_MAX]) -> usize {
        let mut len = 0;
        let mut push = |byte: u8| {
            prefix[len] = byte;
            len += 1;
        };
        let digits = |number: u16, least: u16, push: &mut dyn FnMut(u8)| {
            let mut scale = 100;
            while scale > 0 {
                if number >= scale || scale <= least {
                    // A digit is below ten, so the cast cannot lose anything.
                    push(b'0' + (number / scale % 10) as u8);
                }
                scale /= 10;
            }
        };
        digits(self.code, 100, &mut push);
        push(b' ');
        if let Some(Enhanced(class, subject, detail)) = self.enhanced {
            digits(u16::from(class), 1, &mut push);
            push(b'.');
            digits(subject % 1000, 1, &mut push);
            push(b'.');
            digits(detail % 1000, 1, &mut push);
            push(b' ');
        }
        len
    }
}

/// `250 5.999.999 `.
const PREFIX_MAX: usize = 14;

/// As for the log: the lines joined by ` / `.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for (index, line) in self.lines().enumerate() {
            let separator = if index == 0 { " " } else { " / " };
            if !line.is_empty() || index > 0 {
                write!(f, "{separator}{line}")?;
            }
        }
        Ok(())
    }
}

/// Reads one reply at a time from a stream of bytes, within [`MAX_RECEIVED_LINE`] and
/// [`MAX_RECEIVED_LINES`]. After an error the stream is out of step: close the connection.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The line that has not ended yet.
    line: Vec<u8>,
    code: Option<u16>,
    enhanced: Option<Enhanced>,
    text: String,
    lines: usize,
}

impl ReplyReader {
    /// A reader that stands in front of a reply.
    pub fn new() -> ReplyReader {
        ReplyReader::default()
    }

    /// Takes bytes off the front of `input` and returns the reply when its last line has come, or
    /// `None` when `input` is used up without that. Bytes behind the reply stay in `input`.
    ///
    /// Lines may end with LF alone and hold 8-bit bytes: a remote server's text is only shown, never
    /// obeyed, so it is made printable instead of being refused.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while let Some(end) = memchr::memchr(b'\n', input) {
            let (head, rest) = input.split_at(end);
            if self.line.len() + head.len() > MAX_RECEIVED_LINE {
                return Err(ReplyError::LineTooLong);
            }
            *input = &rest[1..];
            let complete = if self.line.is_empty() {
                self.take_line(head)?
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(head);
                let complete = self.take_line(&line)?;
                line.clear();
                self.line = line;
                complete
            };
            if complete.is_some() {
                return Ok(complete);
            }
        }
        if self.line.len() + input.len() > MAX_RECEIVED_LINE {
            return Err(ReplyError::LineTooLong);
        }
        self.line.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// Whether a reply has begun and not ended.
    pub fn is_midway(&self) -> bool {
        self.code.is_some() || !self.line.is_empty()
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Syntax)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(ReplyError::Syntax);
        }
        let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        if !(200..=599).contains(&code) {
            return Err(ReplyError::Syntax);
        }
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::Syntax),
        };
        if *self.code.get_or_insert(code) != code {
            return Err(ReplyError::CodeChanged);
        }
        if self.lines == MAX_RECEIVED_LINES {
            return Err(ReplyError::TooManyLines);
        }
        let text = String::from_utf8_lossy(text);
        let text = self.strip_enhanced(code, &text);
        if self.lines > 0 {
            self.text.push('\n');
        }
        self.text.extend(text.chars().map(printable));
        self.lines += 1;
        Ok(last.then(|| self.finish(code)))
    }

    /// The first line's enhanced code is kept; the same one is taken off every line.
    fn strip_enhanced<'a>(&mut self, code: u16, text: &'a str) -> &'a str {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match Enhanced::parse(word) {
            Some(enhanced) if enhanced.0 == class_of(code) => {
                if self.lines == 0 {
                    self.enhanced = Some(enhanced);
                }
                if self.enhanced == Some(enhanced) { rest } else { text }
            }
            _ => text,
        }
    }

    fn finish(&mut self, code: u16) -> Reply {
        self.code = None;
        self.lines = 0;
        Reply {
            code,
            enhanced: self.enhanced.take(),
            text: Cow::Owned(std::mem::take(&mut self.text)),
        }
    }
}

fn class_of(code: u16) -> u8 {
    // A code is at most 599 here, so this is one digit.
    (code / 100) as u8
}

fn fit_class(code: u16, enhanced: Enhanced) -> Option<Enhanced> {
    match class_of(code) {
        3 => None,
        class => Some(Enhanced(class, enhanced.1 % 1000, enhanced.2 % 1000)),
    }
}

fn printable(c: char) -> char {
    match c {
        ' '..='~' => c,
        c if c.is_control() => ' ',
        _ => '?',
    }
}

fn sanitize(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        text
    } else {
        Cow::Owned(text.chars().map(printable).collect())
    }
}

/// Cuts ASCII text into pieces of at most `room` bytes, at spaces where there are any.
fn pieces(line: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        if text.len() <= room {
            return Some(text);
        }
        let cut = match text[..=room].rfind(' ') {
            Some(space) if space > 0 => space,
            _ => room,
        };
        let (piece, tail) = text.split_at(cut);
        rest = Some(tail.strip_prefix(' ').unwrap_or(tail));
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).expect("replies are ASCII")
    }

    fn read_all(bytes: &[u8], step: usize) -> Result<Vec<Reply>, ReplyError> {
        let mut reader = ReplyReader::new();
        let mut replies = Vec::new();
        for mut chunk in bytes.chunks(step) {
            while let Some(reply) = reader.read(&mut chunk)? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn written_as_on_the_wire() {
        let cases = [
            (Reply::rcpt_ok(), "250 2.1.5 Ok\r\n"),
            (Reply::banner("mx.example"), "220 mx.example ESMTP\r\n"),
            (Reply::new(538, Enhanced(5, 7, 11), "x"), "538 5.7.11 x\r\n"),
            (Reply::new(550, Enhanced(2, 100, 20), "x"), "550 5.100.20 x\r\n"),
            (Reply::new(250, None, ""), "250 \r\n"),
            (Reply::new(42, None, "odd code"), "451 odd code\r\n"),
            (
                Reply::new(550, Enhanced(5, 7, 1), "a\r\n250 ok\0\u{e9}\u{7f}"),
                "550 5.7.1 a  250 ok ? \r\n",
            ),
            (
                Reply::multi_line(250, None, ["one", "two\r", ""]),
                "250-one\r\n250-two \r\n250 \r\n",
            ),
            (Reply::start_data(), "354 End data with <CR><LF>.<CR><LF>\r\n"),
            (
                Reply::relay_denied("u@far.example", "domain-not-ours", "a1"),
                "550 5.7.1 <u@far.example>: Relay access denied (domain-not-ours) [a1]\r\n",
            ),
        ];
        for (reply, expected) in cases {
            assert_eq!(wire(&reply), expected);
        }
    }

    #[test]
    fn long_text_is_split_and_bounded() {
        let words = "word ".repeat(300);
        let solid = "x".repeat(2000);
        for text in [words, solid, "y ".repeat(40_000)] {
            let written = wire(&Reply::new(550, Enhanced(5, 7, 1), text));
            let lines: Vec<&str> = written.split_terminator("\r\n").collect();
            assert!(lines.len() > 1 && lines.len() <= MAX_LINES);
            assert!(lines.iter().all(|line| line.len() + 2 <= MAX_LINE));
            let (last, before) = lines.split_last().expect("there are lines");
            assert!(last.starts_with("550 5.7.1 "));
            assert!(before.iter().all(|line| line.starts_with("550-5.7.1 ")));
        }
    }

    #[test]
    fn refusals_of_a_policy_are_checked() {
        assert_eq!(Reply::refusal(250, None, "x"), Err(ReplyError::Code));
        assert_eq!(Reply::refusal(600, None, "x"), Err(ReplyError::Code));
        assert_eq!(
            Reply::refusal(550, Some(Enhanced(4, 7, 1)), "x"),
            Err(ReplyError::Enhanced)
        );
        let reply = Reply::refusal(450, None, "later").expect("450 is a refusal");
        assert_eq!(wire(&reply), "450 4.7.1 later\r\n");
    }

    #[test]
    fn read_in_pieces_of_any_size() {
        let bytes = b"250-mx.example\r\n250-SIZE 10\r\n250 AUTH PLAIN\r\n354\r\n\
            550-5.1.1 no such\n550 5.1.1 user\r\n250 2.1.5.9 x\r\n451 5.0.0 class differs\r\n";
        let whole = read_all(bytes, bytes.len()).expect("all are replies");
        let shown: Vec<String> = whole.iter().map(Reply::to_string).collect();
        assert_eq!(
            shown,
            [
                "250 mx.example / SIZE 10 / AUTH PLAIN",
                "354",
                "550 5.1.1 no such / user",
                "250 2.1.5.9 x",
                "451 5.0.0 class differs",
            ]
        );
        assert_eq!(whole[2].enhanced(), Some(Enhanced(5, 1, 1)));
        for step in 1..20 {
            assert_eq!(read_all(bytes, step).as_deref(), Ok(&whole[..]));
        }
    }

    #[test]
    fn what_is_no_reply() {
        let long = [b'2'; MAX_RECEIVED_LINE + 2];
        let many = b"250-x\r\n".repeat(MAX_RECEIVED_LINES + 1);
        let cases: [(&[u8], ReplyError); 9] = [
            (b"hello\r\n", ReplyError::Syntax),
            (b"\r\n", ReplyError::Syntax),
            (b"25\r\n", ReplyError::Syntax),
            (b"2500 x\r\n", ReplyError::Syntax),
            (b"150 x\r\n", ReplyError::Syntax),
            (b"600 x\r\n", ReplyError::Syntax),
            (b"250-x\r\n251 x\r\n", ReplyError::CodeChanged),
            (&long, ReplyError::LineTooLong),
            (&many, ReplyError::TooManyLines),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read_all(bytes, bytes.len()), Err(expected));
            assert_eq!(read_all(bytes, 1), Err(expected));
        }
    }

    #[test]
    fn received_text_is_made_printable() {
        let replies = read_all(b"550 5.7.1 caf\xc3\xa9 \xff\x07\r\n", 64).expect("a reply");
        assert_eq!(replies[0].text(), "caf? ? ");
    }
}
