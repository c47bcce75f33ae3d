//! A client's socket, in the clear or under TLS, read without a buffer of its own: thousands of idle sessions hold none.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Bytes taken from a socket at once, on the stack.
pub const READ_BYTES: usize = 16 * 1024;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Taken for a handshake, or gone with it.
    Gone,
}

impl Stream {
    /// Waits for bytes and hands them to `take`, at most `most` of them; the result is their number, 0 at the end of the stream. Nothing is lost if the
    /// future is dropped.
    pub async fn read_into(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        poll_fn(|cx| self.poll_into(cx, most, &mut take)).await
    }

    /// The same without waiting: `None` if there is nothing yet.
    pub fn read_now(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> Option<io::Result<usize>> {
        if let Stream::Plain(socket) = self {
            // Past the runtime's idea of readiness, which may be older than what has come.
            let mut bytes = [0; READ_BYTES];
            let room = &mut bytes[..most.min(READ_BYTES)];
            return match recv(socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Ok(read) => {
                    take(&bytes[..read]);
                    Some(Ok(read))
                }
                Err(Errno::EAGAIN | Errno::EINTR) => None,
                Err(error) => Some(Err(error.into())),
            };
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_into(&mut cx, most, &mut take) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: &mut impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [std::mem::MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes[..most.min(READ_BYTES)]);
        ready!(Pin::new(&mut *self).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if !read.is_empty() {
            take(read);
        }
        Poll::Ready(Ok(read.len()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}
