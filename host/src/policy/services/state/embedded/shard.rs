//! The entries behind one lock, found by a key whose hash was computed once: it chooses the shard, too.
//!
//! Knows nothing of bounds or time, and cannot fail.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::Entry;

/// A key with its hash.
#[derive(Clone, Copy, Default)]
pub struct Key<'a> {
    pub text: &'a str,
    hash: u64,
}

impl<'a> Key<'a> {
    /// `hasher` is the one of all keys of the plugin.
    pub fn new(text: &'a str, hasher: &RandomState) -> Key<'a> {
        let hash = hasher.hash_one(text);
        Key { text, hash }
    }

    /// In which of so many shards it is. The table uses the high bits and the lowest ones; these are between.
    pub fn shard(self, shards: usize) -> usize {
        (self.hash >> 32) as usize % shards
    }
}

/// Some of a plugin's entries.
#[derive(Default)]
pub struct Shard {
    entries: HashTable<Slot>,
}

struct Slot {
    hash: u64,
    key: Box<str>,
    entry: Entry,
}

impl Shard {
    pub fn get(&self, key: Key<'_>) -> Option<&Entry> {
        let slot = self.entries.find(key.hash, |slot| *slot.key == *key.text);
        slot.map(|slot| &slot.entry)
    }

    pub fn get_mut(&mut self, key: Key<'_>) -> Option<&mut Entry> {
        let slot = self.entries.find_mut(key.hash, |slot| *slot.key == *key.text);
        slot.map(|slot| &mut slot.entry)
    }

    /// Puts an entry in the place of whatever was there.
    pub fn put(&mut self, key: Key<'_>, entry: Entry) {
        match self.get_mut(key) {
            Some(old) => *old = entry,
            None => {
                let slot = Slot {
                    hash: key.hash,
                    key: Box::from(key.text),
                    entry,
                };
                self.entries.insert_unique(key.hash, slot, |slot| slot.hash);
            }
        }
    }

    pub fn remove(&mut self, key: Key<'_>) -> Option<Entry> {
        let found = self.entries.find_entry(key.hash, |slot| *slot.key == *key.text);
        found.ok().map(|found| found.remove().0.entry)
    }

    /// Removes all for which `keeps` says no.
    pub fn retain(&mut self, mut keeps: impl FnMut(&str, &Entry) -> bool) {
        self.entries.retain(|slot| keeps(&slot.key, &slot.entry));
    }

    /// Keys and entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|slot| (&*slot.key, &slot.entry))
    }
}
