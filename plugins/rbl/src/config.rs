//! `[plugin.config]`: the lists, what their answers weigh, and what happens at the threshold.
//!
//! Errors name the list by its place and the key.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Deserialize;

/// Lists in one batch; the host's bound.
pub const MOST_LISTS: usize = 32;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub lists: Vec<ListConfig>,
    /// The sum of the lists' weights from which a client counts as listed.
    pub threshold: i32,
    pub action: Action,
    /// Recipients that listed clients may still write to, so that the refused can ask.
    pub exempt_local_parts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lists: Vec::new(),
            threshold: 1,
            action: Action::Reject,
            // RFC 5321 §4.5.1 and RFC 2142 §4.
            exempt_local_parts: vec!["postmaster".to_owned(), "abuse".to_owned()],
        }
    }
}

/// One list, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListConfig {
    pub zone: String,
    /// What an answer weighs that `codes` does not name. Negative for a list of the good.
    #[serde(default = "default_weight")]
    pub weight: i32,
    #[serde(default)]
    pub codes: BTreeMap<String, Code>,
}

/// What one return code means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    pub weight: i32,
    /// For people: `spam source`.
    #[serde(default)]
    pub reason: String,
}

/// What happens to a client at the threshold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Reject,
    Defer,
    Tag,
}

/// A list that was checked.
#[derive(Debug)]
pub struct List {
    pub zone: String,
    pub weight: i32,
    /// The exact codes before those with a `*`.
    pub codes: Vec<(Pattern, Code)>,
}

/// `127.0.0.2`, or `127.0.*.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern([Option<u8>; 4]);

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let mut octets = [None; 4];
        let mut parts = text.split('.');
        for octet in &mut octets {
            let part = parts.next()?;
            if part != "*" {
                *octet = Some(part.parse().ok()?);
            }
        }
        (parts.next().is_none() && octets[0] == Some(127)).then_some(Self(octets))
    }

    pub fn matches(&self, code: Ipv4Addr) -> bool {
        self.0
            .iter()
            .zip(code.octets())
            .all(|(wanted, octet)| wanted.is_none_or(|wanted| wanted == octet))
    }

    fn stars(&self) -> usize {
        self.0.iter().filter(|octet| octet.is_none()).count()
    }
}

/// Checks the lists.
///
/// # Errors
/// The key, what is wrong with it, and what would be right.
pub fn check(lists: Vec<ListConfig>, threshold: i32) -> Result<Vec<List>, String> {
    if threshold < 1 {
        return Err(format!(
            "threshold: {threshold} would hold for clients on no list: it must be at least 1"
        ));
    }
    if lists.len() > MOST_LISTS {
        return Err(format!("lists: {} are too many: at most {MOST_LISTS}", lists.len()));
    }
    let mut checked: Vec<List> = Vec::with_capacity(lists.len());
    for (place, written) in lists.into_iter().enumerate() {
        let list = check_list(written).map_err(|error| format!("lists[{place}]{error}"))?;
        if checked.iter().any(|other| other.zone == list.zone) {
            return Err(format!(
                "lists[{place}].zone: `{}` is there twice: keep one, with all its codes",
                list.zone
            ));
        }
        checked.push(list);
    }
    Ok(checked)
}

fn check_list(written: ListConfig) -> Result<List, String> {
    let zone = written.zone.trim_matches('.').to_ascii_lowercase();
    let in_zone = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if zone.is_empty() || !zone.chars().all(in_zone) {
        return Err(format!(
            ".zone: `{}` is no domain: write it as `bl.example.org`",
            written.zone
        ));
    }
    let mut codes = written
        .codes
        .into_iter()
        .map(|(text, code)| match Pattern::parse(&text) {
            Some(pattern) => Ok((pattern, code)),
            None => Err(format!(
                ".codes: `{text}` is no return code: write `127.0.0.2`, or `127.0.*.3`"
            )),
        })
        .collect::<Result<Vec<_>, String>>()?;
    codes.sort_by_key(|(pattern, _)| pattern.stars());
    Ok(List {
        zone,
        weight: written.weight,
        codes,
    })
}

fn default_weight() -> i32 {
    1
}
