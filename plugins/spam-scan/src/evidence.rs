//! What a message shows: how often each rule counts, and the words of its text.

use crate::body::Body;
use crate::header::Fields;
use crate::links::Links;
use crate::phrases::{Met, Phrases};
use crate::rules::{MOST_PHRASES_OF_A_GROUP, RULES, Rule};
use crate::text::{Counts, Sink};
use crate::{address, form, origin, phrase_list, subject, word};

/// Takes the numbers of words and of pairs of words.
pub trait Words {
    fn take(&mut self, hash: u32);
    /// The number of a form: how the message is made, and not what it says.
    fn take_form(&mut self, form: Form, hash: u32);
}

/// What a form is of. Each counts by itself, as a header has about as many whatever the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// How a field is made, and which there are.
    Header,
    /// The name of the program, alone and with a form of the header.
    Program,
}

impl Form {
    pub const ALL: [Self; 2] = [Self::Header, Self::Program];

    /// What one counts beside a word that stands alone. Training draws all to nothing alike, so what counts more may come to weigh more: there
    /// are many names of programs, and few forms of headers, each in much mail.
    pub const fn counts(self) -> f64 {
        match self {
            Self::Header => 0.5,
            Self::Program => 0.25,
        }
    }
}

/// The same word in a Subject is another one than in the text.
const IN_SUBJECT: u32 = word::hash(b"subject:");

/// Places for the phrases of the configuration.
pub const OWN_PLACES: usize = 1024;

/// Words of a text in which one phrase of a group says nothing.
const WORDS_A_PHRASE: u32 = 400;

/// What a message shows.
#[derive(Debug)]
pub struct Evidence {
    /// How often each rule counts, in the order of [`RULES`].
    pub times: [u8; RULES.len()],
    /// The phrases of the configuration that were met, by their number: each once.
    pub own: Vec<u8>,
    /// A bit for each phrase of the rules that was met.
    phrases: [u64; phrase_list::PLACES / 64],
}

impl Evidence {
    /// What header and body show. `own` are the phrases of the configuration, by their number, which is not 0. Each word goes to `words`.
    pub fn of(fields: &Fields<'_>, body: &[u8], own: Option<&Phrases<OWN_PLACES>>, words: &mut impl Words) -> Self {
        let mut evidence = Self {
            times: [0; RULES.len()],
            own: Vec::new(),
            phrases: [0; phrase_list::PLACES / 64],
        };
        form::look(fields, words);
        let mut reader = Reader { words, own };
        address::look(fields, &mut evidence);
        origin::look(fields, &mut evidence);
        subject::look(fields, &mut evidence, &mut reader);
        Body::default().read(fields, body, &mut evidence, &mut reader);
        evidence
    }

    /// A rule is met, or not.
    pub fn hit(&mut self, rule: Rule, is_met: bool) {
        self.times[rule as usize] |= u8::from(is_met);
    }

    /// A phrase of a rule was met. The same one again does not count.
    fn count(&mut self, rule: Rule, met: Met) {
        let seen = &mut self.phrases[met.place / 64];
        let times = &mut self.times[rule as usize];
        if *seen >> (met.place % 64) & 1 == 0 {
            *times = times.saturating_add(1);
        }
        *seen |= 1 << (met.place % 64);
    }

    /// A long text has some phrase of every group: so many words excuse one.
    pub fn weigh_phrases(&mut self, words: u32) {
        let excused = u8::try_from(words / WORDS_A_PHRASE).unwrap_or(u8::MAX);
        for times in &mut self.times[Rule::PhrasesMoney as usize..] {
            *times = times.saturating_sub(excused).min(MOST_PHRASES_OF_A_GROUP);
        }
    }
}

/// Reads texts, and passes their words on.
pub struct Reader<'a, W> {
    words: &'a mut W,
    own: Option<&'a Phrases<OWN_PLACES>>,
}

impl<W: Words> Reader<'_, W> {
    /// Reads a text of the body.
    pub fn text(&mut self, text: &[u8], counts: &mut Counts, evidence: &mut Evidence) {
        self.read(text, counts, evidence, 0);
    }

    /// Reads a Subject.
    pub fn subject(&mut self, text: &[u8], counts: &mut Counts, evidence: &mut Evidence) {
        self.read(text, counts, evidence, IN_SUBJECT);
    }

    /// Passes the words of links' paths on.
    pub fn paths(&mut self, links: &Links) {
        links.path_words.numbers().for_each(|word| self.words.take(word));
    }

    fn read(&mut self, text: &[u8], counts: &mut Counts, evidence: &mut Evidence, place: u32) {
        let mut stream = Stream {
            words: self.words,
            own: self.own,
            evidence,
            place,
            before: 0,
            phrase: 0,
            own_phrase: 0,
        };
        counts.read(text, &mut stream);
    }
}

/// The words of one text, as they come.
struct Stream<'a, W> {
    words: &'a mut W,
    own: Option<&'a Phrases<OWN_PLACES>>,
    evidence: &'a mut Evidence,
    place: u32,
    /// The word before; 0 if there is none.
    before: u32,
    phrase: u32,
    own_phrase: u32,
}

impl<W: Words> Sink for Stream<'_, W> {
    #[inline]
    fn word(&mut self, hash: u32) {
        if let Some((rule, met)) = phrase_list::step(&mut self.phrase, hash) {
            self.evidence.count(rule, met);
        }
        if let Some(met) = self.own.and_then(|own| own.step(&mut self.own_phrase, hash)) {
            if !self.evidence.own.contains(&met.number) {
                self.evidence.own.push(met.number);
            }
        }
        self.words.take(hash ^ self.place);
        if self.before != 0 {
            self.words.take(word::pair(self.before, hash) ^ self.place);
        }
        self.before = hash;
    }

    fn gap(&mut self) {
        self.before = 0;
        self.phrase = 0;
        self.own_phrase = 0;
    }
}
