//! Threads that give way to everything else: compiling takes both cores for a while, and no mail is to feel it.
//!
//! A pool of its own, because on Linux a thread that has lowered its priority may not raise it again. Made when it is first needed. Where it
//! cannot be made, the work runs where it was asked for; where the priority cannot be lowered, nothing changes.

use std::sync::OnceLock;

use nix::libc;

/// How far they step back from the process's own priority: beside a busy thread of that they get a tenth of a core.
const NICE: i32 = 10;
/// The lowest priority that there is.
const NICE_MAX: i32 = 19;

/// Runs this, and what it does in parallel, in the background, and waits for it. Blocks the calling thread.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    match POOL.get_or_init(pool) {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

fn pool() -> Option<rayon::ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new()
        .thread_name(|number| format!("compile-{number}"))
        .start_handler(|_| step_back());
    builder.build().ok()
}

/// Lowers the calling thread's priority.
fn step_back() {
    let nice = (nice() + NICE).min(NICE_MAX);
    // SAFETY: setpriority takes no pointers. On Linux, process 0 of PRIO_PROCESS is the calling thread alone.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if answer != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a compiling thread keeps the usual priority");
    }
}

/// The calling thread's.
fn nice() -> i32 {
    // SAFETY: getpriority takes no pointers.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_there_gives_way_and_who_asked_does_not() {
        let before = nice();
        let (here, beside) = run(|| rayon::join(nice, nice));
        let expected = (before + NICE).min(NICE_MAX);
        assert_eq!((here, beside, nice()), (expected, expected, before));
    }
}
