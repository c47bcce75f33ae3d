//! Message content as it goes over the wire: dot-stuffed, with line ends that are CRLF and nothing else.
//!
//! Works on the message as it comes, in pieces of any size, and yields slices of it and of a few constants: nothing
//! is copied. It cannot fail: a bare CR or bare LF (which the server side never lets in, but a policy's edit might
//! make) is turned into CRLF, so that no next hop can see a line end where another sees none (RFC 5321 §2.3.8,
//! §4.1.1.4).

/// The state between two pieces of one message.
#[derive(Debug)]
pub struct DotStuffer {
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    Middle,
    /// Behind a CR that has not been yielded: what follows decides.
    AfterCr,
}

impl Default for DotStuffer {
    fn default() -> DotStuffer {
        DotStuffer::new()
    }
}

impl DotStuffer {
    /// At the beginning of a message.
    pub fn new() -> DotStuffer {
        DotStuffer { at: At::LineStart }
    }

    /// Yields what stands for the next piece of the message.
    pub fn feed<'a>(&mut self, piece: &'a [u8], mut emit: impl FnMut(&'a [u8])) {
        // Where the bytes begin that are not yet yielded.
        let mut start = 0;
        let mut next = 0;
        if self.at == At::AfterCr && !piece.is_empty() {
            emit(b"\r\n");
            if piece[0] == b'\n' {
                next = 1;
                start = 1;
            }
            self.at = At::LineStart;
        }
        loop {
            let rest = &piece[next..];
            if rest.is_empty() {
                break;
            }
            if self.at == At::LineStart && rest[0] == b'.' {
                emit(&piece[start..=next]);
                start = next;
            }
            let Some(found) = memchr::memchr2(b'\r', b'\n', rest) else {
                self.at = At::Middle;
                break;
            };
            let end = next + found;
            match (piece[end], piece.get(end + 1)) {
                (b'\r', Some(b'\n')) => {
                    next = end + 2;
                    self.at = At::LineStart;
                }
                (b'\r', None) => {
                    emit_some(&piece[start..end], &mut emit);
                    self.at = At::AfterCr;
                    return;
                }
                // Bare.
                _ => {
                    emit_some(&piece[start..end], &mut emit);
                    emit(b"\r\n");
                    next = end + 1;
                    start = next;
                    self.at = At::LineStart;
                }
            }
        }
        emit_some(&piece[start..], &mut emit);
    }

    /// What ends the message: the line end that its last line may lack, and the dot.
    pub fn finish(self) -> &'static [u8] {
        match self.at {
            At::LineStart => b".\r\n",
            At::Middle | At::AfterCr => b"\r\n.\r\n",
        }
    }
}

fn emit_some<'a>(slice: &'a [u8], emit: &mut impl FnMut(&'a [u8])) {
    if !slice.is_empty() {
        emit(slice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(message: &[u8], step: usize) -> Vec<u8> {
        let mut stuffer = DotStuffer::new();
        let mut out = Vec::new();
        for piece in message.chunks(step.max(1)) {
            stuffer.feed(piece, |slice| out.extend_from_slice(slice));
        }
        out.extend_from_slice(stuffer.finish());
        out
    }

    #[test]
    fn what_goes_out() {
        let cases: [(&[u8], &[u8]); 14] = [
            (b"", b".\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"..a\r\n.b\r\n", b"...a\r\n..b\r\n.\r\n"),
            (b"a.\r\nb.c\r\n", b"a.\r\nb.c\r\n.\r\n"),
            (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r\r\n.", b"a\r\n\r\n..\r\n.\r\n"),
            (b"a\n\r\n", b"a\r\n\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
            (b"\0.\0\r\n", b"\0.\0\r\n.\r\n"),
            (b"\r\n\r\n.", b"\r\n\r\n..\r\n.\r\n"),
        ];
        for (message, expected) in cases {
            for step in [1, 2, 3, usize::MAX] {
                let out = stuffed(message, step.min(message.len().max(1)));
                assert_eq!(
                    out.escape_ascii().to_string(),
                    expected.escape_ascii().to_string(),
                    "{message:?} by {step}"
                );
            }
        }
    }

    #[test]
    fn plain_content_is_one_slice() {
        let message = b"Subject: x\r\n\r\nline\r\nline\r\n".repeat(100);
        let mut slices = 0;
        DotStuffer::new().feed(&message, |_| slices += 1);
        assert_eq!(slices, 1);
    }
}
