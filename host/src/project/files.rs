//! Writes what this executable carries.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use include_dir::{Dir, DirEntry};

/// Writes the files of `from` below `to`, each through `change`. `gitignore` gets its dot, which would make it count in this repository.
pub fn copy(from: &Dir<'_>, to: &Path, change: &dyn Fn(&str) -> String) -> io::Result<()> {
    for entry in from.entries() {
        let name = entry.path().file_name().unwrap_or_default();
        match entry {
            DirEntry::Dir(folder) => copy(folder, &to.join(name), change)?,
            DirEntry::File(file) => {
                let name = if name == "gitignore" {
                    ".gitignore".as_ref()
                } else {
                    name
                };
                let text = file
                    .contents_utf8()
                    .ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
                write(&to.join(name), change(text).as_bytes())?;
            }
        }
    }
    Ok(())
}

/// Writes a file, and the folders above it.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}
