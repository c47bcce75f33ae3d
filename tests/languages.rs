//! One policy in several languages answers the same, and what a language's run time brings along of WASI reaches nothing.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use support::gatepost;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A component that `scripts/build-examples` built, which `make test` runs first.
fn example(name: &str) -> PathBuf {
    let path = root().join("target/examples").join(format!("{name}.wasm"));
    assert!(
        path.exists(),
        "{} is not there: run `scripts/build-examples` first, or `make test`",
        path.display()
    );
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn plugin_test(component: &Path, transcript: &Path) -> (bool, String) {
    let mut command = gatepost();
    let Output { status, stdout, stderr } = command
        .args(["plugin", "test"])
        .args([component, transcript])
        .output()
        .expect("gatepost runs");
    (status.success(), text(&stdout) + &text(&stderr))
}

/// What `gatepost plugin test` says of a component and this transcript.
fn answers(component: &str, transcript: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), transcript).expect("a transcript");
    plugin_test(&example(component), file.path())
}

#[test]
fn every_example_answers_as_its_transcript_says() {
    let examples = root().join("examples/plugins");
    let folders = std::fs::read_dir(&examples)
        .expect("the examples")
        .map(|entry| entry.expect("an entry").path());
    let mut tested = BTreeSet::new();
    for folder in folders.filter(|path| path.is_dir()) {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        // The same policy has one transcript, whatever the language.
        let transcript = match name.split_once('-') {
            Some(("greylist", _)) => examples.join("greylist.transcript"),
            _ => std::fs::read_dir(folder.join("tests"))
                .into_iter()
                .flatten()
                .map(|entry| entry.expect("an entry").path())
                .find(|path| path.extension().is_some_and(|extension| extension == "transcript"))
                .unwrap_or_else(|| panic!("examples/plugins/{name} has no transcript: write tests/NAME.transcript")),
        };
        let (right, said) = plugin_test(&example(&name), &transcript);
        assert!(right, "{name}: {said}");
        tested.insert(name);
    }
    for language in ["js", "python", "rust", "ts"] {
        assert!(tested.contains(&format!("greylist-{language}")), "{tested:?}");
    }
}

#[test]
fn a_wrong_setting_is_named_in_every_language() {
    for name in ["greylist-js", "greylist-python", "greylist-rust", "greylist-ts"] {
        for setting in ["delay_s = 0", "allow = 1", "dealy_s = 1"] {
            let key = setting.split(' ').next().expect("a key");
            let (right, said) = answers(
                name,
                &format!("[config]\n{setting}\n\n=== one\n> RCPT TO:<bob@ours.test>\n"),
            );
            let named = format!("it refuses its configuration: {key}");
            assert!(!right && said.contains(&named), "{name}, {setting}: {said}");
        }
    }
}

#[test]
fn wasi_reaches_nothing() {
    let tries = [
        ("files", "FileNotFoundError"),
        ("folder", "FileNotFoundError"),
        ("writing", "FileNotFoundError"),
        ("network", "PermissionError"),
        ("names", "gaierror"),
        ("environment", "empty"),
        ("stdin", "empty"),
        ("clocks", "same"),
        ("standstill", "0.0"),
        ("nap", "slept"),
    ];
    let mut transcript = "=== one\n".to_owned();
    for (what, outcome) in tries {
        transcript += &format!("> MAIL FROM:<{what}@a.test>\non-mail: pass\n  reason: {what}\n  detail: {outcome}\n");
    }
    let (right, said) = answers("denied", &transcript);
    assert!(right, "{said}");
}

#[test]
fn who_sleeps_does_so_on_the_calls_wall_time() {
    let transcript = "[budget]\nwall_ms = 1000\n[config]\n=== one\n> MAIL FROM:<forever@a.test>\non-mail: failed (wall), so defer 451 4.3.0 Policy unavailable\n";
    let (right, said) = answers("denied", transcript);
    assert!(right, "{said}");
}

#[test]
fn what_is_printed_is_in_the_log_within_its_bounds() {
    let mut transcript = "=== one\n> MAIL FROM:<says@a.test>\non-mail: pass\n  reason: says\n  detail: None\n  log info: to standard output\n  log warn: to standard error\n  log info: unfinished\n".to_owned();
    transcript += "> MAIL FROM:<chatter@a.test>\non-mail: pass\n  reason: chatter\n  detail: None\n";
    let first = format!("line 0 {}", "x".repeat(4096 - "line 0 ".len()));
    transcript += &format!("  log info: {first}\n");
    for line in 1..100 {
        transcript += &format!("  log info: line {line} \n");
    }
    transcript += "  log warn: further lines of this call are dropped (log_lines)\n";
    let (right, said) = answers("denied", &transcript);
    assert!(right, "{said}");
}
