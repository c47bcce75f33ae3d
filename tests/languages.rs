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

fn plugin_test(component: &Path, transcripts: &[PathBuf]) -> (bool, String) {
    let mut command = gatepost();
    let Output { status, stdout, stderr } = command
        .args(["plugin", "test"])
        .arg(component)
        .args(transcripts)
        .output()
        .expect("gatepost runs");
    (status.success(), text(&stdout) + &text(&stderr))
}

/// What `gatepost plugin test` says of a component and these transcripts, by name. One call, since compiling an interpreter takes seconds.
fn answers(component: &str, transcripts: &[(&str, String)]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let files: Vec<PathBuf> = transcripts
        .iter()
        .map(|(name, transcript)| {
            let path = folder.path().join(format!("{name}.transcript"));
            std::fs::write(&path, transcript).expect("a transcript");
            path
        })
        .collect();
    plugin_test(&example(component), &files)
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
        let (right, said) = plugin_test(&example(&name), &[transcript]);
        assert!(right, "{name}: {said}");
        tested.insert(name);
    }
    for language in ["c", "js", "python", "rust", "ts"] {
        assert!(tested.contains(&format!("greylist-{language}")), "{tested:?}");
    }
}

#[test]
fn a_wrong_setting_is_named_in_every_language() {
    for name in [
        "greylist-c",
        "greylist-js",
        "greylist-python",
        "greylist-rust",
        "greylist-ts",
    ] {
        for setting in ["delay_s = 0", "allow = 1", "dealy_s = 1"] {
            let key = setting.split(' ').next().expect("a key");
            let transcript = format!("[config]\n{setting}\n\n=== one\n> RCPT TO:<bob@ours.test>\n");
            let (right, said) = answers(name, &[(key, transcript)]);
            let named = format!("it refuses its configuration: {key}");
            assert!(!right && said.contains(&named), "{name}, {setting}: {said}");
        }
    }
}

/// Nothing is freed in C: the memory of a call is used again after the next one.
#[test]
fn a_policy_in_c_uses_its_memory_again() {
    // With the stack and the code's data 1.1 MiB are taken from the start, and a call with such a sender takes some thousand bytes.
    let mut transcript = format!(
        "[budget]\nmemory_mib = 2\n\n=== one\n> MAIL FROM:<{}@elsewhere.test>\n",
        "x".repeat(230)
    );
    for _ in 0..1000 {
        transcript += "> RCPT TO:<bob@ours.test>\non-rcpt: defer 450 4.7.1 Greylisted: try again in 300 seconds\n  reason: greylisted\n";
    }
    let (right, said) = answers("greylist-c", &[("many-calls", transcript)]);
    assert!(right, "{said}");
}

#[test]
fn an_interpreter_reaches_nothing_by_wasi_but_its_log() {
    let (right, said) = answers(
        "denied",
        &[
            ("what-is-refused", what_is_refused()),
            ("sleeping-is-on-wall-time", SLEEPING.to_owned()),
            ("printing-goes-to-the-log", printing()),
        ],
    );
    assert!(right, "{said}");
}

/// Each try, and how the guest sees it fail.
fn what_is_refused() -> String {
    let tries = [
        (
            "files",
            "FileNotFoundError: [Errno 44] No such file or directory: '/etc/passwd'",
        ),
        ("folder", "FileNotFoundError: [Errno 44] No such file or directory: '/'"),
        (
            "writing",
            "FileNotFoundError: [Errno 44] No such file or directory: '/tmp/x'",
        ),
        ("network", "gaierror: [Errno -4] Non-recoverable error"),
        ("names", "gaierror: [Errno -4] Non-recoverable error"),
        ("tcp", "PermissionError: [Errno 2] Permission denied"),
        ("udp", "PermissionError: [Errno 2] Permission denied"),
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
    transcript
}

const SLEEPING: &str = "[budget]
wall_ms = 3000
=== one
> MAIL FROM:<forever@a.test>
on-mail: failed (wall), so defer 451 4.3.0 Temporary server error, try again later
";

/// As much as a line and a call may log, and a word of the rest.
fn printing() -> String {
    let mut transcript = "=== one
> MAIL FROM:<says@a.test>
on-mail: pass
  reason: says
  detail: None
  log info: to standard output
  log warn: to standard error
  log info: unfinished
> MAIL FROM:<chatter@a.test>
on-mail: pass
  reason: chatter
  detail: None
"
    .to_owned();
    transcript += &format!("  log info: line 0 {}\n", "x".repeat(4096 - "line 0 ".len()));
    for line in 1..100 {
        transcript += &format!("  log info: line {line}\n");
    }
    transcript + "  log warn: further lines of this call are dropped (log_lines)\n"
}
