//! The plugins' files as the worker has them: the good version of each, the one before it, and why a newer one was refused.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::Files;
use crate::worker_link::{History, Kept, PluginFile};

/// By the plugin's name.
pub struct PluginFiles {
    good: Files,
    previous: Files,
    /// Of files only: a component that `plugin load` brought and that was refused has left no trace.
    refused: HashMap<String, String>,
    /// Why the version before was taken back.
    taken_back: HashMap<String, String>,
}

impl PluginFiles {
    pub fn new(files: &[PluginFile], kept: &[Kept], history: &History) -> PluginFiles {
        let previous = history.previous.iter();
        PluginFiles {
            good: files.iter().map(|file| (file.name.clone(), bytes(file))).collect(),
            previous: previous
                .map(|(name, bytes)| (name.clone(), Arc::from(&**bytes)))
                .collect(),
            refused: by_name(kept),
            taken_back: by_name(&history.taken_back),
        }
    }

    /// What is in force.
    pub fn good(&self) -> &Files {
        &self.good
    }

    pub fn previous(&self, plugin: &str) -> Option<&Arc<[u8]>> {
        self.previous.get(plugin)
    }

    /// Why what the plugin's file holds now is not in force.
    pub fn refused(&self, plugin: &str) -> Option<&str> {
        self.refused.get(plugin).map(String::as_str)
    }

    /// Why the version that the plugin had before is not in force any more, if not because a newer one came.
    pub fn taken_back(&self, plugin: &str) -> Option<&str> {
        self.taken_back.get(plugin).map(String::as_str)
    }

    /// These are in force now, and `kept` are those whose file is no good; what they replaced can be rolled back to. Returns the plugins that
    /// have another component than before.
    pub fn accept(&mut self, files: Files, kept: &[Kept]) -> Vec<String> {
        let before = std::mem::replace(&mut self.good, files);
        let mut replaced = Vec::new();
        for (name, old) in before {
            match self.good.get(&name) {
                Some(new) if *new != old => {
                    self.taken_back.remove(&name);
                    self.previous.insert(name.clone(), old);
                    replaced.push(name);
                }
                Some(_) => {}
                None => {
                    self.taken_back.remove(&name);
                    self.previous.remove(&name);
                }
            }
        }
        self.refused = by_name(kept);
        replaced
    }

    /// This one is in force now, and its file is to be replaced by it. If it was in force before, `taken_back` says why the other one
    /// goes. Whether it is another component than before.
    pub fn accept_one(&mut self, plugin: &str, component: Arc<[u8]>, taken_back: Option<String>) -> bool {
        self.refused.remove(plugin);
        match self.good.insert(plugin.to_owned(), component.clone()) {
            Some(old) if old != component => {
                self.previous.insert(plugin.to_owned(), old);
                self.taken_back.remove(plugin);
                if let Some(why) = taken_back {
                    self.taken_back.insert(plugin.to_owned(), why);
                }
                true
            }
            _ => false,
        }
    }
}

fn by_name(kept: &[Kept]) -> HashMap<String, String> {
    kept.iter()
        .map(|kept| (kept.plugin.clone(), kept.why.clone()))
        .collect()
}

pub fn bytes(file: &PluginFile) -> Arc<[u8]> {
    Arc::from(&*file.bytes)
}
