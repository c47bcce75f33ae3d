//! Two thousand sessions whose policy waits for a name server, and everybody else.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::client::Client;
use support::{Relay, Setup, guest, plugin, until};

/// Sessions whose policy waits at the same time.
const WAITING: usize = 2_000;
/// Instances of that policy, each of which waits for its answer; the other sessions wait for one of them.
const INSTANCES: usize = 64;
/// What the worker may take for all of this, in bytes, beside what it had before: sessions, instances, look-ups.
const BYTES_MAX: u64 = 64 << 20;

/// A name server that keeps its answers to itself until it is told otherwise: then every name has the address 127.0.0.2.
struct Names {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    released: Arc<AtomicBool>,
}

impl Names {
    fn start() -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // The grain at which it notices that it may answer.
        let grain = Some(Duration::from_millis(10));
        socket.set_read_timeout(grain).expect("a time-out");
        let names = Names {
            address: socket.local_addr().expect("bound"),
            asked: Arc::default(),
            released: Arc::default(),
        };
        let (asked, released) = (names.asked.clone(), names.released.clone());
        std::thread::spawn(move || {
            let (mut packet, mut kept) = ([0; 512], Vec::new());
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut packet) {
                    kept.push((answer(&packet[..length]), from));
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                if released.load(Ordering::SeqCst) {
                    for (answer, from) in kept.drain(..) {
                        let _ = socket.send_to(&answer, from);
                    }
                }
            }
        });
        names
    }
}

/// RFC 1035 §4.1: the header, the question as it was asked, one answer.
fn answer(question: &[u8]) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).expect("a name");
    let mut answer = question[..12 + name + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 2]);
    answer
}

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

    let names = Names::start();
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
        // Each comes from an address of its own, of which nobody knows anything yet.
        let (high, low) = (place / 250, place % 250 + 1);
        client.raw(format!("PROXY TCP4 198.18.{high}.{low} 192.0.2.200 1025 25\r\n"));
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
        names.asked.load(Ordering::SeqCst) >= INSTANCES
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

    names.released.store(true, Ordering::SeqCst);
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
