//! Starting the process that compiles, and what its end means.
//!
//! It is this executable again, called with [`COMPILE_ARGUMENT`] and its [`Limits`], and becomes confined before it reads a byte of the component
//! (see [`confined`](super::confined)). Component, code and complaints go through memory files: no pipe can block, the code's size is bounded by the
//! kernel, and all of it ends with the descriptors. It is waited for, for as long as [`Limits::wall`], and killed if whoever waits goes away.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::time::timeout;

use super::{NativeCode, blocking, does_not_compile, memory_file};

/// The argument that makes the executable a compiler. Nobody types it.
pub const COMPILE_ARGUMENT: &str = "__compile";
/// The component is none, or not one that this engine takes; standard error says why.
pub(super) const REFUSED: u8 = 3;
/// What it may use was not enough, and it noticed.
pub(super) const NO_MEMORY: u8 = 4;
/// Bytes of complaints that are kept.
const COMPLAINT_BYTES_MAX: u64 = 2_000;
/// Our allocator reserves address space by the GiB, which would count as memory.
const ALLOCATOR_RESERVE: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "64MiB");
/// What the standard library says when an allocation fails, before it ends the process.
const ALLOCATION_FAILED: &str = "memory allocation of ";

/// What compiling one component may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Address space of the process, the executable included.
    pub memory_bytes: u64,
    /// CPU time of all its threads, in whole seconds.
    pub cpu: Duration,
    /// From start to end.
    pub wall: Duration,
    /// Of native code.
    pub code_bytes: u64,
    /// One thread compiles for so many processors of the machine.
    pub processors_per_thread: u64,
}

impl Limits {
    /// The largest component that we have seen is Python's interpreter with a policy: 18 MB. Compiling it takes 20 to 60 s of CPU time and 870 MB of
    /// address space (470 MB of memory), and makes 35 MB of code. There is room for several times that, and not for a machine's
    /// whole memory, nor for a night. The wall clock allows for a busy machine, on which the process has the lowest place.
    /// Half of the processors compile, so that the mail beside it finds one that is free.
    pub const DEFAULT: Limits = Limits {
        memory_bytes: 2 << 30,
        cpu: Duration::from_secs(300),
        wall: Duration::from_secs(15 * 60),
        code_bytes: 256 << 20,
        processors_per_thread: 2,
    };

    /// For commands, beside which no mail waits.
    pub const OF_COMMANDS: Limits = Limits {
        processors_per_thread: 1,
        ..Limits::DEFAULT
    };

    fn to_arguments(self) -> [String; 4] {
        let seconds = self.cpu.as_secs();
        [self.memory_bytes, seconds, self.code_bytes, self.processors_per_thread].map(|limit| limit.to_string())
    }

    /// As [`Limits::to_arguments`] writes them; the wall clock is the parent's.
    pub(super) fn from_arguments(arguments: &[OsString]) -> Option<Limits> {
        let number = |at: usize| arguments.get(at)?.to_str()?.parse::<u64>().ok();
        Some(Limits {
            memory_bytes: number(0)?,
            cpu: Duration::from_secs(number(1)?),
            code_bytes: number(2)?,
            processors_per_thread: number(3)?,
            ..Limits::DEFAULT
        })
    }
}

/// Which program is started, and how it is bounded.
pub(super) struct Child {
    pub program: PathBuf,
    pub limits: Limits,
}

impl Child {
    /// Has the component compiled.
    pub async fn run(&self, component: Arc<[u8]>) -> Result<NativeCode, String> {
        let no_memory = |error: io::Error| format!("no memory to hand it to the compiler: {error}");
        let (input, code, complaints) = blocking(move || {
            let mut input = memory_file()?;
            input.write_all(&component)?;
            input.seek(SeekFrom::Start(0))?;
            io::Result::Ok((input, memory_file()?, memory_file()?))
        })
        .await?
        .map_err(no_memory)?;
        let mut command = Command::new(&self.program);
        command
            .arg(COMPILE_ARGUMENT)
            // It must not outlive this process, and looks whether it is still there.
            .arg(std::process::id().to_string())
            .args(self.limits.to_arguments())
            .env_clear()
            .env(ALLOCATOR_RESERVE.0, ALLOCATOR_RESERVE.1)
            .current_dir("/")
            .stdin(input)
            .stdout(code.try_clone().map(Stdio::from).map_err(no_memory)?)
            .stderr(complaints.try_clone().map(Stdio::from).map_err(no_memory)?)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| format!("the compiler cannot be started ({}): {error}", self.program.display()))?;
        let Ok(ended) = timeout(self.limits.wall, child.wait()).await else {
            let minutes = self.limits.wall.as_secs_f64() / 60.0;
            // It is killed when `child` goes; nothing is left to be waited for.
            return Err(format!(
                "compiling it took longer than {minutes} minutes: make it smaller, or try again when the machine is less busy"
            ));
        };
        let status = ended.map_err(|error| format!("the compiler's end cannot be seen: {error}"))?;
        match status.success() {
            true => NativeCode::sealed(code)
                .map_err(|error| format!("what the compiler wrote cannot be taken over: {error}")),
            false => Err(self.what_happened(status, &said(&complaints))),
        }
    }

    fn what_happened(&self, status: ExitStatus, said: &str) -> String {
        let Limits {
            memory_bytes,
            cpu,
            code_bytes,
            ..
        } = self.limits;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        let signal = status.signal().and_then(|signal| Signal::try_from(signal).ok());
        match (code, signal) {
            (Some(REFUSED), _) => does_not_compile(said),
            (Some(NO_MEMORY), _) | (None, Some(Signal::SIGABRT))
                if code.is_some() || said.contains(ALLOCATION_FAILED) =>
            {
                let most = memory_bytes >> 20;
                format!(
                    "compiling it takes more than {most} MiB of memory: make it smaller (optimise for size, leave out libraries)"
                )
            }
            (_, Some(Signal::SIGXCPU)) => {
                let most = cpu.as_secs();
                format!(
                    "compiling it takes more than {most} s of CPU time: make it smaller (optimise for size, leave out libraries)"
                )
            }
            (_, Some(Signal::SIGXFSZ)) => {
                let most = code_bytes >> 20;
                format!("its native code is over {most} MiB: make it smaller (optimise for size, leave out libraries)")
            }
            (_, Some(Signal::SIGKILL)) => {
                "the compiler was killed, as by a system that is short of memory: see the system's log, and try again"
                    .into()
            }
            _ => format!(
                "the compiler ended with {status}, which is a fault of its own: use another version of the component, and report this one: {said}"
            ),
        }
    }
}

/// The beginning of what it said, as one line.
fn said(complaints: &File) -> String {
    let mut bytes = vec![0; COMPLAINT_BYTES_MAX as usize];
    let length = complaints.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..length]);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").replace(char::is_control, " ")
}
