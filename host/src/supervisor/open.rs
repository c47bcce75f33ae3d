//! The files that the configuration names, read for the worker but not looked into.
//!
//! What they held is kept in sealed memory: whatever becomes of the files, another worker can be started from it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::watch::Stamp;
use crate::config::Config;
use crate::regular;
use crate::worker_link::{FILE_BYTES_MAX, Item, check_sealed, files_of, sealed_copy};

/// What every file of a configuration held when it was read.
pub struct Contents {
    files: Vec<(PathBuf, OwnedFd)>,
    /// By the plugin's name: what is in force need not be what the file held, nor the same for two plugins of one file.
    plugins: Vec<(String, Arc<OwnedFd>)>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Contents {
    /// All, or the first error.
    pub fn read(config: &Config) -> anyhow::Result<Contents> {
        let mut contents = Contents {
            files: Vec::new(),
            plugins: Vec::new(),
            stamps: Vec::new(),
        };
        let mut read = |path: &Path, most| {
            let (mut file, stamp) = open(config, path, most)?;
            check_mode(config, path, &file)?;
            let held = sealed_copy(&mut file, most)?;
            // As it looked before it was read: what is written meanwhile makes it another.
            contents.stamps.push((path.to_owned(), stamp));
            anyhow::Ok(held)
        };
        for (path, most) in files_of(config) {
            let held = read(&path, most).with_context(|| path.display().to_string())?;
            contents.files.push((path, held));
        }
        let mut components: Vec<(&Path, Arc<OwnedFd>)> = Vec::new();
        for plugin in &config.plugins {
            let known = components.iter().find(|(path, _)| *path == plugin.file);
            let component = match known {
                Some((_, component)) => component.clone(),
                None => {
                    let held = read(&plugin.file, FILE_BYTES_MAX);
                    Arc::new(held.with_context(|| plugin.file.display().to_string())?)
                }
            };
            components.push((&plugin.file, component.clone()));
            contents.plugins.push((plugin.name.clone(), component));
        }
        Ok(contents)
    }

    /// What the files looked like when they were read.
    pub fn stamps(&self) -> impl Iterator<Item = (&Path, Stamp)> {
        self.stamps.iter().map(|(path, stamp)| (path.as_path(), *stamp))
    }

    /// Copies of the descriptors, for a worker.
    pub fn items(&self) -> io::Result<Vec<(Item, OwnedFd)>> {
        let files = self
            .files
            .iter()
            .map(|(path, held)| Ok((Item::File { path: path.clone() }, held.try_clone()?)));
        let plugins = self
            .plugins
            .iter()
            .map(|(name, component)| Ok((Item::Plugin { name: name.clone() }, component.try_clone()?)));
        files.chain(plugins).collect()
    }

    pub fn plugin(&self, name: &str) -> Option<&Arc<OwnedFd>> {
        let found = self.plugins.iter().find(|(known, _)| known == name);
        found.map(|(_, component)| component)
    }

    /// This component is in force, whatever the plugin's file holds.
    pub fn set_plugin(&mut self, name: &str, component: Arc<OwnedFd>) {
        if let Some((_, held)) = self.plugins.iter_mut().find(|(known, _)| known == name) {
            *held = component;
        }
    }
}

fn open(config: &Config, path: &Path, most: u64) -> anyhow::Result<(File, Stamp)> {
    let (file, metadata) = regular::open(path, most).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let remedy = config.remedy_for_missing(path).map(|remedy| format!(" ({remedy})"));
            let remedy = remedy.unwrap_or_default();
            let place = config
                .place_of_file(path)
                .unwrap_or_else(|| "the configuration".to_owned());
            anyhow::Error::new(error).context(format!("{place} names this file, and it is not there{remedy}"))
        }
        _ => anyhow::Error::new(error),
    })?;
    Ok((file, Stamp::of(&metadata)))
}

/// The admin token must be its owner's alone; other secrets that everybody can read are worth a warning.
fn check_mode(config: &Config, path: &Path, file: &File) -> anyhow::Result<()> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if config.admin.token_file.as_deref() == Some(path) && mode & 0o077 != 0 {
        bail!(
            "{}: others may read it (mode {mode:03o}): chmod 600 {0}",
            path.display()
        );
    }
    let is_key = config
        .tls
        .iter()
        .flat_map(|tls| tls.certificates())
        .any(|pair| pair.key == path);
    let is_plugin = config.plugins.iter().any(|plugin| plugin.file == path);
    let is_certificate = config
        .tls
        .iter()
        .flat_map(|tls| tls.certificates())
        .any(|pair| pair.certificate == path);
    if mode & 0o004 != 0 && (is_key || !(is_plugin || is_certificate)) {
        tracing::warn!(file = %path.display(), mode = format!("{mode:03o}"), "a secret that everybody can read: chmod 600");
    }
    Ok(())
}

/// Replaces the file at `path` by a component in sealed memory, at once as far as others can see, keeping mode and owner. Returns the new
/// file's stamp.
pub fn replace(path: &Path, component: &OwnedFd) -> anyhow::Result<Stamp> {
    check_sealed(component).context("the component")?;
    let mut component = File::from(component.try_clone()?);
    component.rewind()?;
    if component.metadata()?.len() > FILE_BYTES_MAX {
        bail!("a component of more than {FILE_BYTES_MAX} bytes");
    }
    // Where the name is a link, what it leads to is replaced.
    let path = &path.canonicalize()?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("is no file")
    };
    let part = folder.join(format!(".{}.part", name.to_string_lossy()));
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("a rest of an earlier attempt");
        }
        _ => {}
    }
    let before = std::fs::metadata(path)?;
    // create_new follows no link that somebody has put there meanwhile.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)?;
    let written = (|| {
        io::copy(&mut component.by_ref().take(FILE_BYTES_MAX), &mut file)?;
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
        file.set_permissions(std::fs::Permissions::from_mode(before.mode() & 0o777))?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        File::open(folder)?.sync_all()
    })();
    if let Err(error) = written {
        let _ = std::fs::remove_file(&part);
        return Err(error.into());
    }
    Ok(Stamp::of(&file.metadata()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker_link::sealed_memory;

    #[test]
    fn a_plugin_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let stamp = replace(&path, &sealed_memory(b"new one").unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new one");
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        assert_eq!(stamp, Stamp::of(&metadata));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_component_must_be_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        std::fs::write(&path, "old").unwrap();
        let error = replace(&path, &File::open(&path).unwrap().into()).unwrap_err();
        assert_eq!(format!("{error:#}"), "the component: is no sealed memory");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
