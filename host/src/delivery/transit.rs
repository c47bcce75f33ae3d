//! A claimed message on its way: its parts go to their destinations, their results come back, and the message is
//! settled.
//!
//! A message is split into one [`Part`] for each destination. Whoever holds a part ends it with the results for its
//! recipients; one that is dropped unended (a task that was cancelled, or panicked) ends by itself, so that no
//! message is ever left claimed. After the last part come the notices, then the settling. A recipient that has been
//! delivered while other parts still go on is recorded at once, because a crash would deliver it again.
//!
//! Notices are queued before the message is settled: a crash between the two repeats a notice rather than losing it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use gatepost_smtp::client::Answer;
use gatepost_smtp::reply::{Enhanced, Reply};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::content::Content;
use super::destination::Destination;
use super::dsn::{self, Kind, Report, Speaker};
use super::hooks::{AttemptResult, MAX_PAUSE, Outcome};
use super::route::Place;
use super::schedule;
use super::settings::DeliveryConfig;
use crate::maillog::{self, DeliveryEvent};
use crate::message::{Id, QueueState, RecipientStatus};
use crate::metrics::DeliveryResult;
use crate::spool::Claimed;

/// How long a message waits whose notice the spool would not take.
const NOTICE_RETRY: Duration = Duration::from_secs(300);

/// A message that is being attempted.
pub struct Transit {
    pub shared: Arc<Shared>,
    pub config: Arc<DeliveryConfig>,
    pub id: Id,
    /// As it was claimed.
    pub state: Arc<QueueState>,
    /// The pause after this attempt, unless the policy or the circumstances say otherwise; drawn when it is needed.
    pause: OnceLock<Duration>,
    claimed: tokio::sync::Mutex<Option<Claimed>>,
    results: Mutex<Results>,
    /// Parts that have not ended.
    parts: AtomicUsize,
    /// Counts the message as in flight.
    _permit: OwnedSemaphorePermit,
}

struct Results {
    /// By recipient; `None` has not ended, or was not attempted.
    ended: Vec<Option<Ended>>,
    /// A reason to hold the message when it is settled.
    hold: Option<String>,
    /// No attempt was made for some recipients: they come back after this time, at once if it is zero.
    postponed: Option<Duration>,
}

/// How it ended for one recipient.
#[derive(Clone)]
pub struct Ended {
    pub outcome: Outcome,
    pub answer: Answer,
    /// The host that answered, and the connection's `TLSv1.2` or `TLSv1.3`.
    pub place: Option<Place>,
    pub tls: Option<&'static str>,
    /// The next hop promised to send the notices that the sender asked for, so we do not (RFC 3461 §5.2.2).
    pub promised: bool,
    /// Into a mailbox, not to another relay.
    pub final_delivery: bool,
    /// The policy's own pause.
    pub pause: Option<Duration>,
}

impl Ended {
    /// An answer that was not given by a host.
    pub fn by_us(outcome: Outcome, answer: Answer) -> Ended {
        Ended {
            outcome,
            answer,
            place: None,
            tls: None,
            promised: false,
            final_delivery: false,
            pause: None,
        }
    }

    /// What a reply means for its recipient.
    pub fn from_answer(answer: Answer) -> Ended {
        let outcome = if answer.reply.is_positive() {
            Outcome::Delivered
        } else if answer.reply.is_permanent() {
            Outcome::Failed
        } else {
            Outcome::Deferred
        };
        Ended::by_us(outcome, answer)
    }
}

/// The recipients of a message that go to one destination. Ends exactly once.
pub struct Part {
    pub message: Arc<Transit>,
    /// Indices into the envelope's recipients.
    pub recipients: Vec<usize>,
    ended: bool,
}

impl Transit {
    /// Takes charge of a claimed message. It ends, and is settled, when [`Part::end`] was called for as many parts as
    /// [`Transit::split`] makes.
    pub fn new(
        shared: Arc<Shared>,
        config: Arc<DeliveryConfig>,
        claimed: Claimed,
        permit: OwnedSemaphorePermit,
    ) -> Transit {
        let state = claimed.state.clone();
        let results = Results {
            ended: vec![None; state.envelope.recipients.len()],
            hold: None,
            postponed: None,
        };
        Transit {
            shared,
            config,
            id: claimed.id,
            state,
            pause: OnceLock::new(),
            claimed: tokio::sync::Mutex::new(Some(claimed)),
            results: Mutex::new(results),
            parts: AtomicUsize::new(0),
            _permit: permit,
        }
    }

    /// The recipients that wait for an attempt.
    pub fn pending(&self) -> Vec<usize> {
        let recipients = self.state.envelope.recipients.iter().enumerate();
        recipients
            .filter(|(_, rcpt)| rcpt.status == RecipientStatus::Pending)
            .map(|(index, _)| index)
            .collect()
    }

    /// Holds the message once its parts have ended.
    pub fn hold(&self, reason: String) {
        self.results.lock().hold = Some(reason);
    }

    /// Makes the parts. At least one: a message for whom nothing is to be attempted ends through an empty part.
    pub fn split(self: Arc<Transit>, groups: Vec<Vec<usize>>) -> Vec<Part> {
        self.parts.store(groups.len(), Ordering::Relaxed);
        let part = |recipients| Part {
            message: self.clone(),
            recipients,
            ended: false,
        };
        groups.into_iter().map(part).collect()
    }

    /// What goes out.
    pub async fn content(&self) -> Result<Content, Trouble> {
        let (head, body) = self
            .shared
            .spool
            .content(self.id)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => Trouble::Spoilt(error.to_string()),
                _ => Trouble::Temporary(format!("cannot read the message from the spool: {error}")),
            })?;
        Ok(Content::new(head, body, self.shared.spool.clone()))
    }

    async fn part_ended(&self, mut ended: Vec<(usize, Ended)>, via: Option<&Destination>) {
        self.expire(&mut ended);
        self.tell_policy(&mut ended, via).await;
        self.log(&ended, via);
        let definite = ended.iter().any(|(_, ended)| ended.outcome != Outcome::Deferred);
        {
            let mut results = self.results.lock();
            for (recipient, ended) in ended {
                results.ended[recipient] = Some(ended);
            }
        }
        if self.parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish().await;
        } else if definite {
            self.checkpoint().await;
        }
    }

    /// What has been tried for long enough has failed (RFC 5321 §4.5.4.1).
    fn expire(&self, ended: &mut [(usize, Ended)]) {
        if self.age() < self.config.expire_after {
            return;
        }
        for (_, ended) in ended.iter_mut().filter(|(_, ended)| ended.outcome == Outcome::Deferred) {
            let text = format!(
                "delivery time expired; the last attempt ended with: {}",
                ended.answer.reply
            );
            ended.outcome = Outcome::Failed;
            ended.answer = Answer::local(Reply::new(554, Enhanced(5, 4, 7), text));
        }
    }

    async fn tell_policy(&self, ended: &mut [(usize, Ended)], via: Option<&Destination>) {
        if !self.shared.policy.wants_on_delivery() {
            return;
        }
        for (recipient, ended) in ended {
            let attempt = AttemptResult {
                recipient: *recipient,
                outcome: ended.outcome,
                next_hop: match (&ended.place, via) {
                    (Some(place), _) => format!("{}:{}", place.host, place.address.port()),
                    (None, via) => via.map_or_else(String::new, |destination| destination.name.clone()),
                },
                reply: ended.answer.reply.to_string(),
            };
            let pause = self.shared.policy.on_delivery(self.id, &self.state, &attempt).await;
            ended.pause = pause.map(|pause| pause.min(MAX_PAUSE)).or(ended.pause);
        }
    }

    /// One event for those that ended in the same way.
    fn log(&self, ended: &[(usize, Ended)], via: Option<&Destination>) {
        let route = via.map_or(&self.config.default, |destination| &destination.key.route);
        let now = SystemTime::now();
        let mut rest: Vec<&(usize, Ended)> = ended.iter().collect();
        while let Some((_, first)) = rest.first().copied() {
            let same = |(_, ended): &&(usize, Ended)| {
                ended.outcome == first.outcome && ended.answer == first.answer && ended.place == first.place
            };
            let recipients: Vec<&str> = rest
                .iter()
                .copied()
                .filter(same)
                .map(|(recipient, _)| self.state.envelope.recipients[*recipient].address.as_str())
                .collect();
            rest.retain(|one| !same(one));
            for _ in &recipients {
                route.metrics.recipient(match first.outcome {
                    Outcome::Delivered => DeliveryResult::Delivered,
                    Outcome::Deferred => DeliveryResult::Deferred,
                    Outcome::Failed => DeliveryResult::Failed,
                    Outcome::Discarded => DeliveryResult::Discarded,
                });
                if matches!(first.outcome, Outcome::Delivered | Outcome::Failed) {
                    self.shared.metrics.queue_seconds.observe(self.age().as_secs_f64());
                }
            }
            let deferred = first.outcome == Outcome::Deferred;
            maillog::delivery(&DeliveryEvent {
                message_id: self.id,
                sender: &self.state.envelope.sender,
                recipients: &recipients,
                result: first.outcome.as_str(),
                route: &route.route.name,
                next_hop: match (&first.place, via) {
                    (Some(place), _) => &place.host,
                    (None, via) => via.map_or("", |destination| &destination.name),
                },
                address: first.place.as_ref().map(|place| place.address),
                tls: first.tls,
                reply: &first.answer.reply.to_string(),
                attempt: self.state.attempts + 1,
                age: self.age(),
                next_attempt: deferred.then(|| now + first.pause.unwrap_or_else(|| self.pause())),
            });
        }
    }

    fn pause(&self) -> Duration {
        let draw = || schedule::pause(&self.config.retry, self.state.attempts + 1, schedule::chance());
        *self.pause.get_or_init(draw)
    }

    fn age(&self) -> Duration {
        SystemTime::now()
            .duration_since(self.state.origin.received)
            .unwrap_or_default()
    }

    /// The state with what is known so far.
    fn state_so_far(&self) -> QueueState {
        let results = self.results.lock();
        let mut state = QueueState::clone(&self.state);
        let mut attempted = false;
        let mut pause: Option<Duration> = None;
        for (recipient, ended) in state.envelope.recipients.iter_mut().zip(&results.ended) {
            let Some(ended) = ended else { continue };
            attempted = true;
            match ended.outcome {
                Outcome::Delivered => {
                    recipient.status = RecipientStatus::Delivered {
                        reply: ended.answer.reply.to_string(),
                    }
                }
                Outcome::Failed => {
                    recipient.status = RecipientStatus::Failed {
                        reply: ended.answer.reply.to_string(),
                    }
                }
                Outcome::Discarded => recipient.status = RecipientStatus::Discarded,
                Outcome::Deferred => {
                    state.last_error = Some(ended.answer.reply.to_string());
                    // The message comes back for whoever is due first.
                    let own = ended.pause.unwrap_or_else(|| self.pause());
                    pause = Some(pause.map_or(own, |pause| pause.min(own)));
                }
            }
        }
        state.attempts += u32::from(attempted);
        let pause = [pause, results.postponed].into_iter().flatten().min();
        state.next_attempt = pause
            .filter(|pause| !pause.is_zero())
            .map(|pause| SystemTime::now() + pause);
        state.held = state.held.or_else(|| results.hold.clone());
        state
    }

    /// Records what is definite while other parts go on. The claim is given back for a moment, and taken again.
    async fn checkpoint(&self) {
        let mut claim = self.claimed.lock().await;
        let Some(claimed) = claim.take() else { return };
        let mut state = self.state_so_far();
        state.attempts = self.state.attempts;
        state.held.clone_from(&self.state.held);
        // For a crash: when the recipients that are still being attempted are tried again.
        state.next_attempt = Some(SystemTime::now() + self.pause());
        if let Err(error) = self.shared.spool.settle(claimed, state).await {
            tracing::warn!(message_id = %self.id, %error, "cannot record deliveries");
        }
        // None if an operator has removed or held it meanwhile.
        *claim = self.shared.spool.claim(self.id);
    }

    /// The last part has ended.
    async fn finish(&self) {
        let mut state = self.state_so_far();
        if let Err(error) = self.send_notices(&mut state).await {
            tracing::warn!(message_id = %self.id, %error, "cannot queue a notice; its recipients stay in the queue");
        }
        let mut claim = self.claimed.lock().await;
        // A checkpoint may have lost it to an operator who has let go since.
        let Some(claimed) = claim.take().or_else(|| self.shared.spool.claim(self.id)) else {
            return;
        };
        let untouched = state.attempts == self.state.attempts && state.held.is_none() && state.next_attempt.is_none();
        if untouched && !state.is_finished() {
            // Nothing was attempted: dropped, it goes back as it was, without a record.
            return;
        }
        if let Err(error) = self.shared.spool.settle(claimed, state).await {
            tracing::warn!(message_id = %self.id, %error, "cannot record the end of an attempt");
        }
    }

    /// Queues the notices that are due. If the spool refuses one about failures, those recipients stay pending, and
    /// what failed them will do so again.
    async fn send_notices(&self, state: &mut QueueState) -> Result<(), crate::spool::SpoolError> {
        let ended = self.results.lock().ended.clone();
        let sender = &self.state.envelope.sender;
        let late = self.config.delay_notice.is_some_and(|after| self.age() >= after) && !state.delay_notified;
        let kind_of = |recipient: usize, ended: &Ended| {
            let notify = self.state.envelope.recipients[recipient].params.notify;
            let kind = match ended.outcome {
                Outcome::Failed => Kind::Failed,
                Outcome::Deferred if late => Kind::Delayed,
                Outcome::Delivered if !ended.promised => Kind::Success,
                _ => return None,
            };
            dsn::due(kind, sender, notify).then_some(kind)
        };
        let mut by_kind: [(Kind, Vec<usize>); 3] =
            [Kind::Failed, Kind::Delayed, Kind::Success].map(|kind| (kind, Vec::new()));
        for (recipient, one) in ended.iter().enumerate() {
            let Some(kind) = one.as_ref().and_then(|one| kind_of(recipient, one)) else {
                continue;
            };
            for (_, list) in by_kind.iter_mut().filter(|(of, _)| *of == kind) {
                list.push(recipient);
            }
        }
        if by_kind.iter().all(|(_, list)| list.is_empty()) {
            return Ok(());
        }
        // A message that cannot be read still deserves its notice.
        let content = self.content().await.ok();
        let now = SystemTime::now();
        let speaker = Speaker {
            hostname: &self.config.hostname,
            bounce_hostname: &self.config.bounce_hostname,
            now,
            retry_until: state.origin.received + self.config.expire_after,
        };
        let mut result = Ok(());
        for (kind, recipients) in &by_kind {
            for some in recipients.chunks(dsn::MAX_RECIPIENTS) {
                let reports: Vec<Report<'_>> = some
                    .iter()
                    .filter_map(|recipient| {
                        let ended = ended[*recipient].as_ref()?;
                        Some(Report {
                            recipient: &self.state.envelope.recipients[*recipient],
                            action: match kind {
                                Kind::Failed => "failed",
                                Kind::Delayed => "delayed",
                                Kind::Success if ended.final_delivery => "delivered",
                                Kind::Success => "relayed",
                            },
                            answer: &ended.answer,
                            host: ended.place.as_ref().map(|place| &*place.host),
                        })
                    })
                    .collect();
                let notice = dsn::compose(*kind, &speaker, &self.state, &reports, content.as_ref()).await;
                let notice_id = notice.id;
                match self.shared.spool.append(notice).await {
                    Ok(()) => {
                        state.delay_notified |= *kind == Kind::Delayed;
                        maillog::dsn(self.id, notice_id, kind.as_str(), sender);
                    }
                    Err(error) if *kind == Kind::Failed => {
                        for recipient in some {
                            state.envelope.recipients[*recipient].status = RecipientStatus::Pending;
                        }
                        state.next_attempt = Some(now + NOTICE_RETRY);
                        result = Err(error);
                    }
                    // The next attempt sends the delay notice; a success is the least of the worries.
                    Err(error) => result = Err(error),
                }
            }
        }
        result
    }
}

/// Why a message's content cannot be had.
pub enum Trouble {
    /// The disk has spoilt it: an operator has to look.
    Spoilt(String),
    Temporary(String),
}

impl Part {
    /// Ends the part with what an attempt came to for its recipients, at a destination. Recipients that are missing
    /// were not attempted.
    pub async fn end(self, ended: Vec<(usize, Ended)>, via: &Arc<Destination>) {
        self.record(ended, Some(via.clone())).await;
    }

    /// The same answer for all.
    pub async fn end_all(self, ended: Ended, via: &Arc<Destination>) {
        let all = self
            .recipients
            .iter()
            .map(|recipient| (*recipient, ended.clone()))
            .collect();
        self.end(all, via).await;
    }

    /// As [`Part::end_all`], for what was decided before there was a destination.
    pub async fn end_before(self, ended: Vec<(usize, Ended)>) {
        self.record(ended, None).await;
    }

    /// No attempt was made: back into the queue for `pause`.
    pub async fn postpone(self, pause: Duration) {
        {
            let mut results = self.message.results.lock();
            results.postponed = Some(results.postponed.map_or(pause, |other| other.min(pause)));
        }
        self.record(Vec::new(), None).await;
    }

    /// In a task of its own, because a worker that is interrupted must not forget what was delivered.
    async fn record(mut self, ended: Vec<(usize, Ended)>, via: Option<Arc<Destination>>) {
        self.ended = true;
        let message = self.message.clone();
        // It fails only if it panicked, which the panic hook has reported.
        let _ = tokio::spawn(async move { message.part_ended(ended, via.as_deref()).await }).await;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Without a runtime the process is ending, and the claim ends with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (message, recipients) = (self.message.clone(), std::mem::take(&mut self.recipients));
        let ended = if message.shared.is_stopping() {
            Vec::new()
        } else {
            // A fault of ours must not become a message that is attempted without pause.
            let answer = Answer::local(Reply::new(
                451,
                Enhanced(4, 3, 0),
                "the attempt was abandoned by an internal error",
            ));
            let ended = Ended::by_us(Outcome::Deferred, answer);
            recipients.iter().map(|recipient| (*recipient, ended.clone())).collect()
        };
        runtime.spawn(async move { message.part_ended(ended, None).await });
    }
}
