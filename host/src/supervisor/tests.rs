//! Whole processes: this test's executable is started again as a supervisor, which starts it again as a worker (the two ignored
//! tests below), and what both say is read from their output.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::*;
use crate::worker_link::{self, InForce, Kept, Update};

const CONFIG: &str = "GATEPOST_TEST_CONFIG";
/// Longer than anything here takes, so that a fault ends a test.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines that a test has not looked at yet.
const LINES: usize = 1000;

/// How the test executable is told to run one ignored test and nothing else.
fn only(test: &str) -> Vec<OsString> {
    let path = format!("supervisor::tests::{test}");
    ["--exact", &path, "--ignored", "--nocapture", "--test-threads=1"]
        .map(OsString::from)
        .to_vec()
}

#[test]
#[ignore = "the supervisor of the other tests"]
fn supervisor_process() {
    // Another process of `cargo test -- --ignored`.
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let options = Options {
        source: Source::File(config.into()),
        prepare: |_| Ok(()),
        announce: |_| println!("announced"),
        worker_arguments: only("worker_process"),
    };
    let code = run(&options);
    println!(
        "supervisor ends {}",
        if code == ExitCode::SUCCESS { "well" } else { "badly" }
    );
    std::process::exit(0);
}

/// Says what it got, and takes it over unless the plugin's component says otherwise.
#[test]
#[ignore = "the worker of the other tests"]
fn worker_process() {
    let Ok(startup) = worker_link::receive() else { return };
    let say = |bundle: &worker_link::Bundle, cause: &str| {
        let listeners: Vec<String> = bundle
            .listeners
            .iter()
            .map(|one| format!("{} {} {}", one.name, one.socket, one.address))
            .collect();
        let users = bundle
            .secrets
            .users
            .as_ref()
            .map(|users| String::from_utf8_lossy(&users.bytes).into_owned());
        println!(
            "worker {} has [{cause}] uid={} gid={} groups={:?} users={users:?} plugins={:?} kept={:?} previous={:?} taken_back={:?} disabled={:?} uses={:?} listeners={}",
            std::process::id(),
            nix::unistd::Uid::effective(),
            nix::unistd::Gid::effective(),
            nix::unistd::getgroups().unwrap(),
            bundle
                .plugins
                .iter()
                .map(|plugin| String::from_utf8_lossy(&plugin.bytes))
                .collect::<Vec<_>>(),
            bundle.kept.iter().map(|kept| &kept.why).collect::<Vec<_>>(),
            bundle
                .history
                .previous
                .iter()
                .map(|(settings, component)| (settings.max_uses, String::from_utf8_lossy(component)))
                .collect::<Vec<_>>(),
            bundle
                .history
                .taken_back
                .iter()
                .map(|kept| &kept.why)
                .collect::<Vec<_>>(),
            bundle.history.disabled,
            bundle
                .history
                .stand_ins
                .iter()
                .map(|settings| settings.max_uses)
                .collect::<Vec<_>>(),
            listeners.join(", "),
        );
    };
    say(&startup.bundle, "start");
    if startup.bundle.plugins[0].bytes.starts_with(b"fail") {
        std::process::exit(1);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in status.lines().filter(|line| {
        ["NoNewPrivs", "CapEff", "SigIgn"]
            .iter()
            .any(|key| line.starts_with(key))
    }) {
        println!("status {}", line.replace('\t', " "));
    }
    println!(
        "secret {:?}",
        std::fs::read(startup.bundle.config.auth.users.as_ref().unwrap()).map_err(|e| e.kind())
    );
    println!(
        "socket {:o}",
        std::fs::metadata(startup.bundle.config.admin_socket())
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    );
    println!("input {:?}", std::io::read_to_string(std::io::stdin()).unwrap());
    startup.link.ready().unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (link, mut updates) = (startup.link, startup.updates);
    let state_dir = startup.bundle.config.state_dir.clone();
    let configured = startup.bundle.config.plugins[0].clone();
    let admin = startup.admin_socket;
    // Each connection to the admin socket is one command.
    std::thread::spawn({
        let handle = runtime.handle().clone();
        move || {
            admin.set_nonblocking(false).unwrap();
            for stream in admin.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let outcome = match line.trim_end() {
                    "reload" => handle.block_on(link.reload()),
                    command if command.starts_with("load ") => {
                        let (plugin, component) = command[5..].split_once(' ').unwrap();
                        handle.block_on(link.load_plugin(plugin, component.as_bytes(), None, None))
                    }
                    command if command.starts_with("back ") => {
                        let (plugin, component) = command[5..].split_once(' ').unwrap();
                        let why = Some("it failed".into());
                        handle.block_on(link.load_plugin(plugin, component.as_bytes(), None, why))
                    }
                    command if command.starts_with("set ") => {
                        let (uses, component) = command[4..].split_once(' ').unwrap();
                        let settings = config::Plugin {
                            max_uses: uses.parse().unwrap(),
                            ..configured.clone()
                        };
                        handle.block_on(link.load_plugin("policy", component.as_bytes(), Some(settings), None))
                    }
                    "disable" => handle.block_on(link.switch_plugin("policy", false)),
                    "enable" => handle.block_on(link.switch_plugin("policy", true)),
                    other => Err(format!("what is {other:?}?")),
                };
                writeln!(stream, "{outcome:?}").unwrap();
            }
        }
    });
    loop {
        match updates.blocking_recv().unwrap() {
            Update::Reload { bundle, cause, done } => {
                say(&bundle, &cause);
                done.finish(verdict(&bundle.plugins[0].bytes));
            }
            Update::Load {
                plugin,
                component,
                settings,
                done,
                ..
            } => {
                let text = String::from_utf8_lossy(&component).into_owned();
                println!("worker tries {plugin} {text}");
                let go = state_dir.join("go");
                while text == "slow" && !go.exists() {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                // Other settings than the configured ones stand in for them.
                let stand_ins: Vec<_> = settings.into_iter().map(|settings| *settings).collect();
                done.finish(verdict(&component).map(|in_force| InForce { stand_ins, ..in_force }));
            }
            Update::Switch { plugin, enabled, done } => {
                println!("worker switches {plugin} {enabled}");
                done.finish(Ok(InForce::default()));
            }
            Update::Drain => {
                println!("worker drains");
                std::process::exit(0);
            }
        }
    }
}

/// What the worker makes of a component: it is bad, worse than the version before, deadly, or good.
fn verdict(component: &[u8]) -> Result<InForce, String> {
    let kept = |why: &str| Kept {
        plugin: "policy".into(),
        why: why.into(),
    };
    match component {
        b"bad" => Err("the component is bad".into()),
        b"deadly" => std::process::exit(3),
        b"worse" => Ok(InForce {
            said: "in force".into(),
            kept: vec![kept("the component is worse")],
            ..InForce::default()
        }),
        _ => Ok(InForce {
            said: "in force".into(),
            replaced: vec!["policy".into()],
            ..InForce::default()
        }),
    }
}

/// A supervisor, its worker, and a folder for both.
struct Relay {
    folder: tempfile::TempDir,
    supervisor: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        if std::thread::panicking() {
            self.seen.extend(self.lines.try_iter());
            eprintln!("the output was:\n{}", self.seen.join("\n"));
        }
    }
}

impl Relay {
    fn start() -> Relay {
        let folder = tempfile::tempdir().unwrap();
        // The worker may be somebody else, who must be able to reach its state_dir.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let write = |name: &str, text: &str, mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        write("users", "alice", 0o600);
        write("policy.wasm", "one", 0o644);
        write("gatepost.toml", &configuration(&["a"]), 0o600);

        let mut command = Command::new("/proc/self/exe");
        command
            .args(only("supervisor_process"))
            .env(CONFIG, folder.path().join("gatepost.toml"));
        // Both outputs into one pipe, so that the lines come in the order in which they were said.
        let (reader, output) = std::io::pipe().unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        // SAFETY: one system call, no allocation. The test harness has threads of its own, which must not get the signals either.
        unsafe {
            command.pre_exec(|| {
                let mut set = SigSet::empty();
                for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
                    set.add(signal);
                }
                Ok(set.thread_block()?)
            });
        }
        let supervisor = command.spawn().unwrap();
        // It holds the pipe's other end; the pipe must close when the processes are gone.
        drop(command);
        let (sender, lines) = mpsc::sync_channel(LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Relay {
            folder,
            supervisor,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line with `text` in it.
    fn says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("nothing says {text:?}"),
            }
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.supervisor.id() as i32), signal).unwrap();
    }

    fn ask(&self, command: &str) -> String {
        ask(&self.folder.path().join("state"), command)
    }

    fn ends(&mut self) {
        self.says("supervisor ends well");
        self.supervisor.wait().unwrap();
    }
}

/// One command to the worker of a `state_dir`, and its answer.
fn ask(state_dir: &Path, command: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(state_dir.join("admin.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "{command}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

fn configuration(listeners: &[&str]) -> String {
    let mut text = "hostname = \"relay.test\"\nstate_dir = \"state\"\n[log]\nformat = \"json\"\n".to_owned();
    text += "[auth]\nusers = \"users\"\n[delivery]\nnext_hop = \"discard:\"\n";
    text += "[[plugin]]\nname = \"policy\"\nfile = \"policy.wasm\"\n";
    for name in listeners {
        text += &format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n");
    }
    text
}

/// The listeners in a worker's line: name, number, address.
fn listeners(line: &str) -> Vec<(String, String, SocketAddr)> {
    let (_, list) = line.split_once("listeners=").unwrap();
    let one = |text: &str| {
        let mut words = text.split(' ').map(str::to_owned);
        (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap().parse().unwrap(),
        )
    };
    list.split(", ").map(one).collect()
}

fn pid_in(line: &str) -> Pid {
    let (before, _) = line.split_once(" has [").unwrap();
    Pid::from_raw(before.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn the_worker_is_nobody_special_and_gets_everything() {
    let mut relay = Relay::start();
    let has = relay.says("has [start]");
    assert!(has.contains("users=Some(\"alice\") plugins=[\"one\"]"), "{has}");
    assert!(TcpStream::connect(listeners(&has)[0].2).is_ok());
    // INT (2), TERM (15) and HUP (1) are ignored: bits 1, 14 and 0. PIPE (13) is Rust's own.
    let ignored = relay.says("status SigIgn");
    assert!(ignored.ends_with("5003"), "{ignored}");
    if Uid::effective().is_root() {
        let user = User::for_worker(None).unwrap().unwrap();
        let expected = format!("uid={} gid={} groups={:?} ", user.uid, user.gid, user.groups);
        assert!(has.contains(&expected), "{has}, not {expected}");
        assert_eq!(relay.says("status CapEff"), "status CapEff: 0000000000000000");
        assert_eq!(relay.says("status NoNewPrivs"), "status NoNewPrivs: 1");
        assert_eq!(relay.says("secret "), "secret Err(PermissionDenied)");
    } else {
        eprintln!("SKIPPED: that the worker loses root's rights, which only root can show");
        assert_eq!(relay.says("status NoNewPrivs"), "status NoNewPrivs: 1");
    }
    assert_eq!(relay.says("socket "), "socket 600");
    assert_eq!(relay.says("input "), "input \"\"");
    relay.says("announced");
    relay.says("\"event\":\"ready\"");
    relay.signal(Signal::SIGTERM);
    relay.says("worker drains");
    relay.ends();
    assert!(TcpStream::connect(listeners(&has)[0].2).is_err());
}

#[test]
fn a_reload_keeps_what_stays_and_a_bad_one_changes_nothing() {
    let mut relay = Relay::start();
    let start = relay.says("has [start]");
    relay.says("\"event\":\"ready\"");

    relay.write("gatepost.toml", &configuration(&["b", "a"]));
    relay.signal(Signal::SIGHUP);
    let reloaded = relay.says("has [SIGHUP]");
    assert_eq!(listeners(&reloaded)[1], listeners(&start)[0]);
    assert!(TcpStream::connect(listeners(&reloaded)[0].2).is_ok());

    relay.write("gatepost.toml", "hostnam = \"x\"\n");
    relay.signal(Signal::SIGHUP);
    let refused = relay.says("reload failed");
    assert!(
        refused.contains("gatepost.toml:1") && refused.contains("hostnam"),
        "{refused}"
    );
    let asked = relay.ask("reload");
    assert!(asked.starts_with("Err(") && asked.contains("hostnam"), "{asked}");

    relay.write("gatepost.toml", &configuration(&["b"]));
    assert_eq!(relay.ask("reload"), "Ok(\"in force\")");
    let reloaded = relay.says("has [asked for]");
    assert_eq!(listeners(&reloaded).len(), 1);

    relay.write(
        "gatepost.toml",
        &configuration(&["b"]).replace("\"state\"", "\"elsewhere\""),
    );
    assert_eq!(
        relay.ask("reload"),
        "Err(\"state_dir cannot change while the relay runs: restart it\")"
    );
    relay.write(
        "gatepost.toml",
        &format!("state = \"redis://127.0.0.1\"\n{}", configuration(&["b"])),
    );
    assert_eq!(
        relay.ask("reload"),
        "Err(\"state cannot change while the relay runs: restart it\")"
    );
}

#[test]
fn a_changed_file_is_passed_on() {
    let mut relay = Relay::start();
    relay.says("\"event\":\"ready\"");
    relay.write("users", "alice and bob");
    let has = relay.says("/users]");
    assert!(has.contains("users=Some(\"alice and bob\") plugins=[\"one\"]"), "{has}");

    // By renaming, and with a configuration that is not yet good: it is not read again.
    relay.write("gatepost.toml", "in work");
    relay.write("policy.new", "two");
    std::fs::rename(
        relay.folder.path().join("policy.new"),
        relay.folder.path().join("policy.wasm"),
    )
    .unwrap();
    let has = relay.says("/policy.wasm]");
    assert!(has.contains("plugins=[\"two\"]"), "{has}");
}

#[test]
fn a_plugin_that_the_worker_loads_replaces_its_file() {
    let mut relay = Relay::start();
    relay.says("\"event\":\"ready\"");
    let path = relay.folder.path().join("policy.wasm");
    assert_eq!(relay.ask("load policy two"), "Ok(\"in force\")");
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(relay.ask("load policy bad"), "Err(\"the component is bad\")");
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    let unknown = relay.ask("load unknown three");
    assert!(unknown.contains("no plugin \\\"unknown\\\" is configured"), "{unknown}");
    // No reload for what the worker knows: the next one is that of the users file.
    relay.write("users", "bob");
    let has = relay.says(" has [");
    assert!(has.contains("/users]") && has.contains("plugins=[\"two\"]"), "{has}");
}

#[test]
fn what_was_read_before_a_load_does_not_undo_it() {
    let mut relay = Relay::start();
    relay.says("\"event\":\"ready\"");
    let state = relay.folder.path().join("state");
    std::thread::scope(|scope| {
        let load = scope.spawn(|| ask(&state, "load policy slow"));
        relay.says("worker tries policy slow");
        // Now, with the old file still there, everything is to be read again.
        relay.signal(Signal::SIGHUP);
        relay.says("the reload waits");
        // Those who ask meanwhile are told what comes of what they asked for.
        let reload = scope.spawn(|| ask(&state, "reload"));
        relay.write("state/go", "");
        assert_eq!(load.join().unwrap(), "Ok(\"in force\")");
        assert!(relay.says(" has [").contains("[SIGHUP]"));
        assert!(relay.seen.last().unwrap().contains("plugins=[\"slow\"]"));
        assert_eq!(reload.join().unwrap(), "Ok(\"in force\")");
    });
}

/// Kills the worker, and gives why the next one does not get the files on disk, and what it says that it has. It is ready then.
fn next_worker(relay: &mut Relay, worker: Pid) -> (String, String) {
    kill(worker, Signal::SIGKILL).unwrap();
    relay.says("the worker died");
    let why = relay.says("the new worker gets what was in force");
    let has = relay.says("has [start]");
    relay.says("\"event\":\"ready\"");
    (why, has)
}

#[test]
fn a_new_worker_gets_what_was_in_force_and_not_what_was_refused() {
    let mut relay = Relay::start();
    let start = relay.says("has [start]");
    let before = listeners(&start);
    relay.says("\"event\":\"ready\"");

    // Refused by the worker: nothing of it stays, though all of it is on disk, written in place.
    relay.write("users", "mallory");
    relay.write("policy.wasm", "bad");
    relay.write("gatepost.toml", &configuration(&["b"]));
    assert_eq!(relay.ask("reload"), "Err(\"the component is bad\")");
    let (why, second) = next_worker(&mut relay, pid_in(&start));
    assert!(why.contains("the component is bad") && why.contains("SIGHUP"), "{why}");
    assert!(second.contains("users=Some(\"alice\") plugins=[\"one\"]"), "{second}");
    assert_eq!(listeners(&second), before);
    assert!(TcpStream::connect(before[0].2).is_ok());

    // Refused by the supervisor.
    relay.write("gatepost.toml", "hostnam = \"x\"\n");
    relay.signal(Signal::SIGHUP);
    relay.says("reload failed");
    let (why, third) = next_worker(&mut relay, pid_in(&second));
    assert!(why.contains("hostnam"), "{why}");
    assert!(third.contains("users=Some(\"alice\") plugins=[\"one\"]"), "{third}");

    // A file that is gone altogether, and nobody has asked about it.
    std::fs::remove_file(relay.folder.path().join("users")).unwrap();
    let (_, fourth) = next_worker(&mut relay, pid_in(&third));
    assert!(fourth.contains("users=Some(\"alice\")"), "{fourth}");

    // Mended, it is taken over, and is what the next one gets; there is nothing wrong any more.
    relay.write("users", "bob");
    relay.write("policy.wasm", "two");
    relay.write("gatepost.toml", &configuration(&["a"]));
    assert_eq!(relay.ask("reload"), "Ok(\"in force\")");
    let (why, fifth) = next_worker(&mut relay, pid_in(&fourth));
    assert!(!why.contains("refused"), "{why}");
    assert!(fifth.contains("users=Some(\"bob\") plugins=[\"two\"]"), "{fifth}");
}

#[test]
fn a_new_worker_gets_the_version_of_a_plugin_that_was_in_force() {
    let mut relay = Relay::start();
    let start = relay.says("has [start]");
    relay.says("\"event\":\"ready\"");
    // Taken over but for the plugin, whose version before stays.
    relay.write("policy.wasm", "worse");
    relay.write("users", "bob");
    assert_eq!(relay.ask("reload"), "Ok(\"in force\")");
    let (why, second) = next_worker(&mut relay, pid_in(&start));
    assert!(why.contains("the component is worse"), "{why}");
    assert!(
        second.contains("users=Some(\"bob\") plugins=[\"one\"]")
            && second.contains("kept=[\"the component is worse\"]"),
        "{second}"
    );

    // One that came by `plugin load`, whatever is written over its file then.
    assert_eq!(relay.ask("load policy loaded"), "Ok(\"in force\")");
    relay.write("policy.wasm", "bad");
    relay.says("/policy.wasm]");
    let (_, third) = next_worker(&mut relay, pid_in(&second));
    assert!(third.contains("plugins=[\"loaded\"]"), "{third}");

    // What kills the worker that tries it is not tried a second time.
    relay.write("policy.wasm", "deadly");
    relay.says("exited with status 3");
    let why = relay.says("the new worker gets");
    assert!(why.contains("died while it took over a change"), "{why}");
    let fourth = relay.says("has [start]");
    assert!(fourth.contains("plugins=[\"loaded\"]"), "{fourth}");
    relay.says("\"event\":\"ready\"");
    relay.signal(Signal::SIGTERM);
    relay.ends();
}

#[test]
fn a_new_worker_is_told_what_the_one_before_knew_of_plugins() {
    let mut relay = Relay::start();
    let first = relay.says("has [start]");
    assert!(first.contains("previous=[] taken_back=[] disabled={}"), "{first}");
    relay.says("\"event\":\"ready\"");
    assert_eq!(relay.ask("load policy two"), "Ok(\"in force\")");
    assert_eq!(relay.ask("disable"), "Ok(\"\")");
    relay.says("worker switches policy false");
    let (_, second) = next_worker(&mut relay, pid_in(&first));
    let history = "previous=[(1000, \"one\")] taken_back=[] disabled={\"policy\"}";
    assert!(
        second.contains("plugins=[\"two\"]") && second.contains(history),
        "{second}"
    );

    assert_eq!(relay.ask("back policy one"), "Ok(\"in force\")");
    assert_eq!(relay.ask("enable"), "Ok(\"\")");
    let (_, third) = next_worker(&mut relay, pid_in(&second));
    let history = "previous=[(1000, \"two\")] taken_back=[\"it failed\"] disabled={}";
    assert!(
        third.contains("plugins=[\"one\"]") && third.contains(history),
        "{third}"
    );

    // A running worker knows it by itself. What comes by a file is newer than what was taken back.
    relay.write("policy.wasm", "three");
    let has = relay.says("/policy.wasm]");
    assert!(has.contains("previous=[] taken_back=[] disabled={}"), "{has}");
    // Its turn comes when the file is taken over.
    assert_eq!(relay.ask("disable"), "Ok(\"\")");
    let (_, fourth) = next_worker(&mut relay, pid_in(&third));
    let history = "previous=[(1000, \"one\")] taken_back=[] disabled={\"policy\"}";
    assert!(
        fourth.contains("plugins=[\"three\"]") && fourth.contains(history),
        "{fourth}"
    );
}

#[test]
fn settings_that_stand_in_for_configured_ones_are_kept_and_no_file_is_changed() {
    let mut relay = Relay::start();
    let first = relay.says("has [start]");
    relay.says("\"event\":\"ready\"");
    let path = relay.folder.path().join("policy.wasm");
    assert_eq!(relay.ask("set 7 two"), "Ok(\"in force\")");
    assert_eq!(std::fs::read(&path).unwrap(), b"one");
    assert_eq!(relay.ask("set 8 three"), "Ok(\"in force\")");
    let (_, second) = next_worker(&mut relay, pid_in(&first));
    for part in ["plugins=[\"three\"]", "previous=[(7, \"two\")]", "uses=[8]"] {
        assert!(second.contains(part), "{part}: {second}");
    }
    // Without any, the component is the file's again.
    assert_eq!(relay.ask("load policy four"), "Ok(\"in force\")");
    assert_eq!(std::fs::read(&path).unwrap(), b"four");
    let (_, third) = next_worker(&mut relay, pid_in(&second));
    for part in ["plugins=[\"four\"]", "previous=[(8, \"three\")]", "uses=[]"] {
        assert!(third.contains(part), "{part}: {third}");
    }
}

#[test]
fn a_dead_worker_is_replaced_and_keeps_the_listeners() {
    let mut relay = Relay::start();
    let first = relay.says("has [start]");
    relay.says("\"event\":\"ready\"");
    kill(pid_in(&first), Signal::SIGKILL).unwrap();
    assert!(relay.says("the worker died").contains("killed by SIGKILL"));
    let second = relay.says("has [start]");
    assert_eq!(listeners(&second), listeners(&first));
    assert_ne!(pid_in(&second), pid_in(&first));
    relay.says("\"event\":\"ready\"");
    relay.signal(Signal::SIGINT);
    relay.ends();
}

#[test]
fn a_worker_that_cannot_start_ends_it() {
    let mut relay = Relay::start();
    // Too late for this run to notice, unless it is as slow as it is unlucky; the next one starts with it.
    relay.says("\"event\":\"ready\"");
    relay.signal(Signal::SIGTERM);
    relay.ends();
    relay.write("policy.wasm", "fail");
    let folder = relay.folder.path().join("gatepost.toml");
    let output = Command::new("/proc/self/exe")
        .args(only("supervisor_process"))
        .env(CONFIG, folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(said.contains("supervisor ends badly"), "{said}{log}");
    assert!(log.contains("the worker could not start"), "{log}");
}

#[test]
fn the_worker_does_not_survive_its_supervisor() {
    let mut relay = Relay::start();
    let worker = pid_in(&relay.says("has [start]"));
    relay.says("\"event\":\"ready\"");
    relay.signal(Signal::SIGKILL);
    // Both hold the output open: its end is the end of both.
    while let Ok(line) = relay.lines.recv_timeout(PATIENCE) {
        relay.seen.push(line);
    }
    relay.supervisor.wait().unwrap();
    // A process closes its files a little before it is gone.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "{state}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
