//! The SMTP protocol, sans-IO: a server session and a delivery client as state machines.
//!
//! Nothing here opens a socket, reads a clock or waits. Bytes and the time go in, bytes and steps come
//! out, so a dialog is a test and a fuzzer runs at full speed.
//!
//! # The driver's contract (server side)
//!
//! A driver owns the socket, the clock (any monotonic one; times are [`Duration`](std::time::Duration)s
//! since a moment of its choice) and the policy. It makes a [`Session`](session::Session) and then repeats:
//!
//! 1. [`poll(now)`](session::Session::poll) until it returns a [`Step`](session::Step) that needs something:
//!    - `NeedInput`: write and clear [`output()`](session::Session::output), then wait for whichever is first:
//!      bytes (at most [`input_space()`](session::Session::input_space) of them →
//!      [`receive`](session::Session::receive)), the end of the stream
//!      (→ [`received_eof`](session::Session::received_eof)), or
//!      [`deadline()`](session::Session::deadline). Poll again.
//!    - `Ask(ask)`: the session is parked. Write the output if the answer may take a while, and give a
//!      verdict by [`answer`](session::Session::answer). Meanwhile the socket may be read as long as
//!      `wants_input()` says so; a client that leaves is noticed that way. Polling while parked returns `Parked`.
//!    - `Data`: take [`data()`](session::Session::data), the next bytes of the message, dot-unstuffed and
//!      with their CRLFs. They are gone at the next poll.
//!    - `Replied(replied)`: a reply went into the output; for the log. Every reply of the session
//!      comes by here, exactly once, the core's own refusals too.
//!    - `Aborted`: the transaction that the last accepted `Ask::Mail` opened is over without a message:
//!      drop what was kept for it.
//!    - `Flush`: the output is over its bound: write and clear it before polling again.
//!    - `StartTls`: write the output, read nothing more in clear text, make the handshake, call
//!      [`start_tls_done`](session::Session::start_tls_done). If the handshake fails, drop the session.
//!    - `Close(reason)`: write the output and close. Every later poll returns the same.
//! 2. After `Ask::Message` is accepted, the 250 promises that the message is durable: answer after the sync.
//!
//! Calls that break the contract return [`Misuse`](error::Misuse) and change nothing. No input makes the
//! session panic, and its memory is bounded by [`session::MAX_INPUT`], [`session::MAX_OUTPUT`] and
//! the configured number of recipients.
//!
//! # What the session settles by itself
//!
//! Order of commands, syntax, parameters, limits, time, the exact end of data, what may be pipelined,
//! and every reply to a breach of those. What it never does: decide about a sender, a recipient, a
//! password or a message. That is what the `Ask`s are for.

pub mod address;
pub mod client;
pub mod command;
mod data;
pub mod error;
mod line;
pub mod reply;
pub mod session;
