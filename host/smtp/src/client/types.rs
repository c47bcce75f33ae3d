//! The values that pass between the client and its driver: settings, steps, envelopes, answers.
//!
//! Plain data; nothing here decides or fails.

use crate::reply::Reply;

/// How the session is to be opened.
#[derive(Clone)]
pub struct Settings {
    /// The name that EHLO gives.
    pub name: Box<str>,
    pub tls: StartTls,
    pub credentials: Option<Credentials>,
    /// The password may be sent in the clear (the next hop is this machine).
    pub plaintext_auth: bool,
    /// The connection has TLS from the first byte.
    pub secure: bool,
}

/// Whether to ask for STARTTLS (RFC 3207).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    Never,
    /// Where it is offered, and not refused.
    Opportunistic,
    /// Or no session.
    Required,
}

/// Name and password for AUTH PLAIN or LOGIN.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Write,
    Read(Wait),
    StartTls,
    Ready,
    Content,
    Done,
    Closed,
}

/// What a read waits for; each has its own time-out (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Greeting,
    /// EHLO, STARTTLS, AUTH, MAIL, RCPT, RSET.
    Command,
    /// The 354.
    Data,
    /// The reply to the final dot.
    DataEnd,
    Quit,
}

/// One transaction as the peer shall hear it.
#[derive(Clone, Debug, Default)]
pub struct Envelope<'a> {
    /// Without brackets; empty is the null sender.
    pub sender: &'a str,
    /// Bytes of the content, before dot-stuffing.
    pub size: u64,
    pub eight_bit: bool,
    /// The client that gave us the message declared SMTPUTF8.
    pub smtputf8: bool,
    /// The header has bytes that are not ASCII, so that the message cannot go without SMTPUTF8. Looked at only if the
    /// peer does not offer it and `smtputf8` is set.
    pub utf8_header: bool,
    /// RET=FULL or RET=HDRS.
    pub ret_full: Option<bool>,
    /// ENVID as xtext.
    pub envid: Option<&'a str>,
    pub recipients: &'a [Recipient<'a>],
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Recipient<'a> {
    /// Without brackets.
    pub address: &'a str,
    /// NOTIFY's value, say `SUCCESS,FAILURE`.
    pub notify: Option<&'a str>,
    /// ORCPT's value as it was given.
    pub orcpt: Option<&'a str>,
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    /// The peer said it; else it is our own word for what happened.
    pub remote: bool,
}

impl Answer {
    /// Our own word for what happened.
    pub fn local(reply: Reply) -> Answer {
        Answer { reply, remote: false }
    }

    pub(super) fn remote(reply: Reply) -> Answer {
        Answer { reply, remote: true }
    }
}

/// Why a session could not be opened, or did not last. Always a temporary matter for the queue: `reply` is 4xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    pub reply: Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The greeting, EHLO or HELO was refused.
    Refused,
    /// TLS is required, and not offered or refused.
    NoTls,
    /// No usable mechanism, or the credentials were refused.
    Auth,
    /// The peer said 421.
    Closing,
    /// What came was no SMTP reply, or not one to what was asked.
    Protocol,
    /// The connection was lost, or time was up.
    Lost,
    /// We said QUIT.
    Quit,
}
