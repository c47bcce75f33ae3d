//! The driver's contract: what a session promises to whoever drives it, and what it does about misuse.

use std::sync::Arc;
use std::time::Duration;

use gatepost_smtp::command::Verb;
use gatepost_smtp::error::Misuse;
use gatepost_smtp::reply::Reply;
use gatepost_smtp::session::{
    Answer, Ask, AuthStep, CloseReason, Extensions, MAX_INPUT, MAX_OUTPUT, Session, SessionConfig, Step,
};

const NOW: Duration = Duration::from_secs(5);

fn config() -> SessionConfig {
    SessionConfig::new("mx.test")
}

fn start(config: SessionConfig) -> Session {
    let mut session = Session::new(Arc::new(config), NOW);
    assert_eq!(session.poll(NOW), Step::Ask(Ask::Connect));
    session
}

/// A session past the banner.
fn greeted(config: SessionConfig) -> Session {
    let mut session = start(config);
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    run(&mut session);
    session
}

/// Accepts whatever is asked until input is needed or the session closes; the output since.
fn run(session: &mut Session) -> String {
    let mut output = Vec::new();
    loop {
        match session.poll(NOW) {
            Step::NeedInput | Step::StartTls | Step::Close(_) | Step::Parked => break,
            Step::Ask(Ask::Auth(_)) => assert_eq!(session.answer(Answer::Success), Ok(())),
            Step::Ask(_) => assert_eq!(session.answer(Answer::Accept), Ok(())),
            Step::Flush => output.append(session.output()),
            Step::Data | Step::Replied(_) | Step::Aborted => {}
        }
    }
    output.append(session.output());
    String::from_utf8(output).expect("replies are ASCII")
}

fn say(session: &mut Session, text: &str) -> String {
    assert_eq!(session.receive(text.as_bytes(), NOW), Ok(()));
    run(session)
}

#[test]
fn talk_before_the_banner_closes() {
    let mut session = start(config());
    assert_eq!(session.receive(b"E", NOW), Ok(()));
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert_eq!(
        run(&mut session),
        "554 5.5.0 Client spoke out of turn, closing connection\r\n"
    );
    assert_eq!(session.poll(NOW), Step::Close(CloseReason::OutOfTurn));
    assert!(!session.wants_input());
}

#[test]
fn talk_before_the_banner_does_not_soften_a_refusal() {
    let mut session = start(config());
    assert_eq!(session.receive(b"EHLO x\r\n", NOW), Ok(()));
    assert_eq!(session.answer(Answer::Refuse(Reply::too_many_connections())), Ok(()));
    assert_eq!(
        run(&mut session),
        "421 4.7.0 Too many connections, closing connection\r\n"
    );
}

#[test]
fn talk_while_a_synchronising_hook_runs_closes() {
    for (command, prelude) in [("EHLO x\r\n", ""), ("DATA\r\n", "MAIL FROM:<>\r\nRCPT TO:<u@x>\r\n")] {
        let mut session = greeted(config());
        if !prelude.is_empty() {
            say(&mut session, "EHLO x\r\n");
            say(&mut session, prelude);
        }
        assert_eq!(session.receive(command.as_bytes(), NOW), Ok(()));
        assert!(matches!(session.poll(NOW), Step::Ask(_)));
        assert_eq!(session.receive(b"early", NOW), Ok(()));
        assert_eq!(session.answer(Answer::Accept), Ok(()));
        assert!(run(&mut session).starts_with("554 5.5.0 "), "{command}");
        assert_eq!(session.poll(NOW), Step::Close(CloseReason::OutOfTurn));
    }
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let refusal = Reply::policy_failed;
    let mut session = start(config());
    for answer in [
        Answer::Challenge(Vec::new()),
        Answer::Success,
        Answer::Failure(refusal()),
        Answer::Withdraw(Extensions::DSN),
        Answer::AcceptWith(Reply::ok()),
    ] {
        assert_eq!(session.answer(answer), Err(Misuse::WrongAnswer));
    }
    for answer in [Answer::Refuse(Reply::ok()), Answer::Disconnect(Reply::start_data())] {
        assert_eq!(session.answer(answer), Err(Misuse::WrongCode));
    }
    assert_eq!(session.poll(NOW), Step::Parked);
    assert_eq!(session.start_tls_done(NOW), Err(Misuse::NoHandshake));
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert_eq!(session.answer(Answer::Accept), Err(Misuse::NotParked));
    run(&mut session);

    assert!(say(&mut session, "EHLO x\r\n").starts_with("250-mx.test"));
    assert_eq!(session.receive(b"MAIL FROM:<>\r\n", NOW), Ok(()));
    assert!(matches!(session.poll(NOW), Step::Ask(Ask::Mail(_))));
    assert_eq!(session.answer(Answer::AcceptWith(refusal())), Err(Misuse::WrongCode));
    assert_eq!(
        session.answer(Answer::Withdraw(Extensions::DSN)),
        Err(Misuse::WrongAnswer)
    );
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert_eq!(run(&mut session), "250 2.1.0 Ok\r\n");
}

#[test]
fn input_is_bounded_while_a_hook_runs() {
    let mut session = greeted(SessionConfig {
        max_commands: 20_000,
        ..config()
    });
    say(&mut session, "EHLO x\r\n");
    assert_eq!(session.receive(b"MAIL FROM:<>\r\n", NOW), Ok(()));
    assert!(matches!(session.poll(NOW), Step::Ask(Ask::Mail(_))));
    assert_eq!(session.input_space(), MAX_INPUT);
    let flood = b"NOOP\r\n".repeat(MAX_INPUT / 6 + 1);
    assert_eq!(session.receive(&flood, NOW), Err(Misuse::InputOverrun));
    assert_eq!(session.receive(&flood[..MAX_INPUT], NOW), Ok(()));
    assert!(!session.wants_input());
    assert_eq!(session.poll(NOW), Step::Parked);
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    let mut flushes = 0;
    loop {
        match session.poll(NOW) {
            Step::Flush => {
                flushes += 1;
                session.output().clear();
            }
            Step::Replied(_) => {
                assert!(
                    session.output().len() < MAX_OUTPUT + 1024,
                    "replies are flushed in time"
                );
            }
            other => {
                assert_eq!(other, Step::NeedInput);
                break;
            }
        }
    }
    assert!(flushes > 0, "10,000 replies are more than the bound on output");
}

#[test]
fn a_client_that_leaves_during_a_hook_harms_nothing() {
    let mut session = greeted(config());
    say(&mut session, "EHLO x\r\n");
    assert_eq!(session.receive(b"MAIL FROM:<>\r\nRCPT", NOW), Ok(()));
    assert!(matches!(session.poll(NOW), Step::Ask(Ask::Mail(_))));
    session.received_eof();
    assert!(!session.wants_input());
    assert_eq!(session.poll(NOW), Step::Parked);
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert!(matches!(session.poll(NOW), Step::Replied(_)));
    assert_eq!(session.poll(NOW), Step::Aborted);
    assert_eq!(session.poll(NOW), Step::Close(CloseReason::PeerLeft));
    assert_eq!(session.poll(NOW), Step::Close(CloseReason::PeerLeft));
}

#[test]
fn a_message_that_came_whole_counts_although_the_client_left() {
    let mut session = greeted(config());
    say(&mut session, "EHLO x\r\n");
    say(&mut session, "MAIL FROM:<>\r\nRCPT TO:<u@x>\r\nDATA\r\n");
    assert_eq!(session.receive(b"x\r\n.\r\n", NOW), Ok(()));
    session.received_eof();
    assert_eq!(session.poll(NOW), Step::Data);
    assert_eq!(session.data(), b"x\r\n");
    assert_eq!(session.poll(NOW), Step::Ask(Ask::Message { size: 3 }));
    assert_eq!(session.data(), b"");
    assert_eq!(session.answer(Answer::AcceptWith(Reply::queued("7"))), Ok(()));
    assert_eq!(run(&mut session), "250 2.0.0 Ok: queued as 7\r\n");
    assert_eq!(session.poll(NOW), Step::Close(CloseReason::PeerLeft));
}

#[test]
fn the_envelope_can_be_seen_until_the_message_is_answered() {
    let mut session = greeted(config());
    assert_eq!(session.greeting(), None);
    say(&mut session, "EHLO client.test\r\n");
    assert_eq!(session.greeting(), Some(("client.test", true)));
    assert!(session.is_between_transactions());
    say(
        &mut session,
        "MAIL FROM:<a@far.test> SIZE=3\r\nRCPT TO:<u@x>\r\nRCPT TO:<v@x>\r\nDATA\r\n",
    );
    assert!(!session.is_between_transactions());
    assert_eq!(session.receive(b"x\r\n.\r\n", NOW), Ok(()));
    assert_eq!(session.poll(NOW), Step::Data);
    assert_eq!(session.poll(NOW), Step::Ask(Ask::Message { size: 3 }));
    let envelope = session.envelope().expect("still open");
    assert_eq!(envelope.mail.size, Some(3));
    let recipients: Vec<&str> = envelope.recipients.iter().map(|r| r.address.as_str()).collect();
    assert_eq!(recipients, ["u@x", "v@x"]);
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert_eq!(session.envelope(), None);
}

#[test]
fn every_reply_is_told_once_and_in_order() {
    let mut session = greeted(config());
    let text = b"EHLO x\r\n";
    assert_eq!(session.receive(text, NOW), Ok(()));
    assert!(matches!(session.poll(NOW), Step::Ask(Ask::Ehlo { .. })));
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert_eq!(session.receive(b"FOO\r\nNOOP\r\nMAIL FROM:<>\r\nQUIT\r\n", NOW), Ok(()));
    let mut told = Vec::new();
    loop {
        match session.poll(NOW) {
            Step::Replied(replied) => told.push((replied.verb, replied.reply.code(), replied.own)),
            Step::Ask(_) => assert_eq!(session.answer(Answer::Accept), Ok(())),
            Step::Close(_) => break,
            _ => {}
        }
    }
    let expected = [
        (Verb::Ehlo, 250, false),
        (Verb::Unknown, 500, true),
        (Verb::Noop, 250, true),
        (Verb::Mail, 250, false),
        (Verb::Quit, 221, true),
    ];
    assert_eq!(told, expected);
}

#[test]
fn credentials_stay_out_of_debug_output() {
    let mut session = greeted(SessionConfig {
        mechanisms: vec!["PLAIN".to_owned()],
        implicit_tls: true,
        ..config()
    });
    say(&mut session, "EHLO x\r\n");
    assert_eq!(session.receive(b"AUTH PLAIN AGEAc2VjcmV0\r\n", NOW), Ok(()));
    let Step::Ask(ask) = session.poll(NOW) else {
        panic!("AUTH is offered under TLS");
    };
    assert!(!format!("{ask:?}").contains("secret") && !format!("{ask:?}").contains("115"));
    let Ask::Auth(AuthStep::Begin { mechanism, initial }) = ask else {
        panic!("AUTH was sent");
    };
    assert_eq!(
        (mechanism.as_str(), initial.as_deref()),
        ("PLAIN", Some(&b"\0a\0secret"[..]))
    );
    assert_eq!(session.answer(Answer::Success), Ok(()));
    assert!(session.is_authenticated() && session.is_tls());
}

#[test]
fn time_in_hooks_is_not_the_clients() {
    let mut session = greeted(config());
    say(&mut session, "EHLO x\r\n");
    assert_eq!(session.receive(b"MAIL FROM:<>\r\nRSE", NOW), Ok(()));
    assert!(matches!(session.poll(NOW), Step::Ask(_)));
    assert_eq!(session.deadline(), Duration::MAX);
    let later = NOW + Duration::from_secs(10_000);
    assert_eq!(session.answer(Answer::Accept), Ok(()));
    assert!(matches!(session.poll(later), Step::Replied(_)));
    assert_eq!(session.poll(later), Step::NeedInput);
    assert_eq!(session.deadline(), later + config().command_timeout);
}

#[test]
fn an_endless_refused_message_is_cut_off() {
    let mut session = greeted(SessionConfig {
        max_message_size: 10,
        ..config()
    });
    say(&mut session, "EHLO x\r\n");
    say(&mut session, "MAIL FROM:<>\r\nRCPT TO:<u@x>\r\nDATA\r\n");
    let piece = [b'x'; MAX_INPUT];
    let mut rounds = 0;
    while session.wants_input() {
        assert_eq!(session.receive(&piece, NOW), Ok(()));
        let output = run(&mut session);
        assert!(output.is_empty() || output == "552 5.3.4 Message size exceeds limit\r\n");
        rounds += 1;
        assert!(rounds < 10_000, "the bound on discarded data holds");
    }
    assert_eq!(session.poll(NOW), Step::Close(CloseReason::TooMuchData));
}
