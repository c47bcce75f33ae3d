//! What passes between a session and its driver. Values only; the contract is in the crate's
//! documentation.

use std::fmt;

use super::config::Extensions;
use crate::command::{MailFrom, Recipient, Verb};
use crate::reply::Reply;

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the output; then wait for bytes, the end of the stream, or the deadline.
    NeedInput,
    /// Give a verdict by `answer`.
    Ask(Ask),
    /// Still waiting for the answer to the last `Ask`.
    Parked,
    /// Take `data()`, the message's next bytes.
    Data,
    /// A reply went into the output.
    Replied(Replied),
    /// The transaction is over without a message.
    Aborted,
    /// Write the output before polling again.
    Flush,
    /// Write the output, make the TLS handshake, call `start_tls_done`.
    StartTls,
    /// Write the output and close.
    Close(CloseReason),
}

/// A stage at which the session is parked until the driver answers. Each takes `Disconnect` too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Before the banner. Takes `Accept` and `Refuse`, which closes.
    Connect,
    /// EHLO, or HELO if not `esmtp`. Takes `Accept`, `Withdraw`, `Refuse`.
    Ehlo { name: String, esmtp: bool },
    /// A step of AUTH. Takes `Challenge`, `Success`, `Failure`.
    Auth(AuthStep),
    /// MAIL. Takes `Accept`, `AcceptWith`, `Refuse`.
    Mail(MailFrom),
    /// RCPT. Takes `Accept`, `AcceptWith`, `Refuse`.
    Rcpt(Recipient),
    /// Before the 354, or before the first BDAT's data. Takes `Accept`, `Refuse`. A refused DATA leaves the
    /// transaction open, and asks again if the client tries again; a refused BDAT aborts it.
    Data,
    /// The message has come whole, `size` bytes of it. Accepting means that it is durable. Takes
    /// `Accept`, `AcceptWith`, `Refuse`; the transaction is over with the answer.
    Message { size: u64 },
}

/// What the client sent in an AUTH exchange, out of base64. Secret: not for logs.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthStep {
    /// A new exchange; what was left of an earlier one is void.
    Begin {
        /// One of the configured mechanisms, upper case.
        mechanism: String,
        /// The initial response; `Some` of nothing for `=` (RFC 4954 §4).
        initial: Option<Vec<u8>>,
    },
    /// The response to the last challenge.
    Response(Vec<u8>),
}

/// Without the secret.
impl fmt::Debug for AuthStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthStep::Begin { mechanism, initial } => f
                .debug_struct("Begin")
                .field("mechanism", mechanism)
                .field("initial", &initial.as_ref().map(|_| "..."))
                .finish(),
            AuthStep::Response(_) => f.write_str("Response(...)"),
        }
    }
}

/// A verdict of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go on with the stage's standard reply.
    Accept,
    /// Go on with this 2xx reply, such as `Reply::queued`.
    AcceptWith(Reply),
    /// EHLO is accepted, and these extensions are not offered.
    Withdraw(Extensions),
    /// A 4xx or 5xx reply. A 421 closes as well (RFC 5321 §3.8).
    Refuse(Reply),
    /// A 4xx or 5xx reply, and close.
    Disconnect(Reply),
    /// AUTH goes on with this challenge, not yet in base64.
    Challenge(Vec<u8>),
    /// AUTH succeeded: 235.
    Success,
    /// AUTH failed, with a 4xx or 5xx reply such as `Reply::auth_failed`. A 5xx counts as an error.
    Failure(Reply),
}

/// A reply that went into the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replied {
    /// What it answers.
    pub verb: Verb,
    pub reply: Reply,
    /// The core gave it by itself; no answer of the driver asked for it.
    pub own: bool,
    /// For the core's own refusals of a command: its line, printable, cut, without what AUTH carried.
    pub line: Option<String>,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// QUIT.
    Quit,
    /// The stream ended.
    PeerLeft,
    /// A verdict closed it (`Disconnect`, a refusal at connect, a 421).
    Policy,
    /// `shutdown` was called.
    Shutdown,
    /// Silent, or too slow.
    TimedOut,
    /// Talked before the banner or past a synchronisation point.
    OutOfTurn,
    /// Spoke HTTP.
    Http,
    TooManyErrors,
    TooManyCommands,
    TooManyMessages,
    /// A BDAT whose size cannot be read: where the next command begins is unknown.
    BadChunk,
    /// Went on sending a refused message beyond `MAX_DISCARD`.
    TooMuchData,
}

impl CloseReason {
    /// In lower case with hyphens, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Quit => "quit",
            CloseReason::PeerLeft => "peer-left",
            CloseReason::Policy => "policy",
            CloseReason::Shutdown => "shutdown",
            CloseReason::TimedOut => "timed-out",
            CloseReason::OutOfTurn => "out-of-turn",
            CloseReason::Http => "http",
            CloseReason::TooManyErrors => "too-many-errors",
            CloseReason::TooManyCommands => "too-many-commands",
            CloseReason::TooManyMessages => "too-many-messages",
            CloseReason::BadChunk => "bad-chunk",
            CloseReason::TooMuchData => "too-much-data",
        }
    }
}
