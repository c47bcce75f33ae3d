//! JavaScript and TypeScript: componentize-js, called by a few lines of node (`sdk/templates/js/build.mjs`).
//!
//! The versions are those of the project's `package.json`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::{files, tool, wit};

const INSTALL_NODE: &str = "install node with npm: `apt-get install nodejs npm`, or from https://nodejs.org";
const BUILD: &str = include_str!("../../../sdk/templates/js/build.mjs");
const COMPONENTIZE: &str = "node_modules/@bytecodealliance/componentize-js";

/// Builds the project in `folder` out of its file `source`, and leaves the component at `component`.
pub fn build(folder: &Path, source: &str, component: &Path) -> anyhow::Result<()> {
    let wit = wit::prepare(folder)?;
    if !has_packages(folder) {
        install(folder)?;
    }
    // Inside of the project, because node looks for packages in the folders above a script.
    let script = folder.join("build/build.mjs");
    files::write(&script, BUILD.as_bytes()).with_context(|| script.display().to_string())?;
    eprintln!("building {source} with node");
    let mut node = Command::new("node");
    node.current_dir(folder)
        .arg(&script)
        .arg(source)
        .arg(&wit)
        .arg("build/types")
        .arg(component);
    tool::run(&mut node, INSTALL_NODE)
}

/// In the project or above it, as node looks for them: a folder of several projects may share them.
fn has_packages(folder: &Path) -> bool {
    folder.ancestors().any(|above| above.join(COMPONENTIZE).is_dir())
}

fn install(folder: &Path) -> anyhow::Result<()> {
    let manifest = folder.join("package.json");
    if !manifest.is_file() {
        bail!(
            "{} is missing: it names the packages that make a component; `gatepost plugin new` writes one",
            manifest.display()
        );
    }
    eprintln!("npm install");
    // npm has its own time-outs.
    let mut npm = Command::new("npm");
    npm.current_dir(folder).args(["install", "--no-audit", "--no-fund"]);
    tool::run(&mut npm, INSTALL_NODE)?;
    if !has_packages(folder) {
        bail!(
            "{}: it does not name @bytecodealliance/componentize-js in devDependencies, which makes the component; `gatepost plugin new` writes one that does",
            manifest.display()
        );
    }
    Ok(())
}
