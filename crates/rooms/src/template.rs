//! Membership events that this server prepares for users of other servers (server-server API, "Joining
//! rooms", "Leaving rooms", "Knocking upon a room": the first step of the handshake).

use std::sync::Arc;

use myelin_core::{receive::Recommendation, room_version::RoomVersion, state::Membership};
use ruma::{RoomId, ServerName, UserId};
use serde_json::{Map, Value, json};

use crate::{
    RoomError, Rooms, ServeError, completion::AUTHORISER, new_event::NewEvent,
    restricted::Condition, room::Room, turn::Turn,
};

impl Rooms {
    /// `GET /make_join`: a join for a user of the asking server, which knows `versions`.
    ///
    /// # Errors
    /// Any [`ServeError`] but `BadJson`.
    pub async fn make_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[String],
    ) -> Result<Value, ServeError> {
        let room = self.room_to_change(origin, room_id).await?;
        check_user(origin, user)?;
        check_versions(&room, versions)?;
        let mut turn = Turn::take(self, &room).await?;
        let state = turn.graph.current.as_ref().map(|current| &current.state);
        let state = state.ok_or_else(ServeError::unknown_room)?;
        let mut content = Map::new();
        match self.condition(&room, state, user).await? {
            Condition::None => {}
            Condition::Met => {
                let authoriser = self.authoriser(&room, state).await?;
                let authoriser = authoriser.ok_or(ServeError::UnableToGrant)?;
                let authoriser = authoriser.as_str().into();
                content.insert(AUTHORISER.into(), authoriser);
            }
            Condition::Unknown => return Err(ServeError::UnableToAuthorise),
            Condition::NotMet => return Err(not_let_in(user)),
        }
        turn.template(user, Membership::Join, content).await
    }

    /// `GET /make_leave`: a leave for a user of the asking server who is in the room, is invited, or
    /// knocks.
    ///
    /// # Errors
    /// Any [`ServeError`] but `BadJson`.
    pub async fn make_leave(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
    ) -> Result<Value, ServeError> {
        let room = self.room_to_change(origin, room_id).await?;
        check_user(origin, user)?;
        let mut turn = Turn::take(self, &room).await?;
        turn.template(user, Membership::Leave, Map::new()).await
    }

    /// `GET /make_knock`: a knock for a user of the asking server, which knows `versions`.
    ///
    /// # Errors
    /// Any [`ServeError`] but `BadJson`.
    pub async fn make_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[String],
    ) -> Result<Value, ServeError> {
        let room = self.room_to_change(origin, room_id).await?;
        check_user(origin, user)?;
        check_versions(&room, versions)?;
        let mut turn = Turn::take(self, &room).await?;
        turn.template(user, Membership::Knock, Map::new()).await
    }

    /// A room whose membership another server wants to change through this one. While it is partial
    /// here, others can judge that better (R106).
    pub(crate) async fn room_to_change(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Arc<Room>, ServeError> {
        let room = self.allowed_room(origin, room_id).await?;
        if !room.has_server(self.server_name()) || room.is_partial() {
            return Err(ServeError::unknown_room());
        }
        Ok(room)
    }
}

impl Turn<'_> {
    /// A membership that the room permits, without hashes and signatures.
    async fn template(
        &mut self,
        user: &UserId,
        membership: Membership,
        mut content: Map<String, Value>,
    ) -> Result<Value, ServeError> {
        content.insert("membership".into(), membership.name().into());
        let event = NewEvent::membership(user, user, content);
        let proposed = self.propose(event, Recommendation::NotWanted).await;
        let proposed = proposed.map_err(RoomError::from)?;
        let event: Map<String, Value> = serde_json::from_str(&proposed.pdu.json)
            .map_err(|error| ServeError::Internal(error.to_string()))?;
        // An ID is given to it by whose event it is.
        let sealing = ["event_id", "hashes", "signatures"];
        let unsealed = |(key, _): &(String, Value)| !sealing.contains(&key.as_str());
        let event: Map<String, Value> = event.into_iter().filter(unsealed).collect();
        let version = self.room.key.version.as_str();
        Ok(json!({ "room_version": version, "event": event }))
    }
}

/// Servers ask for their own users only (R81).
fn check_user(origin: &ServerName, user: &UserId) -> Result<(), ServeError> {
    if user.server_name() == origin {
        Ok(())
    } else {
        Err(ServeError::Forbidden(format!(
            "{user} is no user of {origin}"
        )))
    }
}

/// Without a list, the asking server knows version 1.
fn check_versions(room: &Room, versions: &[String]) -> Result<(), ServeError> {
    let version: RoomVersion = room.key.version;
    let knows_first_only = versions.is_empty() && version == RoomVersion::V1;
    if knows_first_only || versions.iter().any(|name| name == version.as_str()) {
        Ok(())
    } else {
        Err(ServeError::IncompatibleVersion(version.to_string()))
    }
}

pub(crate) fn not_let_in(user: &UserId) -> ServeError {
    ServeError::Forbidden(format!(
        "{user} is neither invited nor in a room whose members may join"
    ))
}
