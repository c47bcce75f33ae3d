//! The executable: the command line, the worker that the supervisor starts from it, or the compiler that a worker or a command starts from it.

use std::process::ExitCode;

use gatepost::policy::compile;

/// Messages are freed by other threads than those that made them, which costs the system's allocator locks and wake-ups.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: a worker takes over its descriptors, and a compiler gives up its rights, while it has one thread.
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, _)) if first == gatepost::worker_link::WORKER_ARGUMENT => gatepost::app::worker(),
        Some((first, rest)) if first == compile::COMPILE_ARGUMENT => compile::confined_main(rest),
        _ => gatepost::cli::main(),
    }
}
