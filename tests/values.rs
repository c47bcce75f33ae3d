//! What a guest says and asks, value by value: inputs that make sense, and each of them with every byte damaged. Nothing panics, and what comes of it
//! is within the rules.

mod support;

use support::replay::{HOOKS, Replay, seeds};

#[test]
fn damaged_values_of_a_guest_are_failures_of_its_own() {
    let replay = Replay::new();
    let mut asked = 0;
    for (number, seed) in seeds().into_iter().enumerate() {
        for hook in 0..HOOKS.len() {
            replay.ask(hook, &seed);
            asked += 1;
        }
        // Any hook will do for the rest: in turns.
        for place in 0..seed.len() {
            let mut damaged = seed.clone();
            damaged[place] ^= [0x01, 0x80, 0xff][(number + place) % 3];
            replay.ask((number + place) % HOOKS.len(), &damaged);
            asked += 1;
        }
    }
    let (calls, failures) = replay.counted();
    assert_eq!(calls, asked, "every one reached the policy");
    // Most are refused, and some are right.
    assert!(
        failures > asked / 10 && failures < asked,
        "{failures} of {asked} failed"
    );
}
