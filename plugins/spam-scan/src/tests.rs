//! Whole messages, and what becomes of them.

use gatepost_sdk::testing::Script;
use gatepost_sdk::types::HeaderPlace;

use super::*;

fn script(config: &str) -> Script<SpamScan> {
    Script::new(config).expect("valid")
}

fn scan(config: &str, message: &str) -> Answer {
    script(config).message(message).on_message()
}

/// What is changed in the header: `+name` and `-name`, in order.
fn edits(answer: &Answer) -> Vec<String> {
    let edit = |action: &Action| match action {
        Action::AddHeader(header) => {
            assert_eq!(header.at, HeaderPlace::Top);
            Some(format!("+{}", header.name))
        }
        Action::RemoveHeader(removal) => {
            assert_eq!(removal.occurrence, None);
            Some(format!("-{}", removal.name))
        }
        _ => None,
    };
    answer.actions.iter().filter_map(edit).collect()
}

fn value<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.actions.iter().find_map(|action| match action {
        Action::AddHeader(header) if header.name == name => Some(&header.value),
        _ => None,
    });
    std::str::from_utf8(value.expect("the field is added")).expect("it is ASCII")
}

const HAM: &str = "From: Alice <alice@example.org>\nTo: bob@example.net\nSubject: lunch on Friday?\nDate: Fri, 6 Mar 2026 10:00:00 +0000\nMessage-ID: <1@example.org>\n\nShall we go at noon? There is a new place near the station.\n";

const SPAM: &str = "From: winner@lottery.example\nTo: bob@example.net\nSubject: YOU HAVE WON $1,000,000!!!\nDate: Fri, 6 Mar 2026 10:00:00 +0000\nMessage-ID: <1@example.org>\nContent-Type: text/html\n\n<p>Act now! <a href=\"http://203.0.113.7/\">Click here</a> to claim your prize.</p>\n";

#[test]
fn ordinary_mail_is_left_alone() {
    assert_eq!(scan("{}", HAM), Answer::pass());
}

#[test]
fn spam_is_tagged_and_passed_by_default() {
    let answer = scan("{}", SPAM);
    assert!(matches!(answer.decision, Decision::Pass));
    assert_eq!(edits(&answer), ["+X-Spam-Score", "+X-Spam-Report", "+X-Spam-Flag"]);
    assert_eq!(value(&answer, "X-Spam-Flag"), "YES");
    assert!(
        value(&answer, "X-Spam-Report").starts_with("phrases-money 2.6,\r\n\tlink-numeric-host 2.5,\r\n\t"),
        "{answer:?}"
    );
    let why = answer.why.as_ref().expect("it has a reason");
    assert_eq!(why.reason, "spam");
    assert!(
        why.detail
            .starts_with(&format!("{} points: ", value(&answer, "X-Spam-Score"))),
        "{}",
        why.detail
    );
    assert_eq!(why.otherwise.as_deref(), Some("fewer than 5.0 points"));
}

#[test]
fn thresholds_are_a_choice() {
    let held = scan(r#"{"quarantine":8}"#, SPAM);
    assert!(matches!(held.decision, Decision::Pass));
    assert!(
        held.actions
            .iter()
            .any(|action| matches!(action, Action::Quarantine(_)))
    );
    assert_eq!(edits(&held).len(), 3);

    let refused = scan(r#"{"quarantine":8,"reject":9.5}"#, SPAM);
    assert!(
        matches!(&refused.decision, Decision::Reject(reply) if reply.code == 550),
        "{refused:?}"
    );
    assert!(refused.actions.is_empty());
    assert_eq!(
        refused.why.and_then(|why| why.otherwise).as_deref(),
        Some("fewer than 9.5 points")
    );

    assert!(edits(&scan(r#"{"tag":100}"#, SPAM)).is_empty());
    assert_eq!(edits(&scan(r#"{"always_score":true}"#, HAM)), ["+X-Spam-Score"]);
}

#[test]
fn what_a_sender_says_about_spam_is_removed_before_ours_is_added() {
    let forged = "x-spam-flag: NO\nX-Spam-Score: -99\nX-Spam-Status: No\n";
    let removed = ["-x-spam-flag", "-X-Spam-Score", "-X-Spam-Status"];
    assert_eq!(edits(&scan("{}", &format!("{forged}{HAM}"))), removed);
    let both = edits(&scan("{}", &format!("{forged}{SPAM}")));
    assert_eq!(
        both,
        [&removed[..], &["+X-Spam-Score", "+X-Spam-Report", "+X-Spam-Flag"]].concat()
    );
}

/// Which rules a message meets, without those about the phrases of `HAM`.
#[track_caller]
fn check(replace: &str, with: &str, expected: &str) {
    let message = HAM.replace(replace, with);
    assert_ne!(message, HAM, "`{replace}` is not in the message");
    let answer = scan(r#"{"tag":0.1}"#, &message);
    let report = answer.why.map(|why| why.detail).unwrap_or_default();
    let names: Vec<&str> = report
        .split_once(": ")
        .map(|(_, rules)| {
            rules
                .split(", ")
                .map(|rule| rule.split_once(' ').map_or(rule, |(name, _)| name))
                .collect()
        })
        .unwrap_or_default();
    assert_eq!(names.join(" "), expected, "{with}");
}

#[test]
fn header_rules() {
    check("From: Alice <alice@example.org>\n", "", "missing-from");
    check("Date: Fri, 6 Mar 2026 10:00:00 +0000\n", "", "missing-date");
    check("Message-ID: <1@example.org>\n", "", "missing-message-id");
    check("<1@example.org>", "1@example.org", "bad-message-id");
    check("<1@example.org>", "<@example.org>", "bad-message-id");
    check("To: bob@example.net\n", "", "missing-recipients");
    check("To: bob", "Cc: bob", "");
    check("Subject: lunch on Friday?\n", "", "missing-subject");
    check("lunch on Friday?", "", "missing-subject");
    check("Alice <alice@example.org>", "Alice", "from-without-address");
    check(
        "Alice <alice@example.org>",
        "Alice <a12b34@example.org>",
        "from-many-digits",
    );
    check("Alice <", "\"service@bank.example\" <", "from-name-is-other-address");
    check("Alice <", "\"alice@mail.example.org\" <", "");
    check("Alice <", "\"alice @ work\" <", "");
    check("lunch on Friday?", "LUNCH ON FRIDAY", "subject-capitals");
    check("lunch on Friday?", "LUNCH", "");
    check("lunch on Friday?", "=?utf-8?B?TFVOQ0ggT04gRlJJREFZ?=", "");
    check("lunch on Friday?", "lunch!", "subject-exclaims");
    check("lunch on Friday?", "lunch for $10", "subject-money");
    check("lunch on Friday?", "lunch         8214xkq", "subject-tail");
    check("lunch on Friday?", "lunch\n  on Friday", "");
}

#[test]
fn body_rules() {
    let body = "Shall we go at noon? There is a new place near the station.\n";
    check(body, &"ALL OF THIS IS WRITTEN IN CAPITALS ".repeat(10), "body-capitals");
    check(body, "No! No! No! No! No!", "body-exclaims");
    check(
        body,
        &format!("{}No! No! No! No! No!", "words and words ".repeat(200)),
        "",
    );
    check(body, "$1 and $2 and $3", "body-money");
    check(body, "$1 and $2", "");
    check(body, "http://203.0.113.7/", "link-numeric-host");
    check(body, "http://www.bank.example@evil.example/", "link-userinfo");
    check(body, "http://%65vil.example/", "link-percent-host");
    check(body, "http://example.org:8080/", "link-port");
    check(
        body,
        "in the cellar, porn and nude and naked and hardcore",
        "phrases-adult",
    );
    check("\n\nShall", "\nContent-Type: text/html\n\nShall", "html-only");
    check(
        "\n\nShall we go",
        "\nContent-Type: text/html\n\n<form><script></script><img src=x>Shall we go",
        "html-mostly-images html-only html-form html-script",
    );
    check(
        &format!("\n{body}"),
        "Content-Transfer-Encoding: base64\n\naGVsbG8gdGhlcmU=",
        "base64-text",
    );
}

#[test]
fn phrases_of_a_group_count_up_to_three() {
    let score = |phrases: &str| {
        let answer = scan(
            r#"{"always_score":true,"weights":{"phrases-drugs":1}}"#,
            &HAM.replace("Shall we go", phrases),
        );
        value(&answer, "X-Spam-Score").to_owned()
    };
    assert_eq!(score("viagra"), "1.0");
    assert_eq!(score("viagra viagra"), "1.0");
    assert_eq!(score("viagra cialis"), "2.0");
    assert_eq!(score("viagra cialis herbal weight loss"), "3.0");
}

#[test]
fn weights_and_phrases_are_a_choice() {
    let config = r#"{"tag":0.5,"weights":{"missing-date":-1},"phrases":{"new place":0.7,"Don't":3}}"#;
    let answer = scan(config, HAM);
    assert_eq!(value(&answer, "X-Spam-Report"), "phrases-own 0.7");
    let answer = scan(
        r#"{"always_score":true,"weights":{"missing-date":-1.5}}"#,
        &HAM.replace("Date:", "X:"),
    );
    assert_eq!(value(&answer, "X-Spam-Score"), "-1.5");
}

#[test]
fn only_the_beginning_of_a_long_body_is_read() {
    let message = format!("{HAM}{}viagra", "x ".repeat(500));
    let has_score = |config: &str| value(&scan(config, &message), "X-Spam-Score") != "0.0";
    assert!(!has_score(r#"{"always_score":true,"body_bytes":1000}"#));
    assert!(has_score(r#"{"always_score":true,"body_bytes":2000}"#));
    assert!(!has_score(r#"{"always_score":true,"body_bytes":0}"#));
}

#[test]
fn any_bytes_are_taken() {
    let mut script = script("{}");
    let message = SPAM.replace('\n', "\r\n");
    for end in 0..message.len() {
        script.message_bytes(&message.as_bytes()[..end]).on_message();
    }
    script
        .message_bytes((0..=255).collect::<Vec<u8>>().repeat(20))
        .on_message();
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"tag":0}"#, "tag: must be above 0"),
        (r#"{"reject":-1}"#, "reject: must be above 0"),
        (r#"{"tag":"5"}"#, "tag: invalid type"),
        (r#"{"tag":1e9}"#, "tag: must be between"),
        (
            r#"{"weights":{"missing-dat":1}}"#,
            "weights.missing-dat: no such rule; the rules are missing-from",
        ),
        (
            r#"{"weights":{"phrases-own":1}}"#,
            "weights.phrases-own: the weight of your phrases",
        ),
        (r#"{"phrases":{"":1}}"#, "phrases: `` must be"),
        (r#"{"phrases":{"für":1}}"#, "phrases: `für` must be"),
        (r#"{"body_bytes":1000000}"#, "body_bytes: 1000000 is more than 196608"),
        (r#"{"quarantaine":1}"#, "quarantaine: unknown field"),
    ];
    for (json, expected) in cases {
        let error = Script::<SpamScan>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}

#[test]
fn the_readme_names_every_rule_with_its_weight() {
    let readme = include_str!("../README.md");
    for rule in rules::RULES.iter().filter(|rule| rule.name != "phrases-own") {
        let row = format!("| `{}` | {} |", rule.name, decimal(rule.weight));
        assert!(readme.contains(&row), "the README lacks `{row}`");
    }
}
