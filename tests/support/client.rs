//! A client that says exactly what it is told, and reads replies whole.

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use rustls::pki_types::ServerName;

use super::PATIENCE;

trait Stream: std::io::Read + Write + Send {}
impl<T: std::io::Read + Write + Send> Stream for T {}

pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    socket: TcpStream,
}

impl Client {
    /// Connects and reads nothing.
    pub fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket.set_nodelay(true).expect("no delay");
        let stream: Box<dyn Stream> = Box::new(socket.try_clone().expect("a clone"));
        Client {
            stream: BufReader::new(stream),
            socket,
        }
    }

    /// The same, under TLS from the first byte, the certificate not looked at.
    pub fn connect_tls(address: SocketAddr) -> Client {
        Client::connect(address).into_tls()
    }

    pub fn into_tls(self) -> Client {
        let name = ServerName::try_from("relay.test").expect("a name");
        let connection = rustls::ClientConnection::new(tls_config(), name).expect("a TLS client");
        let tls = rustls::StreamOwned::new(connection, self.socket.try_clone().expect("a clone"));
        Client {
            stream: BufReader::new(Box::new(tls)),
            socket: self.socket,
        }
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        // A server that closed may reset: what it said before is still there to be read.
        let _ = self.stream.get_mut().write_all(bytes.as_ref());
        let _ = self.stream.get_mut().flush();
    }

    pub fn line(&mut self, line: &str) {
        self.raw(format!("{line}\r\n"));
    }

    /// One reply with all its lines, without the last line end; empty at the end of the stream.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return reply,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no reply; so far: {reply:?}"),
                Err(_) => return reply,
            }
            reply += line.trim_end();
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// The next reply, which must begin so.
    #[track_caller]
    pub fn expect(&mut self, start: &str) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(start), "expected {start:?}, got {reply:?}");
        reply
    }

    /// A line, and the reply to it, which must begin so.
    #[track_caller]
    pub fn says(&mut self, line: &str, start: &str) -> String {
        self.line(line);
        let reply = self.reply();
        assert!(
            reply.starts_with(start),
            "to {line:?} expected {start:?}, got {reply:?}"
        );
        reply
    }

    /// Everything up to the end of the stream.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    #[track_caller]
    pub fn ehlo(&mut self) -> String {
        self.says("EHLO client.test", "250")
    }

    /// STARTTLS and the handshake.
    #[track_caller]
    pub fn into_starttls(mut self) -> Client {
        self.says("STARTTLS", "220 2.0.0");
        self.into_tls()
    }

    /// EHLO, STARTTLS, EHLO.
    #[track_caller]
    pub fn starttls(mut self) -> Client {
        self.ehlo();
        let mut client = self.into_starttls();
        client.ehlo();
        client
    }

    #[track_caller]
    pub fn auth_plain(&mut self, name: &str, password: &str, start: &str) -> String {
        let response = base64::engine::general_purpose::STANDARD.encode(format!("\0{name}\0{password}"));
        self.says(&format!("AUTH PLAIN {response}"), start)
    }

    /// MAIL, RCPT and DATA with this content (dot-stuffed and ended here); the reply to the end of data.
    #[track_caller]
    pub fn send(&mut self, sender: &str, recipients: &[&str], content: &str) -> String {
        self.says(&format!("MAIL FROM:<{sender}>"), "250");
        for recipient in recipients {
            self.says(&format!("RCPT TO:<{recipient}>"), "250");
        }
        self.says("DATA", "354");
        let stuffed = content.replace("\r\n.", "\r\n..");
        self.raw(format!("{stuffed}\r\n.\r\n"));
        self.reply()
    }
}

/// A TLS client that takes any certificate: tests make their own.
pub fn tls_config() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the library has them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
