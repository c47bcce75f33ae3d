//! `[plugin.config]`: the lists, what their answers weigh, which names are asked about, and what happens at the threshold.
//!
//! Errors name the list by its place and the key.

use std::collections::BTreeMap;

use dns_lists::{
    Code, Kind, List, ListConfig, MOST_QUESTIONS, check_all, check_suffixes, default_test_points, default_weight,
};
use serde::Deserialize;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Lists of addresses.
    pub lists: Vec<ListConfig>,
    /// Lists of domains.
    pub domain_lists: Vec<DomainListConfig>,
    /// The sum of the lists' weights from which a client counts as listed.
    pub threshold: i32,
    pub action: Action,
    /// Recipients that listed clients may still write to, so that the refused can ask.
    pub exempt_local_parts: Vec<String>,
    /// Names below which others register, besides those that are known: `github.io`.
    pub suffixes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lists: Vec::new(),
            domain_lists: Vec::new(),
            threshold: 1,
            action: Action::Reject,
            // RFC 5321 §4.5.1 and RFC 2142 §4.
            exempt_local_parts: vec!["postmaster".to_owned(), "abuse".to_owned()],
            suffixes: Vec::new(),
        }
    }
}

/// A list of domains, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainListConfig {
    zone: String,
    #[serde(default = "default_weight")]
    weight: i32,
    #[serde(default)]
    codes: BTreeMap<String, Code>,
    #[serde(default = "default_test_points")]
    test_points: bool,
    #[serde(default = "default_names")]
    names: Vec<Which>,
    /// The name as it is, and not the registered domain.
    #[serde(default)]
    whole_name: bool,
}

/// A name that a list of domains is asked about.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    Ehlo,
    ReverseName,
    Sender,
}

/// What happens to a client at the threshold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Reject,
    Defer,
    Tag,
}

/// A list of domains that was checked.
#[derive(Debug)]
pub struct DomainList {
    pub list: List,
    pub names: Vec<Which>,
    pub whole_name: bool,
}

/// What was checked.
#[derive(Debug)]
pub struct Settings {
    pub lists: Vec<List>,
    pub domain_lists: Vec<DomainList>,
    pub threshold: i32,
    pub action: Action,
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
        domain_lists,
        threshold,
        action,
        exempt_local_parts,
        suffixes,
    } = config;
    if threshold < 1 {
        return Err(format!(
            "threshold: {threshold} would hold for clients on no list: it must be at least 1"
        ));
    }
    let lists = check_all(
        "lists",
        lists.into_iter().map(|list| list.check(Kind::Addresses)),
        |list| list,
    )?;
    let domain_lists = check_all(
        "domain_lists",
        domain_lists.into_iter().map(check_domain_list),
        |domains| &domains.list,
    )?;
    let questions = lists.len() + domain_lists.iter().map(|list| list.names.len()).sum::<usize>();
    if questions > MOST_QUESTIONS {
        return Err(format!(
            "lists: with the names of domain_lists they are {questions} questions about a client, which are too many: at most {MOST_QUESTIONS}"
        ));
    }
    Ok(Settings {
        lists,
        domain_lists,
        threshold,
        action,
        exempt_local_parts,
        suffixes: check_suffixes(&suffixes)?,
    })
}

fn check_domain_list(written: DomainListConfig) -> Result<DomainList, String> {
    let DomainListConfig {
        zone,
        weight,
        codes,
        test_points,
        mut names,
        whole_name,
    } = written;
    names.sort_by_key(|name| *name as u8);
    names.dedup();
    if names.is_empty() {
        return Err(".names: the list would never be asked: name `ehlo`, `reverse-name` or `sender`".to_owned());
    }
    Ok(DomainList {
        list: List::new(&zone, Kind::Domains, weight, codes, test_points)?,
        names,
        whole_name,
    })
}

fn default_names() -> Vec<Which> {
    vec![Which::Ehlo, Which::Sender]
}
