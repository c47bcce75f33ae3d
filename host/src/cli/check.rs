//! `gatepost check`: whether a relay could start with this configuration, without starting one.
//!
//! Reads the configuration and every file that it names, as the supervisor would, and loads and probes the policy, as the worker would. It binds
//! nothing and changes nothing of the relay's; compiled plugins are kept in the caller's own cache.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;
use zeroize::Zeroizing;

use super::text::{Paint, printable};
use crate::admin::protocol::COMPONENT_LIMIT;
use crate::app;
use crate::auth::Users;
use crate::config::{CertificateFiles, Config, Route, embedded_state_dir, embedded_toml};
use crate::dkim::Keys;
use crate::regular;
use crate::tls::{CertificatePem, PemFile, TlsStore};

/// Check the configuration and the files that it names
///
/// Prints what the relay would do, and all that is wrong with file, line, key and remedy. Exit status 1 if it could
/// not start.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the configuration that `run` has without --config, to start your own from
    #[arg(long)]
    print_default: bool,
    /// One object with errors and warnings, for programs
    #[arg(long, conflicts_with = "print_default")]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Findings {
    /// A relay could not start.
    errors: Vec<String>,
    /// It could, and somebody should know.
    warnings: Vec<String>,
}

pub fn check(args: &Args, path: Option<&Path>) -> anyhow::Result<()> {
    if args.print_default {
        return super::print(&embedded_toml(&embedded_state_dir()));
    }
    let mut findings = Findings::default();
    let config = match Config::open(path) {
        Ok(config) => {
            findings.look_at(&config);
            if findings.errors.is_empty() {
                findings.errors = policy(&config)?;
            }
            Some(config)
        }
        Err(errors) => {
            findings.errors = errors.0.iter().map(ToString::to_string).collect();
            None
        }
    };
    if args.json {
        super::print_json(&findings)?;
    } else {
        let paint = Paint::stdout();
        let warnings = findings
            .warnings
            .iter()
            .map(|warning| format!("{} {warning}\n", paint.yellow("warning:")));
        let summary = config.iter().map(|config| summary(config, paint));
        super::print(&summary.chain(warnings).collect::<String>())?;
    }
    match findings.errors.is_empty() {
        true => Ok(()),
        false => Err(anyhow::anyhow!(findings.errors.join("\n"))),
    }
}

impl Findings {
    fn look_at(&mut self, config: &Config) {
        self.certificates(config);
        self.signing_keys(config);
        if let Some(users) = config
            .auth
            .users
            .as_deref()
            .filter(|users| !made_at_start(config, users))
        {
            self.secret(config, users, |bytes| match Users::parse(bytes, users) {
                Ok(_) => Vec::new(),
                Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
            });
        }
        for route in config.all_routes() {
            if let Some(credentials) = &route.credentials {
                let path = &credentials.password_file;
                self.secret(config, path, |bytes| one_line(bytes, path));
            }
        }
        if let Some(token) = &config.admin.token_file {
            self.secret(config, token, |bytes| one_line(bytes, token));
        }
        if let Some(password) = config.state.as_ref().and_then(|state| state.password_file.as_ref()) {
            self.secret(config, password, |bytes| one_line(bytes, password));
        }
        for plugin in &config.plugins {
            match regular::read(&plugin.file, COMPONENT_LIMIT) {
                Ok(bytes) => self
                    .errors
                    .extend(not_a_component(&bytes).map(|problem| in_file(&plugin.file, problem))),
                Err(error) => self.errors.push(unread(config, &plugin.file, &error)),
            }
        }
        self.warnings.extend(config.warnings());
        // No mistake: it may be checked on another machine than the one that it is for.
        if let Some(name) = &config.user
            && matches!(nix::unistd::User::from_name(name), Ok(None))
        {
            self.warnings.push(format!(
                "\"user\": there is no user {name:?} on this machine, as which a start as root goes on: adduser --system --group {name}"
            ));
        }
    }

    fn certificates(&mut self, config: &Config) {
        let Some(tls) = &config.tls else {
            return;
        };
        let mut pairs = Vec::new();
        for pair in tls.certificates() {
            if made_at_start(config, &pair.certificate) && made_at_start(config, &pair.key) {
                return;
            }
            match read_pair(config, pair) {
                Ok(pair) => pairs.push(pair),
                Err(error) => self.errors.push(error),
            }
            self.warn_if_open(&pair.key);
        }
        if pairs.len() < tls.certificates().count() {
            return;
        }
        match TlsStore::new(&pairs, tls.minimum_version) {
            Ok((_, loaded)) => {
                for certificate in loaded {
                    let warnings = certificate.warnings.iter();
                    self.warnings
                        .extend(warnings.map(|warning| in_file(&certificate.file, warning)));
                }
            }
            Err(error) => self.errors.push(error.to_string()),
        }
    }

    fn signing_keys(&mut self, config: &Config) {
        for dkim in &config.dkim {
            match read_pem(config, &dkim.key).map(|file| Keys::read(std::slice::from_ref(dkim), &[file])) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => self.errors.push(error.to_string()),
                Err(error) => self.errors.push(error),
            }
            self.warn_if_open(&dkim.key);
        }
    }

    /// A file that holds a secret: it must be readable here, good, and should not be readable by everybody.
    fn secret(&mut self, config: &Config, path: &Path, problems: impl FnOnce(&[u8]) -> Vec<String>) {
        match regular::read(path, COMPONENT_LIMIT).map(Zeroizing::new) {
            Ok(bytes) => self.errors.extend(problems(&bytes)),
            Err(error) => self.errors.push(unread(config, path, &error)),
        }
        self.warn_if_open(path);
    }

    fn warn_if_open(&mut self, path: &Path) {
        if let Ok(metadata) = fs::metadata(path)
            && metadata.permissions().mode() & 0o007 != 0
        {
            self.warnings
                .push(in_file(path, "everybody on this machine can read it: chmod 600"));
        }
    }
}

/// What a start would refuse of the policy.
fn policy(config: &Config) -> anyhow::Result<Vec<String>> {
    let users = config.auth.users.as_deref().filter(|users| users.exists());
    let users = match users {
        Some(path) => Users::parse(&Zeroizing::new(regular::read(path, COMPONENT_LIMIT)?), path)?,
        None => Users::parse(b"", Path::new("users"))?,
    };
    let mut files = HashMap::new();
    for plugin in &config.plugins {
        files.insert(
            plugin.name.clone(),
            regular::read(&plugin.file, COMPONENT_LIMIT)?.into(),
        );
    }
    app::try_policy(config, users, &files)
}

/// What the embedded default makes on its first start need not be there before it.
fn made_at_start(config: &Config, path: &Path) -> bool {
    config.file.is_none() && path.starts_with(&config.state_dir) && !path.exists()
}

fn in_file(path: &Path, problem: impl std::fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

/// A file that the configuration names and that cannot be read: where it does, and how there comes to be the file if it is not there.
fn unread(config: &Config, path: &Path, error: &io::Error) -> String {
    let place = config.place_of_file(path);
    let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
    let remedy = config
        .remedy_for_missing(path)
        .filter(|_| error.kind() == io::ErrorKind::NotFound);
    let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{place}{}{remedy}", in_file(path, error))
}

fn read_pair(config: &Config, pair: &CertificateFiles) -> Result<CertificatePem, String> {
    Ok(CertificatePem {
        certificate: read_pem(config, &pair.certificate)?,
        key: read_pem(config, &pair.key)?,
    })
}

pub(super) fn read_pem(config: &Config, path: &Path) -> Result<PemFile, String> {
    let bytes = regular::read(path, COMPONENT_LIMIT).map_err(|error| unread(config, path, &error))?;
    Ok(PemFile {
        path: path.to_owned(),
        bytes: Zeroizing::new(bytes),
    })
}

fn one_line(bytes: &[u8], path: &Path) -> Vec<String> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let fine =
        !line.is_empty() && std::str::from_utf8(line).is_ok() && !line.iter().any(|byte| b"\r\n\0".contains(byte));
    if fine {
        Vec::new()
    } else {
        vec![in_file(path, "must be one line, the secret, and nothing else")]
    }
}

/// Why bytes cannot be a plugin, as far as their first eight say: a binary's magic, version and layer.
fn not_a_component(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => None,
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Some(
            "is a core WebAssembly module, not a component: `gatepost plugin build` makes one of a project, `wasm-tools component new` of a module",
        ),
        [0x7f, b'E', b'L', b'F', ..] => Some("is precompiled native code, which is refused: give the component itself"),
        _ => Some("is not a WebAssembly component"),
    }
}

/// What a relay with this configuration does, in a few lines.
fn summary(config: &Config, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {}", paint.dim(&format!("{name:8}")), printable(&value));
    };
    line(
        "config",
        config
            .file
            .as_ref()
            .map_or("the embedded default".to_owned(), |file| file.display().to_string()),
    );
    line("hostname", config.hostname.clone());
    line("state", config.state_dir.display().to_string());
    let domains = config.relay_domains.iter().cloned().collect::<Vec<_>>().join(", ");
    line(
        "ours",
        if domains.is_empty() {
            "no domain".to_owned()
        } else {
            domains
        },
    );
    for listener in &config.listeners {
        let auth = format!("{:?}", listener.auth).to_lowercase();
        line(
            "listen",
            format!(
                "{} {} tls={} auth={auth}",
                listener.address, listener.name, listener.tls
            ),
        );
    }
    for route in &config.routes {
        let domains = route.domains.iter().cloned().collect::<Vec<_>>().join(", ");
        line("route", format!("{} {} -> {}", route.name, domains, hop(route)));
    }
    line("route", format!("everything else -> {}", hop(&config.delivery.default)));
    for plugin in &config.plugins {
        let grants = plugin
            .grants
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        line(
            "plugin",
            format!("{} [{grants}] on_failure={}", plugin.name, plugin.on_failure),
        );
    }
    if let Some(address) = config.admin.address {
        line("admin", format!("http://{address}/metrics"));
    }
    text
}

fn hop(route: &Route) -> String {
    match &route.next_hop {
        Some(next_hop) => format!("{next_hop} tls={}", route.tls),
        None => format!("MX tls={}", route.tls),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_is_named_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8], mode| {
            fs::write(folder.path().join(name), bytes).unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("users", b"# nobody yet\n\nnonsense\n", 0o644);
        write("password", b"a\nb\n", 0o600);
        write("core.wasm", b"\0asm\x01\0\0\0", 0o644);
        write("good.wasm", b"\0asm\x0d\0\x01\0", 0o644);
        write("native.wasm", b"\x7fELF", 0o644);
        let text = r#"
            hostname = "relay.test"
            user = "no-such-user"
            state = "redis://127.0.0.1"
            state_password_file = "no-state-password"
            [[listener]]
            name = "mx"
            address = "127.0.0.1:0"
            [tls]
            certificate = "cert.pem"
            key = "key.pem"
            [auth]
            users = "users"
            [delivery]
            next_hop = "smtps://mail.test"
            username = "relay"
            password_file = "password"
            [[route]]
            name = "provider"
            domains = ["far.test"]
            next_hop = "smtps://provider.test"
            username = "us"
            password_file = "no-password"
            [admin]
            address = "127.0.0.1:0"
            token_file = "no-token"
            [[dkim]]
            domain = "ours.test"
            selector = "s1"
            key = "no-key.pem"
            [[plugin]]
            name = "core"
            file = "core.wasm"
            [[plugin]]
            name = "native"
            file = "native.wasm"
            [[plugin]]
            name = "good"
            file = "good.wasm"
            [[plugin]]
            name = "missing"
            file = "missing.wasm"
        "#;
        let config = Config::parse(text, &folder.path().join("gatepost.toml")).unwrap();
        let mut findings = Findings::default();
        findings.look_at(&config);
        let place = format!("{}/", folder.path().display());
        let bare = |line: &String| line.replace(&place, "").replace(place.trim_end_matches('/'), ".");
        let bare = |lines: &[String]| lines.iter().map(bare).collect::<Vec<_>>();
        assert_eq!(
            bare(&findings.errors),
            [
                "gatepost.toml:10: \"certificate\" in [tls]: cert.pem: No such file or directory (os error 2); for a trial: `mkdir -p . && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=relay.test -keyout key.pem -out cert.pem`",
                "gatepost.toml:30: \"key\" in [[dkim]]: no-key.pem: No such file or directory (os error 2); `openssl genpkey -algorithm ed25519 -out no-key.pem && chmod 600 no-key.pem` makes a key",
                "users:3: a line reads NAME:ARGON2ID HASH:SCRAM KEYS; write it with `gatepost user add NAME`",
                "password: must be one line, the secret, and nothing else",
                "gatepost.toml:23: \"password_file\" in [[route]] \"provider\": no-password: No such file or directory (os error 2); write the password of \"us\" into it, one line, and `chmod 600 no-password`",
                "gatepost.toml:26: \"token_file\" in [admin]: no-token: No such file or directory (os error 2); `(umask 077 && openssl rand -hex 32 > no-token)` makes a token",
                "gatepost.toml:5: \"state_password_file\" in the top level: no-state-password: No such file or directory (os error 2); write the password of the server in \"state\" into it, one line, and `chmod 600 no-state-password`",
                "core.wasm: is a core WebAssembly module, not a component: `gatepost plugin build` makes one of a project, `wasm-tools component new` of a module",
                "native.wasm: is precompiled native code, which is refused: give the component itself",
                "gatepost.toml:42: \"file\" in [[plugin]] \"missing\": missing.wasm: No such file or directory (os error 2); `gatepost plugin build` makes it of a project, `make build` the plugins that ship",
            ]
        );
        assert_eq!(
            bare(&findings.warnings),
            [
                "users: everybody on this machine can read it: chmod 600",
                "relay_domains is empty: no mail from strangers is taken at all",
                "\"user\": there is no user \"no-such-user\" on this machine, as which a start as root goes on: adduser --system --group no-such-user",
            ]
        );
    }

    #[test]
    fn the_summary_of_the_embedded_default() {
        let config = Config::embedded(Path::new("/tmp/x")).unwrap();
        let text = summary(&config, Paint::stdout());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "config   the embedded default",
                "hostname localhost",
                "state    /tmp/x",
                "ours     example.test",
                "listen   127.0.0.1:2525 smtp tls=starttls auth=off",
                "listen   127.0.0.1:2587 submission tls=starttls auth=required",
                "listen   127.0.0.1:2465 submissions tls=implicit auth=required",
                "route    everything else -> maildir:/tmp/x/maildir tls=opportunistic",
                "plugin   auth-relay [credentials, relay] on_failure=defer",
                "plugin   rate-limit [state] on_failure=defer",
                "plugin   rbl [dns] on_failure=defer",
                "plugin   spam-scan [read-message, edit-message] on_failure=defer",
                "admin    http://127.0.0.1:8025/metrics",
            ]
        );
    }
}
