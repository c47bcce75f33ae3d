//! `gatepost queue`: the queue of the running relay, through its admin socket.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::client;
use super::text::{Paint, address, age, printable, printable_lines, size};
use crate::admin::protocol::{LIST_LIMIT, Patterns, QueueAction, QueueItem, Request, Response, Selection};
use crate::message::{Id, QueueState, RecipientStatus, since_epoch};

/// See and steer the messages that wait for delivery
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// List messages, the oldest first
    List {
        #[command(flatten)]
        matching: Matching,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=LIST_LIMIT as i64))]
        limit: u32,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show one message: its envelope, the state of each recipient, its header
    Show {
        id: Id,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Attempt delivery now
    Retry(Which),
    /// Leave messages alone until they are released
    Hold(Which),
    /// Let held messages go
    Release(Which),
    /// Forget messages, without a bounce
    Remove(Which),
}

const EXAMPLES: &str = "\
Examples:
  gatepost queue list --recipient '*@example.test'
  gatepost queue show 0C2F7Q6XKJ4R8
  gatepost queue retry --all
  gatepost queue hold --sender 'news@*'
  gatepost queue release --held 'spam: *'
  gatepost queue remove --sender '<>'         bounces have the null sender";

/// Enough to see what is going on.
const LIST_DEFAULT: u32 = 1_000;

/// Patterns for addresses.
#[derive(Debug, Args)]
pub struct Matching {
    /// Messages that still wait for such a recipient; `*` stands for any characters, `\*` for a star
    #[arg(long, value_name = "PATTERN")]
    recipient: Option<String>,
    /// Messages from such a sender; `<>` is the null sender
    #[arg(long, value_name = "PATTERN")]
    sender: Option<String>,
    /// Messages that are held for such a reason, as `queue list` shows it, and all of it: 'spam: *'
    #[arg(long, value_name = "PATTERN")]
    held: Option<String>,
}

impl Matching {
    fn selection(&self) -> Selection {
        // An address in its brackets means the same, and the null sender needs them.
        let bare = |pattern: &String| match pattern.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            Some(inside) => inside.to_owned(),
            None => pattern.clone(),
        };
        let patterns = Patterns {
            recipient: self.recipient.as_ref().map(bare),
            sender: self.sender.as_ref().map(bare),
            held: self.held.clone(),
        };
        if patterns == Patterns::default() {
            Selection::All
        } else {
            Selection::Matching(patterns)
        }
    }
}

/// Which messages are meant; one way of saying it must be used.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["ids", "all", "recipient", "sender", "held"]).required(true).multiple(true))]
pub struct Which {
    /// The messages' ids
    #[arg(value_name = "ID", conflicts_with_all = ["all", "recipient", "sender", "held"])]
    ids: Vec<Id>,
    /// Every message
    #[arg(long, conflicts_with_all = ["recipient", "sender", "held"])]
    all: bool,
    #[command(flatten)]
    matching: Matching,
    /// Print the ids of the changed messages as JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Which {
    fn selection(&self) -> Selection {
        match self.ids.is_empty() {
            true => self.matching.selection(),
            false => Selection::Ids(self.ids.clone()),
        }
    }
}

pub fn queue(command: &Command, config: Option<&Path>) -> anyhow::Result<()> {
    let socket = client::socket(config)?;
    let paint = Paint::stdout();
    let (which, action, done) = match command {
        Command::List { matching, limit, json } => {
            let request = Request::QueueList {
                select: matching.selection(),
                limit: *limit,
            };
            return match client::ask(&socket, &request)? {
                Response::Queue { messages, .. } if *json => super::print_json(&messages),
                Response::Queue { messages, total } => super::print(&table(&messages, total, SystemTime::now(), paint)),
                response => Err(client::unexpected(&response)),
            };
        }
        Command::Show { id, json } => {
            return match client::ask(&socket, &Request::QueueShow { id: *id })? {
                response @ Response::Message { .. } if *json => super::print_json(&response),
                Response::Message { id, state, header } => {
                    super::print(&details(id, &state, &header, SystemTime::now(), paint))
                }
                response => Err(client::unexpected(&response)),
            };
        }
        Command::Retry(which) => (which, QueueAction::Retry, "will be attempted now"),
        Command::Hold(which) => (which, QueueAction::Hold, "held"),
        Command::Release(which) => (which, QueueAction::Release, "released"),
        Command::Remove(which) => (which, QueueAction::Remove, "removed"),
    };
    match client::ask(
        &socket,
        &Request::QueueChange {
            action,
            select: which.selection(),
        },
    )? {
        Response::Changed { ids } if which.json => super::print_json(&ids),
        Response::Changed { ids } => super::print(&format!(
            "{} message{} {done}\n",
            ids.len(),
            if ids.len() == 1 { "" } else { "s" }
        )),
        response => Err(client::unexpected(&response)),
    }
}

fn table(messages: &[QueueItem], total: u64, now: SystemTime, paint: Paint) -> String {
    if messages.is_empty() {
        return "no messages\n".to_owned();
    }
    let now = since_epoch(now).as_secs();
    let heading = format!(
        "{:13} {:>4} {:>9} {:>3} {:>5}  FROM, TO",
        "ID", "AGE", "SIZE", "TRY", "NEXT"
    );
    let mut text = format!("{}\n", paint.dim(&heading));
    for item in messages {
        let waited = age(Duration::from_secs(now.saturating_sub(item.received_unix)));
        let next = match (&item.held, item.next_attempt_unix) {
            (Some(_), _) => "held".to_owned(),
            (None, Some(at)) if at > now => age(Duration::from_secs(at - now)),
            _ => "now".to_owned(),
        };
        let next = format!("{next:>5}");
        let next = if item.held.is_some() { paint.yellow(&next) } else { next };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{} {waited:>4} {:>9} {:>3} {next}  {} -> {}",
            paint.bold(&item.id.to_string()),
            size(item.size),
            item.attempts,
            address(&item.sender),
            recipients(&item.recipients),
        );
        for why in item.held.iter().chain(&item.last_error) {
            let _ = writeln!(text, "{:15}{}", "", paint.dim(&printable(why)));
        }
    }
    match total.saturating_sub(messages.len() as u64) {
        0 => {
            let _ = writeln!(text, "{total} message{}", if total == 1 { "" } else { "s" });
        }
        more => {
            let _ = writeln!(text, "and {more} more; see them with --limit");
        }
    }
    text
}

/// More recipients than these are only counted in a list.
const RECIPIENTS_SHOWN: usize = 3;

fn recipients(all: &[String]) -> String {
    let shown = all
        .iter()
        .take(RECIPIENTS_SHOWN)
        .map(|rcpt| address(rcpt))
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(RECIPIENTS_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn details(id: Id, state: &QueueState, header: &str, now: SystemTime, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {value}", paint.dim(&format!("{name:10}")));
    };
    let session = &state.origin.session;
    let until = |at: SystemTime| age(since_epoch(at).saturating_sub(since_epoch(now)));
    let since = |at: SystemTime| age(since_epoch(now).saturating_sub(since_epoch(at)));
    line("id", &paint.bold(&id.to_string()));
    line("from", &address(&state.envelope.sender));
    line("size", &size(state.size));
    line(
        "received",
        &format!(
            "{} ago, by {} from {}",
            since(state.origin.received),
            session.listener,
            session.peer.ip()
        ),
    );
    if let Some(identity) = &session.identity {
        line(
            "user",
            &format!("{} ({})", printable(&identity.name), printable(&identity.method)),
        );
    }
    if let Some(reason) = &state.held {
        line("held", &paint.yellow(&printable(reason)));
    }
    line("attempts", &state.attempts.to_string());
    if let Some(next) = state.next_attempt.filter(|next| *next > now && state.held.is_none()) {
        line("next", &format!("in {}", until(next)));
    }
    if let Some(error) = &state.last_error {
        line("error", &printable(error));
    }
    for (name, value) in &state.origin.tags {
        line("tag", &format!("{} {}", printable(name), printable(value)));
    }
    for rcpt in &state.envelope.recipients {
        let status = match &rcpt.status {
            RecipientStatus::Pending => "waits".to_owned(),
            RecipientStatus::Delivered { reply } => format!("delivered: {}", printable(reply)),
            RecipientStatus::Failed { reply } => paint.red(&format!("failed: {}", printable(reply))),
            RecipientStatus::Discarded => "discarded".to_owned(),
        };
        let route = rcpt
            .route
            .as_ref()
            .map_or(String::new(), |route| format!(" by {}", printable(route)));
        line("to", &format!("{}{route} {status}", address(&rcpt.address)));
    }
    format!("{text}\n{}", printable_lines(header))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use clap::Parser;

    use super::*;
    use crate::message::{Envelope, Origin, Recipient, SessionFacts};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn what_is_selected() {
        let matching = |recipient: Option<&str>, sender: Option<&str>| {
            Selection::Matching(Patterns {
                recipient: recipient.map(str::to_owned),
                sender: sender.map(str::to_owned),
                held: None,
            })
        };
        let held = Selection::Matching(Patterns {
            held: Some("spam:*".to_owned()),
            ..Patterns::default()
        });
        for (line, expected) in [
            ("retry --all", Selection::All),
            ("retry 0000000000001 0000000000002", Selection::Ids(vec![Id(1), Id(2)])),
            ("retry --recipient *@a.test", matching(Some("*@a.test"), None)),
            ("retry --sender <>", matching(None, Some(""))),
            ("retry --sender <b@*> --recipient a", matching(Some("a"), Some("b@*"))),
            ("retry --held spam:*", held),
        ] {
            let line = Line::try_parse_from(["queue"].into_iter().chain(line.split(' '))).unwrap();
            let Command::Retry(which) = line.command else { panic!() };
            assert_eq!(which.selection(), expected);
        }
    }

    /// A moment that all of the tests below agree on.
    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn state() -> QueueState {
        let rcpt = |address: &str, status| Recipient {
            address: address.into(),
            status,
            ..Recipient::default()
        };
        QueueState {
            envelope: Envelope {
                sender: "alice@example.test".into(),
                recipients: vec![
                    rcpt("a@x.test", RecipientStatus::Pending),
                    rcpt(
                        "b@x.test",
                        RecipientStatus::Failed {
                            reply: "550 5.1.1 no \x1b[31msuch user".into(),
                        },
                    ),
                ],
                ..Envelope::default()
            },
            origin: Arc::new(Origin {
                session: Arc::new(SessionFacts::internal()),
                notes: Default::default(),
                tags: vec![("spam".into(), "3.5".into())],
                received: at(10_000),
            }),
            size: 4_096,
            held: None,
            attempts: 2,
            next_attempt: Some(at(10_900)),
            last_error: Some("451 4.7.1 come again\r\nlater".into()),
            delay_notified: false,
        }
    }

    #[test]
    fn a_list_for_people() {
        let item = QueueItem::new(Id(1), &state());
        let held = QueueItem {
            held: Some("virus".into()),
            last_error: None,
            sender: String::new(),
            ..item.clone()
        };
        let text = table(&[item, held], 12, at(10_600), Paint::stdout());
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "ID             AGE      SIZE TRY  NEXT  FROM, TO",
                "0000000000001  10m   4.0 KiB   2    5m  <alice@example.test> -> <a@x.test>",
                "               451 4.7.1 come again\u{fffd}\u{fffd}later",
                "0000000000001  10m   4.0 KiB   2  held  <> -> <a@x.test>",
                "               virus",
                "and 10 more; see them with --limit",
            ]
        );
    }

    #[test]
    fn a_message_for_people() {
        let text = details(Id(1), &state(), "Subject: hi\r\n", at(10_600), Paint::stdout());
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "id         0000000000001",
                "from       <alice@example.test>",
                "size       4.0 KiB",
                "received   10m ago, by internal from 0.0.0.0",
                "attempts   2",
                "next       in 5m",
                "error      451 4.7.1 come again\u{fffd}\u{fffd}later",
                "tag        spam 3.5",
                "to         <a@x.test> waits",
                "to         <b@x.test> failed: 550 5.1.1 no \u{fffd}[31msuch user",
                "",
                "Subject: hi",
            ]
        );
    }
}
