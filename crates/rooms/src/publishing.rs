//! Which rooms this server lists in its public directory (client-server API, "Published room
//! directory").

use myelin_storage::{Priority, published_rooms};
use ruma::{OwnedRoomId, RoomId, UserId};

use crate::{RoomError, Rooms, alias::CANONICAL_ALIAS};

impl Rooms {
    /// Lists a room in the public directory, or lists it no longer. Whoever may announce the room's
    /// aliases may do this, and, by `as_admin`, who administers the server.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] for an unknown room, [`RoomError::Forbidden`] for users without that
    /// power, and if the operator doesn't let users publish.
    pub async fn set_published(
        &self,
        user: &UserId,
        as_admin: bool,
        room_id: &RoomId,
        published: bool,
    ) -> Result<(), RoomError> {
        let room = self.known_room(room_id).await?;
        if !as_admin {
            if !self.may_set_state(&room, user, CANONICAL_ALIAS).await? {
                return Err(RoomError::Forbidden(
                    "only who may announce the room's aliases can change this".into(),
                ));
            }
            if published {
                self.check_may_publish()?;
            }
        }
        let nr = room.key.room;
        self.database()
            .write("publish a room", Priority::Interactive, move |tx| {
                Box::pin(async move { published_rooms::set(tx, nr, published).await })
            })
            .await?;
        Ok(())
    }

    /// Whether a room stands in the public directory.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] for an unknown room.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let nr = self.known_room(room_id).await?.key.room;
        let published = self
            .database()
            .look_up("is a room published", move |tx| {
                Box::pin(async move { published_rooms::contains(tx, nr).await })
            })
            .await?;
        Ok(published)
    }

    /// The rooms of the public directory.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn published(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        let published = self.database().look_up("published rooms", |tx| {
            Box::pin(async move { published_rooms::all(tx).await })
        });
        Ok(published.await?)
    }

    /// # Errors
    /// [`RoomError::Forbidden`] if the operator doesn't let users publish rooms.
    pub(crate) fn check_may_publish(&self) -> Result<(), RoomError> {
        match self.config().allow_publishing {
            true => Ok(()),
            false => Err(RoomError::Forbidden(
                "this server doesn't let users list rooms in its public directory".into(),
            )),
        }
    }
}
