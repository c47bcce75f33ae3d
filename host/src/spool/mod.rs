//! The spool: where a message is kept from its 250 until every recipient has been dealt with.
//!
//! It promises one thing: when [`Spool::append`] returns `Ok`, the message is on the disk and stays in the queue
//! through any crash until it is settled. Many sessions share one sync: appends go through a bounded queue to one
//! commit thread, which writes what has gathered since its last sync as one batch and syncs once (`commit.rs`). The
//! store is an append-only log of segments (`log.rs`) of checksummed records (`record.rs`); messages larger than
//! [`Body::MEMORY_LIMIT`](crate::message::Body::MEMORY_LIMIT) are files of their own to which a record refers
//! (`body.rs`). What is in the queue, and what of it is due, is held in memory (`index.rs`) and read back at the
//! start (`recover.rs`).
//!
//! It never interprets a message, never knows a destination, and never waits for the disk with a lock held.
//!
//! It fails towards the sender: without room, or on any error of the disk, `append` returns an error and the session
//! answers 452 4.3.1. A segment whose write or sync has failed is never written again. Messages that were refused that
//! way are voided in the next good segment, so that they do not come back at a restart; only if the machine goes down
//! before that succeeds can one that was refused be delivered as well. What is found damaged at the start is copied to
//! `corrupt/` with a report, and everything else stays deliverable.
//!
//! A settled state is on the disk within [`SETTLE_DELAY`] and one commit. A crash within that time after a next hop's
//! 250 is the only way in which a recipient gets a message twice.

mod body;
mod commit;
mod delta;
pub mod files;
mod index;
mod log;
mod queue;
mod record;
mod recover;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};

pub use body::BodyWriter;
pub use commit::SETTLE_DELAY;

use crate::message::{Body, Id, NewMessage, QueueState};
use body::Bodies;
use delta::Change;
use files::{Files, RealFiles};
use index::{Index, Settled};
use queue::{Append, ChangeJob, Job, Queue};
use record::Record;

/// Messages that may wait for the commit thread at once; further appends wait their turn.
const APPEND_QUEUE: usize = 1024;
/// Changes (settles, holds ...) that may wait for the commit thread at once.
const CHANGE_QUEUE: usize = 4096;
/// The most messages in one spool: their envelopes are kept in memory (1 to 3 kB each).
pub const MAX_MESSAGES: usize = 1_000_000;
/// How often the free space of the file system is looked at while messages arrive.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the operator may set about a spool.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// The most that all queued messages together may hold, in bytes.
    pub max_bytes: u64,
    /// New messages are refused while the file system has less room than this, in bytes.
    pub min_free_bytes: u64,
    /// The size of one segment of the log, in bytes; at least [`SpoolOptions::MIN_SEGMENT_BYTES`].
    pub segment_bytes: u64,
}

impl SpoolOptions {
    /// A segment has to take the largest record several times over.
    pub const MIN_SEGMENT_BYTES: u64 = 1024 * 1024;
}

impl Default for SpoolOptions {
    fn default() -> SpoolOptions {
        SpoolOptions {
            max_bytes: 16 << 30,
            min_free_bytes: 256 << 20,
            segment_bytes: 64 << 20,
        }
    }
}

/// Why the spool did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpoolError {
    /// The limits of [`SpoolOptions`] or [`MAX_MESSAGES`] are reached. The session answers 452 4.3.1.
    #[error("the spool is full: {0}")]
    Full(&'static str),
    /// The disk failed, or is full. Nothing was promised. The session answers 452 4.3.1.
    #[error("{doing}: {error}")]
    Io { doing: String, error: Arc<io::Error> },
    /// The record (envelope, notes, head) does not fit into a segment.
    #[error("the message's envelope and trace take {0} bytes, more than a segment of the spool holds")]
    TooLarge(u64),
    /// A segment was written by a later version of Gatepost.
    #[error(
        "{file} has format {found}; this version reads up to {known}: start the later version again, or move the file away"
    )]
    Newer { file: PathBuf, found: u8, known: u8 },
    /// Another process has the spool open.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// There is no such message in the queue (any more).
    #[error("no message {0} in the queue")]
    NotFound(Id),
    /// [`Spool::close`] was called.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> SpoolError {
        let doing = doing.into();
        move |error| SpoolError::Io {
            doing,
            error: Arc::new(error),
        }
    }
}

/// What [`Spool::open`] found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub messages: usize,
    /// Of them, held ones.
    pub held: usize,
    /// What could not be read, each copied to `corrupt/`. Worth an error in the log: mail may be missing.
    pub set_aside: Vec<SetAside>,
    /// Bytes of batches that were being written when the machine went down; nobody had been told that they were safe.
    pub torn_bytes: u64,
    /// Body files to which no message referred, removed.
    pub orphans: usize,
    pub took: Duration,
}

/// A damaged piece of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The file in which it was found.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    pub reason: String,
    /// The message, where that much could be read.
    pub id: Option<Id>,
    /// The copy in `corrupt/`, unless that could not be written either.
    pub copy: Option<PathBuf>,
}

/// A reading of the spool for metrics.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub messages: usize,
    /// Messages that wait for an operator.
    pub held: usize,
    /// Messages that delivery is working on.
    pub claimed: usize,
    /// Bytes of all queued messages.
    pub bytes: u64,
    /// When the oldest queued message was received.
    pub oldest: Option<SystemTime>,
    /// Segments of the log, and what they take on the disk in bytes.
    pub segments: usize,
    pub log_bytes: u64,
    /// Batches written and synced since the start, the time that took, and how many failed.
    pub commits: u64,
    pub commit_time: Duration,
    pub failed_commits: u64,
}

/// The figures that the commit thread keeps.
#[derive(Default)]
struct Counters {
    segments: AtomicU64,
    log_bytes: AtomicU64,
    commits: AtomicU64,
    commit_nanos: AtomicU64,
    failed_commits: AtomicU64,
}

struct Shared {
    options: SpoolOptions,
    files: Arc<dyn Files>,
    dir: PathBuf,
    bodies: Bodies,
    index: Mutex<Index>,
    /// Somebody waiting in `wait_due` should look again.
    due: Notify,
    queue: Queue,
    append_room: Arc<Semaphore>,
    change_room: Arc<Semaphore>,
    /// Bytes and messages on their way to the commit thread.
    pending_bytes: AtomicU64,
    pending_messages: AtomicU64,
    space: Mutex<(Instant, u64)>,
    counters: Counters,
    /// Held for as long as the spool is open.
    _lock: Box<dyn std::any::Any + Send + Sync>,
}

/// A handle on the spool; clones share it. When the last is dropped the commit thread writes what is queued and ends;
/// [`Spool::close`] does the same and waits.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    thread: Arc<commit::Thread>,
}

impl Spool {
    /// Opens the spool in `dir` (made if it is not there, mode 0700) and reads back the queue. Blocks; for the start.
    pub fn open(dir: &Path, options: SpoolOptions) -> Result<(Spool, Recovered), SpoolError> {
        Spool::open_with(dir, options, Arc::new(RealFiles))
    }

    /// The same over another file layer, as the contract test does it.
    pub fn open_with(
        dir: &Path,
        mut options: SpoolOptions,
        files: Arc<dyn Files>,
    ) -> Result<(Spool, Recovered), SpoolError> {
        let began = Instant::now();
        options.segment_bytes = options.segment_bytes.max(SpoolOptions::MIN_SEGMENT_BYTES);
        for folder in [
            dir.to_owned(),
            dir.join("log"),
            dir.join("bodies"),
            dir.join("tmp"),
            dir.join("corrupt"),
        ] {
            files
                .create_dir(&folder)
                .map_err(SpoolError::io(format!("cannot make the folder {}", folder.display())))?;
        }
        files
            .sync_dir(dir)
            .map_err(SpoolError::io(format!("cannot sync {}", dir.display())))?;
        let lock = files.lock(&dir.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SpoolError::InUse(dir.to_owned()),
            _ => SpoolError::io(format!("cannot lock {}", dir.display()))(error),
        })?;
        let (index, log, mut recovered) = recover::recover(dir, &options, &files)?;
        let shared = Arc::new(Shared {
            bodies: Bodies::new(dir, files.clone()),
            dir: dir.to_owned(),
            options,
            files,
            index: Mutex::new(index),
            due: Notify::new(),
            queue: Queue::default(),
            append_room: Arc::new(Semaphore::new(APPEND_QUEUE)),
            change_room: Arc::new(Semaphore::new(CHANGE_QUEUE)),
            pending_bytes: AtomicU64::new(0),
            pending_messages: AtomicU64::new(0),
            space: Mutex::new((began, u64::MAX)),
            counters: Counters::default(),
            _lock: lock,
        });
        shared.look_at_space(Instant::now());
        let thread = commit::start(shared.clone(), log).map_err(SpoolError::io("cannot start the commit thread"))?;
        recovered.took = began.elapsed();
        Ok((
            Spool {
                shared,
                thread: Arc::new(thread),
            },
            recovered,
        ))
    }

    /// Takes in a message body as it arrives.
    pub fn body_writer(&self) -> BodyWriter {
        self.shared.bodies.writer()
    }

    /// Up to `limit` bytes of `body` from `offset`; empty at its end. The way to read a [`Body::File`].
    pub async fn read(&self, body: &Body, offset: u64, limit: usize) -> io::Result<Bytes> {
        self.shared.bodies.read(body, offset, limit).await
    }

    /// Whether a message of `size` bytes would be taken now; for the answer to MAIL (RFC 1870 §6.1). A promise of
    /// nothing: [`Spool::append`] looks again.
    pub fn check_room(&self, size: u64) -> Result<(), SpoolError> {
        let (bytes, messages) = {
            let index = self.shared.index.lock();
            (index.bytes(), index.len() as u64)
        };
        if bytes + self.shared.pending_bytes.load(Ordering::Relaxed) + size > self.shared.options.max_bytes {
            return Err(SpoolError::Full(
                "the queued messages have reached the spool's limit of bytes",
            ));
        }
        if messages + self.shared.pending_messages.load(Ordering::Relaxed) >= MAX_MESSAGES as u64 {
            return Err(SpoolError::Full("the queue has reached its limit of messages"));
        }
        if self.shared.look_at_space(Instant::now()) < self.shared.options.min_free_bytes.saturating_add(size) {
            return Err(SpoolError::Full("the file system of the spool has too little room"));
        }
        Ok(())
    }

    /// Makes a message durable and puts it into the queue. `Ok` is the 250: the message survives any crash from here
    /// on. After an error it is not in the queue. If the future is dropped while it waits, the message may or may not
    /// have been taken.
    pub async fn append(&self, message: NewMessage) -> Result<(), SpoolError> {
        let size = message.head.len() as u64 + message.body.len();
        self.check_room(size)?;
        let shared = &self.shared;
        let permit = shared
            .append_room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| SpoolError::Closed)?;
        let NewMessage {
            id,
            envelope,
            head,
            body,
            origin,
            held,
        } = message;
        let body = shared.bodies.adopt(id, body).await?;
        let state = Arc::new(QueueState {
            envelope,
            origin,
            size,
            held,
            attempts: 0,
            next_attempt: None,
            last_error: None,
            delay_notified: false,
        });
        let record = Record::message(id, &state, &head, &body);
        if record.len() > log::capacity(shared.options.segment_bytes) {
            shared.bodies.forget(&body);
            return Err(SpoolError::TooLarge(record.len()));
        }
        let (done, committed) = oneshot::channel();
        let pending = Pending::new(shared.clone(), size);
        let pushed = shared.queue.push(Job::Append(Append {
            id,
            state,
            head,
            body,
            record,
            done,
            _permit: permit,
            pending,
        }));
        if !pushed {
            return Err(SpoolError::Closed);
        }
        // The commit thread answers every job that it takes, and drops the rest only when the spool is closed.
        committed.await.unwrap_or(Err(SpoolError::Closed))
    }

    /// Leases up to `limit` messages that are due at `now`, the longest due first. A message that is held or claimed
    /// is not due.
    pub fn claim_due(&self, now: SystemTime, limit: usize) -> Vec<Claimed> {
        let claims = self.shared.index.lock().claim_due(now, limit);
        claims.into_iter().map(|(id, state)| self.claimed(id, state)).collect()
    }

    /// Leases one message whether or not it is due; `None` if it is held, claimed or not there.
    pub fn claim(&self, id: Id) -> Option<Claimed> {
        let state = self.shared.index.lock().claim(id)?;
        Some(self.claimed(id, state))
    }

    fn claimed(&self, id: Id, state: Arc<QueueState>) -> Claimed {
        Claimed {
            id,
            state,
            spool: self.clone(),
            open: true,
        }
    }

    /// Resolves once something is due: a new message, one whose time has come, was released or came back. Keeps
    /// resolving at once while a due message stays unclaimed. For one waiter: delivery.
    pub async fn wait_due(&self) {
        loop {
            let notified = self.shared.due.notified();
            let next = self.shared.index.lock().next_due(SystemTime::now());
            match next {
                Some(Duration::ZERO) => return,
                Some(after) => {
                    tokio::select! {
                        () = notified => {}
                        // The wall clock may step meanwhile: look again from time to time.
                        () = tokio::time::sleep(after.min(Duration::from_secs(60))) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Gives a claimed message back with its new state: out of the queue if that is finished, else waiting for
    /// `state.next_attempt`. Returns once the change is queued for the disk, which takes at most [`SETTLE_DELAY`] and
    /// a commit; it waits only if thousands of changes are queued already. Should the disk fail, the change is kept and
    /// written when it works again; the queue in memory is right meanwhile.
    ///
    /// What an operator asked for while the message was claimed (hold, release, retry, remove) wins over `state`.
    pub async fn settle(&self, mut claimed: Claimed, state: QueueState) -> Result<(), SpoolError> {
        let permit = self
            .shared
            .change_room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| SpoolError::Closed)?;
        claimed.open = false;
        let id = claimed.id;
        let mut index = self.shared.index.lock();
        let (change, body) = match index.settle(id, state) {
            Settled::Unknown => return Err(SpoolError::NotFound(id)),
            // Its removal has been written already.
            Settled::WasRemoved(body) => {
                drop(index);
                self.shared.bodies.remove_later(body, &self.shared.queue);
                return Ok(());
            }
            Settled::Finished(body) => (Record::remove(id), body),
            Settled::Waiting { old, new } => (Record::change(id, &Change::between(&old, &new)), None),
        };
        // Queued under the lock, so that changes of one message reach the disk in the order in which they were made.
        let pushed = self.shared.queue.push(Job::Change(ChangeJob {
            record: change,
            body,
            done: None,
            _permit: permit,
        }));
        drop(index);
        self.shared.due.notify_one();
        if pushed { Ok(()) } else { Err(SpoolError::Closed) }
    }

    /// The messages after `after` in order of their ids (that is, of arrival), at most `limit`.
    pub fn list(&self, after: Option<Id>, limit: usize) -> Vec<Listed> {
        self.shared.index.lock().list(after, limit)
    }

    /// The state of one message.
    pub fn show(&self, id: Id) -> Option<Arc<QueueState>> {
        self.shared.index.lock().state(id)
    }

    /// The head and the body of a queued message, from memory if it is recent, else from the disk with its checksum
    /// verified: `InvalidData` says that the disk has spoilt it.
    pub async fn content(&self, id: Id) -> io::Result<(Bytes, Body)> {
        let place = match self.shared.index.lock().content(id) {
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no message {id} in the queue"),
                ));
            }
            Some(index::Found::Cached(head, body)) => return Ok((head, body)),
            Some(index::Found::At(place)) => place,
        };
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || place.read(id, &shared.bodies));
        read.await.map_err(io::Error::other)?
    }

    /// Holds a message (quarantine) until it is released; durable when it returns.
    pub async fn hold(&self, id: Id, reason: &str) -> Result<(), SpoolError> {
        let reason = reason.to_owned();
        self.change(id, |index| index.hold(id, Some(reason))).await
    }

    /// Releases a held message: it is due at once; durable when it returns.
    pub async fn release(&self, id: Id) -> Result<(), SpoolError> {
        self.change(id, |index| index.hold(id, None)).await
    }

    /// Makes a waiting message due at once. One that is being attempted is due again right after it is settled.
    pub async fn retry(&self, id: Id) -> Result<(), SpoolError> {
        self.change(id, |index| index.retry(id)).await
    }

    /// Takes a message out of the queue for good; durable when it returns. An attempt that is under way goes on.
    pub async fn remove(&self, id: Id) -> Result<(), SpoolError> {
        self.operate(id, |index| Some((Record::remove(id), index.remove(id)?)))
            .await
    }

    /// Writes the difference between the state before and after; due messages are looked for again.
    async fn change(
        &self,
        id: Id,
        change: impl FnOnce(&mut Index) -> Option<(Arc<QueueState>, Arc<QueueState>)>,
    ) -> Result<(), SpoolError> {
        self.operate(id, |index| {
            let (old, new) = change(index)?;
            Some((Record::change(id, &Change::between(&old, &new)), None))
        })
        .await
    }

    /// Changes the index and queues the record of it (and the body that goes with it) under one lock, so that changes of one message reach
    /// the disk in the order in which they were made. `None` from `change`: there is no such message.
    async fn operate(
        &self,
        id: Id,
        change: impl FnOnce(&mut Index) -> Option<(Record, Option<Id>)>,
    ) -> Result<(), SpoolError> {
        let permit = self
            .shared
            .change_room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| SpoolError::Closed)?;
        let (done, committed) = oneshot::channel();
        {
            let mut index = self.shared.index.lock();
            let (record, body) = change(&mut index).ok_or(SpoolError::NotFound(id))?;
            let job = ChangeJob {
                record,
                body,
                done: Some(done),
                _permit: permit,
            };
            if !self.shared.queue.push(Job::Change(job)) {
                return Err(SpoolError::Closed);
            }
        }
        self.shared.due.notify_one();
        committed.await.unwrap_or(Err(SpoolError::Closed))
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let mut stats = self.shared.index.lock().stats();
        stats.segments = counters.segments.load(Ordering::Relaxed) as usize;
        stats.log_bytes = counters.log_bytes.load(Ordering::Relaxed);
        stats.commits = counters.commits.load(Ordering::Relaxed);
        stats.commit_time = Duration::from_nanos(counters.commit_nanos.load(Ordering::Relaxed));
        stats.failed_commits = counters.failed_commits.load(Ordering::Relaxed);
        stats
    }

    /// Refuses further work, writes and syncs what is queued, and waits for that. Other handles find the spool closed.
    pub async fn close(self) {
        self.shared.queue.close();
        let thread = self.thread.clone();
        // It fails only if the commit thread panicked, which the panic hook has reported.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

impl Shared {
    /// Bytes free on the file system, looked at no more often than every [`SPACE_CHECK_INTERVAL`].
    fn look_at_space(&self, now: Instant) -> u64 {
        let mut space = self.space.lock();
        if space.1 == u64::MAX || now.duration_since(space.0) >= SPACE_CHECK_INTERVAL {
            // A file system that cannot say is asked again, and meanwhile trusted: a full disk still fails the append.
            *space = (now, self.files.free_space(&self.dir).unwrap_or(u64::MAX - 1));
        }
        space.1
    }
}

/// Bytes on their way to the disk, counted until they are in the queue or refused.
struct Pending {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Pending {
    fn new(shared: Arc<Shared>, bytes: u64) -> Pending {
        shared.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        shared.pending_messages.fetch_add(1, Ordering::Relaxed);
        Pending { shared, bytes }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.pending_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.pending_messages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One line of [`Spool::list`].
#[derive(Clone, Debug)]
pub struct Listed {
    pub id: Id,
    pub state: Arc<QueueState>,
    /// Delivery is working on it.
    pub claimed: bool,
}

/// A message leased to delivery. Dropped without [`Spool::settle`] it is back in the queue, unchanged and due as
/// before: so whoever cannot attempt it now keeps it, or settles it with a later `next_attempt`.
pub struct Claimed {
    pub id: Id,
    /// As it was when it was claimed.
    pub state: Arc<QueueState>,
    spool: Spool,
    open: bool,
}

impl Claimed {
    /// What goes out: the head, then the body. As [`Spool::content`].
    pub async fn content(&self) -> io::Result<(Bytes, Body)> {
        self.spool.content(self.id).await
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.open {
            let removed = self.spool.shared.index.lock().give_back(self.id);
            self.spool.shared.bodies.remove_later(removed, &self.spool.shared.queue);
            self.spool.shared.due.notify_one();
        }
    }
}
