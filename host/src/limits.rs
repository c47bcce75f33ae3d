//! How many connections may be open: all together, and from one address (an IPv6 client counts by its /64).
//!
//! A connection asks once, when it is accepted, and holds a [`Slot`] until it ends; dropping the slot gives the place back,
//! however the connection ended. Nothing here waits, does I/O or remembers a client that has gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Limits;

/// The count of all connections of the daemon. Cheap to clone; every clone counts together.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Mutex<Counts>>,
}

#[derive(Debug)]
struct Counts {
    most: u32,
    most_per_address: u32,
    open: u32,
    /// Only addresses that have a connection open: bounded by `most`.
    by_address: HashMap<IpAddr, u32>,
}

/// Why a connection has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("too many connections")]
    All,
    #[error("too many connections from this address")]
    Address,
}

impl Refused {
    /// The label of the metric `gatepost_connections_refused_total`.
    pub fn cause(self) -> &'static str {
        match self {
            Refused::All => "limit",
            Refused::Address => "address-limit",
        }
    }
}

impl Connections {
    pub fn new(limits: &Limits) -> Connections {
        let counts = Counts {
            most: limits.connections,
            most_per_address: limits.connections_per_address,
            open: 0,
            by_address: HashMap::new(),
        };
        Connections {
            shared: Arc::new(Mutex::new(counts)),
        }
    }

    /// Takes over the limits of a reloaded configuration. Who is connected stays, even above the new limits.
    pub fn set_limits(&self, limits: &Limits) {
        let mut counts = self.shared.lock();
        counts.most = limits.connections;
        counts.most_per_address = limits.connections_per_address;
    }

    /// A place for a client.
    pub fn admit(&self, client: IpAddr) -> Result<Slot, Refused> {
        let mut slot = self.admit_upstream()?;
        slot.charge(client)?;
        Ok(slot)
    }

    /// A place for a connection of an upstream that will name its client in a PROXY header: it counts among all connections at
    /// once, and among those of the client when [`Slot::charge`] says who that is.
    pub fn admit_upstream(&self) -> Result<Slot, Refused> {
        let mut counts = self.shared.lock();
        if counts.open >= counts.most {
            return Err(Refused::All);
        }
        counts.open += 1;
        Ok(Slot {
            shared: self.shared.clone(),
            address: None,
        })
    }

    /// How many are open now.
    pub fn open(&self) -> u32 {
        self.shared.lock().open
    }
}

/// The place of one open connection.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Mutex<Counts>>,
    address: Option<IpAddr>,
}

impl Slot {
    /// Counts this connection for `client` from now on, instead of whom it counted for before. On an error it counts for nobody (but
    /// still among all), and the caller closes it.
    pub fn charge(&mut self, client: IpAddr) -> Result<(), Refused> {
        let mut counts = self.shared.lock();
        if let Some(before) = self.address.take() {
            counts.release(before);
        }
        let address = counted(client);
        let most = counts.most_per_address;
        let open = counts.by_address.entry(address).or_insert(0);
        if *open >= most {
            // Never zero here unless the limit is: then the entry must not stay behind.
            if *open == 0 {
                counts.by_address.remove(&address);
            }
            return Err(Refused::Address);
        }
        *open += 1;
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.shared.lock();
        counts.open -= 1;
        if let Some(address) = self.address {
            counts.release(address);
        }
    }
}

impl Counts {
    fn release(&mut self, address: IpAddr) {
        if let Entry::Occupied(mut open) = self.by_address.entry(address) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// What counts as one address: an IPv4 address (mapped into IPv6 or not), or the /64 that one IPv6 customer has at least.
fn counted(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(all: u32, per_address: u32) -> Connections {
        Connections {
            shared: Arc::new(Mutex::new(Counts {
                most: all,
                most_per_address: per_address,
                open: 0,
                by_address: HashMap::new(),
            })),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_come_back() {
        let connections = connections(2, 2);
        let first = connections.admit(ip("192.0.2.1")).unwrap();
        let second = connections.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(connections.admit(ip("192.0.2.3")).unwrap_err(), Refused::All);
        drop(first);
        let third = connections.admit(ip("192.0.2.3")).unwrap();
        drop((second, third));
        assert_eq!(connections.open(), 0);
        assert!(connections.shared.lock().by_address.is_empty());
    }

    #[test]
    fn what_counts_as_one_address() {
        for (first, second, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let connections = connections(10, 1);
            let _held = connections.admit(ip(first)).unwrap();
            let refused = connections.admit(ip(second)).err();
            assert_eq!(refused, same.then_some(Refused::Address), "{first} and {second}");
        }
    }

    #[test]
    fn a_refused_address_leaves_no_trace() {
        let connections = connections(10, 0);
        assert_eq!(connections.admit(ip("192.0.2.1")).unwrap_err(), Refused::Address);
        assert_eq!(connections.open(), 0);
        assert!(connections.shared.lock().by_address.is_empty());
    }

    #[test]
    fn an_upstream_counts_for_its_client() {
        let connections = connections(10, 1);
        let mut upstream = connections.admit_upstream().unwrap();
        let _other = connections.admit_upstream().unwrap();
        upstream.charge(ip("192.0.2.1")).unwrap();
        assert_eq!(connections.admit(ip("192.0.2.1")).unwrap_err(), Refused::Address);
        upstream.charge(ip("192.0.2.2")).unwrap();
        connections.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(connections.open(), 2);
    }
}
