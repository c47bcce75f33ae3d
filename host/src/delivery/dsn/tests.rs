use gatepost_smtp::reply::{Enhanced, Reply};

use super::*;
use crate::message::RcptParams;

fn state(sender: &str, params: MailParams, recipients: Vec<Recipient>) -> QueueState {
    QueueState {
        envelope: Envelope {
            sender: sender.to_owned(),
            params,
            recipients,
        },
        origin: Arc::new(Origin {
            session: Arc::new(SessionFacts::internal()),
            notes: Default::default(),
            tags: Vec::new(),
            received: SystemTime::UNIX_EPOCH,
        }),
        size: 100,
        held: None,
        attempts: 1,
        next_attempt: None,
        last_error: None,
        delay_notified: false,
    }
}

const SPEAKER: Speaker<'static> = Speaker {
    hostname: "relay.example",
    bounce_hostname: "bounce.example",
    now: SystemTime::UNIX_EPOCH,
    retry_until: SystemTime::UNIX_EPOCH,
};

/// Composes a notice about one recipient, and returns it with its body as text.
async fn notice(kind: Kind, state: &QueueState, answer: &Answer, content: &Content) -> (NewMessage, String) {
    let report = Report {
        recipient: &state.envelope.recipients[0],
        action: "failed",
        answer,
        host: Some("mx.example"),
    };
    let notice = compose(kind, &SPEAKER, state, &[report], Some(content)).await;
    let Body::Memory(body) = &notice.body else {
        panic!("a notice is small")
    };
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    (notice, text)
}

fn content(body: &str) -> Content {
    Content::in_memory(
        Bytes::from_static(b"Received: x\r\n"),
        Bytes::copy_from_slice(body.as_bytes()),
    )
}

fn answer() -> Answer {
    Answer {
        reply: Reply::new(550, Enhanced(5, 1, 1), "no such user"),
        remote: true,
    }
}

fn to(address: &str) -> Vec<Recipient> {
    vec![Recipient {
        address: address.to_owned(),
        ..Recipient::default()
    }]
}

#[test]
fn who_is_told_what() {
    let notify = |success, failure, delay| {
        Some(Notify {
            success,
            failure,
            delay,
        })
    };
    let cases = [
        ("a@x", None, [true, true, false]),
        ("a@x", notify(false, false, false), [false, false, false]),
        ("a@x", notify(true, false, false), [false, false, true]),
        ("a@x", notify(false, true, false), [true, false, false]),
        ("a@x", notify(false, false, true), [false, true, false]),
        ("a@x", notify(true, true, true), [true, true, true]),
        ("", None, [false, false, false]),
        ("", notify(true, true, true), [false, false, false]),
    ];
    for (sender, notify, expected) in cases {
        let told = [Kind::Failed, Kind::Delayed, Kind::Success].map(|kind| due(kind, sender, notify));
        assert_eq!(told, expected, "{sender:?} {notify:?}");
    }
}

#[tokio::test]
async fn how_much_is_returned() {
    let short = "Subject: s\r\n\r\nbody\r\n";
    let long = format!("Subject: s\r\n\r\n{}", "body\r\n".repeat(20_000));
    let cases = [
        (Kind::Failed, None, short, "message/rfc822", true),
        (Kind::Failed, Some(true), short, "message/rfc822", true),
        (Kind::Failed, Some(false), short, "text/rfc822-headers", false),
        (Kind::Failed, None, &*long, "text/rfc822-headers", false),
        (Kind::Failed, Some(true), &*long, "text/rfc822-headers", false),
        (Kind::Delayed, Some(true), short, "text/rfc822-headers", false),
        (Kind::Success, Some(true), short, "text/rfc822-headers", false),
        (
            Kind::Failed,
            None,
            "Subject: grüße\r\n\r\nbody\r\n",
            "message/global",
            true,
        ),
        (
            Kind::Failed,
            Some(false),
            "Subject: grüße\r\n\r\nbody\r\n",
            "message/global-headers",
            false,
        ),
    ];
    for (kind, ret_full, message, part, has_body) in cases {
        let state = state(
            "a@x",
            MailParams {
                ret_full,
                ..MailParams::default()
            },
            to("b@y"),
        );
        let (notice, text) = notice(kind, &state, &answer(), &content(message)).await;
        assert!(
            text.contains(&format!("\r\nContent-Type: {part}\r\n")),
            "{part} in\n{text}"
        );
        assert!(text.contains("\r\nReceived: x\r\nSubject: "));
        assert_eq!(text.contains("\r\nbody\r\n"), has_body, "{text}");
        assert_eq!(notice.envelope.params.eight_bit, !text.is_ascii());
        assert!(notice.body.len() < Body::MEMORY_LIMIT as u64);
    }
}

#[tokio::test]
async fn addresses_and_replies_cannot_forge_a_line() {
    let recipients = vec![Recipient {
        address: "ö@bücher.example".to_owned(),
        original: Some("old\r\nAction: delivered".to_owned()),
        params: RcptParams {
            notify: None,
            orcpt: Some("utf-8;x+0D+0AAction: delivered".to_owned()),
        },
        ..Recipient::default()
    }];
    let params = MailParams {
        envid: Some("a+0D+0AAction: delivered".to_owned()),
        ..MailParams::default()
    };
    let state = state("ä@x\r\nBcc: c@z", params, recipients);
    let words = "word ".repeat(400);
    let answer = Answer {
        reply: Reply::new(550, Enhanced(4, 1, 1), format!("{words}{}", "x".repeat(5000))),
        remote: true,
    };
    let (notice, text) = notice(Kind::Failed, &state, &answer, &content("Subject: s\r\n\r\n")).await;
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("Action: delivered") || line.starts_with("Bcc:")),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line == "Final-Recipient: utf-8; \\x{F6}@b\\x{FC}cher.example"),
        "{text}"
    );
    assert!(text.lines().any(|line| line == "Status: 5.1.1"));
    assert!(text.lines().all(|line| line.len() < 998));
    assert!(notice.envelope.params.smtputf8 && notice.envelope.sender.is_empty());
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
}

#[tokio::test]
async fn the_largest_notice_is_a_message_in_memory() {
    let long = format!("{}@{}.example", "l".repeat(200), "d".repeat(40));
    let recipients: Vec<Recipient> = (0..MAX_RECIPIENTS)
        .map(|_| Recipient {
            address: long.clone(),
            original: Some(long.clone()),
            ..Recipient::default()
        })
        .collect();
    let state = state("a@x", MailParams::default(), recipients);
    let answer = Answer {
        reply: Reply::new(550, Enhanced(5, 1, 1), "x".repeat(60_000)),
        remote: true,
    };
    let reports: Vec<Report<'_>> = state
        .envelope
        .recipients
        .iter()
        .map(|recipient| Report {
            recipient,
            action: "failed",
            answer: &answer,
            host: Some(&long),
        })
        .collect();
    let content = content(&"x".repeat(MAX_RETURNED as usize - 100));
    let notice = compose(Kind::Failed, &SPEAKER, &state, &reports, Some(&content)).await;
    assert!(notice.body.len() <= Body::MEMORY_LIMIT as u64, "{}", notice.body.len());
}

#[test]
fn dates_are_those_of_the_calendar() {
    let cases = [
        (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
        (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
        (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 +0000"),
        (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
    ];
    for (seconds, expected) in cases {
        assert_eq!(
            date(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)),
            expected
        );
    }
}

#[test]
fn xtext_is_decoded() {
    for (text, expected) in [
        ("a+3Db", "a=b"),
        ("+", "+"),
        ("a+2", "a+2"),
        ("+ZZ", "+ZZ"),
        ("+C3+B6", "ö"),
    ] {
        assert_eq!(decode_xtext(text), expected);
    }
}
