//! The users file as it was read: who there is, and whether a password is theirs.
//!
//! One user a line, `name:argon2id PHC string:SCRAM stored keys`; blank lines and lines that begin with `#` say
//! nothing; the third field may be empty, then that user has no SCRAM. A [`Users`] never changes: a reload makes
//! another one, and with it forgets which passwords were right lately. A file with an error in it is refused whole,
//! each error with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use argon2::password_hash::phc::PasswordHash;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::hash::{self, Recent, Unavailable};
use super::scram::StoredKeys;

/// Longer names are not taken, in bytes (RFC 4616 §2 has the same bound).
pub const NAME_BYTES_MAX: usize = 255;

/// One line of the file.
#[derive(Clone)]
pub struct User {
    /// As the file spells it; looked up without regard to case.
    pub name: Arc<str>,
    hash: PasswordHash,
    scram: Option<StoredKeys>,
}

/// The users of one state of the file.
#[derive(Default)]
pub struct Users {
    /// By [`key`].
    by_name: BTreeMap<String, User>,
    recent: Mutex<Recent>,
}

impl Users {
    /// Reads the bytes of a users file. `path` only names it in errors.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Users, UsersErrors> {
        let mut by_name: BTreeMap<String, User> = BTreeMap::new();
        let mut errors = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let problem = match parse_line(line) {
                Ok(None) => continue,
                Ok(Some(user)) => {
                    let name = user.name.clone();
                    match by_name.insert(key(&name), user) {
                        None => continue,
                        Some(_) => format!("user \"{name}\" is there twice: remove one of the lines"),
                    }
                }
                Err(problem) => problem,
            };
            errors.push(UserError {
                file: path.to_owned(),
                line: index + 1,
                problem,
            });
        }
        match errors.is_empty() {
            true => Ok(Users {
                by_name,
                recent: Mutex::default(),
            }),
            false => Err(UsersErrors(errors)),
        }
    }

    /// The user of that name, without regard to case. SASLprep is applied.
    pub fn lookup(&self, name: &str) -> Option<&User> {
        let name = stringprep::saslprep(name).ok()?;
        self.by_name.get(&key(&name))
    }

    /// Whether a name's password is what it was in an earlier state of the file; true of names that were not there.
    pub fn keeps(&self, earlier: &Users, name: &str) -> bool {
        let Some(before) = earlier.lookup(name) else {
            return true;
        };
        self.lookup(name).is_some_and(|user| user.hash == before.hash)
    }

    /// All users, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.by_name.values()
    }

    /// Whether the password is the user's. A user that does not exist takes as long as one that does. Costs some 30
    /// ms on a blocking thread, unless the same password was right within the last minute; [`Unavailable`] when too
    /// many others wait.
    pub async fn verify_plain(&self, name: &str, password: &str) -> Result<bool, Unavailable> {
        let user = self.lookup(name);
        // RFC 4616 §2: what cannot be prepared cannot be right. It is checked as nobody's, for the time's sake.
        let (user, password) = match stringprep::saslprep(password) {
            Ok(prepared) if !prepared.is_empty() => (user, Zeroizing::new(prepared.into_owned())),
            _ => (None, Zeroizing::new(String::new())),
        };
        let recent = user.map(|user| Recent::key(&user.name, &password));
        if recent.is_some_and(|recent| self.recent.lock().contains(&recent, Instant::now())) {
            return Ok(true);
        }
        let right = hash::check(user.map(|user| user.hash.clone()), password).await?;
        if let (true, Some(recent)) = (right, recent) {
            self.recent.lock().insert(recent, Instant::now());
        }
        Ok(right)
    }

    /// The SCRAM keys of a user; of nobody's for one that does not exist or has none, so that the exchange cannot
    /// tell them apart.
    pub fn stored_keys(&self, name: &str) -> StoredKeys {
        let known = self.lookup(name).and_then(|user| user.scram.clone());
        known.unwrap_or_else(|| StoredKeys::decoy(&key(name), &hash::SECRET))
    }

    /// The addresses that a name may send from: itself if it is an address, else name@ each relay domain.
    pub fn senders(name: &str, relay_domains: &BTreeSet<String>) -> Vec<String> {
        match name.contains('@') {
            true => vec![name.to_owned()],
            false => relay_domains.iter().map(|domain| format!("{name}@{domain}")).collect(),
        }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.by_name.len())
    }
}

/// What is wrong with one line of a users file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {problem}", file.display())]
pub struct UserError {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// Never holds any of what the line says after the name.
    pub problem: String,
}

/// All that is wrong with a users file; printed one error a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersErrors(pub Vec<UserError>);

impl fmt::Display for UsersErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for UsersErrors {}

/// How names are compared.
pub(super) fn key(name: &str) -> String {
    name.to_lowercase()
}

/// The user of a line; `None` for a line that says nothing.
pub(super) fn parse_line(line: &[u8]) -> Result<Option<User>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8 text")?;
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut fields = line.splitn(3, ':');
    let name = check_name(fields.next().unwrap_or_default())?;
    let hash = fields
        .next()
        .ok_or("a line reads NAME:ARGON2ID HASH:SCRAM KEYS; write it with `gatepost user add NAME`")?;
    let hash = hash::parse(hash)?;
    let scram = match fields.next().unwrap_or_default() {
        "" => None,
        text => Some(text.parse()?),
    };
    Ok(Some(User {
        name: name.into(),
        hash,
        scram,
    }))
}

/// A name as the file keeps it, if it can be one.
pub(super) fn check_name(name: &str) -> Result<String, String> {
    let prepared = stringprep::saslprep(name).map_err(|error| format!("{name:?} cannot be a user name: {error}"))?;
    let bad = |character: char| character == ':' || character.is_whitespace() || character.is_control();
    if prepared.is_empty() || prepared.len() > NAME_BYTES_MAX || prepared.starts_with('#') || prepared.contains(bad) {
        return Err(format!(
            "{name:?} cannot be a user name: 1 to {NAME_BYTES_MAX} bytes, no space, no colon, no # at its beginning"
        ));
    }
    Ok(prepared.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "pencil", with as little memory and as few passes as can be, so that the tests are quick.
    const QUICK: &str = "$argon2id$v=19$m=8,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$";

    fn line(name: &str, password: &str) -> String {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let hash = argon2
            .hash_password_with_salt(password.as_bytes(), b"0123456789abcdef")
            .unwrap()
            .to_string();
        assert!(hash.starts_with(QUICK), "{hash}");
        format!(
            "{name}:{hash}:{}",
            StoredKeys::derive(password, b"0123456789abcdef", 4096)
        )
    }

    fn users(text: &str) -> Users {
        Users::parse(text.as_bytes(), Path::new("users")).unwrap()
    }

    #[tokio::test]
    async fn passwords_are_checked() {
        let users = users(&format!(
            "# ours\n\n{}\r\n{}\n",
            line("Alice", "pencil"),
            line("böb", "IX and more")
        ));
        for (name, password, expected) in [
            ("Alice", "pencil", true),
            ("alice", "pencil", true),
            ("alice", "Pencil", false),
            ("alice", "", false),
            ("alice", "pencil\u{0}", false),
            ("nobody", "pencil", false),
            // SASLprep: a combining diaeresis, and a Roman nine that is one character.
            ("bo\u{308}b", "IX and more", true),
            ("böb", "Ⅸ and more", true),
            ("böb", "ix and more", false),
        ] {
            assert_eq!(
                users.verify_plain(name, password).await,
                Ok(expected),
                "{name} {password:?}"
            );
            // And from what it remembers.
            assert_eq!(
                users.verify_plain(name, password).await,
                Ok(expected),
                "{name} {password:?} again"
            );
        }
        assert_eq!(users.lookup("ALICE").map(|user| &*user.name), Some("Alice"));
        assert_eq!(
            users.iter().map(|user| &*user.name).collect::<Vec<_>>(),
            ["Alice", "böb"]
        );
    }

    #[test]
    fn errors_name_file_and_line() {
        let good = line("alice", "pencil");
        let hash = good.split(':').nth(1).unwrap();
        let text = [
            "alice",
            ":x",
            "with space:x",
            "bob:$2y$10$abcdefghijklmnopqrstuv",
            "bob:$argon2id$v=19$m=9999999,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
            &format!("carol:{hash}:SCRAM-SHA-1$x"),
            &good,
            &good.replace("alice", "Alice"),
        ]
        .join("\n");
        let errors = Users::parse(text.as_bytes(), Path::new("etc/users")).unwrap_err();
        assert_eq!(
            errors.to_string().lines().collect::<Vec<_>>(),
            [
                "etc/users:1: a line reads NAME:ARGON2ID HASH:SCRAM KEYS; write it with `gatepost user add NAME`",
                "etc/users:2: \"\" cannot be a user name: 1 to 255 bytes, no space, no colon, no # at its beginning",
                "etc/users:3: \"with space\" cannot be a user name: 1 to 255 bytes, no space, no colon, no # at its beginning",
                "etc/users:4: the password hash is not a PHC string ($argon2id$...)",
                "etc/users:5: the password hash demands more than m=262144,t=16",
                "etc/users:6: SCRAM keys read SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY",
                "etc/users:8: user \"Alice\" is there twice: remove one of the lines",
            ]
        );
    }

    #[test]
    fn whose_addresses() {
        let domains = ["b.test", "a.test"].map(str::to_owned).into();
        assert_eq!(Users::senders("alice", &domains), ["alice@a.test", "alice@b.test"]);
        assert_eq!(Users::senders("alice@c.test", &domains), ["alice@c.test"]);
    }
}
