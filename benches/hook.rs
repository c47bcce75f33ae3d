//! What a hook call costs: a warm one of each reference plugin, whole, as a connection makes it (question, lease, guest, checked answer, decision).
//!
//! `scripts/build-plugins` must have run.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use gatepost::auth::Users;
use gatepost::config::Config;
use gatepost::dns::Dns;
use gatepost::message::{AuthOffer, Body, Envelope, Identity, SessionFacts};
use gatepost::policy::chain::{self, Question, Scope};
use gatepost::policy::decision::{Decision, Journal, Stage};
use gatepost::policy::gate::{Class, Reason};
use gatepost::policy::services::authentication::Authenticator;
use gatepost::policy::services::content::Content;
use gatepost::policy::services::state::State;
use gatepost::policy::{Compiler, Engine, Files, Policies, Policy, Services, Transaction};
use gatepost_smtp::address::Address;
use tokio::runtime::Runtime;

/// Takes decisions and forgets them.
struct Nobody;

impl Journal for Nobody {
    fn decision(&self, decision: &Decision) {
        assert!(decision.failure.is_none(), "{decision:?}");
    }

    fn plugin_log(&self, _: gatepost::message::Id, _: &str, _: Stage, _: tracing::Level, _: &str) {}
}

/// A policy of one plugin, with a configuration that makes it work.
async fn policy(name: &str, grants: &str, settings: &str) -> Arc<Policy> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("target/plugins").join(format!("{name}.wasm"));
    let bytes =
        std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; run scripts/build-plugins", file.display()));
    let text = format!(
        "hostname = \"relay.test\"\nrelay_domains = [\"ours.test\"]\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         [[plugin]]\nname = \"{name}\"\nfile = \"{name}.wasm\"\ngrants = [{grants}]\n[plugin.config]\n{settings}"
    );
    let config = Config::parse(&text, Path::new("bench.toml")).expect("a configuration");
    let dns = Dns::new(&["127.0.0.1:1".parse().expect("an address")]).expect("a resolver");
    let services = Arc::new(Services {
        relay_domains: Arc::new(config.relay_domains.clone()),
        users: Arc::new(Users::parse(b"", Path::new("users")).expect("no users")),
        state: State::in_memory(),
        authenticator: Authenticator::new(&dns, "relay.test"),
        dns,
        counters: Arc::default(),
        journal: Arc::new(Nobody),
    });
    let files = Files::from([(name.to_owned(), Arc::from(bytes))]);
    let engine = Engine::new(Compiler::here()).expect("an engine");
    let loaded = Policies::start(engine, &config, &files, services).await;
    loaded
        .map_err(|errors| format!("{errors:?}"))
        .expect("the plugin loads")
        .current()
}

fn scope(policy: &Policy) -> Scope {
    let peer = "192.0.2.7:40000".parse().expect("an address");
    let mut session = SessionFacts::new("submission".into(), AuthOffer::Required, peer, peer);
    session.ehlo = Some("client.test".into());
    session.identity = Some(Identity {
        name: "alice".into(),
        method: "PLAIN".into(),
    });
    let mut scope = Scope::new(Arc::new(session), policy.services.clone());
    scope.transaction = Some(Arc::new(transaction()));
    scope
}

fn transaction() -> Transaction {
    Transaction {
        envelope: Envelope {
            sender: "alice@ours.test".into(),
            ..Envelope::default()
        },
        ..Transaction::default()
    }
}

/// A plain mail of 4 kB.
fn mail() -> Body {
    let mut text = String::from(
        "Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nFrom: Alice <alice@ours.test>\r\nTo: Bob <bob@remote.test>\r\n\
         Subject: The minutes of Monday\r\nMessage-ID: <1@ours.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
    );
    while text.len() < 4096 {
        text += "We met on Monday and agreed to meet again, as one does when nothing else could be agreed on.\r\n";
    }
    Body::Memory(Bytes::from(text))
}

/// Measures one question to one policy, asked again and again in one session.
fn measure(
    criterion: &mut Criterion,
    runtime: &Runtime,
    name: &str,
    policy: &Policy,
    mut prepare: impl FnMut(&mut Scope),
    question: impl Fn() -> Question<'static>,
) {
    let mut scope = scope(policy);
    criterion.bench_function(&format!("hook/{name}"), |bencher| {
        bencher.iter_custom(|calls| {
            runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..calls {
                    prepare(&mut scope);
                    black_box(chain::ask(policy, &mut scope, question()).await);
                }
                began.elapsed()
            })
        });
    });
}

fn hooks(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let recipient: &Address = Box::leak(Box::new(Address::parse("bob@remote.test").expect("an address")));
    let foreign = Class::Foreign(Reason::DomainNotOurs);
    let load = |name, grants, settings| runtime.block_on(policy(name, grants, settings));

    let auth_relay = load("auth-relay", "\"credentials\", \"relay\"", "");
    measure(
        criterion,
        &runtime,
        "auth-relay on-rcpt, relayed",
        &auth_relay,
        |_| {},
        || Question::Rcpt(recipient, &[], foreign),
    );
    measure(
        criterion,
        &runtime,
        "auth-relay on-rcpt, ours",
        &auth_relay,
        |_| {},
        || Question::Rcpt(recipient, &[], Class::Ours),
    );

    let limits = "limits = [{ count = \"messages\", per = \"network\", rate = 4000000, per_seconds = 1 }, \
                  { count = \"messages\", per = \"identity\", rate = 4000000, per_seconds = 1 }]";
    let rate_limit = load("rate-limit", "\"state\"", limits);
    measure(
        criterion,
        &runtime,
        "rate-limit on-rcpt, a message of two buckets",
        &rate_limit,
        |scope| scope.transaction = Some(Arc::new(transaction())),
        || Question::Rcpt(recipient, &[], Class::Ours),
    );

    let spam_scan = load("spam-scan", "\"read-message\", \"edit-message\"", "");
    let body = mail();
    let fresh = |scope: &mut Scope| scope.content = Some(Arc::new(Content::new(body.clone())));
    measure(
        criterion,
        &runtime,
        "spam-scan on-message, 4 kB",
        &spam_scan,
        fresh,
        || Question::Message,
    );
}

criterion_group!(benches, hooks);
criterion_main!(benches);
