//! Projects of policies, for their authors: a folder that builds at once ([`create`]), and the component that comes out of it ([`build`]).
//!
//! Neither knows a relay. The templates are the files of `sdk/templates`, and travel in this executable together with the interface and the SDK of
//! the same build. Nothing is written outside of the project's folder but what the languages' own tools keep in their caches.

mod build;
mod c;
mod create;
mod files;
mod javascript;
mod python;
mod rust;
mod tool;
mod venv;
mod wit;

use include_dir::{Dir, include_dir};

pub use build::build;
pub use create::{check_name, create};

use crate::policy::decision::Stage;

static TEMPLATES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/sdk/templates");
/// The interface: all files of `wit/`.
static INTERFACE: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/wit");

/// Every hook of the interface, in the order in which a message passes them.
pub fn hooks() -> [&'static str; Stage::ALL.len()] {
    Stage::ALL.map(Stage::name)
}

/// What a project can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    Rust,
    #[value(name = "javascript", alias = "js")]
    JavaScript,
    #[value(name = "typescript", alias = "ts")]
    TypeScript,
    #[value(alias = "py")]
    Python,
    C,
}

/// A language, the file that tells its projects, the folder of `sdk/templates` and the ending of its hooks' bodies, and what stands between two of them.
struct Kind {
    language: Language,
    marker: &'static str,
    templates: &'static str,
    ending: &'static str,
    between: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind {
        language: Language::Rust,
        marker: "Cargo.toml",
        templates: "rust",
        ending: "rs",
        between: "\n",
    },
    Kind {
        language: Language::JavaScript,
        marker: "policy.js",
        templates: "js",
        ending: "js",
        between: "\n",
    },
    Kind {
        language: Language::TypeScript,
        marker: "policy.ts",
        templates: "ts",
        ending: "ts",
        between: "\n",
    },
    Kind {
        language: Language::Python,
        marker: "policy.py",
        templates: "python",
        ending: "py",
        between: "\n\n",
    },
    Kind {
        language: Language::C,
        marker: "policy.c",
        templates: "c",
        ending: "c",
        between: "\n",
    },
];

impl Language {
    fn kind(self) -> &'static Kind {
        let found = KINDS.iter().find(|kind| kind.language == self);
        found.expect("every language has a kind: a test walks through all of them")
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_language_has_a_body_for_every_hook_and_every_hook_a_transcript() {
        for hook in hooks() {
            assert!(TEMPLATES.contains(format!("transcript/{hook}.transcript")), "{hook}");
            for language in Language::value_variants() {
                let kind = language.kind();
                let body = format!("{}/hooks/{hook}.{}", kind.templates, kind.ending);
                assert!(TEMPLATES.contains(&body), "{body}");
            }
        }
    }
}
