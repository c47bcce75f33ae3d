//! Delivery: from the spool to the next hop, or back to the sender.
//!
//! ```text
//! spool --claim_due--> dispatcher --Part--> destination queue --> worker: connection --> next hop
//!   ^                  (on-route,           (bounded, one a       (attempt)                 |
//!   |                   routes)              next hop)                                      |
//!   +--settle, notices (append)------------- transit <----- results, one a recipient -------+
//! ```
//!
//! The dispatcher claims what is due, splits each message by destination and queues the parts ([`route`],
//! [`destination`]). Workers carry them over connections that are kept while there is work ([`attempt`],
//! [`connection`]); results come together in [`transit`], which logs, bounces ([`dsn`]) and settles. It never changes
//! a message and never decides policy: that is asked through [`DeliveryPolicy`].
//!
//! Everything is bounded: messages in flight ([`MAX_IN_FLIGHT`]), parts queued for a destination
//! ([`destination::MAX_QUEUE`]), connections (configuration). Every failure ends as an answer for a recipient;
//! whatever is not certain to be delivered stays in the spool. A next hop's 250 is queued to the spool before the
//! connection is used again, so a crash can repeat a delivery only within the spool's own delay
//! ([`SETTLE_DELAY`](crate::spool::SETTLE_DELAY)).

#![allow(
    clippy::mutable_key_type,
    reason = "a Key is compared by which route object it has, not by that one's counters"
)]

mod attempt;
mod connection;
mod content;
mod destination;
mod dsn;
mod hooks;
mod maildir;
mod route;
mod schedule;
mod settings;
mod tls;
mod transit;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost_smtp::client::Answer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub use hooks::{AttemptResult, BoxFuture, DeliveryPolicy, MAX_PAUSE, NoPolicy, Outcome, RouteChoice, RouteDecision};
pub use settings::{DeliveryConfig, RouteRuntime, SMTP_PORT};
pub use tls::ClientTls;

use crate::dns::Dns;
use crate::metrics::Metrics;
use crate::spool::{Claimed, Spool};
use destination::{Destination, Refused};
use route::Key;
use transit::{Ended, Part, Transit};

/// Messages that are claimed at a time. Each holds its envelope in memory, not its content.
pub const MAX_IN_FLIGHT: usize = 10_000;
/// Messages that are claimed at once.
const CLAIM_BATCH: usize = 256;
/// Recipients in one part, and so in one transaction; RFC 5321 §4.5.3.1.8 lets a server refuse more.
const MAX_RECIPIENTS: usize = 100;
/// Messages whose on-route hooks run at a time.
const MAX_ROUTING: usize = 64;
/// How long the dispatcher waits for room in a destination's queue, before it turns to others.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// How long what a full queue had no room for stays in the spool; it varies by up to as much again.
const OVERFLOW_PAUSE: Duration = Duration::from_secs(60);
/// Destinations that are remembered; beyond that the unused ones are forgotten.
const MAX_DESTINATIONS: usize = 4_096;
/// After the deadline of a drain: how long the interrupted messages have to be given back.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// Starts delivery.
pub struct Delivery;

/// Running delivery. It goes on when the handle is dropped, as long as the runtime does; [`DeliveryHandle::drain`]
/// ends it.
pub struct DeliveryHandle {
    shared: Arc<Shared>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
}

/// What all of delivery shares.
struct Shared {
    config: RwLock<Arc<DeliveryConfig>>,
    spool: Spool,
    dns: Dns,
    policy: Arc<dyn DeliveryPolicy>,
    metrics: Arc<Metrics>,
    destinations: Mutex<HashMap<Key, Arc<Destination>>>,
    in_flight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Permits that `connections` has in all.
    connections_total: Mutex<usize>,
    routing: Arc<Semaphore>,
    /// No more claims.
    draining: watch::Sender<bool>,
    /// Attempts are interrupted.
    stop: watch::Sender<bool>,
}

impl Delivery {
    /// Begins to deliver what is due. Must be called within a tokio runtime.
    pub fn start(
        config: Arc<DeliveryConfig>,
        spool: Spool,
        dns: Dns,
        policy: Arc<dyn DeliveryPolicy>,
        metrics: Arc<Metrics>,
    ) -> DeliveryHandle {
        let total = config.connections_total;
        let shared = Arc::new(Shared {
            config: RwLock::new(config),
            spool,
            dns,
            policy,
            metrics,
            destinations: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            connections: Arc::new(Semaphore::new(total)),
            connections_total: Mutex::new(total),
            routing: Arc::new(Semaphore::new(MAX_ROUTING)),
            draining: watch::Sender::new(false),
            stop: watch::Sender::new(false),
        });
        let dispatcher = tokio::spawn(dispatch(shared.clone()));
        DeliveryHandle {
            shared,
            dispatcher: Mutex::new(Some(dispatcher)),
        }
    }
}

impl DeliveryHandle {
    /// Takes over a new configuration for all messages that are claimed from now on. What is queued for a next hop
    /// already is delivered as it was.
    pub fn reload(&self, config: Arc<DeliveryConfig>) {
        let mut total = self.shared.connections_total.lock();
        let wanted = config.connections_total;
        if wanted > *total {
            self.shared.connections.add_permits(wanted - *total);
            *total = wanted;
        } else {
            // Those that are in use come back over time; only free ones can be taken away now.
            *total -= self.shared.connections.forget_permits(*total - wanted);
        }
        drop(total);
        *self.shared.config.write() = config;
        let old = std::mem::take(&mut *self.shared.destinations.lock());
        for destination in old.values() {
            destination.retire();
        }
    }

    /// Tries next hops that were out of reach at once when they are next wanted, rather than after their pause: for an
    /// administrator who asks for an attempt now.
    pub fn forget_outages(&self) {
        for destination in self.shared.destinations.lock().values() {
            destination.forget_outage();
        }
    }

    /// Claims nothing more and waits until all attempts have ended; at the deadline those that are left are
    /// interrupted and their messages given back to the queue. When it returns nothing of delivery uses the spool any
    /// more. True: all had ended.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.shared.draining.send_replace(true);
        let mut dispatcher = self.dispatcher.lock().take();
        let all = u32::try_from(MAX_IN_FLIGHT).unwrap_or(u32::MAX);
        let done = timeout(deadline, async {
            if let Some(dispatcher) = &mut dispatcher {
                // It fails only if it panicked, which the panic hook has reported.
                let _ = dispatcher.await;
            }
            self.shared.in_flight.acquire_many(all).await.map(drop)
        })
        .await
        .is_ok();
        self.shared.stop.send_replace(true);
        if !done {
            if let Some(dispatcher) = dispatcher {
                dispatcher.abort();
            }
            let destinations = std::mem::take(&mut *self.shared.destinations.lock());
            for destination in destinations.values() {
                // Dropped parts give themselves back.
                drop(destination.take_queue());
            }
            let _ = timeout(GIVE_BACK, self.shared.in_flight.acquire_many(all)).await;
        }
        done
    }

    /// For metrics: messages in flight, parts that wait for a connection, and open connections.
    pub fn load(&self) -> DeliveryLoad {
        let mut load = DeliveryLoad {
            in_flight: MAX_IN_FLIGHT - self.shared.in_flight.available_permits(),
            ..Default::default()
        };
        for destination in self.shared.destinations.lock().values() {
            let (queued, connections) = destination.load();
            load.queued += queued;
            load.connections += connections;
        }
        load
    }
}

/// A reading of what delivery is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryLoad {
    pub in_flight: usize,
    pub queued: usize,
    pub connections: usize,
}

impl Shared {
    fn config(&self) -> Arc<DeliveryConfig> {
        self.config.read().clone()
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn destination(&self, key: Key) -> Arc<Destination> {
        let mut destinations = self.destinations.lock();
        if let Some(known) = destinations.get(&key) {
            return known.clone();
        }
        if destinations.len() >= MAX_DESTINATIONS {
            destinations.retain(|_, destination| !destination.is_unused());
        }
        let new = Arc::new(Destination::new(key.clone()));
        destinations.insert(key, new.clone());
        new
    }
}

/// Claims what is due, until delivery drains.
async fn dispatch(shared: Arc<Shared>) {
    let mut draining = shared.draining.subscribe();
    loop {
        let permit = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => return,
            permit = next_permit(&shared) => permit,
        };
        // Never closed.
        let Some(mut permit) = permit else { return };
        let batch = shared.spool.claim_due(SystemTime::now(), permit.num_permits());
        for claimed in batch {
            let Some(one) = permit.split(1) else { break };
            take(&shared, claimed, one).await;
        }
    }
}

/// Waits until something is due and there is room for it, and takes the room for a batch.
async fn next_permit(shared: &Arc<Shared>) -> Option<OwnedSemaphorePermit> {
    let mut permit = shared.in_flight.clone().acquire_owned().await.ok()?;
    shared.spool.wait_due().await;
    let more = shared.in_flight.available_permits().min(CLAIM_BATCH - 1);
    // The dispatcher alone takes permits, so what was available still is.
    if let Ok(more) = shared
        .in_flight
        .clone()
        .try_acquire_many_owned(u32::try_from(more).unwrap_or(0))
    {
        permit.merge(more);
    }
    Some(permit)
}

async fn take(shared: &Arc<Shared>, claimed: Claimed, permit: OwnedSemaphorePermit) {
    let message = Arc::new(Transit::new(shared.clone(), shared.config(), claimed, permit));
    if !shared.policy.wants_on_route() {
        let decisions = Vec::new();
        return send(shared, message, decisions).await;
    }
    // Hooks take their time; the dispatcher does not wait for one message's.
    let Ok(routing) = shared.routing.clone().acquire_owned().await else {
        return;
    };
    let shared = shared.clone();
    tokio::spawn(async move {
        let pending = message.pending();
        let decisions = shared.policy.on_route(message.id, &message.state, &pending).await;
        drop(routing);
        send(&shared, message, decisions).await;
    });
}

/// Splits a message by destination and queues the parts. `decisions` are the policy's for the pending recipients.
async fn send(shared: &Arc<Shared>, message: Arc<Transit>, decisions: Vec<RouteDecision>) {
    let mut decisions = decisions.into_iter();
    // Ended before there was a destination.
    let mut ended: Vec<(usize, Ended)> = Vec::new();
    let mut groups: Vec<(Key, Vec<usize>)> = Vec::new();
    let mut by_key: HashMap<Key, usize> = HashMap::new();
    for recipient in message.pending() {
        let choice = match decisions.next().unwrap_or(RouteDecision::PASS) {
            RouteDecision::Go(choice) => choice,
            RouteDecision::Hold(reason) => {
                message.hold(reason);
                continue;
            }
            RouteDecision::Fail(reply) => {
                ended.push((recipient, Ended::by_us(Outcome::Failed, Answer::local(reply))));
                continue;
            }
            RouteDecision::Defer { reply, pause } => {
                let pause = pause.map(|pause| pause.min(MAX_PAUSE));
                ended.push((
                    recipient,
                    Ended {
                        pause,
                        ..Ended::by_us(Outcome::Deferred, Answer::local(reply))
                    },
                ));
                continue;
            }
            RouteDecision::Discard => {
                let answer = Answer::local(gatepost_smtp::reply::Reply::new(250, None, "discarded by policy"));
                ended.push((recipient, Ended::by_us(Outcome::Discarded, answer)));
                continue;
            }
        };
        let address = &message.state.envelope.recipients[recipient].address;
        match route::destination(&message.config, address, &choice) {
            Err(answer) => ended.push((recipient, Ended::from_answer(answer))),
            // Nearly every message has one destination.
            Ok(key) if groups.last().is_some_and(|(last, _)| *last == key) => {
                if let Some((_, group)) = groups.last_mut() {
                    group.push(recipient);
                }
            }
            Ok(key) => {
                let index = *by_key.entry(key.clone()).or_insert(groups.len());
                match groups.get_mut(index) {
                    Some((_, group)) => group.push(recipient),
                    None => groups.push((key, vec![recipient])),
                }
            }
        }
    }
    let chunks = groups.iter().flat_map(|(key, group)| {
        group
            .chunks(MAX_RECIPIENTS)
            .map(move |some| (key.clone(), some.to_vec()))
    });
    let (keys, mut recipients): (Vec<Key>, Vec<Vec<usize>>) = chunks.unzip();
    let before = !ended.is_empty() || recipients.is_empty();
    if before {
        recipients.push(ended.iter().map(|(recipient, _)| *recipient).collect());
    }
    let mut parts = message.split(recipients);
    let last = if before { parts.pop() } else { None };
    for (key, part) in keys.into_iter().zip(parts) {
        queue(shared, key, part).await;
    }
    if let Some(part) = last {
        part.end_before(ended).await;
    }
}

/// Queues a part. Waits a little for a queue that is full but moving; what cannot wait goes back to the spool for a
/// while.
async fn queue(shared: &Arc<Shared>, key: Key, part: Part) {
    let destination = shared.destination(key);
    let mut part = part;
    let deadline = Instant::now() + ROOM_WAIT;
    loop {
        part = match destination.push(part, shared) {
            Ok(()) => return,
            Err(Refused::Down(part, answer)) => return part.end_all(Ended::from_answer(answer), &destination).await,
            Err(Refused::Full(part)) => part,
        };
        if destination.is_congested() || tokio::time::timeout_at(deadline, destination.has_room()).await.is_err() {
            break;
        }
    }
    if !destination.is_congested() {
        destination.set_congested(Instant::now() + OVERFLOW_PAUSE);
        tracing::warn!(
            next_hop = destination.name,
            "more mail than the next hop takes: the rest waits in the spool"
        );
    }
    part.postpone(OVERFLOW_PAUSE.mul_f64(1.0 + schedule::chance())).await;
}

#[cfg(test)]
mod tests;
