//! Command lines of a session: which may come now, with which arguments, and what each begins.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Ask, AuthStep, Chunk, CloseReason, Extensions, Greeting, Session, Stage, State, Step};
use crate::command::{self, MailFrom, Recipient, Verb};
use crate::reply::Reply;

/// Most characters of a refused command line that are kept for the log.
const MAX_SHOWN_LINE: usize = 200;

/// A command line with its arguments, in order and within limits.
enum Command {
    Hello(Greeting),
    StartTls,
    Auth {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    Mail(Box<MailFrom>),
    Rcpt(Box<Recipient>),
    Data,
    /// With the reply that refuses it, if one is due.
    Chunk(Chunk, Option<Reply>),
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
}

/// The reply that refuses a command, and why the session closes with it, if it does.
pub(super) struct Refusal {
    pub reply: Reply,
    pub closes: Option<CloseReason>,
}

impl Refusal {
    fn closing(reply: Reply, reason: CloseReason) -> Refusal {
        Refusal {
            reply,
            closes: Some(reason),
        }
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Refusal {
        Refusal { reply, closes: None }
    }
}

impl Session {
    /// Takes one line, without its end; a malformed one is refused, once it is clear that what follows
    /// is no text that belongs to it.
    pub(super) fn take_line(&mut self, range: Range<usize>, malformed: bool) -> Option<Step> {
        let line = self.input.slice(range.clone()).trim_ascii_end();
        let (verb, arguments) = Verb::split(line);
        // Commands behind one of these were sent without its answer being known (RFC 2920 §3.1).
        // Behind DATA they are message text, and must not be taken for commands when DATA is refused.
        let synchronises = matches!(verb, Verb::Ehlo | Verb::Helo | Verb::StartTls | Verb::Auth | Verb::Data);
        let parsed = if synchronises && !self.input.is_empty() {
            Err(Refusal::closing(Reply::out_of_turn(), CloseReason::OutOfTurn))
        } else if verb == Verb::Http {
            Err(Refusal::closing(Reply::http(), CloseReason::Http))
        } else if malformed && verb == Verb::Bdat {
            Err(Refusal::closing(Reply::bad_line(), CloseReason::BadChunk))
        } else if malformed {
            Err(Reply::bad_line().into())
        } else {
            self.parse(verb, arguments)
        };
        let after_auth = std::mem::replace(&mut self.last_verb, verb) == Verb::Auth;
        match parsed {
            Ok(command) => self.execute(command),
            Err(refusal) => {
                // A client that missed that its AUTH was refused sends its password as a command.
                let hidden = after_auth && verb == Verb::Unknown;
                let line = (!hidden).then(|| shown(verb, self.input.slice(range)));
                self.refuse(verb, refusal, line);
                None
            }
        }
    }

    /// Order, arguments and limits of one command; `Err` is the reply that refuses it.
    fn parse(&self, verb: Verb, arguments: &[u8]) -> Result<Command, Refusal> {
        if verb == Verb::Bdat {
            // The size counts even where the command does not: the chunk follows in any case. Without
            // it nobody knows where the next command begins.
            let (octets, last) =
                command::parse_bdat(arguments).map_err(|reply| Refusal::closing(reply, CloseReason::BadChunk))?;
            let refused = self.check_order(verb).and_then(|()| self.check_chunk());
            return Ok(Command::Chunk(Chunk { octets, last }, refused.err()));
        }
        self.check_order(verb)?;
        let plain = |command, syntax| match arguments {
            [] => Ok(command),
            _ => Err(Reply::bad_arguments(syntax)),
        };
        match verb {
            Verb::Ehlo | Verb::Helo => Ok(Command::Hello(Greeting {
                name: command::parse_ehlo(arguments)?,
                esmtp: verb == Verb::Ehlo,
            })),
            Verb::StartTls => {
                let command = plain(Command::StartTls, "Syntax: STARTTLS")?;
                if self.tls {
                    Err(Reply::bad_sequence("TLS is already on").into())
                } else if !self.config.starttls {
                    Err(Reply::not_implemented().into())
                } else {
                    Ok(command)
                }
            }
            Verb::Auth => Ok(self.parse_auth(arguments)?),
            Verb::Mail => {
                if self.config.max_messages.is_some_and(|most| self.messages >= most) {
                    return Err(Refusal::closing(
                        Reply::too_many_messages(),
                        CloseReason::TooManyMessages,
                    ));
                }
                let mail = command::parse_mail(arguments, self.offered())?;
                if mail.size > Some(self.config.max_message_size) {
                    return Err(Reply::too_big().into());
                }
                Ok(Command::Mail(Box::new(mail)))
            }
            Verb::Rcpt => {
                let transaction = self.transaction.as_ref();
                let smtputf8 = transaction.is_some_and(|t| t.envelope.mail.smtputf8);
                let recipient = command::parse_rcpt(arguments, self.offered(), smtputf8)?;
                Ok(Command::Rcpt(Box::new(recipient)))
            }
            Verb::Data => {
                let command = plain(Command::Data, "Syntax: DATA")?;
                self.check_recipients()?;
                Ok(command)
            }
            Verb::Rset => Ok(plain(Command::Rset, "Syntax: RSET")?),
            Verb::Noop => Ok(Command::Noop),
            Verb::Help => Ok(Command::Help),
            Verb::Vrfy if arguments.is_empty() => Err(Reply::bad_arguments("Syntax: VRFY address").into()),
            Verb::Vrfy => Ok(Command::Vrfy),
            Verb::Quit => Ok(Command::Quit),
            Verb::Unimplemented => Err(Reply::not_implemented().into()),
            Verb::Unknown | Verb::Http | Verb::Bdat | Verb::Connect | Verb::Message => {
                Err(Reply::unknown_command().into())
            }
        }
    }

    /// Whether the command may come now, whatever its arguments.
    pub(super) fn check_order(&self, verb: Verb) -> Result<(), Reply> {
        let config = &self.config;
        if matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat | Verb::Vrfy) {
            if config.tls_required && !self.tls {
                return Err(Reply::tls_required());
            }
            if config.auth_required && !self.authenticated {
                return Err(Reply::auth_required());
            }
        }
        if !matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat) {
            return Ok(());
        }
        if self.greeting.is_none() {
            return Err(Reply::bad_sequence("Send EHLO first"));
        }
        if self.chunk_failed {
            return Err(Reply::bad_sequence("An earlier BDAT failed, send RSET first"));
        }
        match (verb, &self.transaction) {
            (Verb::Mail, Some(_)) => Err(Reply::bad_sequence("A transaction is already open")),
            (Verb::Mail, None) => Ok(()),
            (_, None) => Err(Reply::bad_sequence("Send MAIL first")),
            (Verb::Rcpt | Verb::Data, Some(transaction)) if transaction.chunks.is_some() => {
                Err(Reply::bad_sequence("BDAT has begun the message"))
            }
            (Verb::Rcpt, Some(transaction)) => {
                let count = transaction.envelope.recipients.len();
                if count >= usize::try_from(config.max_recipients).unwrap_or(usize::MAX) {
                    return Err(Reply::too_many_recipients());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// DATA and BDAT need an accepted recipient.
    fn check_recipients(&self) -> Result<(), Reply> {
        match &self.transaction {
            Some(transaction) if !transaction.envelope.recipients.is_empty() => Ok(()),
            Some(transaction) if transaction.refused => Err(Reply::no_valid_recipients()),
            _ => Err(Reply::bad_sequence("Send RCPT first")),
        }
    }

    fn check_chunk(&self) -> Result<(), Reply> {
        if !self.offered().has(Extensions::CHUNKING) {
            return Err(Reply::not_implemented());
        }
        self.check_recipients()
    }

    /// RFC 4954 §4.
    fn parse_auth(&self, arguments: &[u8]) -> Result<Command, Reply> {
        if self.config.mechanisms.is_empty() {
            return Err(Reply::not_implemented());
        }
        if !self.auth_offered() {
            return Err(Reply::auth_needs_tls());
        }
        if !self.greeting.as_ref().is_some_and(|g| g.esmtp) {
            return Err(Reply::bad_sequence("Send EHLO first"));
        }
        if self.authenticated {
            return Err(Reply::bad_sequence("Already authenticated"));
        }
        if self.transaction.is_some() {
            return Err(Reply::bad_sequence("AUTH is not allowed in a transaction"));
        }
        let (mechanism, initial) = command::parse_auth(arguments)?;
        if !self.config.mechanisms.contains(&mechanism) {
            return Err(Reply::auth_mechanism_unknown());
        }
        let initial = match initial {
            Some(b"=") => Some(Vec::new()),
            Some(text) => Some(BASE64.decode(text).map_err(|_| Reply::auth_bad_base64())?),
            None => None,
        };
        Ok(Command::Auth { mechanism, initial })
    }

    fn execute(&mut self, command: Command) -> Option<Step> {
        match command {
            Command::Hello(greeting) => {
                let ask = Ask::Ehlo {
                    name: greeting.name.clone(),
                    esmtp: greeting.esmtp,
                };
                return self.park(Stage::Hello(greeting), ask);
            }
            Command::Auth { mechanism, initial } => {
                let begin = AuthStep::Begin { mechanism, initial };
                return self.park(Stage::Auth, Ask::Auth(begin));
            }
            Command::Mail(mail) => {
                let ask = Ask::Mail(MailFrom::clone(&mail));
                return self.park(Stage::Mail(mail), ask);
            }
            Command::Rcpt(recipient) => {
                let ask = Ask::Rcpt(Recipient::clone(&recipient));
                return self.park(Stage::Rcpt(recipient), ask);
            }
            Command::Data => return self.park(Stage::Data, Ask::Data),
            Command::Chunk(chunk, refused) => return self.begin_chunk(chunk, refused),
            Command::StartTls => {
                self.reply(Verb::StartTls, Reply::ready_for_tls());
                self.state = State::Tls { injected: false };
            }
            Command::Rset => {
                self.abort();
                self.chunk_failed = false;
                self.reply(Verb::Rset, Reply::ok());
            }
            Command::Noop => self.reply(Verb::Noop, Reply::ok()),
            Command::Help => self.reply(Verb::Help, Reply::help()),
            Command::Vrfy => self.reply(Verb::Vrfy, Reply::cannot_verify()),
            Command::Quit => self.hang_up(Verb::Quit, Reply::bye(), CloseReason::Quit),
        }
        None
    }
}

/// A refused command line for the log: printable, cut, and of AUTH the mechanism only.
fn shown(verb: Verb, line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let shown = |text: &str| -> String {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        text.chars().take(MAX_SHOWN_LINE).map(printable).collect()
    };
    if verb == Verb::Auth {
        let words: Vec<&str> = text.split_ascii_whitespace().take(2).collect();
        return shown(&words.join(" "));
    }
    shown(&text)
}
