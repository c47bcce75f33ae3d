//! Message data as it comes: DATA with its dots (RFC 5321 §4.5.2) and the chunks of BDAT (RFC 3030).
//!
//! [`DataReader`] finds the end of the data and the runs of message bytes in it, without copying them. Only
//! CRLF.CRLF ends DATA. A bare CR, a bare LF, a NUL, too many bytes or too many `Received` fields are
//! faults: they never end the data and never make it end elsewhere; the reader goes on to the real end and
//! gives out no more bytes. It never buffers, and it answers alike however the input is cut.

use std::ops::Range;

use memchr::memchr3;

/// Why a message is refused for its data alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Bare CR, bare LF or NUL. To a next hop that takes such things for line ends, the message would
    /// be several (SMTP smuggling).
    LineEnds,
    /// Over the size limit.
    TooBig,
    /// Over the limit on `Received` fields.
    Loop,
}

/// What `read` found in one piece of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// How many bytes of the input are done with.
    pub consumed: usize,
    /// Where in the input the message's next bytes are.
    pub run: Range<usize>,
    /// The data's end (DATA), or the chunk's (BDAT), is the last consumed byte.
    pub end: bool,
}

/// Bounds on a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataLimits {
    /// Most bytes, dots unstuffed.
    pub size: u64,
    /// Most `Received` fields.
    pub received: u32,
}

/// The state of one message's data.
#[derive(Debug)]
pub(crate) struct DataReader {
    limits: DataLimits,
    at: At,
    header: Header,
    received: u32,
    size: u64,
    fault: Option<Fault>,
    /// For BDAT: what is left of the chunk. `None` for DATA.
    chunk_left: Option<u64>,
}

/// What the last byte was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// CRLF, or the beginning.
    LineStart,
    /// DATA only: a dot at the start of a line.
    Dot,
    /// DATA only: a dot at the start of a line and CR.
    DotCr,
    /// CR.
    Cr,
    /// Anything else.
    Middle,
}

/// Whether the header is still on, and how much of `received` the line has matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    /// This many bytes of the line match so far.
    Matching(usize),
    /// The line is some other field.
    Other,
    /// The empty line has come.
    Over,
}

const RECEIVED: &[u8] = b"received";

impl DataReader {
    /// For DATA.
    pub fn dotted(limits: DataLimits) -> DataReader {
        DataReader {
            limits,
            at: At::LineStart,
            header: Header::Matching(0),
            received: 0,
            size: 0,
            fault: None,
            chunk_left: None,
        }
    }

    /// For BDAT; no chunk is open yet.
    pub fn chunked(limits: DataLimits) -> DataReader {
        DataReader {
            chunk_left: Some(0),
            ..DataReader::dotted(limits)
        }
    }

    /// Opens the next chunk. One that cannot fit is a fault before its first byte.
    pub fn begin_chunk(&mut self, octets: u64) {
        self.chunk_left = Some(octets);
        if self.size.saturating_add(octets) > self.limits.size {
            self.fault.get_or_insert(Fault::TooBig);
        }
    }

    /// Tells that the last chunk is done: a message cannot end in a bare CR.
    pub fn finish(&mut self) {
        if self.at == At::Cr {
            self.fault.get_or_insert(Fault::LineEnds);
        }
    }

    /// Bytes of the message so far, those behind a fault included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first fault, if there was one.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Looks at `input` up to the end of the data, the end of the input or the next stuffed dot,
    /// whichever is first. The run is empty behind a fault.
    pub fn read(&mut self, input: &[u8]) -> Read {
        let read = match self.chunk_left {
            None => self.read_dotted(input),
            Some(left) => {
                // A chunk larger than memory is no larger than the input here.
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - take as u64;
                self.chunk_left = Some(left);
                self.read_chunk(&input[..take]);
                Read {
                    consumed: take,
                    run: 0..take,
                    end: left == 0,
                }
            }
        };
        self.size = self.size.saturating_add(read.run.len() as u64);
        if self.size > self.limits.size {
            self.fault.get_or_insert(Fault::TooBig);
        }
        if self.fault.is_some() {
            return Read { run: 0..0, ..read };
        }
        read
    }

    fn read_dotted(&mut self, input: &[u8]) -> Read {
        let mut run_start = 0;
        let mut pos = 0;
        while let Some(&byte) = input.get(pos) {
            match self.at {
                At::LineStart if byte == b'.' => {
                    // The dot is stuffing, or it begins the end: neither is the message's.
                    self.at = At::Dot;
                    if pos > run_start {
                        return Read {
                            consumed: pos + 1,
                            run: run_start..pos,
                            end: false,
                        };
                    }
                    pos += 1;
                    run_start = pos;
                }
                At::Dot if byte == b'\r' => {
                    self.at = At::DotCr;
                    pos += 1;
                    run_start = pos;
                }
                At::DotCr if byte == b'\n' => {
                    return Read {
                        consumed: pos + 1,
                        run: pos..pos,
                        end: true,
                    };
                }
                At::DotCr => {
                    self.at = At::Cr;
                }
                At::Dot => {
                    self.begin_line(byte);
                    self.at = At::Middle;
                }
                _ => pos = self.scan(input, pos),
            }
        }
        Read {
            consumed: pos,
            run: run_start..pos,
            end: false,
        }
    }

    fn read_chunk(&mut self, input: &[u8]) {
        let mut pos = 0;
        while pos < input.len() {
            pos = self.scan(input, pos);
        }
    }

    /// Goes on to the start of the next line, or the end of the input. `at` is none of the dot states.
    fn scan(&mut self, input: &[u8], from: usize) -> usize {
        let mut pos = from;
        match self.at {
            At::Cr => {
                if input[pos] == b'\n' {
                    self.at = At::LineStart;
                    self.begin_header_line();
                    return pos + 1;
                }
                self.fault.get_or_insert(Fault::LineEnds);
                self.at = At::Middle;
            }
            At::LineStart => {
                self.begin_line(input[pos]);
                self.at = At::Middle;
            }
            _ => {}
        }
        loop {
            let rest = &input[pos..];
            let found = memchr3(b'\r', b'\n', 0, rest);
            if let Header::Matching(matched) = self.header {
                self.match_received(matched, &rest[..found.unwrap_or(rest.len())]);
            }
            let Some(offset) = found else {
                return input.len();
            };
            let after = pos + offset + 1;
            if input[pos + offset] == b'\r' {
                if input.get(after) == Some(&b'\n') {
                    self.at = At::LineStart;
                    self.begin_header_line();
                    return after + 1;
                }
                self.at = At::Cr;
                if after == input.len() {
                    return after;
                }
                // Some other byte follows.
                self.fault.get_or_insert(Fault::LineEnds);
                self.at = At::Middle;
            } else {
                self.fault.get_or_insert(Fault::LineEnds);
            }
            // The line has gone wrong: its field name no longer matters, the message is refused.
            if matches!(self.header, Header::Matching(_)) {
                self.header = Header::Other;
            }
            pos = after;
            if pos == input.len() {
                return pos;
            }
        }
    }

    /// `byte` begins a line; a CR there makes it the empty one that ends the header.
    fn begin_line(&mut self, byte: u8) {
        if byte == b'\r' && self.header != Header::Over {
            self.header = Header::Over;
        }
    }

    fn begin_header_line(&mut self) {
        if self.header != Header::Over {
            self.header = Header::Matching(0);
        }
    }

    /// Counts the line if its field name is `Received` (RFC 5321 §6.3); `text` holds no line end.
    fn match_received(&mut self, matched: usize, text: &[u8]) {
        let name = &RECEIVED[matched..];
        let common = name.len().min(text.len());
        if !text[..common].eq_ignore_ascii_case(&name[..common]) {
            self.header = Header::Other;
            return;
        }
        match text.get(name.len()) {
            // RFC 5322 §4.5.8 lets white space stand before the colon.
            Some(b':' | b' ' | b'\t') => {
                self.header = Header::Other;
                self.received += 1;
                if self.received > self.limits.received {
                    self.fault.get_or_insert(Fault::Loop);
                }
            }
            Some(_) => self.header = Header::Other,
            None => self.header = Header::Matching(matched + common),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DataLimits = DataLimits { size: 200, received: 2 };

    /// The message, the fault, and how many bytes the data took, or `None` if it has not ended.
    type Outcome = (String, Option<Fault>, Option<usize>);

    fn dotted(bytes: &[u8], step: usize) -> Outcome {
        let mut reader = DataReader::dotted(LIMITS);
        let mut message = Vec::new();
        let mut total = 0;
        for piece in bytes.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                let read = reader.read(rest);
                message.extend_from_slice(&rest[read.run]);
                total += read.consumed;
                rest = &rest[read.consumed..];
                if read.end {
                    let message = String::from_utf8_lossy(&message).into_owned();
                    return (message, reader.fault(), Some(total));
                }
            }
        }
        let message = String::from_utf8_lossy(&message).into_owned();
        (message, reader.fault(), None)
    }

    fn chunked(chunks: &[&[u8]], step: usize) -> (String, Option<Fault>) {
        let mut reader = DataReader::chunked(LIMITS);
        let mut message = Vec::new();
        for chunk in chunks {
            reader.begin_chunk(chunk.len() as u64);
            let mut left = *chunk;
            while !left.is_empty() {
                let piece = &left[..step.min(left.len())];
                let read = reader.read(piece);
                message.extend_from_slice(&piece[read.run]);
                left = &left[read.consumed..];
                assert_eq!(read.end, left.is_empty());
            }
        }
        reader.finish();
        (String::from_utf8_lossy(&message).into_owned(), reader.fault())
    }

    #[test]
    fn only_crlf_dot_crlf_ends_data() {
        // Each is followed by a real end and a command.
        let cases: [(&str, &str); 6] = [
            ("", ""),
            ("a\r\n", "a\r\n"),
            ("a\r\n..\r\n", "a\r\n.\r\n"),
            ("..a\r\n.b\r\n...\r\n", ".a\r\nb\r\n..\r\n"),
            ("a.\r\n\r\n..\r\n", "a.\r\n\r\n.\r\n"),
            ("\r\n", "\r\n"),
        ];
        for (sent, message) in cases {
            let bytes = format!("{sent}.\r\nQUIT\r\n");
            for step in 1..=bytes.len() {
                let expected = (message.to_owned(), None, Some(sent.len() + 3));
                assert_eq!(dotted(bytes.as_bytes(), step), expected, "{sent:?}");
            }
        }
    }

    #[test]
    fn no_trick_ends_data() {
        let tricks: [&[u8]; 19] = [
            b"a\n.\n",
            b"a\n.\r\n",
            b"a\r\n.\n",
            b"a\r.\r",
            b"a\r.\r\n",
            b"a\r\n.\r",
            b"a\r\n.\r\r\n",
            b"a\r\n\n.\r\n",
            b"a\r\n\r.\r\n",
            b"a\r\n.\0\r\n",
            b"a\r\n\0.\r\n",
            b"a\r\n.\r\0\n",
            b"a\r\n\0\r\n",
            b"a\0\r\n",
            b"\n",
            b"\r",
            b"a\r\r\n",
            b"\r\n\n",
            b"\n.\r\n",
        ];
        for trick in tricks {
            let mut bytes = trick.to_vec();
            bytes.extend_from_slice(b"MAIL FROM:<>\r\nx\r\n.\r\nQUIT\r\n");
            let end = bytes.len() - b"QUIT\r\n".len();
            let whole = dotted(&bytes, bytes.len());
            assert_eq!(whole.1, Some(Fault::LineEnds), "{trick:?}");
            assert_eq!(whole.2, Some(end), "{trick:?}");
            for step in 1..bytes.len() {
                let (_, fault, ended) = dotted(&bytes, step);
                assert_eq!((fault, ended), (whole.1, whole.2), "{trick:?} by {step}");
            }
        }
    }

    #[test]
    fn size_counts_the_message_not_its_stuffing() {
        let line = "x".repeat(196);
        let cases = [
            (format!("..{line}\r\n.\r\n"), None),
            (format!("..{line}y\r\n.\r\n"), None),
            (format!("..{line}yz\r\n.\r\n"), Some(Fault::TooBig)),
        ];
        for (bytes, fault) in cases {
            for step in [1, 7, bytes.len()] {
                let outcome = dotted(bytes.as_bytes(), step);
                assert_eq!((outcome.1, outcome.2), (fault, Some(bytes.len())));
            }
        }
    }

    #[test]
    fn received_fields_are_counted_in_the_header_only() {
        let cases = [
            ("Received: a\r\nreceived: b\r\n\r\nReceived: c\r\n", None),
            ("Received: a\r\nRECEIVED:b\r\nreceived : c\r\n", Some(Fault::Loop)),
            ("Received: a\r\n Received: b\r\nReceived: c\r\nX: d\r\n", None),
            (
                "Received-SPF: a\r\nReceived-SPF: b\r\nReceived-SPF: c\r\nReceiv\r\n",
                None,
            ),
            ("X: Received: a\r\nreceive: b\r\nReceived: c\r\nReceived: d\r\n", None),
            ("A: b\r\n\r\nReceived: a\r\nReceived: a\r\nReceived: a\r\n", None),
            ("\r\nReceived: a\r\nReceived: a\r\nReceived: a\r\n", None),
        ];
        for (message, fault) in cases {
            let bytes = format!("{message}.\r\n");
            for step in 1..=bytes.len() {
                assert_eq!(dotted(bytes.as_bytes(), step).1, fault, "{message:?} by {step}");
                let chunks: Vec<&[u8]> = message.as_bytes().chunks(step).collect();
                assert_eq!(chunked(&chunks, step).1, fault, "{message:?} in chunks of {step}");
            }
        }
    }

    #[test]
    fn chunks_know_no_dots_and_keep_the_rules_on_line_ends() {
        let cases: [(&[&[u8]], Option<Fault>); 9] = [
            (&[b"a\r\n.\r\nb\r\n..c\r\n"], None),
            (&[b"a\r", b"\nb"], None),
            (&[b"a\r\n", b"", b".\r\n"], None),
            (&[b"a\n"], Some(Fault::LineEnds)),
            (&[b"a\r", b"b\r\n"], Some(Fault::LineEnds)),
            (&[b"a\r"], Some(Fault::LineEnds)),
            (&[b"a", b"\n"], Some(Fault::LineEnds)),
            (&[b"a\0\r\n"], Some(Fault::LineEnds)),
            (&[&[b'x'; 150], &[b'x'; 51]], Some(Fault::TooBig)),
        ];
        for (chunks, fault) in cases {
            for step in [1, 2, 3, 1000] {
                let (message, found) = chunked(chunks, step);
                assert_eq!(found, fault, "{chunks:?}");
                if fault.is_none() {
                    assert_eq!(message.as_bytes(), chunks.concat());
                }
            }
        }
    }
}
