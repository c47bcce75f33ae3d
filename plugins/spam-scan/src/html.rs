//! Makes plain text of HTML, and notes what is odd about the markup.
//!
//! It takes any bytes and never fails: what is broken is taken as a browser would take it, roughly. It follows no reference. The work is
//! linear in the bytes it is given; the length of a tag is bounded.

use crate::bytes::{find, find_byte};
use crate::links::{Links, domain_of};

/// Bytes of a tag; so many are taken for one if there is no `>`.
const MOST_TAG_BYTES: usize = 4096;
/// Bytes of a link's text in which another host is looked for.
const MOST_LINK_TEXT_BYTES: usize = 200;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Markup {
    pub bytes: u32,
    /// Bytes of tags and comments.
    pub tag_bytes: u32,
    pub tags: u32,
    pub capital_tags: u32,
    pub unknown_tags: u32,
    pub images: u32,
    pub remote_images: u32,
    pub unseen_images: u32,
    pub described_images: u32,
    pub tables: u32,
    pub titles: u32,
    pub forms: u32,
    pub scripts: u32,
    pub comments_in_words: u32,
    pub letters_as_numbers: u32,
    pub hidden: u32,
    pub big_fonts: u32,
    pub colours: u32,
    pub backgrounds: u32,
    pub centred: u32,
    pub frames_of_page: u32,
    pub lying_links: u32,
    pub mailto_removals: u32,
    pub links: Links,
}

/// A link that is open: the host it goes to, and where its text begins in what is written.
struct Open<'a> {
    host: &'a [u8],
    from: usize,
}

impl Markup {
    /// Writes the text of `html` behind `text`.
    pub fn render(&mut self, html: &[u8], text: &mut Vec<u8>) {
        self.bytes += html.len() as u32;
        let mut link = None;
        let mut at = 0;
        while let Some(place) = html[at..].iter().position(|byte| matches!(byte, b'<' | b'&')) {
            text.extend_from_slice(&html[at..at + place]);
            at += place;
            at += match html[at] {
                b'<' => self.tag(&html[at..], text, &mut link),
                _ => self.entity(&html[at..], text),
            };
        }
        text.extend_from_slice(&html[at..]);
    }

    /// Takes the tag with which `html` begins, and says how long it is.
    fn tag<'a>(&mut self, html: &'a [u8], text: &mut Vec<u8>, link: &mut Option<Open<'a>>) -> usize {
        // What is never closed hides all that follows, as in a browser. That keeps the work linear, too.
        let up_to = |end: &[u8]| find(html, end).map_or(html.len(), |place| place + end.len());
        if html.starts_with(b"<!--") {
            let end = up_to(b"-->");
            let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphabetic);
            self.comments_in_words += u32::from(letter(text.last()) && letter(html.get(end)));
            self.tag_bytes += end as u32;
            return end;
        }
        let Some(first @ (b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'!' | b'?')) = html.get(1) else {
            text.push(b' ');
            return 1;
        };
        let most = html.len().min(MOST_TAG_BYTES);
        let end = find_byte(&html[..most], b'>').map_or(most, |place| place + 1);
        let tag = &html[..end];
        self.tags += 1;
        self.tag_bytes += end as u32;
        self.capital_tags += u32::from(first.is_ascii_uppercase());
        if *first == b'/' {
            let (name, length) = lower_name(&tag[2..]);
            if &name[..length] == b"a" {
                if let Some(link) = link.take() {
                    self.lying_links += u32::from(lies(&link, text));
                }
            }
            // `</b>` parts no words, `</p>` does.
            if !is_inline(&name[..length]) {
                text.push(b' ');
            }
            return end;
        }
        let (name, length) = lower_name(&tag[1..]);
        let name = &name[..length];
        if end > length + 2 {
            self.attributes(tag, name);
        }
        let mut hidden_up_to = None;
        match name {
            b"style" => hidden_up_to = Some(up_to(b"</")),
            b"title" => self.titles += 1,
            b"table" => self.tables += 1,
            b"script" => {
                self.scripts += 1;
                hidden_up_to = Some(up_to(b"</"));
            }
            b"iframe" | b"frame" | b"object" | b"embed" | b"applet" => self.scripts += 1,
            b"img" => self.images += 1,
            b"form" => self.forms += 1,
            b"center" => self.centred += 1,
            b"html" | b"head" | b"body" => self.frames_of_page += 1,
            b"a" => *link = host_of(tag).map(|host| Open { host, from: text.len() }),
            _ if is_inline(name) || KNOWN.contains(&name) || first.is_ascii_punctuation() => {}
            _ => self.unknown_tags += 1,
        }
        if !is_inline(name) {
            text.push(if matches!(name, b"br" | b"p" | b"tr" | b"div" | b"li") {
                b'\n'
            } else {
                b' '
            });
        }
        hidden_up_to.unwrap_or(0).max(end)
    }

    /// Looks at what stands in a tag behind its name, in one go.
    fn attributes(&mut self, tag: &[u8], name: &[u8]) {
        let mut at = 1 + name.len();
        while let Some(place) = tag[at..].iter().position(|byte| matches!(byte, b'=' | b':')) {
            let sign = at + place;
            at = sign + 1;
            let before = &tag[..sign];
            if tag[sign] == b':' {
                if tag[at..].starts_with(b"//") {
                    self.links.look(tag, sign);
                    self.remote_images += u32::from(name == b"img");
                } else if ends(before, b"mailto") {
                    let address = &tag[at..];
                    self.mailto_removals += u32::from(
                        holds(address, b"subject=") && (holds(address, b"remov") || holds(address, b"unsub")),
                    );
                } else if ends(before, b"display") {
                    self.hidden += u32::from(begins(value(tag, at), b"none"));
                } else if ends(before, b"font-size") {
                    let size = value(tag, at);
                    self.hidden += u32::from(begins(size, b"0") || begins(size, b"1px") || begins(size, b"1pt"));
                } else if ends(before, b"visibility") {
                    self.hidden += u32::from(begins(value(tag, at), b"hidden"));
                }
                continue;
            }
            let value = value(tag, at);
            if ends(before, b"bgcolor") || ends(before, b"background") {
                self.backgrounds += u32::from(name == b"body");
            } else if ends(before, b"color") {
                self.colours += 1;
                self.hidden += u32::from(name == b"font" && (begins(value, b"#fffff") || begins(value, b"white")));
            } else if ends(before, b"size") {
                if name == b"font" {
                    self.big_fonts += u32::from(matches!(value, [b'4'..=b'9', ..] | [b'+', b'2'..=b'9', ..]));
                    self.hidden += u32::from(matches!(value, [b'0', ..] | [b'-', b'4'..=b'9', ..]));
                }
            } else if ends(before, b"alt") {
                self.described_images += u32::from(value.first().is_some_and(u8::is_ascii_alphanumeric));
            } else if ends(before, b"align") {
                self.centred += u32::from(begins(value, b"center"));
            } else if (ends(before, b"width") || ends(before, b"height")) && name == b"img" {
                self.unseen_images +=
                    u32::from(matches!(value, [b'0' | b'1', next, ..] if !next.is_ascii_digit() && *next != b'%'));
            }
        }
    }

    /// Takes the entity with which `html` begins, and says how long it is.
    fn entity(&mut self, html: &[u8], text: &mut Vec<u8>) -> usize {
        if let [b'&', b'#', number @ ..] = html {
            let (radix, digits) = match number {
                [b'x' | b'X', digits @ ..] => (16, digits),
                digits => (10, digits),
            };
            let (mut code, mut length) = (0_u32, 0);
            // More digits than a character has are none.
            while let Some(digit) = digits
                .get(length)
                .filter(|_| length < 7)
                .and_then(|digit| char::from(*digit).to_digit(radix))
            {
                code = code * radix + digit;
                length += 1;
            }
            if length > 0 {
                self.letters_as_numbers += u32::from(u8::try_from(code).is_ok_and(|byte| byte.is_ascii_alphanumeric()));
                text.push(match code {
                    0..=0x9f => code as u8,
                    0xa0 => b' ',
                    _ => 0xff,
                });
                let end = 2 + (number.len() - digits.len()) + length;
                return end + usize::from(html.get(end) == Some(&b';'));
            }
        }
        const NAMED: [(&[u8], u8); 6] = [
            (b"&nbsp;", b' '),
            (b"&amp;", b'&'),
            (b"&lt;", b'<'),
            (b"&gt;", b'>'),
            (b"&quot;", b'"'),
            (b"&#39;", b'\''),
        ];
        for (name, byte) in NAMED {
            if html.starts_with(name) {
                text.push(byte);
                return name.len();
            }
        }
        text.push(b'&');
        1
    }
}

/// Tags that stand inside words.
fn is_inline(name: &[u8]) -> bool {
    matches!(
        name,
        b"a" | b"b"
            | b"big"
            | b"em"
            | b"font"
            | b"i"
            | b"small"
            | b"span"
            | b"strong"
            | b"u"
            | b"s"
            | b"tt"
            | b"sup"
            | b"sub"
    )
}

/// The other tags that there are.
const KNOWN: &[&[u8]] = &[
    b"p",
    b"br",
    b"td",
    b"tr",
    b"table",
    b"tbody",
    b"th",
    b"div",
    b"hr",
    b"li",
    b"ul",
    b"ol",
    b"dl",
    b"dt",
    b"dd",
    b"meta",
    b"link",
    b"base",
    b"input",
    b"option",
    b"select",
    b"textarea",
    b"blockquote",
    b"h1",
    b"h2",
    b"h3",
    b"h4",
    b"h5",
    b"h6",
    b"pre",
    b"area",
    b"map",
    b"code",
    b"noscript",
    b"col",
    b"colgroup",
    b"thead",
    b"tfoot",
    b"label",
    b"address",
    b"cite",
    b"nobr",
    b"param",
    b"basefont",
    b"button",
    b"marquee",
    b"blink",
    b"frameset",
    b"noframes",
    b"caption",
    b"strike",
    b"del",
    b"ins",
    b"kbd",
    b"var",
    b"samp",
    b"abbr",
    b"acronym",
    b"dir",
    b"menu",
    b"layer",
    b"ilayer",
    b"wbr",
    b"bgsound",
    b"fieldset",
    b"legend",
    b"video",
    b"audio",
    b"source",
    b"svg",
    b"path",
    b"section",
    b"article",
    b"header",
    b"footer",
    b"main",
    b"nav",
    b"figure",
    b"o",
    b"v",
    b"w",
    b"st1",
    b"xml",
    b"spacer",
    b"tt",
    b"q",
    b"center",
];

/// The name with which a tag's inside begins, in lower case, and its length. A longer one is cut, and then is none that matters.
fn lower_name(inside: &[u8]) -> ([u8; 12], usize) {
    let mut name = [0; 12];
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

/// The host that the link in a tag goes to.
fn host_of(tag: &[u8]) -> Option<&[u8]> {
    let start = find(tag, b"://")? + 3;
    Some(host_at(&tag[start..])).filter(|host| !host.is_empty())
}

/// The host with which `text` begins.
fn host_at(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')));
    &text[..end.unwrap_or(text.len())]
}

/// Whether the text of a link begins with another host than the link goes to: neither is within the other's last two labels.
fn lies(link: &Open<'_>, text: &[u8]) -> bool {
    let shown = &text[link.from.min(text.len())..];
    let shown = shown[..shown.len().min(MOST_LINK_TEXT_BYTES)].trim_ascii();
    let host = if let Some(rest) = shown
        .strip_prefix(b"http://")
        .or_else(|| shown.strip_prefix(b"https://"))
    {
        host_at(rest)
    } else if shown.starts_with(b"www.") {
        host_at(shown)
    } else {
        return false;
    };
    host.contains(&b'.') && !domain_of(host).eq_ignore_ascii_case(domain_of(link.host))
}

/// The value behind a sign, without its quotes.
fn value(tag: &[u8], at: usize) -> &[u8] {
    let value = tag[at..].trim_ascii_start();
    value
        .strip_prefix(b"\"")
        .or_else(|| value.strip_prefix(b"'"))
        .unwrap_or(value)
}

fn begins(text: &[u8], what: &[u8]) -> bool {
    text.get(..what.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(what))
}

fn ends(text: &[u8], what: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    text.len() >= what.len() && text[text.len() - what.len()..].eq_ignore_ascii_case(what)
}

fn holds(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window.eq_ignore_ascii_case(what))
}
