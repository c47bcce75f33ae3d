//! Plays every dialog file against the session: whole, byte by byte and in random pieces. All must
//! answer alike.

mod support;

use std::fs;
use std::path::Path;

use support::{Act, Case, Cut, Play, Turn, parse, xorshift};

/// Ways to cut that are pseudo-random, besides whole and byte by byte.
const RANDOM_CUTS: u64 = 20;
/// Mutated dialogs in the robustness test.
const MUTATIONS: u64 = 3000;

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder is part of the sources")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    let cases: Vec<Case> = files
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).expect("dialogs are UTF-8");
            let name = path.file_name().expect("a file").to_string_lossy();
            parse(&name, &text)
        })
        .collect();
    assert!(!cases.is_empty());
    cases
}

/// Compares what happened with what the case says; the difference, if there is one.
fn check(case: &Case, cut: Cut) -> Result<(), String> {
    let mut play = Play::new(case);
    for turn in &case.turns {
        if case.hello && matches!(turn.act, Act::Connect) {
            continue;
        }
        play.turn(turn, cut);
        let mut happened = std::mem::take(&mut play.log);
        happened.retain(|line| match line.as_bytes()[0] {
            b'Q' => case.checks_asks,
            b'O' => case.checks_own,
            _ => true,
        });
        let happened: Vec<&str> = happened.iter().map(|line| line.trim_end()).collect();
        let expected: Vec<&str> = turn.expected.iter().map(|line| line.trim_end()).collect();
        if happened != expected {
            return Err(format!(
                "{} (line {}, cut {cut:?})\n  expected:\n    {}\n  happened:\n    {}\n",
                case.name,
                turn.line,
                expected.join("\n    "),
                happened.join("\n    "),
            ));
        }
    }
    Ok(())
}

fn check_all(cuts: impl Fn() -> Vec<Cut>) {
    let failures: Vec<String> = cases()
        .iter()
        .flat_map(|case| cuts().into_iter().map(move |cut| check(case, cut)))
        .filter_map(Result::err)
        .collect();
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn dialogs_whole() {
    check_all(|| vec![Cut::Whole]);
}

#[test]
fn dialogs_byte_by_byte() {
    check_all(|| vec![Cut::Bytes]);
}

#[test]
fn dialogs_in_random_pieces() {
    check_all(|| (1..=RANDOM_CUTS).map(|seed| Cut::Random(seed * 0x9e37_79b9)).collect());
}

/// `Play` asserts what must hold for any input: replies are clean lines, messages hold no bare CR, LF
/// or NUL, sizes agree, deadlines lie ahead.
#[test]
fn mutated_dialogs_break_no_promise() {
    let cases = cases();
    let mut seed = 0x5eed;
    let mut pick = |below: usize| {
        let random = xorshift(&mut seed) % below.max(1) as u64;
        usize::try_from(random).expect("below a usize")
    };
    for _ in 0..MUTATIONS {
        let case = &cases[pick(cases.len())];
        let mut play = Play::new(case);
        let cut = Cut::Random(pick(1 << 20) as u64);
        for turn in &case.turns {
            let Act::Send { bytes, at_once } = &turn.act else {
                // A handshake may no longer be due, which `Play` only notes.
                play.turn(turn, cut);
                continue;
            };
            let mut bytes = bytes.clone();
            for _ in 0..=pick(3) {
                let at = pick(bytes.len());
                let odd = b"\r\n\0.<>@\"\\ \xff"[pick(11)];
                match pick(4) {
                    0 => bytes.insert(at, odd),
                    1 if !bytes.is_empty() => bytes[at] = odd,
                    2 if !bytes.is_empty() => drop(bytes.remove(at)),
                    _ => bytes.extend_from_within(at..),
                }
            }
            let at_once = *at_once && bytes.len() < 1000;
            let mutated = Turn {
                verdicts: turn.verdicts.clone(),
                act: Act::Send { bytes, at_once },
                line: turn.line,
                expected: Vec::new(),
            };
            play.turn(&mutated, cut);
        }
    }
}
