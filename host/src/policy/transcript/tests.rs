//! Reading, comparing and updating transcripts, without a policy.

use super::*;

const TWO_SESSIONS: &str = "\
grants = [\"relay\"]
dns = \"\"\"
a.example A 192.0.2.1
\"\"\"
# A comment.

=== one
peer 2001:db8::1
wait 1h30m
> MAIL FROM:<\"a>b\"@example.org> SIZE=10 SMTPUTF8
> MESSAGE
| Subject: x
|
|  body
on-message: pass
\tadd-header X
    detail:  y
=== two
> DISCONNECT
";

fn error(text: &str) -> String {
    match Transcript::parse(text) {
        Ok(_) => panic!("{text:?} is a transcript"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn sessions_facts_and_events_are_told_apart() {
    let transcript = Transcript::parse(TWO_SESSIONS).expect("a transcript");
    assert_eq!(transcript.settings.grants.as_deref(), Some(&["relay".to_owned()][..]));
    let shown = format!("{:?}", transcript.sessions[0].steps);
    for part in [
        "Peer([2001:db8::1]:40000)",
        "Wait(5400s)",
        "\\\"a>b\\\"@example.org",
        "(\"SIZE\", Some(\"10\")), (\"SMTPUTF8\", None)",
        "Message(\"Subject: x\\r\\n\\r\\n body\\r\\n\")",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let events: Vec<_> = transcript.sessions.iter().flat_map(parse::Session::events).collect();
    let lines: Vec<usize> = events.iter().map(|(_, event)| event.line).collect();
    assert_eq!(lines, [10, 11, 19]);
    assert_eq!(
        events[1].1.expected,
        ["on-message: pass", "  add-header X", "  detail:  y"]
    );
    assert_eq!(events[2].0, "two");
}

#[test]
fn what_is_no_transcript_is_named_with_its_line() {
    let cases = [
        ("", "line 1: there is no session"),
        ("grants = 1\n=== x", "line 1: invalid type"),
        ("relay_domains = []\ngrant = []\n=== x", "line 2: unknown field `grant`"),
        (
            "dns = \"\"\"\na.example A x\n\"\"\"\n=== x",
            "line 2: \"x\" is no value of A",
        ),
        ("=== x\npear 192.0.2.1", "line 2: \"pear\" is no fact"),
        ("=== x\npeer nobody", "line 2: \"nobody\" is no IP address"),
        ("=== x\n\n> HELP", "line 3: \"HELP\" is no event"),
        ("=== x\n> RCPT TO:u@ours.test", "line 2: write `TO:<address>`"),
        ("=== x\n> RCPT TO:<u>", "line 2: \"u\" is no address"),
        ("=== x\n> DATA\n| text", "line 2: lines with `|` belong to `> MESSAGE`"),
        (
            "=== x\n  reason: y",
            "line 2: an answer or a message stands directly below its event",
        ),
    ];
    for (text, expected) in cases {
        let error = error(text);
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
}

fn lines(text: &[&str]) -> Vec<String> {
    text.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn what_a_transcript_leaves_out_is_not_compared() {
    let said = lines(&[
        "on-rcpt: pass",
        "  tag a=b",
        "  reason: x",
        "  detail: y",
        "  log warn: one",
        "  log info: two",
    ]);
    let cases = [
        (&["on-rcpt: pass"][..], &said[..3]),
        (
            &["on-rcpt: pass", "  log warn: one"][..],
            &[&said[..3], &said[4..]].concat()[..],
        ),
        (&["on-rcpt: pass", "  detail: z"][..], &said[..4]),
    ];
    for (expected, compared) in cases {
        assert_eq!(as_far_as_asked(&said, &lines(expected)), compared, "{expected:?}");
    }
}

#[test]
fn a_difference_shows_what_was_expected_and_what_was_said() {
    let difference = Difference {
        line: 7,
        session: "one".into(),
        event: "> DATA".into(),
        instances: "fresh",
        expected: lines(&["on-data: pass", "  tag a=b", "  reason: x"]),
        said: lines(&["on-data: pass", "  tag a=c", "  tag d=e", "  reason: x"]),
    };
    let expected = "line 7, one, instances fresh:\n    > DATA\n    on-data: pass\n  -   tag a=b\n  +   tag a=c\n  +   tag d=e\n      reason: x\n";
    assert_eq!(difference.to_string(), expected);
    let not_asked = Difference {
        said: Vec::new(),
        ..difference
    };
    assert!(
        not_asked
            .to_string()
            .ends_with("  -   reason: x\n  + (it was not asked: it has no such hook, or took leave of the session)\n")
    );
}

#[test]
fn an_update_changes_answers_only() {
    let transcript = Transcript::parse(TWO_SESSIONS).expect("a transcript");
    let events = || {
        transcript
            .sessions
            .iter()
            .flat_map(parse::Session::events)
            .map(|(_, event)| event)
    };
    let said = [
        lines(&["on-mail: pass"]),
        lines(&["on-message: discard", "  detail: z", "  remedy: none"]),
        Vec::new(),
    ];
    let updated = update(&transcript.text, events().zip(&said));
    let expected = TWO_SESSIONS.replace("SMTPUTF8\n", "SMTPUTF8\non-mail: pass\n").replace(
        "on-message: pass\n\tadd-header X\n    detail:  y\n",
        "on-message: discard\n  detail: z\n",
    );
    assert_eq!(updated, expected);
}

#[test]
fn texts_stay_on_their_line() {
    assert_eq!(one_line("a\r\nb\tc ü \u{7f}"), "a\\r\\nb\\tc ü \\u{7f}");
}
