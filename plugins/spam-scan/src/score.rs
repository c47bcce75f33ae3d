//! What a message comes to: which rules it meets, and their sum.

use std::fmt::Write;

use crate::body::Facts;
use crate::config::{Settings, Worth};
use crate::header::Fields;
use crate::phrases::Met;
use crate::rules::{MOST_PHRASES_OF_A_GROUP, RULES, Rule};

/// Words that a subject must have for its case to say something.
const FEWEST_SUBJECT_WORDS: u32 = 2;
/// The same of a body.
const FEWEST_BODY_WORDS: u32 = 40;
/// Words below which an HTML message with images has hardly any text.
const HARDLY_ANY_WORDS: u32 = 30;
/// Fewer exclamation marks than this are never many, whatever the length of the text.
const FEWEST_EXCLAMATIONS: u32 = 5;
/// Many exclamation marks are one in fewer words than this.
const WORDS_AN_EXCLAMATION: u32 = 60;
/// Sums of money that are many.
const MANY_SUMS: u32 = 3;
/// Blanks in a subject behind which a code may stand.
const GAP_BLANKS: usize = 5;
/// Bytes of a code at the end of a subject.
const MOST_CODE_BYTES: usize = 20;
/// Digits in the local part of From that are many.
const MANY_DIGITS: usize = 4;

/// The rules that a message meets.
#[derive(Debug)]
pub struct Score {
    /// How often each rule counts, in the order of [`RULES`].
    times: [u8; RULES.len()],
    /// Points of own phrases, in tenths.
    own: i32,
    /// The sum, in tenths.
    pub total: i32,
}

impl Score {
    /// Weighs a message of which header and the beginning of the body are given.
    pub fn of(settings: &Settings, fields: &Fields<'_>, body: &[u8]) -> Self {
        let mut score = Self {
            times: [0; RULES.len()],
            own: 0,
            total: 0,
        };
        let mut facts = Facts::default();
        facts.read(&settings.phrases, fields, body);
        score.weigh_header(fields);
        if let Some(subject) = fields.subject {
            let mut subject_facts = Facts::default();
            subject_facts.scan(&settings.phrases, subject, false, false);
            facts.met.add_all(&subject_facts.met);
            score.weigh_subject(subject, &subject_facts);
        }
        score.weigh_body(&facts);
        if !facts.met.is_empty() {
            score.weigh_phrases(&facts.met, &settings.worth);
        }
        score.total = score
            .times
            .iter()
            .zip(&settings.weights)
            .map(|(times, weight)| i32::from(*times) * weight)
            .sum::<i32>()
            + score.own;
        score
    }

    fn weigh_header(&mut self, fields: &Fields<'_>) {
        self.hit(Rule::MissingDate, !fields.has_date);
        self.hit(Rule::MissingRecipients, !fields.has_recipients);
        self.hit(Rule::MissingSubject, fields.subject.is_none_or(<[u8]>::is_empty));
        match fields.message_id {
            None => self.hit(Rule::MissingMessageId, true),
            Some(id) => self.hit(Rule::BadMessageId, !is_message_id(id)),
        }
        match fields.from {
            None => self.hit(Rule::MissingFrom, true),
            Some(from) => self.weigh_from(from),
        }
    }

    fn weigh_from(&mut self, from: &[u8]) {
        let open = from.iter().rposition(|byte| *byte == b'<');
        let (name, address) = match open {
            Some(open) => (&from[..open], &from[open + 1..]),
            None => (&b""[..], from),
        };
        let Some(at) = address.iter().rposition(|byte| *byte == b'@') else {
            self.hit(Rule::FromWithoutAddress, true);
            return;
        };
        let local = &address[..at];
        self.hit(
            Rule::FromManyDigits,
            local.iter().filter(|byte| byte.is_ascii_digit()).count() >= MANY_DIGITS,
        );
        if let Some(in_name) = name.iter().position(|byte| *byte == b'@') {
            let (claimed, real) = (domain_at(&name[in_name + 1..]), domain_at(&address[at + 1..]));
            let within = |outer: &[u8], inner: &[u8]| {
                outer.len() >= inner.len() && outer[outer.len() - inner.len()..].eq_ignore_ascii_case(inner)
            };
            let other = claimed.contains(&b'.') && !within(claimed, real) && !within(real, claimed);
            self.hit(Rule::FromNameIsOtherAddress, other);
        }
    }

    fn weigh_subject(&mut self, subject: &[u8], facts: &Facts) {
        // An encoded word (RFC 2047) is in letters that say nothing about the subject's.
        if subject.starts_with(b"=?") {
            return;
        }
        self.hit(
            Rule::SubjectCapitals,
            facts.words >= FEWEST_SUBJECT_WORDS && facts.capitals * 10 >= facts.words * 9,
        );
        self.hit(Rule::SubjectExclaims, facts.exclamations > 0);
        self.hit(Rule::SubjectMoney, facts.sums > 0);
        self.hit(Rule::SubjectTail, has_tail(subject));
    }

    fn weigh_body(&mut self, facts: &Facts) {
        self.hit(Rule::HtmlOnly, facts.has_html && !facts.has_plain);
        self.hit(Rule::HtmlForm, facts.has_form);
        self.hit(Rule::HtmlScript, facts.has_script);
        self.hit(
            Rule::HtmlMostlyImages,
            facts.has_html && facts.images > 0 && facts.words < HARDLY_ANY_WORDS,
        );
        self.hit(Rule::Base64Text, facts.has_needless_base64);
        self.hit(
            Rule::BodyCapitals,
            facts.words >= FEWEST_BODY_WORDS && facts.capitals * 2 > facts.words,
        );
        self.hit(
            Rule::BodyExclaims,
            facts.exclamations >= FEWEST_EXCLAMATIONS
                && facts.exclamations.saturating_mul(WORDS_AN_EXCLAMATION) > facts.words,
        );
        self.hit(Rule::BodyMoney, facts.sums >= MANY_SUMS);
        self.hit(Rule::LinkNumericHost, facts.links.numeric_host);
        self.hit(Rule::LinkUserinfo, facts.links.userinfo);
        self.hit(Rule::LinkPercentHost, facts.links.percent_host);
        self.hit(Rule::LinkPort, facts.links.port);
    }

    fn weigh_phrases(&mut self, met: &Met, worth: &[Worth]) {
        for phrase in met.iter() {
            match worth.get(phrase) {
                Some(Worth::Group(rule)) => {
                    let times = &mut self.times[*rule as usize];
                    *times = (*times + 1).min(MOST_PHRASES_OF_A_GROUP);
                }
                Some(Worth::Own(points)) => self.own = self.own.saturating_add(*points),
                None => {}
            }
        }
    }

    fn hit(&mut self, rule: Rule, is_met: bool) {
        self.times[rule as usize] = u8::from(is_met);
    }

    /// The rules with their points, those with most first: `link-numeric-host 1.8, html-only 0.8`.
    pub fn report(&self, settings: &Settings, separator: &str) -> String {
        let mut met: Vec<(&str, i32)> = (RULES.iter().zip(&self.times).zip(&settings.weights))
            .filter(|((_, times), weight)| **times > 0 && **weight != 0)
            .map(|((rule, times), weight)| (rule.name, i32::from(*times) * weight))
            .collect();
        if self.own != 0 {
            met.push((RULES[Rule::PhrasesOwn as usize].name, self.own));
        }
        met.sort_by_key(|(_, points)| -points);
        let mut report = String::new();
        for (name, points) in met {
            if !report.is_empty() {
                report.push_str(separator);
            }
            write!(report, "{name} {}", decimal(points)).expect("a String takes everything");
        }
        report
    }
}

/// Tenths as a decimal: `-3` is `-0.3`.
pub fn decimal(tenths: i32) -> String {
    let sign = if tenths < 0 { "-" } else { "" };
    format!("{sign}{}.{}", tenths.unsigned_abs() / 10, tenths.unsigned_abs() % 10)
}

/// RFC 5322 §3.6.4, without its comments.
fn is_message_id(id: &[u8]) -> bool {
    let inside = id.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    inside.is_some_and(|inside| {
        let at = inside.iter().position(|byte| *byte == b'@');
        at.is_some_and(|at| at > 0 && at + 1 < inside.len())
    })
}

/// The domain with which `text` begins.
fn domain_at(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')));
    &text[..end.unwrap_or(text.len())]
}

/// `Great offer          8214xkq`.
fn has_tail(subject: &[u8]) -> bool {
    let Some(start) = subject
        .iter()
        .rposition(|byte| *byte == b' ' || *byte == b'\t')
        .map(|place| place + 1)
    else {
        return false;
    };
    let blanks = subject[..start]
        .iter()
        .rev()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let code = &subject[start..];
    let is_code = (2..=MOST_CODE_BYTES).contains(&code.len())
        && code
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"[]()-".contains(byte));
    blanks >= GAP_BLANKS && is_code
}
