//! Zones for a test's own name server, written as records.

use super::servers::Nsd;

/// Bytes of a string in a TXT record (RFC 1035 §3.3).
const STRING_BYTES_MAX: usize = 255;

/// A zone in the making.
pub struct Zone {
    name: &'static str,
    text: String,
}

impl Zone {
    pub fn new(name: &'static str) -> Zone {
        let text = format!("$TTL 60\n@ SOA ns.{name}. hostmaster.{name}. 1 60 60 600 60\n@ NS ns.{name}.\n");
        Zone { name, text }
    }

    /// `a MX 10 mail`: as in a zone file, relative to the zone.
    pub fn record(mut self, line: &str) -> Zone {
        self.text += line;
        self.text += "\n";
        self
    }

    /// A TXT record, of any length.
    pub fn txt(self, name: &str, text: &str) -> Zone {
        let strings = text.as_bytes().chunks(STRING_BYTES_MAX).map(String::from_utf8_lossy);
        let quoted: Vec<String> = strings.map(|part| format!("\"{part}\"")).collect();
        self.record(&format!("{name} TXT {}", quoted.join(" ")))
    }
}

/// A name server with these zones and `test` above them, which refuses to speak of others; `None` if it cannot be had here.
pub fn serve(zones: &[Zone]) -> Option<Nsd> {
    let above = [Zone::new("test")];
    let zones: Vec<(&str, &str)> = zones
        .iter()
        .chain(&above)
        .map(|zone| (zone.name, &*zone.text))
        .collect();
    Nsd::start(&zones)
}
