//! Who sent a message, checked by the host: SPF (RFC 7208) and iprev (RFC 8601 §3) before the content is there, DKIM (RFC 6376), DMARC
//! and ARC (RFC 8617) with it.
//!
//! SPF is `spf`'s, the records of DMARC are `dmarc`'s, all else that of `mail-auth`.
//!
//! The checks report and never decide. They ask the daemon's resolver, whose cache they share; what takes longer than [`TIME_MAX`], or than its caller
//! waits, is given up. Of a hostile message only so much is looked at: the header up to
//! [`HEADER_BYTES_MAX`], [`SIGNATURES_MAX`] signatures. A body is hashed piece by piece, one in a file never in memory as a
//! whole. What goes wrong is a status: a resolver without an answer is [`Status::TempError`], and so is a fault of ours.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail_auth::common::crypto::{HashAlgorithm, HashContext, HashImpl, HashOutput, Sha1, Sha256};
use mail_auth::common::verify::VerifySignature;
use mail_auth::dkim::canonicalize::BodyHasher;
use mail_auth::dkim::{Canonicalization, DkimError};
use mail_auth::dmarc::Policy;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::{
    ArcOutput, AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, Error, MessageAuthenticator,
    Parameters, SpfOutput, SpfResult,
};

use super::content::{Content, READ_BYTES_MAX};
use super::dmarc::Records;
use super::{author, spf};
use crate::dkim::Blanks;
use crate::dns::{Dns, ReverseName};
use crate::work;

/// How long the checks of an envelope, and those of a message, may take each (RFC 7208 §4.6.4 asks for at least 20 seconds).
pub const TIME_MAX: Duration = Duration::from_secs(20);

/// How much of a message is searched for its header, in bytes.
pub const HEADER_BYTES_MAX: u64 = READ_BYTES_MAX as u64;

/// How many DKIM signatures of a message are verified, from the top; each costs a look-up and a computation.
pub const SIGNATURES_MAX: usize = 10;

/// How many ARC sets a message may have to be verified (RFC 8617 §5.2 allows 50; each costs two computations).
pub const ARC_SETS_MAX: usize = 20;

/// How many fields a signature may name: each is searched for in the whole header.
pub const SIGNED_FIELDS_MAX: usize = 200;

/// The longest detail, in bytes: parts of it come from the sender's DNS.
const DETAIL_BYTES_MAX: usize = 500;

/// Verifies. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    mail_auth: MessageAuthenticator,
    dns: Dns,
    hostname: Arc<str>,
}

/// Whom to check before the content is there.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub peer: IpAddr,
    /// As given in EHLO or HELO.
    pub ehlo: &'a str,
    /// The reverse-path without brackets; empty is the null sender, for which the EHLO name is checked (RFC 7208 §2.4).
    pub reverse_path: &'a str,
}

/// What is known before the content; keep it for the transaction.
#[derive(Clone, Debug)]
pub struct EnvelopeChecks {
    checks: Vec<Check>,
    spf: SpfOutput,
}

/// What is known of a message.
#[derive(Clone, Debug)]
pub struct MessageChecks {
    /// Those of the envelope, then one of DKIM for each signature (or one that there is none), DMARC, ARC.
    pub checks: Vec<Check>,
    /// What the author's domain asks for; `None` without a DMARC record.
    pub author_policy: Option<AuthorPolicy>,
    /// The hops of an ARC chain that verified, the oldest first; empty for any other.
    pub arc_sets: Vec<ArcSet>,
}

/// The DMARC record that applies to the author's domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorPolicy {
    /// Whose record it is: the author's domain, or one above it.
    pub domain: String,
    pub request: Request,
    /// `pct` (RFC 7489 §6.3), at most 100.
    pub percent: u8,
}

/// What a domain asks for mail that fails DMARC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    None,
    Quarantine,
    Reject,
}

/// One hop of an ARC chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArcSet {
    /// The domain that sealed it.
    pub sealer: String,
    /// The value of its ARC-Authentication-Results.
    pub results: Vec<u8>,
}

/// The result of one check, as policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub method: Method,
    pub status: Status,
    /// The domain or address that was checked; empty if there is none.
    pub subject: String,
    /// For people; may be empty.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Spf,
    Dkim,
    Dmarc,
    Arc,
    Iprev,
}

/// RFC 8601 §2.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pass,
    Fail,
    SoftFail,
    Neutral,
    None,
    TempError,
    PermError,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Spf => "spf",
            Method::Dkim => "dkim",
            Method::Dmarc => "dmarc",
            Method::Arc => "arc",
            Method::Iprev => "iprev",
        }
    }
}

impl EnvelopeChecks {
    /// SPF, then iprev.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

impl Authenticator {
    /// `hostname` is the relay's own name, also for the macro `r` of SPF (RFC 7208 §7.2).
    pub fn new(dns: &Dns, hostname: &str) -> Authenticator {
        Authenticator {
            mail_auth: MessageAuthenticator(dns.resolver().clone()),
            dns: dns.clone(),
            hostname: Arc::from(hostname),
        }
    }

    /// The relay's own name.
    pub fn hostname(&self) -> &Arc<str> {
        &self.hostname
    }

    /// SPF of the reverse-path (or EHLO name) and iprev.
    pub async fn check_envelope(&self, sender: &Sender<'_>) -> EnvelopeChecks {
        let peer = sender.peer.to_canonical();
        let (ehlo, reverse_path) = (sender.ehlo, sender.reverse_path);
        let both = async { tokio::join!(self.spf(peer, ehlo, reverse_path), self.iprev(peer)) };
        let checks = isolated(Box::pin(both));
        let ((check, spf), iprev) = checks.await.unwrap_or_else(|why| {
            let domain = reverse_path.rsplit_once('@').map_or(ehlo, |(_, domain)| domain);
            let check = Check::new(Method::Spf, Status::TempError, domain, why);
            let spf = (
                check,
                SpfOutput::new(domain.to_owned()).with_result(SpfResult::TempError),
            );
            (
                spf,
                Check::new(Method::Iprev, Status::TempError, &peer.to_string(), why),
            )
        });
        EnvelopeChecks {
            checks: vec![check, iprev],
            spf,
        }
    }

    /// All checks. `content` is best the client's own ([`Content::original`]): edits break signatures.
    pub async fn check_message(&self, envelope: &EnvelopeChecks, content: &Content) -> MessageChecks {
        let content = content.clone();
        let found = isolated(Box::pin(async {
            self.message(content, &envelope.spf).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read a message to check its signatures");
                unknown(OUR_FAULT)
            })
        }));
        let mut found = found.await.unwrap_or_else(unknown);
        found.checks.splice(..0, envelope.checks.iter().cloned());
        found
    }

    /// SPF of the reverse-path's domain, or of the EHLO name; also in the form in which DMARC takes it.
    async fn spf(&self, peer: IpAddr, ehlo: &str, reverse_path: &str) -> (Check, SpfOutput) {
        let (sender, domain) = match reverse_path.rsplit_once('@') {
            Some((_, domain)) => (reverse_path, domain),
            None => (ehlo, ehlo),
        };
        let client = spf::Client {
            address: peer,
            helo: ehlo,
            sender,
            receiver: &self.hostname,
        };
        let found = spf::check(&self.dns, &client, domain).await;
        let (status, result) = match found.outcome {
            spf::Outcome::Pass => (Status::Pass, SpfResult::Pass),
            spf::Outcome::Fail => (Status::Fail, SpfResult::Fail),
            spf::Outcome::SoftFail => (Status::SoftFail, SpfResult::SoftFail),
            spf::Outcome::Neutral => (Status::Neutral, SpfResult::Neutral),
            spf::Outcome::TempError => (Status::TempError, SpfResult::TempError),
            spf::Outcome::PermError => (Status::PermError, SpfResult::PermError),
            spf::Outcome::None => (Status::None, SpfResult::None),
        };
        let check = Check::new(Method::Spf, status, domain, found.explanation.as_deref().unwrap_or(""));
        (check, SpfOutput::new(domain.to_owned()).with_result(result))
    }

    /// RFC 8601 §2.7.3.
    async fn iprev(&self, peer: IpAddr) -> Check {
        let (status, why) = match self.dns.reverse_name(peer).await {
            Ok(ReverseName::Confirmed(name)) => (Status::Pass, name),
            Ok(ReverseName::Unconfirmed(name)) => (Status::Fail, format!("{name} does not lead back to the address")),
            Ok(ReverseName::None) => (Status::PermError, "the address has no name".to_owned()),
            Err(error) => (Status::TempError, error.to_string()),
        };
        Check::new(Method::Iprev, status, &peer.to_string(), &why)
    }

    async fn message(&self, content: Content, spf: &SpfOutput) -> io::Result<MessageChecks> {
        let short = content.size() <= work::SHORT_BYTES_MAX;
        let start = content.clone();
        let Start { header, author } = done(short, move || Start::read(&start)).await?;
        let Some(mut parsed) = AuthenticatedMessage::parse(&header) else {
            let none = |method| Check::new(method, Status::None, "", "the message has no header that can be read");
            return Ok(MessageChecks::without_policy(
                [Method::Dkim, Method::Dmarc, Method::Arc].map(none).to_vec(),
            ));
        };
        if !parsed.body_hashes.is_empty() {
            let hashers: Vec<Hasher> = parsed.body_hashes.iter().map(Hasher::new).collect();
            let body = header.len() as u64;
            let hashes = done(short, move || body_hashes(&content, body, hashers)).await?;
            for ((_, _, _, place), hash) in parsed.body_hashes.iter_mut().zip(hashes) {
                *place = hash;
            }
        }
        parsed.dkim_headers.truncate(SIGNATURES_MAX);
        // Broken signatures are listed as well.
        parsed.errors.truncate(SIGNATURES_MAX);
        let heavy = parsed
            .dkim_headers
            .extract_if(.., |field| field.header.h.len() > SIGNED_FIELDS_MAX);
        let heavy =
            heavy.map(|field| Check::new(Method::Dkim, Status::PermError, field.header.domain(), TOO_MANY_FIELDS));
        let mut checks: Vec<Check> = heavy.collect();
        // The library tells of signatures with a fault in their meaning, not of those that are malformed.
        let malformed = parsed.errors.iter().filter(|field| {
            field.name.trim_ascii().eq_ignore_ascii_case(b"DKIM-Signature") && !matches!(field.header, Error::Dkim(_))
        });
        checks
            .extend(malformed.map(|field| Check::new(Method::Dkim, Status::PermError, "", &field.header.to_string())));
        let dkim = self.mail_auth.verify_dkim(&parsed).await;
        checks.extend(dkim.iter().map(dkim_check));
        if checks.is_empty() {
            checks.push(Check::new(Method::Dkim, Status::None, "", "the message is not signed"));
        }
        let (dmarc, author_policy) = match &author {
            Some(author) => self.dmarc(author, &parsed, &dkim, spf).await,
            None => (Check::new(Method::Dmarc, Status::None, "", NO_AUTHOR), None),
        };
        checks.push(dmarc);
        let (arc, arc_sets) = self.arc(&parsed).await;
        checks.push(arc);
        Ok(MessageChecks {
            checks,
            author_policy,
            arc_sets,
        })
    }

    async fn arc(&self, parsed: &AuthenticatedMessage<'_>) -> (Check, Vec<ArcSet>) {
        if parsed.ams_headers.len() > ARC_SETS_MAX {
            return (Check::new(Method::Arc, Status::Fail, "", "too many sets"), Vec::new());
        }
        if parsed
            .ams_headers
            .iter()
            .any(|field| field.header.h.len() > SIGNED_FIELDS_MAX)
        {
            return (Check::new(Method::Arc, Status::Fail, "", TOO_MANY_FIELDS), Vec::new());
        }
        let found = self.mail_auth.verify_arc(parsed).await;
        let check = arc_check(&found);
        let sets = match check.status {
            Status::Pass => found.sets().iter().map(|set| ArcSet {
                sealer: set.seal.header.d.clone(),
                results: set.results.value.trim_ascii().to_vec(),
            }),
            _ => return (check, Vec::new()),
        };
        (check, sets.collect())
    }

    /// `author`: the domain in From.
    async fn dmarc(
        &self,
        author: &str,
        parsed: &AuthenticatedMessage<'_>,
        dkim: &[DkimOutput<'_>],
        spf: &SpfOutput,
    ) -> (Check, Option<AuthorPolicy>) {
        let parameters = DmarcParameters {
            message: parsed,
            dkim_output: dkim,
            dkim2_output: None,
            rfc5321_mail_from_domain: spf.domain(),
            spf_output: spf,
        };
        let records = Records::of(&self.dns, author).await;
        let found = self
            .mail_auth
            .verify_dmarc(Parameters::new(parameters).with_txt_cache(&records))
            .await;
        if found.domain().to_lowercase() != author {
            // The library reads From by other rules, and is not to check another domain than the one that is shown.
            return (Check::new(Method::Dmarc, Status::None, "", NO_AUTHOR), None);
        }
        let check = dmarc_check(&found);
        let record = found.dmarc_record_cloned();
        let policy = record
            .and_then(|record| records.owner(&record))
            .map(|(domain, percent)| AuthorPolicy {
                domain: domain.to_owned(),
                request: match found.policy() {
                    Policy::None | Policy::Unspecified => Request::None,
                    Policy::Quarantine => Request::Quarantine,
                    Policy::Reject => Request::Reject,
                },
                percent,
            });
        (check, policy)
    }
}

impl MessageChecks {
    fn without_policy(checks: Vec<Check>) -> MessageChecks {
        MessageChecks {
            checks,
            author_policy: None,
            arc_sets: Vec::new(),
        }
    }
}

impl Check {
    fn new(method: Method, status: Status, subject: &str, detail: &str) -> Check {
        let mut end = detail.len().min(DETAIL_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        // Explanations come from strangers' DNS, and details go to logs.
        let clean = |text: &str| {
            text.chars()
                .map(|char| if char.is_control() { ' ' } else { char })
                .collect()
        };
        Check {
            method,
            status,
            subject: clean(subject),
            detail: clean(&detail[..end]),
        }
    }
}

const OUR_FAULT: &str = "the check failed";
const NO_AUTHOR: &str = "From names no domain, or several";
const TOO_MANY_FIELDS: &str = "the signature names too many fields";

fn unknown(why: &str) -> MessageChecks {
    let methods = [Method::Dkim, Method::Dmarc, Method::Arc];
    let checks = methods.map(|method| Check::new(method, Status::TempError, "", why));
    MessageChecks::without_policy(checks.to_vec())
}

/// Runs the checks so that a panic over hostile bytes is their result, and not for longer than they may take. The error is for people.
///
/// They are in a box because they have several kilobytes, which would be copied with each future around them, the guest's call among them.
async fn isolated<T>(checks: Pin<Box<impl Future<Output = T>>>) -> Result<T, &'static str> {
    match tokio::time::timeout(TIME_MAX, work::caught(checks)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => {
            tracing::error!("a check of who sent a message panicked");
            Err(OUR_FAULT)
        }
        Err(_) => Err("the check took too long"),
    }
}

fn dkim_check(dkim: &DkimOutput<'_>) -> Check {
    let (status, why) = dkim_status(dkim.result());
    let (subject, selector) = dkim
        .signature()
        .map_or(("", ""), |signature| (signature.domain(), signature.selector()));
    let selector = if selector.is_empty() {
        String::new()
    } else {
        format!("selector {selector}")
    };
    let detail: Vec<&str> = [&*selector, &*why]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    Check::new(Method::Dkim, status, subject, &detail.join(": "))
}

fn arc_check(arc: &ArcOutput<'_>) -> Check {
    let (status, why) = dkim_status(arc.result());
    let sealer = arc.sets().last().map_or("", |set| set.seal.header.domain());
    // RFC 8617 §4.4 knows of none but these; that DNS had no answer is worth knowing.
    let status = match status {
        Status::Neutral | Status::PermError => Status::Fail,
        status => status,
    };
    Check::new(Method::Arc, status, sealer, &why)
}

fn dkim_status(result: &DkimResult) -> (Status, String) {
    let (status, error) = match result {
        DkimResult::Pass => (Status::Pass, None),
        // RFC 8601 §2.7.1: a signature that was understood and does not fit failed.
        DkimResult::Neutral(error @ Error::Dkim(DkimError::FailedBodyHashMatch)) => (Status::Fail, Some(error)),
        DkimResult::Neutral(error) => (Status::Neutral, Some(error)),
        DkimResult::Fail(error) => (Status::Fail, Some(error)),
        DkimResult::PermError(error) => (Status::PermError, Some(error)),
        DkimResult::TempError(error) => (Status::TempError, Some(error)),
        DkimResult::None => (Status::None, None),
    };
    let why = match error {
        Some(Error::Crypto(_)) => "the signature does not match".to_owned(),
        other => other.map(Error::to_string).unwrap_or_default(),
    };
    (status, why)
}

fn dmarc_check(dmarc: &DmarcOutput) -> Check {
    let status = match dmarc.result() {
        DmarcResult::Pass => Status::Pass,
        DmarcResult::Fail(_) => Status::Fail,
        DmarcResult::TempError(_) => Status::TempError,
        DmarcResult::PermError(_) => Status::PermError,
        DmarcResult::None => Status::None,
    };
    let policy = match (dmarc.dmarc_record(), dmarc.policy()) {
        (None, _) => "",
        (_, Policy::None | Policy::Unspecified) => "policy none",
        (_, Policy::Quarantine) => "policy quarantine",
        (_, Policy::Reject) => "policy reject",
    };
    Check::new(Method::Dmarc, status, dmarc.domain(), policy)
}

/// How a message begins.
struct Start {
    /// The header, and the empty line behind it.
    header: Bytes,
    /// The domain in From.
    author: Option<String>,
}

impl Start {
    /// Blocks while it reads.
    fn read(content: &Content) -> io::Result<Start> {
        let start = content.read(0, READ_BYTES_MAX)?;
        let end = memchr::memmem::find(&start, b"\r\n\r\n").map_or(start.len(), |place| place + 4);
        Ok(Start {
            header: start.slice(..end),
            author: author::domain(&content.header("From")?),
        })
    }
}

/// What the body, which begins there, comes to by each hasher. Blocks while it reads and hashes.
fn body_hashes(content: &Content, mut offset: u64, mut hashers: Vec<Hasher>) -> io::Result<Vec<Vec<u8>>> {
    let mut blanks = Blanks::default();
    while offset < content.size() {
        let part = content.read(offset, READ_BYTES_MAX)?;
        let reduced = blanks.reduced(&part);
        hashers.iter_mut().for_each(|hasher| hasher.write(&part, &reduced));
        offset += part.len() as u64;
    }
    Ok(hashers.into_iter().map(Hasher::finish).collect())
}

/// Where it does not hold up others, and so that a panic over hostile bytes is an error.
async fn done<T: Send + 'static>(short: bool, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    work::done(short, work)
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

/// The hash of a body that comes in pieces.
enum Hasher {
    Sha1(BodyHasher<<Sha1 as HashImpl>::Context>, Canonicalization),
    Sha256(BodyHasher<<Sha256 as HashImpl>::Context>, Canonicalization),
}

impl Hasher {
    fn new((canonicalization, algorithm, length, _): &(Canonicalization, HashAlgorithm, u64, Vec<u8>)) -> Hasher {
        let by = *canonicalization;
        match algorithm {
            HashAlgorithm::Sha1 => Hasher::Sha1(BodyHasher::new(Sha1::hasher(), by, *length), by),
            HashAlgorithm::Sha256 => Hasher::Sha256(BodyHasher::new(Sha256::hasher(), by, *length), by),
        }
    }

    /// `reduced` is the same part with its blanks [reduced](Blanks).
    fn write(&mut self, part: &[u8], reduced: &[u8]) {
        let (Hasher::Sha1(_, by) | Hasher::Sha256(_, by)) = self;
        let part = match by {
            Canonicalization::Relaxed => reduced,
            Canonicalization::Simple => part,
        };
        match self {
            Hasher::Sha1(hasher, _) => hasher.write(part),
            Hasher::Sha256(hasher, _) => hasher.write(part),
        }
    }

    fn finish(self) -> Vec<u8> {
        fn complete(hasher: BodyHasher<impl HashContext>) -> HashOutput {
            hasher.finish().0.complete()
        }
        match self {
            Hasher::Sha1(hasher, _) => complete(hasher),
            Hasher::Sha256(hasher, _) => complete(hasher),
        }
        .as_ref()
        .to_vec()
    }
}

#[cfg(test)]
#[path = "authentication_tests.rs"]
mod tests;
