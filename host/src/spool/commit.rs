//! The commit thread: takes what is queued, writes it as one batch, syncs once, tells everybody.
//!
//! It begins as soon as there is something to do; what arrives while it syncs makes the next batch. An idle spool, or one
//! with a single client, answers after one sync. While messages come close enough to share syncs, those follow each other
//! no faster than [`SYNC_INTERVAL`], so that the batch grows with the load and each message costs less. A settle waits up
//! to [`SETTLE_DELAY`] for appends to share their sync.
//!
//! On an error of the disk the batch's appends are refused and the changes kept; they are written first when the disk
//! works again, which is tried with every batch but no more often than every [`RETRY_INTERVAL`] on their own account.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::log::{Copy, Log, capacity};
use super::queue::{Append, ChangeJob, Job, Taken};
use super::record::Record;
use super::{Shared, SpoolError};
use crate::message::Id;
use crate::slice;

/// How long a settled state may wait for a sync that it can share.
pub const SETTLE_DELAY: Duration = Duration::from_millis(10);
/// The least time from one sync to the next while messages share them. Without it a fast disk is kept busy with batches of
/// one or two: five times as many syncs and wake-ups as are needed, for a reply that comes a millisecond earlier.
const SYNC_INTERVAL: Duration = Duration::from_millis(1);
/// A batch takes no more than this many bytes, so that the first in it need not wait for too many others.
const BATCH_BYTES: u64 = 4 << 20;
/// How long changes wait after the disk failed before they are tried again, if nothing else is written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Ends the commit thread when the last handle goes.
pub(super) struct Thread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Thread {
    pub(super) fn join(&self) {
        if let Some(handle) = self.handle.lock().take() {
            // It fails only if the thread panicked, which the panic hook has reported.
            let _ = handle.join();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

pub(super) fn start(shared: Arc<Shared>, log: Log) -> io::Result<Thread> {
    let mut committer = Committer {
        shared: shared.clone(),
        most: BATCH_BYTES.min(capacity(shared.options.segment_bytes)),
        log,
        kept: Vec::new(),
        retry_at: None,
        next_sync: None,
        unneeded: Vec::new(),
    };
    committer.count();
    let handle = std::thread::Builder::new().name("spool".into()).spawn(move || {
        // Should the thread panic, nobody may wait for it for ever.
        let _ended = Ended(committer.shared.clone());
        if let Err(error) = slice::ask_for(slice::SHORTEST) {
            tracing::debug!(%error, "the commit thread keeps the usual time slice");
        }
        committer.run();
    })?;
    Ok(Thread {
        shared,
        handle: Mutex::new(Some(handle)),
    })
}

/// Says, when the commit thread ends, that it did.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}

struct Committer {
    shared: Arc<Shared>,
    log: Log,
    /// The most that a batch takes, in bytes.
    most: u64,
    /// Changes that the disk has refused, oldest first.
    kept: Vec<ChangeJob>,
    retry_at: Option<Instant>,
    /// When the next batch may begin, if the last one had several messages.
    next_sync: Option<Instant>,
    /// Body files whose messages have left the queue, to be removed when no change is kept.
    unneeded: Vec<Id>,
}

impl Committer {
    fn run(&mut self) {
        loop {
            let at_once = if self.kept.is_empty() {
                self.log.wants_copying()
            } else {
                self.retry_at.is_none()
            };
            let until = if at_once { Some(Instant::now()) } else { self.retry_at };
            if let Some(next) = self.next_sync.take() {
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            let Taken { jobs, ended } = self.shared.queue.take(self.most, until);
            let mut appends = Vec::with_capacity(jobs.len());
            let mut changes = Vec::new();
            for job in jobs {
                match job {
                    Job::Append(append) => appends.push(append),
                    Job::Change(change) => changes.push(change),
                    Job::RemoveBody(id) => self.unneeded.push(id),
                }
            }
            self.write_kept();
            self.commit(appends, changes);
            if self.kept.is_empty() {
                for id in self.unneeded.drain(..) {
                    self.shared.bodies.remove(id);
                }
            }
            self.make_room();
            self.count();
            if ended {
                self.retry_at = None;
                self.write_kept();
                self.log.seal();
                if !self.kept.is_empty() {
                    tracing::error!(
                        changes = self.kept.len(),
                        "the spool closes without having written what became of some messages: they are sent again"
                    );
                }
                return;
            }
        }
    }

    fn commit(&mut self, appends: Vec<Append>, changes: Vec<ChangeJob>) {
        if appends.is_empty() && changes.is_empty() {
            return;
        }
        if !self.kept.is_empty() && !changes.is_empty() {
            // The order of changes to one message is kept; whoever waits for one hears at once how it went.
            let awaited = changes.iter().any(|change| change.done.is_some());
            self.kept.extend(changes);
            if awaited {
                self.retry_at = None;
                self.write_kept();
            }
            return self.commit(appends, Vec::new());
        }
        self.next_sync = (appends.len() > 1).then(|| Instant::now() + SYNC_INTERVAL);
        let records: Vec<&Record> = appends
            .iter()
            .map(|append| &append.record)
            .chain(changes.iter().map(|change| &change.record))
            .collect();
        let written = self.write(&records);
        match written {
            Ok(mut written) => {
                // The disk works: what is kept need not wait.
                self.retry_at = None;
                written.truncate(appends.len());
                let mut done = Vec::with_capacity(appends.len());
                {
                    let mut index = self.shared.index.lock();
                    for (append, written) in appends.into_iter().zip(written) {
                        let place = Log::place(written, &append.record, &append.body);
                        index.insert(append.id, append.state, place, Some((append.head, append.body)));
                        // Counted as queued from here on, no longer as on its way.
                        drop(append.pending);
                        done.push(append.done);
                    }
                }
                if !done.is_empty() {
                    self.shared.due.notify_one();
                }
                for done in done {
                    // Nobody waits if the session's task has gone.
                    let _ = done.send(Ok(()));
                }
                self.tell(changes);
            }
            Err(error) => {
                for append in appends {
                    self.shared.bodies.forget(&append.body);
                    let _ = append.done.send(Err(error.clone()));
                }
                self.keep(changes, &error);
            }
        }
    }

    /// The changes are durable.
    fn tell(&self, changes: Vec<ChangeJob>) {
        if !changes.is_empty() {
            let mut index = self.shared.index.lock();
            for change in &changes {
                index.wrote_change(change.record.id);
            }
        }
        for change in changes {
            if let Some(id) = change.body {
                self.shared.bodies.remove(id);
            }
            if let Some(done) = change.done {
                let _ = done.send(Ok(()));
            }
        }
    }

    fn keep(&mut self, changes: Vec<ChangeJob>, error: &SpoolError) {
        self.kept.extend(changes);
        for change in &mut self.kept {
            // An operator is told that it is not durable; it is kept all the same.
            if let Some(done) = change.done.take() {
                let _ = done.send(Err(error.clone()));
            }
        }
        self.retry_at = (!self.kept.is_empty()).then(|| Instant::now() + RETRY_INTERVAL);
    }

    fn write_kept(&mut self) {
        while !self.kept.is_empty() && self.retry_at.is_none_or(|at| at <= Instant::now()) {
            let (mut bytes, mut changed) = (0, HashSet::new());
            let fitting = self.kept.iter().take_while(|change| {
                bytes += change.record.len();
                // As in the queue: one change of a message in a batch.
                bytes <= self.most && changed.insert(change.record.id)
            });
            let rest = self.kept.split_off(fitting.count().max(1));
            let changes = std::mem::replace(&mut self.kept, rest);
            let records: Vec<&Record> = changes.iter().map(|change| &change.record).collect();
            match self.write(&records) {
                Ok(_) => {
                    self.tell(changes);
                    self.retry_at = None;
                }
                Err(error) => {
                    let rest = std::mem::replace(&mut self.kept, changes);
                    return self.keep(rest, &error);
                }
            }
        }
    }

    /// Copies a little of what keeps the oldest segment from being freed, and frees what can be.
    fn make_room(&mut self) {
        if self.kept.is_empty() && self.log.wants_copying() {
            let copies = self.log.next_copies(&self.shared.index, &self.shared.bodies);
            if !copies.is_empty() {
                let records: Vec<&Record> = copies.iter().map(|copy| &copy.record).collect();
                match self.write(&records) {
                    Ok(written) => self.relocate(&copies, written),
                    Err(_) => self.log.copy_again(),
                }
            }
        }
        if let Err(error) = self.log.free_dead() {
            tracing::warn!(%error, "cannot free a segment of the spool");
        }
    }

    fn relocate(&self, copies: &[Copy], written: Vec<(Arc<super::log::Segment>, u64)>) {
        let mut index = self.shared.index.lock();
        for (copy, (segment, offset)) in copies.iter().zip(written) {
            let len = copy.record.header(0, 0, false).len();
            index.relocate(
                copy.id,
                &copy.from,
                super::log::Place {
                    segment,
                    offset,
                    len,
                    file: copy.from.file,
                },
            );
        }
    }

    fn write(&mut self, records: &[&Record]) -> Result<Vec<(Arc<super::log::Segment>, u64)>, SpoolError> {
        let began = Instant::now();
        let written = self.log.write(records);
        let counters = &self.shared.counters;
        counters
            .commit_nanos
            .fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        counters.commits.fetch_add(1, Ordering::Relaxed);
        written.map_err(|error| {
            counters.failed_commits.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "the spool cannot write");
            SpoolError::io("the spool cannot write")(error)
        })
    }

    fn count(&mut self) {
        let counters = &self.shared.counters;
        counters.segments.store(self.log.segments() as u64, Ordering::Relaxed);
        counters.log_bytes.store(self.log.bytes(), Ordering::Relaxed);
    }
}
