//! The store that policies are tested with natively answers as the daemon's: the same steps against both.

use gatepost::policy::services::state::{Bucket, Namespace, State, StateError, Taken};
use gatepost_sdk::state as sdk;
use gatepost_sdk::testing::Store;

/// What is done, after so many milliseconds.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Get(&'static str),
    Set(&'static str, &'static str, Option<u32>),
    Delete(&'static str),
    Increment(&'static str, i64, Option<u32>),
    /// Key, cost, rate, per-seconds, burst.
    Take(Vec<(&'static str, u32, u32, u32, u32)>),
    Refund(Vec<(&'static str, u32, u32, u32, u32)>),
}

/// Which error it was, without its text.
fn kind<T: std::fmt::Debug>(result: Result<T, &str>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error: {error}"),
    }
}

fn daemon(store: &Namespace, step: &Step, now_ms: u64) -> String {
    fn named<T>(result: Result<T, StateError>) -> Result<T, &'static str> {
        result.map_err(|error| match error {
            StateError::TooLarge => "too large",
            StateError::Unavailable(_) => "unavailable",
        })
    }
    let buckets = |given: &[(&'static str, u32, u32, u32, u32)]| {
        let bucket = |&(key, cost, rate, per_seconds, burst): &_| Bucket {
            key,
            cost,
            rate,
            per_seconds,
            burst,
        };
        given.iter().map(bucket).collect::<Vec<_>>()
    };
    match step {
        Step::Wait(_) => String::new(),
        Step::Get(key) => kind(named(store.get(key, now_ms))),
        Step::Set(key, value, ttl) => kind(named(store.set(key, value.as_bytes(), *ttl, now_ms))),
        Step::Delete(key) => kind(named(store.delete(key))),
        Step::Increment(key, by, ttl) => kind(named(store.increment(key, *by, *ttl, now_ms))),
        Step::Take(given) => kind(named(store.take_all(&buckets(given), now_ms)).map(|taken| match taken {
            Taken::Ok => None,
            Taken::Refused { index, wait_ms } => Some((index, wait_ms)),
        })),
        Step::Refund(given) => kind(named(store.refund(&buckets(given), now_ms))),
    }
}

fn native(store: &mut Store, step: &Step, now_ms: u64) -> String {
    fn named<T>(result: Result<T, sdk::StateError>) -> Result<T, &'static str> {
        result.map_err(|error| match error {
            sdk::StateError::TooLarge => "too large",
            sdk::StateError::Unavailable(_) => "unavailable",
        })
    }
    let buckets = |given: &[(&'static str, u32, u32, u32, u32)]| {
        let bucket = |&(key, cost, rate, per_seconds, burst): &(&str, u32, u32, u32, u32)| sdk::Bucket {
            key: key.to_owned(),
            cost,
            rate,
            per_seconds,
            burst,
        };
        given.iter().map(bucket).collect::<Vec<_>>()
    };
    store.now_ms = now_ms;
    match step {
        Step::Wait(_) => String::new(),
        Step::Get(key) => kind(named(store.get(key))),
        Step::Set(key, value, ttl) => kind(named(store.set(key, value.as_bytes(), *ttl))),
        Step::Delete(key) => kind(named(store.delete(key))),
        Step::Increment(key, by, ttl) => kind(named(store.increment(key, *by, *ttl))),
        Step::Take(given) => kind(named(store.take_all(&buckets(given))).map(|taken| match taken {
            sdk::Taken::Ok => None,
            sdk::Taken::Refused(refused) => Some(refused),
        })),
        Step::Refund(given) => kind(named(store.refund(&buckets(given)))),
    }
}

#[test]
fn both_stores_answer_alike() {
    use Step::{Delete, Get, Increment, Refund, Set, Take, Wait};
    let long: &'static str = "k".repeat(513).leak();
    let big: &'static str = "v".repeat(65_537).leak();
    let many = vec![("many", 1, 1, 1, 100); 33];
    let cases: Vec<(&str, Vec<Step>)> = vec![
        (
            "values expire, and what is set again lives on",
            vec![
                Set("k", "v", Some(1)),
                Wait(999),
                Get("k"),
                Wait(1),
                Get("k"),
                Set("k", "w", None),
                Wait(1 << 40),
                Get("k"),
                Delete("k"),
                Get("k"),
                Delete("k"),
            ],
        ),
        (
            "counters",
            vec![
                Increment("c", 2, Some(2)),
                Wait(1000),
                Increment("c", -5, Some(100)),
                Get("c"),
                Wait(1000),
                Increment("c", 1, None),
                Increment("c", i64::MAX, None),
                Increment("c", i64::MIN, None),
                Set("n", "41", Some(1)),
                Increment("n", 1, None),
                Wait(1000),
                Get("n"),
                Set("t", "text", None),
                Increment("t", 1, None),
            ],
        ),
        (
            "buckets give what came in",
            vec![
                Take(vec![("b", 1, 10, 60, 3)]),
                Take(vec![("b", 2, 10, 60, 3)]),
                Take(vec![("b", 1, 10, 60, 3)]),
                Wait(5999),
                Take(vec![("b", 1, 10, 60, 3)]),
                Wait(1),
                Take(vec![("b", 1, 10, 60, 3)]),
                Refund(vec![("b", 1, 10, 60, 3)]),
                Take(vec![("b", 1, 10, 60, 3)]),
                Wait(1 << 40),
                Take(vec![("b", 3, 10, 60, 3)]),
                Take(vec![("b", 1, 10, 60, 2)]),
            ],
        ),
        (
            "all or none",
            vec![
                Take(vec![("x", 1, 1, 60, 1)]),
                Take(vec![("y", 1, 1, 60, 1), ("x", 1, 1, 60, 1)]),
                Take(vec![("y", 1, 1, 60, 1)]),
                Take(vec![("z", 1, 1, 60, 2), ("z", 1, 1, 60, 2), ("z", 1, 1, 60, 2)]),
                Take(vec![("z", 1, 1, 60, 2), ("z", 1, 1, 60, 2)]),
                Take(Vec::new()),
            ],
        ),
        (
            "odd buckets",
            vec![
                Take(vec![("o", 4, 10, 60, 3)]),
                Take(vec![("p", 1, 0, 0, 1)]),
                Take(vec![("p", 1, 0, 0, 1)]),
                Take(vec![("q", 0, 0, 0, 0)]),
                Take(vec![("r", u32::MAX, 1, u32::MAX, u32::MAX)]),
                Take(vec![("r", u32::MAX, 1, u32::MAX, u32::MAX)]),
                Refund(vec![("s", 5, 1, 1, 2)]),
                Take(vec![("s", 3, 1, 1, 2)]),
            ],
        ),
        (
            "a bucket is no value, and a value no bucket",
            vec![
                Take(vec![("b", 1, 1, 60, 1)]),
                Get("b"),
                Increment("b", 1, None),
                Set("b", "v", None),
                Get("b"),
                Take(vec![("b", 1, 1, 60, 1)]),
                Take(vec![("fresh", 1, 1, 60, 1), ("b", 1, 1, 60, 1)]),
                Take(vec![("fresh", 1, 1, 60, 1)]),
            ],
        ),
        (
            "what is too large",
            vec![
                Get(long),
                Set(long, "", None),
                Set("k", big, None),
                Get("k"),
                Delete(long),
                Increment(long, 1, None),
                Take(vec![(long, 1, 1, 1, 1)]),
                Take(many),
            ],
        ),
    ];
    for (name, steps) in cases {
        let of_daemon = State::in_memory().namespace("policy");
        let mut of_sdk = Store::default();
        let mut now_ms = 1_000_000;
        for (place, step) in steps.iter().enumerate() {
            if let Wait(ms) = step {
                now_ms += ms;
            }
            let (ours, theirs) = (daemon(&of_daemon, step, now_ms), native(&mut of_sdk, step, now_ms));
            assert_eq!(ours, theirs, "{name}, step {place}: {step:.80?}");
        }
    }
}
