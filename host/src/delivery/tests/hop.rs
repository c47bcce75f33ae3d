//! A next hop on loopback that says what a script tells it to, and reports what it got.

#![allow(clippy::disallowed_methods, reason = "a test sends a handful of values")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// A message that a hop took, or one that it refused after it had seen it.
#[derive(Debug)]
pub struct Taken {
    /// Commands since the last message, without CRLF, EHLO and the like included.
    pub commands: Vec<String>,
    /// As it was before dot-stuffing.
    pub content: String,
    /// Which connection, from 1.
    pub connection: usize,
    pub tls: bool,
}

pub struct Hop {
    pub address: SocketAddr,
    taken: mpsc::UnboundedReceiver<Taken>,
    goodbyes: mpsc::UnboundedReceiver<()>,
    connections: Arc<AtomicUsize>,
}

/// Where a connection reports to.
#[derive(Clone)]
struct Reports {
    taken: mpsc::UnboundedSender<Taken>,
    goodbyes: mpsc::UnboundedSender<()>,
}

/// Lines `COMMAND-PREFIX = reply`, the first that fits counts. The greeting is `BANNER`, the end of data is `.`. A
/// reply may have several lines with `|`, be `CLOSE`, which drops the connection, or `SILENCE`. `[2] COMMAND = reply`
/// holds for the second connection only. Without a line: 250, or 354, or 220 for the greeting.
#[derive(Clone)]
struct Script(&'static str);

impl Script {
    fn reply(&self, command: &str, connection: usize) -> String {
        let said = self.0.lines().find_map(|line| {
            let line = line.trim();
            let line = match line.strip_prefix('[') {
                Some(rest) => {
                    let (number, rest) = rest.split_once("] ").expect("[N] LINE");
                    (number == connection.to_string()).then_some(rest)?
                }
                None => line,
            };
            let (prefix, reply) = line.rsplit_once(" = ")?;
            command.starts_with(prefix).then_some(reply)
        });
        let said = said.unwrap_or(match command {
            "BANNER" => "220 hop.example ESMTP",
            "DATA" => "354 go on",
            _ => "250 2.0.0 fine",
        });
        said.split('|').map(|line| format!("{line}\r\n")).collect()
    }
}

impl Hop {
    pub async fn start(script: &'static str) -> Hop {
        Hop::with_tls(script, None).await
    }

    /// With a certificate, EHLO should offer STARTTLS.
    pub async fn with_tls(script: &'static str, tls: Option<TlsAcceptor>) -> Hop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (taken_sender, taken) = mpsc::unbounded_channel();
        let (goodbye_sender, goodbyes) = mpsc::unbounded_channel();
        let reports = Reports {
            taken: taken_sender,
            goodbyes: goodbye_sender,
        };
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(serve(socket, Script(script), reports.clone(), number, tls.clone()));
            }
        });
        Hop {
            address,
            taken,
            goodbyes,
            connections,
        }
    }

    /// The next message that comes; a test without one would hang, so this has a limit.
    pub async fn message(&mut self) -> Taken {
        tokio::time::timeout(super::PATIENCE, self.taken.recv())
            .await
            .expect("a message in time")
            .expect("the hop lives as long as the runtime")
    }

    /// Waits for a connection to end with QUIT.
    pub async fn goodbye(&mut self) {
        let goodbye = tokio::time::timeout(super::PATIENCE, self.goodbyes.recv()).await;
        goodbye
            .expect("a goodbye in time")
            .expect("the hop lives as long as the runtime");
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn nothing_more(&mut self) -> bool {
        self.taken.try_recv().is_err()
    }
}

async fn serve(socket: TcpStream, script: Script, reports: Reports, number: usize, tls: Option<TlsAcceptor>) {
    let mut socket = BufReader::new(socket);
    if !say(&mut socket, &script.reply("BANNER", number)).await {
        return;
    }
    let wants_tls = talk(&mut socket, &script, &reports, number, false).await;
    if let (true, Some(acceptor)) = (wants_tls, tls)
        && let Ok(stream) = acceptor.accept(socket.into_inner()).await
    {
        talk(&mut BufReader::new(stream), &script, &reports, number, true).await;
    }
}

/// Until the client leaves, or wants TLS.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut BufReader<S>,
    script: &Script,
    reports: &Reports,
    number: usize,
    tls: bool,
) -> bool {
    let mut commands = Vec::new();
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
            return false;
        }
        let command = line.trim_end().to_owned();
        commands.push(command.clone());
        let reply = script.reply(&command, number);
        if command == "QUIT" {
            // The test may be over.
            let _ = reports.goodbyes.send(());
        }
        if !say(socket, &reply).await || command == "QUIT" {
            return false;
        }
        if command == "STARTTLS" && reply.starts_with("220") {
            return true;
        }
        if command == "DATA" && reply.starts_with("354") {
            let mut content = Vec::new();
            while !content.ends_with(b"\r\n.\r\n") && content != b".\r\n" {
                match socket.read_u8().await {
                    Ok(byte) => content.push(byte),
                    Err(_) => return false,
                }
            }
            let text = String::from_utf8_lossy(&content[..content.len() - 3]).into_owned();
            let content = text
                .split_inclusive("\r\n")
                .map(|line| line.strip_prefix('.').unwrap_or(line))
                .collect();
            let commands = std::mem::take(&mut commands);
            // The test may be over.
            let _ = reports.taken.send(Taken {
                commands,
                content,
                connection: number,
                tls,
            });
            if !say(socket, &script.reply(".", number)).await {
                return false;
            }
        }
    }
}

/// False: drop the connection.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut BufReader<S>, reply: &str) -> bool {
    match reply.trim_end() {
        "CLOSE" => return false,
        "SILENCE" => std::future::pending().await,
        _ => {}
    }
    socket.write_all(reply.as_bytes()).await.is_ok() && socket.flush().await.is_ok()
}
