//! HTTP on the admin address: `/metrics`, `/healthz`, `/readyz`, for a scraper and a load balancer.
//!
//! Answers GET and HEAD, changes nothing, and has no secret to tell. A Host that is a name other than `localhost` or the relay's own is refused:
//! a web page could have had it resolved to this address (DNS rebinding). One request a connection; at most [`CONNECTIONS`] at a time,
//! each for [`CONNECTION_TIME`] at most.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Probes;
use crate::metrics::{self, Metrics};

/// At a time; further ones wait to be accepted.
pub const CONNECTIONS: usize = 32;
/// From the first byte to the last.
pub const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// After an error of accept (no descriptors left), before the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the pages are made from.
pub struct Pages<P> {
    pub metrics: Arc<Metrics>,
    pub probes: Arc<P>,
    /// The relay's own name: besides `localhost` the only name that a Host may have.
    pub hostname: String,
}

/// Serves until the task is dropped.
pub async fn serve<P: Probes>(listener: TcpListener, pages: Arc<Pages<P>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    connection(stream, pages).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "admin: cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<P: Probes>(stream: TcpStream, pages: Arc<Pages<P>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever went wrong is the client's: there is nobody to tell.
    let _ = timeout(CONNECTION_TIME, connection).await;
}

fn answer<P: Probes>(request: &Request<Incoming>, pages: &Pages<P>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if let Err((status, problem)) = check_host(request, &pages.hostname) {
        return page(status, TEXT, problem);
    }
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        return page(
            StatusCode::NOT_FOUND,
            TEXT,
            "There are /metrics, /healthz and /readyz.\n",
        );
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD only.\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let state = match path {
        "/metrics" => return page(StatusCode::OK, metrics::CONTENT_TYPE, pages.metrics.encode()),
        "/healthz" => pages.probes.healthy(),
        _ => pages.probes.ready(),
    };
    match state {
        Ok(()) => page(StatusCode::OK, TEXT, "ok\n"),
        Err(problem) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, problem + "\n"),
    }
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Exactly one Host, whose name nobody else can point here: an address, `localhost`, or the relay's own name. HTTP/1.0 may leave it out
/// (RFC 9112 §3.2); browsers do not speak that.
fn check_host(request: &Request<Incoming>, hostname: &str) -> Result<(), (StatusCode, &'static str)> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        (None, None) if request.version() == Version::HTTP_10 => return Ok(()),
        _ => return Err((StatusCode::BAD_REQUEST, "One Host is needed.\n")),
    };
    let target = request.uri().authority().map(|authority| authority.as_str());
    let ours = |host: &str| is_ours(host, hostname);
    if ours(host) && target.is_none_or(ours) {
        Ok(())
    } else {
        Err((
            StatusCode::FORBIDDEN,
            "Use an address, localhost, or the relay's own hostname.\n",
        ))
    }
}

fn is_ours(host: &str, hostname: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(hostname)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Fixed;

    impl Probes for Fixed {
        fn healthy(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            Err("the spool is full".into())
        }
    }

    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new());
        let pages = Pages {
            metrics,
            probes: Arc::new(Fixed),
            hostname: "relay.example.test".into(),
        };
        tokio::spawn(serve(listener, Arc::new(pages)));
        address
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn what_is_answered() {
        let address = server().await;
        for (request, status, text) in [
            ("GET /healthz HTTP/1.1\r\nHost: localhost:8025\r\n", "200 OK", "ok\n"),
            ("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", "200 OK", "ok\n"),
            ("GET /healthz HTTP/1.1\r\nHost: [::1]:8025\r\n", "200 OK", "ok\n"),
            (
                "GET /healthz HTTP/1.1\r\nHost: Relay.Example.Test:8025\r\n",
                "200 OK",
                "ok\n",
            ),
            ("GET /healthz HTTP/1.0\r\n", "200 OK", "ok\n"),
            (
                "GET /readyz HTTP/1.1\r\nHost: localhost\r\n",
                "503 Service Unavailable",
                "the spool is full\n",
            ),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\n", "200 OK", "# EOF\n"),
            ("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n", "200 OK", "\r\n\r\n"),
            (
                "POST /metrics HTTP/1.1\r\nHost: localhost\r\n",
                "405 Method Not Allowed",
                "GET or HEAD only.\n",
            ),
            ("GET / HTTP/1.1\r\nHost: localhost\r\n", "404 Not Found", "/readyz.\n"),
            (
                "GET /metrics/../x HTTP/1.1\r\nHost: localhost\r\n",
                "404 Not Found",
                "/readyz.\n",
            ),
            (
                "GET /metrics HTTP/1.1\r\nHost: evil.test:8025\r\n",
                "403 Forbidden",
                "own hostname.\n",
            ),
            (
                "GET http://evil.test/metrics HTTP/1.1\r\nHost: localhost\r\n",
                "403 Forbidden",
                "own hostname.\n",
            ),
            (
                "GET /metrics HTTP/1.1\r\nHost: localhost.evil.test\r\n",
                "403 Forbidden",
                "own hostname.\n",
            ),
            ("GET /metrics HTTP/1.1\r\n", "400 Bad Request", "One Host is needed.\n"),
            (
                "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n",
                "400 Bad Request",
                "One Host is needed.\n",
            ),
            ("EHLO client.test\r\n", "400 Bad Request", "\r\n\r\n"),
        ] {
            let answer = ask(address, &format!("{request}\r\n")).await;
            let first = answer.lines().next().unwrap_or_default();
            assert!(first.ends_with(status), "{request:?}: {answer}");
            assert!(answer.ends_with(text), "{request:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_cut_off() {
        let address = server().await;
        let endless = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}",
            "x".repeat(2 * HEAD_BYTES)
        );
        let answer = ask(address, &endless).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}
