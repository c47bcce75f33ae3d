//! The state's snapshot on disk: `GATEPOST STATE 1\n`, then records, then a record of length 0 and the CRC-32C of everything
//! before it. It is written beside the old one, synced, and renamed over it, so that there is always a whole one.
//!
//! A record is its length (u32) and, all numbers little-endian: expiry in milliseconds since 1970 (u64), kind (u8), length of
//! the plugin's name (u16) and the name, length of the key (u16) and the key, and the value by its kind: bytes, a counter (i64), a
//! bucket's level (two u64). What is not exactly that is corrupt as a whole: half a memory of limits is worse than none.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::Value;
use super::bucket::Level;
use super::shard::Shard;

const MAGIC: &[u8] = b"GATEPOST STATE 1\n";

const BYTES: u8 = 0;
const COUNTER: u8 = 1;
const BUCKET: u8 = 2;

/// One entry of a snapshot.
pub struct Record {
    pub plugin: String,
    pub key: String,
    pub expires_ms: u64,
    pub value: Value,
}

pub enum ReadError {
    Io(io::Error),
    Corrupt(&'static str),
}

/// Writes one snapshot.
pub struct Writer {
    file: io::BufWriter<File>,
    checksum: u32,
}

impl Writer {
    /// Records of one shard's entries.
    pub fn encode(&self, plugin: &str, shard: &Shard) -> Vec<u8> {
        let mut records = Vec::new();
        for (key, entry) in shard.iter() {
            let start = records.len();
            records.extend_from_slice(&[0; 4]);
            records.extend_from_slice(&entry.expires_ms.to_le_bytes());
            records.push(match entry.value {
                Value::Bytes(_) => BYTES,
                Value::Counter(_) => COUNTER,
                Value::Bucket(_) => BUCKET,
            });
            for text in [plugin, key] {
                records.extend_from_slice(&(text.len() as u16).to_le_bytes());
                records.extend_from_slice(text.as_bytes());
            }
            match &entry.value {
                Value::Bytes(bytes) => records.extend_from_slice(bytes),
                Value::Counter(number) => records.extend_from_slice(&number.to_le_bytes()),
                Value::Bucket(level) => {
                    records.extend_from_slice(&level.nano_tokens.to_le_bytes());
                    records.extend_from_slice(&level.at_ms.to_le_bytes());
                }
            }
            let length = (records.len() - start - 4) as u32;
            records[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        records
    }

    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.file.write_all(bytes)
    }
}

/// Puts a new snapshot in the place of the old one.
pub fn write(path: &Path, fill: impl FnOnce(&mut Writer) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut writer = Writer {
        file: io::BufWriter::new(File::create(&beside)?),
        checksum: 0,
    };
    writer.append(MAGIC)?;
    fill(&mut writer)?;
    writer.append(&[0; 4])?;
    let checksum = writer.checksum.to_le_bytes();
    writer.file.write_all(&checksum)?;
    let file = writer.file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The records of a snapshot; none if there is no snapshot.
pub fn read(path: &Path) -> Result<Vec<Record>, ReadError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ReadError::Io(error)),
    };
    parse(&bytes).map_err(ReadError::Corrupt)
}

fn parse(bytes: &[u8]) -> Result<Vec<Record>, &'static str> {
    if !bytes.starts_with(MAGIC) {
        return Err("not a state snapshot of a version that is known");
    }
    let (content, checksum) = bytes.split_last_chunk().ok_or("cut off")?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
        return Err("the checksum does not match");
    }
    let mut rest = Reader(&content[MAGIC.len()..]);
    let mut records = Vec::new();
    loop {
        let length = u32::from_le_bytes(rest.array().ok_or("cut off")?) as usize;
        if length == 0 {
            break;
        }
        let record = rest.take(length).and_then(record).ok_or("a record is malformed")?;
        records.push(record);
    }
    rest.0
        .is_empty()
        .then_some(records)
        .ok_or("there is more behind the end")
}

fn record(bytes: &[u8]) -> Option<Record> {
    let mut rest = Reader(bytes);
    let expires_ms = u64::from_le_bytes(rest.array()?);
    let [kind] = rest.array()?;
    let plugin = rest.text()?;
    let key = rest.text()?;
    let value = match kind {
        BYTES => Value::Bytes(Box::from(std::mem::take(&mut rest.0))),
        COUNTER => Value::Counter(i64::from_le_bytes(rest.array()?)),
        BUCKET => Value::Bucket(Level {
            nano_tokens: u64::from_le_bytes(rest.array()?),
            at_ms: u64::from_le_bytes(rest.array()?),
        }),
        _ => return None,
    };
    rest.0.is_empty().then_some(Record {
        plugin,
        key,
        expires_ms,
        value,
    })
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = u16::from_le_bytes(self.array()?) as usize;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}
