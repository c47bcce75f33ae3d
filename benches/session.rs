//! The session core: one transaction with a 4 kB message, pipelined as Postfix does it, from the first
//! byte of MAIL to the reply that the message is durable. No socket, no policy, no spool: each
//! question is accepted at once and the message's bytes are copied into a buffer.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatepost_smtp::session::{Answer, Session, SessionConfig, Step};

const NOW: Duration = Duration::from_secs(1);
const MESSAGE_BYTES: usize = 4096;
const LINE: &[u8] = b"The quick brown fox jumps over the lazy dog, and then it does so again.\r\n";

/// A session past EHLO, and the buffer that messages go to.
struct Driver {
    session: Session,
    message: Vec<u8>,
    accepted: u64,
}

impl Driver {
    fn new() -> Driver {
        let config = Arc::new(SessionConfig::new("relay.example.test"));
        let mut driver = Driver {
            session: Session::new(config, NOW),
            message: Vec::new(),
            accepted: 0,
        };
        driver.run();
        driver.send(b"EHLO client.example.test\r\n");
        driver
    }

    fn send(&mut self, bytes: &[u8]) {
        self.session
            .receive(bytes, NOW)
            .expect("a segment is smaller than the session's buffer");
        self.run();
    }

    /// Drives until more input is needed, and throws the output away.
    fn run(&mut self) {
        loop {
            match self.session.poll(NOW) {
                Step::Data => self.message.extend_from_slice(self.session.data()),
                Step::Ask(ask) => {
                    if let gatepost_smtp::session::Ask::Message { .. } = ask {
                        self.accepted += 1;
                        black_box(&self.message);
                        self.message.clear();
                    }
                    self.session.answer(Answer::Accept).expect("a question is parked");
                }
                Step::Replied(replied) => {
                    black_box(replied);
                }
                Step::NeedInput => break,
                other => panic!("the benchmark's client does nothing that leads to {other:?}"),
            }
        }
        black_box(self.session.output()).clear();
    }
}

/// Header and body of `MESSAGE_BYTES` in all, and the final dot.
fn message() -> Vec<u8> {
    let mut message = b"Received: from a.example by b.example; Tue, 24 Nov 2026 04:00:00 +0000\r\n\
        From: a@example.test\r\nTo: u@example.test\r\nSubject: benchmark\r\n\
        Message-ID: <1@example.test>\r\n\r\n"
        .to_vec();
    while message.len() + LINE.len() <= MESSAGE_BYTES {
        message.extend_from_slice(LINE);
    }
    message.extend_from_slice(b".\r\n");
    message
}

fn transaction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    let message = message();
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("transaction of 4 kB, pipelined", |bencher| {
        let mut driver = Driver::new();
        bencher.iter(|| {
            driver.send(b"MAIL FROM:<sender@example.test> SIZE=4096\r\nRCPT TO:<user@example.test>\r\nDATA\r\n");
            driver.send(&message);
        });
        assert!(driver.accepted > 0);
    });
    group.bench_function("transaction of 4 kB, BDAT", |bencher| {
        let mut driver = Driver::new();
        let body = &message[..message.len() - 3];
        let mut segment = format!(
            "MAIL FROM:<sender@example.test> SIZE=4096\r\nRCPT TO:<user@example.test>\r\nBDAT {} LAST\r\n",
            body.len()
        )
        .into_bytes();
        segment.extend_from_slice(body);
        bencher.iter(|| driver.send(&segment));
        assert!(driver.accepted > 0);
    });
    group.finish();
}

criterion_group!(benches, transaction);
criterion_main!(benches);
