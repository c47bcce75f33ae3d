//! Misbehaves at RCPT, in the way that the recipient's local part names. `config.at` makes it misbehave earlier.

use gatepost_sdk::log;
use gatepost_sdk::prelude::*;

pub struct Naughty;

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `configure` misbehaves so.
    configure: Option<String>,
}

impl Policy for Naughty {
    type Config = Config;

    fn new(config: Config) -> Result<Naughty, String> {
        match config.configure.as_deref() {
            None => Ok(Naughty),
            Some("refuse") => Err("configure: refused, as told".into()),
            Some(how) => {
                misbehave(how);
                Ok(Naughty)
            }
        }
    }
}

fn misbehave(how: &str) {
    match how {
        "trap" => panic!("as told"),
        "loop" => loop {
            std::hint::black_box(());
        },
        "memory" => {
            let mut kept = Vec::new();
            loop {
                kept.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
        }
        "recursion" => {
            fn deeper(n: u64) -> u64 {
                if std::hint::black_box(n) == u64::MAX {
                    0
                } else {
                    1 + deeper(std::hint::black_box(n + 1))
                }
            }
            std::hint::black_box(deeper(0));
        }
        "flood" => {
            for line in 0..10_000 {
                log::info(&format!("line {line}"));
            }
        }
        _ => {}
    }
}

impl OnRcpt for Naughty {
    fn on_rcpt(&self, session: &Session, recipient: &Mailbox, _: &RelayView) -> Answer {
        match recipient.local().as_str() {
            // An action without its grant.
            "ungranted" => Answer::pass().allow_relay(),
            // A reply that no client may see.
            "bad-reply" => Answer::reject(250, "2.0.0", "all is well"),
            "split-reply" => Answer::reject(550, "5.7.1", "no\r\n250 yes"),
            // On whom nobody answers.
            "wait" => {
                session.reverse_name();
                Answer::pass()
            }
            how => {
                misbehave(how);
                Answer::pass()
            }
        }
    }
}

gatepost_sdk::export!(Naughty: on_rcpt);
