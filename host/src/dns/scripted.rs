//! A name server on loopback whose zone is text: what policies under test are told, and the daemon's own tests.
//!
//! It answers for the names of its zone and says of all others that they do not exist; it never asks anybody. It lives as long as the
//! runtime that it was started in. What cannot be a zone is an error that names the line.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{MX, PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::Dns;

/// The largest question that is read, in bytes.
const QUESTION_BYTES_MAX: usize = 1_500;
/// Seconds that answers may be kept.
const TTL_S: u32 = 60;
/// Bytes of a string in a TXT record (RFC 1035 §3.3).
const STRING_BYTES_MAX: usize = 255;

/// Records, each a line `name TYPE value`, names with or without the last dot. `name FAIL` and every name with the label `servfail` answer
/// SERVFAIL. Blank lines and those that begin with `#` or `;` say nothing.
#[derive(Debug, Default)]
pub struct Zone(Vec<(String, Entry)>);

#[derive(Debug)]
enum Entry {
    Data(RecordType, RData),
    Fail,
}

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ZoneError {
    /// From 1.
    pub line: usize,
    pub what: String,
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Zone, ZoneError> {
        let mut entries = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let entry = entry(line).map_err(|what| ZoneError { line: place + 1, what })?;
            entries.push(entry);
        }
        Ok(Zone(entries))
    }
}

fn entry(line: &str) -> Result<(String, Entry), String> {
    let mut words = line.splitn(3, char::is_whitespace);
    let (Some(owner), Some(kind)) = (words.next(), words.next()) else {
        return Err(format!("{line:?} is no record: write `name TYPE value`"));
    };
    let value = words.next().unwrap_or_default().trim();
    let odd = || format!("{value:?} is no value of {kind}");
    let v4 = || value.parse::<Ipv4Addr>().map_err(|_| odd());
    let v6 = || value.parse::<Ipv6Addr>().map_err(|_| odd());
    let data = match kind {
        "FAIL" => Entry::Fail,
        "A" => Entry::Data(RecordType::A, RData::A(v4()?.into())),
        "AAAA" => Entry::Data(RecordType::AAAA, RData::AAAA(v6()?.into())),
        "MX" => {
            let (preference, exchange) = value.split_once(' ').ok_or_else(odd)?;
            let mx = MX::new(preference.parse().map_err(|_| odd())?, name(exchange.trim())?);
            Entry::Data(RecordType::MX, RData::MX(mx))
        }
        "PTR" => Entry::Data(RecordType::PTR, RData::PTR(PTR(name(value)?))),
        "TXT" => Entry::Data(RecordType::TXT, RData::TXT(TXT::new(strings(value)))),
        _ => return Err(format!("no record type {kind:?} here: A, AAAA, MX, PTR, TXT or FAIL")),
    };
    Ok((name(owner)?.to_lowercase().to_ascii(), data))
}

fn name(text: &str) -> Result<Name, String> {
    super::parsed(text).ok_or_else(|| format!("{text:?} is no name"))
}

/// RFC 1035 §3.3: a string has at most 255 bytes.
fn strings(text: &str) -> Vec<String> {
    let parts = text.as_bytes().chunks(STRING_BYTES_MAX);
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// A resolver that asks a name server with this zone. Must be called within a tokio runtime.
pub async fn resolver(zone: Zone) -> Result<Dns, String> {
    let failed = |error: std::io::Error| format!("a socket on loopback: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").await.map_err(failed)?;
    let address: SocketAddr = socket.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Ok(query) = Message::from_vec(&buffer[..length]) else {
                continue;
            };
            if let Ok(answer) = zone.answer(query).to_vec() {
                // The asker may have gone.
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Dns::new(&[address])
}

impl Zone {
    fn answer(&self, query: Message) -> Message {
        let mut answer = query.into_response();
        let Some(question) = answer.queries.first().cloned() else {
            return answer;
        };
        let asked = question.name().to_lowercase().to_ascii();
        let mut fails = asked.split('.').any(|label| label == "servfail");
        let mut known = false;
        for (_, entry) in self.0.iter().filter(|(owner, _)| *owner == asked) {
            known = true;
            match entry {
                Entry::Fail => fails = true,
                Entry::Data(kind, data) if *kind == question.query_type() => {
                    answer.add_answer(Record::from_rdata(question.name().clone(), TTL_S, data.clone()));
                }
                Entry::Data(..) => {}
            }
        }
        answer.metadata.response_code = match (fails, known) {
            (true, _) => ResponseCode::ServFail,
            (false, true) => ResponseCode::NoError,
            (false, false) => ResponseCode::NXDomain,
        };
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_is_named_with_its_line() {
        let cases = [
            (
                "a.example A 192.0.2.1\n\nb.example",
                "line 3: \"b.example\" is no record",
            ),
            ("a.example A 1.2.3", "line 1: \"1.2.3\" is no value of A"),
            (
                "a.example MX mail.example",
                "line 1: \"mail.example\" is no value of MX",
            ),
            ("a.example SRV 0 0 1 b", "line 1: no record type \"SRV\" here"),
            ("a..example A 192.0.2.1", "line 1: \"a..example\" is no name"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Zone>().expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
