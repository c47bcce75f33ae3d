//! The hosts of the links in a message: through MIME parts, base64, quoted-printable and HTML's character references.
//!
//! It takes any bytes and never follows a link. The work is linear in the bytes it is given; the length of a link's host is
//! bounded, and how many hosts there are is the caller's bound.

use std::borrow::Cow;
use std::collections::VecDeque;

use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders, PartType};

use crate::lenient;

/// Bytes of a link's authority (RFC 3986 §3.2): a name, and a user before it.
const MOST_AUTHORITY_BYTES: usize = 512;
/// Bytes of a character reference that are looked at: `&#x0000002f;`.
const MOST_REFERENCE_BYTES: usize = 12;

/// Blanks before a link without a scheme that are passed over.
const MOST_BLANKS: usize = 16;

/// Tells `found` every host that a message, or its beginning, links to: as written, in order, as often as it is there; those of messages inside it last.
pub fn each(message: &[u8], found: &mut impl FnMut(&str)) {
    // Not by recursion, and taken apart on the way: thousands of messages inside each other are no more than thousands of lines, and to free them as
    // they are nested would take more stack than there is.
    let mut messages: VecDeque<Message<'_>> = MessageParser::new().parse(message).into_iter().collect();
    while let Some(message) = messages.pop_front() {
        for part in message.parts {
            match part.body {
                PartType::Message(inner) => messages.push_back(inner),
                PartType::Text(ref raw) if part.is_encoding_problem => {
                    in_text(&without_references(&decoded(&part, raw)), found);
                }
                PartType::Text(text) => in_text(&text, found),
                PartType::Html(html) => in_text(&without_references(&html), found),
                PartType::Binary(_) | PartType::InlineBinary(_) | PartType::Multipart(_) => {}
            }
        }
    }
}

/// A part that the parser could not decode, and left as it was.
fn decoded<'a>(part: &MessagePart<'_>, raw: &'a str) -> Cow<'a, str> {
    let is = |encoding: &str| {
        part.content_transfer_encoding()
            .is_some_and(|value| value.eq_ignore_ascii_case(encoding))
    };
    let decode = if is("base64") {
        lenient::base64
    } else if is("quoted-printable") {
        lenient::quoted_printable
    } else {
        return Cow::Borrowed(raw);
    };
    Cow::Owned(String::from_utf8_lossy(&decode(raw)).into_owned())
}

fn in_text(text: &str, found: &mut impl FnMut(&str)) {
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let start = match byte {
            b':' if is_after(bytes, at, b"http") || is_after(bytes, at, b"https") => at + 1,
            // Without a scheme, as in `href="//host/"` and `url(//host/)`; blanks before it mean nothing to browsers.
            b'"' | b'\'' | b'=' | b'(' => {
                let blanks = bytes[at + 1..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_whitespace())
                    .take(MOST_BLANKS)
                    .count();
                if !bytes[at + 1 + blanks..].starts_with(b"//") {
                    continue;
                }
                at + 1 + blanks
            }
            // Mail programs make a link of it.
            b'w' | b'W' if begins_www(bytes, at) => {
                name(&text[at..], found);
                continue;
            }
            _ => continue,
        };
        // Browsers take any number of slashes of either kind.
        let slashes = bytes[start..]
            .iter()
            .take_while(|byte| matches!(byte, b'/' | b'\\'))
            .count();
        if slashes > 0 {
            host(&text[start + slashes..], found);
        }
    }
}

/// Whether `word` stands before `at`, in any case.
fn is_after(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    at >= word.len() && bytes[at - word.len()..at].eq_ignore_ascii_case(word)
}

/// Whether a word that begins with `www.` does so at `at`.
fn begins_www(bytes: &[u8], at: usize) -> bool {
    let is_inside =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'@' | b'/' | b'\\' | 0x80..);
    bytes[at..]
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"www."))
        && !at.checked_sub(1).is_some_and(|before| is_inside(bytes[before]))
}

/// The host of the authority with which `rest` begins.
fn host(rest: &str, found: &mut impl FnMut(&str)) {
    let end = rest
        .char_indices()
        .find(|(at, c)| {
            *at >= MOST_AUTHORITY_BYTES
                || c.is_whitespace()
                || c.is_control()
                || matches!(c, '/' | '\\' | '?' | '#' | '"' | '<' | '>')
        })
        .map_or(rest.len(), |(at, _)| at);
    let authority = &rest[..end];
    // Whatever stands before an `@` is a user, however much it looks like a host.
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    name(&without_percent(authority), found);
}

/// The name with which `text` begins.
fn name(text: &str, found: &mut impl FnMut(&str)) {
    let is_in_name = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    // The dots of other scripts are dots (UTS #46).
    let dot = |c| {
        if matches!(c, '\u{3002}' | '\u{ff0e}' | '\u{ff61}') {
            '.'
        } else {
            c
        }
    };
    let name: String = text
        .chars()
        .take(MOST_AUTHORITY_BYTES)
        .map(dot)
        .take_while(is_in_name)
        .collect();
    let name = name.trim_matches('.');
    if !name.is_empty() {
        found(name);
    }
}

/// `%65vil.example` is `evil.example` to a browser.
fn without_percent(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = |place: usize| behind.get(place).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            _ => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

/// `&#46;` is a dot to a browser, in links too. Of the named ones only those that a link is made of.
fn without_references(html: &str) -> Cow<'_, str> {
    if !html.contains('&') {
        return Cow::Borrowed(html);
    }
    let mut plain = String::with_capacity(html.len());
    let mut parts = html.split('&');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match reference(part) {
            Some((c, length)) => {
                plain.push(c);
                plain.push_str(&part[length..]);
            }
            None => {
                plain.push('&');
                plain.push_str(part);
            }
        }
    }
    Cow::Owned(plain)
}

/// The character for which a reference stands, and its length without the `&`.
fn reference(text: &str) -> Option<(char, usize)> {
    for (name, c) in [("colon;", ':'), ("sol;", '/'), ("period;", '.'), ("commat;", '@')] {
        if text.starts_with(name) {
            return Some((c, name.len()));
        }
    }
    let number = text.strip_prefix('#')?;
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let length = digits
        .bytes()
        .take(MOST_REFERENCE_BYTES)
        .take_while(|byte| char::from(*byte).is_digit(radix))
        .count();
    let c = char::from_u32(u32::from_str_radix(&digits[..length], radix).ok()?)?;
    let end = text.len() - digits.len() + length;
    // The semicolon may be left out.
    Some((c, end + usize::from(digits[length..].starts_with(';'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(message: &str) -> Vec<String> {
        let mut hosts = Vec::new();
        each(message.replace('\n', "\r\n").as_bytes(), &mut |host| {
            hosts.push(host.to_owned())
        });
        hosts
    }

    #[test]
    fn links_are_found_in_text_and_tags_as_a_reader_would_follow_them() {
        let cases: &[(&str, &[&str])] = &[
            (
                "see http://a.example/x and HTTPS://B.example:8080?x",
                &["a.example", "B.example"],
            ),
            (
                "(http://a.example), <http://b.example>; http://c.example.",
                &["a.example", "b.example", "c.example"],
            ),
            (
                "<a href=\"//a.example/x\"> <a href=//b.example> <a href='//c.example'>",
                &["a.example", "b.example", "c.example"],
            ),
            (
                "<a href=\" //a.example\"> <a href= //b.example> <p style=\"background:url( //c.example/x)\">",
                &["a.example", "b.example", "c.example"],
            ),
            ("http://www.bank.example@evil.example/", &["evil.example"]),
            ("http://bank.example:x,y@evil.example:80/", &["evil.example"]),
            ("http://evil.example\\@bank.example/", &["evil.example"]),
            (
                "http:/\\evil.example http:////evil.example",
                &["evil.example", "evil.example"],
            ),
            ("http://%65vil%2Eexample/", &["evil.example"]),
            ("http://evil\u{3002}example/", &["evil.example"]),
            ("http://b\u{fc}cher.example/", &["b\u{fc}cher.example"]),
            (
                "www.a.example, me@www.b.example x.www.c.example http://www.d.example",
                &["www.a.example", "www.d.example"],
            ),
            ("http://192.0.2.1/ http://[2001:db8::1]/", &["192.0.2.1"]),
            (
                "http:// http:x ftp://a.example mailto:x@a.example // a //b.example hxxp://c.example x = // d.example",
                &[],
            ),
        ];
        for (text, expected) in cases {
            for kind in ["plain", "html"] {
                let message = format!("Content-Type: text/{kind}; charset=utf-8\n\n{text}\n");
                assert_eq!(hosts(&message), *expected, "{kind} {text}");
            }
        }
    }

    #[test]
    fn encodings_hide_nothing() {
        let cases = [
            "Content-Transfer-Encoding: base64\n\naHR0cDovL2V2aWwuZXhhbXBsZS8=\n",
            "Content-Transfer-Encoding: quoted-printable\n\nhttp://ev=\nil=2Eexample/\n",
            "Content-Type: text/html\n\n<a href=\"&#104;ttp&colon;&sol;&#x2f;evil&#46example/\">x</a>\n",
            "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/alternative; boundary=y\n\n--y\nContent-Type: text/html\n\n<a href=http://evil.example>\n--y--\n--x--\n",
            "Content-Type: message/rfc822\n\nSubject: x\n\nhttp://evil.example/\n",
            // Cut off in the middle.
            "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\nContent-Transfer-Encoding: base64\n\naHR0cDovL2V2aWwuZXhhbXBsZS8g",
            "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Transfer-Encoding: quoted-printable\n\nhttp://ev=\nil=2Eexample/=",
            // Broken on purpose.
            "Content-Transfer-Encoding: base64\n\naHR0cDovL2V2@aWwuZXhhbXBsZS8=\n",
            "Content-Transfer-Encoding: Quoted-Printable\n\n=ZZ http://ev=\nil=2Eexample/\n",
        ];
        for message in cases {
            assert_eq!(hosts(message), ["evil.example"], "{message}");
        }
        assert_eq!(hosts("Content-Type: image/png\n\nhttp://evil.example/\n"), [""; 0]);
    }

    #[test]
    fn any_bytes_are_taken() {
        for encoding in ["base64", "quoted-printable"] {
            let message = format!("Content-Transfer-Encoding: {encoding}\n\n=\u{fc}aHR0=3\u{fc}c@=");
            for end in 0..message.len() {
                each(&message.as_bytes()[..end], &mut |_| {});
            }
        }
        let message = "Content-Type: text/html\n\n<a href=\"http://u\u{fc}@%6\u{fc}\u{3002}x:1/\">&#x;&#1114112;&#99999999999999;&#\u{fc};www.\u{fc}\n";
        for end in 0..message.len() {
            each(&message.as_bytes()[..end], &mut |_| {});
        }
        let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(20_000) + "http://a.example";
        let mut hosts = 0;
        // With the stack that a component has.
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        std::thread::scope(|scope| {
            let scan = || each(deep.as_bytes(), &mut |_| hosts += 1);
            thread
                .spawn_scoped(scope, scan)
                .expect("a thread")
                .join()
                .expect("no overflow");
        });
        assert_eq!(hosts, 1);
        each(("http://".to_owned() + &"a".repeat(100_000)).as_bytes(), &mut |_| {});
    }
}
