//! rspamd, by its HTTP protocol (rspamd.com/doc/developers/protocol.html): `POST /checkv2` with what is known of the session in header fields,
//! and JSON as the answer.

use std::fmt::Write;

use serde::Deserialize;

use super::{Facts, Verdict, line, shown};

/// Recipients that are told; rspamd takes a header of 80 kB at most.
const RECIPIENTS_MAX: usize = 100;

/// Fields in the header of the answer; rspamd's has six.
const FIELDS_MAX: usize = 32;

/// Where rspamd marks a message, of the score at which it refuses it: 6 of 15, with its own `actions.conf`.
const MARKED_OF_REFUSED: f64 = 0.4;

/// What of the answer matters.
#[derive(Deserialize)]
struct Answer {
    score: f64,
    /// At which it refuses a message.
    required_score: f64,
    action: String,
    /// At which it does what; older versions do not tell.
    #[serde(default)]
    thresholds: Thresholds,
}

#[derive(Default, Deserialize)]
struct Thresholds {
    #[serde(rename = "add header")]
    add_header: Option<f64>,
}

pub fn head(facts: &Facts, size: u64) -> Vec<u8> {
    let mut head = format!("POST /checkv2 HTTP/1.1\r\nHost: rspamd\r\nConnection: close\r\nContent-Length: {size}\r\n");
    let mut field = |name: &str, value: &str| {
        write!(head, "{name}: {}\r\n", line(value)).expect("a String takes everything");
    };
    field("Queue-Id", &facts.id);
    field("MTA-Name", &facts.hostname);
    field("IP", &facts.peer);
    for (name, value) in [("Helo", &facts.ehlo_name), ("Hostname", &facts.reverse_name)] {
        if let Some(value) = value {
            field(name, value);
        }
    }
    if let Some(identity) = &facts.identity {
        field("User", &identity.name);
    }
    field("From", &format!("<{}>", facts.envelope.sender));
    for recipient in facts.envelope.recipients.iter().take(RECIPIENTS_MAX) {
        field("Rcpt", &format!("<{recipient}>"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

pub fn understand(answer: &[u8], is_whole: bool) -> Option<Result<Verdict, String>> {
    let nonsense = || Some(Err(shown(answer)));
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if !is_whole => return None,
        _ => return nonsense(),
    };
    let body = match body(&response, &answer[length..], is_whole) {
        Ok(Some(body)) => body,
        Ok(None) if !is_whole => return None,
        _ => return nonsense(),
    };
    match response.code {
        Some(200) => Some(verdict(&body)),
        _ => nonsense(),
    }
}

/// The body of a response (RFC 9112 §6.3), of which this much is here. None: not all of it.
fn body(response: &httparse::Response<'_, '_>, rest: &[u8], is_whole: bool) -> Result<Option<Vec<u8>>, ()> {
    let value = |name: &str| {
        let field = response
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(field.value.trim_ascii())
    };
    if let Some(coding) = value("transfer-encoding") {
        return if coding.eq_ignore_ascii_case(b"chunked") {
            chunked(rest)
        } else {
            Err(())
        };
    }
    let Some(length) = value("content-length") else {
        return Ok(is_whole.then(|| rest.to_vec()));
    };
    let length = std::str::from_utf8(length).map_err(drop)?.parse().map_err(drop)?;
    Ok(rest.get(..length).map(<[u8]>::to_vec))
}

/// What is in chunks (RFC 9112 §7.1) up to the last one. None: it is not here yet.
fn chunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut body = Vec::new();
    loop {
        let (start, length) = match httparse::parse_chunk_size(rest).map_err(drop)? {
            httparse::Status::Complete(chunk) => chunk,
            httparse::Status::Partial => return Ok(None),
        };
        if length == 0 {
            return Ok(Some(body));
        }
        let length = usize::try_from(length).map_err(drop)?;
        let Some((chunk, behind)) = rest[start..].split_at_checked(length) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = match behind {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(()),
        };
    }
}

fn verdict(body: &[u8]) -> Result<Verdict, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| format!("its answer: {error}"))?;
    let refused = answer.required_score;
    let marked = answer.thresholds.add_header.unwrap_or(refused * MARKED_OF_REFUSED);
    if marked <= 0.0 {
        return Err(format!("its answer: it takes a message for spam from {marked} points"));
    }
    // What a module of rspamd decides alone has no score.
    let least = match &*answer.action {
        "reject" | "discard" | "quarantine" => refused,
        "add header" | "rewrite subject" => marked,
        _ => answer.score,
    };
    Ok(Verdict {
        score: answer.score.max(least),
        required: marked,
    })
}
