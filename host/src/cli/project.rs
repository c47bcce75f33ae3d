//! `gatepost plugin new` and `gatepost plugin build`: from nothing to a component, without a relay.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;

use super::inspect;
use crate::project::{self, Language};

/// Make a project of a policy that builds at once
///
/// It is a folder of that name, in the current folder: a source in which each chosen hook passes and says what it may answer, a transcript that it
/// passes, and a README.
#[derive(Debug, clap::Args)]
pub struct New {
    /// The policy's name, and the folder's: my-policy
    #[arg(value_parser = project::check_name)]
    name: String,
    /// What to write it in
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    lang: Language,
    /// The hooks that it answers, with commas between them
    #[arg(long, value_name = "HOOK,...", value_delimiter = ',', default_value = "on-rcpt", value_parser = PossibleValuesParser::new(project::hooks()))]
    hooks: Vec<String>,
}

/// Build the project in a folder, and say whether the relay would load it
///
/// The language is known by the files. What a tool prints goes to standard error. Exit status 1 if it does not build or the relay would refuse it;
/// then the component of the build before stays.
#[derive(Debug, clap::Args)]
pub struct Build {
    /// The project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Where to leave the component [default: build/NAME.wasm in the project]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn new(args: &New) -> anyhow::Result<()> {
    let name = &args.name;
    project::create(Path::new(name), name, args.lang, &args.hooks)?;
    let file = std::path::absolute(name)?.join(format!("build/{name}.wasm"));
    // As TOML writes it, whatever the folder is called.
    let file = toml::Value::from(file.to_string_lossy().into_owned());
    super::print(&format!(
        "\
{name} is made: edit it, then
  gatepost plugin build {name}
  gatepost plugin test {name}/build/{name}.wasm {name}/tests/passes.transcript
and to load it, add this to the configuration and send the relay SIGHUP:
  [[plugin]]
  name = \"{name}\"
  file = {file}
  grants = []    # those that `build` names
"
    ))
}

pub fn build(args: &Build) -> anyhow::Result<()> {
    let (component, verdict) = project::build(&args.folder, args.output.as_deref(), inspect::verdict)?;
    super::print(&format!("{}: {verdict}\n", component.display()))
}
