//! The message as policies see and edit it.
//!
//! What policies see is the client's message: the relay's own trace fields are put on top when the message is
//! [finished](Content::finish). Nothing is looked at before somebody asks. An unedited message is passed on byte for
//! byte, however malformed; an edited one changes only in what the edit names, and its body is not copied: edits are a
//! list of header fields, old ones as places in the original and new ones as bytes.
//!
//! Reading is synchronous: a body is in memory, or in a file that was written moments ago and is read with `pread` in
//! pieces of at most [`READ_BYTES_MAX`]. Only the file layer can fail ([`std::io::Error`]); edits that break a rule are
//! refused with an [`EditError`] and change nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::header::{self, Header};
use crate::message::Body;

/// The most that one [`Content::read`] gives, in bytes.
pub const READ_BYTES_MAX: u32 = 256 * 1024;

/// How much of a message is searched for its header, in bytes. A longer header is cut behind the last whole field:
/// for policies, what follows counts as body.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;

/// The most values that one [`Content::header`] gives; further ones are left out.
pub const VALUES_MAX: usize = 1_000;

/// The most bytes of values that one [`Content::header`] gives; further ones are left out.
pub const VALUES_BYTES_MAX: usize = 256 * 1024;

/// How long a header may become by edits, in bytes.
pub const EDITED_HEADER_BYTES_MAX: usize = 2 * HEADER_BYTES_MAX;

/// One message: the client's, and what policies made of it. Clones share everything until one is edited.
#[derive(Clone, Debug)]
pub struct Content {
    source: Arc<Source>,
    edited: Option<Arc<Edited>>,
}

/// Where a new field goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Top,
    Bottom,
}

/// Why an edit was refused. The content is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{0:?} is not a field's name: printable ASCII without blanks and colons (RFC 5322 §2.2)")]
    Name(String),
    #[error("the value of {name} holds {fault}")]
    Value { name: String, fault: &'static str },
    #[error("{what} is over {bytes_max} bytes")]
    TooLarge { what: &'static str, bytes_max: usize },
    #[error("there is no field {name} with number {occurrence}, counted from 0 at the top")]
    NoSuchField { name: String, occurrence: u32 },
    #[error("the new body has a bare CR or LF at byte {0}: its lines end in CRLF")]
    LineEnd(usize),
    #[error("the header is over {HEADER_BYTES_MAX} bytes: the body behind it cannot be replaced")]
    HeaderTooLong,
    #[error("cannot read the message: {0}")]
    Io(#[from] io::Error),
}

/// What the client sent.
#[derive(Debug)]
struct Source {
    body: Body,
    file: OnceLock<File>,
    header: OnceLock<Header>,
}

/// What policies made of it. Exists only once the source's header was scanned.
#[derive(Clone, Debug)]
struct Edited {
    entries: Vec<Entry>,
    /// The new body, if it was replaced.
    body: Option<Bytes>,
    /// The header as it is now, made when somebody reads it.
    header: OnceLock<Bytes>,
}

/// One field of an edited header.
#[derive(Clone, Debug)]
enum Entry {
    /// Its number among the source's fields.
    Original(u32),
    New {
        bytes: Bytes,
        name_len: u32,
    },
}

impl Content {
    /// The client's message: all of it, without the relay's trace fields.
    pub fn new(body: Body) -> Content {
        let source = Source {
            body,
            file: OnceLock::new(),
            header: OnceLock::new(),
        };
        Content {
            source: Arc::new(source),
            edited: None,
        }
    }

    /// Bytes from the first header field to the last line end.
    pub fn size(&self) -> u64 {
        match &self.edited {
            None => self.source.body.len(),
            Some(edited) => {
                let header = self.source.scanned();
                let body = edited
                    .body
                    .as_ref()
                    .map_or_else(|| self.source.behind(header), |body| body.len() as u64);
                edited.header(header, &self.source).len() as u64 + body
            }
        }
    }

    /// Where the body begins: the length of the header, the empty line included.
    pub fn body_offset(&self) -> io::Result<u64> {
        let header = self.source.header()?;
        let length = match &self.edited {
            None => header.bytes.len(),
            Some(edited) => edited.header(header, &self.source).len(),
        };
        Ok(length as u64)
    }

    /// The raw values of all fields of this name (case does not matter), from the top: folded lines as they are, without the
    /// one space behind the colon and without the last line end. At most [`VALUES_MAX`] and [`VALUES_BYTES_MAX`].
    pub fn header(&self, name: &str) -> io::Result<Vec<Bytes>> {
        let header = self.source.header()?;
        let mut values = Values::default();
        match &self.edited {
            None => {
                let named = |field: &&header::Field| field.name(&header.bytes).eq_ignore_ascii_case(name.as_bytes());
                for field in header.fields.iter().filter(named) {
                    if !values.take(&header.bytes, field.value(&header.bytes)) {
                        break;
                    }
                }
            }
            Some(edited) => {
                let named = |entry: &&Entry| entry.name(header).eq_ignore_ascii_case(name.as_bytes());
                for entry in edited.entries.iter().filter(named) {
                    let (bytes, value) = entry.value(header);
                    if !values.take(bytes, value) {
                        break;
                    }
                }
            }
        }
        Ok(values.list)
    }

    /// Bytes from `offset`, at most `length` and [`READ_BYTES_MAX`]: fewer at the end, none behind it.
    pub fn read(&self, offset: u64, length: u32) -> io::Result<Bytes> {
        let length = u64::from(length.min(READ_BYTES_MAX)).min(self.size().saturating_sub(offset)) as usize;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let Some(edited) = &self.edited else {
            return self.source.read(offset, length);
        };
        let source_header = self.source.scanned();
        let header = edited.header(source_header, &self.source);
        let header_len = header.len() as u64;
        let from_header = match usize::try_from(offset).ok().filter(|at| *at < header.len()) {
            Some(at) => header.slice(at..header.len().min(at + length)),
            None => Bytes::new(),
        };
        if from_header.len() == length {
            return Ok(from_header);
        }
        let body_at = offset.saturating_sub(header_len);
        let body_len = length - from_header.len();
        let from_body = match &edited.body {
            // `length` is cut to `size()`, so the body has these bytes.
            Some(body) => body.slice(body_at as usize..body_at as usize + body_len),
            None => self.source.read(source_header.bytes.len() as u64 + body_at, body_len)?,
        };
        if from_header.is_empty() {
            return Ok(from_body);
        }
        let mut both = BytesMut::with_capacity(length);
        both.extend_from_slice(&from_header);
        both.extend_from_slice(&from_body);
        Ok(both.freeze())
    }

    /// The message as the client sent it.
    pub fn original(&self) -> Content {
        Content {
            source: Arc::clone(&self.source),
            edited: None,
        }
    }

    pub fn is_edited(&self) -> bool {
        self.edited.is_some()
    }

    /// Puts a new field above or below all others.
    pub fn add_header(&mut self, name: &str, value: &[u8], place: Place) -> Result<(), EditError> {
        let entry = Entry::new(name, value)?;
        self.edit(|entries, _| {
            match place {
                Place::Top => entries.insert(0, entry),
                Place::Bottom => entries.push(entry),
            }
            Ok(())
        })
    }

    /// Gives the field number `occurrence` of that name, counted from 0 at the top, a new value where it stands; the name
    /// stays as it is spelt there.
    pub fn replace_header(&mut self, name: &str, occurrence: u32, value: &[u8]) -> Result<(), EditError> {
        self.edit(|entries, header| {
            let place = find(entries, header, name, occurrence)?;
            let name = entries[place].name(header);
            entries[place] = Entry::New {
                name_len: name.len() as u32,
                bytes: header::field_named(name, value)?,
            };
            Ok(())
        })
    }

    /// Removes the field number `occurrence` of that name, or all of them; that there are none is then no error.
    pub fn remove_header(&mut self, name: &str, occurrence: Option<u32>) -> Result<(), EditError> {
        self.edit(|entries, header| {
            match occurrence {
                Some(occurrence) => {
                    let place = find(entries, header, name, occurrence)?;
                    entries.remove(place);
                }
                None => entries.retain(|entry| !entry.is_named(header, name)),
            }
            Ok(())
        })
    }

    /// Replaces everything behind the header. Lines end in CRLF; the last one gets its end if it lacks it.
    pub fn replace_body(&mut self, body: Vec<u8>) -> Result<(), EditError> {
        if let Some(at) = header::bare_line_end(&body) {
            return Err(EditError::LineEnd(at));
        }
        if self.source.header()?.cut {
            return Err(EditError::HeaderTooLong);
        }
        let mut body = body;
        if !body.is_empty() && !body.ends_with(b"\r\n") {
            body.extend_from_slice(b"\r\n");
        }
        let edited = self.edited()?;
        edited.header = OnceLock::new();
        edited.body = Some(Bytes::from(body));
        Ok(())
    }

    /// What the spool takes: `trace` (whole fields with their line ends) on top of everything else, and the body.
    ///
    /// Fields added on top go to the head; then the body is the client's, untouched. Of a body in memory that was edited
    /// further, the header goes to the head and the rest is a slice. Only a file that was edited below its top is written
    /// anew, under its own path: this blocks while it copies, and other copies of the old [`Body`] are void after it.
    /// A body that a policy replaced stays in memory, unless the original was a file and it is over [`Body::MEMORY_LIMIT`].
    pub fn finish(self, trace: Bytes) -> io::Result<(Bytes, Body)> {
        let Some(edited) = &self.edited else {
            return Ok((trace, self.source.body.clone()));
        };
        let header = self.source.header()?;
        let mut head = BytesMut::with_capacity(trace.len() + 512);
        head.extend_from_slice(&trace);
        if edited.only_added_on_top(header) {
            for entry in &edited.entries {
                if let Entry::New { bytes, .. } = entry {
                    head.extend_from_slice(bytes);
                }
            }
            if header.fields.is_empty() && edited.lacks_separator(header, &self.source) {
                head.extend_from_slice(b"\r\n");
            }
            return Ok((head.freeze(), self.source.body.clone()));
        }
        head.extend_from_slice(edited.header(header, &self.source));
        let body = match (&self.source.body, &edited.body) {
            (Body::Memory(bytes), None) => Body::Memory(bytes.slice(header.bytes.len()..)),
            (Body::Memory(_), Some(body)) => Body::Memory(body.clone()),
            (Body::File { path, .. }, None) => {
                let mut rest = File::open(path)?;
                rest.seek(SeekFrom::Start(header.bytes.len() as u64))?;
                let len = rewrite(path, &mut rest.take(self.source.behind(header)))?;
                file_body(path, len, self.source.behind(header))?
            }
            (Body::File { path, .. }, Some(body)) if body.len() > Body::MEMORY_LIMIT => {
                let len = rewrite(path, &mut &body[..])?;
                file_body(path, len, body.len() as u64)?
            }
            (Body::File { path, .. }, Some(body)) => {
                std::fs::remove_file(path)?;
                Body::Memory(body.clone())
            }
        };
        Ok((head.freeze(), body))
    }

    /// Everything in one piece; a file is read into memory.
    pub fn whole(&self) -> io::Result<Bytes> {
        if let (None, Body::Memory(bytes)) = (&self.edited, &self.source.body) {
            return Ok(bytes.clone());
        }
        let size = self.size();
        let mut whole = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
        while (whole.len() as u64) < size {
            whole.extend_from_slice(&self.read(whole.len() as u64, READ_BYTES_MAX)?);
        }
        Ok(whole.freeze())
    }

    /// Changes the list of fields, or leaves it as it was on an error.
    fn edit(
        &mut self,
        change: impl FnOnce(&mut Vec<Entry>, &Header) -> Result<(), EditError>,
    ) -> Result<(), EditError> {
        let before = self.edited.clone();
        let source = Arc::clone(&self.source);
        let header = source.header()?;
        let edited = self.edited()?;
        edited.header = OnceLock::new();
        let changed = change(&mut edited.entries, header).and_then(|()| {
            let bytes: usize = edited.entries.iter().map(|entry| entry.bytes(header).len()).sum();
            let fits = bytes <= EDITED_HEADER_BYTES_MAX;
            fits.then_some(()).ok_or(EditError::TooLarge {
                what: "the edited header",
                bytes_max: EDITED_HEADER_BYTES_MAX,
            })
        });
        if changed.is_err() {
            self.edited = before;
        }
        changed
    }

    /// The edits of this content alone, begun if there are none.
    fn edited(&mut self) -> io::Result<&mut Edited> {
        let edited = match self.edited.take() {
            Some(edited) => edited,
            None => {
                let fields = self.source.header()?.fields.len() as u32;
                Arc::new(Edited {
                    entries: (0..fields).map(Entry::Original).collect(),
                    body: None,
                    header: OnceLock::new(),
                })
            }
        };
        Ok(Arc::make_mut(self.edited.insert(edited)))
    }
}

/// The values that one look-up gives.
#[derive(Default)]
struct Values {
    list: Vec<Bytes>,
    bytes: usize,
}

impl Values {
    /// False once a bound is reached.
    fn take(&mut self, header: &Bytes, value: std::ops::Range<usize>) -> bool {
        self.bytes += value.len();
        if self.list.len() == VALUES_MAX || self.bytes > VALUES_BYTES_MAX {
            return false;
        }
        self.list.push(header.slice(value));
        true
    }
}

impl Source {
    fn header(&self) -> io::Result<&Header> {
        if let Some(header) = self.header.get() {
            return Ok(header);
        }
        let header = match &self.body {
            Body::Memory(bytes) => Header::scan(
                &bytes.slice(..bytes.len().min(HEADER_BYTES_MAX)),
                bytes.len() > HEADER_BYTES_MAX,
            ),
            Body::File { len, .. } => {
                // Most headers are short: a second read fetches the long ones.
                let mut part = self.read(0, len.min(&16_384).to_owned() as usize)?;
                let mut header = Header::scan(&part, part.len() as u64 != *len);
                if header.cut && (part.len() as u64) < *len {
                    part = self.read(0, len.min(&(HEADER_BYTES_MAX as u64)).to_owned() as usize)?;
                    header = Header::scan(&part, part.len() as u64 != *len);
                }
                // Keep the header, not the beginning of the body.
                header.bytes = Bytes::copy_from_slice(&header.bytes);
                header
            }
        };
        Ok(self.header.get_or_init(|| header))
    }

    /// The header of a source that somebody has edited.
    fn scanned(&self) -> &Header {
        self.header.get().expect("edits begin with scanning the header")
    }

    /// The bytes behind the header.
    fn behind(&self, header: &Header) -> u64 {
        self.body.len() - header.bytes.len() as u64
    }

    /// Exactly these bytes; the caller keeps within the length.
    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        match &self.body {
            Body::Memory(bytes) => {
                let offset = offset as usize;
                Ok(bytes.slice(offset..offset + length))
            }
            Body::File { path, .. } => {
                let file = match self.file.get() {
                    Some(file) => file,
                    None => {
                        let file = File::open(path)?;
                        self.file.get_or_init(|| file)
                    }
                };
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(Bytes::from(bytes))
            }
        }
    }
}

impl Edited {
    /// The header as it is now, the empty line included.
    fn header(&self, header: &Header, source: &Source) -> &Bytes {
        self.header.get_or_init(|| {
            let mut bytes = BytesMut::with_capacity(header.bytes.len() + 1024);
            for entry in &self.entries {
                if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(entry.bytes(header));
            }
            bytes.extend_from_slice(header.separator());
            if self.lacks_separator(header, source) {
                if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.freeze()
        })
    }

    /// The client sent no empty line, and the edit needs one: what stands above the body is new, or the body is.
    fn lacks_separator(&self, header: &Header, source: &Source) -> bool {
        if header.cut || !header.separator().is_empty() {
            return false;
        }
        let last = header.fields.len().checked_sub(1);
        let as_it_was = match (self.entries.last(), last) {
            (Some(Entry::Original(number)), Some(last)) => *number as usize == last,
            (None, None) => true,
            _ => false,
        };
        self.body.is_some() || (!as_it_was && source.behind(header) > 0)
    }

    /// All of the client's message is there, and new fields stand only above it.
    fn only_added_on_top(&self, header: &Header) -> bool {
        let added = self.entries.len().checked_sub(header.fields.len());
        self.body.is_none()
            && added.is_some_and(|added| {
                let (new, old) = self.entries.split_at(added);
                new.iter().all(|entry| matches!(entry, Entry::New { .. }))
                    && old
                        .iter()
                        .zip(0..)
                        .all(|(entry, place)| matches!(entry, Entry::Original(number) if *number == place))
            })
    }
}

impl Entry {
    fn new(name: &str, value: &[u8]) -> Result<Entry, EditError> {
        Ok(Entry::New {
            bytes: header::new_field(name, value)?,
            name_len: name.len() as u32,
        })
    }

    fn name<'a>(&'a self, header: &'a Header) -> &'a [u8] {
        match self {
            Entry::Original(number) => header.fields[*number as usize].name(&header.bytes),
            Entry::New { bytes, name_len } => &bytes[..*name_len as usize],
        }
    }

    fn is_named(&self, header: &Header, name: &str) -> bool {
        self.name(header).eq_ignore_ascii_case(name.as_bytes())
    }

    /// The whole field, its line end included (which the last line of a message may lack).
    fn bytes<'a>(&'a self, header: &'a Header) -> &'a [u8] {
        match self {
            Entry::Original(number) => &header.bytes[header.fields[*number as usize].range()],
            Entry::New { bytes, .. } => bytes,
        }
    }

    fn value<'a>(&'a self, header: &'a Header) -> (&'a Bytes, std::ops::Range<usize>) {
        match self {
            Entry::Original(number) => (&header.bytes, header.fields[*number as usize].value(&header.bytes)),
            Entry::New { bytes, name_len } => (bytes, header::value_range(bytes, *name_len as usize + 1, bytes.len())),
        }
    }
}

/// The place of the field number `occurrence` of that name.
fn find(entries: &[Entry], header: &Header, name: &str, occurrence: u32) -> Result<usize, EditError> {
    let mut named = (0..entries.len()).filter(|place| entries[*place].is_named(header, name));
    named.nth(occurrence as usize).ok_or_else(|| EditError::NoSuchField {
        name: name.to_owned(),
        occurrence,
    })
}

/// Puts other bytes under the path of a body: beside it first, so that it is whole at any time. Durability is the spool's.
fn rewrite(path: &Path, bytes: &mut impl Read) -> io::Result<u64> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".edited");
    let beside = Path::new(&beside);
    let written = File::create(beside)
        .and_then(|mut file| io::copy(bytes, &mut file))
        .and_then(|len| std::fs::rename(beside, path).map(|()| len));
    if written.is_err() {
        let _ = std::fs::remove_file(beside);
    }
    written
}

/// The rewritten body, if it is as long as it should be.
fn file_body(path: &Arc<Path>, len: u64, expected: u64) -> io::Result<Body> {
    if len != expected {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{}: shorter than it was", path.display()),
        ));
    }
    Ok(Body::File {
        path: Arc::clone(path),
        len,
    })
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
