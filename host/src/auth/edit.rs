//! Changes to the users file: add, change, remove one line, and nothing else in it.
//!
//! The file is replaced whole (written beside it, synced, renamed), so a reader sees the old one or the new one, and
//! a crash leaves one of them. It is 0600 and keeps its owner. Two changes at a time wait for each other. A file with
//! an error in it is not touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::hash;
use super::scram::{self, StoredKeys};
use super::users::{Users, UsersErrors, check_name, key, parse_line};

/// Longer passwords are not taken, in bytes: an AUTH line must hold one in base64 (RFC 4954 §4: 12,288).
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// Why a users file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Broken(#[from] UsersErrors),
    #[error("{}: user \"{name}\" is there already; `gatepost user passwd {name}` changes the password", path.display())]
    Exists { path: PathBuf, name: String },
    #[error("{}: there is no user \"{name}\"", path.display())]
    Unknown { path: PathBuf, name: String },
    /// The name or the password cannot be one.
    #[error("{0}")]
    Unfit(String),
}

/// Adds a user. The file is made if it is not there. Costs some 100 ms of hashing.
pub fn add(path: &Path, name: &str, password: &str) -> Result<(), EditError> {
    let line = new_line(name, password)?;
    edit(path, name, true, |old| match old {
        Some(_) => Err(EditError::Exists {
            path: path.to_owned(),
            name: name.to_owned(),
        }),
        None => Ok(Some(line)),
    })
}

/// Gives a user that is there another password.
pub fn change_password(path: &Path, name: &str, password: &str) -> Result<(), EditError> {
    let line = new_line(name, password)?;
    edit(path, name, false, |old| match old {
        Some(_) => Ok(Some(line)),
        None => Err(EditError::Unknown {
            path: path.to_owned(),
            name: name.to_owned(),
        }),
    })
}

pub fn remove(path: &Path, name: &str) -> Result<(), EditError> {
    edit(path, name, false, |old| match old {
        Some(_) => Ok(None),
        None => Err(EditError::Unknown {
            path: path.to_owned(),
            name: name.to_owned(),
        }),
    })
}

/// The names in the file, in its order of names.
pub fn list(path: &Path) -> Result<Vec<String>, EditError> {
    let bytes = fs::read(path).map_err(|error| EditError::Io {
        path: path.to_owned(),
        error,
    })?;
    Ok(Users::parse(&bytes, path)?
        .iter()
        .map(|user| user.name.to_string())
        .collect())
}

/// The line of a user in the file. Costs some 100 ms of hashing.
pub fn new_line(name: &str, password: &str) -> Result<String, EditError> {
    let name = check_name(name).map_err(EditError::Unfit)?;
    let prepared = stringprep::saslprep(password)
        .map(|prepared| Zeroizing::new(prepared.into_owned()))
        .map_err(|error| EditError::Unfit(format!("this cannot be a password: {error}")))?;
    if prepared.is_empty() || prepared.len() > PASSWORD_BYTES_MAX {
        return Err(EditError::Unfit(format!(
            "a password has 1 to {PASSWORD_BYTES_MAX} bytes"
        )));
    }
    let hash = hash::hash(&prepared).map_err(EditError::Unfit)?;
    let salt = hash::random::<{ scram::SALT_BYTES }>();
    Ok(format!(
        "{name}:{hash}:{}",
        StoredKeys::derive(&prepared, &salt, scram::ITERATIONS)
    ))
}

/// Replaces the line of a user by what `change` makes of it (`None` is no line), under the file's lock.
fn edit(
    path: &Path,
    name: &str,
    create: bool,
    change: impl FnOnce(Option<&str>) -> Result<Option<String>, EditError>,
) -> Result<(), EditError> {
    let failed = |error| EditError::Io {
        path: path.to_owned(),
        error,
    };
    let (path, mut file) = open_locked(path, create).map_err(failed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Users::parse(&bytes, &path)?;
    // It parsed, so it is text.
    let text = String::from_utf8_lossy(&bytes);
    let wanted = key(&check_name(name).map_err(EditError::Unfit)?);
    let is_theirs = |line: &&str| matches!(parse_line(line.as_bytes()), Ok(Some(user)) if key(&user.name) == wanted);
    let old = text.lines().find(is_theirs);
    let new = change(old)?;
    let mut changed = String::with_capacity(text.len() + new.as_ref().map_or(0, String::len) + 1);
    for line in text
        .lines()
        .map(|line| if Some(line) == old { new.as_deref() } else { Some(line) })
    {
        changed.extend(line.into_iter().flat_map(|line| [line, "\n"]));
    }
    if let (None, Some(line)) = (old, &new) {
        changed.extend([line, "\n"]);
    }
    replace(&path, &file.metadata().map_err(failed)?, changed.as_bytes()).map_err(failed)
}

/// How often another change may replace the file while this one waits for its lock.
const LOCK_ATTEMPTS_MAX: usize = 100;

/// Opens the file that `path` leads to and locks it; with it comes its real path, so that a symbolic link stays one.
fn open_locked(path: &Path, create: bool) -> io::Result<(PathBuf, File)> {
    if create && !path.exists() {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    }
    let path = fs::canonicalize(path)?;
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let file = File::open(&path)?;
        file.lock()?;
        // Whoever held the lock has put another file in its place: that one is to be changed.
        if file.metadata()?.ino() == fs::metadata(&path)?.ino() {
            return Ok((path, file));
        }
    }
    Err(io::Error::other("changed by others all the time"))
}

fn replace(path: &Path, old: &fs::Metadata, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // A rest of a change that was cut off: the lock is ours, so nobody writes it now.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)?;
    let written = file.write_all(bytes).and_then(|()| {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.sync_all()?;
        fs::rename(&part, path)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&part);
    }
    written?;
    // The new name is durable once its folder is.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn one_line_changes_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/users");
        add(&path, "Alice", "pencil").unwrap();
        let lines = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# ours\n\n{lines}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();

        add(&path, "bob@example.test", "eraser").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .starts_with(&format!("# ours\n\n{lines}bob@example.test:$argon2id$"))
        );
        assert_eq!(list(&path).unwrap(), ["Alice", "bob@example.test"]);

        change_password(&path, "alice", "ruler").unwrap();
        let users = Users::parse(&fs::read(&path).unwrap(), &path).unwrap();
        assert_eq!(users.verify_plain("alice", "ruler").await, Ok(true));
        assert_eq!(users.verify_plain("alice", "pencil").await, Ok(false));

        remove(&path, "ALICE").unwrap();
        assert_eq!(list(&path).unwrap(), ["bob@example.test"]);
        assert!(fs::read_to_string(&path).unwrap().starts_with("# ours\n\nbob"));
        assert!(!fs::read_to_string(&path).unwrap().contains("eraser"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_refused_leaves_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let missing = remove(&path, "alice").unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
        add(&path, "alice", "pencil").unwrap();
        let before = fs::read(&path).unwrap();
        let shown = path.display();
        let cases = [
            (
                add(&path, "Alice", "x"),
                format!("{shown}: user \"Alice\" is there already; `gatepost user passwd Alice` changes the password"),
            ),
            (
                add(&path, "b:b", "x"),
                "\"b:b\" cannot be a user name: 1 to 255 bytes, no space, no colon, no # at its beginning".into(),
            ),
            (add(&path, "bob", ""), "a password has 1 to 1024 bytes".into()),
            (
                add(&path, "bob", "a\u{7}b"),
                "this cannot be a password: prohibited character `\u{7}`".into(),
            ),
            (remove(&path, "bob"), format!("{shown}: there is no user \"bob\"")),
            (
                change_password(&path, "bob", "x"),
                format!("{shown}: there is no user \"bob\""),
            ),
        ];
        for (result, expected) in cases {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
        assert_eq!(fs::read(&path).unwrap(), before);

        fs::write(&path, "nonsense\n").unwrap();
        let broken = add(&path, "bob", "x").unwrap_err().to_string();
        assert!(broken.starts_with(&format!("{shown}:1: a line reads")), "{broken}");
        assert_eq!(fs::read(&path).unwrap(), b"nonsense\n");
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (link, real) = (folder.path().join("users"), folder.path().join("real"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        add(&link, "alice", "pencil").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(list(&real).unwrap(), ["alice"]);
    }

    #[test]
    fn changes_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || add(path, &format!("user{number}"), "pencil").unwrap());
            }
        });
        assert_eq!(list(&path).unwrap().len(), 8);
    }
}
