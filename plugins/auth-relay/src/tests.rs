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
fn system_users_never_send_unless_the_configuration_says_otherwise() {
    let networks = r#"{"allow_trusted_networks":true}"#;
    for sender in [
        "www-data@web1.example.test",
        "NOBODY@web1.example.test",
        "apache@example.test",
    ] {
        let mut script = script(networks);
        script.trusted(true).sender(sender);
        let expected = "550 5.7.1 <bob@far.test>: Relay access denied (identity-may-not-send); identity-may-not-send";
        assert_eq!(summary(&script.on_rcpt(ELSEWHERE)), expected, "{sender}");
    }
    let mut root = script(networks);
    root.trusted(true).sender("root@web1.example.test");
    assert_eq!(summary(&root.on_rcpt(ELSEWHERE)), "allow; trusted-network");
    let refused = "550 5.7.1 <bob@far.test>: Relay access denied (identity-may-not-send); identity-may-not-send";
    check("{}", "www-data", "www-data@example.test", ELSEWHERE, refused);
    let own_list = r#"{"never_send":["web"]}"#;
    check(
        own_list,
        "www-data",
        "www-data@example.test",
        ELSEWHERE,
        "allow; sender-owned",
    );
}

#[test]
fn a_tag_makes_no_other_address_if_there_are_tags() {
    let tags =
        r#"{"tag_separator":"+","senders":{"alice":["team@other.test","odd+one@other.test"]},"never_send":["web"]}"#;
    let cases = [
        (tags, "alice", "alice+news@example.test", "allow; sender-owned"),
        (tags, "alice", "Alice+a+b@Example.test", "allow; sender-owned"),
        (tags, "alice", "\"alice+a b\"@example.test", "allow; sender-owned"),
        (tags, "alice", "team+x@other.test", "allow; sender-owned"),
        (tags, "alice", "odd+one@other.test", "allow; sender-owned"),
        (tags, "a@b.test", "a+x@b.test", "allow; sender-owned"),
        (tags, "alice", "odd@other.test", "pass; sender-not-owned"),
        (tags, "alice", "bob+alice@example.test", "pass; sender-not-owned"),
        (tags, "alice", "+alice@example.test", "pass; sender-not-owned"),
        (tags, "alice", "alice-news@example.test", "pass; sender-not-owned"),
        ("{}", "alice", "alice+news@example.test", "pass; sender-not-owned"),
    ];
    for (config, identity, sender, expected) in cases {
        check(config, identity, sender, ELSEWHERE, expected);
    }
    let networks = tags.replacen('{', "{\"allow_trusted_networks\":true,", 1);
    let mut script = script(&networks);
    script.trusted(true).sender("web+form@example.test");
    assert!(summary(&script.on_rcpt(ELSEWHERE)).ends_with("identity-may-not-send"));
}

#[test]
fn an_identity_sends_from_its_networks_only() {
    let config = r#"{"identities":{"alice":{"networks":["192.0.2.0/24","2001:db8::/32","198.51.100.9"]}}}"#;
    let denied = "550 5.7.1 <bob@far.test>: Relay access denied (network-not-allowed); network-not-allowed";
    let cases = [
        ("alice", "192.0.2.200", "allow; sender-owned"),
        ("alice", "2001:db8::1", "allow; sender-owned"),
        ("alice", "198.51.100.9", "allow; sender-owned"),
        ("alice", "198.51.100.10", denied),
        ("alice", "192.0.3.1", denied),
        ("alice", "2001:db9::1", denied),
        ("bob", "192.0.3.1", "allow; sender-owned"),
    ];
    for (identity, peer, expected) in cases {
        let mut script = script(config);
        script
            .identity(identity)
            .peer(peer)
            .sender(&format!("{identity}@example.test"));
        assert_eq!(summary(&script.on_rcpt(ELSEWHERE)), expected, "{identity} {peer}");
    }
    let mut script = script(config);
    script
        .identity("alice")
        .peer("203.0.113.7")
        .sender("alice@example.test");
    let answer = script.on_rcpt(OURS);
    assert!(summary(&answer).ends_with("network-not-allowed"));
    let why = answer.why.expect("a reason");
    assert_eq!(why.detail, "alice comes from 203.0.113.7");
    assert!(
        why.remedy.contains("add 203.0.113.7 to `identities.alice.networks`"),
        "{}",
        why.remedy
    );
}

#[test]
fn an_identity_sends_in_its_hours_only() {
    let config = r#"{"utc_offset":"+01:00","identities":{
        "alice":{"hours":["mon-fri 08:00-18:00","sat 09:00-12:00"]},"*":{"hours":["00:00-24:00"]}}}"#;
    let denied = "550 5.7.1 <bob@far.test>: Relay access denied (outside-hours); outside-hours";
    // Hours after the beginning of the script, a Thursday at 00:00 UTC.
    let cases = [
        ("alice", 7, "allow; sender-owned"),
        ("alice", 6, denied),
        ("alice", 16, "allow; sender-owned"),
        ("alice", 17, denied),
        ("alice", 48 + 8, "allow; sender-owned"),
        ("alice", 48 + 11, denied),
        ("alice", 72 + 10, denied),
        ("bob", 72 + 3, "allow; sender-owned"),
    ];
    for (identity, hours, expected) in cases {
        let mut script = script(config);
        script.identity(identity).sender(&format!("{identity}@example.test"));
        script.wait(std::time::Duration::from_secs(hours * 3600));
        assert_eq!(summary(&script.on_rcpt(ELSEWHERE)), expected, "{identity} {hours}");
    }
    let mut script = script(config);
    let why = script.identity("alice").sender("").on_rcpt(OURS).why.expect("a reason");
    assert_eq!(
        why.detail,
        "alice may send mon-fri 08:00-18:00, sat 09:00-12:00 (UTC+01:00)"
    );
}

#[test]
fn who_may_write_to_some_domains_only_relays_to_these() {
    let config = r#"{"allow_trusted_networks":true,
        "identities":{"scanner":{"recipient_domains":["far.test"]},"*":{"recipient_domains":[".partner.test"]}},
        "networks":{"10.0.0.0/8":{"recipient_domains":["*"]},"10.0.5.0/24":{"recipient_domains":["far.test"]}}}"#;
    let denied =
        |to: &str| format!("550 5.7.1 <{to}>: Relay access denied (recipient-not-allowed); recipient-not-allowed");
    let cases = [
        ("scanner", "", "bob@FAR.test", "allow; sender-owned".to_owned()),
        ("scanner", "", "bob@sub.far.test", denied("bob@sub.far.test")),
        ("scanner", "", "bob@x.partner.test", denied("bob@x.partner.test")),
        // Anybody may.
        ("scanner", "", OURS, "pass".to_owned()),
        ("alice", "", "bob@x.partner.test", "allow; sender-owned".to_owned()),
        ("alice", "", ELSEWHERE, denied(ELSEWHERE)),
        ("", "10.0.5.7", ELSEWHERE, "allow; trusted-network".to_owned()),
        ("", "10.0.5.7", "bob@other.test", denied("bob@other.test")),
        ("", "10.0.5.7", OURS, "pass".to_owned()),
        ("", "10.0.6.7", "bob@other.test", "allow; trusted-network".to_owned()),
        ("", "192.0.2.1", "bob@other.test", "allow; trusted-network".to_owned()),
    ];
    for (identity, peer, recipient, expected) in cases {
        let mut script = script(config);
        script.identity(identity).trusted(true).sender("scanner@example.test");
        if identity.is_empty() {
            script.peer(peer);
        } else {
            script.sender(&format!("{identity}@example.test"));
        }
        assert_eq!(
            summary(&script.on_rcpt(recipient)),
            expected,
            "{identity}{peer} {recipient}"
        );
    }
}

#[test]
fn without_tls_nobody_sends_if_the_configuration_says_so() {
    let config = r#"{"require_tls":true,"allow_trusted_networks":true}"#;
    let denied = "530 5.7.0 Must issue a STARTTLS command first (tls-required); tls-required";
    for (identity, tls, recipient, expected) in [
        ("alice", "", ELSEWHERE, denied),
        ("alice", "", OURS, denied),
        ("alice", "TLSv1.3", ELSEWHERE, "allow; sender-owned"),
        ("", "", ELSEWHERE, denied),
        ("", "TLSv1.3", ELSEWHERE, "allow; trusted-network"),
        // As anybody may.
        ("", "", OURS, "pass"),
    ] {
        let mut script = script(config);
        script
            .trusted(true)
            .tls(tls)
            .identity(identity)
            .sender("alice@example.test");
        assert_eq!(
            summary(&script.on_rcpt(recipient)),
            expected,
            "{identity} {tls} {recipient}"
        );
    }
    check("{}", "alice", "alice@example.test", ELSEWHERE, "allow; sender-owned");
}

#[test]
fn a_trusted_network_has_the_names_that_are_expected_of_it() {
    let config = r#"{"allow_trusted_networks":true,"trusted_names":["mx.other.test",".example.test"]}"#;
    let cases = [
        ("web1.example.test", "allow; trusted-network"),
        ("MX.other.test", "allow; trusted-network"),
        (
            "host.elsewhere.test",
            "550 5.7.1 <bob@far.test>: Relay access denied (reverse-name-not-trusted); reverse-name-not-trusted",
        ),
        (
            "",
            "450 4.7.25 <bob@far.test>: Relay access denied (reverse-name-missing); reverse-name-missing",
        ),
    ];
    for (name, expected) in cases {
        let mut script = script(config);
        script.trusted(true).reverse_name(name).sender("app@example.test");
        let answer = script.on_rcpt(ELSEWHERE);
        let said = match &answer.decision {
            Decision::Defer(reply) => format!("{} {} {}; reverse-name-missing", reply.code, reply.enhanced, reply.text),
            _ => summary(&answer),
        };
        assert_eq!(said, expected, "{name}");
    }
    let any = r#"{"allow_trusted_networks":true,"trusted_names":["*"]}"#;
    let mut script = script(any);
    script
        .trusted(true)
        .reverse_name("host.elsewhere.test")
        .sender("app@example.test");
    assert_eq!(summary(&script.on_rcpt(ELSEWHERE)), "allow; trusted-network");
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (
            r#"{"identities":{"alice":{"networks":["192.0.2.0/33"]}}}"#,
            "identities.alice.networks: `192.0.2.0/33` is no network",
        ),
        (
            r#"{"identities":{"alice":{"networks":["192.0.2.1/24"]}}}"#,
            "identities.alice.networks: `192.0.2.1/24` has bits beyond its prefix; did you mean `192.0.2.0/24`?",
        ),
        (
            r#"{"identities":{"alice":{"networks":[]}}}"#,
            "identities.alice.networks: is empty, so nothing would be allowed",
        ),
        (
            r#"{"identities":{"alice":{"hours":["mon-fri"]}}}"#,
            "identities.alice.hours: `mon-fri` are no hours",
        ),
        (
            r#"{"identities":{"alice":{"recipient_domains":["a b"]}}}"#,
            "identities.alice.recipient_domains: `a b` is no name",
        ),
        (
            r#"{"networks":{"10.0.0.0":{"recipient_domains":["a.test"]},"x":{"recipient_domains":["a.test"]}}}"#,
            "networks.\"x\": `x` is no network",
        ),
        (
            r#"{"networks":{"10.0.0.0/8":{}}}"#,
            "networks.10.0.0.0/8: missing field `recipient_domains`",
        ),
        (r#"{"tag_separator":"++"}"#, "tag_separator: `++` is none"),
        (r#"{"tag_separator":"@"}"#, "tag_separator: `@` is none"),
        (r#"{"utc_offset":"2"}"#, "utc_offset: `2` is no offset from UTC"),
        (r#"{"trusted_names":[]}"#, "trusted_names: is empty"),
        (r#"{"require_tsl":true}"#, "require_tsl: unknown field"),
        (
            r#"{"senders":{"alice":["*@example.test"]}}"#,
            "senders.alice: `*@example.test` is no address: write `alice@example.test`, `@example.test`",
        ),
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
