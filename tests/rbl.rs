//! `rbl` and `rbl-links` before real name servers: one that answers, one that waits, one that is gone, and ones that talk nonsense.

mod support;

use support::client::Client;
use support::names::{Names, Said};
use support::servers::Nsd;
use support::{Relay, Setup, free_address, plugin, until};

const LISTS: &str = r#"
[plugin.config]
threshold = 3
lists = [
    { zone = "bl.test", codes = { "127.0.0.2" = { weight = 3, reason = "spam source" }, "127.0.0.10-11" = { weight = 1, reason = "dynamic" } } },
    { zone = "wl.test", weight = 0, codes = { "127.0.*.2-3" = { weight = -2 } } },
]
domain_lists = [
    { zone = "dbl.test", weight = 0, codes = { "127.0.1.&2" = { weight = 3, reason = "spam domain" }, "127.0.1.&4" = { weight = 2 } } },
]
"#;

const LINKS: &str = r#"
[plugin.config]
lists = [{ zone = "dbl.test", codes = { "127.0.1.&8" = { weight = 1, reason = "phish" }, "127.0.1.*" = { weight = 0 } } }]
"#;

/// A relay that both policies guard, whose clients come from where the PROXY header says, and whose metrics are on `admin`.
fn relay(servers: std::net::SocketAddr, top: &str, lists: &str, links: &str) -> Relay {
    Setup::new()
        .top(&format!("[dns]\nservers = [\"{servers}\"]\n{top}"))
        .listener("mx", "tls = \"none\"\nproxy_from = [\"127.0.0.1/32\"]")
        .plugin("rbl", &plugin("rbl"), "\"dns\"", lists)
        .plugin("rbl-links", &plugin("rbl-links"), "\"dns\", \"read-message\"", links)
        .start()
}

/// A session of the client at this address that said EHLO.
fn session(relay: &Relay, address: &str, port: u16, ehlo: &str) -> Client {
    let mut client = Client::connect(relay.address("mx"));
    let (family, relay_address) = match address.contains(':') {
        true => ("TCP6", "2001:db8::ffff"),
        false => ("TCP4", "192.0.2.200"),
    };
    client.raw(format!("PROXY {family} {address} {relay_address} {port} 25\r\n"));
    client.expect("220");
    client.says(&format!("EHLO {ehlo}"), "250");
    client
}

const HEAD: &str = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n";

#[test]
fn lists_that_answer_decide() {
    let bl = format!(
        "{HEAD}2.0.0.127 A 127.0.0.2\n1.2.0.192 A 127.0.0.2\n2.2.0.192 A 127.0.0.11\n3.2.0.192 A 127.0.0.2\n\
         1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 A 127.0.0.2\n"
    );
    let wl = format!("{HEAD}3.2.0.192 A 127.0.5.3\n2.0.0.127 A 127.0.0.2\n");
    let dbl = format!(
        "{HEAD}spam.test A 127.0.1.2\ngrey.test A 127.0.1.4\nphish.test A 127.0.1.8\nspam.co.uk A 127.0.1.6\ntest A 127.0.1.2\n"
    );
    let Some(nsd) = Nsd::start(&[("bl.test", &bl), ("wl.test", &wl), ("dbl.test", &dbl)]) else {
        return;
    };
    let relay = relay(nsd.address(), "", LISTS, LINKS);
    let (good, me) = ("mail.good.test", "me@good.test");
    // The client's address, its EHLO name, the sender, a link, and the reply that tells: of RCPT, or of the message.
    let cases = [
        ("192.0.2.9", good, me, "good.test", "250 2.0.0"),
        (
            "192.0.2.1",
            good,
            me,
            "good.test",
            "550 5.7.1 Client host [192.0.2.1] blocked using bl.test (spam source) [",
        ),
        (
            "2001:db8::1",
            good,
            me,
            "good.test",
            "550 5.7.1 Client host [2001:db8::1] blocked using bl.test (spam source) [",
        ),
        ("192.0.2.2", good, me, "good.test", "250 2.0.0"),
        ("192.0.2.3", good, me, "good.test", "250 2.0.0"),
        (
            "192.0.2.9",
            "x.y.Spam.test",
            me,
            "good.test",
            "550 5.7.1 EHLO name [spam.test] blocked using dbl.test (spam domain) [",
        ),
        (
            "192.0.2.9",
            good,
            "me@news.spam.co.uk",
            "good.test",
            "550 5.7.1 Sender domain [spam.co.uk] blocked using dbl.test (spam domain) [",
        ),
        ("192.0.2.9", good, "me@grey.test", "good.test", "250 2.0.0"),
        (
            "192.0.2.2",
            good,
            "me@grey.test",
            "good.test",
            "550 5.7.1 Client host [192.0.2.2] blocked using bl.test (dynamic); Sender domain [grey.test] blocked using dbl.test [",
        ),
        (
            "192.0.2.9",
            good,
            me,
            "www.phish.test",
            "550 5.7.1 Message refused: Link to [phish.test] blocked using dbl.test (phish) [",
        ),
        ("192.0.2.9", good, me, "spam.test", "250 2.0.0"),
    ];
    for (address, ehlo, sender, link, expected) in cases {
        let mut client = session(&relay, address, 1024, ehlo);
        client.says(&format!("MAIL FROM:<{sender}>"), "250");
        client.line("RCPT TO:<u@ours.test>");
        let mut reply = client.reply();
        if reply.starts_with("250") {
            client.says("DATA", "354");
            client.line(&format!("Subject: x\r\n\r\nhttp://{link}/\r\n."));
            reply = client.reply();
        }
        assert!(reply.starts_with(expected), "{address} {ehlo} {sender} {link}: {reply}");
    }
    relay.logged(&[
        "refused",
        "\"plugin\":\"rbl\"",
        "\"reason\":\"listed\"",
        "192.0.2.2 is on bl.test (127.0.0.11 dynamic, weight 1); grey.test is on dbl.test (127.0.1.4, weight 2): score 3, threshold 3",
    ]);
    relay.logged(&[
        "refused",
        "\"plugin\":\"rbl-links\"",
        "\"reason\":\"listed-link\"",
        "phish.test is on dbl.test (127.0.1.8 phish, weight 1): score 1, threshold 1",
    ]);

    // Who is refused may still ask why, in a second transaction too, and the refusal stays.
    let mut client = session(&relay, "192.0.2.1", 1024, good);
    for _ in 0..2 {
        client.says("MAIL FROM:<me@good.test>", "250");
        client.says("RCPT TO:<u@ours.test>", "550 5.7.1 Client host [192.0.2.1]");
        client.says("RCPT TO:<postmaster@ours.test>", "250");
        client.says("RSET", "250");
    }
}

/// Every zone but that of a test's list of the good is out of order in its own way.
fn out_of_order(name: &str) -> Said {
    match name.rsplit('.').nth(1) {
        Some("everything") => Said::Addresses(&[[127, 0, 0, 2]]),
        Some("unserved") => Said::Addresses(&[[127, 255, 255, 254]]),
        Some("parked") => Said::Addresses(&[[203, 0, 113, 7]]),
        Some("failing") => Said::Fails,
        Some("nonsense") => Said::Nonsense,
        _ => Said::NoName,
    }
}

#[test]
fn lists_that_are_out_of_order_refuse_nobody_and_are_told() {
    let names = Names::start(out_of_order);
    let admin = free_address();
    let zones = ["everything", "unserved", "parked", "failing", "nonsense", "dead"]
        .map(|zone| format!("{{ zone = \"{zone}.test\" }}"));
    let lists = format!(
        "[plugin.config]\nlists = [{0}]\ndomain_lists = [{{ zone = \"all.everything.test\" }}]",
        zones.join(", ")
    );
    let links = format!("[plugin.config]\nlists = [{}]", zones.join(", "))
        .replace("[plugin.config]", "[plugin.config]\nhosts = 2");
    let top = format!("timeout = \"300ms\"\nattempts = 1\n[admin]\naddress = \"{admin}\"");
    let relay = relay(names.address, &top, &lists, &links);
    // With the port of one session in 64, which looks for dead lists as well.
    let mut client = session(&relay, "192.0.2.1", 1025, "mail.sender.test");
    let reply = client.send(
        "me@sender.test",
        &["u@ours.test"],
        "Subject: x\r\n\r\nhttp://link.test/",
    );
    assert!(reply.starts_with("250 2.0.0"), "{reply}");

    let told = [
        "everything.test lists 127.0.0.1, which no list has",
        "all.everything.test lists invalid, which no list has",
        "unserved.test answered 127.255.255.254, which is no listing: it is ignored (it does not serve public resolvers",
        "failing.test did not answer",
        "nonsense.test did not answer",
        // Its answers never reach a policy, but its test point is not on it.
        "parked.test does not list its test point",
        "dead.test does not list its test point",
        "unserved.test does not list its test point",
    ];
    for text in told {
        relay.logged(&["\"warn\"", "\"plugin\":\"rbl\"", text]);
    }
    relay.logged(&[
        "\"warn\"",
        "\"plugin\":\"rbl-links\"",
        "everything.test lists invalid, which no list has",
    ]);
    for counter in ["list_broken", "list_refused", "list_failed", "list_dead"] {
        // The page is brought up to date once in a while.
        until(&format!("{counter} is counted"), || {
            let counted = format!("gatepost_plugin_counter_total{{plugin=\"rbl\",name=\"{counter}\"}} ");
            relay.page(admin, "/metrics").contains(&counted)
        });
    }
}

#[test]
fn a_name_server_that_is_slow_holds_up_those_who_need_it() {
    let names = Names::waiting(|name| match name {
        "1.2.0.192.bl.test" => Said::Addresses(&[[127, 0, 0, 2]]),
        _ => Said::NoName,
    });
    let relay = relay(names.address, "", LISTS, "");
    let mut clients = ["192.0.2.1", "192.0.2.9"].map(|address| session(&relay, address, 1024, "mail.good.test"));
    for client in &mut clients {
        client.says("MAIL FROM:<me@good.test>", "250");
        // Nothing is looked up for this one.
        client.says("RCPT TO:<postmaster@ours.test>", "250");
        client.line("RCPT TO:<u@ours.test>");
    }
    // All of it in one batch, while nothing is answered; the EHLO name and the sender have one domain.
    let batch = [
        "1.2.0.192.bl.test",
        "1.2.0.192.wl.test",
        "9.2.0.192.bl.test",
        "9.2.0.192.wl.test",
        "good.test.dbl.test",
    ];
    until("everything is asked for at once", || {
        names.questions().iter().eq(batch.iter())
    });
    names.release();
    let [listed, unlisted] = &mut clients;
    listed.expect("550 5.7.1 Client host [192.0.2.1] blocked using bl.test (spam source)");
    unlisted.expect("250");
    // What no list has is asked of the one that spoke against somebody.
    let with_test: Vec<&str> = ["1.0.0.127.bl.test"].into_iter().chain(batch).collect();
    assert!(names.questions().iter().eq(with_test.iter()), "{:?}", names.questions());
}

#[test]
fn without_a_name_server_mail_passes_and_without_lists_none_is_asked() {
    let top = "timeout = \"300ms\"\nattempts = 1\n";
    let relay_without = relay(free_address(), top, LISTS, LINKS);
    let mut client = session(&relay_without, "192.0.2.1", 1024, "mail.spam.test");
    let reply = client.send("me@spam.test", &["u@ours.test"], "Subject: x\r\n\r\nhttp://phish.test/");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    for (name, zone) in [("rbl", "bl.test"), ("rbl", "dbl.test"), ("rbl-links", "dbl.test")] {
        relay_without.logged(&[
            "\"warn\"",
            &format!("\"plugin\":\"{name}\""),
            &format!("{zone} did not answer"),
        ]);
    }

    let names = Names::start(|_| Said::Addresses(&[[127, 0, 0, 2]]));
    let unconfigured = relay(names.address, "", "", "");
    let mut client = session(&unconfigured, "192.0.2.1", 1025, "mail.spam.test");
    let reply = client.send("me@spam.test", &["u@ours.test"], "Subject: x\r\n\r\nhttp://phish.test/");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    assert_eq!(names.asked(), 0, "{:?}", names.questions());
}
