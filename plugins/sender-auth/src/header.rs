//! The header of a message as far as it may be taken for ours: fields that speak in this relay's name, and where the header ends.

use gatepost_sdk::messages::Message;
use gatepost_sdk::prelude::{Action, Answer};
use gatepost_sdk::types::{HeaderPlace, HeaderRemoval, NewHeader};

use crate::results;

/// Bytes in which the host looks for a header; what is behind them counts as body.
pub const HEADER_BYTES: u64 = 256 * 1024;
/// Fields of one name that the host gives at most.
const MOST_FIELDS: usize = 1_000;
/// Bytes of a line that are looked at for a field's name.
const NAME_BYTES: u32 = 1_000;

/// How a header ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By an empty line, or with the message.
    Proper,
    /// By a line that is none of a header's: other programs may read on behind it.
    Open,
    /// It goes on where the host no longer looks.
    Cut,
}

/// How the header of this message ends.
pub fn end(message: &Message) -> End {
    let at = message.body_offset();
    let tail = message.read(at.saturating_sub(4), at.min(4) as u32);
    if tail == b"\r\n" || tail == b"\r\n\r\n" {
        return End::Proper;
    }
    let size = message.size();
    if size <= HEADER_BYTES {
        return if at == size { End::Proper } else { End::Open };
    }
    // The host ends a header that is too long before its last field, and any other before a line that is no field.
    let line = message.read(at, NAME_BYTES);
    let name = line
        .split(|byte| *byte == b':')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
        End::Cut
    } else {
        End::Open
    }
}

/// Fields of a message in which somebody speaks in our name.
#[derive(Debug, PartialEq, Eq)]
pub enum Forged {
    /// These, counted from 0 at the top.
    Some(Vec<u32>),
    /// There are so many fields of that name that nobody can tell.
    All,
}

/// Finds them.
pub fn forged(message: &Message, hostname: &str) -> Forged {
    let values = message.header(results::NAME);
    if values.len() >= MOST_FIELDS {
        return Forged::All;
    }
    let ours = values
        .iter()
        .zip(0..)
        .filter(|(value, _)| results::is_ours(value, hostname));
    Forged::Some(ours.map(|(_, place)| place).collect())
}

impl Forged {
    /// Adds their removal to an answer.
    pub fn remove(self, mut answer: Answer) -> Answer {
        let places = match self {
            Forged::All => return answer.remove_header(results::NAME),
            Forged::Some(places) => places,
        };
        // From the bottom, as each removal changes the numbers of those below it.
        for place in places.into_iter().rev() {
            answer = answer.with(Action::RemoveHeader(HeaderRemoval {
                name: results::NAME.to_owned(),
                occurrence: Some(place),
            }));
        }
        answer
    }
}

/// Adds our own field: on top, or, where the header has no proper end, as its last field, behind which the host writes the empty line.
pub fn add(answer: Answer, value: String, end: End) -> Answer {
    answer.with(Action::AddHeader(NewHeader {
        name: results::NAME.to_owned(),
        value: value.into_bytes(),
        at: if end == End::Open {
            HeaderPlace::Bottom
        } else {
            HeaderPlace::Top
        },
    }))
}
