//! Fits the points of rules and words: logistic regression, drawn towards judgement's points for rules and towards nothing for words.

use std::collections::{BTreeMap, BTreeSet};

use crate::TAG;
use crate::corpus::{Corpus, Kind, Sample};
use crate::descent::{self, Slope};
use spam_scan::evidence::Form;
use spam_scan::model;
use spam_scan::rules::{RULES, Rule};

/// A word or pair is known if so many lists and senders use it: one that only a few use says who writes, and not what.
const FEWEST_GROUPS: usize = 3;
/// How strongly words are drawn to nothing.
const WORD_PULL: f64 = 0.01;
/// How strongly rules are drawn to judgement's points.
const RULE_PULL: f64 = 1.0;
/// How strongly those of [`LANGUAGE`] are.
const LANGUAGE_PULL: f64 = 40.0;
/// What a message of hard ham counts beside others: there is little of it, and to tag it is as bad.
const HARD_HAM: f64 = 60.0;
/// Judgement's points of a rule, in tenths, from which downwards it is a good side.
const GOOD_SIDE: i32 = -5;
/// What ham without its good sides counts beside others.
const BARE_HAM: f64 = 0.05;
/// The logarithm of the odds, by the messages trained on, at which mail is tagged. Chosen by scores of mail that was not trained on.
const TAG_ODDS: f64 = 2.2;

/// Rules that say in which language a message is. All ham that is trained on is of people who read English: what it says of these is not so
/// elsewhere.
const LANGUAGE: [Rule; 6] = [
    Rule::TextEightBit,
    Rule::CharsetForeign,
    Rule::BodyForeign,
    Rule::SubjectEncoded,
    Rule::FromNameEncoded,
    Rule::CharsetUndeclared,
];

/// Places for words, as a binary logarithm.
const PLACES_LOG: u32 = 16;

/// What training came to. A point is one in the logarithm of the odds.
#[derive(Debug)]
pub struct Trained {
    base: f64,
    rules: Vec<f64>,
    words: Vec<(u32, f64)>,
}

impl Trained {
    /// As the plugin reads it, and how many words are in it.
    pub fn write(&self) -> (Vec<u8>, usize) {
        let most = self
            .words
            .iter()
            .map(|(_, weight)| weight.abs())
            .fold(f64::MIN_POSITIVE, f64::max);
        let unit = most / f64::from(i8::MAX);
        let words: Vec<(u32, i8)> = self
            .words
            .iter()
            .map(|(hash, weight)| (*hash, (weight / unit).round() as i8))
            .collect();
        let rules: Vec<i16> = self
            .rules
            .iter()
            .map(|points| (points * 100.0).round() as i16)
            .collect();
        let base = (self.base - TAG_ODDS) * 1000.0 + f64::from(TAG) * 10.0;
        model::write(
            base.round() as i32,
            (unit * 1e6).round() as i32,
            &rules,
            PLACES_LOG,
            &words,
        )
    }
}

/// Trains on some of the samples.
pub fn train(corpus: &Corpus, places: &[usize]) -> Trained {
    let samples: Vec<&Sample> = places.iter().map(|place| &corpus.samples[*place]).collect();
    let known = known_words(&samples);
    let problem = Problem {
        rows: samples.iter().flat_map(|sample| Row::all_of(sample, &known)).collect(),
    };
    let start = [vec![0.0], judgement(), vec![0.0; known.len()]].concat();
    let found = descent::least(&problem, start);
    let (base_and_rules, weights) = found.split_at(1 + RULES.len());
    Trained {
        base: base_and_rules[0],
        rules: base_and_rules[1..].to_vec(),
        words: known.into_keys().zip(weights.iter().copied()).collect(),
    }
}

/// The words that enough groups use, each with its place.
fn known_words(samples: &[&Sample]) -> BTreeMap<u32, usize> {
    let mut groups: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for sample in samples {
        for word in sample.words.iter().chain(sample.forms.iter().flatten()) {
            let of_word = groups.entry(*word).or_default();
            if of_word.len() < FEWEST_GROUPS {
                of_word.insert(&sample.group);
            }
        }
    }
    let known = groups.into_iter().filter(|(_, of_word)| of_word.len() >= FEWEST_GROUPS);
    known.enumerate().map(|(place, (word, _))| (word, place)).collect()
}

/// How strongly a rule is drawn to judgement's points.
fn rule_pull(place: usize) -> f64 {
    if LANGUAGE.iter().any(|rule| *rule as usize == place) {
        LANGUAGE_PULL
    } else {
        RULE_PULL
    }
}

fn judgement() -> Vec<f64> {
    RULES.iter().map(|rule| f64::from(rule.points) / 10.0).collect()
}

/// A message to fit.
#[derive(Clone)]
struct Row {
    /// 1 for spam, -1 for ham.
    side: f64,
    counts: f64,
    rules: Vec<(usize, f64)>,
    /// Places of known words and forms, and what each counts, as in the plugin: words by the root of their number.
    words: Vec<(usize, f64)>,
}

impl Row {
    fn of(sample: &Sample, known: &BTreeMap<u32, usize>) -> Self {
        let places = |numbers: &[u32]| -> Vec<usize> {
            numbers.iter().filter_map(|number| known.get(number).copied()).collect()
        };
        let words = places(&sample.words);
        let word = 1.0 / (words.len().max(1) as f64).sqrt();
        let forms = Form::ALL.into_iter().flat_map(|form| {
            let places = places(&sample.forms[form as usize]);
            places.into_iter().map(move |place| (place, form.counts()))
        });
        let words = words.into_iter().map(|place| (place, word)).chain(forms).collect();
        let rules = sample.times.iter().enumerate().filter(|(_, times)| **times > 0);
        Self {
            side: if sample.kind == Kind::Spam { 1.0 } else { -1.0 },
            counts: if sample.kind == Kind::HardHam { HARD_HAM } else { 1.0 },
            rules: rules.map(|(place, times)| (place, f64::from(*times))).collect(),
            words,
        }
    }

    /// A message as it is, by its words alone, and by its rules alone: so that neither learns to lean on the other, which other mail may not
    /// give. Ham also without what speaks for it.
    fn all_of(sample: &Sample, known: &BTreeMap<u32, usize>) -> Vec<Self> {
        let whole = Self::of(sample, known);
        let by_words = Self {
            rules: Vec::new(),
            ..whole.clone()
        };
        let by_rules = Self {
            words: Vec::new(),
            ..whole.clone()
        };
        [whole, by_words, by_rules]
            .into_iter()
            .chain(Self::bare(sample))
            .collect()
    }

    /// Ham without its words and all that speaks for it: mail of which nothing is known is no spam for that. Else replies and lists, of which
    /// the ham is full, would be what tells ham.
    fn bare(sample: &Sample) -> Option<Self> {
        let rules = sample.times.iter().enumerate();
        let against = rules.filter(|(place, times)| **times > 0 && RULES[*place].points > GOOD_SIDE);
        (sample.kind != Kind::Spam).then(|| Self {
            side: -1.0,
            counts: BARE_HAM * if sample.kind == Kind::HardHam { HARD_HAM } else { 1.0 },
            rules: against.map(|(place, times)| (place, f64::from(*times))).collect(),
            words: Vec::new(),
        })
    }

    fn odds(&self, at: &[f64]) -> f64 {
        let rules: f64 = self.rules.iter().map(|(place, times)| at[1 + place] * times).sum();
        let words: f64 = self
            .words
            .iter()
            .map(|(place, counts)| at[1 + RULES.len() + place] * counts)
            .sum();
        at[0] + rules + words
    }
}

/// What is to be least: the surprise at each message, and the pulls.
struct Problem {
    rows: Vec<Row>,
}

impl Slope for Problem {
    fn at(&self, at: &[f64], slope: &mut [f64]) -> f64 {
        slope.fill(0.0);
        let mut cost = 0.0;
        for row in &self.rows {
            let right = row.side * row.odds(at);
            cost += row.counts * ((-right).max(0.0) + (-right.abs()).exp().ln_1p());
            let push = -row.side * row.counts / (1.0 + right.exp());
            slope[0] += push;
            for (place, times) in &row.rules {
                slope[1 + place] += push * times;
            }
            for (place, counts) in &row.words {
                slope[1 + RULES.len() + place] += push * counts;
            }
        }
        let (_, behind) = at.split_at(1);
        let (rules, words) = behind.split_at(RULES.len());
        for (place, (points, judged)) in rules.iter().zip(judgement()).enumerate() {
            let pull = rule_pull(place);
            slope[1 + place] += pull * (points - judged);
            cost += pull / 2.0 * (points - judged).powi(2);
        }
        for (slope, weight) in slope[1 + RULES.len()..].iter_mut().zip(words) {
            *slope += WORD_PULL * weight;
            cost += WORD_PULL / 2.0 * weight.powi(2);
        }
        cost
    }
}
