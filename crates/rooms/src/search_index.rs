//! Keeps the index of words that events are found by (client-server API, "Server Side Search"). It follows the
//! stream of events from a durable cursor: nobody who sends waits for it, and what was held before there was an
//! index is gone through like anything else.

use myelin_core::number::StreamPosition;
use myelin_storage::{Priority, StorageError, search_index};

use crate::Rooms;

/// How many events are looked at in one transaction.
const LOOKED_AT_TOGETHER: usize = 200;

/// What the work is called.
pub(crate) const NAME: &str = "index words";

impl Rooms {
    /// Waits until all events that can be read by now can be found, or for two seconds.
    pub async fn wait_for_search_index(&self) {
        self.0.search_index.catch_up(self).await;
    }

    /// Keeps the index from now on.
    pub(crate) fn start_search_index(&self) {
        self.follow_stream(
            |rooms| &rooms.0.search_index,
            |rooms, upto| Box::pin(rooms.index_words(upto)),
        );
    }

    /// Looks at all events up to a position, and those from the past. What is read and taken apart holds up
    /// no writer.
    async fn index_words(&self, upto: StreamPosition) -> Result<(), StorageError> {
        loop {
            let page = self.database().read("unseen events", move |tx| {
                Box::pin(async move { search_index::unseen(tx, upto, LOOKED_AT_TOGETHER).await })
            });
            let Some(page) = page.await? else {
                return Ok(());
            };
            self.database()
                .write(NAME, Priority::Bulk, move |tx| {
                    Box::pin(async move { search_index::note(tx, &page).await })
                })
                .await?;
        }
    }
}
