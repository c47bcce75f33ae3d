//! Reads a body: its MIME parts, and the text in them, through HTML, quoted-printable and base64.
//!
//! It takes any bytes and never fails: what is broken is read as plain text. It never decodes what is not text. The work is linear in the
//! bytes it is given; parts and their depth are bounded.

use crate::address::Mailbox;
use crate::bytes::line_end;
use crate::decode;
use crate::evidence::{Evidence, Reader, Words};
use crate::header::{self, Fields};
use crate::html::Markup;
use crate::links::Links;
use crate::rules::Rule;
use crate::text::Counts;
use crate::word;

/// Parts of a message that are looked at.
const MOST_PARTS: u32 = 100;
/// Multiparts inside multiparts.
const MOST_DEPTH: u32 = 5;
/// Bytes at the beginning of a text in which HTML says that it is.
const HTML_START_BYTES: usize = 200;
/// Words below which an HTML message with images has hardly any text.
const HARDLY_ANY_WORDS: u32 = 30;
/// Words that a body must have for its case, or its language, to say something.
const FEWEST_WORDS: u32 = 40;

/// Character sets of East Asia and of Cyrillic, by how they begin.
const FOREIGN_CHARSETS: &[&[u8]] = &[
    b"big5",
    b"gb",
    b"euc-",
    b"ks_c",
    b"iso-2022-",
    b"koi8",
    b"windows-1251",
    b"shift",
    b"iso-8859-5",
    b"chinese",
    b"korean",
    b"default_charset",
];

/// Endings of files that a click may start.
const PROGRAMS: &[&[u8]] = &[
    b".exe", b".scr", b".pif", b".bat", b".com", b".cmd", b".vbs", b".js", b".jse", b".wsf", b".hta", b".lnk", b".jar",
    b".cpl", b".iso", b".img",
];

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Body {
    pub counts: Counts,
    pub markup: Markup,
    has_html: bool,
    has_plain: bool,
    has_needless_base64: bool,
    has_foreign_charset: bool,
    has_undeclared_charset: bool,
    has_program: bool,
    begins_empty: bool,
    is_broken: bool,
    has_html_in_plain: bool,
    /// Bytes that are not ASCII, in character sets of one part of the world.
    local_eight_bit: u32,
    images: u32,
    parts: u32,
}

impl Body {
    /// Reads a body, or a part of one, whose header says what it is.
    pub fn read(
        &mut self,
        fields: &Fields<'_>,
        body: &[u8],
        evidence: &mut Evidence,
        reader: &mut Reader<'_, impl Words>,
    ) {
        let sender = fields.from.and_then(Mailbox::of).map_or(&b""[..], |from| from.domain);
        let links = Links::of(sender);
        self.counts.links = links;
        self.markup.links = links;
        let recipient = fields
            .to
            .and_then(|to| to.split(|byte| *byte == b',').find_map(Mailbox::of));
        self.counts.recipient = recipient.map_or(0, |to| {
            word::pair(word::pair(0, word::hash(to.local)), word::hash(to.domain))
        });
        self.read_part(fields, body, 0, evidence, reader);
        reader.paths(&self.markup.links);
        reader.paths(&self.counts.links);
        self.tell(evidence);
        evidence.weigh_phrases(self.counts.words);
    }

    fn read_part(
        &mut self,
        fields: &Fields<'_>,
        body: &[u8],
        depth: u32,
        evidence: &mut Evidence,
        reader: &mut Reader<'_, impl Words>,
    ) {
        let content_type = fields.content_type;
        if header::begins(content_type, "multipart/") && depth < MOST_DEPTH {
            if let Some(boundary) = content_type.and_then(header::boundary) {
                let before = self.parts;
                for part in (Parts { rest: body, boundary }) {
                    self.parts += 1;
                    if self.parts > MOST_PARTS {
                        return;
                    }
                    let (fields, offset) = header::read(part);
                    self.read_part(&fields, &part[offset..], depth + 1, evidence, reader);
                }
                if self.parts > before {
                    return;
                }
            }
            // A program shows what it can: as text.
            self.is_broken = true;
        }
        if header::begins(content_type, "image/") {
            self.images += 1;
        }
        let name = (content_type.and_then(|value| header::parameter(value, b"name"))).or_else(|| {
            fields
                .disposition
                .and_then(|value| header::parameter(value, b"filename"))
        });
        self.has_program |= name.is_some_and(|name| {
            PROGRAMS.iter().any(|ending| {
                name.len() > ending.len() && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
            })
        });
        // A part without a type is plain text (RFC 2045 §5.2), and so is one whose type is no type.
        let is_other = content_type.is_some_and(|value| value.contains(&b'/'));
        if is_other && !header::begins(content_type, "text/") && !header::begins(content_type, "multipart/") {
            return;
        }
        let charset = content_type.and_then(|value| header::parameter(value, b"charset"));
        self.has_foreign_charset |= charset.is_some_and(|charset| {
            FOREIGN_CHARSETS.iter().any(|foreign| {
                charset
                    .get(..foreign.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(foreign))
            })
        });

        let is_base64 = header::begins(fields.encoding, "base64");
        let is_quoted = header::begins(fields.encoding, "quoted-printable");
        let is_wide = header::begins(charset, "iso-2022-");
        let is_padded = header::begins(charset, "utf-16") || header::begins(charset, "utf-32");
        let mut decoded = Vec::new();
        if is_base64 {
            decoded.reserve_exact(body.len() / 4 * 3 + 3);
            decode::base64(body, &mut decoded);
        } else if is_quoted {
            decoded.reserve_exact(body.len());
            decode::quoted_printable(body, &mut decoded);
        } else if is_wide || is_padded {
            decoded.extend_from_slice(body);
        }
        if is_padded {
            decode::narrow(&mut decoded);
        }
        if is_wide {
            decode::raise(&mut decoded);
        }
        self.has_needless_base64 |= is_base64 && !decoded.is_empty() && decoded.is_ascii();
        let text = if is_base64 || is_quoted || is_wide || is_padded {
            &decoded[..]
        } else {
            body
        };
        let said = header::begins(content_type, "text/html");
        let html = said || is_html(text);
        self.has_html |= html;
        self.has_plain |= !html;
        self.has_html_in_plain |= html && !said;
        let eight_bit = self.counts.eight_bit;
        if html {
            let mut rendered = Vec::with_capacity(text.len());
            self.markup.render(text, &mut rendered);
            reader.text(&rendered, &mut self.counts, evidence);
        } else {
            self.begins_empty |= text.starts_with(b"\r\n\r\n\r\n") || text.starts_with(b"\n\n\n");
            reader.text(text, &mut self.counts, evidence);
        }
        let eight_bit = self.counts.eight_bit - eight_bit;
        self.has_undeclared_charset |= charset.is_none() && eight_bit > 0;
        if !header::begins(charset, "utf-8") {
            self.local_eight_bit += eight_bit;
        }
    }

    /// The rules that are met.
    fn tell(&self, evidence: &mut Evidence) {
        self.tell_of_parts(evidence);
        if self.has_html {
            self.tell_of_markup(evidence);
        }
        self.tell_of_links(evidence);
        self.tell_of_text(evidence);
    }

    fn tell_of_parts(&self, evidence: &mut Evidence) {
        evidence.hit(Rule::HtmlOnly, self.has_html && !self.has_plain);
        evidence.hit(Rule::PartsWithoutPlain, self.parts > 0 && !self.has_plain);
        evidence.hit(Rule::Base64Text, self.has_needless_base64);
        evidence.hit(Rule::CharsetForeign, self.has_foreign_charset);
        evidence.hit(Rule::CharsetUndeclared, self.has_undeclared_charset);
        evidence.hit(Rule::PartsBroken, self.is_broken);
        evidence.hit(Rule::HtmlInPlain, self.has_html_in_plain);
        evidence.hit(Rule::AttachmentProgram, self.has_program);
        evidence.hit(Rule::TextEightBit, self.local_eight_bit * 4 > self.counts.bytes);
    }

    fn tell_of_markup(&self, evidence: &mut Evidence) {
        let Self { markup, counts, .. } = self;
        evidence.hit(Rule::HtmlForm, markup.forms > 0);
        evidence.hit(Rule::HtmlScript, markup.scripts > 0);
        evidence.hit(
            Rule::HtmlMostlyImages,
            markup.images + self.images > 0 && counts.words < HARDLY_ANY_WORDS,
        );
        evidence.hit(Rule::HtmlImages, markup.images >= 8);
        evidence.hit(Rule::HtmlTables, markup.tables >= 5);
        evidence.hit(Rule::HtmlDescribed, markup.described_images > 1);
        evidence.hit(Rule::HtmlTitled, markup.titles > 0);
        evidence.hit(Rule::HtmlTracking, markup.unseen_images > 0);
        evidence.hit(Rule::HtmlRemoteImage, markup.remote_images > 0);
        evidence.hit(
            Rule::HtmlMarkup,
            u64::from(markup.tag_bytes) * 5 > u64::from(markup.bytes) * 4,
        );
        evidence.hit(Rule::HtmlHidden, markup.hidden > 0);
        evidence.hit(Rule::HtmlCommentInWord, markup.comments_in_words > 1);
        evidence.hit(Rule::HtmlUnknownTag, markup.unknown_tags > 0);
        evidence.hit(Rule::HtmlEntityLetters, markup.letters_as_numbers > 3);
        evidence.hit(Rule::HtmlBigFont, markup.big_fonts > 0);
        evidence.hit(Rule::HtmlColours, markup.colours > 0);
        evidence.hit(Rule::HtmlBackground, markup.backgrounds > 0);
        evidence.hit(Rule::HtmlCentred, markup.centred > 0);
        evidence.hit(Rule::HtmlShouting, markup.capital_tags * 2 > markup.tags);
        evidence.hit(Rule::HtmlWithoutTags, markup.frames_of_page == 0);
        evidence.hit(Rule::HtmlLinkLies, markup.lying_links > 0);
        evidence.hit(Rule::HtmlMailtoRemove, markup.mailto_removals > 0);
    }

    fn tell_of_links(&self, evidence: &mut Evidence) {
        let (text, tags) = (&self.counts.links, &self.markup.links);
        let mut either = |rule, in_text: bool, in_tags: bool| evidence.hit(rule, in_text || in_tags);
        either(Rule::LinkNumericHost, text.numeric_host, tags.numeric_host);
        either(Rule::LinkUserinfo, text.userinfo, tags.userinfo);
        either(Rule::LinkPercentHost, text.percent_host, tags.percent_host);
        either(Rule::LinkPort, text.port, tags.port);
        either(Rule::LinkOddTopDomain, text.odd_top_domain, tags.odd_top_domain);
        either(Rule::LinkDigits, text.digits, tags.digits);
        either(Rule::LinkRedirect, text.redirect, tags.redirect);
        either(Rule::LinkRemoval, text.removal, tags.removal);
        either(
            Rule::LinkRemovalElsewhere,
            text.removal_elsewhere,
            tags.removal_elsewhere,
        );
        either(Rule::LinkPersonal, text.personal, tags.personal);
        let links = text.count + tags.count;
        evidence.hit(Rule::LinkNone, links == 0);
        evidence.hit(Rule::LinkOne, links == 1);
        evidence.hit(Rule::LinkMany, links >= 15);
        let to_sender = text.to_sender + tags.to_sender;
        evidence.hit(Rule::LinkToSender, to_sender > 0);
        evidence.hit(Rule::LinkOnlyElsewhere, links > 0 && to_sender == 0);
        evidence.hit(Rule::LinkDomains, text.domain_count.max(tags.domain_count) >= 4);
    }

    fn tell_of_text(&self, evidence: &mut Evidence) {
        let counts = &self.counts;
        let words = counts.words;
        let long = words >= FEWEST_WORDS;
        evidence.hit(Rule::BodyCapitals, long && counts.capitals * 2 > words);
        evidence.hit(
            Rule::BodySomeCapitals,
            long && counts.capitals * 10 > words && counts.capitals * 2 <= words,
        );
        evidence.hit(
            Rule::BodyExclaims,
            counts.exclamations >= 3 && counts.exclamations.saturating_mul(80) > words,
        );
        evidence.hit(Rule::BodyExclaimsTwice, counts.exclamations_in_row > 1);
        evidence.hit(Rule::BodyMoney, counts.sums >= 3);
        evidence.hit(Rule::BodySum, counts.sums > 0);
        evidence.hit(Rule::BodyPercent, counts.percents > 0);
        evidence.hit(Rule::BodyTollFree, counts.toll_free > 0);
        evidence.hit(Rule::BodyGappy, counts.gappy > 0);
        evidence.hit(Rule::BodyMixed, counts.mixed > 2);
        evidence.hit(Rule::BodyTail, counts.ends_in_code);
        evidence.hit(Rule::BodyGap, counts.gaps > 0);
        evidence.hit(Rule::BodyEmpty, words < 10);
        evidence.hit(Rule::BodyLong, words >= 400);
        evidence.hit(Rule::BodyVeryLong, words >= 1200);
        evidence.hit(Rule::BodyShort, words < FEWEST_WORDS);
        evidence.hit(Rule::BodyRows, counts.rows > 2);
        evidence.hit(Rule::BodyStars, counts.star_rows > 0);
        evidence.hit(Rule::BodyAsks, counts.questions > 1);
        evidence.hit(Rule::BodyQuotes, counts.quoted_lines > 1);
        evidence.hit(Rule::BodyAttribution, counts.attributions > 0);
        evidence.hit(Rule::BodySignature, counts.signatures > 0);
        evidence.hit(Rule::BodyCode, counts.code_lines > 3);
        evidence.hit(Rule::BodySmallFirst, counts.small_first > 0);
        evidence.hit(Rule::BodyForeign, long && counts.little_words * 25 < words);
        evidence.hit(Rule::BodyNamesSender, counts.of_sender > 0);
        evidence.hit(Rule::BodyNamesRecipient, counts.of_recipient > 0);
        evidence.hit(Rule::BodyCopyright, counts.copyrights > 0);
        evidence.hit(Rule::BodyBlankFirst, self.begins_empty);
        evidence.hit(Rule::HtmlEncodedTwice, counts.encoded_twice > 3);
    }
}

/// Whether a text begins as HTML does, whatever its type.
fn is_html(text: &[u8]) -> bool {
    let start = text[..text.len().min(HTML_START_BYTES)].trim_ascii_start();
    let begins = |what: &[u8]| {
        start
            .get(..what.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(what))
    };
    begins(b"<html") || begins(b"<!doctype html") || begins(b"<body")
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
