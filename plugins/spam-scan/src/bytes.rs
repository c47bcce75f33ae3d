//! Searching in bytes, eight at a time: each turn of a loop costs a guest more than it costs native code.

const WORD: usize = size_of::<u64>();
const LOW: u64 = u64::MAX / 255;
const HIGH: u64 = LOW << 7;

/// The place of the first `wanted`.
pub fn find_byte(text: &[u8], wanted: u8) -> Option<usize> {
    let pattern = LOW * u64::from(wanted);
    let mut words = text.chunks_exact(WORD);
    let mut place = 0;
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("chunks_exact gives that many"));
        let differs = word ^ pattern;
        // The lowest marked byte is zero; higher ones may be marked for its borrow.
        let marked = differs.wrapping_sub(LOW) & !differs & HIGH;
        if marked != 0 {
            return Some(place + marked.trailing_zeros() as usize / 8);
        }
        place += WORD;
    }
    words
        .remainder()
        .iter()
        .position(|byte| *byte == wanted)
        .map(|within| place + within)
}

/// The place behind the next LF from `from` on.
pub fn line_end(text: &[u8], from: usize) -> Option<usize> {
    find_byte(text.get(from..)?, b'\n').map(|place| from + place + 1)
}

/// The place of the first `what`, which is not empty.
pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let place = from + find_byte(text.get(from..)?, what[0])?;
        if text[place..].starts_with(what) {
            return Some(place);
        }
        from = place + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_is_found_wherever_it_stands() {
        for length in 0..40 {
            for place in 0..length {
                for filler in [0, 9, 11, 255] {
                    let mut text = vec![filler; length];
                    text[place] = 10;
                    *text.last_mut().expect("it is longer than place") = 10;
                    assert_eq!(find_byte(&text, 10), Some(place), "{length} {place} {filler}");
                    assert_eq!(find_byte(&text, 10 ^ 128), None);
                }
            }
        }
        assert_eq!(find_byte(b"", 10), None);
        assert_eq!(line_end(b"a\nb", 2), None);
        assert_eq!(line_end(b"a\nb\n", 2), Some(4));
        assert_eq!(find(b"a</a></b>", b"</b"), Some(5));
        assert_eq!(find(b"a</", b"</b"), None);
    }
}
