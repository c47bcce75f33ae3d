//! The store of one relay alone: in memory, with a snapshot on disk.
//!
//! Time is an argument (milliseconds since 1970), so that nothing here waits and tests need no clock. What changed is
//! written to a snapshot every few seconds and at the end: a crash loses the last seconds, which costs a policy a little
//! memory of its limits and nothing else. Everything is bounded; what does not fit is refused, nothing is thrown out before its time.
//! How a snapshot looks on disk is in `snapshot`.

mod bucket;
mod shard;
mod snapshot;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard, RwLock};

use self::bucket::Level;
use self::shard::{Key, Shard};
use super::{
    BUCKETS_MAX, Bucket, IS_A_BUCKET, IS_A_VALUE, IS_NO_NUMBER, KEY_BYTES_MAX, StateError, Taken, VALUE_BYTES_MAX,
    unavailable,
};
use crate::message::since_epoch;

/// What all plugins together may keep, in bytes, counted with [`ENTRY_BYTES`] for each entry.
pub const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What one plugin may keep, in bytes.
pub const PLUGIN_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What an entry costs besides its key and value, in bytes.
pub const ENTRY_BYTES: u64 = 96;

/// How often expired entries are removed from one shard in turn, and how often a snapshot is written if anything changed.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
pub const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Locks of one plugin's entries: enough that two cores rarely meet.
const SHARDS: usize = 32;

/// The time at which what never expires does.
const NEVER_MS: u64 = u64::MAX;

/// All plugins' stores. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct Embedded {
    store: Arc<Store>,
}

/// One plugin's store. Cheap to clone; get it once, not for each call.
#[derive(Clone)]
pub struct Namespace {
    store: Arc<Store>,
    own: Arc<Own>,
}

struct Store {
    plugins: RwLock<HashMap<Arc<str>, Arc<Own>>>,
    /// Of all plugins.
    bytes: AtomicU64,
    /// Something changed since the last snapshot.
    changed: AtomicBool,
    /// The shard that is swept next.
    sweep: AtomicU64,
    file: Option<PathBuf>,
    /// One snapshot at a time.
    saving: Mutex<()>,
    /// Where a snapshot went that could not be read.
    set_aside: Option<PathBuf>,
}

/// What one plugin keeps.
#[derive(Default)]
struct Own {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    bytes: AtomicU64,
}

struct Entry {
    expires_ms: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Bytes(Box<[u8]>),
    Counter(i64),
    Bucket(Level),
}

impl Value {
    fn bytes(&self) -> u64 {
        match self {
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Counter(_) | Value::Bucket(_) => 0,
        }
    }
}

impl Embedded {
    /// A store that ends with the process: for probes, shadow runs and tests.
    pub fn in_memory() -> Embedded {
        Embedded::with(None, None)
    }

    /// The store in `folder` (which must be there), with what its last snapshot holds and is not expired. A snapshot that cannot be understood is
    /// set aside under another name and told to the log; the store then begins empty.
    pub fn open(folder: &Path, now_ms: u64) -> io::Result<Embedded> {
        let file = folder.join("state");
        let records = match snapshot::read(&file) {
            Ok(records) => records,
            Err(snapshot::ReadError::Io(error)) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", file.display())));
            }
            Err(snapshot::ReadError::Corrupt(why)) => {
                let aside = folder.join(format!("state.corrupt-{now_ms}"));
                std::fs::rename(&file, &aside)?;
                tracing::error!(file = %file.display(), aside = %aside.display(), why, "state snapshot set aside, policies begin without it");
                return Ok(Embedded::with(Some(file), Some(aside)));
            }
        };
        let state = Embedded::with(Some(file), None);
        for record in records {
            state.namespace(&record.plugin).restore(record, now_ms);
        }
        state.store.changed.store(false, Ordering::Relaxed);
        Ok(state)
    }

    fn with(file: Option<PathBuf>, set_aside: Option<PathBuf>) -> Embedded {
        let store = Store {
            plugins: RwLock::default(),
            bytes: AtomicU64::new(0),
            changed: AtomicBool::new(false),
            sweep: AtomicU64::new(0),
            file,
            saving: Mutex::new(()),
            set_aside,
        };
        Embedded { store: Arc::new(store) }
    }

    /// Where the last snapshot went, if it could not be understood when the store was opened.
    pub fn set_aside(&self) -> Option<&Path> {
        self.store.set_aside.as_deref()
    }

    /// The store of one plugin.
    pub fn namespace(&self, plugin: &str) -> Namespace {
        let known = self.store.plugins.read().get(plugin).cloned();
        let own = known.unwrap_or_else(|| self.store.plugins.write().entry(Arc::from(plugin)).or_default().clone());
        Namespace {
            store: Arc::clone(&self.store),
            own,
        }
    }

    /// What all plugins keep, in bytes.
    pub fn bytes(&self) -> u64 {
        self.store.bytes.load(Ordering::Relaxed)
    }

    /// Removes what is expired from one shard of each plugin, the next one each time.
    pub fn sweep(&self, now_ms: u64) {
        let next = self.store.sweep.fetch_add(1, Ordering::Relaxed) as usize % SHARDS;
        let plugins: Vec<_> = self.store.plugins.read().values().cloned().collect();
        for own in plugins {
            self.store.sweep_shard(&own, &mut own.shards[next].lock(), now_ms);
        }
    }

    /// Writes a snapshot if anything changed since the last one, durable when this returns true. Blocks; entries can be
    /// used meanwhile.
    pub fn save(&self) -> io::Result<bool> {
        let Some(file) = &self.store.file else {
            return Ok(false);
        };
        let _one_at_a_time = self.store.saving.lock();
        if !self.store.changed.swap(false, Ordering::Relaxed) {
            return Ok(false);
        }
        let written = snapshot::write(file, |writer| {
            let plugins: Vec<_> = self
                .store
                .plugins
                .read()
                .iter()
                .map(|(name, own)| (name.clone(), own.clone()))
                .collect();
            for (plugin, own) in plugins {
                for shard in &own.shards {
                    // Copied under the lock, written without it.
                    let records = writer.encode(&plugin, &shard.lock());
                    writer.append(&records)?;
                }
            }
            Ok(())
        });
        if written.is_err() {
            self.store.changed.store(true, Ordering::Relaxed);
        }
        written.map(|()| true)
    }

    /// Sweeps and saves until `shutdown` is done, and saves once more. A snapshot that cannot be written is told to the log
    /// and tried again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut saves = tokio::time::interval(SAVE_INTERVAL);
        saves.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = sweeps.tick() => self.sweep(since_epoch(SystemTime::now()).as_millis() as u64),
                _ = saves.tick() => self.save_in_background().await,
            }
        }
        self.save_in_background().await;
    }

    async fn save_in_background(&self) {
        let state = self.clone();
        let saved = tokio::task::spawn_blocking(move || state.save())
            .await
            .unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = saved {
            tracing::error!(%error, "cannot write the state snapshot: policies' state would not survive a restart");
        }
    }
}

impl Store {
    fn sweep_shard(&self, own: &Own, shard: &mut Shard, now_ms: u64) {
        let mut freed = 0;
        shard.retain(|key, entry| {
            let live = entry.expires_ms > now_ms;
            if !live {
                freed += cost(key, &entry.value);
            }
            live
        });
        if freed > 0 {
            self.release(own, freed);
        }
    }

    /// Sets bytes aside for a plugin; false if it, or all of them, would have too many.
    fn reserve(&self, own: &Own, bytes: u64) -> bool {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        if own.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > PLUGIN_BYTES_MAX {
            self.release(own, bytes);
            return false;
        }
        true
    }

    fn release(&self, own: &Own, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        own.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The shards of a list of buckets, locked.
struct Locked<'a, 'k> {
    shards: [Option<MutexGuard<'a, Shard>>; SHARDS],
    /// The key of each bucket in the list.
    keys: [Key<'k>; BUCKETS_MAX],
}

impl Locked<'_, '_> {
    fn shard(&mut self, place: usize) -> &mut Shard {
        self.shards[self.keys[place].shard(SHARDS)]
            .as_mut()
            .expect("the shards of all buckets are locked")
    }

    /// The level of the bucket at this place; adds to `new` what it will count if it is not there yet.
    fn level(&mut self, place: usize, bucket: &Bucket<'_>, now_ms: u64, new: &mut u64) -> Result<Level, StateError> {
        let key = self.keys[place];
        match self.shard(place).get(key) {
            Some(entry) if entry.expires_ms <= now_ms => Ok(Level::full(bucket, now_ms)),
            Some(Entry {
                value: Value::Bucket(level),
                ..
            }) => Ok(*level),
            Some(_) => Err(unavailable(IS_A_VALUE)),
            None => {
                *new += bucket_cost(bucket.key);
                Ok(Level::full(bucket, now_ms))
            }
        }
    }
}

fn bucket_cost(key: &str) -> u64 {
    key.len() as u64 + ENTRY_BYTES
}

/// What an entry counts against the bounds.
fn cost(key: &str, value: &Value) -> u64 {
    key.len() as u64 + value.bytes() + ENTRY_BYTES
}

impl Namespace {
    /// The value of a key; a counter's is its number in decimal digits.
    pub fn get(&self, key: &str, now_ms: u64) -> Result<Option<Vec<u8>>, StateError> {
        let key = self.key(key)?;
        let shard = self.shard(key).lock();
        let entry = shard.get(key).filter(|entry| entry.expires_ms > now_ms);
        match entry.map(|entry| &entry.value) {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes.to_vec())),
            Some(Value::Counter(number)) => Ok(Some(number.to_string().into_bytes())),
            Some(Value::Bucket(_)) => Err(unavailable(IS_A_BUCKET)),
        }
    }

    /// Sets a key, whatever it was before. Without `ttl_seconds` it stays until it is deleted.
    pub fn set(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>, now_ms: u64) -> Result<(), StateError> {
        let key = self.key(key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(StateError::TooLarge);
        }
        let entry = Entry {
            expires_ms: expiry(ttl_seconds, now_ms),
            value: Value::Bytes(Box::from(value)),
        };
        self.put(&mut self.shard(key).lock(), key, entry, now_ms)
    }

    /// Removes a key, whatever it is.
    pub fn delete(&self, key: &str) -> Result<(), StateError> {
        let key = self.key(key)?;
        let removed = self.shard(key).lock().remove(key);
        if let Some(entry) = removed {
            self.store.release(&self.own, cost(key.text, &entry.value));
            self.store.changed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Adds to a counter (0 if absent; it stays at the ends of its range) and says what it is then. `ttl_seconds` counts from its creation. A value that
    /// was set and is a number becomes a counter.
    pub fn increment(&self, key: &str, by: i64, ttl_seconds: Option<u32>, now_ms: u64) -> Result<i64, StateError> {
        let key = self.key(key)?;
        let mut shard = self.shard(key).lock();
        let live = shard.get_mut(key).filter(|entry| entry.expires_ms > now_ms);
        let (before, expires_ms) = match live {
            Some(Entry {
                value: Value::Counter(number),
                ..
            }) => {
                *number = number.saturating_add(by);
                self.store.changed.store(true, Ordering::Relaxed);
                return Ok(*number);
            }
            Some(Entry {
                value: Value::Bytes(bytes),
                expires_ms,
            }) => (number(bytes)?, *expires_ms),
            Some(Entry {
                value: Value::Bucket(_),
                ..
            }) => return Err(unavailable(IS_A_BUCKET)),
            None => (0, expiry(ttl_seconds, now_ms)),
        };
        let after = before.saturating_add(by);
        let entry = Entry {
            expires_ms,
            value: Value::Counter(after),
        };
        self.put(&mut shard, key, entry, now_ms)?;
        Ok(after)
    }

    /// Takes from all buckets or from none, atomically. The same bucket may stand in the list twice.
    pub fn take_all(&self, buckets: &[Bucket<'_>], now_ms: u64) -> Result<Taken, StateError> {
        self.change_all(buckets, now_ms, |level, bucket| level.take(bucket, now_ms))
    }

    /// Gives back what `take_all` took: no bucket gets fuller than full.
    pub fn refund(&self, buckets: &[Bucket<'_>], now_ms: u64) -> Result<(), StateError> {
        self.change_all(buckets, now_ms, |level, bucket| Ok(level.give(bucket, now_ms)))?;
        Ok(())
    }

    /// Changes the levels of all buckets, or of none if `change` refuses one with the milliseconds to wait.
    fn change_all(
        &self,
        buckets: &[Bucket<'_>],
        now_ms: u64,
        change: impl Fn(Level, &Bucket<'_>) -> Result<Level, u64>,
    ) -> Result<Taken, StateError> {
        let mut locked = self.lock(buckets)?;
        // First only look, with what stands earlier in the list counted: then a refusal needs no way back.
        let mut levels = [Level::default(); BUCKETS_MAX];
        let mut new = 0;
        for (place, bucket) in buckets.iter().enumerate() {
            let earlier = buckets[..place].iter().rposition(|other| other.key == bucket.key);
            let level = match earlier {
                Some(earlier) => levels[earlier],
                None => locked.level(place, bucket, now_ms, &mut new)?,
            };
            match change(level, bucket) {
                Ok(level) => levels[place] = level,
                Err(wait_ms) => {
                    let index = place as u32;
                    return Ok(Taken::Refused { index, wait_ms });
                }
            }
        }
        self.write(&mut locked, buckets, &levels, new, now_ms)?;
        Ok(Taken::Ok)
    }

    /// Locks the shards of all buckets, each once and in their order, so that two calls cannot wait for each other.
    fn lock<'k>(&self, buckets: &[Bucket<'k>]) -> Result<Locked<'_, 'k>, StateError> {
        if buckets.len() > BUCKETS_MAX {
            return Err(StateError::TooLarge);
        }
        let mut locked = Locked {
            shards: [const { None }; SHARDS],
            keys: [Key::default(); BUCKETS_MAX],
        };
        let mut wanted = 0u32;
        for (bucket, key) in buckets.iter().zip(&mut locked.keys) {
            *key = self.key(bucket.key)?;
            wanted |= 1 << key.shard(SHARDS);
        }
        while wanted != 0 {
            let place = wanted.trailing_zeros() as usize;
            locked.shards[place] = Some(self.own.shards[place].lock());
            wanted &= wanted - 1;
        }
        Ok(locked)
    }

    /// Writes the levels, or none of them. `new` bytes are for buckets that are not there yet.
    fn write(
        &self,
        locked: &mut Locked<'_, '_>,
        buckets: &[Bucket<'_>],
        levels: &[Level],
        new: u64,
        now_ms: u64,
    ) -> Result<(), StateError> {
        let mut reserved = new;
        if new > 0 && !self.store.reserve(&self.own, new) {
            // What is expired here may make room, but what stood in a bucket's place may go with it.
            for shard in locked.shards.iter_mut().flatten() {
                self.store.sweep_shard(&self.own, shard, now_ms);
            }
            reserved = buckets.iter().map(|bucket| bucket_cost(bucket.key)).sum();
            if !self.store.reserve(&self.own, reserved) {
                return Err(unavailable(FULL));
            }
        }
        for (place, (bucket, level)) in buckets.iter().zip(levels).enumerate() {
            // A full bucket is one that was never used.
            let expires_ms = now_ms.saturating_add(level.until_full_ms(bucket)).saturating_add(1);
            let value = Value::Bucket(*level);
            let key = locked.keys[place];
            let shard = locked.shard(place);
            match shard.get_mut(key) {
                Some(entry) => {
                    // An expired value may have stood here.
                    self.store.release(&self.own, entry.value.bytes());
                    *entry = Entry { expires_ms, value };
                }
                None => {
                    reserved -= bucket_cost(bucket.key);
                    shard.put(key, Entry { expires_ms, value });
                }
            }
        }
        self.store.release(&self.own, reserved);
        self.store.changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Puts an entry in the place of whatever was there, if there is room for it.
    fn put(&self, shard: &mut Shard, key: Key<'_>, entry: Entry, now_ms: u64) -> Result<(), StateError> {
        let before = shard.get(key).map_or(0, |old| cost(key.text, &old.value));
        let after = cost(key.text, &entry.value);
        if after > before && !self.store.reserve(&self.own, after - before) {
            // What is expired here may make room; the rest is swept in its turn. The old entry keeps its place until it is replaced.
            self.store.sweep_shard(&self.own, shard, now_ms);
            let before = shard.get(key).map_or(0, |old| cost(key.text, &old.value));
            if !self.store.reserve(&self.own, after.saturating_sub(before)) {
                return Err(unavailable(FULL));
            }
        } else if after < before {
            self.store.release(&self.own, before - after);
        }
        shard.put(key, entry);
        self.store.changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a record of a snapshot in; one that is expired, or for which there is no room any more, is left out.
    fn restore(&self, record: snapshot::Record, now_ms: u64) {
        if let Ok(key) = self.key(&record.key)
            && record.expires_ms > now_ms
        {
            let entry = Entry {
                expires_ms: record.expires_ms,
                value: record.value,
            };
            let _ = self.put(&mut self.shard(key).lock(), key, entry, now_ms);
        }
    }

    fn key<'k>(&self, text: &'k str) -> Result<Key<'k>, StateError> {
        match text.len() <= KEY_BYTES_MAX {
            true => Ok(Key::new(text, &self.own.hasher)),
            false => Err(StateError::TooLarge),
        }
    }

    fn shard(&self, key: Key<'_>) -> &Mutex<Shard> {
        &self.own.shards[key.shard(SHARDS)]
    }
}

const FULL: &str = "the store is full";

fn expiry(ttl_seconds: Option<u32>, now_ms: u64) -> u64 {
    ttl_seconds.map_or(NEVER_MS, |seconds| now_ms.saturating_add(u64::from(seconds) * 1000))
}

fn number(bytes: &[u8]) -> Result<i64, StateError> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| text.parse().ok()).ok_or(unavailable(IS_NO_NUMBER))
}

#[cfg(test)]
mod tests;
