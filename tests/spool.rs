//! What the spool does when the disk is full, fails or has spoilt something, and how claims, operators and limits work
//! together: one case each, over a disk in memory.

mod spool_support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gatepost::message::{Body, Id, QueueState, RecipientStatus};
use gatepost::spool::{Spool, SpoolError, SpoolOptions};
use spool_support::disk::{Disk, Faults};
use spool_support::{DIR, body_bytes, head_bytes, message, options, origin, runtime};

/// Opens a spool on a disk that has just been switched on.
fn open(disk: &Disk) -> (Spool, gatepost::spool::Recovered) {
    Spool::open_with(Path::new(DIR), options(), Arc::new(disk.clone())).expect("the spool opens")
}

async fn add(spool: &Spool, len: usize) -> Result<Id, (Id, SpoolError)> {
    let id = Id::new();
    let mut writer = spool.body_writer();
    let failed = |error| SpoolError::Io {
        doing: "body".into(),
        error: Arc::new(error),
    };
    writer
        .push(&body_bytes(id, len))
        .await
        .map_err(|error| (id, failed(error)))?;
    let body = writer.finish().await.map_err(|error| (id, failed(error)))?;
    spool
        .append(message(id, 2, body, &origin()))
        .await
        .map_err(|error| (id, error))?;
    Ok(id)
}

fn listed(spool: &Spool) -> Vec<Id> {
    spool
        .list(None, usize::MAX)
        .into_iter()
        .map(|listed| listed.id)
        .collect()
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    runtime().block_on(async {
        let disk = Disk::new(1);
        let (spool, _) = open(&disk);
        let first = add(&spool, 1000).await.expect("room");
        disk.set_faults(Faults {
            room: Some(disk.used()),
            ..Faults::default()
        });
        // The segment at hand is reserved: it takes what fits, and not a byte is promised beyond it.
        let mut taken = vec![first];
        let refused = loop {
            match add(&spool, 100_000).await {
                Ok(id) => taken.push(id),
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused.1, SpoolError::Io { .. }), "{:?}", refused.1);
        assert!(add(&spool, 300_000).await.is_err(), "a large body needs room as well");
        // Delivery goes on, and its outcome is kept for when there is room again.
        for claimed in spool.claim_due(SystemTime::now(), 3) {
            let mut state = QueueState::clone(&claimed.state);
            state
                .envelope
                .recipients
                .iter_mut()
                .for_each(|r| r.status = RecipientStatus::Discarded);
            taken.retain(|id| *id != claimed.id);
            spool.settle(claimed, state).await.expect("queued");
        }
        disk.set_faults(Faults::default());
        taken.push(add(&spool, 1000).await.expect("room again"));
        assert_eq!(listed(&spool), taken);
        spool.close().await;
        let (spool, recovered) = open(&disk.after_power_cut());
        assert_eq!(listed(&spool), taken);
        assert_eq!(recovered.set_aside, []);
    });
}

#[test]
fn a_failed_sync_refuses_and_what_it_refused_does_not_come_back() {
    for seed in 0..20 {
        runtime().block_on(async {
            let disk = Disk::new(seed);
            let (spool, _) = open(&disk);
            let mut taken = vec![add(&spool, 2000).await.expect("the disk works")];
            for _ in 0..3 {
                disk.set_faults(Faults {
                    fail_next_sync: true,
                    ..Faults::default()
                });
                add(&spool, 2000).await.expect_err("the sync fails");
                taken.push(add(&spool, 2000).await.expect("the next segment works"));
            }
            spool.close().await;
            let (spool, recovered) = open(&disk.after_power_cut());
            assert_eq!(listed(&spool), taken, "seed {seed}");
            assert_eq!(recovered.set_aside, []);
        });
    }
}

#[test]
fn a_damaged_record_is_set_aside_once_and_the_rest_is_delivered() {
    runtime().block_on(async {
        let disk = Disk::new(1);
        let (spool, _) = open(&disk);
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(add(&spool, 3000).await.expect("taken"));
        }
        spool.close().await;
        let segment = disk
            .paths()
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "log"))
            .expect("a log");
        let body = body_bytes(ids[2], 3000);
        let contents = disk.contents(&segment);
        let at = contents
            .windows(100)
            .position(|window| *window == body[..100])
            .expect("the body is in the log");
        disk.flip(&segment, at as u64);
        let damaged = disk.contents(&segment);

        let (spool, recovered) = open(&disk);
        let lost = ids.remove(2);
        assert_eq!(listed(&spool), ids);
        let [set_aside] = &recovered.set_aside[..] else {
            panic!("one piece, not {:?}", recovered.set_aside)
        };
        assert_eq!((set_aside.id, &set_aside.file), (Some(lost), &segment));
        let copy = disk.contents(set_aside.copy.as_ref().expect("a copy"));
        assert_eq!(copy, damaged[set_aside.offset as usize..][..copy.len()]);
        let report = disk.contents(&set_aside.copy.as_ref().expect("a copy").with_extension("txt"));
        assert!(String::from_utf8_lossy(&report).contains(&lost.to_string()));
        spool.close().await;

        let (spool, recovered) = open(&disk.after_power_cut());
        assert_eq!(recovered.set_aside, []);
        assert_eq!(listed(&spool), ids);
    });
}

#[test]
fn held_messages_do_not_pin_the_log() {
    runtime().block_on(async {
        let disk = Disk::new(1);
        let (spool, _) = open(&disk);
        let mut held = Vec::new();
        // One message in a hundred stays; the log would grow to 40 segments if they kept theirs.
        for round in 0..400 {
            let id = add(&spool, 100_000).await.expect("taken");
            if round % 100 == 0 {
                spool.hold(id, "suspicious").await.expect("held");
                held.push(id);
            } else {
                spool.remove(id).await.expect("removed");
            }
        }
        let log = || {
            disk.paths()
                .iter()
                .filter(|path| path.starts_with("/spool/log"))
                .count()
        };
        assert!(log() <= 10, "{} files", log());
        spool.close().await;
        let (spool, recovered) = open(&disk.after_power_cut());
        assert_eq!((listed(&spool), recovered.held), (held.clone(), held.len()));
        for id in held {
            let (_, body) = spool.content(id).await.expect("readable");
            assert_eq!(
                spool.read(&body, 0, usize::MAX).await.expect("readable"),
                body_bytes(id, 100_000)
            );
        }
    });
}

#[test]
fn a_large_body_is_a_file_as_long_as_its_message_is_queued() {
    runtime().block_on(async {
        let disk = Disk::new(1);
        let (spool, _) = open(&disk);
        let large = Body::MEMORY_LIMIT + 1;
        let files = |folder: &str| {
            disk.paths()
                .iter()
                .filter(|path| path.starts_with(Path::new(DIR).join(folder)))
                .count()
        };

        let mut dropped = spool.body_writer();
        dropped.push(&vec![0; large]).await.expect("room");
        assert_eq!(files("tmp"), 1);
        drop(dropped);
        assert_eq!(files("tmp"), 0);

        // One body, two messages: one of them quarantined.
        let mut writer = spool.body_writer();
        let bytes = body_bytes(Id(7), large);
        writer.push(&bytes).await.expect("room");
        let body = writer.finish().await.expect("room");
        let (first, second) = (Id::new(), Id::new());
        for id in [first, second] {
            spool
                .append(message(id, 1, body.clone(), &origin()))
                .await
                .expect("taken");
        }
        drop(body);
        spool.remove(first).await.expect("removed");
        assert!(matches!(spool.remove(first).await, Err(SpoolError::NotFound(_))));
        assert_eq!(files("bodies"), 1);
        let claimed = spool.claim(second).expect("due");
        spool.remove(second).await.expect("removed");
        let (_, body) = claimed.content().await.expect("readable while it is claimed");
        assert_eq!(spool.read(&body, 5, 10).await.expect("readable"), bytes[5..15]);
        drop(claimed);
        spool.close().await;
        assert_eq!(files("bodies"), 0);
        let (spool, recovered) = open(&disk);
        assert_eq!((recovered.messages, files("tmp")), (0, 0));
        assert!(spool.claim_due(SystemTime::now(), 10).is_empty());
    });
}

#[test]
fn what_an_operator_asks_for_during_an_attempt_holds_after_it() {
    runtime().block_on(async {
        let (spool, _) = open(&Disk::new(1));
        let id = add(&spool, 10).await.expect("taken");
        let later = |state: &QueueState| {
            let mut state = state.clone();
            state.next_attempt = Some(SystemTime::now() + Duration::from_secs(3600));
            state
        };

        let claimed = spool.claim(id).expect("due");
        assert!(spool.claim(id).is_none() && spool.claim_due(SystemTime::now(), 1).is_empty());
        spool.hold(id, "wait").await.expect("known");
        let state = later(&claimed.state);
        spool.settle(claimed, state).await.expect("queued");
        assert_eq!(spool.show(id).expect("known").held.as_deref(), Some("wait"));
        assert!(spool.claim(id).is_none());

        spool.release(id).await.expect("known");
        let claimed = spool
            .claim_due(SystemTime::now(), 1)
            .pop()
            .expect("a released message is due");
        spool.retry(id).await.expect("known");
        let state = later(&claimed.state);
        spool.settle(claimed, state).await.expect("queued");
        let claimed = spool.claim_due(SystemTime::now(), 1).pop().expect("due again");

        drop(claimed);
        let claimed = spool.claim_due(SystemTime::now(), 1).pop().expect("given back");
        spool.remove(id).await.expect("known");
        assert!(spool.show(id).is_none());
        let state = later(&claimed.state);
        spool.settle(claimed, state).await.expect("nothing to do");
        assert_eq!(spool.stats().messages, 0);
    });
}

#[test]
fn waiting_ends_when_something_is_due() {
    runtime().block_on(async {
        let (spool, _) = open(&Disk::new(1));
        let waiting = tokio::spawn({
            let spool = spool.clone();
            async move { spool.wait_due().await }
        });
        let id = add(&spool, 10).await.expect("taken");
        waiting.await.expect("it resolves");
        let claimed = spool.claim(id).expect("due");
        let mut state = QueueState::clone(&claimed.state);
        state.next_attempt = Some(SystemTime::now() + Duration::from_millis(20));
        spool.settle(claimed, state).await.expect("queued");
        spool.wait_due().await;
        assert_eq!(spool.claim_due(SystemTime::now(), 10).len(), 1);
    });
}

#[test]
fn limits_are_refused_before_anything_is_written() {
    runtime().block_on(async {
        let disk = Disk::new(1);
        let small = SpoolOptions {
            max_bytes: 10_000,
            ..options()
        };
        let (spool, _) = Spool::open_with(Path::new(DIR), small, Arc::new(disk.clone())).expect("opens");
        add(&spool, 9_000).await.expect("room");
        assert!(matches!(add(&spool, 2_000).await, Err((_, SpoolError::Full(_)))));
        assert!(spool.check_room(500).is_ok() && spool.check_room(2_000).is_err());
        spool.close().await;
        let tight = SpoolOptions {
            min_free_bytes: u64::MAX,
            ..options()
        };
        let (spool, _) = Spool::open_with(Path::new(DIR), tight, Arc::new(disk)).expect("opens");
        assert!(matches!(add(&spool, 10).await, Err((_, SpoolError::Full(_)))));
    });
}

#[test]
fn the_real_file_system_keeps_it_too() {
    let dir = tempfile::tempdir().expect("a folder");
    runtime().block_on(async {
        let (spool, _) = Spool::open(dir.path(), options()).expect("opens");
        assert!(matches!(Spool::open(dir.path(), options()), Err(SpoolError::InUse(_))));
        let small = add(&spool, 1_000).await.expect("taken");
        let large = add(&spool, 400_000).await.expect("taken");
        let gone = add(&spool, 1_000).await.expect("taken");
        spool.remove(gone).await.expect("removed");
        spool.close().await;
        let (spool, recovered) = Spool::open(dir.path(), options()).expect("opens");
        assert_eq!((listed(&spool), recovered.set_aside), (vec![small, large], vec![]));
        for (id, len) in [(small, 1_000), (large, 400_000)] {
            let claimed = spool.claim(id).expect("due");
            let (head, body) = claimed.content().await.expect("readable");
            assert_eq!(head, head_bytes(id));
            assert_eq!(
                spool.read(&body, 0, usize::MAX).await.expect("readable"),
                body_bytes(id, len)
            );
        }
    });
}
