//! TLS towards next hops: which certificate is good enough for which mode.
//!
//! Opportunistic and required TLS take any certificate (RFC 7435: encryption against who only listens) but still
//! check that the peer has its key; `verify` takes only one that the system's trust anchors vouch for under the next
//! hop's name. Nothing here connects. Without trust anchors it fails when the configuration is taken over, not at the
//! first mail.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::config::TlsMode;

/// The client side's TLS configurations. Sessions are resumed within each.
#[derive(Clone)]
pub struct ClientTls {
    any: Arc<ClientConfig>,
    verified: Option<Arc<ClientConfig>>,
}

impl ClientTls {
    /// `verifies`: some route asks for verified certificates. A policy that asks for it when no route does gets it as
    /// well, if the system has trust anchors.
    pub fn new(verifies: bool) -> anyhow::Result<ClientTls> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let anchors = rustls_platform_verifier::Verifier::new(provider)
            .context("the system's trust anchors, which tls = \"verify\" needs");
        match anchors {
            Ok(verifier) => ClientTls::with_verifier(Some(Arc::new(verifier))),
            Err(error) if verifies => Err(error),
            Err(_) => ClientTls::with_verifier(None),
        }
    }

    /// With this judge of certificates for `verify`.
    pub fn with_verifier(verifier: Option<Arc<dyn ServerCertVerifier>>) -> anyhow::Result<ClientTls> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = |verifier: Arc<dyn ServerCertVerifier>| -> anyhow::Result<Arc<ClientConfig>> {
            let builder =
                ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            Ok(Arc::new(builder.with_no_client_auth()))
        };
        Ok(ClientTls {
            any: config(Arc::new(AnyCertificate(provider.clone())))?,
            verified: verifier.map(config).transpose()?,
        })
    }

    /// The connector for a mode; `None` if `verify` is asked for and nothing can be verified.
    pub fn connector(&self, mode: TlsMode) -> Option<TlsConnector> {
        let config = if mode == TlsMode::Verify {
            self.verified.as_ref()?
        } else {
            &self.any
        };
        Some(TlsConnector::from(config.clone()))
    }
}

/// The name to ask for and to verify: the next hop's own, or its address where it has none.
pub fn server_name(host: &str, address: IpAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(address.into()))
}

/// Takes every certificate whose key the peer has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
