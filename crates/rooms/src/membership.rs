//! Changes of membership in rooms that this server is in: kicks, bans, unbans, invites.

use std::sync::Arc;

use myelin_core::{completeness::Question, state::Membership};
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{RoomError, Rooms, new_event::NewEvent, room::Room};

/// The content of a join beside `membership`: the user's profile and what the client wishes.
pub type JoinContent = Map<String, Value>;

impl Rooms {
    /// Sets the membership of `target`: kick, ban, unban, invite, leave.
    ///
    /// # Errors
    /// As [`Rooms::send`]; [`RoomError::Forbidden`] too for unbanning who isn't banned.
    pub async fn set_membership(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        membership: Membership,
        reason: Option<String>,
    ) -> Result<OwnedEventId, RoomError> {
        let mut content = Map::new();
        content.insert("membership".into(), membership.name().into());
        if let Some(reason) = reason {
            content.insert("reason".into(), reason.into());
        }
        let event = NewEvent::membership(sender, target, content);
        self.send(room_id, event).await
    }

    /// What one of our users is to a room, by the current state.
    pub(crate) fn membership_of(&self, room: &Arc<Room>, user: &UserId) -> Option<Membership> {
        let current = room.current()?;
        current.reference.answering(Question::LocalMember)?;
        current
            .state
            .get_named(&room.keys(), "m.room.member", user.as_str())?
            .membership()
    }
}

/// The content of a join.
pub(crate) fn with_membership(content: &JoinContent) -> Map<String, Value> {
    let mut content = content.clone();
    content.insert("membership".into(), "join".into());
    content
}
