//! A state server of a test's own: Debian's `redis-server`, on loopback, which keeps nothing on disk.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENCE, free_address, peer, until};

/// The program, as Debian has it.
const SERVER: &str = "redis-server";

/// Killed when dropped.
pub struct Redis {
    pub address: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Redis {
    /// Started and answering; none, with a loud word, where the program is not installed.
    pub fn start(arguments: &[&str]) -> Option<Redis> {
        if !peer(SERVER) {
            return None;
        }
        let mut redis = Redis {
            address: free_address(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            child: None,
            folder: tempfile::tempdir().expect("a folder for the server"),
        };
        redis.start_again();
        Some(redis)
    }

    /// For the configuration's `state`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts it, empty, at the same address.
    pub fn start_again(&mut self) {
        let child = Command::new(SERVER)
            .args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        self.child = Some(child);
        // Where a password is wanted, that is an answer too.
        until("the state server answers", || {
            self.try_command("PING")
                .is_ok_and(|answer| answer == "+PONG" || answer.starts_with("-NOAUTH"))
        });
    }

    /// Ends it, and with it all connections to it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// It takes connections and bytes, and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// One command without quoting; the first line of the answer.
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).expect("the state server")
    }

    fn try_command(&self, command: &str) -> std::io::Result<String> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        write!(socket, "{command}\r\n")?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("it is there");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
