//! Which messages are refused, which domains are asked about, and which configurations are refused.

use gatepost_sdk::log::Level;
use gatepost_sdk::prelude::{Action as Done, Decision};
use gatepost_sdk::testing::Script;

use super::*;

const CONFIG: &str = r#"{"threshold":2,"hosts":3,"suffixes":["hosting.test"],"ignore":["w3.org","fine.test"],"lists":[
    {"zone":"dbl.example","weight":2,"codes":{"127.0.0.&2":{"weight":3,"reason":"phish"},"127.0.0.&4":{"weight":1,"reason":"grey"}}},
    {"zone":"good.example","weight":-3}
]}"#;

/// A message with these links, of which the lists have these domains.
fn script(config: &str, links: &[&str], listings: &[(&str, &str, &str)]) -> Script<RblLinks> {
    let mut script = Script::new(config).expect("valid");
    let links: Vec<String> = links.iter().map(|host| format!("http://{host}/x")).collect();
    script
        .sender("someone@elsewhere.test")
        .recipients(&["bob@ours.test"])
        .message(&format!("Subject: look\n\n{}\n", links.join("\n")));
    for (zone, domain, code) in listings {
        script.listed(zone, domain, &[code]);
    }
    script
}

fn refusal(answer: &Answer) -> Option<&str> {
    match &answer.decision {
        Decision::Reject(reply) => Some(&reply.text),
        _ => None,
    }
}

#[test]
fn a_message_is_as_bad_as_its_worst_link() {
    let phish = ("dbl.example", "evil.test", "127.0.0.2");
    let grey = ("dbl.example", "grey.test", "127.0.0.4");
    let refused = Some("Message refused: Link to [evil.test] blocked using dbl.example (phish)");
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str, &'a str)], Option<&'a str>);
    let cases: &[Case] = &[
        (&[], &[phish], None),
        (&["nice.test"], &[phish], None),
        (&["www.evil.test"], &[phish], refused),
        (&["nice.test", "grey.test", "Evil.test."], &[phish, grey], refused),
        // 1 of 2, twice; and the bits 2 and 4 are the heavier one.
        (
            &["grey.test", "more.test"],
            &[grey, ("dbl.example", "more.test", "127.0.0.4")],
            None,
        ),
        (&["evil.test"], &[("dbl.example", "evil.test", "127.0.0.6")], refused),
        // Good words for a domain help it, and no other.
        (
            &["evil.test"],
            &[phish, ("good.example", "evil.test", "127.0.0.2")],
            None,
        ),
        (
            &["evil.test", "nice.test"],
            &[phish, ("good.example", "nice.test", "127.0.0.2")],
            refused,
        ),
        (
            &["evil.hosting.test"],
            &[("dbl.example", "evil.hosting.test", "127.0.0.9")],
            Some("Message refused: Link to [evil.hosting.test] blocked using dbl.example"),
        ),
        (
            &["other.hosting.test"],
            &[("dbl.example", "hosting.test", "127.0.0.9")],
            None,
        ),
        (&["x.fine.test"], &[("dbl.example", "fine.test", "127.0.0.2")], None),
    ];
    for (links, listings, expected) in cases {
        let answer = script(CONFIG, links, listings).on_message();
        assert_eq!(refusal(&answer), *expected, "{links:?} {listings:?}");
    }
    let why = script(CONFIG, &["evil.test"], &[phish])
        .on_message()
        .why
        .expect("a reason");
    assert_eq!(
        (why.reason.as_str(), why.detail.as_str()),
        (
            "listed-link",
            "evil.test is on dbl.example (127.0.0.2 phish, weight 3): score 3, threshold 2"
        )
    );
}

#[test]
fn a_few_domains_are_asked_about_in_one_batch_and_none_without_lists() {
    let links = [
        "a.one.test",
        "b.one.test",
        "two.test",
        "www.w3.org",
        "three.test",
        "four.test",
        "five.test",
    ];
    let mut script = script(CONFIG, &links, &[("dbl.example", "four.test", "127.0.0.2")]);
    assert_eq!(script.on_message(), Answer::pass());
    assert_eq!(script.take_dns_questions(), ["dbl.example", "good.example"].repeat(3));
    assert_eq!(script.counter("links_left_out"), 2);

    let mut script = super::tests::script("{}", &links, &[]);
    assert_eq!(script.on_message(), Answer::pass().leave_session());
    assert_eq!(script.take_dns_questions(), [""; 0]);
    // Behind what is read there may be anything.
    let short = CONFIG.replace("\"hosts\":3", "\"body_bytes\":100");
    let mut script = super::tests::script(&short, &["evil.test"], &[("dbl.example", "evil.test", "127.0.0.2")]);
    let far = format!("Subject: x\n\n{}http://evil.test/\n", "filler\n".repeat(10_000));
    assert_eq!(script.message(&far).on_message(), Answer::pass());
}

#[test]
fn lists_that_are_out_of_order_refuse_nothing() {
    let phish = ("dbl.example", "evil.test", "127.0.0.2");
    let mut broken = script(
        CONFIG,
        &["evil.test"],
        &[phish, ("dbl.example", "invalid", "127.0.0.2")],
    );
    assert_eq!(broken.on_message(), Answer::pass());
    assert_eq!(broken.counter("list_broken"), 1);
    let mut refused = script(
        CONFIG,
        &["evil.test"],
        &[("dbl.example", "evil.test", "127.255.255.254")],
    );
    assert_eq!(refused.on_message(), Answer::pass());
    assert_eq!(refused.counter("list_refused"), 1);
    let mut silent = script(CONFIG, &["evil.test"], &[]);
    silent.list_fails("dbl.example", "evil.test", "time-out");
    assert_eq!(silent.on_message(), Answer::pass());
    assert!(matches!(&silent.take_log()[..], [(Level::Warn, line)] if line == "dbl.example did not answer: time-out"));
    let mut dead = script(CONFIG, &["evil.test"], &[("dbl.example", "test", "127.0.0.2")]);
    dead.peer_port(40_001).on_message();
    let log = dead.take_log();
    assert!(
        matches!(&log[..], [(_, line)] if line.starts_with("good.example does not list its test point")),
        "{log:?}"
    );
}

#[test]
fn who_may_be_asked_about_a_refusal_gets_any_message() {
    let phish = ("dbl.example", "evil.test", "127.0.0.2");
    let to = |recipients: &[&str]| {
        refusal(
            &script(CONFIG, &["evil.test"], &[phish])
                .recipients(recipients)
                .on_message(),
        )
        .is_none()
    };
    assert!(to(&["Abuse@ours.test", "postmaster@ours.test"]));
    assert!(!to(&["abuse@ours.test", "bob@ours.test"]));
}

#[test]
fn the_action_is_a_choice() {
    let with = |action: &str| {
        let config = CONFIG.replace("\"threshold\"", &format!("\"action\":\"{action}\",\"threshold\""));
        script(&config, &["evil.test"], &[("dbl.example", "evil.test", "127.0.0.2")]).on_message()
    };
    assert!(refusal(&with("reject")).is_some());
    assert!(
        matches!(&with("quarantine").actions[..], [Done::Quarantine(why)] if why.starts_with("Link to [evil.test]"))
    );
    assert!(matches!(&with("tag").actions[..], [Done::Tag(tag)] if tag.name == "listed-link"));
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"lists":[{"zone":"a b"}]}"#, "lists[0].zone: `a b` is no domain"),
        (
            r#"{"hosts":9,"lists":[{"zone":"a.example"},{"zone":"b.example"},{"zone":"c.example"},{"zone":"d.example"}]}"#,
            "hosts: 9 on 4 lists are more than the 32 questions of one batch: at most 8",
        ),
        (r#"{"hosts":0}"#, "hosts: 0 would ask about nothing"),
        (
            r#"{"body_bytes":1000000}"#,
            "body_bytes: 1000000 are too many: at most 196608",
        ),
        (r#"{"threshold":0}"#, "threshold: 0 would hold"),
        (r#"{"ignore":["x"]}"#, "ignore[0]: `x` is no domain"),
        (r#"{"action":"defer"}"#, "action: unknown variant `defer`"),
    ];
    for (json, expected) in cases {
        let error = Script::<RblLinks>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
