//! A next hop that takes everything and keeps it, byte for byte.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::PATIENCE;

/// One message as it came: the envelope's lines, and the content with dots unstuffed.
#[derive(Clone, Debug)]
pub struct Received {
    pub mail: String,
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
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

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    more: Condvar,
}

pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Accepts until the process ends.
    pub fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
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

    /// Waits until there are `count` messages, and gives them all.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        let deadline = Instant::now() + PATIENCE;
        let mut received = self.shared.received.lock().expect("no panic");
        while received.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited for {count} messages, got {}", received.len());
            received = self.shared.more.wait_timeout(received, left).expect("no panic").0;
        }
        received.clone()
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
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
            "DATA" => {
                out.write_all(b"354 go\r\n")?;
                let content = data(&mut lines)?;
                let message = Received { mail: mail.clone(), recipients: std::mem::take(&mut recipients), content };
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
