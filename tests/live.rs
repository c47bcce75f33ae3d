//! Changes without fear, from the outside: what fails is taken back, what is new is tried beside the old or for a share of the sessions, what is
//! disabled opens nothing; and a worker that dies forgets none of it but trials.

mod support;

use std::path::PathBuf;

use nix::sys::signal::Signal;
use support::client::Client;
use support::versions::{asked, digest, listed, version, wait_for};
use support::{Relay, Setup, free_address, guest, until};

/// A relay with `versioned` in a file of its own, which is version 0, and a place to load others from.
fn relay(setup: Setup, grants: &str, toml: &str) -> (Relay, PathBuf) {
    let file = setup.dir.path().join("policy.wasm");
    std::fs::write(&file, version(0)).expect("the plugin");
    (setup.plugin("policy", &file, grants, toml).start(), file)
}

/// `gatepost plugin load policy ...` of this component.
fn load(relay: &Relay, component: &[u8], options: &[&str]) -> String {
    let file = relay.dir.path().join("new.wasm");
    std::fs::write(&file, component).expect("a file");
    let file = file.display().to_string();
    relay.command(&[&["plugin", "load", "policy", &file], options].concat())
}

fn naughty() -> Vec<u8> {
    std::fs::read(guest("naughty")).expect("the guest")
}

/// Ready for RCPT, in a session of its own.
fn at_rcpt(relay: &Relay) -> Client {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client
}

fn rcpt(relay: &Relay, local: &str, start: &str) -> String {
    at_rcpt(relay).says(&format!("RCPT TO:<{local}@ours.test>"), start)
}

#[test]
fn a_new_version_that_fails_is_taken_back_by_itself_and_for_good() {
    let admin = free_address();
    let setup = Setup::new().top(&format!("[admin]\naddress = \"{admin}\""));
    let (mut relay, file) = relay(setup, "", "");
    let (good, bad) = (version(0), naughty());
    load(&relay, &bad, &[]);
    assert_eq!(std::fs::read(&file).expect("the plugin"), bad);
    let mut on_bad = at_rcpt(&relay);
    for _ in 0..5 {
        rcpt(&relay, "ungranted", "451 4.3.0 ");
    }
    let said = relay.logged(&["\"error\"", "plugin rolled back", "policy"]);
    for part in [
        format!("\"from\":\"{}\"", digest(&bad)),
        format!("\"to\":\"{}\"", digest(&good)),
        "\"calls\":5,\"failures\":5".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    let page = relay.page(admin, "/metrics");
    let line = "gatepost_plugin_rollbacks_total{plugin=\"policy\",version=\"live\"} 1\n";
    assert!(page.contains(line), "{page}");
    let holds = |relay: &Relay| {
        assert_eq!(asked(&mut at_rcpt(relay)), 0);
        assert_eq!(std::fs::read(&file).expect("the plugin"), good);
        let status = listed(relay);
        assert_eq!(status["digest"], *digest(&good));
        assert_eq!(status["previous"], *digest(&bad));
        assert_eq!(status["taken_back"], "by itself: 5 of its first 5 calls failed");
        let list = relay.command(&["plugin", "list"]);
        let line = format!("(component {}), taken back by itself: 5 of its", digest(&bad));
        assert!(list.contains(&line), "{list}");
    };
    holds(&relay);
    // Whoever holds the bad one must come again.
    on_bad.says("RSET", "250");
    on_bad.says("MAIL FROM:<me@elsewhere.test>", "421");

    // The next worker knows all of it, and what was there before.
    relay.next_worker();
    holds(&relay);
    // It is not brought back by a word that means something else.
    let said = relay.fails(&["plugin", "rollback", "policy"]);
    for part in [
        &*digest(&bad),
        "was taken back by itself: 5 of its first 5 calls failed: `gatepost plugin load policy FILE` puts it in force",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    holds(&relay);
    load(&relay, &bad, &[]);
    load(&relay, &version(1), &[]);
    let said = relay.command(&["plugin", "rollback", "policy"]);
    assert!(said.contains(&digest(&bad)), "{said}");
    assert_eq!(listed(&relay)["previous"], *digest(&version(1)));
    // What an administrator goes back to is not taken from them.
    for _ in 0..8 {
        let reply = rcpt(
            &relay,
            "ungranted",
            "451 4.3.0 Temporary server error, try again later [",
        );
        // The id, and the version that the list shows, are in the log's line about it.
        let (_, id) = reply.trim_end().trim_end_matches(']').split_once('[').expect("an id");
        let version = listed(&relay)["version"].as_str().expect("a version").to_owned();
        relay.logged(&["\"decision\"", id, &format!("\"version\":\"{version}\"")]);
    }
    assert_eq!(listed(&relay)["failures"], 8);
    assert_eq!(listed(&relay)["taken_back"], "by an administrator");
    load(&relay, &version(1), &[]);
    assert!(listed(&relay)["taken_back"].is_null(), "a newer one is live");
    let said = relay.fails(&["plugin", "load", "policy", "/etc/passwd"]);
    assert!(
        said.contains("/etc/passwd: ") && said.contains("no WebAssembly file"),
        "{said}"
    );
    assert!(!said.contains("policy.wasm"), "{said}");
    let said = relay.fails(&["plugin", "load", "policy", "/dev/zero"]);
    assert!(said.contains("/dev/zero: is no regular file"), "{said}");
}

#[test]
fn a_replaced_file_is_watched_too() {
    let (relay, file) = relay(Setup::new(), "", "on_failure = \"skip\"");
    let part = file.with_extension("part");
    std::fs::write(&part, naughty()).expect("a file");
    std::fs::rename(&part, &file).expect("its place");
    wait_for(&relay, &naughty());
    for _ in 0..5 {
        rcpt(&relay, "ungranted", "250");
    }
    wait_for(&relay, &version(0));
    until("the file is the good one", || {
        std::fs::read(&file).expect("the plugin") == version(0)
    });
    assert_eq!(asked(&mut at_rcpt(&relay)), 0);
}

#[test]
fn a_shadow_is_compared_and_promoted() {
    let admin = free_address();
    let setup = Setup::new().top(&format!("[admin]\naddress = \"{admin}\""));
    let (relay, file) = relay(setup, "", "");
    let said = load(&relay, &version(1), &["--shadow"]);
    assert!(
        said.contains(&digest(&version(0))) && said.contains(&digest(&version(1))),
        "{said}"
    );
    rcpt(&relay, "u", "250");
    assert_eq!(asked(&mut at_rcpt(&relay)), 0, "it decides nothing");
    let said = relay.logged(&["shadow differs", "policy", "on-rcpt"]);
    for part in [
        "\"verdict\":\"reject 550 VERSION-0000\"",
        "\"shadow_verdict\":\"reject 550 VERSION-0001\"",
        "\"version\":\"",
        "\"shadow_version\":\"",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    until("both calls are compared", || {
        let trial = &listed(&relay)["trial"];
        trial["same"] == 1 && trial["different"] == 1
    });
    let trial = listed(&relay)["trial"].clone();
    assert_eq!(
        (&trial["mode"], &trial["digest"], &trial["dropped"]),
        (
            &serde_json::json!("shadow"),
            &serde_json::json!(digest(&version(1))),
            &serde_json::json!(0)
        )
    );
    let page = relay.page(admin, "/metrics");
    for line in [
        "gatepost_shadow_calls_total{plugin=\"policy\",outcome=\"same\"} 1\n",
        "gatepost_shadow_calls_total{plugin=\"policy\",outcome=\"different\"} 1\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
    let list = relay.command(&["plugin", "list"]);
    let line = format!(
        "(component {}): 2 calls, 0 failed; 1 same, 1 different, 0 left out",
        digest(&version(1))
    );
    assert!(list.contains(&line), "{list}");
    assert_eq!(
        std::fs::read(&file).expect("the plugin"),
        version(0),
        "until it is promoted"
    );

    let said = relay.command(&["plugin", "promote", "policy"]);
    assert!(said.contains(&digest(&version(1))), "{said}");
    assert_eq!(asked(&mut at_rcpt(&relay)), 1);
    assert_eq!(std::fs::read(&file).expect("the plugin"), version(1));
    let status = listed(&relay);
    assert!(status["trial"].is_null(), "{status}");
    assert_eq!(status["previous"], *digest(&version(0)));
    let error = relay.fails(&["plugin", "promote", "policy"]);
    assert!(error.contains("no version on trial"), "{error}");
}

#[test]
fn a_canary_decides_for_a_share_until_it_is_promoted_aborted_or_fails() {
    let (mut relay, file) = relay(Setup::new(), "", "");
    load(&relay, &version(1), &["--canary", "40"]);
    let mut sessions: Vec<(u32, Client)> = (0..40)
        .map(|_| {
            let mut client = at_rcpt(&relay);
            (asked(&mut client), client)
        })
        .collect();
    let on_canary = sessions.iter().filter(|(version, _)| *version == 1).count();
    assert!((4..36).contains(&on_canary), "{on_canary} of 40");
    let list = relay.command(&["plugin", "list"]);
    let line = format!("(component {}) for 40 % of the sessions", digest(&version(1)));
    assert!(list.contains(&line), "{list}");
    assert_eq!(listed(&relay)["digest"], *digest(&version(0)));
    assert_eq!(std::fs::read(&file).expect("the plugin"), version(0));

    // Sessions keep their choice, over other changes too; those of the canary come again when it is taken away.
    relay.signal(Signal::SIGHUP);
    relay.logged(&["reloaded", "SIGHUP"]);
    for (version, client) in &mut sessions {
        assert_eq!(asked(client), *version);
    }
    let said = relay.command(&["plugin", "abort", "policy"]);
    assert!(said.contains(&digest(&version(1))), "{said}");
    for (version, client) in &mut sessions {
        client.says("RSET", "250");
        let expected = if *version == 1 { "421" } else { "250" };
        client.says("MAIL FROM:<me@elsewhere.test>", expected);
    }
    for _ in 0..20 {
        assert_eq!(asked(&mut at_rcpt(&relay)), 0);
    }
    assert!(
        listed(&relay)["trial_ended"]
            .as_str()
            .is_some_and(|why| why.ends_with("ended: by an administrator"))
    );

    // One that fails ends by itself; half of the sessions may not have seen it.
    load(&relay, &naughty(), &["--canary", "50"]);
    until("the canary has failed", || {
        at_rcpt(&relay).line("RCPT TO:<ungranted@ours.test>");
        listed(&relay)["trial"].is_null()
    });
    let said = relay.logged(&["\"error\"", "canary aborted", "policy", &digest(&naughty())]);
    assert!(
        said.contains(&digest(&version(0))) && said.contains("\"failures\":5"),
        "{said}"
    );
    assert_eq!(asked(&mut at_rcpt(&relay)), 0);

    // A trial is not carried over to another worker; what is promoted is.
    load(&relay, &version(2), &["--canary", "99"]);
    relay.next_worker();
    assert!(listed(&relay)["trial"].is_null());
    assert_eq!(asked(&mut at_rcpt(&relay)), 0);
    load(&relay, &version(2), &["--canary", "1"]);
    relay.command(&["plugin", "promote", "policy"]);
    assert_eq!(std::fs::read(&file).expect("the plugin"), version(2));
    relay.next_worker();
    assert_eq!(asked(&mut at_rcpt(&relay)), 2);
}

#[test]
fn who_is_disabled_opens_nothing_and_stays_so() {
    let setup = Setup::new()
        .listener("mx", "tls = \"none\"")
        .listener("submission", "tls = \"starttls\"\nauth = \"required\"")
        .user("alice", "pw");
    let (mut relay, _) = relay(setup.auth_relay(""), "", "");
    let relays = |relay: &Relay, start: &str| {
        let mut client = relay.connect("submission").starttls();
        client.auth_plain("alice", "pw", "235");
        client.says("MAIL FROM:<alice@ours.test>", "250");
        client.says("RCPT TO:<u@remote.test>", start);
    };
    relays(&relay, "250");
    let mut before = at_rcpt(&relay);
    for plugin in ["auth-relay", "policy"] {
        let said = relay.command(&["plugin", "disable", plugin]);
        assert!(said.contains("is disabled"), "{said}");
    }
    let holds = |relay: &Relay| {
        relays(relay, "550 5.7.1 <u@remote.test>: Relay access denied (");
        // As if it were not configured.
        rcpt(relay, "version", "250");
        rcpt(relay, "u", "250");
        let list = relay.command(&["plugin", "list"]);
        assert_eq!(list.matches("disabled: nothing is asked of it").count(), 2, "{list}");
    };
    holds(&relay);
    assert_eq!(asked(&mut before), 0, "a session goes on as it began");
    relay.signal(Signal::SIGHUP);
    relay.logged(&["reloaded", "SIGHUP"]);
    holds(&relay);
    relay.next_worker();
    holds(&relay);

    for plugin in ["auth-relay", "policy"] {
        relay.command(&["plugin", "enable", plugin]);
    }
    relays(&relay, "250");
    assert_eq!(asked(&mut at_rcpt(&relay)), 0);
    let error = relay.fails(&["plugin", "disable", "nobody"]);
    assert!(error.contains("there is no plugin \"nobody\""), "{error}");

    // And so does the next relay: it is for the running one.
    relay.command(&["plugin", "disable", "policy"]);
    assert!(relay.terminate().success());
    relay.restart();
    assert_eq!(asked(&mut at_rcpt(&relay)), 0);
}

#[test]
fn the_breaker_turns_in_the_log_and_in_the_metrics() {
    let admin = free_address();
    let setup = Setup::new().top(&format!("[admin]\naddress = \"{admin}\""));
    let relay = setup.plugin("naughty", &guest("naughty"), "", "").start();
    let mut client = at_rcpt(&relay);
    for _ in 0..10 {
        client.says("RCPT TO:<ungranted@ours.test>", "451 4.3.0 ");
    }
    let said = relay.logged(&["\"warn\"", "breaker opened", "naughty"]);
    assert!(said.contains("\"pause_ms\":1000"), "{said}");
    client.says("RCPT TO:<u@ours.test>", "451 4.3.0 ");
    let shown = listed(&relay)["breaker"].clone();
    assert!(shown.as_str().is_some_and(|text| text.contains("open")), "{shown}");
    let page = relay.page(admin, "/metrics");
    assert!(
        page.contains("gatepost_plugin_breaker_opened_total{plugin=\"naughty\"} 1\n"),
        "{page}"
    );
    let mut well = 0;
    until("the trial calls do well", || {
        let mut client = at_rcpt(&relay);
        client.line("RCPT TO:<u@ours.test>");
        well += u32::from(client.reply().starts_with("250"));
        well >= 3
    });
    relay.logged(&["\"warn\"", "breaker closed", "naughty"]);
    assert!(listed(&relay)["breaker"].is_null());
}
