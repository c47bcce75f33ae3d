//! Connections of policies to the endpoints that the configuration names: bytes over TCP, TLS or a Unix socket, and one HTTP
//! request.
//!
//! A policy says a name and never an address. There is no clock here: how long anything may take is the caller's, which drops the
//! future (and with it the connection) when the time is over. How many connections to an endpoint are open at once is bounded;
//! more wait, within the caller's time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::config::Endpoint;

/// Connections to one endpoint of one plugin at a time.
pub const CONNECTIONS_MAX: usize = 64;

/// The most that one read gives, in bytes.
pub const READ_BYTES_MAX: u32 = 64 * 1024;

/// The longest body of an HTTP response, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// The most fields in the header of an HTTP response, and how many bytes it may have in all.
pub const RESPONSE_FIELDS_MAX: usize = 100;
pub const RESPONSE_HEADER_BYTES_MAX: usize = 64 * 1024;

/// What one plugin may connect to.
pub struct Endpoints {
    named: BTreeMap<String, Named>,
    /// Nobody is connected to: the other side seems to close without a word (true), or to be unreachable.
    scratch: Option<bool>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

struct Named {
    endpoint: Endpoint,
    connections: Arc<Semaphore>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("no endpoint of that name is configured")]
    Unknown,
    /// Refused, gone, TLS failed, or what was said is no HTTP.
    #[error("{0}")]
    Unreachable(String),
    /// The system gave up. When the caller's time is over, the caller says so itself.
    #[error("timed out")]
    Timeout,
    #[error("the response is over {RESPONSE_BYTES_MAX} bytes, or its header over {RESPONSE_FIELDS_MAX} fields")]
    TooLarge,
}

/// One HTTP/1.1 request. Host, Content-Length and what else is between two hops is set here; fields of that kind in `headers` are left out.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// Path and query: `/checkv2`.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case; bytes of values that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An open connection; dropping it closes it.
pub struct Connection {
    stream: Box<dyn Stream>,
    _permit: OwnedSemaphorePermit,
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Endpoints {
    /// TLS endpoints are verified as the system verifies servers.
    pub fn new(endpoints: &BTreeMap<String, Endpoint>) -> Endpoints {
        let named = endpoints.iter().map(|(name, endpoint)| {
            let named = Named {
                endpoint: endpoint.clone(),
                connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            };
            (name.clone(), named)
        });
        Endpoints {
            named: named.collect(),
            scratch: None,
            tls: None,
        }
    }

    /// Endpoints of the same names that lead nowhere, for probes: they answer with nothing, or fail.
    pub fn scratch(endpoints: &BTreeMap<String, Endpoint>, answer: bool) -> Endpoints {
        Endpoints {
            scratch: Some(answer),
            ..Endpoints::new(endpoints)
        }
    }

    /// Has TLS endpoints verified in another way.
    pub fn with_tls(self, tls: Arc<rustls::ClientConfig>) -> Endpoints {
        Endpoints { tls: Some(tls), ..self }
    }

    pub async fn connect(&self, name: &str) -> Result<Connection, EndpointError> {
        let named = self.named.get(name).ok_or(EndpointError::Unknown)?;
        let permit = Arc::clone(&named.connections).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed: it lives as long as the endpoints");
        let stream: Box<dyn Stream> = match self.scratch {
            Some(true) => Box::new(tokio::io::empty()),
            Some(false) => return Err(EndpointError::Unreachable("this is a probe".into())),
            None => open(&named.endpoint, self.tls.clone()).await?,
        };
        Ok(Connection {
            stream,
            _permit: permit,
        })
    }

    /// Sends one request over a new connection and waits for the whole response.
    pub async fn http(&self, name: &str, request: Request) -> Result<Response, EndpointError> {
        let host = match &self.named.get(name).ok_or(EndpointError::Unknown)?.endpoint {
            Endpoint::Tcp { host, port } | Endpoint::Tls { host, port } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Endpoint::Tcp { host, port } | Endpoint::Tls { host, port } => format!("{host}:{port}"),
            Endpoint::Unix(_) => "localhost".to_owned(),
        };
        let request = http_request(request, &host)?;
        let connection = self.connect(name).await?;
        let mut client = http1::Builder::new();
        client
            .max_headers(RESPONSE_FIELDS_MAX)
            .max_buf_size(RESPONSE_HEADER_BYTES_MAX);
        let (mut sender, driver) = client
            .handshake(TokioIo::new(connection.stream))
            .await
            .map_err(http_error)?;
        // Ends with this future, however that ends.
        let mut drivers = JoinSet::new();
        drivers.spawn(driver);
        let (head, body) = sender.send_request(request).await.map_err(http_error)?.into_parts();
        let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => http_error(*error),
            Err(error) if error.is::<LengthLimitError>() => EndpointError::TooLarge,
            Err(error) => EndpointError::Unreachable(error.to_string()),
        })?;
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(Response {
            status: head.status.as_u16(),
            headers: head
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), text(value)))
                .collect(),
            body: body.to_bytes().into(),
        })
    }
}

impl Connection {
    /// Waits for at least one byte and gives at most `most` and [`READ_BYTES_MAX`]; nothing is the end.
    pub async fn read(&mut self, most: u32) -> Result<Vec<u8>, EndpointError> {
        let most = most.min(READ_BYTES_MAX);
        let mut bytes = Vec::with_capacity(most as usize);
        if most > 0 {
            let mut limited = (&mut self.stream).take(u64::from(most));
            limited.read_buf(&mut bytes).await.map_err(unreachable)?;
        }
        Ok(bytes)
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), EndpointError> {
        self.stream.write_all(bytes).await.map_err(unreachable)?;
        self.stream.flush().await.map_err(unreachable)
    }
}

/// Connects. A TLS endpoint is verified as `tls` says, else as the system verifies servers.
pub(super) async fn open(
    endpoint: &Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<Box<dyn Stream>, EndpointError> {
    Ok(match endpoint {
        Endpoint::Tcp { host, port } => Box::new(tcp(host, *port).await?),
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unreachable)?),
        Endpoint::Tls { host, port } => {
            let tls = tls.map_or_else(system_tls, Ok)?;
            let server = ServerName::try_from(host.clone());
            let server = server.map_err(|_| EndpointError::Unreachable(format!("{host} is no name of a server")))?;
            let stream = tcp(host, *port).await?;
            Box::new(
                TlsConnector::from(tls)
                    .connect(server, stream)
                    .await
                    .map_err(unreachable)?,
            )
        }
    })
}

/// Tries the host's addresses in turn.
async fn tcp(host: &str, port: u16) -> Result<TcpStream, EndpointError> {
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    // Dialogs of small questions and answers; that this cannot be set is no fault.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The system's certificates, read once.
fn system_tls() -> Result<Arc<rustls::ClientConfig>, EndpointError> {
    static SYSTEM: OnceLock<Result<Arc<rustls::ClientConfig>, String>> = OnceLock::new();
    let system = SYSTEM.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls_platform_verifier::Verifier::new(Arc::clone(&provider)).map_err(|error| error.to_string())?;
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.dangerous();
        Ok(Arc::new(
            builder
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth(),
        ))
    });
    system.clone().map_err(EndpointError::Unreachable)
}

fn unreachable(error: io::Error) -> EndpointError {
    match error.kind() {
        io::ErrorKind::TimedOut => EndpointError::Timeout,
        _ => EndpointError::Unreachable(error.to_string()),
    }
}

fn http_error(error: hyper::Error) -> EndpointError {
    if error.is_parse_too_large() {
        return EndpointError::TooLarge;
    }
    // hyper's own text says what happened, its source why.
    let why = std::error::Error::source(&error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    EndpointError::Unreachable(format!("{error}{why}"))
}

/// Fields that are between two hops (RFC 9110 §7.6.1), or that say what is known here.
const OWN_FIELDS: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
];

fn http_request(request: Request, host: &str) -> Result<hyper::Request<Full<Bytes>>, EndpointError> {
    let bad = |what: &str| EndpointError::Unreachable(format!("not an HTTP request: {what}"));
    if !request.path.starts_with('/') {
        return Err(bad("the path does not begin with /"));
    }
    let mut built = hyper::Request::builder()
        .method(request.method.as_bytes())
        .uri(request.path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(request.body)))
        .map_err(|error| bad(&error.to_string()))?;
    if built.method() == hyper::Method::CONNECT {
        return Err(bad("CONNECT is not possible"));
    }
    for (name, value) in request.headers {
        let name = HeaderName::try_from(name).map_err(|_| bad("a field's name"))?;
        let value = HeaderValue::try_from(value).map_err(|_| bad("a field's value"))?;
        if !OWN_FIELDS.contains(&name) {
            built.headers_mut().append(name, value);
        }
    }
    Ok(built)
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
