//! Finds phrases in text: all of them at once, in one look at each byte (Aho and Corasick's automaton, as a full table).
//!
//! Text is taken in 32 symbols (see [`symbol`]): upper and lower case are the same, punctuation is a space, several spaces are one, an
//! apostrophe is nothing. So `Don't   DELAY!` meets the phrase `dont delay`.

use std::collections::VecDeque;

/// Symbols of the automaton.
const SYMBOLS: usize = 32;
/// Between words.
pub const SPACE: u8 = 26;
const DIGIT: u8 = 27;
const DOLLAR: u8 = 28;
const PERCENT: u8 = 29;
/// 8-bit: a letter of which nothing is known.
const OTHER: u8 = 30;
/// Leaves every state as it is.
pub const NOTHING: u8 = 31;

/// In a table's entry: a phrase ends here.
pub const ENDS: u16 = 0x8000;

/// The state behind a space: where a text begins.
pub const START: u16 = 1;

/// Phrases of rules and configuration together.
pub const MOST_PHRASES: usize = 256;

/// Bytes of one phrase; with [`MOST_PHRASES`] it keeps states in 15 bits.
pub const MOST_PHRASE_BYTES: usize = 64;

/// The automaton.
#[derive(Debug)]
pub struct Phrases {
    /// `SYMBOLS` entries for each state: the next state, and [`ENDS`].
    next: Vec<u16>,
    /// For each state the phrases that end in it, by their place in the list they were made of.
    ending: Vec<Vec<u8>>,
}

/// Phrases that were met, by their place in the list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met([u64; MOST_PHRASES / 64]);

impl Met {
    pub fn add(&mut self, phrase: u8) {
        self.0[usize::from(phrase) / 64] |= 1 << (phrase % 64);
    }

    pub fn add_all(&mut self, other: &Self) {
        for (mine, others) in self.0.iter_mut().zip(other.0) {
            *mine |= others;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0 == Self::default().0
    }

    /// The places, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MOST_PHRASES).filter(|place| self.0[place / 64] >> (place % 64) & 1 == 1)
    }
}

impl Phrases {
    /// # Errors
    /// There are more than [`MOST_PHRASES`], or one is empty, too long, or not ASCII.
    pub fn new<'a>(phrases: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        // State 0 is the root, state 1 the one behind a space: every phrase begins there, so it begins at the beginning of a word.
        let mut tree = Self {
            next: vec![0; 2 * SYMBOLS],
            ending: vec![Vec::new(); 2],
        };
        tree.next[usize::from(SPACE)] = START;
        for (place, phrase) in phrases.into_iter().enumerate() {
            let Ok(place) = u8::try_from(place) else {
                return Err(format!("more than {MOST_PHRASES} phrases"));
            };
            if phrase.trim().is_empty() || phrase.len() > MOST_PHRASE_BYTES || !phrase.is_ascii() {
                return Err(format!(
                    "`{phrase}` must be 1 to {MOST_PHRASE_BYTES} characters of ASCII"
                ));
            }
            tree.plant(phrase, place);
        }
        tree.link();
        Ok(tree)
    }

    /// The table entry behind `state` and `symbol`.
    #[inline]
    pub fn step(&self, state: u16, symbol: u8) -> u16 {
        self.next[(usize::from(state & !ENDS) << 5) | usize::from(symbol & 31)]
    }

    /// Notes the phrases that end in a state.
    #[cold]
    pub fn collect(&self, state: u16, met: &mut Met) {
        for phrase in &self.ending[usize::from(state & !ENDS)] {
            met.add(*phrase);
        }
    }

    fn plant(&mut self, phrase: &str, place: u8) {
        let mut state = START;
        let mut before = SPACE;
        for byte in phrase.trim().bytes() {
            let symbol = symbol(byte);
            if symbol == NOTHING || (symbol == SPACE && before == SPACE) {
                continue;
            }
            before = symbol;
            let slot = usize::from(state) * SYMBOLS + usize::from(symbol);
            if self.next[slot] == 0 {
                let states = self.ending.len();
                self.next[slot] = u16::try_from(states).expect("256 phrases of 64 bytes are 16,384 states at most");
                self.next.resize((states + 1) * SYMBOLS, 0);
                self.ending.push(Vec::new());
            }
            state = self.next[slot];
        }
        self.ending[usize::from(state)].push(place);
    }

    /// Turns the tree into the full table: where it has no branch, go where the longest end of what was read goes.
    fn link(&mut self) {
        let mut fallback = vec![0_u16; self.ending.len()];
        let mut behind_space = vec![false; self.ending.len()];
        behind_space[usize::from(START)] = true;
        let mut queue = VecDeque::from([START]);
        while let Some(state) = queue.pop_front() {
            let row = usize::from(state) * SYMBOLS;
            let other = usize::from(fallback[usize::from(state)]) * SYMBOLS;
            for symbol in 0..SYMBOLS {
                let child = self.next[row + symbol];
                let elsewhere = self.next[other + symbol];
                if child == 0 {
                    self.next[row + symbol] = elsewhere;
                } else {
                    fallback[usize::from(child)] = elsewhere;
                    behind_space[usize::from(child)] = symbol == usize::from(SPACE);
                    let also = self.ending[usize::from(elsewhere)].clone();
                    self.ending[usize::from(child)].extend(also);
                    queue.push_back(child);
                }
            }
            if behind_space[usize::from(state)] {
                self.next[row + usize::from(SPACE)] = state;
            }
        }
        for (state, row) in self.next.chunks_mut(SYMBOLS).enumerate() {
            row[usize::from(NOTHING)] = state as u16;
            for next in row {
                if !self.ending[usize::from(*next)].is_empty() {
                    *next |= ENDS;
                }
            }
        }
    }
}

/// What a byte is to the automaton.
pub const fn symbol(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => byte - b'a',
        b'A'..=b'Z' => byte - b'A',
        b'0'..=b'9' => DIGIT,
        b'$' => DOLLAR,
        b'%' => PERCENT,
        b'\'' => NOTHING,
        0x80.. => OTHER,
        _ => SPACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(phrases: &[&str], text: &str) -> Vec<usize> {
        let automaton = Phrases::new(phrases.iter().copied()).expect("valid");
        let mut met = Met::default();
        let mut state = START;
        for byte in text.bytes() {
            state = automaton.step(state, symbol(byte));
            if state & ENDS != 0 {
                automaton.collect(state, &mut met);
            }
        }
        met.iter().collect()
    }

    #[test]
    fn phrases_are_found_at_the_beginning_of_words() {
        let phrases = [
            "act now",
            "now or never",
            "or",
            "100% free",
            "dont delay",
            "section 301",
            "a b a c",
        ];
        let cases: &[(&str, &[usize])] = &[
            ("Act now", &[0]),
            ("contact now", &[]),
            ("ACT \r\n NOW!", &[0]),
            ("act now or never", &[0, 1, 2]),
            ("act  now  or\tnever", &[0, 1, 2]),
            ("100% free", &[3]),
            ("250% free", &[3]),
            ("1000% free", &[]),
            ("Don't delay", &[4]),
            ("section 302", &[5]),
            ("a b a b a c", &[6]),
            ("a b ä b a c", &[]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(find(&phrases, text), *expected, "{text}");
        }
    }

    #[test]
    fn phrases_are_bounded() {
        let long = "x".repeat(MOST_PHRASE_BYTES + 1);
        for bad in ["", " ", "ä", &long] {
            assert!(Phrases::new([bad]).is_err(), "{bad}");
        }
        assert!(Phrases::new(std::iter::repeat_n("x", MOST_PHRASES)).is_ok());
        assert!(Phrases::new(std::iter::repeat_n("x", MOST_PHRASES + 1)).is_err());
    }
}
