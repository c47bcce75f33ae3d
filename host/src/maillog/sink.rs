//! Where lines go: at once, or through a bounded buffer that a thread writes out.
//!
//! [`Sink::write`] never waits for the output. A buffered sink that is full drops the line, counts it, and says how many were lost as soon as
//! there is room. The thread lets lines gather for [`LINGER`], so that a busy daemon makes one wake-up and one write for many of
//! them; a crash loses at most those.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use tracing::Level;

use super::format::Format;

/// What the buffer holds, in bytes: some 10,000 lines, a second of heavy logging.
pub const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// How long lines gather before they are written.
const LINGER: Duration = Duration::from_millis(3);
/// PIPE_BUF: writes up to this to a pipe are not mixed with those of other processes (the supervisor writes to the same one).
const WRITE_BYTES: usize = 4096;
/// How long [`Sink::flush`] waits for an output that does not move.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the thread pauses when an output that was set to non-blocking is full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

pub struct Sink(Kind);

enum Kind {
    Direct(Mutex<Box<dyn Write + Send>>),
    Buffered { shared: Arc<Shared>, lost: Counter },
}

struct Shared {
    state: Mutex<State>,
    /// For the thread: there is something to write, or somebody waits.
    work: Condvar,
    /// For who waits in `flush`.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Since the last time that the loss was logged.
    lost: u64,
    /// The thread has lines in hand that are not written yet.
    writing: bool,
    /// How many wait in `flush`.
    flushing: usize,
}

impl Sink {
    pub fn direct(output: impl Write + Send + 'static) -> Arc<Sink> {
        Arc::new(Sink(Kind::Direct(Mutex::new(Box::new(output)))))
    }

    /// Starts the thread, which lives as long as the process. `format` is for the line that reports a loss.
    pub fn buffered(output: impl Write + Send + 'static, format: Format, lost: Counter) -> Arc<Sink> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            written: Condvar::new(),
        });
        let for_thread = (shared.clone(), lost.clone());
        let thread = std::thread::Builder::new().name("log".into());
        let started = thread.spawn(move || run(&for_thread.0, output, format, &for_thread.1));
        // No thread at the very start: the process has bigger worries than the order of its log.
        match started {
            Ok(_) => Arc::new(Sink(Kind::Buffered { shared, lost })),
            Err(_) => Sink::direct(io::stderr()),
        }
    }

    /// Takes one line, with its line feed.
    pub fn write(&self, line: &[u8]) {
        match &self.0 {
            Kind::Direct(output) => {
                // There is no place left to complain to.
                let _ = output.lock().write_all(line);
            }
            Kind::Buffered { shared, lost } => {
                let mut state = shared.state.lock();
                if state.lines.len() + line.len() > BUFFER_BYTES {
                    state.lost += 1;
                    drop(state);
                    lost.inc();
                    return;
                }
                let first = state.lines.is_empty();
                state.lines.extend_from_slice(line);
                drop(state);
                if first {
                    shared.work.notify_one();
                }
            }
        }
    }

    /// Returns when all that was written before is out, or after [`FLUSH_TIMEOUT`].
    pub fn flush(&self) {
        let Kind::Buffered { shared, .. } = &self.0 else { return };
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut state = shared.state.lock();
        state.flushing += 1;
        shared.work.notify_one();
        while (state.writing || !state.lines.is_empty()) && !shared.written.wait_until(&mut state, deadline).timed_out()
        {
        }
        state.flushing -= 1;
    }
}

fn run(shared: &Shared, mut output: impl Write, format: Format, lost: &Counter) {
    let mut lines = Vec::new();
    loop {
        let mut state = shared.state.lock();
        while state.lines.is_empty() {
            shared.work.wait(&mut state);
        }
        if state.flushing == 0 {
            shared.work.wait_for(&mut state, LINGER);
        }
        std::mem::swap(&mut state.lines, &mut lines);
        let missing = std::mem::take(&mut state.lost);
        state.writing = true;
        drop(state);

        if missing > 0 {
            lines.extend_from_slice(loss(format, missing).as_bytes());
        }
        lost.inc_by(write_lines(&mut output, &lines));
        lines.clear();

        shared.state.lock().writing = false;
        shared.written.notify_all();
    }
}

/// The line that says how many are missing.
fn loss(format: Format, lines: u64) -> String {
    let mut line = String::new();
    format
        .begin(&mut line, SystemTime::now(), Level::WARN, "log lines lost")
        .bare("lines", lines);
    format.end(&mut line);
    line
}

/// Writes whole lines, as many at a time as [`WRITE_BYTES`] allows. Returns how many could not be written.
fn write_lines(output: &mut impl Write, lines: &[u8]) -> u64 {
    let mut rest = lines;
    let mut failed = 0;
    while !rest.is_empty() {
        let end_of_line = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let fitting = rest[..rest.len().min(WRITE_BYTES)]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map(|at| at + 1);
        let end = fitting.or_else(|| end_of_line(rest)).unwrap_or(rest.len());
        if write_all(output, &rest[..end]).is_err() {
            failed += rest[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        rest = &rest[end..];
    }
    failed
}

/// As `Write::write_all`, but waits where the output is non-blocking and full (a terminal that another program has set so).
fn write_all(output: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that blocks until the test lets a write through, and hands over what was written.
    struct Gate {
        open: mpsc::Receiver<()>,
        written: mpsc::SyncSender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_costs_lines_but_no_time_and_the_loss_is_told() {
        let (open, gate) = mpsc::sync_channel(0);
        let (sender, written) = mpsc::sync_channel(1);
        let lost = Counter::default();
        let sink = Sink::buffered(
            Gate {
                open: gate,
                written: sender,
            },
            Format::Json,
            lost.clone(),
        );
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        // The thread may hold one buffer in hand while another fills: two of them take no more than this.
        let lines = 2 * BUFFER_BYTES / line.len() + 100;
        for _ in 0..lines {
            sink.write(&line);
        }
        assert!(lost.get() >= 100, "{} lost", lost.get());
        // Let everything out; each write is whole lines, and the one with the loss is the last.
        let mut text = Vec::new();
        loop {
            open.send(()).unwrap();
            let lines = written.recv().unwrap();
            text.extend_from_slice(&lines);
            if String::from_utf8_lossy(&lines).contains("log lines lost") {
                break;
            }
        }
        let out = text
            .split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(b"x"))
            .count() as u64;
        let told = format!("\"lines\":{}}}", lost.get());
        assert!(String::from_utf8_lossy(&text).contains(&told), "{told}");
        assert!(out + lost.get() <= lines as u64);
    }

    #[test]
    fn writes_are_whole_lines() {
        struct Chunks(Vec<Vec<u8>>);
        impl Write for Chunks {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let long = [[b'l'; 5000].as_slice(), b"\n"].concat();
        let short = [[b's'; 1499].as_slice(), b"\n"].concat();
        let all = [&short[..], &short, &short, &long, &short].concat();
        let mut chunks = Chunks(Vec::new());
        assert_eq!(write_lines(&mut chunks, &all), 0);
        assert_eq!(chunks.0, [[&short[..], &short].concat(), short.clone(), long, short]);
    }
}
