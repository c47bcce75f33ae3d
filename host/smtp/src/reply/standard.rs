//! The server's standard replies, each named once. The codes are a contract, the text is ours.

use super::{Enhanced, Reply};
use crate::error::AddressError;

impl Reply {
    /// `220`, before anything else (RFC 5321 §4.3.1). Carries no enhanced code (RFC 2034 §3).
    pub fn banner(hostname: &str) -> Reply {
        Reply::new(220, None, format!("{hostname} ESMTP"))
    }

    /// `250` to HELO.
    pub fn helo(hostname: &str) -> Reply {
        Reply::new(250, None, hostname.to_owned())
    }

    /// `221 2.0.0` to QUIT.
    pub fn bye() -> Reply {
        Reply::new(221, Enhanced(2, 0, 0), "Bye")
    }

    /// `250 2.0.0` to RSET and NOOP.
    pub fn ok() -> Reply {
        Reply::new(250, Enhanced(2, 0, 0), "Ok")
    }

    /// `214 2.0.0` to HELP.
    pub fn help() -> Reply {
        Reply::new(
            214,
            Enhanced(2, 0, 0),
            "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH",
        )
    }

    /// `252 2.5.2` to VRFY: addresses are not confirmed (RFC 5321 §7.3).
    pub fn cannot_verify() -> Reply {
        Reply::new(
            252,
            Enhanced(2, 5, 2),
            "Cannot VRFY user, but will accept message and attempt delivery",
        )
    }

    /// `250 2.1.0` to MAIL.
    pub fn mail_ok() -> Reply {
        Reply::new(250, Enhanced(2, 1, 0), "Ok")
    }

    /// `250 2.1.5` to RCPT.
    pub fn rcpt_ok() -> Reply {
        Reply::new(250, Enhanced(2, 1, 5), "Ok")
    }

    /// `354` to DATA.
    pub fn start_data() -> Reply {
        Reply::new(354, None, "End data with <CR><LF>.<CR><LF>")
    }

    /// `250 2.0.0` to a BDAT that is not the last.
    pub fn chunk_ok(octets: u64) -> Reply {
        Reply::new(250, Enhanced(2, 0, 0), format!("{octets} octets received"))
    }

    /// `250 2.0.0 Ok: queued as ID`, for a message that is durable.
    pub fn queued(id: &str) -> Reply {
        Reply::new(250, Enhanced(2, 0, 0), format!("Ok: queued as {id}"))
    }

    /// `220 2.0.0` to STARTTLS.
    pub fn ready_for_tls() -> Reply {
        Reply::new(220, Enhanced(2, 0, 0), "Ready to start TLS")
    }

    /// `334`, with a challenge that is already in base64 (RFC 4954 §4).
    pub fn challenge(base64: String) -> Reply {
        Reply::new(334, None, base64)
    }

    /// `235 2.7.0`: authenticated.
    pub fn authenticated() -> Reply {
        Reply::new(235, Enhanced(2, 7, 0), "Authentication successful")
    }

    /// `550 5.7.1 <rcpt>: Relay access denied (REASON) [ID]`.
    pub fn relay_denied(recipient: &str, reason: &str, id: &str) -> Reply {
        Reply::new(
            550,
            Enhanced(5, 7, 1),
            format!("<{recipient}>: Relay access denied ({reason}) [{id}]"),
        )
    }

    /// `530 5.7.0`: the command needs AUTH first.
    pub fn auth_required() -> Reply {
        Reply::new(530, Enhanced(5, 7, 0), "Authentication required")
    }

    /// `530 5.7.0`: the command needs TLS first (RFC 3207 §4).
    pub fn tls_required() -> Reply {
        Reply::new(530, Enhanced(5, 7, 0), "Must issue a STARTTLS command first")
    }

    /// `538 5.7.11`: AUTH before TLS.
    pub fn auth_needs_tls() -> Reply {
        Reply::new(
            538,
            Enhanced(5, 7, 11),
            "Encryption required for requested authentication mechanism",
        )
    }

    /// `535 5.7.8`: bad credentials.
    pub fn auth_failed() -> Reply {
        Reply::new(535, Enhanced(5, 7, 8), "Authentication credentials invalid")
    }

    /// `454 4.7.0`: credentials cannot be checked now.
    pub fn auth_unavailable() -> Reply {
        Reply::new(454, Enhanced(4, 7, 0), "Temporary authentication failure")
    }

    /// `504 5.5.4`: the mechanism is unknown or not offered.
    pub fn auth_mechanism_unknown() -> Reply {
        Reply::new(504, Enhanced(5, 5, 4), "Unrecognized authentication mechanism")
    }

    /// `501 5.5.2`: no base64.
    pub fn auth_bad_base64() -> Reply {
        Reply::new(501, Enhanced(5, 5, 2), "Invalid base64 data")
    }

    /// `501 5.7.0`: the client sent `*`.
    pub fn auth_cancelled() -> Reply {
        Reply::new(501, Enhanced(5, 7, 0), "Authentication cancelled")
    }

    /// `500 5.5.6`: a line of the exchange is over RFC 4954 §4's limit.
    pub fn auth_line_too_long() -> Reply {
        Reply::new(500, Enhanced(5, 5, 6), "Authentication exchange line is too long")
    }

    /// `503 5.5.1`: the command is known but not now; `why` is a full sentence without a stop.
    pub fn bad_sequence(why: &'static str) -> Reply {
        Reply::new(503, Enhanced(5, 5, 1), why)
    }

    /// `554 5.5.1`: DATA or BDAT after every RCPT was refused.
    pub fn no_valid_recipients() -> Reply {
        Reply::new(554, Enhanced(5, 5, 1), "No valid recipients")
    }

    /// `500 5.5.2`: no such command.
    pub fn unknown_command() -> Reply {
        Reply::new(500, Enhanced(5, 5, 2), "Command not recognized")
    }

    /// `502 5.5.1`: known, and not offered here.
    pub fn not_implemented() -> Reply {
        Reply::new(502, Enhanced(5, 5, 1), "Command not implemented")
    }

    /// `500 5.5.2`: a command line over the limit.
    pub fn line_too_long() -> Reply {
        Reply::new(500, Enhanced(5, 5, 2), "Line too long")
    }

    /// `500 5.5.2`: a command line that CRLF does not end, or with CR, LF or NUL in it.
    pub fn bad_line() -> Reply {
        Reply::new(
            500,
            Enhanced(5, 5, 2),
            "Lines must end with CRLF and hold no CR, LF or NUL",
        )
    }

    /// `501 5.5.4`: bad arguments; `why` names the right syntax.
    pub fn bad_arguments(why: &'static str) -> Reply {
        Reply::new(501, Enhanced(5, 5, 4), why)
    }

    /// `555 5.5.4`: a MAIL or RCPT parameter that is not offered (RFC 5321 §4.1.1.11).
    pub fn unknown_parameter() -> Reply {
        Reply::new(555, Enhanced(5, 5, 4), "Parameter not recognized or not implemented")
    }

    /// `501 5.1.7`: the reverse-path's syntax.
    pub fn bad_sender(why: AddressError) -> Reply {
        Reply::new(501, Enhanced(5, 1, 7), format!("Bad sender: {why}"))
    }

    /// `501 5.1.3`: the forward-path's syntax.
    pub fn bad_recipient(why: AddressError) -> Reply {
        Reply::new(501, Enhanced(5, 1, 3), format!("Bad recipient: {why}"))
    }

    /// `553 5.6.7`: a non-ASCII address without SMTPUTF8 (RFC 6531 §3.5).
    pub fn needs_smtputf8() -> Reply {
        Reply::new(
            553,
            Enhanced(5, 6, 7),
            "Non-ASCII addresses need the SMTPUTF8 parameter",
        )
    }

    /// `552 5.3.4`: over the size limit.
    pub fn too_big() -> Reply {
        Reply::new(552, Enhanced(5, 3, 4), "Message size exceeds limit")
    }

    /// `452 4.5.3`: over the recipient limit.
    pub fn too_many_recipients() -> Reply {
        Reply::new(452, Enhanced(4, 5, 3), "Too many recipients")
    }

    /// `421 4.5.3`: over MAILMAX (RFC 9422 §4.1).
    pub fn too_many_messages() -> Reply {
        Reply::new(
            421,
            Enhanced(4, 5, 3),
            "Too many messages in this session, closing connection",
        )
    }

    /// `550 5.6.11`: bare CR, bare LF or NUL in message data.
    pub fn bad_line_ends() -> Reply {
        Reply::new(
            550,
            Enhanced(5, 6, 11),
            "Message contains a bare CR, a bare LF or a NUL",
        )
    }

    /// `554 5.4.6`: too many Received fields (RFC 5321 §6.3).
    pub fn mail_loop() -> Reply {
        Reply::new(554, Enhanced(5, 4, 6), "Too many hops, this looks like a mail loop")
    }

    /// `452 4.3.1`: the spool is full or failing.
    pub fn spool_full() -> Reply {
        Reply::new(452, Enhanced(4, 3, 1), "Insufficient system storage")
    }

    /// `451 4.3.0`: the policy failed; the detail belongs in the log.
    pub fn policy_failed() -> Reply {
        Reply::new(451, Enhanced(4, 3, 0), "Temporary server error, try again later")
    }

    /// `554 5.5.0`: talked before the banner, or past a synchronisation point.
    pub fn out_of_turn() -> Reply {
        Reply::new(554, Enhanced(5, 5, 0), "Client spoke out of turn, closing connection")
    }

    /// `421 4.7.0`: an HTTP request, most likely sent by a browser that was made to.
    pub fn http() -> Reply {
        Reply::new(421, Enhanced(4, 7, 0), "This is not HTTP, closing connection")
    }

    /// `421 4.7.0`: over the error limit.
    pub fn too_many_errors() -> Reply {
        Reply::new(421, Enhanced(4, 7, 0), "Too many errors, closing connection")
    }

    /// `421 4.7.0`: over the command limit.
    pub fn too_many_commands() -> Reply {
        Reply::new(421, Enhanced(4, 7, 0), "Too many commands, closing connection")
    }

    /// `421 4.4.2`: nothing came in time, or not fast enough.
    pub fn timed_out() -> Reply {
        Reply::new(421, Enhanced(4, 4, 2), "Timeout exceeded, closing connection")
    }

    /// `421 4.3.2`: the server is shutting down.
    pub fn shutting_down() -> Reply {
        Reply::new(421, Enhanced(4, 3, 2), "Service shutting down, closing connection")
    }

    /// `421 4.7.0`: too many connections (in all, or from one address).
    pub fn too_many_connections() -> Reply {
        Reply::new(421, Enhanced(4, 7, 0), "Too many connections, closing connection")
    }
}
