//! A policy that touches everything, asked through a script.

use std::time::Duration;

use super::Script;
use crate::dns::{self, DnsError, ListQuery, Query, RecordType};
use crate::endpoint::{self, EndpointError, Request};
use crate::hooks::{CommandResult, OnResult, Verdict};
use crate::login::Attempt;
use crate::notes::{self, Scope};
use crate::prelude::*;
use crate::state::{self, Bucket, Taken};
use crate::types::AuthOffer;
use crate::{clock, log, metrics, random};

/// Says in the reason of each answer what it was told.
#[derive(Debug, Default)]
struct Echo;

impl Unconfigured for Echo {}

fn told(what: impl std::fmt::Debug) -> Answer {
    Answer::pass().because(format!("{what:?}"), "", "")
}

#[track_caller]
fn reason(answer: &Answer) -> &str {
    &answer.why.as_ref().expect("every answer of Echo has a reason").reason
}

impl OnConnect for Echo {
    fn on_connect(&self, session: &Session) -> Answer {
        let (peer, listener) = (session.peer(), session.listener());
        let facts = (
            peer.address,
            peer.trusted,
            listener.name,
            listener.auth,
            session.tls().map(|tls| tls.version),
        );
        told((facts, session.reverse_name(), session.id().len()))
    }
}

impl OnAuth for Echo {
    fn on_auth(&self, _: &Session, attempt: &Attempt) -> Verdict {
        if attempt.verify() && attempt.mechanism() == "PLAIN" {
            Verdict::Success(attempt.user())
        } else {
            Verdict::Failure
        }
    }
}

impl OnMail for Echo {
    fn on_mail(&self, session: &Session, sender: &Mailbox) -> Answer {
        let given = sender.parameters();
        let parameters: Vec<_> = given
            .iter()
            .map(|given| (&*given.name, given.value.as_deref()))
            .collect();
        let identity = session.identity().map(|identity| identity.name);
        let answer = told((sender.local(), sender.domain(), identity, parameters));
        if sender.domain() == "refused.test" {
            Answer::reject(0, "", "no")
        } else {
            answer
        }
    }
}

impl OnRcpt for Echo {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, relay: &RelayView) -> Answer {
        match &*recipient.local() {
            "leave" => return Answer::pass().leave_session(),
            "rewrite" => {
                return Answer::pass()
                    .rewrite_recipient("other@ours.test")
                    .add_recipient("third@ours.test");
            }
            "defer" => return Answer::defer(0, "", "later").because("busy", "", ""),
            _ => {}
        }
        let earlier = session.earlier_answers();
        let earlier = earlier.last().map(|last| (&*last.stage, &*last.verdict, &*last.reason));
        told((
            relay.reason.as_deref().unwrap_or_default(),
            session.recipient_count(),
            session.sender(),
            earlier,
        ))
    }
}

impl OnMessage for Echo {
    fn on_message(&self, _: &Session, message: &Message) -> Answer {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ASCII");
        let subjects: Vec<_> = message.header("subject").into_iter().map(text).collect();
        told((message.size(), subjects, text(message.read(message.body_offset(), 4))))
    }
}

impl OnResult for Echo {
    fn on_result(&self, _: &Session, event: &CommandResult) {
        metrics::count("refused", u64::from(event.code >= 500));
        metrics::count("Not A Name", 1);
        log::warn(&event.text);
    }
}

fn script() -> Script<Echo> {
    Script::new("{}").expect("it takes no configuration")
}

#[test]
fn the_session_is_what_the_test_says() {
    let mut script = script();
    assert_eq!(
        reason(&script.on_connect()),
        r#"(("192.0.2.1", false, "mx", AuthOffer::Optional, None), None, 13)"#
    );
    script
        .peer("2001:db8::1")
        .trusted(true)
        .listener("submission", AuthOffer::Required);
    script.tls("TLSv1.3").reverse_name("mail.example");
    assert_eq!(
        reason(&script.on_connect()),
        r#"(("2001:db8::1", true, "submission", AuthOffer::Required, Some("TLSv1.3")), Some("mail.example"), 13)"#
    );
}

#[test]
fn a_transaction_goes_on_as_in_the_daemon() {
    let mut script = script();
    script.parameters(&[("SIZE", Some("1000")), ("SMTPUTF8", None)]);
    assert_eq!(
        reason(&script.on_mail("\"a b\"@EXAMPLE.org.")),
        r#"("a b", "example.org", None, [("SIZE", Some("1000")), ("SMTPUTF8", None)])"#
    );
    let earlier = r#"("a b", "example.org", None, [("SIZE", Some("1000")), ("SMTPUTF8", None)])"#;
    assert_eq!(
        reason(&script.on_rcpt("u@ours.test")),
        format!(r#"("", 0, Some("\"a b\"@EXAMPLE.org."), Some(("on-mail", "pass", {earlier:?})))"#)
    );
    assert_eq!(
        script.on_rcpt("defer@ours.test"),
        Answer::defer(0, "", "later").because("busy", "", "")
    );
    script.on_rcpt("rewrite@ours.test");
    // Nobody allowed it, so it is not in the envelope.
    assert!(reason(&script.on_rcpt("u@far.test")).starts_with(r#"("auth-not-offered-without-tls", 3"#));
    let envelope = script.envelope_now().expect("a transaction");
    assert_eq!(
        envelope.recipients,
        ["u@ours.test", "third@ours.test", "other@ours.test"]
    );

    assert_eq!(script.on_mail("u@refused.test"), Answer::reject(0, "", "no"));
    assert_eq!(script.envelope_now(), None);
}

#[test]
fn the_host_judges_recipients_as_the_daemon_does() {
    let mut script = script();
    let check = |script: &mut Script<Echo>, recipient: &str, expected: &str| {
        let answer = script.on_rcpt(recipient);
        assert!(
            reason(&answer).starts_with(&format!("({expected:?}, ")),
            "{recipient}: {answer:?}"
        );
    };
    check(&mut script, "u@OURS.test.", "");
    check(&mut script, "postmaster", "");
    check(&mut script, "u%far.test@ours.test", "source-routed");
    check(&mut script, "u@far.test", "auth-not-offered-without-tls");
    check(script.tls("TLSv1.3"), "u@far.test", "not-authenticated");
    check(
        script.listener("mx", AuthOffer::Off),
        "u@far.test",
        "network-not-trusted",
    );
    check(script.identity("alice"), "u@far.test", "domain-not-ours");
    check(script.relay_reason("source-routed"), "u@ours.test", "source-routed");
}

#[test]
#[should_panic(expected = "took leave of this session")]
fn who_left_is_not_asked_again() {
    let mut script = script();
    script.on_rcpt("leave@ours.test");
    assert!(script.has_left());
    script.on_rcpt("u@ours.test");
}

#[test]
fn who_left_is_asked_again_after_login_and_in_the_next_session() {
    let mut script = script();
    script.on_rcpt("leave@ours.test");
    script.user("alice", "secret");
    script.reconnect();
    assert_eq!(script.on_auth("LOGIN", "alice", "secret"), Verdict::Failure);
    assert_eq!(script.on_auth("PLAIN", "alice", "wrong"), Verdict::Failure);
    assert_eq!(
        script.on_auth("PLAIN", "alice", "secret"),
        Verdict::Success("alice".to_owned())
    );
    assert_eq!(reason(&script.on_mail("")), r#"("", "", Some("alice"), [])"#);
}

#[test]
fn a_message_is_read_as_in_the_daemon() {
    let mut script = script();
    script.message("Subject: one\n two\nX: y\nsubject:three\n\nbody\n");
    assert_eq!(
        reason(&script.on_message()),
        r#"(49, ["one\r\n two", "three"], "body")"#
    );
    script.message("no header at all");
    assert_eq!(reason(&script.on_message()), r#"(16, [], "no h")"#);
    script.message("\nbody");
    assert_eq!(reason(&script.on_message()), r#"(6, [], "body")"#);
}

/// Runs a closure as the hook of a policy would run.
fn inside<R>(script: &mut Script<Echo>, hook: impl FnOnce() -> R) -> R {
    super::world::run(&mut script.world, hook)
}

#[test]
fn the_world_answers_what_the_test_says() {
    let mut script = script();
    script
        .dns("Mail.Example.", RecordType::Mx, &["10 mx.example"])
        .dns_fails("broken.example", RecordType::A, "time-out")
        .listed("bl.example", "::ffff:192.0.2.1", &["127.0.0.2"])
        .random(&[7])
        .endpoint_says("clamd", b"stream: OK\0")
        .endpoint_responds("scanner", 200, b"ham")
        .endpoint_fails("gone", EndpointError::Timeout);
    inside(&mut script, || {
        let query = |name: &str, kind| Query {
            name: name.to_owned(),
            kind,
        };
        assert_eq!(
            dns::lookup(&[
                query("mail.example", RecordType::Mx),
                query("mail.example", RecordType::A),
                query("broken.example", RecordType::A)
            ]),
            [
                Ok(vec!["10 mx.example".to_owned()]),
                Ok(Vec::new()),
                Err(DnsError::Temporary("time-out".to_owned()))
            ]
        );
        let listing = ListQuery {
            zone: "BL.example".to_owned(),
            subject: "192.0.2.1".to_owned(),
        };
        assert_eq!(dns::lists(&[listing]), [Ok(vec!["127.0.0.2".to_owned()])]);
        assert_eq!(random::get_u64(), 7);
        assert_ne!(random::get_u64(), random::get_u64());

        let clamd = endpoint::connect("clamd").expect("it is there");
        assert_eq!(clamd.write(b"zPING\0"), Ok(()));
        assert_eq!(clamd.read(6).as_deref(), Ok(&b"stream"[..]));
        assert_eq!(clamd.read(100).as_deref(), Ok(&b": OK\0"[..]));
        assert_eq!(clamd.read(100).as_deref(), Ok(&b""[..]));
        let request = Request {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let response = endpoint::http("scanner", &request).expect("it answers");
        assert_eq!((response.status, &*response.body), (200, &b"ham"[..]));
        assert_eq!(endpoint::http("gone", &request), Err(EndpointError::Timeout));
        assert_eq!(endpoint::connect("nowhere").map(|_| ()), Err(EndpointError::Unknown));
    });
    assert_eq!(script.take_written("clamd"), b"zPING\0");
    assert_eq!(script.take_requests("scanner").len(), 1);
    assert_eq!(
        script.take_dns_questions(),
        ["mail.example", "mail.example", "broken.example", "BL.example"]
    );
}

#[test]
fn clock_state_and_notes_last_as_long_as_in_the_daemon() {
    let mut script = script();
    let one = [Bucket {
        key: "k".to_owned(),
        cost: 1,
        rate: 1,
        per_seconds: 60,
        burst: 1,
    }];
    script.sender("");
    inside(&mut script, || {
        assert_eq!(clock::now(), super::START_MS);
        assert_eq!(state::set("seen", b"1", Some(60)), Ok(()));
        assert_eq!(state::take_all(&one), Ok(Taken::Ok));
        assert_eq!(state::take_all(&one), Ok(Taken::Refused((0, 60_000))));
        assert!(notes::set(Scope::Session, "s", Some(b"1")) && notes::set(Scope::Transaction, "t", Some(b"1")));
        assert!(!notes::set(Scope::Session, "big", Some(&[0; 65_536])));
        assert_eq!(notes::get(Scope::Session, "other", "s"), None);
    });
    script.wait(Duration::from_secs(60)).sender("next@example.test");
    script.set_note(Scope::Session, "other", "s", b"2");
    inside(&mut script, || {
        assert_eq!(state::get("seen"), Ok(None));
        assert_eq!(state::take_all(&one), Ok(Taken::Ok));
        assert_eq!(notes::get(Scope::Session, "", "s").as_deref(), Some(&b"1"[..]));
        assert_eq!(notes::get(Scope::Transaction, "", "t"), None);
        assert_eq!(notes::get(Scope::Session, "other", "s").as_deref(), Some(&b"2"[..]));
    });
    script.state_fails("gone");
    inside(&mut script, || assert!(state::get("seen").is_err()));
}

#[test]
fn what_a_policy_leaves_behind_can_be_looked_at() {
    let mut script = script();
    script.on_result(&CommandResult {
        command: "RCPT".to_owned(),
        code: 550,
        text: "no".to_owned(),
        reason: String::new(),
        subject: String::new(),
    });
    assert_eq!((script.counter("refused"), script.counter("Not A Name")), (1, 0));
    assert_eq!(script.take_log(), [(log::Level::Warn, "no".to_owned())]);
}

#[test]
#[should_panic(expected = "only a hook may call the host")]
fn the_host_is_there_in_hooks_only() {
    clock::now();
}

/// Wants one hook of two.
#[derive(Debug)]
struct Choosy;

impl Policy for Choosy {
    type Config = crate::NoConfig;

    fn new(_: Self::Config) -> Result<Self, String> {
        crate::decline("on-connect");
        Ok(Self)
    }
}

impl OnConnect for Choosy {
    fn on_connect(&self, _: &Session) -> Answer {
        Answer::pass()
    }
}

impl OnRcpt for Choosy {
    fn on_rcpt(&self, _: &Session, _: &Mailbox, _: &RelayView) -> Answer {
        Answer::pass()
    }
}

#[test]
#[should_panic(expected = "the policy declined on-connect")]
fn what_was_declined_is_not_asked() {
    let mut script = Script::<Choosy>::new("{}").expect("it takes no configuration");
    assert!(script.has_declined("on-connect") && !script.has_declined("on-rcpt"));
    assert!(
        !Script::<Echo>::new("{}")
            .expect("it takes none")
            .has_declined("on-connect")
    );
    assert_eq!(script.on_rcpt("u@ours.test"), Answer::pass());
    script.on_connect();
}
