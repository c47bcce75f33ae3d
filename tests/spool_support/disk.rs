//! A disk for tests that forgets what was not synced.
//!
//! It is a file system in memory under the spool's file layer. When the power goes, at a chosen operation, of each
//! file what was synced survives, and of every block written since either the old or the new contents, block by block
//! (a torn and reordered write); of each folder the names that were synced, and any of the changes since. From then on
//! every operation fails. It can also fill up, fail syncs as Linux does (the pages count as clean afterwards and the
//! data never arrives), and leave syncs out, so that a test can show that it would notice.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use gatepost::spool::files::{File, Files};

use super::Random;

/// What a disk writes whole or not at all, at the least.
const BLOCK: usize = 512;

#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that no folder sync has covered, in order.
    pending: Vec<Naming>,
    folders: BTreeSet<PathBuf>,
    next_inode: u64,
    operations: u64,
    cut_at: Option<u64>,
    dead: bool,
    random: Random,
    faults: Faults,
}

/// What goes wrong besides the power.
#[derive(Clone, Default)]
pub struct Faults {
    /// The most that all files together may take.
    pub room: Option<u64>,
    /// Of how many syncs one fails; 0 is never.
    pub failing_syncs: u64,
    /// The next file sync fails.
    pub fail_next_sync: bool,
    /// Syncs of files do nothing, and say that they did.
    pub skip_syncs: bool,
    /// Syncs of folders do nothing, and say that they did.
    pub skip_folder_syncs: bool,
}

#[derive(Clone, Default)]
struct Inode {
    /// What readers see, and what is on the disk.
    contents: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Cloned by every open file.
    open: Arc<()>,
}

#[derive(Clone)]
enum Naming {
    Add(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

impl Naming {
    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Naming::Add(path, _) | Naming::Remove(path) | Naming::Rename(path, ..) => path.parent() == Some(folder),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Naming::Add(path, inode) => {
                names.insert(path, inode);
            }
            Naming::Remove(path) => {
                names.remove(&path);
            }
            Naming::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        Disk(Arc::new(Mutex::new(State {
            random: Random(seed),
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The power goes in the operation that comes after `operations` more.
    pub fn cut_after(&self, operations: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
    }

    /// The power goes now, unless it has; what the disk holds when it comes back.
    pub fn after_power_cut(&self) -> Disk {
        let mut state = self.state();
        state.dead = true;
        let State {
            inodes,
            durable_names,
            pending,
            random,
            ..
        } = &mut *state;
        let mut names = durable_names.clone();
        for change in pending.drain(..) {
            if random.one_in(2) {
                change.apply(&mut names);
            }
        }
        let block = if random.one_in(2) { BLOCK } else { 8 * BLOCK };
        let mut survivors = BTreeMap::new();
        for inode in names.values() {
            let Inode {
                contents,
                durable,
                dirty,
                ..
            } = &inodes[inode];
            let mut survived = durable.clone();
            // All, none, or some of what was not synced: the first two are the likely ones on real disks.
            let mood = random.below(4);
            let mut units: Vec<usize> = dirty.iter().map(|start| start * BLOCK / block).collect();
            units.dedup();
            for unit in units {
                if mood == 0 || (mood > 1 && random.one_in(2)) {
                    let range = (unit * block).min(contents.len())..((unit + 1) * block).min(contents.len());
                    if survived.len() < range.end {
                        survived.resize(range.end, 0);
                    }
                    survived[range.clone()].copy_from_slice(&contents[range]);
                }
            }
            survivors.insert(
                *inode,
                Inode {
                    durable: survived.clone(),
                    contents: survived,
                    ..Inode::default()
                },
            );
        }
        let after = State {
            inodes: survivors,
            durable_names: names.clone(),
            names,
            folders: state.folders.clone(),
            next_inode: state.next_inode,
            random: Random(state.random.next()),
            ..State::default()
        };
        Disk(Arc::new(Mutex::new(after)))
    }

    /// Changes a byte of a file behind everybody's back.
    pub fn flip(&self, path: &Path, offset: u64) {
        let mut state = self.state();
        let inode = state.names[path];
        let inode = state.inodes.get_mut(&inode).expect("named");
        inode.contents[offset as usize] ^= 0x20;
        inode.durable = inode.contents.clone();
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    pub fn contents(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inodes[&state.names[path]].contents.clone()
    }

    /// Bytes that all files take.
    pub fn used(&self) -> u64 {
        self.state().used()
    }
}

impl State {
    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.contents.len() as u64).sum()
    }

    /// Counts an operation, and lets it fail if the power is gone.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.cut_at.is_some_and(|at| self.operations >= at) {
            self.dead = true;
        }
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the power is gone"))
        } else {
            Ok(())
        }
    }

    fn room_for(&self, more: u64) -> io::Result<()> {
        match self.faults.room {
            Some(room) if self.used() + more > room => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn hold(&self, disk: &Disk, inode: u64) -> Open {
        Open {
            disk: disk.clone(),
            inode,
            _open: self.inodes[&inode].open.clone(),
        }
    }

    fn name(&mut self, change: Naming) {
        change.clone().apply(&mut self.names);
        self.pending.push(change);
    }

    fn drop_unnamed(&mut self) {
        // Only when no power cut can bring a name back.
        if self.pending.is_empty() {
            let named: BTreeSet<u64> = self.names.values().copied().collect();
            self.inodes
                .retain(|number, inode| named.contains(number) || Arc::strong_count(&inode.open) > 1);
        }
    }
}

struct Open {
    disk: Disk,
    inode: u64,
    _open: Arc<()>,
}

impl Files for Disk {
    fn create(&self, path: &Path, allocate: u64) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.operate()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.room_for(allocate)?;
        state.next_inode += 1;
        let inode = state.next_inode;
        state.inodes.insert(
            inode,
            Inode {
                contents: vec![0; allocate as usize],
                ..Inode::default()
            },
        );
        state.name(Naming::Add(path.to_owned(), inode));
        Ok(Box::new(state.hold(self, inode)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.state();
        state.check()?;
        let inode = state.inode(path)?;
        Ok(Box::new(state.hold(self, inode)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let inode = state.inode(from)?;
        state.name(Naming::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let inode = state.inode(from)?;
        state.name(Naming::Add(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.inode(path)?;
        state.name(Naming::Remove(path.to_owned()));
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        state.folders.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        state.check()?;
        Ok(state
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .cloned()
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if state.faults.skip_folder_syncs {
            return Ok(());
        }
        let (synced, pending) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(|change| change.is_in(dir));
        state.pending = pending;
        let synced: Vec<Naming> = synced;
        for change in synced {
            change.apply(&mut state.durable_names);
        }
        state.drop_unnamed();
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX / 2)
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(()))
    }
}

impl File for Open {
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check()?;
        let bytes = slices.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
        let end = offset as usize + bytes.len();
        let grows = end.saturating_sub(state.inodes.get(&self.inode).map_or(0, |inode| inode.contents.len()));
        state.room_for(grows as u64)?;
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            if inode.contents.len() < end {
                inode.contents.resize(end, 0);
            }
            inode.contents[offset as usize..end].copy_from_slice(&bytes);
            inode.dirty.extend(offset as usize / BLOCK..end.div_ceil(BLOCK));
        }
        // The write that the power interrupts may have reached the disk in part.
        state.operate()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.check()?;
        let contents = state.inodes.get(&self.inode).map_or(&[][..], |inode| &inode.contents);
        let from = contents.len().min(offset as usize);
        let read = buffer.len().min(contents.len() - from);
        buffer[..read].copy_from_slice(&contents[from..from + read]);
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        if state.faults.skip_syncs {
            return Ok(());
        }
        let one_in = state.faults.failing_syncs;
        let fails = std::mem::take(&mut state.faults.fail_next_sync) || one_in > 0 && state.random.one_in(one_in);
        let mut random = state.random;
        state.random.next();
        let Some(inode) = state.inodes.get_mut(&self.inode) else {
            return Ok(());
        };
        let Inode {
            contents,
            durable,
            dirty,
            ..
        } = inode;
        durable.resize(contents.len(), 0);
        for start in std::mem::take(dirty) {
            // Some of a failed sync arrives; of the rest the kernel forgets that it was dirty.
            if !fails || random.one_in(2) {
                let range = start * BLOCK..((start + 1) * BLOCK).min(contents.len());
                durable[range.clone()].copy_from_slice(&contents[range]);
            }
        }
        if fails {
            Err(io::Error::other("the disk failed"))
        } else {
            Ok(())
        }
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check()?;
        Ok(state
            .inodes
            .get(&self.inode)
            .map_or(0, |inode| inode.contents.len() as u64))
    }
}
