//! Where in the file it stands what can only be found wrong after the file was read: the files that it names, and the plugins' own settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lines from 1.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Of each file that is named, the first key that names it.
    files: BTreeMap<PathBuf, Named>,
    plugins: BTreeMap<String, PluginLines>,
}

/// A key whose value is the path of a file.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub line: usize,
    /// `"key" in [[dkim]]`
    pub key: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PluginLines {
    pub entry: usize,
    /// Of `[plugin.config]`, if it is there.
    pub config: Option<usize>,
}

impl Places {
    pub(super) fn add_file(&mut self, path: &Path, named: Named) {
        self.files.entry(path.to_owned()).or_insert(named);
    }

    pub(super) fn add_plugin(&mut self, name: &str, lines: PluginLines) {
        self.plugins.insert(name.to_owned(), lines);
    }

    pub(super) fn forget_plugin(&mut self, name: &str) {
        self.plugins.remove(name);
    }

    /// The line, and the key with its table.
    pub(super) fn file(&self, path: &Path) -> Option<(usize, &str)> {
        self.files.get(path).map(|named| (named.line, named.key.as_str()))
    }

    pub(super) fn plugin(&self, name: &str) -> Option<PluginLines> {
        self.plugins.get(name).copied()
    }
}
