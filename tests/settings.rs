//! Settings changed without fear, from the outside: those that make a policy fail are taken back and do not come again by themselves, others are tried
//! beside those in force or for a share of the sessions, and none of them opens the relay.

mod support;

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use support::client::Client;
use support::versions::{digest, listed, version};
use support::{Relay, Setup, free_address, guest, plugin, until};

/// Grants with which `naughty` may answer what it answers about `ungranted@`, and those without.
const GOOD: &str = "grants = [\"relay\"]";
const BAD: &str = "grants = []";

/// A relay with `naughty` in a file of its own, and with the good grants.
fn relay(setup: Setup) -> (Relay, PathBuf) {
    let file = setup.dir.path().join("policy.wasm");
    std::fs::copy(guest("naughty"), &file).expect("the plugin");
    (setup.plugin("policy", &file, "\"relay\"", "").start(), file)
}

fn text(relay: &Relay) -> String {
    std::fs::read_to_string(&relay.config).expect("the configuration")
}

/// The configuration with other words.
fn changed(relay: &Relay, before: &str, after: &str) -> String {
    let text = text(relay);
    assert!(text.contains(before), "{before:?} is not in {text}");
    text.replacen(before, after, 1)
}

/// Changes the configuration, and reloads: what the relay says of it.
fn reload(relay: &Relay, before: &str, after: &str) -> String {
    std::fs::write(&relay.config, changed(relay, before, after)).expect("the configuration");
    relay.admin("{\"command\":\"reload\"}")
}

/// Another configuration beside the relay's.
fn other(relay: &Relay, before: &str, after: &str) -> String {
    let file = relay.dir.path().join("new.toml");
    std::fs::write(&file, changed(relay, before, after)).expect("a file");
    file.display().to_string()
}

/// Ready for RCPT, in a session of its own.
fn at_rcpt(relay: &Relay) -> Client {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client
}

fn rcpt(relay: &Relay, local: &str, start: &str) {
    at_rcpt(relay).says(&format!("RCPT TO:<{local}@ours.test>"), start);
}

fn naughty() -> Vec<u8> {
    std::fs::read(guest("naughty")).expect("the guest")
}

/// Has the version in force fail its probation, and waits until it is taken back.
fn fail_probation(relay: &Relay) {
    for _ in 0..5 {
        rcpt(relay, "ungranted", "451 4.3.0 ");
    }
    until("it is taken back", || listed(relay)["stands_in"] == true);
}

#[test]
fn settings_that_fail_are_taken_back_and_come_again_only_if_they_change() {
    let admin = free_address();
    let (mut relay, file) = relay(Setup::new().top(&format!("[admin]\naddress = \"{admin}\"")));
    rcpt(&relay, "ungranted", "250");
    let said = reload(&relay, GOOD, BAD);
    assert!(said.contains("\"done\""), "{said}");
    let mut on_bad = at_rcpt(&relay);
    fail_probation(&relay);
    let said = relay.logged(&["\"error\"", "plugin rolled back", "policy"]);
    for part in [
        "\"what\":\"settings\"",
        "\"calls\":5,\"failures\":5",
        "mend the plugin's entry in the configuration, then reload (SIGHUP)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let page = relay.page(admin, "/metrics");
    let line = "gatepost_plugin_rollbacks_total{plugin=\"policy\",version=\"live\"} 1\n";
    assert!(page.contains(line), "{page}");
    on_bad.says("RSET", "250");
    on_bad.says("MAIL FROM:<me@elsewhere.test>", "421");

    let bad_text = text(&relay);
    let holds = |relay: &Relay| {
        rcpt(relay, "ungranted", "250");
        let status = listed(relay);
        assert_eq!(status["grants"], serde_json::json!(["relay"]), "{status}");
        assert_eq!(status["taken_back"], "by itself: 5 of its first 5 calls failed");
        assert_eq!(status["stands_in"], true);
        let list = relay.command(&["plugin", "list"]);
        let before = format!(
            "(component {}) with other settings, taken back by itself",
            digest(&naughty())
        );
        for part in ["settings: not those of the configuration", &before] {
            assert!(list.contains(part), "{part}: {list}");
        }
        assert_eq!(text(relay), bad_text, "it is the administrator's");
        assert_eq!(std::fs::read(&file).expect("the plugin"), naughty());
    };
    holds(&relay);

    // By no reload of the same entry, whatever else changes, and by no other worker.
    relay.signal(Signal::SIGHUP);
    relay.logged(&[
        "\"warn\"",
        "plugin settings not taken over",
        "policy",
        "then reload (SIGHUP)",
    ]);
    holds(&relay);
    let bad_text = bad_text.replace("hostname = \"relay.test\"", "hostname = \"other.test\"");
    std::fs::write(&relay.config, &bad_text).expect("the configuration");
    let said = relay.admin("{\"command\":\"reload\"}");
    assert!(
        said.contains("policy goes on with other settings than the configuration has"),
        "{said}"
    );
    at_rcpt(&relay).says("EHLO me", "250-other.test");
    let holds = |relay: &Relay| {
        rcpt(relay, "ungranted", "250");
        assert_eq!(listed(relay)["stands_in"], true);
        assert_eq!(listed(relay)["taken_back"], "by itself: 5 of its first 5 calls failed");
    };
    holds(&relay);
    relay.next_worker();
    holds(&relay);
    let said = relay.admin("{\"command\":\"reload\"}");
    assert!(said.contains("policy goes on with other settings"), "{said}");
    holds(&relay);

    // Another entry is tried anew, and is on probation too.
    let said = reload(&relay, BAD, "grants = []\nmax_uses = 7");
    assert!(said.contains("\"done\"") && !said.contains("goes on"), "{said}");
    assert_eq!(listed(&relay)["stands_in"], false);
    fail_probation(&relay);
    holds(&relay);

    // The good one again, and all is as it was.
    let said = reload(&relay, "grants = []\nmax_uses = 7", GOOD);
    assert!(said.contains("\"done\"") && !said.contains("goes on"), "{said}");
    rcpt(&relay, "ungranted", "250");
    assert_eq!(listed(&relay)["stands_in"], false);
}

#[test]
fn a_rollback_goes_back_to_other_settings_until_the_configuration_changes() {
    let (mut relay, file) = relay(Setup::new());
    reload(&relay, GOOD, BAD);
    rcpt(&relay, "ungranted", "451 4.3.0 ");
    let said = relay.command(&["plugin", "rollback", "policy"]);
    assert!(
        said.contains("with other settings than the configuration has: that lasts until"),
        "{said}"
    );
    rcpt(&relay, "ungranted", "250");
    assert_eq!(listed(&relay)["taken_back"], "by an administrator");

    // Another component that is loaded has the settings in force, and its file is not put beside others.
    let new = relay.dir.path().join("new.wasm");
    std::fs::write(&new, version(1)).expect("a file");
    let said = relay.command(&["plugin", "load", "policy", &new.display().to_string()]);
    assert!(
        said.contains(&digest(&version(1))) && said.contains("that lasts"),
        "{said}"
    );
    assert_eq!(listed(&relay)["grants"], serde_json::json!(["relay"]));
    assert_eq!(std::fs::read(&file).expect("the plugin"), naughty());
    relay.admin("{\"command\":\"reload\"}");
    assert_eq!(listed(&relay)["digest"], *digest(&version(1)));

    // A component in the plugin's file that is no good changes nothing of the settings.
    std::fs::write(&file, "nonsense").expect("the plugin");
    until("it is refused", || !listed(&relay)["refused"].is_null());
    assert_eq!(listed(&relay)["grants"], serde_json::json!(["relay"]));
    assert_eq!(listed(&relay)["digest"], *digest(&version(1)));
    // Another one comes with the settings that the configuration has for it.
    std::fs::write(&file, version(2)).expect("the plugin");
    support::versions::wait_for(&relay, &version(2));
    assert_eq!(listed(&relay)["grants"], serde_json::json!([]));
    assert_eq!(listed(&relay)["stands_in"], false);

    // Both together go back together, and no file is changed; forward again, it is what the files say.
    relay.command(&["plugin", "rollback", "policy"]);
    assert_eq!(listed(&relay)["digest"], *digest(&version(1)));
    assert_eq!(listed(&relay)["grants"], serde_json::json!(["relay"]));
    assert_eq!(std::fs::read(&file).expect("the plugin"), version(2));
    relay.admin("{\"command\":\"reload\"}");
    assert_eq!(listed(&relay)["digest"], *digest(&version(1)));
    let said = relay.command(&["plugin", "rollback", "policy"]);
    assert!(!said.contains("that lasts"), "{said}");
    assert_eq!(listed(&relay)["digest"], *digest(&version(2)));

    // The next relay does what the configuration says.
    relay.command(&["plugin", "rollback", "policy"]);
    assert!(relay.terminate().success());
    relay.restart();
    assert_eq!(listed(&relay)["digest"], *digest(&version(2)));
    assert_eq!(listed(&relay)["grants"], serde_json::json!([]));
}

#[test]
fn other_settings_run_as_a_shadow_and_are_promoted() {
    let (relay, file) = relay(Setup::new());
    let new = other(&relay, GOOD, BAD);
    let said = relay.command(&["plugin", "load", "policy", "--settings", &new, "--shadow"]);
    assert!(
        said.contains("as a shadow") && said.contains("with other settings"),
        "{said}"
    );
    rcpt(&relay, "ungranted", "250");
    let said = relay.logged(&["shadow differs", "policy", "on-rcpt"]);
    assert!(said.contains("\"shadow_failure\":"), "{said}");
    rcpt(&relay, "u", "250");
    until("both calls are compared", || {
        let trial = &listed(&relay)["trial"];
        trial["same"] == 1 && trial["different"] == 1
    });
    let list = relay.command(&["plugin", "list"]);
    let line = format!(
        "(component {}) with other settings: 2 calls, 1 failed; 1 same, 1 different, 0 left out",
        digest(&naughty())
    );
    assert!(list.contains(&line), "{list}");

    let good = text(&relay);
    let said = relay.command(&["plugin", "promote", "policy"]);
    assert!(
        said.contains("with other settings than the configuration has"),
        "{said}"
    );
    rcpt(&relay, "ungranted", "451 4.3.0 ");
    assert_eq!(text(&relay), good);
    assert_eq!(std::fs::read(&file).expect("the plugin"), naughty());
    // Written down, they are the configuration's, and nothing else changes.
    let said = reload(&relay, GOOD, BAD);
    assert!(said.contains("\"done\"") && !said.contains("goes on"), "{said}");
    let status = listed(&relay);
    assert_eq!((&status["stands_in"], &status["failures"]), (&false.into(), &1.into()));
}

#[test]
fn other_settings_decide_for_a_share() {
    // By other keys: a canary has the store of the version in force.
    let limit = |per: &str, rate: u32| format!("per = \"{per}\", rate = {rate}, ");
    let (loose, strict) = (limit("network", 1_000), limit("address", 1));
    let setup = Setup::new().plugin(
        "rate-limit",
        &plugin("rate-limit"),
        "\"state\"",
        &format!("[plugin.config]\nlimits = [{{ count = \"recipients\", {loose}per_seconds = 86400 }}]"),
    );
    let relay = setup.start();
    let new = other(&relay, &loose, &strict);
    let load = ["plugin", "load", "rate-limit", "--settings", &new, "--canary", "50"];
    let said = relay.command(&load);
    assert!(said.contains("with other settings for 50 % of the sessions"), "{said}");
    let refused = |relay: &Relay| {
        let mut client = at_rcpt(relay);
        client.line("RCPT TO:<u@ours.test>");
        !client.reply().starts_with("250")
    };
    let count = (0..40).filter(|_| refused(&relay)).count();
    assert!((4..36).contains(&count), "{count} of 40");
    assert_eq!(listed(&relay)["trial"]["other_settings"], true);
    relay.command(&["plugin", "abort", "rate-limit"]);
    assert!((0..20).all(|_| !refused(&relay)), "all have the settings in force");
}

#[test]
fn a_canary_whose_settings_fail_ends() {
    let (relay, _) = relay(Setup::new());
    let new = other(&relay, GOOD, BAD);
    relay.command(&["plugin", "load", "policy", "--settings", &new, "--canary", "50"]);
    until("the canary has failed", || {
        at_rcpt(&relay).line("RCPT TO:<ungranted@ours.test>");
        listed(&relay)["trial"].is_null()
    });
    let said = relay.logged(&["\"error\"", "canary aborted", "policy"]);
    assert!(said.contains("\"what\":\"settings\""), "{said}");
    assert_eq!(listed(&relay)["stands_in"], false);
    for _ in 0..10 {
        rcpt(&relay, "ungranted", "250");
    }
}

#[test]
fn settings_that_are_no_good_are_refused_in_every_way() {
    let setup = Setup::new()
        .plugin("rate-limit", &plugin("rate-limit"), "\"state\"", "")
        .plugin(
            "generous",
            &guest("generous"),
            "\"relay\", \"dns\"",
            "[plugin.config]\nwhen = \"never\"",
        );
    let relay = setup.start();
    let good = text(&relay);
    let without = "it imports gatepost:policy/state@0.1.0, which needs the grant \"state\"";
    let opens = "it would open the relay: a stranger";
    for (name, before, after, why) in [
        ("rate-limit", "grants = [\"state\"]", "grants = []", without),
        ("generous", "when = \"never\"", "when = \"bounce\"", opens),
        ("generous", "when = \"never\"", "wen = \"never\"", "unknown field `wen`"),
    ] {
        let new = other(&relay, before, after);
        for mode in [&["--shadow"][..], &["--canary", "1"], &[]] {
            let error = relay.fails(&[&["plugin", "load", name, "--settings", &new], mode].concat());
            assert!(error.contains(name) && error.contains(why), "{mode:?}: {error}");
        }
        let said = reload(&relay, before, after);
        assert!(
            said.contains("\"error\"") && said.contains(&why.replace('"', "\\\"")),
            "{said}"
        );
        std::fs::write(&relay.config, &good).expect("the configuration");
        let list = relay.admin("{\"command\":\"plugin-list\"}");
        assert!(
            list.contains("\"grants\":[\"state\"]") && !list.contains("\"trial\":"),
            "{list}"
        );
        let mut client = at_rcpt(&relay);
        client.says("RCPT TO:<u@ours.test>", "250");
        client.says(
            "RCPT TO:<u@remote.test>",
            "550 5.7.1 <u@remote.test>: Relay access denied (",
        );
    }

    // What is wrong with the file itself is said as `check` says it.
    let new = other(&relay, "grants = [\"state\"]", "grant = [\"state\"]");
    let load = |name: &str| relay.fails(&["plugin", "load", name, "--settings", &new, "--shadow"]);
    let line = 1 + std::fs::read_to_string(&new)
        .expect("the file")
        .lines()
        .position(|line| line.starts_with("grant ="))
        .expect("it is there");
    let error = load("rate-limit");
    assert!(
        error.contains(&format!("new.toml:{line}")) && error.contains("grants"),
        "{error}"
    );
    let new = other(&relay, "name = \"generous\"", "name = \"kind\"");
    let error = relay.fails(&["plugin", "load", "generous", "--settings", &new, "--shadow"]);
    assert!(
        error.contains("new.toml") && error.contains("there is no plugin \"generous\"") && error.contains("kind"),
        "{error}"
    );
    // The relay looks itself, whoever sends it.
    let sent = serde_json::json!({
        "command": "plugin-load", "name": "rate-limit", "length": 0, "mode": "shadow",
        "settings": { "path": Path::new("sent.toml"), "text": "hostnam = \"x\"" }
    });
    let said = relay.admin(&sent.to_string());
    assert!(said.contains("sent.toml:1") && said.contains("hostnam"), "{said}");
}
