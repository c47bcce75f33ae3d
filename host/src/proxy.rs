//! The PROXY protocol, versions 1 and 2: an upstream's statement of who its client is, in front of everything else.
//!
//! Read only on connections that come from a configured upstream, and demanded there: an upstream's connection without a
//! header is closed, since the text would otherwise be attributed to the upstream itself. Reads exactly the header and not a byte behind it, so
//! that whatever follows (a banner wait, a TLS handshake) sees the stream untouched. Bounded in bytes and time; every failure is
//! the upstream's and ends the connection without a reply.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Upstreams send the header with the first segment: more waiting than a retransmission or two is a fault.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Version 1: the longest line with CRLF, as the protocol's text has it.
pub const V1_LENGTH_MAX: usize = 107;
/// Version 2: addresses take 216 bytes at most; the rest is for TLVs (a client certificate's name, a cloud's endpoint id).
pub const V2_LENGTH_MAX: usize = 2048;

/// Signature, version and command, family and protocol, and the length of the rest.
const V2_FIXED_LENGTH: usize = 16;
/// What both versions share: no header is shorter, and no version 1 header has a version 2 signature as its beginning.
const SIGNATURE_LENGTH: usize = 12;

/// What the header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client's connection, passed on.
    Client {
        /// The client.
        peer: SocketAddr,
        /// Where the client connected to.
        local: SocketAddr,
    },
    /// The upstream's own connection (LOCAL: a health check), or a client whose address it cannot say (UNKNOWN). The addresses of the
    /// TCP connection hold.
    Upstream,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("no PROXY header within {} s", HEADER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection broke within the PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("the stream does not begin with a PROXY header")]
    Missing,
    #[error("bad PROXY header: {0}")]
    Bad(String),
}

/// Reads the header at the beginning of a stream.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Source, ProxyError> {
    timeout(HEADER_TIMEOUT, read(stream))
        .await
        .unwrap_or(Err(ProxyError::Timeout))
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Source, ProxyError> {
    let mut header = [0u8; SIGNATURE_LENGTH];
    stream.read_exact(&mut header).await?;
    if header == *v2::PROTOCOL_PREFIX {
        version_2(stream, header).await
    } else if header.starts_with(b"PROXY ") {
        version_1(stream, header).await
    } else {
        Err(ProxyError::Missing)
    }
}

async fn version_1<S: AsyncRead + Unpin>(stream: &mut S, start: [u8; SIGNATURE_LENGTH]) -> Result<Source, ProxyError> {
    let mut line = start.to_vec();
    // Byte by byte: what is behind the CRLF belongs to others. A buffered reader would swallow it; a line is 107 bytes at most.
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_LENGTH_MAX {
            return Err(ProxyError::Bad(format!("no CRLF within {V1_LENGTH_MAX} bytes")));
        }
        line.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(&line[..]).map_err(|error| ProxyError::Bad(error.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => Source::Upstream,
        v1::Addresses::Tcp4(ip) => client(
            (ip.source_address, ip.source_port),
            (ip.destination_address, ip.destination_port),
        ),
        v1::Addresses::Tcp6(ip) => client(
            (ip.source_address, ip.source_port),
            (ip.destination_address, ip.destination_port),
        ),
    })
}

async fn version_2<S: AsyncRead + Unpin>(stream: &mut S, start: [u8; SIGNATURE_LENGTH]) -> Result<Source, ProxyError> {
    let mut header = start.to_vec();
    header.resize(V2_FIXED_LENGTH, 0);
    stream.read_exact(&mut header[SIGNATURE_LENGTH..]).await?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    let whole = header.len() + rest;
    if whole > V2_LENGTH_MAX {
        return Err(ProxyError::Bad(format!("{whole} bytes are more than {V2_LENGTH_MAX}")));
    }
    let fixed = header.len();
    header.resize(whole, 0);
    stream.read_exact(&mut header[fixed..]).await?;
    let header = v2::Header::try_from(&header[..]).map_err(|error| ProxyError::Bad(error.to_string()))?;
    Ok(match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, ..) => Source::Upstream,
        (v2::Command::Proxy, v2::Protocol::Datagram, _) => {
            return Err(ProxyError::Bad("a datagram is no SMTP connection".into()));
        }
        (v2::Command::Proxy, _, v2::Addresses::IPv4(ip)) => client(
            (ip.source_address, ip.source_port),
            (ip.destination_address, ip.destination_port),
        ),
        (v2::Command::Proxy, _, v2::Addresses::IPv6(ip)) => client(
            (ip.source_address, ip.source_port),
            (ip.destination_address, ip.destination_port),
        ),
        (v2::Command::Proxy, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Source::Upstream,
    })
}

fn client<A: Into<IpAddr>>(peer: (A, u16), local: (A, u16)) -> Source {
    let address = |(ip, port): (A, u16)| SocketAddr::new(ip.into().to_canonical(), port);
    Source::Client {
        peer: address(peer),
        local: address(local),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(parts: &[&[u8]]) -> Vec<u8> {
        [&[V2], parts].concat().concat()
    }

    fn from(peer: &str, local: &str) -> Source {
        Source::Client {
            peer: peer.parse().unwrap(),
            local: local.parse().unwrap(),
        }
    }

    /// Sends `input` and hangs up; the result, and what a reader after the header still finds.
    async fn read_from(input: &[u8]) -> (Result<Source, String>, Vec<u8>) {
        let (mut us, mut upstream) = tokio::io::duplex(64 * 1024);
        upstream.write_all(input).await.unwrap();
        drop(upstream);
        let source = read_header(&mut us).await.map_err(|error| error.to_string());
        let mut rest = Vec::new();
        us.read_to_end(&mut rest).await.unwrap();
        (source, rest)
    }

    #[tokio::test]
    async fn good_headers_leave_what_follows() {
        let v6: Vec<u8> = [
            [0x20, 1, 0xd, 0xb8].as_slice(),
            &[0; 11],
            &[1],
            &[0x20, 1, 0xd, 0xb8],
            &[0; 11],
            &[2],
        ]
        .concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n".to_vec(),
                from("192.0.2.7:40000", "198.51.100.1:25"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 587\r\n".to_vec(),
                from("[2001:db8::1]:40000", "[2001:db8::2]:587"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Source::Upstream),
            (b"PROXY UNKNOWN ffff:f::1 ::1 1 2\r\n".to_vec(), Source::Upstream),
            (
                v2(&[&[0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 25]]),
                from("192.0.2.7:40000", "198.51.100.1:25"),
            ),
            (
                v2(&[&[0x21, 0x21, 0, 36], &v6, &[0x9c, 0x40, 2, 0x4b]]),
                from("[2001:db8::1]:40000", "[2001:db8::2]:587"),
            ),
            // With a TLV (NOOP of one byte) behind the addresses.
            (
                v2(&[&[
                    0x21, 0x11, 0, 16, 192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 25, 4, 0, 1, 42,
                ]]),
                from("192.0.2.7:40000", "198.51.100.1:25"),
            ),
            // LOCAL: a health check.
            (v2(&[&[0x20, 0x00, 0, 0]]), Source::Upstream),
            (
                v2(&[&[0x20, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 25]]),
                Source::Upstream,
            ),
            // AF_UNSPEC
            (v2(&[&[0x21, 0x00, 0, 0]]), Source::Upstream),
        ] {
            let input = [&header[..], b"EHLO x\r\n"].concat();
            let (source, rest) = read_from(&input).await;
            assert_eq!(source, Ok(expected), "{}", header.escape_ascii());
            assert_eq!(rest, b"EHLO x\r\n", "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn bad_headers() {
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for (input, expected) in [
            (
                b"EHLO client.test\r\n".to_vec(),
                "the stream does not begin with a PROXY header",
            ),
            (
                b"GET / HTTP/1.1\r\n".to_vec(),
                "the stream does not begin with a PROXY header",
            ),
            (
                b"proxy tcp4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
                "the stream does not begin with a PROXY header",
            ),
            (b"".to_vec(), "the connection broke within the PROXY header: "),
            (
                b"PROXY TCP4 192.0.2.7".to_vec(),
                "the connection broke within the PROXY header: ",
            ),
            (endless, "bad PROXY header: no CRLF within 107 bytes"),
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 99999\r\n".to_vec(),
                "bad PROXY header: ",
            ),
            (
                b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
                "bad PROXY header: ",
            ),
            (
                b"PROXY TCP4 192.0.2.7\x00 198.51.100.1 1 2\r\n".to_vec(),
                "bad PROXY header: ",
            ),
            (
                b"PROXY TCP4 \xff\xff 198.51.100.1 1 2\r\n".to_vec(),
                "bad PROXY header: ",
            ),
            (v2(&[&[0x31, 0x11, 0, 12], &[0; 12]]), "bad PROXY header: "),
            (v2(&[&[0x22, 0x11, 0, 12], &[0; 12]]), "bad PROXY header: "),
            (v2(&[&[0x21, 0x11, 0, 4], &[0; 4]]), "bad PROXY header: "),
            (
                v2(&[&[0x21, 0x12, 0, 12], &[0; 12]]),
                "bad PROXY header: a datagram is no SMTP connection",
            ),
            (
                v2(&[&[0x21, 0x11, 0xff, 0xff]]),
                "bad PROXY header: 65551 bytes are more than 2048",
            ),
            (
                v2(&[&[0x21, 0x11, 0, 12, 1]]),
                "the connection broke within the PROXY header: ",
            ),
        ] {
            let (source, _) = read_from(&input).await;
            let error = source.expect_err(&input.escape_ascii().to_string());
            assert!(error.starts_with(expected), "{}: {error}", input.escape_ascii());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_upstream_is_given_up() {
        let (mut us, _upstream) = tokio::io::duplex(64);
        assert!(matches!(read_header(&mut us).await, Err(ProxyError::Timeout)));
    }
}
