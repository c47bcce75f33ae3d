//! Finds phrases in the words of a text, as they come.
//!
//! Phrases are kept by the numbers of their beginnings: the first word, the first two, and so on, each with whether a phrase ends or goes on
//! there. So a word costs one look-up, and a second one where it may continue a phrase.

use crate::word;

/// Places in a table of `PLACES`: at most half of them are used, so that a search ends.
#[derive(Debug)]
pub struct Phrases<const PLACES: usize> {
    /// The number of the beginning in each place; 0 if it is free.
    hashes: [u32; PLACES],
    beginnings: [Beginning; PLACES],
    /// Eight bits for each place, by other bits of the numbers than those that say the place: what has none is no beginning. It is a quarter of
    /// the numbers, so it stays near, and most words end here.
    marks: [u8; PLACES],
    used: usize,
}

/// The beginning of a phrase, or all of it.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    /// What a phrase that ends here counts for; 0 if none does.
    ends: u8,
    /// Some phrase goes on.
    goes_on: bool,
}

/// A phrase that was met.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    /// What it counts for.
    pub number: u8,
    /// Its place in the table: phrases that differ have different ones.
    pub place: usize,
}

const FREE: Beginning = Beginning {
    ends: 0,
    goes_on: false,
};

impl<const PLACES: usize> Phrases<PLACES> {
    pub const fn new() -> Self {
        assert!(PLACES.is_power_of_two());
        Self {
            hashes: [0; PLACES],
            beginnings: [FREE; PLACES],
            marks: [0; PLACES],
            used: 0,
        }
    }

    /// Adds a phrase that counts for `ends`, which is not 0. False, and it is not there: it has no word, or there is no room.
    pub const fn add(&mut self, phrase: &[u8], ends: u8) -> bool {
        let mut hash = 0;
        let mut at = 0;
        let mut last = None;
        while at < phrase.len() {
            if word::CLASS[phrase[at] as usize] & word::IN_WORD == 0 {
                at += 1;
                continue;
            }
            let start = at;
            while at < phrase.len() && word::CLASS[phrase[at] as usize] & word::IN_WORD != 0 {
                at += 1;
            }
            let (_, behind) = phrase.split_at(start);
            let (word, _) = behind.split_at(at - start);
            let word = word::hash(word);
            if let Some(place) = last {
                let before: usize = place;
                self.beginnings[before].goes_on = true;
                hash = word::pair(hash, word);
            } else {
                hash = word;
            }
            let place = self.place(hash);
            if self.hashes[place] == 0 {
                if self.used * 2 >= PLACES {
                    return false;
                }
                self.used += 1;
                self.hashes[place] = hash;
                let (place, bit) = Self::mark(hash);
                self.marks[place] |= bit;
            }
            last = Some(place);
        }
        match last {
            Some(place) => {
                self.beginnings[place].ends = ends;
                true
            }
            None => false,
        }
    }

    /// Takes the next word. `state` begins as 0, and is kept by the caller. The phrase that ends here, if one does.
    #[inline]
    pub fn step(&self, state: &mut u32, word: u32) -> Option<Met> {
        // Most words neither begin a phrase nor stand behind the beginning of one.
        if *state == 0 && !self.may_have(word) {
            return None;
        }
        self.follow(state, word)
    }

    /// The same for a word that may be of a phrase. Not inlined, to leave the way of the others short.
    #[inline(never)]
    fn follow(&self, state: &mut u32, word: u32) -> Option<Met> {
        if *state != 0 {
            let hash = word::pair(*state, word);
            *state = 0;
            if self.may_have(hash) {
                let place = self.place(hash);
                if self.hashes[place] == hash {
                    return self.arrive(state, place);
                }
            }
        }
        if self.may_have(word) {
            let place = self.place(word);
            if self.hashes[place] == word {
                return self.arrive(state, place);
            }
        }
        None
    }

    /// False: it is no beginning.
    #[inline]
    fn may_have(&self, hash: u32) -> bool {
        let (place, bit) = Self::mark(hash);
        self.marks[place] & bit != 0
    }

    #[inline]
    const fn mark(hash: u32) -> (usize, u8) {
        ((hash >> 16) as usize % PLACES, 1 << (hash >> 29))
    }

    fn arrive(&self, state: &mut u32, place: usize) -> Option<Met> {
        let Beginning { ends, goes_on } = self.beginnings[place];
        *state = if goes_on { self.hashes[place] } else { 0 };
        (ends != 0).then_some(Met { number: ends, place })
    }

    /// Where a beginning is, or would be.
    #[inline]
    const fn place(&self, hash: u32) -> usize {
        let mut place = hash as usize % PLACES;
        while self.hashes[place] != hash && self.hashes[place] != 0 {
            place = (place + 1) % PLACES;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::{CLASS, IN_WORD};

    fn find(phrases: &[&str], text: &str) -> Vec<u8> {
        let mut table = Phrases::<64>::new();
        for (number, phrase) in (1..).zip(phrases) {
            assert!(table.add(phrase.as_bytes(), number), "{phrase}");
        }
        let (mut state, mut at, mut found) = (0, 0, Vec::new());
        while at < text.len() {
            if CLASS[usize::from(text.as_bytes()[at])] & IN_WORD == 0 {
                at += 1;
                continue;
            }
            let word = word::read(text.as_bytes(), at);
            at = word.end;
            found.extend(table.step(&mut state, word.hash).map(|met| met.number));
        }
        found
    }

    #[test]
    fn phrases_are_found_word_by_word() {
        let phrases = [
            "act now",
            "now or never",
            "or",
            "100% free",
            "dont delay",
            "section 301",
        ];
        let cases: &[(&str, &[u8])] = &[
            ("Act now", &[1]),
            ("contact now", &[]),
            ("act nowhere", &[]),
            ("ACT \r\n NOW!", &[1]),
            ("act, act now", &[1]),
            ("now or never", &[2]),
            // A word that goes on with a phrase begins no other.
            ("now or then", &[]),
            ("this or that", &[3]),
            ("now or", &[]),
            ("250% free", &[4]),
            ("Don't delay", &[5]),
            ("section 302", &[6]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(find(&phrases, text), *expected, "{text}");
        }
    }

    #[test]
    fn a_word_is_let_by_only_if_it_is_no_beginning() {
        let mut table = Phrases::<64>::new();
        for phrase in ["act now", "risk free offer"] {
            assert!(table.add(phrase.as_bytes(), 1), "{phrase}");
        }
        for hash in table.hashes.into_iter().filter(|hash| *hash != 0) {
            assert!(table.may_have(hash), "{hash}");
        }
        let others = (1..1000_u32).filter(|hash| table.may_have(hash.wrapping_mul(0x9e37_79b9)));
        assert!(others.count() < 50, "five beginnings in 512 bits");
    }

    #[test]
    fn there_is_an_end_to_the_room() {
        let mut table = Phrases::<8>::new();
        assert!(!table.add(b"", 1) && !table.add(b" .", 1));
        assert!(table.add(b"a b", 1) && table.add(b"a c", 1) && table.add(b"d", 1));
        assert!(!table.add(b"e", 1));
        assert!(table.add(b"a", 1), "its beginning is there");
    }
}
