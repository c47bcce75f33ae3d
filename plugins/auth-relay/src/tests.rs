//! The decisions as data: who, as which sender, to whose recipient.

use gatepost_sdk::testing::Script;

use super::*;

fn script(config: &str) -> Script<AuthRelay> {
    let mut script = Script::new(config).expect("valid");
    script.our_domains(&["example.test"]);
    script
}

/// What the answer comes to: `allow`, `pass`, or the code of a refusal, and the reason.
fn summary(answer: &Answer) -> String {
    let verdict = match &answer.decision {
        Decision::Pass if answer.actions == [Action::AllowRelay] => "allow".to_owned(),
        Decision::Pass if answer.actions == [Action::LeaveSession] => "leave".to_owned(),
        Decision::Pass if answer.actions.is_empty() => "pass".to_owned(),
        Decision::Reject(reply) => format!("{} {} {}", reply.code, reply.enhanced, reply.text),
        other => format!("{other:?}"),
    };
    match &answer.why {
        Some(why) => format!("{verdict}; {}", why.reason),
        None => verdict,
    }
}

#[track_caller]
fn check(config: &str, identity: &str, sender: &str, recipient: &str, expected: &str) {
    let mut script = script(config);
    script.identity(identity).sender(sender);
    assert_eq!(summary(&script.on_rcpt(recipient)), expected);
}

const ELSEWHERE: &str = "bob@far.test";
const OURS: &str = "bob@example.test";

#[test]
fn an_owned_sender_relays() {
    check("{}", "alice", "alice@example.test", ELSEWHERE, "allow; sender-owned");
    check("{}", "alice", "Alice@Example.TEST.", ELSEWHERE, "allow; sender-owned");
    check("{}", "alice", "alice@example.test", OURS, "pass");
    check("{}", "a@b.test", "a@b.test", ELSEWHERE, "allow; sender-owned");
}

#[test]
fn a_foreign_sender_does_not() {
    for sender in [
        "bob@example.test",
        "alice@elsewhere.test",
        "alice",
        "alice@example.test@far.test",
        "@example.test",
    ] {
        check("{}", "alice", sender, ELSEWHERE, "pass; sender-not-owned");
    }
    let refusal = "550 5.7.1 <bob@example.test>: Sender address rejected (sender-not-owned); sender-not-owned";
    check("{}", "alice", "bob@example.test", OURS, refusal);
    let relay_only = r#"{"own_sender_only_for_relay":true}"#;
    check(relay_only, "alice", "bob@example.test", OURS, "pass");
    check(
        relay_only,
        "alice",
        "bob@example.test",
        ELSEWHERE,
        "pass; sender-not-owned",
    );
    check(
        "{}",
        "a@b.test",
        "alice@example.test",
        ELSEWHERE,
        "pass; sender-not-owned",
    );
}

#[test]
fn a_stranger_and_a_source_route_are_left_to_the_gate() {
    check("{}", "", "alice@example.test", ELSEWHERE, "leave");
    check("{}", "alice", "alice@example.test", "u%far.test@example.test", "pass");
    // Allowed for networks, not for everyone.
    check(
        r#"{"allow_trusted_networks":true}"#,
        "",
        "alice@example.test",
        ELSEWHERE,
        "leave",
    );
}

#[test]
fn the_configuration_adds_addresses() {
    let config = r#"{"senders":{"alice":["@other.test","team@example.test"],"mx":["*"]}}"#;
    for sender in ["x@other.test", "team@example.test", "alice@example.test"] {
        check(config, "alice", sender, ELSEWHERE, "allow; sender-owned");
    }
    check(config, "mx", "anyone@anywhere.test", ELSEWHERE, "allow; sender-owned");
    check(config, "bob", "x@other.test", ELSEWHERE, "pass; sender-not-owned");
}

#[test]
fn the_null_sender_is_a_choice() {
    check("{}", "alice", "", ELSEWHERE, "allow; sender-owned");
    check("{}", "alice", "", OURS, "pass");
    let refused = r#"{"allow_null_sender":false}"#;
    check(refused, "alice", "", ELSEWHERE, "pass; null-sender");
    let refusal = "550 5.7.1 <bob@example.test>: Sender address rejected (null-sender); null-sender";
    check(refused, "alice", "", OURS, refusal);
}

#[test]
fn who_may_never_send_is_refused_everywhere() {
    let config = r#"{"never_send":["alice"],"senders":{"alice":["*"]},"own_sender_only_for_relay":true}"#;
    for recipient in [ELSEWHERE, OURS] {
        let refusal =
            format!("550 5.7.1 <{recipient}>: Relay access denied (identity-may-not-send); identity-may-not-send");
        check(config, "alice", "alice@example.test", recipient, &refusal);
        check(config, "alice", "", recipient, &refusal);
    }
}

#[test]
fn a_trusted_network_relays_but_its_web_server_does_not() {
    let cases = [
        ("alice@example.test", "allow; trusted-network"),
        ("", "allow; trusted-network"),
        ("www-data@web1.example.test", "identity-may-not-send"),
        ("\"www-data\"@web1.example.test", "identity-may-not-send"),
        ("web@example.test", "identity-may-not-send"),
    ];
    for (sender, expected) in cases {
        let mut script = script(r#"{"allow_trusted_networks":true,"never_send":["www-data","web@example.test"]}"#);
        script.trusted(true).sender(sender);
        let answer = summary(&script.on_rcpt(ELSEWHERE));
        assert!(answer.ends_with(expected), "{sender}: {answer}");
        assert_eq!(script.on_rcpt(OURS), Answer::pass());
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (
            r#"{"senders":{"alice":["alice"]}}"#,
            "senders.alice: `alice` is no address",
        ),
        (
            r#"{"allow_trusted_network":true}"#,
            "allow_trusted_network: unknown field",
        ),
        (
            r#"{"never_send":"www-data"}"#,
            "never_send: invalid type: string \"www-data\", expected a sequence",
        ),
    ];
    for (json, expected) in cases {
        let error = Script::<AuthRelay>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
