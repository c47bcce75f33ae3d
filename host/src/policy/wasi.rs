//! WASI for components whose language cannot do without it (JavaScript, Python): every interface is there, and nothing is behind it.
//!
//! No files, no preopened folders, no network, no names, no environment, no arguments, an empty standard input. Standard output and standard error go
//! into the plugin's log line by line, within the bounds of `log`. The wall clock is the call's own reading, as `gatepost:policy/clock`
//! gives it, and 1970 where there is no call; the monotonic clock stands still but for what the guest slept. Random numbers are the system's. Whoever sleeps or
//! polls does so on the call's wall time.
//!
//! Linked for components that import WASI only; the others carry one empty pointer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamResult, subscribe};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, async_trait};

use super::imports::{Guest, LOG_LINE_BYTES_MAX};
use crate::message::since_epoch;

/// Streams, pollables and whatever else an instance holds of WASI at a time.
const RESOURCES_MAX: usize = 1_000;
/// What a stream takes in one write.
const WRITE_BYTES_MAX: usize = 4 * 1024;

/// The interfaces that there are, all of version 0.2.
const INTERFACES: [&str; 27] = [
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];

/// Whether an import is WASI's, by its full name.
pub fn is_wasi(import: &str) -> bool {
    import.starts_with("wasi:")
}

/// What is wrong with an import of WASI, if anything: `wasi:http/types@0.2.0`.
pub fn refusal(import: &str) -> Option<String> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@').unwrap_or((import, ""));
    if interface.starts_with("http/") {
        return Some(format!(
            "it imports {import}: a policy has no HTTP but gatepost:policy/endpoint; build it without (componentize-js: disableFeatures [\"http\", \"fetch-event\"])"
        ));
    }
    let known = INTERFACES.contains(&interface);
    match (known, version.starts_with("0.2.")) {
        (true, true) => None,
        (true, false) => Some(format!(
            "it imports {import}: of WASI this host has version 0.2; build it for that"
        )),
        (false, _) => Some(format!(
            "it imports {import}, which this host does not have: of WASI it offers cli, clocks, filesystem, io, random and sockets, all of them empty"
        )),
    }
}

/// What an instance has of WASI.
pub struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    said: Arc<Mutex<Said>>,
    /// Nanoseconds that the guest slept: how far its monotonic clock has come.
    slept: Arc<AtomicU64>,
}

impl Wasi {
    /// `log_lines` is what a call may log; of more lines one is kept until somebody takes them, which tells that there were more.
    pub fn new(log_lines: u32) -> Wasi {
        let said = Arc::new(Mutex::new(Said {
            lines_max: (log_lines as usize).saturating_add(1),
            ..Said::default()
        }));
        let stream = |error| Stream {
            error,
            said: said.clone(),
        };
        let ctx = WasiCtx::builder()
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .stdout(stream(false))
            .stderr(stream(true))
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Wasi {
            ctx,
            table,
            said,
            slept: Arc::default(),
        }
    }

    /// The lines that were written since they were last taken, an unfinished last one too if `all`; true stands for standard error.
    pub fn take_lines(&self, all: bool) -> Vec<(bool, String)> {
        let mut said = self.said.lock();
        if all {
            said.end_line(false);
            said.end_line(true);
        }
        std::mem::take(&mut said.lines)
    }
}

/// What a guest wrote and nobody took yet.
#[derive(Default)]
struct Said {
    lines: Vec<(bool, String)>,
    lines_max: usize,
    /// Of standard output and of standard error, without its end; never more than a line of the log may have.
    unfinished: [Vec<u8>; 2],
}

impl Said {
    fn write(&mut self, error: bool, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let line = &mut self.unfinished[usize::from(error)];
            let room = LOG_LINE_BYTES_MAX - line.len();
            line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line(error);
            }
        }
    }

    fn end_line(&mut self, error: bool) {
        let line = std::mem::take(&mut self.unfinished[usize::from(error)]);
        if !line.is_empty() && self.lines.len() < self.lines_max {
            self.lines.push((error, String::from_utf8_lossy(&line).into_owned()));
        }
    }
}

/// Standard output or standard error.
#[derive(Clone)]
struct Stream {
    error: bool,
    said: Arc<Mutex<Said>>,
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.said.lock().write(self.error, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.said.lock().write(self.error, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

/// A guest's wait: it really takes so long, and then the guest's monotonic clock has come so far.
struct Nap {
    ends: tokio::time::Instant,
    slept: Arc<AtomicU64>,
    then: u64,
}

#[async_trait]
impl Pollable for Nap {
    async fn ready(&mut self) {
        tokio::time::sleep_until(self.ends).await;
        self.slept.fetch_max(self.then, Ordering::Relaxed);
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi();
        WasiCtxView {
            ctx: &mut wasi.ctx,
            table: &mut wasi.table,
        }
    }
}

impl wall_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let now = since_epoch(self.clock().unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(wall_clock::Datetime {
            seconds: now.as_secs(),
            // As exact as `gatepost:policy/clock`, so that both say the same.
            nanoseconds: now.subsec_millis() * 1_000_000,
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1_000_000,
        })
    }
}

impl monotonic_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.wasi().slept.load(Ordering::Relaxed))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = monotonic_clock::Host::now(self)?;
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, nanoseconds: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let wasi = self.wasi();
        let now = tokio::time::Instant::now();
        // 584 years at most, which the clock can hold; the call's wall time ends before.
        let nap = Nap {
            ends: now.checked_add(Duration::from_nanos(nanoseconds)).unwrap_or(now),
            slept: wasi.slept.clone(),
            then: wasi.slept.load(Ordering::Relaxed).saturating_add(nanoseconds),
        };
        let nap = wasi.table.push(nap)?;
        subscribe(&mut wasi.table, nap)
    }
}

impl random::Host for Guest {
    fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl insecure::Host for Guest {
    fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl insecure_seed::Host for Guest {
    /// What seeds the tables of the guest: a stranger chooses keys in them, so it is no constant.
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.random_u64()?, self.random_u64()?))
    }
}

/// Adds all of it.
pub fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    fn own(guest: &mut Guest) -> &mut Guest {
        guest
    }
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // The library's clocks and random numbers know nothing of calls.
    linker.allow_shadowing(true);
    wall_clock::add_to_linker::<_, HasSelf<_>>(linker, own)?;
    monotonic_clock::add_to_linker::<_, HasSelf<_>>(linker, own)?;
    random::add_to_linker::<_, HasSelf<_>>(linker, own)?;
    insecure::add_to_linker::<_, HasSelf<_>>(linker, own)?;
    insecure_seed::add_to_linker::<_, HasSelf<_>>(linker, own)?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_becomes_lines_within_bounds() {
        let wasi = Wasi::new(100);
        let mut said = wasi.said.lock();
        said.write(false, b"one\ntw");
        said.write(true, b"oops\n");
        said.write(false, b"o\n\nthree");
        drop(said);
        let line = |error, text: &str| (error, text.to_owned());
        assert_eq!(
            wasi.take_lines(false),
            [line(false, "one"), line(true, "oops"), line(false, "two")]
        );
        assert_eq!(wasi.take_lines(true), [line(false, "three")]);

        wasi.said.lock().write(false, &[b'x'; LOG_LINE_BYTES_MAX + 1]);
        assert_eq!(wasi.take_lines(true)[0].1.len(), LOG_LINE_BYTES_MAX);
        wasi.said.lock().write(true, "line\n".repeat(105).as_bytes());
        assert_eq!(wasi.take_lines(true).len(), 101);
    }

    #[test]
    fn what_there_is_not_is_named() {
        for import in ["wasi:cli/stdout@0.2.6", "wasi:sockets/udp@0.2.0", "wasi:io/poll@0.2.3"] {
            assert_eq!(refusal(import), None, "{import}");
        }
        for (import, part) in [
            ("wasi:http/types@0.2.10", "disableFeatures"),
            ("wasi:cli/stdout@0.3.0", "version 0.2"),
            ("wasi:keyvalue/store@0.2.0", "does not have"),
            ("wasi:cli/stdout", "does not have"),
        ] {
            let said = refusal(import).expect("it is refused");
            assert!(said.contains(import) && said.contains(part), "{said}");
        }
    }
}
