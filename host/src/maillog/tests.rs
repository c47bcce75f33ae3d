//! The events, as the lines that they become.

use std::io;
use std::net::SocketAddr;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::message::{AuthOffer, Identity, TlsFacts};

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged meanwhile, as text.
fn logged(format: Format, level: Level, what: impl FnOnce(&LineSubscriber)) -> String {
    let memory = Memory::default();
    let subscriber = Arc::new(LineSubscriber::new(format, level, Sink::direct(memory.clone())));
    tracing::subscriber::with_default(subscriber.clone(), || what(&subscriber));
    let bytes = memory.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

/// The same as JSON, without the time, which is checked.
fn events(level: Level, what: impl FnOnce(&LineSubscriber)) -> Vec<Value> {
    let text = logged(Format::Json, level, what);
    let event = |line: &str| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let time = event.as_object_mut().unwrap().remove("time").unwrap();
        assert_eq!(time.as_str().unwrap().len(), "1970-01-01T00:00:00.000000Z".len());
        event
    };
    text.lines().map(event).collect()
}

fn session() -> SessionFacts {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let mut session = SessionFacts::new(
        Arc::from("mx"),
        AuthOffer::Off,
        address("192.0.2.1:25"),
        address("198.51.100.9:4711"),
    );
    session.id = Id(1);
    session.ehlo = Some(Arc::from("client.test"));
    session.tls = Some(TlsFacts {
        version: Arc::from("TLSv1.3"),
        cipher: Arc::from("TLS_AES_128_GCM_SHA256"),
        server_name: None,
    });
    session.identity = Some(Identity {
        name: Arc::from("alice"),
        method: Arc::from("PLAIN"),
    });
    session
}

#[test]
fn a_session_in_events() {
    let facts = session();
    let found = events(Level::DEBUG, |_| {
        session_started(&facts);
        hello(&facts);
        tls(&facts);
        auth(&facts);
        auth_failed(&facts, "LOGIN", Some("bob"), "bad-credentials");
    });
    let id = "0000000000001";
    assert_eq!(
        found,
        [
            json!({"level": "info", "event": "connected", "session_id": id, "listener": "mx", "peer": "198.51.100.9:4711", "local": "192.0.2.1:25"}),
            json!({"level": "debug", "event": "hello", "session_id": id, "ehlo": "client.test", "esmtp": false}),
            json!({"level": "info", "event": "tls", "session_id": id, "version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256"}),
            json!({"level": "info", "event": "auth", "session_id": id, "peer": "198.51.100.9:4711", "identity": "alice", "mechanism": "PLAIN"}),
            json!({"level": "info", "event": "auth failed", "session_id": id, "peer": "198.51.100.9:4711", "mechanism": "LOGIN", "user": "bob", "reason": "bad-credentials"}),
        ]
    );
}

#[test]
fn a_message_in_events() {
    let facts = session();
    let to = |address: &str| Recipient {
        address: address.to_owned(),
        ..Recipient::default()
    };
    let many: Vec<Recipient> = (0..12).map(|number| to(&format!("u{number}@x.test"))).collect();
    let found = events(Level::INFO, |_| {
        refused(&Refusal {
            session: &facts,
            id: Id(2),
            command: "RCPT",
            reply: "550 5.7.1 <x@y.test>: Relay access denied (domain-not-ours) [0000000000002]",
            reason: "domain-not-ours",
            plugin: None,
            stage: None,
            sender: Some("a\r\nb"),
            recipient: Some("x@y.test"),
            detail: "",
        });
        accepted(&Accepted {
            session: &facts,
            message_id: Id(3),
            sender: "",
            recipients: &many,
            size_bytes: 4096,
            held: None,
            took: Duration::from_micros(1500),
        });
        delivery(&DeliveryEvent {
            message_id: Id(3),
            sender: "",
            recipients: &["u0@x.test"],
            result: "failed",
            route: "default",
            next_hop: "mx.x.test",
            address: None,
            tls: None,
            reply: "550 5.1.1 no such user",
            attempt: 2,
            age: Duration::from_secs(61),
            next_attempt: None,
        });
    });
    let named = "u0@x.test,u1@x.test,u2@x.test,u3@x.test,u4@x.test,u5@x.test,u6@x.test,u7@x.test,u8@x.test,u9@x.test";
    assert_eq!(
        found,
        [
            json!({"level": "info", "event": "refused", "session_id": "0000000000001", "id": "0000000000002", "peer": "198.51.100.9:4711",
                   "command": "RCPT", "reply": "550 5.7.1 <x@y.test>: Relay access denied (domain-not-ours) [0000000000002]",
                   "reason": "domain-not-ours", "sender": "a\r\nb", "recipient": "x@y.test", "identity": "alice"}),
            json!({"level": "info", "event": "accepted", "session_id": "0000000000001", "message_id": "0000000000003",
                   "peer": "198.51.100.9:4711", "identity": "alice", "sender": "", "recipients": named, "recipient_count": 12,
                   "size_bytes": 4096, "took_us": 1500}),
            json!({"level": "warn", "event": "failed", "message_id": "0000000000003", "sender": "", "recipients": "u0@x.test",
                   "recipient_count": 1, "route": "default", "next_hop": "mx.x.test", "reply": "550 5.1.1 no such user",
                   "attempt": 2, "age_ms": 61000}),
        ]
    );
}

#[test]
fn decisions_by_weight() {
    let says = |verdict: &'static str, failure: Option<&'static str>| {
        events(Level::DEBUG, |_| {
            decision(&DecisionEvent {
                session_id: Id(1),
                message_id: None,
                stage: "on-rcpt",
                plugin: "rbl",
                version: &"0123456789ab",
                verdict,
                actions: &["tag a=b".to_owned(), "delay 1s".to_owned()],
                reason: "listed",
                detail: "",
                remedy: "read the rules",
                failure: failure.as_ref().map(|text| text as &dyn Display),
                took: Duration::from_micros(9),
            });
        })
    };
    let expected = |level: &str, verdict: &str| {
        json!({"level": level, "event": "decision", "session_id": "0000000000001", "stage": "on-rcpt", "plugin": "rbl",
               "version": "0123456789ab", "verdict": verdict, "actions": "tag a=b,delay 1s", "reason": "listed", "remedy": "read the rules", "took_us": 9})
    };
    assert_eq!(says("pass", None), [expected("debug", "pass")]);
    assert_eq!(says("reject", None), [expected("info", "reject")]);
    let mut failed = expected("warn", "defer");
    failed["failure"] = "it trapped".into();
    assert_eq!(says("defer", Some("it trapped")), [failed]);
}

#[test]
fn levels_and_whose_events() {
    let found = events(Level::INFO, |subscriber| {
        tracing::debug!("not wanted");
        tracing::info!(target: "hyper::proto", "of a library");
        tracing::warn!(target: "hyper::proto", "of a library, but serious");
        subscriber.set_level(Level::DEBUG);
        tracing::debug!(name = "n", "wanted now");
    });
    assert_eq!(
        found,
        [
            json!({"level": "warn", "event": "of a library, but serious"}),
            json!({"level": "debug", "event": "wanted now", "name": "n"}),
        ]
    );
}

#[test]
fn text_is_for_people() {
    let facts = session();
    let text = logged(Format::Text, Level::INFO, |_| {
        tls_failed(&facts, &"peer sent\x1b[31m nonsense")
    });
    let (_, rest) = text.split_once("Z  ").unwrap();
    assert_eq!(
        rest,
        "INFO tls failed session_id=0000000000001 peer=198.51.100.9:4711 error=\"peer sent\\u{1b}[31m nonsense\"\n"
    );
}

/// `cargo test --release --lib -- --ignored --nocapture cost_of_an_event`
#[test]
#[ignore = "a measurement"]
fn cost_of_an_event() {
    use nix::sys::resource::{UsageWho, getrusage};

    const EVENTS: u32 = 200_000;
    /// CPU time of an event, in nanoseconds: on the thread that logs, and with the one that writes.
    fn measure(event: impl Fn()) -> (i64, i64) {
        let used = |who| {
            let usage = getrusage(who).unwrap();
            [usage.user_time(), usage.system_time()]
                .iter()
                .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec())
                .sum::<i64>()
        };
        let (own, all) = (used(UsageWho::RUSAGE_THREAD), used(UsageWho::RUSAGE_SELF));
        (0..EVENTS).for_each(|_| event());
        let each = |before, now: i64| (now - before) * 1000 / i64::from(EVENTS);
        (
            each(own, used(UsageWho::RUSAGE_THREAD)),
            each(all, used(UsageWho::RUSAGE_SELF)),
        )
    }

    let facts = session();
    let recipients = [Recipient {
        address: "somebody@destination.example".into(),
        ..Recipient::default()
    }];
    let lost = Counter::default();
    let sink = Sink::buffered(io::sink(), Format::Json, lost.clone());
    let subscriber = LineSubscriber::new(Format::Json, Level::INFO, sink.clone());
    tracing::subscriber::with_default(subscriber, || {
        let (own, all) = measure(|| {
            accepted(&Accepted {
                session: &facts,
                message_id: Id(3),
                sender: "sender@origin.example",
                recipients: &recipients,
                size_bytes: 4096,
                held: None,
                took: Duration::from_micros(1500),
            });
        });
        println!(
            "{own} ns an event, {all} ns with the thread that writes, {} lost",
            lost.get()
        );
        println!("{} ns for one that is not wanted", measure(|| hello(&facts)).0);
    });
    sink.flush();
}
