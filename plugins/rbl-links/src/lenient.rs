//! Decodes what is not quite base64 or quoted-printable as mail programs do: as far as it goes. A part may be cut off where reading ended, or broken on purpose.

/// What is no base64 is passed over, `=` too: behind it something may go on.
pub fn base64(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            decoded.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        2 => decoded.push((bits >> 4) as u8),
        3 => decoded.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    decoded
}

/// What is no code stays as it is.
pub fn quoted_printable(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let hex = |place: usize| behind.get(place).and_then(|byte| char::from(*byte).to_digit(16));
        rest = match (first, behind, hex(0), hex(1)) {
            (b'=', _, Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                &behind[2..]
            }
            (b'=', [b'\r', b'\n', after @ ..] | [b'\n', after @ ..], ..) => after,
            _ => {
                decoded.push(*first);
                behind
            }
        };
    }
    decoded
}
