//! Plugins in a running relay: what they may do, in which order, and what becomes of those that misbehave.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::client::Client;
use support::sink::{Received, Sink};
use support::{Relay, Setup, free_address, guest, plugin};

/// Small, so that what runs into a limit does so at once; the wall clock is left to be generous.
const BUDGET: &str = "[plugin.budget]\ncpu_ms = 50\nmemory_mib = 8\nlog_lines = 5";
const EDITS: &str = "\"edit-envelope\", \"read-message\", \"edit-message\"";

/// How `naughty` misbehaves when the recipient's local part says so: what the log names, and the cause in the metric.
const WAYS: [(&str, &str, &str); 6] = [
    ("trap", "it trapped", "trap"),
    ("loop", "cpu_ms", "cpu"),
    ("memory", "memory_mib", "memory"),
    ("recursion", "call stack exhausted", "trap"),
    ("ungranted", "allow-relay needs the grant relay", "answer"),
    ("bad-reply", "250 does not fit", "answer"),
];

/// Ready for RCPT.
fn at_rcpt(relay: &Relay) -> Client {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client
}

#[track_caller]
fn rcpt(client: &mut Client, recipient: &str, start: &str) -> String {
    client.says(&format!("RCPT TO:<{recipient}>"), start)
}

#[track_caller]
fn sends(relay: &Relay, recipients: &[&str], content: &str, start: &str) -> String {
    let mut client = relay.connect("mx");
    client.ehlo();
    let reply = client.send("me@elsewhere.test", recipients, content);
    assert!(reply.starts_with(start), "{content:?}: {reply}");
    reply
}

fn text(message: &Received) -> String {
    String::from_utf8_lossy(message.below_trace()).into_owned()
}

#[test]
fn who_misbehaves_hurts_nobody_else_and_the_client_gets_the_configured_answer() {
    for (on_failure, answer) in [("defer", "451 4.3.0 "), ("reject", "550 5.3.0 "), ("skip", "250 2.1.5")] {
        let admin = free_address();
        let relay = Setup::new()
            .top(&format!("[admin]\naddress = \"{admin}\""))
            .plugin(
                "naughty",
                &guest("naughty"),
                "",
                &format!("on_failure = \"{on_failure}\"\n{BUDGET}"),
            )
            .plugin(
                "behind",
                &guest("editor"),
                EDITS,
                "[plugin.config]\nrefuse = [\"unwanted\"]",
            )
            .start();
        let mut bystander = at_rcpt(&relay);
        for (way, named, _) in WAYS {
            let reply = rcpt(&mut at_rcpt(&relay), &format!("{way}@ours.test"), answer);
            // What went wrong is the administrator's to know.
            assert!(!reply.contains("naughty") && !reply.contains(named), "{reply}");
            relay.logged(&[
                "\"warn\"",
                "decision",
                "\"plugin\":\"naughty\"",
                "\"stage\":\"on-rcpt\"",
                named,
            ]);
            rcpt(&mut bystander, "u@ours.test", "250 2.1.5");
            rcpt(
                &mut bystander,
                "unwanted@ours.test",
                "550 5.7.1 unwanted@ours.test is refused [",
            );
        }
        // A policy need not say why.
        relay.logged(&["\"refused\"", "unwanted@ours.test is refused", "\"reason\":\"policy\""]);
        let page = relay.page(admin, "/metrics");
        for (_, _, cause) in WAYS {
            let count = WAYS.iter().filter(|way| way.2 == cause).count();
            let line = format!(
                "gatepost_hook_failures_total{{plugin=\"naughty\",stage=\"rcpt\",cause=\"{cause}\"}} {count}\n"
            );
            assert!(page.contains(&line), "{line}{page}");
        }
        assert!(
            !page.contains("gatepost_hook_failures_total{plugin=\"behind\""),
            "{page}"
        );
    }
}

#[test]
fn a_failure_has_the_configured_answer_at_every_stage() {
    /// The replies of a whole session, up to the first that refuses.
    fn replies(relay: &Relay) -> Vec<(&'static str, String)> {
        let mut client = Client::connect(relay.address("mx"));
        let mut replies = vec![("on-connect", client.reply())];
        for (stage, line) in [
            ("on-ehlo", "EHLO client.test"),
            ("on-mail", "MAIL FROM:<me@elsewhere.test>"),
            ("on-rcpt", "RCPT TO:<u@ours.test>"),
            ("on-data", "DATA"),
            ("on-message", "Subject: x\r\n\r\nbody\r\n."),
        ] {
            if replies.last().is_some_and(|(_, reply)| reply.starts_with(['4', '5'])) {
                break;
            }
            client.line(line);
            replies.push((stage, client.reply()));
        }
        replies
    }
    for (on_failure, expected) in [
        ("defer", "451 4.3.0 "),
        ("reject", "550 5.3.0 "),
        ("skip", "250 2.0.0 "),
    ] {
        for stage in ["on-connect", "on-ehlo", "on-mail", "on-data", "on-message"] {
            // The banner has codes of its own.
            let expected = match (stage, on_failure) {
                ("on-connect", "defer") => "421 4.3.0 ",
                ("on-connect", "reject") => "554 5.3.0 ",
                _ => expected,
            };
            let toml = format!("on_failure = \"{on_failure}\"\n[plugin.config]\nat = \"{stage}\"");
            let relay = Setup::new()
                .plugin("clumsy", &guest("clumsy"), "\"read-message\"", &toml)
                .start();
            let replies = replies(&relay);
            let (last, reply) = replies.last().expect("the banner");
            assert!(reply.starts_with(expected), "{on_failure} at {stage}: {replies:?}");
            let whole = on_failure == "skip";
            assert_eq!(
                *last,
                if whole { "on-message" } else { stage },
                "{on_failure}: {replies:?}"
            );
            relay.logged(&["\"warn\"", "decision", "clumsy", stage, "it trapped"]);
        }
    }
}

#[test]
fn who_waits_for_an_instance_does_not_wait_longer_than_its_time() {
    const CLIENTS: usize = 6;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let admin = free_address();
    let relay = Setup::new()
        .top(&format!(
            "[admin]\naddress = \"{admin}\"\n[dns]\nservers = [\"{}\"]",
            silent.local_addr().expect("bound")
        ))
        .listener("mx", "tls = \"none\"\nproxy_from = [\"127.0.0.1/32\"]")
        .plugin(
            "waits",
            &guest("naughty"),
            "",
            "max_instances = 1\n[plugin.budget]\nwall_ms = 1000",
        )
        .start();
    // Each from an address of its own, whose name nobody knows yet.
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|place| {
            let mut client = Client::connect(relay.address("mx"));
            client.raw(format!("PROXY TCP4 192.0.2.{} 192.0.2.200 1025 25\r\n", place + 1));
            client.expect("220");
            client.ehlo();
            client.says("MAIL FROM:<me@elsewhere.test>", "250");
            client
        })
        .collect();
    for client in &mut clients {
        client.line("RCPT TO:<wait@ours.test>");
    }
    for client in &mut clients {
        client.expect("451 4.3.0 ");
    }
    // Waiting for the one instance counts: not each had it for its time, and asked for its name, one after the other.
    silent.set_nonblocking(true).expect("a socket that does not wait");
    let mut asked = std::collections::BTreeSet::new();
    let mut question = [0; 512];
    while let Ok(length) = silent.recv(&mut question) {
        // Behind the header, whose first field is another at each try.
        asked.insert(question[12..length].to_vec());
    }
    assert!((1..CLIENTS).contains(&asked.len()), "{asked:?}");
    let page = relay.page(admin, "/metrics");
    let failures: u64 = page
        .lines()
        .filter(|line| line.starts_with("gatepost_hook_failures_total{plugin=\"waits\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(failures, CLIENTS as u64, "{page}");
    rcpt(&mut clients[0], "u@ours.test", "250 2.1.5");
}

#[test]
fn one_that_fails_all_the_time_is_not_asked_for_a_while() {
    let relay = Setup::new().plugin("naughty", &guest("naughty"), "", BUDGET).start();
    let mut client = at_rcpt(&relay);
    for _ in 0..10 {
        rcpt(&mut client, "ungranted@ours.test", "451 4.3.0 ");
    }
    rcpt(&mut client, "u@ours.test", "451 4.3.0 ");
    relay.logged(&["decision", "naughty", "\"reason\":\"breaker-open\""]);
    // The pause is bounded: it is asked again, and does well.
    support::until("the breaker closes", || {
        let mut client = at_rcpt(&relay);
        client.line("RCPT TO:<u@ours.test>");
        client.reply().starts_with("250")
    });
}

#[test]
fn a_reply_of_a_plugin_stays_one_reply() {
    let relay = Setup::new().plugin("naughty", &guest("naughty"), "", "").start();
    let mut client = at_rcpt(&relay);
    let reply = rcpt(&mut client, "split-reply@ours.test", "550");
    assert!(reply.lines().all(|line| line.starts_with("550")), "{reply}");
    client.says("NOOP", "250 2.0.0");
}

#[test]
fn waiting_and_moving_bytes_have_their_limits_too() {
    // A name server that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let relay = Setup::new()
        .top(&format!(
            "[dns]\nservers = [\"{}\"]",
            silent.local_addr().expect("bound")
        ))
        .listener("mx", "tls = \"none\"\nproxy_from = [\"127.0.0.1/32\"]")
        .plugin("waits", &guest("naughty"), "", "[plugin.budget]\nwall_ms = 500")
        .plugin(
            "reads",
            &guest("editor"),
            EDITS,
            "[plugin.budget]\nhost_call_bytes = 4096",
        )
        .start();
    // From somewhere else: for loopback addresses nobody is asked.
    let connect = || {
        let mut client = Client::connect(relay.address("mx"));
        client.raw("PROXY TCP4 192.0.2.1 192.0.2.2 1025 25\r\n");
        client.expect("220");
        client.ehlo();
        client
    };
    let mut client = connect();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    rcpt(&mut client, "wait@ours.test", "451 4.3.0 ");
    relay.logged(&["\"warn\"", "decision", "\"plugin\":\"waits\"", "on-rcpt", "wall_ms"]);
    rcpt(&mut client, "u@ours.test", "250 2.1.5");

    let long = format!("Subject: x\r\n{}\r\nbody", " folded\r\n".repeat(1_000));
    let reply = connect().send("me@elsewhere.test", &["u@ours.test"], &long);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    relay.logged(&[
        "\"warn\"",
        "decision",
        "\"plugin\":\"reads\"",
        "on-message",
        "host_call_bytes",
    ]);
    let reply = connect().send("me@elsewhere.test", &["u@ours.test"], "Subject: x\r\n\r\nbody");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
}

#[test]
fn a_flood_of_log_lines_ends_at_the_limit() {
    let relay = Setup::new().plugin("naughty", &guest("naughty"), "", BUDGET).start();
    rcpt(&mut at_rcpt(&relay), "flood@ours.test", "250 2.1.5");
    relay.logged(&["plugin says", "naughty", "on-rcpt", "log_lines"]);
    let log = relay.log();
    assert!(log.contains("\"line 4\"") && !log.contains("\"line 5\""), "{log}");
}

#[test]
fn what_cannot_be_loaded_stops_the_start_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let naughty = std::fs::read(guest("naughty")).expect("a guest");
    let truncated = file("truncated.wasm", &naughty[..naughty.len() / 2]);
    let core = file("core.wasm", b"\0asm\x01\0\0\0");
    let text = file("text.wasm", b"(component)");
    let native = wasmtime::Engine::default()
        .precompile_component(&naughty)
        .expect("it compiles");
    let native = file("native.wasm", &native);
    let configured = |how: &str| format!("{BUDGET}\n[plugin.config]\nconfigure = \"{how}\"");
    let cases: [(&Path, &str, &str); 12] = [
        (&plugin("rbl"), "", "needs the grant \\\"dns\\\": add it to grants"),
        (&truncated, "", "it does not compile"),
        (&core, "", "it is a core module: make a component of it"),
        (&text, "", "it is no WebAssembly file"),
        (
            &native,
            "",
            "it is native code: give the .wasm component that it was made from",
        ),
        (
            &guest("bare"),
            "[plugin.config]\nkey = 1",
            "it takes no configuration (it does not export lifecycle): remove [plugin.config]",
        ),
        (
            &guest("naughty"),
            "[plugin.config]\nconfigur = \"x\"",
            "it refuses its configuration: configur: unknown field",
        ),
        (
            &guest("naughty"),
            &configured("refuse"),
            "it refuses its configuration: configure: refused, as told",
        ),
        (&guest("naughty"), &configured("trap"), "it could not be started"),
        (&guest("naughty"), &configured("loop"), "cpu_ms"),
        (&guest("naughty"), &configured("memory"), "memory_mib"),
        (
            &folder.path().join("none.wasm"),
            "",
            "names this file, and it is not there",
        ),
    ];
    for (path, toml, remedy) in cases {
        let log = Setup::new().plugin("suspect", path, "", toml).refused();
        let line = log.lines().find(|line| line.contains(remedy));
        let line = line.unwrap_or_else(|| panic!("{} {toml:?}: {remedy:?} is not in\n{log}", path.display()));
        assert!(line.contains(&path.display().to_string()), "{line}");
        // A file that is not there is not yet any plugin's.
        assert!(line.contains("suspect") || remedy.contains("not there"), "{line}");
    }
}

#[test]
fn a_policy_that_would_open_the_relay_does_not_start() {
    let admin = free_address();
    let setup = |when: &str| {
        let config = match when {
            "always" => String::new(),
            when => format!("[plugin.config]\nwhen = \"{when}\""),
        };
        Setup::new()
            .top(&format!("[admin]\naddress = \"{admin}\""))
            .listener("mx", "tls = \"starttls\"")
            .plugin("editor", &guest("editor"), EDITS, "")
            .plugin("generous", &guest("generous"), "\"relay\", \"dns\"", &config)
    };
    for (when, probe) in [
        ("always", "from <someone@ours.test> to <u@relay-probe.invalid>"),
        ("bounce", "from <> to <u@relay-probe.invalid>"),
        ("own-sender", "from <someone@ours.test> to"),
        ("tls", "on listener mx with TLS"),
        (
            "ipv6",
            "a stranger (2001:db8::25, not authenticated, in no trusted network)",
        ),
        ("source-routed", "to <u%relay-probe.invalid@ours.test>"),
        ("dns", "a stranger (192.0.2.25,"),
        ("no-dns", "a stranger (192.0.2.25,"),
    ] {
        let log = setup(when).refused();
        let named = ["it would open the relay", "generous.wasm", probe, "take the grant"];
        assert!(
            log.lines().any(|line| named.iter().all(|text| line.contains(text))),
            "{when}: {log}"
        );
        assert!(log.contains("relay probe admitted"), "{log}");
    }
    // `check` finds it before anything is started.
    let bad = setup("always");
    let config = bad.write();
    let check = support::check(&config);
    let said = String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(
        said.contains("it would open the relay") && said.contains("generous"),
        "{said}"
    );

    // One that may and does not is started, and nothing of the probes is left.
    let relay = setup("never").start();
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&relay.command(&["plugin", "list", "--json"])).expect("a list");
    assert!(list.iter().all(|plugin| plugin["calls"] == 0), "{list:?}");
    let page = relay.page(admin, "/metrics");
    assert!(!page.contains("gatepost_hook_"), "{page}");
    let log = relay.log();
    assert!(!log.contains("relay-probe") && !log.contains("decision"), "{log}");
    assert!(relay.command(&["check"]).contains("generous"));
}

#[test]
fn what_a_plugin_refuses_of_its_settings_has_a_file_and_a_line() {
    let setup = || {
        Setup::new().plugin(
            "naughty",
            &guest("naughty"),
            "",
            &format!("{BUDGET}\n[plugin.config]\nconfigure = \"refuse\""),
        )
    };
    let setup_checked = setup();
    let config = setup_checked.write();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let line = 1 + text
        .lines()
        .position(|line| line == "[plugin.config]")
        .expect("its settings");
    let place = format!("gatepost.toml:{line}: plugin ");
    let check = support::check(&config);
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(
        said.contains(&place) && said.contains("configure: refused, as told"),
        "{said}"
    );
    let log = setup().refused();
    assert!(log.contains(&place), "{log}");
}

#[test]
fn later_plugins_see_what_earlier_ones_changed() {
    let sink = Sink::start();
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .plugin("first", &guest("editor"), EDITS, "")
        .plugin(
            "second",
            &guest("editor"),
            EDITS,
            "[plugin.config]\nrefuse = [\"real\"]",
        )
        .start();
    rcpt(
        &mut at_rcpt(&relay),
        "alias@ours.test",
        "550 5.7.1 real@ours.test is refused [",
    );

    let before = "Subject: edit\r\nX-Removed: a\r\nX-Kept: b\r\nx-removed: c\r\n\r\nbody";
    sends(&relay, &["u@ours.test"], before, "250 2.0.0");
    sends(
        &relay,
        &["u@ours.test"],
        "Subject: body\r\nX: y\r\n\r\nbody",
        "250 2.0.0",
    );
    let received: Vec<String> = sink.wait_for(2).iter().map(text).collect();
    let expected = "X-Saw: edited\r\nX-Added: by the first\r\nSubject: edited\r\nX-Kept: b\r\n\r\nbody\r\n";
    assert!(received.iter().any(|text| text == expected), "{received:?}");
    let expected = "Subject: body\r\nX: y\r\n\r\nanother body\r\n";
    assert!(received.iter().any(|text| text == expected), "{received:?}");
}

#[test]
fn an_envelope_is_rewritten_and_extended() {
    let sink = Sink::start();
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .plugin("editor", &guest("editor"), EDITS, "")
        .start();
    for (recipient, subject, expected) in [
        ("alias@ours.test", "x", &["RCPT TO:<real@ours.test>"][..]),
        (
            "copied@ours.test",
            "x",
            &["RCPT TO:<archive@ours.test>", "RCPT TO:<copied@ours.test>"],
        ),
        (
            "u@ours.test",
            "copy",
            &["RCPT TO:<archive@ours.test>", "RCPT TO:<u@ours.test>"],
        ),
    ] {
        let before = sink.count();
        sends(
            &relay,
            &[recipient],
            &format!("Subject: {subject}\r\n\r\nbody"),
            "250 2.0.0",
        );
        let mut recipients: Vec<String> = sink.wait_for(before + 1)[before]
            .recipients
            .iter()
            .map(|line| line.split_inclusive('>').next().unwrap_or_default().to_owned())
            .collect();
        recipients.sort();
        assert_eq!(recipients, expected, "{recipient} {subject}");
    }
}

#[test]
fn the_gate_has_the_last_word_on_what_plugins_make_of_recipients() {
    let sink = Sink::start();
    let start = |setup: Setup| {
        setup
            .next_hop(&sink.next_hop())
            .plugin("editor", &guest("editor"), EDITS, "")
            .start()
    };
    let relay = start(Setup::new());
    rcpt(
        &mut at_rcpt(&relay),
        "away@ours.test",
        "550 5.7.1 <away@ours.test>: Relay access denied (network-not-trusted) [",
    );
    rcpt(&mut at_rcpt(&relay), "leaked@ours.test", "451 4.3.0 ");
    relay.logged(&["refused", "added-recipient-denied", "archive@remote.test"]);
    sends(&relay, &["u@ours.test"], "Subject: leak\r\n\r\nbody", "451 4.3.0 ");

    // What a policy allows is the recipient that it saw, and no other.
    let generous = |setup: Setup| {
        let allow = "[plugin.config]\nallow = true";
        setup.top("trusted_networks = [\"127.0.0.0/8\"]").plugin(
            "generous",
            &guest("editor"),
            "\"relay\", \"read-message\"",
            allow,
        )
    };
    let relay = start(generous(Setup::new()));
    rcpt(&mut at_rcpt(&relay), "u@remote.test", "250 2.1.5");
    rcpt(&mut at_rcpt(&relay), "leaked@remote.test", "451 4.3.0 ");
    rcpt(
        &mut at_rcpt(&relay),
        "away@ours.test",
        "550 5.7.1 <away@ours.test>: Relay access denied (",
    );
    let relay = generous(Setup::new().plugin("editor", &guest("editor"), EDITS, "")).start();
    rcpt(&mut at_rcpt(&relay), "away@ours.test", "250 2.1.5");
    rcpt(&mut at_rcpt(&relay), "leaked@remote.test", "451 4.3.0 ");
    assert_eq!(sink.count(), 0);
}

#[test]
fn accept_skips_the_later_ones_except_those_that_are_always_asked() {
    let behind = |toml: &str| {
        Setup::new()
            .plugin("first", &guest("editor"), EDITS, "")
            .plugin("behind", &guest("editor"), EDITS, toml)
            .start()
    };
    let relay = behind("[plugin.config]\nrefuse = [\"accepted\"]");
    rcpt(&mut at_rcpt(&relay), "accepted@ours.test", "250 2.1.5");
    // And it grants nothing.
    rcpt(
        &mut at_rcpt(&relay),
        "accepted@remote.test",
        "550 5.7.1 <accepted@remote.test>: Relay access denied (",
    );
    let relay = behind("always = true\n[plugin.config]\nrefuse = [\"accepted\"]");
    rcpt(
        &mut at_rcpt(&relay),
        "accepted@ours.test",
        "550 5.7.1 accepted@ours.test is refused [",
    );
}

#[test]
fn what_is_discarded_says_250_and_goes_nowhere() {
    let sink = Sink::start();
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .plugin("first", &guest("editor"), EDITS, "")
        .plugin(
            "always",
            &guest("editor"),
            EDITS,
            "always = true\n[plugin.config]\ndiscard = [\"accepted\"]",
        )
        .start();
    sends(&relay, &["u@ours.test"], "Subject: nothing\r\n\r\nbody", "250 2.0.0");
    sends(&relay, &["nowhere@ours.test"], "Subject: x\r\n\r\nbody", "250 2.0.0");
    sends(&relay, &["accepted@ours.test"], "Subject: x\r\n\r\nbody", "250 2.0.0");
    sends(
        &relay,
        &["nowhere@ours.test", "u@ours.test"],
        "Subject: x\r\n\r\nbody",
        "250 2.0.0",
    );
    let received = sink.wait_for(1);
    assert_eq!(received.len(), 1);
    assert!(
        received[0].recipients.len() == 1 && received[0].recipients[0].contains("<u@ours.test>"),
        "{received:?}"
    );
    // Discarding is no way around the gate.
    rcpt(
        &mut at_rcpt(&relay),
        "nowhere@remote.test",
        "550 5.7.1 <nowhere@remote.test>: Relay access denied (",
    );
}

#[test]
fn what_is_quarantined_waits_for_an_administrator() {
    let sink = Sink::start();
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .plugin("editor", &guest("editor"), EDITS, "")
        .start();
    sends(&relay, &["u@ours.test"], "Subject: hold\r\n\r\nbody", "250 2.0.0");
    // What came later has gone: what is held had its chance.
    sends(&relay, &["tagged@ours.test"], "Subject: x\r\n\r\nbody", "250 2.0.0");
    assert!(sink.wait_for(1)[0].recipients[0].contains("tagged@"));
    let list: serde_json::Value = serde_json::from_str(&relay.command(&["queue", "list", "--json"])).expect("JSON");
    let held = list
        .as_array()
        .or_else(|| list["messages"].as_array())
        .and_then(|messages| messages.iter().find(|message| message["held"] == "held, as told"))
        .unwrap_or_else(|| panic!("{list}"));
    let id = held["id"].as_str().expect("an id");
    relay.command(&["queue", "release", id]);
    assert_eq!(text(&sink.wait_for(2)[1]), "Subject: hold\r\n\r\nbody\r\n");
}

#[test]
fn a_policy_withdraws_extensions_and_takes_its_time() {
    let relay = Setup::new()
        .listener("mx", "tls = \"starttls\"")
        .plugin("editor", &guest("editor"), EDITS, "")
        .start();
    let mut client = relay.connect("mx");
    let offered = client.says("EHLO client.test", "250");
    assert!(
        offered.contains("PIPELINING") && offered.contains("CHUNKING"),
        "{offered}"
    );
    let offered = client.says("EHLO plain.test", "250");
    assert!(
        !offered.contains("PIPELINING") && !offered.contains("CHUNKING"),
        "{offered}"
    );
    assert!(offered.contains("STARTTLS"), "{offered}");
    // TLS is nothing that a policy can take away.
    client.says("EHLO clear.test", "451 4.3.0 ");
    relay.logged(&["decision", "editor", "on-ehlo", "STARTTLS cannot be withdrawn"]);
    let before = Instant::now();
    client.says("EHLO slow.test", "250");
    assert!(before.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_policy_that_left_a_session_is_asked_again_when_the_client_becomes_another() {
    let relay = Setup::new()
        .listener("mx", "tls = \"starttls\"\nauth = \"optional\"")
        .user("alice", "pw")
        .plugin(
            "editor",
            &guest("editor"),
            EDITS,
            "[plugin.config]\nrefuse = [\"unwanted\"]",
        )
        .start();
    #[track_caller]
    fn unwanted(client: &mut Client, start: &str) {
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        rcpt(client, "unwanted@ours.test", start);
        client.says("RSET", "250");
    }
    let mut client = relay.connect("mx");
    client.says("EHLO client.test", "250");
    unwanted(&mut client, "550 5.7.1 unwanted@ours.test is refused");
    client.says("EHLO leaving.test", "250");
    unwanted(&mut client, "250");
    unwanted(&mut client, "250");
    let mut client = client.into_starttls();
    client.says("EHLO client.test", "250");
    unwanted(&mut client, "550 5.7.1 unwanted@ours.test is refused");
    client.says("EHLO leaving.test", "250");
    unwanted(&mut client, "250");
    client.auth_plain("alice", "pw", "235");
    unwanted(&mut client, "550 5.7.1 unwanted@ours.test is refused");
}

#[test]
fn rate_limit_stops_who_has_had_enough() {
    let limits = "[[plugin.config.limits]]\ncount = \"messages\"\nper = \"address\"\nrate = 3\nper_seconds = 3600\n\
                  [[plugin.config.limits]]\ncount = \"recipients\"\nper = \"sender-domain\"\nrate = 4\nper_seconds = 3600";
    let relay = Setup::new()
        .plugin("rate-limit", &plugin("rate-limit"), "\"state\"", limits)
        .start();
    let mut client = relay.connect("mx");
    client.ehlo();
    // A recipient that is refused counts, and its message with it. Further recipients of a message that has one are still one message.
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    rcpt(&mut client, "u@strange.test", "550 5.7.1");
    rcpt(&mut client, "u@ours.test", "250");
    rcpt(&mut client, "v@ours.test", "250");
    client.says("RSET", "250");
    // A third one, whose second recipient is one too many; that takes nothing from any bucket.
    client.says("MAIL FROM:<me@ELSEWHERE.test>", "250");
    rcpt(&mut client, "u@ours.test", "250");
    rcpt(
        &mut client,
        "v@ours.test",
        "450 4.7.1 Too many recipients: try again in ",
    );
    relay.logged(&["refused", "rate-limit", "on-rcpt", "rate-limited", "elsewhere.test"]);
    client.says("RSET", "250");
    // And one message too many, as often as it is tried.
    client.says("MAIL FROM:<me@other.test>", "250");
    for _ in 0..2 {
        rcpt(&mut client, "u@ours.test", "450 4.7.1 Too many messages: try again in ");
    }
    relay.logged(&["refused", "rate-limit", "on-rcpt", "rate-limited", "127.0.0.1"]);
    // Another session of the same address is in the same bucket.
    let mut client = at_rcpt(&relay);
    rcpt(&mut client, "u@ours.test", "450 4.7.1 Too many messages: try again in ");
}

#[test]
fn spam_scan_tags_spam_and_believes_no_tags_that_come_along() {
    let sink = Sink::start();
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .plugin(
            "spam-scan",
            &plugin("spam-scan"),
            "\"read-message\", \"edit-message\"",
            "",
        )
        .start();
    let ham = "From: a@elsewhere.test\r\nTo: u@ours.test\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\
               Message-ID: <1@elsewhere.test>\r\nSubject: lunch\r\n";
    let forged = "X-Spam-Flag: YES\r\nX-Spam-Score: -50\r\n";
    sends(
        &relay,
        &["u@ours.test"],
        &format!("{ham}{forged}\r\nAt noon?"),
        "250 2.0.0",
    );
    let spam = "From: \"1234567\" <>\r\nSubject: MAKE $5000 FAST!!!!!      xk2j9\r\nX-Spam-Score: -50\r\n\
                Content-Type: text/html\r\n\r\n<a href=\"http://3232235777/\">CLICK HERE NOW</a> ACT NOW! LIMITED TIME!";
    sends(&relay, &["u@ours.test"], spam, "250 2.0.0");
    let received: Vec<String> = sink.wait_for(2).iter().map(text).collect();
    assert!(received.contains(&format!("{ham}\r\nAt noon?\r\n")), "{received:?}");
    let tagged = received
        .iter()
        .find(|text| text.contains("3232235777"))
        .expect("the spam");
    assert!(
        tagged.contains("X-Spam-Flag: YES\r\n") && tagged.contains("X-Spam-Report: "),
        "{tagged}"
    );
    assert!(!tagged.contains("-50"), "{tagged}");
}

#[test]
fn rbl_refuses_whom_a_list_names() {
    if !(support::peer("nsd") && support::peer("python3")) {
        return;
    }
    let lists = Lists::start(
        "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n1.0.0.127 A 127.0.0.2\n",
    );
    let relay = Setup::new()
        .top(&format!("[dns]\nservers = [\"{}\"]", lists.address))
        .plugin(
            "rbl",
            &plugin("rbl"),
            "\"dns\"",
            "[[plugin.config.lists]]\nzone = \"bl.test\"",
        )
        .start();
    let mut client = at_rcpt(&relay);
    rcpt(
        &mut client,
        "u@ours.test",
        "550 5.7.1 Client host [127.0.0.1] blocked using bl.test",
    );
    rcpt(&mut client, "postmaster@ours.test", "250 2.1.5");
    relay.logged(&["refused", "\"plugin\":\"rbl\"", "on-rcpt", "\"reason\":\"listed\""]);
}

/// A name server of its own for the zone `bl.test`; stopped when dropped.
struct Lists {
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
}

impl Lists {
    fn start(zone: &str) -> Lists {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("zone");
        std::fs::write(&file, zone).expect("a zone");
        let lists = Lists {
            folder,
            address: free_address(),
        };
        let zone = format!("bl.test={}", file.display());
        lists.nsd(&["start", "--port", &lists.address.port().to_string(), "--zone", &zone]);
        lists
    }

    fn nsd(&self, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/nsd.py");
        let status = std::process::Command::new("python3")
            .arg(script)
            .args(arguments)
            .arg("--dir")
            .arg(self.folder.path().join("nsd"))
            .status()
            .expect("python3");
        assert!(status.success(), "nsd.py {arguments:?}: {status}");
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        self.nsd(&["stop"]);
    }
}
