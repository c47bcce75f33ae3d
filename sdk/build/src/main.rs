//! `gatepost-plugin-build MODULE... --out FOLDER`: makes `FOLDER/NAME.wasm` out of each core module, where NAME
//! is the module's file name with `-` for `_`, as plugins are named in a configuration.
//!
//! Exit status: 0 when every component is in place, 1 when one could not be made (the others are still tried),
//! 2 for wrong usage.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gatepost_plugin_build::{Outcome, build_file};

const USAGE: &str = "\
usage: gatepost-plugin-build MODULE... --out FOLDER

Makes a plugin (a WebAssembly component) out of each core module that `cargo build
--target wasm32-unknown-unknown` left, and puts it into FOLDER as NAME.wasm: the
module's name with `-` for `_`. A file whose contents are right already is not touched.";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
enum Request {
    Help,
    Build { modules: Vec<PathBuf>, folder: PathBuf },
}

fn main() -> ExitCode {
    match parse(env::args_os().skip(1)) {
        Ok(Request::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Request::Build { modules, folder }) => build(&modules, &folder),
        Err(mistake) => {
            eprintln!("gatepost-plugin-build: {mistake}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn build(modules: &[PathBuf], folder: &Path) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for module in modules {
        let component = folder.join(plugin_file_name(module));
        match build_file(module, &component) {
            Ok(Outcome::Written) => println!("{}", component.display()),
            Ok(Outcome::Unchanged) => println!("{} (unchanged)", component.display()),
            Err(error) => {
                eprintln!("gatepost-plugin-build: {error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut modules = Vec::new();
    let mut folder = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Request::Help),
            Some("--out") if folder.is_some() => return Err("--out is given twice".to_owned()),
            Some("--out") => {
                let value = arguments.next().ok_or("--out wants a folder")?;
                folder = Some(PathBuf::from(value));
            }
            Some(option) if option.starts_with('-') => {
                return Err(format!("unknown option {option}"));
            }
            _ => modules.push(PathBuf::from(argument)),
        }
    }
    let folder = folder.ok_or("--out FOLDER is missing")?;
    if modules.is_empty() {
        return Err("no module is named".to_owned());
    }
    Ok(Request::Build { modules, folder })
}

/// The compiler writes `auth_relay.wasm` for the crate `auth-relay`; plugins carry the crate's name.
fn plugin_file_name(module: &Path) -> PathBuf {
    let stem = module.file_stem().unwrap_or(module.as_os_str());
    PathBuf::from(format!("{}.wasm", stem.to_string_lossy().replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_checked() {
        assert_eq!(
            parsed("a.wasm --out plugins b.wasm"),
            Ok(Request::Build {
                modules: vec!["a.wasm".into(), "b.wasm".into()],
                folder: "plugins".into(),
            })
        );
        assert_eq!(parsed("--help"), Ok(Request::Help));
        for (line, expected) in [
            ("a.wasm", "--out FOLDER is missing"),
            ("a.wasm --out", "--out wants a folder"),
            ("--out a --out b c.wasm", "--out is given twice"),
            ("--out plugins", "no module is named"),
            ("a.wasm --output plugins", "unknown option --output"),
        ] {
            assert_eq!(parsed(line), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_plugin_is_named_as_its_crate() {
        assert_eq!(
            plugin_file_name(Path::new("target/x/auth_relay.wasm")),
            Path::new("auth-relay.wasm")
        );
    }
}
