//! What the lists' answers come to: a score, and which lists made it. Pure, and stored in a session note.

use std::net::Ipv4Addr;

use gatepost_sdk::dns::DnsError;

use crate::config::List;

/// Bytes of the reasons that are kept.
const MOST_WHY_BYTES: usize = 600;

/// What is known of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The sum of the lists' weights.
    pub score: i32,
    /// The lists that speak against it: `bl.example.org (spam source), other.example`.
    pub against: String,
}

impl Verdict {
    /// As a note: `3 bl.example.org (spam source)`.
    pub fn to_note(&self) -> Vec<u8> {
        format!("{} {}", self.score, self.against).into_bytes()
    }

    /// None if it is no note of ours.
    pub fn from_note(note: &[u8]) -> Option<Self> {
        let (score, against) = std::str::from_utf8(note).ok()?.split_once(' ')?;
        Some(Self {
            score: score.parse().ok()?,
            against: against.to_owned(),
        })
    }
}

/// Weighs the answers, which are in the order of the lists. What cannot be an answer goes to `odd`, as a line for the log, and weighs
/// nothing, and so does a list that did not answer.
pub fn weigh(lists: &[List], answers: &[Result<Vec<String>, DnsError>], mut odd: impl FnMut(String)) -> Verdict {
    let mut verdict = Verdict::default();
    for (list, answer) in lists.iter().zip(answers) {
        let codes = match answer {
            Ok(codes) => codes,
            Err(DnsError::Temporary(error)) => {
                odd(format!("{} did not answer: {error}", list.zone));
                continue;
            }
            Err(DnsError::Invalid) => {
                odd(format!("{} cannot be asked", list.zone));
                continue;
            }
        };
        // A list may answer with several codes for one listing: the one that weighs most counts, not their sum.
        let heaviest = codes
            .iter()
            .filter_map(|code| {
                let meaning = list.meaning(code);
                if meaning.is_none() {
                    odd(format!(
                        "{} answered {code}, which is no listing: it is ignored",
                        list.zone
                    ));
                }
                meaning
            })
            .max_by_key(|(weight, _)| weight.unsigned_abs());
        if let Some((weight, reason)) = heaviest {
            verdict.score = verdict.score.saturating_add(weight);
            if weight > 0 && verdict.against.len() + list.zone.len() + reason.len() < MOST_WHY_BYTES {
                if !verdict.against.is_empty() {
                    verdict.against.push_str(", ");
                }
                verdict.against.push_str(&list.zone);
                if !reason.is_empty() {
                    verdict.against.extend([" (", reason, ")"]);
                }
            }
        }
    }
    verdict
}

impl List {
    /// What a return code weighs, and why. None: it is no listing.
    fn meaning(&self, code: &str) -> Option<(i32, &str)> {
        let code: Ipv4Addr = code.parse().ok()?;
        let octets = code.octets();
        // Outside 127/8 it is no DNS list any more, but somebody who answers everything (RFC 5782 §2.1).
        if octets[0] != 127 {
            return None;
        }
        if let Some((_, named)) = self.codes.iter().find(|(pattern, _)| pattern.matches(code)) {
            return Some((named.weight, &named.reason));
        }
        // 127.255.255.x and 127.0.0.1 are what lists say to those whom they do not serve.
        if octets[..3] == [127, 255, 255] || octets == [127, 0, 0, 1] {
            return None;
        }
        Some((self.weight, ""))
    }
}
