//! What answers weigh, what the client is told, and which configurations are refused.

use gatepost_sdk::dns::DnsError;
use gatepost_sdk::prelude::Decision;

use super::*;

const CONFIG: &str = r#"{"threshold":5,"lists":[
    {"zone":"bl.example","weight":3,"codes":{"127.0.0.2":{"weight":6,"reason":"spam source"},"127.0.0.10":{"weight":1,"reason":"dynamic"}}},
    {"zone":"WL.example.","weight":0,"codes":{"127.0.*.3":{"weight":-8,"reason":"trusted"},"127.0.9.3":{"weight":-1}}},
    {"zone":"other.example"}
]}"#;

fn load(json: &str) -> Result<Rbl, String> {
    Rbl::new(gatepost_sdk::parse_config(json)?)
}

/// Codes of the three lists, blank for not listed, `!` for a failure.
fn weigh(codes: [&str; 3]) -> (Verdict, Vec<String>) {
    let answers = codes.map(|codes| match codes {
        "!" => Err(DnsError::Temporary("time-out".to_owned())),
        codes => Ok(codes.split_whitespace().map(str::to_owned).collect()),
    });
    let mut odd = Vec::new();
    let verdict = verdict::weigh(&load(CONFIG).expect("valid").lists, &answers, |line| odd.push(line));
    (verdict, odd)
}

#[test]
fn weights_add_up_over_lists_and_not_over_codes_of_one() {
    let cases = [
        (["", "", ""], 0, ""),
        (["127.0.0.2", "", ""], 6, "bl.example (spam source)"),
        (["127.0.0.10 127.0.0.2", "", ""], 6, "bl.example (spam source)"),
        (["127.0.0.4", "", "127.0.0.2"], 4, "bl.example, other.example"),
        (["127.0.0.2", "127.0.5.3", ""], -2, "bl.example (spam source)"),
        (["127.0.0.2", "127.0.9.3", ""], 5, "bl.example (spam source)"),
        (["", "127.0.5.1", ""], 0, ""),
    ];
    for (codes, score, against) in cases {
        let (verdict, odd) = weigh(codes);
        assert_eq!((verdict.score, &*verdict.against), (score, against), "{codes:?}");
        assert!(odd.is_empty(), "{odd:?}");
    }
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
        let (verdict, odd) = weigh([code, "", ""]);
        assert_eq!(verdict, Verdict::default(), "{code}");
        assert!(matches!(&odd[..], [one] if one.starts_with(line)), "{odd:?}");
    }
}

#[test]
fn a_verdict_survives_as_a_note() {
    for verdict in [
        Verdict::default(),
        weigh(["127.0.0.2", "", "127.0.0.2"]).0,
        weigh(["", "127.0.5.3", ""]).0,
    ] {
        assert_eq!(Verdict::from_note(&verdict.to_note()), Some(verdict));
    }
    for note in [&b""[..], b"x", b"x y", b"\xff 1"] {
        assert_eq!(Verdict::from_note(note), None);
    }
}

#[test]
fn a_listed_client_hears_which_list_and_why() {
    let verdict = weigh(["127.0.0.2", "", ""]).0;
    let answer = load(CONFIG).expect("valid").answer("192.0.2.1", &verdict);
    let Decision::Reject(reply) = &answer.decision else {
        panic!("{answer:?}")
    };
    assert_eq!(
        reply.text,
        "Client host [192.0.2.1] blocked using bl.example (spam source)"
    );
    assert_eq!((reply.code, &*reply.enhanced), (550, "5.7.1"));
    assert_eq!(answer.why.expect("it has a reason").reason, "listed");
}

#[test]
fn the_action_is_a_choice() {
    let with = |action: &str| {
        let policy = load(&format!(r#"{{"action":"{action}","lists":[{{"zone":"bl.example"}}]}}"#)).expect("valid");
        policy.answer(
            "2001:db8::1",
            &Verdict {
                score: 1,
                against: "bl.example".to_owned(),
            },
        )
    };
    assert!(matches!(with("defer").decision, Decision::Defer(reply) if reply.code == 450));
    let tagged = with("tag");
    assert!(matches!(tagged.decision, Decision::Pass) && tagged.actions.len() == 1);
}

#[test]
fn the_refused_can_still_write_to_postmaster() {
    let policy = load("{}").expect("valid");
    assert!(policy.is_exempt("postmaster") && policy.is_exempt("Abuse") && !policy.is_exempt("alice"));
    assert!(policy.lists.is_empty());
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
        let error = load(json).map(|_| ()).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}
