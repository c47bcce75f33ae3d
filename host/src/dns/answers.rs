//! Answers that still hold, as they are asked for: by a name in text and a type.
//!
//! hickory has a cache too, which keeps whole messages: to ask it costs a clone of its client, the parsing of a name and a walk over
//! the records, together 1.4 µs, and a message in whose sender's name five to ten names are looked up pays that for each. A hit here costs a tenth.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::proto::rr::{RData, RecordType};
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::DnsError;

/// How many answers are kept, if they are of usual size; those that are asked for least go first.
const ENTRIES: usize = 8_192;
/// What they may take together, in bytes: records of strangers can be long.
const BYTES_MAX: u64 = 8 << 20;
/// What an answer takes besides texts, about.
const ENTRY_BYTES: usize = 256;

/// What a name has of a type; never a temporary failure.
pub(super) type Found = Result<Arc<[RData]>, DnsError>;

/// The cache. Clones share it.
#[derive(Clone)]
pub(super) struct Answers(Arc<Cache<Question, Answer, Bytes>>);

#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: Box<str>,
    kind: RecordType,
}

#[derive(Clone)]
struct Answer {
    found: Found,
    /// The time to live of the record that goes first, or of its absence (RFC 2308).
    until: Instant,
}

impl Answers {
    pub(super) fn new() -> Answers {
        Answers(Arc::new(Cache::with_weighter(ENTRIES, BYTES_MAX, Bytes)))
    }

    /// What was found, if that still holds.
    pub(super) fn get(&self, name: &str, kind: RecordType, now: Instant) -> Option<Found> {
        let answer = self.0.get(&Asked { name, kind })?;
        (now < answer.until).then_some(answer.found)
    }

    pub(super) fn keep(&self, name: &str, kind: RecordType, found: Found, until: Instant) {
        let name = Box::from(name);
        self.0.insert(Question { name, kind }, Answer { found, until });
    }
}

/// Weighs answers.
#[derive(Clone)]
struct Bytes;

impl Weighter<Question, Answer> for Bytes {
    fn weight(&self, question: &Question, answer: &Answer) -> u64 {
        let text = |record: &RData| match record {
            RData::TXT(txt) => txt.txt_data.iter().map(|text| text.len()).sum(),
            _ => size_of::<RData>(),
        };
        let records: usize = answer.found.iter().flat_map(|records| records.iter()).map(text).sum();
        (ENTRY_BYTES + question.name.len() + records) as u64
    }
}

/// A question that owns nothing.
struct Asked<'a> {
    name: &'a str,
    kind: RecordType,
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.kind.hash(state);
    }
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Question { name, kind } = self;
        Asked { name, kind: *kind }.hash(state);
    }
}

impl Equivalent<Question> for Asked<'_> {
    fn equivalent(&self, question: &Question) -> bool {
        self.kind == question.kind && *self.name == *question.name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_resolver::proto::rr::rdata::TXT;

    use super::*;

    #[test]
    fn an_answer_is_given_for_its_name_and_type_while_it_holds() {
        let (answers, now) = (Answers::new(), Instant::now());
        let second = Duration::from_secs(1);
        answers.keep("a.example", RecordType::A, Ok(Arc::default()), now + second);
        answers.keep("b.example", RecordType::A, Err(DnsError::NoName), now + second);
        assert_eq!(answers.get("a.example", RecordType::A, now), Some(Ok(Arc::default())));
        assert_eq!(
            answers.get("b.example", RecordType::A, now),
            Some(Err(DnsError::NoName))
        );
        assert_eq!(answers.get("a.example", RecordType::AAAA, now), None);
        assert_eq!(answers.get("c.example", RecordType::A, now), None);
        assert_eq!(answers.get("a.example", RecordType::A, now + second), None);
    }

    #[test]
    fn long_texts_do_not_fill_the_memory() {
        let (answers, until) = (Answers::new(), Instant::now() + Duration::from_secs(60));
        let text = TXT::new(vec!["x".repeat(255); 250]);
        let found: Arc<[RData]> = [RData::TXT(text)].into();
        for number in 0..1_000 {
            answers.keep(&format!("{number}.example"), RecordType::TXT, Ok(found.clone()), until);
        }
        assert!(answers.0.len() > 10 && answers.0.weight() <= BYTES_MAX);
    }
}
