//! The plugins' files as the worker has them: the good version of each, the one before it, and why a newer one was refused.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::Files;
use crate::worker_link::PluginFile;

/// By the plugin's name.
pub struct PluginFiles {
    good: Files,
    previous: Files,
    refused: HashMap<String, String>,
}

impl PluginFiles {
    pub fn new(files: &[PluginFile]) -> PluginFiles {
        PluginFiles {
            good: files.iter().map(|file| (file.name.clone(), bytes(file))).collect(),
            previous: Files::new(),
            refused: HashMap::new(),
        }
    }

    /// What is in force.
    pub fn good(&self) -> &Files {
        &self.good
    }

    pub fn previous(&self, plugin: &str) -> Option<&Arc<[u8]>> {
        self.previous.get(plugin)
    }

    pub fn refused(&self, plugin: &str) -> Option<&str> {
        self.refused.get(plugin).map(String::as_str)
    }

    /// These are in force now; what they replaced can be rolled back to.
    pub fn accept(&mut self, files: Files, refused: HashMap<String, String>) {
        for (name, old) in std::mem::replace(&mut self.good, files) {
            match self.good.get(&name) {
                Some(new) if *new != old => drop(self.previous.insert(name, old)),
                Some(_) => {}
                None => drop(self.previous.remove(&name)),
            }
        }
        self.refused = refused;
    }
}

pub fn bytes(file: &PluginFile) -> Arc<[u8]> {
    Arc::from(&*file.bytes)
}
