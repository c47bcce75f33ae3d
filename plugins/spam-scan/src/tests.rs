//! Whole messages: which rules they meet, and what becomes of them.

use std::fs;
use std::path::Path;

use gatepost_sdk::testing::Script;
use gatepost_sdk::types::HeaderPlace;

use super::*;
use crate::evidence::{Evidence, Form, Words};
use crate::rules::RULES;

fn script(config: &str) -> Script<SpamScan> {
    Script::new(config).expect("valid")
}

fn scan(config: &str, message: &str) -> Answer {
    script(config).message(message).on_message()
}

/// What is changed in the header: `+name` and `-name`, in order.
fn edits(answer: &Answer) -> Vec<String> {
    let edit = |action: &Action| match action {
        Action::AddHeader(header) => {
            assert_eq!(header.at, HeaderPlace::Top);
            Some(format!("+{}", header.name))
        }
        Action::RemoveHeader(removal) => {
            assert_eq!(removal.occurrence, None);
            Some(format!("-{}", removal.name))
        }
        _ => None,
    };
    answer.actions.iter().filter_map(edit).collect()
}

fn value<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.actions.iter().find_map(|action| match action {
        Action::AddHeader(header) if header.name == name => Some(&header.value),
        _ => None,
    });
    std::str::from_utf8(value.expect("the field is added")).expect("it is ASCII")
}

fn is_held(answer: &Answer) -> bool {
    answer
        .actions
        .iter()
        .any(|action| matches!(action, Action::Quarantine(_)))
}

fn is_refused(answer: &Answer) -> bool {
    matches!(&answer.decision, Decision::Reject(reply) if reply.code == 550)
}

const HAM: &str = "From: Alice Archer <alice@example.org>\nTo: Bob Baker <bob@example.net>\nSubject: lunch on Friday?\nDate: Fri, 6 Mar 2026 10:00:00 +0000\nMessage-ID: <1@example.org>\n\nShall we go at noon? There is a new place near the station, and they say that the\nsoup is good. I was there last week, but it was full, so let me know and I will\nask them for a table.\n\n-- \nAlice\n";

const SPAM: &str = "From: winner@lottery.example\nTo: undisclosed-recipients:;\nSubject: YOU HAVE WON $1,000,000!!!\nDate: Fri, 6 Mar 2026 10:00:00 +0000\nMessage-ID: <1@example.org>\nContent-Type: text/html\n\n<p>Act now! <a href=\"http://203.0.113.7/remove\">Click here</a> to claim your prize. Make money fast, risk free!</p>\n";

#[test]
fn ordinary_mail_is_left_alone() {
    assert_eq!(scan("{}", HAM), Answer::pass());
}

#[test]
fn spam_is_tagged_and_passed_by_default() {
    let answer = scan("{}", SPAM);
    assert!(matches!(answer.decision, Decision::Pass));
    assert_eq!(edits(&answer), ["+X-Spam-Report", "+X-Spam-Score", "+X-Spam-Flag"]);
    assert_eq!(value(&answer, "X-Spam-Flag"), "YES");
    let report = value(&answer, "X-Spam-Report");
    assert!(report.contains("a link to a host that is a number"), "{report}");
    for line in report.split(";\r\n\t") {
        assert!(line.starts_with('+') || line.starts_with('-'), "{line}");
    }
    let why = answer.why.as_ref().expect("it has a reason");
    assert_eq!(why.reason, "spam");
    let start = format!("{} points: +", value(&answer, "X-Spam-Score"));
    assert!(why.detail.starts_with(&start), "{}", why.detail);
    assert_eq!(why.otherwise.as_deref(), Some("fewer than 5.0 points"));
}

#[test]
fn mail_of_today_is_told_apart() {
    for (folder, is_spam) in [("ham", false), ("spam", true)] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail").join(folder);
        let entries = fs::read_dir(&folder).expect("it is there");
        let paths: Vec<_> = entries.map(|entry| entry.expect("it is readable").path()).collect();
        assert!(paths.len() >= 6, "{}", folder.display());
        for path in paths {
            let message = fs::read_to_string(&path).expect("it is readable");
            let answer = scan(r#"{"always_score":true}"#, &message);
            let (flag, score) = (value(&answer, "X-Spam-Flag"), value(&answer, "X-Spam-Score"));
            assert_eq!(flag == "YES", is_spam, "{}: {score} {:?}", path.display(), answer.why);
        }
    }
}

#[test]
fn thresholds_are_a_choice() {
    let held = scan(r#"{"quarantine":6}"#, SPAM);
    assert!(matches!(held.decision, Decision::Pass));
    assert!(is_held(&held));
    assert_eq!(edits(&held).len(), 3);

    let refused = scan(r#"{"quarantine":6,"reject":6.5}"#, SPAM);
    assert!(is_refused(&refused), "{refused:?}");
    assert!(refused.actions.is_empty());
    assert_eq!(
        refused.why.and_then(|why| why.otherwise).as_deref(),
        Some("fewer than 6.5 points")
    );

    assert!(edits(&scan(r#"{"tag":1000}"#, SPAM)).is_empty());
    let scored = scan(r#"{"always_score":true}"#, HAM);
    assert_eq!(edits(&scored), ["+X-Spam-Score", "+X-Spam-Flag"]);
    assert_eq!(value(&scored, "X-Spam-Flag"), "NO");
}

#[test]
fn mail_of_authenticated_users_has_thresholds_of_its_own() {
    let ask = |config: &str, authenticated: bool| {
        let mut script = script(config);
        if authenticated {
            script.identity("alice");
        }
        script.message(SPAM).on_message()
    };
    let config = r#"{"quarantine":6,"outbound":{"reject":6}}"#;
    assert!(is_held(&ask(config, false)));
    assert!(is_refused(&ask(config, true)));
    let config = r#"{"reject":6,"outbound":{"tag":900,"quarantine":899,"reject":900}}"#;
    assert!(is_refused(&ask(config, false)));
    assert_eq!(ask(config, true), Answer::pass());
    let config = r#"{"reject":6,"outbound":{"tag":6}}"#;
    assert!(
        is_refused(&ask(config, true)),
        "what is not written is as for other mail"
    );
}

#[test]
fn what_a_sender_says_about_spam_is_removed_before_ours_is_added() {
    let forged = "x-spam-flag: NO\nX-Spam-Score: -99\nX-Spam-Status: No\n";
    let removed = ["-x-spam-flag", "-X-Spam-Score", "-X-Spam-Status"];
    assert_eq!(edits(&scan("{}", &format!("{forged}{HAM}"))), removed);
    let both = edits(&scan("{}", &format!("{forged}{SPAM}")));
    let added = ["+X-Spam-Report", "+X-Spam-Score", "+X-Spam-Flag"];
    assert_eq!(both, [&removed[..], &added].concat());
}

/// The rules that a message meets.
fn rules(message: &str) -> Vec<&'static str> {
    struct Nowhere;
    impl Words for Nowhere {
        fn take(&mut self, _: u32) {}
        fn take_form(&mut self, _: Form, _: u32) {}
    }
    let message = message.replace('\n', "\r\n");
    let (fields, offset) = header::read(message.as_bytes());
    let evidence = Evidence::of(&fields, &message.as_bytes()[offset..], None, &mut Nowhere);
    let met = RULES.iter().zip(evidence.times).filter(|(_, times)| *times > 0);
    met.map(|(rule, _)| rule.name).collect()
}

/// What a change of [`HAM`] changes in the rules it meets: `+name` and `-name`.
#[track_caller]
fn check(replace: &str, with: &str, expected: &str) {
    let message = HAM.replace(replace, with);
    assert_ne!(message, HAM, "`{replace}` is not in the message");
    let (before, after) = (rules(HAM), rules(&message));
    let more = after.iter().filter(|rule| !before.contains(rule));
    let less = before.iter().filter(|rule| !after.contains(rule));
    let changes: Vec<String> = (more.map(|rule| format!("+{rule}")))
        .chain(less.map(|rule| format!("-{rule}")))
        .collect();
    assert_eq!(changes.join(" "), expected, "{with}");
}

#[test]
fn sender_rules() {
    let from = "From: Alice Archer <alice@example.org>\n";
    check(from, "", "+missing-from -message-id-of-sender");
    check(from, "From: Alice\n", "+from-without-address -message-id-of-sender");
    check(from, "From: alice@example.org\n", "+from-name-missing");
    check("Alice Archer <", "ALICE ARCHER <", "+from-name-capitals");
    check("Alice Archer <", "Free $$$ <", "+from-name-exclaims");
    check(
        "Alice Archer <",
        "\"service@bank.example\" <",
        "+from-name-is-other-address",
    );
    check(
        "Alice Archer <",
        "\"alice@mail.example.org\" <",
        "+from-name-is-address",
    );
    check("Alice Archer <", "\"alice @ work\" <", "");
    check("Alice Archer <", "=?utf-8?q?Alice?= <", "+from-name-encoded");
    check("<alice@", "<a12b34@", "+from-many-digits");
    check("<alice@", "<4alice@", "+from-digits-first");
    check("<alice@", "<qxtrwpk@", "+from-random");
    check(
        "alice@example.org",
        "alice@yahoo.co.uk",
        "+from-freemail -message-id-of-sender",
    );
    check("alice@example.org", "alice@a12.example.org", "+from-domain-digits");
    check(
        "alice@example.org",
        "alice@example.xyz",
        "+from-odd-top-domain -message-id-of-sender",
    );
    check("\nTo:", "\nReply-To: alice@mail.example.org\nTo:", "+reply-to-present");
    check(
        "\nTo:",
        "\nReply-To: x@elsewhere.example\nTo:",
        "+reply-to-other +reply-to-present",
    );
    check(
        "\nTo:",
        "\nReply-To: x@gmail.com\nTo:",
        "+reply-to-other +reply-to-freemail +reply-to-present",
    );
}

#[test]
fn recipient_rules() {
    let to = "To: Bob Baker <bob@example.net>\n";
    check(to, "", "+missing-recipients");
    check(to, "Cc: bob@example.net\n", "");
    check(to, "To: undisclosed recipients:;\n", "+recipients-undisclosed");
    check(to, "To: everyone\n", "+to-without-address");
    check(to, "To: bob@example.net\n", "");
    check(to, "To: \"bob\" <bob@example.net>\n", "+to-name-is-local-part");
    check(to, "To: Alice A <alice@example.org>\n", "+to-is-from");
    check(to, "To: Club <lunch@example.net>\n", "+subject-names-recipient");
    let many: String = (0..9)
        .map(|number| format!("{number}x{number} <{number}x{number}@example.net>,"))
        .collect();
    check(to, &format!("To: {many}\n"), "+to-name-is-local-part +to-many");
    check(
        to,
        "To: B <bob@example.net>, C <bobby@example.net>\nCc: bobo@example.net\n",
        "+to-alike",
    );
}

#[test]
fn subject_rules() {
    let subject = "lunch on Friday?";
    check("Subject: lunch on Friday?\n", "", "+missing-subject -subject-asks");
    check(subject, "", "+missing-subject -subject-asks");
    check(subject, "LUNCH ON FRIDAY", "+subject-capitals -subject-asks");
    check(subject, "lunch ON Friday", "-subject-asks");
    check(subject, "LUNCH on FRIDAY?", "+subject-some-capitals");
    check(
        subject,
        "=?utf-8?B?TFVOQ0ggT04gRlJJREFZ?=",
        "+subject-capitals +subject-encoded -subject-asks",
    );
    check(subject, "lunch!", "+subject-exclaims -subject-asks");
    check(
        subject,
        "lunch!!",
        "+subject-exclaims +subject-exclaims-twice -subject-asks",
    );
    check(subject, "lunch for $10?", "+subject-money");
    check(subject, "$$$ lunch?", "+subject-dollars");
    check(subject, "lunch at 50%?", "+subject-percent");
    check(subject, "lunch?         8214xkq", "+subject-tail");
    check(subject, "l u n c h?", "+subject-gappy");
    check(subject, "lu2nch?", "+subject-mixed");
    check(subject, "lünch?", "+subject-raw");
    check(subject, "ADV: lunch on Friday?", "+subject-advertisement");
    check(subject, "ADVICE on lunch?", "");
    check(
        subject,
        "=?utf-8?B?5pyq5om/6Ku+5bqD5ZGK?=",
        "+subject-encoded +subject-advertisement -subject-asks",
    );
    check(
        subject,
        "=?iso-2022-jp?B?GyRCTCQ+NUJ6OS05cCIoGyhC?=",
        "+subject-encoded +subject-advertisement -subject-asks",
    );
    check(
        subject,
        "=?euc-kr?B?KLGksO0p?=",
        "+subject-encoded +subject-advertisement -subject-asks",
    );
    check(subject, "Re: lunch?", "+subject-false-reply");
    check(
        "Subject: lunch",
        "In-Reply-To: <2@example.net>\nSubject: Re: lunch",
        "+is-reply",
    );
    check(subject, "Fwd: lunch?", "+subject-forward");
    check(subject, "[list] Re: [list] lunch?", "+subject-false-reply");
    check(subject, "lunch? ...", "+subject-ellipsis");
}

#[test]
fn date_rules() {
    let date = "Fri, 6 Mar 2026 10:00:00 +0000";
    check("Date: Fri, 6 Mar 2026 10:00:00 +0000\n", "", "+missing-date");
    check(date, "today", "+date-broken");
    check(date, "Fri, 32 Mar 2026 10:00:00 +0000", "+date-broken");
    check(date, "Thu, 6 Mar 2026 10:00:00 +0000", "+date-weekday-wrong");
    check(date, "6 Mar 2026 10:00:00 +0000", "+date-weekday-missing");
    check(date, "Fri, 6 Mar 2026 10:00:00", "+date-zone-missing");
    check(date, "Fri, 6 Mar 2026 10:00:00 +1900", "+date-zone-odd");
    check(date, "Fri, 6 Mar 2026 10:00:00 -0530 (x)", "");
    check(date, "Fri, 06 Mar 26 10:00 GMT", "");
    check(date, "Thu, 29 Feb 2024 10:00:00 +0000", "");
}

#[test]
fn program_rules() {
    let id = "<1@example.org>";
    check(
        "Message-ID: <1@example.org>\n",
        "",
        "+missing-message-id -message-id-of-sender",
    );
    check(id, "1@example.org", "+bad-message-id -message-id-of-sender");
    check(id, "<@example.org>", "+bad-message-id -message-id-of-sender");
    check(id, "<1@alice>", "+message-id-bare-host -message-id-of-sender");
    check(id, "<000c01dc4a3e$7338a0a4$0a01a8c0@example.org>", "");
    check(id, "<000c84d37aae$7338a0a4$3ab55ec5@example.org>", "+message-id-false");
    let more = |fields: &str, expected: &str| check("\nTo:", &format!("\n{fields}\nTo:"), expected);
    more(
        "List-Unsubscribe: <https://mail.example.org/u>",
        "+unsubscribe-at-sender",
    );
    more("List-Unsubscribe: <mailto:leave@example.com>", "");
    more(
        "X-Mailer: Microsoft Outlook Express 6.00",
        "+mailer-false-outlook +mailer-without-mime",
    );
    more("X-Mailer: Microsoft Outlook Express Macintosh Edition - 4.5 (0410)", "");
    more("X-Mailer: Mozilla 4.7", "");
    more("X-Mailer: Advanced Mass Sender v.4", "+mailer-bulk");
    more("X-Mailer: QXZ 4711", "+mailer-odd");
    more("X-Priority: 1", "+priority-high +priority-stated");
    more("X-MSMail-Priority: Normal", "+priority-without-program");
    more("X-MSMail-Priority: Normal\nX-MimeOLE: Produced By Microsoft", "");
    more("Content-Type: text/plain", "+mime-version-missing");
    more("MIME-Version: 1.0\nContent-Type: text/plain", "");
}

#[test]
fn part_rules() {
    let body = "\n\nShall we";
    check(
        body,
        "\nMIME-Version: 1.0\nContent-Type: text/html\n\n<html>Shall we",
        "+html-only",
    );
    check(
        "\n\nShall we go at noon? There is a new place near the station, and they say that the\nsoup is good. I was there last week, but it was full, so let me know and I will\nask them for a table.\n\n-- \nAlice",
        "\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\naGVsbG8gdGhlcmUgcGhyYXNlIGlzIGhlcmUgYW5kIGhlcmUgYW5kIGhlcmUgYW5kIG9uIGl0",
        "+base64-text +body-short -body-signature -phrases-talk",
    );
    check(
        body,
        "\nMIME-Version: 1.0\nContent-Type: text/plain; charset=KOI8-R\n\nShall we",
        "+charset-foreign",
    );
    check(body, "\n\nS\u{e4}ll we", "+charset-undeclared");
    let foreign = |charset: &str| {
        format!(
            "\nMIME-Version: 1.0\nContent-Type: text/plain; charset={charset}\n\n{} Shall we",
            "шесть ".repeat(40)
        )
    };
    check(body, &foreign("windows-1251"), "+charset-foreign +text-eight-bit");
    check(body, &foreign("UTF-8"), "");
    check(
        body,
        "\nMIME-Version: 1.0\nContent-Type: text/plain; name=\"menu.PIF\"\n\nShall we",
        "+attachment-program",
    );
    check(body, "\n\n<html>Shall we", "+html-only +html-in-plain");
    check(
        body,
        "\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\nShall we",
        "+parts-broken",
    );
    let parts = "\nMIME-Version: 1.0\nContent-Type: multipart/alternative;\n boundary=\"----=_NextPart_1\"\n\n------=_NextPart_1\nContent-Type: text/html\n\n<html>";
    check(
        body,
        &format!("{parts}Shall we"),
        "+boundary-false +html-only +parts-without-plain",
    );
}

#[test]
fn markup_rules() {
    let with = |tags: &str, expected: &str| {
        let start = format!("\nMIME-Version: 1.0\nContent-Type: text/html\n\n<html>{tags} Shall we");
        check("\n\nShall we", &start, &format!("+html-only{expected}"));
    };
    with("<form>", " +html-form");
    with("<script>lottery</script>", " +html-script");
    with("<iframe>", " +html-script");
    with("<img width=1 height=1>", " +html-tracking");
    with(
        "<img src=\"http://example.org/x.gif\">",
        " +html-remote-image +link-one +link-to-sender -link-none",
    );
    with("<font color=\"#FFFFFF\">x</font>", " +html-hidden +html-colours");
    with("<p style='display: none'>x</p>", " +html-hidden");
    with("<font size=+3>", " +html-big-font");
    with("<font size=2>", "");
    with("<body bgcolor=red>", " +html-background");
    with("<center>", " +html-centred");
    with("<blargh>", " +html-unknown-tag");
    with("so<!-- x -->up so<!-- y -->up", " +html-comment-in-word");
    with("&#115;&#111;&#117;&#112;", " +html-entity-letters");
    with("<P><P><P>", " +html-shouting");
    with(&"<p></p>".repeat(200), " +html-markup");
    let link = |to: &str, text: &str| format!("<a href=\"{to}\">{text}</a>");
    let lies = " +html-link-lies +link-only-elsewhere -link-none";
    with(&link("http://evil.example/", "http://bank.test/"), lies);
    with(
        &link("http://www.bank.test/", "www.bank.test"),
        " +link-only-elsewhere -link-none",
    );
    with(
        &link("mailto:x@example.net?subject=remove", "x"),
        " +html-mailto-remove",
    );
}

#[test]
fn link_rules() {
    let with = |link: &str, expected: &str| {
        let sentence = "ask them for a table.";
        check(
            sentence,
            &format!("{sentence} {link}"),
            &format!("{expected} -link-none"),
        );
    };
    with("http://mail.example.org/x", "+link-one +link-to-sender");
    with("www.example.net/x", "+link-one +link-only-elsewhere");
    with(
        "http://203.0.113.7/x",
        "+link-numeric-host +link-one +link-only-elsewhere",
    );
    with(
        "http://3405803783/x",
        "+link-numeric-host +link-one +link-only-elsewhere",
    );
    with(
        "http://0xcb007107/x",
        "+link-numeric-host +link-one +link-only-elsewhere",
    );
    with("http://127.0.0.1/", "+link-one +link-only-elsewhere");
    with("http://x@example.org/", "+link-userinfo +link-one +link-to-sender");
    with(
        "http://%77%77.example.org/",
        "+link-percent-host +link-digits +link-one +link-to-sender",
    );
    with("http://example.org:8000/", "+link-port +link-one +link-to-sender");
    with("http://example.org:443/", "+link-one +link-to-sender");
    with(
        "http://example.biz/",
        "+link-odd-top-domain +link-one +link-only-elsewhere",
    );
    with(
        "http://example.org/?to=http://x/",
        "+link-redirect +link-one +link-to-sender",
    );
    with(
        "http://example.org/unsubscribe",
        "+link-removal +link-one +link-to-sender",
    );
    with(
        "http://example.com/unsubscribe",
        "+link-removal +link-removal-elsewhere +link-one +link-only-elsewhere",
    );
    with(
        "http://example.org/?bob@example.net",
        "+link-personal +link-one +link-to-sender",
    );
    check("ask them", "ftp://203.0.113.7/ ask them", "");
}

#[test]
fn text_rules() {
    let end = "ask them for a table.";
    let with = |text: &str, expected: &str| check(end, &format!("{end} {text}"), expected);
    with(&"ALL OF IT IN CAPITALS ".repeat(20), "+body-capitals");
    with("SOME OF IT IS IN CAPITALS", "+body-some-capitals");
    with("No! No! No!", "+body-exclaims");
    with("No!!!", "+body-exclaims +body-exclaims-twice");
    with("$1 and $2 and $3", "+body-money +body-sum");
    with("$1 and $2", "+body-sum");
    with("50%", "+body-percent");
    with("Call 1-800-555-0100", "+body-toll-free");
    with("Call (888) 555-0100", "");
    with("V i a g r a", "+body-gappy");
    with("Sa2le of wa2res with fre2sh", "+body-mixed");
    with("*****", "+body-stars");
    with("\n-----\n=====\n#####\n", "+body-rows");
    with(&format!("{}Good bye", "\n".repeat(12)), "+body-gap");
    with("\n> one\n> two\n", "+body-quotes");
    with("\nBob wrote:\n", "+body-attribution");
    with("\n{\n}\nx;\ny;\n", "+body-code");
    with("so. it goes", "+body-small-first");
    with("Really? Really?", "+body-asks");
    check(
        "\n-- \nAlice\n",
        "\n4139vOLW7-758DoDY1425\n",
        "+body-tail -body-signature",
    );
    check("\n\nShall", "\n\n\n\n\n\nShall", "+body-blank-first");
    with("Viagra", "+phrases-drugs");
    with("Copyright 2026", "+body-copyright +phrases-newsletter");
    with("(© 2026)", "+charset-undeclared +body-copyright");
    with("alice@www.example.org", "+body-names-sender");
    with("example.org", "+body-names-sender");
    with("Another-example.com", "");
    with("BOB@example.net", "+body-names-recipient");
    with("rob@example.net", "");
}

#[test]
fn phrases_are_met_through_encodings_and_markup() {
    let cases = [
        "A: b\n\nplease act now",
        "Content-Type: text/html\n\n<p>act<br>now</p>",
        "Content-Type: text/html\n\n<P>a<B>c</B>t&nbsp;<I>now</I>",
        "Content-Type: text/html\n\n<!-- x --><style>.x {}</style>a<!-- y -->ct &#110;ow",
        "Content-Type: text/html\n\na < b act now",
        "Content-Transfer-Encoding: quoted-printable\n\nact=20n=\now",
        "Content-Transfer-Encoding: base64\n\nYWN0I\nG5vdw==",
        "Content-Type: text\n\nact now",
        "Content-Type: multipart/mixed\n\nact now",
        "Content-Type: multipart/mixed; boundary=x\n\nact now\n--x--\n",
        "Content-Type: multipart/mixed; boundary=x\n\nx\n--x\n\nact now\n--x--\n",
        "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/alternative; boundary=\"y z\"\n\n--y z\nContent-Type: text/html\n\nact <b>now</b>\n--y z--\n",
    ];
    for message in cases {
        assert!(rules(message).contains(&"phrases-urgency"), "{message}");
    }
    let cases = [
        "Content-Type: application/octet-stream\n\nact now",
        "Content-Type: multipart/mixed; boundary=x\n\nact now\n--x\n\n--x--\nact now",
        "Content-Type: text/html\n\n<!-- act now --><style>act now</style><p act now>",
        "Content-Type: text/html\n\n<!-- act now",
    ];
    for message in cases {
        assert!(!rules(message).contains(&"phrases-urgency"), "{message}");
    }
}

#[test]
fn parts_and_depth_are_bounded() {
    let many = format!(
        "Content-Type: multipart/mixed; boundary=x\n\n{}--x\n\nact now",
        "--x\n\n\n".repeat(200)
    );
    assert!(!rules(&many).contains(&"phrases-urgency"));
    let deep = "--x\nContent-Type: multipart/mixed; boundary=x\n\n".repeat(50);
    rules(&format!("Content-Type: multipart/mixed; boundary=x\n\n{deep}act now"));
}

/// The points of a message with a configuration, in tenths.
fn points(config: &str, message: &str) -> i32 {
    let answer = scan(config, message);
    let points: f64 = value(&answer, "X-Spam-Score").parse().expect("a number");
    (points * 10.0).round() as i32
}

#[test]
fn weights_and_phrases_are_a_choice() {
    let plain = points(r#"{"always_score":true}"#, HAM);
    let own = r#"{"always_score":true,"phrases":{"new place":0.7,"The Soup":3,"no such thing":9}}"#;
    assert!((36..=38).contains(&(points(own, HAM) - plain)), "3.7, but for rounding");
    let own = scan(own, &HAM.replace("noon", "noon, new place, new place"));
    assert_eq!(value(&own, "X-Spam-Flag"), "NO", "each counts once: {own:?}");

    let dateless = HAM.replace("Date:", "X:");
    let with = |weight: f64| format!(r#"{{"always_score":true,"weights":{{"missing-date":{weight}}}}}"#);
    let difference = points(&with(2.5), &dateless) - points(&with(0.0), &dateless);
    assert!((24..=26).contains(&difference), "2.5, but for rounding: {difference}");
}

#[test]
fn the_same_phrase_counts_once_and_a_group_up_to_three_times() {
    let score = |phrases: &str| {
        let config = |points: f64| format!(r#"{{"always_score":true,"weights":{{"phrases-drugs":{points}}}}}"#);
        let message = HAM.replace("Shall we go", phrases);
        (points(&config(100.0), &message) - points(&config(0.0), &message) + 5) / 1000
    };
    assert_eq!(score("viagra"), 1);
    assert_eq!(score("viagra viagra"), 1);
    assert_eq!(score("viagra cialis"), 2);
    assert_eq!(score("viagra cialis herbal weight loss"), 3);
    assert_eq!(
        score(&format!("viagra cialis {}", "and so on ".repeat(150))),
        1,
        "long texts have some"
    );
}

#[test]
fn only_the_beginning_of_a_long_body_is_read() {
    let message = format!("{HAM}{}viagra", "- ".repeat(500));
    let config =
        |bytes: u32| format!(r#"{{"always_score":true,"body_bytes":{bytes},"weights":{{"phrases-drugs":100}}}}"#);
    let has_phrase = |bytes| points(&config(bytes), &message) > 500;
    assert!(!has_phrase(1000));
    assert!(has_phrase(2000));
    assert!(!has_phrase(0));
}

#[test]
fn any_bytes_are_taken() {
    let mut script = script("{}");
    let message = SPAM.replace('\n', "\r\n");
    for end in 0..message.len() {
        script.message_bytes(&message.as_bytes()[..end]).on_message();
    }
    script
        .message_bytes((0..=255).collect::<Vec<u8>>().repeat(20))
        .on_message();
    // Each byte behind each sign that means something.
    for kind in ["plain", "html"] {
        for encoding in ["7bit", "quoted-printable", "base64"] {
            let header = format!("Content-Type: text/{kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
            for sign in *b"!$:<&=#;1a@.?*-'\"" {
                for next in 0..=255 {
                    let body = [b'h', sign, next, sign, b'/', b'/', next, sign];
                    script.message_bytes([header.as_bytes(), &body].concat()).on_message();
                }
            }
        }
    }
}

#[test]
fn a_bad_configuration_names_the_key() {
    let cases = [
        (r#"{"tag":0}"#, "tag: must be above 0"),
        (r#"{"reject":-1}"#, "reject: must be above 0"),
        (
            r#"{"outbound":{"quarantine":0}}"#,
            "outbound.quarantine: must be above 0",
        ),
        (r#"{"outbound":{"tga":1}}"#, "outbound.tga: unknown field"),
        (r#"{"tag":"5"}"#, "tag: invalid type"),
        (r#"{"tag":1e9}"#, "tag: must be between"),
        (
            r#"{"weights":{"phrases-own":1}}"#,
            "weights.phrases-own: unknown variant `phrases-own`; did you mean `phrases-",
        ),
        (r#"{"phrases":{"":1}}"#, "phrases: `` must be"),
        (r#"{"phrases":{"für":1}}"#, "phrases: `für` must be"),
        (r#"{"body_bytes":1000000}"#, "body_bytes: 1000000 is more than 196608"),
        (r#"{"quarantaine":1}"#, "quarantaine: unknown field"),
        (
            r#"{"quarantine":8,"reject":8}"#,
            "quarantine: 8.0 is not below `reject`, which is 8.0, so nothing would be kept",
        ),
        (
            r#"{"reject":9,"outbound":{"quarantine":9.5}}"#,
            "outbound.quarantine: 9.5 is not below `reject`, which is 9.0",
        ),
    ];
    for (json, expected) in cases {
        let error = Script::<SpamScan>::new(json).expect_err(json);
        assert!(error.starts_with(expected), "{json}: {error}");
    }
    let misspelt = Script::<SpamScan>::new(r#"{"weights":{"missing-dat":1}}"#).expect_err("no rule");
    assert_eq!(
        misspelt,
        "weights.missing-dat: unknown variant `missing-dat`; did you mean `missing-date`?"
    );
}

#[test]
fn the_readme_names_every_rule() {
    let readme = include_str!("../README.md");
    for rule in rules::RULES.iter().filter(|rule| rule.name != "phrases-own") {
        let row = format!("| `{}` | {} |", rule.name, rule.what);
        assert!(readme.contains(&row), "the README lacks `{row}`");
    }
}
