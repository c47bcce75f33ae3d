//! The plugins' versions as the worker has them: of each the one in force and the one before it, why a newer file was refused, and what the
//! configuration says where other settings are in force.
//!
//! A version is a component with its settings. `plugin load` and a rollback can put one in force whose settings are not those of the configuration,
//! which is the administrator's file. Such settings *stand in* for the configured ones until the plugin's entry there changes, or its file does.

use std::collections::HashMap;
use std::sync::Arc;

use super::actions::BY_ADMINISTRATOR;
use crate::config::{self, Config};
use crate::policy::Files;
use crate::worker_link::{History, Kept, PluginFile};

/// A component and its settings.
#[derive(Clone, PartialEq)]
pub struct Version {
    pub component: Arc<[u8]>,
    pub settings: config::Plugin,
}

impl Version {
    /// Whether both come to the same, wherever the component was read from.
    fn is_like(&self, other: &Version) -> bool {
        self.component == other.component && self.settings == other.settings.at(&self.settings.file)
    }
}

/// By the plugin's name.
pub struct Versions {
    good: HashMap<String, Version>,
    previous: HashMap<String, Version>,
    /// Of files only: a component that `plugin load` brought and that was refused has left no trace.
    refused: HashMap<String, String>,
    /// Why the version before was taken back.
    taken_back: HashMap<String, String>,
    /// The configured settings that others stand in for.
    configured: HashMap<String, config::Plugin>,
}

impl Versions {
    /// What the first worker has, or what the one before had. What stands in for settings of the configuration is put into it.
    pub fn new(config: &mut Config, files: &[PluginFile], kept: &[Kept], history: &History) -> Versions {
        let mut configured = HashMap::new();
        for settings in &history.stand_ins {
            if let Some(entry) = config.put_plugin(settings.clone()) {
                configured.insert(entry.name.clone(), entry);
            }
        }
        let files = files.iter().map(|file| (file.name.clone(), bytes(file))).collect();
        let previous = history.previous.iter().map(|(settings, component)| {
            let version = Version {
                component: Arc::from(&**component),
                settings: settings.clone(),
            };
            (settings.name.clone(), version)
        });
        Versions {
            good: versions(config, &files),
            previous: previous.collect(),
            refused: by_name(kept),
            taken_back: by_name(&history.taken_back),
            configured,
        }
    }

    /// The components in force.
    pub fn files(&self) -> Files {
        let component = |(name, version): (&String, &Version)| (name.clone(), version.component.clone());
        self.good.iter().map(component).collect()
    }

    pub fn previous(&self, plugin: &str) -> Option<&Version> {
        self.previous.get(plugin)
    }

    /// Whether the version before has other settings than the one in force.
    pub fn previous_has_other_settings(&self, plugin: &str) -> bool {
        let both = self.good.get(plugin).zip(self.previous.get(plugin));
        both.is_some_and(|(good, previous)| previous.settings != good.settings.at(&previous.settings.file))
    }

    /// Why what the plugin's file holds now is not in force.
    pub fn refused(&self, plugin: &str) -> Option<&str> {
        self.refused.get(plugin).map(String::as_str)
    }

    /// Why the version that the plugin had before is not in force any more, if not because a newer one came.
    pub fn taken_back(&self, plugin: &str) -> Option<&str> {
        self.taken_back.get(plugin).map(String::as_str)
    }

    /// The version before, and why it went, if the relay took it back by itself.
    pub fn went_by_itself(&self, plugin: &str) -> Option<(&str, &Version)> {
        let why = self.taken_back(plugin).filter(|why| *why != BY_ADMINISTRATOR)?;
        Some((why, self.previous(plugin)?))
    }

    /// Whether the plugin's settings in force stand in for those of the configuration.
    pub fn stands_in(&self, plugin: &str) -> bool {
        self.configured.contains_key(plugin)
    }

    /// All settings that stand in for configured ones.
    pub fn stand_ins(&self) -> Vec<config::Plugin> {
        let names = self.configured.keys();
        names
            .filter_map(|name| self.good.get(name))
            .map(|version| version.settings.clone())
            .collect()
    }

    /// What the configuration says of a plugin.
    pub fn configured(&self, plugin: &str) -> Option<&config::Plugin> {
        let in_force = || self.good.get(plugin).map(|version| &version.settings);
        self.configured.get(plugin).or_else(in_force)
    }

    /// The settings that go on to stand in for those of an entry, which has not changed since they began to.
    pub fn stand_in_for(&self, entry: &config::Plugin) -> Option<&config::Plugin> {
        let unchanged = self.configured.get(&entry.name).is_some_and(|known| known == entry);
        let good = self.good.get(&entry.name).filter(|_| unchanged);
        good.map(|version| &version.settings)
    }

    /// Puts what is in force into a configuration and its files where it goes on to stand in for what they say: the entry has not changed, and the
    /// file holds what it held before that, or what is in force. Returns the names.
    pub fn hold(&self, config: &mut Config, files: &mut Files) -> Vec<String> {
        let mut held = Vec::new();
        for entry in &mut config.plugins {
            let Some(settings) = self.stand_in_for(entry) else {
                continue;
            };
            let Some(file) = files.get_mut(&entry.name) else {
                continue;
            };
            let component = &self.good[&entry.name].component;
            let previous = self.previous.get(&entry.name);
            if *file == *component || previous.is_some_and(|previous| previous.component == *file) {
                *file = component.clone();
                *entry = settings.clone();
                held.push(entry.name.clone());
            }
        }
        held
    }

    /// These are in force now, `configured` is what the configuration says, and `kept` are those whose file is no good; what they
    /// replaced can be rolled back to. Returns the plugins that have another version than before.
    pub fn accept(&mut self, configured: &Config, in_force: &Config, files: &Files, kept: &[Kept]) -> Vec<String> {
        let before = std::mem::replace(&mut self.good, versions(in_force, files));
        let mut replaced = Vec::new();
        for (name, old) in before {
            match self.good.get(&name) {
                Some(new) if !new.is_like(&old) => {
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
        let pairs = configured.plugins.iter().zip(&in_force.plugins);
        self.configured = pairs
            .filter(|(configured, in_force)| configured != in_force)
            .map(|(configured, _)| (configured.name.clone(), configured.clone()))
            .collect();
        replaced
    }

    /// This one is in force now. If it was in force before, `taken_back` says why the other one goes. Whether it is another version than
    /// before.
    pub fn accept_one(&mut self, version: Version, taken_back: Option<String>) -> bool {
        let name = version.settings.name.clone();
        let configured = self.configured(&name).cloned();
        self.configured.remove(&name);
        match configured.filter(|configured| *configured != version.settings) {
            Some(configured) => drop(self.configured.insert(name.clone(), configured)),
            // Its file is replaced by it.
            None => drop(self.refused.remove(&name)),
        }
        match self.good.insert(name.clone(), version.clone()) {
            Some(old) if !old.is_like(&version) => {
                self.taken_back.remove(&name);
                if let Some(why) = taken_back {
                    self.taken_back.insert(name.clone(), why);
                }
                self.previous.insert(name, old);
                true
            }
            _ => false,
        }
    }
}

fn versions(config: &Config, files: &Files) -> HashMap<String, Version> {
    let version = |settings: &config::Plugin| {
        let component = files.get(&settings.name)?.clone();
        let settings = settings.clone();
        Some((settings.name.clone(), Version { component, settings }))
    };
    config.plugins.iter().filter_map(version).collect()
}

fn by_name(kept: &[Kept]) -> HashMap<String, String> {
    kept.iter()
        .map(|kept| (kept.plugin.clone(), kept.why.clone()))
        .collect()
}

pub fn bytes(file: &PluginFile) -> Arc<[u8]> {
    Arc::from(&*file.bytes)
}
