//! `[plugin.config]`: what is enforced, for whom not, and who may vouch for others' mail.
//!
//! Without it nothing is enforced. Errors name the key.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// As written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What happens to mail that fails DMARC, where `domains` says nothing else.
    pub dmarc: Mode,
    /// What happens to mail of servers that the envelope sender's domain does not want to send.
    pub spf_fail: SpfFail,
    /// What happens if what would be enforced cannot be checked now.
    pub temporary_errors: TemporaryErrors,
    /// Whether mail of authenticated senders is checked as well.
    pub check_authenticated: bool,
    /// Whether mail from trusted networks is checked as well.
    pub check_trusted_networks: bool,
    /// Networks of servers that forward mail to us: what they bring is never refused.
    pub forwarders: Vec<IpNet>,
    /// Domains whose ARC seals are believed.
    pub arc_sealers: Vec<String>,
    /// Other modes for authors' domains, and those under them.
    pub domains: BTreeMap<String, Mode>,
}

/// What becomes of mail that fails DMARC.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing beyond the header field.
    Ignore,
    /// The message gets a tag, and the log a reason.
    #[default]
    Tag,
    /// What the author's domain asks for.
    Enforce,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SpfFail {
    #[default]
    Tag,
    Reject,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TemporaryErrors {
    #[default]
    Tag,
    Defer,
}

/// Puts names into the form in which they are compared.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(mut config: Config) -> Result<Config, String> {
    for (place, sealer) in config.arc_sealers.iter_mut().enumerate() {
        *sealer = domain(sealer).map_err(|error| format!("arc_sealers[{place}]: {error}"))?;
    }
    let mut domains = BTreeMap::new();
    for (name, mode) in std::mem::take(&mut config.domains) {
        let plain = domain(&name).map_err(|error| format!("domains: {error}"))?;
        if domains.insert(plain, mode).is_some() {
            return Err(format!("domains: `{name}` is there twice: keep one"));
        }
    }
    config.domains = domains;
    Ok(config)
}

fn domain(written: &str) -> Result<String, String> {
    let plain = written.strip_suffix('.').unwrap_or(written).to_ascii_lowercase();
    let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if plain.is_empty() || plain.starts_with('.') || !plain.bytes().all(in_domain) {
        return Err(format!("`{written}` is no domain: write it as `example.org`"));
    }
    Ok(plain)
}

impl Config {
    /// What holds for mail of this author's domain: the nearest entry of it and the domains above it.
    pub fn mode(&self, author: &str) -> Mode {
        let mut name = author;
        loop {
            if let Some(mode) = self.domains.get(name) {
                return *mode;
            }
            match name.split_once('.') {
                Some((_, above)) => name = above,
                None => return self.dmarc,
            }
        }
    }

    /// Whether this client's mail is forwarded mail.
    pub fn is_forwarder(&self, client: &str) -> bool {
        let client: Option<IpAddr> = client.parse().ok();
        client.is_some_and(|client| self.forwarders.iter().any(|network| network.contains(&client)))
    }
}
