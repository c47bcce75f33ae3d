//! The log: segments of a fixed size, appended to at one end and freed at the other.
//!
//! Only the commit thread has one. Segments are freed strictly from the oldest on, each only after the folder that no
//! longer names the one before is synced; so a record that takes a message out of the queue never goes before the
//! record that put it in, and nothing that was removed comes back. When most of the log is dead but its oldest segment
//! still has live messages (held ones, long retries), they are copied to the end, a little with each batch: the log
//! takes at most about twice what is alive and four segments more.
//!
//! A freed file is used again: writing over blocks that the file system knows already makes a sync cheaper than
//! writing into reserved ones, by a third here.
//!
//! A segment whose write or sync failed is abandoned: never written or synced again, because a second sync may report
//! success for pages that the kernel has dropped. A [`Void`] in the next segment says from where on nobody was told
//! that its records were safe.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::body::Bodies;
use super::files::{File, Files};
use super::index::{InTheWay, Index};
use super::record::{BATCH_ALIGN, Header, Kind, Record, Void};
use crate::message::{Body, Id};

/// Freed files that are kept for their next use.
const MAX_SPARE: usize = 2;
/// Segments that may be dead before live messages are copied out of their way.
const SLACK_SEGMENTS: u64 = 4;
/// Bytes and records that one batch copies or looks at for that.
const COPY_BYTES: u64 = 1 << 20;
const COPY_RECORDS: usize = 1024;
/// Room kept in each segment for its first record, its seal, and voids.
const OVERHEAD: u64 = 4 * BATCH_ALIGN;

/// The largest batch or record that a segment of `segment_bytes` takes.
pub(super) fn capacity(segment_bytes: u64) -> u64 {
    segment_bytes - OVERHEAD
}

/// A file of the log.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
    pub(super) size: u64,
    /// From here on it holds nothing that counts.
    pub(super) end: AtomicU64,
    /// Bytes of records of messages that are in the queue.
    live: AtomicU64,
    /// A write or a sync failed: the file is not to be trusted with anything further.
    abandoned: AtomicBool,
}

impl Segment {
    pub(super) fn new(number: u64, salt: u64, path: PathBuf, file: Box<dyn File>, size: u64, end: u64) -> Segment {
        Segment {
            number,
            salt,
            path,
            file,
            size,
            end: AtomicU64::new(end),
            live: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
        }
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }
}

/// The name of a segment's file: its number and its salt.
pub(super) fn segment_name(number: u64, salt: u64) -> String {
    format!("{number:016x}-{salt:016x}.log")
}

pub(super) fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (number, salt) = name.strip_suffix(".log")?.split_once('-')?;
    let hex = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())?;
    Some((hex(number)?, hex(salt)?))
}

/// Where the record of a message lies.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    /// Of the whole record.
    pub(super) len: u64,
    /// The length of the body, where that is a file.
    pub(super) file: Option<u64>,
}

impl Place {
    pub(super) fn same(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment) && self.offset == other.offset
    }

    pub(super) fn has_body_file(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn add_live(&self) {
        self.segment.live.fetch_add(self.len, Ordering::Relaxed);
    }

    pub(super) fn drop_live(&self) {
        self.segment.live.fetch_sub(self.len, Ordering::Relaxed);
    }

    /// Reads the head and the body of the message. `InvalidData` if the record is damaged.
    pub(super) fn read(&self, id: Id, bodies: &Bodies) -> io::Result<(Bytes, Body)> {
        let mut record = vec![0; self.len as usize];
        self.segment.file.read_at(&mut record, self.offset)?;
        let header = Header::decode(&record, self.segment.salt)
            .filter(|header| header.id == id && header.kind == Kind::Message && header.verify(&record));
        let Some(header) = header else {
            let place = format!(
                "the record of {id} at {} of {} is damaged",
                self.offset,
                self.segment.path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, place));
        };
        let record = Bytes::from(record);
        let (_, head, body) = header.parts();
        let body = match self.file {
            Some(len) => Body::File {
                path: Arc::from(bodies.path(id)),
                len,
            },
            None => Body::Memory(record.slice(body)),
        };
        Ok((record.slice(head), body))
    }
}

/// A live message on its way out of the oldest segment.
pub(super) struct Copy {
    pub(super) id: Id,
    pub(super) from: Place,
    pub(super) record: Record,
}

pub(super) struct Log {
    dir: PathBuf,
    files: Arc<dyn Files>,
    segment_bytes: u64,
    /// Oldest first. The last is the one that is written to, if `writing`.
    segments: VecDeque<Arc<Segment>>,
    writing: Option<Writing>,
    next_number: u64,
    spare: Vec<(PathBuf, Box<dyn File>)>,
    next_spare: u64,
    /// Not yet durable.
    voids: Vec<Void>,
    /// The place up to which the oldest segment has been gone through for live messages.
    copied: u64,
    /// The oldest segment cannot be emptied by copying.
    copying_blocked: Option<u64>,
}

struct Writing {
    segment: Arc<Segment>,
    at: u64,
    batch: u64,
}

impl Log {
    pub(super) fn new(dir: &Path, files: Arc<dyn Files>, segment_bytes: u64, segments: VecDeque<Arc<Segment>>) -> Log {
        Log {
            dir: dir.join("log"),
            files,
            segment_bytes,
            next_number: segments.back().map_or(1, |last| last.number + 1),
            segments,
            writing: None,
            spare: Vec::new(),
            next_spare: 0,
            voids: Vec::new(),
            copied: 0,
            copying_blocked: None,
        }
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes that the log takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum::<u64>() + self.spare.len() as u64 * self.segment_bytes
    }

    /// Writes the records as one batch and syncs it. Where each lies, in their order. After an error none of them
    /// counts, and the segment has been abandoned.
    pub(super) fn write(&mut self, records: &[&Record]) -> io::Result<Vec<(Arc<Segment>, u64)>> {
        let voids: Vec<Record> = self.voids.iter().map(Record::abandon).collect();
        let written_voids = voids.len();
        let all: Vec<&Record> = voids.iter().chain(records.iter().copied()).collect();
        let len: u64 = all
            .iter()
            .map(|record| record.len())
            .sum::<u64>()
            .next_multiple_of(BATCH_ALIGN);
        let fits = |writing: &Writing| writing.at + len + BATCH_ALIGN <= writing.segment.size;
        if !self.writing.as_ref().is_some_and(fits) {
            self.seal();
            self.writing = Some(self.begin_segment()?);
        }
        let writing = self.writing.as_mut().expect("begun above");
        match write_batch(writing, &all) {
            Ok(offsets) => {
                self.voids.drain(..written_voids);
                let segment = &writing.segment;
                Ok(offsets[written_voids..]
                    .iter()
                    .map(|offset| (segment.clone(), *offset))
                    .collect())
            }
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// Ends the segment that is written to, if there is one. Should the seal fail, all that it would have said is
    /// that the last batch was whole.
    pub(super) fn seal(&mut self) {
        if let Some(mut writing) = self.writing.take()
            && let Err(error) = write_batch(&mut writing, &[&Record::seal()])
        {
            tracing::warn!(segment = %writing.segment.path.display(), %error, "cannot seal a segment of the spool");
        }
    }

    fn abandon(&mut self) {
        let Some(Writing { segment, at, .. }) = self.writing.take() else {
            return;
        };
        tracing::error!(segment = %segment.path.display(), "a segment of the spool is written no more");
        segment.end.store(at, Ordering::Relaxed);
        segment.abandoned.store(true, Ordering::Relaxed);
        let empty = at == BATCH_ALIGN;
        if empty
            && self
                .files
                .remove(&segment.path)
                .and_then(|()| self.files.sync_dir(&self.dir))
                .is_ok()
        {
            self.segments.pop_back();
        } else {
            self.voids.push(Void {
                segment: segment.number,
                from: at,
            });
        }
    }

    fn begin_segment(&mut self) -> io::Result<Writing> {
        let (path, file) = match self.spare.pop() {
            Some(spare) => spare,
            None => {
                let path = self.spare_path();
                let file = self.files.create(&path, self.segment_bytes)?;
                (path, file)
            }
        };
        let number = self.next_number;
        self.next_number += 1;
        let salt = getrandom::u64().map_err(io::Error::other)?;
        let named = self.dir.join(segment_name(number, salt));
        let segment = Segment::new(number, salt, named.clone(), file, self.segment_bytes, 0);
        let mut writing = Writing {
            segment: Arc::new(segment),
            at: 0,
            batch: 0,
        };
        let begun = write_batch(&mut writing, &[&Record::segment()])
            .and_then(|_| self.files.rename(&path, &named))
            .and_then(|()| self.files.sync_dir(&self.dir));
        if let Err(error) = begun {
            // Whichever name it has now. What stays is empty, and goes at the next start.
            let _ = self.files.remove(&path);
            let _ = self.files.remove(&named);
            return Err(error);
        }
        self.segments.push_back(writing.segment.clone());
        Ok(writing)
    }

    fn spare_path(&mut self) -> PathBuf {
        self.next_spare += 1;
        self.dir.join(format!("spare-{}", self.next_spare))
    }

    /// Frees the segments at the old end of the log in which nothing lives.
    pub(super) fn free_dead(&mut self) -> io::Result<()> {
        while let Some(oldest) = self.segments.front() {
            let is_written = self
                .writing
                .as_ref()
                .is_some_and(|writing| Arc::ptr_eq(&writing.segment, oldest));
            if is_written || oldest.live() > 0 {
                return Ok(());
            }
            let path = oldest.path.clone();
            let sound = oldest.size == self.segment_bytes && !oldest.abandoned.load(Ordering::Relaxed);
            let reusable = sound && self.spare.len() < MAX_SPARE;
            let spare = self.spare_path();
            let freed = if reusable {
                self.files.rename(&path, &spare)
            } else {
                self.files.remove(&path)
            };
            let renamed = reusable && freed.is_ok();
            match freed {
                // The last time only the sync of the folder failed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                freed => freed?,
            }
            self.files.sync_dir(&self.dir)?;
            let freed = self.segments.pop_front().expect("the oldest, above");
            self.voids.retain(|void| void.segment != freed.number);
            self.copied = 0;
            self.copying_blocked = None;
            // Somebody may be reading a message that left the queue meanwhile; then the file may not be written over.
            match Arc::try_unwrap(freed) {
                Ok(segment) if renamed => self.spare.push((spare, segment.file)),
                _ if renamed => self.files.remove(&spare)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether live messages should be copied out of the oldest segment.
    pub(super) fn wants_copying(&self) -> bool {
        let Some(oldest) = self.segments.front() else {
            return false;
        };
        if self.copying_blocked == Some(oldest.number) || self.segments.len() < 2 {
            return false;
        }
        let total: u64 = self.segments.iter().map(|segment| segment.size).sum();
        let live: u64 = self.segments.iter().map(|segment| segment.live()).sum();
        total > 2 * live + SLACK_SEGMENTS * self.segment_bytes
    }

    /// The next few live messages of the oldest segment, to be written again with the next batch.
    pub(super) fn next_copies(&mut self, index: &Mutex<Index>, bodies: &Bodies) -> Vec<Copy> {
        let mut copies = Vec::new();
        let Some(segment) = self.segments.front().cloned() else {
            return copies;
        };
        let end = segment.end.load(Ordering::Relaxed);
        let limit = COPY_BYTES.min(capacity(self.segment_bytes));
        let mut bytes = 0;
        for _ in 0..COPY_RECORDS {
            let mut header = [0; 64];
            let read = if self.copied < end {
                segment.file.read_at(&mut header, self.copied)
            } else {
                Ok(0)
            };
            let header = match read {
                Ok(64) => Header::decode(&header, segment.salt),
                _ => None,
            };
            let Some(header) = header else {
                // Its end. What still lives here goes with its claim, or is damaged, and the next start says so.
                self.copying_blocked = Some(segment.number);
                return copies;
            };
            let offset = self.copied;
            self.copied = header.next(offset);
            if header.kind != Kind::Message {
                continue;
            }
            let in_the_way = index.lock().at(header.id, &segment, offset);
            let (from, state) = match in_the_way {
                InTheWay::Dead => continue,
                InTheWay::Wait => {
                    self.copied = offset;
                    return copies;
                }
                InTheWay::Copy(from, state) => (from, state),
            };
            match from.read(header.id, bodies) {
                Ok((head, body)) => {
                    let record = Record::message(header.id, &state, &head, &body);
                    if !copies.is_empty() && bytes + record.len() > limit {
                        self.copied = offset;
                        return copies;
                    }
                    bytes += record.len();
                    copies.push(Copy {
                        id: header.id,
                        from,
                        record,
                    });
                }
                Err(error) => {
                    tracing::error!(message = %header.id, %error, "cannot copy a message within the spool");
                }
            }
        }
        copies
    }

    /// The copies that were handed out were not written.
    pub(super) fn copy_again(&mut self) {
        self.copied = 0;
        self.copying_blocked = None;
    }

    /// The place and the offset of a record that was written, for the index.
    pub(super) fn place(written: (Arc<Segment>, u64), record: &Record, body: &Body) -> Place {
        let (segment, offset) = written;
        let file = match body {
            Body::File { len, .. } => Some(*len),
            Body::Memory(_) => None,
        };
        Place {
            segment,
            offset,
            len: record.header(0, 0, false).len(),
            file,
        }
    }
}

/// Writes and syncs a batch, and moves on behind it. The offset of each record.
fn write_batch(writing: &mut Writing, records: &[&Record]) -> io::Result<Vec<u64>> {
    static ZEROS: [u8; BATCH_ALIGN as usize] = [0; BATCH_ALIGN as usize];
    let batch = writing.batch + 1;
    let salt = writing.segment.salt;
    let mut offsets = Vec::with_capacity(records.len());
    let mut headers = Vec::with_capacity(records.len());
    for (place, record) in records.iter().enumerate() {
        headers.push(record.header(salt, batch, place + 1 == records.len()).encode());
    }
    // Every slice is where it was already: nothing is copied but the headers.
    let mut slices = Vec::with_capacity(records.len() * 5);
    let mut at = writing.at;
    for (record, header) in records.iter().zip(&headers) {
        offsets.push(at);
        let end = at + record.len();
        let unpadded = 64 + record.meta.len() + record.head.len() + record.body.len();
        for part in [&header[..], &record.meta, &record.head, &record.body] {
            if !part.is_empty() {
                slices.push(IoSlice::new(part));
            }
        }
        let padding = record.len() as usize - unpadded;
        if padding > 0 {
            slices.push(IoSlice::new(&ZEROS[..padding]));
        }
        at = end;
    }
    let end = at.next_multiple_of(BATCH_ALIGN);
    if end > at {
        slices.push(IoSlice::new(&ZEROS[..(end - at) as usize]));
    }
    writing.segment.file.write_at(&mut slices, writing.at)?;
    writing.segment.file.sync()?;
    writing.at = end;
    writing.batch = batch;
    writing.segment.end.store(end, Ordering::Relaxed);
    Ok(offsets)
}
