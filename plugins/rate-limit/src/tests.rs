//! Which buckets a command draws from, what a refusal says, and which configurations are refused.

use super::*;

fn load(json: &str) -> Result<RateLimit, String> {
    RateLimit::new(gatepost_sdk::parse_config(json)?)
}

fn facts(identity: &str, address: &str, sender: &str) -> Facts {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Facts {
        identity: some(identity),
        address: some(address),
        sender: Some(sender.to_owned()),
    }
}

/// The buckets as `key rate/per_seconds burst`.
fn drawn(limits: &[Limit], facts: &Facts, prefixes: Prefixes) -> Vec<String> {
    let bucket = |(_, bucket): (&Limit, Bucket)| {
        assert_eq!(bucket.cost, 1);
        format!("{} {}/{} {}", bucket.key, bucket.rate, bucket.per_seconds, bucket.burst)
    };
    draw(limits.iter(), facts, prefixes).map(bucket).collect()
}

/// The answer when the first of these limits lacks tokens for so long.
fn refusal(limits: &[Limit], facts: &Facts, prefixes: Prefixes, wait_ms: u64) -> Answer {
    let (limit, bucket) = draw(limits.iter(), facts, prefixes).next().expect("the limit applies");
    limit.refusal(&bucket, wait_ms)
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
    let policy = load(MESSAGES).expect("valid");
    /// Identity, address and sender, and the buckets.
    type Case = ((&'static str, &'static str, &'static str), &'static [&'static str]);
    let cases: &[Case] = &[
        (
            ("carol", "192.0.2.7", "me@example.org"),
            &[
                "messages/identity/3600/carol 100/3600 200",
                "messages/network/60/192.0.2.0/24 10/60 10",
                "messages/address/60/192.0.2.7 5/60 5",
                "messages/sender-domain/60/example.org 7/60 7",
            ],
        ),
        (
            ("alice", "198.51.100.1", "me@BIG.example."),
            &[
                "messages/identity/3600/alice 1000/3600 1000",
                "messages/network/60/198.51.100.0/24 99/1 7",
                "messages/address/60/198.51.100.1 5/60 5",
                "messages/sender-domain/60/big.example 70/60 70",
            ],
        ),
        (("bob", "", ""), &["messages/identity/3600/bob 100/3600 5"]),
        // Nobody authenticated, and the null sender.
        (("", "2001:db8::1", ""), &["messages/network/60/2001:db8::/64 10/60 10"]),
        (("root", "", ""), &[]),
    ];
    for ((identity, address, sender), expected) in cases {
        let drawn = drawn(&policy.messages, &facts(identity, address, sender), policy.prefixes);
        assert_eq!(drawn, *expected, "{identity} {address} {sender}");
    }
}

#[test]
fn no_configuration_limits_nothing() {
    let policy = load("{}").expect("valid");
    for limits in [&policy.connections, &policy.messages, &policy.recipients] {
        assert!(limits.is_empty());
    }
}

#[test]
fn a_refusal_says_when_to_try_again() {
    let policy = load(MESSAGES).expect("valid");
    let facts = facts("carol", "", "");
    let answer = refusal(&policy.messages, &facts, policy.prefixes, 34_001);
    let Decision::Defer(reply) = &answer.decision else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (reply.code, &*reply.enhanced, &*reply.text),
        (450, "4.7.1", "Too many messages: try again in 35 s")
    );
    let why = answer.why.expect("it has a reason");
    assert_eq!(why.reason, "rate-limited");
    assert_eq!(
        why.detail,
        "messages per identity carol: 100 in 3600 s, 200 at once; the next in 35 s"
    );
}

#[test]
fn a_connection_too_many_is_closed() {
    let policy =
        load(r#"{"limits":[{"count":"connections","per":"address","rate":1,"per_seconds":1}]}"#).expect("valid");
    let answer = refusal(&policy.connections, &facts("", "192.0.2.1", ""), policy.prefixes, 0);
    assert!(matches!(answer.decision, Decision::Disconnect(reply) if reply.code == 421));
}

#[test]
fn a_key_is_never_longer_than_the_store_takes() {
    let policy = load(MESSAGES).expect("valid");
    let long = "ä".repeat(1000);
    let facts = facts(&long, "", "");
    let (_, bucket) = draw(policy.messages.iter(), &facts, policy.prefixes)
        .next()
        .expect("a limit applies");
    assert!(bucket.key.len() <= 512, "{}", bucket.key.len());
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
        let error = load(&json).map(|_| ()).expect_err(&json);
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
        load(&format!(r#"{{"limits":[{}]}}"#, all.join(","))).map(|_| ())
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
