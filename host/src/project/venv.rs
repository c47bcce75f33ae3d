//! Programs that come as packages of PyPI, in a virtual environment in the project's `build/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::tool;

pub const INSTALL_PYTHON: &str =
    "install Python 3.10 or newer: `apt-get install python3 python3-venv`, or from https://www.python.org";

/// A program, and the package that brings it.
pub struct Program {
    /// What it is called in PATH.
    pub in_path: &'static str,
    /// What the package calls it.
    pub in_package: &'static str,
    pub package: &'static str,
    /// The version that the examples are built and tested with. A program of another version is left alone.
    pub version: &'static str,
    /// The argument upon which it says its version.
    pub ask: &'static str,
}

impl Program {
    /// Where it is: in PATH if it has the right version there, else in the virtual environment, where it is installed if it is not.
    pub fn find(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let fits = |program: &Path| {
            let said = tool::ask(Command::new(program).arg(self.ask), "");
            said.is_ok_and(|said| said.split_whitespace().any(|word| word == self.version))
        };
        let installed = folder.join("build/venv/bin").join(self.in_package);
        for program in [PathBuf::from(self.in_path), installed.clone()] {
            if fits(&program) {
                return Ok(program);
            }
        }
        eprintln!("pip install {} {} in build/venv", self.package, self.version);
        install(folder, &[format!("{}=={}", self.package, self.version).as_ref()])?;
        Ok(installed)
    }
}

/// `pip install` of the project's virtual environment, which is made if there is none, and anew if it does not run: its programs name its folder, so a
/// project that was moved has none any more.
pub fn install(folder: &Path, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let program = folder.join("build/venv/bin/pip");
    if tool::ask(Command::new(&program).arg("--version"), "").is_err() {
        let mut python = Command::new("python3");
        python.current_dir(folder).args(["-m", "venv", "--clear", "build/venv"]);
        tool::run(&mut python, INSTALL_PYTHON)
            .context("python3 makes no virtual environment: on Debian `apt-get install python3-venv`")?;
    }
    let mut pip = Command::new(program);
    // It has its own time-outs.
    pip.current_dir(folder)
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(arguments);
    tool::run(&mut pip, INSTALL_PYTHON)
}
