//! EDUs about rooms: who sends them, who gets them, and who may send them here.

use std::{collections::BTreeSet, sync::Arc};

use myelin_federation::Edu;
use myelin_storage::StorageError;
use ruma::{OwnedServerName, RoomId, ServerName};
use serde::Serialize;

use crate::{
    Rooms, outgoing::PassingEdu, presence::PRESENCE, receipts::RECEIPT, room::Room, typing::TYPING,
};

impl Rooms {
    /// Takes an EDU of another server. One that is not about rooms, or that can't be, is passed over.
    ///
    /// # Errors
    /// Any storage error: it has to come again.
    pub async fn receive_edu(&self, origin: &ServerName, edu: &Edu) -> Result<(), StorageError> {
        match edu.edu_type.as_str() {
            TYPING => self.receive_typing(origin, &edu.content).await,
            RECEIPT => self.receive_receipts(origin, &edu.content).await,
            PRESENCE => self.receive_presence(origin, &edu.content).await,
            other => {
                tracing::debug!(%origin, edu_type = other, "an EDU was passed over");
                Ok(())
            }
        }
    }

    /// A room that this server is in, as is the origin of an EDU, and that doesn't keep the origin out
    /// (R45).
    pub(crate) async fn room_for_edu(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Option<Arc<Room>>, StorageError> {
        let Some(room) = self.room(room_id).await? else {
            return Ok(None);
        };
        let is_ours = room.has_server(self.server_name());
        let is_theirs = self.other_servers(&room).contains(origin);
        if is_ours && is_theirs && self.allows(&room, origin).await? {
            return Ok(Some(room));
        }
        tracing::info!(room = %room_id, %origin, "an EDU was dropped");
        Ok(None)
    }

    /// The other servers in a room; while it is partial, as far as they are known.
    pub(crate) fn other_servers(&self, room: &Room) -> BTreeSet<OwnedServerName> {
        let mut servers: BTreeSet<OwnedServerName> = room
            .servers_at_join()
            .iter()
            .filter_map(|name| ServerName::parse(name).ok())
            .collect();
        if let Some(current) = room.current() {
            let names = current.state.servers();
            servers.extend(names.filter_map(|(name, _)| ServerName::parse(&**name).ok()));
        }
        servers.remove(self.server_name());
        servers
    }

    /// Sends an EDU to the other servers in a room. For one that is behind, a later one with the same
    /// key takes its place.
    pub(crate) fn send_passing_edu(
        &self,
        room: &Room,
        edu_type: &str,
        key: &str,
        content: &impl Serialize,
    ) {
        let edu = Arc::new(PassingEdu {
            key: format!("{edu_type} {} {key}", room.key.room_id),
            edu: Edu::written(edu_type, content),
        });
        self.pass_on(self.other_servers(room), &edu);
    }
}
