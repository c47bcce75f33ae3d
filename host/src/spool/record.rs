//! The records of the log, byte for byte, and how they are found again.
//!
//! A record is a header of 64 bytes, then `meta` (JSON), the head and the body of a message, each possibly empty,
//! padded to a multiple of 64. All integers are little-endian:
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | `GPsp` |
//! | 4 | 4 | crc32c of the header from byte 8 on |
//! | 8 | 8 | the segment's salt |
//! | 16 | 8 | the batch's number, counted from 1 in each segment |
//! | 24 | 8 | the message's id, or 0 |
//! | 32 | 1 | kind |
//! | 33 | 1 | format, now 1 |
//! | 34 | 2 | flags: 1 = last of its batch; the next begins at the next multiple of 4096 |
//! | 36 | 4 | length of `meta` |
//! | 40 | 4 | length of the head |
//! | 44 | 4 | crc32c of `meta`, head and body |
//! | 48 | 8 | length of the body |
//! | 56 | 8 | zero |
//!
//! The salt is random and stands in the segment's file name. It tells a segment's records from those that its file
//! held before it was used again, and from bytes of the same look that a stranger put into a message, which would
//! otherwise pass for records where the log is damaged.
//!
//! Nothing here does I/O. What does not decode is reported as a gap, never as an error.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::delta::Change;
use crate::message::{Body, Id, QueueState};

/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 64;
/// Batches begin at multiples of this, so that a torn write cannot touch an earlier one's blocks.
pub(super) const BATCH_ALIGN: u64 = 4096;
const HEADER: usize = 64;
/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: u8 = 1;
const MAGIC: [u8; 4] = *b"GPsp";
const LAST: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The first record of a segment.
    Segment = 1,
    /// A message: [`MessageMeta`], head, and body unless that is a file. Replaces what was known of it.
    Message = 2,
    /// The whole state of a known message.
    State = 3,
    /// A [`Delta`](super::delta::Delta) of a known message.
    Delta = 4,
    /// The message has left the queue.
    Remove = 5,
    /// A stretch to pass over; its length is the body's, and nothing of it is checked.
    Skip = 6,
    /// Nothing follows in this segment, and what precedes was synced.
    Seal = 7,
    /// A [`Void`]: what some segment holds from some place on was never acknowledged.
    Abandon = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Segment, Message, State, Delta, Remove, Skip, Seal, Abandon]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The meta of a [`Kind::Message`].
#[derive(Deserialize)]
pub(super) struct MessageMeta {
    pub(super) state: QueueState,
    /// The body is the file of this many bytes in `bodies/`.
    #[serde(default)]
    pub(super) file: Option<u64>,
}

#[derive(Serialize)]
struct MessageMetaRef<'a> {
    state: &'a QueueState,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<u64>,
}

/// The meta of a [`Kind::Abandon`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Void {
    pub(super) segment: u64,
    pub(super) from: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) salt: u64,
    pub(super) batch: u64,
    pub(super) id: Id,
    pub(super) kind: Kind,
    pub(super) format: u8,
    pub(super) last: bool,
    pub(super) meta_len: u32,
    pub(super) head_len: u32,
    pub(super) payload_crc: u32,
    pub(super) body_len: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0u8; HEADER];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.batch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[32] = self.kind as u8;
        bytes[33] = self.format;
        bytes[34..36].copy_from_slice(&(if self.last { LAST } else { 0 }).to_le_bytes());
        bytes[36..40].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.head_len.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.body_len.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`, if it is whole and of this segment.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Header> {
        let (magic, rest) = bytes.get(..HEADER)?.split_first_chunk::<4>()?;
        if *magic != MAGIC || rest[4..12] != salt.to_le_bytes() {
            return None;
        }
        let (crc, fields) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(fields) {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
        let format = fields[25];
        Some(Header {
            salt,
            batch: u64_at(8),
            id: Id(u64_at(16)),
            // A kind of a later format has nothing to say here; the caller looks at the format first.
            kind: Kind::from_byte(fields[24]).or((format > FORMAT).then_some(Kind::Skip))?,
            format,
            last: fields[26] & LAST as u8 != 0,
            meta_len: u32_at(28),
            head_len: u32_at(32),
            payload_crc: u32_at(36),
            body_len: u64_at(40),
        })
    }

    /// Header and payload, without padding.
    pub(super) fn len(&self) -> u64 {
        (HEADER as u64 + u64::from(self.meta_len) + u64::from(self.head_len)).saturating_add(self.body_len)
    }

    /// Where the next record begins if this one begins at `offset`.
    pub(super) fn next(&self, offset: u64) -> u64 {
        let end = offset.saturating_add(self.len());
        let align = if self.last { BATCH_ALIGN } else { ALIGN };
        end.checked_next_multiple_of(align).unwrap_or(u64::MAX)
    }

    /// The places of meta, head and body in the record.
    pub(super) fn parts(&self) -> (Range<usize>, Range<usize>, Range<usize>) {
        let meta = HEADER + self.meta_len as usize;
        let head = meta + self.head_len as usize;
        (HEADER..meta, meta..head, head..head + self.body_len as usize)
    }

    /// Whether `record`, which begins with this header, is whole.
    pub(super) fn verify(&self, record: &[u8]) -> bool {
        if self.kind == Kind::Skip {
            return true;
        }
        let payload = usize::try_from(self.len()).ok().and_then(|len| record.get(HEADER..len));
        payload.is_some_and(|payload| crc32c::crc32c(payload) == self.payload_crc)
    }
}

/// A record that is to be written. The segment and the batch are added when it is.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) id: Id,
    pub(super) meta: Vec<u8>,
    pub(super) head: Bytes,
    pub(super) body: Bytes,
    payload_crc: u32,
}

impl Record {
    fn new(kind: Kind, id: Id, meta: Vec<u8>, head: Bytes, body: Bytes) -> Record {
        let crc = crc32c::crc32c(&meta);
        let crc = crc32c::crc32c_append(crc, &head);
        let payload_crc = crc32c::crc32c_append(crc, &body);
        Record {
            kind,
            id,
            meta,
            head,
            body,
            payload_crc,
        }
    }

    fn small(kind: Kind, id: Id, meta: Vec<u8>) -> Record {
        Record::new(kind, id, meta, Bytes::new(), Bytes::new())
    }

    pub(super) fn message(id: Id, state: &QueueState, head: &Bytes, body: &Body) -> Record {
        let (inline, file) = match body {
            Body::Memory(bytes) => (bytes.clone(), None),
            Body::File { len, .. } => (Bytes::new(), Some(*len)),
        };
        let meta = json(&MessageMetaRef { state, file });
        Record::new(Kind::Message, id, meta, head.clone(), inline)
    }

    pub(super) fn change(id: Id, change: &Change) -> Record {
        match change {
            Change::Delta(delta) => Record::small(Kind::Delta, id, json(delta)),
            Change::State(state) => Record::small(Kind::State, id, json(&**state)),
        }
    }

    pub(super) fn remove(id: Id) -> Record {
        Record::small(Kind::Remove, id, Vec::new())
    }

    pub(super) fn segment() -> Record {
        Record::small(Kind::Segment, Id(0), Vec::new())
    }

    pub(super) fn seal() -> Record {
        Record::small(Kind::Seal, Id(0), Vec::new())
    }

    pub(super) fn abandon(void: &Void) -> Record {
        Record::small(Kind::Abandon, Id(0), json(void))
    }

    /// The header of a record that spans `len` bytes (a multiple of [`ALIGN`]) and says to pass over them.
    pub(super) fn skip(salt: u64, len: u64) -> [u8; HEADER] {
        Header {
            salt,
            batch: 0,
            id: Id(0),
            kind: Kind::Skip,
            format: FORMAT,
            last: false,
            meta_len: 0,
            head_len: 0,
            payload_crc: 0,
            body_len: len - HEADER as u64,
        }
        .encode()
    }

    pub(super) fn header(&self, salt: u64, batch: u64, last: bool) -> Header {
        Header {
            salt,
            batch,
            id: self.id,
            kind: self.kind,
            format: FORMAT,
            last,
            meta_len: self.meta.len() as u32,
            head_len: self.head.len() as u32,
            payload_crc: self.payload_crc,
            body_len: self.body.len() as u64,
        }
    }

    /// What it takes in the log, padding to [`ALIGN`] included.
    pub(super) fn len(&self) -> u64 {
        let payload = self.meta.len() + self.head.len() + self.body.len();
        ((HEADER + payload) as u64).next_multiple_of(ALIGN)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Times before 1970 are the one thing among our types that cannot be written, and no clock of ours says them.
    serde_json::to_vec(value).expect("plain data with string keys")
}

/// A whole record that a scan found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) offset: u64,
    pub(super) header: Header,
}

/// Bytes between whole records that are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// The message, where the header survived.
    pub(super) id: Option<Id>,
    /// The batch in which it lies whole. The last batch of a segment may never have been synced.
    pub(super) inside: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) found: Vec<Found>,
    pub(super) gaps: Vec<Gap>,
    pub(super) sealed: bool,
    /// Where the last whole record ends; the next would begin here.
    pub(super) end: u64,
    pub(super) last_batch: u64,
    /// Bytes after `end` that were meant to be records.
    pub(super) torn: u64,
}

/// Finds the records of a segment. A damaged one costs only itself: the search goes on at the next multiple of
/// [`ALIGN`] at which a whole record begins.
pub(super) fn scan(bytes: &[u8], salt: u64) -> Scan {
    let mut scan = Scan::default();
    let mut expected = 0u64;
    let mut at = 0u64;
    let mut damaged_id = None;
    while let Some(rest) = bytes.get(at as usize..).filter(|rest| rest.len() >= HEADER) {
        let header = Header::decode(rest, salt);
        let Some(header) = header.filter(|header| {
            let whole = header.verify(rest) && header.len() <= rest.len() as u64;
            if !whole {
                damaged_id.get_or_insert(header.id);
                scan.torn = scan.torn.max(header.next(at).min(bytes.len() as u64));
            }
            whole
        }) else {
            at += ALIGN;
            continue;
        };
        if at > expected {
            let id = damaged_id.filter(|id| *id != Id(0));
            let before = scan
                .found
                .last()
                .map(|found: &Found| (found.header.batch, found.header.last));
            let first_of_batch = before.is_none_or(|(batch, last)| last && batch + 1 == header.batch);
            let within_batch = before.is_some_and(|(batch, last)| !last && batch == header.batch);
            let inside = (first_of_batch || within_batch).then_some(header.batch);
            scan.gaps.push(Gap {
                offset: expected,
                len: at - expected,
                id,
                inside,
            });
        }
        damaged_id = None;
        if header.kind != Kind::Skip {
            scan.last_batch = scan.last_batch.max(header.batch);
        }
        expected = header.next(at);
        let kind = header.kind;
        scan.found.push(Found { offset: at, header });
        if kind == Kind::Seal {
            scan.sealed = true;
            break;
        }
        at = expected;
    }
    scan.end = expected;
    scan.torn = scan.torn.saturating_sub(scan.end);
    scan
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x5eed;

    fn log(batches: &[&[Record]]) -> Vec<u8> {
        log_with(SALT, batches)
    }

    fn log_with(salt: u64, batches: &[&[Record]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            for (place, record) in batch.iter().enumerate() {
                let last = place + 1 == batch.len();
                bytes.extend(record.header(salt, number as u64 + 1, last).encode());
                bytes.extend(&record.meta);
                bytes.extend(&record.head);
                bytes.extend(&record.body);
                let align = if last { BATCH_ALIGN } else { ALIGN };
                bytes.resize(bytes.len().next_multiple_of(align as usize), 0);
            }
        }
        bytes.resize(bytes.len() + 8192, 0);
        bytes
    }

    fn record(id: u64, body: &'static str) -> Record {
        Record::new(
            Kind::Message,
            Id(id),
            b"{}".to_vec(),
            Bytes::from_static(b"H: 1\r\n"),
            Bytes::from_static(body.as_bytes()),
        )
    }

    fn ids(scan: &Scan) -> Vec<u64> {
        scan.found.iter().map(|found| found.header.id.0).collect()
    }

    #[test]
    fn records_are_found_again() {
        let bytes = log(&[
            &[record(1, "one"), record(2, "two")],
            &[record(3, "three")],
            &[Record::seal()],
        ]);
        let scan = scan(&bytes, SALT);
        assert_eq!(ids(&scan), [1, 2, 3, 0]);
        assert!(scan.sealed && scan.gaps.is_empty());
        let found = &scan.found[2];
        let (meta, head, body) = found.header.parts();
        let at = &bytes[found.offset as usize..];
        assert_eq!(
            (&at[meta], &at[head], &at[body]),
            (&b"{}"[..], &b"H: 1\r\n"[..], &b"three"[..])
        );
    }

    #[test]
    fn every_flipped_byte_costs_one_record_and_is_noticed() {
        let batches: &[&[Record]] = &[
            &[record(1, "one"), record(2, "two")],
            &[record(3, "three")],
            &[Record::seal()],
        ];
        let whole = log(batches);
        let records = scan(&whole, SALT).found;
        for (at, damaged) in records[..3]
            .iter()
            .flat_map(|found| (0..found.header.len()).map(move |at| (at, found)))
        {
            let mut bytes = whole.clone();
            bytes[(damaged.offset + at) as usize] ^= 0x10;
            let scan = scan(&bytes, SALT);
            let left: Vec<u64> = records
                .iter()
                .map(|r| r.header.id.0)
                .filter(|id| *id != damaged.header.id.0)
                .collect();
            assert_eq!(ids(&scan), left, "byte {at} of {:?}", damaged.header.id);
            assert_eq!(scan.gaps.len(), 1);
            assert_eq!(scan.gaps[0].offset, damaged.offset);
        }
    }

    #[test]
    fn a_gap_says_whether_it_may_be_a_torn_batch() {
        let mut bytes = log(&[
            &[record(1, "one"), record(2, "two")],
            &[record(3, "three"), record(4, "four")],
        ]);
        let third = scan(&bytes, SALT).found[2].offset as usize;
        bytes[third] ^= 1;
        let torn = scan(&bytes, SALT);
        assert_eq!(
            torn.gaps,
            [Gap {
                offset: third as u64,
                len: 128,
                id: None,
                inside: Some(2)
            }]
        );
        assert_eq!(torn.last_batch, 2);
        bytes[64 + 1] ^= 1;
        assert_eq!(scan(&bytes, SALT).gaps[0].inside, Some(1));
    }

    #[test]
    fn what_follows_the_last_record_is_torn_only_if_it_was_meant_as_one() {
        let mut bytes = log(&[&[record(1, "one")], &[record(2, "two")]]);
        assert_eq!(scan(&bytes, SALT).torn, 0);
        bytes[4096 + 66] ^= 1;
        let torn = scan(&bytes, SALT);
        assert_eq!((ids(&torn), torn.end, torn.torn), (vec![1], 4096, 4096));
    }

    #[test]
    fn a_record_inside_a_message_is_no_record() {
        let forged = log(&[&[record(66, "forged")]]);
        let mut body = vec![b'x'; 64 - (HEADER + "{}".len() + "H: 1\r\n".len()) % 64];
        body.extend(&forged[..128]);
        let carrier = Record::new(
            Kind::Message,
            Id(1),
            b"{}".to_vec(),
            Bytes::from_static(b"H: 1\r\n"),
            body.into(),
        );
        let damaged = |salt| {
            let mut bytes = log_with(salt, &[&[carrier.clone(), record(2, "two")]]);
            bytes[0] ^= 1;
            ids(&scan(&bytes, salt))
        };
        // Whoever knew the salt could write into the queue through a damaged message; nobody is told it.
        assert_eq!(damaged(SALT)[0], 66);
        assert_eq!(damaged(7), [2]);
    }

    #[test]
    fn a_skip_is_passed_over() {
        let mut bytes = log(&[&[record(1, "one"), record(2, "two")], &[Record::seal()]]);
        bytes[0..64].copy_from_slice(&Record::skip(SALT, 128));
        let scan = scan(&bytes, SALT);
        assert_eq!(ids(&scan), [0, 2, 0]);
        assert!(scan.gaps.is_empty());
    }
}
