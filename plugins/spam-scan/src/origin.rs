//! What a header says of the program that wrote it: Date, Message-ID, the program's name, and the fields of one program that another would
//! not write.

use crate::address::{Mailbox, domain_at};
use crate::evidence::Evidence;
use crate::header::{Fields, begins, boundary, find_ignoring_case};
use crate::links::domain_of;
use crate::rules::Rule;

/// Programs that write to many, by what their names hold.
const BULK_MAILERS: &[&[u8]] = &[
    b"bulk",
    b"mass",
    b"diffondi",
    b"jpfree",
    b"mailworkz",
    b"groupmail",
    b"aureate",
    b"broadc@st",
    b"broadcast",
    b"emailer",
    b"e-mailer",
    b"stealth",
    b"prospect",
    b"dynamic",
    b"floodgate",
    b"mailking",
    b"mail bomber",
    b"worldmerge",
    b"gammadyne",
    b"advanced direct",
    b"phpmailer",
    b"rave",
    b"smartmailer",
    b"extractor",
    b"ultimate",
    b"leadmailer",
    b"sendblaster",
    b"turbo-mailer",
    b"turbomailer",
];

/// Time zones with minutes that there are.
const ZONE_MINUTES: [u32; 4] = [0, 15, 30, 45];

/// What the fields of the program show.
pub fn look(fields: &Fields<'_>, evidence: &mut Evidence) {
    match fields.date {
        Some(date) => look_at_date(date, evidence),
        None => evidence.hit(Rule::MissingDate, true),
    }
    let mailer = fields.mailer.unwrap_or_default();
    let microsoft = find_ignoring_case(mailer, b"outlook").is_some()
        || find_ignoring_case(mailer, b"microsoft").is_some()
        || find_ignoring_case(mailer, b"internet mail service").is_some();
    // That of the Macintosh is another program, and makes its own.
    let outlook_express =
        begins(fields.mailer, "microsoft outlook express") && find_ignoring_case(mailer, b"macintosh").is_none();
    let (mut outlook_id, mut replaced_id) = (false, false);
    match fields.message_id {
        None => evidence.hit(Rule::MissingMessageId, true),
        Some(id) => match Id::of(id) {
            None => evidence.hit(Rule::BadMessageId, true),
            Some(id) => {
                let shape = OutlookShape::of(id.left);
                outlook_id = shape == OutlookShape::Real;
                // Hotmail gives its own even to Outlook Express.
                replaced_id = matches!(domain_of(id.right), b"hotmail.com" | b"msn.com" | b"phx.gbl");
                evidence.hit(Rule::MessageIdFalse, shape == OutlookShape::False);
                evidence.hit(Rule::MessageIdBareHost, !id.right.contains(&b'.'));
                let from = fields.from.and_then(Mailbox::of);
                let same = from
                    .is_some_and(|from| domain_of(from.domain).eq_ignore_ascii_case(domain_of(domain_at(id.right))));
                evidence.hit(Rule::MessageIdOfSender, same);
            }
        },
    }
    evidence.hit(Rule::MailerFalseOutlook, outlook_express && !outlook_id && !replaced_id);
    evidence.hit(Rule::MailerWithoutMime, outlook_express && !fields.has_outlook_mime);
    evidence.hit(
        Rule::MailerBulk,
        fields.mailer.is_some()
            && BULK_MAILERS
                .iter()
                .any(|bulk| find_ignoring_case(mailer, bulk).is_some()),
    );
    evidence.hit(Rule::MailerOdd, fields.mailer.is_some() && is_no_name(mailer));

    let urgent = matches!(fields.priority, Some([b'1' | b'2', ..])) || begins(fields.importance, "high");
    evidence.hit(Rule::PriorityHigh, urgent);
    evidence.hit(
        Rule::PriorityStated,
        fields.priority.is_some() || fields.importance.is_some(),
    );
    evidence.hit(
        Rule::PriorityWithoutProgram,
        fields.has_outlook_priority && !fields.has_outlook_mime,
    );
    let mime = fields.content_type.is_some() || fields.encoding.is_some();
    evidence.hit(Rule::MimeVersionMissing, mime && !fields.has_mime_version);
    if let Some(boundary) = fields.content_type.and_then(boundary) {
        let next_part = boundary.starts_with(b"----=_NextPart_");
        evidence.hit(Rule::BoundaryFalse, next_part && !microsoft && !fields.has_outlook_mime);
        evidence.hit(Rule::BoundaryOdd, !next_part && is_bulk_boundary(boundary));
    }
    evidence.hit(Rule::IsReply, fields.is_reply);
}

/// A Message-ID (RFC 5322 §3.6.4, without its comments).
struct Id<'a> {
    left: &'a [u8],
    right: &'a [u8],
}

impl<'a> Id<'a> {
    fn of(id: &'a [u8]) -> Option<Self> {
        let inside = id.strip_prefix(b"<")?.strip_suffix(b">")?;
        let at = inside.iter().position(|byte| *byte == b'@')?;
        let (left, right) = (&inside[..at], &inside[at + 1..]);
        (!left.is_empty() && !right.is_empty()).then_some(Self { left, right })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OutlookShape {
    /// `000c01c24a3e$7338a0a0$0a01a8c0`: four digits, the time, the sender's address.
    Real,
    /// The same, and the time is none.
    False,
    Other,
}

impl OutlookShape {
    fn of(left: &[u8]) -> Self {
        let mut parts = left.split(|byte| *byte == b'$');
        let (Some(first), Some(second), Some(third), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Self::Other;
        };
        let hex = |part: &[u8], length: usize| part.len() == length && part.iter().all(u8::is_ascii_hexdigit);
        if !(hex(first, 12) && hex(second, 8) && third.len() <= 8) {
            return Self::Other;
        }
        // The upper half of the time in tenths of microseconds since 1601: 01bf is 1999, 01e0 is 2039.
        let time = |byte: u8| byte.to_ascii_lowercase();
        if first[4..6] == *b"01" && matches!(time(first[6]), b'b'..=b'e') {
            Self::Real
        } else {
            Self::False
        }
    }
}

/// The name of a program has a vowel and a small letter, and no code in it.
fn is_no_name(mailer: &[u8]) -> bool {
    let vowel = mailer.iter().any(|byte| b"aeiouyAEIOUY".contains(byte));
    let small = mailer.iter().any(u8::is_ascii_lowercase);
    let consonants = mailer
        .split(|byte| !byte.is_ascii_lowercase() || b"aeiouy".contains(byte))
        .any(|row| row.len() >= 6);
    !(vowel && small) || consonants || mailer.contains(&b'<')
}

/// `====_ABC1234567890DEF_====`, `=_NextPart_2rfkindysadvnqw3nerasdf`, `XX4E5F4E43-0C5F4E5FXX`.
fn is_bulk_boundary(boundary: &[u8]) -> bool {
    boundary.starts_with(b"====_")
        || boundary.starts_with(b"=_NextPart")
        || boundary.starts_with(b"--=_NextPart")
        || boundary.starts_with(b"XX")
        || boundary.iter().all(u8::is_ascii_digit)
}

/// A date (RFC 5322 §3.3, obsolete zones of §4.3 included).
fn look_at_date(date: &[u8], evidence: &mut Evidence) {
    let text = date.split(|byte| *byte == b'(').next().unwrap_or_default();
    let (weekday, rest) = match text.iter().position(|byte| *byte == b',') {
        Some(comma) => (Some(text[..comma].trim_ascii()), &text[comma + 1..]),
        None => (None, text),
    };
    let mut words = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let parsed = (|| {
        let day = number(words.next()?).filter(|day| (1..=31).contains(day))?;
        let month = place_of(&MONTHS, words.next()?)? as u32 + 1;
        let year = number(words.next()?)?;
        let mut time = words.next()?.split(|byte| *byte == b':');
        let (hour, minute) = (number(time.next()?)?, number(time.next()?)?);
        (hour < 24 && minute < 60).then_some((day, month, year))
    })();
    let Some((day, month, year)) = parsed else {
        evidence.hit(Rule::DateBroken, true);
        return;
    };
    // RFC 5322 §4.3
    let year = match year {
        0..50 => year + 2000,
        50..1000 => year + 1900,
        _ => year,
    };
    match weekday {
        None => evidence.hit(Rule::DateWeekdayMissing, true),
        Some(weekday) => {
            let right = place_of(&WEEKDAYS, weekday) == Some(weekday_of(day, month, year));
            evidence.hit(Rule::DateWeekdayWrong, !right);
        }
    }
    match words.next() {
        None => evidence.hit(Rule::DateZoneMissing, true),
        Some([b'+' | b'-', zone @ ..]) => {
            let zone = number(zone).filter(|_| zone.len() == 4);
            let exists = zone.is_some_and(|zone| zone / 100 <= 14 && ZONE_MINUTES.contains(&(zone % 100)));
            evidence.hit(Rule::DateZoneOdd, !exists);
        }
        Some(zone) => evidence.hit(Rule::DateZoneOdd, !zone.iter().all(u8::is_ascii_uppercase)),
    }
}

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];
const WEEKDAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];

fn place_of(names: &[&[u8; 3]], name: &[u8]) -> Option<usize> {
    names.iter().position(|other| name.eq_ignore_ascii_case(*other))
}

/// Up to four digits.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 4 {
        return None;
    }
    text.iter()
        .try_fold(0, |number, byte| Some(number * 10 + char::from(*byte).to_digit(10)?))
}

/// Sakamoto's rule: 0 is Sunday.
fn weekday_of(day: u32, month: u32, year: u32) -> usize {
    const OFFSETS: [u32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
    let year = if month < 3 { year.saturating_sub(1) } else { year };
    ((year + year / 4 - year / 100 + year / 400 + OFFSETS[month as usize - 1] + day) % 7) as usize
}
