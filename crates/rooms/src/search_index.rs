//! Keeps the index of words that events are found by (client-server API, "Server Side Search"). It follows the
//! stream of events from a durable cursor, in the background: nobody who sends waits for it, and what was held
//! before there was an index is gone through like anything else.
//!
//! It gets to work when many events wait, or when somebody searches: that needs no clock, and a quiet server
//! writes nothing.

use std::time::Duration;

use futures_util::future::{Either, select};
use myelin_core::number::StreamPosition;
use myelin_storage::{Priority, StorageError, search_index};
use tokio::sync::watch;

use crate::{Rooms, containment::contained};

/// How many events are looked at in one transaction.
const LOOKED_AT_TOGETHER: usize = 200;

/// From how many new positions on the index is brought up to date though nobody searches.
const MANY: i64 = 500;

/// How long a search waits for the index. After that it finds what is there.
const WAIT: Duration = Duration::from_secs(2);

/// The pause after a failure; each further one doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

const NAME: &str = "index words";

/// Who asked for the index to be up to date, and who was answered.
pub(crate) struct SearchIndex {
    /// Counts the requests.
    asked: watch::Sender<u64>,
    /// Up to which of them all was looked at that was there when it came.
    done: watch::Sender<Option<u64>>,
}

impl Default for SearchIndex {
    fn default() -> Self {
        Self {
            asked: watch::Sender::new(0),
            done: watch::Sender::new(None),
        }
    }
}

impl Rooms {
    /// Waits until all events that can be read by now can be found, or for two seconds.
    pub async fn wait_for_search_index(&self) {
        let index = &self.0.search_index;
        let mut done = index.done.subscribe();
        let mut number = 0;
        index.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let is_done = done.wait_for(|done| done.is_some_and(|done| done >= number));
        if self.env().clock.timeout(WAIT, is_done).await.is_err() {
            tracing::info!("a search found the index behind");
        }
    }

    /// Keeps the index from now on.
    pub(crate) fn start_search_index(&self) {
        let rooms = self.clone();
        drop(self.env().tasks.spawn(NAME, async move {
            let stopping = rooms.env().tasks.stopping();
            stopping
                .run_until_cancelled(rooms.keep_search_index())
                .await;
        }));
    }

    async fn keep_search_index(&self) {
        let mut asked = self.0.search_index.asked.subscribe();
        let mut stream = self.events_stream().listen();
        let mut pause = FIRST_PAUSE;
        loop {
            let number = *asked.borrow_and_update();
            let upto = self.events_stream().readable();
            match contained(NAME, self.index_words(upto)).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.0.search_index.done.send_replace(Some(number));
                    let many = stream.wait_for(|readable| readable.0 >= upto.0 + MANY);
                    match select(Box::pin(asked.changed()), Box::pin(many)).await {
                        Either::Left((Ok(()), _)) | Either::Right((Ok(_), _)) => {}
                        // Nobody is left who could ask.
                        Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => return,
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "words were not indexed; it will be tried again");
                    self.env().clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
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
