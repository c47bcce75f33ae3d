//! `gatepost dkim`: the DNS records of the configured signing keys. Reads the keys' files as whoever calls it, and prints nothing secret.

use std::path::Path;

use clap::Subcommand;

use super::check::read_pem;
use crate::dkim::Keys;

/// Bytes of a string in a TXT record (RFC 1035 §3.3).
const STRING_BYTES_MAX: usize = 255;

/// The keys of [[dkim]]
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Print the DNS records that publish the keys, as lines of a zone file
    Records,
}

const EXAMPLES: &str = "\
Examples:
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out s1.pem && chmod 600 s1.pem
  gatepost dkim records --config gatepost.toml     once a [[dkim]] names the file";

pub fn dkim(command: &Command, config: Option<&Path>) -> anyhow::Result<()> {
    let Command::Records = command;
    let config = super::open_config(config)?;
    let files: Result<Vec<_>, String> = config.dkim.iter().map(|dkim| read_pem(&config, &dkim.key)).collect();
    let keys = Keys::read(&config.dkim, &files.map_err(anyhow::Error::msg)?)?;
    let lines = keys.records().map(|(name, text)| {
        let strings = text.as_bytes().chunks(STRING_BYTES_MAX).map(String::from_utf8_lossy);
        let quoted: Vec<String> = strings.map(|part| format!("\"{part}\"")).collect();
        format!("{name}. TXT {}\n", quoted.join(" "))
    });
    super::print(&lines.collect::<String>())
}
