//! Messages and descriptors on the socket between supervisor and worker.
//!
//! The socket keeps packets apart (SOCK_SEQPACKET). A message is one packet of JSON with up to [`FDS_PER_PACKET`] descriptors; the rest of its
//! descriptors follow in packets of their own. Everything that has a size of its own (the configuration, the header of a
//! bundle, a message that is too large for a packet) travels as a descriptor, so a packet is always small.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{read_sealed, sealed_memory};
use crate::config;

/// The kernel takes at most 253.
const FDS_PER_PACKET: usize = 64;
/// The largest packet, in bytes: names and sentences only.
const PACKET_BYTES: usize = 16 * 1024;
/// The largest message, in bytes: errors of thousands of plugins.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most descriptors of one message: some thousand certificates and plugins.
const FDS_MAX: usize = 8 * 1024;
/// How long the other side may leave the socket full before it counts as dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first descriptor is the [`Header`] as JSON, then one for each of its items. Answered with `Ready` at the start, later with `Settled`.
    Bundle,
    /// Now is the time for the change that the worker asked for; the descriptor is the component of a load. Answered with `Settled`.
    Change {
        number: u64,
        plugin: String,
        change: Change,
    },
    /// The reloads that the worker asked for fail, the first `asked` of them all.
    Refused {
        message: String,
        asked: u64,
    },
    /// What came of that change.
    Changed {
        number: u64,
        outcome: Result<String, String>,
    },
    Drain,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToSupervisor {
    Ready,
    Reload,
    /// The descriptor of a load is the component, as sealed memory. `number` counts the worker's changes.
    Change {
        number: u64,
        plugin: String,
        change: Change,
    },
    /// What came of the bundle or the change that the supervisor sent: it is in force, or what was in force stays.
    Settled(Result<InForce, String>),
}

/// What is to become of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A version takes the place of the one in force: a component, with the settings that the worker asks for or that are in force. If it was in
    /// force before, `taken_back` says why the other one goes.
    Load {
        taken_back: Option<String>,
    },
    Enable,
    Disable,
}

/// What a worker made of a bundle or a change that it took over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InForce {
    /// A sentence for people.
    pub said: String,
    pub kept: Vec<Kept>,
    /// The plugins whose version (component, settings, or both) took the place of another.
    pub replaced: Vec<String>,
    /// All settings in force that are not those of the configuration.
    pub stand_ins: Vec<config::Plugin>,
}

/// A plugin whose newest version is not in force, and why: the file is no good, or it was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub plugin: String,
    pub why: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    /// Names the configuration in errors; relative paths start at its folder.
    pub config_path: PathBuf,
    /// The configuration is the embedded default.
    pub embedded: bool,
    /// The worker was to become somebody else than root.
    pub unprivileged: bool,
    pub supervisor_uid: u32,
    pub restarts: u32,
    /// Why there is a bundle: `start`, `SIGHUP`, the files that changed ...
    pub cause: String,
    /// It answers the first so many reloads that the worker asked for.
    pub asked: u64,
    /// Plugins whose component here is older than their file.
    pub kept: Vec<Kept>,
    /// Only at the start, as all that the worker before knew: settings that are in force instead of those of the configuration, the settings of
    /// each version before, why versions were taken back, and which plugins are disabled.
    pub stand_ins: Vec<config::Plugin>,
    pub previous: Vec<config::Plugin>,
    pub taken_back: Vec<Kept>,
    pub disabled: BTreeSet<String>,
    pub items: Vec<Item>,
}

/// What a descriptor is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// The configuration's text.
    Config,
    /// A file that the configuration names, by the path that it names it with; not a plugin's.
    File {
        path: PathBuf,
    },
    /// A plugin's component: what its file held, or what is in force instead.
    Plugin {
        name: String,
    },
    /// The component that a plugin had before. Only at the start.
    Previous {
        name: String,
    },
    Listener {
        name: String,
        address: SocketAddr,
        socket: u64,
    },
    AdminHttp {
        address: SocketAddr,
        socket: u64,
    },
    /// The locked `state_dir`: the lock holds until supervisor and worker are both gone.
    Lock,
}

/// The two ends of a link; the first is the supervisor's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    for end in [&ours, &theirs] {
        setsockopt(
            end,
            sockopt::SendTimeout,
            &TimeVal::new(SEND_TIMEOUT.as_secs() as i64, 0),
        )?;
    }
    Ok((ours, theirs))
}

/// Whether a descriptor is an end of such a link.
pub fn is_link(fd: &impl AsFd) -> bool {
    getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket)
}

/// Sends a message with its descriptors. The caller keeps its own copies.
pub fn send_message(socket: &impl AsFd, message: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
    let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut text = serde_json::to_vec(&(fds.len(), Some(message)))?;
    // What does not fit into a packet goes before the other descriptors, as one.
    let large = match text.len() > PACKET_BYTES {
        true => Some(sealed_memory(&serde_json::to_vec(message)?)?),
        false => None,
    };
    if let Some(large) = &large {
        raw.insert(0, large.as_raw_fd());
        text = serde_json::to_vec(&(raw.len(), ()))?;
    }
    if raw.len() > FDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"));
    }
    let mut rest = raw.chunks(FDS_PER_PACKET);
    send_packet(socket, &text, rest.next().unwrap_or_default())?;
    rest.try_for_each(|fds| send_packet(socket, b"+", fds))
}

fn send_packet(socket: &impl AsFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights };
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &parts,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// The next message; `None` when the other side is gone. Blocks until there is one.
pub fn receive_message<M: DeserializeOwned>(socket: &impl AsFd) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let Some((text, mut fds)) = receive_packet(socket)? else {
        return Ok(None);
    };
    let (expected, message): (usize, Option<M>) = serde_json::from_slice(&text)?;
    if expected > FDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
    }
    while fds.len() < expected {
        let Some((_, more)) = receive_packet(socket)? else {
            return Ok(None);
        };
        if more.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "descriptors are missing: is RLIMIT_NOFILE too low?",
            ));
        }
        fds.extend(more);
    }
    let message = match message {
        Some(message) => message,
        None if fds.is_empty() => return Err(io::Error::new(io::ErrorKind::InvalidData, "an empty message")),
        None => serde_json::from_slice(&read_sealed(fds.remove(0), MESSAGE_BYTES_MAX)?)?,
    };
    Ok(Some((message, fds)))
}

fn receive_packet(socket: &impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET_BYTES];
    let mut control = nix::cmsg_space!([RawFd; FDS_PER_PACKET]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let (length, flags, fds) = loop {
        let received = recvmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        match received {
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(message) => {
                let mut fds = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        fds.extend(raw.into_iter().map(own));
                    }
                }
                break (message.bytes, message.flags, fds);
            }
        }
    };
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        let problem = "a message was cut off: is RLIMIT_NOFILE too low?";
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some((bytes, fds)))
}

fn own(fd: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for us (SCM_RIGHTS), and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn messages_arrive_with_all_their_descriptors_in_order() {
        let (ours, theirs) = pair().unwrap();
        for count in [0, 1, FDS_PER_PACKET, FDS_PER_PACKET + 1, 3 * FDS_PER_PACKET + 7] {
            let fds: Vec<OwnedFd> = (0..count)
                .map(|place| {
                    let mut file = tempfile::tempfile().unwrap();
                    write!(file, "{place}").unwrap();
                    file.rewind().unwrap();
                    file.into()
                })
                .collect();
            send_message(
                &ours,
                &ToWorker::Refused {
                    message: count.to_string(),
                    asked: 0,
                },
                &fds,
            )
            .unwrap();
            drop(fds);
            let (message, fds) = receive_message::<ToWorker>(&theirs).unwrap().unwrap();
            assert!(matches!(message, ToWorker::Refused { message, .. } if message == count.to_string()));
            assert_eq!(fds.len(), count);
            for (place, fd) in fds.into_iter().enumerate() {
                let mut text = String::new();
                File::from(fd).read_to_string(&mut text).unwrap();
                assert_eq!(text, place.to_string());
            }
        }
        drop(ours);
        assert!(receive_message::<ToWorker>(&theirs).unwrap().is_none());
    }

    #[test]
    fn a_message_may_be_larger_than_a_packet() {
        let (ours, theirs) = pair().unwrap();
        let long = "why ".repeat(PACKET_BYTES);
        let outcome = ToSupervisor::Settled(Err(long.clone()));
        send_message(&ours, &outcome, &[tempfile::tempfile().unwrap().into()]).unwrap();
        let (message, fds) = receive_message::<ToSupervisor>(&theirs).unwrap().unwrap();
        assert!(matches!(message, ToSupervisor::Settled(Err(why)) if why == long));
        assert_eq!(fds.len(), 1);
        // A file that is not sealed could be anything, a pipe that nobody writes to for one.
        send_packet(&ours, b"[1,null]", &[tempfile::tempfile().unwrap().as_raw_fd()]).unwrap();
        assert!(receive_message::<ToSupervisor>(&theirs).is_err());
    }

    #[test]
    fn a_link_is_told_from_other_inputs() {
        let (ours, _theirs) = pair().unwrap();
        assert!(is_link(&ours));
        assert!(!is_link(&File::open("/dev/null").unwrap()));
        assert!(!is_link(&std::os::unix::net::UnixStream::pair().unwrap().0));
    }
}
