//! Findings as a score and as text. Pure, and small enough for a note.

use std::fmt::Write;

use crate::ask::Finding;

/// Bytes of the reply's text and of the detail for the log; what is over is left out.
const MOST_BYTES: usize = 700;
/// Bytes of a subject that are shown.
const MOST_SUBJECT_BYTES: usize = 100;

/// What lists say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The sum of the weights.
    pub score: i32,
    /// Who is against what, for the client: `Client host [192.0.2.1] blocked using bl.example.org (spam source)`. Empty if nobody is.
    pub text: String,
    /// Every list with its code and weight, for the log.
    pub detail: String,
}

/// The sum of what speaks against.
#[must_use]
pub fn against(findings: &[Finding<'_>]) -> i32 {
    findings
        .iter()
        .filter(|finding| finding.weight > 0)
        .fold(0, |sum, finding| sum.saturating_add(finding.weight))
}

impl Verdict {
    /// Weighs; findings about one subject stand together in the text.
    #[must_use]
    pub fn of(mut findings: Vec<Finding<'_>>) -> Self {
        // Stable: the lists stay in the order of the configuration.
        findings.sort_by(|one, other| (one.about, &one.subject).cmp(&(other.about, &other.subject)));
        let mut verdict = Self::default();
        let (mut last_in_text, mut last_in_detail) = (None, None);
        for finding in &findings {
            let Finding {
                list,
                about,
                code,
                weight,
                reason,
                ..
            } = finding;
            verdict.score = verdict.score.saturating_add(*weight);
            let subject = shown(&finding.subject);
            let of = Some((*about, finding.subject.as_str()));
            let zone = &list.zone;
            if *weight > 0 {
                let mut part = if last_in_text == of {
                    format!(", {zone}")
                } else {
                    let between = if last_in_text.is_some() { "; " } else { "" };
                    format!("{between}{about} [{subject}] blocked using {zone}")
                };
                if !reason.is_empty() {
                    part.extend([" (", reason, ")"]);
                }
                if push(&mut verdict.text, &part) {
                    last_in_text = of;
                }
            }
            let mut part = if last_in_detail == of {
                " and ".to_owned()
            } else {
                let between = if last_in_detail.is_some() { "; " } else { "" };
                format!("{between}{subject} is on ")
            };
            let reason = if reason.is_empty() {
                String::new()
            } else {
                format!(" {reason}")
            };
            write!(part, "{zone} ({code}{reason}, weight {weight})").expect("a String takes everything");
            if push(&mut verdict.detail, &part) {
                last_in_detail = of;
            }
        }
        verdict
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.score = self.score.saturating_add(other.score);
        for (text, more) in [(&mut self.text, &other.text), (&mut self.detail, &other.detail)] {
            if text.is_empty() {
                text.clone_from(more);
            } else if !more.is_empty() {
                push(text, &format!("; {more}"));
            }
        }
        self
    }

    /// As a note.
    #[must_use]
    pub fn to_note(&self) -> Vec<u8> {
        format!("{}\n{}\n{}", self.score, self.text, self.detail).into_bytes()
    }

    /// None if it is no note of ours.
    #[must_use]
    pub fn from_note(note: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(note).ok()?.splitn(3, '\n');
        Some(Self {
            score: lines.next()?.parse().ok()?,
            text: lines.next()?.to_owned(),
            detail: lines.next()?.to_owned(),
        })
    }
}

/// Adds it if there is room for all of it.
fn push(text: &mut String, part: &str) -> bool {
    let fits = text.len() + part.len() <= MOST_BYTES;
    if fits {
        text.push_str(part);
    }
    fits
}

/// The beginning of a subject.
fn shown(subject: &str) -> &str {
    let end = (0..=subject.len().min(MOST_SUBJECT_BYTES))
        .rev()
        .find(|end| subject.is_char_boundary(*end));
    &subject[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ask::About;
    use crate::list::{Kind, List};

    fn list(zone: &str) -> List {
        List::new(zone, Kind::Domains, 1, BTreeMap::new(), true).expect("valid")
    }

    fn finding<'a>(list: &'a List, about: About, subject: &str, weight: i32, reason: &'a str) -> Finding<'a> {
        Finding {
            list,
            about,
            subject: subject.to_owned(),
            code: "127.0.0.2".to_owned(),
            weight,
            reason,
        }
    }

    #[test]
    fn findings_about_one_subject_stand_together() {
        let (one, two, good) = (list("one.example"), list("two.example"), list("good.example"));
        let verdict = Verdict::of(vec![
            finding(&one, About::SenderDomain, "spam.test", 2, "phish"),
            finding(&one, About::Client, "192.0.2.1", 3, ""),
            finding(&good, About::Client, "192.0.2.1", -4, ""),
            finding(&two, About::Client, "192.0.2.1", 1, "dynamic"),
        ]);
        assert_eq!(verdict.score, 2);
        assert_eq!(
            verdict.text,
            "Client host [192.0.2.1] blocked using one.example, two.example (dynamic); Sender domain [spam.test] blocked using one.example (phish)"
        );
        assert_eq!(
            verdict.detail,
            "192.0.2.1 is on one.example (127.0.0.2, weight 3) and good.example (127.0.0.2, weight -4) and two.example (127.0.0.2 dynamic, weight 1); \
             spam.test is on one.example (127.0.0.2 phish, weight 2)"
        );
        assert_eq!(Verdict::from_note(&verdict.to_note()), Some(verdict));
    }

    #[test]
    fn texts_are_bounded_and_scores_stop_at_their_ends() {
        let one = list("one.example");
        let many = (0..100).map(|place| {
            finding(
                &one,
                About::Link,
                &format!("{place}{}", "\u{fc}".repeat(300)),
                i32::MAX,
                "",
            )
        });
        let verdict = Verdict::of(many.collect());
        assert_eq!(verdict.score, i32::MAX);
        assert!(
            verdict.text.len() <= MOST_BYTES && !verdict.text.is_empty(),
            "{}",
            verdict.text
        );
        let both = verdict.clone().and(&verdict);
        assert!(both.text.len() <= 2 * MOST_BYTES && both.score == i32::MAX);
    }

    #[test]
    fn what_is_no_note_of_ours_is_no_verdict() {
        for note in [&b""[..], b"x", b"x\ny\nz", b"\xff\n1\n2", b"1\n2"] {
            assert_eq!(Verdict::from_note(note), None);
        }
    }
}
