//! What is refused by the policy itself, so that no other one allows it: each reason with its reply, and what can be done about it.

use gatepost_sdk::prelude::{Answer, Mailbox};

use crate::hours::{Hours, Offset};

pub fn may_not_send(who: &str, recipient: &Mailbox) -> Answer {
    denied(
        recipient,
        "identity-may-not-send",
        format!("{who} is in `never_send`"),
        "send with an account made for sending; if this one must send, take it out of `never_send` of auth-relay",
        "another identity",
    )
}

/// `key` is the identity's entry in `identities`.
pub fn network_not_allowed(identity: &str, address: &str, recipient: &Mailbox, key: &str) -> Answer {
    denied(
        recipient,
        "network-not-allowed",
        format!("{identity} comes from {address}"),
        format!(
            "send from a network that is meant for this account, or ask the administrator to add {address} to `identities.{key}.networks` of auth-relay; if it was not you, change the password"
        ),
        "a client in one of the networks of this identity",
    )
}

/// `key` is the identity's entry in `identities`.
pub fn outside_hours(identity: &str, hours: &[Hours], offset: &Offset, recipient: &Mailbox, key: &str) -> Answer {
    let listed = hours.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    denied(
        recipient,
        "outside-hours",
        format!("{identity} may send {listed} ({offset})"),
        format!("send in these hours, or ask the administrator for other `identities.{key}.hours` of auth-relay"),
        "another hour",
    )
}

/// `key` is the table whose `recipient_domains` say so.
pub fn recipient_not_allowed(who: &str, domain: &str, recipient: &Mailbox, key: &str) -> Answer {
    denied(
        recipient,
        "recipient-not-allowed",
        format!("{who} may not send to {domain}"),
        format!(
            "send with another account, or ask the administrator to add {domain} to `{key}.recipient_domains` of auth-relay"
        ),
        "a recipient in one of these domains",
    )
}

/// RFC 3207 §4.
pub fn tls_required(who: &str) -> Answer {
    Answer::reject(530, "5.7.0", "Must issue a STARTTLS command first (tls-required)")
        .because(
            "tls-required",
            format!("{who} sends without TLS"),
            "turn on STARTTLS, or TLS on connecting, in the mail program; the administrator can set `require_tls = false` of auth-relay",
        )
        .otherwise("a connection under TLS")
}

pub fn reverse_name_not_trusted(address: &str, name: &str, recipient: &Mailbox) -> Answer {
    denied(
        recipient,
        "reverse-name-not-trusted",
        format!("{address} is {name}"),
        format!("log in, or ask the administrator to add {name} to `trusted_names` of auth-relay"),
        "a reverse name that is in `trusted_names`, or authentication",
    )
}

/// For now, as DNS may just have failed (RFC 7372 §3.3).
pub fn no_reverse_name(address: &str, recipient: &Mailbox) -> Answer {
    let recipient = recipient.address();
    let reason = "reverse-name-missing";
    Answer::defer(450, "4.7.25", format!("<{recipient}>: Relay access denied ({reason})"))
        .because(
            reason,
            format!("{address} has no reverse name whose addresses include it, or DNS failed"),
            "log in; or the administrator gives the address a PTR record, and that name an A or AAAA record, or leaves `trusted_names` of auth-relay out",
        )
        .otherwise("a confirmed reverse name that is in `trusted_names`, or authentication")
}

fn denied(recipient: &Mailbox, reason: &str, detail: String, remedy: impl Into<String>, otherwise: &str) -> Answer {
    let recipient = recipient.address();
    Answer::reject(550, "5.7.1", format!("<{recipient}>: Relay access denied ({reason})"))
        .because(reason, detail, remedy)
        .otherwise(otherwise)
}
