//! A destination: its queue, its connections, and the workers that bring the two together.
//!
//! A worker owns at most one connection and takes parts off the queue one after the other, so messages for the same
//! next hop flow over open connections back to back; when the queue is empty it waits a while and says goodbye. There
//! are never more workers than the route allows connections. When nobody can be reached, the destination is down for
//! a while and its mail is deferred without further attempts; when only further connections fail, those that stand do
//! the work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gatepost_smtp::client::Answer;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use super::attempt::{self, Session};
use super::hooks::Outcome;
use super::route::Key;
use super::transit::{Ended, Part};
use crate::config::NextHop;

/// Parts that one destination keeps waiting; the dispatcher does not push more.
pub const MAX_QUEUE: usize = 8_000;
/// How long a destination is left alone that could not be reached: at first, doubling up to the most.
const DOWN_FIRST: Duration = Duration::from_secs(5);
const DOWN_MOST: Duration = Duration::from_secs(60);
/// How long no further connections are tried where some stand and more were refused.
const CEILING_FOR: Duration = Duration::from_secs(60);

/// A destination. Shared by the dispatcher and its workers.
pub struct Destination {
    pub key: Key,
    /// As the log names it.
    pub name: String,
    state: Mutex<State>,
    /// A part is in the queue.
    work: Notify,
    /// The queue has room again.
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Part>,
    workers: usize,
    /// Workers that wait for a part.
    idle: usize,
    /// Workers with an open connection.
    connected: usize,
    down: Option<Down>,
    /// No more workers than this until that time.
    ceiling: Option<(usize, Instant)>,
    /// The dispatcher waits for room no more until then.
    congested: Option<Instant>,
    /// Replaced by a reload: connections are not kept.
    retired: bool,
}

struct Down {
    until: Instant,
    pause: Duration,
    answer: Answer,
}

/// Why a part was not queued.
pub enum Refused {
    /// The queue is full.
    Full(Part),
    /// The destination is down; the answer says why.
    Down(Part, Answer),
}

impl Destination {
    pub fn new(key: Key) -> Destination {
        let name = key.describe();
        Destination {
            key,
            name,
            state: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Queues a part, and starts a worker if there are too few.
    pub fn push(self: &Arc<Self>, part: Part, shared: &Arc<Shared>) -> Result<(), Refused> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(down) = state.down.as_ref().filter(|down| down.until > now) {
            return Err(Refused::Down(part, down.answer.clone()));
        }
        if state.queue.len() >= MAX_QUEUE {
            return Err(Refused::Full(part));
        }
        state.queue.push_back(part);
        if state.idle > 0 {
            self.work.notify_one();
        }
        // After an outage one worker finds out whether it is over.
        let probing = state.down.is_some() && state.connected == 0;
        let most = if probing { 1 } else { self.most_workers(&state, now) };
        if state.queue.len() > state.idle && state.workers < most {
            state.workers += 1;
            drop(state);
            tokio::spawn(work(self.clone(), shared.clone()));
        }
        Ok(())
    }

    /// Whether it is worth waiting for room: not for a while after that was in vain.
    pub fn is_congested(&self) -> bool {
        self.state.lock().congested.is_some_and(|until| until > Instant::now())
    }

    pub fn set_congested(&self, until: Instant) {
        self.state.lock().congested = Some(until);
    }

    /// Resolves when there may be room in the queue.
    pub async fn has_room(&self) {
        let room = self.room.notified();
        if self.state.lock().queue.len() < MAX_QUEUE {
            return;
        }
        room.await;
    }

    /// Somebody knows better, or wants to: if it was down, the next part tries it at once.
    pub fn forget_outage(&self) {
        if let Some(down) = &mut self.state.lock().down {
            down.until = Instant::now();
        }
    }

    /// Nothing is queued and nobody works: it can be forgotten.
    pub fn is_unused(&self) -> bool {
        let state = self.state.lock();
        state.workers == 0
            && state.queue.is_empty()
            && state.down.as_ref().is_none_or(|down| down.until <= Instant::now())
    }

    /// What is queued is still delivered; then the connections are closed.
    pub fn retire(&self) {
        self.state.lock().retired = true;
        self.work.notify_waiters();
    }

    /// Takes all that is queued.
    pub fn take_queue(&self) -> VecDeque<Part> {
        std::mem::take(&mut self.state.lock().queue)
    }

    /// For metrics: parts that wait, and open connections.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.queue.len(), state.connected)
    }

    /// Another session stands. If more is waiting than its worker can take, others follow: after an outage there was
    /// only the one.
    pub fn connected(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut state = self.state.lock();
        state.connected += 1;
        state.down = None;
        let most = self.most_workers(&state, Instant::now());
        let wanted = state
            .queue
            .len()
            .saturating_sub(state.idle)
            .min(most.saturating_sub(state.workers));
        state.workers += wanted;
        drop(state);
        for _ in 0..wanted {
            tokio::spawn(work(self.clone(), shared.clone()));
        }
    }

    /// A session of [`Destination::connected`] is over.
    pub fn disconnected(&self) {
        let mut state = self.state.lock();
        state.connected = state.connected.saturating_sub(1);
    }

    /// No session could be opened for `part`. `None`: other workers have taken it over, and the one that calls this has
    /// been counted out. Otherwise what has to be ended with the answer: the part, and all that waited behind it.
    pub fn unreachable(&self, part: Part, answer: &Answer) -> Option<Vec<Part>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let permanent = answer.reply.is_permanent();
        // Every worker looks at the queue before it ends. The last one to fail speaks for the destination.
        if !permanent && state.workers > 1 {
            state.workers -= 1;
            let stand = if state.connected > 0 {
                state.connected
            } else {
                state.workers
            };
            state.ceiling = Some((stand, now + CEILING_FOR));
            state.queue.push_front(part);
            self.work.notify_one();
            return None;
        }
        if !permanent {
            let pause = state
                .down
                .as_ref()
                .map_or(DOWN_FIRST, |down| (down.pause * 2).min(DOWN_MOST));
            state.ceiling = None;
            state.down = Some(Down {
                until: now + pause,
                pause,
                answer: answer.clone(),
            });
        }
        let mut parts = vec![part];
        parts.extend(state.queue.drain(..));
        drop(state);
        self.room.notify_one();
        Some(parts)
    }

    fn most_workers(&self, state: &State, now: Instant) -> usize {
        let most = (self.key.route.route.connections as usize).max(1);
        match state.ceiling {
            Some((ceiling, until)) if until > now => ceiling.min(most),
            _ => most,
        }
    }

    fn pop(&self, state: &mut State) -> Option<Part> {
        let was_full = state.queue.len() >= MAX_QUEUE;
        let part = state.queue.pop_front()?;
        if was_full {
            self.room.notify_one();
        }
        // Several may have been queued while one worker was woken.
        if !state.queue.is_empty() && state.idle > 0 {
            self.work.notify_one();
        }
        Some(part)
    }

    /// The next part. A worker without a connection does not wait for one, the others do for up to `idle`.
    async fn next(&self, session: &mut Option<Session>, idle: Duration) -> Option<Part> {
        let deadline = Instant::now() + idle;
        loop {
            {
                let mut state = self.state.lock();
                if let Some(part) = self.pop(&mut state) {
                    return Some(part);
                }
                if session.is_none() || state.retired || Instant::now() >= deadline {
                    return None;
                }
                state.idle += 1;
            }
            let _idle = Idle(self);
            let open = session.as_mut()?;
            let spoilt = tokio::select! {
                () = self.work.notified() => false,
                () = tokio::time::sleep_until(deadline) => false,
                () = open.spoilt() => true,
            };
            if spoilt {
                *session = None;
            }
        }
    }
}

/// A worker that waits, however it stops waiting.
struct Idle<'a>(&'a Destination);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.state.lock().idle -= 1;
    }
}

/// A worker, however it ends.
struct Worker<'a> {
    destination: &'a Arc<Destination>,
    counted_out: bool,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if !self.counted_out {
            self.destination.state.lock().workers -= 1;
        }
    }
}

async fn work(destination: Arc<Destination>, shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let mut worker = Worker {
        destination: &destination,
        counted_out: false,
    };
    tokio::select! {
        biased;
        // An error is a sender that is gone, and with it the daemon.
        _ = stop.wait_for(|stop| *stop) => {}
        () = serve(&destination, &shared, &mut worker) => {}
    }
}

async fn serve(destination: &Arc<Destination>, shared: &Arc<Shared>, worker: &mut Worker<'_>) {
    let mut session: Option<Session> = None;
    loop {
        let idle = shared.config().idle_timeout;
        let Some(part) = destination.next(&mut session, idle).await else {
            let mut state = destination.state.lock();
            // One may have been pushed since, in the belief that this worker would take it.
            if !state.queue.is_empty() {
                continue;
            }
            state.workers -= 1;
            worker.counted_out = true;
            break;
        };
        match &destination.key.route.route.next_hop {
            Some(NextHop::Discard) => attempt::discard(destination, part).await,
            Some(NextHop::Maildir(path)) => attempt::maildir(destination, path, part).await,
            _ => {
                let Some((unsent, answer)) = attempt::smtp(destination, shared, &mut session, part).await else {
                    continue;
                };
                let Some(parts) = destination.unreachable(unsent, &answer) else {
                    worker.counted_out = true;
                    return;
                };
                let ended = Ended::from_answer(answer);
                debug_assert_ne!(ended.outcome, Outcome::Delivered);
                for part in parts {
                    part.end_all(ended.clone(), destination).await;
                }
            }
        }
    }
    if let Some(session) = session {
        session.quit().await;
    }
}
