//! Python: componentize-py makes the component.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::venv::{self, Program};
use super::{tool, wit};

const COMPONENTIZE: Program = Program {
    in_path: "componentize-py",
    in_package: "componentize-py",
    package: "componentize-py",
    version: "0.25.0",
    ask: "--version",
};

pub fn build(folder: &Path, component: &Path) -> anyhow::Result<()> {
    let wit = wit::prepare(folder)?;
    let modules = modules(folder)?;
    let program = COMPONENTIZE.find(folder)?;
    eprintln!("building policy.py with componentize-py {}", COMPONENTIZE.version);
    let mut python = Command::new(program);
    python.current_dir(folder).arg("-d").arg(&wit);
    python.args(["-w", "policy", "componentize", "-p", "."]);
    if let Some(modules) = modules {
        python.arg("-p").arg(modules);
    }
    python.arg("policy").arg("-o").arg(component);
    tool::run(&mut python, venv::INSTALL_PYTHON)
}

/// Where the modules that `requirements.txt` names were installed; none if it names none.
fn modules(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let requirements = folder.join("requirements.txt");
    let named = fs::read_to_string(&requirements).unwrap_or_default();
    let named = named.lines().map(str::trim);
    if named.filter(|line| !line.is_empty()).all(|line| line.starts_with('#')) {
        return Ok(None);
    }
    let modules = folder.join("build/modules");
    eprintln!("pip install -r requirements.txt");
    let target = ["--upgrade".as_ref(), "--target".as_ref(), modules.as_os_str()];
    venv::install(
        folder,
        &[&target[..], &["-r".as_ref(), requirements.as_os_str()]].concat(),
    )?;
    Ok(Some(modules))
}
