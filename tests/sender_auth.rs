//! Who a message is from, checked against a real name server, and signatures and seals that another program made: `sender-auth` in a running relay, as
//! tables. Says aloud what it skips when a program is missing; in CI nothing is.

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::dns::{Zone, serve};
use support::servers::{Nsd, run};
use support::sink::Sink;
use support::{Relay, Setup, peer, plugin};

const GRANTS: &str = "\"authentication\", \"read-message\", \"edit-message\"";

/// A relay that asks this name server, with `sender-auth` configured so.
fn relay(nsd: &Nsd, sink: &Sink, config: &str) -> Relay {
    Setup::new()
        .top(&format!("[dns]\nservers = [\"{}\"]", nsd.address()))
        .next_hop(&sink.next_hop())
        .plugin(
            "sender-auth",
            &plugin("sender-auth"),
            GRANTS,
            &format!("[plugin.config]\n{config}"),
        )
        .start()
}

/// The relay's own Authentication-Results of a message that it delivered, on one line.
fn results(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content).replace("\r\n\t", " ");
    let field = text
        .lines()
        .find_map(|line| line.strip_prefix("Authentication-Results: "));
    field.unwrap_or_else(|| panic!("no results in {text}")).to_owned()
}

/// What this method came to: `pass`.
fn result<'a>(results: &'a str, method: &str) -> &'a str {
    let parts = results.split("; ").filter_map(|part| part.split_once('='));
    let found = parts
        .filter(|(name, _)| *name == method)
        .map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
    found.last().unwrap_or_default()
}

fn letter(from: &str) -> String {
    format!("From: {from}\r\nTo: bob@ours.test\r\nSubject: hello\r\n\r\nHello,\r\n  there.")
}

/// RFC 7208: who sends, and what comes of it. The client is 127.0.0.1.
#[test]
fn spf_has_each_result_of_rfc_7208() {
    let nsd = serve(&[Zone::new("spf.test")
        .record("mail A 127.0.0.1\nmail AAAA ::1\nother A 192.0.2.1")
        .record("127.0.0.1.yes A 127.0.0.2")
        .record("@ MX 10 mail")
        .txt("@", "v=spf1 mx -all")
        .txt("ip4", "v=spf1 ip4:127.0.0.0/8 -all")
        .txt("a", "v=spf1 a:mail.spf.test -all")
        .txt("exists", "v=spf1 exists:%{i}.yes.spf.test -all")
        .txt("include", "v=spf1 include:ip4.spf.test -all")
        .txt("redirect", "v=spf1 redirect=ip4.spf.test")
        .txt(
            "long",
            &format!("v=spf1 {}ip4:127.0.0.1 -all", "ip4:192.0.2.1 ".repeat(30)),
        )
        .txt("case", "V=SPF1 IP4:127.0.0.1 -ALL")
        .txt("fail", "v=spf1 a:other.spf.test -all")
        .txt("notincluded", "v=spf1 include:fail.spf.test -all")
        .txt("soft", "v=spf1 ip4:192.0.2.1 ~all")
        .txt("neutral", "v=spf1 ?all")
        .txt("nomatch", "v=spf1 ip4:192.0.2.1")
        .txt("text", "no policy")
        .txt("almost", "v=spf10 -all")
        .txt("syntax", "v=spf1 ip4:127.0.0.300 -all")
        .txt("unknown", "v=spf1 foo:bar -all")
        .txt("two", "v=spf1 ip4:127.0.0.1 -all")
        .txt("two", "v=spf1 -all")
        .txt("badinclude", "v=spf1 include:text.spf.test -all")
        .txt("loop", "v=spf1 include:loop.spf.test -all")
        .txt("deep", &format!("v=spf1 {}-all", "a:other.spf.test ".repeat(11)))
        .txt("down", "v=spf1 a:mail.elsewhere.example -all")]);
    let Some(nsd) = nsd else { return };
    let sink = Sink::start();
    let relay = relay(&nsd, &sink, "");
    let mut client = relay.connect("mx");
    let table = [
        ("a@spf.test", "pass"),
        ("a@ip4.spf.test", "pass"),
        ("a@a.spf.test", "pass"),
        ("a@exists.spf.test", "pass"),
        ("a@include.spf.test", "pass"),
        ("a@redirect.spf.test", "pass"),
        ("a@long.spf.test", "pass"),
        ("a@case.spf.test", "pass"),
        ("a@CASE.spf.TEST", "pass"),
        ("a@fail.spf.test", "fail"),
        ("a@notincluded.spf.test", "fail"),
        ("a@soft.spf.test", "softfail"),
        ("a@neutral.spf.test", "neutral"),
        ("a@nomatch.spf.test", "neutral"),
        ("a@text.spf.test", "none"),
        ("a@almost.spf.test", "none"),
        ("a@absent.spf.test", "none"),
        ("a@syntax.spf.test", "permerror"),
        ("a@unknown.spf.test", "permerror"),
        ("a@two.spf.test", "permerror"),
        ("a@badinclude.spf.test", "permerror"),
        ("a@loop.spf.test", "permerror"),
        ("a@deep.spf.test", "permerror"),
        // The name server refuses to speak of it.
        ("a@elsewhere.example", "temperror"),
        // The null reverse-path: the EHLO name counts (RFC 7208 §2.4).
        ("", "pass"),
    ];
    client.says("EHLO ip4.spf.test", "250");
    for (number, (sender, expected)) in table.into_iter().enumerate() {
        let reply = client.send(sender, &["bob@ours.test"], &letter("alice@author.test"));
        assert!(reply.starts_with("250"), "{sender}: {reply}");
        let found = results(&sink.wait_for(number + 1)[number].content);
        assert_eq!(result(&found, "spf"), expected, "{sender}: {found}");
        let property = match sender {
            "" => "smtp.helo=ip4.spf.test".to_owned(),
            sender => format!("smtp.mailfrom={}", &sender[2..]),
        };
        assert!(found.contains(&property), "{found}");
    }
}

/// What the author's domain publishes, what the message has of SPF (all that is sent is `sent by a@MAIL`), and what becomes of it.
#[test]
fn dmarc_is_enforced_as_the_domain_asks() {
    let nsd = serve(&[
        Zone::new("strict.test")
            .txt("@", "v=spf1 ip4:127.0.0.1 -all")
            .txt("news", "v=spf1 ip4:127.0.0.1 -all")
            .txt("_dmarc", "v=DMARC1; p=reject; aspf=s"),
        Zone::new("relaxed.test")
            .txt("@", "v=spf1 -all")
            .txt("bounce", "v=spf1 ip4:127.0.0.1 -all")
            .record("mail A 127.0.0.1\nbox A 127.0.0.1")
            .txt("_dmarc", "v=DMARC1; p=reject; sp=quarantine; np=reject"),
        Zone::new("none.test").txt("_dmarc", "v=DMARC1; p=none; rua=mailto:a@none.test"),
        Zone::new("testing.test").txt("_dmarc", "v=DMARC1; p=reject; t=y"),
        Zone::new("rarely.test").txt("_dmarc", "v=DMARC1; p=reject; pct=0"),
        Zone::new("never.test").txt("_dmarc", "v=DMARC1; p=quarantine; pct=0"),
        Zone::new("local.test").txt("_dmarc", "v=DMARC1; p=reject"),
        Zone::new("ignored.test").txt("_dmarc", "v=DMARC1; p=reject"),
        Zone::new("without.test").txt("@", "v=spf1 -all"),
        Zone::new("mailer.test").txt("@", "v=spf1 ip4:127.0.0.1 -all"),
    ]);
    let Some(nsd) = nsd else { return };
    let sink = Sink::start();
    let config = "dmarc = \"enforce\"\ntemporary_errors = \"defer\"\n[plugin.config.domains]\n\"local.test\" = \"tag\"\n\"ignored.test\" = \"ignore\"";
    let relay = relay(&nsd, &sink, config);
    let mut client = relay.connect("mx");
    client.ehlo();
    let (taken, held) = ("250", "held");
    let refused = "550 5.7.1 Message refused: ";
    let table = [
        ("a@strict.test", "boss@strict.test", taken, "pass"),
        ("a@news.strict.test", "boss@strict.test", refused, ""),
        ("a@mailer.test", "boss@strict.test", refused, ""),
        ("a@mailer.test", "boss@STRICT.test", refused, ""),
        (
            "a@mailer.test",
            "\"x\" <boss@strict.test>, <other@strict.test>",
            refused,
            "",
        ),
        ("a@mailer.test", "boss@strict.test, other@mailer.test", refused, ""),
        ("a@mailer.test", "nobody", refused, ""),
        ("a@mailer.test", "boss@strict.test.", refused, ""),
        ("a@mailer.test", "boss@-x.strict.test", refused, ""),
        ("a@mailer.test", "boss@[127.0.0.1]", refused, ""),
        ("a@mailer.test", "<boss@strict.test> <a@mailer.test>", refused, ""),
        ("a@mailer.test", "boss@strict.test\u{1}@mailer.test", refused, ""),
        ("a@bounce.relaxed.test", "boss@relaxed.test", taken, "pass"),
        ("a@relaxed.test", "boss@relaxed.test", refused, ""),
        ("a@mailer.test", "boss@box.relaxed.test", held, "fail"),
        ("a@mailer.test", "boss@nowhere.relaxed.test", refused, ""),
        ("a@mailer.test", "boss@none.test", taken, "fail"),
        ("a@mailer.test", "boss@testing.test", held, "fail"),
        ("a@mailer.test", "boss@rarely.test", held, "fail"),
        ("a@mailer.test", "boss@never.test", taken, "fail"),
        ("a@mailer.test", "boss@local.test", taken, "fail"),
        ("a@mailer.test", "boss@ignored.test", taken, "fail"),
        ("a@without.test", "boss@without.test", taken, "none"),
        (
            "a@mailer.test",
            "boss@elsewhere.example",
            "451 4.7.1 DMARC of elsewhere.example",
            "",
        ),
    ];
    let mut delivered = 0;
    for (sender, from, expected, dmarc) in table {
        let reply = client.send(sender, &["bob@ours.test"], &letter(from));
        let wanted = if expected == held { taken } else { expected };
        assert!(reply.starts_with(wanted), "{sender}, {from}: {reply}");
        let is_held = reply.starts_with(taken) && {
            let id = reply.rsplit(' ').next().expect("its id");
            relay
                .command(&["queue", "list"])
                .lines()
                .any(|line| line.contains(id) && line.contains("held"))
        };
        assert_eq!(is_held, expected == held, "{sender}, {from}: {reply}");
        if expected == taken {
            delivered += 1;
            let found = results(&sink.wait_for(delivered)[delivered - 1].content);
            assert_eq!(result(&found, "dmarc"), dmarc, "{sender}, {from}: {found}");
        }
    }
    relay.logged(&["dmarc-fail", "sender-auth", "strict.test asks to reject"]);
    // What the relay passes on has no From: its header ends where a line is no field.
    let hidden = format!("X\u{b}Y: 1\r\n{}", letter("boss@strict.test"));
    let reply = client.send("a@strict.test", &["bob@ours.test"], &hidden);
    assert!(reply.starts_with("550") && reply.contains("author-unclear"), "{reply}");
}

/// A key that `dknewkey` made: its file, and the record.
fn key(folder: &Path, kind: &str, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    run(Command::new("dknewkey").arg(&path).args(["--ktype", kind]));
    let record = std::fs::read_to_string(path.with_extension("dns")).expect("its record");
    (path.with_extension("key"), record)
}

/// What a program of python3-dkim makes of a message.
fn through(program: &str, arguments: &[&str], message: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(message.as_bytes())
        .expect("the message");
    let output = child.wait_with_output().expect("its end");
    let text = String::from_utf8(output.stdout).expect("ASCII");
    assert!(
        output.status.success() && text.len() > message.len(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn what_others_signed_and_sealed_verifies() {
    if !peer("dkimverify") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for keys");
    let (rsa, rsa_record) = key(folder.path(), "rsa", "rsa");
    let (ed25519, ed25519_record) = key(folder.path(), "ed25519", "ed25519");
    let (list, list_record) = key(folder.path(), "rsa", "list");
    let (forwarder, forwarder_record) = key(folder.path(), "rsa", "forwarder");
    let nsd = serve(&[
        Zone::new("author.test")
            .txt("r._domainkey", &rsa_record)
            .txt("e._domainkey", &ed25519_record)
            .txt("_dmarc", "v=DMARC1; p=reject"),
        Zone::new("list.test").txt("s._domainkey", &list_record),
        Zone::new("forwarder.test").txt("s._domainkey", &forwarder_record),
    ]);
    let Some(nsd) = nsd else { return };
    let path = |path: &Path| path.display().to_string();
    let letter = letter("alice@author.test") + "\r\n";
    let signed = through("dkimsign", &["r", "author.test", &path(&rsa)], &letter);
    let signed_twice = through(
        "dkimsign",
        &["e", "author.test", &path(&ed25519), "--signalg", "ed25519-sha256"],
        &signed,
    );

    let blank = through(
        "dkimsign",
        &["r", "author.test", &path(&rsa), "--bcanon", "relaxed"],
        &format!("{letter}blanks  \t \r\n \t\r\n\r\n \r\n"),
    );

    // Two hops: a list that changes the message, and says that it was right; a forwarder that found the list's seal in order.
    let changed = format!("Authentication-Results: list.test; dmarc=pass header.from=author.test\r\n{signed}")
        .replace("Subject: hello", "Subject: [list] hello");
    let once = through("arcsign", &["s", "list.test", &path(&list), "list.test"], &changed);
    let again = format!("Authentication-Results: forwarder.test; dmarc=fail; arc=pass\r\n{once}");
    let twice = through(
        "arcsign",
        &["s", "forwarder.test", &path(&forwarder), "forwarder.test"],
        &again,
    );
    let instances = |message: &str| message.matches("ARC-Seal:").count();
    assert_eq!((instances(&once), instances(&twice)), (1, 2), "{twice}");

    let sink = Sink::start();
    let strict = relay(&nsd, &sink, "dmarc = \"enforce\"");
    let trusting = relay(
        &nsd,
        &sink,
        "dmarc = \"enforce\"\narc_sealers = [\"list.test\", \"forwarder.test\"]",
    );
    let half = relay(&nsd, &sink, "dmarc = \"enforce\"\narc_sealers = [\"list.test\"]");
    let refused = "550 5.7.1 Message refused: author.test asks to reject";
    let table: [(&str, &Relay, String, &str, &[&str]); 11] = [
        (
            "RSA",
            &strict,
            signed.clone(),
            "250",
            &["dkim=pass (selector r)", "dmarc=pass", "arc=none"],
        ),
        (
            "RSA and Ed25519",
            &strict,
            signed_twice.clone(),
            "250",
            &["dkim=pass (selector r)", "dkim=pass (selector e)", "dmarc=pass"],
        ),
        (
            "Ed25519 alone",
            &strict,
            signed_twice.replacen("s=r;", "s=gone;", 1),
            "250",
            &["dkim=pass (selector e)", "dkim=permerror (selector gone", "dmarc=pass"],
        ),
        (
            "blanks at the end",
            &strict,
            blank,
            "250",
            &["dkim=pass (selector r)", "dmarc=pass"],
        ),
        ("changed", &strict, signed.replace("there.", "here."), refused, &[]),
        ("unsigned", &strict, letter.clone(), refused, &[]),
        ("a list that nobody trusts", &strict, once.clone(), refused, &[]),
        (
            "a list",
            &trusting,
            once.clone(),
            "250",
            &["arc=pass (list.test)", "dmarc=fail"],
        ),
        (
            "two hops",
            &trusting,
            twice.clone(),
            "250",
            &["arc=pass (forwarder.test)", "dmarc=fail"],
        ),
        ("two hops, one of them trusted", &half, twice.clone(), refused, &[]),
        (
            "two hops, changed behind them",
            &trusting,
            twice.replace("there.", "here."),
            refused,
            &[],
        ),
    ];
    let mut delivered = 0;
    for (what, relay, message, expected, parts) in table {
        let mut client = relay.connect("mx");
        client.ehlo();
        let content = message.strip_suffix("\r\n").expect("it ends a line");
        let reply = client.send("a@author.test", &["bob@ours.test"], content);
        assert!(reply.starts_with(expected), "{what}: {reply}");
        if expected == "250" {
            delivered += 1;
            let found = results(&sink.wait_for(delivered)[delivered - 1].content);
            for part in parts {
                assert!(found.contains(part), "{what}: {part} is not in {found}");
            }
        }
    }
}

#[test]
fn nobody_speaks_in_our_name() {
    let Some(nsd) = serve(&[Zone::new("author.test").txt("@", "v=spf1 -all")]) else {
        return;
    };
    let sink = Sink::start();
    let relay = relay(&nsd, &sink, "");
    let mut client = relay.connect("mx");
    client.ehlo();
    let forged = [
        "Authentication-Results: relay.test; dmarc=pass",
        "AUTHENTICATION-results : RELAY.Test.; dmarc=pass",
        "Authentication-Results:\r\n (relay) (\r\n nested (deep)\\) )\r\n\t\"relay.test\" (x) 1;\r\n dmarc=pass",
        "Authentication-Results: \"rel\\ay.test\"; dmarc=pass",
        "Authentication-Results: (no end relay.test; dmarc=pass",
    ];
    let other = "Authentication-Results: mx.elsewhere.example; dmarc=pass (relay.test)";
    let content = format!("{}\r\n{other}\r\n{}", forged.join("\r\n"), letter("alice@author.test"));
    assert!(
        client
            .send("a@author.test", &["bob@ours.test"], &content)
            .starts_with("250")
    );
    sink.wait_for(1);
    // Where the header breaks off, some read on.
    let broken = format!("From: alice@author.test\r\nno field\r\n{}\r\n\r\nbody", forged[0]);
    assert!(
        client
            .send("a@author.test", &["bob@ours.test"], &broken)
            .starts_with("250")
    );
    let long = format!("X-Long: {}\r\n{}\r\n\r\nbody", "x\r\n ".repeat(80_000), forged[0]);
    let reply = client.send("a@author.test", &["bob@ours.test"], &long);
    assert!(reply.starts_with("550 5.6.0"), "{reply}");

    let received = sink.wait_for(2);
    let text = String::from_utf8_lossy(received[0].below_trace()).into_owned();
    let (ours, rest) = text.split_once("arc=none\r\n").expect("our field ends so");
    assert!(
        ours.starts_with("Authentication-Results: relay.test;\r\n\tspf=fail"),
        "{text}"
    );
    assert_eq!(rest, format!("{other}\r\n{}\r\n", letter("alice@author.test")));
    let text = String::from_utf8_lossy(received[1].below_trace()).into_owned();
    let (header, body) = text.split_once("\r\n\r\n").expect("the header ends");
    assert!(
        header.starts_with("From: alice@author.test\r\nAuthentication-Results: relay.test;"),
        "{text}"
    );
    assert_eq!(body, format!("no field\r\n{}\r\n\r\nbody\r\n", forged[0]));
}
