//! Does to the envelope and the message what the recipient's local part, the Subject or the EHLO name says, so that a test reads as a dialog.

use gatepost_sdk::prelude::*;

pub struct Editor(Config);

#[derive(serde::Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Local parts that it refuses, saying which address it saw.
    refuse: Vec<String>,
    /// Local parts that it discards.
    discard: Vec<String>,
    /// It allows who is trusted to relay to every recipient, and edits none.
    allow: bool,
}

impl Policy for Editor {
    type Config = Config;

    fn new(config: Config) -> Result<Editor, String> {
        Ok(Editor(config))
    }
}

impl OnEhlo for Editor {
    fn on_ehlo(&self, _: &Session, name: &str) -> Answer {
        match name {
            "plain.test" => Answer::pass()
                .withdraw_extension("PIPELINING")
                .withdraw_extension("CHUNKING"),
            "clear.test" => Answer::pass().withdraw_extension("STARTTLS"),
            "slow.test" => Answer::pass().delay(300),
            "leaving.test" => Answer::pass().leave_session(),
            _ => Answer::pass(),
        }
    }
}

impl OnRcpt for Editor {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, _: &RelayView) -> Answer {
        let local = recipient.local();
        let local = local.as_str();
        let named = |list: &[String]| list.iter().any(|name| name == local);
        if named(&self.0.refuse) {
            return Answer::reject(550, "5.7.1", format!("{} is refused", recipient.address()));
        }
        if named(&self.0.discard) {
            return Answer::discard();
        }
        if self.0.allow {
            return match session.peer().trusted {
                true => Answer::pass().allow_relay(),
                false => Answer::pass(),
            };
        }
        match local {
            "alias" => Answer::pass().rewrite_recipient("real@ours.test"),
            "away" => Answer::pass().rewrite_recipient("real@remote.test"),
            "copied" => Answer::pass().add_recipient("archive@ours.test"),
            "leaked" => Answer::pass().add_recipient("archive@remote.test"),
            "accepted" => Answer::accept(),
            "tagged" => Answer::pass().tag("seen", "rcpt"),
            "nowhere" => Answer::discard(),
            _ => Answer::pass(),
        }
    }
}

impl OnMessage for Editor {
    fn on_message(&self, _: &Session, message: &Message) -> Answer {
        let subject = message.header("Subject").into_iter().next().unwrap_or_default();
        match subject.trim_ascii() {
            b"edit" => Answer::pass()
                .add_header("X-Added", "by the first")
                .replace_header("Subject", 0, "edited")
                .remove_header("X-Removed"),
            // What the next one sees after `edit`.
            b"edited" => Answer::pass().add_header("X-Saw", "edited"),
            b"body" => Answer::pass().replace_body("another body\r\n"),
            b"copy" => Answer::pass().add_recipient("archive@ours.test"),
            b"leak" => Answer::pass().add_recipient("archive@remote.test"),
            b"hold" => Answer::pass().quarantine("held, as told"),
            b"nothing" => Answer::discard(),
            _ => Answer::pass(),
        }
    }
}

gatepost_sdk::export!(Editor: on_ehlo, on_rcpt, on_message);
