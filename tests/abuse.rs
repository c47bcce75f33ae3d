//! A login was stolen, and the relay sees five hundred messages a minute from it: the reference policies, as an administrator would configure them.

mod support;

use std::thread;

use support::client::Client;
use support::sink::Sink;
use support::{Relay, Setup, plugin};

/// What the thief sends, over so many connections at a time.
const MESSAGES: usize = 500;
const CONNECTIONS: usize = 5;
/// Recipients that pass before anything is unusual.
const AT_LEAST: usize = 20;
/// Who sends good mail meanwhile, and how much each.
const OTHERS: [&str; 3] = ["bob", "carol", "dave"];
const GOOD: usize = 15;

/// The addresses in whose names the thief sends: all are alice's.
const ALICES: [&str; 2] = ["alice@ours.test", "alice+offers@ours.test"];
/// Why the thief's mail is held.
const HELD: &str = "outbound brake: alice sent far more than usual";

/// As an administrator would write it, but for the numbers.
const BRAKE: &str = "[plugin.config.brake]\nat_least = 20\nwindow_seconds = 86_400\n";

/// A session of this user.
fn session(relay: &Relay, user: &str) -> Client {
    let mut client = relay.connect("submission").starttls();
    client.auth_plain(user, "secret", "235");
    client
}

#[test]
fn a_stolen_login_is_stopped_within_its_first_burst_and_nobody_else_is() {
    let (sink, admin) = (Sink::start(), support::free_address());
    let mut setup = Setup::new()
        .top(&format!("[admin]\naddress = \"{admin}\""))
        .listener("submission", "tls = \"starttls\"\nauth = \"required\"")
        .user("alice", "secret");
    for user in OTHERS {
        setup = setup.user(user, "secret");
    }
    let relay = setup
        .auth_relay("tag_separator = \"+\"\n")
        .plugin("rate-limit", &plugin("rate-limit"), "\"state\"", BRAKE)
        .delivery(&format!("next_hop = \"{}\"\ntls = \"none\"", sink.next_hop()))
        .start();

    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut thief = session(&relay, "alice");
                for number in 0..MESSAGES / CONNECTIONS {
                    let to = format!("victim{number}@elsewhere.test");
                    // Who abuses the account learns nothing: all of it seems to be on its way.
                    let sender = ALICES[number % ALICES.len()];
                    let reply = thief.send(sender, &[&to], "Subject: pills\r\n\r\nbuy");
                    assert!(reply.starts_with("250"), "{reply}");
                }
            });
        }
        for user in OTHERS {
            let relay = &relay;
            scope.spawn(move || {
                let mut session = session(relay, user);
                for _ in 0..GOOD {
                    let sender = format!("{user}@ours.test");
                    let reply = session.send(&sender, &["friend@elsewhere.test"], "Subject: hello\r\n\r\nyou");
                    assert!(reply.starts_with("250"), "{reply}");
                }
            });
        }
    });

    let went_out = sink.wait_for(AT_LEAST + OTHERS.len() * GOOD);
    let from = |user: &str| {
        let sender = format!("<{user}");
        went_out.iter().filter(|message| message.mail.contains(&sender)).count()
    };
    assert_eq!(from("alice"), AT_LEAST);
    for user in OTHERS {
        assert_eq!(from(user), GOOD, "{user}");
    }
    let held = relay.command(&["queue", "list", "--held", HELD, "--json"]);
    let held: Vec<serde_json::Value> = serde_json::from_str(&held).expect("a list");
    assert_eq!(held.len(), MESSAGES - AT_LEAST);
    assert_eq!(held[0]["held"], HELD);

    // One event says who, from where, what, and what to do; and so do a counter and each message's decision.
    let event = relay.logged(&["outbound brake pulled"]);
    for part in [
        "alice from [127.0.0.1] (listener submission, EHLO client.test)",
        "sent to 21 recipients within 86400 s, where 0 are usual and 20 pass",
        "now <alice",
        "@ours.test> to <victim",
        "Release: gatepost queue release --held 'outbound brake: alice sent far more than usual'",
        "Drop: gatepost queue remove --held 'outbound brake: alice sent far more than usual'",
        "Stop the account: gatepost user passwd 'alice'",
    ] {
        assert!(event.contains(part), "{part}: {event}");
    }
    assert_eq!(relay.log().matches("outbound brake pulled").count(), 1);
    relay.logged(&["accepted", "alice@ours.test", "held", "outbound brake: alice"]);
    support::until("the metrics say so", || {
        let page = relay.page(admin, "/metrics");
        let counter = |name: &str| format!("gatepost_plugin_counter_total{{plugin=\"rate-limit\",name=\"{name}\"}}");
        page.contains(&format!("{} 1\n", counter("brake_pulled")))
            && page.contains(&format!("{} {}\n", counter("messages_held"), MESSAGES - AT_LEAST))
    });

    // The event's own words: what nobody wants is forgotten, and the rest let go, whichever of her addresses it is from.
    let dropped = relay.command(&["queue", "remove", "--held", HELD, "--sender", ALICES[1], "--json"]);
    let dropped: Vec<String> = serde_json::from_str(&dropped).expect("a list of ids");
    assert!(!dropped.is_empty() && dropped.len() < held.len());
    let rest = held.len() - dropped.len();
    let released = relay.command(&["queue", "release", "--held", HELD]);
    assert_eq!(released, format!("{rest} messages released\n"));
    sink.wait_for(AT_LEAST + OTHERS.len() * GOOD + rest);
    support::until("the queue is empty", || {
        relay.command(&["queue", "list", "--json"]).trim() == "[]"
    });
}

#[test]
fn a_policy_without_configuration_is_not_called() {
    let admin = support::free_address();
    let connections =
        "[plugin.config]\nlimits = [{ count = \"connections\", per = \"address\", rate = 9, per_seconds = 1 }]\n";
    let relay = Setup::new()
        .top(&format!("[admin]\naddress = \"{admin}\""))
        .plugin("idle", &plugin("rate-limit"), "\"state\"", "")
        .plugin("busy", &plugin("rate-limit"), "\"state\"", connections)
        .start();
    let mut client = relay.connect("mx");
    client.ehlo();
    let reply = client.send("me@elsewhere.test", &["bob@ours.test"], "Subject: x\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    let page = relay.page(admin, "/metrics");
    let called = |plugin: &str, stage: &str| {
        page.contains(&format!(
            "gatepost_hook_seconds_count{{plugin=\"{plugin}\",stage=\"{stage}\"}}"
        ))
    };
    assert!(called("busy", "connect"), "{page}");
    for (plugin, stage) in [
        ("busy", "rcpt"),
        ("busy", "message"),
        ("idle", "connect"),
        ("idle", "rcpt"),
        ("idle", "message"),
    ] {
        assert!(!called(plugin, stage), "{plugin} {stage}");
    }
}
