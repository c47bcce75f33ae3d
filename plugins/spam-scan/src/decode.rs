//! Transfer encodings (RFC 2045 §6), and encoded words in a field (RFC 2047).
//!
//! It takes any bytes and never fails: what is broken is left as it is. What comes out is never longer than what went in.

use crate::bytes::find_byte;

/// Appends what quoted-printable stands for.
pub fn quoted_printable(encoded: &[u8], text: &mut Vec<u8>) {
    let mut rest = encoded;
    while let Some(place) = find_byte(rest, b'=') {
        text.extend_from_slice(&rest[..place]);
        rest = &rest[place..];
        let length = match rest {
            [_, b'\n', ..] => 2,
            [_, b'\r', b'\n', ..] => 3,
            [_, high, low, ..] if hex(*high, *low).is_some() => {
                text.extend(hex(*high, *low));
                3
            }
            _ => {
                text.push(b'=');
                1
            }
        };
        rest = &rest[length..];
    }
    text.extend_from_slice(rest);
}

/// Appends what base64 stands for, as far as it goes: what is no base64 is passed over, `=` ends it.
pub fn base64(encoded: &[u8], text: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u32, 0);
    for byte in encoded {
        let value = SIXTY_FOUR[usize::from(*byte)];
        if value >= 64 {
            if *byte == b'=' {
                break;
            }
            continue;
        }
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            text.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        2 => text.push((bits >> 4) as u8),
        3 => text.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
}

/// A field with its encoded words decoded, whatever their character set; other text as it is. What is broken is left as it is.
pub fn words(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(place) = rest.windows(2).position(|two| two == b"=?") {
        // White space between encoded words is none.
        let between = &rest[..place];
        if text.is_empty() || !between.trim_ascii().is_empty() || rest.len() == field.len() {
            text.extend_from_slice(between);
        }
        let encoded = &rest[place..];
        let mut parts = encoded[2..].splitn(3, |byte| *byte == b'?');
        let (Some(_), Some(encoding), Some(behind)) = (parts.next(), parts.next(), parts.next()) else {
            rest = encoded;
            break;
        };
        let Some(end) = behind.windows(2).position(|two| two == b"?=") else {
            rest = encoded;
            break;
        };
        match encoding {
            b"B" | b"b" => base64(&behind[..end], &mut text),
            b"Q" | b"q" => {
                let start = text.len();
                quoted_printable(&behind[..end], &mut text);
                for byte in &mut text[start..] {
                    if *byte == b'_' {
                        *byte = b' ';
                    }
                }
            }
            _ => {}
        }
        rest = &behind[end + 2..];
    }
    text.extend_from_slice(rest);
    raise(&mut text);
    text
}

/// Makes EUC of what stands between the escapes of ISO-2022 (RFC 1468, RFC 1557), where two signs of ASCII are one character: else its text
/// would be read as digits, capitals and exclamation marks. Other text stays.
pub fn raise(text: &mut [u8]) {
    const ESCAPE: u8 = 0x1b;
    let mut at = 0;
    let mut is_wide = false;
    while let Some(byte) = text.get(at).copied() {
        if byte == ESCAPE {
            let length = match text[at + 1..] {
                [b'$', b'(' | b')', _, ..] => 4,
                [b'$' | b'(', _, ..] => 3,
                _ => 1,
            };
            if length > 1 {
                is_wide = text[at + 1] == b'$';
                text[at..at + length].fill(b' ');
            }
            at += length;
            continue;
        }
        if is_wide && byte > b' ' {
            text[at] |= 0x80;
        }
        // Every line begins in ASCII.
        is_wide &= byte != b'\n';
        at += 1;
    }
}

/// Makes bytes of UTF-16 and UTF-32 (RFC 2781) in either order, where ASCII stands between zeroes. What is not ASCII comes out as nothing sensible.
pub fn narrow(text: &mut Vec<u8>) {
    text.retain(|byte| !matches!(byte, 0 | 0xfe | 0xff));
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

static SIXTY_FOUR: [u8; 256] = {
    let mut values = [64; 256];
    let signs = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = 0;
    while value < signs.len() {
        values[signs[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_undone_and_what_is_broken_stays() {
        let cases = [
            ("a=20b=\nc=\r\nd", "a bcd"),
            ("=", "="),
            ("=4", "=4"),
            ("=zz=41", "=zzA"),
            ("", ""),
        ];
        for (encoded, expected) in cases {
            let mut text = Vec::new();
            quoted_printable(encoded.as_bytes(), &mut text);
            assert_eq!(String::from_utf8_lossy(&text), expected, "{encoded:?}");
        }
        let cases = [
            ("YWN0I\nG5vdw==", "act now"),
            ("YWN0", "act"),
            ("YWN", "ac"),
            ("Y", ""),
            ("!Y!W!N!0=x", "act"),
        ];
        for (encoded, expected) in cases {
            let mut text = Vec::new();
            base64(encoded.as_bytes(), &mut text);
            assert_eq!(String::from_utf8_lossy(&text), expected, "{encoded:?}");
        }
    }

    #[test]
    fn what_iso_2022_means_is_no_ascii() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a \x1b$B$3!!\x1b(B$1", b"a    \xa4\xb3\xa1\xa1   $1"),
            (b"\x1b$)C$3", b"    \xa4\xb3"),
            (b"\x1b$B$3\n$1", b"   \xa4\xb3\n$1"),
            (b"\x1b$", b"\x1b$"),
            (b"\x1b", b"\x1b"),
            (b"$1", b"$1"),
        ];
        for (text, expected) in cases {
            let mut raised = text.to_vec();
            raise(&mut raised);
            assert_eq!(raised.escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }

    #[test]
    fn wide_characters_of_ascii_are_ascii() {
        for wide in [
            &b"\xff\xfeb\0u\0y\0"[..],
            b"\0b\0u\0y",
            b"\0\0\0b\0\0\0u\0\0\0y",
            b"buy",
        ] {
            let mut text = wide.to_vec();
            narrow(&mut text);
            assert_eq!(text, b"buy");
        }
    }

    #[test]
    fn encoded_words_are_read() {
        let cases = [
            ("plain", "plain"),
            ("=?utf-8?B?TFVOQ0g=?= at noon", "LUNCH at noon"),
            ("=?utf-8?q?a_b?=\r\n =?utf-8?q?=63?=", "a bc"),
            ("Re: =?x?q?a?= b", "Re: a b"),
            ("=?x?q?a", "=?x?q?a"),
            ("=?x", "=?x"),
            ("=?x?y?z?=", ""),
        ];
        for (field, expected) in cases {
            assert_eq!(String::from_utf8_lossy(&words(field.as_bytes())), expected, "{field}");
        }
    }
}
