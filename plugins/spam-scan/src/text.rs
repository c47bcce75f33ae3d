//! Reads a text once: its words, and what is countable in it.
//!
//! It takes any bytes and never fails. The work is linear in the bytes it is given. Names of hosts, files and mailboxes and links are no
//! words: they say where mail is from, and not what it is.

use std::ops::RangeInclusive;

use crate::links::Links;
use crate::word::{self, CLASS, DIGIT, GAP, IN_NAME, IN_WORD, LETTER, Word};

/// Takes the words of a text, one after the other.
pub trait Sink {
    /// A word, by its number.
    fn word(&mut self, hash: u32);
    /// What follows is not said in one breath with what came: a link, the end of a part.
    fn gap(&mut self);
}

/// Single letters in a row from which they are a word whose letters stand apart.
const GAPPY_LETTERS: u32 = 5;
/// Signs from which a row of them is a line.
const ROW_SIGNS: usize = 5;
/// Empty lines that hide what follows.
const GAP_LINES: u32 = 10;
/// Bytes at the end of a text in which a code is looked for, and bytes that a code has at least and at most.
const TAIL_BYTES: usize = 100;
const CODE_BYTES: RangeInclusive<usize> = 8..=60;

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub bytes: u32,
    pub words: u32,
    /// Words that begin with two capitals.
    pub capitals: u32,
    pub mixed: u32,
    pub exclamations: u32,
    /// Exclamation marks behind exclamation marks.
    pub exclamations_in_row: u32,
    pub questions: u32,
    /// `$` with a digit behind it.
    pub sums: u32,
    /// `$` behind `$`.
    pub dollars_in_row: u32,
    pub percents: u32,
    /// Words whose letters stand apart.
    pub gappy: u32,
    pub eight_bit: u32,
    pub toll_free: u32,
    pub addresses: u32,
    pub lines: u32,
    pub quoted_lines: u32,
    pub attributions: u32,
    pub signatures: u32,
    pub star_rows: u32,
    /// Rows of `-`, `=`, `_`, `~` or `#`.
    pub rows: u32,
    /// Lines that end in `{`, `}` or `;`.
    pub code_lines: u32,
    /// Sentences that begin with a small letter.
    pub small_first: u32,
    pub little_words: u32,
    pub encoded_twice: u32,
    /// Rows of many empty lines.
    pub gaps: u32,
    pub ends_in_code: bool,
    pub links: Links,
}

/// The little words of English, each in the place of its number's lowest bits: one look tells them, without a branch to guess wrong.
static LITTLE: [u32; LITTLE_PLACES] = {
    let words: [&[u8]; 12] = [
        b"the", b"and", b"to", b"of", b"is", b"in", b"for", b"you", b"this", b"that", b"with", b"on",
    ];
    let mut places = [0; LITTLE_PLACES];
    let mut at = 0;
    while at < words.len() {
        let hash = word::hash(words[at]);
        let place = hash as usize % LITTLE_PLACES;
        assert!(
            places[place] == 0,
            "two words need the same place: take another number of places"
        );
        places[place] = hash;
        at += 1;
    }
    places
};
const LITTLE_PLACES: usize = 128;
const WROTE: [u32; 3] = [word::hash(b"wrote"), word::hash(b"writes"), word::hash(b"said")];
const WWW: u32 = word::hash(b"www");

impl Counts {
    /// Reads a text that is plain: decoded, and without markup.
    pub fn read(&mut self, text: &[u8], sink: &mut impl Sink) {
        self.bytes += text.len() as u32;
        let mut at = 0;
        let mut single_letters = 0;
        self.begin_line(text, 0);
        while let Some(byte) = text.get(at) {
            let class = CLASS[usize::from(*byte)];
            if class & IN_WORD == 0 {
                if class & GAP == 0 {
                    at = self.sign(text, at, *byte);
                } else {
                    at += 1;
                }
                continue;
            }
            let word = word::read(text, at);
            if word.too_long {
                self.words += 1;
                self.capitals += u32::from(word.capitals);
                at = word.end;
                sink.gap();
                single_letters = 0;
                continue;
            }
            let behind = text.get(word.end).copied().unwrap_or(b' ');
            if behind == b':' {
                self.attributions += u32::from(WROTE.contains(&word.hash));
                if text[word.end..].starts_with(b"://") {
                    at = self.links.look(text, word.end);
                    sink.gap();
                    single_letters = 0;
                    continue;
                }
            }
            if CLASS[usize::from(behind)] & IN_NAME != 0 && behind != b'-' && behind != b'/' {
                let end = self.name(text, at, word);
                if end > word.end {
                    at = end;
                    sink.gap();
                    single_letters = 0;
                    continue;
                }
            }
            self.take(text, at, word);
            if word.end == at + 1 && class & LETTER != 0 {
                single_letters += 1;
                self.gappy += u32::from(single_letters == GAPPY_LETTERS);
            } else {
                single_letters = 0;
            }
            sink.word(word.hash);
            at = word.end;
        }
        sink.gap();
        self.ends_in_code |= ends_in_code(text);
    }

    #[inline]
    fn take(&mut self, text: &[u8], at: usize, word: Word) {
        self.words += 1;
        self.capitals += u32::from(word.capitals);
        self.mixed += u32::from(word.mixed);
        self.little_words += u32::from(LITTLE[word.hash as usize % LITTLE_PLACES] == word.hash);
        let first = text[at];
        self.eight_bit += word.eight_bit;
        if first >= b'a' {
            self.small_first += u32::from(at >= 2 && text[at - 1] == b' ' && matches!(text[at - 2], b'.' | b'?'));
        } else if first < b'A' {
            self.take_number(&text[at..word.end], &text[word.end..]);
        }
    }

    /// A word that begins with no letter.
    fn take_number(&mut self, word: &[u8], behind: &[u8]) {
        let dollars = word.iter().take_while(|byte| **byte == b'$').count();
        self.dollars_in_row += dollars.saturating_sub(1) as u32;
        self.sums += u32::from(dollars > 0 && word.get(dollars).is_some_and(u8::is_ascii_digit));
        self.percents += u32::from(word.len() > 1 && word.ends_with(b"%"));
        // 1-800-..., 1 (888) ...
        let area = match behind {
            [b'-' | b' ' | b'.', b'(', area @ ..] | [b'-' | b' ' | b'.', area @ ..] => area,
            _ => &[],
        };
        let free = |area: &[u8]| matches!(area, [b'8', b'0' | b'6' | b'7' | b'8', third, ..] if third == &area[1]);
        self.toll_free +=
            u32::from(word == b"1" && free(area) || word.len() == 3 && free(word) && behind.starts_with(b"-"));
    }

    /// A sign that means something: where the reading goes on.
    fn sign(&mut self, text: &[u8], at: usize, byte: u8) -> usize {
        let same = text[at..].iter().take_while(|other| **other == byte).count();
        match byte {
            b'!' => {
                self.exclamations += same as u32;
                self.exclamations_in_row += same as u32 - 1;
            }
            b'?' => self.questions += 1,
            b'*' => self.star_rows += u32::from(same >= ROW_SIGNS),
            b'-' | b'_' | b'~' | b'#' => self.rows += u32::from(same >= ROW_SIGNS),
            b'=' => {
                self.rows += u32::from(same >= ROW_SIGNS);
                let hex = |place: usize| text.get(at + place).is_some_and(u8::is_ascii_hexdigit);
                self.encoded_twice += u32::from(hex(1) && hex(2) && text.get(at + 3) != Some(&b'='));
            }
            b'{' | b'}' | b';' => {
                self.code_lines += u32::from(matches!(text.get(at + same), Some(b'\r' | b'\n')));
            }
            b'\n' => {
                let behind = self.skip_empty_lines(text, at + 1);
                self.begin_line(text, behind);
                return behind;
            }
            _ => {}
        }
        at + same
    }

    /// The beginning of the next line that is not empty.
    fn skip_empty_lines(&mut self, text: &[u8], mut at: usize) -> usize {
        let mut empty = 0;
        loop {
            match text[at..] {
                [b'\n', ..] => at += 1,
                [b'\r', b'\n', ..] => at += 2,
                _ => break,
            }
            empty += 1;
        }
        self.gaps += u32::from(empty >= GAP_LINES && at < text.len());
        at
    }

    fn begin_line(&mut self, text: &[u8], at: usize) {
        self.lines += 1;
        match text.get(at) {
            Some(b'>' | b'|') => {
                self.quoted_lines += 1;
            }
            Some(b'-') if matches!(&text[at..], [b'-', b'-', b' ', b'\r' | b'\n', ..]) => self.signatures += 1,
            _ => {}
        }
    }

    /// A word behind which a name may go on: `example.org`, `bob@example.org`, `a_b`. The end of the name, if it is one.
    fn name(&mut self, text: &[u8], at: usize, word: Word) -> usize {
        let inside = |place: usize| {
            text.get(place + 1)
                .is_some_and(|byte| CLASS[usize::from(*byte)] & (LETTER | DIGIT) != 0)
        };
        if !inside(word.end) {
            return word.end;
        }
        if word.hash == WWW {
            return self.links.look_at_host(text, at);
        }
        let mut end = word.end;
        let mut parts = 1;
        let mut longest = end - at;
        let mut start = at;
        let mut address = false;
        while let Some(byte) = text.get(end) {
            let class = CLASS[usize::from(*byte)];
            if class & (LETTER | DIGIT) == 0 {
                if class & IN_NAME == 0 || !inside(end) {
                    break;
                }
                longest = longest.max(end - start);
                start = end + 1;
                parts += 1;
                address |= *byte == b'@';
            }
            end += 1;
        }
        longest = longest.max(end - start);
        self.gappy += u32::from(longest == 1 && parts > 3);
        self.addresses += u32::from(address);
        end
    }
}

/// Whether the last line is a code, as `4139vOLW7-758DoDY1425FRhM1`: letters and digits without a word among them.
fn ends_in_code(text: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    let tail = &text[text.len().saturating_sub(TAIL_BYTES)..];
    let start = tail
        .iter()
        .rposition(|byte| byte.is_ascii_whitespace())
        .map_or(0, |place| place + 1);
    is_code(&tail[start..])
}

/// Whether it is neither a word nor a number nor a name.
pub fn is_code(word: &[u8]) -> bool {
    let alike = word.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if !CODE_BYTES.contains(&word.len()) || !alike {
        return false;
    }
    let digits = word.iter().filter(|byte| byte.is_ascii_digit()).count();
    let changes = word
        .windows(2)
        .filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit())
        .count();
    let consonants = word
        .split(|byte| b"aeiouyAEIOUY0123456789-".contains(byte))
        .map(<[u8]>::len)
        .max()
        .unwrap_or(0);
    (digits > 0 && changes >= 3) || (digits == 0 && !word.contains(&b'-') && consonants >= 6)
}
