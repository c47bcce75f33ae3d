//! What waits for the commit thread. Whoever pushes holds a permit of one of the spool's two semaphores, which bounds
//! the queue. The thread is woken only if it sleeps, and a settle alone wakes it only after [`SETTLE_DELAY`].
//!
//! Nothing here does I/O, and nothing fails except that a closed queue takes nothing.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::commit::SETTLE_DELAY;
use super::record::Record;
use super::{Pending, SpoolError};
use crate::message::{Body, Id, QueueState};

pub(super) enum Job {
    Append(Append),
    Change(ChangeJob),
    /// A body file that nothing needs any more.
    RemoveBody(Id),
}

/// A new message.
pub(super) struct Append {
    pub(super) id: Id,
    pub(super) state: Arc<QueueState>,
    pub(super) head: Bytes,
    pub(super) body: Body,
    pub(super) record: Record,
    pub(super) done: oneshot::Sender<Result<(), SpoolError>>,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) pending: Pending,
}

/// A change of a queued message, which the index has already made.
pub(super) struct ChangeJob {
    pub(super) record: Record,
    /// The body file to remove once the change is durable.
    pub(super) body: Option<Id>,
    /// Somebody waits for the change to be durable.
    pub(super) done: Option<oneshot::Sender<Result<(), SpoolError>>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Job {
    fn is_urgent(&self) -> bool {
        match self {
            Job::Append(_) => true,
            Job::Change(change) => change.done.is_some(),
            Job::RemoveBody(_) => false,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Job::Append(append) => append.record.len(),
            Job::Change(change) => change.record.len(),
            Job::RemoveBody(_) => 0,
        }
    }
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    urgent: usize,
    /// When the oldest job that is not urgent has to be written.
    deadline: Option<Instant>,
    asleep: bool,
    closed: bool,
}

/// What the commit thread got.
pub(super) struct Taken {
    pub(super) jobs: Vec<Job>,
    /// Nothing will follow.
    pub(super) ended: bool,
}

impl Queue {
    /// False if the queue is closed.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return false;
        }
        let mut wake = waiting.asleep;
        if job.is_urgent() {
            waiting.urgent += 1;
        } else if waiting.deadline.is_none() {
            waiting.deadline = Some(Instant::now() + SETTLE_DELAY);
        } else {
            wake = false;
        }
        waiting.jobs.push_back(job);
        // Whoever finds it asleep wakes it; those who come before it runs need not.
        waiting.asleep &= !wake;
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
        true
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Takes nothing more and drops what waits, so that whoever waits for it hears that the spool is closed.
    pub(super) fn abandon(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.urgent = 0;
        let jobs = std::mem::take(&mut waiting.jobs);
        drop(waiting);
        drop(jobs);
    }

    /// Waits for something to do, at most until `until`, and takes as many jobs as fit into `bytes`, at least one, and
    /// of each message at most one change.
    pub(super) fn take(&self, bytes: u64, until: Option<Instant>) -> Taken {
        let mut waiting = self.waiting.lock();
        while waiting.urgent == 0 && !waiting.closed {
            let deadline = waiting.deadline.into_iter().chain(until).min();
            waiting.asleep = true;
            match deadline {
                Some(deadline) => {
                    if self.wake.wait_until(&mut waiting, deadline).timed_out() {
                        break;
                    }
                }
                None => self.wake.wait(&mut waiting),
            }
        }
        waiting.asleep = false;
        let mut jobs = Vec::with_capacity(waiting.jobs.len());
        let mut room = bytes;
        let mut changed = HashSet::new();
        while let Some(job) = waiting.jobs.front() {
            if job.len() > room && !jobs.is_empty() {
                break;
            }
            // One change of a message in a batch: of a torn batch the second may survive without the first.
            if let Job::Change(change) = job
                && !changed.insert(change.record.id)
            {
                break;
            }
            room = room.saturating_sub(job.len());
            waiting.urgent -= usize::from(job.is_urgent());
            jobs.extend(waiting.jobs.pop_front());
        }
        if waiting.jobs.is_empty() {
            waiting.deadline = None;
        }
        let ended = waiting.closed && waiting.jobs.is_empty();
        Taken { jobs, ended }
    }
}
