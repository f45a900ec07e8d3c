//! The event nearest to a time (client-server API, `GET /rooms/{roomId}/timestamp_to_event`; MSC3030).

use std::sync::Arc;

use myelin_core::event::Event;
use myelin_rooms::{Moment, Room};
use myelin_users::Requester;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId};
use serde::Serialize;

use crate::{
    Sync, SyncError,
    access::{Access, Asking, access_as},
    visibility::visible,
};

/// An event that was found by time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventAt {
    /// The event.
    pub event_id: OwnedEventId,
    /// When its author says that it was made.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
}

impl Sync {
    /// The event nearest to a moment that the user may see. Where something is missing there, other servers
    /// are asked, for a limited time.
    ///
    /// # Errors
    /// [`SyncError::NotFound`] if there is none, [`SyncError::Forbidden`] if the user may not read the
    /// room, [`SyncError::Storage`]. That other servers don't answer is no error.
    pub async fn event_at(
        &self,
        (viewer, asking): (&Requester, Asking),
        room_id: &RoomId,
        moment: Moment,
    ) -> Result<EventAt, SyncError> {
        let rooms = self.rooms();
        let (room, access) = access_as(rooms, asking, &viewer.user_id, room_id).await?;
        let upto = access.upto(rooms.events_stream().readable());
        let mut near = rooms.events_near(&room, moment, upto);
        let mut nearest = None;
        while nearest.is_none()
            && let Some(events) = near.read_on().await?
        {
            nearest = self.first_seen(viewer, (&room, access), events).await?;
        }
        if access == Access::Joined {
            let than = nearest.as_ref().map(|event| event.pdu.origin_server_ts);
            let than = than.map(|time| time.get().into());
            let nearer = Box::pin(rooms.fetch_nearer_event(&room, moment, than)).await?;
            let nearer = Vec::from_iter(nearer);
            let nearer = self.first_seen(viewer, (&room, access), nearer).await?;
            nearest = nearer.or(nearest);
        }
        let nearest = nearest.ok_or_else(|| SyncError::NotFound(moment.nothing()))?;
        Ok(EventAt {
            event_id: nearest.pdu.event_id.clone(),
            origin_server_ts: nearest.pdu.origin_server_ts,
        })
    }

    /// The first of some events that the user may see.
    async fn first_seen(
        &self,
        viewer: &Requester,
        (room, access): (&Arc<Room>, Access),
        events: Vec<Arc<Event>>,
    ) -> Result<Option<Arc<Event>>, SyncError> {
        let user = &viewer.user_id;
        let seen = visible(self.rooms(), room, user, access, events).await?;
        Ok(seen.into_iter().next().map(|seen| seen.event))
    }
}
