//! A next hop that keeps what it takes, byte for byte: everything, unless a test says how it answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use super::PATIENCE;

/// One message as it came: the envelope's lines, and the content with dots unstuffed.
#[derive(Clone, Debug)]
pub struct Received {
    pub mail: String,
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
    /// When the connection was accepted on which it came, and when it had come, just before its 250.
    pub connected: Instant,
    pub at: Instant,
}

impl Received {
    /// The content below the relay's own trace field.
    pub fn below_trace(&self) -> &[u8] {
        let mut at = 0;
        assert!(
            self.content.starts_with(b"Received: "),
            "no trace field: {:?}",
            String::from_utf8_lossy(&self.content)
        );
        loop {
            at += self.content[at..]
                .iter()
                .position(|byte| *byte == b'\n')
                .expect("the field ends")
                + 1;
            if !matches!(self.content.get(at), Some(b' ' | b'\t')) {
                return &self.content[at..];
            }
        }
    }
}

/// What a sink says to a command line other than with its 250; `None` is the 250.
type Answers = dyn Fn(&str) -> Option<String> + Send + Sync;

struct Shared {
    received: Mutex<Vec<Received>>,
    more: Condvar,
    answers: Box<Answers>,
}

pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Accepts until the process ends.
    pub fn start() -> Sink {
        Sink::answering(|_| None)
    }

    /// Answers MAIL and RCPT as `answers` says; what it says nothing to, it takes.
    pub fn answering(answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Sink {
        Sink::serve(TcpListener::bind("127.0.0.1:0").expect("a port"), Box::new(answers))
    }

    /// At an address of its own.
    pub fn at(address: SocketAddr) -> std::io::Result<Sink> {
        Ok(Sink::serve(TcpListener::bind(address)?, Box::new(|_| None)))
    }

    fn serve(listener: TcpListener, answers: Box<Answers>) -> Sink {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            more: Condvar::new(),
            answers,
        });
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = for_thread.clone();
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Sink { address, shared }
    }

    /// As a next hop of a configuration.
    pub fn next_hop(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub fn count(&self) -> usize {
        self.shared.received.lock().expect("no panic").len()
    }

    pub fn all(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }

    /// All but the first so many.
    pub fn after(&self, count: usize) -> Vec<Received> {
        self.shared.received.lock().expect("no panic")[count..].to_vec()
    }

    /// Waits until there are `count` messages, and gives them all.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        self.wait(|_| count).clone()
    }

    /// Waits until so many more have come.
    pub fn wait_for_more(&self, more: usize) {
        drop(self.wait(|now| now + more));
    }

    /// Waits until there are as many as `wanted` makes of those that are there.
    fn wait(&self, wanted: impl Fn(usize) -> usize) -> MutexGuard<'_, Vec<Received>> {
        let deadline = Instant::now() + PATIENCE;
        let mut received = self.shared.received.lock().expect("no panic");
        let count = wanted(received.len());
        while received.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited for {count} messages, got {}", received.len());
            received = self.shared.more.wait_timeout(received, left).expect("no panic").0;
        }
        received
    }
}

/// A next hop that is down: its port is taken, and connections to it are refused.
pub struct Down {
    socket: OwnedFd,
    pub address: SocketAddr,
}

impl Down {
    pub fn start() -> Down {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
        let address: SockaddrIn = getsockname(socket.as_raw_fd()).expect("bound");
        let address = SocketAddr::V4(SocketAddrV4::from(address));
        Down { socket, address }
    }

    /// As a next hop of a configuration.
    pub fn next_hop(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// It comes up.
    pub fn up(self) -> Sink {
        let backlog = nix::sys::socket::Backlog::new(128).expect("a small number");
        nix::sys::socket::listen(&self.socket, backlog).expect("listen");
        Sink::serve(TcpListener::from(self.socket), Box::new(|_| None))
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let connected = Instant::now();
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    out.write_all(b"220 sink.test ESMTP\r\n")?;
    let (mut mail, mut recipients) = (String::new(), Vec::new());
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = text.get(..4).unwrap_or_default().to_ascii_uppercase();
        if let Some(answer) = (shared.answers)(&text) {
            out.write_all(format!("{answer}\r\n").as_bytes())?;
            continue;
        }
        match verb.as_str() {
            "EHLO" => out.write_all(b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n")?,
            "MAIL" => {
                mail = text;
                recipients.clear();
                out.write_all(b"250 2.1.0 ok\r\n")?;
            }
            "RCPT" => {
                recipients.push(text);
                out.write_all(b"250 2.1.5 ok\r\n")?;
            }
            // Who pipelines has asked before he knew that nobody was taken.
            "DATA" if recipients.is_empty() => out.write_all(b"554 5.5.1 no valid recipients\r\n")?,
            "DATA" => {
                out.write_all(b"354 go\r\n")?;
                let content = data(&mut lines)?;
                let message = Received { mail: mail.clone(), recipients: std::mem::take(&mut recipients), content, connected, at: Instant::now() };
                shared.received.lock().expect("no panic").push(message);
                shared.more.notify_all();
                out.write_all(b"250 2.0.0 kept\r\n")?;
            }
            "QUIT" => return out.write_all(b"221 2.0.0 bye\r\n"),
            _ => out.write_all(b"250 2.0.0 ok\r\n")?,
        }
    }
}

/// Message data up to the lone dot; a line ends at CRLF only, so that what a bare LF would smuggle stays inside.
fn data(lines: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        loop {
            if lines.read_until(b'\n', &mut content)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if content.ends_with(b"\r\n") {
                break;
            }
        }
        if &content[start..] == b".\r\n" {
            content.truncate(start);
            return Ok(content);
        }
        if content[start] == b'.' {
            content.remove(start);
        }
    }
}
