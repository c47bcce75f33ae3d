//! The executable: the command line, or the worker that the supervisor starts from it.

use std::process::ExitCode;

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
