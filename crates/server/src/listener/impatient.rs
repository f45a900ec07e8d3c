//! A stream that is given up when the other side keeps it for nothing.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use myelin_env::{Clock, Sleep};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As long as HTTP/2's preface, before which the HTTP library does not know what is spoken, and waits for ever.
const OPENING: usize = 24;

/// The opening has to arrive within this time.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);

/// What is written has to be read, a part of it each time, within this time.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

/// A stream whose other side has to open the conversation, and to read what it is told, in time.
pub(super) struct Impatient<S> {
    stream: S,
    clock: Clock,
    opening: Option<Opening>,
    /// While nothing more can be written.
    unread: Option<Sleep>,
}

struct Opening {
    missing: usize,
    deadline: Sleep,
}

impl<S> Impatient<S> {
    pub(super) fn new(stream: S, clock: Clock) -> Self {
        let opening = Opening {
            missing: OPENING,
            deadline: clock.sleep(OPENING_TIMEOUT),
        };
        Self {
            stream,
            clock,
            opening: Some(opening),
            unread: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Impatient<S> {
    fn read_in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), context) {
            self.unread = None;
            return Poll::Ready(written);
        }
        let begin = || self.clock.sleep(UNREAD_TIMEOUT);
        ready!(Pin::new(self.unread.get_or_insert_with(begin)).poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(opening) = &mut self.opening else {
            return read;
        };
        opening.missing = opening
            .missing
            .saturating_sub(buffer.filled().len() - before);
        if opening.missing == 0 {
            self.opening = None;
        } else if read.is_pending() {
            ready!(Pin::new(&mut opening.deadline).poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.read_in_time(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read_in_time(context, |stream, context| {
            stream.poll_write_vectored(context, parts)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_in_time(context, S::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_in_time(context, S::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Both ends of a stream that holds so many bytes, and its clock.
    fn stream(bytes: usize) -> (Impatient<DuplexStream>, DuplexStream, Clock) {
        let clock = Clock::manual(0);
        let (here, there) = duplex(bytes);
        (Impatient::new(here, clock.clone()), there, clock)
    }

    /// What comes of it at once, if anything does.
    async fn at_once<T>(work: impl Future<Output = io::Result<T>>) -> Option<io::Result<T>> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            Poll::Ready(match work.as_mut().poll(context) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        })
        .await
    }

    fn timed_out<T>(done: Option<io::Result<T>>) -> bool {
        done.is_some_and(|done| done.is_err_and(|why| why.kind() == io::ErrorKind::TimedOut))
    }

    #[tokio::test]
    async fn an_opening_that_comes_byte_by_byte_has_one_deadline() {
        let (mut here, mut there, clock) = stream(64);
        let mut buffer = [0; 64];
        for byte in &b"PRI * HTTP/2.0\r\n"[..] {
            there.write_all(&[*byte]).await.unwrap();
            assert!(matches!(at_once(here.read(&mut buffer)).await, Some(Ok(1))));
            clock.advance(SECOND);
        }
        assert!(at_once(here.read(&mut buffer)).await.is_none());
        clock.advance(OPENING_TIMEOUT - 16 * SECOND);
        assert!(timed_out(at_once(here.read(&mut buffer)).await));
    }

    #[tokio::test]
    async fn who_has_opened_may_be_silent() {
        let (mut here, mut there, clock) = stream(64);
        there.write_all(&[b'.'; OPENING]).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(here.read(&mut buffer).await.unwrap(), OPENING);
        clock.advance(OPENING_TIMEOUT * 2);
        assert!(at_once(here.read(&mut buffer)).await.is_none());
    }

    #[tokio::test]
    async fn who_reads_a_little_each_time_is_waited_for_and_who_stops_is_not() {
        let (mut here, mut there, clock) = stream(8);
        let mut buffer = [0; 2];
        here.write_all(&[b'.'; 8]).await.unwrap();
        for _ in 0..3 {
            assert!(at_once(here.write(b"..")).await.is_none());
            clock.advance(UNREAD_TIMEOUT - SECOND);
            assert!(at_once(here.write(b"..")).await.is_none());
            there.read_exact(&mut buffer).await.unwrap();
            assert!(matches!(at_once(here.write(b"..")).await, Some(Ok(2))));
        }
        assert!(at_once(here.write(b"..")).await.is_none());
        clock.advance(UNREAD_TIMEOUT);
        assert!(timed_out(at_once(here.write(b"..")).await));
    }
}
