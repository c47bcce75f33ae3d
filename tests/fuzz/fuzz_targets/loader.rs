//! Arbitrary bytes as a component, through everything that the daemon does with one before it asks it anything: it is refused with a text for
//! people, or it is compiled, checked, started, configured, and each of its hooks is called once. Nothing may panic, and nothing may take longer than the
//! budgets say (libFuzzer's own time-out).
//!
//! Compiled is in this process and not in a child, as a fuzzer has to see what the compiler does.

#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use gatepost::policy::inspection::Given;
use gatepost::policy::{Compiler, Engine, inspection};
use libfuzzer_sys::{Corpus, fuzz_target};

static WORLD: LazyLock<(tokio::runtime::Runtime, Engine)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let engine = Engine::new(Compiler::here()).expect("an engine");
    (runtime, engine)
});

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let (runtime, engine) = &*WORLD;
    let inspected = inspection::inspect(engine, Path::new("fuzzed.wasm"), Arc::from(bytes), Given::default());
    match runtime.block_on(inspected) {
        Ok(_) => Corpus::Keep,
        Err(text) => {
            assert!(!text.is_empty());
            Corpus::Keep
        }
    }
});
