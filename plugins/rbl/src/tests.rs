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
    let detail = "192.0.2.1 is on bl.example, other.example: score 4, threshold 4";
    assert_eq!(
        both.why.map(|why| (why.reason, why.detail)),
        Some(("listed".to_owned(), detail.to_owned()))
    );
}

#[test]
fn what_is_no_listing_weighs_nothing_and_is_logged() {
    let cases = [
        ("!", "bl.example did not answer: time-out"),
        ("127.255.255.254", "bl.example answered 127.255.255.254"),
        ("127.0.0.1", "bl.example answered 127.0.0.1"),
        ("203.0.113.7", "bl.example answered 203.0.113.7"),
        ("nonsense", "bl.example answered nonsense"),
    ];
    for (code, line) in cases {
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
    }
}

#[test]
fn lists_are_asked_once_a_session() {
    let mut script = script(CONFIG, ["127.0.0.2", "", ""]);
    let first = script.on_rcpt("bob@ours.test");
    assert_eq!(script.take_dns_questions(), ZONES);
    assert_eq!(script.on_rcpt("carol@ours.test"), first);
    assert_eq!(script.take_dns_questions(), [""; 0]);
    script.reconnect().on_rcpt("bob@ours.test");
    assert_eq!(script.take_dns_questions(), ZONES);
    // A note that cannot be ours is no verdict.
    for note in [&b""[..], b"x", b"x y", b"\xff 1"] {
        script
            .set_note(Scope::Session, OWN, NOTE, note)
            .on_rcpt("bob@ours.test");
        assert_eq!(script.take_dns_questions(), ZONES);
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
        (Decision::Pass, [Action::Tag(_)])
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
        (r#"{"threshold":0}"#, "threshold: 0 would hold for clients on no list"),
        (r#"{"action":"drop"}"#, "action: unknown variant `drop`"),
    ];
    for (json, expected) in cases {
        let error = Script::<Rbl>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
