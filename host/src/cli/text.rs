//! How things look on a terminal: colours, ages, sizes, columns, and text that came from strangers.

use std::io::IsTerminal;
use std::time::Duration;

/// Colours where somebody sees them: on a terminal, unless NO_COLOR is set.
#[derive(Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    pub fn stdout() -> Paint {
        Paint(std::io::stdout().is_terminal() && wanted())
    }

    pub fn stderr() -> Paint {
        Paint(std::io::stderr().is_terminal() && wanted())
    }

    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A text without control characters, which a terminal would obey.
pub fn printable(text: &str) -> String {
    let plain = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    text.chars().map(plain).collect()
}

/// The same for several lines.
pub fn printable_lines(text: &str) -> String {
    text.lines()
        .map(|line| printable(&line.replace('\t', " ")) + "\n")
        .collect()
}

/// An address in its brackets, the null sender too.
pub fn address(address: &str) -> String {
    format!("<{}>", printable(address))
}

/// `42s`, `17m`, `5h`, `3d`: the largest unit that is not zero.
pub fn age(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `512 B`, `4.0 KiB`, `25.0 MiB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7_199, "1h"),
            (86_400 * 5 + 1, "5d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (4_096, "4.0 KiB"),
            (25 << 20, "25.0 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(address(""), "<>");
        assert_eq!(printable("a\x1b[2Jb\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(printable_lines("A:\tb\r\n\x07\r\n"), "A: b\n\u{fffd}\n");
    }
}
