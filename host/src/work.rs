//! Computing in the middle of a session: over bytes of strangers, so that a panic stays where it is; and where it takes long, beside the runtime's threads.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

/// So many bytes are hashed by the thread that has them: it takes some tens of microseconds, and to wake another thread and be woken by it as many.
pub const SHORT_BYTES_MAX: u64 = 32 * 1024;

/// It panicked; the panic's message is in the log already.
#[derive(Debug, thiserror::Error)]
#[error("it broke off")]
pub struct Panicked;

/// Does it on this thread if it is `short`, else on one of those that may block.
pub async fn done<T: Send + 'static>(short: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
    if short {
        return caught(async { work() }).await;
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| Panicked)
}

/// The same future, whose panic is an error. What it worked on is dropped then, so nobody sees it half done.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_work_alone() {
        for short in [true, false] {
            assert_eq!(done(short, || 7).await.ok(), Some(7));
            assert!(done(short, || panic!("as hostile bytes may have it")).await.is_err());
        }
    }
}
