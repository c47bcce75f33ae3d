//! Words: where one ends, and the number that stands for it.
//!
//! A word is a run of letters, digits, `$`, `%`, apostrophes and bytes that are not ASCII. Upper and lower case are the same, a run of digits
//! is one `0`, an apostrophe is nothing; behind [`MOST_WORD_BYTES`] nothing counts, and that many letters in a row are no word. Eight bytes are taken at a time: each turn of a loop costs a
//! guest more than it costs native code.

/// Bytes of a word that count.
pub const MOST_WORD_BYTES: usize = 24;

const CHUNK: usize = size_of::<u64>();
const LOW: u64 = u64::MAX / 255;
const HIGH: u64 = LOW << 7;
/// The bit for small letters.
const SMALL: u64 = LOW * 0x20;
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

// What a byte is.
/// Part of a word.
pub const IN_WORD: u8 = 1;
pub const LETTER: u8 = 2;
pub const CAPITAL: u8 = 4;
pub const DIGIT: u8 = 8;
/// Between words, and nothing besides.
pub const GAP: u8 = 16;
/// May stand in the name of a host, a file or a mailbox, beside letters and digits.
pub const IN_NAME: u8 = 32;

/// What each byte is.
pub static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'a'..=b'z' => IN_WORD | LETTER | IN_NAME,
            b'A'..=b'Z' => IN_WORD | LETTER | CAPITAL | IN_NAME,
            b'0'..=b'9' => IN_WORD | DIGIT | IN_NAME,
            b'$' | b'%' | b'\'' | 0x80.. => IN_WORD,
            b'_' | b'-' | b'~' => IN_NAME,
            b'.' | b'@' | b'/' | b'+' => IN_NAME | GAP,
            b'!' | b'?' | b'\n' | b'=' | b'*' | b'#' | b'{' | b'}' | b';' => 0,
            _ => GAP,
        };
        byte += 1;
    }
    class
};

/// A word that was read.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    pub hash: u32,
    /// The place behind it.
    pub end: usize,
    /// It has two letters or more, and begins with two capitals.
    pub capitals: bool,
    /// Letters, then digits, then letters.
    pub mixed: bool,
    /// Bytes that are not ASCII, of those that count.
    pub eight_bit: u32,
    /// More letters in a row than count: a line, a key, but no word. It has no number.
    pub too_long: bool,
}

/// Reads the word that begins at `at`.
#[inline]
pub fn read(text: &[u8], at: usize) -> Word {
    if let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk::<CHUNK>) {
        let chunk = u64::from_le_bytes(*chunk);
        let letters = leading_letters(chunk);
        let behind = chunk.wrapping_shr(letters as u32 * 8) as u8;
        if letters > 0 && letters < CHUNK && CLASS[usize::from(behind)] & IN_WORD == 0 {
            let kept = (1 << (letters as u32 * 8)) - 1;
            return Word {
                hash: finish(mix(SEED, (chunk | SMALL) & kept)),
                end: at + letters,
                capitals: letters > 1 && chunk & 0x2020 == 0,
                mixed: false,
                eight_bit: 0,
                too_long: false,
            };
        }
    }
    read_any(text, at)
}

/// The same for words that are long, or not of letters alone.
fn read_any(text: &[u8], at: usize) -> Word {
    let starts = |place: usize| text.get(at + place).map_or(0, |byte| CLASS[usize::from(*byte)]);
    let capitals = starts(0) & starts(1) & CAPITAL != 0;
    let mut builder = Builder::new();
    let mut end = at;
    let mut shape = Shape::Empty;
    let mut only_letters = true;
    let mut eight_bit = 0;
    while builder.length < MOST_WORD_BYTES {
        // Most of what is long is letters, so those are taken by the run, wherever it begins.
        if let Some(chunk) = text.get(end..).and_then(<[u8]>::first_chunk::<CHUNK>) {
            let chunk = u64::from_le_bytes(*chunk);
            let run = leading_letters(chunk).min(MOST_WORD_BYTES - builder.length);
            if run > 0 {
                builder.push_letters(chunk, run);
                shape = shape.then_letter();
                end += run;
                continue;
            }
        }
        let Some(byte) = text.get(end) else { break };
        let class = CLASS[usize::from(*byte)];
        if class & IN_WORD == 0 {
            break;
        }
        if class & LETTER != 0 {
            shape = shape.then_letter();
        } else {
            only_letters = false;
            if class & DIGIT != 0 {
                shape = shape.then_digit();
            }
        }
        eight_bit += u32::from(*byte >= 0x80);
        builder.push(*byte);
        end += 1;
    }
    let is_full = builder.length == MOST_WORD_BYTES;
    let too_long = is_full
        && only_letters
        && text
            .get(end)
            .is_some_and(|byte| CLASS[usize::from(*byte)] & LETTER != 0);
    if is_full {
        end = end_of_word(text, end);
    }
    Word {
        hash: if too_long { 0 } else { builder.hash() },
        end,
        capitals,
        mixed: shape == Shape::Mixed && !is_full,
        eight_bit,
        too_long,
    }
}

/// What came in a word so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Empty,
    Letters,
    /// Letters, then digits.
    Digits,
    /// Letters, then digits, then letters.
    Mixed,
}

impl Shape {
    const fn then_letter(self) -> Self {
        match self {
            Self::Empty => Self::Letters,
            Self::Digits => Self::Mixed,
            other => other,
        }
    }

    const fn then_digit(self) -> Self {
        match self {
            Self::Letters => Self::Digits,
            other => other,
        }
    }
}

/// The end of a word that goes on at `end`, or ends there.
fn end_of_word(text: &[u8], mut end: usize) -> usize {
    loop {
        end += letters(&text[end..]);
        match text.get(end) {
            Some(byte) if CLASS[usize::from(*byte)] & IN_WORD != 0 => end += 1,
            _ => return end,
        }
    }
}

/// What [`read`] makes of a word that is given alone.
pub const fn hash(word: &[u8]) -> u32 {
    let mut builder = Builder::new();
    let mut place = 0;
    while place < word.len() && builder.length < MOST_WORD_BYTES {
        builder.push(word[place]);
        place += 1;
    }
    builder.hash()
}

/// The number of a word behind another one, or behind a beginning of several.
#[inline]
pub const fn pair(first: u32, second: u32) -> u32 {
    finish(mix(SEED ^ ODD, (first as u64) << 32 | second as u64))
}

/// Takes a word byte by byte.
struct Builder {
    state: u64,
    chunk: u64,
    length: usize,
    after_digit: bool,
}

impl Builder {
    const fn new() -> Self {
        Self {
            state: SEED,
            chunk: 0,
            length: 0,
            after_digit: false,
        }
    }

    const fn push(&mut self, byte: u8) {
        let digit = byte.is_ascii_digit();
        if byte == b'\'' || (digit && self.after_digit) {
            return;
        }
        self.after_digit = digit;
        let byte = if digit { b'0' } else { byte.to_ascii_lowercase() };
        self.chunk |= (byte as u64) << (self.length % CHUNK * 8);
        self.length += 1;
        if self.length % CHUNK == 0 {
            self.state = mix(self.state, self.chunk);
            self.chunk = 0;
        }
    }

    /// Takes the first `run` of these eight bytes, which are letters: 1 to 8.
    fn push_letters(&mut self, bytes: u64, run: usize) {
        let letters = (bytes | SMALL) & (u64::MAX >> ((CHUNK - run) * 8));
        let filled = self.length % CHUNK;
        self.chunk |= letters << (filled * 8);
        if filled + run >= CHUNK {
            self.state = mix(self.state, self.chunk);
            // Those that had no room; all had it if nothing was there before.
            self.chunk = letters.checked_shr(((CHUNK - filled) * 8) as u32).unwrap_or(0);
        }
        self.length += run;
        self.after_digit = false;
    }

    const fn hash(&self) -> u32 {
        if self.length % CHUNK == 0 {
            finish(self.state)
        } else {
            finish(mix(self.state, self.chunk))
        }
    }
}

#[inline]
const fn mix(state: u64, chunk: u64) -> u64 {
    let mixed = (state ^ chunk).wrapping_mul(ODD);
    mixed ^ mixed >> 29
}

#[inline]
const fn finish(state: u64) -> u32 {
    (state.wrapping_mul(ODD) >> 32) as u32
}

/// How many of the eight bytes are ASCII letters before the first that is none.
#[inline]
fn leading_letters(chunk: u64) -> usize {
    // With these added, the high bit of a byte below 0x80 says that it is `a` or above, and that it is above `z`.
    const FROM_A: u64 = LOW * (0x80 - b'a' as u64);
    const ABOVE_Z: u64 = LOW * (0x7f - b'z' as u64);
    // Without their high bits, so that no byte carries into the next; `chunk` itself tells those that had it.
    let small = (chunk | SMALL) & !HIGH;
    let letters = (small + FROM_A) & !(small + ABOVE_Z) & !chunk & HIGH;
    ((letters ^ HIGH).trailing_zeros() / 8) as usize
}

/// How many ASCII letters `text` begins with.
fn letters(text: &[u8]) -> usize {
    let mut place = 0;
    let read = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("it has eight bytes"));
    if let Some(first) = text
        .get(..CHUNK)
        .map(read)
        .filter(|first| leading_letters(*first) == CHUNK)
    {
        // A row of one letter, as test messages have: what is like a chunk of letters is letters.
        while let Some(chunks) = text.get(place..).and_then(<[u8]>::first_chunk::<{ 4 * CHUNK }>) {
            if chunks
                .chunks_exact(CHUNK)
                .fold(0, |unlike, chunk| unlike | read(chunk) ^ first)
                != 0
            {
                break;
            }
            place += 4 * CHUNK;
        }
    }
    while let Some(chunk) = text.get(place..).and_then(<[u8]>::first_chunk::<CHUNK>) {
        let letters = leading_letters(u64::from_le_bytes(*chunk));
        place += letters;
        if letters < CHUNK {
            return place;
        }
    }
    let rest = &text[place..];
    place
        + rest
            .iter()
            .position(|byte| !byte.is_ascii_alphabetic())
            .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        read(text.as_bytes(), 0)
    }

    #[test]
    fn words_are_the_same_wherever_they_stand_and_however_they_are_written() {
        let cases = [
            ("free", "FREE"),
            ("dont", "Don't"),
            ("100%", "2500%"),
            ("$1", "$29"),
            ("unsubscribe", "Unsubscribe"),
            ("abcdefgh", "ABCDEFGH"),
            ("abcdefghijklmnop", "AbcdefghijklmnoP"),
            ("viagra2x", "Viagra77x"),
            ("0abcdefghijklm", "123ABCDEFGHIJKLM"),
            ("abc0defghijklmnopqrstuvw", "Abc12Defghijklmnopqrstuvwxyz"),
            ("rocknrollersandthelike", "Rock'n'Rollersandthelike"),
        ];
        for (one, other) in cases {
            let alone = hash(one.as_bytes());
            assert_eq!(hash(other.as_bytes()), alone, "{other}");
            for behind in ["", " ", ".", " and more of it", "\r\n"] {
                let text = format!("{other}{behind}");
                let read = word(&text);
                assert_eq!((read.hash, read.end), (alone, other.len()), "{text:?}");
            }
        }
        assert_ne!(hash(b"free"), hash(b"freed"));
        assert_ne!(hash(b"ab"), hash(b"ba"));
        assert_ne!(pair(1, 2), pair(2, 1));
    }

    #[test]
    fn every_letter_is_one_and_nothing_else() {
        for byte in 0..=255_u8 {
            for place in 0..40 {
                let mut text = *b"abcxyzABCXYZmMnNqQrabcxyzABCXYZmMnNqQrRs";
                text[place] = byte;
                let expected = if byte.is_ascii_alphabetic() { text.len() } else { place };
                assert_eq!(letters(&text), expected, "{byte} {place}");
            }
        }
    }

    #[test]
    fn long_words_end_where_they_end_and_count_as_far_as_bounded() {
        let long = "x".repeat(1000);
        for behind in ["", " y", ".", "'"] {
            assert_eq!(word(&format!("{long}{behind}")).end, 1000 + usize::from(behind == "'"));
        }
        assert!(word(&long).too_long);
        let digits = format!("a1{}", "b2".repeat(500));
        let (read, counts) = (word(&digits), &digits[..MOST_WORD_BYTES]);
        assert_eq!(
            (read.hash, read.end, read.too_long),
            (hash(counts.as_bytes()), 1002, false)
        );
    }

    #[test]
    fn the_shape_of_a_word_is_seen() {
        let cases = [
            ("NOW", true, false),
            ("Now", false, false),
            ("I", false, false),
            ("VI4GRA", true, true),
            ("v1agra", false, true),
            ("abc123", false, false),
            ("1st", false, false),
            ("OFFERS-2", true, false),
        ];
        for (text, capitals, mixed) in cases {
            for behind in ["", " and so on"] {
                let word = word(&format!("{text}{behind}"));
                assert_eq!((word.capitals, word.mixed), (capitals, mixed), "{text}");
            }
        }
    }
}
