//! When an identity may send: hours of the week.
//!
//! Times are minutes since Monday 00:00 in the configured offset from UTC. There is no daylight saving time here: the offset is what it is.

use std::fmt;
use std::str::FromStr;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u32 = 24 * 60;
const WEEK_MINUTES: u32 = 7 * DAY_MINUTES;
/// 1970-01-01 was a Thursday.
const EPOCH_MINUTES: i64 = 3 * DAY_MINUTES as i64;
/// The offsets in use are from -12:00 to +14:00.
const OFFSET_MINUTES_MAX: i32 = 14 * 60;

/// One entry of `hours`: `mon-fri 08:00-18:00`, or `22:00-06:00` on every day. What ends before it begins ends on the next day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    text: String,
    /// Whether it begins on this day, Monday first.
    days: [bool; 7],
    begin: u32,
    minutes: u32,
}

/// `utc_offset`: `+02:00`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    minutes: i32,
}

/// The text is none.
#[derive(Debug, PartialEq, Eq)]
pub struct HoursError(String);

/// The text is none.
#[derive(Debug, PartialEq, Eq)]
pub struct OffsetError(String);

impl Hours {
    /// Whether this minute of the week is in it.
    pub fn cover(&self, minute: u32) -> bool {
        (0..7).zip(self.days).filter(|(_, begins)| *begins).any(|(day, _)| {
            let begin = day * DAY_MINUTES + self.begin;
            (minute + WEEK_MINUTES - begin) % WEEK_MINUTES < self.minutes
        })
    }
}

impl Offset {
    /// The minute of the week at this time, in milliseconds since 1970.
    pub fn minute_of_week(&self, now_ms: u64) -> u32 {
        // 2^64 ms are far fewer minutes than an i64 has.
        let minutes = (now_ms / 60_000) as i64 + EPOCH_MINUTES + i64::from(self.minutes);
        minutes.rem_euclid(WEEK_MINUTES.into()) as u32
    }
}

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let lower = text.to_ascii_lowercase();
            let (days, times) = match lower.split_once(' ') {
                Some((days, times)) => (parse_days(days)?, times),
                None => ([true; 7], &*lower),
            };
            let (begin, end) = times.split_once('-')?;
            let (begin, end) = (parse_time(begin)?, parse_time(end)?);
            let minutes = (end + DAY_MINUTES - begin) % DAY_MINUTES;
            // From midnight to midnight is the whole day; any other time to itself is a slip.
            let minutes = if (begin, end) == (0, DAY_MINUTES) {
                DAY_MINUTES
            } else {
                minutes
            };
            (minutes > 0 && begin < DAY_MINUTES).then(|| Self {
                text: text.to_owned(),
                days,
                begin,
                minutes,
            })
        };
        parsed().ok_or_else(|| HoursError(text.to_owned()))
    }
}

/// `sat`, or `mon-fri`; over the end of the week, too.
fn parse_days(text: &str) -> Option<[bool; 7]> {
    let day = |text: &str| DAYS.iter().position(|day| *day == text);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first)?, day(last)?);
    let mut days = [false; 7];
    for place in 0..=(last + 7 - first) % 7 {
        days[(first + place) % 7] = true;
    }
    Some(days)
}

/// `08:00`, up to `24:00`.
fn parse_time(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number =
        |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok());
    let (hour, minute): (u32, u32) = (number(hour)??, number(minute)??);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= DAY_MINUTES).then_some(minutes)
}

impl FromStr for Offset {
    type Err = OffsetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let sign = match text.chars().next()? {
                '+' => 1,
                '-' => -1,
                _ => return None,
            };
            let minutes = sign * parse_time(&text[1..])? as i32;
            (minutes.abs() <= OFFSET_MINUTES_MAX).then_some(Self { minutes })
        };
        parsed().ok_or_else(|| OffsetError(text.to_owned()))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minutes < 0 { '-' } else { '+' };
        let minutes = self.minutes.unsigned_abs();
        write!(f, "UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for HoursError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` are no hours: write `mon-fri 08:00-18:00`, `sat 09:00-12:00`, or `22:00-06:00` for every day",
            self.0
        )
    }
}

impl fmt::Display for OffsetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no offset from UTC: write `+02:00`, between -14:00 and +14:00",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01, a Thursday, 00:00 UTC.
    const THURSDAY_MS: u64 = 1_767_225_600_000;

    fn minute(day: u32, hour: u32, minute: u32) -> u32 {
        day * DAY_MINUTES + hour * 60 + minute
    }

    #[test]
    fn hours_cover_what_they_say() {
        let cases = [
            ("mon-fri 08:00-18:00", minute(0, 8, 0), true),
            ("mon-fri 08:00-18:00", minute(0, 7, 59), false),
            ("mon-fri 08:00-18:00", minute(4, 17, 59), true),
            ("mon-fri 08:00-18:00", minute(4, 18, 0), false),
            ("Mon-Fri 08:00-18:00", minute(5, 12, 0), false),
            ("sat 09:00-12:00", minute(5, 9, 0), true),
            ("sat 09:00-12:00", minute(6, 9, 0), false),
            ("sat-mon 09:00-12:00", minute(0, 9, 0), true),
            ("sat-mon 09:00-12:00", minute(1, 9, 0), false),
            ("08:00-18:00", minute(6, 8, 0), true),
            // Over midnight, and over the end of the week.
            ("22:00-06:00", minute(2, 5, 59), true),
            ("22:00-06:00", minute(2, 6, 0), false),
            ("sun 22:00-06:00", minute(0, 3, 0), true),
            ("sun 22:00-06:00", minute(6, 3, 0), false),
            ("sun 00:00-24:00", minute(6, 23, 59), true),
            ("sun 00:00-24:00", minute(0, 0, 0), false),
            ("sun 12:00-24:00", minute(6, 23, 59), true),
            ("sun 12:00-24:00", minute(0, 0, 0), false),
        ];
        for (text, at, expected) in cases {
            let hours: Hours = text.parse().expect("well-formed");
            assert_eq!(hours.cover(at), expected, "{text} at {at}");
        }
    }

    #[test]
    fn what_are_no_hours_is_refused() {
        for text in [
            "",
            "mon",
            "mon 8-18",
            "8:00-18:00",
            "08:00",
            "08:00-25:00",
            "08:60-10:00",
            "24:00-06:00",
            "08:00-08:00",
            "mon,tue 08:00-18:00",
            "monday 08:00-18:00",
            "mon-fri  08:00-18:00",
            "+8:00-18:00",
        ] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_minute_of_the_week_is_that_of_the_offset() {
        let cases = [
            ("+00:00", THURSDAY_MS, minute(3, 0, 0)),
            ("+00:00", 0, minute(3, 0, 0)),
            ("-05:30", 0, minute(2, 18, 30)),
            ("+02:00", THURSDAY_MS + 23 * 3_600_000, minute(4, 1, 0)),
            ("+14:00", THURSDAY_MS + 4 * 86_400_000 - 60_000, minute(0, 13, 59)),
        ];
        for (offset, at, expected) in cases {
            let offset: Offset = offset.parse().expect("well-formed");
            assert_eq!(offset.minute_of_week(at), expected, "{offset} {at}");
        }
        for text in ["", "2", "02:00", "+2:00", "+15:00", "+ä", "UTC"] {
            assert!(text.parse::<Offset>().is_err(), "{text}");
        }
        // The largest clock reading there is.
        assert!(Offset::default().minute_of_week(u64::MAX) < WEEK_MINUTES);
    }
}
