//! From what a guest answered to what the host will do: every rule of the interface is checked here, before anything takes effect.

use std::collections::BTreeSet;

use gatepost_smtp::reply::{Enhanced, Reply};

use super::bindings::gatepost::policy::types as wit;
use super::decision::{Explanation, Failure, Stage, Verdict};
use crate::config::Grant;

/// Actions in one answer.
pub const ACTIONS_MAX: usize = 256;
/// Bytes of each text of an explanation that are kept.
pub const EXPLANATION_BYTES_MAX: usize = 1_000;
/// Bytes of a reply's text.
pub const REPLY_BYTES_MAX: usize = 1_000;
/// Bytes of a tag's name and value together.
pub const TAG_BYTES_MAX: usize = 1_000;

/// An answer that keeps the rules of its stage and its plugin's grants.
pub struct Checked {
    pub verdict: Verdict,
    pub actions: Vec<wit::Action>,
    pub why: Option<Explanation>,
}

/// Checks an answer. The error says which rule it breaks, for the log.
pub fn check(stage: Stage, grants: &BTreeSet<Grant>, answer: wit::Answer) -> Result<Checked, Failure> {
    let reply = |asked, class| reply(stage, asked, class).map_err(Failure::Answer);
    let broken = |rule: String| Err(Failure::Answer(rule));
    let verdict = match answer.decision {
        wit::Decision::Pass => Verdict::Pass,
        wit::Decision::Accept => Verdict::Accept,
        wit::Decision::Reject(asked) => Verdict::Reject(reply(asked, 5)?),
        wit::Decision::Defer(asked) => Verdict::Defer(reply(asked, 4)?),
        wit::Decision::Disconnect(asked) => {
            let class = if asked.code >= 500 { 5 } else { 4 };
            Verdict::Disconnect(reply(asked, class)?)
        }
        wit::Decision::Discard => match stage {
            Stage::Rcpt | Stage::Message | Stage::Route => Verdict::Discard,
            _ => return broken(format!("{stage} cannot discard")),
        },
    };
    if answer.actions.len() > ACTIONS_MAX {
        return broken(format!("{} actions; at most {ACTIONS_MAX}", answer.actions.len()));
    }
    for action in &answer.actions {
        let (name, stages, grant) = rule(action);
        if !stages.contains(&stage) {
            return broken(format!("the action {name} cannot stand in {stage}"));
        }
        if let Some(grant) = grant.filter(|grant| !grants.contains(grant)) {
            return Err(Failure::Ungranted { action: name, grant });
        }
    }
    Ok(Checked {
        verdict,
        actions: answer.actions,
        why: answer.why.map(explanation),
    })
}

/// Where an action may stand, and the grant it needs: the table that `types.wit` writes out in words.
fn rule(action: &wit::Action) -> (&'static str, &'static [Stage], Option<Grant>) {
    use Stage::{Connect, Data, Ehlo, Mail, Message, Rcpt, Route};
    match action {
        wit::Action::AllowRelay => ("allow-relay", &[Rcpt], Some(Grant::Relay)),
        wit::Action::RewriteSender(_) => ("rewrite-sender", &[Mail], Some(Grant::EditEnvelope)),
        wit::Action::RewriteRecipient(_) => ("rewrite-recipient", &[Rcpt], Some(Grant::EditEnvelope)),
        wit::Action::AddRecipient(_) => ("add-recipient", &[Rcpt, Message], Some(Grant::EditEnvelope)),
        wit::Action::AddHeader(_) => ("add-header", &[Message], Some(Grant::EditMessage)),
        wit::Action::ReplaceHeader(_) => ("replace-header", &[Message], Some(Grant::EditMessage)),
        wit::Action::RemoveHeader(_) => ("remove-header", &[Message], Some(Grant::EditMessage)),
        wit::Action::ReplaceBody(_) => ("replace-body", &[Message], Some(Grant::EditMessage)),
        wit::Action::Route(_) => ("route", &[Rcpt, Message, Route], Some(Grant::Route)),
        wit::Action::Recipient(fate) => match fate.fate {
            wit::Fate::Route(_) => ("recipient", &[Message], Some(Grant::Route)),
            _ => ("recipient", &[Message], None),
        },
        wit::Action::Quarantine(_) => ("quarantine", &[Message, Route], None),
        wit::Action::Sign(_) => ("sign", &[Message], Some(Grant::Sign)),
        wit::Action::Delay(_) => ("delay", &[Connect, Ehlo, Mail, Rcpt], None),
        wit::Action::Tag(_) => ("tag", &[Mail, Rcpt, Data, Message], None),
        wit::Action::WithdrawExtension(_) => ("withdraw-extension", &[Ehlo], None),
        wit::Action::SourceAddress(_) => ("source-address", &[Route], Some(Grant::Route)),
        wit::Action::TlsPolicy(_) => ("tls-policy", &[Route], Some(Grant::Route)),
        wit::Action::LeaveSession => ("leave-session", &[Connect, Ehlo, Mail, Rcpt, Data, Message], None),
    }
}

/// The action in a few words, for the decision's record.
pub fn describe(action: &wit::Action) -> String {
    let name = rule(action).0;
    match action {
        wit::Action::AllowRelay | wit::Action::LeaveSession => name.to_owned(),
        wit::Action::RewriteSender(value)
        | wit::Action::RewriteRecipient(value)
        | wit::Action::AddRecipient(value)
        | wit::Action::Route(value)
        | wit::Action::Quarantine(value)
        | wit::Action::WithdrawExtension(value)
        | wit::Action::SourceAddress(value) => format!("{name} {}", cut(value, EXPLANATION_BYTES_MAX)),
        wit::Action::AddHeader(header) => {
            let place = match header.at {
                wit::HeaderPlace::Top => "",
                wit::HeaderPlace::Bottom => "at the bottom ",
            };
            format!("{name} {place}{}", field(&header.name, &header.value))
        }
        wit::Action::ReplaceHeader(edit) => format!("{name} {} {}", edit.occurrence, field(&edit.name, &edit.value)),
        wit::Action::RemoveHeader(removal) => {
            let occurrence = removal.occurrence.map(|place| format!(" {place}"));
            format!(
                "{name} {}{}",
                cut(&removal.name, TAG_BYTES_MAX),
                occurrence.unwrap_or_default()
            )
        }
        wit::Action::ReplaceBody(body) => format!("{name} of {} bytes", body.len()),
        wit::Action::Recipient(one) => match &one.fate {
            wit::Fate::Keep => format!("{name} {} keep", one.index),
            wit::Fate::Discard => format!("{name} {} discard", one.index),
            wit::Fate::Quarantine(_) => format!("{name} {} quarantine", one.index),
            wit::Fate::Route(route) => format!("{name} {} route {}", one.index, cut(route, TAG_BYTES_MAX)),
        },
        wit::Action::Sign(signature) => format!("{name} {}/{}", signature.domain, signature.selector),
        wit::Action::Delay(ms) => format!("{name} {ms} ms"),
        wit::Action::Tag(tag) => format!("{name} {}={}", tag.name, cut(&tag.value, TAG_BYTES_MAX)),
        wit::Action::TlsPolicy(policy) => format!("{name} {policy:?}"),
    }
}

/// A header field on one line, its folds as one space each.
fn field(name: &str, value: &[u8]) -> String {
    let value = String::from_utf8_lossy(&value[..value.len().min(EXPLANATION_BYTES_MAX)]);
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    format!("{}: {}", cut(name, TAG_BYTES_MAX), words.join(" "))
}

fn reply(stage: Stage, asked: wit::Reply, class: u16) -> Result<Reply, String> {
    let code = match (asked.code, class, stage) {
        (0, 5, Stage::Connect) => 554,
        (0, 5, _) => 550,
        (0, _, Stage::Connect) => 421,
        (0, _, _) => 451,
        (code, _, _) => code,
    };
    if code / 100 != class {
        return Err(format!(
            "the reply code {code} does not fit the decision, which needs {class}xx"
        ));
    }
    let enhanced = match asked.enhanced.as_str() {
        "" => Enhanced(class as u8, 7, 1),
        text => Enhanced::parse(text)
            .ok_or_else(|| format!("{text:?} is not an enhanced status code such as {class}.7.1"))?,
    };
    Reply::refusal(code, Some(enhanced), cut(&asked.text, REPLY_BYTES_MAX).to_owned())
        .map_err(|error| format!("the reply {code} {enhanced} cannot be sent: {error}"))
}

fn explanation(why: wit::Explanation) -> Explanation {
    let bound = |mut text: String| {
        let end = cut(&text, EXPLANATION_BYTES_MAX).len();
        text.truncate(end);
        text
    };
    Explanation {
        reason: bound(why.reason),
        detail: bound(why.detail),
        remedy: bound(why.remedy),
        otherwise: why.otherwise.map(bound),
    }
}

/// At most `bytes` of a text, cut between characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
