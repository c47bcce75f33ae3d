//! What a worker cannot know by itself when it is not the first: the version that each plugin had before, which of them were taken back, and
//! which are disabled. Kept for the next worker, in sealed memory where it is a component.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::open::Contents;
use crate::config::Config;
use crate::worker_link::{Item, Kept};

/// All by the plugin's name.
#[derive(Default)]
pub struct Remembered {
    previous: BTreeMap<String, Arc<OwnedFd>>,
    taken_back: BTreeMap<String, String>,
    disabled: BTreeSet<String>,
}

impl Remembered {
    /// The components of these plugins took the place of those that `before` has. `taken_back` says why, if they had been in force before.
    pub fn replaced(&mut self, plugins: &[String], before: &Contents, taken_back: Option<&str>) {
        for plugin in plugins {
            if let Some(component) = before.plugin(plugin) {
                self.previous.insert(plugin.clone(), component.clone());
            }
            self.taken_back.remove(plugin);
            if let Some(why) = taken_back {
                self.taken_back.insert(plugin.clone(), why.to_owned());
            }
        }
    }

    pub fn switched(&mut self, plugin: &str, enabled: bool) {
        match enabled {
            true => drop(self.disabled.remove(plugin)),
            false => drop(self.disabled.insert(plugin.to_owned())),
        }
    }

    /// Forgets plugins that are not configured any more.
    pub fn keep_configured(&mut self, config: &Config) {
        let is_there = |name: &String| config.plugins.iter().any(|plugin| plugin.name == *name);
        self.previous.retain(|name, _| is_there(name));
        self.taken_back.retain(|name, _| is_there(name));
        self.disabled.retain(is_there);
    }

    /// Copies of the descriptors, for a worker.
    pub fn items(&self) -> io::Result<Vec<(Item, OwnedFd)>> {
        let item = |(name, component): (&String, &Arc<OwnedFd>)| {
            Ok((Item::Previous { name: name.clone() }, component.try_clone()?))
        };
        self.previous.iter().map(item).collect()
    }

    pub fn taken_back(&self) -> Vec<Kept> {
        let one = |(plugin, why): (&String, &String)| Kept {
            plugin: plugin.clone(),
            why: why.clone(),
        };
        self.taken_back.iter().map(one).collect()
    }

    pub fn disabled(&self) -> BTreeSet<String> {
        self.disabled.clone()
    }
}
