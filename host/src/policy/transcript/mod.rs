//! Transcripts: what is asked of one policy in scripted sessions, and what it has to answer. For tests of any component, without a relay.
//!
//! A transcript is a text. Above its first session stand settings, in TOML; then sessions, in which each event is followed by what the
//! policy says:
//!
//! ```text
//! # Mail to noreply@ is refused.
//! grants = []                          # what it is granted; all, if absent
//! relay_domains = ["ours.test"]        # this one, if absent
//! dns = """
//! mail.example A 192.0.2.1
//! """
//! [config]                             # [plugin.config]
//! [users]                              # name = "password"
//! [state]                              # key = "value", before the first session
//! [endpoints]                          # name = "what it says once something was sent to it"
//!
//! === nobody reads noreply
//! peer 192.0.2.7
//! > MAIL FROM:<me@elsewhere.test>
//! > RCPT TO:<noreply@ours.test>
//! on-rcpt: reject 550 5.1.1 Nobody reads noreply: write to support
//!   reason: no-reader
//! ```
//!
//! - Facts, which hold for the session: `peer ADDRESS`, `trusted`, `proxied`, `listener NAME off|optional|required`, `tls VERSION`,
//!   `reverse-name NAME`, `identity NAME [METHOD]`; and `wait 5m`, by which time passes. It begins on 2026-01-01T00:00:00Z, and
//!   passes in no other way. State lasts from session to session.
//! - Events: `> CONNECT`, `> EHLO name`, `> AUTH PLAIN user password`, `> MAIL FROM:<...>`, `> RCPT TO:<...>`, `> DATA`, `> MESSAGE` with
//!   the message in lines that begin with `| `, `> QUEUED`, `> ROUTE [attempts]`, `> DELIVERY outcome next-hop reply`, `> RESULT command code
//!   subject`, `> DISCONNECT`. An event without an answer behind it must not reach the policy: it does not have that hook, or took leave of the session.
//! - An answer is the decision, then indented the actions, then `reason:`. These are compared whole. Lines `detail:`, `remedy:`, `otherwise:` and
//!   `log LEVEL:` are compared with all of their kind if there is one in the transcript, and else left out.
//!
//! [`run`] asks the policy twice, with instances pooled and fresh: both must answer as the transcript says. It goes the way of a real session
//! through the chain, the limits and the checks of answers, over services of its own; `random` alone is not scripted. A transcript that is none is an error
//! with its line; a policy that the daemon would not load is the daemon's own error.

mod parse;
pub(super) mod services;
pub(super) mod session;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::Engine;
use super::decision::{Decision, Stage, Verdict};
use super::plugin::Compiled;
use crate::config::Instances;

pub use parse::SyntaxError;

/// The longest transcript, in bytes.
pub const BYTES_MAX: u64 = 4 << 20;

/// A transcript that was read.
pub struct Transcript {
    pub(super) settings: parse::Settings,
    pub(super) sessions: Vec<parse::Session>,
    text: String,
}

/// What came of a transcript.
#[derive(Debug, Default)]
pub struct Report {
    /// How often the policy was called, pooled and fresh together.
    pub calls: usize,
    /// Where an answer was another than expected.
    pub differences: Vec<Difference>,
    /// Hooks that the policy has, and no event reached.
    pub unasked: Vec<Stage>,
    /// The transcript with what the policy answered with pooled instances in the place of what was expected.
    pub updated: String,
}

/// One event with another answer than expected.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// From 1, of the event.
    pub line: usize,
    pub session: String,
    pub event: String,
    /// With which instances: pooled or fresh.
    pub instances: &'static str,
    pub expected: Vec<String>,
    pub said: Vec<String>,
}

impl Report {
    /// Where fresh instances answered otherwise than pooled ones.
    pub fn unlike(&self) -> Option<&Difference> {
        let pooled = |fresh: &Difference| {
            self.differences
                .iter()
                .find(|other| other.line == fresh.line && other.instances == "pooled")
        };
        let differs = |one: &&Difference| match one.instances {
            "fresh" => pooled(one).is_none_or(|pooled| pooled.said != one.said),
            _ => !self
                .differences
                .iter()
                .any(|other| other.line == one.line && other.instances == "fresh"),
        };
        self.differences.iter().find(differs)
    }
}

impl Transcript {
    /// Reads a transcript.
    pub fn parse(text: &str) -> Result<Transcript, SyntaxError> {
        let (settings, sessions) = parse::parse(text)?;
        Ok(Transcript {
            settings,
            sessions,
            text: text.to_owned(),
        })
    }
}

/// Asks the component of `file` what the transcript says. Must be called within a tokio runtime. The error is for people: why the policy cannot be
/// loaded, in the daemon's words.
pub async fn run(
    engine: &Engine,
    file: &Path,
    component: &Compiled,
    transcript: &Transcript,
) -> Result<Report, String> {
    let mut report = Report::default();
    for (instances, name) in [(Instances::Pooled, "pooled"), (Instances::Fresh, "fresh")] {
        let world = services::start(engine, file, component, &transcript.settings, instances).await?;
        let mut said = Vec::new();
        for session in &transcript.sessions {
            said.extend(session::play(&world, session).await);
        }
        let events = || transcript.sessions.iter().flat_map(parse::Session::events);
        for ((session, event), said) in events().zip(&said) {
            report.calls += usize::from(!said.is_empty());
            let asked = as_far_as_asked(said, &event.expected);
            if asked != event.expected {
                report.differences.push(Difference {
                    line: event.line,
                    session: session.to_owned(),
                    event: event.text.clone(),
                    instances: name,
                    expected: event.expected.clone(),
                    // Why a call failed is what its author looks for.
                    said: if failed(said) { said.clone() } else { asked },
                });
            }
        }
        if instances == Instances::Pooled {
            report.unasked = world.unasked();
            report.updated = update(&transcript.text, events().map(|(_, event)| event).zip(&said));
        }
    }
    Ok(report)
}

/// The lines of an answer that the transcript cares about.
fn as_far_as_asked(said: &[String], expected: &[String]) -> Vec<String> {
    let asked = |line: &&String| match optional_kind(line) {
        Some(kind) => expected.iter().any(|expected| optional_kind(expected) == Some(kind)),
        None => true,
    };
    said.iter().filter(asked).cloned().collect()
}

/// Whether this is of a call that failed.
fn failed(said: &[String]) -> bool {
    said.first().is_some_and(|answer| answer.contains(FAILED))
}

/// Kinds of lines that a transcript may leave out.
fn optional_kind(line: &str) -> Option<&'static str> {
    ["detail:", "remedy:", "otherwise:", "log "]
        .into_iter()
        .find(|kind| line.trim_start().starts_with(kind) && line.starts_with(' '))
}

fn update<'a>(text: &str, events: impl Iterator<Item = (&'a parse::Event, &'a Vec<String>)>) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut updated: Vec<String> = Vec::with_capacity(lines.len());
    let mut at = 0;
    for (event, said) in events {
        let Range { start, end } = event.answer.clone();
        updated.extend(lines[at..start].iter().map(|line| (*line).to_owned()));
        updated.extend(as_far_as_asked(said, &event.expected));
        at = end;
    }
    updated.extend(lines[at..].iter().map(|line| (*line).to_owned()));
    updated.join("\n") + "\n"
}

/// What stands behind the hook's name if the call failed.
const FAILED: &str = ": failed (";

/// A decision as a transcript shows it: every line, those that may be left out too.
fn render(decision: &Decision, log: &[(tracing::Level, String)]) -> Vec<String> {
    let verdict = match &decision.verdict {
        Verdict::Reject(reply) | Verdict::Defer(reply) | Verdict::Disconnect(reply) => {
            let enhanced = reply
                .enhanced()
                .map(|enhanced| format!(" {enhanced}"))
                .unwrap_or_default();
            let text = one_line(reply.text());
            format!("{} {}{enhanced} {text}", decision.verdict.name(), reply.code())
        }
        verdict => verdict.name().to_owned(),
    };
    let failed = decision
        .failure
        .as_ref()
        .map(|failure| format!("{}), so ", failure.kind()));
    let failed = failed.map_or_else(|| ": ".to_owned(), |kind| format!("{FAILED}{kind}"));
    let mut lines = vec![format!("{}{failed}{verdict}", decision.stage)];
    lines.extend(decision.actions.iter().map(|action| format!("  {}", one_line(action))));
    if let Some(failure) = &decision.failure {
        lines.push(format!("  detail: {}", one_line(&failure.to_string())));
    }
    if let Some(why) = &decision.why {
        let otherwise = why.otherwise.as_deref().unwrap_or_default();
        let texts = [
            ("reason", &*why.reason),
            ("detail", &*why.detail),
            ("remedy", &*why.remedy),
            ("otherwise", otherwise),
        ];
        let said = texts.iter().filter(|(_, text)| !text.is_empty());
        lines.extend(said.map(|(kind, text)| format!("  {kind}: {}", one_line(text))));
    }
    let level = |level: &tracing::Level| level.as_str().to_ascii_lowercase();
    lines.extend(
        log.iter()
            .map(|(of, line)| format!("  log {}: {}", level(of), one_line(line))),
    );
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Line ends and other controls as escapes.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

impl fmt::Display for Difference {
    /// Where it is, the event, and what was expected (`-`) and said (`+`) in its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "line {}, {}, instances {}:", self.line, self.session, self.instances)?;
        writeln!(f, "    {}", self.event)?;
        let alike = |one: &[String], other: &[String]| one.iter().zip(other).take_while(|(a, b)| a == b).count();
        let top = alike(&self.expected, &self.said);
        let (expected, said) = (&self.expected[top..], &self.said[top..]);
        let reversed = |lines: &[String]| lines.iter().rev().cloned().collect::<Vec<_>>();
        let bottom = alike(&reversed(expected), &reversed(said));
        for line in &self.expected[..top] {
            writeln!(f, "    {line}")?;
        }
        for line in &expected[..expected.len() - bottom] {
            writeln!(f, "  - {line}")?;
        }
        for line in &said[..said.len() - bottom] {
            writeln!(f, "  + {line}")?;
        }
        if self.said.is_empty() {
            writeln!(
                f,
                "  + (it was not asked: it has no such hook, or took leave of the session)"
            )?;
        }
        for line in &said[said.len() - bottom..] {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
