//! Message bodies while they arrive, and the files of those that are too large for the log.
//!
//! A body stays in memory up to [`Body::MEMORY_LIMIT`]; what is larger streams to `tmp/`. At the commit the file is
//! synced and gets a second name in `bodies/`, called like the message (a link rather than a rename, so that two
//! messages can be made of one body); a record refers to it only after that. A file in `tmp/` goes when the last
//! [`Body`] that names it does, one in `bodies/` when its message has durably left the queue; what a crash leaves over
//! is removed at the next start.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::SpoolError;
use super::files::{File, Files};
use super::queue::{Job, Queue};
use crate::message::{Body, Id};

/// How much of a large body is gathered before it is written, in bytes.
const CHUNK: usize = 256 * 1024;

#[derive(Clone)]
pub(super) struct Bodies(Arc<Folders>);

struct Folders {
    tmp: PathBuf,
    bodies: PathBuf,
    files: Arc<dyn Files>,
    next: AtomicU64,
    /// The finished files in `tmp/`, and whether anything still refers to them.
    finished: Mutex<Vec<(Weak<Path>, PathBuf)>>,
}

impl Bodies {
    pub(super) fn new(dir: &Path, files: Arc<dyn Files>) -> Bodies {
        Bodies(Arc::new(Folders {
            tmp: dir.join("tmp"),
            bodies: dir.join("bodies"),
            files,
            next: AtomicU64::new(0),
            finished: Mutex::default(),
        }))
    }

    pub(super) fn writer(&self) -> BodyWriter {
        BodyWriter {
            bodies: self.clone(),
            buffer: BytesMut::new(),
            spill: None,
        }
    }

    /// The file of a queued message.
    pub(super) fn path(&self, id: Id) -> PathBuf {
        self.0.bodies.join(id.to_string())
    }

    /// Makes the body durable if it is a file; one in memory is written with the record.
    pub(super) async fn adopt(&self, id: Id, body: Body) -> Result<Body, SpoolError> {
        let Body::File { path, len } = body else {
            return Ok(body);
        };
        let folders = self.0.clone();
        let adopted = self.path(id);
        let work = move || {
            folders.sweep();
            folders.files.open(&path)?.sync()?;
            folders.files.link(&path, &adopted)?;
            folders.files.sync_dir(&folders.bodies)?;
            Ok(Body::File {
                path: Arc::from(adopted),
                len,
            })
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(SpoolError::io(format!("cannot keep the body of {id}")))
    }

    /// Removes the file of a message that was not taken after all.
    pub(super) fn forget(&self, body: &Body) {
        if let Body::File { path, .. } = body {
            // The next start removes what cannot be removed now.
            let _ = self.0.files.remove(path);
        }
    }

    pub(super) fn remove(&self, id: Id) {
        let _ = self.0.files.remove(&self.path(id));
    }

    /// Has the commit thread remove a file, so that no task waits for the file system.
    pub(super) fn remove_later(&self, id: Option<Id>, queue: &Queue) {
        if let Some(id) = id {
            // A closed queue leaves the file to the next start.
            queue.push(Job::RemoveBody(id));
        }
    }

    pub(super) async fn read(&self, body: &Body, offset: u64, limit: usize) -> io::Result<Bytes> {
        match body {
            Body::Memory(bytes) => {
                let from = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
                Ok(bytes.slice(from..bytes.len().min(from.saturating_add(limit))))
            }
            Body::File { path, len } => {
                let (path, limit) = (path.clone(), limit.min(len.saturating_sub(offset) as usize));
                let folders = self.0.clone();
                let work = move || {
                    let mut buffer = vec![0; limit];
                    if folders.files.open(&path)?.read_at(&mut buffer, offset)? < limit {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    Ok(Bytes::from(buffer))
                };
                tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
            }
        }
    }
}

impl Folders {
    /// Removes the files in `tmp/` to which no body refers any more.
    fn sweep(&self) {
        let mut unused = Vec::new();
        self.finished.lock().retain_mut(|(body, path)| {
            let used = body.strong_count() > 0;
            if !used {
                unused.push(std::mem::take(path));
            }
            used
        });
        for path in unused {
            let _ = self.files.remove(&path);
        }
    }
}

/// Takes in a body piece by piece. Dropped before [`BodyWriter::finish`], it leaves nothing behind.
pub struct BodyWriter {
    bodies: Bodies,
    buffer: BytesMut,
    spill: Option<Spill>,
}

struct Spill {
    path: PathBuf,
    file: Arc<dyn File>,
    written: u64,
}

impl BodyWriter {
    /// Bytes taken in so far.
    pub fn len(&self) -> u64 {
        self.buffer.len() as u64 + self.spill.as_ref().map_or(0, |spill| spill.written)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in the next bytes. An error (a full disk) is final, and so is dropping the future: the writer is of no
    /// further use then.
    pub async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        let limit = if self.spill.is_some() {
            CHUNK
        } else {
            Body::MEMORY_LIMIT + 1
        };
        if self.buffer.len() < limit {
            return Ok(());
        }
        self.flush().await
    }

    /// The whole body. Not durable yet: [`Spool::append`](super::Spool::append) sees to that.
    pub async fn finish(mut self) -> io::Result<Body> {
        if self.spill.is_none() {
            return Ok(Body::Memory(std::mem::take(&mut self.buffer).freeze()));
        }
        self.flush().await?;
        let Spill { path, written, .. } = self.spill.take().expect("a flush leaves a spill");
        let shared: Arc<Path> = Arc::from(path.as_path());
        self.bodies.0.finished.lock().push((Arc::downgrade(&shared), path));
        Ok(Body::File {
            path: shared,
            len: written,
        })
    }

    async fn flush(&mut self) -> io::Result<()> {
        let chunk = self.buffer.split().freeze();
        let added = chunk.len() as u64;
        let folders = self.bodies.0.clone();
        let existing = self.spill.as_ref().map(|spill| (spill.file.clone(), spill.written));
        let name = folders.next.fetch_add(1, Ordering::Relaxed);
        let path = folders.tmp.join(format!("{name:08x}"));
        let created = path.clone();
        let work = move || {
            let (file, offset) = match existing {
                Some(existing) => existing,
                None => {
                    folders.sweep();
                    (Arc::from(folders.files.create(&path, 0)?), 0)
                }
            };
            file.write_at(&mut [IoSlice::new(&chunk)], offset)?;
            Ok::<_, io::Error>(file)
        };
        let file = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        let spill = self.spill.get_or_insert(Spill {
            path: created,
            file,
            written: 0,
        });
        spill.written += added;
        Ok(())
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if let Some(spill) = &self.spill {
            let _ = self.bodies.0.files.remove(&spill.path);
        }
    }
}
