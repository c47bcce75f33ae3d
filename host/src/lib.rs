//! Gatepost: an SMTP relay whose policy is written as WebAssembly components.
//!
//! The map of the modules, and which may know which, is in `host/ARCHITECTURE.md`.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod connection;
pub mod delivery;
pub mod dkim;
pub mod dns;
pub mod journal;
pub mod limits;
pub mod listener;
pub mod maillog;
pub mod message;
pub mod metrics;
pub mod policy;
mod project;
pub mod proxy;
mod regular;
pub mod relay;
mod slice;
pub mod spool;
pub mod supervisor;
pub mod tls;
mod work;
pub mod worker_link;
