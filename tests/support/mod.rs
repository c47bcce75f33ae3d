//! What end-to-end tests share: a relay of its own in a folder of its own, a client that speaks line by line, and a next hop that keeps what it gets.
//!
//! Everything is on loopback with ports that the system chooses, every wait has a bound, and everything that was started ends with its value.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod client;
pub mod dns;
pub mod hostile;
pub mod names;
pub mod redis;
pub mod replay;
pub mod scanners;
pub mod servers;
pub mod sink;
pub mod versions;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything may take before a test fails. Generous: machines that test are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The executable under test.
pub const GATEPOST: &str = env!("CARGO_BIN_EXE_gatepost");

/// The executable as a command, which keeps what it compiles in the tests' folder and not in the tester's.
pub fn gatepost() -> Command {
    let mut command = Command::new(GATEPOST);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// What `gatepost check` says of a configuration.
pub fn check(config: &Path) -> Output {
    let mut check = gatepost();
    check.args(["check", "--config"]).arg(config);
    check.output().expect("gatepost check")
}

/// A reference plugin's component. Built by `scripts/build-plugins`, which `make test` runs first.
pub fn plugin(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/plugins")
        .join(format!("{name}.wasm"));
    assert!(
        path.exists(),
        "{} is not there: run `scripts/build-plugins` first, or `make test`",
        path.display()
    );
    path
}

/// A test's own component. Built by `scripts/build-plugins --from tests/guests --out target/guests`, which `make test` runs first.
pub fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/guests")
        .join(format!("{name}.wasm"));
    assert!(
        path.exists(),
        "{} is not there: run `scripts/build-plugins --from tests/guests --out target/guests` first, or `make test`",
        path.display()
    );
    path
}

/// An address that was free a moment ago, for what cannot be asked afterwards which port the system chose.
pub fn free_address() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound")
}

/// A configuration in the making. What a test does not say is a relay for `ours.test` with one listener, `mx`.
pub struct Setup {
    top: String,
    listeners: String,
    delivery: String,
    plugins: String,
    users: Vec<(String, String)>,
    certificate: bool,
    pub dir: tempfile::TempDir,
}

impl Setup {
    pub fn new() -> Setup {
        Setup {
            top: String::new(),
            listeners: String::new(),
            delivery: String::new(),
            plugins: String::new(),
            users: Vec::new(),
            certificate: false,
            dir: tempfile::Builder::new()
                .prefix("gatepost-test-")
                .tempdir()
                .expect("a folder for the test"),
        }
    }

    /// Top-level keys, such as `trusted_networks = [...]`, and whole tables that need no help.
    pub fn top(mut self, toml: &str) -> Setup {
        self.top += toml;
        self.top += "\n";
        self
    }

    /// A listener on a port of the system's choice: `listener("submission", "tls = \"starttls\"\nauth = \"required\"")`.
    pub fn listener(mut self, name: &str, toml: &str) -> Setup {
        self.certificate |= !toml.contains("tls = \"none\"");
        let _ = writeln!(
            self.listeners,
            "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n{toml}\n"
        );
        self
    }

    pub fn next_hop(self, next_hop: &str) -> Setup {
        self.delivery(&format!("next_hop = \"{next_hop}\""))
    }

    /// Keys of `[delivery]`.
    pub fn delivery(mut self, toml: &str) -> Setup {
        let _ = writeln!(self.delivery, "{toml}");
        self
    }

    /// A plugin with its grants as TOML (`"state", "dns"`) and further keys.
    pub fn plugin(mut self, name: &str, file: &Path, grants: &str, toml: &str) -> Setup {
        let file = file.display();
        let _ = writeln!(
            self.plugins,
            "[[plugin]]\nname = \"{name}\"\nfile = \"{file}\"\ngrants = [{grants}]\n{toml}\n"
        );
        self
    }

    pub fn auth_relay(self, config: &str) -> Setup {
        let file = plugin("auth-relay");
        let config = match config {
            "" => String::new(),
            config => format!("[plugin.config]\n{config}"),
        };
        self.plugin("auth-relay", &file, "\"credentials\", \"relay\"", &config)
    }

    pub fn user(mut self, name: &str, password: &str) -> Setup {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Writes the configuration and everything that it names.
    pub fn write(&self) -> PathBuf {
        let dir = self.dir.path();
        let mut text = String::from("hostname = \"relay.test\"\nstate_dir = \"state\"\n");
        if !self.top.contains("relay_domains") {
            text += "relay_domains = [\"ours.test\"]\n";
        }
        text += &self.top;
        text += "\n";
        if self.listeners.is_empty() {
            text += "[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\n";
        }
        text += &self.listeners;
        if self.certificate {
            let made = rcgen::generate_simple_self_signed(["relay.test".to_owned(), "localhost".to_owned()])
                .expect("a certificate");
            std::fs::write(dir.join("cert.pem"), made.cert.pem()).expect("cert.pem");
            std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("key.pem");
            text += "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n\n";
        }
        if !self.users.is_empty() {
            text += "[auth]\nusers = \"users\"\n\n";
        }
        let delivery = if self.delivery.is_empty() {
            "next_hop = \"discard:\"\n"
        } else {
            &self.delivery
        };
        let _ = write!(text, "[delivery]\n{delivery}\n{}", self.plugins);
        let path = dir.join("gatepost.toml");
        std::fs::write(&path, text).expect("gatepost.toml");
        for (name, password) in &self.users {
            let mut add = Command::new(GATEPOST)
                .args(["user", "add", name, "--config"])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("gatepost user add");
            add.stdin
                .take()
                .expect("piped")
                .write_all(password.as_bytes())
                .expect("the password");
            assert!(add.wait().expect("gatepost user add").success());
        }
        path
    }

    pub fn start(self) -> Relay {
        let config = self.write();
        Relay::start(self.dir, config)
    }

    /// Starts what cannot run: it must end by itself with status 1. Gives what it said.
    pub fn refused(self) -> String {
        let config = self.write();
        let mut child = launch(&config, self.dir.path());
        let mut ended = None;
        until("the relay refuses to start", || {
            ended = child.try_wait().expect("its state");
            ended.is_some()
        });
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{log}");
        log
    }
}

/// A running relay. Killed, with its worker, when dropped.
pub struct Relay {
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    child: Child,
    listeners: Vec<(String, SocketAddr)>,
}

impl Relay {
    /// Starts `gatepost run` and waits until its admin socket answers.
    pub fn start(dir: tempfile::TempDir, config: PathBuf) -> Relay {
        // A worker that is not root must be able to reach its folder.
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("the folder's mode");
        let child = launch(&config, dir.path());
        let mut relay = Relay {
            dir,
            config,
            child,
            listeners: Vec::new(),
        };
        relay.wait_until_up();
        relay
    }

    /// Starts it again in the same folder, after [`Relay::kill`] or [`Relay::terminate`].
    pub fn restart(&mut self) {
        self.child = launch(&self.config, self.dir.path());
        self.wait_until_up();
    }

    /// Waits until its admin socket answers, and learns its listeners' ports: after a start, or when a new worker is due.
    pub fn wait_until_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the relay ended with {status}:\n{}", self.log());
            }
            if let Ok(status) = self.try_admin("{\"command\":\"status\"}") {
                let status: serde_json::Value = serde_json::from_str(&status).expect("a status");
                self.listeners = serde_json::from_value(status["listeners"].clone()).expect("listeners");
                return;
            }
            assert!(Instant::now() < deadline, "the relay is not up:\n{}", self.log());
            pause();
        }
    }

    /// Asks again which listeners there are, after a reload.
    pub fn look_again(&mut self) {
        self.wait_until_up();
    }

    /// Where a listener is.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        found
            .unwrap_or_else(|| panic!("no listener {listener} in {:?}", self.listeners))
            .1
    }

    /// A connection to a listener whose banner was read.
    pub fn connect(&self, listener: &str) -> client::Client {
        let mut client = client::Client::connect(self.address(listener));
        client.expect("220");
        client
    }

    /// One request to the admin socket, as one line of JSON; the answer likewise.
    pub fn admin(&self, request: &str) -> String {
        self.try_admin(request)
            .unwrap_or_else(|error| panic!("the admin socket: {error}\n{}", self.log()))
    }

    fn try_admin(&self, request: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.dir.path().join("state/admin.sock"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(request.as_bytes())?;
        socket.write_all(b"\n")?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line)?;
        match line.is_empty() {
            true => Err(std::io::ErrorKind::UnexpectedEof.into()),
            false => Ok(line),
        }
    }

    /// The worker dies, and another one takes its place.
    pub fn next_worker(&mut self) {
        let worker = self.worker();
        nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL).expect("the worker is there");
        let gone = || std::fs::read_to_string(format!("/proc/{worker}/stat")).is_err();
        until("the worker is gone", gone);
        self.wait_until_up();
    }

    /// `gatepost ARGS --config ...`: its standard output; fails unless it succeeds.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same for a command that must fail with status 1: its standard error.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        said
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        gatepost()
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .output()
            .expect("gatepost")
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.supervisor(), signal).expect("the supervisor is there");
    }

    pub fn supervisor(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// The worker's process.
    pub fn worker(&self) -> nix::unistd::Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        nix::unistd::Pid::from_raw(pid.unwrap_or_else(|| panic!("no worker:\n{}", self.log())))
    }

    /// SIGKILL to the supervisor; the kernel takes the worker with it.
    pub fn kill(&mut self) {
        let worker = self.worker();
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        until("the worker is gone", || nix::sys::signal::kill(worker, None).is_err());
    }

    /// The exit status, once it has ended.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("wait")
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.child.wait().expect("wait")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until a line of the log has all of these texts, and gives it.
    pub fn logged(&self, texts: &[&str]) -> String {
        let mut found = None;
        until(&format!("a log line with {texts:?}"), || {
            found = self
                .log()
                .lines()
                .find(|line| texts.iter().all(|text| line.contains(text)))
                .map(str::to_owned);
            found.is_some()
        });
        found.expect("found")
    }

    /// A page of `[admin] address`.
    pub fn page(&self, address: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).expect("the admin listener");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
        .expect("a request");
        let mut page = String::new();
        socket.read_to_string(&mut page).expect("a page");
        page
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the relay's log\n{}---", self.log());
        }
    }
}

fn launch(config: &Path, dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log");
    // A socket of a relay that was killed must not answer for the new one.
    let _ = std::fs::remove_file(dir.join("state/admin.sock"));
    Command::new(GATEPOST)
        .args(["run", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("gatepost run")
}

/// Waits until something is so; fails the test, naming it, if it is not within [`PATIENCE`].
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        pause();
    }
}

/// The grain of polling for what has no event: short against everything that is waited for.
fn pause() {
    std::thread::park_timeout(Duration::from_millis(10));
}

/// A program from Debian's packages, or a loud word that its tests are skipped. In CI (`CI` is set) they never are.
pub fn peer(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(sbin)
            .any(|folder| folder.join(program).exists())
    });
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{program} is not installed, and CI skips nothing: see scripts/setup-tests"
        );
        eprintln!("SKIPPED: {program} is not installed (scripts/setup-tests installs it)");
    }
    found
}
