//! Notes that others leave in the database of work that concerns rooms: worked through in the background, when
//! a new one is announced and when the server starts.

use std::time::Duration;

use myelin_storage::{BoxFuture, StorageError};
use tokio::sync::Notify;

use crate::{Rooms, containment::contained};

/// How many notes are read together.
pub(crate) const READ_TOGETHER: usize = 100;

/// The pause after a failure; each further one doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

impl Rooms {
    /// Goes through all notes of a kind now and whenever there is news, as a task. A round that fails is
    /// repeated after a pause.
    pub(crate) fn work_through_notes(
        &self,
        name: &'static str,
        news: fn(&Self) -> &Notify,
        round: for<'r> fn(&'r Self) -> BoxFuture<'r, Result<(), StorageError>>,
    ) {
        let rooms = self.clone();
        drop(self.env().tasks.spawn(name, async move {
            let stopping = rooms.env().tasks.stopping();
            let working = async {
                let mut pause = FIRST_PAUSE;
                loop {
                    let news = news(&rooms).notified();
                    match contained(name, round(&rooms)).await {
                        Ok(()) => {
                            pause = FIRST_PAUSE;
                            news.await;
                        }
                        Err(error) => {
                            tracing::error!(name, %error, "a round failed; it will be repeated");
                            if rooms.env().clock.timeout(pause, news).await.is_ok() {
                                tracing::debug!(name, "there was news before the pause ended");
                            }
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                    }
                }
            };
            stopping.run_until_cancelled(working).await;
        }));
    }
}
