//! Python: componentize-py, from PATH if it has the right version, else from a virtual environment in the project's `build/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{tool, wit};

/// The version that the examples are built and tested with.
const VERSION: &str = "0.25.0";
const INSTALL_PYTHON: &str =
    "install Python 3.10 or newer: `apt-get install python3 python3-venv`, or from https://www.python.org";

pub fn build(folder: &Path, out: Option<&Path>) -> anyhow::Result<PathBuf> {
    let component = tool::component(folder, out)?;
    let wit = wit::prepare(folder)?;
    let modules = modules(folder)?;
    let program = componentize(folder)?;
    eprintln!("building policy.py with componentize-py {VERSION}");
    let half = tool::half(&component);
    let mut python = Command::new(program);
    python.current_dir(folder).arg("-d").arg(&wit);
    python.args(["-w", "policy", "componentize", "-p", "."]);
    if let Some(modules) = modules {
        python.arg("-p").arg(modules);
    }
    python.arg("policy").arg("-o").arg(&half);
    tool::run(&mut python, INSTALL_PYTHON)?;
    fs::rename(&half, &component).with_context(|| component.display().to_string())?;
    Ok(component)
}

/// The program, installed if it is not there in this version.
fn componentize(folder: &Path) -> anyhow::Result<PathBuf> {
    let fits = |program: &Path| {
        let said = tool::ask(Command::new(program).arg("--version"), "");
        said.is_ok_and(|said| said.split_whitespace().any(|word| word == VERSION))
    };
    let installed = folder.join("build/venv/bin/componentize-py");
    for program in [PathBuf::from("componentize-py"), installed.clone()] {
        if fits(&program) {
            return Ok(program);
        }
    }
    eprintln!("pip install componentize-py {VERSION} in build/venv");
    let mut pip = pip(folder)?;
    tool::run(pip.arg(format!("componentize-py=={VERSION}")), INSTALL_PYTHON)?;
    Ok(installed)
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
    let mut pip = pip(folder)?;
    pip.args(["--upgrade", "--target"]).arg(&modules);
    tool::run(pip.arg("-r").arg(&requirements), INSTALL_PYTHON)?;
    Ok(Some(modules))
}

/// `pip install` of the project's virtual environment, which is made if there is none.
fn pip(folder: &Path) -> anyhow::Result<Command> {
    let program = folder.join("build/venv/bin/pip");
    if !program.is_file() {
        let mut python = Command::new("python3");
        python.current_dir(folder).args(["-m", "venv", "build/venv"]);
        tool::run(&mut python, INSTALL_PYTHON)
            .context("python3 makes no virtual environment: on Debian `apt-get install python3-venv`")?;
    }
    let mut pip = Command::new(program);
    // It has its own time-outs.
    pip.current_dir(folder)
        .args(["install", "--quiet", "--disable-pip-version-check"]);
    Ok(pip)
}
