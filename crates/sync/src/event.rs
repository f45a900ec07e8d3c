//! A single event.

use myelin_core::event::Verdict;
use myelin_users::Requester;
use ruma::{EventId, RoomId};

use crate::{
    EventJson, Sync, SyncError,
    access::access,
    client_event::{Form, client_events},
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
        let not_found = || SyncError::NotFound("No such event".to_owned());
        let rooms = self.rooms();
        let (room, access) = match access(rooms, &viewer.user_id, room_id).await {
            Err(SyncError::Forbidden(_)) => return Err(not_found()),
            found => found?,
        };
        let event = room
            .event_by_id(rooms, event_id)
            .await?
            .ok_or_else(not_found)?;
        if event.verdict != Verdict::Accepted {
            return Err(not_found());
        }
        // Outliers have no state by which visibility could be judged; they are not seen.
        let seen = visible(
            rooms,
            &room,
            &viewer.user_id,
            access.joined_later(),
            vec![event],
        )
        .await?;
        let form = Form::alone(viewer);
        client_events(rooms, &room, &seen, form)
            .await?
            .pop()
            .ok_or_else(not_found)
    }
}
