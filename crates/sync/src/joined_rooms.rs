//! The rooms a user is in.

use myelin_core::state::Membership;
use myelin_storage::rooms;
use ruma::{OwnedRoomId, UserId};

use crate::{Sync, SyncError};

impl Sync {
    /// The rooms a user is in, those whose members are still being fetched included. For
    /// `GET /joined_rooms`.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn joined_rooms(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, SyncError> {
        let user = user.to_owned();
        let memberships = self.rooms().database().look_up("joined rooms", move |tx| {
            Box::pin(async move { rooms::memberships_of_user(tx, &user).await })
        });
        let memberships = memberships.await?.into_iter();
        let joined = memberships.filter(|of| of.membership == Membership::Join.name());
        Ok(joined.map(|of| of.room_id).collect())
    }
}
