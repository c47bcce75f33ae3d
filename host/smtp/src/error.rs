//! Errors by culprit: the peer's bytes ([`AddressError`], [`ReplyError`]), or the driver's use of
//! this crate ([`Misuse`]). What a client does wrong in a session is not an error value: the
//! session answers it with a reply and says so with `Step::Replied`.

use thiserror::Error;

/// Why some text is no mailbox of RFC 5321 §4.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No `<`, or no `>` that closes it.
    #[error("address is not in angle brackets")]
    Brackets,
    /// Nothing in front of the `@`, or an empty path where a mailbox is needed.
    #[error("local part is missing")]
    NoLocal,
    /// Neither a dot-string nor a quoted string.
    #[error("local part has bad syntax")]
    Local,
    /// No domain, and the local part is not `postmaster`.
    #[error("domain is missing")]
    NoDomain,
    /// Not a domain name; also one that IDNA cannot map.
    #[error("domain has bad syntax")]
    Domain,
    /// `[...]` that is no IPv4, IPv6 or tagged literal.
    #[error("address literal has bad syntax")]
    Literal,
    /// The obsolete `@a,@b:` in front of a mailbox is malformed.
    #[error("source route has bad syntax")]
    SourceRoute,
    /// Longer than RFC 5321 §4.5.3.1 lets a path or a domain be.
    #[error("address is too long")]
    TooLong,
    /// Bytes that are no UTF-8.
    #[error("address is not UTF-8")]
    NotUtf8,
}

/// Why bytes, or the parts a policy gave, are no SMTP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// A line that does not begin with three digits in 200..=599 and a space, a hyphen or nothing.
    #[error("reply line has bad syntax")]
    Syntax,
    /// The lines of one reply carry different codes (RFC 5321 §4.2.1).
    #[error("reply lines disagree on the code")]
    CodeChanged,
    /// A line longer than [`crate::reply::MAX_RECEIVED_LINE`].
    #[error("reply line is too long")]
    LineTooLong,
    /// More than [`crate::reply::MAX_RECEIVED_LINES`] lines.
    #[error("reply has too many lines")]
    TooManyLines,
    /// A code that cannot be what was asked for (say, a 2xx for a refusal).
    #[error("reply code is out of range")]
    Code,
    /// The enhanced code's class is not the code's first digit (RFC 2034 §4).
    #[error("enhanced status code does not match the reply code")]
    Enhanced,
}

/// The driver called the session in a way that its contract does not allow. The session's state is
/// unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Misuse {
    /// `answer` while no `Ask` is parked.
    #[error("no question is parked")]
    NotParked,
    /// An answer that this question does not take, such as a challenge for RCPT.
    #[error("the answer does not fit the question")]
    WrongAnswer,
    /// A refusal whose code is not 4xx or 5xx, or an acceptance whose code is not 2xx.
    #[error("the reply's code does not fit the answer")]
    WrongCode,
    /// `receive` with more bytes than `input_space` allowed.
    #[error("more input than the session has space for")]
    InputOverrun,
    /// `start_tls_done` although the session did not ask for a handshake.
    #[error("no TLS handshake was asked for")]
    NoHandshake,
}
