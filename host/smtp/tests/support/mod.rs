//! Dialog files: parsing them, and playing their client's part against a session without a socket.
//!
//! A file holds cases. A case begins with `== name` and goes on with one directive a line:
//!
//! ```text
//! # ...            a comment
//! @ key value      the listener's configuration (see `configure`); `@ hello` gets past banner and EHLO
//! V: stage what    the verdict on the next question at that stage (see `answer_of`); default: accept
//! C: text          the client sends the text and CRLF; adjacent lines are one segment (pipelining)
//! C- text          the same without CRLF
//! C+ text          the same as C:, and the whole segment arrives before the server acts on any of it
//! T: tls           the TLS handshake succeeds
//! E: eof           the client closes its side
//! W: 300           so many seconds pass
//! X: shutdown      the server wants to stop
//! S: text          the server replies with this line, exactly
//! S: [event]       ... or this happens: `[close REASON]`, `[aborted]`, `[tls]`, `[message TEXT]`
//! Q: stage what    the driver was asked this; checked in cases that hold a Q
//! O: verb line     the core refused this by itself; checked in cases that hold an O
//! ```
//!
//! Escapes: `\r \n \0 \t \\ \xNN`, and `\*N(text)` for `text` N times.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use gatepost_smtp::error::Misuse;
use gatepost_smtp::reply::{Enhanced, Reply};
use gatepost_smtp::session::{Answer, Ask, AuthStep, Extensions, Session, SessionConfig, Step};

/// One case of a dialog file.
pub struct Case {
    pub name: String,
    pub config: SessionConfig,
    /// Banner and EHLO are gone through in silence.
    pub hello: bool,
    pub turns: Vec<Turn>,
    pub checks_asks: bool,
    pub checks_own: bool,
}

/// What the client (or the world) does, and what must come of it.
pub struct Turn {
    /// Verdicts on the questions that this leads to, by stage.
    pub verdicts: Vec<(String, Answer)>,
    pub act: Act,
    pub line: usize,
    pub expected: Vec<String>,
}

pub enum Act {
    Connect,
    Send { bytes: Vec<u8>, at_once: bool },
    Handshake,
    End,
    Wait(Duration),
    Shutdown,
}

/// How a segment is cut before it is handed to the session.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Whole,
    Bytes,
    /// Pieces of pseudo-random sizes, by seed.
    Random(u64),
}

/// Parses a dialog file; panics with the line number on one that is malformed.
pub fn parse(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    // A segment goes on as long as client lines follow each other.
    let mut open_segment = false;
    let mut verdicts = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let at = || format!("{file}:{number}");
        if line.trim().is_empty() || line.starts_with('#') {
            open_segment = false;
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case {
                name: format!("{file}: {name}"),
                config: SessionConfig::new("mx.test"),
                hello: false,
                turns: vec![Turn {
                    verdicts: Vec::new(),
                    act: Act::Connect,
                    line: number,
                    expected: Vec::new(),
                }],
                checks_asks: false,
                checks_own: false,
            });
            open_segment = false;
            continue;
        }
        let case = cases
            .last_mut()
            .unwrap_or_else(|| panic!("{}: a case must begin with `== name`", at()));
        let (mark, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let mut turn = |act| Turn {
            verdicts: std::mem::take(&mut verdicts),
            act,
            line: number,
            expected: Vec::new(),
        };
        match mark {
            "@ " if rest == "hello" => case.hello = true,
            "@ " => configure(&mut case.config, rest).unwrap_or_else(|| panic!("{}: {line}", at())),
            "V:" => {
                let (stage, what) = rest.split_once(' ').unwrap_or((rest, "accept"));
                let answer = answer_of(what).unwrap_or_else(|| panic!("{}: {line}", at()));
                if stage == "connect" {
                    case.turns[0].verdicts.push((stage.to_owned(), answer));
                } else {
                    verdicts.push((stage.to_owned(), answer));
                }
            }
            "C:" | "C-" | "C+" => {
                let mut sent = unescape(rest).unwrap_or_else(|| panic!("{}: bad escape", at()));
                if mark != "C-" {
                    sent.extend_from_slice(b"\r\n");
                }
                match case.turns.last_mut().map(|turn| &mut turn.act) {
                    Some(Act::Send { bytes, at_once }) if open_segment => {
                        bytes.extend_from_slice(&sent);
                        *at_once |= mark == "C+";
                    }
                    _ => case.turns.push(turn(Act::Send {
                        bytes: sent,
                        at_once: mark == "C+",
                    })),
                }
                open_segment = true;
                continue;
            }
            "T:" => case.turns.push(turn(Act::Handshake)),
            "E:" => case.turns.push(turn(Act::End)),
            "X:" => case.turns.push(turn(Act::Shutdown)),
            "W:" => {
                let seconds = rest.parse().unwrap_or_else(|_| panic!("{}: {line}", at()));
                case.turns.push(turn(Act::Wait(Duration::from_secs(seconds))));
            }
            "S:" | "Q:" | "O:" => {
                case.checks_asks |= mark == "Q:";
                case.checks_own |= mark == "O:";
                let expected = unescape(rest).unwrap_or_else(|| panic!("{}: bad escape", at()));
                let expected = format!("{mark} {}", escape(&expected));
                let turn = case.turns.last_mut().expect("a case begins with a turn");
                turn.expected.push(expected);
            }
            _ => panic!("{}: unknown directive: {line}", at()),
        }
        open_segment = false;
    }
    cases
}

fn configure(config: &mut SessionConfig, setting: &str) -> Option<()> {
    let (key, value) = setting.split_once(' ').unwrap_or((setting, ""));
    match key {
        "starttls" => config.starttls = true,
        "implicit-tls" => config.implicit_tls = true,
        "tls-required" => config.tls_required = true,
        "auth-required" => config.auth_required = true,
        "plaintext-auth" => config.allow_plaintext_auth = true,
        "mechanisms" => config.mechanisms = value.split(' ').map(str::to_owned).collect(),
        "size" => config.max_message_size = value.parse().ok()?,
        "recipients" => config.max_recipients = value.parse().ok()?,
        "messages" => config.max_messages = Some(value.parse().ok()?),
        "received" => config.max_received = value.parse().ok()?,
        "errors" => config.max_errors = value.parse().ok()?,
        "commands" => config.max_commands = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

fn answer_of(what: &str) -> Option<Answer> {
    let (kind, rest) = what.split_once(' ').unwrap_or((what, ""));
    Some(match kind {
        "accept" if rest.is_empty() => Answer::Accept,
        "accept" => Answer::AcceptWith(reply_of(rest)?),
        "refuse" => Answer::Refuse(reply_of(rest)?),
        "disconnect" => Answer::Disconnect(reply_of(rest)?),
        "withdraw" => {
            let mut set = Extensions::NONE;
            for keyword in rest.split(' ') {
                set = set.union(Extensions::from_keyword(keyword)?);
            }
            Answer::Withdraw(set)
        }
        "challenge" => Answer::Challenge(rest.as_bytes().to_vec()),
        "success" => Answer::Success,
        "failure" => Answer::Failure(reply_of(rest)?),
        _ => return None,
    })
}

fn reply_of(text: &str) -> Option<Reply> {
    let mut words = text.splitn(3, ' ');
    let code = words.next()?.parse().ok()?;
    let enhanced = Enhanced::parse(words.next()?)?;
    Some(Reply::new(code, enhanced, words.next()?.to_owned()))
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let kind = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                rest = &rest[2..];
            }
            '*' => {
                let (count, tail) = rest.split_once('(')?;
                let (repeated, tail) = tail.split_once(')')?;
                bytes.extend(unescape(repeated)?.repeat(count.parse().ok()?));
                rest = tail;
            }
            _ => return None,
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

/// A session and the driver that the tests put around it.
pub struct Play {
    session: Session,
    now: Duration,
    verdicts: VecDeque<(String, Answer)>,
    message: Vec<u8>,
    /// What happened since it was last taken, as in the dialog files: `S: `, `Q: `, `O: `.
    pub log: Vec<String>,
    /// Said already: the session says it at every poll.
    closed: bool,
    handshaking: bool,
}

impl Play {
    pub fn new(case: &Case) -> Play {
        let now = Duration::from_secs(1000);
        let mut play = Play {
            session: Session::new(Arc::new(case.config.clone()), now),
            now,
            verdicts: VecDeque::new(),
            message: Vec::new(),
            log: Vec::new(),
            closed: false,
            handshaking: false,
        };
        if case.hello {
            play.run();
            play.send(b"EHLO client.test\r\n", false, Cut::Whole);
            play.log.clear();
        }
        play
    }

    pub fn turn(&mut self, turn: &Turn, cut: Cut) {
        self.verdicts.extend(turn.verdicts.iter().cloned());
        match &turn.act {
            Act::Connect => {}
            Act::Send { bytes, at_once } => self.send(bytes, *at_once, cut),
            Act::Handshake => match self.session.start_tls_done(self.now) {
                Ok(()) => {}
                Err(misuse) => self.log.push(format!("S: [misuse {misuse}]")),
            },
            Act::End => self.session.received_eof(),
            Act::Wait(time) => self.now += *time,
            Act::Shutdown => self.session.shutdown(Reply::shutting_down()),
        }
        self.run();
    }

    fn send(&mut self, bytes: &[u8], at_once: bool, cut: Cut) {
        let mut seed = match cut {
            Cut::Random(seed) => seed | 1,
            _ => 1,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = match cut {
                Cut::Whole => rest.len(),
                Cut::Bytes => 1,
                Cut::Random(_) => 1 + usize::try_from(xorshift(&mut seed) % 40).unwrap_or(0),
            };
            // No more than there is space for, as a driver does.
            let space = self.session.input_space();
            let size = size.min(rest.len()).min(if space == 0 { rest.len() } else { space });
            let (piece, tail) = rest.split_at(size);
            rest = tail;
            assert_eq!(self.session.receive(piece, self.now), Ok(()));
            if !at_once {
                self.run();
            }
        }
    }

    /// Polls until nothing more happens, and answers what is asked.
    fn run(&mut self) {
        loop {
            match self.session.poll(self.now) {
                Step::NeedInput => {
                    assert!(self.session.wants_input(), "input is needed, so it must be wanted");
                    assert!(self.session.deadline() > self.now, "a deadline in the past");
                    break;
                }
                Step::StartTls => {
                    self.flush();
                    if !std::mem::replace(&mut self.handshaking, true) {
                        self.log.push("S: [tls]".to_owned());
                    }
                    break;
                }
                Step::Close(reason) => {
                    self.flush();
                    if !self.closed {
                        self.log.push(format!("S: [close {}]", reason.as_str()));
                    }
                    self.closed = true;
                    break;
                }
                Step::Flush => self.flush(),
                Step::Data => {
                    let data = self.session.data();
                    assert!(!data.is_empty());
                    self.message.extend_from_slice(data);
                }
                Step::Replied(replied) => {
                    self.flush();
                    if replied.own && replied.reply.is_refusal() {
                        let line = replied.line.unwrap_or_default();
                        let line = escape(line.as_bytes());
                        self.log.push(format!("O: {} {line}", replied.verb.as_str()));
                    }
                }
                Step::Aborted => {
                    self.message.clear();
                    self.log.push("S: [aborted]".to_owned());
                }
                Step::Ask(ask) => self.answer(ask),
                Step::Parked => panic!("every question is answered at once here"),
            }
        }
        self.flush();
    }

    fn answer(&mut self, ask: Ask) {
        self.flush();
        assert_eq!(self.session.deadline(), Duration::MAX, "no deadline while parked");
        let (stage, shown) = describe(&ask);
        self.log.push(format!("Q: {stage} {shown}"));
        let at = self.verdicts.iter().position(|(at, _)| at == stage);
        let verdict = at.and_then(|at| self.verdicts.remove(at));
        let answer = match (verdict, &ask) {
            (Some((_, answer)), _) => answer,
            (None, Ask::Auth(_)) => Answer::Failure(Reply::auth_failed()),
            (None, _) => Answer::Accept,
        };
        if let Ask::Message { size } = ask {
            let message = std::mem::take(&mut self.message);
            assert_eq!(message.len() as u64, size);
            assert_clean(&message);
            if !matches!(answer, Answer::Refuse(_) | Answer::Disconnect(_)) {
                self.log.push(format!("S: [message {}]", escape(&message)));
            }
        }
        assert_eq!(self.session.answer(answer), Ok(()));
        assert_eq!(self.session.answer(Answer::Accept), Err(Misuse::NotParked));
    }

    fn flush(&mut self) {
        let output = std::mem::take(self.session.output());
        let text = String::from_utf8(output).expect("replies are ASCII");
        for line in text.split_inclusive("\r\n") {
            let line = line.strip_suffix("\r\n").expect("replies end with CRLF");
            assert!(!line.contains(['\r', '\n', '\0']) && line.is_ascii());
            self.log.push(format!("S: {line}"));
        }
    }
}

/// Nothing that a next hop could take for another line end.
pub fn assert_clean(message: &[u8]) {
    let mut last = 0;
    for &byte in message {
        assert!(byte != 0 && (byte == b'\n') == (last == b'\r'), "{}", escape(message));
        last = byte;
    }
    assert_ne!(last, b'\r');
}

fn describe(ask: &Ask) -> (&'static str, String) {
    match ask {
        Ask::Connect => ("connect", String::new()),
        Ask::Ehlo { name, esmtp } => {
            let kind = if *esmtp { "" } else { " (HELO)" };
            ("ehlo", format!("{name}{kind}"))
        }
        Ask::Auth(AuthStep::Begin { mechanism, initial }) => {
            let initial = initial.as_ref().map_or("-".to_owned(), |initial| escape(initial));
            ("auth", format!("{mechanism} {initial}"))
        }
        Ask::Auth(AuthStep::Response(response)) => ("auth", escape(response)),
        Ask::Mail(mail) => {
            let path = mail.reverse_path.as_ref().map_or("", |path| path.as_str());
            ("mail", format!("<{}>", escape(path.as_bytes())))
        }
        Ask::Rcpt(rcpt) => {
            let address = &rcpt.address;
            let mut shown = format!("<{}>", escape(address.as_str().as_bytes()));
            if address.source_route() {
                shown.push_str(" source-route");
            }
            if let Some(routing) = address.routing() {
                let _ = write!(shown, " {routing:?}");
            }
            if address.literal().is_some() {
                shown.push_str(" literal");
            }
            ("rcpt", shown)
        }
        Ask::Data => ("data", String::new()),
        Ask::Message { size } => ("message", size.to_string()),
    }
}

/// Marsaglia's xorshift64; `seed` is not zero.
pub fn xorshift(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}
