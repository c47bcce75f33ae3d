//! The counters that plugins keep of their own: `gatepost_plugin_counter{plugin="...",name="..."}`.
//!
//! Counts, and nothing else: the exporter asks for the sums. Names are held to what the interface promises, so that no plugin
//! can fill the memory, or the page of metrics, with names; a refused name is told to the log once a plugin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Names of one plugin.
pub const NAMES_MAX: usize = 100;

/// All plugins' counters.
#[derive(Debug, Default)]
pub struct Counters {
    plugins: RwLock<BTreeMap<Arc<str>, Arc<Plugin>>>,
}

#[derive(Debug, Default)]
struct Plugin {
    counters: RwLock<BTreeMap<String, AtomicU64>>,
    warned: AtomicBool,
}

impl Counters {
    /// Adds to a counter, which begins at 0. A name that is no name (`[a-z0-9_]`, at most [`NAME_BYTES_MAX`]), and one over
    /// [`NAMES_MAX`], is dropped: false, and a warning in the log the first time.
    pub fn count(&self, plugin: &str, name: &str, by: u64) -> bool {
        let known = self.plugins.read().get(plugin).cloned();
        let own = known.unwrap_or_else(|| self.plugins.write().entry(Arc::from(plugin)).or_default().clone());
        if let Some(counter) = own.counters.read().get(name) {
            add(counter, by);
            return true;
        }
        let refused = {
            let mut counters = own.counters.write();
            if !is_name(name) {
                Some("a counter's name has at most 64 of a to z, 0 to 9 and _")
            } else if counters.len() >= NAMES_MAX && !counters.contains_key(name) {
                Some("a plugin has at most 100 counters")
            } else {
                add(counters.entry(name.to_owned()).or_default(), by);
                None
            }
        };
        if let Some(why) = refused
            && !own.warned.swap(true, Ordering::Relaxed)
        {
            let name: String = name.chars().take(NAME_BYTES_MAX).collect();
            tracing::warn!(plugin, name = %name.escape_debug(), "counter dropped: {why}; said once a plugin");
        }
        refused.is_none()
    }

    /// Shows every counter, in the order of plugins and names.
    pub fn for_each(&self, mut show: impl FnMut(&str, &str, u64)) {
        let plugins: Vec<_> = self
            .plugins
            .read()
            .iter()
            .map(|(name, own)| (name.clone(), own.clone()))
            .collect();
        for (plugin, own) in plugins {
            for (name, counter) in own.counters.read().iter() {
                show(&plugin, name, counter.load(Ordering::Relaxed));
            }
        }
    }
}

/// Stays at the highest number rather than to begin again.
fn add(counter: &AtomicU64, by: u64) {
    let before = counter.fetch_add(by, Ordering::Relaxed);
    if before.checked_add(by).is_none() {
        counter.store(u64::MAX, Ordering::Relaxed);
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(counters: &Counters) -> Vec<(String, String, u64)> {
        let mut all = Vec::new();
        counters.for_each(|plugin, name, value| all.push((plugin.to_owned(), name.to_owned(), value)));
        all
    }

    #[test]
    fn counts_are_kept_by_plugin_and_name() {
        let counters = Counters::default();
        for (plugin, name, by) in [
            ("b", "hits", 1),
            ("a", "hits", 2),
            ("a", "hits", 3),
            ("a", "big", u64::MAX),
            ("a", "big", 2),
        ] {
            assert!(counters.count(plugin, name, by));
        }
        let expected = [("a", "big", u64::MAX), ("a", "hits", 5), ("b", "hits", 1)];
        assert_eq!(
            shown(&counters),
            expected.map(|(plugin, name, value)| (plugin.to_owned(), name.to_owned(), value))
        );
    }

    #[test]
    fn names_are_bounded() {
        let counters = Counters::default();
        for bad in ["", "Big", "a-b", "a b", "\u{e9}", "a\"", &"a".repeat(65)] {
            assert!(!counters.count("p", bad, 1), "{bad:?}");
        }
        assert!((0..NAMES_MAX).all(|number| counters.count("p", &format!("n{number}"), 1)));
        assert!(!counters.count("p", "one_more", 1));
        assert!(counters.count("p", "n0", 1), "what is there goes on");
        assert!(counters.count("q", "one_more", 1), "the bound is each plugin's own");
        assert_eq!(shown(&counters).len(), NAMES_MAX + 1);
    }
}
