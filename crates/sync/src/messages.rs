//! A room's history, page by page (client-server API, "Syncing", `GET /rooms/{roomId}/messages`).
//!
//! History is in topological order: by depth, so that events which were fetched later into a gap stand where
//! they belong.

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{
    event::Event,
    number::{EventNr, StreamPosition},
};
use myelin_rooms::Room;
use myelin_storage::{
    events::Direction,
    extremities,
    relations::{self, Related},
    timelines::{self, HistoryEvent, HistoryPlace, HistoryRange},
};
use myelin_users::Requester;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Serialize;

use crate::{
    EventJson, Sync, SyncError,
    access::{Access, Asking, access_as, placed},
    client_event::{Form, Seen, client_events},
    filter::{MAX_LIMIT, RoomEventFilter},
    ignored_users::ignored_as,
    lazy_members::{numbers, of_senders},
    token::PageToken,
    visibility::visible,
    wanted::Wanted,
};

/// How many events a page has if the client doesn't say.
pub(crate) const DEFAULT_LIMIT: usize = 10;

/// How often other servers are asked for more before the page is answered as it is.
const MAX_BACKFILLS: usize = 3;

/// How often more events are read because too few of those read may be shown.
const MAX_ROUNDS: usize = 8;

/// What a client asks of `/messages`.
#[derive(Clone, Debug)]
pub struct MessagesRequest {
    /// Who asks,
    pub viewer: Requester,
    /// and as what.
    pub asking: Asking,
    /// The room.
    pub room_id: OwnedRoomId,
    /// Which way to go.
    pub direction: Direction,
    /// Where to begin; the last or the first event if absent.
    pub from: Option<String>,
    /// Where to stop.
    pub to: Option<String>,
    /// How many events at most.
    pub limit: Option<u64>,
    /// Which events.
    pub filter: RoomEventFilter,
}

/// A page of history.
#[derive(Clone, Debug, Serialize)]
pub struct Messages {
    /// The events, in the direction that was asked for.
    pub chunk: Vec<EventJson>,
    /// Where the page begins: `from`, if it was given.
    pub start: String,
    /// Where the next page begins; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The memberships of the senders, with lazy loading.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<EventJson>,
}

/// What is read of a room's history, by whom.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) viewer: &'a UserId,
    pub(crate) direction: Direction,
    pub(crate) wanted: Wanted<'a>,
    /// Only events that relate to another.
    pub(crate) related: Option<&'a Related>,
    /// How many events at most.
    pub(crate) limit: usize,
}

/// Events that were read, in the direction of reading.
pub(crate) struct Page {
    pub(crate) seen: Vec<Seen>,
    /// The next page begins here.
    pub(crate) next: HistoryPlace,
    /// Whether there is nothing more.
    pub(crate) exhausted: bool,
}

impl Sync {
    /// A page of a room's history. Where something is missing, other servers are asked for it, for a limited
    /// time.
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] if the user may not read the room, [`SyncError::InvalidParam`],
    /// [`SyncError::Storage`]. That other servers don't answer is no error.
    pub async fn messages(&self, request: &MessagesRequest) -> Result<Messages, SyncError> {
        let rooms = self.rooms();
        let from: Option<PageToken> = request.from.as_deref().map(str::parse).transpose()?;
        let to: Option<PageToken> = request.to.as_deref().map(str::parse).transpose()?;
        let (asking, user) = (request.asking, &request.viewer.user_id);
        let (room, access) = access_as(rooms, asking, user, &request.room_id).await?;
        let newest = access.upto(rooms.events_stream().readable());
        let direction = request.direction;
        let start = from.unwrap_or_else(|| PageToken::first(direction, newest));
        let range = range(direction, start, to, newest);
        let ignored = ignored_as(rooms, asking, user).await?;
        let reading = request.reading(&ignored);
        let mut page = self.page(reading, (&room, access), range).await?;
        let mut end = (!page.exhausted).then_some(page.next);
        if direction == Direction::Backward && access == Access::Joined {
            for _ in 0..MAX_BACKFILLS {
                let Some(depth) = self.gap(&room, range, &page).await? else {
                    break;
                };
                // The history goes on elsewhere, whether it can be had now or not.
                end = (!page.seen.is_empty() || end.is_some()).then_some(page.next);
                if !matches!(
                    Box::pin(rooms.maybe_backfill(&room, depth, reading.limit)).await,
                    Ok(true)
                ) {
                    break;
                }
                page = self.page(reading, (&room, access), range).await?;
                end = (!page.exhausted).then_some(page.next);
            }
        }
        let upto = range.upto;
        let form = Form::alone(&request.viewer).bundled(access);
        Ok(Messages {
            state: self.lazy_state(request, &room, &page.seen).await?,
            chunk: client_events(rooms, &room, &page.seen, form).await?,
            // As it was asked for: a token of `/sync` says more than a page needs.
            start: request.from.clone().unwrap_or_else(|| start.to_string()),
            end: end.map(|place| PageToken::History { place, upto }.to_string()),
        })
    }

    /// Reads events until there are as many as asked for.
    pub(crate) async fn page(
        &self,
        reading: Reading<'_>,
        (room, access): (&Arc<Room>, Access),
        mut range: HistoryRange,
    ) -> Result<Page, SyncError> {
        let Reading {
            viewer: user,
            direction,
            wanted,
            limit,
            ..
        } = reading;
        let mut seen = Vec::new();
        let mut exhausted = !wanted.filter.wants_room(&room.key.room_id);
        for _ in 0..MAX_ROUNDS {
            let count = limit - seen.len();
            if count == 0 || exhausted {
                break;
            }
            let found = self.read_history(room, reading, range, count).await?;
            exhausted = found.len() < count;
            if let Some(last) = found.last() {
                match direction {
                    Direction::Backward => range.to = last.place,
                    Direction::Forward => range.from = after(last.place),
                }
            }
            let events = self.load(room, found.iter().map(|of| of.event)).await?;
            let visible = visible(self.rooms(), room, user, access, events).await?;
            seen.extend(wanted.of(self.rooms(), room, visible).await?);
        }
        let next = match direction {
            Direction::Backward => range.to,
            Direction::Forward => range.from,
        };
        Ok(Page {
            seen,
            next,
            exhausted,
        })
    }

    async fn read_history(
        &self,
        room: &Arc<Room>,
        reading: Reading<'_>,
        range: HistoryRange,
        limit: usize,
    ) -> Result<Vec<HistoryEvent>, SyncError> {
        let (nr, direction) = (room.key.room, reading.direction);
        let related = reading.related.cloned();
        let found = self.rooms().database().read("history", move |tx| {
            Box::pin(async move {
                match related {
                    Some(of) => relations::related(tx, nr, &of, direction, range, limit).await,
                    None => timelines::history(tx, nr, direction, range, limit).await,
                }
            })
        });
        Ok(found.await?)
    }

    /// Events in the order of their numbers here.
    pub(crate) async fn load(
        &self,
        room: &Arc<Room>,
        numbers: impl Iterator<Item = EventNr> + Clone,
    ) -> Result<Vec<Arc<Event>>, SyncError> {
        let mut events = room.events(self.rooms(), numbers.clone()).await?;
        Ok(numbers.filter_map(|nr| events.remove(&nr)).collect())
    }

    /// Where something is missing in a page that goes back, or right behind it if it is the last: the depth of
    /// the event whose parent isn't held.
    async fn gap(
        &self,
        room: &Arc<Room>,
        range: HistoryRange,
        page: &Page,
    ) -> Result<Option<i64>, SyncError> {
        let nr = room.key.room;
        let upto = range.to.depth;
        let found = self
            .rooms()
            .database()
            .look_up("gap in history", move |tx| {
                Box::pin(async move { extremities::backward(tx, nr, upto, 1).await })
            });
        let oldest = if page.exhausted {
            range.from.depth
        } else {
            page.next.depth
        };
        let depth = found.await?.first().map(|extremity| extremity.depth);
        Ok(depth.filter(|depth| *depth >= oldest))
    }

    async fn lazy_state(
        &self,
        request: &MessagesRequest,
        room: &Arc<Room>,
        seen: &[Seen],
    ) -> Result<Vec<EventJson>, SyncError> {
        let first = match request.direction {
            Direction::Backward => seen.last(),
            Direction::Forward => seen.first(),
        };
        let first = first.filter(|_| request.filter.lazy_load_members);
        let Some((_, before)) = first.and_then(|seen| placed(&seen.event)) else {
            return Ok(Vec::new());
        };
        let state = room.state(self.rooms(), before.snapshot()).await?;
        let mut ordered = seen.to_vec();
        if request.direction == Direction::Backward {
            ordered.reverse();
        }
        let shown = numbers(&ordered);
        let members = of_senders(self.rooms(), room, (&ordered, &shown), &state, &state).await?;
        let members: BTreeSet<EventNr> = members.into_values().collect();
        let members: Vec<EventNr> = members.into_iter().collect();
        self.state_events(&request.viewer, room, &members).await
    }
}

impl MessagesRequest {
    fn reading<'a>(&'a self, ignored: &'a [OwnedUserId]) -> Reading<'a> {
        let wanted = self.limit.or(self.filter.limit);
        let wanted = wanted.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Reading {
            viewer: &self.viewer.user_id,
            direction: self.direction,
            wanted: Wanted {
                filter: &self.filter,
                ignored,
            },
            related: None,
            limit: wanted.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT),
        }
    }
}

/// The place right after one.
pub(crate) fn after(place: HistoryPlace) -> HistoryPlace {
    let position = StreamPosition(place.position.0.saturating_add(1));
    HistoryPlace { position, ..place }
}

/// What lies between two tokens and may be read.
pub(crate) fn range(
    direction: Direction,
    start: PageToken,
    stop: Option<PageToken>,
    newest: StreamPosition,
) -> HistoryRange {
    let mut range = HistoryRange {
        from: HistoryPlace::START,
        to: HistoryPlace::END,
        after: StreamPosition(i64::MIN),
        upto: newest,
    };
    let (low, high) = match direction {
        Direction::Forward => (Some(start), stop),
        Direction::Backward => (stop, Some(start)),
    };
    match low {
        Some(PageToken::Stream(position)) => range.after = position,
        Some(PageToken::History { place, .. }) => range.from = place,
        None => {}
    }
    match high {
        Some(PageToken::Stream(position)) => range.upto = position.min(newest),
        Some(PageToken::History { place, upto }) => {
            range.to = place;
            range.upto = upto.min(newest);
        }
        None => {}
    }
    range
}

#[cfg(test)]
mod tests {
    use super::{Direction, HistoryPlace, HistoryRange, PageToken, StreamPosition, range};

    fn page(depth: i64, position: i64, upto: i64) -> PageToken {
        let place = HistoryPlace {
            depth,
            position: StreamPosition(position),
        };
        PageToken::History {
            place,
            upto: StreamPosition(upto),
        }
    }

    fn bounds(range: HistoryRange) -> (i64, i64, i64, i64) {
        (
            range.from.depth,
            range.to.depth,
            range.after.0,
            range.upto.0,
        )
    }

    #[test]
    fn tokens_bound_a_page_on_the_side_where_they_stand() {
        let (low, high) = (i64::MIN, i64::MAX);
        let stream = |position| PageToken::Stream(StreamPosition(position));
        let cases = [
            (Direction::Backward, stream(7), None, (low, high, low, 7)),
            (Direction::Backward, stream(-7), None, (low, high, low, -7)),
            (Direction::Backward, stream(99), None, (low, high, low, 20)),
            (Direction::Backward, page(5, 3, 8), None, (low, 5, low, 8)),
            (
                Direction::Backward,
                page(5, 3, 8),
                Some(page(2, 1, 8)),
                (2, 5, low, 8),
            ),
            (
                Direction::Backward,
                stream(7),
                Some(stream(4)),
                (low, high, 4, 7),
            ),
            (Direction::Forward, stream(7), None, (low, high, 7, 20)),
            (Direction::Forward, page(5, 3, 8), None, (5, high, low, 20)),
            (
                Direction::Forward,
                page(5, 3, 8),
                Some(page(9, 9, 99)),
                (5, 9, low, 20),
            ),
            (
                Direction::Forward,
                stream(1),
                Some(stream(4)),
                (low, high, 1, 4),
            ),
        ];
        for (direction, start, stop, expected) in cases {
            let found = range(direction, start, stop, StreamPosition(20));
            assert_eq!(bounds(found), expected, "{direction:?} {start} {stop:?}");
        }
    }
}
