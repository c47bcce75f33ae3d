//! Who may relay, and what everybody else is told.

mod support;

use support::client::Client;
use support::sink::Sink;
use support::{Relay, Setup};

const SUBMISSION: &str = "tls = \"starttls\"\nauth = \"required\"";
const MX: &str = "tls = \"starttls\"\nauth = \"optional\"";

fn relay(sink: &Sink) -> Relay {
    Setup::new()
        .listener("mx", MX)
        .listener("inside", "tls = \"none\"")
        .listener("submission", SUBMISSION)
        .next_hop(&sink.next_hop())
        .auth_relay("")
        .user("alice", "correct horse")
        .start()
}

#[test]
fn a_stranger_is_told_why_and_under_which_id() {
    let relay = relay(&Sink::start());
    for (listener, reason) in [
        ("mx", "auth-not-offered-without-tls"),
        ("inside", "network-not-trusted"),
    ] {
        let mut client = relay.connect(listener);
        client.ehlo();
        client.says("MAIL FROM:<me@elsewhere.test>", "250 2.1.0");
        let reply = client.says(
            "RCPT TO:<u@remote.test>",
            "550 5.7.1 <u@remote.test>: Relay access denied (",
        );
        let id = reply
            .strip_prefix(&format!("550 5.7.1 <u@remote.test>: Relay access denied ({reason}) ["))
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or_else(|| panic!("{reply}"));
        assert_eq!(id.len(), 13, "{reply}");
        // The id leads to the log, which says more than the reply.
        relay.logged(&[id, reason, "u@remote.test", "refused"]);
    }
    let mut client = relay.connect("mx").starttls();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.says(
        "RCPT TO:<u@remote.test>",
        "550 5.7.1 <u@remote.test>: Relay access denied (not-authenticated) [",
    );
}

#[test]
fn every_trick_that_ever_opened_a_relay_is_refused() {
    let sink = Sink::start();
    let relay = relay(&sink);
    let forward_paths = [
        "u%remote.test@ours.test",
        "remote.test!u@ours.test",
        "u@remote.test@ours.test",
        "\"u@remote.test\"@ours.test",
        "\"u%remote.test\"@ours.test",
        "\"u%remote.test\"",
        "\"u@remote.test\"",
        "u@remote.test@",
        "@ours.test:u@remote.test",
        "@remote.test:u@ours.test",
        "@ours.test,@remote.test:u@ours.test",
        "u@[192.0.2.1]",
        "u@[127.0.0.1]",
        "u@[IPv6:::1]",
        "u@ours.test:25",
        "u@remote.test",
        "u@remote.test.",
        "U@REMOTE.TEST",
        "u@sub.ours.test",
        "u@ours.test.remote.test",
        "u%remote.test%ours.test@ours.test",
        "u\u{ff20}remote.test@ours.test",
    ];
    let senders = [
        "me@elsewhere.test",
        "",
        "postmaster@ours.test",
        "alice@ours.test",
        "root@localhost.test",
    ];
    for listener in ["mx", "inside"] {
        for sender in senders {
            let mut client = relay.connect(listener);
            client.ehlo();
            for path in forward_paths {
                client.says(&format!("MAIL FROM:<{sender}>"), "250");
                client.line(&format!("RCPT TO:<{path}>"));
                let reply = client.reply();
                assert!(reply.starts_with('5'), "{path} from <{sender}> on {listener}: {reply}");
                client.line("RSET");
                let reset = client.reply();
                if reset.is_empty() || reset.starts_with("421") {
                    // Too many errors: the point is made, the next path needs a new session.
                    client = relay.connect(listener);
                    client.ehlo();
                }
            }
        }
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn mail_to_ours_is_taken_from_anyone() {
    let sink = Sink::start();
    let relay = relay(&sink);
    let recipients = [
        "u@ours.test",
        "u@OURS.test",
        "u@ours.test.",
        "\"info@\"@ours.test",
        "postmaster",
    ];
    for recipient in recipients {
        let mut client = relay.connect("mx");
        client.ehlo();
        let reply = client.send("me@elsewhere.test", &[recipient], "Subject: hello\r\n\r\nbody");
        assert!(reply.starts_with("250 2.0.0"), "{recipient}: {reply}");
    }
    let received = sink.wait_for(recipients.len());
    assert!(
        received
            .iter()
            .any(|message| message.recipients == ["RCPT TO:<\"info@\"@ours.test>"]),
        "{received:?}"
    );
    for message in received {
        assert_eq!(message.below_trace(), b"Subject: hello\r\n\r\nbody\r\n");
    }
}

#[test]
fn an_authenticated_user_relays_as_herself_and_as_nobody_else() {
    let sink = Sink::start();
    let relay = relay(&sink);
    let mut client = relay.connect("submission").starttls();
    client.says("MAIL FROM:<alice@ours.test>", "530 5.7.0");
    client.auth_plain("alice", "correct horse", "235 2.7.0");
    let reply = client.send("alice@ours.test", &["u@remote.test"], "Subject: out\r\n\r\nbody");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    assert_eq!(sink.wait_for(1)[0].recipients, ["RCPT TO:<u@remote.test>"]);

    client.says("MAIL FROM:<bob@ours.test>", "250");
    client.says(
        "RCPT TO:<u@remote.test>",
        "550 5.7.1 <u@remote.test>: Relay access denied (sender-not-owned) [",
    );
    relay.logged(&["refused", "sender-not-owned", "alice"]);
}

#[test]
fn every_mechanism_authenticates_and_wrong_passwords_do_not() {
    let relay = relay(&Sink::start());
    let mut client = relay.connect("submission").starttls();
    client.auth_plain("alice", "wrong", "535 5.7.8");
    client.says("AUTH LOGIN", "334 VXNlcm5hbWU6");
    client.says("YWxpY2U=", "334 UGFzc3dvcmQ6");
    client.says("Y29ycmVjdCBob3JzZQ==", "235 2.7.0");
    client.says("AUTH LOGIN", "503 5.5.1");
    relay.logged(&["auth failed", "bad-credentials", "alice"]);

    let mut client = Client::connect(relay.address("submission"));
    client.expect("220 relay.test ESMTP");
    let offered = client.ehlo();
    assert!(!offered.contains("AUTH") && offered.contains("STARTTLS"), "{offered}");
    client.auth_plain("alice", "correct horse", "538 5.7.11");
    client.says(
        "MAIL FROM:<alice@ours.test>",
        "530 5.7.0 Must issue a STARTTLS command first",
    );
}

#[test]
fn without_any_plugin_nothing_is_relayed() {
    let relay = Setup::new()
        .listener("mx", MX)
        .user("alice", "pw")
        .top("trusted_networks = [\"127.0.0.0/8\"]")
        .start();
    let mut client = relay.connect("mx").starttls();
    client.auth_plain("alice", "pw", "235");
    client.says("MAIL FROM:<alice@ours.test>", "250");
    client.says(
        "RCPT TO:<u@remote.test>",
        "550 5.7.1 <u@remote.test>: Relay access denied (domain-not-ours) [",
    );
    client.says("RCPT TO:<u@ours.test>", "250");
}

#[test]
fn trusted_networks_relay_only_if_the_policy_says_so() {
    let trusted = Setup::new().top("trusted_networks = [\"127.0.0.0/8\"]");
    let relay = trusted.auth_relay("allow_trusted_networks = true").start();
    let mut client = relay.connect("mx");
    client.ehlo();
    let reply = client.send("app@anywhere.test", &["u@remote.test"], "Subject: out\r\n\r\nbody");
    assert!(reply.starts_with("250"), "{reply}");

    let relay = Setup::new()
        .top("trusted_networks = [\"127.0.0.0/8\"]")
        .auth_relay("")
        .start();
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<app@anywhere.test>", "250");
    client.says(
        "RCPT TO:<u@remote.test>",
        "550 5.7.1 <u@remote.test>: Relay access denied (",
    );
}
