//! What a message comes to: the points of the rules it meets, of its words, and their sum.

use std::fmt::Write;

use crate::config::Settings;
use crate::evidence::Evidence;
use crate::header::Fields;
use crate::opinion::Opinion;
use crate::rules::RULES;

/// Reasons that a report names.
const MOST_REASONS: usize = 12;
/// Points of a reason that is worth naming, in hundredths.
const FEWEST_POINTS: i32 = 10;

/// The points of a message.
#[derive(Debug)]
pub struct Score {
    evidence: Evidence,
    /// Points of words, in hundredths.
    words: i32,
    /// Points of forms, in hundredths.
    forms: i32,
    /// Points of own phrases, in hundredths.
    own: i32,
    opinions: Vec<Opinion>,
    /// The sum, in hundredths.
    pub total: i32,
}

impl Score {
    /// Weighs a message of which header and the beginning of the body are given.
    pub fn of(settings: &Settings, fields: &Fields<'_>, body: &[u8]) -> Self {
        let mut tally = settings.model.tally();
        let evidence = Evidence::of(fields, body, settings.own.as_deref(), &mut tally);
        let own = evidence
            .own
            .iter()
            .filter_map(|number| settings.worth.get(usize::from(*number) - 1))
            .fold(0_i32, |sum, points| sum.saturating_add(*points));
        let (words, forms) = (tally.words(), tally.forms());
        let rules = evidence.times.iter().zip(&settings.weights);
        let rules: i32 = rules.map(|(times, weight)| i32::from(*times) * weight).sum();
        Self {
            evidence,
            words,
            forms,
            own,
            opinions: Vec::new(),
            total: (settings.model.base() + words + forms + rules).saturating_add(own),
        }
    }

    /// Adds what other scanners say.
    pub fn add(&mut self, opinions: Vec<Opinion>) {
        for opinion in &opinions {
            self.total = self.total.saturating_add(opinion.points);
        }
        self.opinions = opinions;
    }

    /// The strongest reasons and all opinions in words, each with its points, those with most first: `+1.8 a link to a host that is a number`.
    pub fn report(&self, settings: &Settings, separator: &str) -> String {
        let rules = RULES.iter().zip(&self.evidence.times).zip(&settings.weights);
        let mut reasons: Vec<(&str, i32)> = rules
            .map(|((rule, times), weight)| (rule.what, i32::from(*times) * weight))
            .chain([
                ("what every message begins with", settings.model.base()),
                ("the words of the text and its links", self.words),
                ("the form of the header", self.forms),
                ("phrases of the configuration", self.own),
            ])
            .filter(|(_, points)| points.abs() >= FEWEST_POINTS)
            .collect();
        reasons.sort_by_key(|(_, points)| (-points.abs(), -points));
        reasons.truncate(MOST_REASONS);
        let opinions = self.opinions.iter();
        reasons.extend(opinions.map(|opinion| (&*opinion.what, opinion.points)));
        reasons.sort_by_key(|(_, points)| -points);
        let mut report = String::new();
        for (what, points) in reasons {
            if !report.is_empty() {
                report.push_str(separator);
            }
            let plus = if points > 0 { "+" } else { "" };
            write!(report, "{plus}{} {what}", decimal(points)).expect("a String takes everything");
        }
        report
    }
}

/// Hundredths as a decimal of tenths, towards zero: `-35` is `-0.3`.
pub fn decimal(hundredths: i32) -> String {
    let tenths = hundredths / 10;
    let sign = if tenths < 0 { "-" } else { "" };
    format!("{sign}{}.{}", tenths.unsigned_abs() / 10, tenths.unsigned_abs() % 10)
}
