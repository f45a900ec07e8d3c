//! A single event.

use std::sync::Arc;

use myelin_core::{event::Verdict, pdu::Pdu};
use myelin_rooms::Room;
use myelin_storage::events;
use myelin_users::Requester;
use ruma::{EventId, RoomId};

use crate::{
    EventJson, Sync, SyncError,
    access::{Access, Asking, access_as},
    client_event::{Form, Seen, client_events},
    visibility::visible,
};

impl Sync {
    /// An event of a room, for `GET /rooms/{roomId}/event/{eventId}`.
    ///
    /// # Errors
    /// [`SyncError::NotFound`] if there is no such event here, if it was rejected or soft-failed, or if the
    /// user may not see it; [`SyncError::Storage`].
    pub async fn event(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<EventJson, SyncError> {
        let (room, access, seen) = self
            .seen_event((viewer, Asking::AsUser), room_id, event_id)
            .await?;
        let form = Form::alone(viewer).bundled(access);
        client_events(self.rooms(), &room, &[seen], form)
            .await?
            .pop()
            .ok_or_else(no_such_event)
    }

    /// An event that the user may see, in its room, and by what right the user reads that.
    ///
    /// # Errors
    /// Those of [`Sync::event`].
    pub(crate) async fn seen_event(
        &self,
        (viewer, asking): (&Requester, Asking),
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Arc<Room>, Access, Seen), SyncError> {
        let rooms = self.rooms();
        let (room, access) = match access_as(rooms, asking, &viewer.user_id, room_id).await {
            Err(SyncError::Forbidden(_)) => return Err(no_such_event()),
            found => found?,
        };
        let event = room.event_by_id(rooms, event_id).await?;
        let event = event
            .filter(|event| event.verdict == Verdict::Accepted)
            .ok_or_else(no_such_event)?;
        // Outliers have no state by which visibility could be judged; they are not seen.
        let user = &viewer.user_id;
        let mut seen = visible(rooms, &room, user, access, vec![event]).await?;
        let seen = seen.pop().ok_or_else(no_such_event)?;
        Ok((room, access, seen))
    }
}

impl Sync {
    /// An accepted event as administrators see it, whoever else may; `None` if there is no such event here.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn event_for_admin(
        &self,
        admin: &Requester,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<EventJson>, SyncError> {
        let rooms = self.rooms();
        let Some(room) = rooms.room(room_id).await? else {
            return Ok(None);
        };
        let event = room.event_by_id(rooms, event_id).await?;
        let Some(event) = event.filter(|event| event.verdict == Verdict::Accepted) else {
            return Ok(None);
        };
        let written = client_events(rooms, &room, &[event.into()], Form::alone(admin)).await?;
        Ok(written.into_iter().next())
    }
}

impl Sync {
    /// An event of any room, as it travels between servers and as it was before any redaction.
    ///
    /// # Errors
    /// [`SyncError::NotFound`] if there is no such event here, [`SyncError::Storage`].
    pub async fn original_event(&self, event_id: &EventId) -> Result<Arc<Pdu>, SyncError> {
        let missing = || SyncError::NotFound("Event not found".to_owned());
        let rooms = self.rooms();
        let id = event_id.to_owned();
        let room = rooms.database().read("room of an event", move |tx| {
            Box::pin(async move { events::room_of(tx, &id).await })
        });
        let key = room.await?.ok_or_else(missing)?;
        let room = rooms.room(&key.room_id).await?.ok_or_else(missing)?;
        let event = room.event_by_id(rooms, event_id).await?;
        Ok(event.ok_or_else(missing)?.pdu.clone())
    }
}

pub(crate) fn no_such_event() -> SyncError {
    SyncError::NotFound("No such event".to_owned())
}
