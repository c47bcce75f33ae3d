//! The relay gate: whether a recipient is ours, and who may have mail relayed elsewhere.
//!
//! Pure functions with the last word on every final address. Default deny: what is not plainly ours needs a policy that
//! holds the grant `relay` and allowed exactly this recipient. Nothing in the configuration but `relay_domains` makes an address ours,
//! and no plugin can.

use std::collections::BTreeSet;
use std::fmt;

use gatepost_smtp::address::Address;

use crate::message::{AuthOffer, SessionFacts};

/// Whether a recipient needs permission, and if so why it will be refused without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// In `relay_domains` (or `postmaster` alone), and nothing in it asks a next hop to send it on.
    Ours,
    Foreign(Reason),
}

/// Why the gate refuses, as the reply and the log name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The address routes through a host: a source route, `u%r@ours`, `r!u@ours`, `"u@r"@ours`.
    SourceRouted,
    /// Nobody authenticated, and the listener offers AUTH.
    NotAuthenticated,
    /// Nobody could authenticate: AUTH is offered only behind TLS, and there is none.
    AuthNotOfferedWithoutTls,
    /// The listener has no AUTH, and the client is in none of `trusted_networks`.
    NetworkNotTrusted,
    /// Someone known (authenticated, or in a trusted network), but no policy allowed it.
    DomainNotOurs,
}

impl Reason {
    pub fn code(self) -> &'static str {
        match self {
            Reason::SourceRouted => "source-routed",
            Reason::NotAuthenticated => "not-authenticated",
            Reason::AuthNotOfferedWithoutTls => "auth-not-offered-without-tls",
            Reason::NetworkNotTrusted => "network-not-trusted",
            Reason::DomainNotOurs => "domain-not-ours",
        }
    }

    /// What the person refused, or the administrator, can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Reason::SourceRouted => "write the address as local@domain, without %, ! or a second @",
            Reason::NotAuthenticated => "turn on authentication for outgoing mail in the mail program",
            Reason::AuthNotOfferedWithoutTls => {
                "turn on STARTTLS (or TLS) in the mail program, and authentication with it"
            }
            Reason::NetworkNotTrusted => {
                "use the submission port with a user name and password; or the administrator adds the network to trusted_networks and allows it in auth-relay"
            }
            Reason::DomainNotOurs => {
                "no policy allows this user to relay: see the configuration of auth-relay; or the domain is missing from relay_domains"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Looks at one address for one session.
pub fn classify(
    recipient: &Address,
    session: &SessionFacts,
    plaintext_auth: bool,
    relay_domains: &BTreeSet<String>,
) -> Class {
    let routed = recipient.source_route() || recipient.routing().is_some();
    let ours = match recipient.canonical_domain() {
        None => true, // postmaster alone, RFC 5321 §4.5.1
        Some(domain) => recipient.literal().is_none() && relay_domains.contains(domain),
    };
    if routed {
        Class::Foreign(Reason::SourceRouted)
    } else if ours {
        Class::Ours
    } else if session.identity.is_some() || session.trusted {
        Class::Foreign(Reason::DomainNotOurs)
    } else if session.auth_offered == AuthOffer::Off {
        Class::Foreign(Reason::NetworkNotTrusted)
    } else if session.tls.is_none() && !plaintext_auth {
        Class::Foreign(Reason::AuthNotOfferedWithoutTls)
    } else {
        Class::Foreign(Reason::NotAuthenticated)
    }
}

/// What a recipient is after all policies.
pub struct LastWord<'a> {
    /// The address that it ends up with.
    pub address: &'a Address,
    pub class: Class,
    pub admitted: Result<(), Reason>,
}

/// The last word on a recipient: on its final address, whatever was asked about before. `classify` looks at that for this session.
pub fn last_word<'a>(
    asked: &'a Address,
    class: Class,
    rewritten: Option<&'a Address>,
    allowed: bool,
    classify: impl FnOnce(&Address) -> Class,
) -> LastWord<'a> {
    let (address, class) = match rewritten {
        Some(rewritten) => (rewritten, classify(rewritten)),
        None => (asked, class),
    };
    LastWord {
        address,
        class,
        admitted: admit(class, allowed),
    }
}

/// Whether an address may be: `Err` with the reason unless the address is ours or a policy with the grant `relay` allowed it.
pub fn admit(class: Class, allowed: bool) -> Result<(), Reason> {
    match class {
        Class::Ours => Ok(()),
        Class::Foreign(_) if allowed => Ok(()),
        Class::Foreign(reason) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Identity, TlsFacts};

    fn stranger(auth: AuthOffer, tls: bool) -> SessionFacts {
        let mut session = SessionFacts {
            auth_offered: auth,
            ..SessionFacts::internal()
        };
        session.tls = tls.then(|| TlsFacts {
            version: "TLSv1.3".into(),
            cipher: "".into(),
            server_name: None,
        });
        session
    }

    fn class(address: &str, session: &SessionFacts) -> Class {
        let ours = BTreeSet::from(["ours.test".to_owned()]);
        classify(&address.parse().expect(address), session, false, &ours)
    }

    #[test]
    fn addresses_are_classified() {
        let session = stranger(AuthOffer::Optional, true);
        use Class::{Foreign, Ours};
        for (address, expected) in [
            ("u@ours.test", Ours),
            ("u@OURS.Test", Ours),
            ("u@ours.test.", Ours),
            ("postmaster", Ours),
            ("\"info@\"@ours.test", Ours),
            ("u@sub.ours.test", Foreign(Reason::NotAuthenticated)),
            ("u@remote.test", Foreign(Reason::NotAuthenticated)),
            ("u@REMOTE.TEST.", Foreign(Reason::NotAuthenticated)),
            ("u@[192.0.2.1]", Foreign(Reason::NotAuthenticated)),
            ("u@[IPv6:::1]", Foreign(Reason::NotAuthenticated)),
            ("u%remote.test@ours.test", Foreign(Reason::SourceRouted)),
            ("remote.test!u@ours.test", Foreign(Reason::SourceRouted)),
            ("\"u@remote.test\"@ours.test", Foreign(Reason::SourceRouted)),
            ("\"u%remote.test\"@ours.test", Foreign(Reason::SourceRouted)),
            ("@ours.test:u@remote.test", Foreign(Reason::SourceRouted)),
            ("@remote.test:u@ours.test", Foreign(Reason::SourceRouted)),
        ] {
            assert_eq!(class(address, &session), expected, "{address}");
        }
    }

    #[test]
    fn the_reason_names_what_is_missing() {
        let known = |trusted, identity: Option<&str>| SessionFacts {
            trusted,
            identity: identity.map(|name| Identity {
                name: name.into(),
                method: "PLAIN".into(),
            }),
            ..stranger(AuthOffer::Required, false)
        };
        for (session, reason) in [
            (stranger(AuthOffer::Off, false), Reason::NetworkNotTrusted),
            (stranger(AuthOffer::Optional, false), Reason::AuthNotOfferedWithoutTls),
            (stranger(AuthOffer::Required, true), Reason::NotAuthenticated),
            (known(true, None), Reason::DomainNotOurs),
            (known(false, Some("alice")), Reason::DomainNotOurs),
        ] {
            let class = class("u@remote.test", &session);
            assert_eq!(admit(class, false), Err(reason));
            assert_eq!(admit(class, true), Ok(()));
        }
    }
}
