//! `[plugin.config]`: thresholds, weights, phrases of one's own, and how much of a body is read.
//!
//! Points are written as decimals and kept in tenths. Errors name the key, and for an unknown rule the nearest names.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::phrases::Phrases;
use crate::rules::{PHRASES, RULES, Rule};

/// Bytes of a body that may be read at most: with the header they fit in one read of the host's 256 KiB.
pub const MOST_BODY_BYTES: u32 = 192 * 1024;

/// Points above which a number is a mistake.
const MOST_POINTS: f64 = 1000.0;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Points from which a message gets `X-Spam-Flag: YES`.
    pub tag: Points,
    /// Points from which it is kept in the queue for an administrator.
    pub quarantine: Option<Points>,
    /// Points from which it is refused.
    pub reject: Option<Points>,
    /// Other weights for rules.
    pub weights: BTreeMap<String, Points>,
    /// Phrases of one's own, each with its points.
    pub phrases: BTreeMap<String, Points>,
    /// Bytes of the body that are read.
    pub body_bytes: u32,
    /// Whether `X-Spam-Score` is added to every message.
    pub always_score: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tag: Points(50),
            quarantine: None,
            reject: None,
            weights: BTreeMap::new(),
            phrases: BTreeMap::new(),
            body_bytes: 64 * 1024,
            always_score: false,
        }
    }
}

/// Tenths of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Points(pub i32);

impl<'de> Deserialize<'de> for Points {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let points = f64::deserialize(deserializer)?;
        if points.abs() > MOST_POINTS {
            return Err(serde::de::Error::custom(format!(
                "must be between -{MOST_POINTS} and {MOST_POINTS}"
            )));
        }
        Ok(Self((points * 10.0).round() as i32))
    }
}

/// What a phrase that was met counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Once more for this rule.
    Group(Rule),
    /// Its own points, in tenths.
    Own(i32),
}

/// The configuration, checked, with everything that follows from it.
#[derive(Debug)]
pub struct Settings {
    pub tag: i32,
    pub quarantine: Option<i32>,
    pub reject: Option<i32>,
    pub always_score: bool,
    pub body_bytes: u32,
    /// In tenths, in the order of [`RULES`].
    pub weights: Vec<i32>,
    pub phrases: Phrases,
    /// For each phrase of the automaton.
    pub worth: Vec<Worth>,
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Settings, String> {
    let Config {
        tag,
        quarantine,
        reject,
        weights: written,
        phrases,
        body_bytes,
        always_score,
    } = config;
    if body_bytes > MOST_BODY_BYTES {
        return Err(format!("body_bytes: {body_bytes} is more than {MOST_BODY_BYTES}"));
    }
    for (key, points) in [("tag", Some(tag)), ("quarantine", quarantine), ("reject", reject)] {
        if points.is_some_and(|points| points.0 <= 0) {
            return Err(format!("{key}: must be above 0, or every message would meet it"));
        }
    }
    let mut weights: Vec<i32> = RULES.iter().map(|rule| rule.weight).collect();
    for (name, points) in &written {
        let Some(place) = RULES.iter().position(|rule| rule.name == name) else {
            return Err(format!("weights.{name}: no such rule; the rules are {}", names()));
        };
        if place == Rule::PhrasesOwn as usize {
            return Err(format!(
                "weights.{name}: the weight of your phrases is written beside each of them"
            ));
        }
        weights[place] = points.0;
    }
    let built_in = PHRASES
        .iter()
        .flat_map(|(rule, group)| group.iter().map(|phrase| (*phrase, Worth::Group(*rule))));
    let own = phrases
        .iter()
        .map(|(phrase, points)| (phrase.as_str(), Worth::Own(points.0)));
    let (texts, worth): (Vec<&str>, Vec<Worth>) = built_in.chain(own).unzip();
    let automaton = Phrases::new(texts).map_err(|error| format!("phrases: {error}"))?;
    Ok(Settings {
        tag: tag.0,
        quarantine: quarantine.map(|points| points.0),
        reject: reject.map(|points| points.0),
        always_score,
        body_bytes,
        weights,
        phrases: automaton,
        worth,
    })
}

fn names() -> String {
    RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ")
}
