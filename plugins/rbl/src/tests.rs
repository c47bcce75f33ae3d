//! What answers of lists come to, who is spared, what the client is told, and which configurations are refused.

use gatepost_sdk::log::Level;
use gatepost_sdk::prelude::{Action, Decision};
use gatepost_sdk::testing::Script;

use super::*;

const CLIENT: &str = "192.0.2.1";
const CONFIG: &str = r#"{"threshold":5,"lists":[
    {"zone":"bl.example","weight":3,"codes":{"127.0.0.2":{"weight":6,"reason":"spam source"},"127.0.0.10":{"weight":1,"reason":"dynamic"}}},
    {"zone":"WL.example.","weight":0,"codes":{"127.0.*.3":{"weight":-8,"reason":"trusted"},"127.0.9.3":{"weight":-1}}},
    {"zone":"other.example"}
]}"#;
const ZONES: [&str; 3] = ["bl.example", "wl.example", "other.example"];

/// A client of which the three lists answer these codes: blank for not listed, `!` for a failure.
fn script(config: &str, codes: [&str; 3]) -> Script<Rbl> {
    let mut script = Script::new(config).expect("valid");
    script.peer(CLIENT).sender("someone@elsewhere.test");
    for (zone, codes) in ZONES.into_iter().zip(codes) {
        match codes {
            "!" => script.list_fails(zone, CLIENT, "time-out"),
            codes => script.listed(zone, CLIENT, &codes.split_whitespace().collect::<Vec<_>>()),
        };
    }
    script
}

/// The text of the refusal; none if it is not refused.
fn refusal(answer: &Answer) -> Option<&str> {
    match &answer.decision {
        Decision::Reject(reply) => Some(&reply.text),
        _ => None,
    }
}

#[test]
fn weights_add_up_over_lists_and_not_over_codes_of_one() {
    let spam = "Client host [192.0.2.1] blocked using bl.example (spam source)";
    let cases = [
        (["", "", ""], None),
        (["127.0.0.2", "", ""], Some(spam)),
        (["127.0.0.10 127.0.0.2", "", ""], Some(spam)),
        // 4 of 5.
        (["127.0.0.4", "", "127.0.0.2"], None),
        (["127.0.0.2", "127.0.5.3", ""], None),
        (["127.0.0.2", "127.0.9.3", ""], Some(spam)),
        (["", "127.0.5.1", ""], None),
    ];
    for (codes, expected) in cases {
        let mut script = script(CONFIG, codes);
        let answer = script.on_rcpt("bob@ours.test");
        assert_eq!(refusal(&answer), expected, "{codes:?}");
        assert_eq!(script.has_left(), expected.is_none(), "{codes:?}");
        assert_eq!(script.take_log(), [], "{codes:?}");
    }
    let low = CONFIG.replace("\"threshold\":5", "\"threshold\":4");
    let both = script(&low, ["127.0.0.4", "", "127.0.0.2"]).on_rcpt("bob@ours.test");
    assert_eq!(
        refusal(&both),
        Some("Client host [192.0.2.1] blocked using bl.example, other.example")
    );
    let detail = "192.0.2.1 is on bl.example (127.0.0.4, weight 3) and other.example (127.0.0.2, weight 1): score 4, threshold 4";
    assert_eq!(
        both.why.map(|why| (why.reason, why.detail)),
        Some(("listed".to_owned(), detail.to_owned()))
    );
}

#[test]
fn what_is_no_listing_weighs_nothing_and_is_logged() {
    let cases = [
        ("!", "bl.example did not answer: time-out", "list_failed"),
        (
            "127.255.255.254",
            "bl.example answered 127.255.255.254, which is no listing: it is ignored (it does not serve public resolvers",
            "list_refused",
        ),
        ("127.0.0.1", "bl.example answered 127.0.0.1", "list_refused"),
        ("127.0.1.255", "bl.example answered 127.0.1.255", "list_refused"),
        ("203.0.113.7", "bl.example answered 203.0.113.7", "list_nonsense"),
        ("nonsense", "bl.example answered nonsense", "list_nonsense"),
    ];
    for (code, line, counter) in cases {
        let mut script = script(CONFIG, [code, "", ""]);
        assert_eq!(
            script.on_rcpt("bob@ours.test"),
            Answer::pass().leave_session(),
            "{code}"
        );
        let log = script.take_log();
        assert!(
            matches!(&log[..], [(Level::Warn, one)] if one.starts_with(line)),
            "{log:?}"
        );
        assert_eq!(script.counter(counter), 1, "{code}");
    }
}

#[test]
fn lists_are_asked_once_a_session() {
    let mut script = script(CONFIG, ["127.0.0.2", "", ""]);
    let first = script.on_rcpt("bob@ours.test");
    // And the one that speaks against the client is tested before it is believed.
    let asked = [&ZONES[..], &["bl.example"]].concat();
    assert_eq!(script.take_dns_questions(), asked);
    assert_eq!(script.on_rcpt("carol@ours.test"), first);
    assert_eq!(script.take_dns_questions(), [""; 0]);
    script.reconnect().on_rcpt("bob@ours.test");
    assert_eq!(script.take_dns_questions(), asked);
    // A note that cannot be ours is no verdict.
    for note in [&b""[..], b"x", b"x y", b"\xff 1"] {
        script
            .set_note(Scope::Session, OWN, NOTE, note)
            .on_rcpt("bob@ours.test");
        assert_eq!(script.take_dns_questions(), asked);
    }
}

#[test]
fn who_is_spared_is_not_looked_up() {
    let listed = ["127.0.0.2", "", ""];
    let mut script = script(CONFIG, listed);
    for recipient in ["postmaster@ours.test", "Abuse@ours.test", "u@far.test"] {
        assert_eq!(script.on_rcpt(recipient), Answer::pass(), "{recipient}");
    }
    assert_eq!(
        script.identity("alice").on_rcpt("bob@ours.test"),
        Answer::pass().leave_session()
    );
    assert_eq!(
        script.identity("").trusted(true).on_rcpt("bob@ours.test"),
        Answer::pass().leave_session()
    );
    assert_eq!(script.take_dns_questions(), [""; 0]);
    let mut without = super::tests::script("{}", listed);
    assert_eq!(without.on_rcpt("bob@ours.test"), Answer::pass().leave_session());
}

#[test]
fn the_action_is_a_choice() {
    let with = |action: &str| {
        let config = format!(r#"{{"action":"{action}","lists":[{{"zone":"bl.example"}}]}}"#);
        script(&config, ["127.0.0.2", "", ""]).on_rcpt("bob@ours.test")
    };
    assert_eq!(
        refusal(&with("reject")),
        Some("Client host [192.0.2.1] blocked using bl.example")
    );
    assert!(matches!(with("defer").decision, Decision::Defer(reply) if reply.code == 450));
    let tagged = with("tag");
    assert!(matches!(
        (&tagged.decision, &tagged.actions[..]),
        (Decision::Pass, [Action::Tag(tag)]) if tag.value == "bl.example"
    ));
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"lists":[{"zone":"a b"}]}"#, "lists[0].zone: `a b` is no domain"),
        (r#"{"lists":[{"zone":""}]}"#, "lists[0].zone: `` is no domain"),
        (
            r#"{"lists":[{"zone":"a.example"},{"zone":"A.example."}]}"#,
            "lists[1].zone: `a.example` is there twice",
        ),
        (r#"{"lists":[{"weight":3}]}"#, "lists[0]: missing field `zone`"),
        (
            r#"{"lists":[{"zone":"a.example","codes":{"10.0.0.1":{"weight":1}}}]}"#,
            "lists[0].codes: `10.0.0.1` is no return code",
        ),
        (
            r#"{"lists":[{"zone":"a.example","codes":{"127.0.0":{"weight":1}}}]}"#,
            "lists[0].codes: `127.0.0` is no return code",
        ),
        (
            r#"{"lists":[{"zone":"a.example","codes":{"127.0.0.2":{}}}]}"#,
            "lists[0].codes.127.0.0.2: missing field `weight`",
        ),
        (
            r#"{"lists":[{"zone":"a.example","codes":{"127.0.0.9-4":{"weight":1}}}]}"#,
            "lists[0].codes: `127.0.0.9-4` is no return code",
        ),
        (
            r#"{"domain_lists":[{"zone":"a.example"},{"zone":"b.example","names":[]}]}"#,
            "domain_lists[1].names: the list would never be asked",
        ),
        (
            r#"{"domain_lists":[{"zone":"a.example","names":["helo"]}]}"#,
            "domain_lists[0].names[0]: unknown variant `helo`",
        ),
        (r#"{"suffixes":["co.uk","x"]}"#, "suffixes[1]: `x` is no domain"),
        (r#"{"threshold":0}"#, "threshold: 0 would hold for clients on no list"),
        (r#"{"action":"drop"}"#, "action: unknown variant `drop`"),
    ];
    for (json, expected) in cases {
        let error = Script::<Rbl>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
    let many = |addresses: usize, domains: usize| {
        let zones = |count: usize| {
            (0..count)
                .map(|place| format!(r#"{{"zone":"z{place}.example"}}"#))
                .collect::<Vec<_>>()
        };
        let (lists, domain_lists) = (zones(addresses).join(","), zones(domains).join(","));
        Script::<Rbl>::new(&format!(r#"{{"lists":[{lists}],"domain_lists":[{domain_lists}]}}"#)).map(|_| ())
    };
    assert_eq!((many(32, 0), many(20, 6)), (Ok(()), Ok(())));
    let error = many(20, 7).expect_err("34 questions");
    assert!(error.contains("34 questions"), "{error}");
}

const DOMAINS: &str = r#"{"threshold":3,"suffixes":["hosting.test"],"lists":[{"zone":"bl.example","weight":2}],"domain_lists":[
    {"zone":"rhsbl.example","weight":3},
    {"zone":"names.example","names":["reverse-name"],"whole_name":true},
    {"zone":"good.example","weight":-2,"names":["sender"]}
]}"#;

/// A client that calls itself `mail.client.test`, is called `dyn-1.isp.test`, and writes as `me@news.sender.test`.
fn named(listings: &[(&str, &str)]) -> Script<Rbl> {
    let mut script = Script::new(DOMAINS).expect("valid");
    script
        .peer(CLIENT)
        .ehlo("mail.Client.test")
        .reverse_name("dyn-1.isp.test")
        .sender("me@News.Sender.test");
    for (zone, subject) in listings {
        script.listed(zone, subject, &["127.0.1.2"]);
    }
    script
}

#[test]
fn names_are_asked_about_where_the_lists_want_them() {
    let address = ("bl.example", CLIENT);
    let sender = ("rhsbl.example", "sender.test");
    let dynamic = ("names.example", "dyn-1.isp.test");
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
    let cases: &[Case] = &[
        (&[], None),
        (&[address], None),
        (
            &[sender],
            Some("Sender domain [sender.test] blocked using rhsbl.example"),
        ),
        (
            &[("rhsbl.example", "client.test")],
            Some("EHLO name [client.test] blocked using rhsbl.example"),
        ),
        (
            &[address, dynamic],
            Some(
                "Client host [192.0.2.1] blocked using bl.example; Reverse name [dyn-1.isp.test] blocked using names.example",
            ),
        ),
        // Good words for the sender weigh against.
        (&[sender, ("good.example", "sender.test")], None),
        (
            &[sender, address, ("good.example", "sender.test")],
            Some(
                "Client host [192.0.2.1] blocked using bl.example; Sender domain [sender.test] blocked using rhsbl.example",
            ),
        ),
        // Neither the whole names nor others are asked for.
        (
            &[
                ("rhsbl.example", "news.sender.test"),
                ("rhsbl.example", "isp.test"),
                ("names.example", "isp.test"),
            ],
            None,
        ),
    ];
    for (listings, expected) in cases {
        let mut script = named(listings);
        let answer = script.on_rcpt("bob@ours.test");
        assert_eq!(refusal(&answer), *expected, "{listings:?}");
        assert!(!script.has_left(), "{listings:?}");
    }
    // What is no domain is not asked about.
    let mut script = named(&[]);
    script
        .ehlo("[192.0.2.1]")
        .reverse_name("")
        .sender("")
        .on_rcpt("bob@ours.test");
    assert_eq!(script.take_dns_questions(), ["bl.example"]);
    // Whoever registers below a suffix is somebody of his own.
    let mut script = named(&[("rhsbl.example", "bad.hosting.test")]);
    assert!(refusal(&script.sender("me@bad.hosting.test").on_rcpt("bob@ours.test")).is_some());
    assert!(
        refusal(
            &script
                .reconnect()
                .sender("me@other.hosting.test")
                .on_rcpt("bob@ours.test")
        )
        .is_none()
    );
}

#[test]
fn a_sender_is_asked_about_once_a_transaction_and_only_if_that_can_matter() {
    let mut script = named(&[("rhsbl.example", "sender.test")]);
    let first = script.on_rcpt("bob@ours.test");
    assert!(refusal(&first).is_some());
    let all = [
        "bl.example",
        "rhsbl.example",
        "names.example",
        "rhsbl.example",
        "good.example",
    ];
    assert_eq!(script.take_dns_questions(), [&all[..], &["rhsbl.example"]].concat());
    assert_eq!(script.on_rcpt("carol@ours.test"), first);
    assert_eq!(script.take_dns_questions(), [""; 0]);
    assert_eq!(script.sender("me@other.test").on_rcpt("bob@ours.test"), Answer::pass());
    assert_eq!(script.take_dns_questions(), ["rhsbl.example", "good.example"]);
    assert_eq!(script.on_rcpt("carol@ours.test"), Answer::pass());
    assert_eq!(script.take_dns_questions(), [""; 0]);

    // With 6 of 3 no good word helps, and with -2 or less no bad one harms.
    let settled = |weight: i32, leaves: bool| {
        let config = DOMAINS.replace(
            "\"bl.example\",\"weight\":2",
            &format!("\"bl.example\",\"weight\":{weight}"),
        );
        let mut script = Script::<Rbl>::new(&config).expect("valid");
        script
            .peer(CLIENT)
            .sender("me@sender.test")
            .listed("bl.example", CLIENT, &["127.0.0.2"]);
        script.on_rcpt("bob@ours.test");
        assert_eq!(script.has_left(), leaves, "{weight}");
        if !leaves {
            script.take_dns_questions();
            script.sender("me@other.test").on_rcpt("bob@ours.test");
            assert_eq!(script.take_dns_questions(), [""; 0], "{weight}");
        }
    };
    settled(6, false);
    settled(-2, true);
}

#[test]
fn a_list_that_lists_everything_is_ignored() {
    let mut script = script(CONFIG, ["127.0.0.2", "", ""]);
    script.listed("bl.example", "127.0.0.1", &["127.0.0.2"]);
    assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass().leave_session());
    let log = script.take_log();
    let told = "bl.example lists 127.0.0.1, which no list has (RFC 5782 section 5), so it lists everything";
    assert!(
        matches!(&log[..], [(Level::Warn, one)] if one.starts_with(told)),
        "{log:?}"
    );
    assert_eq!(script.counter("list_broken"), 1);

    // One of the good that lists everything saves nobody.
    let mut script = super::tests::script(CONFIG, ["127.0.0.2", "127.0.5.3", ""]);
    script.listed("wl.example", "127.0.0.1", &["127.0.5.3"]);
    assert!(refusal(&script.on_rcpt("bob@ours.test")).is_some());

    let mut script = named(&[("rhsbl.example", "sender.test"), ("rhsbl.example", "invalid")]);
    assert_eq!(script.on_rcpt("bob@ours.test"), Answer::pass());
    assert_eq!(script.counter("list_broken"), 1);

    // Nor does it hide a sender that comes later.
    let config = r#"{"threshold":3,"lists":[{"zone":"wl.example","weight":-8}],"domain_lists":[{"zone":"rhsbl.example","weight":3,"names":["sender"]}]}"#;
    for (broken, refused) in [(true, true), (false, false)] {
        let mut script = Script::<Rbl>::new(config).expect("valid");
        script.peer(CLIENT).sender("me@elsewhere.test");
        script.listed("wl.example", CLIENT, &["127.0.0.2"]);
        script.listed("rhsbl.example", "spam.test", &["127.0.0.2"]);
        if broken {
            script.listed("wl.example", "127.0.0.1", &["127.0.0.2"]);
        }
        script.on_rcpt("bob@ours.test");
        let is_refused =
            !script.has_left() && refusal(&script.sender("me@spam.test").on_rcpt("bob@ours.test")).is_some();
        assert_eq!(is_refused, refused, "{broken}");
    }

    // What refuses our resolver lists nothing, and one whose test does not come back is believed.
    let mut script = super::tests::script(CONFIG, ["127.0.0.2", "", ""]);
    script.listed("bl.example", "127.0.0.1", &["127.255.255.254"]);
    assert!(refusal(&script.on_rcpt("bob@ours.test")).is_some());
    let mut script = super::tests::script(CONFIG, ["127.0.0.2", "", ""]);
    script.list_fails("bl.example", "127.0.0.1", "time-out");
    assert!(refusal(&script.on_rcpt("bob@ours.test")).is_some());

    // A loopback client proves nothing by being listed: there the name is asked.
    let config = r#"{"lists":[{"zone":"bl.example"}]}"#;
    let mut script = Script::<Rbl>::new(config).expect("valid");
    script
        .peer("127.0.0.1")
        .listed("bl.example", "127.0.0.1", &["127.0.0.2"]);
    assert!(refusal(&script.on_rcpt("bob@ours.test")).is_some());
    script.reconnect().listed("bl.example", "invalid", &["127.0.0.2"]);
    assert!(refusal(&script.on_rcpt("bob@ours.test")).is_none());

    // Nor is one tested that says it has no test points.
    let config = r#"{"lists":[{"zone":"bl.example","test_points":false}]}"#;
    let mut script = super::tests::script(config, ["127.0.0.2", "", ""]);
    assert!(refusal(&script.on_rcpt("bob@ours.test")).is_some());
    assert_eq!(script.take_dns_questions(), ["bl.example"]);
}

#[test]
fn one_session_in_64_looks_for_dead_lists() {
    let dead = |port: u16, alive: &[(&str, &str)]| {
        let mut script = named(alive);
        script.peer_port(port).on_rcpt("bob@ours.test");
        let lines = script.take_log().into_iter().map(|(_, line)| line);
        lines
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let all = ["bl.example", "rhsbl.example", "names.example", "good.example"];
    assert_eq!(dead(40_001, &[]), all);
    assert_eq!(dead(40_000, &[]), [""; 0]);
    let alive = [
        ("bl.example", "127.0.0.2"),
        ("rhsbl.example", "test"),
        // Some lists of domains have the other test point.
        ("names.example", "127.0.0.2"),
    ];
    assert_eq!(dead(40_001, &alive), ["good.example"]);
}
