//! What tests of policies that ask a scanner share: sending a message, and a server of their own in a scanner's place.

use std::net::{SocketAddr, TcpListener, TcpStream};

use super::Relay;

/// For such a policy.
pub const GRANTS: &str = "\"read-message\", \"edit-message\", \"endpoint\"";

/// Generous, as machines that test are busy.
pub const PATIENT: &str = "[plugin.budget]\nwall_ms = 60_000";

/// Sends a message as a stranger, and gives what becomes of it.
pub fn sends(relay: &Relay, content: &str) -> String {
    let mut client = relay.connect("mx");
    client.ehlo();
    client.send("me@elsewhere.test", &["u@ours.test"], content)
}

/// The same, of which the reply is known.
#[track_caller]
pub fn answers(relay: &Relay, content: &str, start: &str) {
    let reply = sends(relay, content);
    assert!(reply.starts_with(start), "expected {start:?}, got {reply:?}");
}

/// A server that treats each connection like this, and keeps open what is given back.
pub fn server(serve: impl Fn(TcpStream) -> Option<TcpStream> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let _open: Vec<TcpStream> = listener.incoming().flatten().filter_map(serve).collect();
    });
    address
}
