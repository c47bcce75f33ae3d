//! What becomes of messages whose checks came to this or that: as tables, and the header fields to the letter.

use gatepost_sdk::testing::Script;
use gatepost_sdk::types::HeaderPlace;

use super::*;

const LETTER: &str = "From: Alice <alice@example.org>\nTo: bob@ours.test\n\nhello\n";
const STRICT: &str = r#"{"dmarc":"enforce","spf_fail":"reject","temporary_errors":"defer"}"#;

/// A message of which SPF (of `bounce.example`), DKIM and DMARC (of `example.org`) come to these.
fn script(config: &str, spf: Status, dkim: Status, dmarc: Status) -> Script<SenderAuth> {
    let mut script = Script::new(config).expect("valid");
    script
        .peer("192.0.2.7")
        .sender("a@bounce.example")
        .message(LETTER)
        .check("spf", spf, "bounce.example")
        .check("iprev", Status::Pass, "192.0.2.7")
        .check("dkim", dkim, "example.org")
        .check("dmarc", dmarc, "example.org")
        .check("arc", Status::None, "");
    if matches!(dmarc, Status::Pass | Status::Fail) {
        script.author_policy("example.org", DmarcRequest::Reject, 100);
    }
    script
}

/// A message that fails DMARC, of a domain that asks for this.
fn failing(config: &str, request: DmarcRequest, percent: u8) -> Script<SenderAuth> {
    let mut script = script(config, Status::Fail, Status::None, Status::Fail);
    script.author_policy("example.org", request, percent);
    script
}

/// The verdict, what was done besides the header, and why: `reject 550 5.7.1 dmarc-fail`, `quarantine tag dmarc-fail`, `pass`.
fn summary(answer: &Answer) -> String {
    let mut words = vec![match &answer.decision {
        Decision::Pass => "pass".to_owned(),
        Decision::Reject(reply) => format!("reject {} {}", reply.code, reply.enhanced),
        Decision::Defer(reply) => format!("defer {} {}", reply.code, reply.enhanced),
        other => format!("{other:?}"),
    }];
    for action in &answer.actions {
        match action {
            Action::Tag(tag) => words.push(format!("{}={}", tag.name, tag.value)),
            Action::Quarantine(_) => words.push("quarantine".to_owned()),
            _ => {}
        }
    }
    words.extend(answer.why.iter().map(|why| why.reason.clone()));
    words.join(" ")
}

/// What is done to Authentication-Results, in order: `-0`, `+` and the value, `v` and the value where it goes to the bottom.
fn edits(answer: &Answer) -> Vec<String> {
    let edit = |action: &Action| match action {
        Action::AddHeader(header) => {
            assert_eq!(header.name, results::NAME);
            let sign = if header.at == HeaderPlace::Top { '+' } else { 'v' };
            Some(format!("{sign}{}", String::from_utf8_lossy(&header.value)))
        }
        Action::RemoveHeader(removal) => {
            assert_eq!(removal.name, results::NAME);
            Some(
                removal
                    .occurrence
                    .map_or("-all".to_owned(), |place| format!("-{place}")),
            )
        }
        _ => None,
    };
    answer.actions.iter().filter_map(edit).collect()
}

#[test]
fn without_configuration_it_only_writes_down_and_tags() {
    use Status::{Fail, None as Nothing, Pass, Permerror, Softfail, Temperror};
    let cases = [
        (Pass, Pass, Pass, "pass"),
        (Fail, Nothing, Fail, "pass dmarc=fail dmarc-fail"),
        (Fail, Fail, Nothing, "pass"),
        (Softfail, Permerror, Permerror, "pass"),
        (Temperror, Temperror, Temperror, "pass"),
    ];
    for (spf, dkim, dmarc, expected) in cases {
        let answer = script("{}", spf, dkim, dmarc).on_message();
        assert_eq!(summary(&answer), expected, "{spf:?} {dkim:?} {dmarc:?}");
        assert_eq!(edits(&answer).len(), 1);
    }
    let answer = script("{}", Fail, Pass, Pass).on_message();
    assert_eq!(
        edits(&answer),
        [
            "+relay.test;\r\n\tspf=fail smtp.mailfrom=bounce.example;\r\n\tiprev=pass policy.iprev=192.0.2.7;\r\n\tdkim=pass header.d=example.org;\
             \r\n\tdmarc=pass header.from=example.org policy.dmarc=reject;\r\n\tarc=none"
        ]
    );
    let answer = script("{}", Fail, Pass, Pass).sender("").message(LETTER).on_message();
    assert!(edits(&answer)[0].contains("spf=fail smtp.helo="), "{answer:?}");
}

#[test]
fn enforced_each_result_has_its_answer() {
    use Status::{Fail, Neutral, None as Nothing, Pass, Permerror, Softfail, Temperror};
    let cases = [
        (Pass, Pass, Pass, "pass"),
        (Fail, Pass, Pass, "pass"),
        (Fail, Nothing, Fail, "reject 550 5.7.1 dmarc-fail"),
        (Pass, Pass, Fail, "reject 550 5.7.1 dmarc-fail"),
        (Fail, Nothing, Nothing, "reject 550 5.7.23 spf-fail"),
        (Fail, Pass, Nothing, "reject 550 5.7.23 spf-fail"),
        (Softfail, Nothing, Nothing, "pass"),
        (Neutral, Nothing, Nothing, "pass"),
        (Permerror, Nothing, Nothing, "pass"),
        (Permerror, Nothing, Permerror, "pass"),
        (Temperror, Nothing, Nothing, "defer 451 4.7.24 spf-temporary-error"),
        (Temperror, Nothing, Temperror, "defer 451 4.7.1 dmarc-temporary-error"),
        (Pass, Temperror, Temperror, "defer 451 4.7.1 dmarc-temporary-error"),
    ];
    for (spf, dkim, dmarc, expected) in cases {
        let answer = script(STRICT, spf, dkim, dmarc).on_message();
        assert_eq!(summary(&answer), expected, "{spf:?} {dkim:?} {dmarc:?}");
        let refused = answer.decision != Decision::Pass;
        assert_eq!(answer.actions.is_empty(), refused);
        assert_eq!(answer.why.is_some_and(|why| !why.remedy.is_empty()), refused);
    }
    let tagged = STRICT.replace("defer", "tag");
    for (spf, dmarc) in [(Temperror, Nothing), (Temperror, Temperror)] {
        assert_eq!(summary(&script(&tagged, spf, Nothing, dmarc).on_message()), "pass");
    }
}

#[test]
fn the_domain_gets_what_it_asks_for_and_no_more_of_it_than_it_says() {
    use DmarcRequest::{None as Nothing, Quarantine, Reject};
    let enforce = r#"{"dmarc":"enforce"}"#;
    let quarantined = "pass dmarc=fail quarantine dmarc-fail";
    let cases = [
        (Reject, 100, 99, "reject 550 5.7.1 dmarc-fail"),
        (Quarantine, 100, 99, quarantined),
        (Nothing, 100, 99, "pass"),
        // The draw is the second number, modulo 100.
        (Reject, 30, 129, "reject 550 5.7.1 dmarc-fail"),
        (Reject, 30, 130, quarantined),
        (Quarantine, 30, 29, quarantined),
        (Quarantine, 30, 30, "pass"),
        (Reject, 0, 0, quarantined),
        (Quarantine, 0, 0, "pass"),
    ];
    for (request, percent, drawn, expected) in cases {
        let answer = failing(enforce, request, percent).random(&[drawn]).on_message();
        assert_eq!(summary(&answer), expected, "{request:?} {percent} {drawn}");
    }
    let answer = failing(enforce, Reject, 100).on_message();
    let Decision::Reject(reply) = &answer.decision else {
        panic!("{answer:?}")
    };
    assert_eq!(
        reply.text,
        "Message refused: example.org asks to reject mail that fails DMARC (dmarc-fail)"
    );
    let why = answer.why.expect("it has a reason");
    assert_eq!(
        why.detail,
        "example.org asks to reject; spf=fail bounce.example, iprev=pass 192.0.2.7, dkim=none example.org, dmarc=fail example.org, arc=none"
    );
    assert_eq!(
        why.otherwise.as_deref(),
        Some("DKIM or SPF that passes for example.org")
    );
}

#[test]
fn the_administrator_has_the_last_word_on_a_domain() {
    let cases = [
        (
            r#"{"dmarc":"enforce","domains":{"example.org":"tag"}}"#,
            "pass dmarc=fail dmarc-fail",
        ),
        (
            r#"{"dmarc":"enforce","spf_fail":"reject","domains":{"example.org":"ignore"}}"#,
            "pass",
        ),
        (
            r#"{"domains":{"Example.ORG.":"enforce"}}"#,
            "reject 550 5.7.1 dmarc-fail",
        ),
        (r#"{"domains":{"org":"enforce"}}"#, "reject 550 5.7.1 dmarc-fail"),
        (r#"{"domains":{"org":"enforce","example.org":"ignore"}}"#, "pass"),
        (
            r#"{"domains":{"ample.org":"enforce","sub.example.org":"enforce"}}"#,
            "pass dmarc=fail dmarc-fail",
        ),
    ];
    for (config, expected) in cases {
        let answer = failing(config, DmarcRequest::Reject, 100).on_message();
        assert_eq!(summary(&answer), expected, "{config}");
    }
}

#[test]
fn forwarders_and_sealers_vouch_for_what_they_bring() {
    let config = r#"{"dmarc":"enforce","spf_fail":"reject","forwarders":["192.0.2.0/28","2001:db8::/32"],"arc_sealers":["List.example"]}"#;
    for (peer, expected) in [
        ("192.0.2.7", "pass trusted-forwarder"),
        ("2001:db8::1", "pass trusted-forwarder"),
        ("192.0.2.16", "reject 550 5.7.1 dmarc-fail"),
    ] {
        let answer = failing(config, DmarcRequest::Reject, 100).peer(peer).on_message();
        assert_eq!(summary(&answer), expected, "{peer}");
    }
    let spf = script(config, Status::Fail, Status::None, Status::None).on_message();
    assert_eq!(summary(&spf), "pass");

    for (results, expected) in [
        (
            "i=1; list.example; dmarc=pass header.from=example.org",
            "pass trusted-sealer",
        ),
        (
            "i=1; list.example; dmarc=fail header.from=example.org",
            "reject 550 5.7.1 dmarc-fail",
        ),
    ] {
        let mut script = failing(config, DmarcRequest::Reject, 100);
        let answer = script
            .peer("198.51.100.1")
            .arc_set("list.example", results)
            .on_message();
        assert_eq!(summary(&answer), expected, "{results}");
    }
}

#[test]
fn a_message_of_no_author_or_several_is_refused_where_dmarc_is_enforced() {
    let unclear = |config: &str| {
        let mut script: Script<SenderAuth> = Script::new(config).expect("valid");
        let answer = script
            .sender("a@b.example")
            .message(LETTER)
            .check("dmarc", Status::None, "")
            .on_message();
        summary(&answer)
    };
    assert_eq!(unclear(r#"{"dmarc":"enforce"}"#), "reject 550 5.7.1 author-unclear");
    assert_eq!(unclear("{}"), "pass");
}

#[test]
fn who_authenticated_and_who_is_trusted_is_not_checked_unless_that_is_wanted() {
    let failing = |config: &str| failing(config, DmarcRequest::Reject, 100);
    let off = r#"{"dmarc":"enforce"}"#;
    assert_eq!(failing(off).identity("alice").on_message(), Answer::pass());
    assert_eq!(failing(off).trusted(true).on_message(), Answer::pass());
    let on = r#"{"dmarc":"enforce","check_authenticated":true}"#;
    let refused = "reject 550 5.7.1 dmarc-fail";
    assert_eq!(summary(&failing(on).identity("alice").on_message()), refused);
    assert_eq!(summary(&failing(on).trusted(true).on_message()), "pass");
    let on = r#"{"dmarc":"enforce","check_trusted_networks":true}"#;
    assert_eq!(summary(&failing(on).trusted(true).on_message()), refused);
}

#[test]
fn what_speaks_in_our_name_is_removed_whoever_sent_it() {
    let forged = "authentication-results : (x) RELAY.test; dmarc=pass\nAuthentication-Results: other.test; none\nAUTHENTICATION-RESULTS:\n\t\"relay.test\" 1; none\n";
    let mut script = script("{}", Status::Pass, Status::Pass, Status::Pass);
    let answer = script.message(&format!("{forged}{LETTER}")).on_message();
    let found = edits(&answer);
    assert_eq!(found[..2], ["-2", "-0"]);
    assert!(found.len() == 3 && found[2].starts_with("+relay.test;"), "{found:?}");
    assert_eq!(edits(&script.identity("alice").on_message()), ["-2", "-0"]);
    // Under another name they are not ours.
    let other = script.identity("").hostname("mx.test").on_message();
    assert_eq!(edits(&other).len(), 1);

    let many = format!("{}{LETTER}", "Authentication-Results: other.test; none\n".repeat(1_000));
    assert_eq!(edits(&script.message(&many).on_message())[0], "-all");
}

#[test]
fn a_header_without_a_proper_end_cannot_hide_what_speaks_in_our_name() {
    let mut script = script("{}", Status::Pass, Status::Pass, Status::Pass);
    let forged = "Authentication-Results: relay.test; dmarc=pass\n\nbody\n";
    let open = format!("From: a@b\nno field\n{forged}");
    assert!(edits(&script.message(&open).on_message())[0].starts_with("vrelay.test;"));
    assert_eq!(edits(&script.identity("alice").on_message()), ["vrelay.test; none"]);
    let long_open = format!("From: a@b\nno field\n{forged}{}", "x\n".repeat(200_000));
    assert_eq!(edits(&script.message(&long_open).on_message()), ["vrelay.test; none"]);
    for proper in ["From: a@b\n", "\nbody\n", "From: a@b\n\nbody\n", "From: a@b\n\n", ""] {
        let answer = script.message(proper).on_message();
        assert_eq!(answer, Answer::pass(), "{proper:?}");
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"dmarc":"reject"}"#, "dmarc: unknown variant `reject`"),
        (r#"{"forwarders":["192.0.2.1/33"]}"#, "forwarders[0]: "),
        (r#"{"arc_sealers":["a b"]}"#, "arc_sealers[0]: `a b` is no domain"),
        (r#"{"domains":{"":"tag"}}"#, "domains: `` is no domain"),
        (
            r#"{"domains":{"a.test":"tag","A.test":"tag"}}"#,
            "domains: `a.test` is there twice",
        ),
        (
            r#"{"domains":{"a.test":"drop"}}"#,
            "domains.a.test: unknown variant `drop`",
        ),
        (r#"{"dmark":"tag"}"#, "dmark: unknown field `dmark`"),
    ];
    for (json, expected) in cases {
        let error = Script::<SenderAuth>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
