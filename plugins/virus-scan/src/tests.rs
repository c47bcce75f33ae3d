//! What clamd's answers come to, for whom it is asked, what is sent to it, and which configurations are refused.

use gatepost_sdk::endpoint::EndpointError;
use gatepost_sdk::prelude::{Action as Done, Decision};
use gatepost_sdk::testing::Script;

use super::*;

const OK: &[u8] = b"stream: OK\0";
const FOUND: &[u8] = b"stream: Eicar-Test-Signature FOUND\0";
const OVER: &[u8] = b"INSTREAM size limit exceeded. ERROR\0";

/// A message, and what clamd says.
fn script(config: &str, answer: &[u8]) -> Script<VirusScan> {
    let mut script = Script::with_endpoints(config, &["clamd", "scanner"]).expect("valid");
    script.sender("me@elsewhere.test").recipients(&["bob@ours.test"]);
    script
        .message("Subject: hello\n\nbody\n")
        .endpoint_says("clamd", answer);
    script
}

/// The decision and the actions in few words, and the reason.
fn summary(answer: &Answer) -> String {
    let decision = match &answer.decision {
        Decision::Pass => "pass".to_owned(),
        Decision::Reject(reply) | Decision::Defer(reply) => format!("{} {} {}", reply.code, reply.enhanced, reply.text),
        other => format!("{other:?}"),
    };
    let actions = answer.actions.iter().map(|action| match action {
        Done::AddHeader(field) => {
            format!(" +{}: {}", field.name, String::from_utf8_lossy(&field.value))
        }
        Done::RemoveHeader(field) => format!(" -{}", field.name),
        Done::Quarantine(why) => format!(" held: {why}"),
        Done::Tag(tag) => format!(" {}={}", tag.name, tag.value),
        other => format!(" {other:?}"),
    });
    let reason = answer.why.as_ref().map(|why| format!("; {}", why.reason));
    [decision].into_iter().chain(actions).chain(reason).collect()
}

#[test]
fn what_clamd_says_becomes_what_the_configuration_says() {
    let refused = "550 5.7.1 Message refused: a virus was found in it (virus-found); virus-found";
    let large =
        "552 5.3.4 Message refused: it is too large to be scanned for viruses (too-large-to-scan); too-large-to-scan";
    let later = "451 4.7.1 Message cannot be scanned for viruses now, try again later (virus-scanner-unavailable); virus-scanner-unavailable";
    let cases: [(&str, &[u8], &str); 17] = [
        ("{}", OK, "pass"),
        ("{}", FOUND, refused),
        ("{}", OVER, large),
        ("{}", b"", later),
        ("{}", b"stream: OK", later),
        ("{}", b"stream: Can't open file or directory ERROR\0", later),
        (r#"{"header":true}"#, OK, "pass +X-Virus-Scanned: clean"),
        (r#"{"header":true}"#, FOUND, refused),
        (
            r#"{"action":"quarantine"}"#,
            FOUND,
            "pass held: virus: Eicar-Test-Signature; virus-found",
        ),
        (
            r#"{"action":"quarantine","header":true}"#,
            FOUND,
            "pass +X-Virus-Scanned: infected (Eicar-Test-Signature) held: virus: Eicar-Test-Signature; virus-found",
        ),
        (
            r#"{"action":"tag"}"#,
            FOUND,
            "pass +X-Virus-Scanned: infected (Eicar-Test-Signature) virus=Eicar-Test-Signature; virus-found",
        ),
        (r#"{"too_large":"accept"}"#, OVER, "pass; too-large-to-scan"),
        (
            r#"{"too_large":"accept","header":true}"#,
            OVER,
            "pass +X-Virus-Scanned: no (too large); too-large-to-scan",
        ),
        (
            r#"{"too_large":"quarantine"}"#,
            OVER,
            "pass held: too large to be scanned for viruses; too-large-to-scan",
        ),
        (r#"{"unavailable":"accept"}"#, b"", "pass; virus-scanner-unavailable"),
        (
            r#"{"unavailable":"accept","header":true}"#,
            b"hello",
            "pass +X-Virus-Scanned: no (scanner unavailable); virus-scanner-unavailable",
        ),
        // Who lets mail through without a scan did not say that a virus may pass.
        (r#"{"unavailable":"accept","too_large":"accept"}"#, FOUND, refused),
    ];
    for (config, answer, expected) in cases {
        let mut script = script(config, answer);
        let said = summary(&script.on_message());
        assert_eq!(said, expected, "{config} {}", String::from_utf8_lossy(answer));
        // What passes with a reason is in the log; the host's has the rest.
        let log = script.take_log();
        assert_eq!(
            log.len(),
            usize::from(said.starts_with("pass") && said.contains(';')),
            "{log:?}"
        );
    }
}

#[test]
fn the_log_has_what_the_client_is_not_told() {
    let unreachable = EndpointError::Unreachable("No such file or directory (os error 2)".to_owned());
    let cases = [
        (None, FOUND, "clamd found Eicar-Test-Signature"),
        (None, b"stream: ERROR\0", r#"clamd: it answered "stream: ERROR\0""#),
        (None, b"", "clamd: it closed the connection without an answer"),
        (
            Some(unreachable),
            b"",
            "clamd: connecting: No such file or directory (os error 2)",
        ),
        (Some(EndpointError::Timeout), b"", "clamd: connecting: it took too long"),
        (
            Some(EndpointError::Unknown),
            b"",
            "clamd: [plugin.endpoints] of virus-scan has no `clamd`",
        ),
    ];
    for (error, answer, detail) in cases {
        let mut script = script("{}", answer);
        if let Some(error) = error {
            script.endpoint_fails("clamd", error);
        }
        let answer = script.on_message();
        let (Decision::Reject(reply) | Decision::Defer(reply)) = &answer.decision else {
            panic!("{answer:?}");
        };
        assert!(
            !reply.text.contains("Eicar") && !reply.text.contains("clamd"),
            "{}",
            reply.text
        );
        assert_eq!(answer.why.map(|why| why.detail).as_deref(), Some(detail));
    }
}

#[test]
fn what_is_over_the_limit_is_not_sent() {
    let mut script = script(r#"{"max_bytes":23}"#, OK);
    assert_eq!(
        summary(&script.on_message()),
        "552 5.3.4 Message refused: it is too large to be scanned for viruses (too-large-to-scan); too-large-to-scan"
    );
    assert_eq!(script.take_written("clamd"), b"");
    assert_eq!((script.counter("too_large"), script.counter("found")), (1, 0));
}

/// clamd(8): each chunk after its length in four bytes, the most significant first; the last one is empty.
#[test]
fn the_message_goes_out_in_chunks() {
    for size in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let message: Vec<u8> = (0..size).map(|place: u32| (place % 251) as u8).collect();
        let mut script = script("{}", OK);
        script.message_bytes(message.clone());
        assert_eq!(summary(&script.on_message()), "pass", "{size}");
        let written = script.take_written("clamd");
        let mut rest = written.strip_prefix(b"zINSTREAM\0").expect("the command");
        let mut sent: Vec<u8> = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (chunk, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            sent.extend(chunk);
            assert!(!chunk.is_empty() || behind.is_empty(), "{size}: bytes behind the end");
            assert!(!behind.is_empty() || chunk.is_empty(), "{size}: no end");
            rest = behind;
        }
        assert!(rest.is_empty() && sent == message, "{size}");
    }
}

#[test]
fn who_is_asked_about_goes_by_the_recipients() {
    let inbound = r#"{"outbound":false}"#;
    let outbound = r#"{"inbound":false}"#;
    let cases: [(&str, &[&str], bool); 8] = [
        (inbound, &["bob@ours.test"], true),
        (inbound, &["postmaster"], true),
        (inbound, &["bob@far.test"], false),
        (inbound, &["bob@far.test", "bob@OURS.test"], true),
        (outbound, &["bob@ours.test", "postmaster"], false),
        (outbound, &["bob@far.test"], true),
        (outbound, &["bob@ours.test", "bob@far.test"], true),
        ("{}", &["bob@far.test"], true),
    ];
    for (config, recipients, asked) in cases {
        let mut script = script(config, OK);
        script.recipients(recipients).on_message();
        assert_eq!(
            !script.take_written("clamd").is_empty(),
            asked,
            "{config} {recipients:?}"
        );
    }
}

#[test]
fn a_forged_word_of_a_scanner_goes_whether_or_not_it_is_scanned() {
    let forged = "x-virus-scanned: clean\nX-Virus-Status: Clean\nSubject: hello\n\nbody\n";
    for (config, expected) in [
        ("{}", "pass -X-Virus-Scanned -X-Virus-Status"),
        (r#"{"inbound":false}"#, "pass -X-Virus-Scanned -X-Virus-Status"),
        (
            r#"{"header":true}"#,
            "pass -X-Virus-Scanned -X-Virus-Status +X-Virus-Scanned: clean",
        ),
    ] {
        let said = summary(&script(config, OK).message(forged).on_message());
        assert_eq!(said, expected, "{config}");
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"endpoint":""}"#, "endpoint: is empty"),
        (r#"{"max_bytes":0}"#, "max_bytes: 0 would scan nothing"),
        (
            r#"{"inbound":false,"outbound":false}"#,
            "inbound, outbound: both are false",
        ),
        (r#"{"action":"discard"}"#, "action: unknown variant `discard`"),
        (r#"{"unavailable":"reject"}"#, "unavailable: unknown variant `reject`"),
        (r#"{"to_large":"accept"}"#, "to_large: unknown field `to_large`"),
    ];
    for (json, expected) in cases {
        let error = Script::<VirusScan>::new(json).map(|_| ()).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}

#[test]
fn an_endpoint_that_is_not_there_is_told_at_load() {
    let cases: [(&str, &[&str], &str); 3] = [
        (
            "{}",
            &[],
            "endpoint: there is no endpoint `clamd`: add endpoints = { clamd = \"unix:/run/clamav/clamd.ctl\" } to this [[plugin]]",
        ),
        (
            "{}",
            &["clamav", "other"],
            "endpoint: there is no endpoint `clamd` (there is `clamav`): add endpoints = { clamd = \"unix:/run/clamav/clamd.ctl\" } to this [[plugin]]",
        ),
        (
            r#"{"endpoint":"scanner"}"#,
            &["clamd"],
            "endpoint: there is no endpoint `scanner`: add endpoints = { scanner = \"unix:/run/clamav/clamd.ctl\" } to this [[plugin]]",
        ),
    ];
    for (json, endpoints, expected) in cases {
        let error = Script::<VirusScan>::with_endpoints(json, endpoints).map(|_| ());
        assert_eq!(error.expect_err(json), expected, "{json}");
    }
}
