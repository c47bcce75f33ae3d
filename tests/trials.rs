//! Versions on trial and versions that fail, in the policy engine itself: no relay, no socket, no supervisor.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use gatepost::auth::Users;
use gatepost::config::{self, Config};
use gatepost::dns::Dns;
use gatepost::message::{AuthOffer, Envelope, Id, SessionFacts};
use gatepost::policy::breaker::{FAILURES, PAUSE, TRIALS};
use gatepost::policy::chain::{self, Outcome, Question, Scope};
use gatepost::policy::decision::{Decision, Journal, Notice, Stage, Verdict};
use gatepost::policy::gate::Class;
use gatepost::policy::probation::{Counts, FAILURES_MIN};
use gatepost::policy::services::authentication::Authenticator;
use gatepost::policy::services::state::State;
use gatepost::policy::shadow::{RUNNING_MAX, Tally};
use gatepost::policy::trial::{Mode, Running, SHADOWS_MAX};
use gatepost::policy::{Compiler, Engine, Files, Policies, Policy, Services, Transaction};
use gatepost_smtp::address::Address;
use parking_lot::Mutex;
use support::{guest, plugin};

/// Keeps the notices as text.
#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Journal for Notices {
    fn decision(&self, _: &Decision) {}

    fn plugin_log(&self, _: Id, plugin: &str, _: Stage, _: tracing::Level, text: &str) {
        self.0.lock().push(format!("{plugin} says {text}"));
    }

    fn notice(&self, notice: &Notice<'_>) {
        self.0.lock().push(match notice {
            Notice::BreakerOpened { plugin, pause, .. } => format!("{plugin} opened for {pause:?}"),
            Notice::BreakerClosed { plugin, .. } => format!("{plugin} closed"),
            Notice::ShadowAgrees(found) => format!("{} agrees", found.plugin),
            Notice::ShadowDiffers(found) => format!(
                "{} at {}: {} {:?}, shadow {} {:?}",
                found.plugin,
                found.stage,
                found.live.verdict.name(),
                found.live.reason,
                found.shadow.verdict.name(),
                found.shadow.reason
            ),
            Notice::ShadowDropped { plugin } => format!("{plugin} dropped"),
        });
    }
}

/// The engine with plugins of these names, files and settings.
struct Engineered {
    policies: Policies,
    config: Config,
    files: Files,
    notices: Arc<Notices>,
}

fn bytes(file: &Path) -> Arc<[u8]> {
    std::fs::read(file).expect("a component").into()
}

/// The same component with a custom section more, which means nothing: another version.
fn another(file: &Path) -> Arc<[u8]> {
    const SECTION: [u8; 4] = [0, 2, 1, b'x'];
    [&*bytes(file), &SECTION].concat().into()
}

async fn engine(plugins: &[(&str, &Path, &str)]) -> Engineered {
    let mut text = String::from(
        "hostname = \"relay.test\"\nrelay_domains = [\"ours.test\"]\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n",
    );
    let mut files = Files::new();
    for (name, file, toml) in plugins {
        text += &format!("[[plugin]]\nname = \"{name}\"\nfile = \"{name}.wasm\"\n{toml}\n");
        files.insert((*name).to_owned(), bytes(file));
    }
    let config = Config::parse(&text, Path::new("test.toml")).expect("a configuration");
    let notices = Arc::new(Notices::default());
    let dns = Dns::new(&["127.0.0.1:1".parse().expect("an address")]).expect("a resolver");
    let services = Arc::new(Services {
        relay_domains: Arc::new(config.relay_domains.clone()),
        users: Arc::new(Users::parse(b"", Path::new("users")).expect("no users")),
        keys: gatepost::dkim::Keys::default(),
        state: State::in_memory(),
        authenticator: Authenticator::new(&dns, "relay.test"),
        dns,
        counters: Arc::default(),
        journal: notices.clone(),
    });
    let policies = Policies::start(
        Engine::new(Compiler::here()).expect("an engine"),
        &config,
        &files,
        services,
    )
    .await;
    Engineered {
        policies: policies.map_err(|errors| format!("{errors:?}")).expect("a policy"),
        config,
        files,
        notices,
    }
}

impl Engineered {
    /// Puts another component in force, as a load does.
    async fn load(&mut self, name: &str, component: Arc<[u8]>) {
        self.files.insert(name.to_owned(), component);
        let services = self.policies.current().services.clone();
        let loaded = self.policies.replace(&self.config, &self.files, services).await;
        loaded.map_err(|errors| format!("{errors:?}")).expect("it loads");
    }

    async fn take_back(&mut self, name: &str, component: Arc<[u8]>) {
        self.files.insert(name.to_owned(), component);
        let services = self.policies.current().services.clone();
        let back = self.policies.take_back(name, &self.config, &self.files, services);
        back.await.map_err(|errors| format!("{errors:?}")).expect("it loads");
    }

    fn noticed(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.0.lock())
    }

    fn digest(&self, name: &str) -> String {
        let policy = self.policies.current();
        let found = policy.plugins().iter().find(|plugin| *plugin.name == *name);
        found.expect("it is configured").file_digest.to_string()
    }

    fn tally(&self, name: &str) -> Tally {
        match &self.policies.trial(name).expect("it is on trial").running {
            Running::Shadow(shadow) => shadow.tally(),
            Running::Canary { .. } => panic!("it is a canary"),
        }
    }
}

fn scope(policy: &Policy) -> Scope {
    let peer = "192.0.2.7:40000".parse().expect("an address");
    let mut scope = Scope::new(
        Arc::new(SessionFacts::new("mx".into(), AuthOffer::Off, peer, peer)),
        policy.services.clone(),
    );
    scope.transaction = Some(Arc::new(Transaction {
        envelope: Envelope {
            sender: "me@elsewhere.test".into(),
            ..Envelope::default()
        },
        ..Transaction::default()
    }));
    scope
}

/// What a policy says of a recipient of ours.
async fn rcpt(policy: &Policy, local: &str) -> Outcome {
    rcpt_in(policy, &mut scope(policy), local).await
}

async fn rcpt_in(policy: &Policy, scope: &mut Scope, local: &str) -> Outcome {
    let address = Address::parse(&format!("{local}@ours.test")).expect("an address");
    let question = Question::Rcpt(&address, &[], Class::Ours);
    chain::ask(policy, scope, question).await
}

async fn refuses(policy: &Policy, local: &str) -> bool {
    !matches!(rcpt(policy, local).await.verdict, Verdict::Pass)
}

/// Lets the tasks that were started run until the notices are so many.
async fn settled(engine: &Engineered, count: usize) -> Vec<String> {
    let limit = std::time::Instant::now() + support::PATIENCE;
    while engine.notices.0.lock().len() < count {
        assert!(std::time::Instant::now() < limit, "{:?}", engine.noticed());
        tokio::task::yield_now().await;
    }
    engine.noticed()
}

#[tokio::test]
async fn a_shadow_sees_the_same_and_decides_nothing() {
    let engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let live = engine.digest("policy");
    let said = engine
        .policies
        .begin_trial("policy", bytes(&guest("naughty")), None, Mode::Shadow);
    let said = said.await.expect("it begins");
    assert!(said.contains("as a shadow") && said.contains(&live), "{said}");
    assert_eq!(engine.digest("policy"), live);
    let policy = engine.policies.current();
    let says = "policy (shadow) says panicked at";
    for (local, refused, noticed) in [
        ("u", false, &["policy agrees"][..]),
        ("version", true, &["policy at on-rcpt: reject \"\", shadow pass \"\""]),
        // What it logs says whose it is.
        (
            "trap",
            false,
            &[says, "policy at on-rcpt: pass \"\", shadow defer \"trap\""],
        ),
        (
            "ungranted",
            false,
            &["policy at on-rcpt: pass \"\", shadow defer \"answer\""],
        ),
    ] {
        assert_eq!(refuses(&policy, local).await, refused, "{local}: the live version's");
        let found = settled(&engine, noticed.len()).await;
        let all = found.iter().zip(noticed).all(|(found, start)| found.starts_with(start));
        assert!(found.len() == noticed.len() && all, "{local}: {found:?}");
    }
    let tally = Tally {
        same: 1,
        different: 3,
        dropped: 0,
    };
    assert_eq!(engine.tally("policy"), tally);
    assert_eq!(policy.plugins()[0].calls(), (4, 0), "its failures are its own");
}

#[tokio::test]
async fn a_shadow_has_a_store_of_its_own() {
    let toml = "grants = [\"state\"]\n[plugin.config]\nlimits = [{ count = \"recipients\", per = \"network\", rate = 3, per_seconds = 86400 }]";
    let engine = engine(&[("rate-limit", &plugin("rate-limit"), toml)]).await;
    let begun = engine
        .policies
        .begin_trial("rate-limit", another(&plugin("rate-limit")), None, Mode::Shadow);
    begun.await.expect("it begins");
    let policy = engine.policies.current();
    let mut refused = Vec::new();
    for _ in 0..5 {
        refused.push(refuses(&policy, "u").await);
        assert_eq!(settled(&engine, 1).await, ["rate-limit agrees"], "{refused:?}");
    }
    // With one store for both, the second would have been one too many.
    assert_eq!(refused, [false, false, false, true, true]);
}

#[tokio::test]
async fn calls_that_find_no_place_are_left_out_and_counted() {
    let engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let begun = engine
        .policies
        .begin_trial("policy", another(&guest("versioned")), None, Mode::Shadow);
    begun.await.expect("it begins");
    let policy = engine.policies.current();
    // The live version waits for nothing, so on this one thread no shadow runs before all are asked.
    for _ in 0..3 * RUNNING_MAX {
        assert!(refuses(&policy, "version").await);
    }
    let noticed = settled(&engine, 3 * RUNNING_MAX).await;
    let count = |what: &str| noticed.iter().filter(|text| text.ends_with(what)).count();
    assert_eq!((count("agrees"), count("dropped")), (RUNNING_MAX, 2 * RUNNING_MAX));
    let tally = engine.tally("policy");
    assert_eq!(
        (tally.same, tally.dropped),
        (RUNNING_MAX as u64, 2 * RUNNING_MAX as u64)
    );
    // And the places are free again.
    rcpt(&policy, "u").await;
    assert_eq!(settled(&engine, 1).await, ["policy agrees"]);
}

#[tokio::test]
async fn a_canary_decides_for_its_sessions_only() {
    let engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let begun = engine
        .policies
        .begin_trial("policy", bytes(&guest("naughty")), None, Mode::Canary { percent: 30 });
    begun.await.expect("it begins");
    let ids: Vec<Id> = (0..500).map(|_| Id::new()).collect();
    let mut chosen = Vec::new();
    for id in &ids {
        let policy = engine.policies.for_session(*id);
        if !refuses(&policy, "version").await {
            chosen.push(*id);
        }
    }
    assert!((100..200).contains(&chosen.len()), "{} of 500", chosen.len());
    // A swap of the live version, and a session keeps its choice.
    let mut engine = engine;
    engine.load("policy", another(&guest("versioned"))).await;
    for id in &ids {
        let refuses = refuses(&engine.policies.for_session(*id), "version").await;
        assert_eq!(refuses, !chosen.contains(id));
    }
    // Its end.
    let held = engine.policies.for_session(chosen[0]);
    assert!(!held.is_stale(tokio::time::Instant::now()));
    let said = engine
        .policies
        .end_trial("policy", "by the test")
        .await
        .expect("it ends");
    assert!(said.contains("the canary"), "{said}");
    assert!(held.is_stale(tokio::time::Instant::now()), "its sessions come again");
    for id in &ids {
        assert!(refuses(&engine.policies.for_session(*id), "version").await);
    }
    let ended = engine.policies.ended_trial("policy").expect("it is told");
    assert!(ended.ends_with("ended: by the test"), "{ended}");
    let again = engine.policies.end_trial("policy", "by the test").await;
    assert!(again.expect_err("none runs").contains("no version on trial"));
}

#[tokio::test]
async fn a_canary_that_fails_ends() {
    let engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let canary = bytes(&guest("naughty"));
    let begun = engine
        .policies
        .begin_trial("policy", canary, None, Mode::Canary { percent: 99 });
    begun.await.expect("it begins");
    let id = Id::new();
    let policy = std::iter::repeat_with(Id::new)
        .map(|id| engine.policies.for_session(id))
        .find(|policy| !Arc::ptr_eq(policy, &engine.policies.current()))
        .unwrap_or_else(|| panic!("{id} and all others are not chosen"));
    for _ in 0..FAILURES_MIN {
        assert!(refuses(&policy, "trap").await);
    }
    let failed = engine.policies.next_failed().await;
    assert!(failed.canary);
    assert_eq!(failed.counts, Counts { calls: 5, failures: 5 });
    let version = failed.plugin.version;
    let ended = engine.policies.end_trial_of("policy", Some(version), "it failed").await;
    ended.expect("it ends");
    assert!(policy.is_stale(tokio::time::Instant::now()));
    assert_eq!(
        engine.digest("policy"),
        engine.policies.current().plugins()[0].file_digest.to_string()
    );
    // Of that version there is none any more.
    let again = engine.policies.end_trial_of("policy", Some(version), "it failed").await;
    again.expect_err("it ended");
}

#[tokio::test]
async fn a_version_that_fails_its_probation_is_told_of_and_the_one_before_is_ready() {
    let mut engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let good = engine.digest("policy");
    // What was there at the start is not on probation.
    engine.load("policy", bytes(&guest("naughty"))).await;
    let bad = engine.policies.current();
    // One failure of more than ten calls is none too many.
    for _ in 0..100 {
        assert!(!refuses(&bad, "u").await);
    }
    for failure in 0..12 {
        assert!(refuses(&bad, "trap").await);
        assert!(!refuses(&bad, "u").await);
        let early = tokio::time::timeout(std::time::Duration::ZERO, engine.policies.next_failed()).await;
        assert!(early.is_err(), "{failure}");
    }
    assert!(refuses(&bad, "trap").await);
    let failed = engine.policies.next_failed().await;
    assert!(!failed.canary);
    assert_eq!(
        failed.counts,
        Counts {
            calls: 125,
            failures: 13
        }
    );

    engine.take_back("policy", bytes(&guest("versioned"))).await;
    assert_eq!(engine.digest("policy"), good);
    assert!(bad.is_stale(tokio::time::Instant::now()), "its sessions come again");
    let now = engine.policies.current();
    assert!(refuses(&now, "version").await);
    // What was taken back to is not on probation: there is nothing better.
    assert_eq!(now.plugins()[0].calls(), (1, 0), "it begins anew");
    assert_eq!(now.plugins()[0].take_failed_probation(), None);
}

#[tokio::test]
async fn a_trial_ends_when_its_version_comes_into_force_or_its_settings_change() {
    let mut engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let new = another(&guest("versioned"));
    let begin = async |engine: &Engineered| {
        engine
            .policies
            .begin_trial("policy", new.clone(), None, Mode::Shadow)
            .await
    };
    begin(&engine).await.expect("it begins");
    // Another version of the live one does not end it; its own does.
    engine.load("policy", bytes(&guest("naughty"))).await;
    assert!(engine.policies.trial("policy").is_some());
    engine.load("policy", new.clone()).await;
    assert!(engine.policies.trial("policy").is_none());
    let ended = engine.policies.ended_trial("policy").expect("it is told");
    assert!(ended.ends_with("its version is in force now"), "{ended}");
    let refused = begin(&engine).await.expect_err("it is live");
    assert!(refused.contains("in force in this version already"), "{refused}");

    engine.load("policy", bytes(&guest("naughty"))).await;
    begin(&engine).await.expect("it begins");
    engine.config.plugins[0].max_uses = 7;
    engine.load("policy", bytes(&guest("naughty"))).await;
    let ended = engine.policies.ended_trial("policy").expect("it is told");
    assert!(ended.ends_with("settings have changed"), "{ended}");
}

#[tokio::test]
async fn a_change_of_settings_is_on_probation_as_a_component_is() {
    let mut engine = engine(&[("policy", &guest("naughty"), "grants = [\"relay\"]")]).await;
    let good = engine.policies.current();
    assert!(!refuses(&good, "ungranted").await);
    let granted = std::mem::take(&mut engine.config.plugins[0].grants);
    engine.load("policy", bytes(&guest("naughty"))).await;
    let bad = engine.policies.current();
    for _ in 0..FAILURES_MIN {
        assert!(refuses(&bad, "ungranted").await);
    }
    let failed = tokio::time::timeout(support::PATIENCE, engine.policies.next_failed()).await;
    let failed = failed.expect("they were too many");
    assert_eq!(failed.counts, Counts { calls: 5, failures: 5 });
    assert_eq!(failed.plugin.version, bad.plugins()[0].version);
    assert_eq!(failed.plugin.file_digest, good.plugins()[0].file_digest);

    engine.config.plugins[0].grants = granted;
    engine.take_back("policy", bytes(&guest("naughty"))).await;
    let now = engine.policies.current();
    assert_eq!(now.plugins()[0].version, good.plugins()[0].version);
    assert!(!refuses(&now, "ungranted").await);
    assert!(bad.is_stale(tokio::time::Instant::now()), "its sessions come again");
    for _ in 0..FAILURES_MIN {
        assert!(refuses(&now, "trap").await);
    }
    assert_eq!(now.plugins()[0].take_failed_probation(), None);
}

#[tokio::test]
async fn where_a_component_is_read_from_makes_no_other_version_of_it() {
    let mut engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let before = engine.policies.current();
    engine.config.plugins[0].file = "/elsewhere.wasm".into();
    engine.load("policy", bytes(&guest("versioned"))).await;
    let now = engine.policies.current();
    assert!(Arc::ptr_eq(&before.plugins()[0], &now.plugins()[0]));
}

#[tokio::test]
async fn other_settings_can_be_on_trial() {
    let mut engine = engine(&[("policy", &guest("naughty"), "grants = [\"relay\"]")]).await;
    let policy = bytes(&guest("naughty"));
    let live = engine.config.plugins[0].clone();
    let begin = async |engine: &Engineered, settings: &config::Plugin, mode| {
        let policies = &engine.policies;
        policies
            .begin_trial("policy", policy.clone(), Some(settings.clone()), mode)
            .await
    };
    let refused = begin(&engine, &live, Mode::Shadow).await.expect_err("they are live");
    assert!(refused.contains("in force in this version already"), "{refused}");

    let mut strict = live.clone();
    strict.grants.clear();
    let said = begin(&engine, &strict, Mode::Shadow).await.expect("it begins");
    assert!(said.contains("with other settings"), "{said}");
    let current = engine.policies.current();
    for (local, noticed) in [
        ("u", "policy agrees"),
        ("ungranted", "policy at on-rcpt: pass \"\", shadow defer \"answer\""),
    ] {
        assert!(!refuses(&current, local).await, "{local}: the live version's");
        let found = settled(&engine, 1).await;
        assert!(found[0].starts_with(noticed), "{found:?}");
    }

    // A canary, over another component in force too.
    let said = begin(&engine, &strict, Mode::Canary { percent: 50 }).await;
    assert!(said.expect("it begins").contains("with other settings"));
    engine.load("policy", another(&guest("naughty"))).await;
    let trial = engine.policies.trial("policy").expect("it goes on");
    assert!(trial.has_other_settings());
    let of_canary = |policy: &Arc<Policy>| !Arc::ptr_eq(policy, &engine.policies.current());
    let mut sessions = std::iter::repeat_with(|| engine.policies.for_session(Id::new()));
    let (chosen, others) = (sessions.find(of_canary), sessions.find(|policy| !of_canary(policy)));
    assert!(refuses(&chosen.expect("half of them"), "ungranted").await);
    assert!(!refuses(&others.expect("half of them"), "ungranted").await);

    // It ends when the settings in force change, to its own or to others.
    let ended = async |engine: &mut Engineered, settings: config::Plugin, component: Arc<[u8]>| {
        engine.config.plugins[0] = settings;
        engine.load("policy", component).await;
        assert!(engine.policies.trial("policy").is_none());
        engine.policies.ended_trial("policy").expect("it is told")
    };
    let why = ended(&mut engine, strict.clone(), policy.clone()).await;
    assert!(why.ends_with("its version is in force now"), "{why}");
    begin(&engine, &live, Mode::Shadow).await.expect("it begins");
    let mut third = live.clone();
    third.max_uses = 7;
    let why = ended(&mut engine, third, policy.clone()).await;
    assert!(why.ends_with("settings have changed"), "{why}");
}

#[tokio::test]
async fn settings_that_would_open_the_relay_are_not_even_tried() {
    let toml = "grants = [\"relay\", \"dns\"]\n[plugin.config]\nwhen = \"never\"";
    let engine = engine(&[("generous", &guest("generous"), toml)]).await;
    let mut open = engine.config.clone();
    open.plugins[0].config = serde_json::json!({ "when": "bounce" });
    let opens = |error: &str| error.contains("it would open the relay") && error.contains("may send from <> to");
    for mode in [Mode::Shadow, Mode::Canary { percent: 1 }] {
        let settings = Some(open.plugins[0].clone());
        let component = bytes(&guest("generous"));
        let begun = engine.policies.begin_trial("generous", component, settings, mode).await;
        let error = begun.expect_err("it opens the relay");
        assert!(opens(&error), "{error}");
        assert!(engine.policies.trial("generous").is_none());
    }
    let before = engine.policies.current();
    let replaced = engine
        .policies
        .replace(&open, &engine.files, before.services.clone())
        .await;
    let errors = replaced.err().expect("it opens the relay");
    assert!(opens(&errors[0].to_string()), "{errors:?}");
    assert!(Arc::ptr_eq(&before, &engine.policies.current()));
}

#[tokio::test]
async fn trials_have_bounds_and_are_refused_in_words() {
    let versioned = guest("versioned");
    let names: Vec<String> = (0..=SHADOWS_MAX).map(|number| format!("p{number}")).collect();
    let plugins: Vec<(&str, &Path, &str)> = names.iter().map(|name| (name.as_str(), &*versioned, "")).collect();
    let engine = engine(&plugins).await;
    let new = another(&versioned);
    let begin = async |name: &str, mode| engine.policies.begin_trial(name, new.clone(), None, mode).await;
    for name in &names[..SHADOWS_MAX] {
        begin(name, Mode::Shadow).await.expect("it begins");
    }
    let canary = Mode::Canary { percent: 50 };
    begin(&names[0], canary)
        .await
        .expect("it takes the place of its own shadow");
    begin(&names[SHADOWS_MAX], Mode::Shadow)
        .await
        .expect("there is room again");
    for (name, component, mode, why) in [
        ("nobody", &new, Mode::Shadow, "there is no plugin \"nobody\""),
        ("p0", &new, Mode::Shadow, "4 shadows run already"),
        ("p1", &new, canary, "p0 has a canary, and there is one at a time"),
        ("p0", &new, Mode::Canary { percent: 100 }, "between 1 and 99"),
        ("p0", &bytes(&versioned), canary, "in force in this version already"),
        ("p0", &Arc::from(&b"text"[..]), canary, "it is no WebAssembly file"),
    ] {
        let begun = engine.policies.begin_trial(name, component.clone(), None, mode).await;
        let error = begun.expect_err(why);
        assert!(error.contains(why), "{error}");
    }
    let trial = engine.policies.trial("p0").expect("what was there goes on");
    assert!(matches!(trial.running, Running::Canary { percent: 50, .. }));
}

#[tokio::test]
async fn neither_a_trial_nor_a_disabled_plugin_opens_the_relay() {
    // The second would let strangers relay, if the first did not refuse them all.
    let engine = engine(&[
        (
            "door",
            &guest("clumsy"),
            "grants = [\"read-message\"]\non_failure = \"reject\"\n[plugin.config]\nat = \"on-mail\"",
        ),
        ("generous", &guest("generous"), "grants = [\"relay\", \"dns\"]"),
        ("other", &guest("versioned"), "grants = [\"relay\", \"dns\"]"),
    ])
    .await;
    let error = engine
        .policies
        .switch("door", false)
        .await
        .expect_err("it opens the relay");
    assert!(error.contains("it would open the relay"), "{error}");
    assert!(!engine.policies.current().is_disabled("door"));

    engine.policies.switch("generous", false).await.expect("nothing opens");
    engine.policies.switch("door", false).await.expect("nor now");
    let error = engine.policies.switch("generous", true).await.expect_err("now it does");
    assert!(error.contains("it would open the relay"), "{error}");
    for mode in [Mode::Shadow, Mode::Canary { percent: 1 }] {
        let begun = engine
            .policies
            .begin_trial("other", bytes(&guest("generous")), None, mode)
            .await;
        let error = begun.expect_err("it opens the relay");
        assert!(error.contains("it would open the relay"), "{error}");
        assert!(engine.policies.trial("other").is_none());
    }
    let begun = engine
        .policies
        .begin_trial("generous", another(&guest("generous")), None, Mode::Shadow);
    let error = begun.await.expect_err("it is disabled");
    assert!(error.contains("enable it first"), "{error}");
}

#[tokio::test]
async fn who_is_disabled_is_not_asked_and_stays_so_over_changes() {
    let mut engine = engine(&[("policy", &guest("versioned"), "")]).await;
    let before = engine.policies.current();
    let said = engine.policies.switch("policy", false).await.expect("it is there");
    assert!(said.starts_with("policy is disabled"), "{said}");
    assert!(!engine.policies.current().wants(Stage::Rcpt));
    assert!(!refuses(&engine.policies.current(), "version").await);
    assert!(refuses(&before, "version").await, "a session goes on as it began");
    engine.load("policy", another(&guest("versioned"))).await;
    assert!(engine.policies.current().is_disabled("policy"));
    let again = engine.policies.switch("policy", false).await.expect("no harm");
    assert_eq!(again, "policy is disabled already");
    engine.policies.switch("policy", true).await.expect("it is there");
    assert!(refuses(&engine.policies.current(), "version").await);
}

#[tokio::test]
async fn the_breaker_says_when_it_turns() {
    let engine = engine(&[("policy", &guest("naughty"), "")]).await;
    let policy = engine.policies.current();
    for _ in 0..FAILURES {
        rcpt(&policy, "ungranted").await;
    }
    assert_eq!(engine.noticed(), ["policy opened for 1s"]);
    let started = policy.plugins()[0].instances().0;
    assert!(refuses(&policy, "u").await, "at once");
    assert_eq!(policy.plugins()[0].calls(), (11, 10));
    let behind_the_pause = SystemTime::now() + PAUSE;
    for _ in 0..TRIALS {
        let mut scope = scope(&policy);
        scope.set_clock(behind_the_pause);
        assert_eq!(rcpt_in(&policy, &mut scope, "u").await.verdict, Verdict::Pass);
    }
    assert_eq!(engine.noticed(), ["policy closed"]);
    assert!(policy.plugins()[0].instances().0 <= started + 1);
}
