//! Deleting the beginning of a room's history on the word of an administrator of the server. A purge is written
//! down before it begins, and goes on after a crash; each of its steps leaves a room that is whole.

use std::{sync::Arc, time::Duration};

use myelin_storage::{
    Priority, StorageError,
    history_purges::{self, Bounds, HistoryPurge},
    room_deletions::Status,
};
use ruma::{OwnedEventId, RoomId};
use tokio::sync::Notify;

use crate::{RoomError, Rooms, containment::contained, room::Room};

/// The pause after the database failed; each further one doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Up to where a history is deleted. What is named itself stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeUpTo {
    /// Up to an event.
    Event(OwnedEventId),
    /// Up to the last event made until then, in Unix milliseconds.
    Time(i64),
}

/// The purges that go on.
#[derive(Default)]
pub(crate) struct HistoryPurges {
    /// One of them has ended.
    ended: Notify,
}

impl Rooms {
    /// Begins to delete the beginning of a room's history, and answers the purge's ID. What this server's users
    /// wrote is only shown no more, unless `local_too`.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] if there is no such room or event, [`RoomError::BadState`] if everything would go,
    /// or a purge goes on in the room, [`RoomError::StillPartial`].
    pub async fn purge_history(
        &self,
        room_id: &RoomId,
        up_to: PurgeUpTo,
        local_too: bool,
    ) -> Result<String, RoomError> {
        let room = self.known_room(room_id).await?;
        if room.is_partial() {
            return Err(RoomError::StillPartial);
        }
        let purge = HistoryPurge {
            id: self.env().random.alphanumeric(16),
            room_id: room_id.to_owned(),
            depth: self.purge_depth(&room, up_to).await?,
            local_too,
            status: Status::Active,
            error: None,
        };
        let (new, nr, now_ms) = (purge.clone(), room.key.room, self.env().clock.now_ms());
        let refused = self
            .database()
            .write("purge a history", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    if history_purges::is_active_in(tx, &new.room_id).await? {
                        let room = &new.room_id;
                        return Ok(Some(format!(
                            "History purge already in progress for {room}"
                        )));
                    }
                    let deepest = history_purges::deepest_end(tx, nr).await?;
                    if deepest.is_some_and(|deepest| deepest < new.depth) {
                        let why = "topological_ordering is greater than forward extremities";
                        return Ok(Some(why.to_owned()));
                    }
                    history_purges::put(tx, &new, now_ms).await?;
                    Ok::<_, StorageError>(None)
                })
            });
        if let Some(why) = refused.await? {
            return Err(RoomError::BadState(why));
        }
        let id = purge.id.clone();
        self.go_on_purging(purge);
        Ok(id)
    }

    async fn purge_depth(&self, room: &Arc<Room>, up_to: PurgeUpTo) -> Result<i64, RoomError> {
        match up_to {
            PurgeUpTo::Event(event_id) => {
                let event = room.event_by_id(self, &event_id).await?;
                let missing = || RoomError::NotFound("Could not find event".into());
                Ok(event.ok_or_else(missing)?.pdu.depth)
            }
            PurgeUpTo::Time(at_ms) => {
                let nr = room.key.room;
                let depth = self.database().read("depth at a time", move |tx| {
                    Box::pin(async move { history_purges::depth_at(tx, nr, at_ms).await })
                });
                let missing = || RoomError::NotFound("there is no event to be purged".into());
                depth.await?.ok_or_else(missing)
            }
        }
    }

    /// A purge by its ID, for a week after it ended.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn history_purge(&self, id: &str) -> Result<Option<HistoryPurge>, StorageError> {
        let id = id.to_owned();
        let found = self.database().read("a purge", move |tx| {
            Box::pin(async move { history_purges::by_id(tx, &id).await })
        });
        found.await
    }

    /// Waits for the end of a purge. To be bounded.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn history_purge_ended(
        &self,
        id: &str,
    ) -> Result<Option<HistoryPurge>, StorageError> {
        loop {
            let ended = self.0.history_purges.ended.notified();
            match self.history_purge(id).await? {
                Some(purge) if purge.status == Status::Active => ended.await,
                ended => return Ok(ended),
            }
        }
    }

    /// Goes on with the purges that a stop or a crash interrupted.
    pub(crate) async fn resume_history_purges(&self) -> Result<(), StorageError> {
        let active = self.database().read("active purges", |tx| {
            Box::pin(async move { history_purges::active(tx).await })
        });
        for purge in active.await? {
            self.go_on_purging(purge);
        }
        Ok(())
    }

    fn go_on_purging(&self, mut purge: HistoryPurge) {
        let rooms = self.clone();
        drop(self.env().tasks.spawn("purge a history", async move {
            let stopping = rooms.env().tasks.stopping();
            let working = async {
                let mut pause = FIRST_PAUSE;
                while let Err(error) = rooms.try_to_purge(&mut purge).await {
                    tracing::error!(room = %purge.room_id, %error, "a purge is interrupted");
                    rooms.env().clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            };
            Box::pin(stopping.run_until_cancelled(working)).await;
        }));
    }

    /// Errors are those after which it may go better the next time.
    async fn try_to_purge(&self, purge: &mut HistoryPurge) -> Result<(), StorageError> {
        purge.status = Status::Complete;
        match contained("purge a history", self.purge_all(purge)).await {
            Ok(()) => {}
            Err(error) if !error.is_lasting() => return Err(error),
            Err(error) => {
                tracing::error!(room = %purge.room_id, %error, "the history is not purged");
                purge.status = Status::Failed;
                purge.error = Some(error.to_string());
            }
        }
        let (ended, now_ms) = (purge.clone(), self.env().clock.now_ms());
        let done = self
            .database()
            .write("a history is purged", Priority::Bulk, move |tx| {
                Box::pin(async move { history_purges::finish(tx, &ended, now_ms).await })
            });
        let done: Result<(), StorageError> = done.await;
        self.0.history_purges.ended.notify_waiters();
        done
    }

    async fn purge_all(&self, purge: &HistoryPurge) -> Result<(), StorageError> {
        let bounds = Bounds {
            depth: purge.depth,
            except_of: (!purge.local_too).then(|| self.server_name().to_owned()),
        };
        // A room that is deleted meanwhile has no history left.
        while let Some(room) = self.room(&purge.room_id).await? {
            if room.has_ended() || self.purge_some(&room, bounds.clone()).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// In the room's turn: nobody decides about an event over what is taken away.
    async fn purge_some(&self, room: &Arc<Room>, bounds: Bounds) -> Result<usize, StorageError> {
        let mut turn = room.turn.clone().lock_owned().await;
        *turn = None;
        let key = room.key.clone();
        let purged = self
            .database()
            .write("purge a history", Priority::Bulk, move |tx| {
                Box::pin(async move { history_purges::purge_some(tx, &key, &bounds).await })
            });
        let purged = purged.await;
        room.forget_events();
        purged
    }
}
