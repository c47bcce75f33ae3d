//! The executable: the command line, or the worker that the supervisor starts from it.

use std::process::ExitCode;

/// Messages are freed by other threads than those that made them, which costs the system's allocator locks and wake-ups.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: a worker takes over its descriptors while it has one thread.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == gatepost::worker_link::WORKER_ARGUMENT)
    {
        return gatepost::app::worker();
    }
    gatepost::cli::main()
}
