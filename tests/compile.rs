//! Compiling in a child process: what it may use, what becomes of a plugin whose compiler dies, and what a relay keeps of it.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gatepost::auth::Users;
use gatepost::config::Config;
use gatepost::dns::Dns;
use gatepost::message::Id;
use gatepost::policy::compile::Limits;
use gatepost::policy::decision::{Decision, Journal, Stage};
use gatepost::policy::plugin::Compiled;
use gatepost::policy::services::authentication::Authenticator;
use gatepost::policy::services::state::State;
use gatepost::policy::{Compiler, Engine, Files, Policies, Services};
use support::{GATEPOST, Relay, Setup, guest, until};

/// Far from every limit.
const AMPLE: Limits = Limits::DEFAULT;

struct Nobody;

impl Journal for Nobody {
    fn decision(&self, _: &Decision) {}
    fn plugin_log(&self, _: Id, _: &str, _: Stage, _: tracing::Level, _: &str) {}
}

/// A number as WebAssembly has them.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        match number {
            0 => return [bytes, vec![low]].concat(),
            _ => bytes.push(low | 0x80),
        }
    }
}

fn section(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number], &*leb128(content.len()), content].concat()
}

/// A component with a core module of so many functions, each of which takes a while to compile.
fn large(functions: usize) -> Arc<[u8]> {
    let count = leb128(functions);
    // No locals; 500 times `local.get 0; i32.const 1; i32.add; local.set 0`; end.
    let body = [&[0][..], &[0x20, 0, 0x41, 1, 0x6a, 0x21, 0].repeat(500), &[0x0b]].concat();
    let body = [&*leb128(body.len()), &body].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        // One type: a function that takes an i32.
        section(1, &[1, 0x60, 1, 0x7f, 0]),
        section(3, &[&*count, &vec![0; functions]].concat()),
        section(10, &[&*count, &body.repeat(functions)].concat()),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat().into()
}

/// A program in the place of gatepost, which is `$GATEPOST` in it.
fn program(folder: &Path, name: &str, script: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\nGATEPOST={GATEPOST}\n{script}\n")).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

async fn compile(program: &Path, limits: Limits, component: Arc<[u8]>) -> Result<Compiled, String> {
    let engine = Engine::new(Compiler::by(program, limits)).expect("an engine");
    Compiled::new(&engine, component).await
}

async fn refused(program: &Path, limits: Limits, component: Arc<[u8]>) -> String {
    compile(program, limits, component)
        .await
        .err()
        .expect("it does not compile")
}

#[tokio::test]
async fn a_compiler_has_so_much_and_no_more() {
    let gatepost = Path::new(GATEPOST);
    let compiled = compile(gatepost, AMPLE, large(10)).await;
    assert!(compiled.is_ok_and(|compiled| compiled.compiled_in.is_some()));
    let memory = Limits {
        memory_bytes: 150 << 20,
        ..AMPLE
    };
    assert_eq!(
        refused(gatepost, memory, large(15_000)).await,
        "compiling it takes more than 150 MiB of memory: make it smaller (optimise for size, leave out libraries)"
    );
    let cpu = Limits {
        cpu: Duration::from_secs(1),
        ..AMPLE
    };
    assert_eq!(
        refused(gatepost, cpu, large(15_000)).await,
        "compiling it takes more than 1 s of CPU time: make it smaller (optimise for size, leave out libraries)"
    );
    let code = Limits {
        code_bytes: 1 << 10,
        ..AMPLE
    };
    assert_eq!(
        refused(gatepost, code, large(10)).await,
        "its native code is over 0 MiB: make it smaller (optimise for size, leave out libraries)"
    );
    // And no more than it needs.
    let bytes = std::fs::read(guest("editor")).expect("a guest");
    let truncated = refused(gatepost, AMPLE, bytes[..bytes.len() / 2].into()).await;
    assert!(truncated.starts_with("it does not compile: "), "{truncated}");
}

#[test]
fn what_a_compiler_gave_up_cannot_be_had_back() {
    // It is looked at while it reads, which it does when it is confined, and for as long as its input stays open.
    let mut child = std::process::Command::new(GATEPOST)
        .args(["__compile", &std::process::id().to_string()])
        .args(["3221225472", "300", "268435456", "2"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("gatepost");
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    until("it is confined", || {
        let limits = std::fs::read_to_string(proc.join("limits")).unwrap_or_default();
        limits
            .lines()
            .any(|line| line.starts_with("Max processes") && line.contains(" 0 "))
    });
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).expect(name);
    let limits = read("limits");
    for (limit, value) in [
        ("Max core file size", "0"),
        ("Max address space", "3221225472"),
        ("Max cpu time", "300"),
        ("Max file size", "268435456"),
        ("Max open files", "16"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit)).expect(limit);
        assert_eq!(line[limit.len()..].split_whitespace().next(), Some(value), "{line}");
    }
    assert!(read("status").contains("NoNewPrivs:\t1\n"));
    assert_eq!(read("oom_score_adj"), "1000\n");
    let stat = read("stat");
    let behind_name = stat.rsplit(')').next().expect("a name");
    let nice: i32 = behind_name
        .split_whitespace()
        .nth(16)
        .and_then(|nice| nice.parse().ok())
        .expect("a number");
    assert!(nice >= 10, "{nice}");
    drop(child.stdin.take());
    assert_eq!(
        child.wait().expect("its end").code(),
        Some(3),
        "nothing is no component"
    );

    // Nobody else starts it, and it does not go on alone.
    for arguments in [&["__compile"][..], &["__compile", "1", "0", "0", "0"]] {
        let output = std::process::Command::new(GATEPOST)
            .args(arguments)
            .output()
            .expect("gatepost");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[tokio::test]
async fn whatever_ends_the_compiler_is_an_error_of_that_load_and_the_old_version_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    // It is itself until there is a file that says how to end.
    let how = folder.path().join("how");
    let script = format!("[ -e {0} ] && . {0}\nexec $GATEPOST \"$@\"", how.display());
    let program = program(folder.path(), "gatepost", &script);
    let limits = Limits {
        wall: Duration::from_secs(30),
        ..AMPLE
    };
    let engine = |limits| Engine::new(Compiler::by(&program, limits)).expect("an engine");
    let text = "hostname = \"relay.test\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
                [[plugin]]\nname = \"bare\"\nfile = \"bare.wasm\"\n";
    let config = Config::parse(text, Path::new("test.toml")).expect("a configuration");
    let dns = Dns::new(&["127.0.0.1:1".parse().expect("an address")]).expect("a resolver");
    let services = Arc::new(Services {
        relay_domains: Arc::new(config.relay_domains.clone()),
        users: Arc::new(Users::parse(b"", Path::new("users")).expect("no users")),
        keys: gatepost::dkim::Keys::default(),
        state: State::in_memory(),
        authenticator: Authenticator::new(&dns, "relay.test"),
        dns,
        counters: Arc::default(),
        journal: Arc::new(Nobody),
    });
    let bytes = std::fs::read(guest("bare")).expect("a guest");
    let files = |bytes: &[u8]| Files::from([("bare".to_owned(), Arc::from(bytes))]);
    let another = [&*bytes, &[0, 2, 1, b'x']].concat();
    for (number, (end, expected)) in [
        ("kill -SEGV $$", "the compiler ended with signal: 11 (SIGSEGV)"),
        (
            "echo it is broken >&2; exit 1",
            "the compiler ended with exit status: 1, which is a fault of its own",
        ),
        ("echo it is broken >&2; exit 1", ": it is broken"),
        (
            "kill -KILL $$",
            "the compiler was killed, as by a system that is short of memory",
        ),
        (
            "echo 'memory allocation of 8 bytes failed' >&2; kill -ABRT $$",
            "takes more than 2048 MiB of memory",
        ),
        ("echo 'stack overflow' >&2; kill -ABRT $$", "signal: 6 (SIGABRT)"),
        ("exit 0", "its native code cannot be loaded: "),
        ("echo nonsense; exit 0", "its native code cannot be loaded: "),
        // It hangs.
        ("kill -STOP $$", "compiling it took longer than 0.5 minutes"),
    ]
    .into_iter()
    .enumerate()
    {
        let hangs = end.contains("STOP");
        let _ = std::fs::remove_file(&how);
        let started = Policies::start(engine(limits), &config, &files(&bytes), services.clone()).await;
        let policies = started.map_err(|errors| format!("{errors:?}")).expect("it starts");
        let before = policies.current();
        std::fs::write(&how, end).expect("a file");
        if hangs {
            tokio::time::pause();
        }
        let errors = policies
            .replace(&config, &files(&another), services.clone())
            .await
            .err();
        let error = errors.expect("it is refused").remove(0);
        assert!(error.what.contains(expected), "{number}: {end}: {error}");
        assert_eq!(error.plugin, "bare");
        assert!(Arc::ptr_eq(&before, &policies.current()), "{end}");
    }
}

#[test]
fn a_relay_compiles_once_and_believes_nobody_elses_code() {
    let mut relay = Setup::new()
        .top("[log]\nlevel = \"debug\"")
        .plugin("bare", &guest("bare"), "", "")
        .start();
    let count = |relay: &Relay, text: &str| relay.log().lines().filter(|line| line.contains(text)).count();
    let (compiled, before) = ("plugin compiled", "plugin was compiled before");
    // The log is written behind what it tells of.
    let logged_times = |relay: &Relay, text: &str, times: usize| {
        until(&format!("{text}, {times} times"), || count(relay, text) == times);
    };
    logged_times(&relay, compiled, 1);

    let folder = relay.dir.path().join("state/compiled");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&folder).expect("the folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    assert_eq!(files().len(), 2, "a key and an entry: {:?}", files());
    assert!(files().iter().all(|file| mode(file) == 0o600));

    relay.terminate();
    relay.restart();
    logged_times(&relay, before, 1);
    assert_eq!(count(&relay, compiled), 1);

    relay.terminate();
    let is_entry = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "native");
    let entry = files().into_iter().find(is_entry).expect("an entry");
    let mut bytes = std::fs::read(&entry).expect("an entry");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&entry, bytes).expect("an entry");
    relay.restart();
    relay.logged(&[
        "\"warn\"",
        "an entry of the cache of compiled plugins is no good",
        "its authenticator is not ours",
    ]);
    logged_times(&relay, compiled, 2);
    assert_eq!(count(&relay, before), 1);
    assert_eq!(files().len(), 2);
}
