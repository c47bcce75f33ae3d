//! What other scanners, rspamd and spamd, make of a message: both are asked at once, and what each says becomes points.
//!
//! The message goes out in chunks that are read once and written to each scanner; only then the answers are read, so that both scan at the same
//! time, and one that is slow does not cost what the other has said meanwhile. How long all of it may take is the host's bound: three quarters
//! of the call's wall time.
//!
//! Nothing of a scanner's text goes into a header, only its numbers.

mod rspamd;
mod spamd;

use gatepost_sdk::endpoint::{self, Connection, EndpointError};
use gatepost_sdk::prelude::{Message, Session};
use gatepost_sdk::types::{Envelope, Identity};
use gatepost_sdk::{clock, log, metrics};

use crate::config::{Scanner, Unavailable};
use crate::score::decimal;

/// Bytes of the message in one chunk.
const CHUNK_BYTES: u32 = 64 * 1024;

/// The longest answer, in bytes; rspamd's has a line or two for each of its rules that say something.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The most that an answer counts for or against a message, in hundredths of a point.
const MOST_POINTS: f64 = 100_000.0;

/// Bytes of a text that is passed on to a scanner: a name, an address.
const TEXT_BYTES_MAX: usize = 1000;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rspamd,
    Spamd,
}

/// What a scanner says of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub score: f64,
    /// The score from which a message is spam for it; above 0.
    pub required: f64,
}

/// What a scanner's answer adds to a message's points.
#[derive(Debug, PartialEq, Eq)]
pub struct Opinion {
    /// In words: `rspamd: 12.3 of 6.0`.
    pub what: String,
    /// In hundredths.
    pub points: i32,
}

/// A scanner that has to answer gave none: why, for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Unanswered(pub String);

/// What is known of a message besides its text.
struct Facts {
    peer: String,
    ehlo_name: Option<String>,
    reverse_name: Option<String>,
    identity: Option<Identity>,
    envelope: Envelope,
    is_encrypted: bool,
    hostname: String,
    id: String,
    /// Milliseconds since 1970.
    now: u64,
}

impl Facts {
    fn of(session: &Session) -> Self {
        let nobody = || Envelope {
            sender: String::new(),
            recipients: Vec::new(),
        };
        Self {
            peer: session.peer().address,
            ehlo_name: session.ehlo_name(),
            reverse_name: session.reverse_name(),
            identity: session.identity(),
            envelope: session.envelope().unwrap_or_else(nobody),
            is_encrypted: session.tls().is_some(),
            hostname: session.hostname(),
            id: session.id(),
            now: clock::now(),
        }
    }
}

impl Kind {
    /// Its name in the configuration, in `[plugin.endpoints]`, and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rspamd => "rspamd",
            Self::Spamd => "spamd",
        }
    }

    /// Where it listens as a rule.
    fn usual_endpoint(self) -> &'static str {
        match self {
            Self::Rspamd => "tcp://127.0.0.1:11333",
            Self::Spamd => "tcp://127.0.0.1:783",
        }
    }

    /// Whether the plugin has the endpoint.
    ///
    /// # Errors
    /// What to write into the configuration.
    pub fn require_endpoint(self) -> Result<(), String> {
        gatepost_sdk::require_endpoint(self.name(), self.usual_endpoint())
            .map_err(|error| format!("{}: {error}", self.name()))
    }

    /// What goes out before the message.
    fn head(self, facts: &Facts, size: u64) -> Vec<u8> {
        match self {
            Self::Rspamd => rspamd::head(facts, size),
            Self::Spamd => spamd::head(facts, size),
        }
    }

    /// What the answer says. None: there must be more of it. `is_whole`: there is no more.
    fn understand(self, answer: &[u8], is_whole: bool) -> Option<Result<Verdict, String>> {
        match self {
            Self::Rspamd => rspamd::understand(answer, is_whole),
            Self::Spamd => spamd::understand(answer, is_whole),
        }
    }

    fn counter(self, asked: bool) -> &'static str {
        match (self, asked) {
            (Self::Rspamd, true) => "rspamd_asked",
            (Self::Rspamd, false) => "rspamd_unavailable",
            (Self::Spamd, true) => "spamd_asked",
            (Self::Spamd, false) => "spamd_unavailable",
        }
    }
}

/// Asks these scanners about a message. `tag` is what a score that they take for spam is worth, in hundredths, before it is weighed.
///
/// # Errors
/// A scanner of which the configuration says that mail waits for it gave no answer of use.
pub fn ask(
    scanners: &[(Kind, &Scanner)],
    session: &Session,
    message: &Message,
    tag: i32,
) -> Result<Vec<Opinion>, Unanswered> {
    if scanners.is_empty() {
        return Ok(Vec::new());
    }
    let facts = Facts::of(session);
    let size = message.size();
    let mut questions: Vec<Question> = scanners
        .iter()
        .map(|(kind, _)| Question::begin(*kind, &facts, size))
        .collect();
    send(&mut questions, message);
    let mut opinions = Vec::new();
    let mut unanswered = None;
    for (question, (kind, scanner)) in questions.into_iter().zip(scanners) {
        metrics::count(kind.counter(true), 1);
        opinions.push(match question.answer() {
            Ok(verdict) => verdict.opinion(*kind, scanner.weight.0, tag),
            Err(why) => {
                metrics::count(kind.counter(false), 1);
                let why = format!("{}: {why}", kind.name());
                match scanner.unavailable {
                    Unavailable::Accept => log::warn(&format!("second-opinion-unavailable: {why}")),
                    Unavailable::Defer => {
                        unanswered.get_or_insert(Unanswered(why));
                    }
                }
                Opinion {
                    what: format!("{}: no answer", kind.name()),
                    points: 0,
                }
            }
        });
    }
    unanswered.map_or(Ok(opinions), Err)
}

impl Verdict {
    fn opinion(self, kind: Kind, weight: i32, tag: i32) -> Opinion {
        let worth = self.score / self.required * f64::from(tag);
        let points = (worth * f64::from(weight) / 100.0).clamp(-MOST_POINTS, MOST_POINTS);
        // Shown, and not reckoned with: in hundredths, and what is beyond them as the last of them.
        let shown = |score: f64| decimal((score * 100.0).round() as i32);
        Opinion {
            what: format!("{}: {} of {}", kind.name(), shown(self.score), shown(self.required)),
            points: points.round() as i32,
        }
    }
}

/// One question, as long as nothing went wrong with it.
struct Question {
    kind: Kind,
    open: Result<Connection, String>,
}

impl Question {
    fn begin(kind: Kind, facts: &Facts, size: u64) -> Self {
        let open = endpoint::connect(kind.name()).map_err(|error| failed(kind, "connecting", &error));
        let mut question = Self { kind, open };
        question.write(&kind.head(facts, size));
        question
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Ok(connection) = &self.open {
            if let Err(error) = connection.write(bytes) {
                self.open = Err(failed(self.kind, "sending the message", &error));
            }
        }
    }

    fn answer(self) -> Result<Verdict, String> {
        let connection = self.open?;
        let mut answer = Vec::new();
        loop {
            let read = connection.read(CHUNK_BYTES);
            let part = read.map_err(|error| failed(self.kind, "its answer", &error))?;
            answer.extend_from_slice(&part);
            if let Some(said) = self.kind.understand(&answer, part.is_empty()) {
                return said;
            }
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer is over {ANSWER_BYTES_MAX} bytes"));
            }
            if part.is_empty() {
                return Err("it closed the connection before its answer was whole".to_owned());
            }
        }
    }
}

/// Sends the message to all of them, as long as one listens.
fn send(questions: &mut [Question], message: &Message) {
    let mut offset = 0;
    while questions.iter().any(|question| question.open.is_ok()) {
        let chunk = message.read(offset, CHUNK_BYTES);
        if chunk.is_empty() {
            return;
        }
        for question in &mut *questions {
            question.write(&chunk);
        }
        offset += chunk.len() as u64;
    }
}

fn failed(kind: Kind, what: &str, error: &EndpointError) -> String {
    match error {
        EndpointError::Unknown => format!("[plugin.endpoints] has no `{}`", kind.name()),
        EndpointError::Unreachable(why) => format!("{what}: {why}"),
        EndpointError::Timeout => format!("{what}: it took too long"),
        EndpointError::TooLarge => format!("{what}: too much"),
    }
}

/// A decimal number; some locales have a comma in it.
fn number(text: &str) -> Option<f64> {
    let number: f64 = text.trim().replace(',', ".").parse().ok()?;
    number.is_finite().then_some(number)
}

/// A text for a header line: cut at [`TEXT_BYTES_MAX`], and without control characters, which could end the line.
fn line(text: &str) -> String {
    text.char_indices()
        .take_while(|(at, _)| *at < TEXT_BYTES_MAX)
        .map(|(_, character)| if character.is_control() { '?' } else { character })
        .collect()
}

/// What was answered, for the log.
fn shown(answer: &[u8]) -> String {
    match answer {
        [] => "it closed the connection without an answer".to_owned(),
        _ => format!(
            "it answered {:?}",
            String::from_utf8_lossy(&answer[..answer.len().min(200)])
        ),
    }
}

#[cfg(test)]
mod tests;
