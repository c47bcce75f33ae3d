//! What a listener's sessions offer, and their bounds. Values only.

use std::fmt;
use std::time::Duration;

/// What a listener's sessions offer and within which bounds. One value, shared by all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Name in the banner and in the EHLO reply.
    pub hostname: String,
    /// The connection is under TLS before the session begins.
    pub implicit_tls: bool,
    /// STARTTLS is offered while there is no TLS.
    pub starttls: bool,
    /// MAIL and what follows it, VRFY and AUTH need TLS first.
    pub tls_required: bool,
    /// MAIL and what follows it, and VRFY, need AUTH first.
    pub auth_required: bool,
    /// AUTH is offered without TLS too, unless `tls_required`.
    pub allow_plaintext_auth: bool,
    /// SASL mechanisms in the order in which they are offered, upper case; none: no AUTH.
    pub mechanisms: Vec<String>,
    /// Extensions that EHLO offers, besides STARTTLS and AUTH.
    pub extensions: Extensions,
    /// Largest message, in bytes after dot-unstuffing.
    pub max_message_size: u64,
    /// Most accepted recipients of a transaction (`LIMITS RCPTMAX`).
    pub max_recipients: u32,
    /// Most transactions of a session, if bounded (`LIMITS MAILMAX`).
    pub max_messages: Option<u32>,
    /// Most `Received` fields in a message's header.
    pub max_received: u32,
    /// Most protocol errors and failed AUTHs of a session. Refusals by a verdict and by a limit, and
    /// parameters that are not offered, are no errors.
    pub max_errors: u32,
    /// Most commands without a message being accepted in between; BDATs that carry bytes and recipients that are taken do not count.
    pub max_commands: u32,
    /// Longest command line, CRLF included, in bytes. The 512 of RFC 5321 §4.5.3.1.4 grow with the
    /// extensions: SIZE 26, BODY 17, SMTPUTF8 10, DSN 500, AUTH 500.
    pub max_command_line: usize,
    /// Longest AUTH command and response line, CRLF included, in bytes (RFC 4954 §4: 12,288).
    pub max_auth_line: usize,
    /// How long a client may be silent.
    pub idle_timeout: Duration,
    /// How long a command line may take from its first byte to its end, not counting what the server
    /// spends on earlier ones.
    pub command_timeout: Duration,
    /// How long a client may be waited for over a message's data before its rate is looked at.
    pub data_grace: Duration,
    /// Slowest message data after that, in bytes a second; zero: no bound.
    pub min_data_rate: u64,
}

impl SessionConfig {
    /// The defaults: every extension, no STARTTLS, no AUTH, 25 MiB, 1,000 recipients.
    pub fn new(hostname: impl Into<String>) -> SessionConfig {
        SessionConfig {
            hostname: hostname.into(),
            implicit_tls: false,
            starttls: false,
            tls_required: false,
            auth_required: false,
            allow_plaintext_auth: false,
            mechanisms: Vec::new(),
            extensions: Extensions::ALL,
            max_message_size: 25 * 1024 * 1024,
            max_recipients: 1000,
            max_messages: None,
            max_received: 100,
            max_errors: 20,
            max_commands: 4000,
            max_command_line: 2048,
            max_auth_line: 12_288,
            idle_timeout: Duration::from_secs(300),
            command_timeout: Duration::from_secs(60),
            data_grace: Duration::from_secs(60),
            min_data_rate: 100,
        }
    }
}

/// A set of the extensions that EHLO offers, besides STARTTLS and AUTH.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Extensions(u16);

impl Extensions {
    /// RFC 2920.
    pub const PIPELINING: Extensions = Extensions(1);
    /// RFC 1870.
    pub const SIZE: Extensions = Extensions(1 << 1);
    /// RFC 6152.
    pub const EIGHT_BIT_MIME: Extensions = Extensions(1 << 2);
    /// RFC 6531; not offered without 8BITMIME (§3.1 of it).
    pub const SMTPUTF8: Extensions = Extensions(1 << 3);
    /// RFC 2034. Only the announcement can be withdrawn.
    pub const ENHANCED_STATUS_CODES: Extensions = Extensions(1 << 4);
    /// RFC 3461.
    pub const DSN: Extensions = Extensions(1 << 5);
    /// RFC 3030, without BINARYMIME.
    pub const CHUNKING: Extensions = Extensions(1 << 6);
    /// RFC 9422.
    pub const LIMITS: Extensions = Extensions(1 << 7);
    /// All of them.
    pub const ALL: Extensions = Extensions((1 << 8) - 1);
    /// None of them.
    pub const NONE: Extensions = Extensions(0);

    /// In the order in which EHLO lists them.
    const KEYWORDS: [(Extensions, &'static str); 8] = [
        (Extensions::PIPELINING, "PIPELINING"),
        (Extensions::SIZE, "SIZE"),
        (Extensions::ENHANCED_STATUS_CODES, "ENHANCEDSTATUSCODES"),
        (Extensions::EIGHT_BIT_MIME, "8BITMIME"),
        (Extensions::SMTPUTF8, "SMTPUTF8"),
        (Extensions::DSN, "DSN"),
        (Extensions::CHUNKING, "CHUNKING"),
        (Extensions::LIMITS, "LIMITS"),
    ];

    /// The extension with this EHLO keyword, in any case. STARTTLS and AUTH are none of these: they
    /// cannot be withdrawn.
    pub fn from_keyword(keyword: &str) -> Option<Extensions> {
        Extensions::KEYWORDS
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(keyword))
            .map(|(extension, _)| *extension)
    }

    /// Whether all of `other` are in the set.
    pub const fn contains(self, other: Extensions) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those in either set.
    pub const fn union(self, other: Extensions) -> Extensions {
        Extensions(self.0 | other.0)
    }

    /// Those that are not in `other`. Taking 8BITMIME away takes SMTPUTF8 with it.
    pub const fn without(self, other: Extensions) -> Extensions {
        let left = self.0 & !other.0;
        if left & Extensions::EIGHT_BIT_MIME.0 == 0 {
            Extensions(left & !Extensions::SMTPUTF8.0)
        } else {
            Extensions(left)
        }
    }

    /// The keywords of those in the set, in the order of EHLO.
    pub fn keywords(self) -> impl Iterator<Item = &'static str> {
        Extensions::KEYWORDS
            .iter()
            .filter(move |(extension, _)| self.contains(*extension))
            .map(|(_, keyword)| *keyword)
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keywords()).finish()
    }
}
