//! The driver's verdicts in a session: which fit, and what each leads to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Answer, CloseReason, Envelope, Extensions, Greeting, Session, Stage, State, Transaction};
use crate::command::Verb;
use crate::data::DataReader;
use crate::error::Misuse;
use crate::reply::Reply;

impl Session {
    /// Goes on with an answer that fits; the state is `Command` unless set otherwise.
    pub(super) fn settle(&mut self, stage: Stage, answer: Answer) {
        let verb = stage.verb();
        if let Answer::Disconnect(reply) = answer {
            return self.dismiss(verb, reply);
        }
        if let Answer::Refuse(reply) = &answer
            && (reply.code() == 421 || matches!(stage, Stage::Connect))
        {
            return self.dismiss(verb, reply.clone());
        }
        if stage.synchronises() && !self.input.is_empty() {
            return self.hang_up(verb, Reply::out_of_turn(), CloseReason::OutOfTurn);
        }
        match (stage, answer) {
            (Stage::Connect, _) => {
                if let Some(reply) = self.shutdown.take() {
                    return self.hang_up(verb, reply, CloseReason::Shutdown);
                }
                let banner = Reply::banner(&self.config.hostname);
                self.say(verb, banner, false, None);
            }
            (Stage::Message, answer) => {
                // Over either way, and the driver knows.
                self.transaction = None;
                if let Answer::Refuse(reply) = answer {
                    return self.say(verb, reply, false, None);
                }
                self.commands = 0;
                self.say(verb, answer.reply_or(Reply::ok), false, None);
            }
            (Stage::Chunk(chunk), Answer::Refuse(reply)) => {
                self.abort();
                self.chunk_failed = true;
                self.skip(chunk.octets, reply, false);
            }
            (Stage::Rcpt(_), Answer::Refuse(reply)) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.refused = true;
                }
                self.say(verb, reply, false, None);
            }
            (_, Answer::Refuse(reply)) => self.say(verb, reply, false, None),
            (Stage::Hello(greeting), answer) => {
                let withdrawn = match answer {
                    Answer::Withdraw(extensions) => extensions,
                    _ => Extensions::NONE,
                };
                self.greet(greeting, withdrawn);
            }
            (Stage::Auth, answer) => self.settle_auth(answer),
            (Stage::Mail(mail), answer) => {
                self.messages = self.messages.saturating_add(1);
                self.transaction = Some(Transaction {
                    envelope: Envelope {
                        mail: *mail,
                        recipients: Vec::new(),
                    },
                    refused: false,
                    chunks: None,
                });
                self.say(verb, answer.reply_or(Reply::mail_ok), false, None);
            }
            (Stage::Rcpt(recipient), answer) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.envelope.recipients.push(*recipient);
                }
                // It moves mail, and how many there may be has a bound of its own.
                self.commands = self.commands.saturating_sub(1);
                self.say(verb, answer.reply_or(Reply::rcpt_ok), false, None);
            }
            (Stage::Data, _) => {
                self.waiting.restart();
                self.state = State::Data(DataReader::dotted(self.data_limits()));
                self.say(verb, Reply::start_data(), false, None);
            }
            (Stage::Chunk(chunk), _) => {
                self.read_chunk(DataReader::chunked(self.data_limits()), chunk);
            }
        }
    }

    fn settle_auth(&mut self, answer: Answer) {
        match answer {
            Answer::Challenge(challenge) => {
                let reply = Reply::challenge(BASE64.encode(challenge));
                self.say(Verb::Auth, reply, false, None);
                self.state = State::Auth;
            }
            Answer::Failure(reply) => {
                if reply.is_permanent() {
                    self.errors += 1;
                }
                if reply.code() == 421 {
                    return self.dismiss(Verb::Auth, reply);
                }
                self.say(Verb::Auth, reply, false, None);
            }
            // `Success`: `check` lets no other through.
            _ => {
                self.authenticated = true;
                self.say(Verb::Auth, Reply::authenticated(), false, None);
            }
        }
    }

    /// EHLO or HELO is accepted (RFC 5321 §4.1.4: that resets the transaction).
    fn greet(&mut self, greeting: Greeting, withdrawn: Extensions) {
        self.abort();
        self.chunk_failed = false;
        self.withdrawn = withdrawn;
        let esmtp = greeting.esmtp;
        self.greeting = Some(greeting);
        if esmtp {
            self.say(Verb::Ehlo, self.ehlo_reply(), false, None);
        } else {
            let reply = Reply::helo(&self.config.hostname);
            self.say(Verb::Helo, reply, false, None);
        }
    }

    fn ehlo_reply(&self) -> Reply {
        let config = &self.config;
        let mut lines = vec![config.hostname.clone()];
        for keyword in self.offered().extensions.keywords() {
            lines.push(match keyword {
                "SIZE" => format!("SIZE {}", config.max_message_size),
                "LIMITS" => match config.max_messages {
                    Some(messages) => {
                        format!("LIMITS MAILMAX={messages} RCPTMAX={}", config.max_recipients)
                    }
                    None => format!("LIMITS RCPTMAX={}", config.max_recipients),
                },
                other => other.to_owned(),
            });
        }
        if config.starttls && !self.tls {
            lines.push("STARTTLS".to_owned());
        }
        if self.auth_offered() {
            lines.push(format!("AUTH {}", config.mechanisms.join(" ")));
        }
        Reply::multi_line(250, None, lines)
    }
}

impl Stage {
    fn verb(&self) -> Verb {
        match self {
            Stage::Connect => Verb::Connect,
            Stage::Hello(greeting) if greeting.esmtp => Verb::Ehlo,
            Stage::Hello(_) => Verb::Helo,
            Stage::Auth => Verb::Auth,
            Stage::Mail(_) => Verb::Mail,
            Stage::Rcpt(_) => Verb::Rcpt,
            Stage::Data => Verb::Data,
            Stage::Chunk(_) => Verb::Bdat,
            Stage::Message => Verb::Message,
        }
    }

    /// Whether the client must wait for this stage's reply before it sends anything.
    fn synchronises(&self) -> bool {
        matches!(self, Stage::Connect | Stage::Hello(_) | Stage::Auth | Stage::Data)
    }

    /// Whether this stage takes the answer, and the answer's code fits.
    pub(super) fn check(&self, answer: &Answer) -> Result<(), Misuse> {
        let takes = match answer {
            Answer::Disconnect(_) => true,
            Answer::Challenge(_) | Answer::Success | Answer::Failure(_) => {
                matches!(self, Stage::Auth)
            }
            Answer::Accept | Answer::Refuse(_) => !matches!(self, Stage::Auth),
            Answer::Withdraw(_) => matches!(self, Stage::Hello(_)),
            Answer::AcceptWith(_) => {
                matches!(self, Stage::Mail(_) | Stage::Rcpt(_) | Stage::Message)
            }
        };
        if !takes {
            return Err(Misuse::WrongAnswer);
        }
        let code_fits = match answer {
            Answer::AcceptWith(reply) => reply.is_positive(),
            Answer::Refuse(reply) | Answer::Disconnect(reply) | Answer::Failure(reply) => reply.is_refusal(),
            _ => true,
        };
        if code_fits { Ok(()) } else { Err(Misuse::WrongCode) }
    }
}

impl Answer {
    fn reply_or(self, standard: fn() -> Reply) -> Reply {
        match self {
            Answer::AcceptWith(reply) => reply,
            _ => standard(),
        }
    }
}
