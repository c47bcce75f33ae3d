//! Reads the text of a body once: counts, links, and phrases, through MIME parts, HTML, quoted-printable and base64.
//!
//! It takes any bytes and never fails: what is broken is read as plain text. It never follows a reference and never decodes what is not
//! text. The work is linear in the bytes it is given; parts, their depth, and the length of a tag and of a link's host are bounded.

use crate::bytes::{find_byte, letters, line_end};
use crate::header::{self, Fields};
use crate::phrases::{ENDS, Met, NOTHING, Phrases, SPACE, START, symbol};

/// Parts of a message that are looked at.
const MOST_PARTS: u32 = 100;
/// Multiparts inside multiparts.
const MOST_DEPTH: u32 = 5;
/// Bytes of an HTML tag; so many are taken for one if there is no `>`.
const MOST_TAG_BYTES: usize = 2048;
/// Bytes of a link's authority (RFC 3986 §3.2).
const MOST_AUTHORITY_BYTES: usize = 256;

// What a byte means to the scan: its symbol in the low bits, and flags.
const SYMBOL: u16 = 31;
const LETTER: u16 = 1 << 5;
const CAPITAL: u16 = 1 << 6;
const BETWEEN_WORDS: u16 = 1 << 7;
const SPECIAL: u16 = 1 << 8;
const SPECIAL_IN_HTML: u16 = 1 << 9;
const SPECIAL_IN_QUOTED_PRINTABLE: u16 = 1 << 10;

static CLASS: [u16; 256] = {
    let mut class = [0_u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let this = byte as u8;
        class[byte] = symbol(this) as u16
            | match this {
                b'a'..=b'z' => LETTER,
                b'A'..=b'Z' => LETTER | CAPITAL,
                b'!' | b':' => SPECIAL | BETWEEN_WORDS,
                b'$' => SPECIAL,
                b'<' | b'&' => SPECIAL_IN_HTML | BETWEEN_WORDS,
                b'=' => SPECIAL_IN_QUOTED_PRINTABLE | BETWEEN_WORDS,
                b'0'..=b'9' | b'%' | b'\'' | 0x80.. => 0,
                _ => BETWEEN_WORDS,
            };
        byte += 1;
    }
    class
};

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Words of two letters or more.
    pub words: u32,
    /// Those of them that begin with two capitals.
    pub capitals: u32,
    pub exclamations: u32,
    /// `$` with a digit behind it.
    pub sums: u32,
    pub images: u32,
    pub has_html: bool,
    pub has_plain: bool,
    pub has_form: bool,
    pub has_script: bool,
    pub has_needless_base64: bool,
    pub links: Links,
    pub met: Met,
    parts: u32,
}

/// What is odd about links.
#[derive(Clone, Copy, Debug, Default)]
pub struct Links {
    pub numeric_host: bool,
    pub userinfo: bool,
    pub percent_host: bool,
    pub port: bool,
}

impl Facts {
    /// Reads a body, or a part of one, whose header says what it is.
    pub fn read(&mut self, phrases: &Phrases, fields: &Fields<'_>, body: &[u8]) {
        self.read_part(phrases, fields, body, 0);
    }

    fn read_part(&mut self, phrases: &Phrases, fields: &Fields<'_>, body: &[u8], depth: u32) {
        let content_type = fields.content_type;
        if header::begins(content_type, "multipart/") && depth < MOST_DEPTH {
            if let Some(boundary) = content_type.and_then(header::boundary) {
                for part in (Parts { rest: body, boundary }) {
                    self.parts += 1;
                    if self.parts > MOST_PARTS {
                        return;
                    }
                    let (fields, offset) = header::read(part);
                    self.read_part(phrases, &fields, &part[offset..], depth + 1);
                }
                return;
            }
        }
        if header::begins(content_type, "image/") {
            self.images += 1;
        }
        // A part without a type is plain text (RFC 2045 §5.2), and so is one whose type is no type.
        if content_type.is_some_and(|value| value.contains(&b'/')) && !header::begins(content_type, "text/") {
            return;
        }
        let html = header::begins(content_type, "text/html");
        self.has_html |= html;
        self.has_plain |= !html;
        if header::begins(fields.encoding, "base64") {
            let text = decode_base64(body);
            self.has_needless_base64 |= !text.is_empty() && text.is_ascii();
            self.scan(phrases, &text, html, false);
        } else {
            self.scan(phrases, body, html, header::begins(fields.encoding, "quoted-printable"));
        }
    }

    /// Reads a text.
    pub fn scan(&mut self, phrases: &Phrases, text: &[u8], html: bool, quoted_printable: bool) {
        let special = SPECIAL
            | if html { SPECIAL_IN_HTML } else { 0 }
            | if quoted_printable {
                SPECIAL_IN_QUOTED_PRINTABLE
            } else {
                0
            };
        let stop = special | BETWEEN_WORDS;
        let mut state = START;
        let mut at = 0;
        self.look_at_word(text);
        while let Some(byte) = text.get(at) {
            let class = CLASS[usize::from(*byte)];
            let mut symbol = (class & SYMBOL) as u8;
            let mut length = 1;
            if class & special != 0 {
                match byte {
                    b'!' => self.exclamations += 1,
                    b'$' => self.sums += u32::from(text.get(at + 1).is_some_and(u8::is_ascii_digit)),
                    b':' => self.links.look(text, at),
                    b'<' => (symbol, length) = self.tag(&text[at..]),
                    b'&' => length = if text[at..].starts_with(b"&nbsp;") { 6 } else { 1 },
                    _ => (symbol, length) = quoted(&text[at..]),
                }
            }
            state = phrases.step(state, symbol);
            at += length;
            if state & ENDS != 0 {
                phrases.collect(state, &mut self.met);
            }
            if state == 0 {
                // Inside a word with which no phrase begins: only its end matters.
                at += word_length(&text[at..], stop);
            } else if symbol == SPACE || *byte == b'<' {
                self.look_at_word(&text[at..]);
            }
        }
    }

    /// Counts the word with which `text` begins, if it has two letters: the second tells capitals from a capital.
    fn look_at_word(&mut self, text: &[u8]) {
        if let [first, second, ..] = text {
            let (first, second) = (CLASS[usize::from(*first)], CLASS[usize::from(*second)]);
            self.words += u32::from(first & second & LETTER != 0);
            self.capitals += u32::from(first & second & CAPITAL != 0);
        }
    }

    /// Looks at the tag with which `text` begins: what it is to the text around it, and its length.
    fn tag(&mut self, text: &[u8]) -> (u8, usize) {
        // What is never closed hides all that follows, as in a browser. That keeps the work linear, too.
        let up_to = |end: &[u8]| find(text, end).map_or(text.len(), |place| place + end.len());
        if text.starts_with(b"<!--") {
            return (NOTHING, up_to(b"-->"));
        }
        if !matches!(text.get(1), Some(b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'!')) {
            return (SPACE, 1);
        }
        let most = text.len().min(MOST_TAG_BYTES);
        let end = find_byte(&text[..most], b'>').map_or(most, |place| place + 1);
        let tag = &text[..end];

        let mut colon = 0;
        while let Some(place) = find_byte(&tag[colon..], b':') {
            self.links.look(tag, colon + place);
            colon += place + 1;
        }
        let (name, length) = lower_name(&tag[1..]);
        match &name[..length] {
            b"a" | b"b" | b"big" | b"em" | b"font" | b"i" | b"small" | b"span" | b"strong" | b"u" => (NOTHING, end),
            // A closing tag: `</b>` and `</p>` alike part no words; the next opening one does.
            b"" => (NOTHING, end),
            b"style" => (SPACE, up_to(b"</").max(end)),
            b"script" => {
                self.has_script = true;
                (SPACE, up_to(b"</").max(end))
            }
            b"iframe" | b"frame" => {
                self.has_script = true;
                (SPACE, end)
            }
            b"img" => {
                self.images += 1;
                (SPACE, end)
            }
            b"form" => {
                self.has_form = true;
                (SPACE, end)
            }
            _ => (SPACE, end),
        }
    }
}

/// The name with which a tag's inside begins, in lower case, and its length. A longer one is cut, and then is none that matters.
fn lower_name(inside: &[u8]) -> ([u8; 8], usize) {
    let mut name = [0; 8];
    let mut length = 0;
    for (slot, byte) in name.iter_mut().zip(inside) {
        if !byte.is_ascii_alphanumeric() {
            break;
        }
        *slot = byte.to_ascii_lowercase();
        length += 1;
    }
    (name, length)
}

impl Links {
    /// Looks at the link whose scheme ends with the colon at `colon`, if there is one.
    fn look(&mut self, text: &[u8], colon: usize) {
        let scheme = |name: &[u8]| colon >= name.len() && text[colon - name.len()..colon].eq_ignore_ascii_case(name);
        if !text[colon + 1..].starts_with(b"//") || !(scheme(b"http") || scheme(b"https")) {
            return;
        }
        let rest = &text[colon + 3..];
        let end = rest
            .iter()
            .take(MOST_AUTHORITY_BYTES)
            .position(|byte| {
                matches!(
                    byte,
                    0..=b' ' | b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b')' | b']'
                )
            })
            .unwrap_or(rest.len().min(MOST_AUTHORITY_BYTES));
        let mut host = &rest[..end];
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
    }
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

/// The quoted-printable code with which `text` begins: the symbol for which it stands, and its length.
fn quoted(text: &[u8]) -> (u8, usize) {
    let hex = |place: usize| text.get(place).and_then(|byte| char::from(*byte).to_digit(16));
    match text {
        [_, b'\n', ..] => (NOTHING, 2),
        [_, b'\r', b'\n', ..] => (NOTHING, 3),
        _ => match (hex(1), hex(2)) {
            (Some(high), Some(low)) => (symbol((high * 16 + low) as u8), 3),
            _ => (symbol(b'='), 1),
        },
    }
}

/// The parts between lines that begin with `--` and the boundary.
struct Parts<'a> {
    rest: &'a [u8],
    boundary: &'a [u8],
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (_, behind) = self.split(self.rest)?;
        if behind.starts_with(b"--") {
            return None;
        }
        // The line of the boundary ends here.
        let start = line_end(behind, 0)?;
        let part = &behind[start..];
        match self.split(part) {
            Some((before, _)) => {
                self.rest = &part[before.len()..];
                Some(before)
            }
            None => {
                self.rest = &[];
                Some(part)
            }
        }
    }
}

impl<'a> Parts<'a> {
    /// What is before and behind the next boundary.
    fn split(&self, text: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let mut line = 0;
        loop {
            let behind = text[line..]
                .strip_prefix(b"--")
                .and_then(|rest| rest.strip_prefix(self.boundary));
            if let Some(behind) = behind {
                return Some((&text[..line], behind));
            }
            line = line_end(text, line)?;
        }
    }
}

/// As far as it goes: what is no base64 is passed over, `=` ends it.
fn decode_base64(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            decoded.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        2 => decoded.push((bits >> 4) as u8),
        3 => decoded.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    decoded
}

/// Bytes up to the first one that has a flag of `stop`, of which no letter has one.
fn word_length(text: &[u8], stop: u16) -> usize {
    let mut length = 0;
    loop {
        length += letters(&text[length..]);
        match text.get(length) {
            Some(byte) if CLASS[usize::from(*byte)] & stop == 0 => length += 1,
            _ => return length,
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(message: &str) -> Facts {
        let phrases = Phrases::new(["act now", "free money", "hidden text"]).expect("valid");
        let message = message.replace('\n', "\r\n");
        let (fields, offset) = header::read(message.as_bytes());
        let mut facts = Facts::default();
        facts.read(&phrases, &fields, &message.as_bytes()[offset..]);
        facts
    }

    fn phrases(message: &str) -> Vec<usize> {
        facts(message).met.iter().collect()
    }

    #[test]
    fn phrases_are_met_through_encodings_and_markup() {
        let cases: &[(&str, &[usize])] = &[
            ("A: b\n\nplease act now", &[0]),
            ("Content-Type: text/html\n\n<p>act<br>now</p>", &[0]),
            ("Content-Type: text/html\n\n<P>a<B>c</B>t&nbsp;<I>now</I>", &[0]),
            (
                "Content-Type: text/html\n\n<!-- hidden text --><style>.hidden text {}</style>act now",
                &[0],
            ),
            ("Content-Type: text/html\n\na < b act now", &[0]),
            ("Content-Type: text/html\n\nfree money <!-- act now", &[1]),
            ("Content-Type: text/html\n\nfree money <a act now", &[1]),
            ("Content-Transfer-Encoding: quoted-printable\n\nact=20n=\now", &[0]),
            ("Content-Transfer-Encoding: base64\n\nYWN0I\nG5vdw==", &[0]),
            ("Content-Type: application/octet-stream\n\nact now", &[]),
            ("Content-Type: text\n\nact now", &[0]),
            (
                "Content-Type: multipart/mixed; boundary=x\n\nfree money\n--x\n\nact now\n--x\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nact now\n--x--\nhidden text",
                &[0],
            ),
            (
                "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/alternative; boundary=\"y z\"\n\n--y z\nContent-Type: text/html\n\nfree <b>money</b>\n--y z--\n--x\n\nact now",
                &[0, 1],
            ),
            ("Content-Type: multipart/mixed\n\nact now", &[]),
        ];
        for (message, expected) in cases {
            assert_eq!(phrases(message), *expected, "{message}");
        }
    }

    #[test]
    fn what_the_parts_are_is_known() {
        let html = facts("Content-Type: text/html\n\n<img src=x><form><iframe>");
        assert!(html.has_html && !html.has_plain && html.has_form && html.has_script && html.images == 1);
        let both = facts(
            "Content-Type: multipart/alternative; boundary=x\n\n--x\nContent-Type: text/plain\n\na\n--x\nContent-Type: text/html\n\nb\n--x--\n",
        );
        assert!(both.has_html && both.has_plain);
        assert!(facts("Content-Transfer-Encoding: base64\n\nYWN0IG5vdw==").has_needless_base64);
        assert!(!facts("Content-Transfer-Encoding: base64\n\nw6Q=").has_needless_base64);
    }

    #[test]
    fn signs_are_counted_in_text_and_not_in_tags() {
        let facts = facts("Content-Type: text/html\n\n<BODY COLOR=RED>Only $100!! Or $ 5 <B>NOW</B>");
        assert_eq!(
            (facts.words, facts.capitals, facts.exclamations, facts.sums),
            (3, 1, 2, 1)
        );
    }

    #[test]
    fn odd_links_are_seen_in_text_and_tags() {
        let cases = [
            ("see http://203.0.113.7/x", "numeric"),
            ("see http://3405803783/x", "numeric"),
            ("see http://0xcb007107/x", "numeric"),
            ("see http://www.bank.example@evil.example/", "userinfo"),
            ("see HTTPS://a:b@203.0.113.7:8080/", "numeric userinfo port"),
            ("see http://%77%77.example/", "percent"),
            ("<a href=\"http://evil.example:8000/\">x</a>", "port"),
            ("see http://127.0.0.1/ and http://192.168.0.1/", ""),
            ("see http://example.org:80/a@b:9?c", ""),
            ("mailto:x@203.0.113.7 or ftp://203.0.113.7", ""),
            ("http:/", ""),
            ("http://", ""),
        ];
        for (text, expected) in cases {
            for kind in ["plain", "html"] {
                let Facts { links, .. } = facts(&format!("Content-Type: text/{kind}\n\n{text}"));
                let flags = [
                    (links.numeric_host, "numeric"),
                    (links.userinfo, "userinfo"),
                    (links.percent_host, "percent"),
                    (links.port, "port"),
                ];
                let seen: Vec<&str> = flags.iter().filter(|(seen, _)| *seen).map(|(_, name)| *name).collect();
                assert_eq!(seen.join(" "), expected, "{kind} {text}");
            }
        }
    }

    #[test]
    fn parts_and_depth_are_bounded() {
        let many = format!(
            "Content-Type: multipart/mixed; boundary=x\n\n{}--x\n\nact now",
            "--x\n\n\n".repeat(200)
        );
        assert!(phrases(&many).is_empty());
        let deep = "--x\nContent-Type: multipart/mixed; boundary=x\n\n".repeat(50);
        facts(&format!("Content-Type: multipart/mixed; boundary=x\n\n{deep}act now"));
    }

    #[test]
    fn any_bytes_are_taken() {
        // Each cut of a message that has everything, and each byte behind each sign that means something.
        let message = "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n<!-- x --><a href=\"http://u@1.2.3.4:99/\">=20=\n&nbsp;$1!</a><style>x</style>";
        for end in 0..message.len() {
            facts(&message[..end]);
        }
        let phrases = Phrases::new(["x"]).expect("valid");
        for sign in *b"!$:<&=" {
            for next in 0..=255 {
                for html in [false, true] {
                    Facts::default().scan(&phrases, &[b'h', sign, next], html, !html);
                }
            }
        }
    }
}
