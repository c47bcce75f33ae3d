//! `gatepost run`: the daemon, in the foreground. Argument parsing only; the rest is `crate::app`.

use std::path::Path;

/// Run the relay in the foreground
///
/// Started as root, it binds its ports, opens its files and goes on as the configured user. SIGTERM ends it after the
/// running transactions; SIGHUP reads the configuration, certificates, users and plugins again. Without --config it
/// is an embedded default with loopback listeners, a self-signed certificate, a demo user (printed once) and delivery
/// into a local maildir.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: &Args, config: Option<&Path>) -> anyhow::Result<()> {
    crate::app::run(config)
}
