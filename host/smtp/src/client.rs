//! The client side of SMTP, sans-IO: one connection to a next hop, from the greeting to QUIT.
//!
//! A [`Client`] opens the session (EHLO or HELO, STARTTLS, AUTH), then carries any number of transactions. It keeps
//! the account of which reply belongs to which command (RFC 2920), gives each recipient an [`Answer`] of its own, and
//! sends RSET only where the last transaction was left open, in the same write as the next one. It never retries, never
//! chooses a host and never decides what a refusal means for the queue.
//!
//! # The driver's contract
//!
//! The driver owns the socket and the clock. It asks [`Client::step`] what is next:
//! - `Write`: write [`Client::output`], then call [`Client::written`].
//! - `Read(wait)`: read once, within the time that `wait` stands for (RFC 5321 §4.5.3.2), and pass the bytes to
//!   [`Client::receive`]. At the end of the stream, an I/O error or when time is up call [`Client::lost`].
//! - `StartTls`: make the handshake, then call [`Client::tls_started`]. If it fails the connection is of no further
//!   use.
//! - `Ready`: begin a transaction with [`Client::mail`], or [`Client::quit`], or leave it idle.
//! - `Content`: write the message through a [`DotStuffer`], its end included, then call [`Client::content_written`].
//! - `Done`: [`Client::take_answers`] has one answer for each recipient.
//! - `Closed`: close the socket; [`Client::failure`] says why.
//!
//! # What goes over the wire
//!
//! Commands are pipelined where the peer offers it, in groups of at most [`MAX_GROUP`] bytes, DATA included, so that
//! the envelope of an ordinary message is one write and one read. Content goes by DATA: BDAT would only help for
//! content that is not lines (BINARYMIME), which is never accepted. Content is sent as it is, 8-bit or not: to a peer
//! without 8BITMIME too, because a conversion would break signatures, and servers that mangle 8-bit text have died
//! out. SMTPUTF8 is different: without it a non-ASCII address cannot be written at all, and the recipient fails with
//! 5.6.7 (RFC 6531 §3.2).

mod capabilities;
mod stuff;
mod types;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::address::Address;
use crate::reply::{Enhanced, Reply, ReplyReader};

pub use capabilities::Capabilities;
pub use stuff::DotStuffer;
pub use types::{Answer, Cause, Credentials, Envelope, Failure, Recipient, Settings, StartTls, Step, Wait};

/// The most bytes of commands that are sent before their replies are awaited. It keeps a peer that answers while it
/// reads from ever blocking on a full window, and with it us (RFC 2920 §3.1).
pub const MAX_GROUP: usize = 8 * 1024;

/// A connection's protocol state.
pub struct Client {
    settings: Settings,
    state: State,
    reader: ReplyReader,
    capabilities: Capabilities,
    /// Commands, sent and to be sent; `released` of them may be written, and before `written` they have been.
    out: Vec<u8>,
    written: usize,
    released: usize,
    secure: bool,
    /// EHLO was understood.
    esmtp: bool,
    authenticated: bool,
    /// The last transaction is still open at the peer.
    needs_rset: bool,
    transaction: Transaction,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    AuthPlain,
    AuthLogin(u8),
    Ready,
    /// Replies to RSET, MAIL, RCPT and DATA are awaited.
    Commands,
    Content,
    /// The reply to the final dot. `void`: nobody was accepted, and the content was empty.
    DataEnd {
        void: bool,
    },
    Done,
    Quitting,
    Closed,
}

/// The account of one transaction.
#[derive(Default)]
struct Transaction {
    answers: Vec<Option<Answer>>,
    /// Recipients in the order of their RCPT commands, by their index in `answers`.
    sent: Vec<usize>,
    rset: bool,
    /// Commands whose lines were released, and those that were replied to.
    asked: usize,
    replied: usize,
    mail_accepted: bool,
    accepted: Vec<usize>,
    /// The refusal of MAIL, for everybody.
    refused: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
}

impl Transaction {
    /// The commands are RSET (if needed), MAIL, RCPT for each of `sent`, DATA.
    fn command(&self, index: usize) -> Command {
        match index.checked_sub(usize::from(self.rset)) {
            None => Command::Rset,
            Some(0) => Command::Mail,
            Some(nth) => self
                .sent
                .get(nth - 1)
                .map_or(Command::Data, |recipient| Command::Rcpt(*recipient)),
        }
    }

    /// RSET, MAIL and RCPT.
    fn commands_before_data(&self) -> usize {
        usize::from(self.rset) + 1 + self.sent.len()
    }
}

impl Client {
    /// A connection on which the greeting is awaited.
    pub fn new(settings: Settings) -> Client {
        Client {
            secure: settings.secure,
            settings,
            state: State::Greeting,
            reader: ReplyReader::new(),
            capabilities: Capabilities::default(),
            out: Vec::new(),
            written: 0,
            released: 0,
            esmtp: true,
            authenticated: false,
            needs_rset: false,
            transaction: Transaction::default(),
            failure: None,
        }
    }

    /// What is to be done next. Asking changes nothing.
    pub fn step(&self) -> Step {
        if self.written < self.released && self.state != State::Closed {
            return Step::Write;
        }
        match self.state {
            State::Greeting => Step::Read(Wait::Greeting),
            State::Ehlo | State::Helo | State::StartTls | State::AuthPlain | State::AuthLogin(_) => {
                Step::Read(Wait::Command)
            }
            State::Handshake => Step::StartTls,
            State::Ready => Step::Ready,
            State::Commands if self.transaction.command(self.transaction.replied) == Command::Data => {
                Step::Read(Wait::Data)
            }
            State::Commands => Step::Read(Wait::Command),
            State::Content => Step::Content,
            State::DataEnd { .. } => Step::Read(Wait::DataEnd),
            State::Done => Step::Done,
            State::Quitting => Step::Read(Wait::Quit),
            State::Closed => Step::Closed,
        }
    }

    /// What is to be written now.
    pub fn output(&self) -> &[u8] {
        &self.out[self.written..self.released]
    }

    /// All of [`Client::output`] has been written.
    pub fn written(&mut self) {
        self.written = self.released;
    }

    /// What the peer offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Why the connection is closed, once it is.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Takes what was read.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.failure.is_none() {
            match self.reader.read(&mut bytes) {
                Ok(Some(reply)) => self.replied(reply, bytes.is_empty()),
                Ok(None) => return,
                Err(error) => {
                    let text = format!("the next hop's reply makes no sense: {error}");
                    self.fail(Cause::Protocol, Reply::new(451, Enhanced(4, 5, 0), text));
                }
            }
        }
    }

    /// The connection is gone; `why` says how (`connection reset`, `timed out`).
    pub fn lost(&mut self, why: &str) {
        let text = format!("{why} {}", self.doing());
        self.fail(Cause::Lost, Reply::new(421, Enhanced(4, 4, 2), text));
    }

    /// The handshake that [`Step::StartTls`] asked for succeeded. All that was learnt before is forgotten (RFC 3207
    /// §4.2).
    pub fn tls_started(&mut self) {
        self.secure = true;
        self.capabilities = Capabilities::default();
        self.hello();
    }

    /// Begins a transaction. Only at [`Step::Ready`]; at other times nothing happens.
    ///
    /// `Err`: the peer has said that it would not take such a message, or the sender cannot be written; nothing was
    /// sent and the client is still ready. The answer concerns all recipients.
    pub fn mail(&mut self, envelope: &Envelope<'_>) -> Result<(), Answer> {
        if self.state != State::Ready {
            return Ok(());
        }
        let offered = &self.capabilities;
        if let Some(limit) = offered.size_max.filter(|limit| envelope.size > *limit) {
            let text = format!(
                "message of {} bytes is over the next hop's limit of {limit}",
                envelope.size
            );
            return Err(Answer::local(Reply::new(552, Enhanced(5, 3, 4), text)));
        }
        if envelope.smtputf8 && envelope.utf8_header && !offered.smtputf8 {
            return Err(Answer::local(needs_smtputf8()));
        }
        let sender = writable(envelope.sender, offered.smtputf8).map_err(Answer::local)?;
        self.out.clear();
        self.written = 0;
        let tx = &mut self.transaction;
        *tx = Transaction {
            rset: self.needs_rset,
            ..Transaction::default()
        };
        tx.answers.resize(envelope.recipients.len(), None);
        if tx.rset {
            self.out.extend_from_slice(b"RSET\r\n");
        }
        self.out.extend_from_slice(b"MAIL FROM:<");
        self.out.extend_from_slice(sender.as_bytes());
        self.out.push(b'>');
        let parameter = |out: &mut Vec<u8>, name: &str, value: &str| {
            if value.bytes().all(is_parameter) {
                out.push(b' ');
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(value.as_bytes());
            }
        };
        if offered.size {
            parameter(&mut self.out, "SIZE=", &envelope.size.to_string());
        }
        if offered.eight_bit_mime && envelope.eight_bit {
            parameter(&mut self.out, "BODY=", "8BITMIME");
        }
        // A non-ASCII address needs the parameter even if the message came in without it (a policy may have rewritten
        // it).
        let utf8 = envelope.smtputf8
            || !sender.is_ascii()
            || envelope
                .recipients
                .iter()
                .any(|recipient| !recipient.address.is_ascii());
        if offered.smtputf8 && utf8 {
            parameter(&mut self.out, "SMTPUTF8", "");
        }
        if offered.dsn {
            if let Some(full) = envelope.ret_full {
                parameter(&mut self.out, "RET=", if full { "FULL" } else { "HDRS" });
            }
            if let Some(envid) = envelope.envid {
                parameter(&mut self.out, "ENVID=", envid);
            }
        }
        self.out.extend_from_slice(b"\r\n");
        for (index, recipient) in envelope.recipients.iter().enumerate() {
            let address = match writable(recipient.address, offered.smtputf8) {
                Ok(address) => address,
                Err(reply) => {
                    tx.answers[index] = Some(Answer::local(reply));
                    continue;
                }
            };
            self.out.extend_from_slice(b"RCPT TO:<");
            self.out.extend_from_slice(address.as_bytes());
            self.out.push(b'>');
            if offered.dsn {
                if let Some(notify) = recipient.notify {
                    parameter(&mut self.out, "NOTIFY=", notify);
                }
                if let Some(orcpt) = recipient.orcpt {
                    parameter(&mut self.out, "ORCPT=", orcpt);
                }
            }
            self.out.extend_from_slice(b"\r\n");
            tx.sent.push(index);
        }
        self.released = 0;
        if tx.sent.is_empty() {
            self.out.clear();
            self.state = State::Done;
            return Ok(());
        }
        self.out.extend_from_slice(b"DATA\r\n");
        self.state = State::Commands;
        self.release();
        Ok(())
    }

    /// The content and its end have been written.
    pub fn content_written(&mut self) {
        if self.state == State::Content {
            self.state = State::DataEnd { void: false };
        }
    }

    /// The answers of the finished transaction, in the order of its recipients; the client is then ready or closed.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        if self.state != State::Done {
            return Vec::new();
        }
        self.state = if self.failure.is_some() {
            State::Closed
        } else {
            State::Ready
        };
        let answers = std::mem::take(&mut self.transaction.answers);
        let unknown = || Answer::local(Reply::new(451, Enhanced(4, 3, 0), "the next hop gave no answer"));
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(unknown))
            .collect()
    }

    /// Says goodbye. Only at [`Step::Ready`].
    pub fn quit(&mut self) {
        if self.state == State::Ready {
            self.send(b"QUIT\r\n");
            self.state = State::Quitting;
        }
    }

    fn send(&mut self, command: &[u8]) {
        self.out.clear();
        self.out.extend_from_slice(command);
        self.written = 0;
        self.released = self.out.len();
    }

    fn hello(&mut self) {
        let verb = if self.esmtp { "EHLO" } else { "HELO" };
        let line = format!("{verb} {}\r\n", self.settings.name);
        self.send(line.as_bytes());
        self.state = if self.esmtp { State::Ehlo } else { State::Helo };
    }

    /// `rest_is_empty`: nothing was read behind this reply.
    fn replied(&mut self, reply: Reply, rest_is_empty: bool) {
        if reply.code() == 421 && !matches!(self.state, State::Quitting) {
            return self.fail_with(Cause::Closing, Answer::remote(reply));
        }
        match self.state {
            State::Greeting if reply.code() == 220 => self.hello(),
            State::Greeting => self.refused("refused to talk to us", &reply),
            State::Ehlo if reply.is_positive() => {
                self.capabilities = Capabilities::read(&reply);
                self.greeted();
            }
            // RFC 5321 §3.2: a server without EHLO gets HELO.
            State::Ehlo if reply.is_permanent() => {
                self.esmtp = false;
                self.hello();
            }
            State::Helo if reply.is_positive() => self.greeted(),
            State::Ehlo | State::Helo => self.refused("refused our greeting", &reply),
            // RFC 3207 §4.1, CVE-2011-0411: what follows in the clear is not from the peer that will have TLS.
            State::StartTls if reply.code() == 220 && (!rest_is_empty || self.reader.is_midway()) => self.fail(
                Cause::Protocol,
                Reply::new(
                    451,
                    Enhanced(4, 5, 0),
                    "the next hop sent plain text behind its reply to STARTTLS",
                ),
            ),
            State::StartTls if reply.code() == 220 => self.state = State::Handshake,
            State::StartTls if self.settings.tls == StartTls::Required => {
                let text = format!("TLS is required, but the next hop refused STARTTLS: {reply}");
                self.fail(Cause::NoTls, Reply::new(454, Enhanced(4, 7, 4), text));
            }
            State::StartTls => self.open(),
            State::AuthPlain | State::AuthLogin(_) => self.auth_replied(reply),
            State::Commands => self.command_replied(reply),
            State::DataEnd { void: true } => self.finish(),
            State::Content | State::DataEnd { void: false } if reply.is_intermediate() => self.out_of_step(&reply),
            // Before the final dot: it has seen enough. Whatever else, that is no acceptance.
            State::Content if reply.is_refusal() => self.fail_with(Cause::Protocol, Answer::remote(reply)),
            State::Content => self.out_of_step(&reply),
            State::DataEnd { void: false } => {
                self.answer_accepted(&Answer::remote(reply));
                self.finish();
            }
            State::Quitting => self.fail(Cause::Quit, Reply::new(421, Enhanced(4, 4, 2), "connection closed")),
            // A reply to nothing: whoever is out of step once cannot be trusted with the next message.
            State::Ready | State::Done | State::Handshake | State::Closed => self.out_of_step(&reply),
        }
    }

    /// EHLO or HELO was accepted.
    fn greeted(&mut self) {
        if self.secure || self.settings.tls == StartTls::Never {
            return self.open();
        }
        if self.capabilities.starttls {
            self.send(b"STARTTLS\r\n");
            self.state = State::StartTls;
        } else if self.settings.tls == StartTls::Required {
            let reply = Reply::new(
                454,
                Enhanced(4, 7, 4),
                "TLS is required, but the next hop does not offer it",
            );
            self.fail(Cause::NoTls, reply);
        } else {
            self.open();
        }
    }

    /// TLS is settled: AUTH if there are credentials, then ready.
    fn open(&mut self) {
        let Some(credentials) = self.settings.credentials.as_ref().filter(|_| !self.authenticated) else {
            self.state = State::Ready;
            return;
        };
        let problem = if !self.secure && !self.settings.plaintext_auth {
            "there is no TLS, and the password is not sent in the clear"
        } else if self.capabilities.auth_plain {
            let secret = format!("\0{}\0{}", credentials.username, credentials.password);
            let line = format!("AUTH PLAIN {}\r\n", BASE64.encode(secret));
            self.send(line.as_bytes());
            self.state = State::AuthPlain;
            return;
        } else if self.capabilities.auth_login {
            self.send(b"AUTH LOGIN\r\n");
            self.state = State::AuthLogin(0);
            return;
        } else {
            "the next hop offers neither PLAIN nor LOGIN"
        };
        self.fail(
            Cause::Auth,
            Reply::new(454, Enhanced(4, 7, 0), format!("cannot authenticate: {problem}")),
        );
    }

    fn auth_replied(&mut self, reply: Reply) {
        let credentials = self.settings.credentials.as_ref();
        match (self.state, credentials) {
            (_, _) if reply.is_positive() => {
                self.authenticated = true;
                self.out.fill(0);
                self.state = State::Ready;
            }
            (State::AuthLogin(nth @ (0 | 1)), Some(credentials)) if reply.code() == 334 => {
                let secret = if nth == 0 {
                    &credentials.username
                } else {
                    &credentials.password
                };
                let line = format!("{}\r\n", BASE64.encode(secret));
                self.send(line.as_bytes());
                self.state = State::AuthLogin(nth + 1);
            }
            // Wrong credentials are the operator's mistake, not the sender's: the mail waits until they are corrected.
            _ => {
                let text = format!("the next hop refused our credentials: {reply}");
                self.fail(Cause::Auth, Reply::new(454, Enhanced(4, 7, 0), text));
            }
        }
    }

    fn command_replied(&mut self, reply: Reply) {
        let tx = &mut self.transaction;
        let command = tx.command(tx.replied);
        if tx.replied == tx.asked || (reply.is_intermediate() != (command == Command::Data && reply.code() == 354)) {
            return self.out_of_step(&reply);
        }
        tx.replied += 1;
        match command {
            Command::Rset if reply.is_refusal() => return self.out_of_step(&reply),
            Command::Rset => self.needs_rset = false,
            Command::Mail if reply.is_positive() => tx.mail_accepted = true,
            Command::Mail => tx.refused = Some(Answer::remote(reply)),
            Command::Rcpt(recipient) if tx.refused.is_none() => {
                if reply.is_positive() {
                    tx.accepted.push(recipient);
                } else {
                    tx.answers[recipient] = Some(Answer::remote(reply));
                }
            }
            // The MAIL was refused, so this 503 says nothing of its own.
            Command::Rcpt(_) => {}
            Command::Data if reply.is_intermediate() && tx.accepted.is_empty() => {
                // RFC 2920 §3.1: the peer expects content though it accepted nobody; it gets none.
                self.send(b".\r\n");
                self.state = State::DataEnd { void: true };
                return;
            }
            Command::Data if reply.is_intermediate() => {
                self.state = State::Content;
                return;
            }
            Command::Data if reply.is_positive() => return self.out_of_step(&reply),
            Command::Data => {
                self.needs_rset = tx.mail_accepted;
                self.answer_accepted(&Answer::remote(reply));
                return self.finish_commands();
            }
        }
        if self.transaction.replied == self.transaction.asked {
            self.release();
        }
    }

    /// Lets the next group of commands go out, or ends the transaction if the rest of them would be in vain.
    fn release(&mut self) {
        let tx = &mut self.transaction;
        let at_data = tx.replied == tx.commands_before_data();
        if tx.refused.is_some() || (at_data && tx.accepted.is_empty()) {
            self.needs_rset = tx.mail_accepted;
            return self.finish_commands();
        }
        let most = if self.capabilities.pipelining { MAX_GROUP } else { 0 };
        let start = self.released;
        let rest = &self.out[start..];
        let mut end = 0;
        for line_end in memchr::memchr_iter(b'\n', rest) {
            if end > 0 && line_end + 1 > most {
                break;
            }
            end = line_end + 1;
            tx.asked += 1;
        }
        self.released = start + end;
    }

    /// MAIL was refused or no recipient is left.
    fn finish_commands(&mut self) {
        if let Some(refused) = self.transaction.refused.take() {
            for answer in &mut self.transaction.answers {
                answer.get_or_insert_with(|| refused.clone());
            }
        }
        self.finish();
    }

    fn answer_accepted(&mut self, answer: &Answer) {
        for recipient in self.transaction.accepted.drain(..) {
            self.transaction.answers[recipient] = Some(answer.clone());
        }
    }

    fn finish(&mut self) {
        if matches!(self.state, State::DataEnd { .. }) {
            self.needs_rset = false;
        }
        if let Some(refused) = self.transaction.refused.take() {
            for answer in &mut self.transaction.answers {
                answer.get_or_insert_with(|| refused.clone());
            }
        }
        self.written = self.released;
        self.state = State::Done;
    }

    fn refused(&mut self, what: &str, reply: &Reply) {
        self.fail(
            Cause::Refused,
            Reply::new(450, Enhanced(4, 3, 2), format!("{what}: {reply}")),
        );
    }

    fn out_of_step(&mut self, reply: &Reply) {
        let text = format!("the next hop's reply does not fit what was asked: {reply}");
        self.fail(Cause::Protocol, Reply::new(451, Enhanced(4, 5, 0), text));
    }

    fn fail(&mut self, cause: Cause, reply: Reply) {
        self.fail_with(cause, Answer::local(reply));
    }

    /// Ends the session. Recipients that have an answer keep it, the others get this one.
    fn fail_with(&mut self, cause: Cause, answer: Answer) {
        if self.failure.is_some() {
            return;
        }
        self.written = self.released;
        self.failure = Some(Failure {
            cause,
            reply: answer.reply.clone(),
        });
        self.state = match self.state {
            State::Commands | State::Content | State::DataEnd { .. } | State::Done => {
                let refused = self.transaction.refused.take();
                for slot in &mut self.transaction.answers {
                    slot.get_or_insert_with(|| refused.clone().unwrap_or_else(|| answer.clone()));
                }
                State::Done
            }
            _ => State::Closed,
        };
    }

    /// For texts: what was being done.
    fn doing(&self) -> &'static str {
        match self.state {
            State::Greeting => "while waiting for the greeting",
            State::Ehlo | State::Helo => "while waiting for the reply to EHLO",
            State::StartTls | State::Handshake => "during STARTTLS",
            State::AuthPlain | State::AuthLogin(_) => "during AUTH",
            State::Commands => match self.transaction.command(self.transaction.replied) {
                Command::Rset => "while waiting for the reply to RSET",
                Command::Mail => "while waiting for the reply to MAIL",
                Command::Rcpt(_) => "while waiting for the reply to RCPT",
                Command::Data => "while waiting for the reply to DATA",
            },
            State::Content => "while sending the message",
            State::DataEnd { .. } => "after sending the message; it may have arrived",
            State::Ready | State::Done | State::Quitting | State::Closed => "while idle",
        }
    }
}

/// The address as it can be written to the peer, or why not.
fn writable(address: &str, smtputf8: bool) -> Result<Cow<'_, str>, Reply> {
    // What is in the spool was parsed when it came in; this holds for what a policy or an old record may have put
    // there.
    if address.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(Reply::new(553, Enhanced(5, 1, 3), "the address has control characters"));
    }
    let plain = address.strip_suffix('.').unwrap_or(address);
    if plain.is_ascii() || smtputf8 {
        return Ok(Cow::Borrowed(plain));
    }
    Address::parse(plain)
        .ok()
        .and_then(|parsed| parsed.to_ascii().map(|ascii| Cow::Owned(ascii.into_owned())))
        .ok_or_else(needs_smtputf8)
}

fn needs_smtputf8() -> Reply {
    Reply::new(
        553,
        Enhanced(5, 6, 7),
        "SMTPUTF8 is needed, but the next hop does not offer it",
    )
}

/// esmtp-value (RFC 5321 §4.1.2): printable and no space. A value with other bytes is left out rather than sent.
fn is_parameter(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests;
