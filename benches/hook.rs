//! What a hook call costs, whole, as a connection makes it (question, lease, guest, checked answer, decision): a warm one of each reference plugin;
//! one that asks for two facts, beside a round trip to a policy daemon over a Unix socket; one in a new instance; and the same policy in each language.
//!
//! `scripts/build-plugins` must have run, for `plugins` and for `tests/guests`; examples that were not built are left out, said aloud.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
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

/// A component below `target`.
fn component(folder: &str, name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    target.join(folder).join(format!("{name}.wasm"))
}

/// A policy of one reference plugin, with a configuration that makes it work.
async fn policy(name: &str, grants: &str, config: &str) -> Arc<Policy> {
    let settings = format!("grants = [{grants}]\n[plugin.config]\n{config}");
    policy_of(&component("plugins", name), &settings).await
}

/// A policy of one plugin with these keys.
async fn policy_of(file: &Path, settings: &str) -> Arc<Policy> {
    let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let bytes =
        std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}; run scripts/build-plugins", file.display()));
    let text = format!(
        "hostname = \"relay.test\"\nrelay_domains = [\"ours.test\"]\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         [[plugin]]\nname = \"{name}\"\nfile = \"{name}.wasm\"\n{settings}"
    );
    let config = Config::parse(&text, Path::new("bench.toml")).expect("a configuration");
    let dns = Dns::new(&["127.0.0.1:1".parse().expect("an address")]).expect("a resolver");
    let services = Arc::new(Services {
        relay_domains: Arc::new(config.relay_domains.clone()),
        users: Arc::new(Users::parse(b"", Path::new("users")).expect("no users")),
        keys: gatepost::dkim::Keys::default(),
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

/// A plain mail of so many bytes, of words that are seldom the same: scanning looks each one up.
fn mail(bytes: usize) -> Body {
    const SYLLABLES: [&str; 16] = [
        "ta", "men", "or", "ing", "ver", "so", "est", "li", "ca", "re", "tion", "pro", "un", "der", "al", "ment",
    ];
    let mut text = String::from(
        "Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nFrom: Alice <alice@ours.test>\r\nTo: Bob <bob@remote.test>\r\n\
         Subject: The minutes of Monday\r\nMessage-ID: <1@ours.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
    );
    // A linear congruence (Knuth's MMIX), so that each run scans the same.
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut line = text.len();
    while text.len() < bytes {
        for _ in 0..=next() % 3 {
            text += SYLLABLES[next() % SYLLABLES.len()];
        }
        if text.len() - line > 70 {
            text += "\r\n";
            line = text.len();
        } else {
            text += " ";
        }
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
    for kilobytes in [4, 64] {
        let body = mail(kilobytes * 1024);
        let fresh = |scope: &mut Scope| scope.content = Some(Arc::new(Content::new(body.clone())));
        let name = format!("spam-scan on-message, {kilobytes} kB");
        measure(criterion, &runtime, &name, &spam_scan, fresh, || Question::Message);
    }
}

/// What a relay asks a policy daemon (Postfix's `smtpd_access_policy`), and what that answers at least.
const POLICY_REQUEST: &[u8] = b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.7\n\
    client_name=client.test\nhelo_name=client.test\nsender=alice@ours.test\nrecipient=bob@remote.test\nrecipient_count=0\nqueue_id=\n\
    instance=1.2.3\nsize=0\nsasl_method=plain\nsasl_username=alice\nsasl_sender=\n\n";
const POLICY_ANSWER: &[u8] = b"action=DUNNO\n\n";

/// A round trip to a daemon that does nothing but answer, and the same question to a warm policy.
fn two_facts(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let recipient: &Address = Box::leak(Box::new(Address::parse("bob@ours.test").expect("an address")));
    let rcpt = || Question::Rcpt(recipient, &[], Class::Ours);
    let guest = |name, settings| runtime.block_on(policy_of(&component("guests", name), settings));
    let mut ask = |name: &str, policy: &Policy| measure(criterion, &runtime, name, policy, |_| {}, rcpt);
    ask("address and a note, warm", &guest("reader", ""));
    ask("a new instance", &guest("bare", "instances = \"fresh\""));
    ask("a new instance, configured", &guest("reader", "instances = \"fresh\""));

    let (mut relay, mut daemon) = UnixStream::pair().expect("a pair of sockets");
    let answering = std::thread::spawn(move || {
        let mut request = [0; POLICY_REQUEST.len()];
        while daemon.read_exact(&mut request).is_ok() {
            daemon.write_all(POLICY_ANSWER).expect("the relay is there");
        }
    });
    criterion.bench_function("hook/policy daemon over a Unix socket", |bencher| {
        let mut answer = [0; POLICY_ANSWER.len()];
        bencher.iter(|| {
            relay.write_all(POLICY_REQUEST).expect("the daemon is there");
            relay.read_exact(&mut answer).expect("an answer");
        });
    });
    drop(relay);
    answering.join().expect("it ended with the relay");
}

/// The same policy in each language, warm and in a new instance, and what an instance holds.
fn languages(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let recipient: &Address = Box::leak(Box::new(Address::parse("bob@ours.test").expect("an address")));
    for language in ["rust", "c", "js", "ts", "python"] {
        let file = component("examples", &format!("greylist-{language}"));
        if !file.exists() {
            eprintln!("SKIPPED: {} is not there: build the examples first", file.display());
            continue;
        }
        for instances in ["pooled", "fresh"] {
            let settings = format!("grants = [\"state\"]\ninstances = \"{instances}\"");
            let policy = runtime.block_on(policy_of(&file, &settings));
            let name = format!("greylist-{language} on-rcpt, {instances}");
            let rcpt = || Question::Rcpt(recipient, &[], Class::Ours);
            measure(criterion, &runtime, &name, &policy, |_| {}, rcpt);
            for plugin in policy.plugins() {
                if let Some(bytes) = plugin.memory_bytes() {
                    eprintln!("hook/{name}: an instance holds {} KiB", bytes >> 10);
                }
            }
        }
    }
}

criterion_group!(benches, hooks, two_facts, languages);
criterion_main!(benches);
