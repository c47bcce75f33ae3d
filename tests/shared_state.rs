//! Two relays and one state server: what they count together, and what becomes of mail while the server is gone.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::thread;

use nix::sys::signal::Signal;
use support::redis::Redis;
use support::{Relay, Setup, plugin};

/// Messages that an address may send, and none comes in while a test runs.
const LIMIT: usize = 60;
/// Clients of each relay at a time.
const CLIENTS: usize = 6;

/// A relay whose limits are in this server.
fn relay(redis: &Redis, when_state_is_gone: &str, top: &str) -> Relay {
    relay_at(&redis.url(), when_state_is_gone, top)
}

fn relay_at(url: &str, when_state_is_gone: &str, top: &str) -> Relay {
    let limit = format!("count = \"messages\", per = \"address\", rate = {LIMIT}, per_seconds = 86_400_000");
    let config = format!("[plugin.config]\nwhen_state_is_gone = \"{when_state_is_gone}\"\nlimits = [{{ {limit} }}]\n");
    Setup::new()
        .top(&format!("state = \"{url}\"\n{top}"))
        .plugin("rate-limit", &plugin("rate-limit"), "\"state\"", &config)
        .start()
}

/// Tries one message, and gives the reply that settled it.
fn one_message(relay: &Relay) -> String {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.line("RCPT TO:<bob@ours.test>");
    let reply = client.reply();
    match reply.starts_with("250") {
        true => client.says("DATA", "354").clone() + &client.says("Subject: x\r\n\r\nx\r\n.", "250"),
        false => reply,
    }
}

/// Sends messages until one is refused, and gives how many were not and the refusal.
fn until_refused(relay: &Relay) -> (usize, String) {
    let mut accepted = 0;
    loop {
        let reply = one_message(relay);
        if !reply.starts_with("354") {
            return (accepted, reply);
        }
        accepted += 1;
        assert!(accepted <= 2 * LIMIT, "nothing is limited");
    }
}

#[test]
fn a_limit_holds_across_relays() {
    let Some(redis) = Redis::start(&[]) else { return };
    let relays = [
        Arc::new(relay(&redis, "defer", "")),
        Arc::new(relay(&redis, "defer", "")),
    ];
    let together = Arc::new(Barrier::new(relays.len() * CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .flat_map(|_| relays.clone())
        .map(|relay| {
            let together = together.clone();
            thread::spawn(move || {
                // Each relay counts: everybody begins with one message.
                let first = one_message(&relay);
                assert!(first.starts_with("354"), "{first}");
                together.wait();
                let (accepted, refusal) = until_refused(&relay);
                assert!(refusal.contains("Too many messages"), "{refusal}");
                1 + accepted
            })
        })
        .collect();
    let accepted: usize = clients.into_iter().map(|client| client.join().expect("a client")).sum();
    assert_eq!(accepted, LIMIT);
    for relay in &relays {
        assert!(!relay.log().contains("state server is gone"), "{}", relay.log());
    }
}

#[test]
fn without_the_state_server_mail_passes_or_waits_as_configured() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let admin = support::free_address();
    let lenient = relay(&redis, "allow", &format!("[admin]\naddress = \"{admin}\""));
    let strict = relay(&redis, "defer", "");
    let (accepted, refusal) = until_refused(&lenient);
    assert_eq!(accepted, LIMIT);
    assert!(refusal.starts_with("450 4.7.1 Too many messages"), "{refusal}");
    let refusal = one_message(&strict);
    assert!(refusal.starts_with("450 4.7.1 Too many messages"), "{refusal}");

    redis.stop();
    for relay in [&lenient, &strict] {
        relay.logged(&["the state server is gone", &redis.url()]);
    }
    let passed = one_message(&lenient);
    assert!(passed.starts_with("354"), "{passed}");
    let deferred = one_message(&strict);
    assert!(
        deferred.starts_with("451 4.3.0 Limits cannot be looked at now"),
        "{deferred}"
    );
    strict.logged(&["limits are not known"]);
    strict.logged(&["state-unavailable"]);
    assert!(lenient.page(admin, "/readyz").starts_with("HTTP/1.1 200"));
    support::until("the metrics say so", || {
        let page = lenient.page(admin, "/metrics");
        page.contains("gatepost_state_server_up 0") && !page.contains("gatepost_state_failures_total 0")
    });

    // It comes back empty: the limit holds from there on, for both together.
    redis.start_again();
    for relay in [&lenient, &strict] {
        support::until("the state server is back", || {
            relay.log().matches("the state server is there").count() == 2
        });
    }
    let passed = one_message(&strict);
    assert!(passed.starts_with("354"), "{passed}");
    let (accepted, refusal) = until_refused(&lenient);
    assert_eq!(1 + accepted, LIMIT);
    assert!(refusal.starts_with("450 4.7.1 Too many messages"), "{refusal}");
    for relay in [&lenient, &strict] {
        assert_eq!(
            relay.log().matches("the state server is gone").count(),
            1,
            "{}",
            relay.log()
        );
    }
    support::until("the metrics say so", || {
        lenient.page(admin, "/metrics").contains("gatepost_state_server_up 1")
    });
}

#[test]
fn a_state_server_that_says_nothing_is_left_alone() {
    let Some(redis) = Redis::start(&[]) else { return };
    let strict = relay(&redis, "defer", "");
    let passed = one_message(&strict);
    assert!(passed.starts_with("354"), "{passed}");
    redis.freeze();
    let deferred = one_message(&strict);
    assert!(deferred.starts_with("451 4.3.0"), "{deferred}");
    strict.logged(&["the state server is gone", "no answer within 1 s"]);
    // Its kernel takes connections still, but nobody is asked who does not answer: this waits for nothing.
    let deferred = one_message(&strict);
    assert!(deferred.starts_with("451 4.3.0"), "{deferred}");
    redis.thaw();
    support::until("mail passes again", || one_message(&strict).starts_with("354"));
}

#[test]
fn a_relay_starts_without_its_state_server_and_with_a_password() {
    let Some(mut redis) = Redis::start(&["--requirepass", "open sesame"]) else {
        return;
    };
    redis.stop();
    let setup = Setup::new();
    std::fs::write(setup.dir.path().join("state-password"), "wrong\n").expect("a password");
    let limit = "count = \"messages\", per = \"address\", rate = 1, per_seconds = 86_400_000";
    let relay = setup
        .top(&format!(
            "state = \"{}\"\nstate_password_file = \"state-password\"",
            redis.url()
        ))
        .plugin(
            "rate-limit",
            &plugin("rate-limit"),
            "\"state\"",
            &format!("[plugin.config]\nlimits = [{{ {limit} }}]\n"),
        )
        .start();
    relay.logged(&["the state server is gone", "refused"]);
    let passed = one_message(&relay);
    assert!(passed.starts_with("354"), "{passed}");
    redis.start_again();
    std::fs::write(relay.dir.path().join("state-password"), "open sesame\n").expect("a password");
    relay.signal(Signal::SIGHUP);
    relay.logged(&["the state server is there"]);
    let (accepted, refusal) = until_refused(&relay);
    assert_eq!(accepted, 1);
    assert!(refusal.contains("Too many messages"), "{refusal}");
}

#[test]
fn who_answers_nonsense_is_no_state_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("it is bound"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            // A mail server, which has something to say to each line.
            thread::spawn(move || {
                let mut heard = [0; 1024];
                while matches!(stream.read(&mut heard), Ok(1..)) && stream.write_all(b"500 Error\r\n").is_ok() {}
            });
        }
    });
    let strict = relay_at(&url, "defer", "");
    strict.logged(&["the state server is gone"]);
    let deferred = one_message(&strict);
    assert!(deferred.starts_with("451 4.3.0"), "{deferred}");
    let lenient = relay_at(&url, "allow", "");
    lenient.logged(&["the state server is gone"]);
    let passed = one_message(&lenient);
    assert!(passed.starts_with("354"), "{passed}");
}
