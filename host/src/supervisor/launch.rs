//! Starting a worker, and knowing whether it still lives.
//!
//! The child becomes the other user between fork and exec, so no instruction of the worker's own runs with the supervisor's rights. Its
//! arguments are fixed and its environment is the supervisor's.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid, setgid, setgroups, setuid};

use super::privileges::User;
use crate::worker_link::pair;

/// A worker process.
pub struct Worker {
    pid: Pid,
    /// `None` once the worker has closed its end.
    link: Option<OwnedFd>,
    ready_since: Option<Instant>,
    ended: Option<Ending>,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exited(i32),
    Killed(Signal),
}

impl Ending {
    pub fn is_success(self) -> bool {
        self == Ending::Exited(0)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(status) => write!(f, "exited with status {status}"),
            Ending::Killed(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// Starts the same executable again (the file that runs now, even if another one has its name meanwhile).
pub fn start(arguments: &[OsString], user: Option<&User>) -> anyhow::Result<Worker> {
    let (ours, theirs) = pair().context("no socket for a worker")?;
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).stdin(Stdio::from(theirs));
    let supervisor = getpid();
    let user = user.cloned();
    // SAFETY: between fork and exec the closure only makes system calls; all that it needs was made before, and it allocates
    // nothing (an io::Error from an errno does not).
    unsafe {
        command.pre_exec(move || become_worker(supervisor, user.as_ref()));
    }
    let child = command.spawn().with_context(|| match std::env::current_exe() {
        Ok(path) => format!("{} cannot be started as a worker", path.display()),
        Err(_) => "the worker cannot be started".to_owned(),
    })?;
    let pid = Pid::from_raw(child.id() as i32);
    Ok(Worker {
        pid,
        link: Some(ours),
        ready_since: None,
        ended: None,
    })
}

fn become_worker(supervisor: Pid, user: Option<&User>) -> io::Result<()> {
    // A terminal's ^C and a service manager's SIGTERM reach the whole group: the supervisor alone answers them.
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: no handler function is involved.
        unsafe { signal(ignored, SigHandler::SigIgn)? };
    }
    if let Some(user) = user {
        setgroups(&user.groups)?;
        setgid(user.gid)?;
        setuid(user.uid)?;
    }
    prctl::set_no_new_privs()?;
    // After setuid, which clears it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != supervisor {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

impl Worker {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn link(&self) -> Option<&OwnedFd> {
        self.link.as_ref()
    }

    pub fn close_link(&mut self) {
        self.link = None;
    }

    pub fn ready(&mut self) {
        self.ready_since = Some(Instant::now());
    }

    /// Since it was ready; zero if it never was.
    pub fn ran_for(&self, now: Instant) -> Duration {
        self.ready_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub fn kill(&self) {
        if self.ended.is_none() {
            // It is our child and not yet waited for, so the number is still its own.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// How it ended, if it has. Also takes leave of orphans that were handed to us (the supervisor may be process 1 of a container).
    pub fn ended(&mut self) -> Option<Ending> {
        while self.ended.is_none() {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) if pid == self.pid => self.ended = Some(Ending::Exited(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    self.ended = Some(Ending::Killed(signal))
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        self.ended
    }
}

impl Drop for Worker {
    /// Not left behind, whatever ended the supervisor's interest in it.
    fn drop(&mut self) {
        self.kill();
    }
}
