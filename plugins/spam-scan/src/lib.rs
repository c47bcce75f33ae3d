//! Scores a message by what is in its header and the beginning of its body, and tags it, keeps it back or refuses it at thresholds.
//!
//! One read fetches header and body; everything else is pure and linear in what was read. Fields in which the sender speaks as a spam
//! scanner (`X-Spam-...`) are removed, so that what stands there behind the relay was said by it.
//!
//! Never: learns, looks anything up, or changes a body. Without configuration it tags only.
//!
//! Takes any bytes. Fails at load if a threshold, a rule's name or a phrase is wrong.

mod address;
mod body;
mod bytes;
mod config;
mod decode;
pub mod evidence;
mod form;
pub mod header;
mod html;
mod links;
pub mod model;
mod opinion;
mod origin;
mod phrase_list;
mod phrases;
pub mod rules;
mod score;
mod second;
mod subject;
mod text;
mod word;

use std::convert::Infallible;

use gatepost_sdk::prelude::*;

pub use config::Config;
use config::{Settings, Thresholds};
use header::Fields;
use opinion::Opinion;
use score::{Score, decimal};
pub use second::SecondOpinion;

/// Bytes of a header that are read if the body is as long as is read of it, or longer.
const HEADER_BYTES: u32 = 32 * 1024;

/// The configured policy.
pub struct SpamScan(Settings);

impl Policy for SpamScan {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        let settings = config::check(config)?;
        if settings.rspamd.is_some() || settings.spamd.is_some() {
            return Err("rspamd, spamd: spam-scan asks nobody: load spam-opinion in its place, which does".to_owned());
        }
        Ok(Self(settings))
    }
}

impl OnMessage for SpamScan {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        let nobody = |_| Ok::<_, Infallible>(Vec::new());
        let Ok(answer) = self.scan(message, self.thresholds(session), nobody);
        answer
    }
}

impl SpamScan {
    /// Who sends is a crossing: asked only if it matters.
    fn thresholds(&self, session: &Session) -> &Thresholds {
        let outbound = self.0.outbound.as_ref().filter(|_| session.identity().is_some());
        outbound.unwrap_or(&self.0.inbound)
    }

    /// The answer for a message. `opinions` says, given its own points, what others think of it.
    ///
    /// # Errors
    /// Those of `opinions`.
    fn scan<E>(
        &self,
        message: &Message,
        thresholds: &Thresholds,
        opinions: impl FnOnce(i32) -> Result<Vec<Opinion>, E>,
    ) -> Result<Answer, E> {
        let text = message.read(0, HEADER_BYTES + self.0.body_bytes);
        let (fields, offset) = header::read(&text);
        let body = &text[offset..];
        let mut score = Score::of(&self.0, &fields, &body[..body.len().min(self.0.body_bytes as usize)]);
        score.add(opinions(score.total)?);
        Ok(self.answer(&fields, &score, thresholds))
    }

    fn answer(&self, fields: &Fields<'_>, score: &Score, thresholds: &Thresholds) -> Answer {
        let reaches = |threshold: Option<i32>| threshold.is_some_and(|threshold| score.total >= threshold);
        if reaches(thresholds.reject) {
            let text = format!("Message refused: it looks like spam ({} points)", decimal(score.total));
            return self.explained(Answer::reject(550, "5.7.1", text), score, thresholds);
        }
        let mut answer = Answer::pass();
        for name in &fields.spam_fields {
            answer = answer.remove_header(*name);
        }
        let is_spam = score.total >= thresholds.tag;
        if is_spam {
            answer = answer.add_header("X-Spam-Report", score.report(&self.0, ";\r\n\t"));
        }
        if is_spam || self.0.always_score {
            answer = answer
                .add_header("X-Spam-Score", decimal(score.total))
                .add_header("X-Spam-Flag", if is_spam { "YES" } else { "NO" });
        }
        let is_held = reaches(thresholds.quarantine);
        if is_held {
            answer = answer.quarantine(format!("spam: {} points", decimal(score.total)));
        }
        if is_spam || is_held {
            self.explained(answer, score, thresholds)
        } else {
            answer
        }
    }

    fn explained(&self, answer: Answer, score: &Score, thresholds: &Thresholds) -> Answer {
        let reached = [thresholds.reject, thresholds.quarantine]
            .into_iter()
            .flatten()
            .find(|threshold| score.total >= *threshold);
        answer
            .because(
                "spam",
                format!("{} points: {}", decimal(score.total), score.report(&self.0, "; ")),
                "the sender can write without what the report names; the administrator can change `weights` and thresholds of spam-scan",
            )
            .otherwise(format!("fewer than {} points", decimal(reached.unwrap_or(thresholds.tag))))
    }
}

#[cfg(feature = "component")]
gatepost_sdk::export!(SpamScan: on_message);

#[cfg(test)]
mod tests;
