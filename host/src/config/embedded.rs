//! What `gatepost run` does without `--config`: a configuration text like any other, with the places filled in.
//!
//! Only text: the certificate, the users file and the folders that it names are made by whoever starts the relay.

use std::path::{Path, PathBuf};

use super::{Config, ConfigErrors, DEFAULT_STATE_DIR, read};

/// The reference plugins that the embedded default asks, in this order.
pub const EMBEDDED_PLUGINS: [&str; 4] = ["auth-relay", "rate-limit", "rbl", "spam-scan"];

const TEMPLATE: &str = include_str!("embedded.toml");

/// The embedded default as the TOML text that it is: `state_dir` and the folder of the reference plugins filled in.
pub fn embedded_toml(state_dir: &Path) -> String {
    let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    fill(&state_dir, &plugin_folder())
}

pub(super) fn config(state_dir: &Path) -> Result<Config, ConfigErrors> {
    let text = embedded_toml(state_dir);
    let config = read::config(&text, Path::new("embedded default"))?;
    Ok(Config { file: None, ..config })
}

fn fill(state_dir: &Path, plugins: &Path) -> String {
    let place = |path: &Path| {
        // What surrounds it is a TOML basic string.
        path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"")
    };
    TEMPLATE
        .replace("@STATE_DIR@", &place(state_dir))
        .replace("@PLUGINS@", &place(plugins))
}

/// `../plugins` beside the executable's folder, as `make run` and `make build` leave it (target/trial or target/release, and target/plugins), or
/// `../lib/gatepost/plugins`, as an installation does; the first, if neither is there, so that the error names it.
fn plugin_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let above = executable.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let built = above.join("plugins");
    let installed = above.join("lib/gatepost/plugins");
    let is_there = |folder: &Path| folder.join(format!("{}.wasm", EMBEDDED_PLUGINS[0])).is_file();
    if !is_there(&built) && is_there(&installed) {
        installed
    } else {
        built
    }
}

/// Where the embedded default keeps its state: [`DEFAULT_STATE_DIR`] in the current folder. For root in a folder that others may not enter
/// (`/root`), where the worker could not work, it is [`ROOT_STATE_DIR`].
pub fn embedded_state_dir() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let open_to_others = |folder: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
    };
    match nix::unistd::Uid::effective().is_root() && !here.ancestors().all(open_to_others) {
        true => PathBuf::from(ROOT_STATE_DIR),
        false => PathBuf::from(DEFAULT_STATE_DIR),
    }
}

/// The state of the embedded default where the current folder cannot hold it.
const ROOT_STATE_DIR: &str = "/var/lib/gatepost-demo";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthOffer, ListenerTls, NextHop};

    #[test]
    fn it_is_what_a_newcomer_needs() {
        let config = Config::embedded(Path::new("/tmp/a \"strange\" folder")).unwrap();
        assert_eq!(config.file, None);
        assert_eq!(config.state_dir, Path::new("/tmp/a \"strange\" folder"));
        let listeners: Vec<_> = config
            .listeners
            .iter()
            .map(|l| (l.address.to_string(), l.tls, l.auth))
            .collect();
        assert_eq!(
            listeners,
            [
                ("127.0.0.1:2525".into(), ListenerTls::Starttls, AuthOffer::Off),
                ("127.0.0.1:2587".into(), ListenerTls::Starttls, AuthOffer::Required),
                ("127.0.0.1:2465".into(), ListenerTls::Implicit, AuthOffer::Required),
            ]
        );
        assert_eq!(
            config.delivery.default.next_hop,
            Some(NextHop::Maildir(config.state_dir.join("maildir")))
        );
        let plugins: Vec<_> = config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        assert_eq!(plugins, EMBEDDED_PLUGINS);
    }
}
