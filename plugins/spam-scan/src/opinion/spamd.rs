//! spamd, SpamAssassin's daemon, by the SPAMC protocol (`spamd/PROTOCOL` of SpamAssassin): `CHECK`, and a line with the score as the answer.

use std::time::{Duration, UNIX_EPOCH};

use super::{Facts, Verdict, line, number, shown};

/// The longest header of an answer, in bytes; spamd's has some dozens.
const HEADER_BYTES_MAX: usize = 4096;

/// The longest name of a client that is told, in bytes (RFC 5321 §4.5.3.1.2).
const NAME_BYTES_MAX: usize = 255;

pub fn head(facts: &Facts, size: u64) -> Vec<u8> {
    let trace = trace(facts);
    let length = trace.len() as u64 + size;
    format!("CHECK SPAMC/1.5\r\nContent-length: {length}\r\n\r\n{trace}").into_bytes()
}

/// The fields that a message has of its way to SpamAssassin: without them it would look up who sent it to the client instead of the client.
fn trace(facts: &Facts) -> String {
    let helo = facts.ehlo_name.as_deref().unwrap_or("unknown");
    let name = facts.reverse_name.as_deref().unwrap_or("unknown");
    let address = match facts.peer.contains(':') {
        true => format!("IPv6:{}", facts.peer),
        false => facts.peer.clone(),
    };
    // RFC 3848.
    let encrypted = if facts.is_encrypted { "S" } else { "" };
    let authenticated = if facts.identity.is_some() { "A" } else { "" };
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(facts.now));
    format!(
        "Return-Path: <{}>\r\nReceived: from {} ({} [{address}])\r\n\tby {} with ESMTP{encrypted}{authenticated} id {};\r\n\t{date}\r\n",
        line(&facts.envelope.sender),
        bare(helo),
        bare(name),
        facts.hostname,
        facts.id,
    )
}

/// A name that a client chose, without what could pass for another part of the field.
fn bare(name: &str) -> String {
    let is_of_a_name = |character: &char| character.is_ascii_alphanumeric() || "-._:[]".contains(*character);
    name.chars().filter(is_of_a_name).take(NAME_BYTES_MAX).collect()
}

pub fn understand(answer: &[u8], is_whole: bool) -> Option<Result<Verdict, String>> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        return (is_whole || answer.len() > HEADER_BYTES_MAX).then(|| Err(shown(answer)));
    };
    let verdict = std::str::from_utf8(&answer[..end]).ok().and_then(verdict);
    Some(verdict.ok_or_else(|| shown(answer)))
}

/// `SPAMD/1.1 0 EX_OK`, and below it `Spam: True ; 12.3 / 5.0`.
fn verdict(header: &str) -> Option<Verdict> {
    let mut lines = header.split("\r\n");
    let mut status = lines.next()?.strip_prefix("SPAMD/")?.split(' ');
    if status.nth(1)? != "0" {
        return None;
    }
    let said = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("spam").then_some(value)
    })?;
    let (is_spam, scores) = said.split_once(';')?;
    if !matches!(is_spam.trim(), "True" | "Yes" | "False" | "No") {
        return None;
    }
    let (score, required) = scores.split_once('/')?;
    let verdict = Verdict {
        score: number(score)?,
        required: number(required)?,
    };
    (verdict.required > 0.0).then_some(verdict)
}
