//! The message as it goes out, read in pieces: head, body.
//!
//! Small ones are in memory and handed out as they are; large ones are read from the spool piece by piece. Copies
//! nothing that is in memory. Errors are those of the spool's disk.

use std::io;

use bytes::Bytes;

use crate::message::Body;
use crate::spool::Spool;

/// How much of a large body is read at once, in bytes.
pub const PIECE: usize = 256 * 1024;

/// What goes out.
#[derive(Clone)]
pub struct Content {
    head: Bytes,
    body: Body,
    /// Where a body that is a file is read.
    spool: Option<Spool>,
}

impl Content {
    pub fn new(head: Bytes, body: Body, spool: Spool) -> Content {
        Content {
            head,
            body,
            spool: Some(spool),
        }
    }

    /// For tests of what reads one.
    #[cfg(test)]
    pub fn in_memory(head: Bytes, body: Bytes) -> Content {
        Content {
            head,
            body: Body::Memory(body),
            spool: None,
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.body.len()
    }

    /// All of it, if it is in memory: to be written at once.
    pub fn slices(&self) -> Option<[&[u8]; 2]> {
        match &self.body {
            Body::Memory(body) => Some([&self.head, body]),
            Body::File { .. } => None,
        }
    }

    /// The pieces in order; none of them is empty.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces {
            content: self,
            part: 0,
            offset: 0,
        }
    }

    /// The first `limit` bytes, for a header to be looked at or quoted.
    pub async fn beginning(&self, limit: usize) -> io::Result<Vec<u8>> {
        let mut beginning = Vec::new();
        let mut pieces = self.pieces();
        while beginning.len() < limit {
            let Some(piece) = pieces.next().await? else { break };
            let room = limit - beginning.len();
            beginning.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Ok(beginning)
    }
}

/// A reader over [`Content`].
pub struct Pieces<'a> {
    content: &'a Content,
    part: u8,
    offset: u64,
}

impl Pieces<'_> {
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let piece = match (self.part, &self.content.body) {
                (0, _) => self.content.head.clone(),
                (1, Body::Memory(bytes)) => bytes.clone(),
                (1, body) if self.offset < body.len() => {
                    let Some(spool) = &self.content.spool else {
                        return Err(io::Error::other("a body in a file needs a spool"));
                    };
                    let piece = spool.read(body, self.offset, PIECE).await?;
                    if piece.is_empty() {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the body's file has been cut",
                        ));
                    }
                    self.offset += piece.len() as u64;
                    return Ok(Some(piece));
                }
                _ => return Ok(None),
            };
            self.part += 1;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_runs_over_the_parts() {
        let content = Content::in_memory(Bytes::from_static(b"head"), Bytes::from_static(b"body"));
        for (limit, expected) in [(0, ""), (3, "hea"), (4, "head"), (6, "headbo"), (99, "headbody")] {
            assert_eq!(content.beginning(limit).await.expect("in memory"), expected.as_bytes());
        }
        assert_eq!(content.len(), 8);
    }
}
