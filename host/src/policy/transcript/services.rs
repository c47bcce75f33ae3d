//! What stands behind a policy under test: the real services, over a zone, users, values and endpoints that the transcript names.
//!
//! Nothing outside of this process is asked but sockets on loopback that were opened here. They end with the runtime.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::decision::{Decision, Journal, Stage};
use super::super::imports::Services;
use super::super::plugin::Compiled;
use super::super::services::authentication::Authenticator;
use super::super::services::state::State;
use super::super::{Engine, LoadError, Plugin, Policy, probe};
use super::parse::{Settings, all_grants};
use crate::auth::{Users, edit};
use crate::config::{Config, Instances};
use crate::dkim::Keys;
use crate::dns::scripted;
use crate::message::Id;

/// When a transcript begins: 2026-01-01T00:00:00Z.
const START: Duration = Duration::from_secs(1_767_225_600);
/// What an endpoint reads at a time, in bytes.
const READ_BYTES: usize = 4096;

/// A policy in a world of its own.
pub struct World {
    pub policy: Arc<Policy>,
    pub config: Config,
    pub recorder: Arc<Recorder>,
    pub now: Mutex<SystemTime>,
}

impl World {
    /// Hooks that the policy has, and that were not called.
    pub fn unasked(&self) -> Vec<Stage> {
        let asked = self.recorder.asked.lock();
        let plugins = self.policy.plugins().iter().flat_map(|plugin| plugin.stages());
        plugins.filter(|stage| !asked.contains(stage)).collect()
    }
}

/// Lines that the policy logged.
pub type Log = Vec<(tracing::Level, String)>;

/// Keeps what the policy decided and logged since the last look.
#[derive(Default)]
pub struct Recorder {
    said: Mutex<(Vec<Decision>, Log)>,
    asked: Mutex<Vec<Stage>>,
    last: Mutex<Option<Decision>>,
}

impl Recorder {
    pub fn take(&self) -> (Vec<Decision>, Log) {
        std::mem::take(&mut self.said.lock())
    }

    /// The last decision since the last look here.
    pub fn take_last(&self) -> Option<Decision> {
        self.last.lock().take()
    }
}

impl Journal for Recorder {
    fn decision(&self, decision: &Decision) {
        self.asked.lock().push(decision.stage);
        *self.last.lock() = Some(decision.clone());
        self.said.lock().0.push(decision.clone());
    }

    fn plugin_log(&self, _: Id, _: &str, _: Stage, level: tracing::Level, text: &str) {
        self.said.lock().1.push((level, text.to_owned()));
    }
}

/// Loads the component as the daemon would. The error is for people.
pub async fn start(
    engine: &Engine,
    file: &Path,
    component: &Compiled,
    settings: &Settings,
    instances: Instances,
) -> Result<World, String> {
    let name = name_of(file);
    let config = config(&name, file, settings, instances).await?;
    let dns = scripted::resolver(settings.zone()).await?;
    let state = State::in_memory();
    let own = state.namespace(&name);
    for (key, value) in &settings.state {
        let set = own.set(key, value.as_bytes(), None, START.as_millis() as u64);
        set.await.map_err(|error| format!("state.{key}: {error}"))?;
    }
    let recorder = Arc::new(Recorder::default());
    let services = Services {
        relay_domains: Arc::new(config.relay_domains.clone()),
        users: Arc::new(users(settings)?),
        keys: Keys::made_up(&settings.signing)?,
        state,
        authenticator: Authenticator::new(&dns, &config.hostname),
        dns,
        counters: Arc::default(),
        journal: recorder.clone(),
    };
    let in_words = |error: LoadError| error.what;
    let plugin = config.plugins.first().ok_or("the settings have no plugin")?;
    let plugin = Plugin::of(engine, Arc::new(plugin.clone()), component).await;
    let plugins = vec![Arc::new(plugin.map_err(in_words)?)];
    let policy = Policy::new(1, plugins, BTreeSet::new(), Box::default(), Arc::new(services));
    probe::run(&policy, &config).await.map_err(in_words)?;
    Ok(World {
        policy: Arc::new(policy),
        config,
        recorder,
        now: Mutex::new(UNIX_EPOCH + START),
    })
}

/// The plugin's name in the configuration: that of the file, as far as it is one.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect();
    if name.is_empty() { "policy".to_owned() } else { name }
}

/// The configuration of a relay with this one plugin, read as any other.
async fn config(name: &str, file: &Path, settings: &Settings, instances: Instances) -> Result<Config, String> {
    let mut endpoints = toml::Table::new();
    for (name, says) in &settings.endpoints {
        endpoints.insert(name.clone(), endpoint(says.clone()).await?.into());
    }
    let grants = settings
        .grants
        .clone()
        .unwrap_or_else(|| all_grants(!endpoints.is_empty()));
    let mut plugin = toml::Table::new();
    plugin.insert("name".into(), name.into());
    plugin.insert("file".into(), file.display().to_string().into());
    plugin.insert("grants".into(), grants.into());
    let pooled = instances == Instances::Pooled;
    plugin.insert("instances".into(), if pooled { "pooled" } else { "fresh" }.into());
    if let Some(on_failure) = &settings.on_failure {
        plugin.insert("on_failure".into(), on_failure.as_str().into());
    }
    for (key, table) in [
        ("endpoints", endpoints),
        ("budget", settings.budget.clone()),
        ("config", settings.config.clone()),
    ] {
        if !table.is_empty() {
            plugin.insert(key.into(), table.into());
        }
    }
    let mut listener = toml::Table::new();
    listener.insert("name".into(), "mx".into());
    listener.insert("address".into(), "127.0.0.1:0".into());
    listener.insert("tls".into(), "none".into());
    let mut whole = toml::Table::new();
    whole.insert("hostname".into(), "relay.test".into());
    whole.insert("relay_domains".into(), settings.relay_domains.clone().into());
    whole.insert("listener".into(), vec![listener].into());
    whole.insert("plugin".into(), vec![plugin].into());
    let text = toml::to_string(&whole).map_err(|error| format!("the settings: {error}"))?;
    // Its lines are not the transcript's, so the errors are without them.
    Config::parse(&text, Path::new("transcript")).map_err(|errors| {
        let texts = errors.0.iter().map(|error| format!("the settings: {}", error.message));
        texts.collect::<Vec<_>>().join("\n")
    })
}

fn users(settings: &Settings) -> Result<Users, String> {
    let mut text = String::new();
    for (name, password) in &settings.users {
        let line = edit::new_line(name, password).map_err(|error| format!("users.{name}: {error}"))?;
        text.extend([&line, "\n"]);
    }
    Users::parse(text.as_bytes(), Path::new("users")).map_err(|errors| errors.to_string())
}

/// Opens an endpoint that says this to everyone who said something. Its address, as a configuration has it.
async fn endpoint(says: String) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("a socket on loopback: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        // One after the other: a policy that is called alone has few.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; READ_BYTES];
            // Who goes away has heard enough.
            if matches!(stream.read(&mut buffer).await, Ok(1..)) && stream.write_all(says.as_bytes()).await.is_ok() {
                let _ = stream.shutdown().await;
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
            }
        }
    });
    Ok(format!("tcp://{address}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::config::Grant;
    use crate::policy::transcript::Transcript;

    const SETTINGS: &str = "on_failure = \"skip\"\nrelay_domains = [\"a.test\", \"b.test\"]\n[users]\nalice = \"secret\"\n\
                            [endpoints]\nscanner = \"clean\"\n[budget]\ncpu_ms = 70\n[config]\nlist = [{ key = 1 }]\n=== one\n";

    #[tokio::test]
    async fn settings_become_a_configuration_of_one_plugin() {
        let settings = Transcript::parse(SETTINGS).unwrap().settings;
        let config = config("my-policy", Path::new("x.wasm"), &settings, Instances::Fresh)
            .await
            .unwrap();
        let plugin = &config.plugins[0];
        assert_eq!((&*plugin.name, plugin.instances), ("my-policy", Instances::Fresh));
        assert_eq!(plugin.config.to_string(), r#"{"list":[{"key":1}]}"#);
        assert_eq!(plugin.budget.cpu, Duration::from_millis(70));
        // All, because there is an endpoint.
        assert_eq!(plugin.grants, Grant::ALL.into());
        assert!(config.relay_domains.contains("b.test"));
        let users = users(&settings).unwrap();
        assert_eq!(users.verify_plain("alice", "secret").await, Ok(true));
        assert_eq!(users.verify_plain("alice", "wrong").await, Ok(false));

        let without = Transcript::parse("[config]\n=== one").unwrap().settings;
        let plain = super::config("x", Path::new("x.wasm"), &without, Instances::Pooled)
            .await
            .unwrap();
        assert!(
            !plain.plugins[0].grants.contains(&Grant::Endpoint),
            "it would need endpoints"
        );
    }

    #[tokio::test]
    async fn an_endpoint_says_its_text_once_it_was_spoken_to() {
        let address = endpoint("clean\r\n".to_owned()).await.unwrap();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address.strip_prefix("tcp://").unwrap())
                .await
                .unwrap();
            stream.write_all(b"is it?").await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "clean\r\n");
        }
    }

    #[test]
    fn a_plugin_is_called_as_its_file() {
        for (file, name) in [
            ("a/my-policy.wasm", "my-policy"),
            ("x y.1.wasm", "xy1"),
            ("...", "policy"),
            ("", "policy"),
        ] {
            assert_eq!(name_of(Path::new(file)), name, "{file:?}");
        }
    }
}
