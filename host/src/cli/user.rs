//! `gatepost user`: the users file of the configuration. Passwords are read and never shown.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use zeroize::Zeroizing;

use super::client;
use crate::admin::protocol::Request;
use crate::auth::edit::{self, PASSWORD_BYTES_MAX};
use crate::config::Config;

/// Add, change and remove users
///
/// Users are kept in the file that the configuration names under [auth]. A password is asked for twice on a terminal;
/// otherwise it is the first line of standard input. Only an argon2id hash and SCRAM-SHA-256 keys are stored. A
/// running relay is told to read the file again.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Add a user
    Add { name: String },
    /// Give a user another password
    Passwd { name: String },
    /// Remove a user
    Remove { name: String },
    /// Print the names
    List {
        /// A list of strings, for programs
        #[arg(long)]
        json: bool,
    },
}

const EXAMPLES: &str = "\
Examples:
  gatepost user add alice                 may send as alice@ each of relay_domains
  gatepost user add alice@example.test    may send as that address
  pass show mail/alice | gatepost user passwd alice";

pub fn user(command: &Command, config: Option<&Path>) -> anyhow::Result<()> {
    let config = super::open_config(config)?;
    let path = users_file(&config)?;
    let done = match command {
        Command::Add { name } => {
            edit::add(&path, name, &password(name)?)?;
            format!("added {name} to")
        }
        Command::Passwd { name } => {
            edit::change_password(&path, name, &password(name)?)?;
            format!("changed the password of {name} in")
        }
        Command::Remove { name } => {
            edit::remove(&path, name)?;
            format!("removed {name} from")
        }
        Command::List { json } => {
            let names = edit::list(&path)?;
            return match json {
                true => super::print_json(&names),
                false => super::print(&names.iter().map(|name| format!("{name}\n")).collect::<String>()),
            };
        }
    };
    super::print(&format!("{done} {}\n", path.display()))?;
    tell_the_relay(&config);
    Ok(())
}

fn users_file(config: &Config) -> anyhow::Result<PathBuf> {
    let named = config.auth.users.clone();
    named.context("the configuration names no users file: add a table [auth] with users = \"users\"")
}

/// The file has changed whether or not a relay hears of it, so this is no failure of the command.
fn tell_the_relay(config: &Config) {
    if config.admin_socket().exists()
        && let Err(error) = client::ask(&config.admin_socket(), &Request::Reload)
    {
        eprintln!("the running relay was not told: {error:#}; send it SIGHUP");
    }
}

/// Asks twice on a terminal; otherwise takes the first line of standard input.
fn password(name: &str) -> anyhow::Result<Zeroizing<String>> {
    if io::stdin().is_terminal() {
        let first = Zeroizing::new(rpassword::prompt_password(format!("Password of {name}: "))?);
        let second = Zeroizing::new(rpassword::prompt_password("Once more: ")?);
        if first != second {
            bail!("the two passwords differ");
        }
        return Ok(first);
    }
    first_line(io::stdin().lock())
}

fn first_line(input: impl BufRead) -> anyhow::Result<Zeroizing<String>> {
    // Room for the line's end, and for one byte too many to be noticed later.
    let most = PASSWORD_BYTES_MAX + 3;
    let mut line = Zeroizing::new(String::with_capacity(most));
    input
        .take(most as u64)
        .read_line(&mut line)
        .context("the password on standard input")?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    if line.is_empty() {
        bail!("standard input is no terminal and its first line, the password, is empty");
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_first_line() {
        for (input, expected) in [
            ("pencil\n", Some("pencil")),
            ("pencil", Some("pencil")),
            (" two words \r\nnext", Some(" two words ")),
            ("\npencil\n", None),
            ("", None),
        ] {
            assert_eq!(
                first_line(input.as_bytes())
                    .ok()
                    .map(|line| line.to_string())
                    .as_deref(),
                expected,
                "{input:?}"
            );
        }
        let long = "x".repeat(PASSWORD_BYTES_MAX * 2);
        assert!(first_line(long.as_bytes()).unwrap().len() > PASSWORD_BYTES_MAX);
    }
}
