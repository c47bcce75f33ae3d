//! What the interface promises of `state`, with the time as an argument.

use super::*;

const NOW: u64 = 1_800_000_000_000;

fn store() -> Namespace {
    Embedded::in_memory().namespace("p")
}

fn bucket(key: &str, cost: u32) -> Bucket<'_> {
    Bucket {
        key,
        cost,
        rate: 1,
        per_seconds: 1,
        burst: 3,
    }
}

#[test]
fn values_are_kept_until_they_expire() {
    let store = store();
    assert_eq!(store.get("k", NOW), Ok(None));
    assert_eq!(store.set("k", b"one", None, NOW), Ok(()));
    assert_eq!(store.get("k", u64::MAX - 1), Ok(Some(b"one".to_vec())), "for ever");
    assert_eq!(store.set("k", b"two", Some(10), NOW), Ok(()));
    assert_eq!(store.get("k", NOW + 9_999), Ok(Some(b"two".to_vec())));
    assert_eq!(store.get("k", NOW + 10_000), Ok(None));
    assert_eq!(store.set("k", b"", Some(10), NOW), Ok(()));
    assert_eq!(store.get("k", NOW), Ok(Some(Vec::new())));
    assert_eq!(store.delete("k"), Ok(()));
    assert_eq!(store.delete("k"), Ok(()), "twice is no error");
    assert_eq!(store.get("k", NOW), Ok(None));
    assert_eq!(store.set("k", b"x", Some(0), NOW), Ok(()), "expired at once");
    assert_eq!(store.get("k", NOW), Ok(None));
}

#[test]
fn counters_count_and_expire_from_their_creation() {
    let store = store();
    assert_eq!(store.increment("n", 2, Some(10), NOW), Ok(2));
    assert_eq!(store.increment("n", -5, Some(10), NOW + 9_000), Ok(-3));
    assert_eq!(store.get("n", NOW + 9_000), Ok(Some(b"-3".to_vec())));
    assert_eq!(store.increment("n", 1, Some(10), NOW + 10_000), Ok(1), "begun anew");
    assert_eq!(store.increment("m", i64::MAX, None, NOW), Ok(i64::MAX));
    assert_eq!(store.increment("m", 1, None, NOW), Ok(i64::MAX));
    assert_eq!(store.set("s", b"41", Some(10), NOW), Ok(()));
    assert_eq!(store.increment("s", 1, None, NOW), Ok(42));
    assert_eq!(
        store.get("s", NOW + 10_000),
        Ok(None),
        "it keeps the expiry it was set with"
    );
    assert_eq!(store.set("s", b"text", None, NOW), Ok(()));
    assert!(matches!(
        store.increment("s", 1, None, NOW),
        Err(StateError::Unavailable(_))
    ));
}

#[test]
fn plugins_do_not_see_each_other() {
    let state = Embedded::in_memory();
    let (one, two) = (state.namespace("one"), state.namespace("two"));
    one.set("k", b"1", None, NOW).expect("room");
    one.take_all(&[bucket("b", 3)], NOW).expect("room");
    assert_eq!(two.get("k", NOW), Ok(None));
    assert_eq!(two.take_all(&[bucket("b", 3)], NOW), Ok(Taken::Ok));
    two.delete("k").expect("no fault of ours");
    assert_eq!(state.namespace("one").get("k", NOW), Ok(Some(b"1".to_vec())));
}

#[test]
fn buckets_give_all_or_nothing() {
    let store = store();
    assert_eq!(store.take_all(&[], NOW), Ok(Taken::Ok));
    assert_eq!(store.take_all(&[bucket("a", 2), bucket("b", 1)], NOW), Ok(Taken::Ok));
    let refused = |index, wait_ms| Ok(Taken::Refused { index, wait_ms });
    assert_eq!(store.take_all(&[bucket("b", 1), bucket("a", 2)], NOW), refused(1, 1000));
    assert_eq!(
        store.take_all(&[bucket("b", 2)], NOW),
        Ok(Taken::Ok),
        "the refusal took nothing from b"
    );
    assert_eq!(
        store.take_all(&[bucket("c", 2), bucket("c", 2)], NOW),
        refused(1, 1000),
        "the same bucket twice"
    );
    assert_eq!(store.take_all(&[bucket("c", 2), bucket("c", 1)], NOW), Ok(Taken::Ok));
    assert_eq!(store.take_all(&[bucket("c", 4)], NOW), refused(0, u64::MAX));
    assert_eq!(
        store.refund(&[bucket("c", 2), bucket("c", 1), bucket("d", 3)], NOW),
        Ok(())
    );
    assert_eq!(store.take_all(&[bucket("c", 3), bucket("d", 3)], NOW), Ok(Taken::Ok));
    assert_eq!(store.take_all(&[bucket("c", 1)], NOW + 999), refused(0, 1));
    assert_eq!(store.take_all(&[bucket("c", 1)], NOW + 1000), Ok(Taken::Ok));
    store.set("v", b"1", None, NOW).expect("room");
    assert!(matches!(
        store.take_all(&[bucket("v", 1)], NOW),
        Err(StateError::Unavailable(_))
    ));
    assert!(matches!(store.get("c", NOW + 1000), Err(StateError::Unavailable(_))));
}

#[test]
fn many_threads_never_take_more_than_there_is() {
    let store = store();
    let keys: Vec<String> = (0..40).map(|number| format!("own-{number}")).collect();
    let shared = |key, cost| Bucket {
        key,
        cost,
        rate: 0,
        per_seconds: 1,
        burst: 1000,
    };
    // Each thread takes with keys of its own before and behind, in turning order: a lock order that is none would hang here.
    let taken: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (store, keys) = (&store, &keys);
                scope.spawn(move || {
                    let mut taken = 0;
                    for round in 0..2000 {
                        let (one, two) = (&keys[(thread + round) % 40], &keys[(thread * 7 + round * 3) % 40]);
                        let buckets = [shared(one, 0), shared("all", 1), shared(two, 0)];
                        taken += u32::from(store.take_all(&buckets, NOW) == Ok(Taken::Ok));
                        if round % 10 == 0 && store.take_all(&[shared("all", 1)], NOW) == Ok(Taken::Ok) {
                            store.refund(&[shared("all", 1)], NOW).expect("no fault of ours");
                        }
                    }
                    taken
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(taken, 1000);
    let counted: i64 = std::thread::scope(|scope| {
        let count = || (0..1000).filter_map(|_| store.increment("n", 1, None, NOW).ok()).max();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(count)).collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().expect("no panic"))
            .max()
            .expect("eight threads")
    });
    assert_eq!(counted, 8000);
}

#[test]
fn everything_is_bounded() {
    let state = Embedded::in_memory();
    let store = state.namespace("p");
    let key = "k".repeat(KEY_BYTES_MAX + 1);
    assert_eq!(store.get(&key, NOW), Err(StateError::TooLarge));
    assert_eq!(store.set(&key, b"", None, NOW), Err(StateError::TooLarge));
    assert_eq!(store.delete(&key), Err(StateError::TooLarge));
    assert_eq!(store.increment(&key, 1, None, NOW), Err(StateError::TooLarge));
    assert_eq!(store.take_all(&[bucket(&key, 1)], NOW), Err(StateError::TooLarge));
    assert_eq!(
        store.take_all(&[bucket("b", 0); BUCKETS_MAX + 1], NOW),
        Err(StateError::TooLarge)
    );
    assert_eq!(
        store.set("k", &[0; VALUE_BYTES_MAX + 1], None, NOW),
        Err(StateError::TooLarge)
    );
    assert_eq!(state.bytes(), 0);

    let full = Err(unavailable(FULL));
    let value = [0; VALUE_BYTES_MAX];
    let fitting = (0..)
        .take_while(|number| store.set(&format!("k{number}"), &value, Some(10), NOW).is_ok())
        .count();
    assert_eq!(
        fitting as u64,
        PLUGIN_BYTES_MAX / (VALUE_BYTES_MAX as u64 + ENTRY_BYTES + 4)
    );
    assert_eq!(
        store.set("k0", &value, Some(10), NOW),
        Ok(()),
        "in the place of the old one"
    );
    while store
        .set(&format!("fill-{}", state.bytes()), &[], Some(10), NOW)
        .is_ok()
    {}
    assert_eq!(store.increment("new", 1, None, NOW), full.clone().map(|()| 0));
    assert_eq!(
        store.take_all(&[bucket("new", 1)], NOW),
        full.clone().map(|()| Taken::Ok)
    );
    assert_eq!(
        state.namespace("q").set("k", &value, None, NOW),
        Ok(()),
        "another plugin has its own share"
    );
    assert_eq!(
        store.take_all(&[bucket("new", 1)], NOW + 10_000),
        Ok(Taken::Ok),
        "what is expired makes room"
    );
    assert_eq!(store.set("new value", &value, None, NOW + 10_000), Ok(()));
}

#[test]
fn what_is_removed_is_not_counted_any_more() {
    let state = Embedded::in_memory();
    let store = state.namespace("p");
    for number in 0..500 {
        let key = format!("k{number}");
        store.set(&key, b"a longer value", Some(10), NOW).expect("room");
        store.set(&key, b"short", Some(10), NOW).expect("room");
        store.increment(&format!("n{number}"), 1, Some(20), NOW).expect("room");
        let key = format!("b{number}");
        store.take_all(&[bucket(&key, 1), bucket(&key, 1)], NOW).expect("room");
        store.set(&format!("d{number}"), b"deleted", None, NOW).expect("room");
        store.delete(&format!("d{number}")).expect("there");
    }
    let round = |now_ms| (0..SHARDS).for_each(|_| state.sweep(now_ms));
    let counted = state.bytes();
    round(NOW);
    assert_eq!(state.bytes(), counted);
    round(NOW + 5_000);
    assert!(state.bytes() < counted, "buckets that are full again are gone");
    // A bucket in the place of an expired value, and a value in the place of an expired bucket.
    store.take_all(&[bucket("k0", 1)], NOW + 10_000).expect("room");
    store.set("b0", b"value", Some(1), NOW + 10_000).expect("room");
    round(NOW + 30_000);
    assert_eq!(state.bytes(), 0);
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn a_snapshot_brings_everything_back() {
    let folder = folder();
    let state = Embedded::open(folder.path(), NOW).expect("an empty folder");
    assert!(!state.save().expect("nothing to write"));
    let store = state.namespace("p");
    store.set("v", b"\0\xff", None, NOW).expect("room");
    store.set("short", b"1", Some(1), NOW).expect("room");
    store.increment("n", -7, Some(100), NOW).expect("room");
    store.take_all(&[bucket("b", 3)], NOW).expect("room");
    state
        .namespace("other")
        .set("v", &[7; VALUE_BYTES_MAX], Some(100), NOW)
        .expect("room");
    assert!(state.save().expect("a writable folder"));
    assert!(!state.save().expect("nothing to write"));
    store.set("lost", b"after the snapshot", None, NOW).expect("room");

    let again = Embedded::open(folder.path(), NOW + 2000).expect("a good snapshot");
    assert_eq!(again.set_aside(), None);
    let store = again.namespace("p");
    assert_eq!(store.get("v", NOW), Ok(Some(b"\0\xff".to_vec())));
    assert_eq!(store.get("short", NOW), Ok(None));
    assert_eq!(store.get("lost", NOW), Ok(None));
    assert_eq!(store.increment("n", 0, None, NOW + 2000), Ok(-7));
    let refused = Taken::Refused {
        index: 0,
        wait_ms: 1000,
    };
    assert_eq!(
        store.take_all(&[bucket("b", 3)], NOW + 2000),
        Ok(refused),
        "two of three have come in"
    );
    assert_eq!(
        again.namespace("other").get("v", NOW),
        Ok(Some(vec![7; VALUE_BYTES_MAX]))
    );
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
}

#[test]
fn a_snapshot_that_cannot_be_understood_is_set_aside() {
    let source = folder();
    let state = Embedded::open(source.path(), NOW).expect("an empty folder");
    for number in 0..20 {
        state
            .namespace("p")
            .set(&format!("k{number}"), b"value", None, NOW)
            .expect("room");
    }
    state.save().expect("a writable folder");
    let good = std::fs::read(source.path().join("state")).expect("written");
    let flipped = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        bytes
    };
    let mut cases: Vec<Vec<u8>> = (0..good.len())
        .step_by(37)
        .flat_map(|at| [good[..at].to_vec(), flipped(at)])
        .collect();
    cases.extend([
        b"x".to_vec(),
        [&good[..], b"more"].concat(),
        b"GATEPOST STATE 2\n".to_vec(),
    ]);
    for (number, bytes) in cases.iter().enumerate() {
        let folder = folder();
        std::fs::write(folder.path().join("state"), bytes).expect("a writable folder");
        let state = Embedded::open(folder.path(), NOW).expect("opened without it");
        let aside = state.set_aside().unwrap_or_else(|| panic!("case {number} was taken"));
        assert_eq!(&std::fs::read(aside).expect("kept"), bytes);
        assert_eq!(state.bytes(), 0);
        state.namespace("p").set("k", b"v", None, NOW).expect("room");
        assert!(state.save().expect("a writable folder"));
        assert_eq!(
            Embedded::open(folder.path(), NOW).expect("a good snapshot").set_aside(),
            None
        );
    }
}

#[test]
fn records_that_lie_are_refused() {
    // A checksum proves that a file is what was written, not that what was written makes sense.
    for record in [
        &b"\x01\0\0\0\0"[..],
        b"\xff\xff\xff\xff",
        b"\x0d\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0",
        b"\x0f\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\0\0\0\0",
    ] {
        let folder = folder();
        let file = folder.path().join("state");
        snapshot::write(&file, |writer| writer.append(record)).expect("a writable folder");
        assert!(
            matches!(snapshot::read(&file), Err(snapshot::ReadError::Corrupt(_))),
            "{record:?}"
        );
    }
}

#[test]
fn an_unwritable_folder_is_an_error_and_is_tried_again() {
    let folder = folder();
    let state = Embedded::open(folder.path(), NOW).expect("an empty folder");
    state.namespace("p").set("k", b"v", None, NOW).expect("room");
    std::fs::create_dir(folder.path().join("state.new")).expect("a writable folder");
    assert!(state.save().is_err());
    std::fs::remove_dir(folder.path().join("state.new")).expect("there");
    assert!(state.save().expect("a writable folder"));
}

#[tokio::test(start_paused = true)]
async fn the_background_saves_at_the_end() {
    let folder = folder();
    let state = Embedded::open(folder.path(), NOW).expect("an empty folder");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runner = tokio::spawn({
        let state = state.clone();
        async move {
            state
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        }
    });
    state.namespace("p").set("k", b"v", None, u64::MAX / 2).expect("room");
    stop.send(()).expect("it listens");
    runner.await.expect("no panic");
    let again = Embedded::open(folder.path(), NOW).expect("a good snapshot");
    assert_eq!(again.namespace("p").get("k", NOW), Ok(Some(b"v".to_vec())));
}
