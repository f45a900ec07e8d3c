//! Servers that a room's access control list keeps out (server-server API, "Server Access Control
//! Lists").

use std::sync::Arc;

use myelin_core::server_acl::{SERVER_ACL, ServerAcl};
use myelin_storage::StorageError;
use ruma::{RoomId, ServerName};

use crate::{Rooms, ServeError, room::Room};

impl Rooms {
    /// Whether another server may take part in a room, by the room's current state. A room without a
    /// list keeps nobody out.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn allows(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
    ) -> Result<bool, StorageError> {
        let entry = room.current().and_then(|current| {
            let entry = current.state.get_named(&room.keys(), SERVER_ACL, "");
            entry.map(|entry| entry.event())
        });
        let held = room.events(self, entry).await?;
        Ok(held
            .values()
            .all(|event| ServerAcl::read(&event.pdu.content).allows(server)))
    }

    /// A room that this server knows and that does not keep the asking server out.
    pub(crate) async fn allowed_room(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Arc<Room>, ServeError> {
        let room = self
            .room(room_id)
            .await?
            .ok_or_else(ServeError::unknown_room)?;
        if self.allows(&room, origin).await? {
            Ok(room)
        } else {
            Err(ServeError::Forbidden(format!(
                "the room's server ACL keeps {origin} out"
            )))
        }
    }
}
