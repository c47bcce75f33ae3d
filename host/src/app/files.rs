//! The plugins' files as the worker has them: the good version of each, the one before it, and why a newer one was refused.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::Files;
use crate::worker_link::{Kept, PluginFile};

/// By the plugin's name.
pub struct PluginFiles {
    good: Files,
    previous: Files,
    /// Of files only: a component that `plugin load` brought and that was refused has left no trace.
    refused: HashMap<String, String>,
}

impl PluginFiles {
    pub fn new(files: &[PluginFile], kept: &[Kept]) -> PluginFiles {
        PluginFiles {
            good: files.iter().map(|file| (file.name.clone(), bytes(file))).collect(),
            previous: Files::new(),
            refused: refused(kept),
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

    /// These are in force now, and `kept` are those whose file is no good; what they replaced can be rolled back to.
    pub fn accept(&mut self, files: Files, kept: &[Kept]) {
        let before = std::mem::replace(&mut self.good, files);
        for (name, old) in before {
            match self.good.get(&name) {
                Some(new) if *new != old => drop(self.previous.insert(name, old)),
                Some(_) => {}
                None => drop(self.previous.remove(&name)),
            }
        }
        self.refused = refused(kept);
    }

    /// This one is in force now, and its file is to be replaced by it.
    pub fn accept_one(&mut self, plugin: &str, component: Arc<[u8]>) {
        if let Some(old) = self.good.insert(plugin.to_owned(), component.clone())
            && old != component
        {
            self.previous.insert(plugin.to_owned(), old);
        }
        self.refused.remove(plugin);
    }
}

fn refused(kept: &[Kept]) -> HashMap<String, String> {
    kept.iter()
        .map(|kept| (kept.plugin.clone(), kept.why.clone()))
        .collect()
}

pub fn bytes(file: &PluginFile) -> Arc<[u8]> {
    Arc::from(&*file.bytes)
}
