//! The spool's contract: what was acknowledged is there after any crash, byte for byte; nothing torn is delivered; what
//! has left the queue does not come back. Shown over a disk that forgets what was not synced.

mod spool_support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost::message::{Id, Origin, QueueState, RecipientStatus};
use gatepost::spool::Spool;
use spool_support::disk::{Disk, Faults};
use spool_support::{DIR, Random, body_bytes, head_bytes, message, options, origin, runtime};

/// Power cuts in the default run, and how many of them one history goes through.
const CUTS: u64 = 1000;
const CUTS_PER_HISTORY: u64 = 25;
const TASKS: u64 = 8;
/// Histories that run side by side; they wait for each other's commit threads more than they work.
const THREADS: usize = 8;

/// What may be seen of a state, as text.
fn seen(state: &QueueState) -> String {
    let QueueState {
        envelope,
        origin: _,
        size,
        held,
        attempts,
        next_attempt,
        last_error,
        delay_notified,
    } = state;
    format!("{envelope:?} {size} {held:?} {attempts} {next_attempt:?} {last_error:?} {delay_notified}")
}

/// What the test knows of a message.
struct Track {
    body_len: usize,
    /// The states that it went through, `None` for out of the queue.
    states: Vec<Option<String>>,
    /// The first of them in which it may be found after a crash.
    floor: usize,
    acknowledged: bool,
    claimed: bool,
}

#[derive(Default)]
struct Model {
    tracks: BTreeMap<Id, Track>,
    finished: u64,
}

type Shared = Rc<RefCell<Model>>;

impl Model {
    /// Notes a state that is about to be asked for, and where it stands.
    fn next(&mut self, id: Id, state: Option<&QueueState>) -> usize {
        let track = self.tracks.get_mut(&id).expect("a known message");
        track.states.push(state.map(seen));
        track.states.len() - 1
    }

    fn is_durable(&mut self, id: Id, place: usize) {
        if let Some(track) = self.tracks.get_mut(&id) {
            track.floor = track.floor.max(place);
        }
    }

    fn all_durable(&mut self) {
        for track in self.tracks.values_mut() {
            track.floor = track.states.len() - 1;
        }
    }
}

/// One client: works until the power goes or it has done enough.
async fn work(spool: Spool, model: Shared, origin: Arc<Origin>, mut random: Random) {
    for _ in 0..30 {
        let crowded = model.borrow().tracks.len() > 40;
        let ok = match random.below(10) {
            0..4 if !crowded => append(&spool, &model, &origin, &mut random).await,
            0..8 => attempt(&spool, &model, &mut random).await,
            _ => operate(&spool, &model, &mut random).await,
        };
        if !ok {
            return;
        }
    }
}

async fn append(spool: &Spool, model: &Shared, origin: &Arc<Origin>, random: &mut Random) -> bool {
    let id = Id::new();
    let body_len = match random.below(50) {
        0 => 300_000 + random.below(100_000),
        1..5 => random.below(200_000),
        5..15 => random.below(40_000),
        _ => random.below(4_000),
    } as usize;
    let mut writer = spool.body_writer();
    for piece in body_bytes(id, body_len).chunks(100_000) {
        if writer.push(piece).await.is_err() {
            return false;
        }
    }
    let Ok(body) = writer.finish().await else { return false };
    let mut message = message(id, 1 + random.below(3) as usize, body, origin);
    message.held = random.one_in(10).then(|| "suspicious".to_owned());
    let state = QueueState {
        envelope: message.envelope.clone(),
        origin: origin.clone(),
        size: message.head.len() as u64 + body_len as u64,
        held: message.held.clone(),
        attempts: 0,
        next_attempt: None,
        last_error: None,
        delay_notified: false,
    };
    // Until it is acknowledged it may also be missing.
    let track = Track {
        body_len,
        states: vec![Some(seen(&state))],
        floor: 0,
        acknowledged: false,
        claimed: false,
    };
    model.borrow_mut().tracks.insert(id, track);
    let appended = spool.append(message).await;
    if appended.is_ok() {
        model
            .borrow_mut()
            .tracks
            .get_mut(&id)
            .expect("inserted above")
            .acknowledged = true;
    }
    appended.is_ok()
}

async fn attempt(spool: &Spool, model: &Shared, random: &mut Random) -> bool {
    let Some(claimed) = spool.claim_due(SystemTime::now(), 1).pop() else {
        tokio::task::yield_now().await;
        return true;
    };
    let id = claimed.id;
    let set_claimed = |claimed| model.borrow_mut().tracks.get_mut(&id).expect("known").claimed = claimed;
    set_claimed(true);
    tokio::task::yield_now().await;
    let mut state = QueueState::clone(&claimed.state);
    state.attempts += 1;
    let fates = [
        RecipientStatus::Pending,
        RecipientStatus::Delivered { reply: "250 ok".into() },
        RecipientStatus::Discarded,
    ];
    let all = random.one_in(2);
    for recipient in &mut state.envelope.recipients {
        if recipient.status == RecipientStatus::Pending {
            recipient.status = fates[if all { 1 } else { random.below(3) as usize }].clone();
        }
    }
    match random.below(8) {
        0 => {
            set_claimed(false);
            drop(claimed);
            return true;
        }
        1 => state.envelope.sender = "rewritten@example.test".into(),
        2 => state.held = Some("on-route held it".into()),
        3 => state.next_attempt = Some(SystemTime::now() + Duration::from_secs(3600)),
        _ => state.last_error = Some("451 later".into()),
    }
    let finished = state.is_finished();
    set_claimed(false);
    {
        let mut model = model.borrow_mut();
        model.finished += u64::from(finished);
        model.next(id, (!finished).then_some(&state));
    }
    // Not durable when it returns, but in order.
    spool.settle(claimed, state).await.is_ok()
}

async fn operate(spool: &Spool, model: &Shared, random: &mut Random) -> bool {
    let chosen = {
        let model = model.borrow();
        let mut waiting = model
            .tracks
            .iter()
            .filter(|(_, t)| t.acknowledged && !t.claimed && t.states.last() != Some(&None));
        let count = waiting.clone().count() as u64;
        (count > 0).then(|| *waiting.nth(random.below(count) as usize).expect("below the count").0)
    };
    let Some((id, state)) = chosen.and_then(|id| Some((id, spool.show(id)?))) else {
        tokio::task::yield_now().await;
        return true;
    };
    let mut state = QueueState::clone(&state);
    let kind = random.below(4);
    match kind {
        0 => state.held = Some("by hand".into()),
        1 => {
            if state.held.take().is_some() {
                state.next_attempt = None;
            }
        }
        _ => state.next_attempt = None,
    }
    let place = model.borrow_mut().next(id, (kind != 3).then_some(&state));
    let done = match kind {
        0 => spool.hold(id, "by hand").await,
        1 => spool.release(id).await,
        2 => spool.retry(id).await,
        _ => spool.remove(id).await,
    };
    if done.is_ok() {
        model.borrow_mut().is_durable(id, place);
    }
    done.is_ok()
}

/// Compares what a spool holds after a crash with what may be there, and settles on what is.
async fn verify(spool: &Spool, model: &mut Model) -> Result<(), String> {
    let mut present = BTreeSet::new();
    for listed in spool.list(None, usize::MAX) {
        let id = listed.id;
        let Some(track) = model.tracks.get_mut(&id) else {
            return Err(format!("{id} came back"));
        };
        let state = Some(seen(&listed.state));
        if !track.states[track.floor..].contains(&state) {
            return Err(format!(
                "{id} is in a state that it had left: {state:?} of {:?}",
                track.states
            ));
        }
        let (head, body) = spool
            .content(id)
            .await
            .map_err(|error| format!("{id} cannot be read: {error}"))?;
        let bytes = spool
            .read(&body, 0, usize::MAX)
            .await
            .map_err(|error| format!("{id} cannot be read: {error}"))?;
        if head != head_bytes(id) || bytes != body_bytes(id, track.body_len) {
            return Err(format!("{id} has other bytes than it was given"));
        }
        *track = Track {
            states: vec![state],
            floor: 0,
            acknowledged: true,
            claimed: false,
            ..*track
        };
        present.insert(id);
    }
    for (id, track) in &model.tracks {
        let may_be_gone = !track.acknowledged || track.states[track.floor..].contains(&None);
        if !present.contains(id) && !may_be_gone {
            return Err(format!("{id} was acknowledged and is gone"));
        }
    }
    model.tracks.retain(|id, _| present.contains(id));
    Ok(())
}

/// What a history went through, so that a test can see that it went through enough.
#[derive(Default)]
struct Seen {
    torn_bytes: u64,
    finished: u64,
    messages: u64,
    most_segments: usize,
}

/// Lives through `cuts` power cuts. The error says what was broken, and by which seed it comes again.
fn history(seed: u64, cuts: u64, faults: &Faults) -> Result<Seen, String> {
    runtime().block_on(async {
        let mut random = Random(seed);
        let mut disk = Disk::new(random.next());
        let model = Shared::default();
        let origin = origin();
        let mut total = Seen::default();
        for cut in 0..cuts {
            let fail = |what: String| format!("seed {seed}, cut {cut}: {what}");
            let opened = Spool::open_with(Path::new(DIR), options(), Arc::new(disk.clone()));
            let (spool, recovered) = opened.map_err(|error| fail(error.to_string()))?;
            if let Some(damaged) = recovered.set_aside.iter().find(|damaged| {
                damaged
                    .id
                    .is_none_or(|id| model.borrow().tracks.get(&id).is_none_or(|track| track.acknowledged))
            }) {
                return Err(fail(format!("damage that no power cut makes: {damaged:?}")));
            }
            let mut known = std::mem::take(&mut *model.borrow_mut());
            verify(&spool, &mut known).await.map_err(fail)?;
            *model.borrow_mut() = known;
            total.torn_bytes += recovered.torn_bytes;
            total.messages += recovered.messages as u64;
            disk.set_faults(faults.clone());
            disk.cut_after(1 + random.below(80));
            let tasks = tokio::task::LocalSet::new();
            for _ in 0..TASKS {
                tasks.spawn_local(work(
                    spool.clone(),
                    model.clone(),
                    origin.clone(),
                    Random(random.next()),
                ));
            }
            tasks.await;
            total.most_segments = total.most_segments.max(spool.stats().segments);
            spool.close().await;
            if !disk.is_dead() && faults.failing_syncs == 0 {
                model.borrow_mut().all_durable();
            }
            disk = disk.after_power_cut();
        }
        total.finished = model.borrow().finished;
        Ok(total)
    })
}

#[test]
fn a_thousand_power_cuts_lose_nothing() {
    let histories: Vec<u64> = (0..CUTS / CUTS_PER_HISTORY).collect();
    let threads = histories.chunks(histories.len().div_ceil(THREADS)).map(|seeds| {
        let seeds = seeds.to_owned();
        std::thread::spawn(move || {
            let run = |seed: &u64| {
                // In every fourth history the disk fails now and then as well.
                let failing_syncs = if seed % 4 == 3 { 30 } else { 0 };
                history(
                    *seed,
                    CUTS_PER_HISTORY,
                    &Faults {
                        failing_syncs,
                        ..Faults::default()
                    },
                )
            };
            seeds.iter().map(run).collect::<Vec<_>>()
        })
    });
    let threads: Vec<_> = threads.collect();
    let results: Vec<_> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("no panic"))
        .collect();
    let broken: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    // The run has gone through what it is meant to: torn batches, deliveries, messages found again, several segments.
    let seen: Vec<&Seen> = results.iter().flatten().collect();
    assert!(seen.iter().any(|seen| seen.torn_bytes > 0));
    assert!(seen.iter().map(|seen| seen.finished).sum::<u64>() > 3 * CUTS);
    assert!(seen.iter().map(|seen| seen.messages).sum::<u64>() > 3 * CUTS);
    assert!(seen.iter().any(|seen| seen.most_segments > 2));
    println!(
        "torn bytes {}, finished {}, found again {}, most segments {}",
        seen.iter().map(|seen| seen.torn_bytes).sum::<u64>(),
        seen.iter().map(|seen| seen.finished).sum::<u64>(),
        seen.iter().map(|seen| seen.messages).sum::<u64>(),
        seen.iter().map(|seen| seen.most_segments).max().unwrap_or(0),
    );
}

/// The seeds of a few histories break under faults that a spool must not have.
fn is_noticed(faults: &Faults) -> bool {
    (0..8).any(|seed| history(seed, CUTS_PER_HISTORY, faults).is_err())
}

#[test]
fn a_left_out_sync_is_noticed() {
    assert!(is_noticed(&Faults {
        skip_syncs: true,
        ..Faults::default()
    }));
}

#[test]
fn a_left_out_folder_sync_is_noticed() {
    assert!(is_noticed(&Faults {
        skip_folder_syncs: true,
        ..Faults::default()
    }));
}
