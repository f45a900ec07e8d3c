//! Which of the events that a user may see it wants to: by its filter, and without those of users whom it
//! ignores.

use std::{collections::HashSet, sync::Arc};

use myelin_rooms::{Room, Rooms};
use myelin_storage::relations;
use ruma::{OwnedEventId, OwnedUserId};

use crate::{SyncError, client_event::Seen, filter::RoomEventFilter};

/// What a user wants of a room.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Which events.
    pub(crate) filter: &'a RoomEventFilter,
    /// Whose events not, other than state.
    pub(crate) ignored: &'a [OwnedUserId],
}

impl Wanted<'_> {
    /// Those of some events that are wanted, in the same order. At most one read, and that only if the
    /// filter asks for what relates to the events.
    pub(crate) async fn of(
        self,
        rooms: &Rooms,
        room: &Arc<Room>,
        mut seen: Vec<Seen>,
    ) -> Result<Vec<Seen>, SyncError> {
        seen.retain(|seen| self.filter.wants(&seen.event.pdu) && !self.is_ignored(seen));
        let (rel_types, senders) = (
            self.filter.related_by_rel_types.clone(),
            self.filter.related_by_senders.clone(),
        );
        if seen.is_empty() || (rel_types.is_none() && senders.is_none()) {
            return Ok(seen);
        }
        let ids: Vec<OwnedEventId> = seen.iter().map(|seen| seen.event.id().to_owned()).collect();
        let nr = room.key.room;
        let parents = rooms.database().look_up("parents of relations", move |tx| {
            Box::pin(async move {
                relations::parents(tx, nr, &ids, rel_types.as_deref(), senders.as_deref()).await
            })
        });
        let parents: HashSet<OwnedEventId> = parents.await?.into_iter().collect();
        seen.retain(|seen| parents.contains(seen.event.id()));
        Ok(seen)
    }

    fn is_ignored(self, seen: &Seen) -> bool {
        seen.event.pdu.state_key.is_none() && self.ignored.contains(&seen.event.pdu.sender)
    }
}
