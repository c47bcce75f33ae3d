//! The message's bytes in a session: DATA, the chunks of BDAT, and what is read on only for its end.

use std::time::Duration;

use super::{Ask, Chunk, CloseReason, MAX_DISCARD, Replied, Session, Stage, State, Step};
use crate::command::Verb;
use crate::data::{DataLimits, DataReader, Fault};
use crate::reply::Reply;

impl Session {
    pub(super) fn begin_chunk(&mut self, chunk: Chunk, refused: Option<Reply>) -> Option<Step> {
        if chunk.octets > 0 {
            self.commands = self.commands.saturating_sub(1);
        }
        if let Some(reply) = refused {
            self.skip(chunk.octets, reply, true);
            return None;
        }
        let chunks = self.transaction.as_mut().and_then(|t| t.chunks.take());
        match chunks {
            Some(reader) => {
                self.read_chunk(reader, chunk);
                None
            }
            None => self.park(Stage::Chunk(chunk), Ask::Data),
        }
    }

    pub(super) fn read_chunk(&mut self, mut reader: DataReader, chunk: Chunk) {
        reader.begin_chunk(chunk.octets);
        self.waiting.restart();
        self.waiting.bytes = self.input.len() as u64;
        self.state = State::Chunk {
            reader,
            octets: chunk.octets,
            last: chunk.last,
        };
    }

    /// Refuses a chunk once it is out of the way.
    pub(super) fn skip(&mut self, octets: u64, reply: Reply, own: bool) {
        if octets > MAX_DISCARD {
            self.say(Verb::Bdat, reply, own, None);
            self.close(CloseReason::TooMuchData);
            return;
        }
        self.waiting.restart();
        self.waiting.bytes = self.input.len() as u64;
        let then = Replied {
            verb: Verb::Bdat,
            reply,
            own,
            line: None,
        };
        self.state = State::Skip { left: octets, then };
    }

    pub(super) fn advance_skip(&mut self, now: Duration) -> Option<Step> {
        let available = self.input.len() as u64;
        let State::Skip { left, then } = &mut self.state else {
            return None;
        };
        let take = available.min(*left);
        *left -= take;
        // No more than what is available, which is a `usize`.
        self.input.consume(take as usize);
        if *left > 0 {
            return self.need_input(now);
        }
        let then = then.clone();
        self.waiting.restart();
        self.state = State::Command;
        self.say(then.verb, then.reply, then.own, then.line);
        None
    }

    pub(super) fn advance_data(&mut self, now: Duration) -> Option<Step> {
        let (State::Data(reader) | State::Chunk { reader, .. }) = &mut self.state else {
            return None;
        };
        let read = reader.read(self.input.rest());
        let discarded = reader.size().saturating_sub(self.config.max_message_size);
        let too_much = reader.fault().filter(|_| discarded > MAX_DISCARD);
        let used = self.input.consume(read.consumed);
        if !read.run.is_empty() {
            self.data = used.start + read.run.start..used.start + read.run.end;
            return Some(Step::Data);
        }
        if read.end {
            return self.end_data();
        }
        if let Some(fault) = too_much {
            self.hang_up(Verb::Message, fault_reply(fault), CloseReason::TooMuchData);
            return None;
        }
        if self.input.is_empty() {
            return self.need_input(now);
        }
        None
    }

    /// The end of the data, or of a chunk.
    fn end_data(&mut self) -> Option<Step> {
        self.waiting.restart();
        match std::mem::replace(&mut self.state, State::Command) {
            State::Data(reader) => self.end_message(reader),
            State::Chunk {
                mut reader, last: true, ..
            } => {
                reader.finish();
                self.end_message(reader)
            }
            State::Chunk { reader, octets, .. } => {
                if let Some(fault) = reader.fault() {
                    self.abort();
                    self.chunk_failed = true;
                    self.say(Verb::Bdat, fault_reply(fault), true, None);
                } else {
                    if let Some(transaction) = &mut self.transaction {
                        transaction.chunks = Some(reader);
                    }
                    self.reply(Verb::Bdat, Reply::chunk_ok(octets));
                }
                None
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    fn end_message(&mut self, reader: DataReader) -> Option<Step> {
        if let Some(fault) = reader.fault() {
            self.abort();
            self.say(Verb::Message, fault_reply(fault), true, None);
            return None;
        }
        let size = reader.size();
        self.park(Stage::Message, Ask::Message { size })
    }

    pub(super) fn data_limits(&self) -> DataLimits {
        DataLimits {
            size: self.config.max_message_size,
            received: self.config.max_received,
        }
    }
}

fn fault_reply(fault: Fault) -> Reply {
    match fault {
        Fault::LineEnds => Reply::bad_line_ends(),
        Fault::TooBig => Reply::too_big(),
        Fault::Loop => Reply::mail_loop(),
    }
}
