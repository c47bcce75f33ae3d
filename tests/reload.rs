//! Changes to a running relay, and its end: reload, certificates, drain, a worker that dies, and what administrators see of it.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use support::client::Client;
use support::sink::Sink;
use support::{GATEPOST, Relay, Setup, free_address, guest, until};

/// Rewrites the configuration.
fn change(relay: &Relay, changes: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(&relay.config).expect("the configuration");
    for (before, after) in changes {
        assert!(text.contains(before), "{before:?} is not in {text}");
        text = text.replacen(before, after, 1);
    }
    std::fs::write(&relay.config, text).expect("the configuration");
}

fn add_user(relay: &Relay, name: &str, password: &str) {
    let mut add = Command::new(GATEPOST)
        .args(["user", "add", name, "--config"])
        .arg(&relay.config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("gatepost user add");
    let mut input = add.stdin.take().expect("piped");
    input.write_all(password.as_bytes()).expect("the password");
    drop(input);
    assert!(add.wait().expect("gatepost user add").success());
}

fn in_transaction(client: &mut Client) {
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
}

fn listeners(relay: &Relay) -> BTreeSet<String> {
    let status: serde_json::Value = serde_json::from_str(&relay.admin("{\"command\":\"status\"}")).expect("JSON");
    let listeners: Vec<(String, SocketAddr)> = serde_json::from_value(status["listeners"].clone()).expect("listeners");
    listeners.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn sighup_takes_over_a_changed_configuration_and_running_sessions_keep_theirs() {
    let mut relay = Setup::new()
        .listener("mx", "tls = \"starttls\"\nauth = \"optional\"")
        .listener("old", "tls = \"none\"")
        .user("alice", "pw")
        .start();
    let (mx, old) = (relay.address("mx"), relay.address("old"));
    let mut running = relay.connect("mx");
    in_transaction(&mut running);
    running.says("RCPT TO:<u@new.test>", "550 5.7.1 ");
    let mut on_old = relay.connect("old");

    add_user(&relay, "bob", "secret");
    change(
        &relay,
        &[
            (
                "relay_domains = [\"ours.test\"]",
                "relay_domains = [\"ours.test\", \"new.test\"]",
            ),
            ("name = \"old\"", "name = \"new\""),
        ],
    );
    relay.signal(Signal::SIGHUP);
    until("the new listener", || {
        listeners(&relay) == BTreeSet::from(["mx".into(), "new".into()])
    });
    relay.logged(&["reloaded", "SIGHUP"]);
    relay.look_again();

    assert_eq!(relay.address("mx"), mx, "a listener that stays keeps its socket");
    until("the old listener closes", || TcpStream::connect(old).is_err());
    for listener in ["mx", "new"] {
        let mut client = relay.connect(listener);
        in_transaction(&mut client);
        client.says("RCPT TO:<u@new.test>", "250 2.1.5");
    }
    relay.connect("mx").starttls().auth_plain("bob", "secret", "235 2.7.0");

    running.says("RCPT TO:<u@new.test>", "550 5.7.1 ");
    running.says("RCPT TO:<u@ours.test>", "250 2.1.5");
    running.says("DATA", "354");
    running.says("Subject: x\r\n\r\nbody\r\n.", "250 2.0.0");
    in_transaction(&mut on_old);
    on_old.says("QUIT", "221");
}

#[test]
fn a_bad_change_is_refused_and_the_old_configuration_stays() {
    let relay = Setup::new()
        .listener("mx", "tls = \"starttls\"\nauth = \"optional\"")
        .user("alice", "pw")
        .start();
    let good = std::fs::read_to_string(&relay.config).expect("the configuration");
    let still_works = || {
        let mut client = relay.connect("mx").starttls();
        client.auth_plain("alice", "pw", "235 2.7.0");
        client.says("MAIL FROM:<me@elsewhere.test>", "250");
        client.says("RCPT TO:<u@new.test>", "550 5.7.1 ");
        client.says("RCPT TO:<u@ours.test>", "250 2.1.5");
    };
    // An unknown key: the error names file, line, key, and what was meant.
    change(
        &relay,
        &[(
            "relay_domains = [\"ours.test\"]",
            "relay_domains = [\"new.test\"]\nrelay_domain = \"x\"",
        )],
    );
    let line = 1
        + good
            .lines()
            .position(|line| line.starts_with("relay_domains"))
            .expect("it is there")
        + 1;
    relay.signal(Signal::SIGHUP);
    let said = relay.logged(&["reload failed; what was in force stays", "SIGHUP", "relay_domain"]);
    assert!(
        said.contains(&format!("gatepost.toml:{line}")) && said.contains("relay_domains"),
        "{said}"
    );
    still_works();

    // A file with errors keeps nobody from the relay that runs.
    assert!(relay.command(&["queue", "list"]).contains("no messages"));

    // The command line asks the same, and is told the same.
    let said = relay.admin("{\"command\":\"reload\"}");
    assert!(said.contains("\"error\"") && said.contains("relay_domain"), "{said}");

    // What only a restart can change says so.
    std::fs::write(&relay.config, &good).expect("the configuration");
    change(
        &relay,
        &[("[delivery]", "[dns]\nservers = [\"127.0.0.1:5300\"]\n\n[delivery]")],
    );
    relay.signal(Signal::SIGHUP);
    relay.logged(&[
        "reload failed; what was in force stays",
        "[dns] cannot change while the relay runs: restart it",
    ]);

    // A users file that is none: found by the worker, and by itself.
    std::fs::write(&relay.config, &good).expect("the configuration");
    change(
        &relay,
        &[("relay_domains = [\"ours.test\"]", "relay_domains = [\"new.test\"]")],
    );
    std::fs::write(relay.dir.path().join("users"), "alice\n").expect("the users");
    relay.signal(Signal::SIGHUP);
    relay.logged(&["reload failed; what was in force stays", "users", ":1"]);
    still_works();
}

#[test]
fn a_user_who_is_no_more_sends_nothing_in_the_session_that_is_open() {
    let relay = Setup::new()
        .listener("submission", "tls = \"starttls\"\nauth = \"required\"")
        .user("alice", "pw")
        .user("bob", "pw")
        .start();
    let session = |user: &str| {
        let mut client = relay.connect("submission").starttls();
        client.auth_plain(user, "pw", "235");
        client
    };
    let send = |client: &mut Client, from: &str| client.send(from, &["carol@ours.test"], "Subject: x\r\n\r\nx");
    let (mut alice, mut bob) = (session("alice"), session("bob"));
    assert!(send(&mut alice, "alice@ours.test").starts_with("250"));
    assert!(send(&mut bob, "bob@ours.test").starts_with("250"));

    let users = relay.dir.path().join("users");
    let text = std::fs::read_to_string(&users).expect("the users");
    let others: String = text
        .lines()
        .filter(|line| !line.starts_with("alice:"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&users, others).expect("the users");
    relay.signal(Signal::SIGHUP);
    relay.logged(&["reloaded"]);

    alice.says("MAIL FROM:<alice@ours.test>", "421");
    relay.logged(&["refused", "\"reason\":\"credentials-changed\"", "alice"]);
    assert!(send(&mut bob, "bob@ours.test").starts_with("250"));
}

/// The certificate that a TLS listener shows.
fn shown(address: SocketAddr) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("relay.test").expect("a name");
    let mut tls = rustls::ClientConnection::new(support::client::tls_config(), name).expect("a TLS client");
    let mut socket = TcpStream::connect(address).expect("a connection");
    socket.set_read_timeout(Some(support::PATIENCE)).expect("a time-out");
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("a handshake");
    }
    let chain = tls.peer_certificates().expect("a certificate");
    chain[0].as_ref().to_vec()
}

#[test]
fn a_replaced_certificate_is_served_without_a_restart() {
    let relay = Setup::new()
        .listener("tls", "tls = \"implicit\"\nauth = \"required\"")
        .user("alice", "pw")
        .start();
    let worker = relay.worker();
    let address = relay.address("tls");
    let first = shown(address);
    let mut running = Client::connect_tls(address);
    running.expect("220");

    let put = |name: &str, text: &str| {
        let part = relay.dir.path().join("part");
        std::fs::write(&part, text).expect("a file");
        std::fs::rename(&part, relay.dir.path().join(name)).expect("its place");
    };
    // One that does not fit its key is refused.
    let other = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
    put("cert.pem", &other.cert.pem());
    relay.logged(&["reload failed; what was in force stays", "cert.pem"]);
    assert_eq!(shown(address), first);

    put("key.pem", &other.signing_key.serialize_pem());
    until("the new certificate", || shown(address) == other.cert.der().as_ref());
    assert_eq!(relay.worker(), worker, "the same process");
    running.ehlo();
    running.auth_plain("alice", "pw", "235 2.7.0");
}

#[test]
fn sigterm_lets_messages_end_and_sends_everyone_home() {
    let sink = Sink::start();
    let mut relay = Setup::new()
        .next_hop(&sink.next_hop())
        .plugin(
            "editor",
            &guest("editor"),
            "\"edit-envelope\", \"read-message\", \"edit-message\"",
            "",
        )
        .start();
    let address = relay.address("mx");
    let mut idle = relay.connect("mx");
    idle.ehlo();
    let mut in_data = relay.connect("mx");
    in_transaction(&mut in_data);
    in_data.says("RCPT TO:<u@ours.test>", "250");
    in_data.says("DATA", "354");
    in_data.raw("Subject: the last one\r\n\r\nhalf of");
    let mut in_hook = relay.connect("mx");
    in_hook.line("EHLO slow.test");

    relay.signal(Signal::SIGTERM);
    let said = idle.rest();
    assert!(said.starts_with("421 4.3.2 "), "{said:?}");
    // Who was waiting for a policy when the end began is not forgotten.
    let said = in_hook.rest();
    assert!(said.contains("421 4.3.2 "), "{said:?}");
    until("nobody can connect any more", || TcpStream::connect(address).is_err());
    in_data.raw(" it\r\n.\r\n");
    in_data.expect("250 2.0.0");
    let said = in_data.rest();
    assert!(said.starts_with("421 4.3.2 "), "{said:?}");
    assert_eq!(relay.wait().code(), Some(0));

    // It was delivered on the way out, or is now.
    relay.restart();
    let received = sink.wait_for(1);
    assert_eq!(
        received[0].below_trace(),
        b"Subject: the last one\r\n\r\nhalf of it\r\n"
    );
}

#[test]
fn a_worker_that_is_killed_is_replaced_on_the_same_listeners() {
    let admin = free_address();
    let relay = Setup::new().top(&format!("[admin]\naddress = \"{admin}\"")).start();
    let before = relay.worker();
    let mut running = relay.connect("mx");
    kill(before, Signal::SIGKILL).expect("the worker is there");
    assert_eq!(running.rest(), "");
    // The supervisor holds the sockets: who comes now waits for the new worker, and is not refused.
    let mut client = relay.connect("mx");
    in_transaction(&mut client);
    client.says("RCPT TO:<u@ours.test>", "250 2.1.5");
    assert_ne!(relay.worker(), before);
    relay.logged(&["\"error\"", "the worker died", "SIGKILL"]);
    let page = relay.page(admin, "/metrics");
    assert!(page.contains("gatepost_worker_restarts 1\n"), "{page}");
}

#[test]
fn the_pages_say_how_it_is() {
    let admin = free_address();
    let relay = Setup::new().top(&format!("[admin]\naddress = \"{admin}\"")).start();
    relay.connect("mx").says("QUIT", "221");
    for (path, start, text) in [
        ("/healthz", "HTTP/1.1 200", "ok\n"),
        ("/readyz", "HTTP/1.1 200", "ok\n"),
        (
            "/metrics",
            "HTTP/1.1 200",
            "gatepost_sessions_total{listener=\"mx\"} 1\n",
        ),
        ("/", "HTTP/1.1 404", "/metrics"),
    ] {
        let page = relay.page(admin, path);
        assert!(page.starts_with(start) && page.contains(text), "{path}: {page}");
    }
    // A drain can be seen while it lasts: this session keeps it open.
    let mut in_data = relay.connect("mx");
    in_transaction(&mut in_data);
    in_data.says("RCPT TO:<u@ours.test>", "250");
    in_data.says("DATA", "354");
    relay.signal(Signal::SIGTERM);
    until("it is not ready", || {
        relay.page(admin, "/readyz").starts_with("HTTP/1.1 503")
    });
    assert!(relay.page(admin, "/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn the_worker_has_no_rights_to_lose() {
    let relay = Setup::new().start();
    let status = |pid: nix::unistd::Pid| std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field = |status: &str, name: &str| -> String {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line[name.len()..].trim().to_owned()
    };
    let worker = status(relay.worker());
    assert_eq!(field(&worker, "NoNewPrivs:"), "1");
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: not root, so the worker's user is not changed");
        return;
    }
    for ids in ["Uid:", "Gid:"] {
        let ids = field(&worker, ids);
        assert!(ids.split_whitespace().all(|id| id != "0"), "{ids}");
    }
    assert!(!field(&worker, "Groups:").split_whitespace().any(|id| id == "0"));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(&worker, set), "0000000000000000", "{set}");
    }
    assert_eq!(
        field(&status(relay.supervisor()), "Uid:").split_whitespace().next(),
        Some("0")
    );
}
