//! Which of the files that were read have changed since.
//!
//! Looks at each file's size, time and inode every [`LOOK_EVERY`] instead of asking the kernel for events: that sees a replaced file, one that
//! was written in place, a link that was turned (as Kubernetes does with secrets) and a network file system alike, needs no thread, and
//! cannot run out of watches. A file counts as changed when it has looked the same twice: one that is still being written would only be refused.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::open::Contents;

pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a file looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

pub struct Watch {
    files: HashMap<PathBuf, Watched>,
    next_look: Instant,
}

struct Watched {
    /// What it looked like when it was read.
    known: Stamp,
    /// What it looked like last, if that is something else.
    seen: Option<Stamp>,
}

impl Watch {
    pub fn new(contents: &Contents) -> Watch {
        let watched = |(path, known): (&Path, Stamp)| (path.to_owned(), Watched { known, seen: None });
        Watch {
            files: contents.stamps().map(watched).collect(),
            next_look: Instant::now() + LOOK_EVERY,
        }
    }

    /// Watches these files and no others. What is known of one that was watched before stays so.
    pub fn follow(&mut self, contents: &Contents) {
        let mut before = std::mem::replace(self, Watch::new(contents));
        for (path, watched) in &mut self.files {
            if let Some(known) = before.files.remove(path) {
                *watched = known;
            }
        }
    }

    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Looks, if it is time to. Returns the files that have changed and settled. One that is not there has not changed: it is about to be
    /// replaced, and what was read stays in force.
    pub fn look(&mut self, now: Instant) -> Vec<PathBuf> {
        if now < self.next_look {
            return Vec::new();
        }
        self.next_look = now + LOOK_EVERY;
        let mut changed = Vec::new();
        for (path, watched) in &mut self.files {
            let stamp = std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
            let different = stamp.filter(|stamp| *stamp != watched.known);
            if different.is_some() && different == watched.seen {
                changed.push(path.clone());
            }
            watched.seen = different;
        }
        changed.sort();
        changed
    }

    /// The files as they look now are what is known of them: to be told again only when they change once more.
    pub fn give_up_on(&mut self, changed: &[PathBuf]) {
        for path in changed {
            if let Some(watched) = self.files.get_mut(path)
                && let Some(seen) = watched.seen.take()
            {
                watched.known = seen;
            }
        }
    }

    /// The supervisor has read a file again, or changed it itself.
    pub fn know(&mut self, path: &Path, stamp: Stamp) {
        if let Some(watched) = self.files.get_mut(path) {
            *watched = Watched {
                known: stamp,
                seen: None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        std::fs::write(&path, "one").unwrap();
        let known = Stamp::of(&std::fs::metadata(&path).unwrap());
        let mut now = Instant::now();
        let mut watch = Watch {
            files: HashMap::from([(path.clone(), Watched { known, seen: None })]),
            next_look: now,
        };
        let mut look = |watch: &mut Watch| {
            now += LOOK_EVERY;
            watch.look(now)
        };
        let changed = vec![path.clone()];

        assert!(look(&mut watch).is_empty());
        std::fs::write(&path, "two, longer").unwrap();
        assert!(look(&mut watch).is_empty(), "may still be written");
        std::fs::write(&path, "two, longer still").unwrap();
        assert!(look(&mut watch).is_empty(), "was still being written");
        assert_eq!(look(&mut watch), changed);
        watch.give_up_on(&changed);
        assert!(look(&mut watch).is_empty());

        std::fs::remove_file(&path).unwrap();
        assert!(look(&mut watch).is_empty());
        assert!(look(&mut watch).is_empty(), "gone is not changed");

        let new = folder.path().join("new");
        std::fs::write(&new, "two, longer still").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert!(look(&mut watch).is_empty());
        assert_eq!(look(&mut watch), changed, "same text, another file");
        watch.know(&path, Stamp::of(&std::fs::metadata(&path).unwrap()));
        assert!(look(&mut watch).is_empty());
    }
}
