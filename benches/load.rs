//! What loading a plugin costs that was compiled before: its code found in the cache, authenticated, and made ready. Each reference plugin, and
//! the examples that were built.
//!
//! `scripts/build-plugins` must have run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use gatepost::policy::plugin::Compiled;
use gatepost::policy::{Compiler, Engine};
use tokio::runtime::Runtime;

/// The components of a folder below `target`, if there is one.
fn components(folder: &str) -> Vec<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let entries = std::fs::read_dir(target.join(folder)).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect()
}

fn loads(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Engine::new(Compiler::here().cached_in(&folder.path().join("compiled"))).expect("an engine");
    let mut group = criterion.benchmark_group("load, compiled before");
    group.sample_size(20);
    for path in components("plugins").iter().chain(&components("examples")) {
        let bytes: Arc<[u8]> = std::fs::read(path).expect("a component").into();
        let load = |bytes| runtime.block_on(Compiled::new(&engine, bytes)).expect("it compiles");
        load(bytes.clone());
        let name = path.file_stem().expect("a name").to_string_lossy();
        group.bench_function(&*name, |bencher| {
            // Dropping what was loaded is not a part of it.
            bencher.iter_batched(
                || bytes.clone(),
                |bytes| {
                    let compiled = load(bytes);
                    assert!(compiled.compiled_in.is_none());
                    compiled
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, loads);
criterion_main!(benches);
