//! Rooms that administrators want no user of this server to come into.

use myelin_core::{key_table::MEMBER, state::Membership};
use myelin_storage::{Priority, StorageError, blocked_rooms};
use ruma::{OwnedUserId, RoomId, UserId};

use crate::{RoomError, Rooms, new_event::NewEvent, send::membership};

impl Rooms {
    /// Blocks a room, known here or not: nobody joins it, knocks upon it or is invited to it any more, of
    /// this server's users or by them. Who is in it stays.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub async fn block(&self, room_id: &RoomId, by: &UserId) -> Result<(), RoomError> {
        let (room_id, by) = (room_id.to_owned(), by.to_owned());
        let done = self
            .database()
            .write("block a room", Priority::Interactive, move |tx| {
                Box::pin(async move { blocked_rooms::block(tx, &room_id, &by).await })
            });
        Ok(done.await?)
    }

    /// Blocks a room no longer.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub async fn unblock(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let room_id = room_id.to_owned();
        let done = self
            .database()
            .write("unblock a room", Priority::Interactive, move |tx| {
                Box::pin(async move { blocked_rooms::unblock(tx, &room_id).await })
            });
        Ok(done.await?)
    }

    /// Who blocked a room, if anybody did.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn blocked_by(&self, room_id: &RoomId) -> Result<Option<OwnedUserId>, StorageError> {
        let room_id = room_id.to_owned();
        let found = self.database().look_up("who blocked a room", move |tx| {
            Box::pin(async move { blocked_rooms::blocked_by(tx, &room_id).await })
        });
        found.await
    }

    /// # Errors
    /// [`RoomError::Forbidden`] if the room is blocked.
    pub(crate) async fn must_not_be_blocked(&self, room_id: &RoomId) -> Result<(), RoomError> {
        match self.blocked_by(room_id).await? {
            None => Ok(()),
            Some(_) => Err(RoomError::Forbidden(
                "This room has been blocked on this server".into(),
            )),
        }
    }

    /// Refuses an event that would bring somebody nearer to a room that is blocked.
    pub(crate) async fn check_blocked(
        &self,
        room_id: &RoomId,
        event: &NewEvent,
    ) -> Result<(), RoomError> {
        if event.event_type != MEMBER {
            return Ok(());
        }
        match membership(&event.content) {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => {
                self.must_not_be_blocked(room_id).await
            }
            _ => Ok(()),
        }
    }
}
