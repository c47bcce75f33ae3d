//! Reads the spool back at the start: finds every record, applies them in order, sets aside what is damaged, and
//! removes what nothing refers to.
//!
//! A segment that a crash interrupted ends with a batch that may be torn. That batch was not acknowledged; what of it
//! is whole is kept, because it cannot be told from one that was synced just before the crash, and the rest is cut. A
//! damaged stretch anywhere else held something acknowledged: it is copied to `corrupt/` with a report beside it and
//! marked to be passed over, so that it is reported once. Everything else stays deliverable.
//!
//! It fails only if the folder cannot be read or written, or if a later version wrote it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::delta::Delta;
use super::files::Files;
use super::index::Index;
use super::log::{Log, Place, Segment, parse_segment_name};
use super::record::{self, FORMAT, Found, Gap, Header, Kind, MessageMeta, Record, Scan, Void};
use super::{Recovered, SetAside, SpoolError, SpoolOptions};
use crate::message::{Id, QueueState};

/// What one pass over a segment's file gave.
struct Read {
    segment: Arc<Segment>,
    scan: Scan,
    /// The meta of each record found.
    metas: Vec<Vec<u8>>,
}

type Queued = BTreeMap<Id, (QueueState, Place)>;

pub(super) fn recover(
    dir: &Path,
    options: &SpoolOptions,
    files: &Arc<dyn Files>,
) -> Result<(Index, Log, Recovered), SpoolError> {
    let mut recovered = Recovered::default();
    let mut reads = read_segments(&dir.join("log"), files)?;
    honour_voids(&mut reads);
    let bodies = list_bodies(dir, files)?;
    let mut repair = Repair {
        dir,
        files,
        recovered: &mut recovered,
    };
    let mut queued = Queued::new();
    for read in &reads {
        repair.apply(read, &mut queued)?;
    }
    repair.check_bodies(&bodies, &mut queued)?;
    for id in bodies
        .keys()
        .filter(|id| queued.get(id).is_none_or(|(_, place)| place.file.is_none()))
    {
        // What cannot be removed now is met again at the next start.
        recovered.orphans += usize::from(files.remove(&dir.join("bodies").join(id.to_string())).is_ok());
    }
    for path in list(files, &dir.join("tmp"))? {
        recovered.orphans += usize::from(files.remove(&path).is_ok());
    }
    let mut index = Index::default();
    for (id, (state, place)) in queued {
        recovered.messages += 1;
        recovered.held += usize::from(state.held.is_some());
        index.insert(id, Arc::new(state), place, None);
    }
    let segments: VecDeque<_> = reads.into_iter().map(|read| read.segment).collect();
    Ok((
        index,
        Log::new(dir, files.clone(), options.segment_bytes, segments),
        recovered,
    ))
}

fn read_segments(dir: &Path, files: &Arc<dyn Files>) -> Result<Vec<Read>, SpoolError> {
    let mut named = Vec::new();
    for path in list(files, dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((number, salt)) = parse_segment_name(name) {
            named.push((number, salt, path));
        } else if name.starts_with("spare-") {
            files
                .remove(&path)
                .map_err(SpoolError::io(format!("cannot remove {}", path.display())))?;
        }
    }
    named.sort();
    let mut reads = Vec::with_capacity(named.len());
    for (number, salt, path) in named {
        let fail = || SpoolError::io(format!("cannot read {}", path.display()));
        let file = files.open(&path).map_err(fail())?;
        let size = file.size().map_err(fail())?;
        let mut bytes = vec![0; size as usize];
        file.read_at(&mut bytes, 0).map_err(fail())?;
        let scan = record::scan(&bytes, salt);
        if let Some(newer) = scan.found.iter().find(|found| found.header.format > FORMAT) {
            return Err(SpoolError::Newer {
                file: path,
                found: newer.header.format,
                known: FORMAT,
            });
        }
        let meta = |found: &Found| {
            let (meta, ..) = found.header.parts();
            bytes[found.offset as usize..][meta].to_vec()
        };
        let metas = scan.found.iter().map(meta).collect();
        let segment = Arc::new(Segment::new(number, salt, path, file, size, scan.end));
        reads.push(Read { segment, scan, metas });
    }
    Ok(reads)
}

/// Takes out of each segment what a later one declares void.
fn honour_voids(reads: &mut [Read]) {
    let mut voids = HashMap::new();
    for read in reads.iter() {
        for (found, meta) in read.scan.found.iter().zip(&read.metas) {
            if found.header.kind == Kind::Abandon
                && let Ok(Void { segment, from }) = serde_json::from_slice(meta)
            {
                voids.insert(segment, from);
            }
        }
    }
    for read in reads {
        let Some(&from) = voids.get(&read.segment.number) else {
            continue;
        };
        let scan = &mut read.scan;
        if from >= scan.end {
            // It was cut already, or nothing of it arrived; what precedes was synced.
            if from > scan.end && !scan.sealed {
                scan.gaps.push(Gap {
                    offset: scan.end,
                    len: from - scan.end,
                    id: None,
                    inside: None,
                });
            }
            scan.sealed = true;
            scan.torn = 0;
            continue;
        }
        scan.found.retain(|found| found.offset < from);
        scan.gaps.retain(|gap| gap.offset < from);
        scan.sealed = false;
        scan.torn = 0;
        scan.end = from;
        // The batch that failed is the last: no gap before it is torn.
        scan.last_batch = u64::MAX;
        read.metas.truncate(scan.found.len());
        read.segment.set_end(from);
    }
}

/// The files of large bodies, and their lengths.
fn list_bodies(dir: &Path, files: &Arc<dyn Files>) -> Result<HashMap<Id, u64>, SpoolError> {
    let mut bodies = HashMap::new();
    for path in list(files, &dir.join("bodies"))? {
        let id = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        if let Some(id) = id {
            let len = files.open(&path).and_then(|file| file.size());
            bodies.insert(
                id,
                len.map_err(SpoolError::io(format!("cannot read {}", path.display())))?,
            );
        }
    }
    Ok(bodies)
}

fn list(files: &Arc<dyn Files>, dir: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    files
        .list(dir)
        .map_err(SpoolError::io(format!("cannot list {}", dir.display())))
}

struct Repair<'a> {
    dir: &'a Path,
    files: &'a Arc<dyn Files>,
    recovered: &'a mut Recovered,
}

impl Repair<'_> {
    /// Applies a segment's records to the queue, and leaves the segment whole.
    fn apply(&mut self, read: &Read, queued: &mut Queued) -> Result<(), SpoolError> {
        let Read { segment, scan, metas } = read;
        let mut skips = Vec::new();
        for gap in &scan.gaps {
            if !scan.sealed && gap.inside == Some(scan.last_batch) {
                self.recovered.torn_bytes += gap.len;
                skips.push((gap.offset, gap.len));
            } else if self.set_aside(
                segment,
                gap.offset,
                gap.len,
                gap.id,
                "the checksum of the record is wrong",
            ) {
                skips.push((gap.offset, gap.len));
            }
        }
        for (found, meta) in scan.found.iter().zip(metas) {
            if let Err(reason) = apply(segment, found, meta, queued) {
                let (offset, len) = (found.offset, found.header.next(found.offset) - found.offset);
                if self.set_aside(segment, offset, len, Some(found.header.id), &reason) {
                    skips.push((offset, len));
                }
            }
        }
        self.recovered.torn_bytes += scan.torn;
        let fail = || SpoolError::io(format!("cannot repair {}", segment.path.display()));
        for (offset, len) in &skips {
            skip(segment, *offset, *len).map_err(fail())?;
        }
        if !scan.sealed {
            let seal = Record::seal()
                .header(segment.salt, scan.last_batch.wrapping_add(1), true)
                .encode();
            segment
                .file
                .write_at(&mut [IoSlice::new(&seal)], scan.end)
                .map_err(fail())?;
        }
        if !skips.is_empty() || !scan.sealed {
            segment.file.sync().map_err(fail())?;
        }
        Ok(())
    }

    /// Takes out the messages whose large body is not there. Only when all is applied: a body goes when its message has
    /// left the queue, while the record of it may still be in the log.
    fn check_bodies(&mut self, bodies: &HashMap<Id, u64>, queued: &mut Queued) -> Result<(), SpoolError> {
        let large = queued
            .iter()
            .filter_map(|(id, (_, place))| Some((*id, place.clone(), place.file?)));
        let incomplete: Vec<_> = large.filter(|(id, _, len)| bodies.get(id) != Some(len)).collect();
        for (id, place, len) in incomplete {
            queued.remove(&id);
            let reason = match bodies.get(&id) {
                Some(found) => format!("the body's file has {found} bytes instead of {len}"),
                None => "the body's file is missing".to_owned(),
            };
            let Place { segment, offset, .. } = &place;
            let fail = || SpoolError::io(format!("cannot repair {}", segment.path.display()));
            let mut header = [0; 64];
            segment.file.read_at(&mut header, *offset).map_err(fail())?;
            // It was read a moment ago; should it not decode now, the next start deals with it.
            let Some(header) = Header::decode(&header, segment.salt) else {
                continue;
            };
            let span = header.next(*offset) - offset;
            if self.set_aside(segment, *offset, span, Some(id), &reason) {
                skip(segment, *offset, span)
                    .and_then(|()| segment.file.sync())
                    .map_err(fail())?;
            }
        }
        Ok(())
    }

    /// Copies a damaged stretch to `corrupt/` and reports it. False if the copy could not be made: then the stretch
    /// stays as it is, and the next start finds it again.
    fn set_aside(&mut self, segment: &Segment, offset: u64, len: u64, id: Option<Id>, reason: &str) -> bool {
        let folder = self.dir.join("corrupt");
        let name = format!("{:016x}-{offset:08x}", segment.number);
        let copy = folder.join(format!("{name}.bin"));
        let message = id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        let report = format!(
            "file: {}\noffset: {offset}\nbytes: {len}\nmessage: {message}\nreason: {reason}\n",
            segment.path.display()
        );
        let copied = || {
            let mut bytes = vec![0; len as usize];
            let read = segment.file.read_at(&mut bytes, offset)?;
            for (path, contents) in [
                (&copy, &bytes[..read]),
                (&folder.join(format!("{name}.txt")), report.as_bytes()),
            ] {
                if self.files.open(path).is_ok() {
                    self.files.remove(path)?;
                }
                let file = self.files.create(path, 0)?;
                file.write_at(&mut [IoSlice::new(contents)], 0)?;
                file.sync()?;
            }
            self.files.sync_dir(&folder)
        };
        let copied: io::Result<()> = copied();
        if let Err(error) = &copied {
            tracing::error!(%error, copy = %copy.display(), "cannot copy a damaged piece of the spool");
        }
        self.recovered.set_aside.push(SetAside {
            file: segment.path.clone(),
            offset,
            reason: reason.to_owned(),
            id,
            copy: copied.is_ok().then_some(copy),
        });
        copied.is_ok()
    }
}

/// Has the next start pass over a stretch.
fn skip(segment: &Segment, offset: u64, len: u64) -> io::Result<()> {
    segment
        .file
        .write_at(&mut [IoSlice::new(&Record::skip(segment.salt, len))], offset)
}

/// Applies one record. The error is the reason why it cannot be used.
fn apply(segment: &Arc<Segment>, found: &Found, meta: &[u8], queued: &mut Queued) -> Result<(), String> {
    let Found { offset, header } = found;
    let unreadable = |error: serde_json::Error| format!("the record cannot be read: {error}");
    match header.kind {
        Kind::Message => {
            let MessageMeta { state, file } = serde_json::from_slice(meta).map_err(unreadable)?;
            let place = Place {
                segment: segment.clone(),
                offset: *offset,
                len: header.len(),
                file,
            };
            queued.insert(header.id, (state, place));
        }
        Kind::State => {
            let new: QueueState = serde_json::from_slice(meta).map_err(unreadable)?;
            if let Some((state, _)) = queued.get_mut(&header.id) {
                *state = new;
            }
        }
        Kind::Delta => {
            let delta: Delta = serde_json::from_slice(meta).map_err(unreadable)?;
            if let Some((state, _)) = queued.get_mut(&header.id)
                && !delta.apply(state)
            {
                return Err("the change names a recipient that the message does not have".to_owned());
            }
        }
        Kind::Remove => {
            queued.remove(&header.id);
        }
        Kind::Segment | Kind::Skip | Kind::Seal | Kind::Abandon => {}
    }
    Ok(())
}
