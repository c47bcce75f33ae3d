//! One question to clamd: the message over a connection of its own by INSTREAM, and the answer.
//!
//! The message goes through in chunks, so that no more than one of them is held, however large it is. Of what clamd says, only what is
//! certainly "nothing found" counts as that.

use gatepost_sdk::endpoint::{self, Connection, EndpointError};
use gatepost_sdk::prelude::Message;

/// Terminated by NUL, as is its answer (clamd(8), COMMANDS).
const COMMAND: &[u8] = b"zINSTREAM\0";

/// Bytes of the message in one chunk.
const CHUNK_BYTES: u32 = 64 * 1024;

/// The longest answer, in bytes; one of clamd has some dozens.
const ANSWER_BYTES_MAX: usize = 4096;

/// The longest name of a signature that is passed on, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What clamd makes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    Clean,
    /// The signature's name, in printable ASCII.
    Found(String),
    /// It is over clamd's `StreamMaxLength`.
    TooLarge,
    /// It said nothing of use: why.
    Failed(String),
}

/// Has a message scanned.
pub fn scan(name: &str, message: &Message) -> Scan {
    let connection = match endpoint::connect(name) {
        Ok(connection) => connection,
        Err(error) => return Scan::Failed(failed(name, "connecting", &error)),
    };
    let sent = send(&connection, message);
    let scan = match receive(&connection) {
        Ok(answer) => understand(&answer),
        Err(error) => Scan::Failed(failed(name, "its answer", &error)),
    };
    match (sent, scan) {
        // What clamd did not see whole is not clean. What it says while it hangs up says more than that it did.
        (Err(error), Scan::Clean | Scan::Failed(_)) => Scan::Failed(failed(name, "sending the message", &error)),
        (_, scan) => scan,
    }
}

/// Each chunk is preceded by its length in four bytes, the most significant first; one of no bytes is the end.
fn send(connection: &Connection, message: &Message) -> Result<(), EndpointError> {
    let mut buffer = COMMAND.to_vec();
    let mut offset = 0;
    loop {
        let chunk = message.read(offset, CHUNK_BYTES);
        // At most `CHUNK_BYTES`, so it fits.
        buffer.extend((chunk.len() as u32).to_be_bytes());
        buffer.extend(&chunk);
        offset += chunk.len() as u64;
        // A message that is small crosses in one piece.
        if chunk.is_empty() || buffer.len() > CHUNK_BYTES as usize {
            connection.write(&buffer)?;
            buffer.clear();
        }
        if chunk.is_empty() {
            return Ok(());
        }
    }
}

/// What it says up to its NUL, or up to where it breaks off.
fn receive(connection: &Connection) -> Result<Vec<u8>, EndpointError> {
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&0) {
        let part = connection.read((ANSWER_BYTES_MAX - answer.len()) as u32)?;
        if part.is_empty() {
            break;
        }
        answer.extend(part);
    }
    Ok(answer)
}

/// It gives one answer. Of more, one that found something counts, and else none: who says two things is not clamd.
fn understand(answer: &[u8]) -> Scan {
    let mut said: Vec<&[u8]> = answer.split(|byte| *byte == 0).collect();
    let behind = said.pop().unwrap_or_default();
    if let Some(name) = said.iter().find_map(|said| signature(said)) {
        return Scan::Found(name);
    }
    match (said.as_slice(), behind) {
        ([b"stream: OK"], []) => Scan::Clean,
        ([b"INSTREAM size limit exceeded. ERROR"], []) => Scan::TooLarge,
        ([], []) => Scan::Failed("it closed the connection without an answer".to_owned()),
        _ => Scan::Failed(format!("it answered {:?}", String::from_utf8_lossy(answer))),
    }
}

/// Of what an answer says that it found.
fn signature(said: &[u8]) -> Option<String> {
    let name = said.strip_prefix(b"stream: ")?.strip_suffix(b" FOUND")?;
    let graphic = name.iter().filter(|byte| byte.is_ascii_graphic());
    Some(graphic.take(NAME_BYTES_MAX).map(|byte| char::from(*byte)).collect())
}

fn failed(name: &str, what: &str, error: &EndpointError) -> String {
    match error {
        EndpointError::Unknown => format!("[plugin.endpoints] of virus-scan has no `{name}`"),
        EndpointError::Unreachable(why) => format!("{what}: {why}"),
        EndpointError::Timeout => format!("{what}: it took too long"),
        EndpointError::TooLarge => format!("{what}: too much"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_exactly() {
        let found = |name: &str| Scan::Found(name.to_owned());
        let cases: [(&[u8], Scan); 8] = [
            (b"stream: OK\0", Scan::Clean),
            (b"stream: OK\0stream: Eicar FOUND\0", found("Eicar")),
            (b"stream: Eicar-Test-Signature FOUND\0", found("Eicar-Test-Signature")),
            (b"stream: Odd\x07 \xff\xf0name FOUND\0", found("Oddname")),
            (b"stream: \xff FOUND\0", found("")),
            (b"stream: OK FOUND\0", found("OK")),
            (b"stream:  FOUND\0", found("")),
            (b"INSTREAM size limit exceeded. ERROR\0", Scan::TooLarge),
        ];
        for (answer, expected) in cases {
            assert_eq!(understand(answer), expected, "{:?}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn everything_else_is_a_failure() {
        let cases: [&[u8]; 13] = [
            b"stream: OK\0and more",
            b"stream: OK\0stream: OK\0",
            b"",
            b"\0",
            b"stream: OK",
            b"stream: OK\n\0",
            b" stream: OK\0",
            b"stream: ok\0",
            b"OK\0",
            b"stream: Eicar FOUND",
            b"stream: Can't allocate memory ERROR\0",
            b"UNKNOWN COMMAND\0",
            b"220 mail.example.test ESMTP\r\n",
        ];
        for answer in cases {
            assert!(
                matches!(understand(answer), Scan::Failed(_)),
                "{:?}",
                String::from_utf8_lossy(answer)
            );
        }
    }
}
