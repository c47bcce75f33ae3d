//! The decisions as data: who, as which sender, to whose recipient.

use super::*;

fn policy(json: &str) -> AuthRelay {
    AuthRelay::new(serde_json::from_str(json).expect("valid")).expect("valid")
}

/// What the answer comes to: `allow`, `pass`, or the code of a refusal, and the reason.
fn summary(answer: &Answer) -> String {
    let verdict = match &answer.decision {
        Decision::Pass if matches!(answer.actions[..], [Action::AllowRelay]) => "allow".to_owned(),
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
fn check(config: &str, identity: &str, sender: &str, ours: bool, expected: &str) {
    let policy = policy(config);
    let users_file = || {
        if identity == "alice" {
            vec!["alice@example.test".to_owned()]
        } else {
            Vec::new()
        }
    };
    let claim = policy.claim(identity, sender, users_file);
    let answer = policy.answer_identity(&claim, identity, sender, "bob@far.test", ours);
    assert_eq!(summary(&answer), expected);
}

const ELSEWHERE: bool = false;
const OURS: bool = true;

#[test]
fn an_owned_sender_relays() {
    check("{}", "alice", "alice@example.test", ELSEWHERE, "allow; sender-owned");
    check("{}", "alice", "Alice@Example.TEST.", ELSEWHERE, "allow; sender-owned");
    check("{}", "alice", "alice@example.test", OURS, "pass");
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
    let refusal = "550 5.7.1 <bob@far.test>: Sender address rejected (sender-not-owned); sender-not-owned";
    check("{}", "alice", "bob@example.test", OURS, refusal);
    check(
        r#"{"own_sender_only_for_relay":true}"#,
        "alice",
        "bob@example.test",
        OURS,
        "pass",
    );
    check(
        r#"{"own_sender_only_for_relay":true}"#,
        "alice",
        "bob@example.test",
        ELSEWHERE,
        "pass; sender-not-owned",
    );
}

#[test]
fn an_identity_without_addresses_owns_none() {
    check(
        "{}",
        "mallory",
        "alice@example.test",
        ELSEWHERE,
        "pass; sender-not-owned",
    );
    check(
        "{}",
        "mallory",
        "mallory@example.test",
        ELSEWHERE,
        "pass; sender-not-owned",
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
    check(
        refused,
        "alice",
        "",
        OURS,
        "550 5.7.1 <bob@far.test>: Sender address rejected (null-sender); null-sender",
    );
}

#[test]
fn who_may_never_send_is_refused_everywhere() {
    let config = r#"{"never_send":["alice"],"senders":{"alice":["*"]},"own_sender_only_for_relay":true}"#;
    let refusal = "550 5.7.1 <bob@far.test>: Relay access denied (identity-may-not-send); identity-may-not-send";
    for (sender, ours) in [
        ("alice@example.test", ELSEWHERE),
        ("alice@example.test", OURS),
        ("", ELSEWHERE),
    ] {
        check(config, "alice", sender, ours, refusal);
    }
}

#[test]
fn a_trusted_network_relays_but_its_web_server_does_not() {
    let policy = policy(r#"{"allow_trusted_networks":true,"never_send":["www-data","web@example.test"]}"#);
    let cases = [
        ("alice@example.test", "allow; trusted-network"),
        ("", "allow; trusted-network"),
        ("www-data@web1.example.test", "identity-may-not-send"),
        ("\"www-data\"@web1.example.test", "identity-may-not-send"),
        ("web@example.test", "identity-may-not-send"),
    ];
    for (sender, expected) in cases {
        let answer = policy.answer_network("192.0.2.1", sender, "bob@far.test");
        assert!(summary(&answer).ends_with(expected), "{sender}: {}", summary(&answer));
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let error = |json: &str| {
        let config = gatepost_sdk::parse_config(json)?;
        AuthRelay::new(config).map(|_| ())
    };
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
        let error = error(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
    assert_eq!(error("{}"), Ok(()));
}
