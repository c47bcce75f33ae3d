//! Delivery status notifications (RFC 3464): who is told what, and the message that tells it.
//!
//! [`due`] decides by the rules of RFC 3461 who gets a notice; [`compose`] writes one, as a message from the null
//! sender. Pure but for the returned part, which is read from the message's content; if that cannot be read the
//! notice goes without it. A message from the null sender never causes a notice, so there are no loops. All of it is
//! ASCII except where the original is not: non-ASCII addresses are written in the form of RFC 6533 §3 that any mail
//! system carries.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use gatepost_smtp::client::Answer;

use super::content::Content;
use crate::message::{
    Body, Envelope, Id, MailParams, NewMessage, Notify, Origin, QueueState, Recipient, SessionFacts, since_epoch,
};

/// The most of a message that is returned in full, in bytes; of a larger one only the header. Postfix has the same.
pub const MAX_RETURNED: u64 = 50_000;
/// The most of a header that is returned, in bytes.
const MAX_HEADER: usize = 32 * 1024;
/// Recipients in one notice; more make several notices, so that each stays a message in memory.
pub const MAX_RECIPIENTS: usize = 50;
/// The most of a next hop's reply that is quoted, in characters.
const MAX_DIAGNOSTIC: usize = 1000;

/// What a notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Failed,
    Delayed,
    /// Delivered, or handed to a next hop that promises no notices of its own.
    Success,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Delayed => "delayed",
            Kind::Success => "success",
        }
    }
}

/// A recipient, as a notice reports it.
pub struct Report<'a> {
    pub recipient: &'a Recipient,
    /// The RFC 3464 action: `failed`, `delayed`, `delivered`, `relayed`.
    pub action: &'static str,
    pub answer: &'a Answer,
    /// The next hop's name, if one was reached.
    pub host: Option<&'a str>,
}

/// Whether a recipient's sender is told (RFC 3461 §4.1, §5.2). Without NOTIFY: failures, and delays as all mail
/// systems do.
pub fn due(kind: Kind, sender: &str, notify: Option<Notify>) -> bool {
    if sender.is_empty() {
        return false;
    }
    match (kind, notify) {
        (Kind::Failed, None) | (Kind::Delayed, None) => true,
        (Kind::Success, None) => false,
        (Kind::Failed, Some(notify)) => notify.failure,
        (Kind::Delayed, Some(notify)) => notify.delay,
        (Kind::Success, Some(notify)) => notify.success,
    }
}

/// Who speaks, and when.
pub struct Speaker<'a> {
    /// This relay's name.
    pub hostname: &'a str,
    /// Notices come from `MAILER-DAEMON@` this name.
    pub bounce_hostname: &'a str,
    pub now: SystemTime,
    /// When a delayed message is given up.
    pub retry_until: SystemTime,
}

/// Writes a notice about some recipients of one message. `content` is the message itself, if it can be had.
pub async fn compose(
    kind: Kind,
    speaker: &Speaker<'_>,
    state: &QueueState,
    reports: &[Report<'_>],
    content: Option<&Content>,
) -> NewMessage {
    let returned = match content {
        Some(content) => returned(kind, state, content).await,
        None => None,
    };
    let notice = Id::new();
    let boundary = format!("=_{notice}.{:016x}", getrandom::u64().unwrap_or(notice.0));
    let text = explanation(kind, speaker, state, reports);
    let status = status_part(kind, speaker, state, reports);
    let mut body = header(kind, speaker, notice, &state.envelope.sender, &boundary).into_bytes();
    part(&mut body, &boundary, &text_type(&text), text.as_bytes());
    part(&mut body, &boundary, "message/delivery-status", status.as_bytes());
    if let Some(Returned { kind, bytes }) = &returned {
        part(&mut body, &boundary, kind, bytes);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let eight_bit = !body.is_ascii();
    NewMessage {
        id: notice,
        envelope: Envelope {
            sender: String::new(),
            params: MailParams {
                size: None,
                eight_bit,
                smtputf8: !state.envelope.sender.is_ascii(),
                ..MailParams::default()
            },
            recipients: vec![Recipient {
                address: state.envelope.sender.clone(),
                ..Recipient::default()
            }],
        },
        head: Bytes::new(),
        body: Body::Memory(body.into()),
        origin: Arc::new(Origin {
            session: Arc::new(SessionFacts::internal()),
            notes: Default::default(),
            tags: Vec::new(),
            received: speaker.now,
        }),
        held: None,
    }
}

fn header(kind: Kind, speaker: &Speaker<'_>, notice: Id, to: &str, boundary: &str) -> String {
    let subject = match kind {
        Kind::Failed => "Undelivered Mail Returned to Sender",
        Kind::Delayed => "Delayed Mail (still being retried)",
        Kind::Success => "Successful Mail Delivery Report",
    };
    let from = speaker.bounce_hostname;
    format!(
        "From: Mail Delivery System <MAILER-DAEMON@{from}>\r\n\
         To: <{to}>\r\n\
         Subject: {subject}\r\n\
         Date: {date}\r\n\
         Message-ID: <{notice}@{from}>\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\
         \r\n\
         This is a delivery status notification in MIME format.\r\n",
        to = one_line(to),
        date = date(speaker.now),
    )
}

fn part(body: &mut Vec<u8>, boundary: &str, kind: &str, content: &[u8]) {
    let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
    let opening = format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
    body.extend_from_slice(opening.as_bytes());
    body.extend_from_slice(content);
}

fn text_type(text: &str) -> String {
    format!(
        "text/plain; charset={}",
        if text.is_ascii() { "us-ascii" } else { "utf-8" }
    )
}

/// For people.
fn explanation(kind: Kind, speaker: &Speaker<'_>, state: &QueueState, reports: &[Report<'_>]) -> String {
    let mut text = format!("This is the mail system at {}.\r\n\r\n", speaker.hostname);
    match kind {
        Kind::Failed => text.push_str(
            "Your message could not be delivered to the recipients below. It will not be\r\n\
             tried again; for them, it has been dropped.\r\n",
        ),
        Kind::Delayed => {
            let _ = write!(
                text,
                "Your message has not been delivered yet. There is nothing you need to do: it will\r\n\
                 be tried again until {}.\r\n",
                date(speaker.retry_until)
            );
        }
        Kind::Success => text.push_str(
            "Your message was delivered, or handed on to a mail system that sends no such\r\n\
             reports, for the recipients below.\r\n",
        ),
    }
    let _ = write!(
        text,
        "\r\nIt was received {} ({} bytes).\r\n",
        date(state.origin.received),
        state.size
    );
    for report in reports {
        let said = if report.answer.remote {
            format!(
                "{} said: {}",
                report.host.unwrap_or("the next hop"),
                report.answer.reply
            )
        } else {
            report.answer.reply.text().replace('\n', " ")
        };
        let original = report.recipient.original.as_deref();
        let of = original.map_or(String::new(), |original| {
            format!(" (addressed as <{}>)", one_line(original))
        });
        let _ = write!(
            text,
            "\r\n<{}>{of}:\r\n{}\r\n",
            one_line(&report.recipient.address),
            wrap(&shorten(&said), "    ", "    ")
        );
    }
    text
}

/// For machines: the fields about the message, and a group for each recipient (RFC 3464 §2).
fn status_part(kind: Kind, speaker: &Speaker<'_>, state: &QueueState, reports: &[Report<'_>]) -> String {
    let mut fields = String::new();
    if let Some(envid) = &state.envelope.params.envid {
        field(&mut fields, "Original-Envelope-Id", &decode_xtext(envid));
    }
    field(&mut fields, "Reporting-MTA", &format!("dns; {}", speaker.hostname));
    field(&mut fields, "Arrival-Date", &date(state.origin.received));
    for report in reports {
        fields.push_str("\r\n");
        if let Some((kind, address)) = report
            .recipient
            .params
            .orcpt
            .as_deref()
            .and_then(|orcpt| orcpt.split_once(';'))
        {
            field(
                &mut fields,
                "Original-Recipient",
                &format!("{kind}; {}", ascii_address(&decode_xtext(address))),
            );
        }
        let address = &report.recipient.address;
        let kind_of_address = if address.is_ascii() { "rfc822" } else { "utf-8" };
        field(
            &mut fields,
            "Final-Recipient",
            &format!("{kind_of_address}; {}", ascii_address(address)),
        );
        field(&mut fields, "Action", report.action);
        field(&mut fields, "Status", &status(kind, report.answer));
        if let Some(host) = report.host {
            field(&mut fields, "Remote-MTA", &format!("dns; {host}"));
        }
        let reply = shorten(&report.answer.reply.to_string());
        let diagnostic = if report.answer.remote { "smtp" } else { "X-Gatepost" };
        field(&mut fields, "Diagnostic-Code", &format!("{diagnostic}; {reply}"));
        field(&mut fields, "Last-Attempt-Date", &date(speaker.now));
        if kind == Kind::Delayed {
            field(&mut fields, "Will-Retry-Until", &date(speaker.retry_until));
        }
    }
    fields
}

/// The status code of RFC 3463, whose class must be that of the action.
fn status(kind: Kind, answer: &Answer) -> String {
    let class = match kind {
        Kind::Failed => 5,
        Kind::Delayed => 4,
        Kind::Success => 2,
    };
    match answer.reply.enhanced() {
        Some(enhanced) => format!("{class}.{}.{}", enhanced.1, enhanced.2),
        None => format!("{class}.0.0"),
    }
}

fn field(fields: &mut String, name: &str, value: &str) {
    let value = one_line(value);
    let first = format!("{name}: ");
    fields.push_str(&wrap(&value, &first, "    "));
    fields.push_str("\r\n");
}

struct Returned {
    kind: &'static str,
    bytes: Vec<u8>,
}

/// RET (RFC 3461 §4.3) is about failures; other notices have the header. Unasked, a small message is returned whole.
async fn returned(kind: Kind, state: &QueueState, content: &Content) -> Option<Returned> {
    let full = kind == Kind::Failed && state.envelope.params.ret_full.unwrap_or(true) && content.len() <= MAX_RETURNED;
    // RFC 6533 §6: what has UTF-8 in its header is message/global.
    let limit = if full { MAX_RETURNED as usize } else { MAX_HEADER };
    let mut bytes = content.beginning(limit).await.ok()?;
    let header_end = memchr_blank_line(&bytes).unwrap_or(bytes.len());
    let global = !bytes[..header_end].is_ascii();
    if !full {
        bytes.truncate(header_end);
    }
    if !bytes.ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    let kind = match (full, global) {
        (true, false) => "message/rfc822",
        (true, true) => "message/global",
        (false, false) => "text/rfc822-headers",
        (false, true) => "message/global-headers",
    };
    Some(Returned { kind, bytes })
}

/// Where the header ends, its last CRLF included.
fn memchr_blank_line(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 2)
}

/// `+3D` is `=` (RFC 3461 §4). What is not well formed stays as it is.
fn decode_xtext(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex
            .filter(|_| byte == b'+')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The form of RFC 6533 §3 for where only ASCII goes: `\x{F6}` for a character beyond it.
fn ascii_address(address: &str) -> String {
    let mut out = String::with_capacity(address.len());
    for c in address.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
    out
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_DIAGNOSTIC).collect()
}

/// Breaks text at spaces into lines of about 76 characters; what has no spaces is broken far before the 998 of
/// RFC 5322 §2.1.1.
fn wrap(text: &str, first: &str, indent: &str) -> String {
    const GOOD: usize = 76;
    const MOST: usize = 500;
    let mut out = String::from(first);
    let mut column = first.len();
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            if column + 1 + word.len() > GOOD && column > indent.len() {
                out.push_str("\r\n");
                out.push_str(indent);
                column = indent.len();
            } else {
                out.push(' ');
                column += 1;
            }
        }
        for c in word.chars() {
            if column >= MOST {
                out.push_str("\r\n");
                out.push_str(indent);
                column = indent.len();
            }
            out.push(c);
            column += c.len_utf8();
        }
    }
    out
}

/// RFC 5322 §3.3, in UTC.
pub fn date(at: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = since_epoch(at).as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date of the Gregorian calendar, with years that begin in March (Hinnant's civil_from_days).
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    format!(
        "{}, {day} {} {year} {:02}:{:02}:{:02} +0000",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        time / 3600,
        time / 60 % 60,
        time % 60,
    )
}

#[cfg(test)]
mod tests;
