//! The timeline of one room in one answer of `/sync`: the newest events that a user may see.

use std::{collections::HashSet, sync::Arc};

use myelin_core::{
    event::Event,
    number::{EventNr, StreamPosition},
};
use myelin_rooms::{Room, Rooms};
use myelin_storage::timelines::{self, Newest};
use ruma::{UserId, events::TimelineEventType};

use crate::{
    SyncError,
    access::{Access, placed},
    client_event::Seen,
    lazy_members::numbers,
    token::PageToken,
    visibility::visible,
    wanted::Wanted,
};

/// How often more events are read because too few of those read may be shown.
const MAX_ROUNDS: usize = 8;

/// The least number of events that is read at once.
const MIN_READ: usize = 20;

/// The newest events of a span, oldest first.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) events: Vec<Seen>,
    /// Whether there are, or may be, more in the span.
    pub(crate) limited: bool,
    /// Everything up to here lies before the timeline.
    pub(crate) before: StreamPosition,
}

/// What to read.
#[derive(Clone, Copy)]
pub(crate) struct TimelineQuery<'a> {
    /// Who reads.
    pub(crate) user: &'a UserId,
    /// What it wants.
    pub(crate) wanted: Wanted<'a>,
    /// The last position before the span.
    pub(crate) after: StreamPosition,
    /// The last position in it.
    pub(crate) upto: StreamPosition,
}

impl Timeline {
    /// Where a page of older events begins.
    pub(crate) fn prev_batch(&self) -> String {
        PageToken::Stream(self.before).to_string()
    }

    /// The numbers of the events.
    pub(crate) fn numbers(&self) -> HashSet<EventNr> {
        numbers(&self.events)
    }

    /// The first event of all there is of the room.
    fn begins_the_room(&self) -> bool {
        let first = self.events.first();
        first.is_some_and(|seen| seen.event.pdu.event_type == TimelineEventType::RoomCreate)
    }

    /// Reads a timeline.
    pub(crate) async fn read(
        rooms: &Rooms,
        room: &Arc<Room>,
        query: TimelineQuery<'_>,
    ) -> Result<Self, SyncError> {
        let filter = query.wanted.filter;
        let limit = match filter.wants_room(&room.key.room_id) {
            true => filter.timeline_limit(),
            false => 0,
        };
        let mut newest_first: Vec<Seen> = Vec::new();
        let mut gaps: HashSet<EventNr> = HashSet::new();
        let mut upto = query.upto;
        let mut more = true;
        for _ in 0..MAX_ROUNDS {
            // One more than is wanted, to know whether there is one more.
            let count = (limit + 1 - newest_first.len()).max(MIN_READ.min(limit + 1));
            let page = read_page(rooms, room, (query.after, upto), count).await?;
            more = page.events.len() == count;
            gaps.extend(page.after_gaps);
            let oldest = page.events.last().and_then(placed);
            upto = oldest.map_or(upto, |(position, _)| StreamPosition(position.0 - 1));
            // The span ends where the user left, so all in it comes before that.
            let seen = visible(rooms, room, query.user, Access::Joined, page.events).await?;
            newest_first.extend(query.wanted.of(rooms, room, seen).await?);
            if newest_first.len() > limit || !more {
                break;
            }
        }
        more |= newest_first.len() > limit;
        newest_first.truncate(limit);
        newest_first.reverse();
        Ok(Self::cut(newest_first, &gaps, more, upto))
    }

    /// Begins the timeline after the last gap in it: clients take neighbours in it for neighbours in the
    /// room.
    fn cut(
        mut events: Vec<Seen>,
        gaps: &HashSet<EventNr>,
        more: bool,
        read_upto: StreamPosition,
    ) -> Self {
        let gap = events
            .iter()
            .rposition(|seen| gaps.contains(&seen.event.nr));
        if let Some(first) = gap {
            events.drain(..first);
        }
        let first = events.first().and_then(|seen| placed(&seen.event));
        let before = first.map_or(read_upto, |(position, _)| StreamPosition(position.0 - 1));
        Self {
            limited: more || gap.is_some(),
            events,
            before,
        }
    }

    /// Marks the timeline of a room that the client doesn't know yet: unless it begins with the room,
    /// there is more before it, here or elsewhere.
    pub(crate) fn of_new_room(mut self) -> Self {
        self.limited |= !self.begins_the_room();
        self
    }
}

/// Some events as they are stored, newest first.
struct Page {
    events: Vec<Arc<Event>>,
    /// Those of them with parents that are not held.
    after_gaps: Vec<EventNr>,
}

async fn read_page(
    rooms: &Rooms,
    room: &Arc<Room>,
    span: (StreamPosition, StreamPosition),
    count: usize,
) -> Result<Page, SyncError> {
    let nr = room.key.room;
    let newest = rooms.database().look_up("timeline", move |tx| {
        Box::pin(async move { timelines::newest(tx, nr, span, count).await })
    });
    let Newest { events, after_gaps } = newest.await?;
    let mut found = room.events(rooms, events.iter().copied()).await?;
    let events = events.iter().filter_map(|nr| found.remove(nr)).collect();
    Ok(Page { events, after_gaps })
}
