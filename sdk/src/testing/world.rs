//! What stands behind the interface while a scripted hook runs: the facts that a test set, and what the policy left behind.
//!
//! It lives in a thread-local for the time of one hook call, because the interface's functions have no argument by which they could find it. Bounds
//! are the daemon's, so that a policy that meets them here meets them there.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::state::Store;
use crate::authentication::{ArcSet, Check, DmarcPolicy};
use crate::dns::{DnsError, ListQuery, Query, RecordType};
use crate::endpoint::{EndpointError, Request, Response};
use crate::log::Level;
use crate::notes::Scope;
use crate::state::StateError;
use crate::types::{AuthOffer, Envelope, Identity, Listener, Parameter, PastAnswer, Peer, Tls};

/// Log lines of one call, and bytes of a line.
const MOST_LOG_LINES: usize = 100;
const MOST_LOG_LINE_BYTES: usize = 4 * 1024;
/// Bytes of all notes of a scope, keys included.
const MOST_NOTE_BYTES: usize = 64 * 1024;
/// Bytes of a counter's name, and names of a plugin.
const MOST_NAME_BYTES: usize = 64;
const MOST_NAMES: usize = 100;
/// Bytes of one read of the message.
const MOST_READ_BYTES: usize = 256 * 1024;
/// Values of one header name.
const MOST_VALUES: usize = 1_000;
/// Bytes of one read of a connection.
const MOST_CONNECTION_BYTES: usize = 64 * 1024;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static DECLINED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Those that the policy has which is being made.
    static ENDPOINTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The policy that is being made does not want this hook.
pub(crate) fn decline(hook: &str) {
    let in_a_hook = WORLD.with_borrow(Option::is_some);
    assert!(
        !in_a_hook,
        "hooks are declined where the policy is made, and this is a hook"
    );
    DECLINED.with_borrow_mut(|declined| declined.push(hook.to_owned()));
}

/// What was declined since the last look.
pub(super) fn take_declined() -> Vec<String> {
    DECLINED.take()
}

/// The endpoints of the policy that is being made, or of the script whose hook runs.
pub(crate) fn endpoint_names() -> Vec<String> {
    let of_hook = WORLD.with_borrow(|world| world.as_ref().map(|world| world.endpoints.keys().cloned().collect()));
    of_hook.unwrap_or_else(|| ENDPOINTS.with_borrow(Clone::clone))
}

/// Makes a policy that has these endpoints.
pub(super) fn make<R>(endpoints: &[&str], new: impl FnOnce() -> R) -> R {
    ENDPOINTS.set(endpoints.iter().map(ToString::to_string).collect());
    let made = new();
    ENDPOINTS.take();
    made
}

/// Answers one call of the policy into the host.
pub(crate) fn with<R>(answer: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|world| match world {
        Some(world) => answer(world),
        None => panic!("there is no session here: only a hook may call the host (see gatepost_sdk::testing::Script)"),
    })
}

/// Runs a hook in this world. If it panics, the world is gone, and so is the test.
pub(super) fn run<R>(world: &mut World, hook: impl FnOnce() -> R) -> R {
    world.lines_of_call = 0;
    WORLD.set(Some(std::mem::take(world)));
    let result = hook();
    *world = WORLD.take().expect("nobody else takes it");
    result
}

/// Everything that a policy can ask for.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub session_id: String,
    pub hostname: String,
    pub listener: Listener,
    pub peer: Peer,
    pub reverse_name: Option<String>,
    pub tls: Option<Tls>,
    pub ehlo_name: Option<String>,
    pub identity: Option<Identity>,
    pub envelope: Option<Envelope>,
    pub our_domains: Vec<String>,
    pub earlier: Vec<PastAnswer>,
    pub mailbox: String,
    /// Of the next MAIL and RCPT.
    pub parameters: Vec<Parameter>,
    pub content: Option<Content>,
    pub login: Option<Login>,
    pub users: BTreeMap<String, String>,
    pub now_ms: u64,
    pub random: VecDeque<u64>,
    pub drawn: u64,
    pub log: Vec<(Level, String)>,
    lines_of_call: usize,
    pub counters: BTreeMap<String, u64>,
    /// By whether of the session, plugin (empty: its own) and key.
    pub notes: BTreeMap<(bool, String, String), Vec<u8>>,
    pub store: Store,
    pub store_fails: Option<String>,
    pub records: BTreeMap<(u8, String), Result<Vec<String>, DnsError>>,
    pub listings: BTreeMap<(String, String), Result<Vec<String>, DnsError>>,
    pub asked: Vec<String>,
    pub checks: Vec<Check>,
    pub author_policy: Option<DmarcPolicy>,
    pub arc_sets: Vec<ArcSet>,
    /// Domain and selector.
    pub signing_keys: Vec<(String, String)>,
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            session_id: "0000000000001".to_owned(),
            hostname: "relay.test".to_owned(),
            listener: Listener {
                name: "mx".to_owned(),
                auth: AuthOffer::Optional,
            },
            peer: Peer {
                address: "192.0.2.1".to_owned(),
                port: 40_000,
                trusted: false,
                proxied: false,
            },
            reverse_name: None,
            tls: None,
            ehlo_name: Some("client.test".to_owned()),
            identity: None,
            envelope: None,
            our_domains: vec!["ours.test".to_owned()],
            earlier: Vec::new(),
            mailbox: String::new(),
            parameters: Vec::new(),
            content: None,
            login: None,
            users: BTreeMap::new(),
            now_ms: super::START_MS,
            random: VecDeque::new(),
            drawn: 0,
            log: Vec::new(),
            lines_of_call: 0,
            counters: BTreeMap::new(),
            notes: BTreeMap::new(),
            store: Store::default(),
            store_fails: None,
            records: BTreeMap::new(),
            listings: BTreeMap::new(),
            asked: Vec::new(),
            checks: Vec::new(),
            author_policy: None,
            arc_sets: Vec::new(),
            signing_keys: Vec::new(),
            endpoints: BTreeMap::new(),
        }
    }
}

/// What a client offered.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub mechanism: String,
    pub user: String,
    pub password: String,
}

impl World {
    pub fn selectors(&self, domain: &str) -> Vec<String> {
        let domain = domain.trim_end_matches('.');
        let of_domain = |(owner, _): &&(String, String)| owner.eq_ignore_ascii_case(domain);
        let keys = self.signing_keys.iter().filter(of_domain);
        keys.map(|(_, selector)| selector.clone()).collect()
    }

    pub fn content(&self) -> &Content {
        self.content.as_ref().expect("the hook has no message")
    }

    pub fn login(&self) -> &Login {
        self.login.as_ref().expect("the hook has no login")
    }

    pub fn is_our_domain(&self, domain: &str) -> bool {
        let domain = plain(domain);
        self.our_domains.iter().any(|ours| plain(ours) == domain)
    }

    pub fn senders(&self, identity: &str) -> Vec<String> {
        if identity.contains('@') {
            return vec![identity.to_owned()];
        }
        self.our_domains
            .iter()
            .map(|domain| format!("{identity}@{domain}"))
            .collect()
    }

    pub fn log(&mut self, level: Level, message: &str) {
        self.lines_of_call += 1;
        if self.lines_of_call <= MOST_LOG_LINES {
            let end = (0..=message.len().min(MOST_LOG_LINE_BYTES))
                .rev()
                .find(|end| message.is_char_boundary(*end));
            self.log.push((level, message[..end.unwrap_or(0)].to_owned()));
        }
    }

    /// The numbers that the test set; behind them, numbers that look random and are the same in every run (splitmix64).
    pub fn random(&mut self) -> u64 {
        self.random.pop_front().unwrap_or_else(|| {
            self.drawn += 1;
            let mut number = self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            number ^ (number >> 31)
        })
    }

    pub fn count(&mut self, name: &str, by: u64) {
        let is_name = (1..=MOST_NAME_BYTES).contains(&name.len())
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if is_name && (self.counters.len() < MOST_NAMES || self.counters.contains_key(name)) {
            let counter = self.counters.entry(name.to_owned()).or_default();
            *counter = counter.saturating_add(by);
        }
    }

    pub fn note(&self, scope: Scope, plugin: &str, key: &str) -> Option<Vec<u8>> {
        self.notes.get(&note_key(scope, plugin, key)).cloned()
    }

    pub fn set_note(&mut self, scope: Scope, plugin: &str, key: &str, value: Option<&[u8]>) -> bool {
        if scope == Scope::Transaction && self.envelope.is_none() {
            return false;
        }
        let note = note_key(scope, plugin, key);
        let Some(value) = value else {
            self.notes.remove(&note);
            return true;
        };
        let others = self
            .notes
            .iter()
            .filter(|(other, _)| other.0 == note.0 && **other != note);
        let held: usize = others.map(|(other, value)| other.2.len() + value.len()).sum();
        let fits = held + key.len() + value.len() <= MOST_NOTE_BYTES;
        if fits {
            self.notes.insert(note, value.to_vec());
        }
        fits
    }

    /// Ends the transaction and what belonged to it.
    pub fn end_transaction(&mut self) {
        self.envelope = None;
        self.content = None;
        self.notes.retain(|(of_session, _, _), _| *of_session);
    }

    pub fn state(&mut self) -> Result<&mut Store, StateError> {
        if let Some(why) = &self.store_fails {
            return Err(StateError::Unavailable(why.clone()));
        }
        self.store.now_ms = self.now_ms;
        Ok(&mut self.store)
    }

    pub fn looked_up(&mut self, query: &Query) -> Result<Vec<String>, DnsError> {
        self.asked.push(query.name.clone());
        let known = self.records.get(&(query.kind as u8, plain(&query.name)));
        known.cloned().unwrap_or(Ok(Vec::new()))
    }

    pub fn listed(&mut self, query: &ListQuery) -> Result<Vec<String>, DnsError> {
        self.asked.push(query.zone.clone());
        let known = self.listings.get(&(plain(&query.zone), plain(&query.subject)));
        known.cloned().unwrap_or(Ok(Vec::new()))
    }

    pub fn set_records(&mut self, name: &str, kind: RecordType, answer: Result<Vec<String>, DnsError>) {
        self.records.insert((kind as u8, plain(name)), answer);
    }

    pub fn set_listing(&mut self, zone: &str, subject: &str, answer: Result<Vec<String>, DnsError>) {
        self.listings.insert((plain(zone), plain(subject)), answer);
    }

    pub fn endpoint(&mut self, name: &str) -> Result<&mut Endpoint, EndpointError> {
        let endpoint = self.endpoints.get_mut(name).ok_or(EndpointError::Unknown)?;
        match &endpoint.fails {
            Some(error) => Err(error.clone()),
            None => Ok(endpoint),
        }
    }
}

fn note_key(scope: Scope, plugin: &str, key: &str) -> (bool, String, String) {
    (scope == Scope::Session, plugin.to_owned(), key.to_owned())
}

/// A name or an address in the form in which they are compared.
fn plain(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// What an endpoint answers, and what was sent to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint {
    pub says: Vec<u8>,
    pub responses: VecDeque<Response>,
    pub written: Vec<u8>,
    pub requests: Vec<Request>,
    pub fails: Option<EndpointError>,
}

impl Endpoint {
    pub fn read(&mut self, most: u32) -> Result<Vec<u8>, EndpointError> {
        let most = (most as usize).min(MOST_CONNECTION_BYTES).min(self.says.len());
        Ok(self.says.drain(..most).collect())
    }

    /// The last response is given again and again.
    pub fn answer(&mut self, request: &Request) -> Result<Response, EndpointError> {
        self.requests.push(request.clone());
        let last = self.responses.len() == 1;
        let response = if last {
            self.responses.front().cloned()
        } else {
            self.responses.pop_front()
        };
        response.ok_or_else(|| EndpointError::Unreachable("the script has no response".to_owned()))
    }
}

/// A message, taken apart only as far as the interface shows it.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub bytes: Vec<u8>,
}

impl Content {
    /// Where each field begins and ends, and where the body begins: behind the empty line, or at the first line that is no field.
    fn header_fields(&self) -> (Vec<(usize, usize)>, usize) {
        let mut fields: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            let end = at
                + rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(rest.len(), |place| place + 1);
            let line = &self.bytes[at..end];
            match fields.last_mut() {
                Some(field) if matches!(line[0], b' ' | b'\t') => field.1 = end,
                _ if matches!(line, b"\r\n" | b"\n") => return (fields, end),
                _ if field_name(line).is_some() => fields.push((at, end)),
                _ => break,
            }
            at = end;
        }
        (fields, at)
    }

    pub fn body_offset(&self) -> usize {
        self.header_fields().1
    }

    pub fn header(&self, name: &str) -> Vec<Vec<u8>> {
        let value = |(start, end): (usize, usize)| {
            let field = &self.bytes[start..end];
            let (found, value) = field_name(field)?;
            let value = value.strip_suffix(b"\n").unwrap_or(value);
            let value = value.strip_suffix(b"\r").unwrap_or(value);
            let value = value.strip_prefix(b" ").unwrap_or(value);
            found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.to_vec())
        };
        self.header_fields()
            .0
            .into_iter()
            .filter_map(value)
            .take(MOST_VALUES)
            .collect()
    }

    pub fn read(&self, offset: u64, length: u32) -> Vec<u8> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let length = (length as usize).min(MOST_READ_BYTES).min(self.bytes.len() - start);
        self.bytes[start..start + length].to_vec()
    }
}

/// A field's name, and what stands behind the colon. None: the line is no field.
fn field_name(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then(|| (name, &line[colon + 1..]))
}
