//! Who is there, in `/sync`.

use std::collections::BTreeMap;

use myelin_core::number::StreamPosition;
use myelin_rooms::UserPresence;
use ruma::{OwnedUserId, UserId};
use serde::Serialize;
use serde_json::value::to_raw_value;

use crate::{EventJson, Sync, SyncError, SyncRequest, answer::RoomSections};

/// How many users are shown at once. The others follow in the next answer.
const MOST_SHOWN: usize = 500;

const PRESENCE: &str = "m.presence";

/// A part of the stream of presence, as events for a client.
pub(crate) struct PresenceSection {
    pub(crate) events: Vec<EventJson>,
    /// There are no others up to here.
    pub(crate) upto: StreamPosition,
}

#[derive(Serialize)]
struct PresenceEvent<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    sender: &'a UserId,
    content: &'a UserPresence,
}

impl Sync {
    /// Whether a client wants to know who is there.
    pub(crate) fn wants_presence(request: &SyncRequest) -> bool {
        let filter = &request.filter.presence;
        filter.wants_type(PRESENCE) && filter.limit != Some(0)
    }

    /// Those of whom there is news after a position, and those who are in rooms that the client gets to know
    /// with this answer.
    pub(crate) async fn presence(
        &self,
        request: &SyncRequest,
        after: StreamPosition,
        rooms: &RoomSections,
    ) -> Result<PresenceSection, SyncError> {
        let filter = &request.filter.presence;
        if !Self::wants_presence(request) {
            return Ok(PresenceSection {
                events: Vec::new(),
                upto: self.rooms().presence_stream().readable(),
            });
        }
        let limit = filter.limit_of(MOST_SHOWN);
        let viewer = &request.viewer.user_id;
        let wanted = |user: &UserId| filter.wants_sender(user);
        let news = self.rooms().presence_after(viewer, after, limit, wanted);
        let (news, upto) = news.await?;
        let mut shown: BTreeMap<OwnedUserId, UserPresence> = news.into_iter().collect();
        // Who knows nobody has been shown everybody.
        let new_rooms = rooms.join.iter().filter(|(_, room)| room.is_new);
        for (room_id, _) in new_rooms.filter(|_| after.0 > 0) {
            let left = limit.saturating_sub(shown.len());
            if let Some(room) = self.rooms().room(room_id).await? {
                let there = self.rooms().presence_in(&room, left, wanted);
                shown.extend(there);
            }
        }
        let events = shown.iter().filter_map(|(sender, content)| {
            let event = PresenceEvent {
                event_type: PRESENCE,
                sender,
                content,
            };
            to_raw_value(&event).ok()
        });
        Ok(PresenceSection {
            events: events.collect(),
            upto,
        })
    }
}
