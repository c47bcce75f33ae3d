//! Plays arbitrary clients against the server session. `Play` asserts what must hold whatever they
//! send: replies are clean lines, no message holds a bare CR, LF or NUL, sizes agree, deadlines lie ahead.

#![no_main]

#[path = "../layout.rs"]
mod layout;
#[allow(dead_code)] // The parser of dialog files is for the seeds.
#[path = "../../tests/support/mod.rs"]
mod support;

use gatepost_smtp::session::{Answer, SessionConfig};
use libfuzzer_sys::fuzz_target;
use support::{Act, Case, Cut, Play, Turn};

fuzz_target!(|input: &[u8]| {
    let Some((&flags, text)) = input.split_first() else {
        return;
    };
    let has = |flag| flags & flag != 0;
    let mut config = SessionConfig::new("mx.test");
    config.starttls = has(layout::STARTTLS);
    config.allow_plaintext_auth = has(layout::PLAINTEXT_AUTH);
    config.auth_required = has(layout::AUTH_REQUIRED);
    config.tls_required = has(layout::TLS_REQUIRED);
    config.mechanisms = vec!["PLAIN".to_owned(), "LOGIN".to_owned()];
    if has(layout::SMALL_LIMITS) {
        config.max_message_size = 100;
        config.max_recipients = 2;
        config.max_received = 1;
        config.max_command_line = 64;
    }
    let mut verdicts = Vec::new();
    if has(layout::AUTH_SUCCEEDS) {
        verdicts.push(("auth".to_owned(), Answer::Challenge(b"Username:".to_vec())));
        verdicts.push(("auth".to_owned(), Answer::Success));
    }
    let case = Case {
        name: String::new(),
        config,
        hello: false,
        turns: Vec::new(),
        checks_asks: false,
        checks_own: false,
    };
    let cut = if has(layout::BYTES) { Cut::Bytes } else { Cut::Whole };
    let turn = |act| Turn {
        verdicts: Vec::new(),
        act,
        line: 0,
        expected: Vec::new(),
    };
    let mut play = Play::new(&case);
    play.turn(
        &Turn {
            verdicts,
            ..turn(Act::Connect)
        },
        cut,
    );
    for segment in text.split(|byte| *byte == layout::SEPARATOR) {
        let act = Act::Send {
            bytes: segment.to_vec(),
            at_once: has(layout::AT_ONCE) && segment.len() < 32 * 1024,
        };
        play.turn(&turn(act), cut);
        if play.log.last().is_some_and(|line| line == "S: [tls]") {
            play.turn(&turn(Act::Handshake), cut);
        }
        play.log.clear();
    }
    play.turn(&turn(Act::End), cut);
});
