//! From nothing to a policy: `plugin new`, `plugin build`, `plugin test`, with each of the languages' own tools.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use gatepost::policy::decision::Stage;
use support::{gatepost, peer};

/// One target folder for all projects, so that a standard library that has to be built along is built once.
fn in_folder(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = gatepost();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/new-plugin");
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .args(arguments);
    command
}

fn every_hook() -> String {
    Stage::ALL.map(Stage::name).join(",")
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    in_folder(folder, arguments).output().expect("gatepost runs")
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Makes the project `name` in `folder`, builds it, and asks the component what the project's transcript says.
fn new_build_and_test(folder: &Path, language: &str, name: &str, hooks: &str, grants: &str) {
    let made = run(folder, &["plugin", "new", "--lang", language, "--hooks", hooks, name]);
    assert!(made.status.success(), "{name}: {}", said(&made));
    let component = format!("{name}/build/{name}.wasm");
    let transcript = format!("{name}/tests/passes.transcript");
    for next in [
        format!("gatepost plugin build {name}"),
        format!("gatepost plugin test {component} {transcript}"),
        "[[plugin]]".to_owned(),
    ] {
        assert!(said(&made).contains(&next), "{name}: {}", said(&made));
    }
    let built = run(folder, &["plugin", "build", name]);
    assert!(built.status.success(), "{name}: {}", said(&built));
    let verdict = format!("the relay would load it with grants = [{grants}]");
    assert!(said(&built).contains(&verdict), "{}", said(&built));
    assert!(!said(&built).contains("warning"), "{}", said(&built));
    let tested = run(folder, &["plugin", "test", &component, &transcript]);
    assert!(tested.status.success(), "{name}: {}", said(&tested));
    assert!(!said(&tested).contains("never asked"), "{name}: {}", said(&tested));
}

/// A project whose component comes from a tool that takes seconds: what is right builds, and an error of syntax is shown with its place.
fn builds_and_says_what_is_wrong(language: &str, source: &str, broken: &str, place: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    // Their components import all of an interface that they import at all.
    new_build_and_test(folder, language, "mine", "on-rcpt,on-message", "\"read-message\"");
    what_is_wrong_is_said(folder, source, broken, &[place, "what it said stands above"]);
}

/// Builds the project `mine` with another source: it fails with these words, and what was built before stays.
fn what_is_wrong_is_said(folder: &Path, source: &str, broken: &str, said_of_it: &[&str]) {
    let component = folder.join("mine/build/mine.wasm");
    let before = fs::read(&component).expect("the component");
    fs::write(folder.join("mine").join(source), broken).expect("a source");
    let output = run(folder, &["plugin", "build", "mine"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for words in said_of_it {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    assert!(
        fs::read(&component).expect("the component") == before,
        "what was built stays"
    );
}

#[test]
fn a_new_project_in_rust_builds_at_once_and_passes_its_transcript() {
    for (name, hooks) in [("one-hook", "on-rcpt"), ("all-hooks", &every_hook())] {
        let folder = tempfile::tempdir().expect("a folder");
        new_build_and_test(folder.path(), "rust", name, hooks, "");
    }
}

#[test]
fn a_build_says_what_the_answers_need_and_which_hooks_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    new_build_and_test(folder, "rust", "mine", "on-rcpt,on-message", "");
    let source = folder.join("mine/src/lib.rs");
    let component = folder.join("mine/build/mine.wasm");
    let head = "use gatepost_sdk::prelude::*;\n";
    let on_message = |body: &str| {
        format!(
            "impl OnMessage for Mine {{ fn on_message(&self, _: &Session, _: &Message) -> Answer {{ {body} }} }}\n\
             gatepost_sdk::export!(Mine: on_message);\n"
        )
    };
    let free = "#[derive(Default)] struct Mine; impl Unconfigured for Mine {}\n";
    let keyed = "#[derive(serde::Deserialize)] struct Keys { prefix: String }\nstruct Mine(String);\n\
        impl Policy for Mine { type Config = Keys; fn new(keys: Keys) -> Result<Self, String> { Ok(Mine(keys.prefix)) } }\n";
    let adds = "Answer::pass().add_header(\"X-Seen\", \"yes\")";
    for (policy, body, words) in [
        (free, adds, "the relay would load it with grants = [\"edit-message\"]\n"),
        (
            free,
            "panic!(\"oh\")",
            "the relay would load it with grants = [], but on-message failed in the trial: it trapped: ",
        ),
        (
            keyed,
            "let _ = &self.0; Answer::pass()",
            "without settings the relay would refuse it: it could not be started: it refuses its configuration: missing field `prefix`; \
             `gatepost plugin check --settings FILE ",
        ),
    ] {
        fs::write(&source, format!("{head}{policy}{}", on_message(body))).expect("a source");
        let before = fs::read(&component).expect("the component");
        let built = run(folder, &["plugin", "build", "mine"]);
        assert!(built.status.success(), "{words}: {}", said(&built));
        assert!(said(&built).contains(words), "{words}: {}", said(&built));
        assert!(fs::read(&component).expect("the component") != before, "{words}");
    }
    // One that cannot be started is refused, and what was built before stays.
    let on_rcpt = "impl OnRcpt for Mine { fn on_rcpt(&self, _: &Session, _: &Mailbox, _: &RelayView) -> Answer { Answer::pass() } }\n";
    let refused = "impl Policy for Mine { type Config = Nothing; fn new(_: Nothing) -> Result<Self, String> { panic!(\"never\") } }\n\
        #[derive(serde::Deserialize)] struct Nothing {}\nstruct Mine;\n";
    let text = format!("{head}{refused}{on_rcpt}gatepost_sdk::export!(Mine: on_rcpt);\n");
    what_is_wrong_is_said(
        folder,
        "src/lib.rs",
        &text,
        &["mine.wasm: the relay would refuse it: it could not be started"],
    );
}

#[test]
fn a_new_project_in_javascript_does_so() {
    if peer("node") && peer("npm") {
        builds_and_says_what_is_wrong("javascript", "policy.js", "const x = {", "policy.js:1");
    }
}

#[test]
fn a_new_project_in_typescript_does_so() {
    if peer("node") && peer("npm") {
        builds_and_says_what_is_wrong("typescript", "policy.ts", "const x: number = \"\";", "policy.ts(1,7)");
    }
}

#[test]
fn a_new_project_in_python_does_so() {
    if peer("python3") {
        builds_and_says_what_is_wrong("python", "policy.py", "def broken(:", "policy.py\", line 1");
    }
}

#[test]
fn a_project_in_python_shows_answers_and_can_be_moved() {
    if !peer("python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    new_build_and_test(folder, "python", "mine", "on-message", "\"read-message\"");
    fs::rename(folder.join("mine"), folder.join("moved")).expect("another place");
    let source = folder.join("moved/policy.py");
    let text = fs::read_to_string(&source).expect("a source");
    fs::write(&source, text.replace("# return Answer(", "return Answer(")).expect("a source");
    let built = run(folder, &["plugin", "build", "moved"]);
    assert!(built.status.success(), "{}", said(&built));
    let verdict = "the relay would load it with grants = [\"read-message\", \"edit-message\"]";
    assert!(said(&built).contains(verdict), "{}", said(&built));
}

#[test]
fn a_new_project_in_c_does_so_with_every_hook_and_import() {
    if !peer("python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    new_build_and_test(folder, "c", "mine", &every_hook(), "");
    what_is_wrong_is_said(
        folder,
        "policy.c",
        "int broken( {",
        &["policy.c:1:", "what it said stands above"],
    );
    // Of the C library there is what needs no system, and what needs one is named.
    let world = folder.join("mine/wit/world.wit");
    let text = fs::read_to_string(&world).expect("a world");
    let text = text.replace(
        "export gatepost:policy/on-connect",
        "include gatepost:policy/base@0.1.0;\n    export gatepost:policy/on-connect",
    );
    let exports_one = text
        .lines()
        .filter(|line| !line.contains("export") || line.contains("on-connect"));
    fs::write(&world, exports_one.collect::<Vec<_>>().join("\n")).expect("a world");
    let prints = "#include <stdio.h>\n#include \"gatepost_sdk.h\"\n\
        void exports_on_connect_on_connect(types_borrow_session_t session, types_answer_t *ret) {\n\
        printf(\"%llu\", clock_now());\n*ret = gatepost_pass();\n}\n";
    what_is_wrong_is_said(
        folder,
        "policy.c",
        prints,
        &["policy.c: it calls something of the C library that wants `fd_"],
    );
    fs::write(
        folder.join("mine/policy.c"),
        prints.replace("printf(", "gatepost_text("),
    )
    .expect("a source");
    let built = run(folder, &["plugin", "build", "mine"]);
    assert!(built.status.success(), "{}", said(&built));
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("taken")).expect("a folder");
    for (arguments, status, words) in [
        (["My_Policy", "--lang", "rust"], 2, "lower case letters"),
        (["../up", "--lang", "rust"], 2, "lower case letters"),
        (["test", "--lang", "rust"], 2, "my-test is possible"),
        (["mine", "--hooks", "on-mesage"], 2, "'on-message'"),
        (["mine", "--lang", "rst"], 2, "rust"),
        (["taken", "--lang", "rust"], 1, "exists already"),
    ] {
        let output = run(folder.path(), &[&["plugin", "new"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn what_cannot_be_built_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let refused = |mut command: Command, words: &str| {
        let output = command.output().expect("gatepost runs");
        assert_eq!(output.status.code(), Some(1), "{words}: {}", said(&output));
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    };
    refused(
        in_folder(folder, &["plugin", "build"]),
        "there is no project of a policy here",
    );
    for (language, words) in [
        ("javascript", "npm is not installed (not found in PATH): install node"),
        ("typescript", "npm is not installed (not found in PATH): install node"),
        ("python", "python3 is not installed (not found in PATH): install Python"),
        ("c", "python3 is not installed (not found in PATH): install Python"),
    ] {
        let made = run(folder, &["plugin", "new", language, "--lang", language]);
        assert!(made.status.success(), "{}", said(&made));
        let mut no_tools = in_folder(folder, &["plugin", "build", language]);
        no_tools.env("PATH", "");
        refused(no_tools, words);
    }
    fs::remove_file(folder.join("typescript/wit/world.wit")).expect("a world");
    refused(in_folder(folder, &["plugin", "build", "typescript"]), "wit/world.wit");
    let made = run(folder, &["plugin", "new", "broken"]);
    assert!(made.status.success(), "{}", said(&made));
    let mut no_tools = in_folder(folder, &["plugin", "build", "broken"]);
    no_tools.env("PATH", "");
    refused(no_tools, "rustc is not installed (not found in PATH): install Rust");
    fs::write(folder.join("broken/src/lib.rs"), "fn broken( {").expect("a source");
    refused(in_folder(folder, &["plugin", "build", "broken"]), "src/lib.rs:1");
}
