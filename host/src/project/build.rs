//! Builds a project: finds its language by its files, and leaves the component.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{KINDS, Language, c, javascript, python, rust, tool};

/// Builds the project in `folder`, and leaves its component at `out`, or in `build/NAME.wasm` of the project, if `accept` likes it: that is given the file
/// that was built and the place that it will have, which holds what it held until then. The place, and what `accept` says.
///
/// The tools' own output goes to standard error as it comes. Fails if there is no project, a tool is missing (and says how to get it) or fails.
pub fn build<T>(
    folder: &Path,
    out: Option<&Path>,
    accept: impl FnOnce(&Path, &Path) -> anyhow::Result<T>,
) -> anyhow::Result<(PathBuf, T)> {
    let shown = folder.display().to_string();
    // Absolute, because the tools are run in it.
    let folder = fs::canonicalize(folder).with_context(|| shown.clone())?;
    let Some(kind) = KINDS.iter().find(|kind| folder.join(kind.marker).is_file()) else {
        bail!(
            "{shown}: there is no project of a policy here: it would have {}; `gatepost plugin new NAME` makes one",
            KINDS.map(|kind| kind.marker).join(" or ")
        );
    };
    let (component, half) = tool::component(&folder, out).with_context(|| shown.clone())?;
    let built = match kind.language {
        Language::Rust => rust::build(&folder, &half),
        Language::JavaScript | Language::TypeScript => javascript::build(&folder, kind.marker, &half),
        Language::Python => python::build(&folder, &half),
        Language::C => c::build(&folder, &half),
    };
    let accepted = built.with_context(|| shown).and_then(|()| {
        let said = accept(&half, &component)?;
        fs::rename(&half, &component).with_context(|| component.display().to_string())?;
        Ok((component, said))
    });
    if accepted.is_err() {
        // It may not be there, and the first error is the one to report.
        let _ = fs::remove_file(&half);
    }
    accepted
}
