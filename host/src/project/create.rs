//! Makes a project out of the templates.
//!
//! It is made beside its place and then renamed, so that there is a whole project or none.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, bail};
use include_dir::{Dir, include_dir};

use super::files::{copy, write};
use super::{INTERFACE, Kind, Language, TEMPLATES, wit};

static SDK_SOURCES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/sdk/src");
const SDK_MANIFEST: &str = include_str!("../../../sdk/Cargo.toml");
const SDK_README: &str = include_str!("../../../sdk/README.md");

/// Bytes of the longest name: it becomes a file name, a crate's and a package's.
const NAME_BYTES_MAX: usize = 64;

/// Names that are words of the languages or folders of a project, and so cannot be a crate or a package.
const TAKEN: [&str; 61] = [
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "bool",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "export",
    "extern",
    "false",
    "final",
    "flags",
    "fn",
    "for",
    "func",
    "gatepost-sdk",
    "if",
    "impl",
    "import",
    "in",
    "include",
    "interface",
    "let",
    "list",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "option",
    "override",
    "package",
    "priv",
    "proc-macro",
    "pub",
    "record",
    "ref",
    "resource",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "type",
    "use",
];

/// Whether a project may be called this: lower case words of letters and digits, each beginning with a letter, with `-` between them. It is a
/// crate, a package of npm and a package of WIT at once.
///
/// An error says what is wrong.
pub fn check_name(name: &str) -> Result<String, String> {
    let word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_lowercase())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("a name has at most {NAME_BYTES_MAX} bytes"));
    }
    if !name.split('-').all(word) {
        return Err(
            "a name is made of lower case letters and digits, in words that begin with a letter and have `-` between them: my-policy"
                .to_owned(),
        );
    }
    if TAKEN.contains(&name) {
        return Err(format!(
            "`{name}` means something else to the tools; my-{name} is possible"
        ));
    }
    Ok(name.to_owned())
}

/// Makes the project `folder`, called `name`, with a passing body for each of `hooks` (names of [`super::hooks`], in any order).
///
/// Fails if `folder` exists or cannot be written, and then leaves nothing.
pub fn create(folder: &Path, name: &str, language: Language, hooks: &[String]) -> anyhow::Result<()> {
    let shown = folder.display();
    if fs::symlink_metadata(folder).is_ok() {
        bail!("{shown} exists already: choose another name, or remove it");
    }
    let mut half = folder.as_os_str().to_owned();
    half.push(format!(".{}.tmp", std::process::id()));
    let half = Path::new(&half);
    let made = fill(half, name, language, hooks).and_then(|()| fs::rename(half, folder));
    made.inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(half);
    })
    .with_context(|| format!("cannot make {shown}"))
}

fn fill(folder: &Path, name: &str, language: Language, hooks: &[String]) -> io::Result<()> {
    let kind = language.kind();
    let hooks: Vec<&str> = super::hooks()
        .into_iter()
        .filter(|hook| hooks.iter().any(|chosen| chosen == hook))
        .collect();
    let words = Words::new(name, kind, &hooks)?;
    fs::create_dir(folder)?;
    let project = template_folder(&format!("{}/project", kind.templates))?;
    copy(project, folder, &|text| words.fill(text))?;
    let transcripts: Vec<&str> = hooks
        .iter()
        .map(|hook| template(&format!("transcript/{hook}.transcript")))
        .collect::<io::Result<_>>()?;
    write(
        &folder.join("tests/passes.transcript"),
        transcripts.join("\n").as_bytes(),
    )?;
    if language == Language::Rust {
        let sdk = folder.join("vendor/gatepost-sdk");
        copy(&SDK_SOURCES, &sdk.join("src"), &str::to_owned)?;
        // Of this repository's workspace it is no longer.
        let manifest: Vec<&str> = SDK_MANIFEST
            .lines()
            .filter(|line| !line.starts_with("workspace = ") && !line.starts_with("# Not the daemon's workspace"))
            .collect();
        write(&sdk.join("Cargo.toml"), (manifest.join("\n") + "\n").as_bytes())?;
        write(&sdk.join("README.md"), SDK_README.as_bytes())?;
        // Where the SDK's bindings look for it: beside the SDK.
        copy(&INTERFACE, &folder.join("vendor/wit"), &str::to_owned)?;
    } else {
        // The interface itself comes with each build.
        copy(template_folder("wit")?, &folder.join("wit"), &|text| words.fill(text))?;
    }
    Ok(())
}

/// What stands in the templates in double braces, and what takes its place.
struct Words(Vec<(&'static str, String)>);

impl Words {
    fn new(name: &str, kind: &Kind, hooks: &[&str]) -> io::Result<Words> {
        let bodies: Vec<&str> = hooks
            .iter()
            .map(|hook| template(&format!("{}/hooks/{hook}.{}", kind.templates, kind.ending)))
            .collect::<io::Result<_>>()?;
        Ok(Words(vec![
            ("{{name}}", name.to_owned()),
            ("{{hooks}}\n", bodies.join(kind.between)),
            ("{{world}}", wit::world(hooks)),
            ("{{exports}}", hooks.join(", ").replace('-', "_")),
            ("{{hook-names}}", hooks.join(", ")),
        ]))
    }

    fn fill(&self, text: &str) -> String {
        let filled = self.0.iter();
        filled.fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }
}

fn missing(path: &str) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("this build has no template {path}"))
}

fn template(path: &str) -> io::Result<&'static str> {
    let file = TEMPLATES.get_file(path).and_then(|file| file.contents_utf8());
    file.ok_or_else(|| missing(path))
}

fn template_folder(path: &str) -> io::Result<&'static Dir<'static>> {
    TEMPLATES.get_dir(path).ok_or_else(|| missing(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "my-policy", "greylist2", "x1-y2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "", "-", "a-", "-a", "a--b", "A", "1a", "a-1", "a_b", "a/b", "..", "a.b", "a b", "\u{e4}", "fn", "test",
            &long,
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
