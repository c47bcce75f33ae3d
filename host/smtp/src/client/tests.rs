//! Dialogs as text. `S` is what the next hop says, `C` what we say (all that is written at once), and `!` is the
//! driver.

use super::*;

/// Runs a dialog against a client.
///
/// Driver lines: `mail [8bit] [utf8] SENDER RCPT...` begins a transaction; `content` expects to send it and does;
/// `answers A | B` expects these at the end; `refused A` expects the transaction to be refused at once; `tls` expects
/// a handshake; `ready`, `quit`; `lost WHY`; `failure CAUSE TEXT` expects the session to be over.
fn dialog(settings: Settings, text: &str) {
    for step in [1, 7, usize::MAX] {
        run(settings.clone(), text, step);
    }
}

fn run(settings: Settings, text: &str, step: usize) {
    let mut client = Client::new(settings);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        match who {
            "S" => {
                assert!(matches!(client.step(), Step::Read(_)), "{line}: {:?}", client.step());
                let mut said = format!("{what}\r\n");
                while let Some(more) = lines.next_if(|next| next.starts_with("S ")) {
                    said.push_str(&more[2..]);
                    said.push_str("\r\n");
                }
                // Bytes behind STARTTLS's reply are an attack only if they come with it.
                for piece in said.as_bytes().chunks(step.min(said.len())) {
                    client.receive(piece);
                }
            }
            "C" => {
                assert_eq!(client.step(), Step::Write, "{line}");
                let mut expected = format!("{what}\r\n");
                while let Some(more) = lines.next_if(|next| next.starts_with("C ")) {
                    expected.push_str(&more[2..]);
                    expected.push_str("\r\n");
                }
                assert_eq!(String::from_utf8_lossy(client.output()), expected);
                client.written();
            }
            _ => driver(&mut client, what),
        }
    }
}

fn driver(client: &mut Client, what: &str) {
    let (verb, rest) = what.split_once(' ').unwrap_or((what, ""));
    match verb {
        "mail" | "refused" => {
            assert_eq!(client.step(), Step::Ready, "{what}");
            let mut envelope = Envelope {
                size: 100,
                ..Envelope::default()
            };
            let mut words: Vec<&str> = rest.split(' ').collect();
            while let Some(option) = words.first().filter(|word| !word.contains('<')) {
                match *option {
                    "8bit" => envelope.eight_bit = true,
                    "utf8" => envelope.smtputf8 = true,
                    "utf8-header" => envelope.utf8_header = true,
                    "huge" => envelope.size = 1 << 40,
                    "ret" => (envelope.ret_full, envelope.envid) = (Some(false), Some("Q+3D1")),
                    other => panic!("no option {other}"),
                }
                words.remove(0);
            }
            let bare: Vec<&str> = words.iter().map(|word| word.trim_matches(['<', '>'])).collect();
            let recipients: Vec<Recipient<'_>> = bare[1..]
                .iter()
                .map(|address| match address.strip_suffix("?notify") {
                    Some(address) => Recipient {
                        address,
                        notify: Some("NEVER"),
                        orcpt: Some("rfc822;o@x"),
                    },
                    None => Recipient {
                        address,
                        ..Recipient::default()
                    },
                })
                .collect();
            envelope.sender = bare[0];
            envelope.recipients = &recipients;
            let result = client.mail(&envelope);
            assert_eq!(result.is_err(), verb == "refused", "{result:?}");
            if let Err(answer) = result {
                assert!(!answer.remote && answer.reply.is_permanent());
            }
        }
        "content" => {
            assert_eq!(client.step(), Step::Content);
            client.content_written();
            assert_eq!(client.step(), Step::Read(Wait::DataEnd));
        }
        "answers" => {
            assert_eq!(client.step(), Step::Done, "{what}");
            let shown: Vec<String> = client
                .take_answers()
                .iter()
                .map(|answer| format!("{}{}", if answer.remote { "" } else { "us: " }, answer.reply))
                .collect();
            assert_eq!(shown.join(" | "), rest);
        }
        "tls" => {
            assert_eq!(client.step(), Step::StartTls);
            client.tls_started();
        }
        "ready" => assert_eq!(client.step(), Step::Ready),
        "quit" => client.quit(),
        "lost" => client.lost(rest),
        "failure" => {
            assert_eq!(client.step(), Step::Closed, "{what}");
            let failure = client.failure().expect("a closed session says why");
            assert_eq!(format!("{:?} {}", failure.cause, failure.reply), rest);
        }
        other => panic!("no driver line {other:?}"),
    }
}

fn settings() -> Settings {
    Settings {
        name: "relay.example".into(),
        tls: StartTls::Opportunistic,
        credentials: None,
        plaintext_auth: false,
        secure: false,
    }
}

fn with_login(tls: StartTls) -> Settings {
    let credentials = Credentials {
        username: "user".into(),
        password: "pass".into(),
    };
    Settings {
        tls,
        credentials: Some(credentials),
        ..settings()
    }
}

/// A pipelining peer, up to the point where it is ready.
fn pipelining(rest: &str) -> String {
    format!(
        "S 220 mx ESMTP
         C EHLO relay.example
         S 250-mx
         S 250-PIPELINING
         S 250-SIZE 1000000
         S 250-DSN
         S 250 8BITMIME
         {rest}"
    )
}

#[test]
fn one_write_for_the_envelope_and_the_connection_is_used_again() {
    dialog(
        settings(),
        &pipelining(
            "! mail 8bit ret <a@x> <b@y> <c@y?notify>
             C MAIL FROM:<a@x> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=Q+3D1
             C RCPT TO:<b@y>
             C RCPT TO:<c@y> NOTIFY=NEVER ORCPT=rfc822;o@x
             C DATA
             S 250 2.1.0 Ok
             S 250 2.1.5 Ok
             S 250 2.1.5 Ok
             S 354 go
             ! content
             S 250 2.0.0 queued
             ! answers 250 2.0.0 queued | 250 2.0.0 queued
             ! mail <> <b@y>
             C MAIL FROM:<> SIZE=100
             C RCPT TO:<b@y>
             C DATA
             S 250 ok
             S 250 ok
             S 354 go
             ! content
             S 451 4.3.0 later
             ! answers 451 4.3.0 later
             ! quit
             C QUIT
             S 221 bye
             ! failure Quit 421 4.4.2 connection closed",
        ),
    );
}

#[test]
fn replies_are_for_the_recipient_that_they_are_about() {
    dialog(
        settings(),
        &pipelining(
            "! mail <a@x> <1@y> <2@y> <3@y>
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<1@y>
             C RCPT TO:<2@y>
             C RCPT TO:<3@y>
             C DATA
             S 250 ok
             S 550 5.1.1 no such user
             S 250 ok
             S 450 4.2.0 greylisted
             S 354 go
             ! content
             S 250 taken
             ! answers 550 5.1.1 no such user | 250 taken | 450 4.2.0 greylisted",
        ),
    );
}

#[test]
fn a_refused_mail_is_everybodys_answer_and_leaves_nothing_open() {
    dialog(
        settings(),
        &pipelining(
            "! mail <a@x> <1@y> <2@y>
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<1@y>
             C RCPT TO:<2@y>
             C DATA
             S 550 5.7.1 not you
             S 503 5.5.1 need MAIL
             S 503 5.5.1 need MAIL
             S 503 5.5.1 need RCPT
             ! answers 550 5.7.1 not you | 550 5.7.1 not you
             ! mail <a@x> <1@y>
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<1@y>
             C DATA
             S 550 5.7.1 not you
             S 503 no
             S 354 odd but known
             C .
             S 554 no valid recipients
             ! answers 550 5.7.1 not you
             ! ready",
        ),
    );
}

#[test]
fn rset_goes_with_the_next_envelope_and_only_if_needed() {
    dialog(
        settings(),
        &pipelining(
            "! mail <a@x> <1@y>
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<1@y>
             C DATA
             S 250 ok
             S 550 5.1.1 no
             S 554 5.5.1 no valid recipients
             ! answers 550 5.1.1 no
             ! mail <a@x> <2@y>
             C RSET
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<2@y>
             C DATA
             S 250 flushed
             S 250 ok
             S 250 ok
             S 354 go
             ! content
             S 250 taken
             ! answers 250 taken
             ! mail <a@x> <3@y>
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<3@y>
             C DATA
             S 250 ok
             S 550 5.1.1 no
             S 354 go
             C .
             S 554 5.5.1 no
             ! answers 550 5.1.1 no
             ! mail <a@x> <3@y>
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<3@y>
             C DATA
             S 250 ok
             S 250 ok
             S 451 4.3.0 not now
             ! answers 451 4.3.0 not now
             ! mail <a@x> <4@y>
             C RSET
             C MAIL FROM:<a@x> SIZE=100
             C RCPT TO:<4@y>
             C DATA",
        ),
    );
}

#[test]
fn without_pipelining_each_command_waits_and_vain_ones_are_left_out() {
    dialog(
        settings(),
        "S 220 mx
         C EHLO relay.example
         S 502 what?
         C HELO relay.example
         S 250 mx
         ! mail 8bit ret <a@x> <1@y> <2@y?notify>
         C MAIL FROM:<a@x>
         S 250 ok
         C RCPT TO:<1@y>
         S 550 5.1.1 no
         C RCPT TO:<2@y>
         S 550 5.1.1 neither
         ! answers 550 5.1.1 no | 550 5.1.1 neither
         ! mail <a@x> <1@y> <2@y>
         C RSET
         S 250 ok
         C MAIL FROM:<a@x>
         S 450 4.7.1 slow down
         ! answers 450 4.7.1 slow down | 450 4.7.1 slow down
         ! mail <a@x> <1@y>
         C MAIL FROM:<a@x>
         S 250 ok
         C RCPT TO:<1@y>
         S 250 ok
         C DATA
         S 354 go
         ! content
         S 250-taken
         S 250 indeed
         ! answers 250 taken / indeed",
    );
}

#[test]
fn starttls_forgets_what_was_offered_in_the_clear() {
    dialog(
        with_login(StartTls::Required),
        "S 220 mx
         C EHLO relay.example
         S 250-mx
         S 250-PIPELINING
         S 250-AUTH PLAIN
         S 250 STARTTLS
         C STARTTLS
         S 220 go
         ! tls
         C EHLO relay.example
         S 250-mx
         S 250 AUTH CRAM-MD5 LOGIN
         C AUTH LOGIN
         S 334 VXNlcm5hbWU6
         C dXNlcg==
         S 334 UGFzc3dvcmQ6
         C cGFzcw==
         S 235 2.7.0 welcome
         ! mail <a@x> <1@y>
         C MAIL FROM:<a@x>",
    );
}

#[test]
fn nothing_that_was_offered_in_the_clear_holds_if_ehlo_is_refused_under_tls() {
    dialog(
        settings(),
        "S 220 mx
         C EHLO relay.example
         S 250-mx
         S 250-PIPELINING
         S 250-SIZE
         S 250 STARTTLS
         C STARTTLS
         S 220 go
         ! tls
         C EHLO relay.example
         S 500 what?
         C HELO relay.example
         S 250 mx
         ! mail <a@x> <1@y>
         C MAIL FROM:<a@x>",
    );
}

#[test]
fn how_a_session_fails_to_open() {
    let clear = "S 220 mx
         C EHLO relay.example
         S 250-mx";
    let cases = [
        (
            settings(),
            "S 554 5.7.1 go away".to_owned(),
            "Refused 450 4.3.2 refused to talk to us: 554 5.7.1 go away",
        ),
        (settings(), "S 421 4.3.2 busy".to_owned(), "Closing 421 4.3.2 busy"),
        (
            settings(),
            "S HTTP/1.1 400 Bad Request".to_owned(),
            "Protocol 451 4.5.0 the next hop's reply makes no sense: reply line has bad syntax",
        ),
        (
            settings(),
            "! lost connection refused".to_owned(),
            "Lost 421 4.4.2 connection refused while waiting for the greeting",
        ),
        (
            settings(),
            "S 220 mx\nC EHLO relay.example\nS 451 4.3.0 later".to_owned(),
            "Refused 450 4.3.2 refused our greeting: 451 4.3.0 later",
        ),
        (
            Settings {
                tls: StartTls::Required,
                ..settings()
            },
            format!("{clear}\nS 250 SIZE"),
            "NoTls 454 4.7.4 TLS is required, but the next hop does not offer it",
        ),
        (
            Settings {
                tls: StartTls::Required,
                ..settings()
            },
            format!("{clear}\nS 250 STARTTLS\nC STARTTLS\nS 454 4.7.0 no"),
            "NoTls 454 4.7.4 TLS is required, but the next hop refused STARTTLS: 454 4.7.0 no",
        ),
        (
            with_login(StartTls::Opportunistic),
            format!("{clear}\nS 250 AUTH PLAIN"),
            "Auth 454 4.7.0 cannot authenticate: there is no TLS, and the password is not sent in the clear",
        ),
        (
            Settings {
                secure: true,
                ..with_login(StartTls::Never)
            },
            format!("{clear}\nS 250 AUTH CRAM-MD5"),
            "Auth 454 4.7.0 cannot authenticate: the next hop offers neither PLAIN nor LOGIN",
        ),
        (
            Settings {
                secure: true,
                ..with_login(StartTls::Never)
            },
            format!("{clear}\nS 250 AUTH=PLAIN LOGIN\nC AUTH PLAIN AHVzZXIAcGFzcw==\nS 535 5.7.8 wrong"),
            "Auth 454 4.7.0 the next hop refused our credentials: 535 5.7.8 wrong",
        ),
    ];
    for (settings, text, failure) in cases {
        dialog(settings, &format!("{text}\n! failure {failure}"));
    }
}

#[test]
fn opportunistic_goes_on_where_starttls_is_refused() {
    dialog(
        settings(),
        "S 220 mx
         C EHLO relay.example
         S 250-mx
         S 250 STARTTLS
         C STARTTLS
         S 454 4.7.0 not now
         ! ready",
    );
}

#[test]
fn bytes_behind_the_reply_to_starttls_end_the_session() {
    for injected in ["250 injected\r\n", "250 inj", "2"] {
        let mut client = Client::new(settings());
        client.receive(b"220 mx\r\n");
        client.written();
        client.receive(b"250-mx\r\n250 STARTTLS\r\n");
        client.written();
        client.receive(format!("220 go\r\n{injected}").as_bytes());
        assert_eq!(client.step(), Step::Closed, "{injected:?}");
        assert_eq!(client.failure().map(|failure| failure.cause), Some(Cause::Protocol));
    }
}

#[test]
fn a_lost_connection_leaves_definite_answers_standing() {
    let lost = "us: 421 4.4.2 timed out";
    let cases = [
        (
            "S 250 ok\n! lost timed out",
            format!("{lost} while waiting for the reply to RCPT | {lost} while waiting for the reply to RCPT"),
        ),
        (
            "S 250 ok\nS 550 no\n! lost timed out",
            format!("550 no | {lost} while waiting for the reply to RCPT"),
        ),
        (
            "S 250 ok\nS 550 no\nS 250 ok\nS 354 go\n! lost timed out",
            format!("550 no | {lost} while sending the message"),
        ),
        (
            "S 250 ok\nS 550 no\nS 250 ok\nS 354 go\n! content\n! lost timed out",
            format!("550 no | {lost} after sending the message; it may have arrived"),
        ),
        (
            "S 250 ok\nS 421 4.3.2 closing",
            "421 4.3.2 closing | 421 4.3.2 closing".to_owned(),
        ),
        (
            "S 550 5.7.1 no\nS 503 no\n! lost timed out",
            "550 5.7.1 no | 550 5.7.1 no".to_owned(),
        ),
        ("S 250 ok\nS 250 ok\nS 250 ok\nS 250 eh", {
            let text = "us: 451 4.5.0 the next hop's reply does not fit what was asked: 250 eh";
            format!("{text} | {text}")
        }),
    ];
    for (text, answers) in cases {
        dialog(
            settings(),
            &pipelining(&format!(
                "! mail <a@x> <1@y> <2@y>
                 C MAIL FROM:<a@x> SIZE=100
                 C RCPT TO:<1@y>
                 C RCPT TO:<2@y>
                 C DATA
                 {text}
                 ! answers {answers}"
            )),
        );
    }
}

#[test]
fn what_the_peer_could_not_take_is_not_sent() {
    dialog(
        settings(),
        &pipelining(
            "! refused huge <a@x> <1@y>
             ! refused utf8 utf8-header <a@x> <1@y>
             ! refused <ä@x> <1@y>
             ! mail utf8 <a@bücher.example> <ö@y> <2@münchen.example.>
             C MAIL FROM:<a@xn--bcher-kva.example> SIZE=100
             C RCPT TO:<2@xn--mnchen-3ya.example>
             C DATA
             S 250 ok
             S 250 ok
             S 354 go
             ! content
             S 250 taken
             ! answers us: 553 5.6.7 SMTPUTF8 is needed, but the next hop does not offer it | 250 taken
             ! mail <a@x> <ö@y>
             ! answers us: 553 5.6.7 SMTPUTF8 is needed, but the next hop does not offer it
             ! ready",
        ),
    );
    dialog(
        settings(),
        "S 220 mx
         C EHLO relay.example
         S 250-mx
         S 250-PIPELINING
         S 250 SMTPUTF8
         ! mail utf8-header <ä@x> <ö@y>
         C MAIL FROM:<ä@x> SMTPUTF8
         C RCPT TO:<ö@y>
         C DATA",
    );
}

#[test]
fn no_line_end_gets_into_a_command() {
    let mut client = Client::new(settings());
    client.receive(b"220 mx\r\n");
    client.written();
    client.receive(b"250-mx\r\n250 DSN\r\n");
    let recipients = [
        Recipient {
            address: "b@y>\r\nRCPT TO:<c@y",
            ..Recipient::default()
        },
        Recipient {
            address: "b@y",
            notify: Some("NEVER\r\nDATA"),
            orcpt: Some("rfc822;a b"),
        },
    ];
    let envelope = Envelope {
        sender: "a@x",
        envid: Some("a\r\nRSET"),
        recipients: &recipients,
        ..Envelope::default()
    };
    assert_eq!(client.mail(&envelope), Ok(()));
    let mut sent = Vec::new();
    for reply in ["250 ok\r\n", "250 ok\r\n", "354 go\r\n"] {
        sent.extend_from_slice(client.output());
        client.written();
        client.receive(reply.as_bytes());
    }
    assert_eq!(
        String::from_utf8_lossy(&sent),
        "MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"
    );
    client.content_written();
    client.receive(b"250 taken\r\n");
    let codes: Vec<u16> = client.take_answers().iter().map(|answer| answer.reply.code()).collect();
    assert_eq!(codes, [553, 250]);
    let bad = Envelope {
        sender: "a\n@x",
        recipients: &recipients,
        ..Envelope::default()
    };
    assert_eq!(client.mail(&bad).map_err(|answer| answer.reply.code()), Err(553));
}

#[test]
fn many_recipients_go_in_groups() {
    let mut client = Client::new(settings());
    client.receive(b"220 mx\r\n");
    client.written();
    client.receive(b"250-mx\r\n250 PIPELINING\r\n");
    let addresses: Vec<String> = (0..1000).map(|n| format!("recipient-{n}@far.example")).collect();
    let recipients: Vec<Recipient<'_>> = addresses
        .iter()
        .map(|address| Recipient {
            address,
            ..Recipient::default()
        })
        .collect();
    let envelope = Envelope {
        sender: "a@x",
        recipients: &recipients,
        ..Envelope::default()
    };
    assert_eq!(client.mail(&envelope), Ok(()));
    let (mut groups, mut commands) = (0, 0);
    while client.step() == Step::Write {
        let lines = client.output().iter().filter(|byte| **byte == b'\n').count();
        let is_last = client.output().ends_with(b"DATA\r\n");
        assert!(client.output().len() <= MAX_GROUP);
        client.written();
        client.receive(&b"250 ok\r\n".repeat(lines - usize::from(is_last)));
        if is_last {
            client.receive(b"354 go\r\n");
        }
        groups += 1;
        commands += lines;
    }
    assert_eq!((groups, commands), (5, 1002));
    assert_eq!(client.step(), Step::Content);
}

#[test]
fn capabilities_are_read_whatever_their_case_and_form() {
    let mut client = Client::new(settings());
    client.receive(b"220 mx\r\n");
    client.written();
    client.receive(b"250-pipelining is my name\r\n250-size 0\r\n250-Auth=login PLAIN\r\n");
    client.receive(b"250-LIMITS RCPTMAX=20 MAILMAX=0\r\n250 8bitmime\r\n");
    let expected = Capabilities {
        size: true,
        auth_plain: true,
        auth_login: true,
        eight_bit_mime: true,
        rcpt_max: Some(20),
        ..Capabilities::default()
    };
    assert_eq!(client.capabilities(), &expected);
}
