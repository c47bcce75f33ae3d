//! The trace field that the relay puts on top of every message it takes (RFC 5321 §4.4).
//!
//! It says where the message came from and by which protocol, never who authenticated: the user's name is nobody's
//! business further on. What came from outside (the EHLO name, the reverse name, the recipient) is written without
//! anything that could end the field or begin a comment. Never fails.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::message::{Id, SessionFacts, since_epoch};

/// The longest name from outside that is written, in bytes: the rest is cut, so that a line keeps within
/// RFC 5322 §2.1.1. A domain has at most 255 (RFC 5321 §4.5.3.1.2).
const NAME_BYTES_MAX: usize = 255;

/// The longest recipient that is written (RFC 5321 §4.5.3.1.3 has 256), in bytes.
const RECIPIENT_BYTES_MAX: usize = 320;

/// What the field says.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub session: &'a SessionFacts,
    /// The relay's own name.
    pub hostname: &'a str,
    /// The message's.
    pub id: Id,
    /// The transaction has SMTPUTF8.
    pub smtputf8: bool,
    /// The recipient, if it is the only one: others must not learn of each other (RFC 5321 §7.6).
    pub recipient: Option<&'a str>,
    pub at: SystemTime,
}

/// The field, folded, with its line end.
pub fn received(trace: &Received<'_>) -> String {
    let session = trace.session;
    let mut field = String::with_capacity(320);
    field.push_str("Received: from ");
    clean(&mut field, session.ehlo.as_deref().unwrap_or("unknown"), NAME_BYTES_MAX);
    field.push_str(" (");
    if let Some(Some(name)) = &session.reverse_name {
        clean(&mut field, name, NAME_BYTES_MAX);
        field.push(' ');
    }
    // Writing to a String cannot fail, here and below.
    let _ = match session.peer.ip().to_canonical() {
        IpAddr::V4(address) => write!(field, "[{address}]"),
        IpAddr::V6(address) => write!(field, "[IPv6:{address}]"),
    };
    field.push_str(")\r\n\tby ");
    clean(&mut field, trace.hostname, NAME_BYTES_MAX);
    let _ = write!(
        field,
        " (Gatepost) with {} id {}",
        protocol(session, trace.smtputf8),
        trace.id
    );
    if let Some(recipient) = trace.recipient {
        field.push_str("\r\n\tfor <");
        clean_path(&mut field, recipient);
        field.push('>');
    }
    field.push_str(";\r\n\t");
    write_date(&mut field, trace.at);
    field.push_str("\r\n");
    field
}

/// A date and time as RFC 5322 §3.3 writes them, in UTC: `Tue, 24 Nov 2026 04:32:42 +0000`.
pub fn date(at: SystemTime) -> String {
    let mut text = String::with_capacity(31);
    write_date(&mut text, at);
    text
}

/// The `with` keyword: RFC 5321 §4.4, RFC 3848, and RFC 6531 §4.3 for SMTPUTF8.
fn protocol(session: &SessionFacts, smtputf8: bool) -> &'static str {
    if !session.esmtp {
        return "SMTP";
    }
    match (smtputf8, session.tls.is_some(), session.identity.is_some()) {
        (false, false, false) => "ESMTP",
        (false, false, true) => "ESMTPA",
        (false, true, false) => "ESMTPS",
        (false, true, true) => "ESMTPSA",
        (true, false, false) => "UTF8SMTP",
        (true, false, true) => "UTF8SMTPA",
        (true, true, false) => "UTF8SMTPS",
        (true, true, true) => "UTF8SMTPSA",
    }
}

/// Writes a name of a host or an address literal; what cannot stand in one, and 8-bit characters, become `?`.
fn clean(into: &mut String, name: &str, bytes_max: usize) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    into.extend(
        name.bytes()
            .take(bytes_max)
            .map(|byte| if fits(byte) { byte as char } else { '?' }),
    );
}

/// Writes a forward-path: anything but what would end it or the line. UTF-8 stays as it is (RFC 6531 §3.7.3).
fn clean_path(into: &mut String, path: &str) {
    let fits = |char: &char| !char.is_control() && !matches!(char, '<' | '>');
    let mut room = RECIPIENT_BYTES_MAX;
    for char in path.chars().map(|char| if fits(&char) { char } else { '?' }) {
        let Some(left) = room.checked_sub(char.len_utf8()) else {
            break;
        };
        room = left;
        into.push(char);
    }
}

fn write_date(into: &mut String, at: SystemTime) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = since_epoch(at).as_secs();
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let _ = write!(
        into,
        "{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000"
    );
}

/// Year, month (1 to 12) and day of the Gregorian calendar, from the days since 1970-01-01. Counted in years that begin in
/// March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01; 146,097 are 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::message::{AuthOffer, Identity, TlsFacts};

    fn session(peer: &str) -> SessionFacts {
        let local = "192.0.2.1:25".parse().expect("an address");
        let peer = peer.parse().expect("an address");
        let mut session = SessionFacts::new(Arc::from("mx"), AuthOffer::Off, local, peer);
        session.ehlo = Some(Arc::from("client.example"));
        session.esmtp = true;
        session
    }

    fn field(session: &SessionFacts, smtputf8: bool, recipient: Option<&str>) -> String {
        received(&Received {
            session,
            hostname: "relay.example.test",
            id: Id(1),
            smtputf8,
            recipient,
            at: UNIX_EPOCH + Duration::from_secs(1_795_494_762),
        })
    }

    #[test]
    fn dates_are_written_as_rfc_5322_has_them() {
        for (seconds, text) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_800, "Wed, 1 Mar 2000 00:00:00 +0000"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 +0000"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 +0000"),
            (1_795_494_762, "Tue, 24 Nov 2026 04:32:42 +0000"),
            (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(
            date(UNIX_EPOCH - Duration::from_secs(5)),
            "Thu, 1 Jan 1970 00:00:00 +0000"
        );
    }

    #[test]
    fn the_field_says_whence_and_how() {
        let mut facts = session("[::ffff:198.51.100.7]:4321");
        assert_eq!(
            field(&facts, false, None),
            "Received: from client.example ([198.51.100.7])\r\n\tby relay.example.test (Gatepost) with ESMTP id 0000000000001;\r\n\
             \tTue, 24 Nov 2026 04:32:42 +0000\r\n"
        );
        facts.reverse_name = Some(Some(Arc::from("host.example")));
        facts.identity = Some(Identity {
            name: Arc::from("alice-the-secret"),
            method: Arc::from("PLAIN"),
        });
        facts.peer = "[2001:db8::1]:25".parse().expect("an address");
        let text = field(&facts, false, Some("\"a b\"@example.test"));
        assert!(
            text.starts_with("Received: from client.example (host.example [IPv6:2001:db8::1])\r\n\tby "),
            "{text}"
        );
        assert!(text.contains("\r\n\tfor <\"a b\"@example.test>;\r\n"), "{text}");
        assert!(!text.contains("alice"), "{text}");
        facts.ehlo = None;
        assert!(field(&facts, false, None).starts_with("Received: from unknown ("));
    }

    #[test]
    fn the_keyword_tells_the_protocol() {
        let mut facts = session("198.51.100.7:25");
        let mut seen = Vec::new();
        let tls = TlsFacts {
            version: Arc::from("TLSv1.3"),
            cipher: Arc::from("TLS13_AES_128_GCM_SHA256"),
            server_name: None,
        };
        let identity = Identity {
            name: Arc::from("alice"),
            method: Arc::from("PLAIN"),
        };
        for (tls, identity) in [
            (None, None),
            (None, Some(&identity)),
            (Some(&tls), None),
            (Some(&tls), Some(&identity)),
        ] {
            (facts.tls, facts.identity) = (tls.cloned(), identity.cloned());
            seen.extend([protocol(&facts, false), protocol(&facts, true)]);
        }
        assert_eq!(
            seen,
            [
                "ESMTP",
                "UTF8SMTP",
                "ESMTPA",
                "UTF8SMTPA",
                "ESMTPS",
                "UTF8SMTPS",
                "ESMTPSA",
                "UTF8SMTPSA"
            ]
        );
        facts.esmtp = false;
        assert_eq!(protocol(&facts, false), "SMTP");
    }

    #[test]
    fn nothing_from_outside_breaks_out() {
        let mut facts = session("198.51.100.7:25");
        facts.ehlo = Some(Arc::from("evil\r\nX-Injected: yes\0(comment);\u{e9}"));
        facts.reverse_name = Some(Some(Arc::from(format!("x){}", "y".repeat(2000)))));
        let text = field(&facts, false, Some(&format!("a>\r\nX: y{}@\u{e9}", "z".repeat(2000))));
        assert!(
            text.starts_with("Received: from evil??X-Injected:?yes??comment???? (x?yyy"),
            "{text}"
        );
        assert_eq!(text.matches("\r\n").count(), 4);
        assert!(
            text.split("\r\n")
                .skip(1)
                .filter(|line| !line.is_empty())
                .all(|line| line.starts_with('\t'))
        );
        assert!(
            text.split("\r\n")
                .all(|line| line.len() <= 998 && !line.contains(['\r', '\n', '\0']))
        );
        assert!(field(&facts, true, Some("\u{fc}@example.test")).contains("for <\u{fc}@example.test>"));
    }
}
