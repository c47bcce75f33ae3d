//! The process that compiles: its standard input is a component, its standard output becomes native code for the engine of this build.
//!
//! First it gives up what it does not need, for good; then it reads. It opens nothing, and has no settings but its arguments. It ends with status 0,
//! or says why not on standard error; what it runs out of ends it, one way or another, and its parent knows which.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::FILE_BYTES_MAX;
use super::child::{Limits, NO_MEMORY, REFUSED};
use crate::policy::engine;
use crate::slice;

/// Threads that compile. More of them take more memory, and no mail is to feel them.
const THREADS_MAX: usize = 4;
/// The lowest priority that there is. Beside busy threads it gets some hundredths of a core, and is owed no more: what it is owed it takes whole
/// milliseconds of at a time, while threads that woke wait.
const NICE_MAX: i32 = 19;
/// Of all processes, the one to be killed when the system is short of memory.
const OOM_SCORE: &[u8] = b"1000";
/// Its three, and what the system's libraries open in passing.
const DESCRIPTORS_MAX: u64 = 16;
/// Between SIGXCPU, which says what it was, and SIGKILL, in seconds.
const CPU_GRACE: u64 = 2;

/// What the executable does when it is called with [`super::COMPILE_ARGUMENT`], with the arguments behind that.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let parent = arguments.first().and_then(|parent| parent.to_str()?.parse().ok());
    let limits = Limits::from_arguments(arguments.get(1..).unwrap_or_default());
    let (Some(parent), Some(limits)) = (parent, limits) else {
        eprintln!("this is a part of gatepost that it calls by itself");
        return ExitCode::FAILURE;
    };
    if let Err(error) = confine(parent, &limits) {
        eprintln!("the compiler cannot be confined: {error}");
        return ExitCode::FAILURE;
    }
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(if is_out_of_memory(&error) { NO_MEMORY } else { REFUSED })
        }
    }
}

/// Gives up what compiling does not need. Called before there is a second thread, except for those that compile.
fn confine(parent: i32, limits: &Limits) -> io::Result<()> {
    prctl::set_no_new_privs()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != parent {
        return Err(io::Error::other("its parent is gone"));
    }
    // SAFETY: takes no pointers, and nothing has opened a descriptor yet that it will use.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } != 0 {
        // Before Linux 5.9. What this process started with is closed on exec anyway; this is for what its parent was started with.
        let most = getrlimit(Resource::RLIMIT_NOFILE)?.0.min(i32::MAX as u64) as i32;
        for descriptor in 3..most {
            // SAFETY: as above.
            unsafe { libc::close(descriptor) };
        }
    }
    step_back();
    // Where there is no such file, the system decides.
    let _ = File::create("/proc/self/oom_score_adj").and_then(|mut file| file.write_all(OOM_SCORE));
    // Its memory holds somebody's component: no core, and nobody of the same user looks in.
    prctl::set_dumpable(false)?;
    for (resource, soft, hard) in [
        (Resource::RLIMIT_CORE, 0, 0),
        (
            Resource::RLIMIT_CPU,
            limits.cpu.as_secs(),
            limits.cpu.as_secs() + CPU_GRACE,
        ),
        (Resource::RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (Resource::RLIMIT_FSIZE, limits.code_bytes, limits.code_bytes),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX, DESCRIPTORS_MAX),
    ] {
        lower(resource, soft, hard)?;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let each = usize::try_from(limits.processors_per_thread)
        .unwrap_or(usize::MAX)
        .max(1);
    let threads = (processors / each).clamp(1, THREADS_MAX);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().map_err(io::Error::other)?;
    // With that, no further thread and no process. (Root is not bound by it.)
    lower(Resource::RLIMIT_NPROC, 0, 0)
}

/// A limit that is lower already stays.
fn lower(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let (_, most) = getrlimit(resource)?;
    Ok(setrlimit(resource, soft.min(most), hard.min(most))?)
}

fn step_back() {
    // SAFETY: it takes no pointers. On Linux, process 0 of PRIO_PROCESS is the calling thread, from which the others inherit. One that
    // keeps its priority is bounded all the same.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE_MAX) };
    // A kernel that does not know of it has none that is shorter.
    let _ = slice::ask_for(slice::LONGEST);
}

fn compile() -> wasmtime::Result<()> {
    let mut component = Vec::new();
    let most = FILE_BYTES_MAX as u64;
    io::stdin().lock().take(most).read_to_end(&mut component)?;
    let code = engine::for_compiling()?.precompile_component(&component)?;
    let mut output = io::stdout().lock();
    output.write_all(&code)?;
    Ok(output.flush()?)
}

fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        let system = cause.downcast_ref::<io::Error>();
        cause.is::<wasmtime::error::OutOfMemory>()
            || system.is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
    })
}
