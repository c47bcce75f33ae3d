//! Divides mail into what is trained on and what is tested with.

use std::collections::{BTreeMap, BTreeSet};

use crate::corpus::{Corpus, Kind};

/// How many parts there are; each is tested once.
const FOLDS: usize = 5;

/// Places of samples.
#[derive(Debug)]
pub struct Fold {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

/// Each kind is dealt out in the order of a shuffle that is always the same.
pub fn random(corpus: &Corpus) -> Vec<Fold> {
    let mut dealt = [0; Kind::ALL.len()];
    let mut order: Vec<usize> = (0..corpus.samples.len()).collect();
    order.sort_by_key(|place| scattered(*place as u64));
    let mut part = vec![0; corpus.samples.len()];
    for place in order {
        let count = &mut dealt[corpus.samples[place].kind as usize];
        part[place] = *count % FOLDS;
        *count += 1;
    }
    let split = |fold| (0..part.len()).partition(|place: &usize| part[*place] != fold);
    (0..FOLDS)
        .map(|fold| {
            let (train, test) = split(fold);
            Fold { train, test }
        })
        .collect()
}

/// Groups stay together, and who wrote a message that is tested with wrote none that is trained on.
pub fn grouped(corpus: &Corpus) -> Vec<Fold> {
    let samples = &corpus.samples;
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, sample) in samples.iter().enumerate() {
        groups.entry(&sample.group).or_default().push(place);
    }
    // The largest first, each to the part that has least of what it brings.
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.sort_by_key(|group| (usize::MAX - group.len(), scattered(group[0] as u64)));
    let total = Kind::ALL.map(|kind| samples.iter().filter(|sample| sample.kind == kind).count().max(1) as f64);
    let mut filled = [[0.0; Kind::ALL.len()]; FOLDS];
    let mut tests = vec![Vec::new(); FOLDS];
    for group in groups {
        let mut brings = [0.0; Kind::ALL.len()];
        for place in &group {
            brings[samples[*place].kind as usize] += 1.0;
        }
        let load = |fold: usize| -> f64 {
            (0..brings.len())
                .filter(|kind| brings[*kind] > 0.0)
                .map(|kind| (filled[fold][kind] + brings[kind]) / total[kind])
                .sum()
        };
        let fold = (0..FOLDS)
            .min_by(|one, other| load(*one).total_cmp(&load(*other)))
            .unwrap_or(0);
        for kind in 0..brings.len() {
            filled[fold][kind] += brings[kind];
        }
        tests[fold].extend(group);
    }
    tests
        .into_iter()
        .map(|test| {
            let tested: BTreeSet<usize> = test.iter().copied().collect();
            let senders: BTreeSet<&str> = test.iter().map(|place| samples[*place].sender.as_str()).collect();
            let train = (0..samples.len())
                .filter(|place| !tested.contains(place) && !senders.contains(samples[*place].sender.as_str()))
                .collect();
            Fold { train, test }
        })
        .collect()
}

/// The earlier three fifths of each kind and the later two, by the names of the files, which are in the order in which the mail came.
pub fn later(corpus: &Corpus) -> Vec<Fold> {
    let samples = &corpus.samples;
    let mut fold = Fold {
        train: Vec::new(),
        test: Vec::new(),
    };
    for kind in Kind::ALL {
        let of_kind: Vec<usize> = (0..samples.len())
            .filter(|place| samples[*place].kind == kind)
            .collect();
        let (earlier, later) = of_kind.split_at(of_kind.len() * 3 / 5);
        fold.train.extend(earlier);
        fold.test.extend(later);
    }
    vec![fold]
}

/// A number that has nothing to do with its neighbours' (the finisher of SplitMix64).
fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
