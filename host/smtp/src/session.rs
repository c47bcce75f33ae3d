//! The server side of a session: the state machine. The driver's contract is in the crate's
//! documentation, the values that pass are in `step` and `config`.
//!
//! It keeps the order of commands, answers breaches by itself, and parks at every stage where
//! somebody else decides. It never reads a clock, never accepts anything by itself that a driver is
//! asked about, and never panics on what a client sends: what is wrong gets its reply, and where the
//! next command begins is never guessed (RFC 5321 throughout; the others where they apply).

mod answers;
mod commands;
mod config;
mod content;
mod step;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use commands::Refusal;

use crate::command::{MailFrom, Offered, Recipient, Verb};
use crate::data::DataReader;
use crate::error::Misuse;
use crate::line::{Input, Line, LineLimits};
use crate::reply::Reply;

pub use crate::line::MAX_INPUT;
pub use config::{Extensions, SessionConfig};
pub use step::{Answer, Ask, AuthStep, CloseReason, Replied, Step};

/// Output beyond this many bytes makes the session ask for a flush before it goes on.
pub const MAX_OUTPUT: usize = 64 * 1024;
/// Most bytes of a refused message, or of one refused chunk, that are read on for the sake of its end,
/// in bytes; then the session closes.
pub const MAX_DISCARD: u64 = 256 * 1024 * 1024;

/// One client's session, from the connection to its close.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    state: State,
    input: Input,
    output: Vec<u8>,
    /// Given out by the next poll.
    replied: Option<Replied>,
    /// A transaction was dropped; said after the reply.
    aborted: bool,
    /// Where `data()` is in the input.
    data: Range<usize>,
    end_of_stream: bool,
    /// To be sent at the next safe point.
    shutdown: Option<Reply>,
    waiting: Waiting,
    tls: bool,
    authenticated: bool,
    greeting: Option<Greeting>,
    withdrawn: Extensions,
    transaction: Option<Transaction>,
    /// A BDAT failed: nothing but RSET or EHLO leads on (RFC 3030 §2).
    chunk_failed: bool,
    last_verb: Verb,
    errors: u32,
    commands: u32,
    messages: u32,
}

/// The transaction as the client gave it; what policy made of it is the driver's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub mail: MailFrom,
    /// Those accepted.
    pub recipients: Vec<Recipient>,
}

#[derive(Debug)]
enum State {
    /// The driver has not been asked about the connection yet.
    New,
    /// Waits for an answer.
    Parked(Stage),
    /// Waits for a command line.
    Command,
    /// Waits for the response to a challenge.
    Auth,
    /// Reads the data behind a 354.
    Data(DataReader),
    /// Reads a chunk of this many octets.
    Chunk {
        reader: DataReader,
        octets: u64,
        last: bool,
    },
    /// Throws the rest of a refused chunk away, then replies.
    Skip {
        left: u64,
        then: Replied,
    },
    /// Waits for the handshake; `injected` once clear text came behind STARTTLS.
    Tls {
        injected: bool,
    },
    Closed(CloseReason),
}

/// What an answer is due for.
#[derive(Debug)]
enum Stage {
    Connect,
    Hello(Greeting),
    Auth,
    Mail(Box<MailFrom>),
    Rcpt(Box<Recipient>),
    Data,
    Chunk(Chunk),
    Message,
}

#[derive(Debug, Clone)]
struct Greeting {
    name: String,
    esmtp: bool,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    octets: u64,
    last: bool,
}

#[derive(Debug)]
struct Transaction {
    envelope: Envelope,
    /// Whether some RCPT was refused by a verdict.
    refused: bool,
    /// The data so far, between two chunks.
    chunks: Option<DataReader>,
}

/// For how long the client has kept us waiting, the time that hooks and the spool took left out.
#[derive(Debug, Default)]
struct Waiting {
    /// Since when the driver has been told to wait for input.
    since: Option<Duration>,
    /// Earlier waiting over the same line or data.
    spent: Duration,
    /// Bytes received over the same data.
    bytes: u64,
}

impl Session {
    /// A session at its very beginning: the first poll asks about the connection. `now` is the
    /// driver's monotonic time, as everywhere.
    pub fn new(config: Arc<SessionConfig>, now: Duration) -> Session {
        Session {
            tls: config.implicit_tls,
            config,
            state: State::New,
            input: Input::default(),
            output: Vec::new(),
            replied: None,
            aborted: false,
            data: 0..0,
            end_of_stream: false,
            shutdown: None,
            waiting: Waiting::at(now),
            authenticated: false,
            greeting: None,
            withdrawn: Extensions::NONE,
            transaction: None,
            chunk_failed: false,
            last_verb: Verb::Connect,
            errors: 0,
            commands: 0,
            messages: 0,
        }
    }

    /// Goes on as far as it can, up to the next thing that concerns the driver.
    pub fn poll(&mut self, now: Duration) -> Step {
        self.data = 0..0;
        loop {
            if let Some(replied) = self.replied.take() {
                return Step::Replied(replied);
            }
            if std::mem::take(&mut self.aborted) {
                return Step::Aborted;
            }
            if let State::Closed(reason) = self.state {
                return Step::Close(reason);
            }
            if self.output.len() > MAX_OUTPUT {
                return Step::Flush;
            }
            // `None` means that something was done: there is a reply, a new state, or less input.
            if let Some(step) = self.advance(now) {
                return step;
            }
        }
    }

    /// Answers the parked `Ask`. An answer that does not fit leaves it parked.
    pub fn answer(&mut self, answer: Answer) -> Result<(), Misuse> {
        let State::Parked(stage) = &self.state else {
            return Err(Misuse::NotParked);
        };
        stage.check(&answer)?;
        let State::Parked(stage) = std::mem::replace(&mut self.state, State::Command) else {
            return Err(Misuse::NotParked);
        };
        self.settle(stage, answer);
        Ok(())
    }

    /// How many bytes `receive` takes now.
    pub fn input_space(&self) -> usize {
        match self.state {
            State::Closed(_) | State::Tls { .. } => 0,
            _ => self.input.space(),
        }
    }

    /// Whether the socket is to be read now.
    pub fn wants_input(&self) -> bool {
        !self.end_of_stream && self.input_space() > 0
    }

    /// Takes bytes from the client. In clear text behind STARTTLS they are dropped and the session will
    /// close; behind the close they are dropped.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), Misuse> {
        match &mut self.state {
            State::Closed(_) => return Ok(()),
            State::Tls { injected } => {
                *injected |= !bytes.is_empty();
                return Ok(());
            }
            _ => {}
        }
        if bytes.len() > self.input.space() {
            return Err(Misuse::InputOverrun);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.data = 0..0;
        // A line's time begins with its first byte.
        let new_line = matches!(self.state, State::Command | State::Auth) && !self.input.is_midway();
        self.waiting.received(bytes.len(), now, new_line);
        self.input.push(bytes);
        Ok(())
    }

    /// Tells that the client sends nothing more. What it sent before still counts.
    pub fn received_eof(&mut self) {
        self.end_of_stream = true;
    }

    /// Bytes to send. The driver writes and clears them.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// After `Step::Data`: the message's next bytes. Empty from the next `poll` or `receive` on.
    pub fn data(&self) -> &[u8] {
        self.input.slice(self.data.clone())
    }

    /// When to poll again although nothing came; `Duration::MAX` while the client is not waited for.
    pub fn deadline(&self) -> Duration {
        let Some(since) = self.waiting.since else {
            return Duration::MAX;
        };
        let config = &self.config;
        let bounded = match self.state {
            State::Command | State::Auth => self.input.is_midway().then_some(config.command_timeout),
            State::Data(_) | State::Chunk { .. } | State::Skip { .. } => {
                let paid_ms = self.waiting.bytes.saturating_mul(1000);
                paid_ms
                    .checked_div(config.min_data_rate)
                    .map(|paid_ms| config.data_grace.saturating_add(Duration::from_millis(paid_ms)))
            }
            _ => None,
        };
        let left = bounded.map(|bound| bound.saturating_sub(self.waiting.spent));
        let wait = left.map_or(config.idle_timeout, |left| left.min(config.idle_timeout));
        since.saturating_add(wait)
    }

    /// Tells that the handshake is made. Everything known from before is dropped (RFC 3207 §4.2).
    pub fn start_tls_done(&mut self, now: Duration) -> Result<(), Misuse> {
        let State::Tls { injected } = self.state else {
            return Err(Misuse::NoHandshake);
        };
        self.input.clear();
        self.waiting = Waiting::at(now);
        self.abort();
        self.greeting = None;
        self.withdrawn = Extensions::NONE;
        self.authenticated = false;
        self.chunk_failed = false;
        if injected {
            self.close(CloseReason::OutOfTurn);
        } else {
            self.tls = true;
            self.state = State::Command;
        }
        Ok(())
    }

    /// Closes with `reply` (a 421, such as `Reply::shutting_down`) as soon as no transaction is open.
    pub fn shutdown(&mut self, reply: Reply) {
        self.shutdown = Some(reply);
    }

    /// The name given with EHLO (`true`) or HELO (`false`), once accepted.
    pub fn greeting(&self) -> Option<(&str, bool)> {
        let greeting = self.greeting.as_ref()?;
        Some((&greeting.name, greeting.esmtp))
    }

    /// The open transaction.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.transaction.as_ref().map(|t| &t.envelope)
    }

    /// Whether the connection is under TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether an AUTH succeeded.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Whether the next safe point to shut down is now: no transaction, nothing parked, no exchange.
    pub fn is_between_transactions(&self) -> bool {
        matches!(self.state, State::Command) && self.transaction.is_none()
    }

    fn advance(&mut self, now: Duration) -> Option<Step> {
        match self.state {
            State::New => self.park(Stage::Connect, Ask::Connect),
            State::Parked(_) => Some(Step::Parked),
            State::Command => self.advance_command(now),
            State::Auth => self.advance_auth(now),
            State::Data(_) | State::Chunk { .. } => self.advance_data(now),
            State::Skip { .. } => self.advance_skip(now),
            State::Tls { injected: false } => Some(Step::StartTls),
            State::Tls { injected: true } => {
                self.close(CloseReason::OutOfTurn);
                None
            }
            State::Closed(reason) => Some(Step::Close(reason)),
        }
    }

    /// Nothing more can be done with the input there is.
    fn need_input(&mut self, now: Duration) -> Option<Step> {
        if self.end_of_stream {
            self.close(CloseReason::PeerLeft);
            return None;
        }
        if matches!(self.state, State::Command) {
            self.input.shrink();
        }
        self.waiting.since.get_or_insert(now);
        if now < self.deadline() {
            return Some(Step::NeedInput);
        }
        self.hang_up(Verb::Connect, Reply::timed_out(), CloseReason::TimedOut);
        None
    }

    fn advance_command(&mut self, now: Duration) -> Option<Step> {
        if self.errors >= self.config.max_errors {
            let reply = Reply::too_many_errors();
            self.hang_up(self.last_verb, reply, CloseReason::TooManyErrors);
            return None;
        }
        if self.transaction.is_none()
            && let Some(reply) = self.shutdown.take()
        {
            self.hang_up(Verb::Connect, reply, CloseReason::Shutdown);
            return None;
        }
        let limits = LineLimits {
            ordinary: self.config.max_command_line,
            auth: self.config.max_auth_line,
        };
        let Some(line) = self.input.next_line(limits) else {
            return self.need_input(now);
        };
        self.waiting.restart();
        if self.commands >= self.config.max_commands {
            let reply = Reply::too_many_commands();
            self.hang_up(self.last_verb, reply, CloseReason::TooManyCommands);
            return None;
        }
        self.commands += 1;
        match line {
            Line::TooLong => {
                self.refuse(Verb::Unknown, Reply::line_too_long(), None);
                None
            }
            Line::Malformed(range) => self.take_line(range, true),
            Line::Text(range) => self.take_line(range, false),
        }
    }

    fn advance_auth(&mut self, now: Duration) -> Option<Step> {
        let limits = LineLimits {
            ordinary: self.config.max_auth_line,
            auth: self.config.max_auth_line,
        };
        let Some(line) = self.input.next_line(limits) else {
            return self.need_input(now);
        };
        self.waiting.restart();
        self.state = State::Command;
        if !self.input.is_empty() {
            self.hang_up(Verb::Auth, Reply::out_of_turn(), CloseReason::OutOfTurn);
            return None;
        }
        let response = match line {
            Line::Text(range) => match self.input.slice(range) {
                b"*" => Err(Reply::auth_cancelled()),
                text => BASE64.decode(text).map_err(|_| Reply::auth_bad_base64()),
            },
            Line::TooLong => Err(Reply::auth_line_too_long()),
            Line::Malformed(_) => Err(Reply::auth_bad_base64()),
        };
        match response {
            Ok(response) => self.park(Stage::Auth, Ask::Auth(AuthStep::Response(response))),
            Err(reply) => {
                self.refuse(Verb::Auth, reply, None);
                None
            }
        }
    }

    fn park(&mut self, stage: Stage, ask: Ask) -> Option<Step> {
        self.waiting.since = None;
        self.state = State::Parked(stage);
        Some(Step::Ask(ask))
    }

    fn auth_offered(&self) -> bool {
        let config = &self.config;
        let protected = self.tls || (config.allow_plaintext_auth && !config.tls_required);
        protected && !config.mechanisms.is_empty()
    }

    fn offered(&self) -> Offered {
        Offered {
            esmtp: self.greeting.as_ref().is_some_and(|g| g.esmtp),
            extensions: self.config.extensions.without(self.withdrawn),
            auth: !self.config.mechanisms.is_empty(),
        }
    }

    /// Drops the transaction, if there is one.
    fn abort(&mut self) {
        self.aborted |= self.transaction.take().is_some();
    }

    /// Replies without having been told to.
    fn reply(&mut self, verb: Verb, reply: Reply) {
        self.say(verb, reply, true, None);
    }

    /// Refuses a command without having been told to.
    fn refuse(&mut self, verb: Verb, refusal: impl Into<Refusal>, line: Option<String>) {
        let Refusal { reply, closes } = refusal.into();
        // Limits, and parameters that are not offered, are no errors of the client's.
        if !matches!(reply.code(), 452 | 552..=555) {
            self.errors += 1;
        }
        self.say(verb, reply, true, line);
        if let Some(reason) = closes {
            self.close(reason);
        }
    }

    /// Replies without having been told to, and closes.
    fn hang_up(&mut self, verb: Verb, reply: Reply, reason: CloseReason) {
        self.say(verb, reply, true, None);
        self.close(reason);
    }

    /// Replies with a verdict, and closes.
    fn dismiss(&mut self, verb: Verb, reply: Reply) {
        self.say(verb, reply, false, None);
        if verb == Verb::Message {
            self.transaction = None;
        }
        self.close(CloseReason::Policy);
    }

    fn say(&mut self, verb: Verb, reply: Reply, own: bool, line: Option<String>) {
        reply.write_to(&mut self.output);
        self.replied = Some(Replied { verb, reply, own, line });
    }

    fn close(&mut self, reason: CloseReason) {
        self.abort();
        self.input.clear();
        self.waiting.since = None;
        self.state = State::Closed(reason);
    }
}

impl Waiting {
    fn at(now: Duration) -> Waiting {
        Waiting {
            since: Some(now),
            ..Waiting::default()
        }
    }

    fn received(&mut self, bytes: usize, now: Duration, new_line: bool) {
        if let Some(since) = self.since.take() {
            self.spent = self.spent.saturating_add(now.saturating_sub(since));
        }
        if new_line {
            self.spent = Duration::ZERO;
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Another line or other data is waited for from here on.
    fn restart(&mut self) {
        self.spent = Duration::ZERO;
        self.bytes = 0;
    }
}
