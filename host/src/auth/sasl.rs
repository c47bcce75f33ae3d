//! AUTH dialogs as state machines: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), SCRAM-SHA-256.
//!
//! Sans-IO: decoded messages in, decoded challenges out; base64, `*` and line lengths are the protocol core's
//! business. PLAIN and LOGIN end with [`Step::Verify`], because a plugin may look before the users file does; SCRAM
//! decides by itself. A message that is not what the mechanism says is [`Failure::Malformed`]; nothing here panics on
//! a client's bytes.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Users;
use super::scram::{ClientFirst, Scram, server_nonce};

/// In the order in which they are offered: clients that choose the first one they know choose well.
pub const MECHANISMS: [&str; 3] = ["SCRAM-SHA-256", "PLAIN", "LOGIN"];

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this (not yet in base64) and give the answer to [`Exchange::respond`].
    Challenge(Vec<u8>),
    /// Check this name and password: the policy's `on-auth`, then [`Users::verify_plain`]. The exchange is over.
    Verify(Login),
    /// The client is this user, spelt as in the users file. The exchange is over.
    Success(Arc<str>),
    /// The exchange is over.
    Failure(Failure),
}

/// Why a client is not who it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 535 5.7.8
    Credentials,
    /// 501 5.5.2: not what the mechanism says.
    Malformed,
}

/// A name and a password that a client offered by PLAIN or LOGIN. The password is wiped when this is dropped, and is
/// not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `PLAIN` or `LOGIN`.
    pub mechanism: &'static str,
    pub name: String,
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({} {:?})", self.mechanism, self.name)
    }
}

/// One AUTH dialog. It keeps the [`Users`] that it began with.
pub struct Exchange {
    users: Arc<Users>,
    state: State,
}

enum State {
    Plain,
    LoginName,
    LoginPassword {
        name: String,
    },
    ScramFirst,
    ScramFinal {
        scram: Scram,
        name: String,
    },
    /// The server has proved itself; an empty response is due (RFC 4954 §4).
    ScramDone {
        name: Arc<str>,
    },
    Over,
}

impl Exchange {
    /// Begins a dialog. `None` if the mechanism (upper case) is not one of [`MECHANISMS`].
    pub fn begin(mechanism: &str, initial: Option<&[u8]>, users: Arc<Users>) -> Option<(Exchange, Step)> {
        // What is sent when the client did not begin by itself: for PLAIN and SCRAM, nothing (RFC 4954 §4).
        let (state, challenge) = match mechanism {
            "PLAIN" => (State::Plain, &b""[..]),
            "LOGIN" => (State::LoginName, &b"Username:"[..]),
            "SCRAM-SHA-256" => (State::ScramFirst, &b""[..]),
            _ => return None,
        };
        let mut exchange = Exchange { users, state };
        let step = match initial {
            Some(initial) => exchange.respond(initial),
            None => Step::Challenge(challenge.to_vec()),
        };
        Some((exchange, step))
    }

    /// Takes the client's answer to the last challenge. After a step that is no challenge the exchange is over, and
    /// everything is malformed.
    pub fn respond(&mut self, response: &[u8]) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => (State::Over, plain(response)),
            State::LoginName => login_name(response),
            State::LoginPassword { name } => (State::Over, login_password(name, response)),
            State::ScramFirst => scram_first(response, &self.users, &server_nonce()),
            State::ScramFinal { scram, name } => scram_final(response, scram, &name, &self.users),
            State::ScramDone { name } if response.is_empty() => (State::Over, Step::Success(name)),
            State::ScramDone { .. } | State::Over => (State::Over, Step::Failure(Failure::Malformed)),
        };
        self.state = state;
        step
    }
}

/// `[authzid] NUL authcid NUL passwd`
fn plain(message: &[u8]) -> Step {
    let mut fields = message.split(|byte| *byte == 0).map(text);
    let (Some(Some(authzid)), Some(Some(name)), Some(Some(password)), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Step::Failure(Failure::Malformed);
    };
    if name.is_empty() || password.is_empty() {
        return Step::Failure(Failure::Malformed);
    }
    // Nobody may act as somebody else.
    if !authzid.is_empty() && authzid != name {
        return Step::Failure(Failure::Credentials);
    }
    login("PLAIN", name.to_owned(), password)
}

fn login_name(response: &[u8]) -> (State, Step) {
    match text(response) {
        Some(name) if !name.is_empty() && !name.contains('\0') => (
            State::LoginPassword { name: name.to_owned() },
            Step::Challenge(b"Password:".to_vec()),
        ),
        _ => (State::Over, Step::Failure(Failure::Malformed)),
    }
}

fn login_password(name: String, response: &[u8]) -> Step {
    match text(response) {
        Some(password) if !password.is_empty() && !password.contains('\0') => login("LOGIN", name, password),
        _ => Step::Failure(Failure::Malformed),
    }
}

fn login(mechanism: &'static str, name: String, password: &str) -> Step {
    Step::Verify(Login {
        mechanism,
        name,
        password: Zeroizing::new(password.to_owned()),
    })
}

fn scram_first(response: &[u8], users: &Users, nonce: &str) -> (State, Step) {
    let first = match ClientFirst::parse(response) {
        Ok(first) => first,
        Err(failure) => return (State::Over, Step::Failure(failure)),
    };
    if first.authzid.as_ref().is_some_and(|authzid| *authzid != first.name) {
        return (State::Over, Step::Failure(Failure::Credentials));
    }
    let (scram, server_first) = Scram::start(&first, users.stored_keys(&first.name), nonce);
    (
        State::ScramFinal {
            scram,
            name: first.name,
        },
        Step::Challenge(server_first.into_bytes()),
    )
}

fn scram_final(response: &[u8], scram: Scram, name: &str, users: &Users) -> (State, Step) {
    match (scram.finish(response), users.lookup(name)) {
        (Ok(server_final), Some(user)) => (
            State::ScramDone {
                name: user.name.clone(),
            },
            Step::Challenge(server_final.into_bytes()),
        ),
        (Ok(_), None) => (State::Over, Step::Failure(Failure::Credentials)),
        (Err(failure), _) => (State::Over, Step::Failure(failure)),
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::auth::scram::StoredKeys;

    /// RFC 7677 §3's user, without a password that PLAIN could check.
    fn users() -> Arc<Users> {
        let keys = StoredKeys::derive("pencil", b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81", 4096);
        let hash = "$argon2id$v=19$m=8,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg";
        Arc::new(Users::parse(format!("User:{hash}:{keys}").as_bytes(), Path::new("users")).unwrap())
    }

    fn verify(mechanism: &'static str, name: &str, password: &str) -> Step {
        login(mechanism, name.to_owned(), password)
    }

    fn challenge(text: &str) -> Step {
        Step::Challenge(text.as_bytes().to_vec())
    }

    #[test]
    fn dialogs() {
        let malformed = || Step::Failure(Failure::Malformed);
        let credentials = || Step::Failure(Failure::Credentials);
        // The mechanism, the initial response, the first step; then responses and steps.
        type Dialog = (&'static str, Option<&'static [u8]>, Step, Vec<(&'static [u8], Step)>);
        let cases: Vec<Dialog> = vec![
            (
                "PLAIN",
                Some(b"\0alice\0secret"),
                verify("PLAIN", "alice", "secret"),
                vec![(b"", malformed())],
            ),
            (
                "PLAIN",
                None,
                challenge(""),
                vec![(b"alice\0alice\0s:x", verify("PLAIN", "alice", "s:x"))],
            ),
            ("PLAIN", Some(b"root\0alice\0secret"), credentials(), vec![]),
            ("PLAIN", Some(b"alice\0secret"), malformed(), vec![]),
            ("PLAIN", Some(b"\0alice\0secret\0"), malformed(), vec![]),
            ("PLAIN", Some(b"\0\0secret"), malformed(), vec![]),
            ("PLAIN", Some(b"\0alice\0"), malformed(), vec![]),
            ("PLAIN", Some(b"\0alice\0\xff"), malformed(), vec![]),
            ("PLAIN", Some(b""), malformed(), vec![(b"\0alice\0secret", malformed())]),
            (
                "LOGIN",
                None,
                challenge("Username:"),
                vec![
                    (b"alice", challenge("Password:")),
                    (b"secret", verify("LOGIN", "alice", "secret")),
                ],
            ),
            (
                "LOGIN",
                Some(b"alice"),
                challenge("Password:"),
                vec![(b"", malformed()), (b"secret", malformed())],
            ),
            ("LOGIN", Some(b""), malformed(), vec![]),
            ("SCRAM-SHA-256", None, challenge(""), vec![(b"n,,n=user", malformed())]),
            ("SCRAM-SHA-256", Some(b"n,a=root,n=user,r=x"), credentials(), vec![]),
            (
                "SCRAM-SHA-256",
                Some(b"p=tls-exporter,,n=user,r=x"),
                malformed(),
                vec![],
            ),
        ];
        for (mechanism, initial, expected, rest) in cases {
            let (mut exchange, step) = Exchange::begin(mechanism, initial, users()).unwrap();
            assert_eq!(step, expected, "{mechanism} {initial:?}");
            for (response, expected) in rest {
                assert_eq!(
                    exchange.respond(response),
                    expected,
                    "{mechanism} {initial:?} {response:?}"
                );
            }
        }
        assert!(Exchange::begin("CRAM-MD5", None, users()).is_none());
    }

    const FINAL: &[u8] =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn scram(first: &[u8]) -> Exchange {
        let users = users();
        let (state, _) = scram_first(first, &users, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        Exchange { users, state }
    }

    #[test]
    fn scram_succeeds_after_the_client_saw_the_proof() {
        let mut exchange = scram(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            exchange.respond(FINAL),
            challenge("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
        assert_eq!(exchange.respond(b""), Step::Success("User".into()));
        assert_eq!(exchange.respond(b""), Step::Failure(Failure::Malformed));
    }

    #[test]
    fn nobody_fails_as_a_wrong_password_does() {
        let mut exchange = scram(b"n,,n=nobody,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(exchange.respond(FINAL), Step::Failure(Failure::Credentials));
    }
}
