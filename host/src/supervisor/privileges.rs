//! Who the worker is, what it may open, and the folder that is its own.

use std::ffi::CString;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, getgrouplist};

use crate::config::Limits;

/// Whom a worker of root becomes where the configuration does not say it: the first of these that there is.
const USERS: [&str; 2] = ["gatepost", "nobody"];
/// Descriptors besides those of inbound connections: outbound ones, spool files, listeners, the log.
const OTHER_DESCRIPTORS: u64 = 4096;
/// How long to wait for the lock of `state_dir`: the worker of a supervisor that was killed dies with it, but a moment later.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The user that a worker becomes, with everything that the child needs to know already looked up.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    /// The user's groups, as initgroups(3) would set them.
    pub groups: Vec<Gid>,
}

impl User {
    /// Who it is for a supervisor that is root; `None` for any other, which cannot change.
    pub fn for_worker(configured: Option<&str>) -> anyhow::Result<Option<User>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let found = match configured {
            Some(name) => look_up(name)?
                .with_context(|| format!("user {name:?} is not there: adduser --system --group {name}"))?,
            None => {
                let first = USERS.into_iter().find_map(|name| look_up(name).transpose());
                first
                    .transpose()?
                    .with_context(|| format!("none of the users {} is there", USERS.join(", ")))?
            }
        };
        if found.uid.is_root() {
            bail!("user {:?} is root: the worker must be somebody else", found.name);
        }
        let name = CString::new(found.name.as_str())?;
        let groups = getgrouplist(&name, found.gid).with_context(|| format!("the groups of {:?}", found.name))?;
        Ok(Some(User {
            name: found.name,
            uid: found.uid,
            gid: found.gid,
            groups,
        }))
    }
}

fn look_up(name: &str) -> anyhow::Result<Option<nix::unistd::User>> {
    nix::unistd::User::from_name(name).with_context(|| format!("looking up user {name:?}"))
}

/// As many descriptors as the connections need, as far as we may. Inherited by the worker.
pub fn raise_descriptor_limit(limits: &Limits) {
    let wanted = u64::from(limits.connections) + OTHER_DESCRIPTORS;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= wanted {
        return;
    }
    // Root may go beyond the hard limit.
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err()
        && setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard).is_ok()
        && hard < wanted
    {
        tracing::warn!(
            hard,
            wanted,
            "the limit of open files (ulimit -n) is too low for limits.connections"
        );
    }
}

/// `state_dir`, open and locked: one relay at a time.
#[derive(Debug)]
pub struct StateDir {
    /// Locked until the last descriptor of it is closed, the worker's included.
    lock: File,
}

impl StateDir {
    /// Makes the folder if it is not there, for the worker's user and nobody else, and locks it.
    pub fn take(path: &Path, user: Option<&User>) -> anyhow::Result<StateDir> {
        StateDir::make_and_open(path, user)
            .and_then(|folder| lock(folder, LOCK_WAIT))
            .with_context(|| format!("state_dir {}", path.display()))
    }

    /// Another descriptor of the same lock.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        Ok(self.lock.try_clone()?.into())
    }

    fn make_and_open(path: &Path, user: Option<&User>) -> anyhow::Result<File> {
        let path = std::path::absolute(path)?;
        if let Some(parent) = path.parent() {
            make_parents(parent)?;
        }
        let made = match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).context("cannot be made"),
        };
        // The last name must be the folder itself: its owner is about to change, and a link could lead anywhere.
        let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
        let folder = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOTDIR | Errno::ELOOP) => anyhow::Error::msg("must be a folder, and no link to one"),
                _ => anyhow::Error::new(error).context("cannot be opened"),
            })?;
        let Some(user) = user else { return Ok(folder) };
        let owner = folder.metadata()?.uid();
        if owner == user.uid.as_raw() {
            return Ok(folder);
        }
        // Only a new or empty folder is given away. What is in another one may be somebody else's.
        if !made && (owner != 0 || std::fs::read_dir(&path)?.next().is_some()) {
            bail!(
                "belongs to uid {owner}, not to {}, whom the worker runs as: chown -R {0} {}",
                user.name,
                path.display()
            );
        }
        fchown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        Ok(folder)
    }
}

/// The folders above: everybody may pass them, whatever the umask is, so that the worker can.
fn make_parents(parent: &Path) -> anyhow::Result<()> {
    let missing: Vec<PathBuf> = parent
        .ancestors()
        .take_while(|folder| !folder.exists())
        .map(Path::to_owned)
        .collect();
    for folder in missing.iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("{} cannot be made", folder.display()));
            }
            _ => {}
        }
        let permissions = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(folder, permissions)?;
    }
    Ok(())
}

fn lock(folder: File, wait: Duration) -> anyhow::Result<StateDir> {
    let give_up = Instant::now() + wait;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(StateDir { lock: folder }),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => bail!("another gatepost runs on it"),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot be locked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_with_its_parents_and_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("var/gatepost");
        let state_dir = StateDir::take(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(
            std::fs::metadata(folder.path().join("var"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );

        let second = lock(File::open(&path).unwrap(), Duration::ZERO).unwrap_err();
        assert_eq!(second.to_string(), "another gatepost runs on it");
        let of_worker = state_dir.lock().unwrap();
        drop(state_dir);
        assert!(
            lock(File::open(&path).unwrap(), Duration::ZERO).is_err(),
            "the worker still has it"
        );
        drop(of_worker);
        lock(File::open(&path).unwrap(), Duration::ZERO).unwrap();
    }

    #[test]
    fn never_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let error = StateDir::take(&link, None).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            format!("state_dir {}: must be a folder, and no link to one", link.display())
        );
    }

    #[test]
    fn a_folder_is_given_away_only_if_nothing_of_others_is_in_it() {
        if !Uid::effective().is_root() {
            eprintln!("SKIPPED: changing owners needs root");
            return;
        }
        let user = User {
            name: "somebody".into(),
            uid: Uid::from_raw(12345),
            gid: Gid::from_raw(12345),
            groups: vec![],
        };
        let folder = tempfile::tempdir().unwrap();
        let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();

        let new = folder.path().join("new");
        drop(StateDir::take(&new, Some(&user)).unwrap());
        assert_eq!(owner(&new), 12345);
        drop(StateDir::take(&new, Some(&user)).unwrap());

        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        drop(StateDir::take(&empty, Some(&user)).unwrap());
        assert_eq!(owner(&empty), 12345);

        let full = folder.path().join("full");
        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("file"), "").unwrap();
        let error = StateDir::take(&full, Some(&user)).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            format!(
                "state_dir {0}: belongs to uid 0, not to somebody, whom the worker runs as: chown -R somebody {0}",
                full.display()
            )
        );
        assert_eq!(owner(&full), 0);
    }
}
