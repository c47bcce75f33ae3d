//! Trains spam-scan's model, and says how good it is on mail that it has not seen.
//!
//!     cargo run --release --manifest-path plugins/Cargo.toml -p spam-scan --example train -- FOLDER [--write]
//!
//! FOLDER has the folders `ham`, `hard-ham` and `spam`, one message a file. It prints confusion tables for mail that was not
//! trained on: five folds at random, five by mailing list and sender, five in which newsletters alone are dealt out at random, and the
//! later part of the mail by the earlier one; then the same by other shuffles. With `--write` it trains on all of it and replaces
//! `model.bin`. The same mail gives the same model, to the byte.
//!
//! What a message shows comes from the plugin's own code: there is no second reader of mail here.

mod corpus;
mod descent;
mod fit;
mod folds;
mod report;

use std::path::{Path, PathBuf};

use corpus::{Corpus, Sample};
use folds::Fold;
use spam_scan::model;

/// How often the folds are dealt out anew, to see how much of a figure is chance.
const OTHER_SHUFFLES: u64 = 3;

/// Points from which mail is tagged, in hundredths: the default of `tag`.
const TAG: i32 = 500;

/// Divides mail by a shuffle.
type Divide = fn(&Corpus, u64) -> Vec<Fold>;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: train FOLDER [--write]")?);
    let write = match arguments.next().as_deref() {
        None => false,
        Some("--write") => true,
        Some(other) => return Err(format!("{other}: there is only --write")),
    };
    let corpus = Corpus::read(&folder)?;
    if write {
        let all: Vec<usize> = (0..corpus.samples.len()).collect();
        let (bytes, kept) = fit::train(&corpus, &all).write();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("model.bin");
        std::fs::write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}: {} bytes, {kept} words and pairs\n", path.display(), bytes.len());
        report::rules(&model::Model::read(&bytes)?);
    }
    let divisions: [(&str, Divide); 3] = [
        ("folds at random", folds::random),
        ("folds by list and sender", folds::grouped),
        ("folds by list and sender, newsletters at random", folds::strangers),
    ];
    for (name, divide) in divisions {
        report::print(name, score(&corpus, &divide(&corpus, 0))?, TAG);
    }
    let later = score(&corpus, &folds::later(&corpus))?;
    report::print("the later two fifths, by the earlier three", later, TAG);
    println!("\nby other shuffles:\n");
    for (name, divide) in divisions {
        for shuffle in 1..=OTHER_SHUFFLES {
            report::line(name, &score(&corpus, &divide(&corpus, shuffle))?, TAG);
        }
    }
    Ok(())
}

/// The points of what is tested, each by what was trained on the rest; the folds side by side.
fn score<'a>(corpus: &'a Corpus, folds: &[Fold]) -> Result<Vec<(&'a Sample, i32)>, String> {
    let score_fold = |fold: &Fold| -> Result<Vec<(&'a Sample, i32)>, String> {
        let (bytes, _) = fit::train(corpus, &fold.train).write();
        let model = model::Model::read(&bytes)?;
        let samples = fold.test.iter().map(|place| &corpus.samples[*place]);
        Ok(samples.map(|sample| (sample, sample.points(&model))).collect())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = folds.iter().map(|fold| scope.spawn(move || score_fold(fold))).collect();
        let mut scored = Vec::new();
        for fold in running {
            scored.extend(fold.join().map_err(|_| "training a fold failed")??);
        }
        Ok(scored)
    })
}
