//! Who gets which signatures, as a table.

use gatepost_sdk::testing::Script;

use super::*;

const CONFIG: &str = r#"{"domains":{"one.test":["b"],"off.test":[],"news.two.test":{"domain":"two.test"},"Shop.test":{"domain":"two.test","selectors":["x"]}}}"#;

/// The host's keys are of `one.test` (a, b) and `two.test` (x, y).
fn script(config: &str, author: &str) -> Script<DkimSign> {
    let mut script = Script::new(config).expect("valid");
    script
        .signing_key("one.test", "a")
        .signing_key("one.test", "b")
        .signing_key("two.test", "x")
        .signing_key("two.test", "y")
        .sender("alice@one.test")
        .message(&format!("From: {author}\n\nhello\n"));
    script
}

/// The keys that sign: `one.test/a one.test/b`.
fn signed(answer: &Answer) -> String {
    assert!(matches!(answer.decision, Decision::Pass), "{answer:?}");
    let key = |action: &Action| match action {
        Action::Sign(signature) => format!("{}/{}", signature.domain, signature.selector),
        Action::LeaveSession => "leaves".to_owned(),
        other => panic!("{other:?}"),
    };
    answer.actions.iter().map(key).collect::<Vec<_>>().join(" ")
}

#[test]
fn mail_of_authenticated_senders_is_signed_with_all_keys_of_their_domain() {
    let cases = [
        // Identity, envelope sender, author, signatures.
        ("alice", "alice@one.test", "alice@one.test", "one.test/a one.test/b"),
        (
            "alice",
            "alice@ONE.test",
            "\"Alice\" <Alice@One.Test>",
            "one.test/a one.test/b",
        ),
        (
            "alice@two.test",
            "alice@one.test",
            "alice@two.test",
            "two.test/x two.test/y",
        ),
        ("alice@two.test", "", "alice@two.test", "two.test/x two.test/y"),
        ("alice", "", "alice@one.test", ""),
        ("alice", "alice@one.test", "boss@two.test", ""),
        ("alice", "alice@sub.one.test", "alice@one.test", ""),
        ("alice", "alice@three.test", "alice@three.test", ""),
        ("alice", "alice@one.test", "alice@one.test, boss@two.test", ""),
        ("alice", "alice@one.test", "nobody", ""),
        ("", "alice@one.test", "alice@one.test", "leaves"),
    ];
    for (identity, sender, author, expected) in cases {
        let mut script = script("{}", author);
        script.sender(sender).identity(identity);
        script.message(&format!("From: {author}\n\nhello\n"));
        assert_eq!(signed(&script.on_message()), expected, "{identity} {sender} {author}");
    }
}

#[test]
fn trusted_networks_speak_for_every_domain() {
    let mut script = script("{}", "app@two.test");
    assert_eq!(signed(&script.trusted(true).on_message()), "two.test/x two.test/y");
    let mut off = super::tests::script(r#"{"trusted_networks":false}"#, "app@two.test");
    assert_eq!(signed(&off.trusted(true).on_message()), "leaves");
}

#[test]
fn the_configuration_chooses_keys() {
    let cases = [
        ("a@one.test", "one.test/b"),
        ("a@two.test", "two.test/x two.test/y"),
        ("a@news.two.test", "two.test/x two.test/y"),
        ("a@shop.test", "two.test/x"),
        ("a@off.test", ""),
    ];
    for (author, expected) in cases {
        let answer = script(CONFIG, author).trusted(true).on_message();
        assert_eq!(signed(&answer), expected, "{author}");
    }
    let mut any = script(r#"{"any_author":true}"#, "boss@two.test");
    assert_eq!(signed(&any.identity("alice").on_message()), "two.test/x two.test/y");
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"domains":{"":[]}}"#, "domains: `` is no domain"),
        (r#"{"domains":{"a@b.test":[]}}"#, "domains: `a@b.test` is no domain"),
        (
            r#"{"domains":{"a.test":[],"A.test.":[]}}"#,
            "domains: `a.test` is there twice",
        ),
        (
            r#"{"domains":{"a.test":"s1"}}"#,
            "domains.a.test: a list of selectors, or `{ domain",
        ),
        (
            r#"{"domains":{"a.test":{"domain":"b.test","selector":"s1"}}}"#,
            "domains.a.test: a list of selectors, or `{ domain",
        ),
        (r#"{"domain":{}}"#, "domain: unknown field `domain`"),
    ];
    for (json, expected) in cases {
        let error = Script::<DkimSign>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
