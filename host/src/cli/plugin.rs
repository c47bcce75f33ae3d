//! `gatepost plugin`: the policies of the running relay, through its admin socket; and components that are still being made, without a relay.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::text::{Paint, printable};
use super::{client, inspect, project, transcript};
use crate::admin::protocol::{COMPONENT_LIMIT, LoadMode, PluginStatus, Request, Response, SettingsFile, TrialStatus};
use crate::config::Config;
use crate::regular;

/// See and replace the plugins of the running relay, and test new ones
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// List the plugins in the order in which they are asked
    ///
    /// Each with its version, as the log's decisions have it (a digest over the component and its settings), and the component's digest, with which
    /// the `sha256sum` of its file begins.
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Put another version of a plugin in force, into the configured file too, or on trial
    ///
    /// A version is a component with its settings: grants, [plugin.config], endpoints, budgets and the rest of its entry. It is
    /// checked, tried and probed first; a bad one is refused and the old one stays. Sessions go on with the version that they began
    /// with. A version that comes into force, by a reload of the configuration too, is watched for ten minutes: if at least 5 of its
    /// calls, and at least one in ten, fail (trap, budget, broken answer), the relay goes back to the version before by itself.
    ///
    /// A version on trial leaves the configured file as it is, and ends with `promote`, with `abort`, when the plugin's
    /// settings change, or with the relay's worker (one that the worker died of is not tried again).
    Load {
        /// The plugin's name in the configuration
        name: String,
        /// The component; without it, the one that the entry in --settings names
        #[arg(required_unless_present = "settings")]
        file: Option<PathBuf>,
        /// With other settings: those that this configuration has for the plugin. The rest of it only has to be right
        ///
        /// Settings that come into force so, or by `promote`, are not written into the relay's configuration, and neither is the component
        /// into its file. They last until the plugin's entry there or its file changes, or the relay is started anew: write them
        /// there yourself, and reload. Without --settings, those in force are meant.
        #[arg(long, value_name = "TOML")]
        settings: Option<PathBuf>,
        /// Run it beside the live version: it gets the same calls and decides nothing; where it says something else, that is logged
        ///
        /// It reads what the live version reads, with the same grants; what it writes (state, notes, edits) goes to a scratch
        /// copy and nowhere else. Endpoints are really asked. Calls beyond 8 at a time are left out and counted.
        #[arg(long, conflicts_with = "canary")]
        shadow: bool,
        /// Let it decide for this share of the sessions; 1 to 99
        ///
        /// The session's id chooses, and a session keeps its choice. It has the state of the live version, where a shadow has its own. It ends by
        /// itself if it fails as often as a live version may not.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
        canary: Option<u8>,
    },
    /// Bring the version before back, be that another component or other settings
    ///
    /// The version that was in force becomes the one before: a second rollback goes forward again. A component goes into the configured
    /// file. Settings do not go into the configuration, which is yours: that rollback lasts until the plugin's entry there or its
    /// file changes, or the relay is started anew. A reload before that says so, and does not bring back what was taken back.
    Rollback {
        /// The plugin's name in the configuration
        name: String,
    },
    /// Put the version on trial in force, and into the configured file (not if it has other settings: see `load --help`)
    Promote {
        /// The plugin's name in the configuration
        name: String,
    },
    /// End the trial of a version: what is in force stays
    ///
    /// Sessions that a canary decided for get 421 at their next transaction, and come again.
    Abort {
        /// The plugin's name in the configuration
        name: String,
    },
    /// Ask a plugin again that was disabled
    Enable {
        /// The plugin's name in the configuration
        name: String,
    },
    /// Ask a plugin nothing any more, until it is enabled or the relay is started anew
    ///
    /// Sessions that begin from now on go by as if it were not configured: what it would have refused is taken, what it would
    /// have allowed is not. It opens nothing: without a plugin that allows it, the relay's own gate denies all relaying, and a
    /// policy that would let strangers relay without this plugin is refused. A reload keeps it disabled, and so does a new
    /// worker; to leave it out for good, take it out of the configuration.
    Disable {
        /// The plugin's name in the configuration
        name: String,
    },
    New(project::New),
    Build(project::Build),
    Check(inspect::Args),
    Test(transcript::Args),
}

const EXAMPLES: &str = "\
Examples:
  gatepost plugin list
  gatepost plugin load spam-scan target/plugins/spam-scan.wasm
  gatepost plugin rollback spam-scan
  gatepost plugin load spam-scan new.wasm --shadow       what would it say?
  gatepost plugin load spam-scan new.wasm --canary 10    let it decide for a tenth of the sessions
  gatepost plugin load spam-scan --settings new.toml --shadow      the same for other settings
  gatepost plugin promote spam-scan                      well done: for all (or `abort`)
  gatepost plugin disable spam-scan
  gatepost plugin new my-policy                          a project that builds at once
  gatepost plugin build my-policy                        its component, and whether the relay would load it
  gatepost plugin check my-policy.wasm                   no relay needed
  gatepost plugin test my-policy.wasm my-policy.transcript";

pub fn plugin(command: &Command, config: Option<&Path>) -> anyhow::Result<()> {
    let socket = || client::socket(config);
    let request = match command {
        Command::List { .. } => Request::PluginList,
        Command::Load {
            name,
            file,
            settings,
            shadow,
            canary,
        } => {
            let (settings, named) = match settings {
                Some(path) => read_settings(path, name).map(|(file, component)| (Some(file), Some(component)))?,
                None => (None, None),
            };
            let file = file.as_ref().or(named.as_ref()).context("no component")?;
            let component = read_component(file)?;
            let request = Request::PluginLoad {
                name: name.clone(),
                length: component.len() as u64,
                settings,
                mode: match (shadow, canary) {
                    (true, _) => LoadMode::Shadow,
                    (false, Some(percent)) => LoadMode::Canary { percent: *percent },
                    (false, None) => LoadMode::Live,
                },
            };
            let answer = client::ask_with(&socket()?, &request, &component);
            return done(answer.with_context(|| file.display().to_string())?);
        }
        Command::Rollback { name } => Request::PluginRollback { name: name.clone() },
        Command::Promote { name } => Request::PluginPromote { name: name.clone() },
        Command::Abort { name } => Request::PluginAbort { name: name.clone() },
        Command::Enable { name } => Request::PluginEnable { name: name.clone() },
        Command::Disable { name } => Request::PluginDisable { name: name.clone() },
        Command::New(args) => return project::new(args),
        Command::Build(args) => return project::build(args),
        Command::Check(args) => return inspect::check(args),
        Command::Test(args) => return transcript::test(args),
    };
    match (command, client::ask(&socket()?, &request)?) {
        (Command::List { json: true }, Response::Plugins { plugins }) => super::print_json(&plugins),
        (Command::List { json: false }, Response::Plugins { plugins }) => {
            super::print(&table(&plugins, Paint::stdout()))
        }
        (_, response) => done(response),
    }
}

fn done(response: Response) -> anyhow::Result<()> {
    match response {
        Response::Done { message } => super::print(&format!("{}\n", printable(&message))),
        response => Err(client::unexpected(&response)),
    }
}

/// A configuration to send, and the component that its entry for the plugin names. The relay checks it too; here, nothing is sent that is wrong.
fn read_settings(path: &Path, plugin: &str) -> anyhow::Result<(SettingsFile, PathBuf)> {
    let name = || path.display().to_string();
    let config = Config::load(path)?;
    let entry = config.plugin(plugin).map_err(anyhow::Error::msg).with_context(name)?;
    let settings = SettingsFile {
        path: std::path::absolute(path).with_context(name)?,
        text: std::fs::read_to_string(path).with_context(name)?,
    };
    Ok((settings, entry.file.clone()))
}

pub(super) fn read_component(file: &Path) -> anyhow::Result<Vec<u8>> {
    regular::read(file, COMPONENT_LIMIT).with_context(|| file.display().to_string())
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
        let name = paint.bold(&format!("{:width$}", printable(&plugin.name)));
        let counts = counts(plugin.calls, plugin.failures, paint);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name}  {}  {counts}", shown(&plugin.version, &plugin.digest));
        let mut line = |what: String| {
            let _ = writeln!(text, "{:width$}  {what}", "");
        };
        if plugin.disabled {
            line(paint.red("disabled: nothing is asked of it"));
        }
        line(format!("hooks {}", plugin.hooks.join(", ")));
        let grants = if plugin.grants.is_empty() {
            "none".to_owned()
        } else {
            plugin.grants.join(", ")
        };
        line(format!("grants {grants}"));
        if let Some(breaker) = &plugin.breaker {
            line(paint.red(&format!("circuit breaker {}", printable(breaker))));
        }
        if plugin.stands_in {
            line(paint.red(
                "settings: not those of the configuration; until its entry there or its file changes, or the relay is started anew",
            ));
        }
        if let Some(previous) = &plugin.previous {
            let before = format!(
                "before that {}{}",
                shown(plugin.previous_version.as_deref().unwrap_or_default(), previous),
                with_other_settings(plugin.previous_has_other_settings)
            );
            line(match &plugin.taken_back {
                Some(why) => paint.red(&format!("{before}, taken back {}", printable(why))),
                None => paint.dim(&before),
            });
        }
        if let Some(trial) = &plugin.trial {
            line(trial_line(trial, paint));
        }
        if let Some(ended) = &plugin.trial_ended {
            line(paint.dim(&printable(ended)));
        }
        if let Some(refused) = &plugin.refused {
            line(paint.red(&format!(
                "the file that is there now was refused: {}",
                printable(refused)
            )));
        }
    }
    text
}

/// A version as the log has it, and the component as files can be compared with it.
fn shown(version: &str, component: &str) -> String {
    let [version, component] = [version, component].map(|digest| digest.chars().take(DIGEST_SHOWN).collect::<String>());
    format!("{} (component {})", printable(&version), printable(&component))
}

fn with_other_settings(so: bool) -> &'static str {
    if so { " with other settings" } else { "" }
}

fn counts(calls: u64, failures: u64, paint: Paint) -> String {
    let failed = format!("{failures} failed");
    let failed = if failures > 0 { paint.red(&failed) } else { failed };
    format!("{calls} calls, {failed}")
}

fn trial_line(trial: &TrialStatus, paint: Paint) -> String {
    let counts = counts(trial.calls, trial.failures, paint);
    let digest = format!(
        "{}{}",
        shown(&trial.version, &trial.digest),
        with_other_settings(trial.other_settings)
    );
    match trial.mode {
        LoadMode::Canary { percent } => format!("canary {digest} for {percent} % of the sessions: {counts}"),
        LoadMode::Shadow | LoadMode::Live => {
            let different = format!("{} different", trial.different);
            let different = if trial.different > 0 {
                paint.red(&different)
            } else {
                different
            };
            format!(
                "shadow {digest}: {counts}; {} same, {different}, {} left out",
                trial.same, trial.dropped
            )
        }
    }
}
