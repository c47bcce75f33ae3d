//! From the queue to the next hop: waiting, trying again, giving up, and what an administrator can do meanwhile.

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use support::servers::{Nsd, root};
use support::sink::{Down, Sink};
use support::{Relay, Setup, until};

const HELLO: &str = "Subject: hello\r\n\r\nbody";

/// Sends one message; its id.
fn send(relay: &Relay, sender: &str, recipients: &[&str]) -> String {
    let mut client = relay.connect("mx");
    client.ehlo();
    let reply = client.send(sender, recipients, HELLO);
    let id = reply
        .strip_prefix("250 2.0.0 ")
        .and_then(|text| text.split_whitespace().last());
    id.unwrap_or_else(|| panic!("{reply}"))
        .trim_matches(['(', ')'])
        .to_owned()
}

fn list(relay: &Relay) -> Vec<serde_json::Value> {
    serde_json::from_str(&relay.command(&["queue", "list", "--json"])).expect("a list")
}

fn is_empty(relay: &Relay) -> bool {
    list(relay).is_empty()
}

#[test]
fn a_message_waits_for_its_next_hop_and_administrators_decide() {
    let down = Down::start();
    let relay = Setup::new()
        .next_hop(&down.next_hop())
        .delivery("retry = [\"1h\"]")
        .start();
    let kept = send(&relay, "alice@elsewhere.test", &["u@ours.test"]);
    let held = send(&relay, "bob@elsewhere.test", &["u@ours.test"]);
    let removed = send(&relay, "carol@elsewhere.test", &["u@ours.test"]);
    for id in [&kept, &held, &removed] {
        relay.logged(&["deferred", id, "refused"]);
    }
    until("all have been attempted", || {
        list(&relay).iter().all(|item| item["attempts"] == 1)
    });

    let text = relay.command(&["queue", "list"]);
    assert!(
        text.contains("<alice@elsewhere.test> -> <u@ours.test>") && text.contains("3 messages"),
        "{text}"
    );
    let text = relay.command(&["queue", "list", "--sender", "bob@*"]);
    assert!(text.contains(&held) && !text.contains(&kept), "{text}");
    let text = relay.command(&["queue", "show", &kept]);
    assert!(
        text.contains("Subject: hello") && text.contains("attempts   1"),
        "{text}"
    );
    let shown: serde_json::Value =
        serde_json::from_str(&relay.command(&["queue", "show", "--json", &kept])).expect("a message");
    assert_eq!(shown["state"]["envelope"]["sender"], "alice@elsewhere.test");

    assert_eq!(relay.command(&["queue", "hold", &held]), "1 message held\n");
    assert_eq!(
        relay.command(&["queue", "remove", "--sender", "carol@*"]),
        "1 message removed\n"
    );
    let refused = relay.fails(&["queue", "show", &removed]);
    assert!(refused.contains(&removed), "{refused}");
    let refused = relay.fails(&["queue", "retry", &held]);
    assert!(refused.contains("release it instead"), "{refused}");

    // Asked now, it is tried now, however long the next hop has been away.
    let sink = down.up();
    let changed: Vec<String> =
        serde_json::from_str(&relay.command(&["queue", "retry", "--all", "--json"])).expect("ids");
    assert_eq!(changed, [kept.as_str()]);
    assert!(sink.wait_for(1)[0].mail.contains("alice@elsewhere.test"));
    until("only the held one is left", || list(&relay).len() == 1);
    assert_eq!(list(&relay)[0]["held"], "by an administrator");

    assert_eq!(relay.command(&["queue", "release", "--all"]), "1 message released\n");
    let received = sink.wait_for(2);
    assert!(received[1].mail.contains("bob@elsewhere.test"), "{received:?}");
    until("the queue is empty", || is_empty(&relay));
    assert_eq!(sink.count(), 2);
}

#[test]
fn what_is_released_is_due_now() {
    let down = Down::start();
    let relay = Setup::new()
        .next_hop(&down.next_hop())
        .delivery("retry = [\"1h\"]")
        .start();
    let id = send(&relay, "alice@elsewhere.test", &["u@ours.test"]);
    relay.logged(&["deferred", &id, "refused"]);
    until("it has been attempted", || {
        list(&relay).iter().all(|item| item["attempts"] == 1)
    });
    relay.command(&["queue", "hold", &id]);
    // However long its retry would have been, and however long the next hop has been away.
    let sink = down.up();
    relay.command(&["queue", "release", &id]);
    assert!(sink.wait_for(1)[0].mail.contains("alice@elsewhere.test"));
}

#[test]
fn a_next_hop_that_comes_back_gets_what_waited() {
    let down = Down::start();
    let mut relay = Setup::new()
        .next_hop(&down.next_hop())
        .delivery("retry = [\"1s\"]")
        .start();
    send(&relay, "alice@elsewhere.test", &["u@ours.test"]);
    relay.logged(&["deferred", "refused"]);
    // The queue outlives the relay.
    assert!(relay.terminate().success());
    relay.restart();
    assert_eq!(list(&relay).len(), 1);
    let sink = down.up();
    assert_eq!(sink.wait_for(1)[0].below_trace(), b"Subject: hello\r\n\r\nbody\r\n");
    until("the queue is empty", || is_empty(&relay));
}

/// A next hop that refuses `no-...`, and tells each other `later-...` to come again once.
fn choosy() -> Sink {
    let met = Mutex::new(HashSet::new());
    Sink::answering(move |line| {
        let later = line.contains("<later") && met.lock().expect("no panic").insert(line.to_owned());
        if line.starts_with("RCPT TO:<no") {
            Some("550 5.1.1 there is nobody of that name".to_owned())
        } else if line.starts_with("RCPT") && later {
            Some("451 4.2.0 come again".to_owned())
        } else {
            None
        }
    })
}

#[test]
fn each_recipient_has_its_own_end() {
    let sink = choosy();
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .delivery("retry = [\"1s\"]")
        .start();
    send(
        &relay,
        "alice@ours.test",
        &["yes@ours.test", "later@ours.test", "no@ours.test"],
    );
    let received = sink.wait_for(3);
    until("the queue is empty", || is_empty(&relay));
    let mut recipients: Vec<_> = received.iter().flat_map(|message| message.recipients.clone()).collect();
    recipients.sort();
    assert!(
        recipients.iter().map(|line| line.split(['<', '>']).nth(1)).eq([
            Some("alice@ours.test"),
            Some("later@ours.test"),
            Some("yes@ours.test")
        ]),
        "{recipients:?}"
    );
    let bounce = received
        .iter()
        .find(|message| message.mail.starts_with("MAIL FROM:<>"))
        .expect("a bounce");
    let text = String::from_utf8_lossy(&bounce.content);
    assert!(
        text.contains("Final-Recipient: rfc822; no@ours.test") && text.contains("Status: 5.1.1"),
        "{text}"
    );
    assert!(!text.contains("Final-Recipient: rfc822; later"), "{text}");
    assert_eq!(sink.count(), 3);
}

#[test]
fn the_null_sender_gets_no_bounce() {
    let sink = choosy();
    let relay = Setup::new().next_hop(&sink.next_hop()).start();
    let id = send(&relay, "", &["no@ours.test"]);
    relay.logged(&["failed", &id, "5.1.1"]);
    until("the queue is empty", || is_empty(&relay));
    assert_eq!(sink.count(), 0);

    // A bounce that fails is not bounced again.
    send(&relay, "no-one@ours.test", &["no@ours.test"]);
    relay.logged(&["failed", "\"sender\":\"\"", "no-one@ours.test", "5.1.1"]);
    until("the queue is empty", || is_empty(&relay));
    assert_eq!(sink.count(), 0);
}

#[test]
fn what_has_waited_for_too_long_is_given_up() {
    let sink = Sink::answering(|line| {
        line.starts_with("RCPT TO:<u@")
            .then(|| "451 4.2.0 come again".to_owned())
    });
    let relay = Setup::new()
        .next_hop(&sink.next_hop())
        .delivery("retry = [\"1s\"]\nexpire_after = \"2s\"")
        .start();
    send(&relay, "alice@ours.test", &["u@ours.test"]);
    let bounce = &sink.wait_for(1)[0];
    let text = String::from_utf8_lossy(&bounce.content);
    assert!(text.contains("Status: 5.4.7") && text.contains("come again"), "{text}");
    until("the queue is empty", || is_empty(&relay));
}

#[test]
fn domains_have_their_routes() {
    let (inside, outside) = (Sink::start(), Sink::start());
    let setup = Setup::new();
    let mail = setup.dir.path().join("state/mail");
    let route = |name: &str, next_hop: &str| {
        format!("[[route]]\nname = \"{name}\"\ndomains = [\"{name}.test\"]\nnext_hop = \"{next_hop}\"\n")
    };
    let relay = setup
        .top("relay_domains = [\"ours.test\", \"inside.test\", \"kept.test\", \"dropped.test\"]")
        .top(&route("inside", &inside.next_hop()))
        .top(&route("kept", &format!("maildir:{}", mail.display())))
        .top(&route("dropped", "discard:"))
        .next_hop(&outside.next_hop())
        .start();
    let recipients = ["u@INSIDE.test", "u@kept.test", "u@dropped.test", "u@ours.test"];
    let id = send(&relay, "alice@elsewhere.test", &recipients);
    assert_eq!(inside.wait_for(1)[0].recipients.len(), 1);
    assert_eq!(outside.wait_for(1)[0].recipients, ["RCPT TO:<u@ours.test>"]);
    relay.logged(&["delivered", &id, "u@kept.test", "stored as"]);
    relay.logged(&["delivered", &id, "u@dropped.test", "discarded"]);
    until("the queue is empty", || is_empty(&relay));
    let stored: Vec<_> = std::fs::read_dir(mail.join("new"))
        .expect("a maildir")
        .flatten()
        .collect();
    assert_eq!(stored.len(), 1);
    let text = std::fs::read_to_string(stored[0].path()).expect("text");
    assert!(
        text.ends_with("Subject: hello\r\n\r\nbody\r\n") && text.contains("u@kept.test"),
        "{text}"
    );
}

#[test]
fn mail_exchangers_are_found_and_tried_in_order() {
    if !root("port 25") {
        return;
    }
    // The best exchanger refuses connections; 127.0.0.0/8 is all ours, so this touches no server of the machine's.
    let second = SocketAddr::from(([127, 77, 25, 2], 25));
    let far = "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n\
        @ MX 10 first\n@ MX 20 second\nfirst A 127.77.25.1\nsecond A 127.77.25.2\n\
        own MX 10 relay.test.\nnone MX 0 .\naddress A 127.77.25.2\n";
    let Some(nsd) = Nsd::start(&[("far.test", far)]) else {
        return;
    };
    let sink = Sink::at(second).expect("port 25 of an address of our own");
    let relay = Setup::new()
        .top("relay_domains = [\"far.test\", \"own.far.test\", \"none.far.test\", \"gone.far.test\", \"address.far.test\"]")
        .top(&format!("[dns]\nservers = [\"{}\"]", nsd.address()))
        .delivery("# no next hop: by MX")
        .start();
    send(&relay, "alice@far.test", &["u@far.test"]);
    assert_eq!(sink.wait_for(1)[0].recipients, ["RCPT TO:<u@far.test>"]);
    send(&relay, "alice@far.test", &["u@address.far.test"]);
    sink.wait_for(2);
    let ends = [("own", "5.4.6"), ("none", "5.1.10"), ("gone", "5.1.2")];
    for (number, (domain, status)) in ends.into_iter().enumerate() {
        send(&relay, "alice@far.test", &[&format!("u@{domain}.far.test")]);
        let received = sink.wait_for(3 + number);
        let text = String::from_utf8_lossy(&received[2 + number].content);
        assert!(text.contains(&format!("Status: {status}\r\n")), "{domain}: {text}");
    }
    until("the queue is empty", || is_empty(&relay));
}
