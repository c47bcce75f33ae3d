//! What a 250 is worth: kills at any moment, a disk that fills up, a record that the disk has spoilt.

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use support::servers::root;
use support::sink::{Down, Received, Sink};
use support::{PATIENCE, Setup, until};

/// How often the relay is killed. Another number, or another seed, by `GATEPOST_KILLS` and `GATEPOST_SEED`.
const KILLS: u64 = 30;
const SEED: u64 = 1;
/// Sending connections at a time.
const SENDERS: u64 = 6;
/// A kill comes after up to so many more messages have got their 250, or have reached the next hop.
const MESSAGES_BETWEEN: u64 = 300;
/// Between two attempts of a sender to get a connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);
/// Within this time before a kill may have come the remote 250 of a message that is delivered again: the spool's delay before it records
/// a delivery (10 ms), a commit under load, and what a busy machine adds.
const UNRECORDED: Duration = Duration::from_secs(1);
/// On average so many messages may come again after a kill. Each sender waits for its 250, so no more than [`SENDERS`] arrive in one
/// commit; a delivery waits for one or two of them until it is recorded.
const REPEATED_PER_KILL: u64 = 4 * SENDERS;
/// Every so many messages one is large enough to be a file of its own in the spool.
const LARGE_EVERY: u64 = 40;
const LARGE_BYTES: usize = 300 * 1024;

/// What the sending threads share with the killer.
struct Load {
    /// Where the relay listens now.
    address: Mutex<SocketAddr>,
    next: AtomicU64,
    /// The messages that got their 250.
    acknowledged: Mutex<HashSet<u64>>,
    more: Condvar,
    done: AtomicBool,
}

impl Load {
    /// Sends until it is over; a connection that breaks is replaced, and what it was about to say stays unacknowledged.
    fn send(&self) {
        while !self.done.load(Ordering::Relaxed) {
            // Every error here is a connection that a kill has cut, or one to a relay that is not up yet.
            if self.session().is_err() {
                std::thread::park_timeout(RECONNECT_PAUSE);
            }
        }
    }

    fn session(&self) -> io::Result<()> {
        let address = *self.address.lock().expect("no panic");
        let mut out = TcpStream::connect(address)?;
        out.set_read_timeout(Some(PATIENCE))?;
        out.set_nodelay(true)?;
        let mut replies = BufReader::new(out.try_clone()?);
        expect(&mut replies, "220")?;
        out.write_all(b"EHLO client.test\r\n")?;
        expect(&mut replies, "250")?;
        while !self.done.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            out.write_all(b"MAIL FROM:<me@elsewhere.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n")?;
            for code in ["250", "250", "354"] {
                expect(&mut replies, code)?;
            }
            out.write_all(&message(number))?;
            out.write_all(b".\r\n")?;
            expect(&mut replies, "250")?;
            self.acknowledged.lock().expect("no panic").insert(number);
            self.more.notify_all();
        }
        out.write_all(b"QUIT\r\n")
    }

    /// Waits until so many more messages have got their 250.
    fn wait_for(&self, more: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut acknowledged = self.acknowledged.lock().expect("no panic");
        let wanted = acknowledged.len() + more as usize;
        while acknowledged.len() < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no more mail is taken: {} of {wanted}",
                acknowledged.len()
            );
            acknowledged = self.more.wait_timeout(acknowledged, left).expect("no panic").0;
        }
    }
}

fn expect(replies: &mut impl io::BufRead, code: &str) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if replies.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !line.ends_with('\n') || !line.starts_with(code) {
            return Err(io::Error::other(line));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

/// The message of that number; all of its content follows from it.
fn message(number: u64) -> Vec<u8> {
    let size = match number % LARGE_EVERY {
        0 => LARGE_BYTES,
        odd => 200 + odd as usize * 100,
    };
    let mut message = format!("Subject: {number}\r\n\r\n").into_bytes();
    let line = format!("{number} {}\r\n", "x".repeat(60));
    while message.len() < size {
        message.extend_from_slice(line.as_bytes());
    }
    message
}

fn number(received: &Received) -> u64 {
    let text = String::from_utf8_lossy(&received.below_trace()[..40.min(received.below_trace().len())]).into_owned();
    let digits = text
        .strip_prefix("Subject: ")
        .and_then(|rest| rest.split("\r\n").next());
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("{text:?}"))
}

/// The end of one life of the relay.
struct Kill {
    at: Instant,
    /// The worker was seen to be gone.
    over: Instant,
}

/// splitmix64: the moments of the kills follow from the seed, as far as the machine lets them.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

#[test]
fn what_got_its_250_survives_kills_under_load() {
    let (kills, seed) = (
        from_environment("GATEPOST_KILLS", KILLS),
        from_environment("GATEPOST_SEED", SEED),
    );
    let mut random = Random(seed);
    let sink = Sink::start();
    let mut relay = Setup::new()
        .next_hop(&sink.next_hop())
        .delivery("retry = [\"1s\"]")
        .start();
    let load = Load {
        address: Mutex::new(relay.address("mx")),
        next: AtomicU64::new(1),
        acknowledged: Mutex::default(),
        more: Condvar::new(),
        done: AtomicBool::new(false),
    };
    let mut killed = Vec::new();
    std::thread::scope(|scope| {
        // A panic here must end the senders as well, or the scope waits for ever.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&load.done);
        for _ in 0..SENDERS {
            scope.spawn(|| load.send());
        }
        for _ in 0..kills {
            let after = 1 + random.below(MESSAGES_BETWEEN);
            match random.below(2) {
                0 => load.wait_for(after),
                _ => sink.wait_for_more(after as usize),
            }
            let worker = relay.worker();
            let at = Instant::now();
            if random.below(2) == 0 {
                nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL).expect("the worker is there");
                until("the worker is gone", || nix::sys::signal::kill(worker, None).is_err());
                killed.push(Kill {
                    at,
                    over: Instant::now(),
                });
                relay.wait_until_up();
            } else {
                relay.kill();
                killed.push(Kill {
                    at,
                    over: Instant::now(),
                });
                relay.restart();
            }
            *load.address.lock().expect("no panic") = relay.address("mx");
        }
        load.wait_for(1);
    });

    let acknowledged = load.acknowledged.into_inner().expect("no panic");
    let mut arrivals: BTreeMap<u64, Vec<Received>> = BTreeMap::new();
    let mut seen = 0;
    until(
        "every message that got its 250 has arrived, and the queue is empty",
        || {
            let received = sink.after(seen);
            seen += received.len();
            for one in received {
                let number = number(&one);
                assert!(
                    one.below_trace() == message(number),
                    "message {number} arrived otherwise than it was sent"
                );
                let content = Vec::new();
                arrivals.entry(number).or_default().push(Received { content, ..one });
            }
            let status: serde_json::Value =
                serde_json::from_str(&relay.admin("{\"command\":\"status\"}")).expect("a status");
            status["queued"] == 0 && sink.count() == seen
        },
    );
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|number| !arrivals.contains_key(number))
        .collect();
    assert!(lost.is_empty(), "lost although they had got their 250: {lost:?}");

    // A message comes twice only if a kill fell between the next hop's 250 and the record of it.
    let mut again = 0_u64;
    let mut longest = Duration::ZERO;
    for (number, copies) in &arrivals {
        for pair in copies.windows(2) {
            let lives = [&pair[0], &pair[1]].map(|copy| killed.partition_point(|kill| kill.over <= copy.connected));
            assert!(
                lives[0] < lives[1],
                "message {number} came twice in one life of the relay"
            );
            // None: the relay was dead already when the next hop got round to reading what it had been sent.
            let before = killed[lives[0]].at.saturating_duration_since(pair[0].at);
            assert!(
                before <= UNRECORDED,
                "message {number} came again, though it had been delivered {before:?} before the kill"
            );
            longest = longest.max(before);
            again += 1;
        }
    }
    assert!(
        again <= kills * REPEATED_PER_KILL,
        "{again} messages came again after {kills} kills: deliveries are not recorded"
    );
    let unacknowledged = arrivals.keys().filter(|number| !acknowledged.contains(number)).count();
    println!(
        "{kills} kills (seed {seed}): {} messages got their 250 and arrived, {again} came again, delivered at most {longest:?} before a \
         kill and not recorded yet; {unacknowledged} more arrived whose 250 the kill cut off",
        acknowledged.len(),
    );
}

/// A file system of its own for a test; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, said aloud, where mounting is not allowed.
    fn tmpfs(path: &Path, size: &str) -> Option<Mount> {
        if !root("mounting a small disk") {
            return None;
        }
        std::fs::create_dir_all(path).expect("a folder to mount on");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "gatepost-test"])
            .arg(path);
        let output = mount.output().expect("mount");
        if !output.status.success() {
            // Root in a container, as a rule.
            eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Some(Mount(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Takes all the room that there is, but so many bytes (some, as others write as well); given back when dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn leaving(folder: &Path, bytes: u64) -> Ballast {
        let ballast = Ballast(folder.join("ballast"));
        let stat = nix::sys::statvfs::statvfs(folder).expect("a file system");
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        let file = std::fs::File::create(&ballast.0).expect("a file");
        let flags = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(&file, flags, 0, (free - bytes) as i64).expect("room");
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_disk_is_a_452_and_no_250_and_passes() {
    let sink = Sink::start();
    let setup = Setup::new().next_hop(&sink.next_hop());
    let state = setup.dir.path().join("state");
    let Some(mount) = Mount::tmpfs(&state, "512m") else {
        return;
    };
    let relay = setup.start();
    // Dropped before the relay, whose folder could not be removed otherwise.
    let _mount = mount;
    let hello = "Subject: hello\r\n\r\nbody";
    // The reply that ends the transaction, wherever that is.
    let send = || {
        let mut client = relay.connect("mx");
        client.ehlo();
        client.line("MAIL FROM:<me@elsewhere.test>");
        let reply = client.reply();
        if !reply.starts_with("250") {
            return reply;
        }
        client.says("RCPT TO:<u@ours.test>", "250");
        client.says("DATA", "354");
        client.says(&format!("{hello}\r\n."), "")
    };
    assert!(send().starts_with("250 2.0.0"));

    // The disk fills up while a message arrives that goes through a file.
    let mut client = relay.connect("mx");
    client.ehlo();
    client.says("MAIL FROM:<me@elsewhere.test>", "250");
    client.says("RCPT TO:<u@ours.test>", "250");
    client.says("DATA", "354");
    let ballast = Ballast::leaving(&state, 64 << 10);
    client.raw("Subject: large\r\n\r\n");
    client.raw(format!("{}\r\n", "x".repeat(98)).repeat(10_000));
    client.says(".", "452 4.3.1");
    client.says("NOOP", "250");

    // While it is full nothing begins, at the latest when the relay has looked at the disk again.
    until("mail is refused for want of room", || send().starts_with("452 4.3.1"));
    relay.logged(&["refused", "452 4.3.1"]);
    drop(ballast);
    until("mail is taken again", || send().starts_with("250 2.0.0"));

    // Short of room, it refuses before the disk is full.
    let _ballast = Ballast::leaving(&state, 100 << 20);
    until("mail is refused before it is too late", || {
        send().starts_with("452 4.3.1")
    });
    let accepted = relay.log().matches("\"event\":\"accepted\"").count();
    let received = sink.wait_for(accepted);
    assert_eq!(received.len(), accepted);
    assert!(
        received
            .iter()
            .all(|one| one.below_trace() == format!("{hello}\r\n").as_bytes())
    );
}

/// The file of the spool's log that has these bytes, and where.
fn find(folder: &Path, bytes: &str) -> (PathBuf, usize) {
    let files = std::fs::read_dir(folder).expect("the spool's log").flatten();
    files
        .map(|file| file.path())
        .find_map(|path| {
            let content = std::fs::read(&path).expect("a segment");
            memchr::memmem::find(&content, bytes.as_bytes()).map(|at| (path, at))
        })
        .unwrap_or_else(|| panic!("{bytes:?} is not in {}", folder.display()))
}

#[test]
fn a_record_that_the_disk_has_spoilt_is_set_aside_and_the_rest_is_delivered() {
    let down = Down::start();
    let mut relay = Setup::new()
        .next_hop(&down.next_hop())
        .delivery("retry = [\"1s\"]")
        .start();
    let mut ids = HashMap::new();
    for name in ["first", "second", "third"] {
        let mut client = relay.connect("mx");
        client.ehlo();
        let reply = client.send(
            "me@elsewhere.test",
            &["u@ours.test"],
            &format!("Subject: {name}\r\n\r\nthe {name} body"),
        );
        let id = reply.split_whitespace().last().expect("an id").to_owned();
        assert!(reply.starts_with("250 2.0.0"), "{reply}");
        relay.logged(&["deferred", &id]);
        ids.insert(name, id);
    }
    assert!(relay.terminate().success());

    let spool = relay.dir.path().join("state/spool");
    let (segment, at) = find(&spool.join("log"), "the second body");
    let mut content = std::fs::read(&segment).expect("a segment");
    content[at + 5] ^= 0x20;
    std::fs::write(&segment, content).expect("a segment");

    relay.restart();
    let line = relay.logged(&["a damaged record of the spool was set aside", &ids["second"]]);
    let copies: Vec<_> = std::fs::read_dir(spool.join("corrupt"))
        .expect("corrupt/")
        .flatten()
        .collect();
    assert!(!copies.is_empty(), "{line}");
    let sink = down.up();
    let mut subjects: Vec<_> = sink.wait_for(2).iter().map(|one| one.below_trace().to_vec()).collect();
    subjects.sort();
    assert!(subjects[0].starts_with(b"Subject: first") && subjects[1].starts_with(b"Subject: third"));
    until("the queue is empty", || {
        relay.command(&["queue", "list", "--json"]).trim() == "[]"
    });
    assert_eq!(sink.count(), 2);
}
