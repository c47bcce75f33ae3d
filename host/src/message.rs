//! What a session and a message are, as values that every part of the daemon shares.
//!
//! Plain data with no behaviour beyond its own consistency: the connection fills these in, the policy reads
//! them, the spool stores them (as JSON, so that older records stay readable when fields are added), delivery
//! acts on them. Nothing here does I/O, and nothing here fails.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The identity of a session or a message: 64 bits, unique within one spool and increasing in time, written as 13
/// characters of Crockford's base 32 (no I, L, O, U), so that it survives being read out over a telephone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub u64);

impl Id {
    /// A new identity: microseconds since 1970 in the upper 54 bits, made unique within the process by counting
    /// on from the last one given.
    pub fn new() -> Id {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let now = since_epoch(SystemTime::now()).as_micros() as u64;
        let wanted = now << 10 | u64::from(std::process::id() & 0x3ff);
        let mut last = LAST.load(Ordering::Relaxed);
        loop {
            let id = wanted.max(last + (1 << 10));
            match LAST.compare_exchange_weak(last, id, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Id(id),
                Err(seen) => last = seen,
            }
        }
    }
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 13];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            *byte = CROCKFORD[(self.0 >> (5 * place) & 31) as usize];
        }
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Id, String> {
        if text.len() != 13 {
            return Err(format!("an id has 13 characters, {text:?} has {}", text.len()));
        }
        text.bytes()
            .try_fold(0u64, |id, byte| {
                let digit = match byte.to_ascii_uppercase() {
                    b'O' => 0,
                    b'I' | b'L' => 1,
                    upper => CROCKFORD.iter().position(|c| *c == upper)? as u64,
                };
                Some(id << 5 | digit)
            })
            .map(Id)
            .ok_or_else(|| format!("{text:?} is not an id: ids are written with digits and capitals"))
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The time since 1970 in UTC; zero for a clock that stands before it.
pub fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What is known of a session. The connection owns one behind an `Arc`; a hook call holds another reference while it
/// runs, so what a policy reads cannot change under it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionFacts {
    pub id: Id,
    /// The listener's name in the configuration.
    pub listener: Arc<str>,
    /// Whether the listener has AUTH: off, optional or required.
    pub auth_offered: AuthOffer,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The peer came through a PROXY header of a configured upstream; this is the upstream's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<SocketAddr>,
    /// The peer is in one of `trusted_networks`.
    pub trusted: bool,
    /// The confirmed reverse name of the peer, once somebody asked for it (`Some(None)`: asked, and there is none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_name: Option<Option<Arc<str>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ehlo: Option<Arc<str>>,
    /// EHLO rather than HELO.
    #[serde(default)]
    pub esmtp: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    #[serde(default)]
    pub notes: Notes,
    pub started: SystemTime,
}

impl SessionFacts {
    /// The facts of a session that begins now: nothing is known but the addresses.
    pub fn new(listener: Arc<str>, auth_offered: AuthOffer, local: SocketAddr, peer: SocketAddr) -> SessionFacts {
        SessionFacts {
            id: Id::new(),
            listener,
            auth_offered,
            local,
            peer,
            proxy: None,
            trusted: false,
            reverse_name: None,
            tls: None,
            ehlo: None,
            esmtp: false,
            identity: None,
            notes: Notes::default(),
            started: SystemTime::now(),
        }
    }

    /// The facts under which the daemon itself submits a message (a bounce): no peer, no listener.
    pub fn internal() -> SessionFacts {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        SessionFacts::new(Arc::from("internal"), AuthOffer::Off, nowhere, nowhere)
    }
}

/// `auth` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthOffer {
    Off,
    Optional,
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: Arc<str>,
    pub cipher: Arc<str>,
    /// The server name that the client asked for (SNI).
    pub server_name: Option<Arc<str>>,
}

/// Who authenticated, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: Arc<str>,
    /// `PLAIN`, `LOGIN`, `SCRAM-SHA-256`, or `plugin:NAME` when a plugin vouched.
    pub method: Arc<str>,
}

/// What plugins remember of a session or of a transaction, by plugin and key. Bounded by [`Notes::MAX_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl Notes {
    /// The most that all notes of one scope may hold, keys included, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    pub fn get(&self, plugin: &str, key: &str) -> Option<&[u8]> {
        self.0.get(plugin)?.get(key).map(Vec::as_slice)
    }

    /// Writes or (with `None`) removes a note. False, and nothing changed, if that would pass [`Notes::MAX_BYTES`].
    pub fn set(&mut self, plugin: &str, key: &str, value: Option<Vec<u8>>) -> bool {
        let Some(value) = value else {
            if let Some(own) = self.0.get_mut(plugin) {
                own.remove(key);
            }
            return true;
        };
        let replaced = self.get(plugin, key).map_or(0, |old| key.len() + old.len());
        if self.bytes() - replaced + key.len() + value.len() > Notes::MAX_BYTES {
            return false;
        }
        self.0
            .entry(plugin.to_owned())
            .or_default()
            .insert(key.to_owned(), value);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeMap::is_empty)
    }

    fn bytes(&self) -> usize {
        self.0
            .values()
            .flatten()
            .map(|(key, value)| key.len() + value.len())
            .sum()
    }
}

/// The envelope of a transaction or of a queued message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Envelope {
    /// The reverse-path without brackets; empty is the null sender.
    pub sender: String,
    #[serde(default)]
    pub params: MailParams,
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// The same sender and parameters, with nobody to deliver to yet.
    pub fn without_recipients(&self) -> Envelope {
        Envelope {
            sender: self.sender.clone(),
            params: self.params.clone(),
            recipients: Vec::new(),
        }
    }
}

/// The MAIL parameters that travel on (RFC 6152, 6531, 3461).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MailParams {
    /// The size that the client declared, in bytes.
    pub size: Option<u64>,
    /// BODY=8BITMIME was given.
    pub eight_bit: bool,
    pub smtputf8: bool,
    /// RET: `Some(true)` is FULL, `Some(false)` is HDRS.
    pub ret_full: Option<bool>,
    /// ENVID as it was given (xtext).
    pub envid: Option<String>,
}

/// One recipient with its parameters and its fate.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recipient {
    /// The final address, without brackets: `local@domain`, or `postmaster` alone.
    pub address: String,
    /// What the client had said, where a policy rewrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    #[serde(default, skip_serializing_if = "RcptParams::is_default")]
    pub params: RcptParams,
    /// The configured route that a policy chose for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(default)]
    pub status: RecipientStatus,
}

/// The RCPT parameters that travel on (RFC 3461).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RcptParams {
    pub notify: Option<Notify>,
    /// ORCPT as it was given (`rfc822;xtext`).
    pub orcpt: Option<String>,
}

impl RcptParams {
    fn is_default(&self) -> bool {
        *self == RcptParams::default()
    }
}

/// NOTIFY (RFC 3461 §4.1). All false is NEVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

/// How far a recipient of a queued message is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientStatus {
    #[default]
    Pending,
    Delivered {
        /// The next hop's last reply.
        reply: String,
    },
    Failed {
        reply: String,
    },
    /// Dropped by a policy after acceptance.
    Discarded,
}

/// The bytes of a message, from the first header byte to the last CRLF, as they go out (before dot-stuffing).
#[derive(Clone, Debug)]
pub enum Body {
    /// Up to [`Body::MEMORY_LIMIT`] bytes.
    Memory(Bytes),
    /// A file in the spool's folder that holds exactly the message.
    File { path: Arc<std::path::Path>, len: u64 },
}

impl Body {
    /// Larger messages stream to a file while they arrive (bytes).
    pub const MEMORY_LIMIT: usize = 256 * 1024;

    pub fn len(&self) -> u64 {
        match self {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A message that the relay is about to answer for: what the spool makes durable before the 250.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub id: Id,
    pub envelope: Envelope,
    /// The fields that the relay puts on top (Received, and what policies prepended), ending in CRLF; kept apart so that
    /// the body need not be copied to make room for them. What goes out is `head` followed by `body`.
    pub head: Bytes,
    pub body: Body,
    pub origin: Arc<Origin>,
    /// Held (quarantined): the reason. Delivery leaves it alone until it is released.
    pub held: Option<String>,
}

/// Where a queued message came from; on-route, on-delivery and explain read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    pub session: Arc<SessionFacts>,
    /// Notes of the transaction.
    #[serde(default)]
    pub notes: Notes,
    /// Tags that policies gave it, in order.
    #[serde(default)]
    pub tags: Vec<(String, String)>,
    pub received: SystemTime,
}

/// The state of a message in the queue; what `queue show` prints and the spool's records say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueState {
    pub envelope: Envelope,
    pub origin: Arc<Origin>,
    /// Bytes of head and body together.
    pub size: u64,
    #[serde(default)]
    pub held: Option<String>,
    #[serde(default)]
    pub attempts: u32,
    /// Not before this time; `None` is at once.
    #[serde(default)]
    pub next_attempt: Option<SystemTime>,
    /// The last temporary failure, for people.
    #[serde(default)]
    pub last_error: Option<String>,
    /// A delay DSN has been sent (at most one a message).
    #[serde(default)]
    pub delay_notified: bool,
}

impl QueueState {
    /// No recipient waits for an attempt any more.
    pub fn is_finished(&self) -> bool {
        self.envelope
            .recipients
            .iter()
            .all(|rcpt| rcpt.status != RecipientStatus::Pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_read_back() {
        let ids: Vec<Id> = (0..1000).map(|_| Id::new()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        for id in ids {
            assert_eq!(id.to_string().parse::<Id>().as_ref(), Ok(&id));
        }
        assert!("0123".parse::<Id>().is_err());
        assert!("0123456789AB*".parse::<Id>().is_err());
    }

    #[test]
    fn notes_are_bounded() {
        let mut notes = Notes::default();
        assert!(notes.set("a", "k", Some(vec![0; Notes::MAX_BYTES - 1])));
        assert!(!notes.set("b", "k", Some(vec![0; 1])));
        assert!(notes.set("a", "k", Some(vec![1])));
        assert_eq!(notes.get("a", "k"), Some(&[1u8][..]));
        assert_eq!(notes.get("b", "k"), None);
        assert!(notes.set("a", "k", None));
        assert!(notes.is_empty());
    }
}
