//! What one of our users may do in a room, where no event is sent that the rules would judge.

use std::sync::Arc;

use myelin_core::{
    completeness::Question,
    event::Event,
    power_levels::PowerLevels,
    state::{Membership, State},
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
        let Some(current) = room.current() else {
            return Ok(false);
        };
        let levels = self.power_levels(room, &current.state).await?;
        Ok(levels.is_some_and(|levels| levels.may_send(user, &event_type.into(), true)))
    }

    /// The power levels of a state; `None` if it has no create event, or they can't be read.
    pub(crate) async fn power_levels(
        &self,
        room: &Arc<Room>,
        state: &State,
    ) -> Result<Option<PowerLevels>, StorageError> {
        let (create, levels) = {
            let keys = room.keys();
            let nr = |of: &str| state.get_named(&keys, of, "").map(|entry| entry.event());
            (nr("m.room.create"), nr("m.room.power_levels"))
        };
        let held = room.events(self, create.into_iter().chain(levels)).await?;
        let of = |nr: Option<_>| nr.and_then(|nr| held.get(&nr));
        let read = |create| PowerLevels::read(room.key.version, create, of(levels)).ok();
        Ok(of(create).and_then(read))
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
        self.current_named(room, event_type, "").await
    }

    /// A current state event. Whether the state is complete there is for the caller to know.
    pub(crate) async fn current_named(
        &self,
        room: &Arc<Room>,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, StorageError> {
        let Some(current) = room.current() else {
            return Ok(None);
        };
        let entry = current.state.get_named(&room.keys(), event_type, state_key);
        let Some(nr) = entry.map(|entry| entry.event()) else {
            return Ok(None);
        };
        Ok(room.events(self, [nr]).await?.remove(&nr))
    }
}
