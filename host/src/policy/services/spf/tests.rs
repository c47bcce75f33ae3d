//! Records and clients as a table, by the sections of RFC 7208. The name server is the test's own.

use super::record::is_record;
use super::*;
use crate::dns::testing;

const ZONE: &str = "
all.example TXT v=spf1 +all
fail.example TXT v=spf1 -all
soft.example TXT v=spf1 ~all
neutral.example TXT v=spf1 ?all
empty.example TXT v=spf1
none.example TXT something else
almost.example TXT v=spf10 +all
two.example TXT v=spf1 +all
two.example TXT V=SPF1 -all
beside.example TXT site-verification=1
beside.example TXT v=spf1 -all
ip.example TXT v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all
a.example TXT v=spf1 a -all
a.example A 192.0.2.7
a.example AAAA 2001:db8::7
net.example TXT v=spf1 a:a.example/28//64 -all
mx.example TXT v=spf1 mx -all
mx.example MX 10 none.example
mx.example MX 20 a.example
many.example TXT v=spf1 mx -all
many.example MX 1 a.example
many.example MX 2 b2.example
many.example MX 3 b3.example
many.example MX 4 b4.example
many.example MX 5 b5.example
many.example MX 6 b6.example
many.example MX 7 b7.example
many.example MX 8 b8.example
many.example MX 9 b9.example
many.example MX 10 b10.example
many.example MX 11 b11.example
ptr.example TXT v=spf1 ptr -all
7.2.0.192.in-addr.arpa PTR Mail.PTR.example
7.2.0.192.in-addr.arpa PTR a.example
mail.ptr.example A 192.0.2.7
exists.example TXT v=spf1 exists:%{ir}.%{l1r-}._spf.%{d} -all
7.2.0.192.alice._spf.exists.example A 127.0.0.2
local.example TXT v=spf1 exists:%{l}.ok.local.example -all
user+tag=x!y/z.ok.local.example A 127.0.0.2
xn--4ca0b.ok.local.example A 127.0.0.2
nibbles.example TXT v=spf1 exists:%{ir}.%{v}.%{d2} -all
7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.nibbles.example A 127.0.0.2
include.example TXT v=spf1 include:ip.example -all
includefail.example TXT v=spf1 include:fail.example ?all
includenone.example TXT v=spf1 include:none.example +all
includedown.example TXT v=spf1 include:servfail.example +all
redirect.example TXT v=spf1 redirect=ip.example
redirectnone.example TXT v=spf1 redirect=none.example
redirectall.example TXT v=spf1 ?all redirect=fail.example
loop.example TXT v=spf1 include:loop.example -all
ten.example TXT v=spf1 a:a1.example ip4:10.0.0.1 include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:all.example
eleven.example TXT v=spf1 include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:empty.example include:all.example
void.example TXT v=spf1 a:x.example a:y.example +all
voids.example TXT v=spf1 a:x.example mx:y.example exists:z.example +all
down.example TXT v=spf1 a:servfail.example +all
why.example TXT v=spf1 -all exp=%{d}.text.example
why.example.text.example TXT %{i} is not one of %{d}'s servers: ask %{r}, %{S}
whyinclude.example TXT v=spf1 include:why.example -all
whybad.example TXT v=spf1 -all exp=bad.text.example
bad.text.example TXT %{x}
";

async fn asked(dns: &Dns, address: &str, domain: &str) -> Found {
    let client = Client {
        address: address.parse().expect("an address"),
        helo: "helo.example",
        sender: &format!("alice@{domain}"),
        receiver: "relay.test",
    };
    check(dns, &client, domain).await
}

#[tokio::test]
async fn clients_are_judged_as_the_rfc_has_it() {
    use Outcome::{Fail, Neutral, None, Pass, PermError, SoftFail, TempError};
    let dns = testing::resolver(ZONE).await;
    let (v4, v6) = ("192.0.2.7", "2001:db8::7");
    for (domain, address, expected) in [
        // §4.3, §4.4, §4.5
        ("localhost", v4, None),
        ("a..example", v4, None),
        ("[192.0.2.7]", v4, None),
        ("absent.example", v4, None),
        ("none.example", v4, None),
        ("almost.example", v4, None),
        ("two.example", v4, PermError),
        ("beside.example", v4, Fail),
        ("servfail.example", v4, TempError),
        ("ALL.example.", v4, Pass),
        // §4.6.2, §4.7
        ("all.example", v4, Pass),
        ("fail.example", v4, Fail),
        ("soft.example", v4, SoftFail),
        ("neutral.example", v4, Neutral),
        ("empty.example", v4, Neutral),
        // §5.6
        ("ip.example", v4, Pass),
        ("ip.example", v6, Pass),
        ("ip.example", "192.0.3.7", Fail),
        ("ip.example", "2001:db9::7", Fail),
        // §5.3
        ("a.example", v4, Pass),
        ("a.example", v6, Pass),
        ("a.example", "192.0.2.8", Fail),
        ("net.example", "192.0.2.15", Pass),
        ("net.example", "192.0.2.16", Fail),
        ("net.example", "2001:db8::ffff", Pass),
        ("net.example", "2001:db8:0:1::7", Fail),
        // §5.4
        ("mx.example", v4, Pass),
        ("mx.example", "192.0.2.8", Fail),
        ("many.example", v4, PermError),
        // §5.5
        ("ptr.example", v4, Pass),
        ("ptr.example", "192.0.2.8", Fail),
        // §5.7, §7
        ("exists.example", v4, Pass),
        ("exists.example", "192.0.2.8", Fail),
        ("nibbles.example", v6, Pass),
        // §5.2
        ("include.example", v4, Pass),
        ("include.example", "10.0.0.1", Fail),
        ("includefail.example", v4, Neutral),
        ("includenone.example", v4, PermError),
        ("includedown.example", v4, TempError),
        // §6.1
        ("redirect.example", v4, Pass),
        ("redirect.example", "10.0.0.1", Fail),
        ("redirectnone.example", v4, PermError),
        ("redirectall.example", v4, Neutral),
        // §4.6.4
        ("loop.example", v4, PermError),
        ("ten.example", v4, Pass),
        ("eleven.example", v4, PermError),
        ("void.example", v4, Pass),
        ("voids.example", v4, PermError),
        ("down.example", v4, TempError),
    ] {
        assert_eq!(
            asked(&dns, address, domain).await.outcome,
            expected,
            "{domain} {address}"
        );
    }
}

/// §6.2
#[tokio::test]
async fn a_failure_is_explained_in_the_domains_own_words() {
    let dns = testing::resolver(ZONE).await;
    let text = "192.0.2.7 is not one of why.example's servers: ask relay.test, alice%40why.example";
    for (domain, expected) in [
        ("why.example", Some(text)),
        ("whyinclude.example", None),
        ("whybad.example", None),
        ("fail.example", None),
    ] {
        let found = asked(&dns, "192.0.2.7", domain).await;
        assert_eq!(
            (found.outcome, found.explanation.as_deref()),
            (Outcome::Fail, expected),
            "{domain}"
        );
    }
}

/// §12: what is a record, and what is none as a whole.
#[test]
fn records_are_right_as_a_whole() {
    for text in [
        "v=spf1",
        "v=spf1   a  ",
        "V=SPF1 A MX:a.example/24//64 -ALL",
        "v=spf1 a/0 a//0 mx//128 ip4:192.0.2.1/0 ip6:::1/0 ip6:::ffff:192.0.2.1",
        "v=spf1 ptr ptr:a.example exists:%{l1r+-/_,=}.%{D}.a.example include:%{d}",
        "v=spf1 a:a%%b%_c%-.example a:%{d2}/24 a:a.x-y. a:foo:bar/baz.example",
        "v=spf1 moo.cow-far_out=man:dog/cat exp=a.example redirect=%{d3r}",
    ] {
        assert!(
            is_record(text.as_bytes()) && Record::parse(text.as_bytes()).is_ok(),
            "{text}"
        );
    }
    for terms in [
        "foo",
        "foo:bar",
        "all:a.example",
        "all/8",
        "-",
        "a:",
        "a:/24",
        "a/",
        "a/33",
        "a/01",
        "a//129",
        "a/24/64",
        "a///64",
        "mx:a.example/",
        "include",
        "include:",
        "exists",
        "ptr:",
        "ptr/24",
        "ip4",
        "ip4:",
        "ip4:1.2.3",
        "ip4:1.2.3.4/33",
        "ip4:1.2.3.4/032",
        "ip4:1.2.3.4//32",
        "ip4:1.2.3.300",
        "ip4:::1",
        "ip6:1.2.3.4",
        "ip6:::1/129",
        "ip6:::1//3",
        "a:example",
        "a:a.123",
        "a:a.-b",
        "a:a.b-",
        "a:1.2.3.4",
        "a:a..",
        "a:a.example:8080",
        "a:%{d}.x.1",
        "a:%{q}",
        "a:%{d0}",
        "a:%{c}.example",
        "a:%{d",
        "a:%d",
        "a:a.example%",
        "a:%{da}",
        "redirect=",
        "redirect=a",
        "redirect=a.b redirect=a.b",
        "exp=a.b exp=a.b",
        "=a",
        "1a=b",
        "a_b=%",
        "x=%{x}",
        "a:\u{e9}.example",
        "\t",
        "a\u{7f}",
    ] {
        let text = format!("v=spf1 {terms}");
        assert!(Record::parse(text.as_bytes()).is_err(), "{text}");
    }
    for text in ["v=spf1a", "v=spf", "spf1 a", "", "v=spf1\ta"] {
        assert!(!is_record(text.as_bytes()), "{text}");
    }
    for text in [&b"v=spf1 \xff\xfe"[..], b"v=spf1 ip4:192.0.2.5\n a:a.example"] {
        assert!(Record::parse(text).is_err(), "{text:?}");
    }
}

/// §7.4
#[test]
fn macros_expand_as_in_the_rfcs_examples() {
    let value = |letter| {
        match letter {
            's' => "strong-bad@email.example.com",
            'o' | 'd' => "email.example.com",
            'l' => "strong-bad",
            'i' => "192.0.2.3",
            'v' => "in-addr",
            _ => "",
        }
        .to_owned()
    };
    for (text, expected) in [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l-}", "strong.bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{d99999999999}", "email.example.com"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{S}%%%_%-", "strong-bad%40email.example.com% %20"),
    ] {
        let parsed = MacroString::parse(text, false).expect("well-formed");
        assert_eq!(parsed.expand(value), expected, "{text}");
    }
}

/// What senders of bounces and lists put into local parts is in labels as it is; what is not ASCII is in none (RFC 8616 §4).
#[tokio::test]
async fn local_parts_become_labels() {
    let dns = testing::resolver(ZONE).await;
    for (local, expected) in [
        ("user+tag=x!y/z", Outcome::Pass),
        ("user", Outcome::Fail),
        ("\u{e4}\u{f6}", Outcome::Fail),
    ] {
        let client = Client {
            address: "192.0.2.7".parse().expect("an address"),
            helo: "ehlo.example",
            sender: &format!("{local}@local.example"),
            receiver: "relay.test",
        };
        let found = check(&dns, &client, "local.example").await;
        assert_eq!(found.outcome, expected, "{local}");
    }
}
