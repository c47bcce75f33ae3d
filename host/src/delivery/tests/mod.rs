//! Delivery against scripted next hops: what reaches them, and what the spool knows afterwards.

#![allow(clippy::disallowed_methods, reason = "a test sends a handful of values")]

mod hop;
mod routing;

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::config::Config;
use crate::message::{
    AuthOffer, Body, Envelope, Id, MailParams, NewMessage, Notify, Origin, QueueState, RcptParams, Recipient,
    RecipientStatus, SessionFacts,
};
use crate::spool::SpoolOptions;
use hop::Hop;

/// For what comes when things work; only a broken test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hears of every attempt, and routes by a table.
struct Ears {
    attempts: mpsc::UnboundedSender<AttemptResult>,
    route: fn(&str) -> RouteDecision,
}

impl DeliveryPolicy for Ears {
    fn wants_on_route(&self) -> bool {
        true
    }

    fn on_route<'a>(&'a self, _: Id, state: &'a QueueState, pending: &'a [usize]) -> BoxFuture<'a, Vec<RouteDecision>> {
        let address = |index: &usize| &*state.envelope.recipients[*index].address;
        Box::pin(async move { pending.iter().map(|index| (self.route)(address(index))).collect() })
    }

    fn wants_on_delivery(&self) -> bool {
        true
    }

    fn on_delivery<'a>(
        &'a self,
        _: Id,
        _: &'a QueueState,
        attempt: &'a AttemptResult,
    ) -> BoxFuture<'a, Option<Duration>> {
        // The test may be over.
        let _ = self.attempts.send(attempt.clone());
        Box::pin(async { None })
    }
}

/// A relay's delivery over a spool of its own.
struct Rig {
    spool: Spool,
    delivery: DeliveryHandle,
    attempts: mpsc::UnboundedReceiver<AttemptResult>,
    _folder: tempfile::TempDir,
}

/// How a rig differs from the ordinary one.
struct Options {
    /// TOML below the first lines.
    config: String,
    dns: Option<Dns>,
    /// Where MX hosts are called.
    mx_port: u16,
    route: fn(&str) -> RouteDecision,
    tls: Option<ClientTls>,
    listeners: Vec<SocketAddr>,
}

impl Options {
    /// Everything goes to this hop.
    fn to(hop: &Hop) -> Options {
        Options::new(format!("[delivery]\nnext_hop = \"smtp://{}\"\n", hop.address))
    }

    fn new(config: String) -> Options {
        Options {
            config,
            dns: None,
            mx_port: SMTP_PORT,
            route: |_| RouteDecision::PASS,
            tls: None,
            listeners: Vec::new(),
        }
    }

    fn and(mut self, more: &str) -> Options {
        self.config.push_str(more);
        self
    }

    fn settings(&self, metrics: &Metrics) -> DeliveryConfig {
        let text = format!(
            "hostname = \"relay.example\"\nrelay_domains = [\"x.example\"]\n\
             [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:2525\"\n{}",
            self.config
        );
        let config = Config::parse(&text, Path::new("test.toml")).expect("a good configuration");
        let mut settings = DeliveryConfig::new(&config, metrics, |_| Ok("secret".to_owned().into())).expect("settings");
        settings.mx_port = self.mx_port;
        settings.listeners.clone_from(&self.listeners);
        if let Some(tls) = &self.tls {
            settings.tls = tls.clone();
        }
        settings
    }
}

impl Rig {
    async fn start(options: Options) -> Rig {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let metrics = Metrics::new();
        let settings = options.settings(&metrics);
        let (spool, _) = Spool::open(
            folder.path(),
            SpoolOptions {
                min_free_bytes: 0,
                ..Default::default()
            },
        )
        .expect("a spool");
        let dns = options
            .dns
            .unwrap_or_else(|| Dns::new(&["127.0.0.1:9".parse().expect("an address")]).expect("a resolver"));
        let (sender, attempts) = mpsc::unbounded_channel();
        let ears = Arc::new(Ears {
            attempts: sender,
            route: options.route,
        });
        let delivery = Delivery::start(Arc::new(settings), spool.clone(), dns, ears, Arc::new(metrics));
        Rig {
            spool,
            delivery,
            attempts,
            _folder: folder,
        }
    }

    async fn submit(&self, message: NewMessage) -> Id {
        let id = message.id;
        self.spool.append(message).await.expect("the spool has room");
        id
    }

    /// The next attempt's end, as `0 delivered by PLACE: REPLY`.
    async fn attempt(&mut self) -> String {
        let attempt = tokio::time::timeout(PATIENCE, self.attempts.recv())
            .await
            .expect("an attempt in time");
        let attempt = attempt.expect("delivery lives");
        format!("{} {}: {}", attempt.recipient, attempt.outcome.as_str(), attempt.reply)
    }

    /// Waits until all attempts that began are recorded, and says what is left.
    async fn rest(self) -> Vec<(Id, Arc<QueueState>)> {
        assert!(self.delivery.drain(PATIENCE).await, "attempts ended in time");
        self.spool
            .list(None, 100)
            .into_iter()
            .map(|listed| (listed.id, listed.state))
            .collect()
    }
}

const CONTENT: &str = "Subject: test\r\n\r\n.first\r\nlast\r\n";

fn mail(sender: &str, recipients: &[&str]) -> NewMessage {
    let facts = SessionFacts::new(
        "in".into(),
        AuthOffer::Off,
        ([127, 0, 0, 1], 25).into(),
        ([127, 0, 0, 1], 9).into(),
    );
    let recipient = |address: &&str| Recipient {
        address: (*address).to_owned(),
        ..Recipient::default()
    };
    NewMessage {
        id: Id::new(),
        envelope: Envelope {
            sender: sender.to_owned(),
            params: MailParams::default(),
            recipients: recipients.iter().map(recipient).collect(),
        },
        head: Bytes::from_static(b"Received: from test\r\n"),
        body: Body::Memory(Bytes::from_static(CONTENT.as_bytes())),
        origin: Arc::new(Origin {
            session: Arc::new(facts),
            notes: Default::default(),
            tags: Vec::new(),
            received: SystemTime::now(),
        }),
        held: None,
    }
}

fn received_ago(mut message: NewMessage, age: Duration) -> NewMessage {
    let origin = Origin::clone(&message.origin);
    message.origin = Arc::new(Origin {
        received: SystemTime::now() - age,
        ..origin
    });
    message
}

#[tokio::test]
async fn messages_flow_over_one_connection_and_leave_the_queue() {
    let mut hop = Hop::start("EHLO = 250-hop|250-PIPELINING|250 SIZE 1000000").await;
    let mut rig = Rig::start(Options::to(&hop).and("connections = 1\n")).await;
    for _ in 0..3 {
        rig.submit(mail("a@x.example", &["b@y.example", "c@y.example"])).await;
    }
    let first = hop.message().await;
    let size = CONTENT.len() + "Received: from test\r\n".len();
    assert_eq!(
        first.commands,
        [
            "EHLO relay.example".to_owned(),
            format!("MAIL FROM:<a@x.example> SIZE={size}"),
            "RCPT TO:<b@y.example>".to_owned(),
            "RCPT TO:<c@y.example>".to_owned(),
            "DATA".to_owned(),
        ]
    );
    assert_eq!(first.content, format!("Received: from test\r\n{CONTENT}"));
    for _ in 0..2 {
        assert_eq!(hop.message().await.commands.len(), 4);
    }
    for _ in 0..3 {
        assert_eq!(rig.attempt().await, "0 delivered: 250 2.0.0 fine");
        assert_eq!(rig.attempt().await, "1 delivered: 250 2.0.0 fine");
    }
    assert!(rig.rest().await.is_empty());
    assert_eq!(hop.connections(), 1);
}

#[tokio::test]
async fn a_connection_carries_no_more_messages_than_configured() {
    let mut hop = Hop::start("").await;
    let limits = "connections = 1\nmessages_per_connection = 2\nidle_timeout = \"10m\"\n";
    let rig = Rig::start(Options::to(&hop).and(limits)).await;
    let mut by_connection = Vec::new();
    for _ in 0..5 {
        rig.submit(mail("a@x.example", &["b@y.example"])).await;
        by_connection.push(hop.message().await.connection);
    }
    assert_eq!(by_connection, [1, 1, 2, 2, 3]);
    assert!(rig.rest().await.is_empty());
}

#[tokio::test]
async fn a_refused_recipient_is_bounced_and_a_deferred_one_waits() {
    let mut hop = Hop::start(
        "EHLO = 250-hop|250 PIPELINING
         RCPT TO:<no@ = 550 5.1.1 <no@y.example>: no such user
         RCPT TO:<later@ = 450 4.2.0 greylisted",
    )
    .await;
    let mut rig = Rig::start(Options::to(&hop)).await;
    let id = rig
        .submit(mail(
            "a@x.example",
            &["no@y.example", "yes@y.example", "later@y.example"],
        ))
        .await;
    assert_eq!(hop.message().await.commands.last().map(String::as_str), Some("DATA"));
    for expected in [
        "0 failed: 550 5.1.1 <no@y.example>: no such user",
        "1 delivered: 250 2.0.0 fine",
        "2 deferred: 450 4.2.0 greylisted",
    ] {
        assert_eq!(rig.attempt().await, expected);
    }
    let bounce = hop.message().await;
    assert!(
        bounce.commands.iter().any(|command| command == "MAIL FROM:<>"),
        "{:?}",
        bounce.commands
    );
    assert!(
        bounce.commands.iter().any(|command| command == "RCPT TO:<a@x.example>"),
        "{:?}",
        bounce.commands
    );
    for field in [
        "Content-Type: multipart/report; report-type=delivery-status;",
        "Reporting-MTA: dns; relay.example",
        "Final-Recipient: rfc822; no@y.example",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; 127.0.0.1",
        "Diagnostic-Code: smtp; 550 5.1.1 <no@y.example>: no such user",
        "Subject: test",
    ] {
        assert!(
            bounce.content.lines().any(|line| line == field),
            "{field} in\n{}",
            bounce.content
        );
    }
    assert!(!bounce.content.contains("later@") && !bounce.content.contains("yes@"));
    assert_eq!(rig.attempt().await, "0 delivered: 250 2.0.0 fine");
    let rest = rig.rest().await;
    let [(left, state)] = &rest[..] else {
        panic!("one message is left: {rest:?}")
    };
    assert_eq!((*left, state.attempts), (id, 1));
    assert!(state.next_attempt.is_some_and(|at| at > SystemTime::now()));
    assert_eq!(state.last_error.as_deref(), Some("450 4.2.0 greylisted"));
    let fates: Vec<bool> = state
        .envelope
        .recipients
        .iter()
        .map(|rcpt| rcpt.status == RecipientStatus::Pending)
        .collect();
    assert_eq!(fates, [false, false, true]);
}

#[tokio::test]
async fn what_has_waited_too_long_is_bounced_and_the_null_sender_never_is() {
    let mut hop = Hop::start("RCPT TO:<later@ = 450 4.2.0 greylisted").await;
    let mut rig = Rig::start(Options::to(&hop)).await;
    let old = Duration::from_secs(6 * 24 * 60 * 60);
    rig.submit(received_ago(mail("", &["later@y.example"]), old)).await;
    let expired = "0 failed: 554 5.4.7 delivery time expired; the last attempt ended with: 450 4.2.0 greylisted";
    assert_eq!(rig.attempt().await, expired);
    rig.submit(received_ago(mail("a@x.example", &["later@y.example"]), old))
        .await;
    assert_eq!(rig.attempt().await, expired);
    let bounce = hop.message().await;
    assert!(
        bounce
            .content
            .contains("Diagnostic-Code: X-Gatepost; 554 5.4.7 delivery time expired")
    );
    assert_eq!(rig.attempt().await, "0 delivered: 250 2.0.0 fine");
    assert!(rig.rest().await.is_empty());
    assert!(hop.nothing_more());
}

#[tokio::test]
async fn the_sender_hears_once_of_a_delay() {
    let mut hop = Hop::start("RCPT TO:<later@ = 450 4.2.0 greylisted").await;
    let mut rig = Rig::start(Options::to(&hop)).await;
    let id = rig
        .submit(received_ago(
            mail("a@x.example", &["later@y.example"]),
            Duration::from_secs(5 * 60 * 60),
        ))
        .await;
    assert_eq!(rig.attempt().await, "0 deferred: 450 4.2.0 greylisted");
    let notice = hop.message().await;
    assert!(notice.content.contains("Action: delayed") && notice.content.contains("Will-Retry-Until: "));
    assert!(rig.attempt().await.starts_with("0 delivered"));
    // Put off by the attempt, so that it is settled before it can be tried again.
    while rig.spool.show(id).is_none_or(|state| !state.delay_notified) {
        tokio::task::yield_now().await;
    }
    rig.spool.retry(id).await.expect("it is in the queue");
    assert_eq!(rig.attempt().await, "0 deferred: 450 4.2.0 greylisted");
    let rest = rig.rest().await;
    assert_eq!((rest.len(), rest[0].1.attempts, rest[0].1.delay_notified), (1, 2, true));
    assert!(hop.nothing_more());
}

#[tokio::test]
async fn success_is_reported_only_where_the_next_hop_does_not_promise_to() {
    let cases = [("EHLO = 250-hop|250 DSN", false), ("EHLO = 250 hop", true)];
    for (script, reported) in cases {
        let mut hop = Hop::start(script).await;
        let mut rig = Rig::start(Options::to(&hop)).await;
        let mut message = mail("a@x.example", &["b@y.example"]);
        message.envelope.params.envid = Some("QQ+3D1".to_owned());
        message.envelope.recipients[0].params = RcptParams {
            notify: Some(Notify {
                success: true,
                failure: true,
                delay: false,
            }),
            orcpt: Some("rfc822;o+2Bo@y".into()),
        };
        rig.submit(message).await;
        let commands = hop.message().await.commands;
        assert_eq!(
            commands
                .iter()
                .any(|command| command.ends_with(" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2Bo@y")),
            !reported
        );
        assert!(rig.attempt().await.starts_with("0 delivered"));
        if reported {
            let notice = hop.message().await.content;
            for field in [
                "Action: relayed",
                "Original-Envelope-Id: QQ=1",
                "Original-Recipient: rfc822; o+o@y",
                "Status: 2.0.0",
            ] {
                assert!(notice.lines().any(|line| line == field), "{field} in\n{notice}");
            }
        }
        assert!(rig.rest().await.is_empty());
        assert!(hop.nothing_more());
    }
}

#[tokio::test]
async fn an_idle_connection_that_died_is_replaced_without_a_word() {
    // The first connection takes one message and is closed when the second one comes.
    let mut hop = Hop::start("[1] MAIL FROM:<second@ = CLOSE").await;
    let mut rig = Rig::start(Options::to(&hop).and("connections = 1\n")).await;
    rig.submit(mail("first@x.example", &["b@y.example"])).await;
    assert_eq!(hop.message().await.connection, 1);
    rig.submit(mail("second@x.example", &["b@y.example"])).await;
    assert_eq!(hop.message().await.connection, 2);
    for _ in 0..2 {
        assert_eq!(rig.attempt().await, "0 delivered: 250 2.0.0 fine");
    }
    assert!(rig.rest().await.is_empty());
}

#[tokio::test]
async fn a_connection_lost_after_the_content_defers_and_is_not_repeated_at_once() {
    let mut hop = Hop::start(". = CLOSE").await;
    let mut rig = Rig::start(Options::to(&hop)).await;
    rig.submit(mail("a@x.example", &["b@y.example"])).await;
    hop.message().await;
    assert_eq!(
        rig.attempt().await,
        "0 deferred: 421 4.4.2 the connection was closed after sending the message; it may have arrived"
    );
    assert_eq!(rig.rest().await.len(), 1);
    assert!(hop.nothing_more());
}

#[tokio::test]
async fn when_nobody_answers_the_queue_is_deferred_with_one_attempt() {
    let hop = Hop::start("BANNER = 554 5.3.2 not today").await;
    let mut rig = Rig::start(Options::to(&hop).and("connections = 1\n")).await;
    for _ in 0..10 {
        rig.submit(mail("a@x.example", &["b@y.example"])).await;
    }
    for _ in 0..10 {
        let end = rig.attempt().await;
        assert!(end.starts_with("0 deferred: 450 4.3.2 127.0.0.1[127.0.0.1]"), "{end}");
        assert!(end.ends_with("refused to talk to us: 554 5.3.2 not today"), "{end}");
    }
    assert_eq!(hop.connections(), 1);
    let rest = rig.rest().await;
    assert!(
        rest.len() == 10
            && rest
                .iter()
                .all(|(_, state)| state.attempts == 1 && state.next_attempt.is_some())
    );
}

#[tokio::test]
async fn where_more_connections_are_refused_those_that_stand_do_the_work() {
    let mut hop = Hop::start("[1] BANNER = 220 welcome\nBANNER = 421 4.7.0 too many connections").await;
    let mut rig = Rig::start(Options::to(&hop).and("connections = 4\n")).await;
    for _ in 0..10 {
        rig.submit(mail("a@x.example", &["b@y.example"])).await;
    }
    for _ in 0..10 {
        assert_eq!(hop.message().await.connection, 1);
        assert_eq!(rig.attempt().await, "0 delivered: 250 2.0.0 fine");
    }
    assert!(rig.rest().await.is_empty());
}

#[tokio::test]
async fn what_is_delivered_is_recorded_while_other_recipients_are_attempted() {
    let hop = Hop::start("MAIL = SILENCE").await;
    let other = "[[route]]\nname = \"none\"\ndomains = [\"z.example\"]\nnext_hop = \"discard:\"\n";
    let mut rig = Rig::start(Options::to(&hop).and(other)).await;
    let id = rig.submit(mail("a@x.example", &["b@y.example", "c@z.example"])).await;
    assert_eq!(rig.attempt().await, "1 delivered: 250 2.0.0 discarded");
    let recorded = async {
        loop {
            let listed = rig.spool.list(None, 1).into_iter().next().expect("it is in the queue");
            let pending = |nth: usize| listed.state.envelope.recipients[nth].status == RecipientStatus::Pending;
            if listed.id == id && listed.claimed && pending(0) && !pending(1) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, recorded)
        .await
        .expect("recorded in time");
}

#[tokio::test]
async fn a_drain_interrupts_what_takes_too_long_and_gives_it_back() {
    let hop = Hop::start("MAIL = SILENCE").await;
    let mut rig = Rig::start(
        Options::to(&hop)
            .and("connections = 1\n[[route]]\nname = \"none\"\ndomains = [\"z.example\"]\nnext_hop = \"discard:\"\n"),
    )
    .await;
    let id = rig.submit(mail("a@x.example", &["b@y.example", "c@z.example"])).await;
    let other = rig.submit(mail("a@x.example", &["b@y.example"])).await;
    assert_eq!(rig.attempt().await, "1 delivered: 250 2.0.0 discarded");
    assert!(!rig.delivery.drain(Duration::ZERO).await);
    let listed = rig.spool.list(None, 10);
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|listed| !listed.claimed));
    let state = rig.spool.show(id).expect("it is in the queue");
    let fates: Vec<bool> = state
        .envelope
        .recipients
        .iter()
        .map(|rcpt| rcpt.status == RecipientStatus::Pending)
        .collect();
    assert_eq!(fates, [true, false]);
    assert_eq!(rig.spool.show(other).map(|state| state.attempts), Some(0));
}

#[tokio::test]
async fn a_large_message_is_streamed_and_stuffed() {
    let mut hop = Hop::start("").await;
    let rig = Rig::start(Options::to(&hop)).await;
    let line = ".a line that begins with a dot and is of some length\r\n";
    let count = Body::MEMORY_LIMIT / line.len() * 3;
    let mut writer = rig.spool.body_writer();
    for _ in 0..count {
        writer.push(line.as_bytes()).await.expect("room");
    }
    let message = NewMessage {
        body: writer.finish().await.expect("room"),
        ..mail("a@x.example", &["b@y.example"])
    };
    assert!(matches!(message.body, Body::File { .. }));
    rig.submit(message).await;
    assert_eq!(
        hop.message().await.content,
        format!("Received: from test\r\n{}", line.repeat(count))
    );
    assert!(rig.rest().await.is_empty());
}

#[tokio::test]
async fn a_reload_holds_for_what_is_claimed_from_then_on() {
    let mut old = Hop::start("").await;
    let mut new = Hop::start("").await;
    let rig = Rig::start(Options::to(&old).and("idle_timeout = \"10m\"\n")).await;
    rig.submit(mail("a@x.example", &["b@y.example"])).await;
    old.message().await;
    rig.delivery.reload(Arc::new(
        Options::to(&new)
            .and("connections_total = 1\nidle_timeout = \"10m\"\n")
            .settings(&Metrics::new()),
    ));
    for _ in 0..3 {
        rig.submit(mail("a@x.example", &["b@y.example"])).await;
        new.message().await;
    }
    old.goodbye().await;
    assert!(rig.rest().await.is_empty());
    assert!(old.nothing_more());
}
