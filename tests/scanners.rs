//! `virus-scan` in a running relay: with a real clamd that knows one signature, and with what is in its place but slow, gone or no clamd at all.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use support::scanners::{GRANTS, PATIENT, answers, server};
use support::servers::{Clamd, EICAR};
use support::sink::Sink;
use support::{Setup, free_address, plugin};

const PASSWORD: &str = "correct horse";

const FOUND: &str = "550 5.7.1 Message refused: a virus was found in it (virus-found) [";
const TOO_LARGE: &str = "552 5.3.4 Message refused: it is too large to be scanned for viruses (too-large-to-scan) [";
const LATER: &str =
    "451 4.7.1 Message cannot be scanned for viruses now, try again later (virus-scanner-unavailable) [";

/// Beside which 64 KiB of a message fit twice, and a large message never.
const MEMORY_MIB: u64 = 2;

/// A message of so many MiB, with what is in its last part.
const LARGE_MIB: usize = 20;

/// A relay whose scanner is this endpoint, with `[plugin.budget]` and `[plugin.config]`.
fn setup(endpoint: &str, budget: &str, config: &str) -> Setup {
    let settings = format!("{budget}\n[plugin.endpoints]\nclamd = \"{endpoint}\"\n[plugin.config]\n{config}");
    Setup::new().plugin("virus-scan", &plugin("virus-scan"), GRANTS, &settings)
}

/// A message with a file in base64 behind a text.
fn with_attachment(text: &str, file: &str) -> String {
    let file = base64::engine::general_purpose::STANDARD.encode(file);
    format!(
        "From: me@elsewhere.test\r\nSubject: a file\r\nX-Virus-Scanned: clean\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n{text}\r\n--b\r\n\
         Content-Type: application/octet-stream; name=file.com\r\nContent-Transfer-Encoding: base64\r\n\r\n{file}\r\n--b--"
    )
}

fn clean() -> String {
    with_attachment("See the file.", "harmless")
}

fn infected() -> String {
    with_attachment("See the file.", &EICAR.concat())
}

fn large_text() -> String {
    format!("{}\r\n", "0123456789abcdef".repeat(4)).repeat((LARGE_MIB << 20) / 66)
}

#[test]
fn what_clamd_finds_is_refused_over_tcp_and_unix_and_from_users_too() {
    let Some(clamd) = Clamd::start("25M") else { return };
    for endpoint in clamd.endpoints() {
        let sink = Sink::start();
        let relay = setup(&endpoint, PATIENT, "header = true")
            .listener("mx", "tls = \"none\"")
            .listener("submission", "tls = \"starttls\"\nauth = \"required\"")
            .auth_relay("")
            .user("alice", PASSWORD)
            .next_hop(&sink.next_hop())
            .start();
        answers(&relay, &infected(), FOUND);
        answers(&relay, &format!("Subject: bare\r\n\r\n{}\r\n", EICAR.concat()), FOUND);
        relay.logged(&["virus-found", &format!("clamd found {}", Clamd::SIGNATURE)]);
        let mut alice = relay.connect("submission").starttls();
        alice.auth_plain("alice", PASSWORD, "235");
        let reply = alice.send("alice@ours.test", &["bob@far.test"], &infected());
        assert!(reply.starts_with(FOUND), "{reply}");

        answers(&relay, &clean(), "250");
        let received = sink.wait_for(1);
        let content = String::from_utf8_lossy(received[0].below_trace()).into_owned();
        let word = "X-Virus-Scanned: clean\r\n";
        assert!(content.starts_with(word), "{content}");
        assert_eq!(content.matches("X-Virus-Scanned").count(), 1, "{content}");
        assert_eq!(content.replace(word, ""), clean().replace(word, "") + "\r\n");
        assert_eq!(sink.count(), 1);
    }
}

#[test]
fn what_clamd_finds_is_held_or_tagged_if_the_configuration_says_so() {
    let Some(clamd) = Clamd::start("25M") else { return };
    let [unix, _] = clamd.endpoints();
    let held = setup(&unix, PATIENT, "action = \"quarantine\"").start();
    answers(&held, &infected(), "250");
    let list = held.command(&["queue", "list"]);
    assert!(list.contains(&format!("virus: {}", Clamd::SIGNATURE)), "{list}");

    let sink = Sink::start();
    let tagged = setup(&unix, PATIENT, "action = \"tag\"")
        .next_hop(&sink.next_hop())
        .start();
    answers(&tagged, &infected(), "250");
    let received = sink.wait_for(1);
    let field = format!("X-Virus-Scanned: infected ({})\r\n", Clamd::SIGNATURE);
    assert!(received[0].below_trace().starts_with(field.as_bytes()), "{received:?}");
}

#[test]
fn a_large_message_goes_through_a_guest_that_never_holds_it() {
    let Some(clamd) = Clamd::start("25M") else { return };
    let budget = format!("{PATIENT}\nmemory_mib = {MEMORY_MIB}");
    for endpoint in clamd.endpoints() {
        let (sink, admin) = (Sink::start(), free_address());
        let relay = setup(&endpoint, &budget, "")
            .top(&format!("[admin]\naddress = \"{admin}\""))
            .next_hop(&sink.next_hop())
            .start();
        let harmless = with_attachment(&large_text(), "harmless");
        assert!(harmless.len() > LARGE_MIB << 20);
        answers(&relay, &harmless, "250");
        // At its very end: clamd has seen all of it.
        answers(&relay, &with_attachment(&large_text(), &EICAR.concat()), FOUND);
        let without_forged = harmless.len() - "X-Virus-Scanned: clean\r\n".len() + "\r\n".len();
        assert_eq!(sink.wait_for(1)[0].below_trace().len(), without_forged);

        let page = relay.page(admin, "/metrics");
        let prefix = "gatepost_plugin_memory_bytes{plugin=\"virus-scan\"} ";
        let held = page.lines().find_map(|line| line.strip_prefix(prefix)).expect(prefix);
        eprintln!("{LARGE_MIB} MiB by {endpoint}: the guest holds {held} bytes");
        assert!(held.parse::<u64>().expect("a number") <= MEMORY_MIB << 20, "{page}");
    }
}

#[test]
fn what_is_over_clamds_own_limit_has_an_answer_of_its_own() {
    let Some(clamd) = Clamd::start("100K") else { return };
    let message = with_attachment(&large_text(), "harmless");
    for endpoint in clamd.endpoints() {
        let refusing = setup(&endpoint, PATIENT, "").start();
        answers(&refusing, &message, TOO_LARGE);
        refusing.logged(&["too-large-to-scan", "clamd has a lower limit"]);
        answers(&refusing, &clean(), "250");
        let accepting = setup(&endpoint, PATIENT, "too_large = \"accept\"").start();
        answers(&accepting, &message, "250");
    }
}

#[test]
fn without_clamd_the_configuration_decides_and_with_it_mail_flows_again() {
    let Some(mut clamd) = Clamd::start("25M") else { return };
    for endpoint in clamd.endpoints() {
        let deferring = setup(&endpoint, PATIENT, "").start();
        let accepting = setup(&endpoint, PATIENT, "unavailable = \"accept\"").start();
        answers(&deferring, &clean(), "250");
        clamd.stop();
        answers(&deferring, &clean(), LATER);
        deferring.logged(&["virus-scanner-unavailable", "clamd: connecting: "]);
        answers(&accepting, &infected(), "250");
        accepting.logged(&["\"warn\"", "virus-scanner-unavailable: clamd: connecting: "]);
        clamd.start_again();
        answers(&deferring, &clean(), "250");
        answers(&accepting, &infected(), FOUND);
    }
}

/// Reads up to the chunk of no bytes that ends a message, or to the end of the stream.
fn read_message(stream: &mut TcpStream) {
    let (mut last, mut buffer) = ([1; 4], [0; 4096]);
    while last != [0; 4] {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                let seen: Vec<u8> = last.iter().chain(&buffer[..read]).copied().collect();
                last.copy_from_slice(&seen[seen.len() - 4..]);
            }
        }
    }
}

#[test]
fn who_answers_nonsense_is_no_scanner() {
    type Serve = fn(TcpStream) -> Option<TcpStream>;
    let cases: [(Serve, &str); 5] = [
        (
            |mut stream| {
                read_message(&mut stream);
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok()?;
                None
            },
            "clamd: it answered \\\"HTTP/1.1 400 Bad Request",
        ),
        (
            |mut stream| {
                read_message(&mut stream);
                stream.write_all(&[b'x'; 10_000]).ok()?;
                Some(stream)
            },
            "clamd: it answered \\\"xxxxxxx",
        ),
        (
            |mut stream| {
                read_message(&mut stream);
                stream.write_all(b"stream: OK").ok()?;
                None
            },
            "clamd: it answered \\\"stream: OK\\\"",
        ),
        (
            |mut stream| {
                read_message(&mut stream);
                None
            },
            "clamd: it closed the connection without an answer",
        ),
        // Nothing found, in what it did not read.
        (
            |mut stream| {
                stream.write_all(b"stream: OK\0").ok()?;
                None
            },
            "clamd: sending the message: ",
        ),
    ];
    let message = with_attachment(&large_text(), "harmless");
    for (serve, detail) in cases {
        let relay = setup(&format!("tcp://{}", server(serve)), PATIENT, "").start();
        answers(&relay, &message, LATER);
        relay.logged(&["virus-scanner-unavailable", detail]);
    }
}

/// Three quarters of `wall_ms` are over, and the policy still decides.
#[test]
fn a_slow_clamd_is_waited_for_in_three_quarters_of_the_calls_time() {
    const HASTY: &str = "[plugin.budget]\nwall_ms = 4_000";
    let silent = server(|mut stream| {
        read_message(&mut stream);
        Some(stream)
    });
    let deaf = server(Some);
    let message = with_attachment(&large_text(), "harmless");
    std::thread::scope(|scope| {
        for (address, detail) in [
            (silent, "clamd: its answer: it took too long"),
            (deaf, "clamd: sending the message: it took too long"),
        ] {
            let message = &message;
            scope.spawn(move || {
                let relay = setup(&format!("tcp://{address}"), HASTY, "").start();
                answers(&relay, message, LATER);
                relay.logged(&["virus-scanner-unavailable", detail]);
            });
        }
        scope.spawn(|| {
            let relay = setup(&format!("tcp://{silent}"), HASTY, "unavailable = \"accept\"").start();
            answers(&relay, &clean(), "250");
        });
    });
}
