//! One attempt for one part of a message: over SMTP, into a maildir, or into nothing.
//!
//! SMTP takes the worker's open session or opens one. A session that turns out to be dead before the content was sent
//! is replaced once, without a word to the queue: servers close idle connections. Recipients that the first host
//! defers are tried at the next one (RFC 5321 §5.1), within the same attempt and once. Every recipient gets an end;
//! the queue decides the rest.

use std::path::Path;
use std::sync::Arc;

use gatepost_smtp::client::{Answer, Envelope, Recipient};
use gatepost_smtp::reply::{Enhanced, Reply};
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::connection::{Connection, Transacted};
use super::content::Content;
use super::destination::Destination;
use super::hooks::Outcome;
use super::maildir::{self, Labels};
use super::route::Place;
use super::transit::{Ended, Part, Transit, Trouble};
use crate::message::Notify;

/// The most of a header that is looked at to see whether a message needs SMTPUTF8, in bytes.
const MAX_HEADER: usize = 64 * 1024;

/// An open connection and what belongs to it.
pub struct Session {
    connection: Connection,
    /// The places behind the one that it leads to.
    rest: Vec<Place>,
    /// Transactions that it may carry.
    most: u32,
    _standing: Standing,
    _permit: OwnedSemaphorePermit,
}

/// Counts a session in its destination, however it ends.
struct Standing(Arc<Destination>);

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

impl Session {
    async fn open(destination: &Arc<Destination>, shared: &Arc<Shared>, message: &Transit) -> Result<Session, Answer> {
        let key = &destination.key;
        let places = key.places(&message.config, &shared.dns).await?;
        let permit = shared.connections.clone().acquire_owned().await.map_err(|_| {
            // Never closed while there are workers.
            Answer::local(Reply::new(451, Enhanced(4, 3, 2), "delivery is ending"))
        })?;
        let (connection, index) = Connection::open(&message.config, key, &places).await?;
        destination.connected(shared);
        let by_us = key.route.route.messages_per_connection;
        let by_them = connection.client().capabilities().mail_max.unwrap_or(u32::MAX);
        Ok(Session {
            connection,
            rest: places[index + 1..].to_vec(),
            most: by_us.min(by_them).max(1),
            _standing: Standing(destination.clone()),
            _permit: permit,
        })
    }

    fn is_used_up(&self) -> bool {
        !self.connection.is_ready() || self.connection.transactions() >= self.most
    }

    /// As [`Connection::spoilt`].
    pub async fn spoilt(&mut self) {
        self.connection.spoilt().await;
    }

    /// Says goodbye, if there is still somebody to say it to.
    pub async fn quit(self) {
        let Session {
            connection,
            _standing,
            _permit,
            ..
        } = self;
        if connection.is_ready() {
            connection.quit().await;
        }
    }
}

/// Attempts a part over the worker's session. `Some`: no session could be had, and nothing was attempted; the part
/// comes back with the reason.
pub async fn smtp(
    destination: &Arc<Destination>,
    shared: &Arc<Shared>,
    session: &mut Option<Session>,
    part: Part,
) -> Option<(Part, Answer)> {
    let message = part.message.clone();
    let content = match message.content().await {
        Ok(content) => content,
        Err(trouble) => {
            in_trouble(destination, part, trouble).await;
            return None;
        }
    };
    let mut ended: Vec<(usize, Ended)> = Vec::with_capacity(part.recipients.len());
    let mut replaced = false;
    while ended.len() < part.recipients.len() {
        if session.as_ref().is_some_and(Session::is_used_up)
            && let Some(old) = session.take()
        {
            old.quit().await;
        }
        let current = match session {
            Some(session) => session,
            None => match Session::open(destination, shared, &message).await {
                Ok(new) => session.insert(new),
                Err(answer) if ended.is_empty() => return Some((part, answer)),
                Err(answer) => {
                    let rest = &part.recipients[ended.len()..];
                    ended.extend(
                        rest.iter()
                            .map(|recipient| (*recipient, Ended::from_answer(answer.clone()))),
                    );
                    break;
                }
            },
        };
        let connection = &mut current.connection;
        let was_used = connection.transactions() > 0;
        let most = connection.client().capabilities().rcpt_max.unwrap_or(usize::MAX);
        let batch: Vec<usize> = part.recipients[ended.len()..].iter().copied().take(most).collect();
        let transacted = transact(connection, &message, &batch, &content).await;
        if was_used && !replaced && connection.was_cut() && !transacted.uncertain {
            replaced = true;
            *session = None;
            continue;
        }
        let uncertain = transacted.uncertain;
        let mut results = results(connection, &message, &batch, transacted);
        if !uncertain && !current.rest.is_empty() {
            elsewhere(destination, shared, &message, &current.rest, &content, &mut results).await;
        }
        ended.extend(results);
    }
    part.end(ended, destination).await;
    None
}

/// Tries the recipients that were deferred at the next host.
async fn elsewhere(
    destination: &Destination,
    shared: &Shared,
    message: &Transit,
    places: &[Place],
    content: &Content,
    results: &mut [(usize, Ended)],
) {
    let deferred: Vec<usize> = results
        .iter()
        .filter(|(_, ended)| ended.outcome == Outcome::Deferred)
        .map(|(recipient, _)| *recipient)
        .collect();
    if deferred.is_empty() {
        return;
    }
    // Not worth waiting for: the schedule brings them back.
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        return;
    };
    let Ok((mut connection, _)) = Connection::open(&message.config, &destination.key, places).await else {
        return;
    };
    let transacted = transact(&mut connection, message, &deferred, content).await;
    let mut second = self::results(&connection, message, &deferred, transacted).into_iter();
    for result in results
        .iter_mut()
        .filter(|(_, ended)| ended.outcome == Outcome::Deferred)
    {
        if let Some(better) = second.next() {
            *result = better;
        }
    }
    if connection.is_ready() {
        // Not waited for: what was delivered has to be recorded.
        tokio::spawn(async move {
            connection.quit().await;
            drop(permit);
        });
    }
}

async fn transact(connection: &mut Connection, message: &Transit, batch: &[usize], content: &Content) -> Transacted {
    let envelope = &message.state.envelope;
    let recipients: Vec<Recipient<'_>> = batch
        .iter()
        .map(|index| {
            let recipient = &envelope.recipients[*index];
            Recipient {
                address: &recipient.address,
                notify: recipient.params.notify.map(notify),
                orcpt: recipient.params.orcpt.as_deref(),
            }
        })
        .collect();
    // Clients declare SMTPUTF8 for anything; only a header that has UTF-8 keeps the message from going without.
    let utf8_header = envelope.params.smtputf8
        && !connection.client().capabilities().smtputf8
        && match content.beginning(MAX_HEADER).await {
            Ok(beginning) => {
                let end = beginning
                    .windows(4)
                    .position(|window| window == b"\r\n\r\n")
                    .unwrap_or(beginning.len());
                !beginning[..end].is_ascii()
            }
            Err(_) => true,
        };
    let envelope = Envelope {
        sender: &envelope.sender,
        size: content.len(),
        eight_bit: envelope.params.eight_bit,
        smtputf8: envelope.params.smtputf8,
        utf8_header,
        ret_full: envelope.params.ret_full,
        envid: envelope.params.envid.as_deref(),
        recipients: &recipients,
    };
    connection.transact(&envelope, content).await
}

fn results(connection: &Connection, message: &Transit, batch: &[usize], transacted: Transacted) -> Vec<(usize, Ended)> {
    let promised = connection.client().capabilities().dsn;
    let end = |(recipient, answer): (&usize, Answer)| {
        let asked = message.state.envelope.recipients[*recipient].params.notify.is_some();
        let ended = Ended {
            place: Some(connection.place().clone()),
            tls: connection.tls_version(),
            promised: promised && asked,
            ..Ended::from_answer(answer)
        };
        (*recipient, ended)
    };
    batch.iter().zip(transacted.answers).map(end).collect()
}

/// NOTIFY's value (RFC 3461 §4.1).
fn notify(notify: Notify) -> &'static str {
    match (notify.success, notify.failure, notify.delay) {
        (false, false, false) => "NEVER",
        (true, false, false) => "SUCCESS",
        (false, true, false) => "FAILURE",
        (false, false, true) => "DELAY",
        (true, true, false) => "SUCCESS,FAILURE",
        (true, false, true) => "SUCCESS,DELAY",
        (false, true, true) => "FAILURE,DELAY",
        (true, true, true) => "SUCCESS,FAILURE,DELAY",
    }
}

/// Stores a part in a maildir.
pub async fn maildir(destination: &Arc<Destination>, path: &Path, part: Part) {
    let message = part.message.clone();
    let content = match message.content().await {
        Ok(content) => content,
        Err(trouble) => return in_trouble(destination, part, trouble).await,
    };
    let envelope = &message.state.envelope;
    let recipients = part
        .recipients
        .iter()
        .map(|index| envelope.recipients[*index].address.as_str())
        .collect();
    let labels = Labels {
        sender: &envelope.sender,
        recipients,
    };
    let reply = match maildir::deliver(path, &message.config.hostname, &labels, &content).await {
        Ok(name) => Reply::new(250, Enhanced(2, 0, 0), format!("stored as {name}")),
        Err(error) => Reply::new(
            451,
            Enhanced(4, 2, 0),
            format!("cannot write to the maildir {}: {error}", path.display()),
        ),
    };
    let ended = Ended {
        final_delivery: true,
        ..Ended::from_answer(Answer::local(reply))
    };
    part.end_all(ended, destination).await;
}

/// Takes a part and keeps nothing.
pub async fn discard(destination: &Arc<Destination>, part: Part) {
    let reply = Reply::new(250, Enhanced(2, 0, 0), "discarded");
    let ended = Ended {
        final_delivery: true,
        ..Ended::from_answer(Answer::local(reply))
    };
    part.end_all(ended, destination).await;
}

async fn in_trouble(destination: &Arc<Destination>, part: Part, trouble: Trouble) {
    match trouble {
        Trouble::Temporary(text) => {
            let answer = Answer::local(Reply::new(451, Enhanced(4, 3, 0), text));
            part.end_all(Ended::from_answer(answer), destination).await;
        }
        Trouble::Spoilt(text) => {
            tracing::error!(message_id = %part.message.id, error = text, "a queued message is damaged; it is held");
            part.message.hold(format!("the message is damaged on the disk: {text}"));
            part.postpone(std::time::Duration::ZERO).await;
        }
    }
}
