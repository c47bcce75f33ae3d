//! Two thousand sessions whose policy waits for a name server, and everybody else.

mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::client::Client;
use support::names::{Names, Said};
use support::{Relay, Setup, guest, plugin, until};

/// Sessions whose policy waits at the same time.
const WAITING: usize = 2_000;
/// Instances of that policy, each of which waits for its answer; the other sessions wait for one of them.
const INSTANCES: usize = 64;
/// What the worker may take for all of this, in bytes, beside what it had before: sessions, instances, look-ups.
const BYTES_MAX: u64 = 64 << 20;

/// A line of the worker's state in `/proc`, in bytes.
fn of_worker(relay: &Relay, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.worker())).expect("the worker's state");
    let value = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    let kib = value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kib << 10
}

#[test]
fn two_thousand_sessions_wait_for_a_name_server_and_nobody_else_does() {
    // A descriptor a session here (two with the reader's), and one in the worker.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("as far as it may be raised");
    assert!(hard >= 3 * WAITING as u64, "the limit of open files is {hard}");

    // Everybody is on the list, but not what no list has.
    let names = Names::waiting(|name| match name.starts_with("1.0.0.127.") {
        true => Said::NoName,
        false => Said::Addresses(&[[127, 0, 0, 2]]),
    });
    let dns = format!(
        "[dns]\nservers = [\"{}\"]\n[limits]\nconnections_per_address = 3000",
        names.address
    );
    let relay = Setup::new()
        .top(&dns)
        .listener("mx", "tls = \"none\"\nproxy_from = [\"127.0.0.1/32\"]")
        .listener("other", "tls = \"none\"")
        .plugin(
            "quick",
            &guest("editor"),
            "\"edit-envelope\", \"read-message\", \"edit-message\"",
            "[plugin.config]\nrefuse = [\"unwanted\"]",
        )
        .plugin(
            "rbl",
            &plugin("rbl"),
            "\"dns\"",
            &format!("max_instances = {INSTANCES}\n[plugin.config]\nlists = [{{ zone = \"bl.test\" }}]"),
        )
        .start();
    let before = of_worker(&relay, "VmRSS:");

    let from = |place: usize| {
        let mut client = Client::connect(relay.address("mx"));
        // Each comes from an address of its own, of which nobody knows anything yet, and from a port with which `rbl` does not test its lists.
        let (high, low) = (place / 250, place % 250 + 1);
        client.raw(format!("PROXY TCP4 198.18.{high}.{low} 192.0.2.200 1024 25\r\n"));
        client
    };
    let mut waiting: Vec<Client> = (0..WAITING).map(from).collect();
    for client in &mut waiting {
        client.expect("220");
        client.ehlo();
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        client.line("RCPT TO:<u@ours.test>");
    }
    until("the name server is asked by each instance", || {
        names.asked() >= INSTANCES
    });

    // None of the two thousand has its answer; who does not need that name server is served, policies and all.
    for _ in 0..3 {
        let mut client = relay.connect("other");
        client.ehlo();
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        client.says(
            "RCPT TO:<unwanted@ours.test>",
            "550 5.7.1 unwanted@ours.test is refused",
        );
        client.says("QUIT", "221");
    }

    names.release();
    let replies: Vec<String> = waiting.iter_mut().map(Client::reply).collect();
    let count = |start: &str| replies.iter().filter(|reply| reply.starts_with(start)).count();
    let listed = count("550 5.7.1 Client host [198.18.");
    // On a machine so slow that their time was over, they may come again.
    let later = count("451 4.3.0");
    assert_eq!(listed + later, WAITING, "{replies:?}");
    assert!(listed >= INSTANCES, "{listed} had an answer");

    let took = of_worker(&relay, "VmHWM:") - before;
    eprintln!(
        "{WAITING} waiting sessions: {listed} answered, {later} deferred, {} MiB more",
        took >> 20
    );
    assert!(took < BYTES_MAX, "{took} bytes");
}
