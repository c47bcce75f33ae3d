//! Every policy that this repository ships answers as its transcripts say. One without a transcript, or with a hook that none of them reaches, fails.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use support::{gatepost, guest, plugin};

/// The transcripts of a plugin, in `tests/` of its folder.
fn transcripts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("tests")).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "transcript"))
        .collect()
}

fn plugin_test(component: &Path, arguments: &[&Path]) -> Output {
    let mut command = gatepost();
    command.args(["plugin", "test"]).arg(component).args(arguments);
    command.output().expect("gatepost runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_reference_plugin_answers_as_its_transcripts_say() {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
    let mut tested = 0;
    for entry in std::fs::read_dir(plugins).expect("the folder of plugins") {
        let folder = entry.expect("an entry").path();
        if !folder.join("Cargo.toml").exists() {
            continue;
        }
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let transcripts = transcripts(&folder);
        assert!(
            !transcripts.is_empty(),
            "plugins/{name} has no transcript: write plugins/{name}/tests/NAME.transcript, and see `gatepost plugin test --help`"
        );
        let paths: Vec<&Path> = transcripts.iter().map(PathBuf::as_path).collect();
        let output = plugin_test(&plugin(&name), &paths);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{name}: {said}{}", text(&output.stderr));
        assert!(!said.contains("never asked"), "{name}: {said}");
        tested += 1;
    }
    assert!(tested >= 4, "{tested}");
}

#[test]
fn the_smallest_policy_is_small_and_the_one_that_the_readme_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("a file");
    let source = read("examples/plugins/rust-minimal/src/lib.rs");
    let code = source.lines().filter(|line| !line.starts_with("//"));
    let lines = code.clone().filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 15, "{lines} lines");
    let code: Vec<&str> = code.collect();
    for readme in ["README.md", "sdk/README.md"] {
        assert!(
            read(readme).contains(code.join("\n").trim()),
            "{readme} shows another policy"
        );
    }
}

fn plugin_check(arguments: &[&str]) -> (Option<i32>, String) {
    let output = gatepost()
        .args(["plugin", "check"])
        .args(arguments)
        .output()
        .expect("gatepost runs");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_check_says_what_a_component_is_and_whether_the_relay_would_take_it() {
    let rbl = plugin("rbl");
    let rbl = rbl.to_str().expect("UTF-8");
    let (status, said) = plugin_check(&[rbl]);
    assert_eq!(status, Some(0), "{said}");
    for part in [
        "interface  gatepost:policy@0.1.0\n",
        "exports    lifecycle, on-rcpt\n",
        "dns.lists",
        "session.peer",
        "grants     dns\n",
        " MiB in an instance that was started",
        "on-rcpt       pass",
        "leave-session",
        "verdict    the relay would load it with grants = [\"dns\"]\n",
    ] {
        assert!(said.contains(part), "{part}\nis not in\n{said}");
    }

    let settings = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(settings.path(), "lists = [{ zone = \"a b\" }]").expect("settings");
    let (status, said) = plugin_check(&[rbl, "--settings", settings.path().to_str().expect("UTF-8")]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("the relay would refuse it: it could not be started: it refuses its configuration: lists[0].zone: `a b` is no domain"),
        "{said}"
    );
    assert!(said.contains("grants     dns\n"), "{said}");
}

#[test]
fn a_scanner_without_its_endpoint_is_not_loaded() {
    let virus_scan = plugin("virus-scan");
    let virus_scan = virus_scan.to_str().expect("UTF-8");
    let (status, said) = plugin_check(&[virus_scan]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("there is no endpoint `clamd`: add endpoints = { clamd = \"unix:/run/clamav/clamd.ctl\" } to this [[plugin]]"),
        "{said}"
    );
    let (status, said) = plugin_check(&[virus_scan, "--endpoint", "clamd"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("the relay would load it"), "{said}");
}

#[test]
fn a_check_of_what_the_relay_would_refuse_says_why() {
    let guest = |name: &str| guest(name).to_str().expect("UTF-8").to_owned();
    let (generous, readme) = (guest("generous"), concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let cases: [(&[&str], &str); 3] = [
        (&[readme], "the relay would refuse it: it is no WebAssembly file"),
        (&[&generous, "--grant", "relay"], "it would open the relay"),
        (&[&generous], "failed (answer), so defer 451"),
    ];
    for (place, (arguments, expected)) in cases.into_iter().enumerate() {
        let (status, said) = plugin_check(arguments);
        assert!(said.contains(expected), "{expected}\nis not in\n{said}");
        assert_eq!(status, Some(if place == 2 { 0 } else { 1 }), "{said}");
    }
}

/// Below `tests`, every project is there for a test (or a bench) that names it: what nobody runs any more is deleted.
#[test]
fn every_guest_of_the_tests_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = |folder: &str| {
        let entries = std::fs::read_dir(root.join(folder)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let sources = ["tests", "benches"].into_iter().flat_map(entries);
    let code: String = sources
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| std::fs::read_to_string(path).expect("a source"))
        .flat_map(|source| source.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    // How each kind is asked for: by `support::guest`, and by `answers` of `languages.rs`.
    for (folder, asked_for) in [("tests/guests", "guest"), ("tests/languages", "answers")] {
        // Not what a build may have left there.
        let is_project = |path: &PathBuf| ["Cargo.toml", "wit"].iter().any(|mark| path.join(mark).exists());
        for project in entries(folder).into_iter().filter(is_project) {
            let name = project.file_name().expect("a name").to_string_lossy().into_owned();
            let call = format!("{asked_for}(\"{name}\"");
            assert!(
                code.contains(&call),
                "{folder}/{name}: no test says {call}: write one, or delete it"
            );
        }
    }
}

/// `witness` has every hook and says what it was told.
#[test]
fn a_transcript_reaches_every_hook_with_every_fact_and_service() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/witness");
    let transcripts = transcripts(&folder);
    let paths: Vec<&Path> = transcripts.iter().map(PathBuf::as_path).collect();
    let output = plugin_test(&guest("witness"), &paths);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.ends_with(": ok, 56 calls\n"), "{said}");
}

/// What `gatepost plugin test` says of `editor`, a guest, and this transcript: its status, and what it printed.
fn editor(transcript: &str) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), transcript).expect("a transcript");
    let output = plugin_test(&guest("editor"), &[file.path()]);
    let said = text(&output.stdout) + &text(&output.stderr);
    (
        output.status.code(),
        said.replace(&file.path().display().to_string(), "FILE"),
    )
}

#[test]
fn another_answer_is_shown_beside_the_expected_one() {
    let transcript = "[config]\nrefuse = [\"no\"]\n\n=== one\n> RCPT TO:<no@ours.test>\non-rcpt: pass\n> RCPT TO:<yes@ours.test>\non-rcpt: pass\n";
    let (status, said) = editor(transcript);
    assert_eq!(status, Some(1), "{said}");
    let difference = |instances: &str| {
        format!(
            "line 5, one, instances {instances}:\n    > RCPT TO:<no@ours.test>\n  - on-rcpt: pass\n  + on-rcpt: reject 550 5.7.1 no@ours.test is refused\n"
        )
    };
    for part in [
        "FILE: FAILED, 4 calls\n",
        &difference("pooled"),
        &difference("fresh"),
        "error: 1 of 1 transcripts failed",
    ] {
        assert!(said.contains(part), "{part}\nis not in\n{said}");
    }
    let right = transcript.replacen("pass", "reject 550 5.7.1 no@ours.test is refused", 1);
    let (status, said) = editor(&right);
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.starts_with("FILE: ok, 4 calls\nwarning: never asked: on-"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_run_says_why() {
    let cases = [
        ("=== one\n> RCPT TO:<no>\n", "FILE:2: \"no\" is no address"),
        ("grants = [\"everything\"]\n=== one\n", "everything"),
        (
            "grants = []\n=== one\n",
            "needs the grant \"read-message\": add it to grants",
        ),
        (
            "[config]\nrefused = 1\n=== one\n",
            "it refuses its configuration: refused: unknown field",
        ),
    ];
    for (transcript, expected) in cases {
        let (status, said) = editor(transcript);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_failure_says_why_whatever_was_expected() {
    let transcript = "grants = []\n=== one\n> RCPT TO:<ungranted@ours.test>\non-rcpt: pass\n";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), transcript).expect("a transcript");
    let output = plugin_test(&guest("naughty"), &[file.path()]);
    let said = text(&output.stdout);
    assert!(
        said.contains("  +   detail: its answer breaks a rule: the action allow-relay needs the grant relay\n"),
        "{said}"
    );
}

#[test]
fn a_failure_has_the_answer_that_the_client_gets() {
    let transcript = "on_failure = \"reject\"\ngrants = []\n=== one\n> RCPT TO:<ungranted@ours.test>\non-rcpt: failed (answer), so reject 550 5.3.0 Policy unavailable\n  detail: its answer breaks a rule: the action allow-relay needs the grant relay\n";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), transcript).expect("a transcript");
    let output = plugin_test(&guest("naughty"), &[file.path()]);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}
