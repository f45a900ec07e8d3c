//! One direction of a connection.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use myelin_env::{Moment, Sleep};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Fabric;

/// What was written and not read yet.
pub(super) struct Pipe {
    fabric: Fabric,
    number: u64,
    hosts: [IpAddr; 2],
    names: [String; 2],
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By when it arrives.
    chunks: VecDeque<(Moment, Vec<u8>)>,
    /// Until when the way is busy: nothing overtakes.
    busy_until: Option<Moment>,
    /// The writer has ended.
    is_finished: bool,
    /// The reader has gone.
    is_abandoned: bool,
    is_reset: bool,
    is_stalled: bool,
    reader: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(fabric: &Fabric, number: u64, hosts: [IpAddr; 2]) -> Self {
        Self {
            fabric: fabric.clone(),
            number,
            hosts,
            names: hosts.map(|host| host.to_string()),
            inner: Mutex::default(),
        }
    }

    /// Breaks it: whatever is under way is lost, and both ends are told.
    pub(super) fn reset(&self) {
        let mut inner = self.lock();
        inner.is_reset = true;
        inner.chunks.clear();
        let reader = inner.reader.take();
        drop(inner);
        wake(reader);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.lock().is_stalled
    }

    /// Lets nothing through, or again what waits and what comes.
    pub(super) fn stall(&self, stalled: bool) {
        let mut inner = self.lock();
        inner.is_stalled = stalled;
        let reader = inner.reader.take();
        drop(inner);
        wake(reader);
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let fabric = &self.fabric.0;
        let is_broken = {
            let inner = self.lock();
            inner.is_reset || inner.is_abandoned
        };
        if is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let [from, to] = &self.names;
        fabric.trace.message(from, to, bytes);
        if self.fabric.breaks() {
            fabric.trace.note("broken");
            fabric.trace.count("fault: broken connection");
            self.fabric.reset(self.number);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let arrives = fabric.clock.instant() + self.fabric.latency(self.hosts);
        let mut inner = self.lock();
        let arrives = inner.busy_until.map_or(arrives, |busy| busy.max(arrives));
        inner.busy_until = Some(arrives);
        inner.chunks.push_back((arrives, bytes.to_vec()));
        let reader = inner.reader.take();
        drop(inner);
        wake(reader);
        self.fabric.speak(self.hosts[0]);
        Ok(bytes.len())
    }

    /// Says how far reading is, and fills `buffer` if something has arrived. Until when to wait is left in
    /// `sleep`.
    fn read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        sleep: &mut Option<Sleep>,
    ) -> Poll<io::Result<()>> {
        let clock = &self.fabric.0.clock;
        loop {
            let mut inner = self.lock();
            if inner.is_reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            inner.reader = Some(context.waker().clone());
            if inner.is_stalled {
                return Poll::Pending;
            }
            let now = clock.instant();
            let Some((arrives, bytes)) = inner.chunks.front_mut() else {
                return match inner.is_finished {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                };
            };
            if *arrives <= now {
                let length = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..length]);
                bytes.drain(..length);
                if bytes.is_empty() {
                    inner.chunks.pop_front();
                }
                *sleep = None;
                return Poll::Ready(Ok(()));
            }
            let wait = arrives.since(now);
            drop(inner);
            let until = sleep.insert(clock.sleep(wait));
            if Pin::new(until).poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn finish(&self) {
        let mut inner = self.lock();
        inner.is_finished = true;
        let reader = inner.reader.take();
        drop(inner);
        wake(reader);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(reader: Option<Waker>) {
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// One end of a connection.
pub(super) struct End {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    sleep: Option<Sleep>,
}

impl End {
    pub(super) fn new(incoming: Arc<Pipe>, outgoing: Arc<Pipe>) -> Self {
        Self {
            incoming,
            outgoing,
            sleep: None,
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.incoming.read(context, buffer, &mut this.sleep)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.outgoing.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.outgoing.finish();
        self.incoming.lock().is_abandoned = true;
        if self.outgoing.lock().is_abandoned {
            self.incoming.fabric.forget(self.incoming.number);
        }
    }
}
