//! Bytes as what a guest says and asks: `tests/hostile/replay.wat` hands them to the host, through every check that an answer meets.
//!
//! An input is laid out as [`Input`] says. Tests and a fuzz target share this.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gatepost::auth::Users;
use gatepost::config::Config;
use gatepost::dns::Dns;
use gatepost::message::{AuthOffer, Body, Envelope, Id, SessionFacts};
use gatepost::policy::chain::{self, DELAY_MAX, Outcome, Question, Scope};
use gatepost::policy::decision::{Decision, Journal, Stage, Verdict};
use gatepost::policy::gate::{Class, Reason};
use gatepost::policy::services::authentication::Authenticator;
use gatepost::policy::services::content::Content;
use gatepost::policy::services::state::State;
use gatepost::policy::{Compiler, Engine, Files, Policies, Policy, Services, Transaction};
use gatepost_smtp::address::Address;

use super::hostile::hostile;

/// Where an input lies in the guest's memory.
const BASE: u32 = 69_632;
/// Behind the import's number and its arguments.
const ANSWER: usize = 64;
/// Decision, actions and explanation of an answer, as the canonical ABI lays them out.
const ANSWER_BYTES: usize = 72;
const ACTION_BYTES: usize = 24;
/// Actions that there are.
pub const ACTIONS: u8 = 17;
/// Imports that `replay.wat` can call, and 0 for none.
pub const IMPORTS: u8 = 15;

/// An input in the making: the number of an import, its arguments, an answer; texts and lists behind them.
pub struct Input(Vec<u8>);

impl Input {
    /// Calls nothing and says `pass`.
    pub fn new() -> Input {
        Input(vec![0; ANSWER + ANSWER_BYTES])
    }

    fn put(&mut self, at: usize, number: u32) {
        self.0[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }

    /// Appends bytes; where they are.
    fn behind(&mut self, bytes: &[u8]) -> u32 {
        let place = self.0.len();
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        BASE + place as u32
    }

    fn put_text(&mut self, at: usize, text: &str) {
        let place = self.behind(text.as_bytes());
        self.put(at, place);
        self.put(at + 4, text.len() as u32);
    }

    /// Calls this import first, with texts for its arguments.
    pub fn calls(mut self, import: u8, texts: &[&str]) -> Input {
        self.0[0] = import;
        for (place, text) in texts.iter().enumerate() {
            self.put_text(4 + 8 * place, text);
        }
        self
    }

    /// Decides by number: 0 pass, 1 accept, 2 reject, 3 defer, 4 disconnect, 5 discard.
    pub fn decides(mut self, decision: u8, code: u16, enhanced: &str, text: &str) -> Input {
        self.0[ANSWER] = decision;
        self.0[ANSWER + 4..ANSWER + 6].copy_from_slice(&code.to_le_bytes());
        self.put_text(ANSWER + 8, enhanced);
        self.put_text(ANSWER + 16, text);
        self
    }

    /// With one action, by number, in the order of the interface, and what belongs to it: a text first, if there is one.
    pub fn acts(mut self, action: u8, text: &str, more: [u32; 3]) -> Input {
        let mut record = [0; ACTION_BYTES];
        record[0] = action;
        for (place, number) in more.iter().enumerate() {
            record[12 + 4 * place..16 + 4 * place].copy_from_slice(&number.to_le_bytes());
        }
        let list = self.behind(&record);
        self.put(ANSWER + 24, list);
        self.put(ANSWER + 28, 1);
        self.put_text((list - BASE) as usize + 4, text);
        self
    }

    pub fn explains(mut self, reason: &str, detail: &str) -> Input {
        self.0[ANSWER + 32] = 1;
        self.put_text(ANSWER + 36, reason);
        self.put_text(ANSWER + 44, detail);
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Inputs that make sense, from which others are made: each decision, each action, each import.
pub fn seeds() -> Vec<Vec<u8>> {
    let decisions = (0..=6).map(|decision| {
        Input::new()
            .decides(decision, 550, "5.7.1", "Not here")
            .explains("why", "because")
    });
    let texts = ["", "a@ours.test", "X-Name", "inside"];
    let action = |action| texts.map(|text| Input::new().acts(action, text, [BASE, 4, 0]));
    let actions = (0..=ACTIONS).flat_map(action);
    let imports = (0..=IMPORTS).map(|import| Input::new().calls(import, &["key", "value", "GET", "/path", ""]));
    decisions.chain(actions).chain(imports).map(Input::bytes).collect()
}

/// Counts calls and failures.
#[derive(Default)]
struct Counted {
    calls: u64,
    failures: u64,
}

struct Counter(Mutex<Counted>);

impl Journal for Counter {
    fn decision(&self, decision: &Decision) {
        let mut counted = self.0.lock().expect("nobody panics with it");
        counted.calls += 1;
        counted.failures += u64::from(decision.failure.is_some());
    }

    fn plugin_log(&self, _: Id, _: &str, _: Stage, _: tracing::Level, _: &str) {}
}

/// The hooks that decide, one policy each, and what stands behind them.
pub struct Replay {
    runtime: tokio::runtime::Runtime,
    policies: Vec<Arc<Policy>>,
    counter: Arc<Counter>,
    /// Each call comes an hour later, so that no circuit breaker keeps it from the guest.
    now: Mutex<SystemTime>,
}

/// The numbers of these hooks in `frame.wat`.
pub const HOOKS: [usize; 6] = [0, 1, 3, 4, 5, 6];

const CONFIG: &str = "hostname = \"relay.test\"\nrelay_domains = [\"ours.test\"]\n\
    [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
    [[route]]\nname = \"inside\"\ndomains = [\"inside.test\"]\nnext_hop = \"discard:\"\n\
    [[plugin]]\nname = \"replay\"\nfile = \"replay.wasm\"\n\
    grants = [\"relay\", \"edit-envelope\", \"read-message\", \"edit-message\", \"route\", \"sign\", \"state\", \"dns\", \"endpoint\"]\n\
    [plugin.endpoints]\nkey = \"tcp://127.0.0.1:1\"\n";

impl Replay {
    pub fn new() -> Replay {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let counter = Arc::new(Counter(Mutex::default()));
        let policies = runtime.block_on(async {
            let engine = Engine::new(Compiler::here()).expect("an engine");
            let config = Config::parse(CONFIG, Path::new("replay.toml")).expect("a configuration");
            let dns = Dns::scratch(true);
            let services = Arc::new(Services {
                relay_domains: Arc::new(config.relay_domains.clone()),
                users: Arc::new(Users::parse(b"", Path::new("users")).expect("no users")),
                keys: gatepost::dkim::Keys::default(),
                state: State::in_memory(),
                authenticator: Authenticator::new(&dns, "relay.test"),
                dns,
                counters: Arc::default(),
                journal: counter.clone(),
            });
            let mut policies = Vec::new();
            for hook in HOOKS {
                let files = Files::from([("replay".to_owned(), Arc::from(hostile("replay", hook)))]);
                let loaded = Policies::start(engine.clone(), &config, &files, services.clone()).await;
                let loaded = loaded.map_err(|errors| format!("{errors:?}")).expect("it loads");
                policies.push(loaded.current());
            }
            policies
        });
        Replay {
            runtime,
            policies,
            counter,
            now: Mutex::new(SystemTime::now()),
        }
    }

    /// Asks the hook at this place of [`HOOKS`] with an input, and checks what every outcome must hold.
    pub fn ask(&self, hook: usize, input: &[u8]) {
        let policy = &self.policies[hook];
        let peer = "192.0.2.7:40000".parse().expect("an address");
        let mut session = SessionFacts::new("mx".into(), AuthOffer::Off, peer, peer);
        session.notes.set("replay", "v", Some(input.to_vec()));
        let mut scope = Scope::new(Arc::new(session), policy.services.clone());
        let transaction = Transaction {
            envelope: Envelope {
                sender: "me@elsewhere.test".into(),
                ..Envelope::default()
            },
            ..Transaction::default()
        };
        scope.transaction = Some(Arc::new(transaction));
        let body = Body::Memory(Bytes::from_static(b"Subject: x\r\nX-Name: y\r\n\r\nbody\r\n"));
        scope.content = Some(Arc::new(Content::new(body)));
        let now = {
            let mut now = self.now.lock().expect("nobody panics with it");
            *now += Duration::from_secs(3600);
            *now
        };
        scope.set_clock(now);
        let address = Address::parse("bob@remote.test").expect("an address");
        let question = match HOOKS[hook] {
            0 => Question::Connect,
            1 => Question::Ehlo("client.test"),
            3 => Question::Mail(Some(&address), &[]),
            4 => Question::Rcpt(&address, &[], Class::Foreign(Reason::DomainNotOurs)),
            5 => Question::Data,
            _ => Question::Message,
        };
        let outcome = self.runtime.block_on(chain::ask(policy, &mut scope, question));
        holds(&outcome, &scope);
    }

    /// How many calls there were, and how many of them failed.
    pub fn counted(&self) -> (u64, u64) {
        let counted = self.counter.0.lock().expect("nobody panics with it");
        (counted.calls, counted.failures)
    }
}

/// Whatever a guest says, this is so.
fn holds(outcome: &Outcome, scope: &Scope) {
    if let Verdict::Reject(reply) | Verdict::Defer(reply) | Verdict::Disconnect(reply) = &outcome.verdict {
        assert!((400..600).contains(&reply.code()), "{reply:?}");
        let text = reply
            .lines()
            .all(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        assert!(text, "{reply:?}");
    }
    assert!(outcome.effects.delay <= DELAY_MAX);
    assert!(outcome.effects.added.len() <= 100);
    let message = scope
        .content
        .as_ref()
        .expect("it was there")
        .whole()
        .expect("it is in memory");
    let mut before = 0;
    for byte in message.iter().copied() {
        assert_eq!(byte == b'\n', before == b'\r', "a bare CR or LF: {message:?}");
        before = byte;
    }
    assert_ne!(before, b'\r', "{message:?}");
}
