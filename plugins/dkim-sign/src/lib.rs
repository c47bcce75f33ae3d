//! Has the host sign outgoing mail with the keys of its author's domain (DKIM). The keys are the host's; this policy says whose mail is signed, and
//! with which of them.
//!
//! Only mail of those who authenticated, and of trusted networks, is signed: a signature says that the domain takes responsibility. Who authenticated
//! gets it for the domain of the envelope sender, which `auth-relay` holds to be its own, and of its name, if that is an address.
//!
//! Never: refuses anything, or signs for a domain that From does not name.
//!
//! Fails at load if a domain is none. If it names a key that the host does not have, the call fails, and `on_failure` says what becomes of the message.

mod author;

use std::collections::BTreeMap;

use gatepost_sdk::prelude::*;
use gatepost_sdk::signing;
use serde::Deserialize;

/// `[plugin.config]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is signed for these authors' domains, instead of with all keys of the domain.
    domains: BTreeMap<String, Keys>,
    /// Whether who authenticated gets a signature for any author's domain.
    any_author: bool,
    /// Whether mail from trusted networks is signed.
    trusted_networks: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domains: BTreeMap::new(),
            any_author: false,
            trusted_networks: true,
        }
    }
}

/// Keys for an author's domain, as written.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a list of selectors, or `{ domain = \"example.org\", selectors = [\"s1\"] }`"
)]
enum Keys {
    /// Of the domain itself.
    Own(Vec<String>),
    Of(OtherKeys),
}

/// Keys of another domain, as for `news.example.org` those of `example.org`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherKeys {
    domain: String,
    /// None: all.
    #[serde(default)]
    selectors: Vec<String>,
}

/// The configured policy.
pub struct DkimSign(Config);

impl Policy for DkimSign {
    type Config = Config;

    fn new(mut config: Config) -> Result<Self, String> {
        let mut domains = BTreeMap::new();
        for (name, keys) in std::mem::take(&mut config.domains) {
            let plain = name.trim_end_matches('.').to_ascii_lowercase();
            if plain.is_empty() || plain.contains(['@', ' ', '*']) {
                return Err(format!("domains: `{name}` is no domain: write it as `example.org`"));
            }
            if domains.insert(plain, keys).is_some() {
                return Err(format!("domains: `{name}` is there twice: keep one"));
            }
        }
        config.domains = domains;
        Ok(Self(config))
    }
}

impl OnMessage for DkimSign {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        let identity = session.identity();
        if identity.is_none() && !(self.0.trusted_networks && session.peer().trusted) {
            return Answer::pass().leave_session();
        }
        let Some(author) = author::domain(&message.header("From")) else {
            return Answer::pass();
        };
        if let Some(identity) = identity
            && !self.0.any_author
            && !is_own(&author, &identity.name, &session.sender().unwrap_or_default())
        {
            return Answer::pass();
        }
        let (domain, selectors) = self.keys(author);
        let sign = |answer: Answer, selector| answer.sign(&domain, selector);
        selectors.into_iter().fold(Answer::pass(), sign)
    }
}

impl DkimSign {
    /// The domain whose keys are for this author, and their selectors.
    fn keys(&self, author: String) -> (String, Vec<String>) {
        match self.0.domains.get(&author) {
            Some(Keys::Own(selectors)) => (author, selectors.clone()),
            Some(Keys::Of(other)) if !other.selectors.is_empty() => (other.domain.clone(), other.selectors.clone()),
            Some(Keys::Of(other)) => (other.domain.clone(), signing::selectors(&other.domain)),
            None => {
                let selectors = signing::selectors(&author);
                (author, selectors)
            }
        }
    }
}

/// Whether an identity may speak for this domain.
fn is_own(author: &str, identity: &str, sender: &str) -> bool {
    [identity, sender]
        .into_iter()
        .any(|address| gatepost_sdk::split_address(address).domain == author)
}

gatepost_sdk::export!(DkimSign: on_message);

#[cfg(test)]
mod tests;
