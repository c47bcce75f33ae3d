//! One inbound connection, from its first byte to its last: the only place where socket, session, policy and spool meet.
//!
//! The loop here drives the sans-IO session of `gatepost-smtp`: it feeds it bytes and time, writes what it says, and has `stages` answer what it
//! asks. A 250 for a message is given only after [`Spool::append`](crate::spool::Spool::append) returned. While a policy thinks, the
//! socket is not read: the client waits in its own buffers. If it leaves meanwhile, the policy finishes and its verdict is dropped.
//!
//! Never here: protocol rules (the session's), what is allowed (the policies' and the gate's), durability (the spool's). An
//! error of the socket ends the connection and nothing else.

mod accept;
mod login;
mod stages;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_smtp::command::Verb;
use gatepost_smtp::reply::{Enhanced, Reply};
use gatepost_smtp::session::{CloseReason, Replied, Session, Step};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::config::ListenerTls;
use crate::listener::Listener;
use crate::maillog::{self, Refusal, SessionTotals};
use crate::message::{Id, SessionFacts};
use crate::metrics::Command;
use crate::policy::Policy;
use crate::policy::chain::{self, Event, Scope};
use crate::policy::decision::Stage;
use crate::relay::{Relay, Settings};
use crate::spool::BodyWriter;
use crate::tls;
use login::LoginExchange;
use stream::Stream;

/// How long a client may take to take what it is sent, in one write (RFC 5321 §4.5.3.2.5 gives the other side as much).
const WRITE_TIMEOUT: Duration = Duration::from_secs(3 * 60);
/// How long the goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest sleep for a deadline: a session without one is looked at this often.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// A connection and everything that belongs to its session.
struct Connection {
    relay: Arc<Relay>,
    listener: Arc<Listener>,
    settings: Arc<Settings>,
    /// The policy that this session began with.
    policy: Arc<Policy>,
    stream: Stream,
    session: Session,
    scope: Scope,
    /// The AUTH exchange in progress.
    login: Option<Box<LoginExchange>>,
    login_failures: u32,
    /// The message that is arriving.
    body: Option<BodyWriter>,
    mail_began: Instant,
    /// Why the reply that comes next refuses.
    blame: Option<Box<Blame>>,
    totals: SessionTotals,
    /// The session knows that the daemon ends.
    draining: bool,
}

/// Who refused and why: what the log says, and the reply does not.
#[derive(Default)]
struct Blame {
    reason: String,
    plugin: Option<Arc<str>>,
    stage: Option<Stage>,
    detail: String,
    recipient: Option<String>,
    id: Option<Id>,
}

impl Blame {
    /// Without one of its own: a policy that gave none, or else the protocol.
    fn reason(&self) -> &str {
        match (self.reason.as_str(), &self.plugin) {
            ("", Some(_)) => "policy",
            ("", None) => "protocol",
            (reason, _) => reason,
        }
    }
}

/// Serves one client until it is gone.
pub async fn serve(relay: Arc<Relay>, listener: Arc<Listener>, socket: TcpStream, facts: SessionFacts) {
    let _open = listener.metrics.session();
    maillog::session_started(&facts);
    let mut facts = facts;
    let stream = match listener.settings.tls {
        ListenerTls::Implicit => {
            match Box::pin(handshake(&relay, listener.limits.command_timeout, socket, &mut facts)).await {
                Some(stream) => stream,
                None => return maillog::disconnected(&facts, "tls", &SessionTotals::default()),
            }
        }
        ListenerTls::Starttls | ListenerTls::None => Stream::Plain(socket),
    };
    let policy = relay.policies.for_session(facts.id);
    let mut connection = Connection {
        settings: relay.settings(),
        stream,
        session: Session::new(listener.session.clone(), relay.clock()),
        scope: Scope::new(Arc::new(facts), policy.services.clone()),
        policy,
        login: None,
        login_failures: 0,
        body: None,
        mail_began: Instant::now(),
        blame: None,
        totals: SessionTotals::default(),
        draining: false,
        relay,
        listener,
    };
    let cause = match connection.run().await {
        Ok(reason) => cause(reason),
        Err(_) => "lost",
    };
    connection.end(cause).await;
}

/// The TLS handshake, within `command_timeout`; `None` if it failed, which is logged.
async fn handshake(relay: &Relay, limit: Duration, socket: TcpStream, facts: &mut SessionFacts) -> Option<Stream> {
    let store = relay.tls.read().clone();
    let Some(store) = store else {
        maillog::tls_failed(facts, &"no certificate is configured");
        return None;
    };
    match timeout(limit, store.acceptor().accept(socket)).await {
        Ok(Ok(stream)) => {
            let agreed = tls::facts(stream.get_ref().1);
            relay.metrics.tls(&agreed);
            facts.tls = Some(agreed);
            maillog::tls(facts);
            return Some(Stream::Tls(Box::new(stream)));
        }
        Ok(Err(error)) => maillog::tls_failed(facts, &error),
        Err(_) => maillog::tls_failed(facts, &"it took too long"),
    }
    relay.metrics.tls_failed.inc();
    None
}

impl Connection {
    async fn run(&mut self) -> io::Result<CloseReason> {
        loop {
            match self.session.poll(self.relay.clock()) {
                Step::NeedInput => {
                    self.flush().await?;
                    self.read().await?;
                }
                Step::Ask(ask) => {
                    let answer = self.answer(ask).await?;
                    if self.session.answer(answer).is_err() {
                        return Err(io::Error::other("the session did not take the answer"));
                    }
                }
                Step::Parked => return Err(io::Error::other("the session waits for an answer that nobody owes")),
                Step::Data => self.take_data().await,
                Step::Replied(replied) => self.replied(replied).await,
                Step::Aborted => {
                    self.body = None;
                    self.scope.end_transaction();
                }
                Step::Flush => self.flush().await?,
                Step::StartTls => {
                    self.flush().await?;
                    self.start_tls().await?;
                    self.scope.ask_all_again();
                }
                Step::Close(reason) => {
                    let _ = timeout(CLOSE_TIMEOUT, self.flush()).await;
                    return Ok(reason);
                }
            }
        }
    }

    /// Waits for the client, the session's deadline, or the end of the daemon.
    async fn read(&mut self) -> io::Result<()> {
        let now = self.relay.clock();
        let wait = self.session.deadline().saturating_sub(now).min(DEADLINE_MAX);
        let space = self.session.input_space();
        let (session, relay, totals) = (&mut self.session, &self.relay, &mut self.totals);
        let read = self.stream.read_into(space, |bytes| {
            totals.received_bytes += bytes.len() as u64;
            relay.metrics.received_bytes.inc_by(bytes.len() as u64);
            // The session offered this much room.
            let _ = session.receive(bytes, relay.clock());
        });
        tokio::select! {
            biased;
            read = read => {
                if read? == 0 {
                    self.session.received_eof();
                }
            }
            () = relay.drained(), if !self.draining => {
                self.draining = true;
                self.session.shutdown(Reply::shutting_down());
            }
            () = sleep(wait) => {}
        }
        Ok(())
    }

    /// Writes what the session has to say.
    async fn flush(&mut self) -> io::Result<()> {
        let output = self.session.output();
        if output.is_empty() {
            return Ok(());
        }
        let sent = output.len() as u64;
        let write = async {
            self.stream.write_all(output).await?;
            self.stream.flush().await
        };
        timeout(WRITE_TIMEOUT, write)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        output.clear();
        self.totals.sent_bytes += sent;
        self.relay.metrics.sent_bytes.inc_by(sent);
        Ok(())
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(io::Error::other("STARTTLS under TLS"));
        };
        let mut facts = (*self.scope.session).clone();
        let Some(stream) = Box::pin(handshake(
            &self.relay,
            self.listener.limits.command_timeout,
            socket,
            &mut facts,
        ))
        .await
        else {
            return Err(io::ErrorKind::ConnectionAborted.into());
        };
        self.stream = stream;
        // RFC 3207 §4.2: what was learnt in the clear is forgotten.
        facts.ehlo = None;
        facts.esmtp = false;
        self.scope.session = Arc::new(facts);
        self.session
            .start_tls_done(self.relay.clock())
            .map_err(io::Error::other)
    }

    /// Logs and counts a reply, and tells the observers of refusals and logins.
    async fn replied(&mut self, replied: Replied) {
        let message_ended = replied.verb == Verb::Message;
        self.tell_of(replied).await;
        if message_ended {
            self.scope.end_transaction();
        }
    }

    async fn tell_of(&mut self, replied: Replied) {
        let blame = self.blame.take();
        let command = command(replied.verb);
        self.totals.commands += 1;
        self.relay.metrics.command(command);
        self.relay.metrics.reply(command, replied.reply.code());
        let refused = replied.reply.is_refusal();
        if !refused && replied.verb != Verb::Auth {
            return;
        }
        let blame = blame.unwrap_or_default();
        if refused {
            self.totals.refused += 1;
            self.log_refusal(&replied, &blame);
        }
        if self.policy.wants(Stage::Result) && !replied.reply.is_intermediate() {
            let event = Event::Result {
                command: verb_name(replied.verb),
                reply: &replied.reply,
                reason: &blame.reason,
                subject: blame.recipient.as_deref().unwrap_or_default(),
            };
            chain::tell(&self.policy, &mut self.scope, event).await;
        }
    }

    fn log_refusal(&self, replied: &Replied, blame: &Blame) {
        let reason = blame.reason();
        self.relay.metrics.refused(reason);
        let detail = match (&replied.line, blame.detail.as_str()) {
            (Some(line), "") => line,
            (_, detail) => detail,
        };
        maillog::refused(&Refusal {
            session: &self.scope.session,
            id: blame.id.unwrap_or(self.scope.session.id),
            command: verb_name(replied.verb),
            reply: &one_line(&replied.reply),
            reason,
            plugin: blame.plugin.as_deref(),
            stage: blame.stage.map(Stage::name),
            sender: self
                .scope
                .transaction
                .as_ref()
                .map(|transaction| transaction.envelope.sender.as_str()),
            recipient: blame.recipient.as_deref(),
            detail,
        });
    }

    /// Tells everyone that the session is over, and closes the socket.
    async fn end(mut self, cause: &str) {
        self.body = None;
        self.scope.end_transaction();
        chain::tell(&self.policy, &mut self.scope, Event::Disconnect).await;
        maillog::disconnected(&self.scope.session, cause, &self.totals);
        let _ = timeout(CLOSE_TIMEOUT, self.stream.shutdown()).await;
    }
}

fn cause(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Quit => "quit",
        CloseReason::PeerLeft => "lost",
        CloseReason::Policy => "policy",
        CloseReason::Shutdown => "draining",
        CloseReason::TimedOut => "timeout",
        CloseReason::OutOfTurn => "early-talk",
        CloseReason::Http => "http",
        CloseReason::TooManyErrors => "errors",
        CloseReason::TooManyCommands => "commands",
        CloseReason::TooManyMessages => "messages",
        CloseReason::BadChunk => "bad-chunk",
        CloseReason::TooMuchData => "too-much-data",
    }
}

fn one_line(reply: &Reply) -> String {
    let text = reply.text().replace('\n', " / ");
    match reply.enhanced() {
        Some(Enhanced(class, subject, detail)) => format!("{} {class}.{subject}.{detail} {text}", reply.code()),
        None => format!("{} {text}", reply.code()),
    }
}

/// The command's name in logs and for observers.
fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Connect => "CONNECT",
        Verb::Helo => "HELO",
        Verb::Ehlo => "EHLO",
        Verb::StartTls => "STARTTLS",
        Verb::Auth => "AUTH",
        Verb::Mail => "MAIL",
        Verb::Rcpt => "RCPT",
        Verb::Data | Verb::Message => "DATA",
        Verb::Bdat => "BDAT",
        Verb::Rset => "RSET",
        Verb::Noop => "NOOP",
        Verb::Help => "HELP",
        Verb::Vrfy => "VRFY",
        Verb::Quit => "QUIT",
        Verb::Unimplemented | Verb::Http | Verb::Unknown => "UNKNOWN",
    }
}

fn command(verb: Verb) -> Command {
    match verb {
        Verb::Connect => Command::Connect,
        Verb::Helo => Command::Helo,
        Verb::Ehlo => Command::Ehlo,
        Verb::StartTls => Command::Starttls,
        Verb::Auth => Command::Auth,
        Verb::Mail => Command::Mail,
        Verb::Rcpt => Command::Rcpt,
        Verb::Data => Command::Data,
        Verb::Bdat => Command::Bdat,
        Verb::Message => Command::Message,
        Verb::Rset => Command::Rset,
        Verb::Noop => Command::Noop,
        Verb::Help => Command::Help,
        Verb::Vrfy => Command::Vrfy,
        Verb::Quit => Command::Quit,
        Verb::Unimplemented | Verb::Http | Verb::Unknown => Command::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::Blame;

    #[test]
    fn a_refusal_without_a_reason_is_the_policys_or_the_protocols() {
        let blame = |reason: &str, plugin: Option<&str>| Blame {
            reason: reason.to_owned(),
            plugin: plugin.map(Into::into),
            ..Blame::default()
        };
        for (blame, expected) in [
            (blame("", None), "protocol"),
            (blame("", Some("rbl")), "policy"),
            (blame("listed", Some("rbl")), "listed"),
            (blame("not-authenticated", None), "not-authenticated"),
        ] {
            assert_eq!(blame.reason(), expected);
        }
    }
}
