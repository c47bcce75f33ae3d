//! The client's end of the admin socket: one request, one response.
//!
//! Blocking, with a deadline, because a command waits for nothing else. Whether the caller may is for the daemon to
//! say.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::text;
use crate::admin::protocol::{LINE_LIMIT, Request, Response};
use crate::config::Config;

/// The longest silence of the daemon. Loading a component of JavaScript compiles for some 10 seconds, on a busy
/// machine for more.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Where the relay of this configuration is asked. A file with errors is none to it: it runs with what it read before.
pub fn socket(config: Option<&Path>) -> anyhow::Result<PathBuf> {
    let errors = match Config::open(config) {
        Ok(config) => return Ok(config.admin_socket()),
        Err(errors) => errors,
    };
    match config.and_then(|file| Some((file, Config::admin_socket_despite_errors(file)?))) {
        Some((file, socket)) => {
            let paint = text::Paint::stderr();
            let file = file.display();
            eprintln!(
                "{} {file} has errors (`gatepost check --config {file}` says which); asking the relay that runs without them",
                paint.yellow("warning:")
            );
            Ok(socket)
        }
        None => Err(errors.into()),
    }
}

/// Asks the running relay. [`Response::Error`] comes back as an error.
pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<Response> {
    ask_with(socket, request, &[])
}

/// The same for a request that bytes follow.
pub fn ask_with(socket: &Path, request: &Request, attachment: &[u8]) -> anyhow::Result<Response> {
    let stream = UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))?;
    exchange(stream, request, attachment).with_context(|| format!("asking the relay at {}", socket.display()))
}

/// What to do about a socket that nobody answers.
fn unreachable(socket: &Path, error: &io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow::anyhow!(
            "no relay is running here ({socket}): start it with `gatepost run`, and give this command the same --config"
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{socket}: permission denied: be root, or the user that the relay runs as")
        }
        _ => anyhow::anyhow!("{socket}: {error}"),
    }
}

fn exchange(mut stream: UnixStream, request: &Request, attachment: &[u8]) -> anyhow::Result<Response> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let sent = stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes());
    // A daemon that refuses the request may answer and close before it has all of it: its answer says more than the
    // broken pipe.
    let sent = sent.and_then(|()| stream.write_all(attachment));
    let mut line = String::new();
    let read = BufReader::new(stream.take(LINE_LIMIT as u64)).read_line(&mut line);
    if line.is_empty() {
        sent.context("the relay closed the connection")?;
        read.context("the relay did not answer")?;
        bail!("the relay closed the connection without an answer");
    }
    match serde_json::from_str(&line).context("the relay's answer is not understood: is it of another version?")? {
        Response::Error { message } => bail!(message),
        response => Ok(response),
    }
}

/// An answer of a kind that the request does not have.
pub fn unexpected(response: &Response) -> anyhow::Error {
    anyhow::anyhow!("the relay gave an unexpected answer: {response:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::LoadMode;

    /// Asks a daemon that answers with these bytes, and returns what it was sent.
    fn dialog(
        request: &Request,
        attachment: &'static [u8],
        answer: &'static str,
    ) -> (String, anyhow::Result<Response>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let daemon = std::thread::spawn(move || {
            let mut reader = BufReader::new(theirs);
            let mut sent = String::new();
            reader.read_line(&mut sent).unwrap();
            reader.get_ref().write_all(answer.as_bytes()).unwrap();
            reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
            reader.read_to_string(&mut sent).unwrap();
            sent
        });
        let response = exchange(ours, request, attachment);
        (daemon.join().unwrap(), response)
    }

    #[test]
    fn one_line_each_way() {
        let load = Request::PluginLoad {
            name: "rbl".into(),
            length: 4,
            settings: None,
            mode: LoadMode::Live,
        };
        for (request, attachment, sent, answer, expected) in [
            (
                Request::Status,
                "",
                "{\"command\":\"status\"}\n",
                "{\"answer\":\"done\",\"message\":\"well\"}\n",
                Ok("well"),
            ),
            (
                load,
                "\0asm",
                "{\"command\":\"plugin-load\",\"name\":\"rbl\",\"length\":4}\n\0asm",
                "{\"answer\":\"error\",\"message\":\"no\"}\n",
                Err("no"),
            ),
            (
                Request::Reload,
                "",
                "{\"command\":\"reload\"}\n",
                "",
                Err("the relay closed the connection without an answer"),
            ),
            (
                Request::Reload,
                "",
                "{\"command\":\"reload\"}\n",
                "nonsense\n",
                Err("the relay's answer is not understood: is it of another version?"),
            ),
        ] {
            let (seen, response) = dialog(&request, attachment.as_bytes(), answer);
            assert_eq!(seen, sent);
            match (response, expected) {
                (Ok(Response::Done { message }), Ok(expected)) => assert_eq!(message, expected),
                (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
                (response, expected) => panic!("{response:?} instead of {expected:?}"),
            }
        }
    }
}
