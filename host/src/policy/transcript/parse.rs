//! From the text of a transcript to what is to be done. Knows nothing of policies; what it does not understand is an error with its line.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use gatepost_smtp::address::Address;
use serde::Deserialize;

use crate::config::{Grant, parse_duration};
use crate::dns::scripted::Zone;
use crate::message::AuthOffer;

/// The port of clients.
const PORT: u16 = 40_000;

/// What is wrong with a transcript, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    pub what: String,
}

/// What stands above the first session.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// None: all.
    pub grants: Option<Vec<String>>,
    #[serde(default = "our_domains")]
    pub relay_domains: Vec<String>,
    #[serde(default)]
    dns: String,
    /// `defer`, `reject` or `skip`.
    pub on_failure: Option<String>,
    #[serde(default)]
    pub config: toml::Table,
    #[serde(default)]
    pub budget: toml::Table,
    #[serde(default)]
    pub users: BTreeMap<String, String>,
    #[serde(default)]
    pub state: BTreeMap<String, String>,
    #[serde(default)]
    pub endpoints: BTreeMap<String, String>,
    /// The selectors of each domain.
    #[serde(default)]
    pub signing: BTreeMap<String, Vec<String>>,
}

fn our_domains() -> Vec<String> {
    vec!["ours.test".to_owned()]
}

impl Settings {
    /// The zone, which was read once before: it cannot fail.
    pub fn zone(&self) -> Zone {
        self.dns.parse().unwrap_or_default()
    }
}

/// One session.
#[derive(Debug)]
pub struct Session {
    pub name: String,
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub enum Step {
    Fact(Fact),
    Event(Event),
}

/// What holds from here on.
#[derive(Debug)]
pub enum Fact {
    Peer(SocketAddr),
    Trusted,
    Proxied,
    Listener(String, AuthOffer),
    Tls(String),
    ReverseName(String),
    Identity(String, String),
    Wait(Duration),
}

/// What happens, and what the policy has to say.
#[derive(Debug)]
pub struct Event {
    /// From 1.
    pub line: usize,
    pub text: String,
    pub what: What,
    pub expected: Vec<String>,
    /// Where the answer stands: lines from 0.
    pub answer: Range<usize>,
}

pub type Parameters = Vec<(String, Option<String>)>;

#[derive(Debug)]
pub enum What {
    Connect,
    Ehlo(String),
    Auth {
        mechanism: &'static str,
        user: String,
        password: String,
    },
    /// `None` is the null sender.
    Mail(Option<Address>, Parameters),
    Rcpt(Address, Parameters),
    Data,
    Message(String),
    Queued,
    Route {
        attempts: u32,
    },
    Delivery {
        outcome: super::super::chain::AttemptOutcome,
        next_hop: String,
        reply: String,
    },
    Result {
        command: String,
        code: u16,
        subject: String,
    },
    Disconnect,
}

impl Session {
    /// Its events, each with the name of the session.
    pub fn events(&self) -> impl Iterator<Item = (&str, &Event)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Event(event) => Some((self.name.as_str(), event)),
            Step::Fact(_) => None,
        })
    }
}

/// Reads a transcript.
pub fn parse(text: &str) -> Result<(Settings, Vec<Session>), SyntaxError> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| line.starts_with("==="))
        .unwrap_or(lines.len());
    let settings = settings(&lines[..first])?;
    let mut sessions: Vec<Session> = Vec::new();
    let mut at = first;
    while let Some(line) = lines.get(at) {
        let number = at + 1;
        let error = |what: String| SyntaxError { line: number, what };
        at += 1;
        if let Some(name) = line.strip_prefix("===") {
            sessions.push(Session {
                name: name.trim().to_owned(),
                steps: Vec::new(),
            });
            continue;
        }
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(session) = sessions.last_mut() else { continue };
        if let Some(event) = line.strip_prefix("> ") {
            let content = take(&lines, &mut at, |line| line.starts_with('|'));
            let what = event_of(event.trim(), &lines[content]).map_err(error)?;
            let answer = take(&lines, &mut at, |line| {
                line.starts_with("on-") || line.starts_with([' ', '\t']) && !line.trim().is_empty()
            });
            session.steps.push(Step::Event(Event {
                line: number,
                text: line.trim_end().to_owned(),
                what,
                expected: lines[answer.clone()].iter().map(|line| in_shape(line)).collect(),
                answer,
            }));
        } else if line.starts_with("on-") || line.starts_with([' ', '\t', '|']) {
            return Err(error("an answer or a message stands directly below its event".into()));
        } else {
            session.steps.push(Step::Fact(fact(line.trim()).map_err(error)?));
        }
    }
    match sessions.is_empty() {
        false => Ok((settings, sessions)),
        true => Err(SyntaxError {
            line: lines.len().max(1),
            what: "there is no session: begin one with a line `=== its name`".into(),
        }),
    }
}

fn settings(lines: &[&str]) -> Result<Settings, SyntaxError> {
    let text = lines.join("\n");
    let line_of = |offset: usize| text.get(..offset).unwrap_or_default().matches('\n').count() + 1;
    let settings: Settings = toml::from_str(&text).map_err(|error| SyntaxError {
        line: line_of(error.span().map_or(0, |span| span.start)),
        what: error.message().to_owned(),
    })?;
    let dns = lines.iter().position(|line| line.starts_with("dns")).unwrap_or(0);
    settings.dns.parse::<Zone>().map_err(|error| SyntaxError {
        line: dns + 1 + error.line,
        what: error.what,
    })?;
    Ok(settings)
}

/// The lines from `at` on for which it holds; `at` is then behind them.
fn take(lines: &[&str], at: &mut usize, holds: impl Fn(&str) -> bool) -> Range<usize> {
    let start = *at;
    let more = lines[start..].iter().take_while(|line| holds(line)).count();
    *at = start + more;
    start..*at
}

/// An expected line as answers are shown: two spaces before what is indented, none at the end.
fn in_shape(line: &str) -> String {
    match line.starts_with([' ', '\t']) {
        true => format!("  {}", line.trim()),
        false => line.trim_end().to_owned(),
    }
}

fn fact(line: &str) -> Result<Fact, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let needed = |what: &str| match rest {
        "" => Err(format!("`{word}` needs {what}")),
        rest => Ok(rest.to_owned()),
    };
    Ok(match word {
        "peer" => {
            let address = rest.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
            let address = address.or_else(|_| rest.parse());
            Fact::Peer(address.map_err(|_| format!("{rest:?} is no IP address, with or without a port"))?)
        }
        "trusted" => Fact::Trusted,
        "proxied" => Fact::Proxied,
        "listener" => match rest.split_once(' ') {
            Some((name, auth)) => {
                let auth = match auth.trim() {
                    "off" => AuthOffer::Off,
                    "optional" => AuthOffer::Optional,
                    "required" => AuthOffer::Required,
                    other => return Err(format!("{other:?} is not off, optional or required")),
                };
                Fact::Listener(name.to_owned(), auth)
            }
            None => Fact::Listener(needed("a name")?, AuthOffer::Optional),
        },
        "tls" => Fact::Tls(needed("a version such as TLSv1.3")?),
        "reverse-name" => Fact::ReverseName(needed("a name")?),
        "identity" => {
            let text = needed("a name")?;
            let (name, method) = text.split_once(' ').unwrap_or((&text, "PLAIN"));
            Fact::Identity(name.to_owned(), method.trim().to_owned())
        }
        "wait" => Fact::Wait(parse_duration(rest)?),
        _ => {
            return Err(format!(
                "{word:?} is no fact: peer, trusted, proxied, listener, tls, reverse-name, identity, wait; events begin with `> `"
            ));
        }
    })
}

fn event_of(text: &str, content: &[&str]) -> Result<What, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    if !content.is_empty() && word != "MESSAGE" {
        return Err("lines with `|` belong to `> MESSAGE`".into());
    }
    Ok(match word {
        "CONNECT" => What::Connect,
        "EHLO" | "HELO" => What::Ehlo(rest.to_owned()),
        "AUTH" => {
            let mut words = rest.splitn(3, ' ');
            let mechanism = match words.next() {
                Some("PLAIN") => "PLAIN",
                Some("LOGIN") => "LOGIN",
                _ => {
                    return Err("write `> AUTH PLAIN user password`, or LOGIN: policies see no other mechanism".into());
                }
            };
            What::Auth {
                mechanism,
                user: words.next().unwrap_or_default().to_owned(),
                password: words.next().unwrap_or_default().to_owned(),
            }
        }
        "MAIL" => {
            let (path, parameters) = path(rest, "FROM:")?;
            let sender = match path {
                "" => None,
                path => Some(Address::parse(path).map_err(|error| format!("{path:?} is no address: {error}"))?),
            };
            What::Mail(sender, parameters)
        }
        "RCPT" => {
            let (path, parameters) = path(rest, "TO:")?;
            let recipient = Address::parse(path).map_err(|error| format!("{path:?} is no address: {error}"))?;
            What::Rcpt(recipient, parameters)
        }
        "DATA" => What::Data,
        "MESSAGE" => {
            let line = |line: &&str| line.strip_prefix("| ").unwrap_or(&line[1..]).to_owned() + "\r\n";
            What::Message(content.iter().map(line).collect())
        }
        "QUEUED" => What::Queued,
        "ROUTE" => What::Route {
            attempts: match rest {
                "" => 0,
                rest => rest.parse().map_err(|_| format!("{rest:?} is no number of attempts"))?,
            },
        },
        "DELIVERY" => {
            let mut words = rest.splitn(3, ' ');
            let outcome = match words.next() {
                Some("delivered") => super::super::chain::AttemptOutcome::Delivered,
                Some("deferred") => super::super::chain::AttemptOutcome::Deferred,
                Some("failed") => super::super::chain::AttemptOutcome::Failed,
                _ => return Err("write `> DELIVERY delivered|deferred|failed next-hop reply`".into()),
            };
            What::Delivery {
                outcome,
                next_hop: words.next().unwrap_or_default().to_owned(),
                reply: words.next().unwrap_or_default().to_owned(),
            }
        }
        "RESULT" => {
            let mut words = rest.splitn(3, ' ');
            let command = words.next().unwrap_or_default().to_owned();
            let code = words.next().and_then(|code| code.parse().ok());
            What::Result {
                command,
                code: code.ok_or("write `> RESULT command code subject`")?,
                subject: words.next().unwrap_or_default().to_owned(),
            }
        }
        "DISCONNECT" => What::Disconnect,
        _ => {
            return Err(format!(
                "{word:?} is no event: CONNECT, EHLO, AUTH, MAIL, RCPT, DATA, MESSAGE, QUEUED, ROUTE, DELIVERY, RESULT, DISCONNECT"
            ));
        }
    })
}

/// `FROM:<path> NAME=value`.
fn path<'a>(rest: &'a str, keyword: &str) -> Result<(&'a str, Parameters), String> {
    let inside = rest
        .strip_prefix(keyword)
        .and_then(|rest| rest.trim_start().strip_prefix('<'));
    let Some((path, parameters)) = inside.and_then(|inside| inside.rsplit_once('>')) else {
        return Err(format!("write `{keyword}<address>`, and parameters behind it"));
    };
    let parameter = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    };
    Ok((path, parameters.split_whitespace().map(parameter).collect()))
}

/// All grants, by name; `endpoint` only where there are some.
pub fn all_grants(endpoints: bool) -> Vec<String> {
    let all = Grant::ALL
        .iter()
        .filter(|grant| endpoints || **grant != Grant::Endpoint);
    all.map(ToString::to_string).collect()
}
