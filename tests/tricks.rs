//! What attackers try below the level of policy, each with the exact answer.

mod support;

use support::client::Client;
use support::sink::Sink;
use support::{Relay, Setup};

fn relay(sink: &Sink) -> Relay {
    Setup::new()
        .listener("mx", "tls = \"starttls\"\nauth = \"optional\"")
        .listener("tls", "tls = \"implicit\"\nauth = \"required\"")
        .next_hop(&sink.next_hop())
        .user("alice", "pw")
        .start()
}

/// A transaction up to the 354.
fn at_data(relay: &Relay) -> Client {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.says("RCPT TO:<u@ours.test>", "250");
    client.says("DATA", "354");
    client
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    let sink = Sink::start();
    let relay = relay(&sink);
    let smuggled = "MAIL FROM:<evil@elsewhere.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx";
    let ends = [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\r\n",
        "\n.\r",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\r\n.\r\0\n",
    ];
    for end in ends {
        let mut client = at_data(&relay);
        client.raw(format!("Subject: outer\r\n\r\nbody{end}{smuggled}\r\n.\r\n"));
        client.expect("550 5.6.11");
        // One message, one reply, and the session goes on where it was.
        client.says("NOOP", "250");
    }
    for dots in ["\r\n..\r\n", "\r\n.x\r\n", "\r\n. \r\n"] {
        let mut client = at_data(&relay);
        client.raw(format!("Subject: outer\r\n\r\nbody{dots}{smuggled}\r\n.\r\n"));
        client.expect("250 2.0.0");
        client.says("NOOP", "250");
    }
    for message in sink.wait_for(3) {
        assert!(message.mail.starts_with("MAIL FROM:<me@elsewhere.test>"), "{message:?}");
    }
    assert_eq!(sink.count(), 3);
}

#[test]
fn within_bdat_an_end_of_data_is_data() {
    let sink = Sink::start();
    let relay = relay(&sink);
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.says("RCPT TO:<u@ours.test>", "250");
    let content = "Subject: chunk\r\n\r\na\r\n.\r\nb\r\n";
    client.raw(format!("BDAT {} LAST\r\n{content}", content.len()));
    client.expect("250 2.0.0");
    assert_eq!(sink.wait_for(1)[0].below_trace(), content.as_bytes());

    for bad in ["Subject: x\n\r\n", "Subject: x\r\r\n", "Subject: x\0\r\n"] {
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        client.says("RCPT TO:<u@ours.test>", "250");
        client.raw(format!("BDAT {} LAST\r\n{bad}", bad.len()));
        client.expect("550 5.6.11");
    }
    assert_eq!(sink.count(), 1);
}

#[test]
fn what_is_pipelined_behind_starttls_is_never_a_command() {
    let relay = relay(&Sink::start());
    let mut client = relay.connect("mx");
    client.ehlo();
    client.raw("STARTTLS\r\nMAIL FROM:<evil@elsewhere.test>\r\n");
    client.expect("554 5.5.0");
    assert_eq!(client.rest(), "");

    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("STARTTLS now", "501 5.5.4");
    let mut client = client.into_starttls();
    // RFC 3207 §4.2: nothing learnt in the clear counts.
    client.says("MAIL FROM:<me@elsewhere.test>", "503 5.5.1");
    client.ehlo();
    client.says("STARTTLS", "503 5.5.1");
}

#[test]
fn who_begins_tls_and_says_nothing_is_not_waited_for() {
    let relay = Setup::new()
        .top("[limits]\ncommand_timeout = \"1s\"")
        .listener("tls", "tls = \"implicit\"")
        .start();
    let mut client = Client::connect(relay.address("tls"));
    assert_eq!(client.rest(), "");
    relay.logged(&["tls", "it took too long"]);
}

#[test]
fn who_talks_out_of_turn_is_shown_the_door() {
    let relay = relay(&Sink::start());
    let mut client = Client::connect(relay.address("mx"));
    client.raw("EHLO early.test\r\n");
    client.expect("554 5.5.0");
    assert_eq!(client.rest(), "");

    for pipelined in ["EHLO x.test\r\nMAIL FROM:<>\r\n", "AUTH LOGIN\r\nYWxpY2U=\r\n"] {
        let mut client = relay.connect("mx").starttls();
        client.raw(pipelined);
        let said = client.rest();
        assert!(said.contains("554 5.5.0"), "{pipelined:?}: {said:?}");
    }

    let mut client = at_data(&relay);
    client.raw("Subject: x\r\n\r\nbody\r\n.\r\nNOOP\r\n");
    client.expect("250 2.0.0");
    client.expect("250");

    let mut client = relay.connect("mx");
    client.ehlo();
    client.raw("MAIL FROM:<me@elsewhere.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n");
    let said = client.rest();
    assert!(said.contains("554 5.5.0") && !said.contains("354"), "{said:?}");
}

#[test]
fn browsers_are_no_mail_clients() {
    let relay = relay(&Sink::start());
    for request in ["GET / HTTP/1.1", "POST / HTTP/1.1", "CONNECT ours.test:25 HTTP/1.1"] {
        let mut client = relay.connect("mx");
        client.raw(format!(
            "{request}\r\nHost: ours.test\r\n\r\nMAIL FROM:<me@elsewhere.test>\r\n"
        ));
        client.expect("421 4.7.0");
        assert_eq!(client.rest(), "");
    }
    let mut client = relay.connect("mx");
    for _ in 0..19 {
        client.says("NONSENSE", "500 5.5.2");
    }
    client.line("NONSENSE");
    let said = client.rest();
    assert!(said.contains("421 4.7.0"), "{said:?}");
}

#[test]
fn passwords_stay_under_tls() {
    let relay = relay(&Sink::start());
    let mut client = relay.connect("mx");
    let offered = client.ehlo();
    assert!(!offered.contains("AUTH"), "{offered}");
    client.auth_plain("alice", "pw", "538 5.7.11");
    let mut client = client.into_starttls();
    let offered = client.ehlo();
    assert!(offered.contains("AUTH SCRAM-SHA-256 PLAIN LOGIN"), "{offered}");
    client.says("AUTH CRAM-MD5", "504 5.5.4");
    client.says("AUTH PLAIN !!!", "501 5.5.2");
    client.says("AUTH PLAIN", "334");
    client.says("*", "501 5.7.0");
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.auth_plain("alice", "pw", "503 5.5.1");
    client.says("RSET", "250");
    client.auth_plain("alice", "pw", "235 2.7.0");
    client.auth_plain("alice", "pw", "503 5.5.1");

    let mut client = Client::connect_tls(relay.address("tls"));
    client.expect("220 relay.test ESMTP");
    let offered = client.ehlo();
    assert!(offered.contains("AUTH") && !offered.contains("STARTTLS"), "{offered}");
}

#[test]
fn limits_have_their_own_answers() {
    let limits = "[limits]\nmessage_size = 65536\nrecipients = 3\nconnections_per_address = 2";
    let relay = Setup::new().top(limits).start();
    let mut client = relay.connect("mx");
    let offered = client.ehlo();
    assert!(offered.contains("SIZE 65536"), "{offered}");
    client.says("MAIL FROM:<me@elsewhere.test> SIZE=65537", "552 5.3.4");
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    for number in 0..3 {
        client.says(&format!("RCPT TO:<u{number}@ours.test>"), "250");
    }
    client.says("RCPT TO:<u3@ours.test>", "452 4.5.3");
    client.says("DATA", "354");
    client.raw("Subject: big\r\n\r\n");
    for _ in 0..1000 {
        client.raw(format!("{}\r\n", "x".repeat(98)));
    }
    client.says(".", "552 5.3.4");
    client.says("NOOP", "250");

    let _second = relay.connect("mx");
    let mut third = Client::connect(relay.address("mx"));
    third.expect("421 4.7.0");
    assert_eq!(third.rest(), "");

    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.says("RCPT TO:<u@ours.test>", "250");
    client.says("DATA", "354");
    client.raw("Received: from a by b; date\r\n".repeat(101));
    client.says("\r\nbody\r\n.", "554 5.4.6");
}
