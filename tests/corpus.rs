//! Odd messages reach the next hop byte for byte as they were sent, below the trace field.
//!
//! Those of `tests/data/odd` always (each is there for what its name says); and all files of the folder that the environment variable
//! `GATEPOST_CORPUS` names, with its sub-folders, one message a file: `GATEPOST_CORPUS=/path cargo test --test corpus`. Files have LF line
//! ends and are sent with CRLF.

mod support;

use std::collections::HashMap;
use std::path::Path;

use support::client::Client;
use support::sink::{Received, Sink};
use support::{Relay, Setup};

/// Connections over which a corpus is sent.
const CLIENTS: usize = 4;

fn relay(sink: &Sink) -> Relay {
    Setup::new().auth_relay("").next_hop(&sink.next_hop()).start()
}

/// What is sent: a name for when it fails, and the message as it travels.
type Message = (String, Vec<u8>);

/// All files below a folder, in order.
fn messages(folder: &Path) -> Vec<Message> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push((path.display().to_string(), with_crlf(&text)));
        }
    }
    found.sort();
    found
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        message.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        message.extend_from_slice(b"\r\n");
    }
    message
}

fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    stuffed
}

/// Sends messages over one connection. The number of each is in its sender.
fn send(mut client: Client, messages: &[(usize, &Message)]) {
    client.ehlo();
    for (number, (name, message)) in messages {
        client.says(&format!("MAIL FROM:<m{number}@elsewhere.test> BODY=8BITMIME"), "250");
        client.says("RCPT TO:<u@ours.test>", "250");
        client.says("DATA", "354");
        client.raw(stuffed(message));
        client.raw(".\r\n");
        let reply = client.reply();
        assert!(reply.starts_with("250"), "{name}: {reply}");
    }
}

/// Sends all of them over several connections, and compares what arrives.
fn arrive_unchanged(messages: &[Message]) {
    let sink = Sink::start();
    let relay = relay(&sink);
    let numbered: Vec<(usize, &Message)> = messages.iter().enumerate().collect();
    std::thread::scope(|scope| {
        for part in numbered.chunks(numbered.len().div_ceil(CLIENTS)) {
            scope.spawn(|| send(relay.connect("mx"), part));
        }
    });
    let received = sink.wait_for(messages.len());
    assert_eq!(received.len(), messages.len(), "none comes twice");
    let by_number: HashMap<usize, &Received> = received.iter().map(|one| (number(&one.mail), one)).collect();
    for (number, (name, sent)) in numbered {
        let got = by_number
            .get(&number)
            .unwrap_or_else(|| panic!("{name} did not arrive"));
        let trace = got.content.strip_suffix(sent.as_slice());
        assert!(
            trace.is_some_and(is_one_field),
            "{name} arrived otherwise: {} bytes were sent, and this came:\n{}",
            sent.len(),
            String::from_utf8_lossy(&got.content)
        );
    }
}

/// Not left to [`Received::below_trace`]: a message may begin with what looks like more of the field.
fn is_one_field(trace: &[u8]) -> bool {
    let mut lines = trace.split_inclusive(|byte| *byte == b'\n');
    lines.next().is_some_and(|line| line.starts_with(b"Received: "))
        && lines.all(|line| line.starts_with(b"\t") && line.ends_with(b"\r\n"))
}

/// `MAIL FROM:<m17@...` is 17.
fn number(mail: &str) -> usize {
    let digits = mail.strip_prefix("MAIL FROM:<m").and_then(|rest| rest.split_once('@'));
    digits
        .and_then(|(digits, _)| digits.parse().ok())
        .unwrap_or_else(|| panic!("not one of ours: {mail}"))
}

/// Those that are too large to be kept as files.
fn large() -> [Message; 3] {
    let field = |name: &str| format!("From: a@elsewhere.test\r\nSubject: {name}\r\n\r\n").into_bytes();
    let mut line = field("a line of 100,000 dots");
    line.extend(b".".repeat(100_000));
    line.extend_from_slice(b"\r\nend\r\n");
    // Larger than what is kept in memory, with a dot at each line's start, and lines that drift over every border of a buffer.
    let mut body = field("a body that goes through a file");
    for number in 0..40_000 {
        body.extend_from_slice(format!(".{number} {}\r\n", "\u{e4}".repeat(number % 7)).as_bytes());
    }
    let header = (0..2_000).map(|number| format!("X-Field-{number}: {number}\r\n"));
    let header = header.chain(["\r\nbody\r\n".to_owned()]).collect::<String>();
    [
        ("a long line".into(), line),
        ("a large body".into(), body),
        ("a long header".into(), header.into_bytes()),
    ]
}

#[test]
fn odd_messages_arrive_byte_for_byte() {
    let mut odd = messages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/odd"));
    assert!(odd.len() > 10, "{} samples", odd.len());
    odd.extend(large());
    arrive_unchanged(&odd);
}

#[test]
fn a_whole_corpus_arrives_byte_for_byte() {
    let Some(folder) = std::env::var_os("GATEPOST_CORPUS") else {
        eprintln!("SKIPPED: GATEPOST_CORPUS names no folder of messages");
        return;
    };
    let corpus = messages(Path::new(&folder));
    arrive_unchanged(&corpus);
    let bytes: usize = corpus.iter().map(|(_, message)| message.len()).sum();
    println!(
        "{} messages, {bytes} bytes, each byte for byte as it was sent",
        corpus.len()
    );
}
