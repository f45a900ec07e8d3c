//! Changes of membership in rooms that this server is in: kicks, bans, unbans, invites.

use std::sync::Arc;

use myelin_core::{completeness::Question, key_table::MEMBER, state::Membership};
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{RoomError, Rooms, new_event::NewEvent, room::Room};

/// The content of a join beside `membership`: the user's profile and what the client wishes.
pub type JoinContent = Map<String, Value>;

impl Rooms {
    /// Puts a user out of a room: a member, or one who is invited or knocks.
    ///
    /// # Errors
    /// As [`Rooms::send`]; [`RoomError::Forbidden`] if the user is not in the room, and
    /// [`RoomError::BadState`] if it is banned: who kicks does not mean to let in.
    pub async fn kick(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<OwnedEventId, RoomError> {
        match self.known_standing(room_id, sender, target).await? {
            Some(Some(Membership::Ban)) => {
                return Err(RoomError::BadState(format!("{target} is banned")));
            }
            Some(None | Some(Membership::Leave)) => {
                return Err(RoomError::Forbidden(format!("{target} is not in the room")));
            }
            _ => {}
        }
        self.set_membership(sender, room_id, target, Membership::Leave, reason)
            .await
    }

    /// Ends a ban.
    ///
    /// # Errors
    /// As [`Rooms::send`]; [`RoomError::BadState`] if the user is not banned: who unbans does not mean
    /// to put a member out.
    pub async fn unban(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<OwnedEventId, RoomError> {
        match self.known_standing(room_id, sender, target).await? {
            Some(standing) if standing != Some(Membership::Ban) => {
                Err(RoomError::BadState(format!("{target} is not banned")))
            }
            _ => {
                self.set_membership(sender, room_id, target, Membership::Leave, reason)
                    .await
            }
        }
    }

    /// What a user is to a room, for a member. `None` if that isn't known: then the rules of the room will
    /// have to do.
    async fn known_standing(
        &self,
        room_id: &RoomId,
        asking: &UserId,
        user: &UserId,
    ) -> Result<Option<Option<Membership>>, RoomError> {
        let room = self.known_room(room_id).await?;
        let Some(current) = room.current().filter(|_| !room.is_partial()) else {
            return Ok(None);
        };
        let membership = |user: &UserId| {
            let entry = current.state.get_named(&room.keys(), MEMBER, user.as_str());
            entry.and_then(|entry| entry.membership())
        };
        if membership(asking) != Some(Membership::Join) {
            return Err(RoomError::Forbidden(format!("{asking} is not in the room")));
        }
        Ok(Some(membership(user)))
    }

    /// Sets the membership of `target`: a ban, an invite, or an end of what it was.
    ///
    /// # Errors
    /// As [`Rooms::send`].
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
            .get_named(&room.keys(), MEMBER, user.as_str())?
            .membership()
    }
}

/// The content of a join.
pub(crate) fn with_membership(content: &JoinContent) -> Map<String, Value> {
    let mut content = content.clone();
    content.insert("membership".into(), "join".into());
    content
}
