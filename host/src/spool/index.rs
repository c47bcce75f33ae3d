//! The queue in memory: the state of every message, where its record lies, what of it is due, and who works on it.
//!
//! Always behind one mutex that is held for microseconds. Nothing here does I/O, and nothing fails: what is not there
//! is `None`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::log::{Place, Segment};
use super::{Listed, Stats};
use crate::message::{Body, Id, QueueState};

/// Recent messages are kept in memory for their first attempt, up to this many bytes in all; then the oldest of them
/// are read from the disk again.
const CACHE_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<Id, Entry>,
    /// Due now, by the time since when, and later, by the time from when.
    ready: BTreeSet<(SystemTime, Id)>,
    later: BTreeSet<(SystemTime, Id)>,
    cached: BTreeSet<Id>,
    cached_bytes: usize,
    bytes: u64,
    held: usize,
    claimed: usize,
}

struct Entry {
    state: Arc<QueueState>,
    place: Place,
    content: Option<(Bytes, Body)>,
    lease: Option<Lease>,
    /// Changes that are in `state` but not yet in the log.
    unwritten: u32,
}

/// Delivery works on a message; what an operator asked for meanwhile.
#[derive(Default)]
struct Lease {
    held_changed: bool,
    retry: bool,
    removed: bool,
}

/// What became of a settled message. The ids are of body files to remove.
pub(super) enum Settled {
    Unknown,
    WasRemoved(Option<Id>),
    Finished(Option<Id>),
    Waiting { old: Arc<QueueState>, new: Arc<QueueState> },
}

pub(super) enum Found {
    Cached(Bytes, Body),
    At(Place),
}

/// See [`Index::at`].
pub(super) enum InTheWay {
    /// Another record of it counts, or none; or it goes when its claim ends.
    Dead,
    Wait,
    Copy(Place, Arc<QueueState>),
}

impl Entry {
    fn due_since(&self) -> SystemTime {
        self.state.next_attempt.unwrap_or(self.state.origin.received)
    }

    fn is_removed(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.removed)
    }
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts a durable message into the queue, with its content if that may be wanted soon.
    pub(super) fn insert(&mut self, id: Id, state: Arc<QueueState>, place: Place, content: Option<(Bytes, Body)>) {
        // Ids are unique; should one come twice, the later message stays.
        self.forget(id);
        place.add_live();
        self.bytes += state.size;
        self.held += usize::from(state.held.is_some());
        let content = content.filter(|_| state.held.is_none());
        if let Some((head, body)) = &content {
            self.cached.insert(id);
            self.cached_bytes += in_memory(head, body);
        }
        let entry = Entry {
            state,
            place,
            content,
            lease: None,
            unwritten: 0,
        };
        self.entries.insert(id, entry);
        self.enqueue(id);
        while self.cached_bytes > CACHE_BYTES {
            let Some(oldest) = self.cached.first().copied() else {
                break;
            };
            self.uncache(oldest);
        }
    }

    pub(super) fn claim_due(&mut self, now: SystemTime, limit: usize) -> Vec<(Id, Arc<QueueState>)> {
        while let Some(first) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&first);
            self.ready.insert(first);
        }
        let mut claims = Vec::new();
        while claims.len() < limit
            && let Some((_, id)) = self.ready.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.lease = Some(Lease::default());
            self.claimed += 1;
            claims.push((id, entry.state.clone()));
        }
        claims
    }

    pub(super) fn claim(&mut self, id: Id) -> Option<Arc<QueueState>> {
        let entry = self.entries.get_mut(&id)?;
        if entry.lease.is_some() || entry.state.held.is_some() {
            return None;
        }
        entry.lease = Some(Lease::default());
        let state = entry.state.clone();
        self.claimed += 1;
        self.dequeue(id);
        Some(state)
    }

    /// Ends a claim that changed nothing. The body file to remove, if the message was removed meanwhile.
    pub(super) fn give_back(&mut self, id: Id) -> Option<Id> {
        let entry = self.entries.get_mut(&id)?;
        let lease = entry.lease.take()?;
        self.claimed -= 1;
        if lease.removed {
            return self.forget(id);
        }
        self.enqueue(id);
        None
    }

    pub(super) fn settle(&mut self, id: Id, mut new: QueueState) -> Settled {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Settled::Unknown;
        };
        let Some(lease) = entry.lease.take() else {
            return Settled::Unknown;
        };
        self.claimed -= 1;
        if lease.removed {
            return Settled::WasRemoved(self.forget(id));
        }
        if new.is_finished() {
            return Settled::Finished(self.forget(id));
        }
        let old = entry.state.clone();
        new.size = old.size;
        if lease.held_changed {
            new.held.clone_from(&old.held);
        }
        if lease.retry {
            new.next_attempt = None;
        }
        self.held += usize::from(new.held.is_some());
        self.held -= usize::from(old.held.is_some());
        let new = Arc::new(new);
        entry.state = new.clone();
        entry.unwritten += 1;
        // Its next attempt is minutes away: the memory serves newer messages better.
        self.uncache(id);
        self.enqueue(id);
        Settled::Waiting { old, new }
    }

    /// Holds a message, or with `None` releases it, which makes it due. The state before and after.
    pub(super) fn hold(&mut self, id: Id, reason: Option<String>) -> Option<(Arc<QueueState>, Arc<QueueState>)> {
        self.change(id, |state, lease| {
            if reason.is_none() && state.held.is_some() {
                state.next_attempt = None;
            }
            state.held = reason;
            if let Some(lease) = lease {
                lease.held_changed = true;
            }
        })
    }

    pub(super) fn retry(&mut self, id: Id) -> Option<(Arc<QueueState>, Arc<QueueState>)> {
        self.change(id, |state, lease| {
            state.next_attempt = None;
            if let Some(lease) = lease {
                lease.retry = true;
            }
        })
    }

    fn change(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut QueueState, Option<&mut Lease>),
    ) -> Option<(Arc<QueueState>, Arc<QueueState>)> {
        if self.entries.get(&id)?.is_removed() {
            return None;
        }
        self.dequeue(id);
        let entry = self.entries.get_mut(&id)?;
        let old = entry.state.clone();
        change(Arc::make_mut(&mut entry.state), entry.lease.as_mut());
        let new = entry.state.clone();
        entry.unwritten += 1;
        self.held += usize::from(new.held.is_some());
        self.held -= usize::from(old.held.is_some());
        self.enqueue(id);
        Some((old, new))
    }

    /// Takes a message out of the queue: `Some` if it was there, and in it the body file that may go once that is
    /// durable. One that is claimed stays readable until its claim ends.
    pub(super) fn remove(&mut self, id: Id) -> Option<Option<Id>> {
        let entry = self.entries.get_mut(&id)?;
        match &mut entry.lease {
            Some(lease) if lease.removed => None,
            Some(lease) => {
                lease.removed = true;
                Some(None)
            }
            None => Some(self.forget(id)),
        }
    }

    pub(super) fn next_due(&self, now: SystemTime) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let (at, _) = self.later.first()?;
        Some(at.duration_since(now).unwrap_or_default())
    }

    pub(super) fn list(&self, after: Option<Id>, limit: usize) -> Vec<Listed> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries
            .range((from, Bound::Unbounded))
            .filter(|(_, entry)| !entry.is_removed())
            .take(limit)
            .map(|(id, entry)| Listed {
                id: *id,
                state: entry.state.clone(),
                claimed: entry.lease.is_some(),
            })
            .collect()
    }

    pub(super) fn state(&self, id: Id) -> Option<Arc<QueueState>> {
        let entry = self.entries.get(&id)?;
        (!entry.is_removed()).then(|| entry.state.clone())
    }

    pub(super) fn content(&self, id: Id) -> Option<Found> {
        let entry = self.entries.get(&id)?;
        Some(match &entry.content {
            Some((head, body)) => Found::Cached(head.clone(), body.clone()),
            None => Found::At(entry.place.clone()),
        })
    }

    /// A change of the message is in the log.
    pub(super) fn wrote_change(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.unwritten = entry.unwritten.saturating_sub(1);
        }
    }

    /// What to do about a message's record in `segment` at `offset` that is in the way.
    pub(super) fn at(&self, id: Id, segment: &Arc<Segment>, offset: u64) -> InTheWay {
        let there = |entry: &&Entry| Arc::ptr_eq(&entry.place.segment, segment) && entry.place.offset == offset;
        match self.entries.get(&id).filter(there) {
            None => InTheWay::Dead,
            Some(entry) if entry.is_removed() => InTheWay::Dead,
            // A copy would hold changes that the log does not, and the older of them would come after it.
            Some(entry) if entry.unwritten > 0 => InTheWay::Wait,
            Some(entry) => InTheWay::Copy(entry.place.clone(), entry.state.clone()),
        }
    }

    /// Its record has been copied.
    pub(super) fn relocate(&mut self, id: Id, from: &Place, to: Place) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.place.same(from)
        {
            to.add_live();
            entry.place.drop_live();
            entry.place = to;
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            messages: self.entries.len(),
            held: self.held,
            claimed: self.claimed,
            bytes: self.bytes,
            oldest: self
                .entries
                .first_key_value()
                .map(|(_, entry)| entry.state.origin.received),
            ..Stats::default()
        }
    }

    fn enqueue(&mut self, id: Id) {
        if let Some(entry) = self.entries.get(&id)
            && entry.lease.is_none()
            && entry.state.held.is_none()
        {
            let queue = if entry.state.next_attempt.is_some() {
                &mut self.later
            } else {
                &mut self.ready
            };
            queue.insert((entry.due_since(), id));
        }
    }

    fn dequeue(&mut self, id: Id) {
        if let Some(entry) = self.entries.get(&id) {
            let key = (entry.due_since(), id);
            self.ready.remove(&key);
            self.later.remove(&key);
        }
    }

    fn uncache(&mut self, id: Id) {
        if self.cached.remove(&id)
            && let Some((head, body)) = self.entries.get_mut(&id).and_then(|entry| entry.content.take())
        {
            self.cached_bytes -= in_memory(&head, &body);
        }
    }

    fn forget(&mut self, id: Id) -> Option<Id> {
        self.dequeue(id);
        self.uncache(id);
        let entry = self.entries.remove(&id)?;
        entry.place.drop_live();
        self.bytes -= entry.state.size;
        self.held -= usize::from(entry.state.held.is_some());
        entry.place.has_body_file().then_some(id)
    }
}

fn in_memory(head: &Bytes, body: &Body) -> usize {
    let body = match body {
        Body::Memory(bytes) => bytes.len(),
        Body::File { .. } => 0,
    };
    head.len() + body
}
