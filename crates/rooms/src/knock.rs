//! Knocking upon rooms (server-server API and client-server API, "Knocking upon a room").

use myelin_core::{room_version::RoomVersion, state::Membership};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, ServerName, UserId};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    RoomError, Rooms, candidates::Attempts, completion::Wanted, new_event::NewEvent,
    outliers::remote, stripped::Told,
};

impl Rooms {
    /// Asks to be let into a room. `content` is what the knock says beside its membership.
    ///
    /// # Errors
    /// As [`Rooms::join`].
    pub async fn knock(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        content: Map<String, Value>,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room_id, candidates) = self.locate(target, via).await?;
        self.must_not_be_blocked(&room_id).await?;
        if let Some(room) = self.room(&room_id).await?
            && room.has_server(self.server_name())
            && !room.is_partial()
        {
            let mut content = content;
            content.insert("membership".into(), Membership::Knock.name().into());
            self.send(&room_id, NewEvent::membership(user, user, content))
                .await?;
            return Ok(room_id);
        }
        let named = room_id.server_name().map(ToOwned::to_owned);
        let mut attempts = Attempts::default();
        for server in self.candidates(candidates.into_iter().chain(named)) {
            let knock = self.knock_through(&server, &room_id, user, content.clone());
            match knock.await {
                Ok(()) => return Ok(room_id),
                Err(error) => attempts.failed(&server, error)?,
            }
        }
        Err(attempts.nobody())
    }

    async fn knock_through(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        content: Map<String, Value>,
    ) -> Result<(), RoomError> {
        let versions: Vec<&str> = RoomVersion::supported().map(RoomVersion::as_str).collect();
        let wanted = Wanted {
            room_id,
            user,
            membership: Membership::Knock,
        };
        let template = self
            .federation()
            .make_knock(server, room_id, user, &versions)
            .await
            .map_err(remote)?;
        let completed = self.complete_template(wanted, &template, content)?;
        let room = self.room_of_version(room_id, completed.version).await?;
        let knock = completed.pdu;
        let json: &RawValue = serde_json::from_str(&knock.json)
            .map_err(|error| RoomError::Internal(error.to_string()))?;
        let told = self
            .federation()
            .send_knock(server, room_id, &knock.event_id, json)
            .await
            .map_err(remote)?;
        let Told { stripped, problem } = self.told(completed.version, room_id, told).await;
        if let Some(problem) = problem {
            tracing::warn!(%server, room = %room_id, problem, "what a knock was told is not all valid");
        }
        self.put_out_of_band(&room, knock.into_pdu(), stripped, server.to_owned())
            .await?;
        Ok(())
    }
}
