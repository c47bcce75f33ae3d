//! The checks against a DNS server of the test's own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::AuthenticationResults;
use mail_auth::arc::ArcSealer;
use mail_auth::common::crypto::Ed25519Key;
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{Canonicalization, DkimSigner};

use super::*;
use crate::dns::testing;
use crate::message::Body;

const PEER: &str = "192.0.2.7";

/// A key pair for one test, and its record.
fn ed25519_key() -> (Ed25519Key, String) {
    let pkcs8 = Ed25519Key::generate_pkcs8().expect("random numbers");
    let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(&pkcs8).expect("just made");
    let record = format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(key.public_key()));
    (key, record)
}

fn signed(key: Ed25519Key, body: Canonicalization, message: &str) -> String {
    let signer = DkimSigner::from_key(key)
        .domain("example.org")
        .selector("s1")
        .headers(["From", "Subject"]);
    let signature = signer
        .body_canonicalization(body)
        .sign(message.as_bytes())
        .expect("a message that can be signed");
    format!("{}{message}", signature.to_header())
}

async fn authenticator(records: &[(&str, &str, &str)]) -> Authenticator {
    Authenticator::new(&testing::resolver_of(records).await, "relay.example.test")
}

fn in_memory(message: impl Into<Bytes>) -> Content {
    Content::new(Body::Memory(message.into()))
}

async fn envelope(authenticator: &Authenticator, ehlo: &str, reverse_path: &str) -> EnvelopeChecks {
    let peer = format!("::ffff:{PEER}").parse().expect("an address");
    let sender = Sender {
        peer,
        ehlo,
        reverse_path,
    };
    authenticator.check_envelope(&sender).await
}

async fn checked(authenticator: &Authenticator, envelope: &EnvelopeChecks, content: &Content) -> Vec<Check> {
    authenticator.check_message(envelope, content).await.checks
}

/// Method, status and subject of the checks that have this method.
fn of(checks: &[Check], method: Method) -> Vec<(Status, &str, &str)> {
    let of_method = checks.iter().filter(|check| check.method == method);
    of_method
        .map(|check| (check.status, &*check.subject, &*check.detail))
        .collect()
}

#[tokio::test]
async fn the_envelope_is_checked_by_spf() {
    let authenticator = authenticator(&[
        ("pass.example", "TXT", "v=spf1 ip4:192.0.2.0/24 -all"),
        ("fail.example", "TXT", "v=spf1 -all exp=why.example"),
        ("why.example", "TXT", "%{i} may not"),
        ("soft.example", "TXT", "v=spf1 ~all"),
        ("neutral.example", "TXT", "v=spf1 ?all"),
        ("broken.example", "TXT", "v=spf1 nonsense:"),
        ("loop.example", "TXT", "v=spf1 include:loop.example -all"),
        ("silent.example", "TXT", "v=spf1 include:servfail.example -all"),
        ("other.example", "TXT", "not spf"),
        ("two.example", "TXT", "v=spf1 +all"),
        ("two.example", "TXT", "V=SPF1 -all"),
        ("beside.example", "TXT", "v=spf1 nonsense:"),
        ("beside.example", "TXT", "v=spf10 +all"),
        ("more.example", "TXT", "something else"),
        ("more.example", "TXT", "v=spf1 ip4:192.0.2.7"),
    ])
    .await;
    for (reverse_path, ehlo, status, subject) in [
        ("a@pass.example", "ehlo.example", Status::Pass, "pass.example"),
        ("", "pass.example", Status::Pass, "pass.example"),
        ("", "ehlo.example", Status::None, "ehlo.example"),
        ("a@fail.example", "ehlo.example", Status::Fail, "fail.example"),
        ("a@soft.example", "ehlo.example", Status::SoftFail, "soft.example"),
        ("a@neutral.example", "ehlo.example", Status::Neutral, "neutral.example"),
        ("a@broken.example", "ehlo.example", Status::PermError, "broken.example"),
        ("a@loop.example", "ehlo.example", Status::PermError, "loop.example"),
        ("a@other.example", "ehlo.example", Status::None, "other.example"),
        ("a@two.example", "ehlo.example", Status::PermError, "two.example"),
        ("a@beside.example", "ehlo.example", Status::PermError, "beside.example"),
        ("a@more.example", "ehlo.example", Status::Pass, "more.example"),
        ("a@absent.example", "ehlo.example", Status::None, "absent.example"),
        (
            "a@servfail.example",
            "ehlo.example",
            Status::TempError,
            "servfail.example",
        ),
        ("a@", "ehlo.example", Status::None, ""),
        ("a@b\r\nc", "[192.0.2.7]", Status::None, "b  c"),
        ("", "", Status::None, ""),
    ] {
        let found = envelope(&authenticator, ehlo, reverse_path).await;
        let [(found_status, found_subject, detail)] = of(found.checks(), Method::Spf)[..] else {
            panic!("one check of SPF")
        };
        assert_eq!(
            (found_status, found_subject),
            (status, subject),
            "{reverse_path:?} {ehlo:?}"
        );
        assert_eq!(
            detail,
            if subject == "fail.example" {
                "192.0.2.7 may not"
            } else {
                ""
            }
        );
    }
}

#[tokio::test]
async fn the_peer_is_checked_by_its_reverse_name() {
    let reverse = "7.2.0.192.in-addr.arpa";
    for (records, status, detail) in [
        (
            vec![(reverse, "PTR", "Host.example"), ("host.example", "A", PEER)],
            Status::Pass,
            "host.example",
        ),
        (
            vec![(reverse, "PTR", "host.example"), ("host.example", "A", "192.0.2.8")],
            Status::Fail,
            "host.example does not lead back to the address",
        ),
        (vec![], Status::PermError, "the address has no name"),
        (
            vec![(reverse, "PTR", "servfail.example")],
            Status::TempError,
            "DNS error: error response: Server Failure",
        ),
    ] {
        let authenticator = authenticator(&records).await;
        let found = envelope(&authenticator, "ehlo.example", "").await;
        assert_eq!(of(found.checks(), Method::Iprev), [(status, PEER, detail)]);
    }
}

const LETTER: &str =
    "From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: hello\r\n\r\nHello,  \r\n world\r\n\r\n\r\n";

#[tokio::test]
async fn signatures_are_verified_and_aligned() {
    let (key, record) = ed25519_key();
    let message = signed(key, Canonicalization::Relaxed, LETTER);
    let records = [
        ("s1._domainkey.example.org", "TXT", &*record),
        ("_dmarc.example.org", "TXT", "v=DMARC1; p=reject"),
    ];
    let authenticator = authenticator(&records).await;
    let envelope = envelope(&authenticator, "ehlo.example", "bounce@other.example").await;
    let check = async |message: String| checked(&authenticator, &envelope, &in_memory(message)).await;

    let found = check(message.clone()).await;
    assert_eq!(found[..2], *envelope.checks());
    assert_eq!(of(&found, Method::Dkim), [(Status::Pass, "example.org", "selector s1")]);
    assert_eq!(
        of(&found, Method::Dmarc),
        [(Status::Pass, "example.org", "policy reject")]
    );
    assert_eq!(of(&found, Method::Arc), [(Status::None, "", "")]);

    let found = check(message.replace("world", "w0rld")).await;
    let broken = "selector s1: Calculated body hash does not match signature hash";
    assert_eq!(of(&found, Method::Dkim), [(Status::Fail, "example.org", broken)]);
    assert_eq!(
        of(&found, Method::Dmarc),
        [(Status::Fail, "example.org", "policy reject")]
    );

    let found = check(message.replace("Subject: hello", "Subject: hell0")).await;
    let altered = "selector s1: the signature does not match";
    assert_eq!(of(&found, Method::Dkim), [(Status::Fail, "example.org", altered)]);

    let found = check(message.replace("s=s1", "s=absent")).await;
    assert_eq!(of(&found, Method::Dkim)[0].0, Status::PermError);
    let found = check(message.replace("s=s1", "s=servfail")).await;
    assert_eq!(of(&found, Method::Dkim)[0].0, Status::TempError);

    let found = check(LETTER.to_owned()).await;
    assert_eq!(
        of(&found, Method::Dkim),
        [(Status::None, "", "the message is not signed")]
    );
    assert_eq!(
        of(&found, Method::Dmarc),
        [(Status::Fail, "example.org", "policy reject")]
    );
    let found = check(LETTER.replace("example.org", "other.example")).await;
    assert_eq!(of(&found, Method::Dmarc), [(Status::None, "other.example", "")]);
    let found = check(LETTER.replace("example.org", "servfail.example")).await;
    assert_eq!(of(&found, Method::Dmarc), [(Status::TempError, "servfail.example", "")]);
}

#[tokio::test]
async fn a_large_body_is_hashed_in_pieces_to_the_same_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let large = format!(
        "{LETTER}{}\r\nend \t\r\n\r\n",
        "line of text \t with blanks  \r\n\r\n".repeat(30_000)
    );
    assert!(large.len() > 3 * READ_BYTES_MAX as usize);
    for canonicalization in [Canonicalization::Simple, Canonicalization::Relaxed] {
        let (key, record) = ed25519_key();
        let authenticator = authenticator(&[("s1._domainkey.example.org", "TXT", &record)]).await;
        let envelope = envelope(&authenticator, "ehlo.example", "").await;
        let message = signed(key, canonicalization, &large);
        let mut tampered = message.clone().into_bytes();
        let middle = tampered.len() / 2;
        tampered[middle] ^= 1;
        for (bytes, expected) in [(message.into_bytes(), Status::Pass), (tampered, Status::Fail)] {
            let path = folder.path().join("body");
            std::fs::write(&path, &bytes).expect("a writable folder");
            let content = Content::new(Body::File {
                path: path.into(),
                len: bytes.len() as u64,
            });
            let found = checked(&authenticator, &envelope, &content).await;
            assert_eq!(of(&found, Method::Dkim)[0].0, expected, "{canonicalization:?}");
        }
    }
}

#[tokio::test]
async fn arc_chains_are_bounded() {
    let (key, record) = ed25519_key();
    let authenticator = authenticator(&[("a1._domainkey.list.example", "TXT", &record)]).await;
    let message = sealed(&authenticator, key, "list.example", "none", LETTER).await;
    let set = message.strip_suffix(LETTER).expect("the set is on top");
    let envelope = envelope(&authenticator, "ehlo.example", "").await;
    let many = format!("{}{LETTER}", set.repeat(ARC_SETS_MAX + 1));
    let found = checked(&authenticator, &envelope, &in_memory(many)).await;
    assert_eq!(of(&found, Method::Arc), [(Status::Fail, "", "too many sets")]);
}

/// A DMARC record and how it is found, and what becomes of a message of nobody who may send it.
#[tokio::test]
async fn the_authors_domain_says_what_it_asks_for() {
    let authenticator = authenticator(&[
        ("_dmarc.own.example", "TXT", "v=DMARC1; p=reject; pct=30"),
        ("_dmarc.above.example", "TXT", "v=DMARC1; p=reject; sp=quarantine"),
        ("deep.above.example", "A", PEER),
        ("_dmarc.np.example", "TXT", "v=DMARC1; p=none; np=reject"),
        ("is.np.example", "A", PEER),
        ("_dmarc.test.example", "TXT", "v=DMARC1; p=reject; t=y"),
        ("_dmarc.odd.example", "TXT", "v=DMARC1; p=quarantine; pct=1000"),
        ("_dmarc.two.example", "TXT", "v=DMARC1; p=reject"),
        ("_dmarc.two.example", "TXT", "v=DMARC1; p=none"),
        ("_dmarc.beside.example", "TXT", "v=spf1 -all"),
        ("_dmarc.beside.example", "TXT", "v=DMARC1;p=reject"),
        ("_dmarc.nop.example", "TXT", "v=DMARC1; sp=reject"),
        ("_dmarc.xn--bcher-kva.example", "TXT", "v=DMARC1; p=reject"),
    ])
    .await;
    let envelope = envelope(&authenticator, "ehlo.example", "").await;
    let asks = |domain: &str, request, percent| {
        let domain = domain.to_owned();
        Some(AuthorPolicy {
            domain,
            request,
            percent,
        })
    };
    for (author, status, policy) in [
        ("a@own.example", Status::Fail, asks("own.example", Request::Reject, 30)),
        ("a@OWN.Example", Status::Fail, asks("own.example", Request::Reject, 30)),
        (
            "a@Bücher.example",
            Status::Fail,
            asks("xn--bcher-kva.example", Request::Reject, 100),
        ),
        (
            "a@deep.above.example",
            Status::Fail,
            asks("above.example", Request::Quarantine, 100),
        ),
        ("a@is.np.example", Status::Fail, asks("np.example", Request::None, 100)),
        (
            "a@not.np.example",
            Status::Fail,
            asks("np.example", Request::Reject, 100),
        ),
        (
            "a@test.example",
            Status::Fail,
            asks("test.example", Request::Quarantine, 100),
        ),
        (
            "a@odd.example",
            Status::Fail,
            asks("odd.example", Request::Quarantine, 100),
        ),
        ("a@two.example", Status::None, None),
        (
            "a@beside.example",
            Status::Fail,
            asks("beside.example", Request::Reject, 100),
        ),
        ("a@nop.example", Status::None, None),
        ("a@nowhere.example", Status::None, None),
        ("a@servfail.example", Status::TempError, None),
        ("a@own.example, b@nowhere.example", Status::None, None),
    ] {
        let letter = format!("From: {author}\r\nTo: bob@example.net\r\n\r\nhello\r\n");
        let found = authenticator.check_message(&envelope, &in_memory(letter)).await;
        assert_eq!(of(&found.checks, Method::Dmarc)[0].0, status, "{author}");
        assert_eq!(found.author_policy, policy, "{author}");
    }
}

/// Adds the ARC set of a hop that found this out, as it got the message.
async fn sealed(authenticator: &Authenticator, key: Ed25519Key, domain: &str, found: &str, message: &str) -> String {
    let parsed = AuthenticatedMessage::parse(message.as_bytes()).expect("it has a header");
    let chain = authenticator.mail_auth.verify_arc(&parsed).await;
    let found = format!("{domain}; {found}");
    let results = AuthenticationResults::new(&found);
    let sealer = ArcSealer::from_key(key)
        .domain(domain)
        .selector("a1")
        .headers(["From", "Subject"]);
    let set = sealer.seal(&parsed, &results, &chain).expect("it can be sealed");
    format!("{}{message}", set.to_header())
}

#[tokio::test]
async fn a_chain_of_two_hops_says_what_each_had_found() {
    let ((one, one_record), (two, two_record)) = (ed25519_key(), ed25519_key());
    let authenticator = authenticator(&[
        ("a1._domainkey.list.example", "TXT", &one_record),
        ("a1._domainkey.forwarder.example", "TXT", &two_record),
    ])
    .await;
    let first = sealed(
        &authenticator,
        one,
        "list.example",
        "dmarc=pass header.from=example.org",
        LETTER,
    )
    .await;
    let second = sealed(&authenticator, two, "forwarder.example", "dmarc=fail; arc=pass", &first).await;
    let envelope = envelope(&authenticator, "ehlo.example", "").await;
    let check = async |message: String| authenticator.check_message(&envelope, &in_memory(message)).await;

    let found = check(second.clone()).await;
    assert_eq!(
        of(&found.checks, Method::Arc),
        [(Status::Pass, "forwarder.example", "")]
    );
    let sets: Vec<(&str, String)> = found
        .arc_sets
        .iter()
        .map(|set| (&*set.sealer, String::from_utf8_lossy(&set.results).into_owned()))
        .collect();
    assert_eq!(
        sets,
        [
            (
                "list.example",
                "i=1; list.example; dmarc=pass header.from=example.org".to_owned()
            ),
            (
                "forwarder.example",
                "i=2; forwarder.example; dmarc=fail; arc=pass".to_owned()
            ),
        ]
    );
    for (what, forged) in [
        ("the body", second.replace("world", "w0rld")),
        (
            "what the first hop found",
            second.replace("header.from=example.org", "header.from=forged.example"),
        ),
        ("a set that is missing", second.replacen("ARC-Seal", "X-Seal", 1)),
    ] {
        assert_ne!(forged, second);
        let found = check(forged).await;
        assert_eq!(of(&found.checks, Method::Arc)[0].0, Status::Fail, "{what}");
        assert_eq!(found.arc_sets, [], "{what}");
    }
}

#[tokio::test]
async fn hostile_messages_are_bounded_and_harmless() {
    let (key, record) = ed25519_key();
    let authenticator = authenticator(&[("s1._domainkey.example.org", "TXT", &record)]).await;
    let envelope = envelope(&authenticator, "ehlo.example", "").await;
    let message = signed(key, Canonicalization::Simple, LETTER);
    let signature = message.strip_suffix(LETTER).expect("the signature is on top");
    let many = format!("{}{LETTER}", signature.repeat(100));
    let found = checked(&authenticator, &envelope, &in_memory(many)).await;
    assert_eq!(of(&found, Method::Dkim).len(), SIGNATURES_MAX);
    let many = format!("{}{LETTER}", "DKIM-Signature: v=9; nonsense\r\n".repeat(100));
    let found = checked(&authenticator, &envelope, &in_memory(many)).await;
    assert!(of(&found, Method::Dkim).len() <= SIGNATURES_MAX);

    // Tens of thousands of fields, each of them named: would be searched for in minutes.
    let names: String = (0..20_000).map(|number| format!("{number:x}:")).collect();
    let heavy = format!(
        "{}{}\r\n{LETTER}",
        signature.replacen("From", &format!("{names}From"), 1).trim_end(),
        "\r\nA:".repeat(20_000)
    );
    let found = checked(&authenticator, &envelope, &in_memory(heavy)).await;
    assert_eq!(
        of(&found, Method::Dkim),
        [(Status::PermError, "example.org", TOO_MANY_FIELDS)]
    );

    let malformed = "DKIM-Signature: v=1; a=rsa-sha256; d=x; s=x; h=From; bh=*; b=*\r\n";
    let found = checked(&authenticator, &envelope, &in_memory(format!("{malformed}{LETTER}"))).await;
    assert_eq!(
        of(&found, Method::Dkim),
        [(Status::PermError, "", "Base64 encode or decode error.")]
    );

    let odd = [
        "",
        "\r\n",
        "no header at all",
        "From:\r\n\r\n",
        "From: a@b, c@d\r\n\r\n",
        "From: <@>\r\nDKIM-Signature:\r\nARC-Seal: i=1\r\nARC-Message-Signature: i=\r\n\r\n",
        "From: =?utf-8?Q?=00?= <a@\u{fc}.example>\r\nDKIM-Signature: v=1; a=rsa-sha256; d=; s=; b=; bh=; h=\r\n\r\n",
        "DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=s1; b=AA==; bh=AA==; h=From; l=99999999999999999999\r\nFrom: a@b\r\n\r\n",
    ];
    let cut = (0..message.len()).step_by(7).map(|at| &message[..at]);
    for bytes in odd.into_iter().chain(cut) {
        let found = checked(&authenticator, &envelope, &in_memory(bytes.to_owned())).await;
        for method in [Method::Spf, Method::Iprev, Method::Dkim, Method::Dmarc, Method::Arc] {
            assert!(!of(&found, method).is_empty(), "{bytes:?}");
        }
        assert!(
            of(&found, Method::Dkim)
                .iter()
                .all(|(status, ..)| *status != Status::Pass || bytes.len() > signature.len())
        );
        assert!(found.iter().all(|check| !check.detail.contains(OUR_FAULT)), "{bytes:?}");
    }
    let gone = Content::new(Body::File {
        path: std::path::Path::new("/nonexistent/body").into(),
        len: 1_000_000,
    });
    let found = checked(&authenticator, &envelope, &gone).await;
    assert_eq!(of(&found, Method::Dkim), [(Status::TempError, "", OUR_FAULT)]);
}
