//! An event as a line: JSON or text, in the order in which its fields were given.
//!
//! Pure functions onto a string; they cannot fail, and whatever the values are, the result is exactly one line.

use std::fmt::{self, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::message::since_epoch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time LEVEL event key=value ...`, for people.
    Text,
    /// One object a line: `time`, `level`, `event`, then the event's own fields.
    Json,
}

impl Format {
    /// Appends the event and a line feed.
    pub fn write(self, line: &mut String, at: SystemTime, event: &Event<'_>) {
        // The event's name comes first, but is not the first field that is visited.
        let mut name = Name(String::new());
        event.record(&mut name);
        let mut fields = self.begin(line, at, *event.metadata().level(), &name.0);
        event.record(&mut fields);
        self.end(line);
    }

    /// The beginning of a line up to the name; what follows are fields.
    pub fn begin<'l>(self, line: &'l mut String, at: SystemTime, level: Level, name: &str) -> Fields<'l> {
        // Writing to a String cannot fail.
        let _ = match self {
            Format::Text => {
                let _ = write!(line, "{} {:>5} ", Rfc3339(at), level);
                Plain(line).write_str(name)
            }
            Format::Json => {
                let level = match level {
                    Level::ERROR => "error",
                    Level::WARN => "warn",
                    Level::INFO => "info",
                    Level::DEBUG => "debug",
                    Level::TRACE => "trace",
                };
                let _ = write!(
                    line,
                    "{{\"time\":\"{}\",\"level\":\"{level}\",\"event\":\"",
                    Rfc3339(at)
                );
                let _ = Json(line).write_str(name);
                line.push('"');
                Ok(())
            }
        };
        Fields { format: self, line }
    }

    pub fn end(self, line: &mut String) {
        line.push_str(match self {
            Format::Text => "\n",
            Format::Json => "}\n",
        });
    }
}

/// The field that `tracing`'s macros put the text of an event into.
const NAME: &str = "message";

struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == NAME {
            self.0.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == NAME {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

/// Appends fields to a line.
pub struct Fields<'l> {
    format: Format,
    line: &'l mut String,
}

impl Fields<'_> {
    /// A value that needs no quotes and no escaping.
    pub fn bare(&mut self, key: &str, value: impl fmt::Display) {
        let _ = match self.format {
            Format::Text => write!(self.line, " {key}={value}"),
            Format::Json => write!(self.line, ",\"{key}\":{value}"),
        };
    }

    fn text(&mut self, key: &str, value: fmt::Arguments<'_>) {
        match self.format {
            Format::Text => {
                let _ = write!(self.line, " {key}=");
                let start = self.line.len();
                let _ = Plain(self.line).write_fmt(value);
                // Quotes only where the value's end would not be seen without; Plain has escaped those within.
                if self.line.len() == start || self.line[start..].contains([' ', '=', '\\']) {
                    self.line.insert(start, '"');
                    self.line.push('"');
                }
            }
            Format::Json => {
                let _ = write!(self.line, ",\"{key}\":\"");
                let _ = Json(self.line).write_fmt(value);
                self.line.push('"');
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field.name(), value);
        } else {
            self.text(field.name(), format_args!("{value}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != NAME {
            self.text(field.name(), format_args!("{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != NAME {
            self.text(field.name(), format_args!("{value:?}"));
        }
    }
}

/// Escapes for within a JSON string. Beyond what JSON demands, DEL and the C1 controls: some terminals act on them.
struct Json<'l>(&'l mut String);

impl Write for Json<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escaped(self.0, text, |line, c| match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => {
                let _ = write!(line, "\\u{:04x}", u32::from(other));
            }
        });
        Ok(())
    }
}

/// Escapes for a terminal, as Rust writes strings.
struct Plain<'l>(&'l mut String);

impl Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escaped(self.0, text, |line, c| line.extend(c.escape_default()));
        Ok(())
    }
}

/// Copies runs of harmless characters, and hands the others over: controls, quotes, backslashes, and what reorders or breaks lines.
fn escaped(line: &mut String, text: &str, mut escape: impl FnMut(&mut String, char)) {
    let harmless = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if text.bytes().all(harmless) {
        line.push_str(text);
        return;
    }
    for c in text.chars() {
        let suspicious = match c {
            '"' | '\\' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}' => {
                true
            }
            other => other.is_control(),
        };
        if suspicious { escape(line, c) } else { line.push(c) }
    }
}

/// A time as RFC 3339 writes it, in UTC, with microseconds.
pub struct Rfc3339(pub SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = since_epoch(self.0);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (start, width, value) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 6, u64::from(since.subsec_micros())),
        ] {
            let mut rest = value;
            for place in text[start..start + width].iter_mut().rev() {
                *place = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).expect("digits and punctuation are ASCII"))
    }
}

/// Days since 1970 as year, month, day of the Gregorian calendar; years begin in March here, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times() {
        for (seconds, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, 5, "2024-02-29T23:59:59.000005Z"),
            (1_798_761_599, 0, "2026-12-31T23:59:59.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            assert_eq!(Rfc3339(at).to_string(), expected);
        }
    }

    fn line(format: Format, value: &str) -> String {
        let mut line = String::new();
        let mut fields = format.begin(&mut line, UNIX_EPOCH, Level::INFO, "refused");
        fields.text("sender", format_args!("{value}"));
        fields.bare("size", 7);
        format.end(&mut line);
        line
    }

    #[test]
    fn values_of_peers_stay_within_their_quotes() {
        for (value, text, json) in [
            ("a@example.test", "a@example.test", r#""a@example.test""#),
            ("", "\"\"", r#""""#),
            ("a b", "\"a b\"", r#""a b""#),
            (
                "x\r\n1970 INFO accepted",
                "\"x\\r\\n1970 INFO accepted\"",
                r#""x\r\n1970 INFO accepted""#,
            ),
            ("\"},{\"", "\"\\\"},{\\\"\"", r#""\"},{\"""#),
            ("\x1b[2J\u{9b}2J", "\"\\u{1b}[2J\\u{9b}2J\"", r#""\u001b[2J\u009b2J""#),
            ("a\u{202e}b", "\"a\\u{202e}b\"", r#""a\u202eb""#),
            ("müller@bücher.test", "müller@bücher.test", r#""müller@bücher.test""#),
        ] {
            assert_eq!(
                line(Format::Text, value),
                format!("1970-01-01T00:00:00.000000Z  INFO refused sender={text} size=7\n")
            );
            let whole = line(Format::Json, value);
            assert_eq!(
                whole,
                format!(
                    "{{\"time\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"info\",\"event\":\"refused\",\"sender\":{json},\"size\":7}}\n"
                )
            );
            let parsed: serde_json::Value = serde_json::from_str(&whole).unwrap();
            assert_eq!(parsed["sender"], value);
        }
    }
}
