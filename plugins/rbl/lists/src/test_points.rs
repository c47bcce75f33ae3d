//! The test points of RFC 5782 §5, by which a list that answers everything and one that is dead are recognised.
//!
//! Every list of addresses has 127.0.0.2 and has not 127.0.0.1; every list of domains has `TEST` and has not `INVALID`. They are asked when it matters: what
//! must not be listed before an answer of the list decides anything, what must be listed now and then.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::About;
use crate::ask::{Finding, event, look_up};
use crate::list::{Kind, List, Meaning};

/// What no list has. Names are asked of lists of addresses too where 127.0.0.1 proves nothing.
const NEVER_ADDRESS: &str = "127.0.0.1";
const NEVER_DOMAIN: &str = "invalid";
/// What every list has. Some lists of domains have the address of the others instead.
const ALWAYS_ADDRESS: &str = "127.0.0.2";
const ALWAYS_DOMAIN: &str = "test";

/// The findings without those of lists that list what no list has: these list everything, and their word is worth nothing. One more batch.
pub fn without_broken(findings: Vec<Finding<'_>>) -> Vec<Finding<'_>> {
    let mut asked: Vec<(&List, &str)> = Vec::new();
    for finding in &findings {
        let list = finding.list;
        if list.has_test_points && !asked.iter().any(|(other, _)| other.zone == list.zone) {
            asked.push((list, never(finding)));
        }
    }
    let answers = look_up(asked.iter().copied());
    let broken: BTreeSet<&str> = asked
        .iter()
        .zip(answers)
        .filter(|((list, _), answer)| answer.as_ref().is_ok_and(|codes| lists(list, codes)))
        .map(|((list, subject), _)| {
            let zone = &list.zone;
            event(
                "list_broken",
                &format!("{zone} lists {subject}, which no list has (RFC 5782 section 5), so it lists everything: it is ignored; take it out"),
            );
            zone.as_str()
        })
        .collect();
    let mut findings = findings;
    findings.retain(|finding| !broken.contains(finding.list.zone.as_str()));
    findings
}

/// Says of each list that does not have its test point that it is dead. Nothing else follows: who lists nothing weighs nothing.
pub fn tell_dead<'a>(lists_to_test: impl IntoIterator<Item = &'a List>) {
    let mut asked: Vec<(&List, &str)> = Vec::new();
    for list in lists_to_test.into_iter().filter(|list| list.has_test_points) {
        if list.kind == Kind::Domains {
            asked.push((list, ALWAYS_DOMAIN));
        }
        asked.push((list, ALWAYS_ADDRESS));
    }
    let answers = look_up(asked.iter().copied());
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for (list, _) in &asked {
        let of_list = asked
            .iter()
            .zip(&answers)
            .filter(|((other, _), _)| other.zone == list.zone);
        // One that does not answer is said to be so where it is asked about somebody.
        let is_dead = of_list
            .clone()
            .all(|(_, answer)| answer.as_ref().is_ok_and(|codes| !lists(list, codes)));
        if is_dead && told.insert(&list.zone) {
            let zone = &list.zone;
            event(
                "list_dead",
                &format!(
                    "{zone} does not list its test point (RFC 5782 section 5): it is dead, or does not serve this resolver; take it out, or write `test_points = false` if it has none"
                ),
            );
        }
    }
}

fn never(finding: &Finding<'_>) -> &'static str {
    let is_loopback = || {
        finding
            .subject
            .parse()
            .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    };
    match finding.list.kind {
        Kind::Domains => NEVER_DOMAIN,
        // A list that has been given a loopback address has been given it on purpose.
        Kind::Addresses if finding.about == About::Client && is_loopback() => NEVER_DOMAIN,
        Kind::Addresses => NEVER_ADDRESS,
    }
}

/// Whether one of the codes is a listing.
fn lists(list: &List, codes: &[String]) -> bool {
    codes
        .iter()
        .any(|code| matches!(list.meaning(code), Meaning::Listed { .. }))
}
