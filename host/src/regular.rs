//! Reading files that somebody names: regular ones up to a size, so that neither a named pipe nor a device holds the reader up or fills its memory.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// Opens a regular file of at most `most` bytes.
pub fn open(path: &Path, most: u64) -> io::Result<(File, Metadata)> {
    // Non-blocking, because to open a named pipe waits for who writes into it.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    check_length(metadata.len(), most)?;
    Ok((file, metadata))
}

/// What it holds.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path, most)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // It may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes)?;
    check_length(bytes.len() as u64, most)?;
    Ok(bytes)
}

fn check_length(length: u64, most: u64) -> io::Result<()> {
    if length > most {
        return Err(io::Error::other(format!("{length} bytes are more than {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_reasonable_size() {
        let folder = tempfile::tempdir().unwrap();
        let named = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&named("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(named("big"), [0; 11]).unwrap();
        std::fs::write(named("good"), [0; 10]).unwrap();
        for (path, expected) in [
            (named("pipe"), "is no regular file"),
            (folder.path().to_owned(), "is no regular file"),
            ("/dev/zero".into(), "is no regular file"),
            (named("big"), "11 bytes are more than 10"),
            (named("none"), "No such file or directory (os error 2)"),
        ] {
            let error = read(&path, 10).unwrap_err();
            assert_eq!(error.to_string(), expected, "{}", path.display());
        }
        assert_eq!(read(&named("good"), 10).unwrap(), [0; 10]);
    }
}
