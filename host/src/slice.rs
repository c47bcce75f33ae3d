//! Tells the kernel how long the turns of a thread on a processor should be: of the calling one, and of those that it starts.
//!
//! A thread that wakes takes the processor at once from one whose time slice is longer than its own, and else waits for the running one's slice to
//! end, which is milliseconds, whatever the nice values are (Linux 6.12, `sched_attr.sched_runtime` of SCHED_OTHER). To ask for a slice
//! needs no privilege and changes no share of the processor. Where the kernel does not know of it, nothing changes; that is no failure.

use std::io;
use std::time::Duration;

use nix::libc;

/// The shortest that the kernel grants, for a thread that works in short steps with a wait for the disk between them, as a commit does: on a busy
/// machine each wake-up would wait twenty times as long as the disk takes.
pub const SHORTEST: Duration = Duration::from_micros(100);
/// The longest, for a thread that computes for long beside others that must not feel it, as a compiler does.
pub const LONGEST: Duration = Duration::from_millis(100);

/// `struct sched_attr` of the kernel, as sched_setattr(2) has it.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Gives the calling thread this time slice. Its nice value stays what it is.
pub fn ask_for(slice: Duration) -> io::Result<()> {
    // SAFETY: getpriority takes no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: slice.as_nanos() as u64,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `attr`, which lives until the call returns, and writes nothing.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
