//! What one of our users may do in a room, where no event is sent that the rules would judge.

use std::sync::Arc;

use myelin_core::{
    completeness::Question, event::Event, power_levels::PowerLevels, state::Membership,
};
use myelin_storage::StorageError;
use ruma::UserId;
use serde_json::value::RawValue;

use crate::{RoomError, Rooms, room::Room};

impl Rooms {
    /// # Errors
    /// [`RoomError::Forbidden`] if the user is not joined.
    pub(crate) fn must_be_joined(&self, room: &Arc<Room>, user: &UserId) -> Result<(), RoomError> {
        match self.membership_of(room, user) {
            Some(Membership::Join) => Ok(()),
            _ => Err(RoomError::Forbidden(format!("{user} is not in the room"))),
        }
    }

    /// Whether a user is in a room and may set state of a type there.
    pub(crate) async fn may_set_state(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        event_type: &str,
    ) -> Result<bool, StorageError> {
        if self.membership_of(room, user) != Some(Membership::Join) {
            return Ok(false);
        }
        let Some(create) = self.current_event(room, "m.room.create").await? else {
            return Ok(false);
        };
        let levels = self.current_event(room, "m.room.power_levels").await?;
        Ok(
            PowerLevels::read(room.key.version, &create, levels.as_ref())
                .is_ok_and(|levels| levels.may_send(user, &event_type.into(), true)),
        )
    }

    /// The content of the current state event of a type, with an empty state key.
    pub(crate) async fn current_content(
        &self,
        room: &Arc<Room>,
        event_type: &str,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        let event = self.current_event(room, event_type).await?;
        Ok(event
            .filter(|event| event.redacted_by.is_none())
            .map(|event| event.pdu.content.clone()))
    }

    /// The current state event of a type other than memberships, with an empty state key.
    pub(crate) async fn current_event(
        &self,
        room: &Arc<Room>,
        event_type: &str,
    ) -> Result<Option<Arc<Event>>, StorageError> {
        let Some(current) = room.current() else {
            return Ok(None);
        };
        if current
            .reference
            .answering(Question::OtherThanMembers)
            .is_none()
        {
            return Ok(None);
        }
        let entry = current.state.get_named(&room.keys(), event_type, "");
        let Some(nr) = entry.map(|entry| entry.event()) else {
            return Ok(None);
        };
        Ok(room.events(self, [nr]).await?.remove(&nr))
    }
}
