//! A policy replaced while mail flows: no session notices, and a version that is no good never decides anything.

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use support::sink::Sink;
use support::versions::{asked, digest, listed, version, wait_for};
use support::{Relay, Setup, guest, until};

const SESSIONS: usize = 50;
const REPLACEMENTS: u32 = 50;
/// Every third version comes by a replaced file, which takes the watcher a second; the others by `plugin load`.
const BY_FILE_EVERY: u32 = 3;
const LIMIT: Duration = Duration::from_secs(180);

/// Replaces a file as an administrator does: all at once.
fn replace(file: &Path, bytes: &[u8]) {
    let part = file.with_extension("part");
    std::fs::write(&part, bytes).expect("a file");
    std::fs::rename(&part, file).expect("its place");
}

/// A relay with `versioned` in a file of its own, which is version 0.
fn relay(sink: &Sink) -> (Relay, PathBuf) {
    let setup = Setup::new().next_hop(&sink.next_hop());
    let file = setup.dir.path().join("versioned.wasm");
    std::fs::write(&file, version(0)).expect("the plugin");
    (setup.plugin("versioned", &file, "", "").start(), file)
}

/// One session from beginning to end: which version it saw, all the way.
fn session(relay: &Relay, sent: &AtomicU64) -> u32 {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    let version = asked(&mut client);
    for _ in 0..3 {
        assert_eq!(asked(&mut client), version, "within one transaction");
        client.says("RCPT TO:<u@ours.test>", "250");
        client.says("DATA", "354");
        client.says("Subject: x\r\n\r\nbody\r\n.", "250 2.0.0");
        sent.fetch_add(1, Ordering::Relaxed);
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        assert_eq!(asked(&mut client), version, "within one session");
    }
    client.says("QUIT", "221");
    version
}

#[test]
fn fifty_versions_go_by_under_load_and_each_session_sees_one() {
    let sink = Sink::start();
    let (relay, file) = relay(&sink);
    let began = Instant::now();
    // Versions known to be live, and versions that may be.
    let (live, newest) = (AtomicU32::new(0), AtomicU32::new(0));
    let (done, sent, sessions) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let saw = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let at_least = live.load(Ordering::SeqCst);
                    let version = session(&relay, &sent);
                    let at_most = newest.load(Ordering::SeqCst);
                    assert!(
                        (at_least..=at_most).contains(&version),
                        "{at_least} <= {version} <= {at_most}"
                    );
                    saw.lock().expect("no panic").insert(version);
                    sessions.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whatever fails in here, the sessions must end for the test to.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 1..=REPLACEMENTS {
                let component = version(number);
                newest.store(number, Ordering::SeqCst);
                if number.is_multiple_of(BY_FILE_EVERY) {
                    replace(&file, &component);
                } else {
                    let new = file.with_extension("new");
                    std::fs::write(&new, &component).expect("a file");
                    let said = relay.command(&["plugin", "load", "versioned", &new.display().to_string()]);
                    assert!(said.contains(&digest(&component)), "{said}");
                }
                wait_for(&relay, &component);
                live.store(number, Ordering::SeqCst);
                assert!(began.elapsed() < LIMIT, "only {number} replacements in {LIMIT:?}");
            }
            // One more session of each, on the last version.
            let enough = sessions.load(Ordering::Relaxed) + 2 * SESSIONS as u64;
            until("sessions on the last version", || {
                sessions.load(Ordering::Relaxed) >= enough
            });
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let saw = saw.into_inner().expect("no panic");
    assert!(
        saw.contains(&REPLACEMENTS) && saw.len() > REPLACEMENTS as usize / 2,
        "{saw:?}"
    );
    let sent = sent.load(Ordering::Relaxed) as usize;
    assert_eq!(sink.wait_for(sent).len(), sent);
    let status = listed(&relay);
    assert_eq!(status["failures"], 0, "{status}");
    eprintln!(
        "{} sessions, {sent} messages, {} of {} versions seen, {:?}",
        sessions.load(Ordering::Relaxed),
        saw.len(),
        REPLACEMENTS + 1,
        began.elapsed()
    );
}

#[test]
fn a_broken_file_is_refused_and_the_old_version_stays() {
    let sink = Sink::start();
    let (relay, file) = relay(&sink);
    let good = version(0);
    replace(&file, &good[..good.len() / 2]);
    relay.logged(&[
        "\"error\"",
        "versioned",
        "versioned.wasm",
        "does not compile",
        "the old version stays",
    ]);
    assert_eq!(session(&relay, &AtomicU64::new(0)), 0);
    let status = listed(&relay);
    assert_eq!(status["digest"], *digest(&good));
    assert!(
        status["refused"]
            .as_str()
            .is_some_and(|why| why.contains("does not compile")),
        "{status}"
    );
    let list = relay.command(&["plugin", "list"]);
    assert!(list.contains("was refused") && list.contains(&digest(&good)), "{list}");
    // What else is refused has nothing to do with the file.
    let upload = file.with_extension("new");
    std::fs::write(&upload, b"nonsense").expect("a file");
    relay.fails(&["plugin", "load", "versioned", &upload.display().to_string()]);
    assert_eq!(listed(&relay)["refused"], status["refused"]);

    // A good one heals it.
    let better = version(1);
    replace(&file, &better);
    wait_for(&relay, &better);
    assert_eq!(session(&relay, &AtomicU64::new(0)), 1);
    assert!(listed(&relay)["refused"].is_null());
}

#[test]
fn load_and_rollback_outlast_a_restart() {
    let sink = Sink::start();
    let (mut relay, file) = relay(&sink);
    let (old, new) = (version(0), version(1));
    let upload = file.with_extension("new");
    std::fs::write(&upload, &new).expect("a file");
    let mut before = relay.connect("mx");
    relay.command(&["plugin", "load", "versioned", &upload.display().to_string()]);
    assert_eq!(std::fs::read(&file).expect("the plugin"), new);
    assert_eq!(session(&relay, &AtomicU64::new(0)), 1);
    let list = relay.command(&["plugin", "list"]);
    assert!(
        list.contains(&digest(&new)) && list.contains(&format!("(component {})", digest(&old))),
        "{list}"
    );
    let mut between = relay.connect("mx");

    // What is no good is refused, with the reason, and changes neither the file nor what is live.
    std::fs::write(&upload, &new[..100]).expect("a file");
    let error = relay.fails(&["plugin", "load", "versioned", &upload.display().to_string()]);
    assert!(
        error.contains("versioned") && error.contains("does not compile"),
        "{error}"
    );
    let error = relay.fails(&["plugin", "load", "nobody", &upload.display().to_string()]);
    assert!(
        error.contains("there is no plugin \"nobody\"") && error.contains("versioned"),
        "{error}"
    );
    assert_eq!(std::fs::read(&file).expect("the plugin"), new);
    assert_eq!(listed(&relay)["digest"], *digest(&new));
    // The file is good, and so is what it says of it.
    assert!(listed(&relay)["refused"].is_null());
    let list = relay.command(&["plugin", "list"]);
    assert!(!list.contains("refused"), "{list}");

    let said = relay.command(&["plugin", "rollback", "versioned"]);
    assert!(said.contains(&digest(&old)), "{said}");
    assert_eq!(std::fs::read(&file).expect("the plugin"), old);
    assert_eq!(session(&relay, &AtomicU64::new(0)), 0);

    // A session that began before both is as good as a new one; one that is on what was taken back must come again.
    before.ehlo();
    before.says("MAIL FROM:<me@elsewhere.test>", "250");
    assert_eq!(asked(&mut before), 0);
    between.ehlo();
    between.says("MAIL FROM:<me@elsewhere.test>", "421");
    assert_eq!(between.rest(), "");

    assert!(relay.terminate().success());
    relay.restart();
    assert_eq!(session(&relay, &AtomicU64::new(0)), 0);
}

#[test]
fn a_worker_that_dies_is_replaced_by_one_with_the_policy_in_force() {
    let sink = Sink::start();
    let (mut relay, file) = relay(&sink);
    let upload = file.with_extension("new");
    std::fs::write(&upload, version(1)).expect("a file");
    relay.command(&["plugin", "load", "versioned", &upload.display().to_string()]);
    // Then everything on disk goes bad, in place.
    let good = std::fs::read_to_string(&relay.config).expect("the configuration");
    std::fs::write(&file, b"nonsense").expect("a file");
    relay.logged(&[
        "\"error\"",
        "versioned",
        "it is no WebAssembly file",
        "the old version stays",
    ]);
    std::fs::write(&relay.config, "hostnam = \"x\"\n").expect("the configuration");
    relay.signal(Signal::SIGHUP);
    relay.logged(&["reload failed; what was in force stays", "hostnam"]);

    let worker = relay.worker();
    kill(worker, Signal::SIGKILL).expect("the worker is there");
    relay.logged(&[
        "the new worker gets what was in force, from memory",
        "hostnam",
        "SIGHUP",
    ]);
    let gone = || std::fs::read_to_string(format!("/proc/{worker}/stat")).is_err();
    until("the worker is gone", gone);
    relay.wait_until_up();
    assert_eq!(session(&relay, &AtomicU64::new(0)), 1);
    let status = listed(&relay);
    assert!(
        status["refused"]
            .as_str()
            .is_some_and(|why| why.contains("is no WebAssembly file")),
        "{status}"
    );

    // Mended, it is taken over without a restart.
    std::fs::write(&relay.config, good).expect("the configuration");
    replace(&file, &version(2));
    relay.signal(Signal::SIGHUP);
    wait_for(&relay, &version(2));
    assert!(listed(&relay)["refused"].is_null());
}

#[test]
fn a_policy_that_would_open_the_relay_never_goes_live() {
    let sink = Sink::start();
    let setup = Setup::new().next_hop(&sink.next_hop());
    let file = setup.dir.path().join("versioned.wasm");
    std::fs::write(&file, version(0)).expect("the plugin");
    let relay = setup.plugin("versioned", &file, "\"relay\", \"dns\"", "").start();
    let still_closed = || {
        assert_eq!(session(&relay, &AtomicU64::new(0)), 0);
        assert_eq!(listed(&relay)["digest"], *digest(&version(0)));
        let mut client = relay.connect("mx");
        client.ehlo();
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        client.says(
            "RCPT TO:<u@remote.test>",
            "550 5.7.1 <u@remote.test>: Relay access denied (",
        );
    };
    let opens = "it would open the relay: a stranger (192.0.2.25, not authenticated, in no trusted network) may send";

    let error = relay.fails(&["plugin", "load", "versioned", &guest("generous").display().to_string()]);
    assert!(error.contains("versioned") && error.contains(opens), "{error}");
    relay.logged(&["\"warn\"", "relay probe admitted", "versioned", "u@relay-probe.invalid"]);
    assert_eq!(std::fs::read(&file).expect("the plugin"), version(0));
    still_closed();

    // By a replaced file.
    let generous = std::fs::read(guest("generous")).expect("the guest");
    replace(&file, &generous);
    relay.logged(&["\"error\"", opens, "the old version stays"]);
    still_closed();

    // By the configuration: of what is trusted, and of a plugin that was harmless.
    replace(&file, &version(0));
    until("the file is good again", || listed(&relay)["refused"].is_null());
    let text = std::fs::read_to_string(&relay.config).expect("the configuration");
    let second = format!(
        "\n[[plugin]]\nname = \"second\"\nfile = \"{}\"\ngrants = [\"relay\", \"dns\"]\n[plugin.config]\nwhen = \"bounce\"\n",
        guest("generous").display()
    );
    std::fs::write(&relay.config, text + &second).expect("the configuration");
    let error = relay.admin("{\"command\":\"reload\"}");
    assert!(
        error.contains("plugin \\\"second\\\"") && error.contains("may send from <> to"),
        "{error}"
    );
    still_closed();
}
