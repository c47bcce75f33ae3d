//! Swaps under load, with a shadow and a canary on: nothing is refused that should not be, memory stays where it was, latency is measured.
//!
//! What it costs is printed and not asserted: clocks of machines that test are no judges. The long run, for figures:
//!
//!     cargo test --test load -- --ignored --nocapture

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::versions::{digest, version};
use support::{Relay, Setup, until};

/// How hard and how long.
struct Load {
    clients: u32,
    messages_per_second: u32,
    /// Rounds, each with and without, so that what else the machine does is in both.
    rounds: u32,
    /// In each round.
    swaps: u32,
    swap_every: Duration,
    /// Swaps after which memory must not grow any more, and by how much it may all the same, in KiB.
    flat_after: u32,
    growth_kib_max: u64,
}

/// Messages of one session; then another begins, and with it the policy of that moment.
const MESSAGES_PER_SESSION: u32 = 10;

/// One phase of a run: what messages took, from MAIL to the 250 behind the final dot.
struct Phase {
    took: Vec<Duration>,
    lasted: Duration,
}

impl Phase {
    fn share(&self, per_thousand: usize) -> Duration {
        self.took[(self.took.len() - 1) * per_thousand / 1000]
    }

    fn print(&self, name: &str) {
        eprintln!(
            "{name}: {} messages, {:.0} a second; median {:?}, p99 {:?}, most {:?}",
            self.took.len(),
            self.took.len() as f64 / self.lasted.as_secs_f64(),
            self.share(500),
            self.share(990),
            self.share(1000),
        );
    }
}

fn relay() -> Relay {
    let setup = Setup::new().top("[log]\nlevel = \"warn\"");
    let files: Vec<_> = ["swapped", "shadowed", "shared"]
        .map(|name| {
            let file = setup.dir.path().join(format!("{name}.wasm"));
            std::fs::write(&file, version(0)).expect("a plugin");
            (name, file)
        })
        .into();
    let with = files
        .iter()
        .fold(setup, |setup, (name, file)| setup.plugin(name, file, "", ""));
    with.start()
}

/// A client's messages, evenly in time, until it is told to end. Every reply must be what it is without any swap.
fn client(relay: &Relay, every: Duration, done: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut next = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let mut client = relay.connect("mx");
        client.ehlo();
        // The banner's pause is no part of any message.
        next = next.max(Instant::now());
        for _ in 0..MESSAGES_PER_SESSION {
            // What is late is sent at once, so that a stall is paid for by the messages behind it.
            pace(next);
            let due = next;
            next += every;
            client.says("MAIL FROM:<me@elsewhere.test>", "250");
            client.says("RCPT TO:<u@ours.test>", "250");
            client.says("DATA", "354");
            client.says("Subject: x\r\n\r\nbody\r\n.", "250 2.0.0");
            took.push(due.elapsed());
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
        client.says("QUIT", "221");
    }
    took
}

/// Lets time pass: what is sent and swapped here has its pace, and waits for nothing.
fn pace(until: Instant) {
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Runs clients while `act` does.
fn under_load(relay: &Relay, load: &Load, act: impl FnOnce()) -> Phase {
    let done = AtomicBool::new(false);
    let every = Duration::from_secs(1) * load.clients / load.messages_per_second;
    let began = Instant::now();
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|_| scope.spawn(|| client(relay, every, &done)))
            .collect();
        // Whatever fails in here, the clients must end for the test to.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        for client in clients {
            took.extend(client.join().expect("no reply but the right one"));
        }
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    took.sort_unstable();
    Phase {
        took,
        lasted: began.elapsed(),
    }
}

/// Resident memory of the worker, in KiB.
fn resident_kib(relay: &Relay) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.worker())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

fn plugin_load(relay: &Relay, name: &str, number: u32, options: &[&str]) {
    let file = relay.dir.path().join("new.wasm");
    std::fs::write(&file, version(number)).expect("a file");
    let file = file.display().to_string();
    relay.command(&[&["plugin", "load", name, &file], options].concat());
}

fn listed(relay: &Relay, name: &str) -> serde_json::Value {
    let answer: serde_json::Value = serde_json::from_str(&relay.admin("{\"command\":\"plugin-list\"}")).expect("JSON");
    let plugins = answer["plugins"].as_array().expect("a list");
    plugins
        .iter()
        .find(|plugin| plugin["name"] == name)
        .expect("it is there")
        .clone()
}

/// The middle one.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}

fn run(load: &Load) {
    let relay = relay();
    let whole = load.swap_every * load.swaps;
    let (mut memory, mut ratios, mut noise) = (Vec::new(), Vec::new(), Vec::new());
    let mut slowest = Duration::ZERO;
    let mut number = 0;
    let idle = || pace(Instant::now() + whole);
    // On all the time, so that the swaps alone are what differs.
    plugin_load(&relay, "shadowed", 1, &["--shadow"]);
    plugin_load(&relay, "shared", 1, &["--canary", "10"]);
    let mut before = under_load(&relay, load, idle);
    before.print("without swaps");
    for _ in 0..load.rounds {
        let swapping = under_load(&relay, load, || {
            let began = Instant::now();
            for swap in 1..=load.swaps {
                pace(began + load.swap_every * swap);
                let asked = Instant::now();
                number += 1;
                plugin_load(&relay, "swapped", number, &[]);
                slowest = slowest.max(asked.elapsed());
                memory.push(resident_kib(&relay));
            }
        });
        swapping.print("with swaps");
        let after = under_load(&relay, load, idle);
        after.print("without swaps");
        let p99 = |phase: &Phase| phase.share(990).as_secs_f64();
        ratios.push(2.0 * p99(&swapping) / (p99(&before) + p99(&after)));
        noise.push(p99(&after) / p99(&before));
        before = after;
    }
    until("the shadow is done", || {
        let trial = &listed(&relay, "shadowed")["trial"];
        trial["calls"].as_u64() == trial["same"].as_u64()
    });
    let (shadow, canary) = ["shadowed", "shared"]
        .map(|name| listed(&relay, name)["trial"].clone())
        .into();
    assert_eq!((&shadow["failures"], &shadow["different"]), (&0.into(), &0.into()));
    assert!(shadow["same"].as_u64() > Some(0) && canary["calls"].as_u64() > Some(0));
    assert_eq!(canary["failures"], 0);
    eprintln!(
        "p99 with / without, by round: {ratios:.2?}, median {:.2}",
        median(ratios.clone())
    );
    eprintln!("p99 without / without before it: {noise:.2?}; the slowest `plugin load` took {slowest:?}");
    eprintln!("shadow: {shadow}\ncanary: {canary}");
    let shown: Vec<u64> = memory.iter().copied().step_by(load.flat_after as usize / 2).collect();
    eprintln!("resident KiB, every {} swaps: {shown:?}", load.flat_after / 2);

    assert_eq!(listed(&relay, "swapped")["digest"], *digest(&version(number)));
    for name in ["swapped", "shadowed", "shared"] {
        assert_eq!(listed(&relay, name)["failures"], 0);
    }
    // What is sessions' and messages' goes up and down: the least of some is what stays.
    let flat = &memory[load.flat_after as usize..];
    let (first, last) = (&flat[..flat.len() / 2], &flat[flat.len() / 2..]);
    let least = |of: &[u64]| *of.iter().min().expect("some swaps");
    assert!(
        least(last) <= least(first) + load.growth_kib_max,
        "resident memory grew, in KiB, by swap: {memory:?}"
    );
}

#[test]
fn swaps_under_load_refuse_nothing() {
    run(&Load {
        clients: 4,
        messages_per_second: 60,
        rounds: 1,
        swaps: 24,
        swap_every: Duration::from_millis(150),
        flat_after: 12,
        growth_kib_max: 8 * 1024,
    });
}

#[test]
#[ignore = "two minutes of load, for figures"]
fn two_hundred_swaps_in_a_minute() {
    run(&Load {
        clients: 20,
        messages_per_second: 500,
        rounds: 5,
        swaps: 40,
        swap_every: Duration::from_millis(300),
        flat_after: 20,
        growth_kib_max: 8 * 1024,
    });
}
