//! Argon2id hashing of passwords, and checking with bounds: so many at a time, so long a wait, and none at all for a
//! password that was right a minute ago.
//!
//! One check costs 20 to 50 ms of CPU and 19 MiB: a crowd of clients must neither fill the memory nor hold up the
//! runtime's threads.

use std::collections::{HashMap, VecDeque};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Memory of one hash, in KiB (OWASP, Password Storage Cheat Sheet: 19 MiB with two passes).
pub const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over it.
pub const PASSES: u32 = 2;
pub const LANES: u32 = 1;
/// The most that a hash in the users file may demand, in KiB and passes: a check must stay a matter of a second.
pub const MEMORY_KIB_MAX: u32 = 256 * 1024;
pub const PASSES_MAX: u32 = 16;

/// Checks at a time, all listeners together: 4 need 76 MiB.
const CHECKS_MAX: usize = 4;
/// How long a login waits for its turn before it is told to come again.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Passwords that were right are taken again without hashing, so that a client that reconnects for each message costs
/// no more than one that does not.
const RECENT_TTL: Duration = Duration::from_secs(60);
/// Some 100 bytes each.
const RECENT_MAX: usize = 4_096;

static CHECKS: Semaphore = Semaphore::const_new(CHECKS_MAX);

/// No password fits it; checking against it costs what checking against a new hash costs.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The check could not be made: too many others wait. Not a failure of the client: 454.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many password checks are waiting")]
pub struct Unavailable;

/// A new hash of a password that went through SASLprep, as a PHC string.
pub fn hash(password: &str) -> Result<String, String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| error.to_string())?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2
        .hash_password_with_salt(password.as_bytes(), &random::<16>())
        .map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

/// Whether a text is a hash that can be checked here, and if not, why.
pub fn parse(text: &str) -> Result<PasswordHash, String> {
    let hash = PasswordHash::new(text).map_err(|_| "the password hash is not a PHC string ($argon2id$...)")?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
        return Err(format!(
            "the password hash is {}, and only a whole argon2id hash can be checked",
            hash.algorithm
        ));
    }
    let params = Params::try_from(&hash).map_err(|error| format!("the password hash has bad parameters: {error}"))?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX {
        return Err(format!(
            "the password hash demands more than m={MEMORY_KIB_MAX},t={PASSES_MAX}"
        ));
    }
    Ok(hash)
}

/// Checks a password on another thread, in its turn. `None` is a user that does not exist: the same work, and false.
pub async fn check(hash: Option<PasswordHash>, password: Zeroizing<String>) -> Result<bool, Unavailable> {
    check_within(&CHECKS, WAIT_MAX, hash, password).await
}

async fn check_within(
    checks: &'static Semaphore,
    wait: Duration,
    hash: Option<PasswordHash>,
    password: Zeroizing<String>,
) -> Result<bool, Unavailable> {
    let permit = tokio::time::timeout(wait, checks.acquire()).await;
    let permit = permit.map_err(|_| Unavailable)?.map_err(|_| Unavailable)?;
    let work = move || {
        // Moved in here: a login whose client left still counts until its work is done.
        let _permit = permit;
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| PasswordHash::new(DECOY).expect("the decoy is a PHC string"));
        // The parameters are those of the hash.
        let fits = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
        fits && exists
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Unavailable)
}

/// Which passwords were right within the last [`RECENT_TTL`], as HMACs under the process's secret.
#[derive(Default)]
pub struct Recent {
    until: HashMap<[u8; 32], Instant>,
    /// All of them live equally long, so the first in is the first out.
    order: VecDeque<[u8; 32]>,
}

impl Recent {
    pub fn key(name: &str, password: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*SECRET).expect("HMAC takes keys of any length");
        mac.update(&(name.len() as u64).to_be_bytes());
        mac.update(name.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    pub fn contains(&self, key: &[u8; 32], now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| now < *until)
    }

    pub fn insert(&mut self, key: [u8; 32], now: Instant) {
        while let Some(oldest) = self.order.front() {
            let live = self.until.get(oldest).is_some_and(|until| now < *until);
            if live && self.order.len() < RECENT_MAX {
                break;
            }
            self.until.remove(oldest);
            self.order.pop_front();
        }
        // Checked twice at the same time: the first one's time stands.
        if let std::collections::hash_map::Entry::Vacant(entry) = self.until.entry(key) {
            entry.insert(now + RECENT_TTL);
            self.order.push_back(key);
        }
    }
}

/// Known to this process only; made anew at each start.
pub static SECRET: LazyLock<[u8; 32]> = LazyLock::new(random);

/// Bytes from the system. Without them no secret can be made, and nothing here may go on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_hashes_have_the_named_parameters() {
        let text = hash("pencil").unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let hash = parse(&text).unwrap();
        assert!(Argon2::default().verify_password(b"pencil", &hash).is_ok());
        assert!(Argon2::default().verify_password(b"Pencil", &hash).is_err());
        assert!(parse(DECOY).is_ok());
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_to_come_again() {
        static NONE_FREE: Semaphore = Semaphore::const_new(0);
        let answer = check_within(&NONE_FREE, Duration::ZERO, None, Zeroizing::new("x".to_owned())).await;
        assert_eq!(answer, Err(Unavailable));
    }

    #[test]
    fn recent_passwords_are_forgotten_in_time_and_in_number() {
        let now = Instant::now();
        let mut recent = Recent::default();
        let key = Recent::key("alice", "pencil");
        recent.insert(key, now);
        assert!(recent.contains(&key, now + RECENT_TTL / 2));
        // Being used does not make it live longer.
        recent.insert(key, now + RECENT_TTL / 2);
        assert!(!recent.contains(&key, now + RECENT_TTL));
        assert!(!recent.contains(&Recent::key("alicep", "encil"), now));

        for number in 0..2 * RECENT_MAX {
            recent.insert(Recent::key("bob", &number.to_string()), now);
        }
        assert_eq!((recent.until.len(), recent.order.len()), (RECENT_MAX, RECENT_MAX));
        recent.insert(key, now + RECENT_TTL);
        assert_eq!((recent.until.len(), recent.order.len()), (1, 1));
    }
}
