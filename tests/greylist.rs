//! `greylist` in a relay: who comes again passes, the memory outlives the relay, and SPF and trust spare the wait. With a delay of nothing, whoever comes twice
//! has waited long enough.

mod support;

use support::client::Client;
use support::servers::{Nsd, Postfix};
use support::sink::Sink;
use support::{Relay, Setup, plugin, until};

const GREYLISTED: &str = "451 4.7.1 Greylisted: try again in 1 s [";

fn setup(config: &str) -> Setup {
    let config = format!("[plugin.config]\ndelay_s = 0\n{config}");
    Setup::new().plugin(
        "greylist",
        &plugin("greylist"),
        "\"state\", \"authentication\"",
        &config,
    )
}

/// A session that gets this far with this sender, and this answer to RCPT.
fn rcpt(relay: &Relay, sender: &str, reply: &str) {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says(&format!("MAIL FROM:<{sender}>"), "250");
    client.says("RCPT TO:<u@ours.test>", reply);
}

#[test]
fn who_comes_again_passes_and_is_known_after_a_restart() {
    let sink = Sink::start();
    let mut relay = setup("").next_hop(&sink.next_hop()).start();
    rcpt(&relay, "me@elsewhere.test", GREYLISTED);
    relay.logged(&[
        "refused",
        "\"plugin\":\"greylist\"",
        "\"reason\":\"greylisted\"",
        "<me@elsewhere.test> to <u@ours.test> from 127.0.0.0/24: first seen 0 s ago",
    ]);
    let mut client = relay.connect("mx");
    client.ehlo();
    let reply = client.send("me@elsewhere.test", &["u@ours.test"], "Subject: again\r\n\r\nbody");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    sink.wait_for(1);
    rcpt(&relay, "you@elsewhere.test", GREYLISTED);
    assert!(relay.terminate().success());
    relay.restart();
    // One passed before, one waited, and one is new.
    rcpt(&relay, "me@elsewhere.test", "250");
    rcpt(&relay, "you@elsewhere.test", "250");
    rcpt(&relay, "new@elsewhere.test", GREYLISTED);
}

#[test]
fn a_network_that_came_again_waits_no_more_and_trusted_ones_never_did() {
    let relay = setup("network_successes = 1").start();
    rcpt(&relay, "me@elsewhere.test", GREYLISTED);
    rcpt(&relay, "you@elsewhere.test", GREYLISTED);
    rcpt(&relay, "me@elsewhere.test", "250");
    rcpt(&relay, "new@elsewhere.test", "250");
    let trusting = setup("").top("trusted_networks = [\"127.0.0.0/8\"]").start();
    rcpt(&trusting, "me@elsewhere.test", "250");
}

#[test]
fn spf_of_a_real_name_server_spares_the_wait() {
    let head = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n";
    let zone = format!("{head}here TXT \"v=spf1 ip4:127.0.0.1 -all\"\nthere TXT \"v=spf1 ip4:192.0.2.1 -all\"\n");
    let Some(nsd) = Nsd::start(&[("spf.test", &zone)]) else {
        return;
    };
    let dns = format!("[dns]\nservers = [\"{}\"]", nsd.address());
    let relay = setup("exempt_spf_pass = true").top(&dns).start();
    rcpt(&relay, "me@here.spf.test", "250");
    rcpt(&relay, "me@there.spf.test", GREYLISTED);
    rcpt(&relay, "me@none.spf.test", GREYLISTED);
}

#[test]
fn a_postfix_comes_again_and_its_mail_arrives() {
    let sink = Sink::start();
    let relay = setup("").next_hop(&sink.next_hop()).start();
    let relayhost = format!("127.0.0.1:{}", relay.address("mx").port());
    let Some(postfix) = Postfix::start(&["--relayhost", &relayhost, "--tls", "none"]) else {
        return;
    };
    let send = |subject: &str| {
        let mut sender = Client::connect(postfix.address());
        sender.expect("220");
        sender.ehlo();
        let reply = sender.send(
            "me@elsewhere.test",
            &["u@ours.test"],
            &format!("Subject: {subject}\r\n\r\nbody"),
        );
        assert!(reply.starts_with("250"), "{reply}");
    };
    send("first");
    until("Postfix is asked to come again", || {
        let log = postfix.log();
        log.contains("status=deferred") && log.contains("said: 451 4.7.1 Greylisted: try again in 1 s")
    });
    assert_eq!(sink.count(), 0);
    postfix.flush();
    sink.wait_for(1);
    // From then on nothing waits.
    send("second");
    sink.wait_for(2);
    assert_eq!(postfix.log().matches("status=deferred").count(), 1, "{}", postfix.log());
}
