//! Traps at the stage that its configuration names, and does nothing at the others.

use gatepost_sdk::prelude::*;

pub struct Clumsy(Config);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    at: String,
}

impl Policy for Clumsy {
    type Config = Config;

    fn new(config: Config) -> Result<Clumsy, String> {
        Ok(Clumsy(config))
    }
}

impl Clumsy {
    fn at(&self, stage: &str) -> Answer {
        assert!(self.0.at != stage, "as told");
        Answer::pass()
    }
}

impl OnConnect for Clumsy {
    fn on_connect(&self, _: &Session) -> Answer {
        self.at("on-connect")
    }
}

impl OnEhlo for Clumsy {
    fn on_ehlo(&self, _: &Session, _: &str) -> Answer {
        self.at("on-ehlo")
    }
}

impl OnMail for Clumsy {
    fn on_mail(&self, _: &Session, _: &Mailbox) -> Answer {
        self.at("on-mail")
    }
}

impl OnData for Clumsy {
    fn on_data(&self, _: &Session) -> Answer {
        self.at("on-data")
    }
}

impl OnMessage for Clumsy {
    fn on_message(&self, _: &Session, _: &Message) -> Answer {
        self.at("on-message")
    }
}

gatepost_sdk::export!(Clumsy: on_connect, on_ehlo, on_mail, on_data, on_message);
