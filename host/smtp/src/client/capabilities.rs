//! What a peer offers, read from its reply to EHLO.
//!
//! Tolerant: what is unknown or malformed is not offered. It never fails.

use crate::reply::Reply;

/// What the peer offers (its last EHLO).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub starttls: bool,
    pub auth_plain: bool,
    pub auth_login: bool,
    /// SIZE was offered.
    pub size: bool,
    /// The largest message that it takes, in bytes, if it named one (RFC 1870).
    pub size_max: Option<u64>,
    /// Recipients in one transaction (RFC 9422).
    pub rcpt_max: Option<usize>,
    /// Transactions in one session (RFC 9422).
    pub mail_max: Option<u32>,
}

impl Capabilities {
    /// Reads an EHLO reply: the first line is the peer's name (RFC 5321 §4.1.1.1).
    pub(super) fn read(reply: &Reply) -> Capabilities {
        let mut offered = Capabilities::default();
        for line in reply.lines().skip(1) {
            // `AUTH=LOGIN`: the form of a draft, from servers of the 1990s on.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => offered.pipelining = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                "SIZE" => {
                    offered.size = true;
                    // RFC 1870 §4: 0 says that there is no fixed limit.
                    offered.size_max = words
                        .next()
                        .and_then(|limit| limit.parse().ok())
                        .filter(|limit| *limit > 0);
                }
                "AUTH" => {
                    for mechanism in words {
                        offered.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                        offered.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                    }
                }
                "LIMITS" => {
                    for limit in line.split(' ').skip(1) {
                        match limit.split_once('=') {
                            Some(("RCPTMAX", n)) => offered.rcpt_max = n.parse().ok().filter(|n| *n > 0),
                            Some(("MAILMAX", n)) => offered.mail_max = n.parse().ok().filter(|n| *n > 0),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        offered
    }
}
