//! Builds a project: finds its language by its files, and leaves the component.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{KINDS, Language, c, javascript, python, rust};

/// Builds the project in `folder`, and leaves its component at `out`, or in `build/NAME.wasm` of the project. The place of the component.
///
/// The tools' own output goes to standard error as it comes. Fails if there is no project, a tool is missing (and says how to get it) or fails.
pub fn build(folder: &Path, out: Option<&Path>) -> anyhow::Result<PathBuf> {
    let shown = folder.display().to_string();
    // Absolute, because the tools are run in it.
    let folder = fs::canonicalize(folder).with_context(|| shown.clone())?;
    let Some(kind) = KINDS.iter().find(|kind| folder.join(kind.marker).is_file()) else {
        bail!(
            "{shown}: there is no project of a policy here: it would have {}; `gatepost plugin new NAME` makes one",
            KINDS.map(|kind| kind.marker).join(" or ")
        );
    };
    match kind.language {
        Language::Rust => rust::build(&folder, out),
        Language::JavaScript | Language::TypeScript => javascript::build(&folder, kind.marker, out),
        Language::Python => python::build(&folder, out),
        Language::C => c::build(&folder, out),
    }
    .with_context(|| shown)
}
