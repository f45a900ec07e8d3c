//! Stream positions: given out in process, readable once everything below them is finished.
//!
//! PostgreSQL commits out of order. A reader that went up to the highest position it can see would
//! pass over an event that commits a moment later, and `/sync` would lose it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use myelin_core::number::StreamPosition;
use tokio::sync::watch;

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<Positions>,
    readable: watch::Sender<StreamPosition>,
}

#[derive(Debug)]
struct Positions {
    last: i64,
    unfinished: BTreeSet<i64>,
}

/// Positions that were given out. When it is dropped, after the commit or the failure to commit,
/// they count as finished.
#[derive(Debug)]
pub struct Allocation {
    stream: Stream,
    first: i64,
    count: i64,
}

impl Stream {
    /// A stream that goes on after `last`.
    pub fn new(last: StreamPosition) -> Self {
        let positions = Positions {
            last: last.0,
            unfinished: BTreeSet::new(),
        };
        let (readable, _) = watch::channel(last);
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(positions),
                readable,
            }),
        }
    }

    /// Gives out `count` positions.
    pub fn allocate(&self, count: usize) -> Allocation {
        let count = count as i64;
        let mut positions = self
            .inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let first = positions.last + 1;
        positions.last += count;
        if count > 0 {
            positions.unfinished.insert(first);
        }
        Allocation {
            stream: self.clone(),
            first,
            count,
        }
    }

    /// The highest position below which everything is finished.
    pub fn readable(&self) -> StreamPosition {
        *self.inner.readable.borrow()
    }

    /// Follows [`Stream::readable`].
    pub fn listen(&self) -> watch::Receiver<StreamPosition> {
        self.inner.readable.subscribe()
    }
}

impl Allocation {
    /// The position before the first.
    pub fn before(&self) -> StreamPosition {
        StreamPosition(self.first - 1)
    }

    /// The positions, ascending.
    pub fn positions(&self) -> impl Iterator<Item = StreamPosition> + use<> {
        (self.first..self.first + self.count).map(StreamPosition)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Its first position is the next one's.
        if self.count == 0 {
            return;
        }
        let inner = &self.stream.inner;
        let mut positions = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        positions.unfinished.remove(&self.first);
        let end = positions
            .unfinished
            .first()
            .map_or(positions.last, |first| first - 1);
        inner.readable.send_if_modified(|readable| {
            let moved = readable.0 < end;
            readable.0 = readable.0.max(end);
            moved
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;
    use myelin_core::number::StreamPosition;

    #[test]
    fn a_position_is_readable_only_when_all_below_are_finished() {
        let stream = Stream::new(StreamPosition(10));
        let first = stream.allocate(2);
        let second = stream.allocate(1);
        assert_eq!(second.positions().collect::<Vec<_>>(), [StreamPosition(13)]);
        drop(second);
        assert_eq!(stream.readable(), StreamPosition(10));
        drop(first);
        assert_eq!(stream.readable(), StreamPosition(13));
    }

    #[test]
    fn an_empty_allocation_holds_nothing_up() {
        let stream = Stream::new(StreamPosition(0));
        let none = stream.allocate(0);
        drop(stream.allocate(1));
        assert_eq!(stream.readable(), StreamPosition(1));
        drop(none);
        assert_eq!(stream.readable(), StreamPosition(1));
    }

    #[test]
    fn an_empty_allocation_finishes_nothing_of_the_next_one() {
        let stream = Stream::new(StreamPosition(0));
        let none = stream.allocate(0);
        let one = stream.allocate(1);
        drop(none);
        assert_eq!(stream.readable(), StreamPosition(0));
        drop(one);
        assert_eq!(stream.readable(), StreamPosition(1));
    }
}
