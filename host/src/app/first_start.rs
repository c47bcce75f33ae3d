//! What the embedded default needs and a first start lacks: a certificate and a demo user. And the words that greet a newcomer.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::auth::edit;
use crate::config::{Config, ListenerTls, NextHop};
use crate::message::AuthOffer;
use crate::tls;

/// The user of the embedded default.
pub const DEMO_USER: &str = "alice";

/// Makes what is missing. Does nothing for a configuration from a file: there, a missing file is an error.
pub fn prepare(config: &Config) -> anyhow::Result<()> {
    if config.file.is_some() {
        return Ok(());
    }
    if let Some(tls) = &config.tls {
        let names = [config.hostname.clone(), "localhost".to_owned()];
        tls::self_signed(&tls.default, &names).context("the self-signed certificate")?;
    }
    if let Some(users) = config.auth.users.as_deref().filter(|users| !users.exists()) {
        let password = random_password()?;
        edit::add(users, DEMO_USER, &password).context("the demo user")?;
        // For `make run`'s next starts, which cannot show it again; as private as the users file.
        let note = demo_password(users);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&note)?;
        writeln!(file, "{}", *password)?;
        println!(
            "made the demo user {DEMO_USER} with the password {} (kept in {})",
            *password,
            note.display()
        );
    }
    Ok(())
}

/// Called when the relay is up: for the embedded default, how to send the first mail.
pub fn announce(config: &Config) {
    if config.file.is_some() {
        return;
    }
    let address = |wanted: fn(&crate::config::Listener) -> bool| {
        config
            .listeners
            .iter()
            .find(|listener| wanted(listener))
            .map(|listener| listener.address)
    };
    let domain = config.relay_domains.first().map_or("example.test", String::as_str);
    let mut text = String::from("\nGatepost is up.\n");
    if let Some(open) =
        address(|listener| listener.auth != AuthOffer::Required && listener.tls != ListenerTls::Implicit)
    {
        text += &format!(
            "\n  Send a mail to a local address, as anyone may:\n    swaks --server {open} --to bob@{domain} --from me@elsewhere.test\n"
        );
    }
    if let Some(submission) =
        address(|listener| listener.auth == AuthOffer::Required && listener.tls == ListenerTls::Starttls)
    {
        let password = config.auth.users.as_deref().map(demo_password).unwrap_or_default();
        let password = password.display();
        text += &format!(
            "\n  Relay one elsewhere, as a user:\n    swaks --server {submission} --tls --auth PLAIN --auth-user {DEMO_USER} --auth-password \"$(cat {password})\" --from {DEMO_USER}@{domain} --to someone@elsewhere.test\n"
        );
    }
    if let Some(NextHop::Maildir(path)) = &config.delivery.default.next_hop {
        text += &format!("\n  Everything is delivered into {}/new\n", path.display());
    }
    if let Some(admin) = config.admin.address {
        text += &format!("  Metrics: http://{admin}/metrics\n");
    }
    println!("{text}");
}

/// Where the demo user's password is kept: beside the users file.
fn demo_password(users: &Path) -> PathBuf {
    users.with_file_name("demo-password")
}

fn random_password() -> anyhow::Result<zeroize::Zeroizing<String>> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    Ok(zeroize::Zeroizing::new(letters.collect()))
}
