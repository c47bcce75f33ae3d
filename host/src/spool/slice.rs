//! Asks the kernel to run the calling thread soon after it wakes.
//!
//! A commit is a chain of short steps with a wait for the disk between them. On a busy machine each wake-up would wait
//! for the running thread's slice to end, several milliseconds, which is twenty times what the disk takes. A thread
//! that asks for a short slice (Linux 6.12, `sched_attr.sched_runtime` of SCHED_OTHER) may preempt on waking and gives
//! the processor up as soon. It needs no privilege and takes no greater share of the processor.
//!
//! Where the kernel does not know of it, nothing changes; that is no failure.

use nix::libc;

/// The shortest slice that the kernel grants.
const SLICE_NANOS: u64 = 100_000;

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

/// Gives the calling thread the shortest slice. Its nice value stays what it is.
pub(super) fn ask_for_short_slice() {
    // SAFETY: getpriority takes no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: SLICE_NANOS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `attr`, which lives until the call returns, and writes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0u32) };
    if answer != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the commit thread keeps the usual time slice");
    }
}
