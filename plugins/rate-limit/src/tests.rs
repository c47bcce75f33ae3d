//! Which limits a command meets, what a refusal says, and which configurations are refused.

use std::time::Duration;

use gatepost_sdk::log::Level;
use gatepost_sdk::testing::Script;

use super::*;

fn script(config: &str) -> Script<RateLimit> {
    Script::new(config).expect("valid")
}

/// The detail of the refusal; empty if it passes.
fn detail(answer: &Answer) -> String {
    answer.why.as_ref().map(|why| why.detail.clone()).unwrap_or_default()
}

const MESSAGES: &str = r#"{"limits":[
    {"count":"messages","per":"identity","rate":100,"per_seconds":3600,"burst":200,
     "overrides":{"alice":{"rate":1000},"bob":{"burst":5},"root":{"unlimited":true}}},
    {"count":"messages","per":"network","rate":10,"per_seconds":60,"overrides":{"198.51.100.9/24":{"rate":99,"per_seconds":1,"burst":7}}},
    {"count":"messages","per":"address","rate":5,"per_seconds":60,"overrides":{"2001:0db8::1":{"unlimited":true}}},
    {"count":"messages","per":"sender-domain","rate":7,"per_seconds":60,"overrides":{"Big.Example.":{"rate":70}}}
]}"#;

#[test]
fn a_message_draws_from_the_buckets_of_what_it_has() {
    // Identity, address and sender; how many messages pass at once, and the limit that the next one meets.
    let cases = [
        (
            ("carol", "192.0.2.7", "me@example.org"),
            5,
            "messages per address 192.0.2.7: 5 in 60 s, 5 at once",
        ),
        (
            ("alice", "198.51.100.1", "me@BIG.example."),
            5,
            "messages per address 198.51.100.1: 5 in 60 s, 5 at once",
        ),
        (
            ("alice", "2001:db8::1", "me@BIG.example."),
            10,
            "messages per network 2001:db8::/64: 10 in 60 s, 10 at once",
        ),
        (
            ("carol", "2001:db8::1", "me@example.org"),
            7,
            "messages per sender-domain example.org: 7 in 60 s, 7 at once",
        ),
        (
            ("bob", "2001:db8::1", ""),
            5,
            "messages per identity bob: 100 in 3600 s, 5 at once",
        ),
        // Nobody authenticated, and the null sender.
        (
            ("", "2001:db8::1", ""),
            10,
            "messages per network 2001:db8::/64: 10 in 60 s, 10 at once",
        ),
    ];
    for ((identity, address, sender), passes, expected) in cases {
        let mut script = script(MESSAGES);
        script.peer(address).identity(identity);
        for message in 0..passes {
            let answer = script.sender(sender).on_rcpt("bob@ours.test");
            assert_eq!(answer, Answer::pass(), "{identity} {address} {sender} {message}");
        }
        let answer = script.sender(sender).on_rcpt("bob@ours.test");
        assert!(
            detail(&answer).starts_with(expected),
            "{identity} {address} {sender}: {answer:?}"
        );
    }
}

#[test]
fn a_message_is_counted_once_and_each_recipient_alike() {
    let mut both = script(
        r#"{"limits":[{"count":"messages","per":"address","rate":2,"per_seconds":60},
            {"count":"recipients","per":"address","rate":4,"per_seconds":60}]}"#,
    );
    both.sender("me@example.org");
    for _ in 0..3 {
        assert_eq!(both.on_rcpt("bob@ours.test"), Answer::pass());
    }
    assert_eq!(both.sender("me@example.org").on_rcpt("bob@ours.test"), Answer::pass());
    assert!(detail(&both.on_rcpt("bob@ours.test")).starts_with("recipients per address"));
    // Both are empty: nothing is taken from either.
    both.wait(Duration::from_secs(15)).sender("me@example.org");
    assert!(detail(&both.on_rcpt("bob@ours.test")).starts_with("messages per address"));
    assert_eq!(
        both.recipients(&["bob@ours.test"]).on_rcpt("carol@ours.test"),
        Answer::pass()
    );
}

const HOOKS: [&str; 5] = ["on-connect", "on-auth", "on-rcpt", "on-message", "on-result"];

#[test]
fn a_hook_that_has_nothing_to_look_at_is_declined() {
    let limit = |count: &str, per: &str| {
        format!(r#"{{"limits":[{{"count":"{count}","per":"{per}","rate":1,"per_seconds":1}}]}}"#)
    };
    for (config, wanted) in [
        ("{}".to_owned(), &[][..]),
        (limit("connections", "address"), &["on-connect"]),
        (limit("messages", "identity"), &["on-rcpt"]),
        (limit("recipients", "recipient-domain"), &["on-rcpt"]),
        (limit("bytes", "sender-domain"), &["on-message"]),
        (limit("failed-logins", "identity"), &["on-auth", "on-result"]),
        (
            limit("failed-logins", "address"),
            &["on-connect", "on-auth", "on-result"],
        ),
        (limit("rejected-recipients", "identity"), &["on-rcpt", "on-result"]),
        (
            limit("rejected-recipients", "network"),
            &["on-connect", "on-rcpt", "on-result"],
        ),
        (r#"{"brake":{}}"#.to_owned(), &["on-message"]),
    ] {
        let script = script(&config);
        let called: Vec<&str> = HOOKS.into_iter().filter(|hook| !script.has_declined(hook)).collect();
        assert_eq!(called, wanted, "{config}");
    }
}

#[test]
fn a_stranger_is_left_where_only_identities_are_limited() {
    let mut script = script(r#"{"limits":[{"count":"messages","per":"identity","rate":1,"per_seconds":60}]}"#);
    assert_eq!(
        script.sender("me@example.org").on_rcpt("bob@ours.test"),
        Answer::pass().leave_session()
    );
    script.identity("alice").sender("alice@ours.test");
    assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass());
    assert!(
        detail(&script.sender("alice@ours.test").on_rcpt("bob@ours.test")).starts_with("messages per identity alice")
    );
}

#[test]
fn recipients_are_limited_by_their_domain() {
    let mut script = script(
        r#"{"limits":[{"count":"recipients","per":"recipient-domain","rate":2,"per_seconds":60,"overrides":{"Big.test":{"burst":3}}}]}"#,
    );
    script.sender("me@example.org");
    for address in ["a@ours.test", "b@OURS.test.", "a@big.test", "b@big.test", "c@big.test"] {
        assert_eq!(script.on_rcpt(address), Answer::pass(), "{address}");
    }
    assert!(detail(&script.on_rcpt("c@ours.test")).starts_with("recipients per recipient-domain ours.test: 2 in 60 s"));
    assert!(
        detail(&script.on_rcpt("d@big.test"))
            .starts_with("recipients per recipient-domain big.test: 2 in 60 s, 3 at once")
    );
}

#[test]
fn bytes_are_counted_when_the_message_is_there() {
    let mut script = script(r#"{"limits":[{"count":"bytes","per":"identity","rate":10,"per_seconds":1,"burst":100}]}"#);
    script
        .identity("carol")
        .sender("carol@ours.test")
        .message_bytes([b'x'; 60]);
    assert_eq!(script.on_message(), Answer::pass());
    assert_eq!(
        script.on_message(),
        Answer::defer(450, "4.7.1", "Too many bytes: try again in 2 s")
            .because(
                "rate-limited",
                "bytes per identity carol: 10 in 1 s, 100 at once; the next in 2 s",
                "wait; the administrator can raise the limit, or make an exception under its `overrides`",
            )
            .otherwise("the same 2 s later")
    );
    let answer = script.wait(Duration::from_secs(2)).on_message();
    assert_eq!(answer, Answer::pass());
    let answer = script.message_bytes([b'x'; 101]).on_message();
    let expected = Answer::reject(552, "5.3.4", "Message too large for its sender: 101 bytes, 100 may be");
    assert_eq!(answer.decision, expected.decision, "no waiting helps");
    assert_eq!(
        script.identity("").on_message(),
        Answer::pass(),
        "a stranger has no identity"
    );
}

/// A reply of the core or of another policy, as on-result hears of it.
fn result(command: &str, code: u16, subject: &str) -> CommandResult {
    CommandResult {
        command: command.to_owned(),
        code,
        text: "a reply".to_owned(),
        reason: String::new(),
        subject: subject.to_owned(),
    }
}

#[test]
fn failed_logins_shut_out_a_name_and_a_client() {
    let mut script = script(
        r#"{"limits":[{"count":"failed-logins","per":"identity","rate":2,"per_seconds":60},
            {"count":"failed-logins","per":"address","rate":3,"per_seconds":60}]}"#,
    );
    let verdict = |script: &mut Script<RateLimit>, user: &str| script.on_auth("PLAIN", user, "guess");
    // A login that succeeds, a busy users file, and an attempt that names nobody count nothing for a name.
    script.on_result(&result("AUTH", 235, "alice"));
    script.on_result(&result("AUTH", 454, "alice"));
    for user in ["alice", "ALICE"] {
        assert!(matches!(verdict(&mut script, user), Verdict::Pass));
        script.on_result(&result("AUTH", 535, user));
    }
    let Verdict::Defer(reply) = verdict(&mut script, "Alice") else {
        panic!("alice was guessed at twice");
    };
    assert_eq!(
        (reply.code, reply.text.as_str()),
        (454, "Too many failed logins: try again in 30 s")
    );
    assert!(
        matches!(&script.take_log()[..], [(Level::Info, line)] if line.contains("failed-logins per identity alice"))
    );
    assert_eq!(
        script.reconnect().on_connect(),
        Answer::pass(),
        "one is left for the address"
    );
    assert!(matches!(verdict(&mut script, "bob"), Verdict::Pass));
    script.on_result(&result("AUTH", 535, "bob"));
    let answer = script.reconnect().on_connect();
    let expected = Answer::disconnect(421, "4.7.0", "Too many failed logins: try again in 20 s");
    assert_eq!(answer.decision, expected.decision);
    script.peer("192.0.2.99");
    assert_eq!(script.reconnect().on_connect(), Answer::pass(), "another address");
    // What was looked at was given back: after the time, all of them are there.
    script.peer("192.0.2.1").wait(Duration::from_secs(60));
    for _ in 0..3 {
        assert_eq!(script.reconnect().on_connect(), Answer::pass());
        script.on_result(&result("AUTH", 535, ""));
    }
    assert_ne!(script.reconnect().on_connect(), Answer::pass());
}

#[test]
fn rejected_recipients_stop_who_guesses() {
    let mut script = script(
        r#"{"limits":[{"count":"rejected-recipients","per":"address","rate":3,"per_seconds":60},
            {"count":"rejected-recipients","per":"recipient-domain","rate":2,"per_seconds":60}]}"#,
    );
    script.sender("me@example.org");
    for (address, code) in [("a@ours.test", 550), ("b@ours.test", 450), ("b@ours.test", 550)] {
        assert_eq!(script.on_rcpt(address), Answer::pass());
        script.on_result(&result("RCPT", code, address));
    }
    script.on_result(&result("MAIL", 550, "x@ours.test"));
    assert!(detail(&script.on_rcpt("c@ours.test")).starts_with("rejected-recipients per recipient-domain ours.test"));
    assert_eq!(script.on_rcpt("a@other.test"), Answer::pass());
    // The domain's bucket is empty: the address's is counted all the same.
    script.on_result(&result("RCPT", 550, "c@ours.test"));
    let answer = script.on_rcpt("a@other.test");
    let expected = Answer::defer(450, "4.7.1", "Too many rejected recipients: try again in 20 s");
    assert_eq!(answer.decision, expected.decision);
    assert!(matches!(
        script.reconnect().on_connect().decision,
        Decision::Disconnect(_)
    ));
}

/// Sends messages to one recipient until one is held; how many were not.
fn until_held(script: &mut Script<RateLimit>, most: u32) -> u32 {
    (0..most)
        .find(|_| {
            script
                .sender("alice@ours.test")
                .recipients(&["x@elsewhere.test"])
                .message("Subject: x\n\nx\n");
            script.on_message() != Answer::pass()
        })
        .unwrap_or(most)
}

const BRAKE: &str = r#"{"brake":{"window_seconds":100,"at_least":10,"factor":5,"history_days":1,"hold_seconds":1000,
    "overrides":{"news":{"unlimited":true},"crm":{"at_least":20}}}}"#;

#[test]
fn a_sudden_change_is_held_and_told_once() {
    let mut script = script(BRAKE);
    script
        .identity("alice")
        .peer("203.0.113.9")
        .listener("submission", gatepost_sdk::types::AuthOffer::Required);
    assert_eq!(until_held(&mut script, 100), 10);
    let log = script.take_log();
    let [(Level::Warn, event)] = &log[..] else {
        panic!("{log:?}")
    };
    for part in [
        "alice from [203.0.113.9] (listener submission, EHLO client.test) sent to 11 recipients within 100 s, where 0 are usual and 10 pass",
        "now <alice@ours.test> to <x@elsewhere.test>. Mail of alice is held for 1000 s",
        "gatepost queue release --held 'outbound brake: alice sent far more than usual'",
        "gatepost user passwd 'alice'",
    ] {
        assert!(event.contains(part), "{part}: {event}");
    }
    let answer = script.on_message();
    assert_eq!(answer.decision, Decision::Pass);
    assert!(
        matches!(&answer.actions[..], [Action::Quarantine(why)] if why == "outbound brake: alice sent far more than usual")
    );
    assert_eq!(answer.why.map(|why| why.reason), Some("outbound-brake".to_owned()));
    assert_eq!(script.take_log(), []);
    assert_eq!(
        (script.counter("brake_pulled"), script.counter("messages_held")),
        (1, 2)
    );
    // Others are not concerned, and neither are strangers.
    assert_eq!(until_held(script.identity("bob"), 10), 10);
    assert_eq!(until_held(script.identity(""), 50), 50);
    // It lasts beyond the window, and not for ever.
    assert_eq!(
        until_held(script.identity("alice").wait(Duration::from_secs(999)), 1),
        0
    );
    assert_eq!(until_held(script.wait(Duration::from_secs(1)), 100), 10);
    assert_eq!(script.counter("brake_pulled"), 2);
}

#[test]
fn what_an_identity_is_used_to_passes() {
    let mut script = script(BRAKE);
    script.identity("alice");
    // Eight recipients in each window, for long: five times as many are no sudden change.
    for _ in 0..50 {
        assert_eq!(until_held(&mut script, 8), 8);
        script.wait(Duration::from_secs(100));
    }
    assert_eq!(until_held(&mut script, 100), 39);
    // What passed is learnt, what was held is not: 500 recipients would make 66 more usual.
    for _ in 0..500 {
        assert_ne!(script.on_message(), Answer::pass());
    }
    script.wait(Duration::from_secs(1_000));
    assert_eq!(until_held(&mut script, 200), 58);
    script.wait(Duration::from_secs(2 * 86_400));
    assert_eq!(until_held(&mut script, 100), 10, "nothing is usual after so long");
}

#[test]
fn a_message_counts_its_recipients_and_overrides_hold() {
    let mut script = script(BRAKE);
    let many = ["x@elsewhere.test"; 15];
    script
        .identity("alice")
        .sender("alice@ours.test")
        .recipients(&many)
        .message("Subject: x\n\nx\n");
    assert_ne!(script.on_message(), Answer::pass());
    assert_eq!(script.identity("crm").on_message(), Answer::pass());
    assert_ne!(script.on_message(), Answer::pass());
    assert_eq!(until_held(script.identity("news"), 100), 100);
}

#[test]
fn a_refusal_says_when_to_try_again() {
    let mut script = script(r#"{"limits":[{"count":"messages","per":"identity","rate":1,"per_seconds":35}]}"#);
    script.identity("carol").sender("").on_rcpt("bob@ours.test");
    script.wait(Duration::from_millis(999)).sender("");
    assert_eq!(
        script.on_rcpt("bob@ours.test"),
        Answer::defer(450, "4.7.1", "Too many messages: try again in 35 s")
            .because(
                "rate-limited",
                "messages per identity carol: 1 in 35 s, 1 at once; the next in 35 s",
                "wait; the administrator can raise the limit, or make an exception under its `overrides`",
            )
            .otherwise("the same 35 s later")
    );
    script.wait(Duration::from_millis(34_001));
    assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass());
}

#[test]
fn a_connection_too_many_is_closed() {
    let mut script = script(r#"{"limits":[{"count":"connections","per":"address","rate":1,"per_seconds":1}]}"#);
    assert_eq!(script.on_connect(), Answer::pass());
    let answer = script.reconnect().on_connect();
    assert!(matches!(answer.decision, Decision::Disconnect(reply) if reply.code == 421));
}

#[test]
fn without_the_store_mail_passes_and_the_log_says_so_once_a_session() {
    let mut script = script(MESSAGES);
    script.state_fails("gone");
    for _ in 0..2 {
        script.sender("me@example.org");
        assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass());
    }
    assert!(
        matches!(&script.take_log()[..], [(Level::Error, line)] if line == "limits are not held: the state store failed: gone")
    );
    assert_eq!(script.counter("limits_not_held"), 2);
    script.state_fails("").sender("me@example.org");
    for _ in 0..5 {
        assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass());
        script.sender("me@example.org");
    }
    assert!(detail(&script.on_rcpt("bob@ours.test")).starts_with("messages per address"));
}

#[test]
fn without_the_store_mail_can_wait() {
    let mut script = script(
        r#"{"when_state_is_gone":"defer","limits":[{"count":"connections","per":"address","rate":1,"per_seconds":1},
            {"count":"messages","per":"address","rate":1,"per_seconds":1}]}"#,
    );
    script.state_fails("gone").sender("me@example.org");
    let text = "Limits cannot be looked at now: try again later";
    let answer = script.on_rcpt("bob@ours.test");
    assert_eq!(answer.decision, Answer::defer(451, "4.3.0", text).decision);
    let why = answer.why.expect("it says why");
    assert_eq!(why.reason, "state-unavailable");
    assert_eq!(why.detail, "the state store failed: gone");
    let answer = script.reconnect().on_connect();
    assert_eq!(answer.decision, Answer::disconnect(421, "4.3.0", text).decision);
    assert_eq!(script.counter("deferred_without_state"), 2);
}

#[test]
fn a_key_is_never_longer_than_the_store_takes() {
    let mut script = script(MESSAGES);
    script.identity(&"ä".repeat(1000)).sender("").on_rcpt("bob@ours.test");
    assert_eq!(script.take_log(), []);
}

#[test]
fn a_bad_configuration_names_the_key() {
    let limit = |rest: &str| format!(r#"{{"limits":[{{"count":"messages","rate":1,"per_seconds":60,{rest}}}]}}"#);
    let cases = [
        (limit(r#""per":"identity","rate":0"#), "limits[0]"),
        (limit(r#""per":"identity","burst":0"#), "limits[0].burst: must be at least 1"),
        (limit(r#""per":"user""#), "limits[0].per: unknown variant `user`"),
        (limit(r#""per":"identity","brust":3"#), "limits[0].brust: unknown field"),
        (limit(r#""per":"address","overrides":{"x":{}}"#), "limits[0].overrides.\"x\": is no IP address"),
        (
            limit(r#""per":"network","overrides":{"192.0.2.0/25":{}}"#),
            "limits[0].overrides.\"192.0.2.0/25\": networks are counted as /24",
        ),
        (
            limit(r#""per":"identity","overrides":{"a":{"unlimited":true,"rate":1}}"#),
            "limits[0].overrides.\"a\": `unlimited` stands alone",
        ),
        (limit(r#""per":"identity","overrides":{"a":{"rate":0}}"#), "limits[0].overrides.\"a\".rate: must be at least 1"),
        (
            r#"{"limits":[{"count":"connections","per":"identity","rate":1,"per_seconds":1}]}"#.to_owned(),
            "limits[0].per: connections have no identity: use `address`, `network`",
        ),
        (
            r#"{"limits":[{"count":"messages","per":"identity","rate":1,"per_seconds":1},{"count":"messages","per":"identity","rate":2,"per_seconds":1}]}"#.to_owned(),
            "limits[1]: there is another limit",
        ),
        (
            r#"{"limits":[{"count":"messages","per":"recipient-domain","rate":1,"per_seconds":1}]}"#.to_owned(),
            "limits[0].per: messages have no recipient-domain: use `identity`, `address`, `network`, `sender-domain`",
        ),
        (r#"{"ipv4_prefix":33}"#.to_owned(), "ipv4_prefix: 33 is not in 1 to 32"),
        (r#"{"when_state_is_gone":"deny"}"#.to_owned(), "when_state_is_gone: unknown variant `deny`"),
        (r#"{"brake":{"factor":0}}"#.to_owned(), "brake.factor: must be at least 1"),
        (r#"{"brake":{"history_days":50000}}"#.to_owned(), "brake.history_days: at most 49710"),
        (r#"{"brake":{"windows":1}}"#.to_owned(), "brake.windows: unknown field"),
        (r#"{"brake":{"overrides":{"a":{"at_least":0}}}}"#.to_owned(), "brake.overrides.\"a\".at_least: must be at least 1"),
        (
            r#"{"brake":{"overrides":{"a":{"unlimited":true,"factor":2}}}}"#.to_owned(),
            "brake.overrides.\"a\": `unlimited` stands alone",
        ),
    ];
    for (json, expected) in cases {
        let error = Script::<RateLimit>::new(&json).expect_err(&json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}

#[test]
fn there_is_a_bound_on_limits_that_a_command_meets() {
    let limits = |of: &[(&str, u32)]| {
        let one = |count: &str, i: u32| format!(r#"{{"count":"{count}","per":"address","rate":1,"per_seconds":{i}}}"#);
        let all: Vec<String> = of
            .iter()
            .flat_map(|(count, n)| (1..=*n).map(move |i| one(count, i)))
            .collect();
        Script::<RateLimit>::new(&format!(r#"{{"limits":[{}]}}"#, all.join(","))).map(|_| ())
    };
    assert_eq!(
        limits(&[("messages", 20), ("recipients", 12), ("connections", 32)]),
        Ok(())
    );
    assert_eq!(
        limits(&[("messages", 20), ("recipients", 13)]),
        Err("limits[32]: at most 32 limits of messages, recipients and rejected-recipients together".to_owned())
    );
    assert_eq!(
        limits(&[("connections", 33)]),
        Err("limits[32]: at most 32 limits of connections, and failed-logins and rejected-recipients per address and network".to_owned())
    );
}
