//! TLS for the listeners: certificates and keys from PEM bytes into a server configuration that can be exchanged while
//! connections run.
//!
//! Never opens a file (except in [`self_signed`], which makes one) and never asks for a client's certificate. A bad file is an error that names it and
//! says what to do, and changes nothing: the certificates in force stay. Connections keep the configuration that they began with; new
//! ones get the new one. TLS 1.2 and 1.3 with rustls' default suites (RFC 9325 §4.2).

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, InconsistentKeys, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::config::{CertificateFiles, TlsVersion};
use crate::message::{TlsFacts, since_epoch};

/// Sessions of TLS 1.2 clients without ticket support that can be resumed; the oldest goes first.
pub const SESSION_CACHE_ENTRIES: usize = 4096;
/// A client that reconnects uses one ticket; each costs the handshake a signature-free but real 300 bytes.
pub const TICKETS_PER_HANDSHAKE: usize = 1;
/// A certificate that ends within this time is worth a warning: most are renewed 30 days before their end.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A PEM file's bytes, and the path that names it in errors. The bytes are wiped when this is dropped.
#[derive(Clone)]
pub struct PemFile {
    pub path: PathBuf,
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemFile({})", self.path.display())
    }
}

/// A certificate chain (the server's own certificate first) and its private key. Both may be in one file.
#[derive(Clone, Debug)]
pub struct CertificatePem {
    pub certificate: PemFile,
    pub key: PemFile,
}

/// What is wrong with a certificate or key; reads `FILE:LINE: what: remedy`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct TlsError {
    pub file: PathBuf,
    /// The first line of the PEM section at fault, where there is one.
    pub line: Option<usize>,
    pub problem: String,
}

/// What a loaded certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub file: PathBuf,
    /// Its DNS names, in lower case.
    pub names: Vec<String>,
    /// Its end, in seconds since 1970; `None` if it cannot be told.
    pub not_after_unix: Option<u64>,
    /// What an administrator should know: it has ended, ends soon, is not valid yet, has no names.
    pub warnings: Vec<String>,
}

/// The TLS configuration of all listeners, exchanged as a whole.
pub struct TlsStore {
    current: RwLock<Arc<ServerConfig>>,
    provider: Arc<CryptoProvider>,
    /// Kept over reloads, so that clients can resume after one.
    ticketer: Arc<dyn ProducesTickets>,
}

/// Certificates that are good, and not yet in force.
pub struct Prepared(Arc<ServerConfig>);

impl TlsStore {
    /// Loads the certificates; the first is for clients that send no name or one that no certificate has.
    pub fn new(certificates: &[CertificatePem], minimum: TlsVersion) -> Result<(Arc<TlsStore>, Vec<Loaded>), TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let ticketer = aws_lc_rs::Ticketer::new().map_err(|error| TlsError {
            file: PathBuf::from("TLS"),
            line: None,
            problem: format!("no key for session tickets: {error}"),
        })?;
        let (config, loaded) = server_config(certificates, minimum, &provider, &ticketer)?;
        Ok((
            Arc::new(TlsStore {
                current: RwLock::new(config),
                provider,
                ticketer,
            }),
            loaded,
        ))
    }

    /// Loads other certificates for this store; nothing changes yet.
    pub fn prepare(
        &self,
        certificates: &[CertificatePem],
        minimum: TlsVersion,
    ) -> Result<(Prepared, Vec<Loaded>), TlsError> {
        let (config, loaded) = server_config(certificates, minimum, &self.provider, &self.ticketer)?;
        Ok((Prepared(config), loaded))
    }

    /// Puts them in force for connections that begin from now on.
    pub fn put(&self, prepared: Prepared) {
        *self.current.write() = prepared.0;
    }

    /// For a handshake that begins now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().clone())
    }
}

/// What a finished handshake agreed on.
pub fn facts(connection: &ServerConnection) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        // Nothing else is configured; before the end of the handshake there is none.
        _ => "unknown",
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or("unknown");
    TlsFacts {
        version: Arc::from(version),
        // IANA's name; rustls writes those of TLS 1.3 with a prefix of its own.
        cipher: Arc::from(cipher.replace("TLS13_", "TLS_")),
        server_name: connection.server_name().map(Arc::from),
    }
}

fn server_config(
    certificates: &[CertificatePem],
    minimum: TlsVersion,
    provider: &Arc<CryptoProvider>,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<(Arc<ServerConfig>, Vec<Loaded>), TlsError> {
    const FROM_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    const FROM_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

    let mut by_name = ByName {
        default: Vec::new(),
        exact: HashMap::new(),
        wildcard: HashMap::new(),
    };
    let mut loaded = Vec::new();
    for (place, pem) in certificates.iter().enumerate() {
        let (key, facts) = load(pem, provider, SystemTime::now())?;
        by_name.add(place == 0, key, &facts.names);
        loaded.push(facts);
    }
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(match minimum {
            TlsVersion::V1_2 => FROM_1_2,
            TlsVersion::V1_3 => FROM_1_3,
        })
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(by_name));
    config.ticketer = ticketer.clone();
    config.session_storage = ServerSessionMemoryCache::new(SESSION_CACHE_ENTRIES);
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    Ok((Arc::new(config), loaded))
}

/// Reads one pair and looks at it as of `now`.
fn load(
    pem: &CertificatePem,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, Loaded), TlsError> {
    let chain = certificates(&pem.certificate)?;
    let key = provider
        .key_provider
        .load_private_key(private_key(&pem.key)?)
        .map_err(|_| {
            unusable_key(
                &pem.key,
                "RSA of 2048 bits and more, ECDSA P-256 and P-384, and Ed25519 can",
            )
        })?;
    let unreadable = |error: &dyn fmt::Display| {
        let line = first_section(&pem.certificate, |label| label == "CERTIFICATE");
        failure(
            &pem.certificate,
            line,
            format!("the first certificate cannot be read: {error}"),
        )
    };
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let certificate = pem.certificate.path.display();
            let problem = format!(
                "this key does not belong to the certificate in {certificate}: put the key that the certificate was issued for"
            );
            return Err(failure(&pem.key, None, problem));
        }
        Err(error) => return Err(unreadable(&error)),
    }
    let own = certified.end_entity_cert().map_err(|error| unreadable(&error))?;
    let names: Vec<String> = webpki::EndEntityCert::try_from(own)
        .map_err(|error| unreadable(&error))?
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect();
    let parsed = ParsedCertificate::try_from(own).map_err(|error| unreadable(&error))?;
    let mut warnings = validity_warnings(&parsed, now);
    if names.is_empty() {
        warnings.push("has no DNS names: no client that checks names will accept it".into());
    }
    let loaded = Loaded {
        file: pem.certificate.path.clone(),
        names,
        not_after_unix: not_after(&parsed),
        warnings,
    };
    Ok((Arc::new(certified), loaded))
}

fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&file.bytes) {
        chain.push(certificate.map_err(|error| pem_failure(file, &error))?);
    }
    if !chain.is_empty() {
        return Ok(chain);
    }
    let problem = if sections(&file.bytes).any(|(_, label)| label.ends_with("PRIVATE KEY")) {
        "holds a private key and no certificate: are `certificate` and `key` exchanged?"
    } else if file.bytes.starts_with(&[0x30]) {
        "no certificate found: this is DER, PEM is needed (openssl x509 -inform der -in FILE -out FILE.pem)"
    } else {
        "no certificate found: PEM is needed, with a line -----BEGIN CERTIFICATE-----"
    };
    Err(failure(file, None, problem))
}

/// The first private key in a file.
pub fn private_key(file: &PemFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    match PrivateKeyDer::from_pem_slice(&file.bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            if let Some(line) = first_section(file, |label| label == "ENCRYPTED PRIVATE KEY") {
                let problem = "the private key is encrypted, and there is nobody to ask for its password: openssl pkey -in FILE -out FILE.plain";
                return Err(failure(file, Some(line), problem));
            }
            let problem = if sections(&file.bytes).any(|(_, label)| label == "CERTIFICATE") {
                "holds a certificate and no private key: are `certificate` and `key` exchanged?"
            } else if file.bytes.starts_with(&[0x30]) {
                "no private key found: this is DER, PEM is needed (openssl pkey -inform der -in FILE -out FILE.pem)"
            } else {
                "no private key found: PEM is needed, with a line -----BEGIN PRIVATE KEY-----"
            };
            Err(failure(file, None, problem))
        }
        Err(error) => Err(pem_failure(file, &error)),
    }
}

/// That the private key in a file is of a kind that cannot be used; `usable` says which can.
pub fn unusable_key(file: &PemFile, usable: &str) -> TlsError {
    let line = first_section(file, |label| label.ends_with("PRIVATE KEY"));
    failure(file, line, format!("the private key cannot be used: {usable}"))
}

fn failure(file: &PemFile, line: Option<usize>, problem: impl Into<String>) -> TlsError {
    TlsError {
        file: file.path.clone(),
        line,
        problem: problem.into(),
    }
}

/// The line of the first section with such a label.
fn first_section(file: &PemFile, fits: impl Fn(&str) -> bool) -> Option<usize> {
    sections(&file.bytes)
        .find(|(_, label)| fits(label))
        .map(|(line, _)| line)
}

/// A PEM syntax error with the line of the section that has it.
fn pem_failure(file: &PemFile, error: &pem::Error) -> TlsError {
    // The sections before the bad one can be read; so the bad one is the first that cannot.
    let good = <(SectionKind, Vec<u8>)>::pem_slice_iter(&file.bytes)
        .take_while(Result::is_ok)
        .count();
    let line = sections(&file.bytes).nth(good).map(|(line, _)| line);
    let problem = match error {
        pem::Error::MissingSectionEnd { .. } => "the section has no end: is the file cut off?".to_owned(),
        pem::Error::IllegalSectionStart { line } => {
            format!("not a PEM line: {:?}", String::from_utf8_lossy(line.trim_ascii()))
        }
        pem::Error::Base64Decode(error) => format!("the section is not base64: {error}"),
        other => other.to_string(),
    };
    failure(file, line, problem)
}

/// The line number and label of each line that begins a PEM section.
fn sections(pem: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    pem.split(|byte| *byte == b'\n')
        .enumerate()
        .filter_map(|(index, line)| {
            let label = std::str::from_utf8(line).ok()?.trim_end().strip_prefix("-----BEGIN ")?;
            Some((index + 1, label.strip_suffix("-----").unwrap_or(label)))
        })
}

/// Far beyond the year 9999, where X.509 times end (RFC 5280 §4.1.2.5).
const AFTER_ALL: Duration = Duration::from_secs(1 << 40);

/// The certificate's state at a time, as the verifier of the clients would see it. An empty root store makes every good
/// certificate one of an unknown issuer; times are looked at before issuers are.
fn judged_at(certificate: &ParsedCertificate<'_>, at: Duration) -> Option<CertificateError> {
    let verdict = rustls::client::verify_server_cert_signed_by_trust_anchor(
        certificate,
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(at),
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
    );
    match verdict {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn not_after(certificate: &ParsedCertificate<'_>) -> Option<u64> {
    match judged_at(certificate, AFTER_ALL) {
        Some(CertificateError::ExpiredContext { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

fn validity_warnings(certificate: &ParsedCertificate<'_>, now: SystemTime) -> Vec<String> {
    let now = since_epoch(now);
    let days = |seconds: u64| seconds / (24 * 60 * 60);
    let warning = match judged_at(certificate, now) {
        Some(CertificateError::ExpiredContext { not_after, .. }) => Some(format!(
            "ended {} days ago: renew it",
            days(now.as_secs().saturating_sub(not_after.as_secs()))
        )),
        Some(CertificateError::NotValidYetContext { not_before, .. }) => Some(format!(
            "is not valid for another {} days: is the clock right?",
            days(not_before.as_secs().saturating_sub(now.as_secs()))
        )),
        _ => not_after(certificate).and_then(|end| {
            let left = end.saturating_sub(now.as_secs());
            (left < EXPIRY_WARNING.as_secs()).then(|| format!("ends in {} days: renew it", days(left)))
        }),
    };
    warning.into_iter().collect()
}

/// The certificates by the names that they are for. Several may have one name (an RSA and an ECDSA one): the client's signature
/// schemes choose.
#[derive(Debug)]
struct ByName {
    /// Those of the first pair's names, the first pair itself in front.
    default: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By the parent name: `*.example.test` under `example.test`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    fn add(&mut self, default: bool, key: Arc<CertifiedKey>, names: &[String]) {
        if default {
            self.default.push(key.clone());
        }
        for name in names {
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.entry(parent.to_owned()).or_default().push(key.clone()),
                None => self.exact.entry(name.clone()).or_default().push(key.clone()),
            }
        }
    }

    /// An exact name first; else a wildcard for exactly one label (RFC 9525 §6.3); else the default.
    fn for_name(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else {
            return &self.default;
        };
        // rustls hands names over as the client wrote them, possibly in capitals.
        let name = name.to_ascii_lowercase();
        self.exact
            .get(&name)
            .or_else(|| self.wildcard.get(name.split_once('.')?.1))
            .unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.for_name(hello.server_name());
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        // Where none is usable, the first gives the client the alert that says so.
        candidates.iter().find(usable).or(candidates.first()).cloned()
    }
}

/// A self-signed certificate for `names` and its key (0600), made if one of the two files is not there; their folders are made as
/// well. For trials: no client that checks names will accept it. True if it was made now.
///
/// Existing files are left as they are, so the certificate stays the same over restarts.
pub fn self_signed(files: &CertificateFiles, names: &[String]) -> io::Result<bool> {
    if fs::symlink_metadata(&files.certificate).is_ok() && fs::symlink_metadata(&files.key).is_ok() {
        return Ok(false);
    }
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    for folder in [&files.key, &files.certificate].iter().filter_map(|file| file.parent()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    write_new(&files.key, 0o600, made.signing_key.serialize_pem().as_bytes())?;
    write_new(&files.certificate, 0o644, made.cert.pem().as_bytes())?;
    Ok(true)
}

/// Whole or not at all, and never through a link that is already there.
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    // A rest of an attempt that was cut off; unlinking follows no link.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests;
