//! Signing mail (RFC 6376, RFC 8463): the keys of `[[dkim]]`, and the fields that they make.
//!
//! A key is read once, from what the supervisor passed, and never leaves the process: a policy only names domain and selector. What is signed is
//! what is stored and sent, head and body, a body in a file piece by piece. It costs about a millisecond of a processor for RSA, and
//! the time to hash the message, so it happens beside the runtime's threads, [`SIGNERS_MAX`] messages at a time. An Ed25519 signature of a short
//! message takes less time than to have another thread make it.
//!
//! A key that cannot be used is a [`TlsError`] with file and line, a message that cannot be signed a [`SignError`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mail_auth::common::crypto::{Algorithm, DkimKey, Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::{HeaderWriter, Writable};
use mail_auth::dkim::{Canonicalization, DkimSigner, Done};
use rustls::pki_types::PrivateKeyDer;
use tokio::sync::Semaphore;

use crate::config;
use crate::message::Body;
use crate::tls::{self, PemFile, TlsError};
use crate::work;

/// Messages that are signed at the same time; further ones wait.
pub const SIGNERS_MAX: usize = 4;
/// Signatures that one message may get.
pub const SIGNATURES_MAX: usize = 4;
/// Bytes within which a message's header must end.
const HEADER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a file that are hashed at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Fields that are signed once more than they are there, so that nobody can add another (RFC 6376 §8.15): what a reader is shown, and what
/// decides how the body is read.
const OVERSIGNED: [&str; 10] = [
    "From",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// Fields that are signed if they are there (RFC 6376 §5.4.1): who passes a message on may add them. RFC 8058 §4 wants the last two.
const SIGNED: [&str; 7] = [
    "Sender",
    "In-Reply-To",
    "References",
    "List-ID",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

static SIGNERS: Semaphore = Semaphore::const_new(SIGNERS_MAX);

/// The keys of a configuration, by domain. Cheap to clone.
#[derive(Clone, Default)]
pub struct Keys(Arc<BTreeMap<String, Vec<Signer>>>);

/// One key, ready to sign for its domain and selector. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    domain: Arc<str>,
    selector: Arc<str>,
    key: Shared,
}

/// Why a message was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("there is no From field, which must be signed (RFC 6376 §5.4)")]
    NoFrom,
    #[error("the header does not end by an empty line within {HEADER_BYTES_MAX} bytes")]
    NoEnd,
    #[error("cannot read the message: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
}

impl Keys {
    /// Reads the keys of `[[dkim]]`; `files` are in the order of the configuration. The error names file and line.
    pub fn read(config: &[config::Dkim], files: &[PemFile]) -> Result<Keys, TlsError> {
        let mut keys: BTreeMap<String, Vec<Signer>> = BTreeMap::new();
        for (dkim, file) in config.iter().zip(files) {
            keys.entry(dkim.domain.clone()).or_default().push(Signer {
                domain: Arc::from(&*dkim.domain),
                selector: Arc::from(&*dkim.selector),
                key: Shared(Arc::new(key(file)?)),
            });
        }
        Ok(Keys(Arc::new(keys)))
    }

    /// Keys that nobody else has, by domain: for policies under test.
    pub fn made_up(selectors: &BTreeMap<String, Vec<String>>) -> Result<Keys, String> {
        let mut keys = BTreeMap::new();
        for (domain, selectors) in selectors {
            let domain = domain.to_ascii_lowercase();
            let signer = |selector: &String| {
                let made =
                    Ed25519Key::generate_pkcs8().and_then(|der| Ed25519Key::from_pkcs8_maybe_unchecked_der(&der));
                Ok(Signer {
                    domain: Arc::from(&*domain),
                    selector: Arc::from(&**selector),
                    key: Shared(Arc::new(made.map_err(|error| error.to_string())?.into())),
                })
            };
            let signers: Result<Vec<Signer>, String> = selectors.iter().map(signer).collect();
            keys.insert(domain.clone(), signers?);
        }
        Ok(Keys(Arc::new(keys)))
    }

    /// The selectors of this domain's keys, in the order of the configuration. Case and a trailing dot do not matter.
    pub fn selectors(&self, domain: &str) -> impl Iterator<Item = &str> {
        self.of(domain).iter().map(|signer| &*signer.selector)
    }

    /// The key of this domain and selector. The error says which ones there are.
    pub fn signer(&self, domain: &str, selector: &str) -> Result<&Signer, String> {
        let named = |signer: &&Signer| signer.selector.eq_ignore_ascii_case(selector);
        self.of(domain).iter().find(named).ok_or_else(|| {
            let there: Vec<&str> = self.selectors(domain).collect();
            match there.is_empty() {
                true => format!("no [[dkim]] is of the domain {domain:?}"),
                false => format!(
                    "no [[dkim]] of {domain} has the selector {selector:?}; there are: {}",
                    there.join(", ")
                ),
            }
        })
    }

    /// For each key the name and the text of the TXT record that publishes it (RFC 6376 §3.6.1, RFC 8463 §4).
    pub fn records(&self) -> impl Iterator<Item = (String, String)> {
        self.0.values().flatten().map(|signer| {
            let (kind, public) = match &*signer.key.0 {
                DkimKey::Rsa(key) => ("rsa", public_key_info(&key.public_key())),
                DkimKey::Ed25519(key) => ("ed25519", key.public_key()),
            };
            (
                format!("{}._domainkey.{}", signer.selector, signer.domain),
                format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(public)),
            )
        })
    }

    fn of(&self, domain: &str) -> &[Signer] {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        self.0.get(&domain).map_or(&[], Vec::as_slice)
    }
}

/// The fields for a message, whole lines to be put on top of it, one for each signer.
pub async fn sign(signers: Vec<Signer>, head: Bytes, body: Body) -> Result<Bytes, SignError> {
    let is_quick = |signer: &Signer| matches!(*signer.key.0, DkimKey::Ed25519(_));
    let short = body.len() <= work::SHORT_BYTES_MAX && signers.iter().all(is_quick);
    let _place = match short {
        true => None,
        false => Some(SIGNERS.acquire().await.expect("nobody closes it")),
    };
    let signed = work::done(short, move || sign_now(&signers, &head, &body)).await;
    signed.unwrap_or_else(|panicked| Err(SignError::Failed(format!("signing: {panicked}"))))
}

fn sign_now(signers: &[Signer], head: &Bytes, body: &Body) -> Result<Bytes, SignError> {
    let mut pieces = Pieces::of(head, body)?;
    // The header, and with it the beginning of the body.
    let mut start = Vec::with_capacity(PIECE_BYTES);
    let mut end = None;
    while end.is_none() && start.len() < HEADER_BYTES_MAX {
        match pieces.next()? {
            Some(piece) => {
                start.extend_from_slice(piece);
                end = header_end(&start);
            }
            // There is nothing but a header.
            None => end = Some(start.len()),
        }
    }
    let end = end.ok_or(SignError::NoEnd)?;
    let names = names(&start[..end]);
    let has = |name: &&str| names.iter().any(|found| found.eq_ignore_ascii_case(name.as_bytes()));
    if !has(&"From") {
        return Err(SignError::NoFrom);
    }
    // What is named once more than it is there is signed as not being there.
    let fields: Vec<&str> = OVERSIGNED
        .into_iter()
        .chain(OVERSIGNED.into_iter().filter(has))
        .chain(SIGNED.into_iter().filter(has))
        .collect();
    let signers: Vec<_> = signers.iter().map(|signer| signer.of_fields(&fields)).collect();
    let mut streams: Vec<_> = signers.iter().map(DkimSigner::sign_streaming).collect();
    let mut blanks = Blanks::default();
    let body = blanks.reduced(&start[end..]);
    streams.iter_mut().for_each(|stream| {
        stream.write(&start[..end]);
        stream.write(&body);
    });
    while let Some(piece) = pieces.next()? {
        let piece = blanks.reduced(piece);
        streams.iter_mut().for_each(|stream| stream.write(&piece));
    }
    let mut fields = String::new();
    for stream in streams {
        let signature = stream.finish().map_err(|error| SignError::Failed(error.to_string()))?;
        fields += &signature.to_header();
    }
    Ok(Bytes::from(fields))
}

/// What relaxed canonicalisation does to the blanks of a body (RFC 6376 §3.4.4), piece by piece: none at the end of a line, one elsewhere.
///
/// `mail-auth` does the same by itself, but takes lines of nothing but blanks at the end of a body for lines that count, so that nobody else
/// agrees with its hash. What comes out of here has no such lines.
#[derive(Default)]
pub struct Blanks {
    /// There were blanks, and it is not known yet what comes behind them.
    pending: bool,
}

impl Blanks {
    pub fn reduced(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut reduced = Vec::with_capacity(piece.len() + 1);
        let mut rest = piece;
        while let [first, ..] = rest {
            let end = memchr::memchr2(b' ', b'\t', rest).unwrap_or(rest.len());
            if end == 0 {
                self.pending = true;
                rest = &rest[1..];
                continue;
            }
            if self.pending && !matches!(first, b'\r' | b'\n') {
                reduced.push(b' ');
            }
            self.pending = false;
            reduced.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        reduced
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, {})", self.domain, self.selector)
    }
}

impl Signer {
    fn of_fields(&self, fields: &[&str]) -> DkimSigner<Shared, Done> {
        DkimSigner::from_key(self.key.clone())
            .domain(&*self.domain)
            .selector(&*self.selector)
            .headers(fields.iter().copied())
            .header_canonicalization(Canonicalization::Relaxed)
            .body_canonicalization(Canonicalization::Relaxed)
    }
}

/// One key for all that it signs.
#[derive(Clone)]
struct Shared(Arc<DkimKey>);

impl SigningKey for Shared {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        self.0.sign(input)
    }

    fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }
}

fn key(file: &PemFile) -> Result<DkimKey, TlsError> {
    let der = tls::private_key(file)?;
    if let PrivateKeyDer::Pkcs8(der) = &der
        && let Ok(key) = Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der())
    {
        return Ok(key.into());
    }
    let unusable = |_| tls::unusable_key(file, "RSA of 2048 to 4096 bits and Ed25519 can");
    Ok(RsaKey::<Sha256>::from_key_der(der).map_err(unusable)?.into())
}

/// An RSA key in the structure in which it is published (RFC 5280 §4.1, SubjectPublicKeyInfo).
fn public_key_info(key: &[u8]) -> Vec<u8> {
    /// rsaEncryption, without parameters (RFC 8017 §A.1).
    const ALGORITHM: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 3;
    // No bit of the last octet is unused.
    let bits = der(BIT_STRING, &[&[0], key].concat());
    der(SEQUENCE, &[&ALGORITHM[..], &bits].concat())
}

/// A value with its tag and length, for lengths that need two octets: an RSA key of 2048 bits has 270.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = (value.len() as u16).to_be_bytes();
    [&[tag, 0x82, high, low], value].concat()
}

/// Where the empty line behind the header ends.
fn header_end(start: &[u8]) -> Option<usize> {
    memchr::memmem::find(start, b"\r\n\r\n").map(|at| at + 4)
}

/// The names of a header's fields.
fn names(header: &[u8]) -> Vec<&[u8]> {
    let lines = header.split(|byte| *byte == b'\n');
    let named = lines.filter(|line| !line.starts_with(b" ") && !line.starts_with(b"\t"));
    named
        .filter_map(|line| Some(line[..memchr::memchr(b':', line)?].trim_ascii_end()))
        .collect()
}

/// A message from its first byte to its last.
struct Pieces<'a> {
    memory: std::vec::IntoIter<&'a [u8]>,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl<'a> Pieces<'a> {
    fn of(head: &'a Bytes, body: &'a Body) -> io::Result<Pieces<'a>> {
        let (memory, file) = match body {
            Body::Memory(body) => (vec![&head[..], &body[..]], None),
            Body::File { path, .. } => (vec![&head[..]], Some(File::open(path)?)),
        };
        Ok(Pieces {
            memory: memory.into_iter(),
            buffer: vec![0; if file.is_some() { PIECE_BYTES } else { 0 }],
            file,
        })
    }

    /// The next one; none at the end.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if let Some(piece) = self.memory.next() {
            return Ok(Some(piece));
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        let length = file.read(&mut self.buffer)?;
        Ok((length > 0).then(|| &self.buffer[..length]))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use zeroize::Zeroizing;

    use super::*;

    fn pem(name: &str, text: String) -> PemFile {
        PemFile {
            path: PathBuf::from(name),
            bytes: Zeroizing::new(text.into_bytes()),
        }
    }

    fn ed25519() -> PemFile {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        pem("ed.pem", pair.serialize_pem())
    }

    fn named(domain: &str, selector: &str) -> config::Dkim {
        config::Dkim {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            key: PathBuf::new(),
        }
    }

    #[test]
    fn keys_are_found_by_domain_and_selector() {
        let config = [named("a.test", "one"), named("b.test", "one"), named("a.test", "two")];
        let keys = Keys::read(&config, &[ed25519(), ed25519(), ed25519()]).expect("good keys");
        let selectors = |domain| keys.selectors(domain).collect::<Vec<_>>();
        assert_eq!(selectors("A.test."), ["one", "two"]);
        assert_eq!(selectors("c.test"), [""; 0]);
        assert!(keys.signer("a.TEST", "TWO").is_ok());
        for (domain, expected) in [
            (
                "a.test",
                "no [[dkim]] of a.test has the selector \"three\"; there are: one, two",
            ),
            ("c.test", "no [[dkim]] is of the domain \"c.test\""),
        ] {
            assert_eq!(keys.signer(domain, "three").err().as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named_with_its_line() {
        let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let usable = "the private key cannot be used: RSA of 2048 to 4096 bits and Ed25519 can";
        for (text, expected) in [
            (
                format!("# mine\n{}", ecdsa.serialize_pem()),
                format!("k.pem:2: {usable}"),
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
                format!("k.pem:1: {usable}"),
            ),
            (
                "MIIB".to_owned(),
                "k.pem: no private key found: PEM is needed, with a line -----BEGIN PRIVATE KEY-----".to_owned(),
            ),
        ] {
            let error = Keys::read(&[named("a.test", "one")], &[pem("k.pem", text)]).err();
            assert_eq!(error.map(|error| error.to_string()), Some(expected));
        }
    }

    fn signed(signers: &[Signer], head: &str, body: &Body) -> Result<String, SignError> {
        let fields = sign_now(signers, &Bytes::copy_from_slice(head.as_bytes()), body)?;
        Ok(String::from_utf8(fields.to_vec()).expect("ASCII"))
    }

    /// What a signature says of the body, and which fields it signs.
    fn said(field: &str) -> (&str, String) {
        let tag = |name: &str| {
            let rest = &field[field.find(name).expect("the tag") + name.len()..];
            &rest[..rest.find(';').expect("its end")]
        };
        (tag("bh="), tag("h=").split_whitespace().collect())
    }

    #[test]
    fn a_body_in_a_file_is_signed_as_one_in_memory() {
        let keys = Keys::read(&[named("a.test", "one")], &[ed25519()]).expect("a good key");
        let signers = [keys.signer("a.test", "one").expect("there").clone()];
        let head = "Received: from x\r\n";
        let text = format!(
            "Sender: b@a.test\r\nFrom: a@a.test\r\n\r\n{}",
            "line \t \r\n\r\n".repeat(50_000)
        );
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("body");
        std::fs::write(&path, &text).expect("a file");
        let file = Body::File {
            path: path.into(),
            len: text.len() as u64,
        };
        let in_file = signed(&signers, head, &file).expect("signed");
        let in_memory = signed(&signers, head, &Body::Memory(Bytes::from(text))).expect("signed");
        assert_eq!(said(&in_file), said(&in_memory));
        assert!(in_file.starts_with("DKIM-Signature: v=1; a=ed25519-sha256; s=one; d=a.test; c=relaxed/relaxed;"));
        let fields = "From:Sender:Reply-To:To:Cc:Subject:Date:Message-ID:MIME-Version:Content-Type:Content-Transfer-Encoding:From";
        assert_eq!(said(&in_file).1, fields);
    }

    #[test]
    fn blanks_are_reduced_over_the_borders_of_pieces() {
        let text = b"a \t b\t\r\n \t\r\n c  \r\n\r\n \r\n ";
        for at in 0..text.len() {
            let mut blanks = Blanks::default();
            let (one, two) = text.split_at(at);
            let reduced = [blanks.reduced(one), blanks.reduced(two)].concat();
            assert_eq!(reduced, b"a b\r\n\r\n c\r\n\r\n\r\n", "{at}");
        }
    }

    #[test]
    fn what_has_no_author_or_no_end_is_not_signed() {
        let keys = Keys::read(&[named("a.test", "one")], &[ed25519()]).expect("a good key");
        let signers = [keys.signer("a.test", "one").expect("there").clone()];
        let sign = |body: String| signed(&signers, "", &Body::Memory(Bytes::from(body)));
        assert!(sign("From: a@a.test\r\n".to_owned()).is_ok(), "nothing but a header");
        assert!(matches!(
            sign("To: b@b.test\r\n\r\nFrom: x".to_owned()),
            Err(SignError::NoFrom)
        ));
        assert!(matches!(sign(String::new()), Err(SignError::NoFrom)));
        let endless = "X: y\r\n".repeat(HEADER_BYTES_MAX / 6) + "From: a@a.test\r\n\r\n";
        assert!(sign(endless.clone()).is_ok(), "it was read as one piece");
        let gone = Body::File {
            path: std::path::Path::new("/nonexistent/body").into(),
            len: 1,
        };
        assert!(matches!(signed(&signers, "", &gone), Err(SignError::Io(_))));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("body");
        std::fs::write(&path, endless).expect("a file");
        let file = Body::File {
            path: path.into(),
            len: 1,
        };
        assert!(matches!(signed(&signers, "", &file), Err(SignError::NoEnd)));
    }
}
