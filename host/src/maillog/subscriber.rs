//! Where `tracing`'s events become lines: the daemon's own from the configured level on, those of libraries from `warn` on.
//!
//! Spans are not kept: an event carries the ids that it belongs to. The choice by level is made once for each place in the code and costs
//! nothing afterwards.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use super::format::Format;
use super::sink::Sink;

pub struct LineSubscriber {
    format: Format,
    level: AtomicU8,
    sink: Arc<Sink>,
}

/// A line longer than this gives its memory back.
const LINE_KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl LineSubscriber {
    pub fn new(format: Format, level: Level, sink: Arc<Sink>) -> LineSubscriber {
        LineSubscriber {
            format,
            level: AtomicU8::new(rank(level)),
            sink,
        }
    }

    pub fn set_level(&self, level: Level) {
        self.level.store(rank(level), Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let level = self.level.load(Ordering::Relaxed);
        let own = metadata.target().starts_with("gatepost");
        metadata.is_event() && rank(*metadata.level()) <= if own { level } else { level.min(rank(Level::WARN)) }
    }
}

fn rank(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

impl Subscriber for LineSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        LINE.with(|line| {
            // Taken already: a value's own formatting logged something. That line gets a buffer of its own.
            let mut kept = line.try_borrow_mut();
            let mut own = String::new();
            let line = kept.as_deref_mut().unwrap_or(&mut own);
            line.clear();
            self.format.write(line, SystemTime::now(), event);
            self.sink.write(line.as_bytes());
            line.shrink_to(LINE_KEPT_BYTES);
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
