//! `gatepost plugin`: the policies of the running relay, through its admin socket; and components that are still being made, without a relay.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;

use super::text::{Paint, printable};
use super::{client, inspect, transcript};
use crate::admin::protocol::{COMPONENT_LIMIT, PluginStatus, Request, Response};

/// See and replace the plugins of the running relay, and test new ones
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// List the plugins in the order in which they are asked
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Put another version of a plugin in force, and into the configured file
    ///
    /// It is checked and tried first; a bad one is refused and the old one stays. Sessions go on with the version
    /// that they began with.
    Load {
        /// The plugin's name in the configuration
        name: String,
        /// The component
        file: PathBuf,
    },
    /// Bring the version before back
    ///
    /// The version that was in force becomes the one before: a second rollback goes forward again.
    Rollback {
        /// The plugin's name in the configuration
        name: String,
    },
    Check(inspect::Args),
    Test(transcript::Args),
}

const EXAMPLES: &str = "\
Examples:
  gatepost plugin list
  gatepost plugin load spam-scan target/plugins/spam-scan.wasm
  gatepost plugin rollback spam-scan
  gatepost plugin check my-policy.wasm                       no relay needed
  gatepost plugin test my-policy.wasm my-policy.transcript";

pub fn plugin(command: &Command, config: Option<&Path>) -> anyhow::Result<()> {
    let socket = || client::socket(config);
    let response = match command {
        Command::List { .. } => client::ask(&socket()?, &Request::PluginList)?,
        Command::Load { name, file } => {
            let component = read_component(file)?;
            let request = Request::PluginLoad {
                name: name.clone(),
                length: component.len() as u64,
            };
            client::ask_with(&socket()?, &request, &component)?
        }
        Command::Rollback { name } => client::ask(&socket()?, &Request::PluginRollback { name: name.clone() })?,
        Command::Check(args) => return inspect::check(args),
        Command::Test(args) => return transcript::test(args),
    };
    match (command, response) {
        (Command::List { json: true }, Response::Plugins { plugins }) => super::print_json(&plugins),
        (Command::List { json: false }, Response::Plugins { plugins }) => {
            super::print(&table(&plugins, Paint::stdout()))
        }
        (Command::Load { .. } | Command::Rollback { .. }, Response::Done { message }) => {
            super::print(&format!("{}\n", printable(&message)))
        }
        (_, response) => Err(client::unexpected(&response)),
    }
}

pub(super) fn read_component(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || file.display().to_string();
    let mut bytes = Vec::new();
    // A length is no promise: a device has none, and a file may grow.
    File::open(file)
        .and_then(|open| open.take(COMPONENT_LIMIT + 1).read_to_end(&mut bytes))
        .with_context(name)?;
    if bytes.len() as u64 > COMPONENT_LIMIT {
        bail!("{}: a component has {COMPONENT_LIMIT} bytes at most", name());
    }
    Ok(bytes)
}

/// How much of a digest tells versions apart by eye.
const DIGEST_SHOWN: usize = 12;

fn table(plugins: &[PluginStatus], paint: Paint) -> String {
    if plugins.is_empty() {
        return "no plugins: everything that needs a grant is refused\n".to_owned();
    }
    let width = plugins.iter().map(|plugin| plugin.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for plugin in plugins {
        let digest: String = plugin.digest.chars().take(DIGEST_SHOWN).collect();
        let name = paint.bold(&format!("{:width$}", printable(&plugin.name)));
        let failures = format!("{} failed", plugin.failures);
        let failures = if plugin.failures > 0 {
            paint.red(&failures)
        } else {
            failures
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name}  {digest}  {} calls, {failures}", plugin.calls);
        let _ = writeln!(text, "{:width$}  hooks {}", "", plugin.hooks.join(", "));
        let grants = if plugin.grants.is_empty() {
            "none".to_owned()
        } else {
            plugin.grants.join(", ")
        };
        let _ = writeln!(text, "{:width$}  grants {grants}", "");
        if let Some(previous) = &plugin.previous {
            let previous: String = previous.chars().take(DIGEST_SHOWN).collect();
            let _ = writeln!(text, "{:width$}  {}", "", paint.dim(&format!("before that {previous}")));
        }
        if let Some(refused) = &plugin.refused {
            let refused = format!("the file that is there now was refused: {}", printable(refused));
            let _ = writeln!(text, "{:width$}  {}", "", paint.red(&refused));
        }
    }
    text
}
