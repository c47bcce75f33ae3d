//! Helpers that make an [`Answer`] read as a sentence: `Answer::reject(550, "5.7.1", "...").because(...)`.
//!
//! They check nothing: what an answer may hold at which hook is the host's to judge, and an answer that breaks a rule is a failure of the
//! policy. Texts that are too long are cut by the host.

use crate::types::{
    Action, Answer, Decision, Explanation, Fate, HeaderEdit, HeaderPlace, HeaderRemoval, NewHeader, RecipientFate,
    Reply, Signature, Tag, TlsPolicy,
};

/// Decisions.
impl Answer {
    /// No opinion: the next policy is asked, and after the last one the host decides.
    #[must_use]
    pub const fn pass() -> Self {
        Self::new(Decision::Pass)
    }

    /// Take it, and ask no later policy at this stage, except those marked `always`. It grants nothing.
    #[must_use]
    pub const fn accept() -> Self {
        Self::new(Decision::Accept)
    }

    /// Refuse for good. `code` is 500 to 599, or 0 for the host's usual one; an empty `enhanced` is the host's usual one.
    #[must_use]
    pub fn reject(code: u16, enhanced: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Decision::Reject(reply(code, enhanced, text)))
    }

    /// Refuse for now. `code` is 400 to 499, or 0 for the host's usual one; an empty `enhanced` is the host's usual one.
    #[must_use]
    pub fn defer(code: u16, enhanced: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Decision::Defer(reply(code, enhanced, text)))
    }

    /// Reply with a 4xx or 5xx code, and close the connection.
    #[must_use]
    pub fn disconnect(code: u16, enhanced: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Decision::Disconnect(reply(code, enhanced, text)))
    }

    /// Say 250 and drop it: the recipient in `on_rcpt`, the message in `on_message`.
    #[must_use]
    pub const fn discard() -> Self {
        Self::new(Decision::Discard)
    }

    const fn new(decision: Decision) -> Self {
        Self {
            decision,
            actions: Vec::new(),
            why: None,
        }
    }
}

/// Reasons.
impl Answer {
    /// Why, for the log and for whoever asks for an explanation, never for the client: a short code in kebab case, the values that mattered
    /// (at most 1,000 bytes), and what the person refused or the administrator can do about it.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.why = Some(Explanation {
            reason: reason.into(),
            detail: detail.into(),
            remedy: remedy.into(),
            otherwise: None,
        });
        self
    }

    /// What would have changed the answer. Without a [`because`](Self::because) before it, it is dropped.
    #[must_use]
    pub fn otherwise(mut self, text: impl Into<String>) -> Self {
        if let Some(why) = &mut self.why {
            why.otherwise = Some(text.into());
        }
        self
    }
}

/// Actions, in the order in which they were added. Each says in which hook it may stand and which grant it needs.
impl Answer {
    /// Adds any action.
    #[must_use]
    pub fn with(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    /// This recipient may be relayed. `on_rcpt`, grant `relay`.
    #[must_use]
    pub fn allow_relay(self) -> Self {
        self.with(Action::AllowRelay)
    }

    /// Replaces the reverse-path. `on_mail`, grant `edit-envelope`.
    #[must_use]
    pub fn rewrite_sender(self, address: impl Into<String>) -> Self {
        self.with(Action::RewriteSender(address.into()))
    }

    /// Replaces the forward-path. `on_rcpt`, grant `edit-envelope`.
    #[must_use]
    pub fn rewrite_recipient(self, address: impl Into<String>) -> Self {
        self.with(Action::RewriteRecipient(address.into()))
    }

    /// One more recipient; the relay gate looks at it as at any other. `on_rcpt` and `on_message`, grant `edit-envelope`.
    #[must_use]
    pub fn add_recipient(self, address: impl Into<String>) -> Self {
        self.with(Action::AddRecipient(address.into()))
    }

    /// A new header field above all others. `on_message`, grant `edit-message`.
    #[must_use]
    pub fn add_header(self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.with(Action::AddHeader(NewHeader {
            name: name.into(),
            value: value.into(),
            at: HeaderPlace::Top,
        }))
    }

    /// A new value for the `occurrence`th field of that name, counted from 0 at the top. `on_message`, grant `edit-message`.
    #[must_use]
    pub fn replace_header(self, name: impl Into<String>, occurrence: u32, value: impl Into<Vec<u8>>) -> Self {
        self.with(Action::ReplaceHeader(HeaderEdit {
            name: name.into(),
            occurrence,
            value: value.into(),
        }))
    }

    /// Removes all fields of that name. `on_message`, grant `edit-message`.
    #[must_use]
    pub fn remove_header(self, name: impl Into<String>) -> Self {
        self.with(Action::RemoveHeader(HeaderRemoval {
            name: name.into(),
            occurrence: None,
        }))
    }

    /// Replaces everything behind the header. `on_message`, grant `edit-message`.
    #[must_use]
    pub fn replace_body(self, body: impl Into<Vec<u8>>) -> Self {
        self.with(Action::ReplaceBody(body.into()))
    }

    /// Sends it over a configured route: this recipient in `on_rcpt`, all of them in `on_message` and `on_route`. Grant `route`.
    #[must_use]
    pub fn route(self, name: impl Into<String>) -> Self {
        self.with(Action::Route(name.into()))
    }

    /// The fate of one recipient, named by its place in the envelope. `on_message`; [`Fate::Route`] needs grant `route`.
    #[must_use]
    pub fn recipient(self, index: u32, fate: Fate) -> Self {
        self.with(Action::Recipient(RecipientFate { index, fate }))
    }

    /// Accepts the message, and keeps it in the queue until an administrator releases it. `on_message`, `on_route`.
    #[must_use]
    pub fn quarantine(self, why: impl Into<String>) -> Self {
        self.with(Action::Quarantine(why.into()))
    }

    /// Signs the message with the key of this domain and selector, when all policies are done with it. `on_message`, grant `sign`.
    #[must_use]
    pub fn sign(self, domain: impl Into<String>, selector: impl Into<String>) -> Self {
        self.with(Action::Sign(Signature {
            domain: domain.into(),
            selector: selector.into(),
        }))
    }

    /// Waits before the reply; at most 30,000 ms in one stage over all policies. `on_connect`, `on_ehlo`, `on_mail`, `on_rcpt`.
    #[must_use]
    pub fn delay(self, delay_ms: u32) -> Self {
        self.with(Action::Delay(delay_ms))
    }

    /// A name and value that stays with the message and its log lines. `on_mail`, `on_rcpt`, `on_data`, `on_message`.
    #[must_use]
    pub fn tag(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(Action::Tag(Tag {
            name: name.into(),
            value: value.into(),
        }))
    }

    /// Does not offer this extension to the client. `on_ehlo`.
    #[must_use]
    pub fn withdraw_extension(self, name: impl Into<String>) -> Self {
        self.with(Action::WithdrawExtension(name.into()))
    }

    /// Leaves from this local address. `on_route`, grant `route`.
    #[must_use]
    pub fn source_address(self, address: impl Into<String>) -> Self {
        self.with(Action::SourceAddress(address.into()))
    }

    /// Demands this of TLS for the attempt. `on_route`, grant `route`.
    #[must_use]
    pub fn tls_policy(self, policy: TlsPolicy) -> Self {
        self.with(Action::TlsPolicy(policy))
    }

    /// Is not asked again in this session, at any hook: for policies that look at clients, not at messages. All hooks of a session that decide,
    /// but `on_auth`.
    #[must_use]
    pub fn leave_session(self) -> Self {
        self.with(Action::LeaveSession)
    }
}

fn reply(code: u16, enhanced: impl Into<String>, text: impl Into<String>) -> Reply {
    Reply {
        code,
        enhanced: enhanced.into(),
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_its_actions_in_order_and_its_reason() {
        let answer = Answer::reject(550, "5.7.1", "no")
            .delay(10)
            .tag("a", "b")
            .because("why", "detail", "remedy")
            .otherwise("another day");

        assert!(
            matches!(&answer.decision, Decision::Reject(reply) if reply.code == 550 && reply.enhanced == "5.7.1" && reply.text == "no")
        );
        assert!(matches!(&answer.actions[..], [Action::Delay(10), Action::Tag(_)]));
        let why = answer.why.expect("because was called");
        assert_eq!(
            (why.reason.as_str(), why.otherwise.as_deref()),
            ("why", Some("another day"))
        );
    }

    #[test]
    fn what_would_have_changed_it_needs_a_reason() {
        assert!(Answer::pass().otherwise("x").why.is_none());
    }
}
