//! What the spool's contract test and its bench share.

#![allow(dead_code, reason = "each user takes what it needs")]

pub mod disk;

use std::sync::Arc;

use bytes::Bytes;
use gatepost::message::{Body, Envelope, Id, NewMessage, Origin, Recipient, SessionFacts};
use gatepost::spool::SpoolOptions;

/// Where the spool is on the test's disk.
pub const DIR: &str = "/spool";

/// The smallest segments, so that a test fills many.
pub fn options() -> SpoolOptions {
    SpoolOptions {
        segment_bytes: SpoolOptions::MIN_SEGMENT_BYTES,
        ..SpoolOptions::default()
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A small generator (splitmix64): the same seed, the same run.
#[derive(Clone, Copy, Default)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The bytes of the body that belongs to an id: nothing else has them.
pub fn body_bytes(id: Id, len: usize) -> Vec<u8> {
    let mut random = Random(id.0);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn head_bytes(id: Id) -> Bytes {
    Bytes::from(format!("Received: from there by here id {id}\r\n"))
}

pub fn origin() -> Arc<Origin> {
    let session = Arc::new(SessionFacts::internal());
    let received = session.started;
    Arc::new(Origin {
        session,
        notes: Default::default(),
        tags: Vec::new(),
        received,
    })
}

pub fn message(id: Id, recipients: usize, body: Body, origin: &Arc<Origin>) -> NewMessage {
    let recipient = |place| Recipient {
        address: format!("r{place}@example.test"),
        ..Recipient::default()
    };
    NewMessage {
        id,
        envelope: Envelope {
            sender: "sender@example.test".to_owned(),
            recipients: (0..recipients).map(recipient).collect(),
            ..Envelope::default()
        },
        head: head_bytes(id),
        body,
        origin: origin.clone(),
        held: None,
    }
}
