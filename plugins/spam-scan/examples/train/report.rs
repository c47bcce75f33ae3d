//! Says how good scores are.

use std::collections::BTreeSet;

use crate::corpus::{Kind, Sample};
use spam_scan::model::Model;
use spam_scan::rules::RULES;

/// Lists and senders of each kind that are named because they are on the wrong side, or nearest to it.
const NAMED: usize = 8;

/// The confusion table at `tag`, what it would be at other thresholds, and what is on the wrong side or nearest to it.
pub fn print(name: &str, mut scored: Vec<(&Sample, i32)>, tag: i32) {
    println!("\n{name}\n");
    println!("| | messages | tagged | passed | tagged, % |");
    println!("| --- | --- | --- | --- | --- |");
    for kind in Kind::ALL {
        let (tagged, all) = tagged(&scored, kind, tag);
        println!(
            "| {} | {all} | {tagged} | {} | {:.2} |",
            kind.name(),
            all - tagged,
            percent(tagged, all)
        );
    }
    println!("\ntagged, %, at other thresholds:");
    for at in (tag - 300..=tag + 300).step_by(50) {
        let shares = Kind::ALL.map(|kind| {
            let (tagged, all) = tagged(&scored, kind, at);
            format!("{} {:.2}", kind.name(), percent(tagged, all))
        });
        println!("  {:>5.1}: {}", f64::from(at) / 100.0, shares.join(", "));
    }
    scored.sort_by_key(|(_, points)| *points);
    for kind in Kind::ALL {
        println!("\n{}, the worst of each list and sender:", kind.name());
        let of_kind = scored.iter().filter(|(sample, _)| sample.kind == kind);
        let worst: Vec<_> = match kind {
            Kind::Spam => of_kind.collect(),
            Kind::Ham | Kind::HardHam => of_kind.rev().collect(),
        };
        let mut named = BTreeSet::new();
        for (sample, points) in worst {
            if named.insert(&sample.group) {
                println!("  {:>6.2} {} {}", f64::from(*points) / 100.0, sample.file, sample.group);
            }
            if named.len() == NAMED {
                break;
            }
        }
    }
}

/// The table of rules for the README: what each says, and the points it was given.
pub fn rules(model: &Model<'_>) {
    println!("| rule | says | points |");
    println!("| --- | --- | --- |");
    for (place, rule) in RULES.iter().enumerate() {
        println!(
            "| `{}` | {} | {:.1} |",
            rule.name,
            rule.what,
            f64::from(model.rule(place)) / 100.0
        );
    }
}

/// How many of a kind are tagged, and how many there are.
fn tagged(scored: &[(&Sample, i32)], kind: Kind, tag: i32) -> (usize, usize) {
    let of_kind = || scored.iter().filter(|(sample, _)| sample.kind == kind);
    (
        of_kind().filter(|(_, points)| *points >= tag).count(),
        of_kind().count(),
    )
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}
