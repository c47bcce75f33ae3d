//! One outbound connection: the socket and the clock around the protocol's client.
//!
//! Opens a connection to the first of several places that will talk to us, carries transactions over it and says
//! goodbye. An envelope costs one write and one read where the peer pipelines, and so does the content of a message
//! that is in memory. Everything that goes wrong becomes an answer for the recipients; nothing here decides what that
//! means for the queue.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gatepost_smtp::client::{Answer, Cause, Client, DotStuffer, Envelope, Settings, StartTls, Step, Wait};
use gatepost_smtp::reply::{Enhanced, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::content::Content;
use super::route::{Key, Place};
use super::settings::DeliveryConfig;
use super::tls::server_name;
use crate::config::{Timeouts, TlsMode};

/// How much is read at once; the replies to an ordinary envelope fit in.
const READ_BUFFER: usize = 4096;

/// An open session with a next hop.
pub struct Connection {
    client: Client,
    stream: Stream,
    place: Place,
    timeouts: Timeouts,
    input: Box<[u8; READ_BUFFER]>,
    transactions: u32,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Lost in a handshake that failed.
    Gone,
}

/// What a transaction came to.
pub struct Transacted {
    /// One a recipient of the envelope, in its order.
    pub answers: Vec<Answer>,
    /// The content had been sent when the connection failed: the message may have arrived.
    pub uncertain: bool,
}

/// How to go about STARTTLS on one connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    /// The handshake failed, and the clear will do.
    WithoutTls,
}

impl Connection {
    /// Connects to the first of `places` that accepts a session, and says which one that was. The answer of the last
    /// one that failed otherwise; it is always temporary.
    pub async fn open(config: &DeliveryConfig, key: &Key, places: &[Place]) -> Result<(Connection, usize), Answer> {
        let mut last = Answer::local(Reply::new(451, Enhanced(4, 4, 0), "there is nowhere to connect to"));
        for (index, place) in places.iter().enumerate() {
            let mut opened = Connection::open_one(config, key, place, Attempt::First).await;
            // As Postfix's `may`: better in the clear than not at all, if that is what the mode says.
            if matches!(opened, Err((_, true))) && key.tls == TlsMode::Opportunistic && !key.implicit_tls() {
                tracing::debug!(next_hop = &*place.host, address = %place.address, "TLS failed, trying without");
                opened = Connection::open_one(config, key, place, Attempt::WithoutTls).await;
            }
            match opened {
                Ok(connection) => return Ok((connection, index)),
                Err((answer, _)) => last = answer,
            }
        }
        Err(last)
    }

    /// The flag of the error: it was the TLS handshake that failed.
    async fn open_one(
        config: &DeliveryConfig,
        key: &Key,
        place: &Place,
        attempt: Attempt,
    ) -> Result<Connection, (Answer, bool)> {
        let named = |reply: &Reply| {
            let text = format!(
                "{}[{}]:{}: {}",
                place.host,
                place.address.ip(),
                place.address.port(),
                reply.text()
            );
            Answer::local(reply.with_text(text))
        };
        let unreachable = |text: String| named(&Reply::new(451, Enhanced(4, 4, 1), text));
        let socket = match timeout(config.timeouts.connect, connect(place.address, key.source)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err((unreachable(error.to_string()), false)),
            Err(_) => return Err((unreachable("timed out while connecting".to_owned()), false)),
        };
        let starttls = match (key.tls, attempt) {
            (TlsMode::None, _) | (_, Attempt::WithoutTls) => StartTls::Never,
            (TlsMode::Opportunistic, _) => StartTls::Opportunistic,
            (TlsMode::Required | TlsMode::Verify, _) => StartTls::Required,
        };
        let settings = Settings {
            name: config.hostname.as_str().into(),
            tls: starttls,
            credentials: key.route.credentials.clone(),
            plaintext_auth: place.address.ip().is_loopback(),
            secure: key.implicit_tls(),
        };
        let mut connection = Connection {
            client: Client::new(settings),
            stream: Stream::Plain(socket),
            place: place.clone(),
            timeouts: config.timeouts.clone(),
            input: Box::new([0; READ_BUFFER]),
            transactions: 0,
        };
        if key.implicit_tls()
            && let Err(text) = connection.handshake(config, key).await
        {
            return Err((named(&Reply::new(454, Enhanced(4, 7, 5), text)), true));
        }
        loop {
            match connection.pump().await {
                Step::StartTls => match connection.handshake(config, key).await {
                    Ok(()) => connection.client.tls_started(),
                    Err(text) => return Err((named(&Reply::new(454, Enhanced(4, 7, 5), text)), true)),
                },
                Step::Ready => return Ok(connection),
                _ => {
                    let failure = connection.client.failure();
                    let reply = failure.map(|failure| failure.reply.clone());
                    let reply = reply.unwrap_or_else(|| Reply::new(451, Enhanced(4, 4, 2), "no session"));
                    return Err((named(&reply), false));
                }
            }
        }
    }

    /// Where it leads.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// `TLSv1.2` or `TLSv1.3`, if it has TLS.
    pub fn tls_version(&self) -> Option<&'static str> {
        match &self.stream {
            Stream::Tls(stream) => match stream.get_ref().1.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => Some("TLSv1.3"),
                _ => Some("TLSv1.2"),
            },
            _ => None,
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Transactions so far.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// Whether another transaction can begin.
    pub fn is_ready(&self) -> bool {
        self.client.step() == Step::Ready
    }

    /// Whether the session ended because the connection was lost or the peer is closing it, rather than over what was
    /// said.
    pub fn was_cut(&self) -> bool {
        self.client
            .failure()
            .is_some_and(|failure| matches!(failure.cause, Cause::Lost | Cause::Closing))
    }

    /// One transaction, from MAIL to the reply to the final dot.
    pub async fn transact(&mut self, envelope: &Envelope<'_>, content: &Content) -> Transacted {
        self.transactions += 1;
        let mut sent = false;
        if let Err(answer) = self.client.mail(envelope) {
            return Transacted {
                answers: vec![answer; envelope.recipients.len()],
                uncertain: false,
            };
        }
        loop {
            match self.pump().await {
                Step::Content => {
                    sent = true;
                    match self.write_content(content).await {
                        Ok(()) => self.client.content_written(),
                        Err(why) => self.client.lost(&why),
                    }
                }
                Step::Done => {
                    let answers = self.client.take_answers();
                    return Transacted {
                        answers,
                        uncertain: sent && self.client.failure().is_some(),
                    };
                }
                // The client ends every transaction with Done; this keeps a fault there from becoming a loop here.
                _ => {
                    let answer = Answer::local(Reply::new(451, Enhanced(4, 3, 0), "the transaction did not end"));
                    return Transacted {
                        answers: vec![answer; envelope.recipients.len()],
                        uncertain: sent,
                    };
                }
            }
        }
    }

    /// Resolves when the idle connection is of no more use: the peer closed it, or said something unasked.
    pub async fn spoilt(&mut self) {
        match self.stream.read(&mut self.input[..]).await {
            Ok(read) if read > 0 => self.client.receive(&self.input[..read]),
            _ => self.client.lost("the connection was closed"),
        }
    }

    /// QUIT, and waits for its reply for a while.
    pub async fn quit(mut self) {
        self.client.quit();
        self.pump().await;
        if let Stream::Tls(stream) = &mut self.stream {
            // close_notify is a courtesy; the mail is delivered.
            let _ = timeout(self.timeouts.quit, stream.shutdown()).await;
        }
    }

    /// Reads and writes until the client wants something else.
    async fn pump(&mut self) -> Step {
        loop {
            match self.client.step() {
                Step::Write => {
                    match timeout(self.timeouts.command, self.stream.write_all(self.client.output())).await {
                        Ok(Ok(())) => self.client.written(),
                        Ok(Err(error)) => self.client.lost(&describe(&error)),
                        Err(_) => self.client.lost("timed out"),
                    }
                }
                Step::Read(wait) => {
                    let limit = limit(&self.timeouts, wait);
                    match timeout(limit, self.stream.read(&mut self.input[..])).await {
                        Ok(Ok(0)) => self.client.lost("the connection was closed"),
                        Ok(Ok(read)) => self.client.receive(&self.input[..read]),
                        Ok(Err(error)) => self.client.lost(&describe(&error)),
                        Err(_) => self.client.lost("timed out"),
                    }
                }
                step => return step,
            }
        }
    }

    async fn handshake(&mut self, config: &DeliveryConfig, key: &Key) -> Result<(), String> {
        let connector = config
            .tls
            .connector(key.tls)
            .ok_or("the system has no trust anchors to verify with")?;
        let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err("the connection has TLS already".to_owned());
        };
        let name = server_name(&self.place.host, self.place.address.ip());
        match timeout(self.timeouts.connect, connector.connect(name, socket)).await {
            Ok(Ok(stream)) => {
                self.stream = Stream::Tls(Box::new(stream));
                Ok(())
            }
            Ok(Err(error)) => Err(format!("TLS handshake failed: {error}")),
            Err(_) => Err("TLS handshake timed out".to_owned()),
        }
    }

    async fn write_content(&mut self, content: &Content) -> Result<(), String> {
        let mut stuffer = DotStuffer::new();
        let limit = self.timeouts.data_block;
        if let Some(parts) = content.slices() {
            let mut slices = Vec::with_capacity(8);
            for part in parts {
                stuffer.feed(part, |slice| slices.push(IoSlice::new(slice)));
            }
            slices.push(IoSlice::new(stuffer.finish()));
            return self.write_slices(&mut slices, limit).await;
        }
        let mut pieces = content.pieces();
        while let Some(piece) = pieces
            .next()
            .await
            .map_err(|error| format!("cannot read the message: {error}"))?
        {
            let mut slices = Vec::with_capacity(8);
            stuffer.feed(&piece, |slice| slices.push(IoSlice::new(slice)));
            self.write_slices(&mut slices, limit).await?;
        }
        self.write_slices(&mut [IoSlice::new(stuffer.finish())], limit).await
    }

    /// Each single write has the time of a data block.
    async fn write_slices(&mut self, mut slices: &mut [IoSlice<'_>], limit: Duration) -> Result<(), String> {
        while !slices.is_empty() {
            match timeout(limit, self.stream.write_vectored(slices)).await {
                Ok(Ok(0)) => return Err("the connection takes no more".to_owned()),
                Ok(Ok(written)) => IoSlice::advance_slices(&mut slices, written),
                Ok(Err(error)) => return Err(describe(&error)),
                Err(_) => return Err("timed out".to_owned()),
            }
        }
        match timeout(limit, self.stream.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err("timed out".to_owned()),
        }
    }
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer).await,
            Stream::Tls(stream) => stream.read(buffer).await,
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write_vectored(slices).await,
            Stream::Tls(stream) => stream.write_vectored(slices).await,
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            // A TCP socket has nothing to flush.
            Stream::Plain(_) | Stream::Gone => Ok(()),
            Stream::Tls(stream) => stream.flush().await,
        }
    }
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    // Each write is a whole group of commands or a whole message: nothing is gained by waiting for more.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn limit(timeouts: &Timeouts, wait: Wait) -> Duration {
    match wait {
        Wait::Greeting => timeouts.greeting,
        Wait::Command => timeouts.command,
        Wait::Data => timeouts.data,
        Wait::DataEnd => timeouts.data_end,
        Wait::Quit => timeouts.quit,
    }
}

/// Without `(os error 104)`.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        io::ErrorKind::BrokenPipe => "the connection was closed".to_owned(),
        _ => error.to_string(),
    }
}
