//! What a Subject shows.

use crate::decode;
use crate::evidence::{Evidence, Reader, Words};
use crate::header::Fields;
use crate::rules::Rule;
use crate::text::Counts;

/// Words that a subject must have for its case to say something.
const FEWEST_WORDS: u32 = 2;
/// Blanks in a subject behind which a code may stand.
const GAP_BLANKS: usize = 5;
/// Bytes of a code at the end of a subject.
const MOST_CODE_BYTES: usize = 20;

/// Reads it, its words too.
pub fn look(fields: &Fields<'_>, evidence: &mut Evidence, reader: &mut Reader<'_, impl Words>) {
    let raw = fields.subject.unwrap_or_default();
    evidence.hit(Rule::MissingSubject, raw.is_empty());
    evidence.hit(Rule::SubjectRaw, !raw.is_ascii());
    let encoded = raw.windows(2).any(|two| two == b"=?");
    evidence.hit(Rule::SubjectEncoded, encoded);
    let decoded;
    let mut subject = raw;
    if encoded {
        decoded = decode::words(raw);
        subject = &decoded;
    }

    let mut said = without_list(subject);
    let mut is_reply = false;
    while let Some((kind, rest)) = prefix(said) {
        is_reply |= kind == Prefix::Reply;
        evidence.hit(Rule::SubjectForward, kind == Prefix::Forward);
        said = without_list(rest);
    }
    evidence.hit(Rule::SubjectFalseReply, is_reply && !fields.is_reply);
    evidence.hit(Rule::SubjectAdvertisement, is_advertisement(said));

    let mut counts = Counts::default();
    reader.subject(said, &mut counts, evidence);
    let capitals = counts.words >= FEWEST_WORDS && counts.capitals * 10 >= counts.words * 9;
    evidence.hit(Rule::SubjectCapitals, capitals);
    evidence.hit(
        Rule::SubjectSomeCapitals,
        counts.words >= FEWEST_WORDS && counts.capitals * 2 >= counts.words && !capitals,
    );
    evidence.hit(Rule::SubjectExclaims, counts.exclamations > 0);
    evidence.hit(Rule::SubjectExclaimsTwice, counts.exclamations > 1);
    evidence.hit(Rule::SubjectAsks, counts.questions > 0);
    evidence.hit(Rule::SubjectMoney, counts.sums > 0);
    evidence.hit(Rule::SubjectDollars, counts.dollars_in_row > 0);
    evidence.hit(Rule::SubjectPercent, counts.percents > 0);
    evidence.hit(Rule::SubjectGappy, counts.gappy > 0);
    evidence.hit(Rule::SubjectMixed, counts.mixed > 0);
    evidence.hit(Rule::SubjectEllipsis, said.ends_with(b".."));
    evidence.hit(Rule::SubjectTail, has_tail(said) || counts.ends_in_code);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Reply,
    Forward,
}

/// `Re: `, `Fwd: ` and the like: what they are, and what stands behind.
fn prefix(subject: &[u8]) -> Option<(Prefix, &[u8])> {
    let colon = subject.iter().take(6).position(|byte| *byte == b':')?;
    let kind = match subject[..colon].trim_ascii().to_ascii_lowercase().as_slice() {
        b"re" | b"aw" | b"sv" | b"antw" | b"r" => Prefix::Reply,
        b"fw" | b"fwd" | b"wg" => Prefix::Forward,
        _ => return None,
    };
    Some((kind, &subject[colon + 1..]))
}

/// Without `[list]` in front: where a message came by, and not what it is.
fn without_list(subject: &[u8]) -> &[u8] {
    let subject = subject.trim_ascii();
    match subject
        .strip_prefix(b"[")
        .and_then(|rest| rest.iter().position(|byte| *byte == b']'))
    {
        Some(end) => subject[end + 2..].trim_ascii(),
        None => subject,
    }
}

/// `ADV:` and `ADV `, as some laws demand; `(ad)` and its like in Chinese and Korean come encoded.
fn is_advertisement(subject: &[u8]) -> bool {
    let subject = subject.strip_prefix(b"<").unwrap_or(subject);
    let start = subject.get(..4).unwrap_or_default().to_ascii_uppercase();
    matches!(start.as_slice(), [b'A', b'D', b'V', next] if !next.is_ascii_alphabetic())
}

/// `Great offer          8214xkq`.
fn has_tail(subject: &[u8]) -> bool {
    let Some(start) = subject
        .iter()
        .rposition(|byte| *byte == b' ' || *byte == b'\t')
        .map(|place| place + 1)
    else {
        return false;
    };
    let blanks = subject[..start]
        .iter()
        .rev()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let code = &subject[start..];
    let is_code = (2..=MOST_CODE_BYTES).contains(&code.len())
        && code
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"[]()-".contains(byte));
    blanks >= GAP_BLANKS && is_code
}
