//! The listening sockets, from one configuration to the next: those that stay are kept open, so that no connection is refused
//! during a reload.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket, sockopt,
};

use crate::config::Config;
use crate::worker_link::Item;

/// Connections that wait to be accepted, for each listener; the kernel may allow fewer (net.core.somaxconn).
const BACKLOG: i32 = 1024;
/// The key of the admin listener: no `[[listener]]` has an empty name.
const ADMIN: &str = "";

/// The sockets that are open.
#[derive(Default)]
pub struct Listeners {
    open: HashMap<Key, Bound>,
    last_number: u64,
}

/// What makes a socket the same one: its address; and where the system chose the port, the listener's name as well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    configured: SocketAddr,
    name: Option<String>,
}

struct Bound {
    number: u64,
    address: SocketAddr,
    socket: TcpListener,
}

/// Sockets for another configuration: new ones are bound already, and nothing has changed yet for the old ones.
pub struct Prepared {
    wanted: Vec<Key>,
    new: HashMap<Key, Bound>,
    last_number: u64,
}

impl Prepared {
    /// From here on `listeners` are those of the other configuration; the rest is closed.
    pub fn commit(self, listeners: &mut Listeners) {
        listeners.open.retain(|key, _| self.wanted.contains(key));
        listeners.open.extend(self.new);
        listeners.last_number = self.last_number;
    }
}

impl Listeners {
    /// Binds what `config` has and is not open yet.
    pub fn bind(&self, config: &Config) -> anyhow::Result<Prepared> {
        let addresses: Vec<SocketAddr> = wanted(config).map(|(_, address)| address).collect();
        let mut prepared = Prepared {
            wanted: Vec::new(),
            new: HashMap::new(),
            last_number: self.last_number,
        };
        for (name, address) in wanted(config) {
            let key = key(name, address);
            if !self.open.contains_key(&key) {
                let what = if name == ADMIN {
                    "[admin]".to_owned()
                } else {
                    format!("listener {name:?}")
                };
                let socket = listen_on(address, &addresses)
                    .map_err(|error| explained(error, address))
                    .context(what)?;
                prepared.last_number += 1;
                let bound = Bound {
                    number: prepared.last_number,
                    address: socket.local_addr()?,
                    socket,
                };
                prepared.new.insert(key.clone(), bound);
            }
            prepared.wanted.push(key);
        }
        Ok(prepared)
    }

    /// Copies of all sockets, for a worker, in the order of the configuration that `prepared` was made for.
    pub fn items(&self, config: &Config, prepared: &Prepared) -> anyhow::Result<Vec<(Item, OwnedFd)>> {
        wanted(config)
            .map(|(name, configured)| {
                let key = key(name, configured);
                let bound = self
                    .open
                    .get(&key)
                    .or_else(|| prepared.new.get(&key))
                    .context("a listener is not bound")?;
                let (address, socket) = (bound.address, bound.number);
                let item = match name {
                    ADMIN => Item::AdminHttp { address, socket },
                    name => Item::Listener {
                        name: name.to_owned(),
                        address,
                        socket,
                    },
                };
                Ok((item, bound.socket.try_clone()?.into()))
            })
            .collect()
    }

    /// Closes the supervisor's copies of all.
    pub fn close(&mut self) {
        self.open.clear();
    }
}

fn wanted(config: &Config) -> impl Iterator<Item = (&str, SocketAddr)> {
    let smtp = config
        .listeners
        .iter()
        .map(|listener| (listener.name.as_str(), listener.address));
    smtp.chain(config.admin.address.map(|address| (ADMIN, address)))
}

fn key(name: &str, configured: SocketAddr) -> Key {
    Key {
        configured,
        name: (configured.port() == 0).then(|| name.to_owned()),
    }
}

fn listen_on(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    // A restart must not wait for the last run's connections to leave TIME_WAIT.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 connections as well, as everywhere on Linux, unless they have a listener of their own.
        let own_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
        let both = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !all.contains(&own_v4);
        setsockopt(&fd, sockopt::Ipv6V6Only, &!both)?;
    }
    match address {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
    }
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

/// The error with what to do about it.
fn explained(error: io::Error, address: SocketAddr) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there (ss -ltnp shows which)",
        io::ErrorKind::PermissionDenied => "ports below 1024 are for root, or for who has CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        _ => return anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    };
    anyhow::Error::new(error).context(format!("cannot listen on {address}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(listeners: &[(&str, &str)]) -> Config {
        let mut text = "hostname = \"relay.test\"\n[delivery]\nnext_hop = \"discard:\"\n".to_owned();
        for (name, address) in listeners {
            text += &format!("[[listener]]\nname = {name:?}\naddress = {address:?}\n");
        }
        Config::parse(&text, Path::new("gatepost.toml")).unwrap()
    }

    fn sockets(listeners: &Listeners, config: &Config) -> Vec<(String, u64, SocketAddr)> {
        let items = listeners.items(config, &listeners.bind(config).unwrap()).unwrap();
        items
            .into_iter()
            .map(|(item, _)| match item {
                Item::Listener { name, address, socket } => (name, socket, address),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_stays_keeps_its_socket_and_what_goes_is_closed() {
        let mut listeners = Listeners::default();
        let first = config(&[("a", "127.0.0.1:0"), ("b", "127.0.0.1:0")]);
        listeners.bind(&first).unwrap().commit(&mut listeners);
        let before = sockets(&listeners, &first);
        assert_eq!(
            before
                .iter()
                .map(|(name, number, _)| (name.as_str(), *number))
                .collect::<Vec<_>>(),
            [("a", 1), ("b", 2)]
        );

        let second = config(&[("c", "127.0.0.1:0"), ("b", "127.0.0.1:0")]);
        listeners.bind(&second).unwrap().commit(&mut listeners);
        let after = sockets(&listeners, &second);
        assert_eq!(after[0].1, 3);
        assert_eq!(after[1], before[1]);
        assert!(std::net::TcpStream::connect(before[0].2).is_err(), "a is closed");
        assert!(std::net::TcpStream::connect(after[0].2).is_ok());
    }

    #[test]
    fn an_address_in_use_changes_nothing_and_says_what_to_do() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap();
        let mut listeners = Listeners::default();
        let first = config(&[("a", "127.0.0.1:0")]);
        listeners.bind(&first).unwrap().commit(&mut listeners);
        let before = sockets(&listeners, &first);

        let second = config(&[("new", "127.0.0.1:0"), ("taken", &taken.to_string())]);
        let error = format!("{:#}", listeners.bind(&second).err().unwrap());
        assert_eq!(
            error,
            format!(
                "listener \"taken\": cannot listen on {taken}: another program listens there (ss -ltnp shows which): \
                 Address already in use (os error 98)"
            )
        );
        assert_eq!(sockets(&listeners, &first), before);
    }

    #[test]
    fn the_ipv6_wildcard_leaves_ipv4_to_a_listener_of_its_own() {
        let free = |address: &str| TcpListener::bind(address).unwrap().local_addr().unwrap().port();
        let port = free("[::]:0");
        let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        let listeners = Listeners::default();
        let both = listeners.bind(&config(&[("v6", &v6), ("v4", &v4)])).unwrap();
        assert_eq!(both.new.len(), 2);
        drop(both);
        let alone = listeners.bind(&config(&[("v6", &v6)])).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        drop(alone);
    }
}
