//! Authentication-Results (RFC 8601): writes ours, tells whether a field speaks in our name, and reads what a trusted sealer had found.

use std::fmt::Write as _;

use gatepost_sdk::authentication::{Check, DmarcPolicy, DmarcRequest, Status};

use crate::syntax::{Broken, Piece, Pieces, in_token};

/// The field's name.
pub const NAME: &str = "Authentication-Results";

/// Places, between semicolons, in which an id of ours is looked for.
const IDS: usize = 2;

/// Bytes of a check's detail that become a comment.
const DETAIL_BYTES_MAX: usize = 120;

/// Whether a field of a message says that it is from us, or may be taken so: what cannot be read might be read by others.
///
/// Some readers drop comments and blanks from an id, others take one that comes behind something else; so an id that is ours by any of these is.
pub fn is_ours(value: &[u8], hostname: &str) -> bool {
    let plain = |name: &str| name.trim().trim_matches('.').to_ascii_lowercase();
    let ours = plain(hostname);
    let mut pieces = Pieces::of(value);
    for place in 0..IDS {
        let Ok(words) = segment(&mut pieces) else {
            return true;
        };
        let whole = plain(&words.concat());
        let first = words.first().map_or("", String::as_str);
        let is_missing = place == 0 && first.is_empty();
        if is_missing || !whole.is_ascii() || plain(first) == ours || whole == ours {
            return true;
        }
    }
    false
}

/// The pieces up to the next `;`.
fn segment(pieces: &mut Pieces<'_>) -> Result<Vec<String>, Broken> {
    let mut words = Vec::new();
    while let Some(piece) = pieces.next()? {
        match piece {
            Piece::Mark(b';') => break,
            // A mark where an id should begin cannot be read.
            Piece::Mark(_) if words.is_empty() => words.push(String::new()),
            Piece::Mark(mark) => words.push(char::from(mark).to_string()),
            Piece::Word(word) => words.push(word),
        }
    }
    Ok(words)
}

/// The value of our field: what the host's checks came to. `helo` is whether SPF was asked about the EHLO name.
pub fn write(hostname: &str, checks: &[Check], policy: Option<&DmarcPolicy>, helo: bool) -> String {
    let mut value = hostname.to_owned();
    for check in checks {
        let property = match check.method.as_str() {
            "spf" if helo => "smtp.helo",
            "spf" => "smtp.mailfrom",
            "dkim" => "header.d",
            "dmarc" => "header.from",
            "iprev" => "policy.iprev",
            _ => "",
        };
        // A String takes everything, here and below.
        let _ = write!(value, ";\r\n\t{}={}", check.method, status(check.status));
        let detail = match check.method.as_str() {
            // RFC 8617 has no property for it.
            "arc" if !check.subject.is_empty() && check.detail.is_empty() => &check.subject,
            _ => &check.detail,
        };
        push_comment(&mut value, detail);
        if !property.is_empty() && !check.subject.is_empty() {
            let _ = write!(value, " {property}=");
            push_value(&mut value, &check.subject);
        }
        if let ("dmarc", Some(policy)) = (check.method.as_str(), policy) {
            let _ = write!(value, " policy.dmarc={}", request(policy.request));
        }
    }
    if checks.is_empty() {
        value.push_str("; none");
    }
    value
}

pub fn status(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Fail => "fail",
        Status::Softfail => "softfail",
        Status::Neutral => "neutral",
        Status::None => "none",
        Status::Temperror => "temperror",
        Status::Permerror => "permerror",
    }
}

pub fn request(request: DmarcRequest) -> &'static str {
    match request {
        DmarcRequest::None => "none",
        DmarcRequest::Quarantine => "quarantine",
        DmarcRequest::Reject => "reject",
    }
}

fn push_comment(value: &mut String, text: &str) {
    if text.is_empty() {
        return;
    }
    value.push_str(" (");
    let fits = |char: char| matches!(char, ' '..='~') && !matches!(char, '(' | ')' | '\\');
    value.extend(
        text.chars()
            .take(DETAIL_BYTES_MAX)
            .map(|char| if fits(char) { char } else { '?' }),
    );
    value.push(')');
}

/// As a token where it can be one, else in quotes.
fn push_value(value: &mut String, text: &str) {
    let is_token = text.bytes().all(|byte| byte.is_ascii() && in_token(byte));
    if is_token {
        value.push_str(text);
        return;
    }
    value.push('"');
    let fits = |char: char| matches!(char, ' '..='~') && !matches!(char, '"' | '\\');
    value.extend(text.chars().map(|char| if fits(char) { char } else { '?' }));
    value.push('"');
}

/// What an ARC-Authentication-Results says, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// DMARC passed, for an author of this domain, or of one that is not named.
    pub dmarc_pass: Option<Option<String>>,
    /// The chain before it had verified.
    pub arc_pass: bool,
}

/// Reads `i=1; sealer.example; dmarc=pass header.from=example.org; ...`. What comes behind a fault is not read.
pub fn read(value: &[u8]) -> Found {
    let mut found = Found::default();
    let mut pieces = Pieces::of(value);
    // `name = value` pairs; the first one behind a `;` is a method and its result.
    let mut method: Option<(String, String)> = None;
    let mut words: Vec<String> = Vec::new();
    let mut at_start = true;
    let mut after_equals = false;
    while let Ok(Some(piece)) = pieces.next() {
        match piece {
            Piece::Mark(b';') => {
                (method, at_start, after_equals) = (None, true, false);
                words.clear();
            }
            Piece::Mark(b'=') => after_equals = true,
            Piece::Mark(_) => after_equals = false,
            Piece::Word(word) if after_equals => {
                after_equals = false;
                let name = words.pop().unwrap_or_default().to_ascii_lowercase();
                let word = word.to_ascii_lowercase();
                if at_start {
                    at_start = false;
                    match (name.as_str(), word.as_str()) {
                        ("dmarc", "pass") => found.dmarc_pass = Some(None),
                        ("arc", "pass") => found.arc_pass = true,
                        _ => {}
                    }
                    method = Some((name, word));
                } else if name == "header.from"
                    && method
                        .as_ref()
                        .is_some_and(|(name, result)| name == "dmarc" && result == "pass")
                {
                    found.dmarc_pass = Some(Some(word));
                }
            }
            Piece::Word(word) => words.push(word),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_our_name_are_known_in_any_dress() {
        let ours = [
            "relay.test; dmarc=pass",
            "RELAY.Test; none",
            "relay.test.; none",
            "\r\n\trelay.test\r\n\t; none",
            "(not ours) relay.test; none",
            "(a (b) \\) c)\r\n relay.test 1; none",
            "\"relay.test\"; none",
            "\"rel\\ay.test\"; none",
            "relay.test(x); none",
            "relay.test/1; none",
            "relay.test",
            "\r\n (c) relay.(x)test; none",
            "relay .test. ; none",
            "i=1; relay.test; dmarc=pass",
            // What cannot be read.
            "",
            "; dmarc=pass",
            "(relay.test; dmarc=pass",
            "\"relay.test; dmarc=pass",
            "r\u{e9}lay.test; none",
        ];
        for value in ours {
            assert!(is_ours(value.as_bytes(), "relay.test"), "{value:?}");
        }
        for value in [
            "other.test; dmarc=pass (relay.test)",
            "relay.test.example; none",
            "xrelay.test; none",
            "(relay.test) other.test; none",
        ] {
            assert!(!is_ours(value.as_bytes(), "relay.test"), "{value:?}");
        }
        assert!(is_ours(b"relay.test; none", "Relay.TEST."));
        assert!(is_ours(b"\xff\xfe; none", "relay.test"));
    }

    fn check(method: &str, status: Status, subject: &str, detail: &str) -> Check {
        Check {
            method: method.to_owned(),
            status,
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn the_field_is_written_as_rfc_8601_has_it() {
        let checks = [
            check("spf", Status::Softfail, "example.org", ""),
            check("iprev", Status::Pass, "2001:db8::1", "host.example"),
            check("dkim", Status::Permerror, "a\"b\\c", "odd (nested) \u{e9}\r\n\\"),
            check("dkim", Status::Fail, "", ""),
            check("dmarc", Status::Pass, "example.org", "policy reject"),
            check("arc", Status::Pass, "list.example", ""),
        ];
        let policy = DmarcPolicy {
            domain: "example.org".to_owned(),
            request: DmarcRequest::Reject,
            percent: 100,
        };
        assert_eq!(
            write("relay.test", &checks, Some(&policy), false),
            "relay.test;\r\n\tspf=softfail smtp.mailfrom=example.org;\r\n\tiprev=pass (host.example) policy.iprev=\"2001:db8::1\";\r\n\
             \tdkim=permerror (odd ?nested? ????) header.d=\"a?b?c\";\r\n\tdkim=fail;\r\n\
             \tdmarc=pass (policy reject) header.from=example.org policy.dmarc=reject;\r\n\tarc=pass (list.example)"
        );
        assert_eq!(
            write(
                "relay.test",
                &[check("spf", Status::None, "client.test", "")],
                None,
                true
            ),
            "relay.test;\r\n\tspf=none smtp.helo=client.test"
        );
        assert_eq!(write("relay.test", &[], None, false), "relay.test; none");
    }

    #[test]
    fn what_a_sealer_had_found_is_read() {
        let from = |domain: &str| Some(Some(domain.to_owned()));
        let cases = [
            (
                "i=1; list.example;\r\n\tspf=pass smtp.mailfrom=a@b; dmarc=pass (p=none) header.from=Example.org",
                from("example.org"),
                false,
            ),
            ("i=1; list.example; DMARC = Pass", Some(None), false),
            (
                "i=2; list.example; dmarc=fail header.from=example.org; arc=pass (i=1)",
                None,
                true,
            ),
            ("i=1; list.example; spf=pass reason=\"dmarc=pass\"", None, false),
            ("i=1; list.example; spf=pass (; dmarc=pass) smtp.x=y", None, false),
            ("i=1; list.example; spf=pass dmarc=pass", None, false),
            ("i=1; list.example; dkim=pass header.from=example.org", None, false),
            ("i=1; list.example; none", None, false),
            ("i=1; list.example; x=(; dmarc=pass", None, false),
            ("", None, false),
        ];
        for (value, dmarc_pass, arc_pass) in cases {
            assert_eq!(read(value.as_bytes()), Found { dmarc_pass, arc_pass }, "{value:?}");
        }
    }
}
