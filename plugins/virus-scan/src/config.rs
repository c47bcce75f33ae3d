//! `[plugin.config]`: where clamd is, what is scanned, and what becomes of what was found or could not be scanned.
//!
//! Errors name the key.

use serde::Deserialize;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name in `[plugin.endpoints]`.
    pub endpoint: String,
    /// What happens to a message in which a virus was found.
    pub action: Action,
    /// What happens to a message about which clamd says nothing of use.
    pub unavailable: Unavailable,
    /// What happens to a message that is over `max_bytes`, or over clamd's own limit.
    pub too_large: TooLarge,
    /// Bytes of a message that is still scanned.
    pub max_bytes: u64,
    /// Whether messages with a recipient of ours are scanned.
    pub inbound: bool,
    /// Whether messages with a recipient elsewhere are scanned.
    pub outbound: bool,
    /// Whether each message says in `X-Virus-Scanned` what came of the scan.
    pub header: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: "clamd".to_owned(),
            action: Action::Reject,
            unavailable: Unavailable::Defer,
            too_large: TooLarge::Reject,
            // The relay's `message_size` by default, and Debian's `StreamMaxLength`.
            max_bytes: 25 * 1024 * 1024,
            inbound: true,
            outbound: true,
            header: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Reject,
    Quarantine,
    Tag,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    Defer,
    Accept,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TooLarge {
    Reject,
    Quarantine,
    Accept,
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Config, String> {
    if config.endpoint.is_empty() {
        return Err("endpoint: is empty: write the name that [plugin.endpoints] gives to clamd".to_owned());
    }
    if config.max_bytes == 0 {
        return Err("max_bytes: 0 would scan nothing: leave the plugin out, or write a number of bytes".to_owned());
    }
    if !config.inbound && !config.outbound {
        return Err(
            "inbound, outbound: both are false, so nothing would be scanned: leave the plugin out, or set one to true"
                .to_owned(),
        );
    }
    gatepost_sdk::require_endpoint(&config.endpoint, "unix:/run/clamav/clamd.ctl")
        .map_err(|error| format!("endpoint: {error}"))?;
    Ok(config)
}
