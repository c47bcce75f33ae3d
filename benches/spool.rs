//! What a durable append of 4 kB costs, with 1, 20 and 100 sessions at once: the spool, and beside it the same queue
//! over `fjall`. Each message is taken out again, as delivery would. The processor time is printed after each.
//!
//! `SPOOL_BENCH_DIR` names the folder on the disk to measure; without it a temporary one is used.

#[path = "../tests/spool_support/mod.rs"]
mod spool_support;

#[path = "support/fjall_store.rs"]
mod fjall_store;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fjall_store::FjallStore;
use gatepost::message::{Body, Id, NewMessage, QueueState, RecipientStatus};
use gatepost::spool::{Spool, SpoolOptions};
use nix::sys::resource::{UsageWho, getrusage};
use spool_support::{message, origin};

const SIZE: usize = 4096;
const SESSIONS: [u64; 3] = [1, 20, 100];

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("of ourselves");
    let duration = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

/// Lets `sessions` tasks append `total` messages between them; how long that takes.
async fn run<F>(sessions: u64, total: u64, append: impl Fn(NewMessage) -> F + Clone + Send + 'static) -> Duration
where
    F: Future<Output = ()> + Send,
{
    let body = Bytes::from(vec![b'x'; SIZE]);
    let origin = origin();
    let began = Instant::now();
    let tasks: Vec<_> = (0..sessions)
        .map(|session| {
            let (append, body, origin) = (append.clone(), body.clone(), origin.clone());
            let own = total / sessions + u64::from(session < total % sessions);
            tokio::spawn(async move {
                for _ in 0..own {
                    append(message(Id::new(), 1, Body::Memory(body.clone()), &origin)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    began.elapsed()
}

fn measure<F>(
    criterion: &mut Criterion,
    runtime: &tokio::runtime::Runtime,
    name: &str,
    append: impl Fn(NewMessage) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let mut group = criterion.benchmark_group("append 4 kB");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for sessions in SESSIONS {
        let (mut used, mut appended) = (Duration::ZERO, 0);
        group.bench_function(BenchmarkId::new(name, sessions), |bencher| {
            bencher.iter_custom(|total| {
                let before = processor_time();
                let took = runtime.block_on(run(sessions, total, append.clone()));
                used += processor_time() - before;
                appended += total;
                took
            });
        });
        if appended > 0 {
            println!(
                "    processor time: {:.1} us a message",
                used.as_secs_f64() * 1e6 / appended as f64
            );
        }
    }
}

fn spool(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let base = std::env::var_os("SPOOL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(base).expect("a folder");

    let dir = folder.path().join("log");
    let (spool, _) = Spool::open(&dir, SpoolOptions::default()).expect("the spool opens");
    let delivery = runtime.spawn(deliver(spool.clone()));
    let shared = spool.clone();
    measure(criterion, &runtime, "log", move |message| {
        let spool = shared.clone();
        async move { spool.append(message).await.expect("room") }
    });
    delivery.abort();
    let stats = spool.stats();
    println!(
        "    {} commits of {:?} each",
        stats.commits,
        stats.commit_time / stats.commits.max(1) as u32
    );
    runtime.block_on(spool.close());

    let store = FjallStore::open(&folder.path().join("fjall")).expect("the store opens");
    let shared = Arc::new(store);
    measure(criterion, &runtime, "fjall", move |message| {
        let store = shared.clone();
        async move {
            let id = message.id;
            store.append(message).await.expect("room");
            store.remove(id);
        }
    });
}

/// Settles every message as delivered.
async fn deliver(spool: Spool) {
    loop {
        spool.wait_due().await;
        for claimed in spool.claim_due(SystemTime::now(), 100) {
            let mut state = QueueState::clone(&claimed.state);
            for recipient in &mut state.envelope.recipients {
                recipient.status = RecipientStatus::Delivered {
                    reply: "250 2.0.0 taken".to_owned(),
                };
            }
            spool.settle(claimed, state).await.expect("the spool is open");
        }
        tokio::task::yield_now().await;
    }
}

criterion_group!(benches, spool);
criterion_main!(benches);
