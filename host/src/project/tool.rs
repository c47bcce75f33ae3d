//! Runs the tools of the languages.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, bail};

/// Runs it with its output on our standard error, where it shows its progress and its errors itself. `remedy` says how to install it.
pub fn run(command: &mut Command, remedy: &str) -> anyhow::Result<()> {
    let name = name(command);
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status().map_err(|error| not_run(&name, &error, remedy))?;
    if !status.success() {
        bail!("{name} failed ({status}); what it said stands above");
    }
    Ok(())
}

/// What it prints. Fails if it cannot be run or fails.
pub fn ask(command: &mut Command, remedy: &str) -> anyhow::Result<String> {
    let name = name(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_run(&name, &error, remedy))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name}: its output is no text"))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn not_run(name: &str, error: &std::io::Error, remedy: &str) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => anyhow!("{name} is not installed (not found in PATH): {remedy}"),
        _ => anyhow!("{name} does not run: {error}; {remedy}"),
    }
}

/// Whether a program is found in PATH.
pub fn is_there(program: impl AsRef<OsStr>) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program.as_ref()).is_file())
}

/// Where a project's component goes, and where it is built before it goes there by a rename, for a relay may watch that file: beside it, so that it is
/// in one file system. Absolute because tools are run in the project: `out`, else `build/NAME.wasm` with the folder's name. The folder above it is made.
pub fn component(folder: &Path, out: Option<&Path>) -> anyhow::Result<(PathBuf, PathBuf)> {
    let component = match out {
        Some(out) => std::path::absolute(out)?,
        None => {
            let name = folder.file_name().context("a project has a folder of its own")?;
            let mut file = name.to_owned();
            file.push(".wasm");
            folder.join("build").join(file)
        }
    };
    if let Some(above) = component.parent() {
        fs::create_dir_all(above).with_context(|| above.display().to_string())?;
    }
    let mut half = component.as_os_str().to_owned();
    half.push(format!(".{}.tmp", std::process::id()));
    Ok((component, PathBuf::from(half)))
}
