//! Scores a message by what is in its header and the beginning of its body, and tags it, keeps it back or refuses it at thresholds.
//!
//! One read fetches header and body; everything else is pure and linear in what was read. Fields in which the sender speaks as a spam
//! scanner (`X-Spam-...`) are removed, so that what stands there behind the relay was said by it.
//!
//! Never: learns, looks anything up, or changes a body. Without configuration it tags only.
//!
//! Takes any bytes. Fails at load if a threshold, a rule's name or a phrase is wrong.

mod body;
mod bytes;
mod config;
mod header;
mod phrases;
mod rules;
mod score;

use gatepost_sdk::prelude::*;

use config::{Config, Settings};
use header::Fields;
use score::{Score, decimal};

/// Bytes of a header that are read if the body is as long as is read of it, or longer.
const HEADER_BYTES: u32 = 32 * 1024;

/// The configured policy.
pub struct SpamScan(Settings);

impl Policy for SpamScan {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config::check(config).map(Self)
    }
}

impl OnMessage for SpamScan {
    fn on_message(&self, _session: &Session, message: &Message) -> Answer {
        self.scan(&message.read(0, HEADER_BYTES + self.0.body_bytes))
    }
}

impl SpamScan {
    /// The answer for a message of which at least the header is given.
    pub fn scan(&self, message: &[u8]) -> Answer {
        let (fields, score) = self.score(message);
        self.answer(&fields, &score)
    }

    /// The fields, and what they and the body come to.
    fn score<'m>(&self, message: &'m [u8]) -> (Fields<'m>, Score) {
        let (fields, offset) = header::read(message);
        let body = &message[offset..];
        let score = Score::of(&self.0, &fields, &body[..body.len().min(self.0.body_bytes as usize)]);
        (fields, score)
    }

    fn answer(&self, fields: &Fields<'_>, score: &Score) -> Answer {
        let settings = &self.0;
        let reaches = |threshold: Option<i32>| threshold.is_some_and(|threshold| score.total >= threshold);
        if reaches(settings.reject) {
            let text = format!("Message refused: it looks like spam ({} points)", decimal(score.total));
            return self.explained(Answer::reject(550, "5.7.1", text), score);
        }
        let mut answer = Answer::pass();
        for name in &fields.spam_fields {
            answer = answer.remove_header(*name);
        }
        let is_spam = score.total >= settings.tag;
        if is_spam || settings.always_score {
            answer = answer.add_header("X-Spam-Score", decimal(score.total));
        }
        if is_spam {
            answer = answer
                .add_header("X-Spam-Report", score.report(settings, ",\r\n\t"))
                .add_header("X-Spam-Flag", "YES");
        }
        let is_held = reaches(settings.quarantine);
        if is_held {
            answer = answer.quarantine(format!("spam: {} points", decimal(score.total)));
        }
        if is_spam || is_held {
            self.explained(answer, score)
        } else {
            answer
        }
    }

    fn explained(&self, answer: Answer, score: &Score) -> Answer {
        let thresholds = [self.0.reject, self.0.quarantine, Some(self.0.tag)];
        let reached = thresholds
            .into_iter()
            .flatten()
            .find(|threshold| score.total >= *threshold);
        answer
            .because(
                "spam",
                format!("{} points: {}", decimal(score.total), score.report(&self.0, ", ")),
                "the sender can write without what the rules name; the administrator can change `weights` and thresholds of spam-scan",
            )
            .otherwise(format!("fewer than {} points", decimal(reached.unwrap_or(self.0.tag))))
    }
}

gatepost_sdk::export!(SpamScan: on_message);

#[cfg(test)]
mod tests;
