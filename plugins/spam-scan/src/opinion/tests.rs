//! What is asked, what answers say, and what becomes of a message by them.

use gatepost_sdk::prelude::{Action, Answer, Decision};
use gatepost_sdk::testing::Script;

use super::*;
use crate::SecondOpinion;

const BOTH: &str = r#"{"reject":5,"rspamd":{"unavailable":"defer"},"spamd":{"unavailable":"defer"}}"#;
const HAM: &str = "From: Alice Archer <alice@example.org>\r\nTo: Bob Baker <bob@example.net>\r\nSubject: lunch on Friday?\r\nDate: Fri, 6 Mar 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nShall we go at noon? There is a new place near the station.\r\n";

/// A response of rspamd with this JSON.
fn rspamd(json: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len()).into_bytes()
}

fn scored(score: f64, action: &str) -> Vec<u8> {
    rspamd(&format!(
        r#"{{"score":{score},"required_score":15.0,"action":"{action}","symbols":{{}}}}"#
    ))
}

fn spamd(line: &str) -> Vec<u8> {
    format!("SPAMD/1.1 0 EX_OK\r\nSpam: {line}\r\n\r\n").into_bytes()
}

fn script(config: &str) -> Script<SecondOpinion> {
    let mut script = Script::with_endpoints(config, &["rspamd", "spamd"]).expect("valid");
    script
        .sender("me@elsewhere.test")
        .recipients(&["bob@ours.test", "eve@ours.test"]);
    script.message(HAM);
    script
}

fn verdict(score: f64, required: f64) -> Verdict {
    Verdict { score, required }
}

/// The value of a field that is added.
fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.actions.iter().find_map(|action| match action {
        Action::AddHeader(field) if field.name == name => std::str::from_utf8(&field.value).ok(),
        _ => None,
    })
}

#[test]
fn rspamd_is_told_who_sends_what_to_whom() {
    let mut script = script(r#"{"rspamd":{}}"#);
    script
        .peer("2001:db8::1")
        .ehlo("client\u{7}.test")
        .reverse_name("mail.example.org");
    script
        .identity("alice")
        .endpoint_says("rspamd", &scored(1.5, "no action"));
    script.on_message();
    let head = format!(
        "POST /checkv2 HTTP/1.1\r\nHost: rspamd\r\nConnection: close\r\nContent-Length: {}\r\n\
         Queue-Id: 0000000000001\r\nMTA-Name: relay.test\r\nIP: 2001:db8::1\r\nHelo: client?.test\r\nHostname: mail.example.org\r\n\
         User: alice\r\nFrom: <me@elsewhere.test>\r\nRcpt: <bob@ours.test>\r\nRcpt: <eve@ours.test>\r\n\r\n",
        HAM.len()
    );
    assert_eq!(String::from_utf8_lossy(&script.take_written("rspamd")), head + HAM);
}

#[test]
fn of_many_recipients_rspamd_is_told_some() {
    let all: Vec<String> = (0..1000).map(|number| format!("{number}@ours.test")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut script = script(r#"{"rspamd":{}}"#);
    script
        .recipients(&all)
        .endpoint_says("rspamd", &scored(1.5, "no action"));
    script.on_message();
    let written = script.take_written("rspamd");
    assert_eq!(written.windows(6).filter(|six| *six == b"\nRcpt:").count(), 100);
}

#[test]
fn spamd_gets_the_message_with_the_fields_of_its_way() {
    let cases = [("192.0.2.1", "[192.0.2.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]")];
    for (peer, shown) in cases {
        let mut script = script(r#"{"spamd":{}}"#);
        // A name that would be another client's address, if it were believed.
        script.peer(peer).ehlo("x (y [198.51.100.1]) by z").tls("TLSv1.3");
        script
            .at(784_111_777_000)
            .endpoint_says("spamd", &spamd("False ; 1.0 / 5.0"));
        script.on_message();
        let text = format!(
            "Return-Path: <me@elsewhere.test>\r\nReceived: from xy[198.51.100.1]byz (unknown {shown})\r\n\
             \tby relay.test with ESMTPS id 0000000000001;\r\n\tSun, 06 Nov 1994 08:49:37 GMT\r\n{HAM}"
        );
        let head = format!("CHECK SPAMC/1.5\r\nContent-length: {}\r\n\r\n", text.len());
        assert_eq!(String::from_utf8_lossy(&script.take_written("spamd")), head + &text);
    }
}

/// The message is of any size, and the last chunk of it too.
#[test]
fn both_get_the_whole_message() {
    for size in [1, 65_535, 65_536, 65_537, 200_000] {
        let text: Vec<u8> = (0..size).map(|place: u32| (place % 251) as u8).collect();
        let mut script = script(BOTH);
        script.message_bytes(text.clone());
        script.endpoint_says("rspamd", &scored(0.0, "no action"));
        script.endpoint_says("spamd", &spamd("False ; 0.0 / 5.0"));
        script.on_message();
        for name in ["rspamd", "spamd"] {
            assert!(script.take_written(name).ends_with(&text), "{name} {size}");
        }
    }
}

#[test]
fn answers_are_understood() {
    let chunked = |parts: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n{parts}").into_bytes();
    let json = r#"{"score":-3.25,"required_score":15,"action":"no action"}"#;
    let (first, second) = json.split_at(17);
    let cases = [
        (Kind::Rspamd, scored(1.5, "no action"), verdict(1.5, 6.0)),
        (Kind::Rspamd, scored(7.0, "add header"), verdict(7.0, 6.0)),
        (Kind::Rspamd, scored(5.0, "rewrite subject"), verdict(6.0, 6.0)),
        (Kind::Rspamd, scored(0.0, "reject"), verdict(15.0, 6.0)),
        (Kind::Rspamd, scored(4.5, "greylist"), verdict(4.5, 6.0)),
        (Kind::Rspamd, scored(4.5, "soft reject"), verdict(4.5, 6.0)),
        (Kind::Rspamd, scored(4.5, "\u{e9}"), verdict(4.5, 6.0)),
        (Kind::Rspamd, scored(15.0, "quarantine"), verdict(15.0, 6.0)),
        (Kind::Rspamd, scored(-2.0, "discard"), verdict(15.0, 6.0)),
        (Kind::Rspamd, rspamd(json), verdict(-3.25, 6.0)),
        (
            Kind::Rspamd,
            rspamd(
                r#"{"score":1,"required_score":15,"action":"no action","thresholds":{"reject":15,"add header":8,"greylist":4}}"#,
            ),
            verdict(1.0, 8.0),
        ),
        (
            Kind::Rspamd,
            rspamd(r#"{"score":1,"required_score":15,"action":"no action","thresholds":{"reject":15}}"#),
            verdict(1.0, 6.0),
        ),
        (
            Kind::Rspamd,
            chunked(&format!(
                "11\r\n{first}\r\n{:x};x=y\r\n{second}\r\n0\r\n\r\n",
                second.len()
            )),
            verdict(-3.25, 6.0),
        ),
        (Kind::Spamd, spamd("True ; 12.5 / 5.0"), verdict(12.5, 5.0)),
        (Kind::Spamd, spamd("False ; -0.0 / 5.0"), verdict(-0.0, 5.0)),
        (Kind::Spamd, spamd("False ; -12,5 / 5,0"), verdict(-12.5, 5.0)),
        (Kind::Spamd, spamd("Yes ;1000/5"), verdict(1000.0, 5.0)),
        (
            Kind::Spamd,
            b"SPAMD/1.5 0 EX_OK\r\nContent-length: 5\r\nspam: No ; 1 / 5\r\n\r\nA,B".to_vec(),
            verdict(1.0, 5.0),
        ),
    ];
    for (kind, answer, expected) in cases {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(kind.understand(&answer, false), Some(Ok(expected)), "{shown}");
        let header = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("there is one");
        for end in 0..header + 4 {
            // Not yet, and never if there is no more.
            assert_eq!(kind.understand(&answer[..end], false), None, "{shown} {end}");
            assert!(
                matches!(kind.understand(&answer[..end], true), Some(Err(_))),
                "{shown} {end}"
            );
        }
    }
}

#[test]
fn a_body_without_a_length_ends_with_the_connection() {
    let answer = b"HTTP/1.0 200 OK\r\n\r\n{\"score\":1,\"required_score\":15,\"action\":\"\"}";
    assert_eq!(Kind::Rspamd.understand(answer, false), None);
    assert_eq!(Kind::Rspamd.understand(answer, true), Some(Ok(verdict(1.0, 6.0))));
}

#[test]
fn what_is_cut_off_is_no_answer() {
    let whole = scored(1.5, "no action");
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for answer in [&*whole, chunk] {
        for end in 1..answer.len() {
            if let Some(said) = Kind::Rspamd.understand(&answer[..end], true) {
                assert!(said.is_err(), "{:?}", String::from_utf8_lossy(&answer[..end]));
            }
        }
    }
}

#[test]
fn nonsense_is_no_verdict() {
    let response = |head: &str, body: &str| format!("HTTP/1.1 {head}\r\n\r\n{body}").into_bytes();
    let cases = [
        (Kind::Rspamd, b"220 mail.example.test ESMTP\r\n".to_vec()),
        (Kind::Rspamd, b"\0\xff\xfe\r\n\r\n".to_vec()),
        (Kind::Rspamd, rspamd("")),
        (Kind::Rspamd, rspamd("[]")),
        (Kind::Rspamd, rspamd(r#"{"error":"no"}"#)),
        (Kind::Rspamd, rspamd(r#"{"score":1,"action":"reject"}"#)),
        (Kind::Rspamd, rspamd(r#"{"score":"1","required_score":15,"action":""}"#)),
        (Kind::Rspamd, rspamd(r#"{"score":NaN,"required_score":15,"action":""}"#)),
        (
            Kind::Rspamd,
            rspamd(r#"{"score":1e999,"required_score":15,"action":""}"#),
        ),
        (Kind::Rspamd, rspamd(r#"{"score":1,"required_score":0,"action":""}"#)),
        (
            Kind::Rspamd,
            rspamd(r#"{"score":1,"required_score":15,"action":"","thresholds":{"add header":-1}}"#),
        ),
        (Kind::Rspamd, rspamd(&"[".repeat(10_000))),
        (Kind::Rspamd, response("404 Not Found\r\nContent-Length: 0", "")),
        (Kind::Rspamd, response("200 OK\r\nContent-Length: -1", "{}")),
        (
            Kind::Rspamd,
            response("200 OK\r\nContent-Length: 99999999999999999999", "{}"),
        ),
        (Kind::Rspamd, response("200 OK\r\nTransfer-Encoding: gzip", "{}")),
        (Kind::Rspamd, response("200 OK\r\nTransfer-Encoding: chunked", "x\r\n")),
        (
            Kind::Rspamd,
            response("200 OK\r\nTransfer-Encoding: chunked", "2\r\n{}{}"),
        ),
        (
            Kind::Rspamd,
            response(&format!("200 OK{}", "\r\na: b".repeat(40)), "{}"),
        ),
        (Kind::Spamd, b"SPAMD/1.1 76 EX_PROTOCOL\r\n\r\n".to_vec()),
        (Kind::Spamd, b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        (Kind::Spamd, b"\r\n\r\n".to_vec()),
        (Kind::Spamd, b"SPAMD/1.1 0 EX_OK\r\n\r\n".to_vec()),
        (Kind::Spamd, b"SPAMD/1.1 0 \xff\r\nSpam: True ; 1 / 5\r\n\r\n".to_vec()),
        (Kind::Spamd, vec![b'x'; 5000]),
        (Kind::Spamd, spamd("Maybe ; 1 / 5")),
        (Kind::Spamd, spamd("True ; many / 5")),
        (Kind::Spamd, spamd("True ; inf / 5")),
        (Kind::Spamd, spamd("True ; NaN / 5")),
        (Kind::Spamd, spamd("True ; 1 / 0")),
        (Kind::Spamd, spamd("True ; 1")),
    ];
    for (kind, answer) in cases {
        let said = kind.understand(&answer, true);
        let shown = String::from_utf8_lossy(&answer);
        // What is neither is found out where it is read: the connection is closed.
        assert!(!matches!(said, Some(Ok(_))), "{shown}");
    }
}

#[test]
fn an_endless_answer_is_not_read_to_its_end() {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec();
    answer.resize(10 * ANSWER_BYTES_MAX, b' ');
    let mut script = script(r#"{"rspamd":{"unavailable":"defer"}}"#);
    script.endpoint_says("rspamd", &answer);
    let why = script.on_message().why.expect("there is a reason");
    assert_eq!(why.detail, "rspamd: its answer is over 262144 bytes");
}

#[test]
fn a_score_is_worth_what_it_is_of_the_scanners_own_limit() {
    let cases = [
        // Half of what it takes for spam, with a `tag` of 5 points.
        (verdict(3.0, 6.0), 100, 250),
        (verdict(3.0, 6.0), 50, 125),
        (verdict(-1.2, 6.0), 100, -100),
        (verdict(6.0, 6.0), 100, 500),
        (verdict(15.0, 6.0), 100, 1250),
        (verdict(f64::MAX, 0.1), 1000, 100_000),
        (verdict(f64::MIN, 0.1), 1000, -100_000),
        (verdict(-0.0, f64::MIN_POSITIVE), 100, 0),
    ];
    for (verdict, weight, points) in cases {
        assert_eq!(verdict.opinion(Kind::Rspamd, weight, 500).points, points, "{verdict:?}");
    }
    let shown = |score, required| verdict(score, required).opinion(Kind::Spamd, 1, 500).what;
    assert_eq!(shown(-1.25, 5.0), "spamd: -1.2 of 5.0");
    assert_eq!(shown(f64::MAX, 5.0), "spamd: 21474836.4 of 5.0");
}

#[test]
fn points_are_added_and_reported() {
    let mut script = script(r#"{"always_score":true,"rspamd":{"weight":2},"spamd":{}}"#);
    script.endpoint_says("rspamd", &scored(15.0, "reject"));
    script.endpoint_says("spamd", &spamd("False ; -2.5 / 5.0"));
    let answer = script.on_message();
    let report = field(&answer, "X-Spam-Report").expect("it is tagged");
    assert!(report.starts_with("+25.0 rspamd: 15.0 of 6.0;\r\n\t"), "{report}");
    assert!(report.contains("-2.5 spamd: -2.5 of 5.0"), "{report}");
    let why = answer.why.as_ref().expect("there is a reason");
    assert!(why.detail.contains("+25.0 rspamd: 15.0 of 6.0; "), "{}", why.detail);
    assert_eq!((script.counter("rspamd_asked"), script.counter("spamd_asked")), (1, 1));

    let mut script = script_without();
    let own = script.on_message();
    let points = |answer: &Answer| -> f64 {
        let score = field(answer, "X-Spam-Score").expect("it is there");
        score.parse().expect("a number")
    };
    assert!(
        (points(&answer) - points(&own) - 22.5).abs() < 0.11,
        "{answer:?} {own:?}"
    );
}

/// Nobody is asked, as the message is too large.
fn script_without() -> Script<SecondOpinion> {
    script(r#"{"always_score":true,"rspamd":{"max_bytes":1}}"#)
}

#[test]
fn nothing_of_what_a_scanner_says_gets_into_a_header() {
    let evil = rspamd(
        r#"{"score":15,"required_score":15,"action":"reject","symbols":{"A\r\nX-Evil: 1":{"score":15}},"messages":{"smtp_message":"\r\nX-Evil: 1"}}"#,
    );
    let mut script = script(r#"{"rspamd":{}}"#);
    script.endpoint_says("rspamd", &evil);
    assert!(!format!("{:?}", script.on_message()).contains("Evil"));
}

#[test]
fn without_an_answer_mail_passes_or_waits() {
    let gone = || EndpointError::Unreachable("Connection refused (os error 111)".to_owned());
    let cases = [
        (Some(gone()), "connecting: Connection refused (os error 111)"),
        (Some(EndpointError::Timeout), "connecting: it took too long"),
        (Some(EndpointError::Unknown), "[plugin.endpoints] has no `spamd`"),
        (None, "it closed the connection without an answer"),
    ];
    for (error, detail) in cases {
        let mut waiting = script(r#"{"spamd":{"unavailable":"defer"}}"#);
        let mut passing = script(r#"{"spamd":{}}"#);
        for script in [&mut waiting, &mut passing] {
            script.endpoint_says("spamd", b"");
            if let Some(error) = &error {
                script.endpoint_fails("spamd", error.clone());
            }
        }
        let answer = waiting.on_message();
        assert!(
            matches!(&answer.decision, Decision::Defer(reply) if reply.code == 451),
            "{answer:?}"
        );
        assert_eq!(answer.why.map(|why| why.detail), Some(format!("spamd: {detail}")));
        assert!(waiting.take_log().is_empty());

        assert_eq!(passing.on_message(), Answer::pass());
        let (level, line) = passing.take_log().pop().expect("it is logged");
        assert_eq!(
            format!("{level:?} {line}"),
            format!("Level::Warn second-opinion-unavailable: spamd: {detail}")
        );
        assert_eq!(passing.counter("spamd_unavailable"), 1);
    }
}

#[test]
fn one_that_is_gone_takes_nothing_from_the_other() {
    let mut script = script(r#"{"reject":5,"rspamd":{},"spamd":{}}"#);
    script.endpoint_fails("rspamd", EndpointError::Timeout);
    script.endpoint_says("spamd", &spamd("True ; 100.0 / 5.0"));
    let answer = script.on_message();
    assert!(matches!(answer.decision, Decision::Reject(_)), "{answer:?}");
    let detail = answer.why.expect("there is a reason").detail;
    assert!(
        detail.contains("+100.0 spamd: 100.0 of 5.0") && detail.contains("0.0 rspamd: no answer"),
        "{detail}"
    );
}

#[test]
fn what_its_own_points_refuse_does_not_wait() {
    let mut script = script(r#"{"reject":5,"phrases":{"new place":50},"rspamd":{"unavailable":"defer"}}"#);
    script.endpoint_fails("rspamd", EndpointError::Timeout);
    assert!(matches!(script.on_message().decision, Decision::Reject(_)));
}

#[test]
fn who_is_asked_about_is_a_choice() {
    let cases = [
        (r#"{"spamd":{}}"#, None, true),
        (r#"{"spamd":{}}"#, Some("alice"), true),
        (r#"{"spamd":{"inbound":false}}"#, None, false),
        (r#"{"spamd":{"inbound":false}}"#, Some("alice"), true),
        (r#"{"spamd":{"outbound":false}}"#, None, true),
        (r#"{"spamd":{"outbound":false}}"#, Some("alice"), false),
        (r#"{"spamd":{"max_bytes":1}}"#, None, false),
        (r#"{"spamd":{"between":[-1000,1000]}}"#, None, true),
        (r#"{"spamd":{"between":[5,1000]}}"#, None, false),
        (
            r#"{"phrases":{"new place":50},"spamd":{"between":[5,1000]}}"#,
            None,
            true,
        ),
        (
            r#"{"phrases":{"new place":50},"spamd":{"between":[-1000,5]}}"#,
            None,
            false,
        ),
    ];
    for (config, user, asked) in cases {
        let mut script = script(config);
        script.endpoint_says("spamd", &spamd("False ; 0.0 / 5.0"));
        if let Some(user) = user {
            script.identity(user);
        }
        script.on_message();
        assert_eq!(!script.take_written("spamd").is_empty(), asked, "{config} {user:?}");
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        ("{}", "rspamd, spamd: nobody would be asked"),
        (r#"{"rspamd":{"weight":0}}"#, "rspamd.weight: must be from 0.01 to 10"),
        (r#"{"rspamd":{"weight":-1}}"#, "rspamd.weight: must be from 0.01 to 10"),
        (r#"{"spamd":{"weight":11}}"#, "spamd.weight: must be from 0.01 to 10"),
        (
            r#"{"spamd":{"max_bytes":0}}"#,
            "spamd.max_bytes: 0 would ask about nothing",
        ),
        (
            r#"{"spamd":{"between":[5,4]}}"#,
            "spamd.between: the first number is above",
        ),
        (
            r#"{"rspamd":{"inbound":false,"outbound":false}}"#,
            "rspamd.inbound, rspamd.outbound: both are false",
        ),
        (
            r#"{"rspamd":{"unavailable":"reject"}}"#,
            "rspamd.unavailable: unknown variant `reject`",
        ),
        (r#"{"rspamd":{"wieght":1}}"#, "rspamd.wieght: unknown field `wieght`"),
    ];
    for (json, expected) in cases {
        let error = Script::<SecondOpinion>::new(json).map(|_| ()).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
    let error = Script::<crate::SpamScan>::new(r#"{"rspamd":{}}"#)
        .map(|_| ())
        .expect_err("it asks nobody");
    assert!(error.starts_with("rspamd, spamd: spam-scan asks nobody"), "{error}");
}

#[test]
fn a_scanner_that_is_not_among_the_endpoints_is_told_at_load() {
    let error = |config: &str, endpoints: &[&str]| {
        let made = Script::<SecondOpinion>::with_endpoints(config, endpoints);
        made.map(|_| ()).err()
    };
    assert_eq!(
        error(BOTH, &["rspamd"]).as_deref(),
        Some(
            "spamd: there is no endpoint `spamd` (there is `rspamd`): add endpoints = { spamd = \"tcp://127.0.0.1:783\" } to this [[plugin]]"
        )
    );
    assert_eq!(
        error(r#"{"rspamd":{}}"#, &[]).as_deref(),
        Some(
            "rspamd: there is no endpoint `rspamd`: add endpoints = { rspamd = \"tcp://127.0.0.1:11333\" } to this [[plugin]]"
        )
    );
    assert_eq!(error(r#"{"rspamd":{}}"#, &["rspamd"]), None);
}
