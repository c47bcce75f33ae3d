//! The stores answer alike: the daemon's own, the one that policies are tested with natively, and the one that relays share. The same steps
//! against all of them.

mod support;

use std::path::Path;

use gatepost::config::Config;
use gatepost::policy::services::state::{Bucket, Clock, Namespace, Shared, State, StateError, Taken};
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

async fn daemon(store: &Namespace, step: &Step, now_ms: u64) -> String {
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
        Step::Get(key) => kind(named(store.get(key, now_ms).await)),
        Step::Set(key, value, ttl) => kind(named(store.set(key, value.as_bytes(), *ttl, now_ms).await)),
        Step::Delete(key) => kind(named(store.delete(key).await)),
        Step::Increment(key, by, ttl) => kind(named(store.increment(key, *by, *ttl, now_ms).await)),
        Step::Take(given) => kind(
            named(store.take_all(&buckets(given), now_ms).await).map(|taken| match taken {
                Taken::Ok => None,
                Taken::Refused { index, wait_ms } => Some((index, wait_ms)),
            }),
        ),
        Step::Refund(given) => kind(named(store.refund(&buckets(given), now_ms).await)),
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

fn cases() -> Vec<(&'static str, Vec<Step>)> {
    use Step::{Delete, Get, Increment, Refund, Set, Take, Wait};
    let long: &'static str = "k".repeat(513).leak();
    let big: &'static str = "v".repeat(65_537).leak();
    let many = vec![("many", 1, 1, 1, 100); 33];
    vec![
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
                Get("t"),
                Set("e", "", None),
                Increment("e", 1, None),
                Set("z", "+007", None),
                Increment("z", 1, None),
                Get("z"),
                Set("m", "-0", None),
                Increment("m", 0, None),
                Get("m"),
                Set("l", "9223372036854775808", None),
                Increment("l", -1, None),
                Get("l"),
                Set("s", " 1", None),
                Increment("s", 1, None),
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
    ]
}

/// Says all steps of all cases to the store of a plugin of that case, and compares with the native store.
async fn answers_as_the_native_store(which: &str, state: &State) {
    for (case, (name, steps)) in cases().into_iter().enumerate() {
        let of_daemon = state.namespace(&format!("policy-{case}"));
        let mut of_sdk = Store::default();
        let mut now_ms = 1_000_000;
        for (place, step) in steps.iter().enumerate() {
            if let Step::Wait(ms) = step {
                now_ms += ms;
            }
            let ours = daemon(&of_daemon, step, now_ms).await;
            let theirs = native(&mut of_sdk, step, now_ms);
            assert_eq!(ours, theirs, "{which}: {name}, step {place}: {step:.80?}");
        }
    }
}

/// The shared store of a server, as the configuration's `state` names it.
async fn shared(url: &str, clock: Clock) -> State {
    let text = format!(
        "hostname = \"relay.test\"\nstate = \"{url}\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\n"
    );
    let config = Config::parse(&text, Path::new("gatepost.toml")).expect("valid");
    State::Shared(Shared::open(config.state.expect("it is there"), None, clock).await)
}

#[tokio::test]
async fn the_embedded_store_answers_as_the_native_one() {
    answers_as_the_native_store("embedded", &State::in_memory()).await;
}

#[tokio::test]
async fn the_shared_store_answers_as_the_native_one() {
    let folder = tempfile::tempdir().expect("a folder for the socket");
    let socket = folder.path().join("redis.sock").display().to_string();
    let Some(redis) = support::redis::Redis::start(&["--unixsocket", &socket]) else {
        return;
    };
    // Each database is empty at first, and a socket leads to the first one.
    for url in [format!("{}/3", redis.url()), format!("redis+unix:{socket}")] {
        answers_as_the_native_store(&url, &shared(&url, Clock::Caller).await).await;
    }
}

/// Numbers without a pattern, the same in each run (a linear congruential generator, as in C's `rand`).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Small ones, and the largest.
    fn u32(&mut self) -> u32 {
        match self.below(8) {
            0 => u32::MAX - self.below(3) as u32,
            1 => self.below(1 << 31) as u32,
            2 => self.below(1_000_000) as u32,
            _ => self.below(10) as u32,
        }
    }
}

#[tokio::test]
async fn the_shared_store_counts_buckets_to_the_billionth() {
    let Some(redis) = support::redis::Redis::start(&[]) else {
        return;
    };
    let state = shared(&redis.url(), Clock::Caller).await;
    let (own, embedded) = (state.namespace("odd"), State::in_memory().namespace("odd"));
    let mut numbers = Numbers(1);
    let mut now_ms = 1_800_000_000_000;
    for round in 0..2_000 {
        let keys = ["a", "b", "c"];
        let given: Vec<_> = (0..numbers.below(4))
            .map(|_| {
                let key = keys[numbers.below(3) as usize];
                (key, numbers.u32(), numbers.u32(), numbers.u32(), numbers.u32())
            })
            .collect();
        let step = match numbers.below(4) {
            0 => Step::Refund(given),
            1 => {
                let most = 1 << numbers.below(31);
                now_ms += numbers.below(most);
                Step::Delete(keys[numbers.below(3) as usize])
            }
            _ => Step::Take(given),
        };
        now_ms += numbers.below(3_000);
        let (ours, theirs) = (
            daemon(&own, &step, now_ms).await,
            daemon(&embedded, &step, now_ms).await,
        );
        assert_eq!(ours, theirs, "round {round} at {now_ms}: {step:?}");
    }
}
