//! Deleting rooms on the word of an administrator of the server: who is in them is put out (`shutdown`), and
//! then the room is taken out of the database (`storage/purge.rs`).
//!
//! What is wanted is written down before anything is done, and what was done of it beside it: after a crash a
//! deletion goes on.

use std::{sync::Arc, time::Duration};

use myelin_storage::{
    Priority, StorageError, outbox, purge,
    room_deletions::{self, RoomDeletion, Status},
};
use ruma::{OwnedRoomId, RoomId};
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    RoomError, Rooms,
    containment::contained,
    room::Room,
    shutdown::{DeleteRoom, ShutDown},
};

/// How many rooms are deleted at the same time.
const PARALLEL_DELETIONS: usize = 2;

/// The pause after the database failed; each further one doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How long other servers are waited for that are to hear that our users have left. Who does not answer in
/// that time never will hear it.
const LONGEST_FAREWELL: Duration = Duration::from_secs(30);

/// How long those are waited for who read the room at the moment. What they find missing later is an error.
const LONGEST_USE: Duration = Duration::from_secs(30);

/// How long what they may have written is looked for in the end. After that the next start does it.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// A deletion, under way or over.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Its ID.
    pub id: String,
    /// The room.
    pub room_id: OwnedRoomId,
    /// How far it is.
    pub status: Status,
    /// What became of our users in the room.
    pub shutdown: ShutDown,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is worked on.
struct Work {
    record: RoomDeletion,
    wish: DeleteRoom,
    shutdown: ShutDown,
}

impl TryFrom<RoomDeletion> for Work {
    type Error = StorageError;

    fn try_from(record: RoomDeletion) -> Result<Self, StorageError> {
        Ok(Self {
            wish: read(&record.wish)?,
            shutdown: read(&record.outcome)?,
            record,
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(stored: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(stored)
        .map_err(|error| StorageError::Corrupt(format!("the deletion of a room: {error}")))
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    // Structures of strings can be written.
    serde_json::to_vec(value).expect("JSON")
}

/// The deletions that go on.
pub(crate) struct Deletions {
    permits: Semaphore,
    /// One of them has ended.
    ended: Notify,
}

impl Default for Deletions {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(PARALLEL_DELETIONS),
            ended: Notify::new(),
        }
    }
}

impl Rooms {
    /// Begins to delete a room, known here or not, and answers the deletion's ID. `None` if it is being deleted
    /// already.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn delete_room(
        &self,
        room_id: &RoomId,
        wish: DeleteRoom,
    ) -> Result<Option<String>, StorageError> {
        let shutdown = ShutDown::default();
        let record = RoomDeletion {
            id: self.env().random.alphanumeric(16),
            room_id: room_id.to_owned(),
            status: Status::Active,
            wish: written(&wish),
            outcome: written(&shutdown),
            error: None,
            remains: None,
        };
        let (new, now_ms) = (record.clone(), self.env().clock.now_ms());
        let begun = self
            .database()
            .write("delete a room", Priority::Interactive, move |tx| {
                Box::pin(async move { room_deletions::put(tx, &new, now_ms).await })
            });
        let begun: Result<bool, StorageError> = begun.await;
        if !begun? {
            return Ok(None);
        }
        let id = record.id.clone();
        self.carry_out(Work {
            record,
            wish,
            shutdown,
        });
        Ok(Some(id))
    }

    /// A deletion by its ID, for a week after it ended.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn deletion(&self, id: &str) -> Result<Option<Deletion>, StorageError> {
        let id = id.to_owned();
        let found = self.database().read("a deletion", move |tx| {
            Box::pin(async move { room_deletions::by_id(tx, &id).await })
        });
        found.await?.map(shown).transpose()
    }

    /// Waits for the end of a deletion. To be bounded.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn deletion_ended(&self, id: &str) -> Result<Option<Deletion>, StorageError> {
        loop {
            let ended = self.0.deletions.ended.notified();
            match self.deletion(id).await? {
                Some(deletion) if deletion.status == Status::Active => ended.await,
                ended => return Ok(ended),
            }
        }
    }

    /// The deletions of a room, oldest first, for a week after they ended.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn deletions_of(&self, room_id: &RoomId) -> Result<Vec<Deletion>, StorageError> {
        let room_id = room_id.to_owned();
        let found = self.database().read("deletions of a room", move |tx| {
            Box::pin(async move { room_deletions::of_room(tx, &room_id).await })
        });
        found.await?.into_iter().map(shown).collect()
    }

    /// Goes on with the deletions that a stop or a crash interrupted.
    pub(crate) async fn resume_deletions(&self) -> Result<(), StorageError> {
        let unfinished = self.database().read("unfinished deletions", |tx| {
            Box::pin(async move { room_deletions::unfinished(tx).await })
        });
        for record in unfinished.await? {
            self.carry_out(record.try_into()?);
        }
        Ok(())
    }

    /// Does what is wanted, as a task. If the database fails it is tried again.
    fn carry_out(&self, mut work: Work) {
        let rooms = self.clone();
        drop(self.env().tasks.spawn("delete a room", async move {
            let stopping = rooms.env().tasks.stopping();
            let working = async {
                let mut pause = FIRST_PAUSE;
                while let Err(error) = rooms.try_to_delete(&mut work).await {
                    tracing::error!(room = %work.record.room_id, %error, "a deletion is interrupted");
                    rooms.env().clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            };
            Box::pin(stopping.run_until_cancelled(working)).await;
        }));
    }

    /// Errors are those after which it may go better the next time.
    async fn try_to_delete(&self, work: &mut Work) -> Result<(), StorageError> {
        // Never closed.
        let _permit = self.0.deletions.permits.acquire().await.ok();
        match contained("delete a room", self.go_on_deleting(work)).await {
            Ok(()) => Ok(()),
            Err(RoomError::Storage(error)) if !error.is_lasting() => Err(error),
            Err(error) => {
                tracing::error!(room = %work.record.room_id, %error, "the room is not deleted");
                work.record.error = Some(error.to_string());
                self.end_deletion(work, Status::Failed).await
            }
        }
    }

    async fn go_on_deleting(&self, work: &mut Work) -> Result<(), RoomError> {
        let mut in_use = None;
        if work.record.remains.is_none() {
            self.shut_down(work).await?;
            if work.wish.purge {
                in_use = self.detach(work).await?;
            }
        }
        self.sweep(work).await?;
        if work.record.status == Status::Active {
            self.end_deletion(work, Status::Complete).await?;
        }
        if let Some(mut in_use) = in_use {
            let unused = async { while in_use.changed().await.is_ok() {} };
            let waited = self.env().clock.timeout(LONGEST_REST, unused).await;
            if waited.is_err() {
                return Ok(());
            }
            self.sweep(work).await?;
        }
        self.nothing_remains(work).await.map_err(Into::into)
    }

    /// Puts our users out, and notes now and then who is.
    async fn shut_down(&self, work: &mut Work) -> Result<(), RoomError> {
        let Work {
            record,
            wish,
            shutdown,
        } = work;
        let room_id = &record.room_id;
        if wish.block {
            self.block(room_id, &wish.requester).await?;
        }
        let Some(room) = self.room(room_id).await? else {
            return Ok(());
        };
        self.open_replacement(wish, shutdown).await?;
        loop {
            let is_done = self.put_some_out(&room, shutdown).await?;
            let (id, outcome) = (record.id.clone(), written(shutdown));
            let noted = self
                .database()
                .write("who is put out", Priority::Bulk, move |tx| {
                    Box::pin(async move { room_deletions::set_outcome(tx, &id, &outcome).await })
                });
            noted.await.map_err(RoomError::Storage)?;
            if is_done {
                break;
            }
        }
        self.furnish_replacement((&record.id, room_id), wish, shutdown)
            .await
    }

    /// Makes the room unknown. If others still read it after a time, who gets the answer can wait for their end.
    async fn detach(&self, work: &mut Work) -> Result<Option<watch::Receiver<bool>>, RoomError> {
        let Some(room) = self.room(&work.record.room_id).await? else {
            return Ok(None);
        };
        if room.has_server(self.server_name()) && !work.wish.force_purge {
            let why = "Users are still joined to this room";
            return Err(RoomError::BadState(why.to_owned()));
        }
        let nr = room.key.room;
        let last = self
            .database()
            .read("last of a room to be sent", move |tx| {
                Box::pin(async move { outbox::last_of_room(tx, nr).await })
            });
        if let Some(last) = last.await? {
            let sent = self.outgoing().have_got(last);
            if self
                .env()
                .clock
                .timeout(LONGEST_FAREWELL, sent)
                .await
                .is_err()
            {
                tracing::info!(room = %room.key.room_id, "not all servers hear who has left");
            }
        }
        loop {
            let room_id = room.key.room_id.clone();
            let more = self
                .database()
                .write("prepare a purge", Priority::Bulk, move |tx| {
                    Box::pin(async move { purge::prepare_some(tx, &room_id).await })
                });
            let more: Result<bool, StorageError> = more.await;
            if !more? {
                break;
            }
        }
        self.make_unknown(&room, work).await?;
        let mut in_use = room.watch_partial();
        drop(room);
        let unused = async { while in_use.changed().await.is_ok() {} };
        let waited = self.env().clock.timeout(LONGEST_USE, unused).await;
        Ok(waited.is_err().then_some(in_use))
    }

    /// In the room's turn: whatever was begun before is written, and nothing is afterwards.
    async fn make_unknown(&self, room: &Arc<Room>, work: &mut Work) -> Result<(), StorageError> {
        let mut turn = room.turn.clone().lock_owned().await;
        *turn = None;
        let (key, id) = (room.key.clone(), work.record.id.clone());
        let done = self
            .database()
            .write("detach a room", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    purge::detach(tx, key.room, &key.room_id).await?;
                    room_deletions::set_remains(tx, &id, Some(key.room)).await
                })
            });
        let done: Result<(), StorageError> = done.await;
        done?;
        work.record.remains = Some(room.key.room);
        room.end();
        self.use_no_more(room);
        Ok(())
    }

    /// Deletes what is left of the room.
    async fn sweep(&self, work: &Work) -> Result<(), StorageError> {
        let Some(nr) = work.record.remains else {
            return Ok(());
        };
        loop {
            let more = self
                .database()
                .write("purge a room", Priority::Bulk, move |tx| {
                    Box::pin(async move { purge::delete_some(tx, nr).await })
                });
            let more: Result<bool, StorageError> = more.await;
            if !more? {
                return Ok(());
            }
        }
    }

    async fn nothing_remains(&self, work: &mut Work) -> Result<(), StorageError> {
        if work.record.remains.take().is_none() {
            return Ok(());
        }
        let id = work.record.id.clone();
        let done = self
            .database()
            .write("a room is purged", Priority::Bulk, move |tx| {
                Box::pin(async move { room_deletions::set_remains(tx, &id, None).await })
            });
        done.await
    }

    async fn end_deletion(&self, work: &mut Work, status: Status) -> Result<(), StorageError> {
        work.record.status = status;
        work.record.outcome = written(&work.shutdown);
        let (ended, now_ms) = (work.record.clone(), self.env().clock.now_ms());
        let done = self
            .database()
            .write("a room is deleted", Priority::Bulk, move |tx| {
                Box::pin(async move { room_deletions::finish(tx, &ended, now_ms).await })
            });
        let done: Result<(), StorageError> = done.await;
        self.0.deletions.ended.notify_waiters();
        done
    }
}

fn shown(record: RoomDeletion) -> Result<Deletion, StorageError> {
    Ok(Deletion {
        shutdown: read(&record.outcome)?,
        id: record.id,
        room_id: record.room_id,
        status: record.status,
        error: record.error,
    })
}
