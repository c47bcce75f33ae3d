//! The command line: what can be typed, what is printed, and the exit status (0 done, 1 failed, 2 not understood).
//!
//! A command either runs here (`check`, `user`, `dkim`, `plugin new`, `plugin build`, `plugin check`, `plugin test`) or is a client of the running relay's admin socket (`queue`,
//! `plugin`); `run` hands over to the daemon. What is printed goes to standard output, errors to standard error;
//! colours only on a terminal; what came from strangers is printed without its control characters.

mod check;
mod client;
mod dkim;
mod inspect;
mod plugin;
mod project;
mod queue;
mod run;
mod text;
mod transcript;
mod user;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// The command tree.
#[derive(Debug, Parser)]
#[command(name = "gatepost", version, about, long_about = None, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    /// The configuration file. Without it, an embedded default that is reachable from this machine only
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  gatepost run                                     try it: listens on 127.0.0.1:2525, 2587 and 2465
  gatepost check --print-default > gatepost.toml   a configuration to start from
  gatepost check --config gatepost.toml            is it right?
  gatepost user add alice --config gatepost.toml   asks for a password
  gatepost run --config gatepost.toml
  gatepost queue list --config gatepost.toml       what waits, and why";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    #[command(subcommand)]
    Queue(queue::Command),
    #[command(subcommand)]
    User(user::Command),
    #[command(subcommand)]
    Plugin(plugin::Command),
    #[command(subcommand)]
    Dkim(dkim::Command),
}

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    // Prints help and version, and ends with status 2 for what it does not understand.
    let cli = Cli::parse();
    let config = cli.config.as_deref();
    let done = match cli.command {
        Command::Run(args) => run::run(&args, config),
        Command::Check(args) => check::check(&args, config),
        Command::Queue(command) => queue::queue(&command, config),
        Command::User(command) => user::user(&command, config),
        Command::Plugin(command) => plugin::plugin(&command, config),
        Command::Dkim(command) => dkim::dkim(&command, config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let paint = text::Paint::stderr();
            // Several lines are several errors, and each says where it is.
            for line in format!("{error:#}").lines() {
                eprintln!("{} {line}", paint.red("error:"));
            }
            ExitCode::FAILURE
        }
    }
}

/// The configuration that a command is about.
fn open_config(path: Option<&Path>) -> anyhow::Result<Config> {
    Ok(Config::open(path)?)
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Prints a value as one line of JSON, for programs.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_understood() {
        for (line, expected) in [
            ("run", None),
            ("run --config x.toml", None),
            ("--config x.toml check --json", None),
            ("queue list", None),
            ("queue list --recipient *@a.test --limit 5 --json", None),
            ("queue show 0000000000001", None),
            ("queue retry 0000000000001 0000000000002", None),
            ("queue remove --all", None),
            ("queue hold --recipient *@a.test --sender <>", None),
            ("queue remove", Some(ErrorKind::MissingRequiredArgument)),
            ("queue remove 0000000000001 --all", Some(ErrorKind::ArgumentConflict)),
            ("queue remove 123", Some(ErrorKind::ValueValidation)),
            ("queue show", Some(ErrorKind::MissingRequiredArgument)),
            ("user add", Some(ErrorKind::MissingRequiredArgument)),
            ("user add alice", None),
            ("plugin load rbl new.wasm", None),
            ("plugin check rbl.wasm --grant dns --settings rbl.toml", None),
            (
                "plugin check rbl.wasm --grant everything",
                Some(ErrorKind::ValueValidation),
            ),
            ("plugin new my-policy", None),
            ("plugin new my-policy --lang rust --hooks on-rcpt,on-message", None),
            ("plugin new My_Policy", Some(ErrorKind::ValueValidation)),
            (
                "plugin new my-policy --hooks on-rcpt,on-mesage",
                Some(ErrorKind::InvalidValue),
            ),
            ("plugin new my-policy --lang rusty", Some(ErrorKind::InvalidValue)),
            ("plugin build", None),
            ("plugin build my-policy -o x.wasm", None),
            ("plugin test rbl.wasm", Some(ErrorKind::MissingRequiredArgument)),
            ("plugin test rbl.wasm one.transcript two.transcript --update", None),
            ("plugin load rbl new.wasm --shadow", None),
            ("plugin load rbl new.wasm --canary 10", None),
            ("plugin load rbl new.wasm --settings new.toml", None),
            ("plugin load rbl --settings new.toml --shadow --config x.toml", None),
            ("plugin load rbl --shadow", Some(ErrorKind::MissingRequiredArgument)),
            (
                "plugin load rbl new.wasm --canary 100",
                Some(ErrorKind::ValueValidation),
            ),
            (
                "plugin load rbl new.wasm --canary 10 --shadow",
                Some(ErrorKind::ArgumentConflict),
            ),
            ("plugin promote rbl", None),
            ("plugin abort rbl", None),
            ("plugin disable rbl", None),
            ("plugin enable", Some(ErrorKind::MissingRequiredArgument)),
            ("dkim records", None),
            ("plugin rollback", Some(ErrorKind::MissingRequiredArgument)),
            ("frobnicate", Some(ErrorKind::InvalidSubcommand)),
            ("--version", Some(ErrorKind::DisplayVersion)),
        ] {
            let parsed = Cli::try_parse_from(["gatepost"].into_iter().chain(line.split(' ')));
            assert_eq!(parsed.err().map(|error| error.kind()), expected, "{line}");
        }
    }
}
