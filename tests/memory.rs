//! Memory of a plugin's instances, all together: a call that would go beyond the bound fails like any other, and all of it comes back.

mod support;

use std::net::{SocketAddr, UdpSocket};

use support::client::Client;
use support::{PATIENCE, Relay, Setup, free_address, guest, until};

/// A name server that answers when it is told to; the plugin's call waits for it, and its instance with it.
struct NameServer(UdpSocket);

impl NameServer {
    fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        NameServer(socket)
    }

    fn asked(&self) -> (Vec<u8>, SocketAddr) {
        let mut packet = vec![0; 512];
        let (length, from) = self.0.recv_from(&mut packet).expect("a question");
        packet.truncate(length);
        (packet, from)
    }

    /// There is no such name.
    fn answer(&self, (mut packet, from): (Vec<u8>, SocketAddr)) {
        // QR, and NXDOMAIN.
        packet[2] |= 0x80;
        packet[3] = packet[3] & 0xf0 | 3;
        self.0.send_to(&packet, from).expect("an answer");
    }
}

fn relay(names: &NameServer, admin: SocketAddr, toml: &str) -> Relay {
    let dns = names.0.local_addr().expect("bound");
    Setup::new()
        .top(&format!(
            "[admin]\naddress = \"{admin}\"\n[dns]\nservers = [\"{dns}\"]\ntimeout = \"20s\"\nattempts = 1"
        ))
        .listener("mx", "tls = \"none\"\nproxy_from = [\"127.0.0.1/32\"]")
        .plugin("naughty", &guest("naughty"), "", toml)
        .start()
}

/// A client at RCPT, from an address whose name nobody knows yet.
fn client(relay: &Relay, place: u8) -> Client {
    let mut client = Client::connect(relay.address("mx"));
    client.raw(format!("PROXY TCP4 192.0.2.{place} 192.0.2.200 1025 25\r\n"));
    client.expect("220");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client
}

/// What the metrics say that all instances hold, in bytes.
fn held(relay: &Relay, admin: SocketAddr) -> Option<u64> {
    let page = relay.page(admin, "/metrics");
    let prefix = "gatepost_plugin_memory_bytes{plugin=\"naughty\"} ";
    page.lines().find_map(|line| line.strip_prefix(prefix)?.parse().ok())
}

#[test]
fn a_call_beyond_the_bound_of_all_fails_and_the_memory_comes_back() {
    // An instance has something over 1 MiB.
    let bounds = "max_memory_mib = 2\n[plugin.budget]\nmemory_mib = 2\nwall_ms = 30000";
    for instances in ["pooled", "fresh"] {
        let (names, admin) = (NameServer::start(), free_address());
        let relay = relay(&names, admin, &format!("instances = \"{instances}\"\n{bounds}"));
        let mut waits = client(&relay, 1);
        waits.line("RCPT TO:<wait@ours.test>");
        let question = names.asked();
        // Now its instance is in use, and there is no room for another.
        let mut other = client(&relay, 2);
        let reply = other.says("RCPT TO:<u@ours.test>", "451 4.3.0 ");
        assert!(!reply.contains("memory"), "{reply}");
        relay.logged(&["\"warn\"", "decision", "naughty", "on-rcpt", "max_memory_mib"]);
        names.answer(question);
        waits.expect("250 2.1.5");
        other.says("RCPT TO:<u@ours.test>", "250 2.1.5");
        let page = relay.page(admin, "/metrics");
        let line = "gatepost_hook_failures_total{plugin=\"naughty\",stage=\"rcpt\",cause=\"memory-total\"} 1\n";
        assert!(page.contains(line), "{page}");
        // One waits for the next call, or none.
        let expected = match instances {
            "pooled" => 1 << 20..2 << 20,
            _ => 0..1,
        };
        until("the metrics say what is held", || {
            held(&relay, admin).is_some_and(|held| expected.contains(&held))
        });
    }
}

#[test]
fn instances_that_wait_make_room_for_one_that_works() {
    let bounds = "max_memory_mib = 8\n[plugin.budget]\nmemory_mib = 8\nwall_ms = 30000";
    let (names, admin) = (NameServer::start(), free_address());
    let relay = relay(&names, admin, bounds);
    let mut clients: Vec<Client> = (1..=3).map(|place| client(&relay, place)).collect();
    let questions: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            client.line("RCPT TO:<wait@ours.test>");
            names.asked()
        })
        .collect();
    questions.into_iter().for_each(|question| names.answer(question));
    clients.iter_mut().for_each(|client| drop(client.expect("250 2.1.5")));
    // Three wait. One of them takes all that it may have itself, so it does not notice the others; they are gone.
    clients[0].says("RCPT TO:<memory@ours.test>", "451 4.3.0 ");
    relay.logged(&["decision", "naughty", "on-rcpt", "(memory_mib)"]);
    until("all is given back", || held(&relay, admin) == Some(0));
    clients[0].says("RCPT TO:<u@ours.test>", "250 2.1.5");
}
