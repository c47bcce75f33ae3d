//! What identities and trusted networks have to keep to besides their addresses: from where, when, to whom, under which name.
//!
//! Each fact is asked for only if a rule of the configuration needs it.

use std::net::IpAddr;

use gatepost_sdk::clock;
use gatepost_sdk::prelude::{Answer, Mailbox, Session};

use crate::config::{Limits, Settings};
use crate::names::Name;
use crate::refusal;

/// The refusal, if the identity's entry in `identities` does not allow this. Networks and hours hold for recipients of ours as well.
pub fn of_identity(
    settings: &Settings,
    session: &Session,
    identity: &str,
    recipient: &Mailbox,
    ours: bool,
) -> Option<Answer> {
    let (key, limits) = settings.limits(identity)?;
    let Limits {
        networks,
        hours,
        recipient_domains,
    } = limits;
    if let Some(networks) = networks {
        let address = session.peer().address;
        let parsed: Option<IpAddr> = address.parse().ok();
        if !parsed.is_some_and(|address| networks.iter().any(|network| network.contains(&address))) {
            return Some(refusal::network_not_allowed(identity, &address, recipient, key));
        }
    }
    if let Some(hours) = hours {
        let minute = settings.utc_offset.minute_of_week(clock::now());
        if !hours.iter().any(|hours| hours.cover(minute)) {
            return Some(refusal::outside_hours(
                identity,
                hours,
                &settings.utc_offset,
                recipient,
                key,
            ));
        }
    }
    let domains = recipient_domains.as_ref().filter(|_| !ours)?;
    other_domain(domains, identity, recipient, || format!("identities.{key}"))
}

/// The refusal, if a client in a trusted network may not relay to this recipient elsewhere.
pub fn of_network(settings: &Settings, session: &Session, address: &str, recipient: &Mailbox) -> Option<Answer> {
    if let Some((network, domains)) = settings.network(address) {
        let refusal = other_domain(domains, address, recipient, || format!("networks.\"{network}\""));
        if refusal.is_some() {
            return refusal;
        }
    }
    let names = settings.trusted_names.as_ref()?;
    match session.reverse_name() {
        Some(name) if names.iter().any(|trusted| trusted.covers(&name)) => None,
        Some(name) => Some(refusal::reverse_name_not_trusted(address, &name, recipient)),
        None => Some(refusal::no_reverse_name(address, recipient)),
    }
}

fn other_domain(domains: &[Name], who: &str, recipient: &Mailbox, key: impl FnOnce() -> String) -> Option<Answer> {
    let domain = recipient.domain();
    let is_allowed = domains.iter().any(|name| name.covers(&domain));
    (!is_allowed).then(|| refusal::recipient_not_allowed(who, &domain, recipient, &key()))
}
