//! Lines in the daemon's log. They carry the session's id, the plugin and the hook. At most 100 a call, 4 KiB each; what is over is
//! dropped and counted.

pub use crate::interface::log::Level;
use crate::interface::log::log;

/// For whoever looks into one plugin.
pub fn debug(message: &str) {
    log(Level::Debug, message);
}

/// What an administrator may want to know.
pub fn info(message: &str) {
    log(Level::Info, message);
}

/// What an administrator should look at some day.
pub fn warn(message: &str) {
    log(Level::Warn, message);
}

/// What an administrator should look at now.
pub fn error(message: &str) {
    log(Level::Error, message);
}
