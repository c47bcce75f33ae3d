//! Who may relay, and what everybody else is told.

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use support::client::Client;
use support::servers::Nsd;
use support::sink::Sink;
use support::{Relay, Setup, free_address};

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

/// MAIL with this sender and RCPT with this recipient, which is answered so.
#[track_caller]
fn rcpt(client: &mut Client, sender: &str, recipient: &str, start: &str) {
    client.says("RSET", "250");
    client.says(&format!("MAIL FROM:<{sender}>"), "250");
    client.says(&format!("RCPT TO:<{recipient}>"), start);
}

/// A day of the week (Monday is 0) in UTC that is neither today nor beside it.
fn a_day_far_from_now() -> &'static str {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    // 1970-01-01 was a Thursday.
    let today = now.as_secs() / 86_400 + 3;
    ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][((today + 3) % 7) as usize]
}

#[test]
fn an_identity_is_held_to_its_networks_hours_recipients_and_tls() {
    let denied = |reason: &str| format!("550 5.7.1 <u@remote.test>: Relay access denied ({reason}) [");
    let config = format!(
        "require_tls = true\ntag_separator = \"+\"\n\
         [plugin.config.senders]\nscanner = [\"@devices.test\"]\n\
         [plugin.config.identities.scanner]\nrecipient_domains = [\"archive.test\"]\nnetworks = [\"127.0.0.0/8\"]\n\
         [plugin.config.identities.roaming]\nnetworks = [\"192.0.2.0/24\"]\n\
         [plugin.config.identities.clerk]\nhours = [\"{} 08:00-18:00\"]",
        a_day_far_from_now()
    );
    let names = ["alice", "scanner", "roaming", "clerk", "www-data"];
    let setup = Setup::new()
        .listener("mx", MX)
        .listener(
            "plain",
            "tls = \"none\"\nauth = \"required\"\nallow_plaintext_auth = true",
        )
        .auth_relay(&config);
    let relay = names
        .into_iter()
        .fold(setup, |setup, name| setup.user(name, "pw"))
        .start();
    let log_in = |name: &str| {
        let mut client = relay.connect("mx").starttls();
        client.auth_plain(name, "pw", "235");
        client
    };

    let mut alice = log_in("alice");
    rcpt(&mut alice, "alice+news@ours.test", "u@remote.test", "250 2.1.5");
    rcpt(
        &mut alice,
        "bob+alice@ours.test",
        "u@remote.test",
        &denied("sender-not-owned"),
    );

    let mut scanner = log_in("scanner");
    rcpt(&mut scanner, "third@devices.test", "u@archive.test", "250 2.1.5");
    rcpt(&mut scanner, "third@devices.test", "u@ours.test", "250 2.1.5");
    rcpt(
        &mut scanner,
        "third@devices.test",
        "u@remote.test",
        &denied("recipient-not-allowed"),
    );
    relay.logged(&[
        "refused",
        "recipient-not-allowed",
        "scanner may not send to remote.test",
    ]);

    for (name, reason, detail) in [
        ("roaming", "network-not-allowed", "roaming comes from 127.0.0.1"),
        ("clerk", "outside-hours", "clerk may send "),
        ("www-data", "identity-may-not-send", "www-data is in `never_send`"),
    ] {
        let sender = format!("{name}@ours.test");
        let mut client = log_in(name);
        rcpt(&mut client, &sender, "u@remote.test", &denied(reason));
        // Inside as well: a stolen password serves for phishing there, too.
        rcpt(&mut client, &sender, "u@ours.test", "550 5.7.1 <u@ours.test>");
        relay.logged(&["refused", reason, detail]);
    }

    let mut plain = relay.connect("plain");
    plain.ehlo();
    plain.auth_plain("alice", "pw", "235");
    rcpt(
        &mut plain,
        "alice@ours.test",
        "u@remote.test",
        "530 5.7.0 Must issue a STARTTLS command first (tls-required) [",
    );
}

#[test]
fn a_trusted_network_relays_under_its_own_name_and_not_for_its_web_server() {
    let denied = |reason: &str| format!("550 5.7.1 <u@remote.test>: Relay access denied ({reason}) [");
    let reverse = "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns.inside.test.\n7 PTR web1.inside.test.\n";
    let inside = "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\nweb1 A 192.0.2.7\n";
    let Some(nsd) = Nsd::start(&[("2.0.192.in-addr.arpa", reverse), ("inside.test", inside)]) else {
        return;
    };
    let relay = |dns: std::net::SocketAddr, names: &str| {
        Setup::new()
            .top("trusted_networks = [\"192.0.2.0/24\"]")
            .top(&format!("[dns]\nservers = [\"{dns}\"]\ntimeout = \"1s\"\nattempts = 1"))
            .listener("mx", "tls = \"none\"\nproxy_from = [\"127.0.0.1/32\"]")
            .auth_relay(&format!(
                "allow_trusted_networks = true\ntrusted_names = [\"{names}\"]\n\
                 [plugin.config.networks.\"192.0.2.0/28\"]\nrecipient_domains = [\"remote.test\"]"
            ))
            .start()
    };
    // The resolver knows the names of loopback by itself.
    let from_web1 = |relay: &Relay| {
        let mut client = Client::connect(relay.address("mx"));
        client.raw("PROXY TCP4 192.0.2.7 192.0.2.200 1025 25\r\n");
        client.expect("220");
        client.ehlo();
        client
    };
    let trusting = relay(nsd.address(), ".inside.test");
    let mut client = from_web1(&trusting);
    rcpt(&mut client, "app@inside.test", "u@remote.test", "250 2.1.5");
    rcpt(
        &mut client,
        "app@inside.test",
        "u@other.test",
        "550 5.7.1 <u@other.test>: Relay access denied (recipient-not-allowed) [",
    );
    let web = "\"www-data\"@web1.inside.test";
    rcpt(&mut client, web, "u@remote.test", &denied("identity-may-not-send"));
    rcpt(&mut client, web, "u@ours.test", "250 2.1.5");

    let expecting = relay(nsd.address(), "mail.inside.test");
    let mut client = from_web1(&expecting);
    rcpt(
        &mut client,
        "app@inside.test",
        "u@remote.test",
        &denied("reverse-name-not-trusted"),
    );
    expecting.logged(&["refused", "192.0.2.7 is web1.inside.test"]);

    let without_dns = relay(free_address(), ".inside.test");
    let mut client = from_web1(&without_dns);
    rcpt(
        &mut client,
        "app@inside.test",
        "u@remote.test",
        "450 4.7.25 <u@remote.test>: Relay access denied (reverse-name-missing) [",
    );
    rcpt(&mut client, "app@inside.test", "u@ours.test", "250 2.1.5");
}
