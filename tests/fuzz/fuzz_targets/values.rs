//! What a guest says and asks: an input that makes sense, damaged at the places that the fuzzer names, or bytes as they are. `replay.rs` says what must hold.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../support/hostile.rs"]
mod hostile;
#[allow(dead_code, reason = "the test counts, the fuzzer does not")]
#[path = "../../support/replay.rs"]
mod replay;

use replay::{HOOKS, Replay, seeds};

static WORLD: LazyLock<(Replay, Vec<Vec<u8>>)> = LazyLock::new(|| (Replay::new(), seeds()));

fuzz_target!(|bytes: &[u8]| {
    let (replay, seeds) = &*WORLD;
    let [hook, number, rest @ ..] = bytes else { return };
    let hook = usize::from(*hook) % HOOKS.len();
    let Some(seed) = seeds.get(usize::from(*number)) else {
        replay.ask(hook, rest);
        return;
    };
    let mut input = seed.clone();
    for change in rest.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % input.len();
        input[place] = change[2];
    }
    replay.ask(hook, &input);
});
