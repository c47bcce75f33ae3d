//! Threads that give way to everything else: compiling takes both cores for a while, and no mail is to feel it.
//!
//! A pool of its own, because on Linux a thread that has lowered its priority may not raise it again. Made when it is first needed. Where it
//! cannot be made, the work runs where it was asked for; where the priority cannot be lowered, nothing changes.

use std::sync::OnceLock;

use nix::libc;

/// How far they step back: beside a busy thread of the usual priority they get a tenth of a core.
const NICE: i32 = 10;

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
    // SAFETY: setpriority takes no pointers. On Linux, process 0 of PRIO_PROCESS is the calling thread alone.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if answer != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a compiling thread keeps the usual priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        // SAFETY: getpriority takes no pointers.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn what_runs_there_gives_way_and_who_asked_does_not() {
        let before = nice();
        let (here, beside) = run(|| rayon::join(nice, nice));
        let expected = before.max(NICE);
        assert_eq!((here, beside, nice()), (expected, expected, before));
    }
}
