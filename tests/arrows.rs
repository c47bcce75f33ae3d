//! Which part may know which, as `host/ARCHITECTURE.md` draws it. Whoever needs another arrow draws it in both places, and says why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module of the daemon, and the others that it may name outside of its unit tests.
const ARROWS: [(&str, &str); 28] = [
    ("admin", "message metrics"),
    (
        "app",
        "admin auth config delivery dkim dns journal limits listener maillog message metrics policy relay spool supervisor tls worker_link",
    ),
    ("auth", ""),
    ("cli", "admin app auth config dkim message policy project regular tls"),
    ("config", "message"),
    (
        "connection",
        "auth config dkim listener maillog message metrics policy relay spool tls",
    ),
    ("delivery", "config dns maillog message metrics spool"),
    ("dkim", "config message tls work"),
    ("dns", "config"),
    ("journal", "maillog message metrics policy"),
    ("lib", ""),
    ("limits", "config"),
    (
        "listener",
        "auth config connection limits maillog message metrics proxy relay",
    ),
    ("maillog", "config message"),
    ("main", ""),
    ("message", ""),
    ("metrics", "message tls"),
    ("policy", "auth config dkim dns message slice work"),
    ("project", "policy"),
    ("proxy", ""),
    ("regular", ""),
    ("relay", "auth config limits metrics policy spool tls"),
    ("slice", ""),
    ("spool", "message slice"),
    ("supervisor", "config maillog regular worker_link"),
    ("tls", "config message"),
    ("work", ""),
    ("worker_link", "admin config tls"),
];

/// Crates that only some modules may name: WebAssembly stays behind the policy, the protocol behind those who speak it.
const CRATES: [(&str, &str); 4] = [
    ("wasmtime", "policy"),
    ("wasmtime_wasi", "policy"),
    ("redis", "policy"),
    ("gatepost_smtp", "connection delivery listener policy"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below, unit tests in files of their own left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code without comments and without the unit tests at its end.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source");
    let tests = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..tests].lines();
    lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |code, line| code + line + "\n")
}

fn identifier(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The names directly behind `crate::`, those in braces too.
fn named(code: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        // `$crate::` and `my_crate::` are others.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        match rest.strip_prefix('{') {
            None => drop(names.insert(identifier(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (place, letter) in group.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        letter if start && !letter.is_whitespace() => {
                            names.insert(identifier(&group[place..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// The code of each top-level module.
fn modules() -> BTreeMap<String, String> {
    let folder = root().join("host/src");
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for path in sources(&folder) {
        let below = path.strip_prefix(&folder).expect("it is below");
        let first = Path::new(below.components().next().expect("a name").as_os_str());
        let module = first.file_stem().expect("a name").to_string_lossy().into_owned();
        *modules.entry(module).or_default() += &code(&path);
    }
    modules
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

#[test]
fn modules_know_only_whom_the_map_says() {
    let arrows: BTreeMap<&str, BTreeSet<&str>> = ARROWS.iter().map(|(module, may)| (*module, words(may))).collect();
    let mut wrong = Vec::new();
    for (module, code) in &modules() {
        let Some(may) = arrows.get(module.as_str()) else {
            wrong.push(format!("{module} is not on the map"));
            continue;
        };
        for name in named(code) {
            if name != module && !may.contains(name) {
                wrong.push(format!("{module} -> {name}"));
            }
        }
        for (library, only) in CRATES {
            if code.contains(&format!("{library}::")) && !words(only).contains(module.as_str()) {
                wrong.push(format!("{module} -> {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not on the map: {wrong:#?}");
}

#[test]
fn names_are_found_wherever_they_stand() {
    let code = "use crate::{a, b::{c, d}, e as f};\nuse crate::g::h;\nlet x = crate::i::j(); $crate::no!(); other_crate::no();";
    assert_eq!(named(code), BTreeSet::from(["a", "b", "e", "g", "i"]));
}

/// The names of everything that a manifest depends on, in any of its tables.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    let manifest: toml::Table = text.parse().expect("TOML");
    fn collect(table: &toml::Table, found: &mut BTreeSet<String>) {
        for (key, value) in table {
            let Some(below) = value.as_table() else { continue };
            if key.ends_with("dependencies") {
                found.extend(below.iter().map(|(name, value)| {
                    let package = value.get("package").and_then(toml::Value::as_str);
                    package.unwrap_or(name).to_owned()
                }));
            } else if key != "workspace" {
                collect(below, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    collect(&manifest, &mut found);
    found
}

#[test]
fn the_protocol_is_free_of_input_output_and_of_the_daemon() {
    let needs = dependencies(&root().join("host/smtp/Cargo.toml"));
    for never in ["gatepost", "tokio", "wasmtime", "mio", "rustls", "gatepost-sdk"] {
        assert!(!needs.contains(never), "host/smtp depends on {never}");
    }
    for path in sources(&root().join("host/smtp/src")) {
        let code = code(&path);
        for never in [
            "TcpStream",
            "UdpSocket",
            "std::fs",
            "std::thread",
            "Instant::now",
            "SystemTime::now",
        ] {
            assert!(!code.contains(never), "{} has {never}", path.display());
        }
    }
}

#[test]
fn plugins_know_the_sdk_and_the_sdk_knows_no_host() {
    let manifests = std::fs::read_dir(root().join("plugins")).expect("plugins");
    let plugins = manifests
        .map(|entry| entry.expect("an entry").path().join("Cargo.toml"))
        .filter(|manifest| manifest.exists());
    let mut count = 0;
    for manifest in plugins {
        let needs = dependencies(&manifest);
        let ours: Vec<&String> = needs.iter().filter(|name| name.starts_with("gatepost")).collect();
        assert_eq!(ours, ["gatepost-sdk"], "{}", manifest.display());
        count += 1;
    }
    assert!(count >= 4, "the reference plugins are not where they were");
    let needs = dependencies(&root().join("sdk/Cargo.toml"));
    assert!(
        !needs.iter().any(|name| name.starts_with("gatepost")),
        "the SDK depends on {needs:?}"
    );
}
