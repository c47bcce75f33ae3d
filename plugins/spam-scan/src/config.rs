//! `[plugin.config]`: thresholds, weights, phrases of one's own, and how much of a body is read.
//!
//! Points are written as decimals and kept in hundredths. Errors name the key, and for an unknown rule the nearest names.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::evidence::OWN_PLACES;
use crate::model::{Model, SHIPPED};
use crate::phrases::Phrases;
use crate::rules::{NAMES, RULES};
use crate::score::decimal;

/// Bytes of a body that may be read at most: with the header they fit in one read of the host's 256 KiB.
pub const MOST_BODY_BYTES: u32 = 192 * 1024;

/// Points above which a number is a mistake.
const MOST_POINTS: f64 = 1000.0;

/// The highest weight of another scanner.
const MOST_WEIGHT: Points = Points(1000);

/// Bytes of a phrase of one's own.
const MOST_PHRASE_BYTES: usize = 64;
/// Phrases of one's own.
const MOST_PHRASES: usize = 200;

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
    /// The same for mail of authenticated users.
    pub outbound: Outbound,
    /// Other weights for rules.
    pub weights: BTreeMap<RuleName, Points>,
    /// Phrases of one's own, each with its points.
    pub phrases: BTreeMap<String, Points>,
    /// Bytes of the body that are read.
    pub body_bytes: u32,
    /// Whether `X-Spam-Flag` and `X-Spam-Score` are added to every message.
    pub always_score: bool,
    /// If and how rspamd is asked.
    pub rspamd: Option<Scanner>,
    /// If and how spamd is asked.
    pub spamd: Option<Scanner>,
}

/// How another scanner is asked, as written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scanner {
    /// How much of its score counts: at 1, what it takes for spam is worth `tag`.
    pub weight: Points,
    /// What happens to a message about which it says nothing of use.
    pub unavailable: Unavailable,
    /// Bytes of a message about which it is still asked.
    pub max_bytes: u64,
    /// It is asked only if the points without it are no fewer than the first and no more than the second.
    pub between: Option<(Points, Points)>,
    /// Whether it is asked about mail of clients that did not authenticate.
    pub inbound: bool,
    /// Whether it is asked about mail of authenticated users.
    pub outbound: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            weight: Points(100),
            unavailable: Unavailable::Accept,
            // As spamc has it: spam is seldom larger.
            max_bytes: 500 * 1024,
            between: None,
            inbound: true,
            outbound: true,
        }
    }
}

/// What happens to a message about which a scanner says nothing of use.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    Accept,
    Defer,
}

impl Scanner {
    fn check(&self, key: &str) -> Result<(), String> {
        if !(1..=MOST_WEIGHT.0).contains(&self.weight.0) {
            return Err(format!(
                "{key}.weight: must be from 0.01 to {}",
                f64::from(MOST_WEIGHT.0) / 100.0
            ));
        }
        if self.max_bytes == 0 {
            return Err(format!(
                "{key}.max_bytes: 0 would ask about nothing: write a number of bytes"
            ));
        }
        if self.between.is_some_and(|(least, most)| least > most) {
            return Err(format!(
                "{key}.between: the first number is above the second: write [LEAST, MOST]"
            ));
        }
        if !self.inbound && !self.outbound {
            return Err(format!(
                "{key}.inbound, {key}.outbound: both are false, so it would never be asked: leave [plugin.config.{key}] out, or set one to true"
            ));
        }
        Ok(())
    }
}

/// Thresholds for mail of authenticated users, as written. What is not written is as for other mail.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    pub tag: Option<Points>,
    pub quarantine: Option<Points>,
    pub reject: Option<Points>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tag: Points(500),
            quarantine: None,
            reject: None,
            outbound: Outbound::default(),
            weights: BTreeMap::new(),
            phrases: BTreeMap::new(),
            body_bytes: 64 * 1024,
            always_score: false,
            rspamd: None,
            spamd: None,
        }
    }
}

/// A rule's name, as its place in [`RULES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName(pub usize);

impl<'de> Deserialize<'de> for RuleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        // The weights of one's own phrases are written beside each of them.
        let (_, named) = NAMES.split_last().expect("there are rules");
        let place = named.iter().position(|other| *other == name);
        place
            .map(Self)
            .ok_or_else(|| serde::de::Error::unknown_variant(&name, named))
    }
}

/// Hundredths of a point.
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
        Ok(Self((points * 100.0).round() as i32))
    }
}

/// From how many points what happens, in hundredths.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub tag: i32,
    pub quarantine: Option<i32>,
    pub reject: Option<i32>,
}

/// The configuration, checked, with everything that follows from it.
#[derive(Debug)]
pub struct Settings {
    pub inbound: Thresholds,
    /// None: as for other mail.
    pub outbound: Option<Thresholds>,
    pub always_score: bool,
    pub body_bytes: u32,
    /// In hundredths, in the order of [`RULES`].
    pub weights: Vec<i32>,
    pub model: Model<'static>,
    pub own: Option<Box<Phrases<OWN_PLACES>>>,
    /// For each phrase of one's own its points, in hundredths.
    pub worth: Vec<i32>,
    pub rspamd: Option<Scanner>,
    pub spamd: Option<Scanner>,
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Settings, String> {
    let model = Model::read(SHIPPED)?;
    if config.body_bytes > MOST_BODY_BYTES {
        return Err(format!(
            "body_bytes: {} is more than {MOST_BODY_BYTES}",
            config.body_bytes
        ));
    }
    let Outbound {
        tag,
        quarantine,
        reject,
    } = config.outbound;
    for (key, points) in [
        ("tag", Some(config.tag)),
        ("quarantine", config.quarantine),
        ("reject", config.reject),
        ("outbound.tag", tag),
        ("outbound.quarantine", quarantine),
        ("outbound.reject", reject),
    ] {
        if points.is_some_and(|points| points.0 <= 0) {
            return Err(format!("{key}: must be above 0, or every message would meet it"));
        }
    }
    for (key, scanner) in [("rspamd", &config.rspamd), ("spamd", &config.spamd)] {
        scanner.as_ref().map_or(Ok(()), |scanner| scanner.check(key))?;
    }
    let mut weights: Vec<i32> = (0..RULES.len()).map(|place| model.rule(place)).collect();
    for (name, points) in &config.weights {
        weights[name.0] = points.0;
    }
    let points = |points: Option<Points>| points.map(|points| points.0);
    let inbound = Thresholds {
        tag: config.tag.0,
        quarantine: points(config.quarantine),
        reject: points(config.reject),
    };
    let outbound = (tag.is_some() || quarantine.is_some() || reject.is_some()).then(|| Thresholds {
        tag: points(tag).unwrap_or(inbound.tag),
        quarantine: points(quarantine).or(inbound.quarantine),
        reject: points(reject).or(inbound.reject),
    });
    below("quarantine", inbound.quarantine, inbound.reject)?;
    // What is inherited is not what this table asks for.
    if let Some(outbound) = outbound.filter(|_| quarantine.is_some()) {
        below("outbound.quarantine", outbound.quarantine, outbound.reject)?;
    }
    Ok(Settings {
        inbound,
        outbound,
        always_score: config.always_score,
        body_bytes: config.body_bytes,
        weights,
        model,
        own: own_phrases(&config.phrases)?,
        worth: config.phrases.values().map(|points| points.0).collect(),
        rspamd: config.rspamd,
        spamd: config.spamd,
    })
}

/// What is kept back from so many points on must not be refused before.
fn below(key: &str, quarantine: Option<i32>, reject: Option<i32>) -> Result<(), String> {
    match (quarantine, reject) {
        (Some(quarantine), Some(reject)) if quarantine >= reject => Err(format!(
            "{key}: {} is not below `reject`, which is {}, so nothing would be kept: write less, or leave it out",
            decimal(quarantine),
            decimal(reject),
        )),
        _ => Ok(()),
    }
}

fn own_phrases(written: &BTreeMap<String, Points>) -> Result<Option<Box<Phrases<OWN_PLACES>>>, String> {
    if written.is_empty() {
        return Ok(None);
    }
    let mut own = Box::new(Phrases::new());
    if written.len() > MOST_PHRASES {
        return Err(format!("phrases: more than {MOST_PHRASES}"));
    }
    for (number, phrase) in (1..=u8::MAX).zip(written.keys()) {
        if phrase.len() > MOST_PHRASE_BYTES
            || !phrase.is_ascii()
            || !phrase.bytes().any(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(format!(
                "phrases: `{phrase}` must be words of 1 to {MOST_PHRASE_BYTES} characters of ASCII"
            ));
        }
        if !own.add(phrase.as_bytes(), number) {
            return Err(format!("phrases: `{phrase}` and those before it have too many words"));
        }
    }
    Ok(Some(own))
}
