//! Who waits, who passes and for how long, who need not wait at all, and which configurations are refused.

use std::time::Duration;

use gatepost_sdk::log::Level;
use gatepost_sdk::testing::Script;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// A client at 192.0.2.1 that writes as me@elsewhere.test.
fn script(config: &str) -> Script<Greylist> {
    let mut script = Script::new(config).expect("valid");
    script.peer("192.0.2.1").sender("me@elsewhere.test");
    script
}

/// The text of the deferral; none if it passes.
fn deferral(answer: &Answer) -> Option<&str> {
    match &answer.decision {
        Decision::Defer(reply) if reply.code == 451 && reply.enhanced == "4.7.1" => Some(&reply.text),
        Decision::Pass => None,
        other => panic!("{other:?}"),
    }
}

fn waits(script: &mut Script<Greylist>, recipient: &str) -> bool {
    deferral(&script.on_rcpt(recipient)).is_some()
}

/// A triplet comes for the first time, and again six minutes later.
fn comes_again(script: &mut Script<Greylist>, sender: &str, recipient: &str) {
    assert!(waits(script.sender(sender), recipient), "{sender} {recipient}");
    assert!(!waits(script.wait(6 * MINUTE), recipient), "{sender} {recipient}");
}

#[test]
fn a_stranger_waits_once_and_passes_from_then_on() {
    let mut script = script("{}");
    let first = script.on_rcpt("bob@ours.test");
    assert_eq!(deferral(&first), Some("Greylisted: try again in 300 s"));
    let why = first.why.expect("a reason");
    assert_eq!(
        (why.reason.as_str(), why.detail.as_str()),
        (
            "greylisted",
            "<me@elsewhere.test> to <bob@ours.test> from 192.0.2.0/24: first seen 0 s ago, 300 s to wait"
        )
    );
    // Too early is no new beginning.
    let early = script.wait(2 * MINUTE).on_rcpt("Bob@OURS.test");
    assert_eq!(deferral(&early), Some("Greylisted: try again in 180 s"));
    // Another machine of the same network comes again.
    assert!(!waits(
        script
            .wait(3 * MINUTE)
            .reconnect()
            .peer("192.0.2.200")
            .sender("Me@elsewhere.test"),
        "bob@ours.test"
    ));
    assert_eq!((script.counter("greylisted"), script.counter("came_again")), (2, 1));
    // As long as it is not silent for 36 days.
    for _ in 0..3 {
        assert!(!waits(script.wait(30 * DAY), "bob@ours.test"));
    }
    assert!(waits(script.wait(37 * DAY), "bob@ours.test"));
}

#[test]
fn who_comes_too_late_is_a_stranger_again() {
    let mut script = script(r#"{"retry_window_s":3600}"#);
    assert!(waits(&mut script, "bob@ours.test"));
    assert!(waits(script.wait(61 * MINUTE), "bob@ours.test"));
    assert!(!waits(script.wait(59 * MINUTE), "bob@ours.test"));
}

#[test]
fn each_part_of_a_triplet_is_a_stranger() {
    let mut script = script("{}");
    comes_again(&mut script, "me@elsewhere.test", "bob@ours.test");
    assert!(waits(&mut script, "carol@ours.test"));
    assert!(waits(script.sender("you@elsewhere.test"), "bob@ours.test"));
    assert!(waits(script.sender(""), "bob@ours.test"));
    assert!(waits(
        script.sender("me@elsewhere.test").peer("198.51.100.1"),
        "bob@ours.test"
    ));
    comes_again(script.peer("2001:db8::1"), "me@elsewhere.test", "bob@ours.test");
    assert!(!waits(script.peer("2001:db8::ffff:1"), "bob@ours.test"));
    assert!(waits(script.peer("2001:db8:0:1::1"), "bob@ours.test"));

    let mut exact = super::tests::script(r#"{"ipv4_prefix":32}"#);
    comes_again(&mut exact, "me@elsewhere.test", "bob@ours.test");
    assert!(waits(exact.peer("192.0.2.2"), "bob@ours.test"));
}

#[test]
fn a_network_that_often_came_again_is_let_through_altogether() {
    let mut script = script(r#"{"network_successes":2}"#);
    comes_again(&mut script, "one@elsewhere.test", "bob@ours.test");
    // What comes within the hour is the same success.
    comes_again(&mut script, "two@elsewhere.test", "bob@ours.test");
    assert!(waits(script.sender("three@elsewhere.test"), "bob@ours.test"));
    script.wait(60 * MINUTE);
    comes_again(&mut script, "four@elsewhere.test", "bob@ours.test");
    script.reconnect().sender("five@elsewhere.test");
    assert_eq!(script.on_rcpt("carol@ours.test"), Answer::pass().leave_session());
    assert!(waits(
        script.reconnect().peer("198.51.100.1").sender("x@elsewhere.test"),
        "bob@ours.test"
    ));
    // As long as it is not silent for 36 days.
    script.peer("192.0.2.77");
    for _ in 0..3 {
        assert!(!waits(
            script.wait(30 * DAY).reconnect().sender("x@elsewhere.test"),
            "bob@ours.test"
        ));
    }
    assert!(waits(
        script.wait(37 * DAY).reconnect().sender("x@elsewhere.test"),
        "bob@ours.test"
    ));

    let mut never = super::tests::script(r#"{"network_successes":0}"#);
    for sender in ["a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test", "f@x.test"] {
        never.wait(DAY);
        comes_again(&mut never, sender, "bob@ours.test");
    }
}

#[test]
fn who_need_not_wait_does_not() {
    let config = r#"{"allow_clients":["198.51.100.7","203.0.113.0/24","2001:db8::/32","mail.big.test"],
        "allow_senders":["Friend@elsewhere.test","Friends.test."],
        "allow_recipients":["postmaster","open@ours.test","@open.test"]}"#;
    let left = Answer::pass().leave_session();
    for peer in ["198.51.100.7", "203.0.113.9", "2001:db8:5::1"] {
        assert_eq!(script(config).peer(peer).on_rcpt("bob@ours.test"), left, "{peer}");
    }
    for peer in ["198.51.100.8", "203.0.114.9", "2001:db9::1"] {
        assert!(waits(script(config).peer(peer), "bob@ours.test"), "{peer}");
    }
    for (sender, expected) in [
        ("friend@Elsewhere.test", false),
        ("any@friends.test", false),
        ("any@sub.friends.test", false),
        ("any@badfriends.test", true),
        ("foe@elsewhere.test", true),
    ] {
        assert_eq!(
            waits(script(config).sender(sender), "bob@ours.test"),
            expected,
            "{sender}"
        );
    }
    for (recipient, expected) in [
        ("Postmaster@ours.test", false),
        ("postmaster", false),
        ("open@ours.test", false),
        ("any@open.test", false),
        ("abuse@ours.test", true),
    ] {
        let mut script = script(config);
        script.our_domains(&["ours.test", "open.test"]);
        assert_eq!(waits(&mut script, recipient), expected, "{recipient}");
    }
    for (name, expected) in [
        ("mail.big.test", false),
        ("x.Mail.BIG.test", false),
        ("smail.big.test", true),
        ("", true),
    ] {
        assert_eq!(
            waits(script(config).reverse_name(name), "bob@ours.test"),
            expected,
            "{name}"
        );
    }
    assert_eq!(script("{}").identity("alice").on_rcpt("bob@ours.test"), left);
    assert_eq!(script("{}").trusted(true).on_rcpt("bob@ours.test"), left);
    // Whether a stranger may relay is not said here.
    assert_eq!(script("{}").on_rcpt("u@far.test"), Answer::pass());
}

#[test]
fn spf_spares_the_wait_if_that_is_wanted() {
    let asked = |config: &str, status: Status| {
        let mut script = script(config);
        script
            .check("iprev", Status::Pass, "192.0.2.1")
            .check("spf", status, "elsewhere.test");
        waits(&mut script, "bob@ours.test")
    };
    let wanted = r#"{"exempt_spf_pass":true}"#;
    assert!(!asked(wanted, Status::Pass));
    for status in [
        Status::None,
        Status::Softfail,
        Status::Fail,
        Status::Neutral,
        Status::Temperror,
        Status::Permerror,
    ] {
        assert!(asked(wanted, status), "{status:?}");
    }
    assert!(asked("{}", Status::Pass));
}

#[test]
fn without_its_memory_it_lets_pass() {
    let mut script = script("{}");
    script.state_fails("the store is full");
    assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass());
    let log = script.take_log();
    assert!(
        matches!(&log[..], [(Level::Error, line)] if line == "nobody is greylisted: the state store failed: the store is full"),
        "{log:?}"
    );
    assert_eq!(script.counter("store_failed"), 1);
    assert!(waits(script.state_fails(""), "bob@ours.test"));
    // What is no note of ours is as nothing.
    let key = "t/192.0.2.0/24/me@elsewhere.test/bob@ours.test";
    script.state().set(key, b"\xff", None).expect("a value");
    script.state().set("n/192.0.2.0/24", b"many", None).expect("a value");
    assert!(waits(&mut script, "bob@ours.test"));
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (
            r#"{"retry_window_s":300}"#,
            "retry_window_s: 300 is over before the delay of 300 s is",
        ),
        (r#"{"keep_s":0}"#, "keep_s: 0 would let nobody through"),
        (r#"{"ipv4_prefix":33}"#, "ipv4_prefix: 33 is not in 1 to 32"),
        (r#"{"ipv6_prefix":0}"#, "ipv6_prefix: 0 is not in 1 to 128"),
        (
            r#"{"allow_clients":["192.0.2.7","a b"]}"#,
            "allow_clients[1]: `a b` is no client",
        ),
        (
            r#"{"allow_clients":["192.0.2.0/33"]}"#,
            "allow_clients[0]: `192.0.2.0/33` is no client",
        ),
        (
            r#"{"allow_senders":["friend"]}"#,
            "allow_senders[0]: `friend` is no sender",
        ),
        (
            r#"{"allow_senders":["@x.test"]}"#,
            "allow_senders[0]: `@x.test` is no sender",
        ),
        (
            r#"{"allow_recipients":["@x"]}"#,
            "allow_recipients[0]: `@x` is no recipient",
        ),
        (r#"{"delay":5}"#, "delay: unknown field `delay`"),
    ];
    for (json, expected) in cases {
        let error = Script::<Greylist>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
