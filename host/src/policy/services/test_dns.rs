//! A DNS server on the loopback for tests: answers with the records it was given, NXDOMAIN for other names, and SERVFAIL
//! for names that begin with or hold the label `servfail`.

use std::collections::HashMap;
use std::net::SocketAddr;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, MX, PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::dns::Dns;

pub struct TestDns {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl TestDns {
    /// `records` are name, type and value as in a zone file, names without the last dot.
    pub async fn start(records: &[(&str, &str, &str)]) -> TestDns {
        let mut zone: HashMap<String, Vec<RData>> = HashMap::new();
        for (name, kind, value) in records {
            zone.entry((*name).to_owned()).or_default().push(data(kind, value));
        }
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port on the loopback");
        let address = socket.local_addr().expect("it is bound");
        let server = tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if let Some(answer) = answer(&zone, &packet[..length]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        TestDns { address, server }
    }

    /// A resolver that asks this server.
    pub fn dns(&self) -> Dns {
        Dns::new(&[self.address]).expect("a resolver")
    }
}

impl Drop for TestDns {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn data(kind: &str, value: &str) -> RData {
    let name = |text: &str| Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).expect("a name");
    match kind {
        "A" => RData::A(A(value.parse().expect("an address"))),
        "AAAA" => RData::AAAA(AAAA(value.parse().expect("an address"))),
        "MX" => {
            let (preference, exchange) = value.split_once(' ').expect("preference and exchange");
            RData::MX(MX::new(preference.parse().expect("a preference"), name(exchange)))
        }
        "PTR" => RData::PTR(PTR(name(value))),
        "TXT" => RData::TXT(TXT::new(
            value
                .as_bytes()
                .chunks(255)
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect(),
        )),
        other => panic!("no record type {other}"),
    }
}

fn answer(zone: &HashMap<String, Vec<RData>>, packet: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(packet).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.queries.push(question.clone());
    match zone.get(name) {
        _ if name.split('.').any(|label| label == "servfail") => answer.metadata.response_code = ResponseCode::ServFail,
        None => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(found) => {
            let kind: RecordType = question.query_type();
            let found = found.iter().filter(|data| data.record_type() == kind);
            answer
                .answers
                .extend(found.map(|data| Record::from_rdata(question.name().clone(), 300, data.clone())));
        }
    }
    answer.to_vec().ok()
}
