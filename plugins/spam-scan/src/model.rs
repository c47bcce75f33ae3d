//! What training came to: the points of rules and words. `examples/train` writes it, and no one else.
//!
//! All numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `gpspam 1` |
//! | 2 | how many rules |
//! | 2 | the binary logarithm of the number of places for words |
//! | 4 | points of a message that shows nothing, in thousandths, signed |
//! | 4 | points of a word of weight 1 that stands alone, in millionths |
//! | 2 a rule | its points, in hundredths, signed |
//! | 2 a place | eight bits of the word's number that tell it from others, and its weight, signed; a weight of 0 is a free place |
//!
//! A word of number `n` is in the place of its highest bits, or in the one beside it. What is in neither says nothing.

use crate::evidence::{Form, Words};
use crate::rules::RULES;

const MAGIC: &[u8; 8] = b"gpspam 1";
const HEADER_BYTES: usize = 20;
/// Places for words, as a binary logarithm: 2^16 are 128 KiB.
const MOST_PLACES_LOG: u32 = 17;

/// Points that the forms of a header speak against a message at most, in hundredths, however many they are: a program that nobody has seen may make a
/// header like a spammer's, and what it writes is no spam for that alone.
const MOST_FORM_POINTS: i32 = 450;

/// The model that ships.
pub static SHIPPED: &[u8] = include_bytes!("../model.bin");

/// A model.
#[derive(Debug)]
pub struct Model<'a> {
    /// In thousandths of a point.
    base: i32,
    /// In millionths of a point.
    unit: i32,
    rules: Vec<i16>,
    /// Fingerprint and weight by turns.
    words: &'a [u8],
    log: u32,
}

impl<'a> Model<'a> {
    /// # Errors
    /// It is no model, or one of other rules.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let bad = |what: &str| format!("model.bin {what}: train it anew, see plugins/spam-scan/README.md");
        let Some((MAGIC, _)) = bytes.split_first_chunk() else {
            return Err(bad("is no model of this version"));
        };
        let number = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        let long = |at: usize| {
            bytes
                .get(at..at + 4)
                .map(|four| i32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        };
        let header = (|| Some((number(8)?, number(10)?, long(12)?, long(16)?)))();
        let (rules, log, base, unit) = header.ok_or_else(|| bad("is cut short"))?;
        let log = u32::from(log);
        let words = HEADER_BYTES + 2 * RULES.len();
        if usize::from(rules) != RULES.len() {
            return Err(bad("is of other rules"));
        }
        if !(1..=MOST_PLACES_LOG).contains(&log) || bytes.len() != words + (2 << log) {
            return Err(bad("has another size than it says"));
        }
        let rule = |two: &[u8]| i16::from_le_bytes([two[0], two[1]]);
        Ok(Self {
            base,
            unit,
            rules: bytes[HEADER_BYTES..words].chunks_exact(2).map(rule).collect(),
            words: &bytes[words..],
            log,
        })
    }

    /// Points of a rule, in hundredths.
    pub fn rule(&self, place: usize) -> i32 {
        self.rules.get(place).map_or(0, |points| i32::from(*points))
    }

    /// Points of a message that shows nothing, in hundredths.
    pub fn base(&self) -> i32 {
        self.base / 10
    }

    /// A table that takes the words of one message.
    pub fn tally(&self) -> Tally<'_> {
        Tally {
            model: self,
            seen: Vec::new(),
            words: 0,
            forms: [0; Form::ALL.len()],
            known: 0,
        }
    }

    /// False: the model does not know this word, as it does not know most. True: it may.
    #[inline]
    fn may_know(&self, hash: u32) -> bool {
        // Both places that it may have are four bytes in a row: one look and one branch.
        let place = (hash >> (32 - self.log)) as usize & !1;
        let Some(both) = self.words.get(2 * place..2 * place + 4) else {
            return false;
        };
        let both = u32::from_le_bytes([both[0], both[1], both[2], both[3]]);
        let differs = (both ^ (u32::from(hash as u8) * 0x1_0001)) & 0xff_00ff;
        // What is zero in it borrows.
        differs.wrapping_sub(0x1_0001) & 0x8000_8000 != 0
    }

    /// Where a word is, and its weight, if the model knows it.
    fn find(&self, hash: u32) -> Option<(usize, i8)> {
        let first = (hash >> (32 - self.log)) as usize;
        let weight = |place: usize| self.words[2 * place + 1] as i8;
        [first, first ^ 1]
            .into_iter()
            .find(|place| self.words[2 * place] == hash as u8 && weight(*place) != 0)
            .map(|place| (place, weight(place)))
    }
}

/// The words of one message, each counted once.
#[derive(Debug)]
pub struct Tally<'m> {
    model: &'m Model<'m>,
    /// A bit for each place; empty until a word is known. The text of many a message (a test, a report, another language) has none.
    seen: Vec<u32>,
    /// The sums of weights; those of forms by what they are of.
    words: i32,
    forms: [i32; Form::ALL.len()],
    known: u32,
}

impl Words for Tally<'_> {
    #[inline]
    fn take(&mut self, hash: u32) {
        if self.model.may_know(hash)
            && let Some(weight) = self.weight(hash)
        {
            self.words += weight;
            self.known += 1;
        }
    }

    fn take_form(&mut self, form: Form, hash: u32) {
        if self.model.may_know(hash) {
            self.forms[form as usize] += self.weight(hash).unwrap_or(0);
        }
    }
}

impl Tally<'_> {
    /// The weight of a word that is met for the first time, if the model knows it. Not inlined, to leave the way of words that the model does not know short.
    #[inline(never)]
    fn weight(&mut self, hash: u32) -> Option<i32> {
        let (place, weight) = self.model.find(hash)?;
        if self.seen.is_empty() {
            self.seen = vec![0; (1 << self.model.log) / 32 + 1];
        }
        let bit = 1 << (place % 32);
        let seen = &mut self.seen[place / 32];
        let is_new = *seen & bit == 0;
        *seen |= bit;
        is_new.then_some(weight.into())
    }

    /// Points of the words, in hundredths: a long text has more of them, and is no more spam for it, so they count by the root of their number.
    pub fn words(&self) -> i32 {
        let points = f64::from(self.words) * f64::from(self.model.unit) / f64::from(self.known.max(1)).sqrt();
        (points / 10_000.0) as i32
    }

    /// Points of the forms, in hundredths, at most [`MOST_FORM_POINTS`].
    pub fn forms(&self) -> i32 {
        let sums = Form::ALL.map(|form| f64::from(self.forms[form as usize]) * form.counts());
        let points = sums.iter().sum::<f64>() * f64::from(self.model.unit);
        ((points / 10_000.0) as i32).min(MOST_FORM_POINTS)
    }
}

/// Points of the rules that are met, in hundredths.
pub fn rule_points(model: &Model<'_>, times: &[u8; RULES.len()]) -> i32 {
    (0..RULES.len())
        .map(|place| i32::from(times[place]) * model.rule(place))
        .sum()
}

/// Writes a model: `words` are numbers with their weights. Of words that would need the same place the heavier stay; says how many do.
pub fn write(base: i32, unit: i32, rules: &[i16], log: u32, words: &[(u32, i8)]) -> (Vec<u8>, usize) {
    let mut heaviest: Vec<(u32, i8)> = words.iter().copied().filter(|(_, weight)| *weight != 0).collect();
    heaviest.sort_by_key(|(hash, weight)| (-i32::from(weight.unsigned_abs()), *hash));
    let mut table = vec![0; 2 << log];
    let mut kept = 0;
    for (hash, weight) in heaviest {
        let first = (hash >> (32 - log)) as usize;
        if let Some(place) = [first, first ^ 1].into_iter().find(|place| table[2 * place + 1] == 0) {
            table[2 * place] = hash as u8;
            table[2 * place + 1] = weight as u8;
            kept += 1;
        }
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend((rules.len() as u16).to_le_bytes());
    bytes.extend((log as u16).to_le_bytes());
    bytes.extend(base.to_le_bytes());
    bytes.extend(unit.to_le_bytes());
    bytes.extend(rules.iter().flat_map(|points| points.to_le_bytes()));
    bytes.extend(table);
    (bytes, kept)
}
