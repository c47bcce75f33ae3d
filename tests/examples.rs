//! The configurations in `examples/` are there to be copied: the relay takes each as it is, plugins and their settings included.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Where an administrator would have put these, and a test cannot.
const PLUGINS: &str = "/usr/lib/gatepost/plugins/";
const SECRETS: &str = "/etc/gatepost/";
const STATE: &str = "/var/lib/gatepost";

/// What the examples name below [`SECRETS`].
fn secrets(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    for (name, text) in [
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
        ("dkim-s1.pem", ed25519.serialize_pem()),
        ("provider-password", "secret\n".to_owned()),
        ("users", String::new()),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
}

#[test]
fn the_relay_takes_each_example_with_its_plugins() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plugins = format!("{}/", root.join("target/plugins").display());
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(root.join("examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // The reference has every key there is, with names that are nowhere.
        if path.extension().is_none_or(|extension| extension != "toml") || path.ends_with("reference.toml") {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        secrets(folder.path());
        let here = format!("{}/", folder.path().display());
        let text = text
            .replace(PLUGINS, &plugins)
            .replace(SECRETS, &here)
            .replace(STATE, &format!("{here}state"))
            .replace("user             = \"gatepost\"\n", "");
        let config = folder.path().join("gatepost.toml");
        std::fs::write(&config, text).expect("a configuration");
        let checked = support::check(&config);
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}", path.display());
        seen.push(path);
    }
    assert!(seen.len() >= 4, "{seen:?}");
}
