//! Native code that was made before, in a folder of the worker's own.
//!
//! An entry is the code and behind it an authenticator: HMAC-SHA-256 over its name, its length and the SHA-256 of each of its chunks, which are
//! computed in parallel; under a key that is made at random with the folder and is nobody else's to read. Its name is a digest of everything that the code depends on: component, engine, build. So what
//! somebody put there, changed, renamed, or brought from another relay is not native code of ours, and is removed, with a warning. The folder is bounded:
//! what was not used for longest goes.
//!
//! Only opening the folder can fail. What cannot be read counts as not there, and what cannot be written is not kept, both with a warning.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use nix::fcntl::OFlag;
use nix::unistd::Uid;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::child::Limits;
use super::{NativeCode, memory_file};
use crate::policy::decision::Digest;

/// Entries at a time: some versions of each of a relay's plugins.
pub const ENTRIES_MAX: usize = 64;
/// Bytes of all entries: room for the code of many interpreters (35 MB each), and for any single entry.
pub const BYTES_MAX: u64 = 1 << 30;
const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const MAC_BYTES: u64 = 32;
/// What is copied and hashed at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// Threads that do so.
const THREADS_MAX: usize = 4;
/// The end of an entry's name, behind 64 hexadecimal digits.
const ENTRY_SUFFIX: &str = ".native";
/// The beginning of the name of a file that is being written.
const PART_PREFIX: &str = "part-";
/// What is being written is written in seconds; a part that is older was left behind.
const PART_AGE_MAX: Duration = Duration::from_secs(60 * 60);

/// How much a cache keeps.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub entries: usize,
    pub bytes: u64,
}

pub(super) struct Cache {
    folder: PathBuf,
    key: Zeroizing<[u8; KEY_BYTES]>,
    /// What tells builds of this program apart.
    build: String,
    bounds: Bounds,
}

/// The name of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry([u8; 32]);

impl Cache {
    /// Opens the folder, and makes it and its key if need be. It must be this user's; its modes are put right.
    pub fn open(folder: &Path) -> io::Result<Cache> {
        Cache::bounded(
            folder,
            Bounds {
                entries: ENTRIES_MAX,
                bytes: BYTES_MAX,
            },
        )
    }

    pub fn bounded(folder: &Path, bounds: Bounds) -> io::Result<Cache> {
        make_private(folder)?;
        Ok(Cache {
            key: key(folder)?,
            build: build()?,
            folder: folder.to_owned(),
            bounds,
        })
    }

    /// Where the code of this component for this engine is.
    pub fn entry(&self, engine: &wasmtime::Engine, component: Digest) -> Entry {
        let mut whole = Whole(Sha256::new());
        self.build.hash(&mut whole);
        engine.precompile_compatibility_hash().hash(&mut whole);
        component.0.hash(&mut whole);
        Entry(whole.0.finalize().into())
    }

    /// What is there under this name, if it is ours.
    pub fn get(&self, entry: &Entry) -> Option<NativeCode> {
        match self.read(entry) {
            Ok(code) => Some(code),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.refuse(entry, &error.to_string());
                None
            }
        }
    }

    fn read(&self, entry: &Entry) -> io::Result<NativeCode> {
        let file = open(&self.path(entry))?;
        let length = file.metadata()?.len().checked_sub(MAC_BYTES);
        let length = length.filter(|length| *length <= Limits::DEFAULT.code_bytes);
        let length = length.ok_or_else(|| io::Error::other("it has the wrong size"))?;
        let code = memory_file()?;
        // What is authenticated is what was written there, and not what the file is later.
        let digests = copy(&file, &code, length)?;
        let mut mac = [0; MAC_BYTES as usize];
        file.read_exact_at(&mut mac, length)?;
        let verified = self.mac(entry, length, &digests).verify_slice(&mac);
        verified.map_err(|_| io::Error::other("its authenticator is not ours"))?;
        // It was used: others go first. One whose time stays is only forgotten sooner.
        let _ = file.set_modified(SystemTime::now());
        NativeCode::sealed(code)
    }

    /// Removes what is under this name and cannot be used.
    pub fn refuse(&self, entry: &Entry, why: &str) {
        let path = self.path(entry);
        let removed = fs::remove_file(&path);
        let (file, error) = (path.display(), removed.err());
        let error = error.map(|error| error.to_string());
        tracing::warn!(%file, reason = why, error, "an entry of the cache of compiled plugins is no good: it goes, and the plugin is compiled");
    }

    /// Keeps this code under this name. Makes room for it first.
    pub fn put(&self, entry: &Entry, code: &NativeCode) {
        if let Err(error) = self.write(entry, code) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "a compiled plugin cannot be kept: it will be compiled again at the next start");
        }
    }

    fn write(&self, entry: &Entry, code: &NativeCode) -> io::Result<()> {
        let length = code.0.metadata()?.len();
        self.make_room(entry, length + MAC_BYTES)?;
        // Not synced: what a power cut leaves of it does not have the authenticator.
        write_part(&self.folder, |part, file| {
            let digests = copy(&code.0, file, length)?;
            let mac = self.mac(entry, length, &digests).finalize().into_bytes();
            file.write_all_at(&mac, length)?;
            fs::rename(part, self.path(entry))
        })
    }

    /// Removes other entries, those not used for longest first, until this one with this size fits; and what was left behind half written.
    fn make_room(&self, entry: &Entry, length: u64) -> io::Result<()> {
        if length > self.bounds.bytes || self.bounds.entries == 0 {
            return Err(io::Error::other("it is larger than the cache"));
        }
        let own = self.path(entry);
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            let name = name.to_string_lossy();
            // Another process may have removed it.
            let Ok(metadata) = file.metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if name.ends_with(ENTRY_SUFFIX) && file.path() != own {
                entries.push((used, metadata.len(), file.path()));
            } else if name.starts_with(PART_PREFIX) && used.elapsed().is_ok_and(|age| age > PART_AGE_MAX) {
                let _ = fs::remove_file(file.path());
            }
        }
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, length, _)| length).sum();
        let mut count = entries.len();
        for (_, of_entry, path) in entries {
            if count < self.bounds.entries && bytes + length <= self.bounds.bytes {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            count -= 1;
            bytes -= of_entry;
        }
        Ok(())
    }

    fn mac(&self, entry: &Entry, length: u64, digests: &[[u8; 32]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.key).expect("HMAC takes keys of any length");
        mac.update(&entry.0);
        mac.update(&length.to_be_bytes());
        mac.update(digests.as_flattened());
        mac
    }

    pub fn path(&self, entry: &Entry) -> PathBuf {
        let digits: String = entry.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(digits + ENTRY_SUFFIX)
    }
}

/// Copies this many bytes from one file to another, and gives the digest of each chunk as it was written.
fn copy(from: &File, to: &File, length: u64) -> io::Result<Vec<[u8; 32]>> {
    let mut digests = vec![[0; 32]; length.div_ceil(CHUNK_BYTES) as usize];
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    let share = digests.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let mut parts = Vec::new();
        for (part, digests) in digests.chunks_mut(share).enumerate() {
            let mut work = move || -> io::Result<()> {
                let mut buffer = vec![0; CHUNK_BYTES as usize];
                for (place, digest) in digests.iter_mut().enumerate() {
                    let at = (part * share + place) as u64 * CHUNK_BYTES;
                    let chunk = &mut buffer[..CHUNK_BYTES.min(length - at) as usize];
                    from.read_exact_at(chunk, at)?;
                    to.write_all_at(chunk, at)?;
                    *digest = Sha256::digest(&*chunk).into();
                }
                Ok(())
            };
            match part {
                // A small one needs no other thread.
                0 if length <= CHUNK_BYTES => work()?,
                _ => parts.push(std::thread::Builder::new().spawn_scoped(scope, work)?),
            }
        }
        parts
            .into_iter()
            .try_for_each(|part| part.join().map_err(|_| io::Error::other("a thread panicked"))?)
    })?;
    Ok(digests)
}

/// A hasher of 256 bits.
struct Whole(Sha256);

impl Hasher for Whole {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Never asked: the digest is what counts.
    fn finish(&self) -> u64 {
        0
    }
}

/// The version does not tell two builds apart, nor does the engine's hash two releases of its compiler; the file of the executable does.
fn build() -> io::Result<String> {
    let file = fs::metadata("/proc/self/exe")?;
    let (inode, size, seconds, nanos) = (file.ino(), file.size(), file.mtime(), file.mtime_nsec());
    Ok(format!(
        "{} {inode} {size} {seconds}.{nanos}",
        env!("CARGO_PKG_VERSION")
    ))
}

/// The folder is there, is this user's, and nobody else's.
fn make_private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let open = OpenOptions::new().read(true).custom_flags(flags.bits()).open(folder)?;
    let metadata = open.metadata()?;
    if metadata.uid() != Uid::effective().as_raw() {
        return Err(io::Error::other(format!("it belongs to uid {}", metadata.uid())));
    }
    if metadata.mode() & 0o777 != 0o700 {
        open.set_permissions(fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Opens a regular file to read, never through a link.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// The folder's key. One that is no key, or that others could read, is replaced, and no entry under it is ever taken.
fn key(folder: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let path = folder.join(KEY_FILE);
    match read_key(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the key of the cache of compiled plugins is no good: another one is made");
            fs::remove_file(&path)?;
        }
        key => return key,
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(io::Error::other)?;
    // Another process may be first: then its key is the folder's.
    write_part(folder, |part, file| {
        file.write_all_at(&*key, 0)?;
        file.sync_all()?;
        match fs::hard_link(part, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::remove_file(part),
        }
    })?;
    read_key(&path)
}

fn read_key(path: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let mut file = open(path)?;
    let metadata = file.metadata()?;
    if metadata.mode() & 0o077 != 0 || metadata.uid() != Uid::effective().as_raw() {
        return Err(io::Error::other("others can read it"));
    }
    if metadata.len() != KEY_BYTES as u64 {
        return Err(io::Error::other(format!("it has not {KEY_BYTES} bytes")));
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    file.read_exact(&mut *key)?;
    Ok(key)
}

/// Makes a new file of mode 0600 under a name of its own, to be filled and put in its place. Nothing is left behind if that fails.
fn write_part(folder: &Path, write: impl FnOnce(&Path, &File) -> io::Result<()>) -> io::Result<()> {
    let number = getrandom::u64().map_err(io::Error::other)?;
    let part = folder.join(format!("{PART_PREFIX}{number:016x}"));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|file| write(&part, &file));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
