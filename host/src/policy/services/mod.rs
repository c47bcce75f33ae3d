//! What stands behind the imports of a policy, as plain Rust: the message it reads and edits, its key-value store, DNS and
//! lists, the checks of who sent a message, its endpoints and its counters.
//!
//! Nothing here knows of WebAssembly, of grants or of budgets: who may call what, and for how long, is settled before a
//! call comes here. Everything is bounded by constants named where they hold, and every failure is a value.

pub mod authentication;
mod author;
pub mod content;
pub mod counters;
mod dmarc;
pub mod endpoint;
mod header;
pub mod lists;
mod spf;
pub mod state;
pub mod trace;
