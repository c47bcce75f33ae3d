//! A name server of a test's own, whose answers are a function of the name, and which keeps them to itself until it is told otherwise.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// What it says of a name, whatever was asked about it.
pub enum Said {
    /// These addresses.
    Addresses(&'static [[u8; 4]]),
    /// There is no such name.
    NoName,
    /// SERVFAIL.
    Fails,
    /// A packet that is no answer.
    Nonsense,
}

/// Answers as long as its process lives: nobody waits for it to end.
pub struct Names {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    released: Arc<AtomicBool>,
    questions: Arc<Mutex<BTreeSet<String>>>,
}

impl Names {
    /// One that answers at once.
    pub fn start(says: impl Fn(&str) -> Said + Send + 'static) -> Names {
        let names = Names::waiting(says);
        names.release();
        names
    }

    /// One that answers nothing before [`Names::release`].
    pub fn waiting(says: impl Fn(&str) -> Said + Send + 'static) -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // The grain at which it notices that it may answer.
        let grain = Some(Duration::from_millis(10));
        socket.set_read_timeout(grain).expect("a time-out");
        let names = Names {
            address: socket.local_addr().expect("bound"),
            asked: Arc::default(),
            released: Arc::default(),
            questions: Arc::default(),
        };
        let (asked, released, questions) = (names.asked.clone(), names.released.clone(), names.questions.clone());
        std::thread::spawn(move || {
            let (mut packet, mut kept) = ([0; 512], Vec::new());
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut packet) {
                    let question = &packet[..length];
                    let name = name(question);
                    kept.push((answer(question, says(&name)), from));
                    questions.lock().insert(name);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                if released.load(Ordering::SeqCst) {
                    for (answer, from) in kept.drain(..) {
                        let _ = socket.send_to(&answer, from);
                    }
                }
            }
        });
        names
    }

    /// How many questions came.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The names that were asked for.
    pub fn questions(&self) -> BTreeSet<String> {
        self.questions.lock().clone()
    }

    /// It answers from now on, what was asked before too.
    pub fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }
}

/// The name of the question (RFC 1035 §4.1.2), in lower case.
fn name(question: &[u8]) -> String {
    let (mut labels, mut at) = (Vec::new(), 12);
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    labels.join(".")
}

/// RFC 1035 §4.1: the header, the question as it was asked, the records.
fn answer(question: &[u8], says: Said) -> Vec<u8> {
    let (code, addresses): (u8, &[[u8; 4]]) = match says {
        Said::Addresses(addresses) => (0, addresses),
        Said::NoName => (3, &[]),
        Said::Fails => (2, &[]),
        Said::Nonsense => return [&question[..2], &[0xff; 30][..]].concat(),
    };
    let end = question[12..].iter().position(|byte| *byte == 0).expect("a name");
    let mut answer = question[..12 + end + 5].to_vec();
    let count = u8::try_from(addresses.len()).expect("a few");
    answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    answer
}
