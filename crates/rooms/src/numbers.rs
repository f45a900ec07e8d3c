//! Numbers and negative positions, given out in process.

use std::sync::atomic::{AtomicI64, Ordering};

use myelin_core::number::{EventNr, RoomNr, SnapshotNr, StreamPosition};
use myelin_storage::{Database, StorageError, events, rooms, snapshots, staged};

/// Where each numbering stands.
#[derive(Debug)]
pub(crate) struct Numbers {
    event: AtomicI64,
    room: AtomicI64,
    snapshot: AtomicI64,
    staged: AtomicI64,
    backfilled: AtomicI64,
}

impl Numbers {
    /// Goes on where the database ends. Also tells the last position of the event stream.
    pub(crate) async fn load(db: &Database) -> Result<(Self, StreamPosition), StorageError> {
        db.read("load numbers", |tx| {
            Box::pin(async move {
                let last = events::last_numbers(tx).await?;
                let numbers = Self {
                    event: AtomicI64::new(last.event),
                    room: AtomicI64::new(rooms::last_number(tx).await?),
                    snapshot: AtomicI64::new(snapshots::last_number(tx).await?),
                    staged: AtomicI64::new(staged::last_number(tx).await?),
                    backfilled: AtomicI64::new(last.backfilled),
                };
                let position = last.position.max(rooms::last_state_position(tx).await?);
                Ok((numbers, StreamPosition(position)))
            })
        })
        .await
    }

    pub(crate) fn event(&self) -> EventNr {
        EventNr(next(&self.event))
    }

    pub(crate) fn room(&self) -> RoomNr {
        RoomNr(next(&self.room))
    }

    pub(crate) fn snapshot(&self) -> SnapshotNr {
        SnapshotNr(next(&self.snapshot))
    }

    pub(crate) fn staged(&self) -> i64 {
        next(&self.staged)
    }

    /// A position below all others: history goes backwards.
    pub(crate) fn backfilled(&self) -> StreamPosition {
        StreamPosition(self.backfilled.fetch_sub(1, Ordering::Relaxed) - 1)
    }
}

fn next(counter: &AtomicI64) -> i64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}
