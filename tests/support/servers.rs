//! Real servers for a test's own use: Postfix, NSD, clamd, rspamd and spamd in a folder and on a port of their own, ended with their value.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::{free_address, peer, until};

/// A helper script of `tests/peers`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

/// Whether this is root. A test that needs it says so aloud and is skipped otherwise; in CI it never is.
pub fn root(what: &str) -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    assert!(
        root || std::env::var_os("CI").is_none(),
        "{what} needs root, and CI skips nothing"
    );
    if !root {
        eprintln!("SKIPPED: {what} needs root");
    }
    root
}

/// Runs a program to its end; its standard output. Fails, with all that it said, unless it succeeds.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// A server that a helper script started.
struct Server {
    script: &'static str,
    dir: tempfile::TempDir,
    port: u16,
}

impl Server {
    fn start(script: &'static str, arguments: &[&str]) -> Server {
        let dir = tempfile::Builder::new()
            .prefix("gatepost-peer-")
            .tempdir()
            .expect("a folder for the server");
        // Free until somebody takes it; the script refuses to start on a port that was taken meanwhile.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let server = Server { script, dir, port };
        server.act("start", |command| {
            command.args(["--port", &port.to_string()]).args(arguments);
        });
        server
    }

    fn act(&self, action: &str, more: impl FnOnce(&mut Command)) {
        let mut command = Command::new("python3");
        command
            .arg(script(self.script))
            .args([action, "--dir"])
            .arg(self.dir.path());
        more(&mut command);
        run(&mut command);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = Command::new("python3")
            .arg(script(self.script))
            .args(["stop", "--dir"])
            .arg(self.dir.path())
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("{} did not stop in {}", self.script, self.dir.path().display());
        }
    }
}

/// A Postfix.
pub struct Postfix(Server);

impl Postfix {
    /// With these options of `tests/peers/postfix.py`; `None` if it cannot be had here.
    pub fn start(options: &[&str]) -> Option<Postfix> {
        let can = peer("python3") && peer("postfix") && root("Postfix");
        can.then(|| Postfix(Server::start("postfix.py", options)))
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.0.port))
    }

    /// As a next hop of a configuration.
    pub fn next_hop(&self) -> String {
        format!("smtp://{}", self.address())
    }

    /// Tries again what is queued, now.
    pub fn flush(&self) {
        self.0.act("flush", |_| {});
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.0.dir.path().join("mail.log")).unwrap_or_default()
    }

    /// The message in its store that has this text, once it is there.
    pub fn stored(&self, text: &str) -> Vec<u8> {
        let mut found = None;
        until(&format!("Postfix stores a message with {text:?}"), || {
            let folder = std::fs::read_dir(self.0.dir.path().join("mail/all/new"));
            let mut files = folder.into_iter().flatten().flatten();
            found = files.find_map(|file| {
                let content = std::fs::read(file.path()).ok()?;
                memchr::memmem::find(&content, text.as_bytes()).map(|_| content)
            });
            found.is_some()
        });
        found.expect("found")
    }
}

/// A name server for some zones.
pub struct Nsd {
    server: Server,
}

impl Nsd {
    /// With zones as `("example.test", "@ SOA ...")`; `None` if it cannot be had here.
    pub fn start(zones: &[(&str, &str)]) -> Option<Nsd> {
        if !peer("python3") || !peer("nsd") {
            return None;
        }
        let files = tempfile::tempdir().expect("a folder for zones");
        let mut arguments = Vec::new();
        for (name, zone) in zones {
            let file = files.path().join(name);
            std::fs::write(&file, zone).expect("a zone");
            arguments.extend(["--zone".to_owned(), format!("{name}={}", file.display())]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Some(Nsd {
            server: Server::start("nsd.py", &arguments),
        })
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port))
    }
}

/// The text that scanners take for a virus so that they can be tried (eicar.org), in two parts, lest this file is taken for one.
pub const EICAR: [&str; 2] = [
    r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD",
    "-ANTIVIRUS-TEST-FILE!$H+H*",
];

/// A clamd that knows one signature, [`Clamd::SIGNATURE`] for [`EICAR`], on a Unix socket and a TCP port.
pub struct Clamd {
    dir: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Clamd {
    /// As clamd names a signature of a database that is not ClamAV's own.
    pub const SIGNATURE: &str = "Gatepost.Eicar.UNOFFICIAL";

    /// With this `StreamMaxLength`; `None` if it cannot be had here.
    pub fn start(stream_max: &str) -> Option<Clamd> {
        if !peer("clamd") {
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("gatepost-clamd-")
            .tempdir()
            .expect("a folder for clamd");
        // The relay's worker, another user, must reach the socket.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("the folder's mode");
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).expect(name);
        let address = free_address();
        let path = dir.path().display();
        let port = address.port();
        write(
            "clamd.conf",
            format!(
                "DatabaseDirectory {path}\nLogFile {path}/log\nLocalSocket {path}/clamd.ctl\nTCPAddr 127.0.0.1\nTCPSocket {port}\n\
                 Foreground yes\nStreamMaxLength {stream_max}\n"
            ),
        );
        // Any file type (0), anywhere in it (*).
        let hex: String = EICAR.concat().bytes().map(|byte| format!("{byte:02x}")).collect();
        write("own.ndb", format!("Gatepost.Eicar:0:*:{hex}\n"));
        let process = Clamd::launch(dir.path());
        let mut clamd = Clamd { dir, address, process };
        clamd.wait_until_up();
        Some(clamd)
    }

    fn launch(dir: &Path) -> Child {
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("clamd")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("--config-file")
            .arg(dir.join("clamd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("clamd")
    }

    fn wait_until_up(&mut self) {
        let socket = self.dir.path().join("clamd.ctl");
        until("clamd is up", || {
            if let Ok(Some(status)) = self.process.try_wait() {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                panic!("clamd ended with {status}:\n{log}");
            }
            UnixStream::connect(&socket).is_ok() && TcpStream::connect(self.address).is_ok()
        });
    }

    /// As endpoints of a configuration: by its Unix socket, and by TCP.
    pub fn endpoints(&self) -> [String; 2] {
        let socket = self.dir.path().join("clamd.ctl");
        [format!("unix:{}", socket.display()), format!("tcp://{}", self.address)]
    }

    /// Ends it; its address stays its own.
    pub fn stop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }

    /// Starts it again, after [`Clamd::stop`].
    pub fn start_again(&mut self) {
        self.process = Clamd::launch(self.dir.path());
        self.wait_until_up();
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server that was started in the foreground, in a folder of its own, at a TCP port and perhaps a Unix socket; ended with its value.
struct Daemon {
    dir: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Daemon {
    /// `command` is given the folder and the address. Waits until `is_up`.
    fn start(name: &str, command: impl Fn(&Path, SocketAddr) -> Command, is_up: impl Fn(SocketAddr) -> bool) -> Daemon {
        let dir = tempfile::Builder::new()
            .prefix(&format!("gatepost-{name}-"))
            .tempdir()
            .expect("a folder for the server");
        // The relay's worker and the server itself may be other users.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("the folder's mode");
        let address = free_address();
        let log = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(dir.path().join("log"))
        };
        let mut command = command(dir.path(), address);
        let path = std::env::var("PATH").unwrap_or_default();
        let process = command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::null())
            .stdout(log().expect("a log"))
            .stderr(log().expect("a log"))
            .spawn()
            .expect(name);
        let mut daemon = Daemon { dir, address, process };
        until(&format!("{name} is up"), || {
            if let Ok(Some(status)) = daemon.process.try_wait() {
                let log = std::fs::read_to_string(daemon.dir.path().join("log")).unwrap_or_default();
                panic!("{name} ended with {status}:\n{log}");
            }
            is_up(address)
        });
        daemon
    }

    fn stop(&mut self) {
        // Both have children, which end with a parent that is asked to end.
        if let Ok(None) = self.process.try_wait() {
            let process = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
            nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).expect("kill");
            self.process.wait().expect("wait");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The text that scanners take for spam so that they can be tried (GTUBE), in two parts, lest this file is taken for it.
pub const GTUBE: [&str; 2] = [
    "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
    "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
];

/// An rspamd with Debian's rules, without a network: its name server is nowhere, and it has no Redis.
pub struct Rspamd(Daemon);

impl Rspamd {
    /// `None` if it cannot be had here.
    pub fn start() -> Option<Rspamd> {
        if !peer("rspamd") {
            return None;
        }
        let command = |dir: &Path, address: SocketAddr| {
            let (path, config) = (dir.display(), dir.join("rspamd.conf"));
            let text = format!(
                r#".include "/etc/rspamd/common.conf"
options {{
    filters = "chartable,dkim,regexp";
    control_socket = "{path}/control.sock mode=0600";
    cache_file = "{path}/symbols.cache";
    hs_cache_dir = "{path}";
    tempdir = "{path}";
    url_tld = "{path}/tld";
    dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
    local_addrs = [127.0.0.0/8];
}}
logging {{ type = "console"; level = "info"; }}
worker "normal" {{ bind_socket = "{address}"; bind_socket = "{path}/rspamd.sock mode=0666"; count = 1; }}
"#
            );
            std::fs::write(&config, text).expect("a configuration");
            // The whole list of public suffixes takes it a quarter of a minute.
            std::fs::write(dir.join("tld"), "com\nnet\norg\ntest\n").expect("a list");
            let mut command = Command::new("rspamd");
            command.args(["--no-fork", "--insecure", "--pid"]).arg(dir.join("pid"));
            command.arg("--config").arg(config);
            if nix::unistd::Uid::effective().is_root() {
                command.args(["--user", "nobody", "--group", "nogroup"]);
            }
            command
        };
        // It listens before it has read its rules.
        let is_up = |address| {
            let asked = TcpStream::connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
                stream.write_all(b"GET /ping HTTP/1.1\r\nHost: rspamd\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            });
            asked.is_ok_and(|answer| answer.contains("pong"))
        };
        Some(Rspamd(Daemon::start("rspamd", command, is_up)))
    }

    /// As endpoints of a configuration: by its Unix socket, and by TCP.
    pub fn endpoints(&self) -> [String; 2] {
        let socket = self.0.dir.path().join("rspamd.sock");
        [
            format!("unix:{}", socket.display()),
            format!("tcp://{}", self.0.address),
        ]
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.0.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends it; its address stays its own.
    pub fn stop(&mut self) {
        self.0.stop();
    }
}

/// A spamd with Debian's rules that asks nobody.
pub struct Spamd(Daemon);

impl Spamd {
    /// `None` if it cannot be had here.
    pub fn start() -> Option<Spamd> {
        if !peer("spamd") {
            return None;
        }
        let command = |dir: &Path, address: SocketAddr| {
            let mut command = Command::new("spamd");
            command.args(["--local", "--nouser-config", "--max-children=2", "--syslog=stderr"]);
            command
                .args(["--listen", &address.to_string(), "--helper-home-dir"])
                .arg(dir);
            if nix::unistd::Uid::effective().is_root() {
                command.args(["--username", "nobody"]);
            }
            command
        };
        let is_up = |address| TcpStream::connect(address).is_ok();
        Some(Spamd(Daemon::start("spamd", command, is_up)))
    }

    pub fn endpoint(&self) -> String {
        format!("tcp://{}", self.0.address)
    }

    /// Ends it; its address stays its own.
    pub fn stop(&mut self) {
        self.0.stop();
    }
}
