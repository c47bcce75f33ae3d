//! `spam-opinion` in a running relay: with a real rspamd and a real spamd, and with what is in their place but slow, gone or no scanner at all.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use support::scanners::{GRANTS, PATIENT, answers, server};
use support::servers::{GTUBE, Rspamd, Spamd};
use support::sink::Sink;
use support::{Setup, free_address, plugin, until};

const PASSWORD: &str = "correct horse";

const REFUSED: &str = "550 5.7.1 Message refused: it looks like spam (";
const LATER: &str = "451 4.7.1 Message cannot be scanned for spam now, try again later (second-opinion-unavailable) [";

/// Beside which a few chunks of a message fit, and a large message never.
const MEMORY_MIB: u64 = 4;

const WAIT_FOR_RSPAMD: &str = "[plugin.config.rspamd]\nunavailable = \"defer\"";
const WAIT_FOR_SPAMD: &str = "[plugin.config.spamd]\nunavailable = \"defer\"";

/// A relay whose scanners are these endpoints, with `[plugin.budget]` and `[plugin.config]`, which refuses from 5 points, as it tags.
fn setup(endpoints: &[(&str, &str)], budget: &str, config: &str) -> Setup {
    let endpoints: String = endpoints
        .iter()
        .map(|(name, at)| format!("{name} = \"{at}\"\n"))
        .collect();
    let settings =
        format!("{budget}\n[plugin.endpoints]\n{endpoints}[plugin.config]\nreject = 5\nalways_score = true\n{config}");
    Setup::new().plugin("spam-opinion", &plugin("spam-opinion"), GRANTS, &settings)
}

fn letter(text: &str) -> String {
    format!(
        "From: Alice Archer <alice@example.org>\r\nTo: Bob Baker <bob@example.net>\r\nSubject: lunch on Friday?\r\n\
         Date: Fri, 6 Mar 2026 10:00:00 +0000\r\nMessage-ID: <1234567890.abc@mail.example.org>\r\n\r\n\
         Shall we go at noon? There is a new place near the station, and they say that the\r\nsoup is good.\r\n{text}\r\n"
    )
}

fn ham() -> String {
    letter("Alice")
}

fn spam() -> String {
    letter(&GTUBE.concat())
}

/// Ordinary text that is larger than what a connection holds on its way.
fn large(mib: usize, end: &str) -> String {
    letter(&(format!("{}\r\n", "0123456789abcdef".repeat(4)).repeat((mib << 20) / 66) + end))
}

#[test]
fn rspamd_is_asked_over_tcp_and_unix_and_told_who_sends() {
    let Some(rspamd) = Rspamd::start() else { return };
    for endpoint in rspamd.endpoints() {
        let sink = Sink::start();
        let relay = setup(&[("rspamd", &endpoint)], PATIENT, WAIT_FOR_RSPAMD)
            .listener("mx", "tls = \"none\"")
            .listener("submission", "tls = \"starttls\"\nauth = \"required\"")
            .auth_relay("")
            .user("alice", PASSWORD)
            .next_hop(&sink.next_hop())
            .start();
        answers(&relay, &ham(), "250");
        let content = String::from_utf8_lossy(sink.wait_for(1)[0].below_trace()).into_owned();
        assert!(content.contains("X-Spam-Flag: NO\r\n"), "{content}");
        // Without rspamd it has far fewer points.
        answers(&relay, &spam(), REFUSED);
        relay.logged(&["\"spam\"", "+12.5 rspamd: 15.0 of 6.0"]);

        let mut alice = relay.connect("submission").starttls();
        alice.auth_plain("alice", PASSWORD, "235");
        let reply = alice.send("alice@ours.test", &["bob@far.test", "carol@far.test"], &spam());
        assert!(reply.starts_with(REFUSED), "{reply}");
    }
    let log = rspamd.log();
    for told in [
        "from: <me@elsewhere.test>",
        "rcpts: <u@ours.test>",
        "ip: 127.0.0.1",
        "user: alice",
        "rcpts: <bob@far.test,carol@far.test>",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[test]
fn spamd_is_asked() {
    let Some(spamd) = Spamd::start() else { return };
    let sink = Sink::start();
    let relay = setup(&[("spamd", &spamd.endpoint())], PATIENT, WAIT_FOR_SPAMD)
        .next_hop(&sink.next_hop())
        .start();
    answers(&relay, &ham(), "250");
    assert_eq!(sink.wait_for(1).len(), 1);
    answers(&relay, &spam(), REFUSED);
    relay.logged(&["\"spam\"", "spamd: 10", " of 5.0"]);
}

#[test]
fn both_are_asked_and_weighed() {
    let (Some(rspamd), Some(spamd)) = (Rspamd::start(), Spamd::start()) else {
        return;
    };
    let [unix, _] = rspamd.endpoints();
    let endpoints = [("rspamd", &*unix), ("spamd", &*spamd.endpoint())];
    let (sink, admin) = (Sink::start(), free_address());
    let relay = setup(
        &endpoints,
        PATIENT,
        "[plugin.config.rspamd]\nweight = 2\n[plugin.config.spamd]\nweight = 0.01",
    )
    .top(&format!("[admin]\naddress = \"{admin}\""))
    .next_hop(&sink.next_hop())
    .start();
    answers(&relay, &spam(), REFUSED);
    relay.logged(&["+25.0 rspamd: 15.0 of 6.0", "spamd: 10"]);
    for name in ["rspamd_asked", "spamd_asked"] {
        // The page is brought up to date once in a while.
        until(&format!("{name} is counted"), || {
            let counted = format!("gatepost_plugin_counter_total{{plugin=\"spam-opinion\",name=\"{name}\"}} 1\n");
            relay.page(admin, "/metrics").contains(&counted)
        });
    }
}

#[test]
fn a_large_message_goes_through_a_guest_that_never_holds_it() {
    let (Some(rspamd), Some(spamd)) = (Rspamd::start(), Spamd::start()) else {
        return;
    };
    let budget = format!("{PATIENT}\nmemory_mib = {MEMORY_MIB}");
    let [unix, _] = rspamd.endpoints();
    let endpoints = [("rspamd", &*unix), ("spamd", &*spamd.endpoint())];
    let config = format!("{WAIT_FOR_RSPAMD}\nmax_bytes = 20_000_000\n[plugin.config.spamd]");
    let relay = setup(&endpoints, &budget, &config).start();
    let message = large(10, "Alice");
    answers(&relay, &message, "250");
    // As it was sent, with the line end before the dot. It is over what spamd is asked about.
    let seen = format!("len: {},", message.len() + "\r\n".len());
    until(&format!("rspamd has seen {seen}"), || rspamd.log().contains(&seen));
    assert!(!relay.log().contains("second-opinion-unavailable"), "{}", relay.log());
}

#[test]
fn what_is_over_max_bytes_or_not_between_is_not_asked_about() {
    // Whoever asked would have to wait.
    let gone = format!("tcp://{}", free_address());
    let relay = setup(
        &[("rspamd", &gone)],
        PATIENT,
        &format!("{WAIT_FOR_RSPAMD}\nmax_bytes = 100"),
    )
    .start();
    answers(&relay, &ham(), "250");
    let relay = setup(
        &[("rspamd", &gone)],
        PATIENT,
        &format!("{WAIT_FOR_RSPAMD}\nbetween = [2, 5]"),
    )
    .start();
    answers(&relay, &ham(), "250");
}

#[test]
fn without_a_scanner_the_configuration_decides() {
    let gone = format!("tcp://{}", free_address());
    for (name, defer) in [("rspamd", WAIT_FOR_RSPAMD), ("spamd", WAIT_FOR_SPAMD)] {
        let deferring = setup(&[(name, &gone)], PATIENT, defer).start();
        answers(&deferring, &ham(), LATER);
        deferring.logged(&["second-opinion-unavailable", &format!("{name}: connecting: ")]);
        let accepting = setup(&[(name, &gone)], PATIENT, &defer.replace("defer", "accept")).start();
        answers(&accepting, &ham(), "250");
        accepting.logged(&["\"warn\"", &format!("second-opinion-unavailable: {name}: connecting: ")]);
    }
}

#[test]
fn a_scanner_that_ends_is_missed() {
    let (Some(mut rspamd), Some(mut spamd)) = (Rspamd::start(), Spamd::start()) else {
        return;
    };
    let [unix, _] = rspamd.endpoints();
    let by_rspamd = setup(&[("rspamd", &unix)], PATIENT, WAIT_FOR_RSPAMD).start();
    let by_spamd = setup(&[("spamd", &spamd.endpoint())], PATIENT, WAIT_FOR_SPAMD).start();
    for relay in [&by_rspamd, &by_spamd] {
        answers(relay, &ham(), "250");
    }
    rspamd.stop();
    spamd.stop();
    for relay in [&by_rspamd, &by_spamd] {
        answers(relay, &ham(), LATER);
    }
}

/// Reads up to the end of a letter.
fn read_letter(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while memchr::memmem::find(&seen, b"\r\nAlice\r\n").is_none() {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => seen.extend(&buffer[..read]),
        }
    }
}

#[test]
fn who_answers_nonsense_is_no_scanner() {
    let cases: [(&str, &'static str, &str); 6] = [
        (
            "rspamd",
            "220 mail.example.test ESMTP\r\n",
            "rspamd: it answered \\\"220 mail",
        ),
        (
            "rspamd",
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "rspamd: it answered \\\"HTTP/1.1 403",
        ),
        (
            "rspamd",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<p/>",
            "rspamd: its answer: expected value",
        ),
        ("rspamd", "", "rspamd: it closed the connection without an answer"),
        (
            "spamd",
            "SPAMD/1.0 76 Bad header line\r\n\r\n",
            "spamd: it answered \\\"SPAMD/1.0 76",
        ),
        ("spamd", "", "spamd: it closed the connection without an answer"),
    ];
    for (name, says, detail) in cases {
        let address = server(move |mut stream| {
            read_letter(&mut stream);
            stream.write_all(says.as_bytes()).ok()?;
            None
        });
        let config = format!("[plugin.config.{name}]\nunavailable = \"defer\"");
        let relay = setup(&[(name, &format!("tcp://{address}"))], PATIENT, &config).start();
        answers(&relay, &ham(), LATER);
        relay.logged(&["second-opinion-unavailable", detail]);
    }
}

/// Three quarters of `wall_ms` are over, the policy still decides, and what the other scanner said meanwhile counts.
#[test]
fn a_slow_scanner_is_waited_for_and_takes_nothing_from_the_other() {
    const HASTY: &str = "[plugin.budget]\nwall_ms = 4_000";
    let silent = format!(
        "tcp://{}",
        server(|mut stream| {
            read_letter(&mut stream);
            Some(stream)
        })
    );
    let deaf = format!("tcp://{}", server(Some));
    let sure = format!(
        "tcp://{}",
        server(|mut stream| {
            read_letter(&mut stream);
            stream
                .write_all(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 100.0 / 5.0\r\n\r\n")
                .ok()?;
            None
        })
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let relay = setup(&[("rspamd", &silent)], HASTY, WAIT_FOR_RSPAMD).start();
            answers(&relay, &ham(), LATER);
            relay.logged(&["second-opinion-unavailable", "rspamd: its answer: it took too long"]);
        });
        scope.spawn(|| {
            let config = format!("{WAIT_FOR_SPAMD}\nmax_bytes = 20_000_000");
            let relay = setup(&[("spamd", &deaf)], HASTY, &config).start();
            answers(&relay, &large(12, "Alice"), LATER);
            relay.logged(&[
                "second-opinion-unavailable",
                "spamd: sending the message: it took too long",
            ]);
        });
        scope.spawn(|| {
            let config = "[plugin.config.rspamd]\n[plugin.config.spamd]";
            let relay = setup(&[("rspamd", &silent), ("spamd", &sure)], HASTY, config).start();
            answers(&relay, &ham(), REFUSED);
            relay.logged(&["+100.0 spamd: 100.0 of 5.0", "0.0 rspamd: no answer"]);
        });
    });
}
