//! Work that follows the stream of events in the background, and that nobody waits for but who asks for what it
//! makes.
//!
//! It is done when many events wait, or when somebody asks: that needs no clock, and a quiet server writes
//! nothing.

use std::time::Duration;

use futures_util::future::{Either, select};
use myelin_core::number::StreamPosition;
use myelin_storage::{BoxFuture, StorageError};
use tokio::sync::watch;

use crate::{Rooms, containment::contained};

/// From how many new positions on the work is done though nobody asks.
const MANY: i64 = 500;

/// How long who asks waits. After that it takes what there is.
const WAIT: Duration = Duration::from_secs(2);

/// The pause after a failure; each further one doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// One kind of work.
pub(crate) struct Follower {
    name: &'static str,
    /// Counts who asked for it.
    asked: watch::Sender<u64>,
    /// Up to which of them all was done that there was to do when it came.
    done: watch::Sender<Option<u64>>,
}

impl Follower {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            asked: watch::Sender::new(0),
            done: watch::Sender::new(None),
        }
    }

    /// Waits until the work has come to what can be read by now, or for two seconds.
    pub(crate) async fn catch_up(&self, rooms: &Rooms) {
        let mut done = self.done.subscribe();
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let is_done = done.wait_for(|done| done.is_some_and(|done| done >= number));
        if rooms.env().clock.timeout(WAIT, is_done).await.is_err() {
            tracing::info!(name = self.name, "asked for, and not done in time");
        }
    }
}

impl Rooms {
    /// Begins to follow the stream. `work` does all there is to do up to a position.
    pub(crate) fn follow_stream(
        &self,
        follower: fn(&Self) -> &Follower,
        work: for<'r> fn(&'r Self, StreamPosition) -> BoxFuture<'r, Result<(), StorageError>>,
    ) {
        let rooms = self.clone();
        let name = follower(self).name;
        drop(self.env().tasks.spawn(name, async move {
            let stopping = rooms.env().tasks.stopping();
            let following = rooms.keep_following(follower(&rooms), work);
            stopping.run_until_cancelled(following).await;
        }));
    }

    async fn keep_following(
        &self,
        follower: &Follower,
        work: for<'r> fn(&'r Self, StreamPosition) -> BoxFuture<'r, Result<(), StorageError>>,
    ) {
        let name = follower.name;
        let mut asked = follower.asked.subscribe();
        let mut stream = self.events_stream().listen();
        let mut pause = FIRST_PAUSE;
        loop {
            let number = *asked.borrow_and_update();
            let upto = self.events_stream().readable();
            match contained(name, work(self, upto)).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    follower.done.send_replace(Some(number));
                    let many = stream.wait_for(|readable| readable.0 >= upto.0 + MANY);
                    match select(Box::pin(asked.changed()), Box::pin(many)).await {
                        Either::Left((Ok(()), _)) | Either::Right((Ok(_), _)) => {}
                        // Nobody is left who could ask.
                        Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => return,
                    }
                }
                Err(error) => {
                    tracing::error!(name, %error, "failed; it will be tried again");
                    self.env().clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
