//! Guests that mean harm, one way a file: `tests/hostile/*.wat`, by hand and without a toolchain between. Whatever they do, the client gets what
//! `on_failure` says, the log and the metrics name who and why, the next plugin and the next session are served, and their memory comes back.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use gatepost::policy::decision::Stage;
use support::client::Client;
use support::hostile::{hostile, text};
use support::sink::Sink;
use support::{Relay, Setup, free_address, guest, until};

/// The hooks, by their number in `frame.wat`.
fn hook_names() -> [&'static str; 12] {
    Stage::ALL.map(Stage::name)
}

/// Further numbers of `frame.wat`.
const CONFIGURE: usize = 12;
const START: usize = 13;
const REALLOC: usize = 14;
const REALLOC_IN_A_HOOK: usize = 15;
const CONNECT: usize = 0;
const RCPT: usize = 4;
/// What an instance of `frame.wat` holds: two pages, and a few entries of tables. One of them waits for the next call, or two where a session
/// ended while another was served.
const FRAME_BYTES: u64 = (128 << 10) + 1_000;

/// Small, so that what runs into a limit does so at once; the wall clock is left to be generous.
const BUDGET: &str = "[plugin.budget]\ncpu_ms = 50\nmemory_mib = 8\nlog_lines = 5";

const EDITS: &str = "\"edit-envelope\", \"read-message\", \"edit-message\"";

/// The same as a file in this folder.
fn file(folder: &Path, way: &str, at: usize) -> PathBuf {
    written(folder, &format!("{way}-{at}.wasm"), &hostile(way, at))
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// A value of the metrics.
fn metric(relay: &Relay, admin: SocketAddr, name: &str) -> Option<u64> {
    let page = relay.page(admin, "/metrics");
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The same with a plugin that counts connections: the metrics are brought up to date now and then, and its counter says when.
fn counting(setup: Setup) -> Setup {
    let counts = file(setup.dir.path(), "count", CONNECT);
    setup.plugin("counts", &counts, "", "")
}

/// Waits until the metrics are of now, or later.
fn brought_up_to_date(relay: &Relay, admin: SocketAddr) {
    // All are written at one go: those of a go that ended may be of before, those of the next are not.
    for _ in 0..2 {
        let counter = || {
            metric(
                relay,
                admin,
                "gatepost_plugin_counter_total{plugin=\"counts\",name=\"n\"}",
            )
            .unwrap_or(0)
        };
        let before = counter();
        relay.connect("mx");
        until("the metrics are brought up to date", || counter() > before);
    }
}

fn held(relay: &Relay, admin: SocketAddr, plugin: &str) -> u64 {
    brought_up_to_date(relay, admin);
    let name = format!("gatepost_plugin_memory_bytes{{plugin=\"{plugin}\"}}");
    metric(relay, admin, &name).unwrap_or_else(|| panic!("{name} is missing"))
}

fn failures(plugin: &str, hook: &str, cause: &str) -> String {
    let stage = hook.strip_prefix("on-").expect("a hook");
    format!("gatepost_hook_failures_total{{plugin=\"{plugin}\",stage=\"{stage}\",cause=\"{cause}\"}}")
}

/// One session with a login and a message, up to the first refusal; each reply by the hook before it.
fn session(relay: &Relay) -> Vec<(&'static str, String)> {
    let mut client = Client::connect_tls(relay.address("mx"));
    let mut replies = vec![("on-connect", client.reply())];
    // A name and a password that the users file knows.
    for (hook, line) in [
        ("on-ehlo", "EHLO client.test"),
        ("on-auth", "AUTH PLAIN AGFsaWNlAHB3"),
        ("on-mail", "MAIL FROM:<me@elsewhere.test>"),
        ("on-rcpt", "RCPT TO:<u@ours.test>"),
        ("on-data", "DATA"),
        ("on-message", "Subject: x\r\n\r\nbody\r\n."),
        ("on-result", "NONSENSE"),
        ("on-disconnect", "QUIT"),
    ] {
        let behind = ["on-result", "on-disconnect"].contains(&hook) && replies.len() >= 7;
        if !behind && replies.last().is_some_and(|(_, reply)| reply.starts_with(['4', '5'])) {
            break;
        }
        client.line(line);
        replies.push((hook, client.reply()));
    }
    replies
}

/// Everything that a session says when no policy is in the way.
const UNHINDERED: [(&str, &str); 9] = [
    ("on-connect", "220 "),
    ("on-ehlo", "250-"),
    ("on-auth", "235 2.7.0 "),
    ("on-mail", "250 2.1.0 "),
    ("on-rcpt", "250 2.1.5 "),
    ("on-data", "354 "),
    ("on-message", "250 2.0.0 "),
    ("on-result", "500 5.5.2 "),
    ("on-disconnect", "221 2.0.0 "),
];

/// A relay for [`session`] with plugins that trap, each in one hook.
fn relay(hooks: &[usize], on_failure: &str, sink: &Sink, admin: SocketAddr) -> Relay {
    let mut setup = Setup::new()
        .top(&format!("[admin]\naddress = \"{admin}\""))
        .listener("mx", "tls = \"implicit\"\nauth = \"optional\"")
        .user("alice", "pw")
        .next_hop(&sink.next_hop());
    for &at in hooks {
        let file = file(setup.dir.path(), "trap", at);
        let name = format!("traps-{}", hook_names()[at]);
        setup = setup.plugin(&name, &file, "", &format!("on_failure = \"{on_failure}\"\n{BUDGET}"));
    }
    setup.start()
}

#[test]
fn a_trap_in_any_hook_is_skipped_where_the_configuration_says_so() {
    let (sink, admin) = (Sink::start(), free_address());
    // All of them, so that behind each that fails others are asked.
    let all: Vec<usize> = (0..hook_names().len()).collect();
    let relay = relay(&all, "skip", &sink, admin);
    let replies = session(&relay);
    assert_eq!(replies.len(), UNHINDERED.len(), "{replies:?}");
    for ((hook, reply), (_, expected)) in replies.iter().zip(UNHINDERED) {
        assert!(reply.starts_with(expected), "{hook}: {replies:?}");
    }
    sink.wait_for(1);
    for hook in hook_names() {
        trap_is_told(&relay, admin, hook);
    }
}

/// Waits until log and metrics name the plugin that traps in this hook.
fn trap_is_told(relay: &Relay, admin: SocketAddr, hook: &str) {
    let plugin = format!("\"plugin\":\"traps-{hook}\"");
    relay.logged(&[
        "\"warn\"",
        "decision",
        &plugin,
        &format!("\"stage\":\"{hook}\""),
        "it trapped",
    ]);
    let name = failures(&format!("traps-{hook}"), hook, "trap");
    until(&name, || metric(relay, admin, &name).is_some_and(|count| count >= 1));
}

#[test]
fn a_trap_in_any_hook_has_the_configured_answer() {
    for (on_failure, connect, auth, others) in [
        ("defer", "421 4.3.0 ", "454 4.7.0 ", "451 4.3.0 "),
        ("reject", "554 5.3.0 ", "535 5.7.8 ", "550 5.3.0 "),
    ] {
        for (at, hook) in hook_names().into_iter().enumerate() {
            let (sink, admin) = (Sink::start(), free_address());
            let relay = relay(&[at], on_failure, &sink, admin);
            let replies = session(&relay);
            let refusal = match hook {
                "on-connect" => Some(connect),
                "on-auth" => Some(auth),
                "on-ehlo" | "on-mail" | "on-rcpt" | "on-data" | "on-message" => Some(others),
                // Behind the answer, or an observer: the client sees nothing of it.
                _ => None,
            };
            for ((asked, reply), (_, expected)) in replies.iter().zip(UNHINDERED) {
                let expected = refusal.filter(|_| *asked == hook).unwrap_or(expected);
                assert!(reply.starts_with(expected), "{on_failure}, {hook}: {replies:?}");
            }
            let last = replies.last().map(|(hook, _)| *hook);
            // Behind the message nothing is left to refuse.
            let end = match hook {
                "on-message" => "on-disconnect",
                _ => refusal.map_or("on-disconnect", |_| hook),
            };
            assert_eq!(last, Some(end), "{on_failure}: {replies:?}");
            trap_is_told(&relay, admin, hook);
            match (hook, on_failure) {
                ("on-route", "defer") => drop(relay.logged(&["deferred", "me@elsewhere.test"])),
                ("on-route", _) => drop(relay.logged(&["failed", "me@elsewhere.test"])),
                _ if refusal.is_none() => drop(sink.wait_for(1)),
                _ => assert_eq!(sink.count(), 0),
            }
        }
    }
}

/// A way to misbehave, when it does, and what comes of it: the cause in the metric, and what the log names.
struct Case {
    way: &'static str,
    at: usize,
    cause: &'static str,
    named: &'static str,
}

const fn case(way: &'static str, at: usize, cause: &'static str, named: &'static str) -> Case {
    Case { way, at, cause, named }
}

const WAYS: [Case; 21] = [
    case("trap", RCPT, "trap", "unreachable"),
    case("trap", REALLOC_IN_A_HOOK, "trap", "unreachable"),
    case("loop", RCPT, "cpu", "cpu_ms"),
    case("loop", REALLOC_IN_A_HOOK, "cpu", "cpu_ms"),
    case("memory", RCPT, "memory", "memory_mib"),
    case("memory", REALLOC_IN_A_HOOK, "memory", "memory_mib"),
    case("table", RCPT, "trap", "unreachable"),
    case("recursion", RCPT, "trap", "call stack exhausted"),
    case("long-answer", RCPT, "trap", ""),
    case("long-list", RCPT, "trap", ""),
    case("long-argument", RCPT, "trap", ""),
    case("not-utf8-answer", RCPT, "trap", "utf-8"),
    case("not-utf8-argument", RCPT, "trap", "utf-8"),
    case("handle-dropped-twice", RCPT, "trap", "handle"),
    case("handle-after-its-end", RCPT, "trap", "handle"),
    case("handle-forged", RCPT, "trap", "handle"),
    case("handle-of-another-kind", RCPT, "trap", ""),
    case("discriminant", RCPT, "trap", "discriminant"),
    case("answer-outside", RCPT, "trap", "out of bounds"),
    case("text-outside", RCPT, "trap", "out of bounds"),
    case("decline", RCPT, "trap", "hooks are declined in configure"),
];

/// Resident bytes of the worker.
fn resident(relay: &Relay) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.worker())).expect("the worker's status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// Ready for RCPT.
fn at_rcpt(relay: &Relay) -> Client {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client
}

#[test]
fn every_way_has_its_answer_its_name_and_no_victim() {
    // Most of the time goes by until metrics are brought up to date.
    let place = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = WAYS.get(place.fetch_add(1, Ordering::Relaxed)) {
                    misbehaves(case);
                }
            });
        }
    });
}

fn misbehaves(&Case { way, at, cause, named }: &Case) {
    let admin = free_address();
    let mut setup = counting(Setup::new().top(&format!("[admin]\naddress = \"{admin}\"")));
    let guilty = file(setup.dir.path(), way, at);
    let settings = |on_failure: &str| format!("on_failure = \"{on_failure}\"\n{BUDGET}");
    // Who is skipped leaves it to the next; who is not has the last word.
    setup = setup
        .plugin("skipped", &guilty, "", &settings("skip"))
        .plugin(
            "behind",
            &guest("editor"),
            EDITS,
            "[plugin.config]\nrefuse = [\"unwanted\"]",
        )
        .plugin("deferred", &guilty, "", &settings("defer"));
    let relay = setup.start();
    let mut bystander = relay.connect("mx");
    // A string that comes in is the first that allocates.
    let (hook, asked, reply) = match at {
        REALLOC_IN_A_HOOK => ("on-ehlo", 1, relay.connect("mx").says("EHLO client.test", "451 4.3.0 ")),
        _ => {
            let unwanted = "550 5.7.1 unwanted@ours.test is refused";
            at_rcpt(&relay).says("RCPT TO:<unwanted@ours.test>", unwanted);
            let reply = at_rcpt(&relay).says("RCPT TO:<u@ours.test>", "451 4.3.0 ");
            at_rcpt(&relay).says("RCPT TO:<unwanted@ours.test>", unwanted);
            ("on-rcpt", 3, reply)
        }
    };
    // What went wrong is the administrator's to know.
    assert!(!reply.contains("deferred") && !reply.contains(cause), "{reply}");
    for (plugin, asked) in [("skipped", asked), ("deferred", 1)] {
        let stage = format!("\"stage\":\"{hook}\"");
        let line = relay.logged(&["\"warn\"", "decision", &format!("\"plugin\":\"{plugin}\""), &stage]);
        assert!(line.contains(named), "{way} at {at}: {line}");
        let name = failures(plugin, hook, cause);
        assert_eq!(metric(&relay, admin, &name), Some(asked), "{way} at {at}: {line}");
        let held = held(&relay, admin, plugin);
        assert!(held <= 2 * FRAME_BYTES, "{way} at {at} holds {held}");
    }
    bystander.says("NOOP", "250");
}

#[test]
fn who_asks_in_vain_and_answers_well_is_served_and_holds_what_it_has() {
    // All that it may have, and what it had before.
    for (way, most) in [("memory-content", 8 << 20), ("table-content", FRAME_BYTES)] {
        let admin = free_address();
        let setup = counting(Setup::new().top(&format!("[admin]\naddress = \"{admin}\"")));
        let guest = file(setup.dir.path(), way, RCPT);
        let relay = setup.plugin("asks", &guest, "", BUDGET).start();
        at_rcpt(&relay).says("RCPT TO:<u@ours.test>", "250 2.1.5");
        let held = held(&relay, admin, "asks");
        assert!(held >= most - FRAME_BYTES && held <= most, "{way} holds {held}");
    }
}

#[test]
fn what_may_not_load_is_refused_and_what_is_in_force_stays() {
    let setup = Setup::new();
    let folder = setup.dir.path().to_path_buf();
    let versioned = std::fs::read(guest("versioned")).expect("the guest");
    // What is loaded takes the place of the configured file.
    let policy = written(&folder, "policy.wasm", &versioned);
    let right = written(&folder, "right.wasm", &versioned);
    let relay = setup.plugin("policy", &policy, "", BUDGET).start();
    let stays = || drop(at_rcpt(&relay).says("RCPT TO:<version@ours.test>", "550 5.7.1 VERSION-0000"));
    for (way, at, error) in [
        ("trap", CONFIGURE, "it could not be started: "),
        ("trap", START, "it could not be started: "),
        ("trap", REALLOC, "it could not be started: "),
        ("loop", CONFIGURE, "it used up its budget of CPU time (cpu_ms)"),
        ("loop", START, "it used up its budget of CPU time (cpu_ms)"),
        ("loop", REALLOC, "it used up its budget of CPU time (cpu_ms)"),
        ("memory", CONFIGURE, "it reached its limit of memory (memory_mib)"),
        ("memory", START, "it reached its limit of memory (memory_mib)"),
        ("memory", REALLOC, "it reached its limit of memory (memory_mib)"),
        ("recursion", CONFIGURE, "call stack exhausted"),
        ("recursion", START, "call stack exhausted"),
        ("recursion", REALLOC, "call stack exhausted"),
        ("call-too-early", CONFIGURE, "there is no session outside of a hook"),
        ("call-too-early", START, "there is no session outside of a hook"),
        ("decline", CONFIGURE, "is no hook"),
        (
            "not-granted",
            RCPT,
            "it imports gatepost:policy/state@0.1.0, which needs the grant \"state\": add it to grants of the plugin",
        ),
        (
            "dns",
            RCPT,
            "it imports gatepost:policy/dns@0.1.0, which needs the grant \"dns\"",
        ),
        (
            "endpoint",
            RCPT,
            "it imports gatepost:policy/endpoint@0.1.0, which needs the grant \"endpoint\"",
        ),
    ] {
        let path = file(&folder, way, at);
        let said = relay.fails(&["plugin", "load", "policy", &path.display().to_string()]);
        assert!(said.contains(error), "{way} at {at}: {said}");
        stays();
    }
    for (component, error) in [
        ("other-hook", "its on-connect has another type than the host's"),
        ("other-import", "an import has another type than the host's"),
        (
            "unknown-import",
            "it imports gatepost:policy/weather@0.1.0, which this host does not have",
        ),
        ("unknown-function", "an import has another type than the host's"),
        (
            "wasi-unknown",
            "it imports wasi:keyvalue/store@0.2.0, which this host does not have",
        ),
        (
            "wasi-http",
            "it imports wasi:http/types@0.2.0: a policy has no HTTP but gatepost:policy/endpoint",
        ),
        ("no-hook", "it exports no hook"),
    ] {
        let bytes = wat::parse_str(text(&format!("{component}.component.wat"))).expect("a component");
        let path = written(&folder, &format!("{component}.wasm"), &bytes);
        let said = relay.fails(&["plugin", "load", "policy", &path.display().to_string()]);
        assert!(said.contains(error), "{component}: {said}");
        stays();
    }
    let whole = hostile("trap", CONFIGURE);
    let native = wasmtime::Engine::default()
        .precompile_component(&whole)
        .expect("it compiles");
    for (name, bytes, error) in [
        ("truncated", &whole[..whole.len() / 2], "it does not compile"),
        ("header", &whole[..8], "it exports no hook"),
        ("empty", &[], "it is no WebAssembly file"),
        ("native", &native, "it is native code"),
    ] {
        let path = written(&folder, &format!("{name}.wasm"), bytes);
        let said = relay.fails(&["plugin", "load", "policy", &path.display().to_string()]);
        assert!(said.contains(error), "{name}: {said}");
        stays();
    }
    // One bit, at places all over the component. Where it is still one, it may be a policy of any kind; another takes its place.
    let whole = hostile("trap", RCPT);
    for place in 0..FLIPS {
        let mut flipped = whole.clone();
        let at = place * flipped.len() / FLIPS;
        flipped[at] ^= 1 << (place % 8);
        let path = written(&folder, "flipped.wasm", &flipped);
        let load = |file: &Path| {
            let mut load = support::gatepost();
            load.args(["plugin", "load", "policy"])
                .arg(file)
                .arg("--config")
                .arg(&relay.config);
            load.output().expect("gatepost").status.code()
        };
        match load(&path) {
            Some(0) => assert_eq!(load(&right), Some(0), "behind bit {} of byte {at}", place % 8),
            code => assert_eq!(code, Some(1), "bit {} of byte {at}", place % 8),
        }
        stays();
    }
}

/// Bits that are flipped, one at a time.
const FLIPS: usize = 60;

#[test]
fn a_call_that_nobody_answers_ends_with_its_wall_time() {
    let names = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // Connections are taken by the system; nobody reads them.
    let scanner = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoints = format!(
        "[plugin.endpoints]\ne = \"tcp://{}\"",
        scanner.local_addr().expect("bound")
    );
    for (way, grants, more, cause, named) in [
        ("dns", "\"dns\"", "", "wall", "it took longer than wall_ms"),
        (
            "endpoint",
            "\"endpoint\"",
            &*endpoints,
            "wall",
            "it took longer than wall_ms",
        ),
        // Not one that waits, but of the same kind: connections, and none of them given back.
        (
            "handle-leak",
            "\"endpoint\"",
            &*endpoints,
            "trap",
            "resource table has no free keys",
        ),
    ] {
        let admin = free_address();
        let setup = counting(Setup::new().top(&format!(
            "[admin]\naddress = \"{admin}\"\n[dns]\nservers = [\"{}\"]",
            names.local_addr().expect("bound")
        )));
        let guilty = file(setup.dir.path(), way, RCPT);
        let relay = setup
            .plugin(
                "waits",
                &guilty,
                grants,
                &format!("[plugin.budget]\nwall_ms = 500\n{more}"),
            )
            .start();
        let mut client = at_rcpt(&relay);
        client.says("RCPT TO:<u@ours.test>", "451 4.3.0 ");
        let line = relay.logged(&["\"warn\"", "decision", "\"plugin\":\"waits\"", "\"stage\":\"on-rcpt\""]);
        assert!(line.contains(named), "{way}: {line}");
        let name = failures("waits", "on-rcpt", cause);
        assert_eq!(metric(&relay, admin, &name), Some(1), "{way}: {line}");
        let held = held(&relay, admin, "waits");
        assert!(held <= 2 * FRAME_BYTES, "{way} holds {held}");
        client.says("NOOP", "250");
    }
}

#[test]
fn a_flood_of_lines_ends_at_the_limit_and_the_answer_counts() {
    let setup = Setup::new();
    let guest = file(setup.dir.path(), "flood", RCPT);
    let relay = setup.plugin("floods", &guest, "", BUDGET).start();
    at_rcpt(&relay).says("RCPT TO:<u@ours.test>", "250 2.1.5");
    relay.logged(&["plugin says", "floods", "on-rcpt", "log_lines"]);
    assert_eq!(relay.log().matches("said again").count(), 5, "{}", relay.log());
}

#[test]
fn whatever_happens_again_and_again_costs_no_memory() {
    /// Of each way, before the worker's size is looked at, and again afterwards.
    const REPEATS: usize = 30;
    /// What may be kept for good is slots of the pool that were used for the first time, and pages of the allocator.
    const GROWTH_MAX: u64 = 24 << 20;
    let ways = [
        "trap",
        "memory",
        "table",
        "recursion",
        "long-answer",
        "flood",
        "handle-forged",
        "discriminant",
    ];
    let mut setup = Setup::new();
    for way in ways {
        let guest = file(setup.dir.path(), way, RCPT);
        setup = setup.plugin(way, &guest, "", &format!("on_failure = \"skip\"\n{BUDGET}"));
    }
    let relay = setup.start();
    // Each in a session of its own, whose other hooks go well: no breaker keeps the next call away.
    let repeat = || {
        for _ in 0..REPEATS {
            at_rcpt(&relay).says("RCPT TO:<u@ours.test>", "250");
        }
    };
    repeat();
    let before = resident(&relay);
    for _ in 0..4 {
        repeat();
    }
    let after = resident(&relay);
    assert!(!relay.log().contains("breaker-open"), "they were all asked");
    assert!(after < before + GROWTH_MAX, "from {before} to {after} bytes");
    eprintln!("resident: {before} before, {after} after");
}
