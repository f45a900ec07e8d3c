//! A room's state.

use std::sync::Arc;

use myelin_core::{completeness::Question, key_table::MEMBER, number::EventNr, state::State};
use myelin_rooms::Room;
use myelin_users::Requester;
use ruma::{RoomId, UserId};

use crate::{
    EventJson, Sync, SyncError,
    access::{access, readable_state},
    bulk::Parts,
    client_event::{Form, Seen, client_events, shown},
};

impl Sync {
    /// The whole state of a room, for `GET /rooms/{roomId}/state`: the current one, or for who left, the one
    /// at that time. Waits while members are still being fetched.
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] if the user never was in the room, [`SyncError::StillPartial`],
    /// [`SyncError::Storage`].
    pub async fn state(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
    ) -> Result<Vec<EventJson>, SyncError> {
        let (room, access) = access(self.rooms(), &viewer.user_id, room_id).await?;
        let state = readable_state(self.rooms(), &room, access, Question::AllMembers).await?;
        let events: Vec<EventNr> = state.entries().map(|(_, entry)| entry.event()).collect();
        self.state_events(viewer, &room, &events).await
    }

    /// State events in the form for clients, in the order given.
    pub(crate) async fn state_events(
        &self,
        viewer: &Requester,
        room: &Arc<Room>,
        events: &[EventNr],
    ) -> Result<Vec<EventJson>, SyncError> {
        let mut written = Vec::with_capacity(events.len());
        let form = Form {
            previous: false,
            ..Form::alone(viewer)
        };
        let mut parts = Parts::of(self.rooms(), room, events);
        while let Some(part) = parts.next().await? {
            let seen: Vec<Seen> = part.into_iter().map(Seen::from).collect();
            written.extend(client_events(self.rooms(), room, &seen, form).await?);
        }
        Ok(written)
    }

    /// The content of one state event, for `GET /rooms/{roomId}/state/{eventType}/{stateKey}`. Waits only for
    /// the membership of a user of another server.
    ///
    /// # Errors
    /// [`SyncError::NotFound`] if the state has no such entry, [`SyncError::Forbidden`] if the user never was
    /// in the room, [`SyncError::StillPartial`], [`SyncError::Storage`].
    pub async fn state_entry(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<EventJson, SyncError> {
        let (room, nr) = self
            .find_entry(viewer, room_id, (event_type, state_key))
            .await?;
        let found = room.events(self.rooms(), [nr]).await?;
        let event = found.get(&nr).ok_or_else(no_entry)?;
        Ok(shown(&room, event)?.content.clone())
    }

    /// Like [`Sync::state_entry`], but the whole event (`?format=event`).
    ///
    /// # Errors
    /// Those of [`Sync::state_entry`].
    pub async fn state_entry_event(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<EventJson, SyncError> {
        let (room, nr) = self
            .find_entry(viewer, room_id, (event_type, state_key))
            .await?;
        self.state_events(viewer, &room, &[nr])
            .await?
            .pop()
            .ok_or_else(no_entry)
    }

    async fn find_entry(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
        (event_type, state_key): (&str, &str),
    ) -> Result<(Arc<Room>, EventNr), SyncError> {
        let (room, access) = access(self.rooms(), &viewer.user_id, room_id).await?;
        let question = self.question(event_type, state_key);
        let state: State = readable_state(self.rooms(), &room, access, question).await?;
        let entry = state
            .get_named(&room.keys(), event_type, state_key)
            .ok_or_else(no_entry)?;
        Ok((room, entry.event()))
    }

    /// What one has to know to answer for an entry.
    fn question(&self, event_type: &str, state_key: &str) -> Question {
        if event_type != MEMBER {
            return Question::OtherThanMembers;
        }
        let user = <&UserId>::try_from(state_key).ok();
        match user.is_some_and(|user| user.server_name() == self.rooms().server_name()) {
            true => Question::LocalMember,
            false => Question::RemoteMember,
        }
    }
}

fn no_entry() -> SyncError {
    SyncError::NotFound("The room has no such state".to_owned())
}
