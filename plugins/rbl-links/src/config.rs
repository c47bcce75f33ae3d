//! `[plugin.config]`: the lists, what their answers weigh, how much of a message is looked at, and what happens at the threshold.
//!
//! Errors name the list by its place and the key.

use dns_lists::{Kind, List, ListConfig, MOST_QUESTIONS, check_all, check_suffixes, host_name};
use serde::Deserialize;

/// Bytes of a body that can be read; with the header it is one read of the host.
const MOST_BODY_BYTES: u32 = 192 * 1024;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Lists of domains.
    lists: Vec<ListConfig>,
    /// The sum of the lists' weights for one link from which a message is refused.
    threshold: i32,
    action: Action,
    /// How many domains of a message are asked about.
    hosts: u32,
    /// How much of the body is read.
    body_bytes: u32,
    /// Domains that are not asked about, with all below them.
    ignore: Vec<String>,
    /// Messages to these recipients alone may have any link, so that the refused can ask.
    exempt_local_parts: Vec<String>,
    /// Names below which others register, besides those that are known: `github.io`.
    suffixes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lists: Vec::new(),
            threshold: 1,
            action: Action::Reject,
            hosts: 8,
            body_bytes: 64 * 1024,
            // Where HTML says of which kind it is.
            ignore: vec!["w3.org".to_owned()],
            // RFC 5321 §4.5.1 and RFC 2142 §4.
            exempt_local_parts: vec!["postmaster".to_owned(), "abuse".to_owned()],
            suffixes: Vec::new(),
        }
    }
}

/// What happens to a message at the threshold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Reject,
    Quarantine,
    Tag,
}

/// What was checked.
#[derive(Debug)]
pub struct Settings {
    pub lists: Vec<List>,
    pub threshold: i32,
    pub action: Action,
    pub hosts: usize,
    pub body_bytes: u32,
    pub ignore: Vec<String>,
    pub exempt_local_parts: Vec<String>,
    pub suffixes: Vec<String>,
}

/// Checks what is written.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(config: Config) -> Result<Settings, String> {
    let Config {
        lists,
        threshold,
        action,
        hosts,
        body_bytes,
        ignore,
        exempt_local_parts,
        suffixes,
    } = config;
    if threshold < 1 {
        return Err(format!(
            "threshold: {threshold} would hold for links on no list: it must be at least 1"
        ));
    }
    if hosts == 0 {
        return Err("hosts: 0 would ask about nothing: it must be at least 1".to_owned());
    }
    if body_bytes > MOST_BODY_BYTES {
        return Err(format!(
            "body_bytes: {body_bytes} are too many: at most {MOST_BODY_BYTES}"
        ));
    }
    let lists = check_all(
        "lists",
        lists.into_iter().map(|list| list.check(Kind::Domains)),
        |list| list,
    )?;
    let hosts = hosts as usize;
    if hosts.saturating_mul(lists.len()) > MOST_QUESTIONS {
        return Err(format!(
            "hosts: {hosts} on {} lists are more than the {MOST_QUESTIONS} questions of one batch: at most {}",
            lists.len(),
            MOST_QUESTIONS / lists.len()
        ));
    }
    let ignored = |(place, domain): (usize, &String)| {
        host_name(domain).ok_or_else(|| format!("ignore[{place}]: `{domain}` is no domain: write it as `example.org`"))
    };
    Ok(Settings {
        lists,
        threshold,
        action,
        hosts,
        body_bytes,
        ignore: ignore.iter().enumerate().map(ignored).collect::<Result<_, _>>()?,
        exempt_local_parts,
        suffixes: check_suffixes(&suffixes)?,
    })
}
