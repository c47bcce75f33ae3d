//! The network of an address: its leading bits.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

/// How long networks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    ipv4: u8,
    ipv6: u8,
}

impl Prefixes {
    /// # Errors
    /// The key that is out of range.
    pub fn new(ipv4: u8, ipv6: u8) -> Result<Self, String> {
        if !(1..=32).contains(&ipv4) {
            return Err(format!("ipv4_prefix: {ipv4} is not in 1 to 32"));
        }
        if !(1..=128).contains(&ipv6) {
            return Err(format!("ipv6_prefix: {ipv6} is not in 1 to 128"));
        }
        Ok(Self { ipv4, ipv6 })
    }

    /// Adds the network of an address to a text: `192.0.2.7` is in `192.0.2.0/24`.
    pub fn push_network(self, text: &mut String, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                let bits = u32::from(v4) & (u32::MAX << (32 - u32::from(self.ipv4)));
                // On every message: without the machinery of `format!`, which costs more than the rest of the key.
                for (octet, behind) in bits.to_be_bytes().into_iter().zip(['.', '.', '.', '/']) {
                    push_number(text, octet);
                    text.push(behind);
                }
                push_number(text, self.ipv4);
            }
            IpAddr::V6(v6) => {
                let bits = u128::from(v6) & (u128::MAX << (128 - u32::from(self.ipv6)));
                write!(text, "{}/{}", Ipv6Addr::from(bits), self.ipv6).expect("a String takes everything");
            }
        }
    }

    /// A network as an administrator writes it, in the form of [`push_network`](Self::push_network).
    ///
    /// # Errors
    /// It is none, or not of the configured length: it would never be met.
    pub fn parse(self, text: &str) -> Result<String, String> {
        let parts = text
            .split_once('/')
            .and_then(|(address, prefix)| Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?)));
        let Some((address, prefix)) = parts else {
            return Err("is no network: write it as `192.0.2.0/24`".to_owned());
        };
        let (expected, key) = if address.is_ipv4() {
            (self.ipv4, "ipv4_prefix")
        } else {
            (self.ipv6, "ipv6_prefix")
        };
        if prefix != expected {
            return Err(format!(
                "networks are counted as /{expected} ({key}): an override must be of that length"
            ));
        }
        let mut network = String::new();
        self.push_network(&mut network, address);
        Ok(network)
    }
}

/// In decimal.
fn push_number(text: &mut String, number: u8) {
    let digit = |value: u8| char::from(b'0' + value);
    if number >= 100 {
        text.push(digit(number / 100));
    }
    if number >= 10 {
        text.push(digit(number / 10 % 10));
    }
    text.push(digit(number % 10));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_network() {
        let cases = [
            ((24, 64), "192.0.2.7", "192.0.2.0/24"),
            ((32, 64), "255.100.10.99", "255.100.10.99/32"),
            ((9, 64), "109.209.1.1", "109.128.0.0/9"),
            ((32, 64), "192.0.2.7", "192.0.2.7/32"),
            ((1, 64), "192.0.2.7", "128.0.0.0/1"),
            ((24, 64), "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ((24, 128), "2001:db8::1", "2001:db8::1/128"),
            ((24, 1), "2001:db8::1", "::/1"),
        ];
        for ((ipv4, ipv6), address, expected) in cases {
            let prefixes = Prefixes::new(ipv4, ipv6).expect("in range");
            let mut network = String::new();
            prefixes.push_network(&mut network, address.parse().expect("an address"));
            assert_eq!(network, expected);
        }
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for (ipv4, ipv6) in [(0, 64), (33, 64), (24, 0), (24, 129)] {
            assert!(Prefixes::new(ipv4, ipv6).is_err(), "{ipv4} {ipv6}");
        }
    }
}
