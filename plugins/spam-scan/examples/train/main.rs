//! Trains spam-scan's model, and says how good it is on mail that it has not seen.
//!
//!     cargo run --release --manifest-path plugins/Cargo.toml -p spam-scan --example train -- FOLDER [--write]
//!
//! FOLDER has the folders `ham`, `hard-ham` and `spam`, one message a file. It prints confusion tables for mail that was not
//! trained on: five folds at random, five by mailing list and sender, and the later part of the mail by the earlier one; with `--write` it trains on all of it and replaces
//! `model.bin`. The same mail gives the same model, to the byte.
//!
//! What a message shows comes from the plugin's own code: there is no second reader of mail here.

mod corpus;
mod descent;
mod fit;
mod folds;
mod report;

use std::path::{Path, PathBuf};

use corpus::Corpus;
use spam_scan::model;

/// Points from which mail is tagged, in hundredths: the default of `tag`.
const TAG: i32 = 500;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: train FOLDER [--write]")?);
    let write = match arguments.next().as_deref() {
        None => false,
        Some("--write") => true,
        Some(other) => return Err(format!("{other}: there is only --write")),
    };
    let corpus = Corpus::read(&folder)?;
    for (name, folds) in [
        ("folds at random", folds::random(&corpus)),
        ("folds by list and sender", folds::grouped(&corpus)),
        ("the later two fifths, by the earlier three", folds::later(&corpus)),
    ] {
        let mut scored = Vec::new();
        for fold in &folds {
            let trained = fit::train(&corpus, &fold.train);
            let bytes = trained.write().0;
            let model = model::Model::read(&bytes)?;
            for place in &fold.test {
                let sample = &corpus.samples[*place];
                scored.push((sample, sample.points(&model)));
            }
        }
        report::print(name, scored, TAG);
    }
    if write {
        let all: Vec<usize> = (0..corpus.samples.len()).collect();
        let (bytes, kept) = fit::train(&corpus, &all).write();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("model.bin");
        std::fs::write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("\n{}: {} bytes, {kept} words and pairs\n", path.display(), bytes.len());
        report::rules(&model::Model::read(&bytes)?);
    }
    Ok(())
}
