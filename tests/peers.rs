//! Real mail systems and clients on both sides: Postfix, swaks, Python's smtplib. Each test says aloud what it skips when a program is
//! missing; in CI none is.

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use support::client::Client;
use support::servers::{Postfix, run, script};
use support::sink::Sink;
use support::{Relay, Setup, peer, until};

const PASSWORD: &str = "correct horse";

/// A relay in front of a Postfix that stores mail for `inside.test` and speaks TLS; `None` where there is no Postfix.
fn before_postfix(more: impl FnOnce(Setup) -> Setup) -> Option<(Relay, Postfix)> {
    let setup = Setup::new()
        .top("relay_domains = [\"inside.test\", \"refused.test\"]")
        .listener("mx", "tls = \"starttls\"\nauth = \"optional\"")
        .listener("submission", "tls = \"starttls\"\nauth = \"required\"")
        .listener("submissions", "tls = \"implicit\"\nauth = \"required\"")
        .auth_relay("")
        .user("alice", PASSWORD);
    let made = rcgen::generate_simple_self_signed(["postfix.peer.test".to_owned()]).expect("a certificate");
    let keep = |name: &str, pem: String| {
        let path = setup.dir.path().join(name);
        std::fs::write(&path, pem).expect("a file");
        path.display().to_string()
    };
    let certificate = keep("postfix-cert.pem", made.cert.pem());
    let key = keep("postfix-key.pem", made.signing_key.serialize_pem());
    let options = ["--store", "inside.test", "--certificate", &certificate, "--key", &key];
    let postfix = Postfix::start(&options)?;
    Some((more(setup.next_hop(&postfix.next_hop())).start(), postfix))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What Python's email package makes of a delivery status notification; fails if that is no well-formed one.
fn dsn(message: &[u8]) -> serde_json::Value {
    let mut python = Command::new("python3")
        .arg(script("dsn.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    python
        .stdin
        .take()
        .expect("piped")
        .write_all(message)
        .expect("the message");
    let output = python.wait_with_output().expect("python3");
    assert!(output.status.success(), "{}", text(message));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_postfix_relays_through_us_into_another() {
    let Some((relay, inside)) = before_postfix(|setup| setup) else {
        return;
    };
    let certificate = relay.dir.path().join("cert.pem").display().to_string();
    let relayhost = format!("localhost:{}", relay.address("submission").port());
    let client = Postfix::start(&[
        "--relayhost",
        &relayhost,
        "--tls",
        "encrypt",
        "--tls-ca",
        &certificate,
        "--user",
        "alice",
        "--password",
        PASSWORD,
    ]);
    let client = client.expect("there is one already");
    let mut sender = Client::connect(client.address());
    sender.expect("220");
    sender.ehlo();
    sender.says("MAIL FROM:<alice@inside.test> BODY=8BITMIME SMTPUTF8", "250");
    sender.says("RCPT TO:<u@inside.test>", "250");
    sender.says("DATA", "354");
    sender.says("Subject: through \u{fc}\u{f6}\u{e4}\r\n\r\nbody \u{e4}\r\n.", "250");
    let stored = text(&inside.stored("Subject: through"));
    assert!(stored.contains("body \u{e4}\n"), "{stored}");
    assert!(
        stored.contains("by relay.test (Gatepost) with UTF8SMTPSA id "),
        "{stored}"
    );
    // And to the Postfix inside we used TLS, because it offers it, and what the message needs.
    assert!(stored.contains("(Postfix) with UTF8SMTPS id"), "{stored}");
    relay.logged(&["accepted", "alice@inside.test"]);
    relay.logged(&["delivered", "u@inside.test", "TLSv1.3"]);
    until("the client's Postfix knows", || {
        client.log().contains("status=sent (250 2.0.0")
    });
    assert!(
        client
            .log()
            .contains("Verified TLS connection established to localhost"),
        "{}",
        client.log()
    );

    sender.says("MAIL FROM:<alice@inside.test> RET=HDRS ENVID=e+2B1", "250");
    sender.says(
        "RCPT TO:<u@inside.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+2Bu@inside.test",
        "250",
    );
    sender.says("DATA", "354");
    sender.says("Subject: tell me\r\n\r\nbody\r\n.", "250");
    // What the sender asked for reaches the last one, which says so: to the sender, through itself.
    let success = dsn(&inside.stored("Original-Envelope-Id: e+1"));
    assert_eq!(success["recipients"][0]["Action"], "delivered", "{success}");
    assert_eq!(
        success["recipients"][0]["Original-Recipient"], "rfc822;first+u@inside.test",
        "{success}"
    );
    assert_eq!(success["returned"], "text/rfc822-headers", "{success}");
}

#[test]
fn every_extension_reaches_a_postfix() {
    let Some((relay, inside)) = before_postfix(|setup| setup) else {
        return;
    };
    let mut client = relay.connect("mx").starttls();
    // PIPELINING, one write a transaction; BDAT in pieces that end within a line and within a character.
    let body = "Subject: in chunks\r\n\r\n.\r\n..\r\nb\u{fc}cher\r\n.";
    let (one, two) = body.as_bytes().split_at(body.find('\u{fc}').expect("there") + 1);
    let mut chunks = b"MAIL FROM:<me@elsewhere.test> BODY=8BITMIME SIZE=64\r\nRCPT TO:<u@inside.test>\r\n".to_vec();
    for (chunk, last) in [(one, ""), (two, ""), (b"\r\n".as_slice(), " LAST")] {
        chunks.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
    }
    chunks.extend_from_slice(b"RSET\r\nNOOP\r\n");
    client.raw(chunks);
    for _ in 0..7 {
        client.expect("250");
    }
    let stored = text(&inside.stored("Subject: in chunks"));
    assert!(
        stored.ends_with("Subject: in chunks\n\n.\n..\nb\u{fc}cher\n.\n"),
        "{stored}"
    );

    client.raw(
        "MAIL FROM:<b\u{fc}rger@elsewhere.test> SMTPUTF8\r\nRCPT TO:<\u{65e5}\u{672c}@inside.test>\r\nRCPT TO:<u@nowhere.test>\r\nDATA\r\n",
    );
    for reply in ["250", "250", "550 5.7.1", "354"] {
        client.expect(reply);
    }
    client.says("Subject: \u{65e5}\u{672c}\u{8a9e}\r\n\r\nutf-8\r\n.", "250 2.0.0");
    let stored = text(&inside.stored("Subject: \u{65e5}\u{672c}\u{8a9e}"));
    assert!(
        stored.contains("Delivered-To: \u{65e5}\u{672c}@inside.test") && stored.contains("Return-Path: <b\u{fc}rger@"),
        "{stored}"
    );
}

#[test]
fn our_bounce_is_one_that_others_can_read() {
    let sink = Sink::answering(|line| {
        line.starts_with("RCPT")
            .then(|| "550 5.1.1 <b> nobody of that name".to_owned())
    });
    let route = format!(
        "[[route]]\nname = \"refused\"\ndomains = [\"refused.test\"]\nnext_hop = \"{}\"\n",
        sink.next_hop()
    );
    let Some((relay, inside)) = before_postfix(|setup| setup.top(&route)) else {
        return;
    };
    let mut client = relay.connect("mx").starttls();
    client.says("MAIL FROM:<alice@inside.test> RET=FULL ENVID=QQ+3D314", "250");
    client.says(
        "RCPT TO:<no@refused.test> NOTIFY=FAILURE ORCPT=rfc822;no+2Bone@refused.test",
        "250",
    );
    client.says("RCPT TO:<quiet@refused.test> NOTIFY=NEVER", "250");
    client.says("DATA", "354");
    client.says("Subject: to be returned\r\n\r\nbody\r\n.", "250");

    let bounce = inside.stored("multipart/report");
    let report = dsn(&bounce);
    assert_eq!(report["headers"]["Return-Path"], "<>", "{report}");
    assert_eq!(report["headers"]["To"], "alice@inside.test", "{report}");
    assert_eq!(report["headers"]["Auto-Submitted"], "auto-replied", "{report}");
    assert_eq!(report["message"]["Reporting-MTA"], "dns; relay.test", "{report}");
    assert_eq!(report["message"]["Original-Envelope-Id"], "QQ=314", "{report}");
    assert_eq!(report["recipients"].as_array().map(Vec::len), Some(1), "{report}");
    let recipient = &report["recipients"][0];
    assert_eq!(
        recipient["Original-Recipient"], "rfc822; no+one@refused.test",
        "{report}"
    );
    assert_eq!(recipient["Final-Recipient"], "rfc822; no@refused.test", "{report}");
    assert_eq!(recipient["Action"], "failed", "{report}");
    assert_eq!(recipient["Status"], "5.1.1", "{report}");
    assert_eq!(
        recipient["Diagnostic-Code"], "smtp; 550 5.1.1 <b> nobody of that name",
        "{report}"
    );
    assert_eq!(report["returned"], "message/rfc822", "{report}");
    assert!(text(&bounce).contains("Subject: to be returned"));
}

#[test]
fn swaks_sends_by_every_way_in() {
    if !peer("swaks") {
        return;
    }
    let Some((relay, inside)) = before_postfix(|setup| setup) else {
        return;
    };
    let swaks = |listener: &str, subject: &str, more: &[&str]| {
        let port = relay.address(listener).port().to_string();
        let header = format!("Subject: {subject}");
        let mut swaks = Command::new("swaks");
        swaks
            .args([
                "--server",
                "127.0.0.1",
                "--port",
                &port,
                "--from",
                "alice@inside.test",
                "--to",
                "u@inside.test",
            ])
            .args([
                "--ehlo",
                "swaks.peer.test",
                "--timeout",
                "30",
                "--header",
                &header,
                "--pipeline",
            ])
            .args(more);
        let said = run(&mut swaks);
        inside.stored(&header);
        said
    };
    let login = ["--auth-user", "alice", "--auth-password", PASSWORD];
    let said = swaks(
        "submission",
        "swaks-plain",
        &[&["--tls", "--auth", "PLAIN"], &login[..]].concat(),
    );
    assert!(said.contains("235 2.7.0") && said.contains("250 2.0.0"), "{said}");
    swaks(
        "submission",
        "swaks-login",
        &[&["--tls", "--auth", "LOGIN"], &login[..]].concat(),
    );
    swaks(
        "submissions",
        "swaks-wrapped",
        &[&["--tls-on-connect", "--auth", "PLAIN"], &login[..]].concat(),
    );
    swaks("mx", "swaks-in-the-clear", &[]);
    swaks("mx", "swaks-helo", &["--protocol", "SMTP"]);
}

#[test]
fn smtplib_uses_what_it_knows() {
    let Some((relay, inside)) = before_postfix(|setup| setup) else {
        return;
    };
    let port = relay.address("submission").port().to_string();
    let mut client = Command::new("python3");
    client.arg(script("smtplib_client.py")).args([
        "localhost",
        &port,
        "alice",
        PASSWORD,
        "alice@inside.test",
        "u@inside.test",
    ]);
    run(&mut client);
    let stored = text(&inside.stored("Subject: smtplib 8bit"));
    assert!(stored.ends_with("\n\n\u{e4}\u{f6}\u{fc}\n"), "{stored}");
    let stored = text(&inside.stored("Subject: smtplib utf8"));
    assert!(stored.contains("Delivered-To: u-b\u{fc}cher@inside.test"), "{stored}");
    inside.stored("Subject: smtplib login");
}
