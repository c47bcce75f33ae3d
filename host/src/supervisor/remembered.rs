//! What a worker cannot know by itself when it is not the first: the version that each plugin had before, which of them were taken back, and
//! which are disabled. Kept for the next worker, in sealed memory where it is a component.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Bundle;
use crate::config::{self, Config};
use crate::worker_link::{Item, Kept};

/// All by the plugin's name.
#[derive(Default)]
pub struct Remembered {
    previous: BTreeMap<String, Before>,
    taken_back: BTreeMap<String, String>,
    disabled: BTreeSet<String>,
}

/// A version that was in force.
struct Before {
    component: Arc<OwnedFd>,
    settings: config::Plugin,
}

impl Remembered {
    /// The versions of these plugins took the place of those that `before` has. `taken_back` says why, if they had been in force before.
    pub(super) fn replaced(&mut self, plugins: &[String], before: &Bundle, taken_back: Option<&str>) {
        for plugin in plugins {
            if let (Some(component), Some(settings)) = (before.contents.plugin(plugin), before.settings(plugin)) {
                let (component, settings) = (component.clone(), settings.clone());
                self.previous.insert(plugin.clone(), Before { component, settings });
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
        let item = |(name, before): (&String, &Before)| {
            Ok((Item::Previous { name: name.clone() }, before.component.try_clone()?))
        };
        self.previous.iter().map(item).collect()
    }

    /// The settings that belong to those components.
    pub fn settings(&self) -> Vec<config::Plugin> {
        self.previous.values().map(|before| before.settings.clone()).collect()
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
