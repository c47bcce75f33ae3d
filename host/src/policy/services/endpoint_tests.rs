//! Endpoints against listeners on the loopback.

#![allow(clippy::disallowed_methods, reason = "a test sends a handful of values")]

use std::future::Future;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::*;

fn endpoints(named: &[(&str, Endpoint)]) -> Endpoints {
    Endpoints::new(
        &named
            .iter()
            .map(|(name, endpoint)| ((*name).to_owned(), endpoint.clone()))
            .collect(),
    )
}

/// A listener whose every connection is served by `serve`.
async fn listen<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on the loopback");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Endpoint::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

/// Sends everything back until the end.
async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut from, mut to) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// Answers one HTTP request with fixed bytes, after reading its header.
async fn answering(answer: impl Into<Bytes>) -> Endpoint {
    let answer = answer.into();
    listen(move |mut stream| {
        let answer = answer.clone();
        async move {
            let mut request = Vec::new();
            while !request.windows(4).any(|four| four == b"\r\n\r\n")
                && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0)
            {}
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

async fn ping(connection: &mut Connection) {
    connection.write(b"PING").await.expect("an open connection");
    let mut back = Vec::new();
    while back.len() < 4 {
        let part = connection.read(3).await.expect("an open connection");
        assert!((1..=3).contains(&part.len()));
        back.extend(part);
    }
    assert_eq!(back, b"PING");
}

#[tokio::test]
async fn bytes_go_over_tcp_unix_and_tls() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("socket");
    let unix = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = unix.accept().await {
            tokio::spawn(echo(stream));
        }
    });

    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a good certificate");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let tls = listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                echo(stream).await;
            }
        }
    })
    .await;
    let Endpoint::Tcp { port, .. } = tls else {
        unreachable!("made above")
    };
    let tls = |host: &str| Endpoint::Tls {
        host: host.to_owned(),
        port,
    };

    let tcp = listen(echo).await;
    let named = [
        ("tcp", tcp),
        ("unix", Endpoint::Unix(path)),
        ("tls", tls("localhost")),
        ("other", tls("127.0.0.1")),
    ];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a good certificate");
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let trusting = endpoints(&named).with_tls(Arc::new(client));
    for name in ["tcp", "unix", "tls"] {
        let mut connection = trusting
            .connect(name)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        ping(&mut connection).await;
        assert_eq!(connection.read(0).await, Ok(Vec::new()));
    }
    let wrong_name = trusting.connect("other").await.err();
    assert!(
        matches!(wrong_name, Some(EndpointError::Unreachable(_))),
        "{wrong_name:?}"
    );
    let unknown_root = endpoints(&named).connect("tls").await.err();
    assert!(
        matches!(unknown_root, Some(EndpointError::Unreachable(_))),
        "{unknown_root:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port on the loopback");
    let port = closed.local_addr().expect("it is bound").port();
    drop(closed);
    let refused = Endpoint::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let endpoints = endpoints(&[
        ("refused", refused),
        ("absent", Endpoint::Unix("/nonexistent/socket".into())),
    ]);
    assert_eq!(endpoints.connect("other").await.err(), Some(EndpointError::Unknown));
    assert_eq!(
        endpoints.http("other", Request::default()).await,
        Err(EndpointError::Unknown)
    );
    for name in ["refused", "absent"] {
        assert!(
            matches!(endpoints.connect(name).await.err(), Some(EndpointError::Unreachable(_))),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_end_of_a_connection_is_an_empty_read() {
    let endpoint = listen(|mut stream: TcpStream| async move {
        let _ = stream.write_all(b"bye").await;
    })
    .await;
    let endpoints = endpoints(&[("e", endpoint)]);
    let mut connection = endpoints.connect("e").await.expect("it listens");
    assert_eq!(connection.read(100).await, Ok(b"bye".to_vec()));
    assert_eq!(connection.read(100).await, Ok(Vec::new()));
}

#[tokio::test]
async fn connections_are_bounded() {
    let endpoints = endpoints(&[("e", listen(echo).await)]);
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        open.push(endpoints.connect("e").await.expect("it listens"));
    }
    let mut one_more = std::pin::pin!(endpoints.connect("e"));
    let waits = tokio::select! {
        biased;
        _ = &mut one_more => false,
        () = std::future::ready(()) => true,
    };
    assert!(waits);
    open.pop();
    ping(&mut one_more.await.expect("there is room now")).await;
}

fn get(path: &str) -> Request {
    Request {
        method: "GET".to_owned(),
        path: path.to_owned(),
        ..Request::default()
    }
}

#[tokio::test]
async fn a_request_goes_out_as_it_should() {
    let (seen, mut sees) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = listen(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b"mail") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
            let _ = seen.send(String::from_utf8_lossy(&request).into_owned());
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nX-Score: 1.5\r\nContent-Length: 4\r\n\r\ndone")
                .await;
        }
    })
    .await;
    let Endpoint::Tcp { port, .. } = endpoint else {
        unreachable!("made above")
    };
    let request = Request {
        method: "POST".to_owned(),
        path: "/checkv2?a=b".to_owned(),
        headers: [
            ("Queue-Id", "1"),
            ("HOST", "evil"),
            ("Content-Length", "1"),
            ("Transfer-Encoding", "chunked"),
            ("From", "a@b"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        body: b"mail".to_vec(),
    };
    let response = endpoints(&[("e", endpoint)])
        .http("e", request)
        .await
        .expect("an answer");
    assert_eq!((response.status, &response.body[..]), (200, &b"done"[..]));
    assert_eq!(response.headers[0], ("x-score".to_owned(), "1.5".to_owned()));
    let seen = sees.recv().await.expect("it was asked").to_ascii_lowercase();
    let expected = format!(
        "post /checkv2?a=b http/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\nqueue-id: 1\r\nfrom: a@b\r\ncontent-length: 4\r\n\r\nmail"
    );
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn responses_are_bounded_and_nonsense_is_an_error() {
    let sized = |body: usize| {
        [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes(),
            vec![b'x'; body],
        ]
        .concat()
    };
    let many_fields = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        "X-Many: 1\r\n".repeat(RESPONSE_FIELDS_MAX + 1)
    );
    let long_header = format!(
        "HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n",
        "x".repeat(2 * RESPONSE_HEADER_BYTES_MAX)
    );
    let endless = [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
        vec![b'x'; RESPONSE_BYTES_MAX + 1],
    ]
    .concat();
    type Case = (&'static str, Vec<u8>, Result<usize, Option<EndpointError>>);
    let cases: [Case; 9] = [
        ("empty", sized(0), Ok(0)),
        ("largest", sized(RESPONSE_BYTES_MAX), Ok(RESPONSE_BYTES_MAX)),
        ("until the end", b"HTTP/1.0 200 OK\r\n\r\nhello".to_vec(), Ok(5)),
        (
            "too large",
            sized(RESPONSE_BYTES_MAX + 1),
            Err(Some(EndpointError::TooLarge)),
        ),
        (
            "too large without a length",
            endless,
            Err(Some(EndpointError::TooLarge)),
        ),
        (
            "too many fields",
            many_fields.into_bytes(),
            Err(Some(EndpointError::TooLarge)),
        ),
        (
            "header too long",
            long_header.into_bytes(),
            Err(Some(EndpointError::TooLarge)),
        ),
        ("no HTTP", b"220 mail.example ESMTP\r\n".to_vec(), Err(None)),
        (
            "cut off",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec(),
            Err(None),
        ),
    ];
    for (name, answer, expected) in cases {
        let endpoints = endpoints(&[("e", answering(answer).await)]);
        let got = endpoints.http("e", get("/")).await.map(|response| response.body.len());
        match expected {
            Ok(length) => assert_eq!(got, Ok(length), "{name}"),
            Err(Some(error)) => assert_eq!(got, Err(error), "{name}"),
            Err(None) => assert!(matches!(got, Err(EndpointError::Unreachable(_))), "{name}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn requests_that_are_none_are_refused() {
    let endpoints = endpoints(&[("e", answering("HTTP/1.1 200 OK\r\n\r\n").await)]);
    let with_field = |name: &str, value: &str| Request {
        headers: vec![(name.to_owned(), value.to_owned())],
        ..get("/")
    };
    let method = |method: &str| Request {
        method: method.to_owned(),
        ..get("/")
    };
    let cases = [
        get(""),
        get("http://other.example/"),
        get("//a b"),
        get("/a\r\nX-Injected: 1"),
        with_field("X-A", "1\r\nX-Injected: 1"),
        with_field("X A", "1"),
        method("CONNECT"),
        method("GET / HTTP/1.1\r\n"),
        method(""),
    ];
    for request in cases {
        let got = endpoints.http("e", request.clone()).await;
        assert!(
            matches!(got, Err(EndpointError::Unreachable(_))),
            "{request:?}: {got:?}"
        );
    }
}
