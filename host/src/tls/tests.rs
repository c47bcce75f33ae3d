//! Bad files with their exact errors, and handshakes over loopback.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::*;

fn file(name: &str, bytes: impl Into<Vec<u8>>) -> PemFile {
    PemFile {
        path: PathBuf::from(name),
        bytes: Zeroizing::new(bytes.into()),
    }
}

fn pair(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> CertificatePem {
    CertificatePem {
        certificate: file("cert.pem", certificate),
        key: file("key.pem", key),
    }
}

fn made(names: &[&str]) -> CertificatePem {
    made_until(names, 2020, 2100)
}

fn made_until(names: &[&str], from: i32, to: i32) -> CertificatePem {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    pair(params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn bad_files_say_which_and_where_and_what_to_do() {
    let good = made(&["relay.test"]);
    let (certificate, key) = (good.certificate.bytes.to_vec(), good.key.bytes.to_vec());
    let lines_in = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    let lines = |bytes: &[u8], keep: usize| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.split_inclusive('\n').take(keep).collect::<String>().into_bytes()
    };
    let not_base64 = String::from_utf8(certificate.clone())
        .unwrap()
        .replacen("MII", "M*I", 1);
    let twice = [&certificate[..], not_base64.as_bytes()].concat();
    let second = format!("cert.pem:{}: the section is not base64: ", lines_in(&certificate) + 1);
    let not_der = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let odd_key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let chain_first = [&made(&["ca.test"]).certificate.bytes[..], &certificate].concat();
    for (pem, expected) in [
        (
            pair("", key.clone()),
            "cert.pem: no certificate found: PEM is needed, with a line -----BEGIN CERTIFICATE-----",
        ),
        (
            pair([0x30, 0x82, 1, 1], key.clone()),
            "cert.pem: no certificate found: this is DER, PEM is needed (openssl x509 -inform der -in FILE -out FILE.pem)",
        ),
        (
            pair(key.clone(), certificate.clone()),
            "cert.pem: holds a private key and no certificate: are `certificate` and `key` exchanged?",
        ),
        (
            pair(lines(&certificate, 3), key.clone()),
            "cert.pem:1: the section has no end: is the file cut off?",
        ),
        (pair(twice, key.clone()), &second),
        (
            pair(*not_der, key.clone()),
            "cert.pem:1: the first certificate cannot be read: ",
        ),
        (
            pair(chain_first, key.clone()),
            "key.pem: this key does not belong to the certificate in cert.pem: put the key that the certificate was issued for",
        ),
        (
            pair(certificate.clone(), ""),
            "key.pem: no private key found: PEM is needed, with a line -----BEGIN PRIVATE KEY-----",
        ),
        (
            pair(certificate.clone(), certificate.clone()),
            "key.pem: holds a certificate and no private key: are `certificate` and `key` exchanged?",
        ),
        (
            pair(certificate.clone(), *encrypted),
            "key.pem:1: the private key is encrypted, and there is nobody to ask for its password: openssl pkey -in FILE -out FILE.plain",
        ),
        (
            pair(certificate.clone(), *odd_key),
            "key.pem:1: the private key cannot be used: ",
        ),
        (
            pair(certificate.clone(), lines(&key, 1)),
            "key.pem:1: the section has no end: is the file cut off?",
        ),
    ] {
        let error = TlsStore::new(&[pem], TlsVersion::V1_2)
            .err()
            .expect(expected)
            .to_string();
        assert!(error.starts_with(expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn what_is_loaded_and_what_to_worry_about() {
    let now = date(2026, 6);
    let day = 24 * 60 * 60;
    for (pem, at, names, expected) in [
        (
            made(&["Relay.Test", "*.example.test"]),
            now,
            vec!["relay.test", "*.example.test"],
            vec![],
        ),
        (
            made_until(&["a.test"], 2020, 2026),
            now,
            vec!["a.test"],
            vec!["ended 151 days ago: renew it"],
        ),
        (
            made_until(&["a.test"], 2027, 2028),
            now,
            vec!["a.test"],
            vec!["is not valid for another 214 days: is the clock right?"],
        ),
        (
            made_until(&["a.test"], 2020, 2027),
            date(2027, 1) - Duration::from_secs(10 * day + 60),
            vec!["a.test"],
            vec!["ends in 10 days: renew it"],
        ),
        (
            made(&[]),
            now,
            vec![],
            vec!["has no DNS names: no client that checks names will accept it"],
        ),
    ] {
        let (_, loaded) = load(&pem, &aws_lc_rs::default_provider(), at).unwrap();
        assert_eq!(loaded.names, names);
        assert_eq!(loaded.warnings, expected);
        assert!(loaded.not_after_unix.is_some());
    }
    let (_, loaded) = load(
        &made_until(&["a.test"], 2020, 2027),
        &aws_lc_rs::default_provider(),
        now,
    )
    .unwrap();
    assert_eq!(loaded.not_after_unix, Some(since_epoch(date(2027, 1)).as_secs()));
}

fn date(year: i32, month: u8) -> SystemTime {
    SystemTime::from(date_time_ymd(year, month, 1))
}

/// Takes every certificate, and tells which it was.
#[derive(Debug, Default)]
struct Recorder(parking_lot::Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock() = Some(certificate.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A handshake over a loopback socket: the certificate that the client saw, and the facts of the server's side.
async fn handshake(
    store: &TlsStore,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<(CertificateDer<'static>, TlsFacts)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let recorder = Arc::new(Recorder::default());
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    config.enable_sni = name != "-";
    let name = ServerName::try_from(if name == "-" { "none.test" } else { name }.to_owned()).unwrap();
    let client = async {
        let stream = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let server = async {
        let (stream, _) = listener.accept().await?;
        store.acceptor().accept(stream).await
    };
    let (client, server) = tokio::join!(client, server);
    client?;
    let seen = recorder
        .0
        .lock()
        .take()
        .expect("a handshake that succeeds shows a certificate");
    Ok((seen, facts(server?.get_ref().1)))
}

fn der(pem: &CertificatePem) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&pem.certificate.bytes).unwrap()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let default = made(&["relay.test"]);
    let other = made(&["mail.example.test", "*.example.test"]);
    let exact = made(&["special.example.test"]);
    let (store, _) = TlsStore::new(&[default.clone(), other.clone(), exact.clone()], TlsVersion::V1_2).unwrap();
    for (name, expected) in [
        ("relay.test", &default),
        ("mail.example.test", &other),
        ("MAIL.Example.Test", &other),
        ("any.example.test", &other),
        ("special.example.test", &exact),
        ("a.b.example.test", &default),
        ("example.test", &default),
        ("unknown.test", &default),
        ("-", &default),
    ] {
        let (seen, facts) = handshake(&store, name, rustls::ALL_VERSIONS).await.unwrap();
        assert!(seen == der(expected), "{name}");
        assert_eq!(
            facts.server_name.as_deref(),
            (name != "-").then(|| name.to_ascii_lowercase()).as_deref()
        );
        assert_eq!(
            (&*facts.version, facts.cipher.starts_with("TLS_")),
            ("TLSv1.3", true),
            "{facts:?}"
        );
    }
}

#[tokio::test]
async fn versions() {
    let certificate = [made(&["relay.test"])];
    let (store, _) = TlsStore::new(&certificate, TlsVersion::V1_2).unwrap();
    let only_1_2: &[&'static SupportedProtocolVersion] = &[&rustls::version::TLS12];
    let (_, facts) = handshake(&store, "relay.test", only_1_2).await.unwrap();
    assert_eq!(&*facts.version, "TLSv1.2");
    store.put(store.prepare(&certificate, TlsVersion::V1_3).unwrap().0);
    assert!(handshake(&store, "relay.test", only_1_2).await.is_err());
}

#[tokio::test]
async fn a_reload_is_whole_or_nothing() {
    let (old, new) = (made(&["relay.test"]), made(&["relay.test"]));
    let (store, _) = TlsStore::new(std::slice::from_ref(&old), TlsVersion::V1_2).unwrap();
    let broken = pair("broken", "broken");
    store.prepare(&[new.clone(), broken], TlsVersion::V1_2).err().unwrap();
    let (prepared, _) = store.prepare(std::slice::from_ref(&new), TlsVersion::V1_2).unwrap();
    assert!(handshake(&store, "relay.test", rustls::ALL_VERSIONS).await.unwrap().0 == der(&old));
    store.put(prepared);
    assert!(handshake(&store, "relay.test", rustls::ALL_VERSIONS).await.unwrap().0 == der(&new));
}

#[test]
fn the_embedded_certificate_is_made_once() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let files = CertificateFiles {
        certificate: folder.path().join("tls/cert.pem"),
        key: folder.path().join("tls/key.pem"),
    };
    assert!(self_signed(&files, &["localhost".into()]).unwrap());
    assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
    let read = |path: &Path| PemFile {
        path: path.to_owned(),
        bytes: Zeroizing::new(fs::read(path).unwrap()),
    };
    let pem = CertificatePem {
        certificate: read(&files.certificate),
        key: read(&files.key),
    };
    let (_, loaded) = TlsStore::new(std::slice::from_ref(&pem), TlsVersion::V1_2).unwrap();
    assert_eq!(
        (&loaded[0].names[..], &loaded[0].warnings[..]),
        (&["localhost".to_owned()][..], &[][..])
    );

    assert!(!self_signed(&files, &["localhost".into()]).unwrap());
    assert_eq!(read(&files.key).bytes, pem.key.bytes);
}
