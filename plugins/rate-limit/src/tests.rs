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

#[test]
fn no_configuration_limits_nothing() {
    let mut script = script("{}");
    assert_eq!(script.sender("me@example.org").on_rcpt("bob@ours.test"), Answer::pass());
    assert_eq!(script.on_connect(), Answer::pass().leave_session());
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
    assert_eq!(script.on_connect(), Answer::pass().leave_session());
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
    assert!(matches!(&script.take_log()[..], [(Level::Error, line)] if line.starts_with("limits are not held")));
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
    assert_eq!(answer.why.map(|why| why.reason), Some("state-unavailable".to_owned()));
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
            "limits[0].per: connections have no identity yet",
        ),
        (
            r#"{"limits":[{"count":"messages","per":"identity","rate":1,"per_seconds":1},{"count":"messages","per":"identity","rate":2,"per_seconds":1}]}"#.to_owned(),
            "limits[1]: there is another limit",
        ),
        (r#"{"ipv4_prefix":33}"#.to_owned(), "ipv4_prefix: 33 is not in 1 to 32"),
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
        Err("limits[32]: at most 32 limits of messages and recipients together".to_owned())
    );
    assert_eq!(
        limits(&[("connections", 33)]),
        Err("limits[32]: at most 32 limits of connections".to_owned())
    );
}
