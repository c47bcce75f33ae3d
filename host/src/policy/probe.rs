//! Relay probes: a policy that is not yet live is asked about every trick that ever opened a relay, as strangers would try it.
//!
//! A probe goes the way of a real session (on-connect, on-ehlo, on-mail, on-rcpt, then the gate), with plugins of the same version that have
//! instances, counts and a breaker of their own, and with scratch services: an empty store, name servers and endpoints that answer with
//! nothing, then ones that fail. So nothing of it is left in what decides about mail, in metrics or in the journal. It warns early; the gate
//! is the guarantee, and what it cannot know is only whether a plugin with the grant `relay` says yes to those that it should not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gatepost_smtp::address::Address;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::Policy;
use super::chain::{self, Outcome, Question, Scope};
use super::decision::{Decision, Journal, Stage, Verdict};
use super::gate::{self, Class};
use super::imports::{Services, Transaction};
use super::plugin::{LoadError, Plugin};
use super::services::authentication::Authenticator;
use super::services::state::State;
use crate::config::{Config, Grant, Listener, ListenerTls};
use crate::dns::Dns;
use crate::message::{Envelope, Id, SessionFacts, TlsFacts};

/// How long all probes of a policy may take together. A policy that is slower is not known to be closed, and goes live with a warning.
pub const TIME_MAX: Duration = Duration::from_secs(10);

/// A domain that cannot be anybody's (RFC 2606 §2).
const FAR: &str = "relay-probe.invalid";
/// Addresses of nobody (RFC 5737, RFC 9637 and others like them), one of which is outside of `trusted_networks` unless those are everything.
const STRANGERS_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 25),
    Ipv4Addr::new(198, 51, 100, 25),
    Ipv4Addr::new(203, 0, 113, 25),
    Ipv4Addr::new(198, 18, 0, 25),
];
const STRANGERS_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x25),
    Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0x25),
    Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0x25),
];

/// The forward-paths. Those that are no addresses at all never reach a policy; they are here so that the list is whole.
fn forward_paths(ours: &str) -> Vec<String> {
    vec![
        format!("u@{FAR}"),
        format!("u@{FAR}."),
        format!("U@{}", FAR.to_ascii_uppercase()),
        format!("u%{FAR}@{ours}"),
        format!("{FAR}!u@{ours}"),
        format!("u@{FAR}@{ours}"),
        format!("\"u@{FAR}\"@{ours}"),
        format!("\"u%{FAR}\"@{ours}"),
        format!("\"u%{FAR}\""),
        format!("u@{FAR}@"),
        format!("@{ours}:u@{FAR}"),
        "u@[1.2.3.4]".to_owned(),
        "u@[IPv6:::1]".to_owned(),
        format!("u@{ours}:25"),
    ]
}

/// Asks a policy that is not live yet. The error names the probe that it admits, the plugin that allowed it, and what to do.
pub async fn run(policy: &Policy, config: &Config) -> Result<(), LoadError> {
    // No other plugin's answer can open anything.
    if !policy.at(Stage::Rcpt).iter().any(|plugin| may_allow(plugin)) {
        return Ok(());
    }
    match timeout(TIME_MAX, try_all(policy, config)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let limit_s = TIME_MAX.as_secs();
            tracing::warn!(
                limit_s,
                "the policy is too slow for all relay probes; the rest was left out"
            );
            Ok(())
        }
    }
}

fn may_allow(plugin: &Plugin) -> bool {
    plugin.settings.grants.contains(&Grant::Relay)
}

async fn try_all(policy: &Policy, config: &Config) -> Result<(), LoadError> {
    let ours = config.relay_domains.first().unwrap_or(&config.hostname);
    let paths = forward_paths(ours);
    let senders = [
        format!("someone@{ours}"),
        "someone@elsewhere.invalid".to_owned(),
        String::new(),
    ];
    for answers in [true, false] {
        let allowed = Arc::new(Allowed::default());
        let scratch = scratch(policy, config, answers, allowed.clone());
        for listener in &config.listeners {
            for stranger in strangers(config, listener) {
                for sender in &senders {
                    let probe = Probe {
                        policy: &scratch,
                        config,
                        listener,
                        stranger: &stranger,
                        sender,
                    };
                    if let Some(path) = probe.admitted(&paths).await {
                        let by = allowed.0.lock().take();
                        return Err(probe.error(&path, by.as_deref()));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The same plugins over services that know nothing.
fn scratch(policy: &Policy, config: &Config, answers: bool, journal: Arc<Allowed>) -> Policy {
    let dns = Dns::scratch(answers);
    let services = Services {
        relay_domains: policy.services.relay_domains.clone(),
        users: policy.services.users.clone(),
        keys: policy.services.keys.clone(),
        state: State::in_memory(),
        authenticator: Authenticator::new(&dns, &config.hostname),
        dns,
        counters: Arc::default(),
        journal,
    };
    let plugins = policy.plugins().iter().map(|plugin| Arc::new(plugin.scratch(answers)));
    let disabled = policy.disabled.clone();
    Policy::new(
        policy.number,
        plugins.collect(),
        disabled,
        Box::default(),
        Arc::new(services),
    )
}

/// Who comes to a listener: over IPv4, in the clear if that is possible; and over IPv6, with TLS if that is possible.
fn strangers(config: &Config, listener: &Listener) -> [SessionFacts; 2] {
    let v4 = STRANGERS_V4.map(IpAddr::V4);
    let v6 = STRANGERS_V6.map(IpAddr::V6);
    [
        stranger(config, listener, &v4, listener.tls == ListenerTls::Implicit),
        stranger(config, listener, &v6, listener.tls != ListenerTls::None),
    ]
}

fn stranger(config: &Config, listener: &Listener, from: &[IpAddr], tls: bool) -> SessionFacts {
    let outside = from.iter().find(|address| !config.trusts(**address));
    let address = *outside.unwrap_or(&from[0]);
    let name = listener.name.as_str().into();
    let mut facts = SessionFacts::new(name, listener.auth, listener.address, SocketAddr::new(address, 25_025));
    // Where everybody is trusted, so is a stranger.
    facts.trusted = outside.is_none();
    facts.tls = tls.then(|| TlsFacts {
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_256_GCM_SHA384".into(),
        server_name: None,
    });
    facts
}

/// One session: a stranger at a listener, with one sender.
struct Probe<'a> {
    policy: &'a Policy,
    config: &'a Config,
    listener: &'a Listener,
    stranger: &'a SessionFacts,
    sender: &'a str,
}

impl Probe<'_> {
    /// The first forward-path that would be relayed.
    async fn admitted(&self, paths: &[String]) -> Option<String> {
        let facts = SessionFacts {
            id: Id::new(),
            ..self.stranger.clone()
        };
        let mut scope = Scope::new(Arc::new(facts), self.policy.services.clone());
        if self.refused(&mut scope, Question::Connect).await {
            return None;
        }
        let name = "stranger.invalid";
        let facts = Arc::make_mut(&mut scope.session);
        facts.ehlo = Some(name.into());
        facts.esmtp = true;
        if self.refused(&mut scope, Question::Ehlo(name)).await {
            return None;
        }
        let sender = Address::parse(self.sender).ok();
        scope.transaction = Some(Arc::new(Transaction {
            envelope: Envelope {
                sender: self.sender.to_owned(),
                ..Envelope::default()
            },
            ..Transaction::default()
        }));
        if self.refused(&mut scope, Question::Mail(sender.as_ref(), &[])).await {
            return None;
        }
        for path in paths {
            // What is no address is refused by the protocol.
            let Ok(recipient) = Address::parse(path) else { continue };
            let class = self.class(&recipient, &scope.session);
            let question = Question::Rcpt(&recipient, &[], class);
            // Each path could be the first of a session.
            scope.ask_all_again();
            let outcome = chain::ask(self.policy, &mut scope, question).await;
            if !goes_on(&outcome) {
                continue;
            }
            let session = &scope.session;
            let last = gate::last_word(
                &recipient,
                class,
                outcome.effects.recipient.as_ref(),
                outcome.effects.relay_allowed,
                |rewritten| self.class(rewritten, session),
            );
            // A policy may make one of our own addresses of anything.
            if last.admitted.is_ok() && last.class != Class::Ours {
                return Some(path.clone());
            }
        }
        None
    }

    async fn refused(&self, scope: &mut Scope, question: Question<'_>) -> bool {
        !goes_on(&chain::ask(self.policy, scope, question).await)
    }

    fn class(&self, address: &Address, session: &SessionFacts) -> Class {
        gate::classify(
            address,
            session,
            self.listener.allow_plaintext_auth,
            &self.config.relay_domains,
        )
    }

    fn error(&self, path: &str, by: Option<&str>) -> LoadError {
        let plugins = self.policy.plugins();
        let plugin = plugins
            .iter()
            .find(|plugin| by == Some(&*plugin.name))
            .or_else(|| plugins.iter().find(|plugin| may_allow(plugin)));
        let peer = self.stranger.peer.ip();
        let tls = if self.stranger.tls.is_some() { " with TLS" } else { "" };
        let listener = &self.listener.name;
        let who = match self.stranger.trusted {
            true => format!("anyone ({peer} for one, which is nobody's and in trusted_networks)"),
            false => format!("a stranger ({peer}, not authenticated, in no trusted network)"),
        };
        let remedy = match self.stranger.trusted {
            true => "name the networks that you trust in trusted_networks",
            false => {
                "let it allow only sessions with an identity or a trusted peer, add the networks that may relay to trusted_networks, or take the grant \"relay\" from it"
            }
        };
        let name = plugin.map_or("", |plugin| &plugin.name);
        tracing::warn!(
            plugin = name,
            listener,
            peer = %peer,
            sender = self.sender,
            recipient = path,
            remedy,
            "relay probe admitted: the policy would open the relay"
        );
        LoadError {
            place: self.config.place_of_plugin(name, false),
            plugin: name.to_owned(),
            file: self
                .config
                .plugin(name)
                .map_or_else(|_| String::new(), |plugin| plugin.file.display().to_string()),
            what: format!(
                "it would open the relay: {who} may send from <{}> to <{path}> on listener {listener}{tls}; {remedy}",
                self.sender
            ),
        }
    }
}

/// What is discarded goes nowhere.
fn goes_on(outcome: &Outcome) -> bool {
    matches!(outcome.verdict, Verdict::Pass | Verdict::Accept)
}

/// A journal that keeps nothing but which plugin allowed a relay last.
#[derive(Default)]
struct Allowed(Mutex<Option<Arc<str>>>);

impl Journal for Allowed {
    fn decision(&self, decision: &Decision) {
        if decision.actions.iter().any(|action| action == "allow-relay") {
            *self.0.lock() = Some(decision.plugin.clone());
        }
    }

    fn plugin_log(&self, _: Id, _: &str, _: Stage, _: tracing::Level, _: &str) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(trusted: &str) -> Config {
        let text = format!(
            "hostname = \"relay.test\"\nrelay_domains = [\"ours.test\"]\ntrusted_networks = [{trusted}]\n\
             [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n[delivery]\nnext_hop = \"discard:\"\n"
        );
        Config::parse(&text, Path::new("gatepost.toml")).unwrap()
    }

    #[test]
    fn a_stranger_is_outside_of_every_trusted_network() {
        let peers = |trusted: &str| {
            let config = config(trusted);
            strangers(&config, &config.listeners[0]).map(|facts| (facts.peer.ip().to_string(), facts.trusted))
        };
        let (v4, v6) = (("192.0.2.25".to_owned(), false), ("2001:db8::25".to_owned(), false));
        assert_eq!(peers(""), [v4.clone(), v6.clone()]);
        assert_eq!(
            peers("\"192.0.2.0/24\", \"198.51.100.0/24\", \"2001:db8::/32\""),
            [("203.0.113.25".to_owned(), false), ("3fff::25".to_owned(), false)]
        );
        // One who trusts everybody has no strangers.
        assert_eq!(peers("\"0.0.0.0/0\""), [("192.0.2.25".to_owned(), true), v6]);
    }

    #[test]
    fn the_gate_refuses_every_path_that_is_an_address() {
        let config = config("");
        let [stranger, _] = strangers(&config, &config.listeners[0]);
        let paths = forward_paths("ours.test");
        let addresses: Vec<Address> = paths.iter().filter_map(|path| Address::parse(path).ok()).collect();
        assert!(addresses.len() >= 9, "{addresses:?}");
        for address in addresses {
            let class = gate::classify(&address, &stranger, false, &config.relay_domains);
            assert!(gate::admit(class, false).is_err(), "{address}");
        }
    }
}
