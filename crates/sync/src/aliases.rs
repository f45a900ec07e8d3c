//! The aliases of a room, for those who may know them.

use myelin_users::Requester;
use ruma::{OwnedRoomAliasId, RoomId};

use crate::{
    Sync, SyncError,
    access::{Access, access},
};

impl Sync {
    /// This server's aliases of a room, for `GET /rooms/{roomId}/aliases`.
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] for those who are not in the room, unless everybody may read it,
    /// [`SyncError::Storage`].
    pub async fn aliases(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedRoomAliasId>, SyncError> {
        match access(self.rooms(), &viewer.user_id, room_id).await? {
            (_, Access::Joined | Access::Peeking | Access::Administering) => {
                Ok(self.rooms().aliases_of(room_id).await?)
            }
            (_, Access::Left(_)) => Err(SyncError::Forbidden(
                "You are not in this room any more".to_owned(),
            )),
        }
    }
}
