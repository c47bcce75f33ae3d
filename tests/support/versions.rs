//! Versions of one plugin that tell which they are: the guest `versioned` with other digits, and what a relay says of them.

use sha2::{Digest as _, Sha256};

use super::client::Client;
use super::{Relay, guest, until};

/// The component of `versioned` that says this number.
pub fn version(number: u32) -> Vec<u8> {
    let mut component = std::fs::read(guest("versioned")).expect("the guest");
    let digits = format!("{number:04}");
    let mark = b"VERSION-0000";
    let places: Vec<usize> = (0..component.len() - mark.len())
        .filter(|at| component[*at..].starts_with(mark))
        .collect();
    assert!(!places.is_empty(), "the guest does not have its mark");
    for at in places {
        component[at + mark.len() - digits.len()..at + mark.len()].copy_from_slice(digits.as_bytes());
    }
    component
}

/// As `plugin list` shows it.
pub fn digest(component: &[u8]) -> String {
    let digest = Sha256::digest(component);
    digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `plugin list` says of the first plugin.
pub fn listed(relay: &Relay) -> serde_json::Value {
    let answer: serde_json::Value = serde_json::from_str(&relay.admin("{\"command\":\"plugin-list\"}")).expect("JSON");
    answer["plugins"][0].clone()
}

/// Waits until a component is in force.
#[track_caller]
pub fn wait_for(relay: &Relay, component: &[u8]) {
    let wanted = digest(component);
    until("the version is live", || listed(relay)["digest"] == *wanted);
}

/// The version that answers in this session. Within a transaction.
pub fn asked(client: &mut Client) -> u32 {
    let reply = client.says("RCPT TO:<version@ours.test>", "550 5.7.1 VERSION-");
    let digits = reply["550 5.7.1 VERSION-".len()..].get(..4).unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no version in {reply:?}"))
}
