//! What was said around an event (client-server API, "Event context").

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{
    completeness::Question,
    event::Event,
    number::{EventNr, StreamPosition},
    state::State,
};
use myelin_rooms::Room;
use myelin_storage::{
    events::Direction,
    timelines::{HistoryPlace, HistoryRange},
};
use myelin_users::Requester;
use ruma::{OwnedEventId, OwnedRoomId, UserId};
use serde::Serialize;

use crate::{
    EventJson, Sync, SyncError,
    access::{Access, Asking, FULL_STATE_WAIT, placed, with_event},
    client_event::{Form, Seen, client_events},
    event::no_such_event,
    filter::{MAX_LIMIT, RoomEventFilter},
    ignored_users::ignored_as,
    lazy_members::{numbers, of_senders},
    messages::{DEFAULT_LIMIT, Page, Reading, after},
    token::PageToken,
    wanted::Wanted,
};

/// What a client asks of `/context`.
#[derive(Clone, Debug)]
pub struct ContextRequest {
    /// Who asks,
    pub viewer: Requester,
    /// and as what.
    pub asking: Asking,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event in the middle.
    pub event_id: OwnedEventId,
    /// How many events around it at most; 10 if absent.
    pub limit: Option<u64>,
    /// Which events around it.
    pub filter: RoomEventFilter,
}

/// An event and those around it.
#[derive(Clone, Debug, Serialize)]
pub struct Context {
    /// Where to read on backwards.
    pub start: String,
    /// Where to read on forwards.
    pub end: String,
    /// The event.
    pub event: EventJson,
    /// Those before it, the latest first.
    pub events_before: Vec<EventJson>,
    /// Those after it, the earliest first.
    pub events_after: Vec<EventJson>,
    /// The state after the last of all these; with lazy loading no memberships but those of the senders.
    pub state: Vec<EventJson>,
}

impl ContextRequest {
    /// How many events around the one in the middle are wanted.
    fn wanted_limit(&self) -> usize {
        let limit = self.limit.or(self.filter.limit);
        limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_LIMIT)
        })
    }
}

impl Sync {
    /// An event, and what was said around it as far as it is held here.
    ///
    /// # Errors
    /// [`SyncError::NotFound`] if there is no such event or the user may not see it,
    /// [`SyncError::StillPartial`] if all members are wanted and not known, [`SyncError::Storage`].
    pub async fn context(&self, request: &ContextRequest) -> Result<Context, SyncError> {
        let ContextRequest { viewer, filter, .. } = request;
        let by = (viewer, request.asking);
        let found = self.seen_event(by, &request.room_id, &request.event_id);
        let (room, access, seen) = found.await?;
        let newest = access.upto(self.rooms().events_stream().readable());
        let limit = request.wanted_limit();
        let ignored = ignored_as(self.rooms(), request.asking, &viewer.user_id).await?;
        let wanted = Wanted {
            filter,
            ignored: &ignored,
        };
        let reader = (&*viewer.user_id, &room, access);
        let limits = (limit / 2, limit - limit / 2);
        let (before, after) = self.around(reader, &seen, wanted, limits).await?;
        let state = self.state_around(request, &room, (&before, &seen, &after));
        let state = Box::pin(state).await?;
        let form = Form::alone(viewer).bundled(access);
        let (earlier, later) = (before.seen.len(), after.seen.len());
        let shown: Vec<Seen> = before
            .seen
            .into_iter()
            .chain(after.seen)
            .chain([seen])
            .collect();
        let mut events_before = client_events(self.rooms(), &room, &shown, form).await?;
        let mut events_after = events_before.split_off(earlier);
        let event = events_after.split_off(later).remove(0);
        let token = |place| {
            let upto = newest;
            PageToken::History { place, upto }.to_string()
        };
        Ok(Context {
            start: token(before.next),
            end: token(after.next),
            events_before,
            events_after,
            event,
            state,
        })
    }

    /// The events right before an event, and those right after it.
    pub(crate) async fn around(
        &self,
        (user, room, access): (&UserId, &Arc<Room>, Access),
        seen: &Seen,
        wanted: Wanted<'_>,
        (limit_before, limit_after): (usize, usize),
    ) -> Result<(Page, Page), SyncError> {
        let (position, _) = placed(&seen.event).ok_or_else(no_such_event)?;
        let place = HistoryPlace {
            depth: seen.event.pdu.depth,
            position,
        };
        let upto = access.upto(self.rooms().events_stream().readable());
        let read = async |direction, from, to, limit| -> Result<Page, SyncError> {
            let reading = Reading {
                viewer: user,
                direction,
                wanted,
                related: None,
                limit,
            };
            let range = HistoryRange {
                from,
                to,
                after: StreamPosition(i64::MIN),
                upto,
            };
            self.page(reading, (room, access), range).await
        };
        let before = read(
            Direction::Backward,
            HistoryPlace::START,
            place,
            limit_before,
        )
        .await?;
        let later = after(place);
        let after = read(Direction::Forward, later, HistoryPlace::END, limit_after).await?;
        Ok((before, after))
    }

    /// The state after the last of some events.
    async fn state_around(
        &self,
        request: &ContextRequest,
        room: &Arc<Room>,
        (before, seen, after): (&Page, &Seen, &Page),
    ) -> Result<Vec<EventJson>, SyncError> {
        let last = &after.seen.last().unwrap_or(seen).event;
        let wanted: Vec<EventNr> = if request.filter.lazy_load_members {
            let state = self
                .state_after(room, last, Question::OtherThanMembers)
                .await?;
            let before = before.seen.iter().rev();
            let shown = before.chain([seen]).chain(&after.seen).cloned();
            let shown: Vec<Seen> = shown.collect();
            let among = (&shown[..], &numbers(&shown));
            let members = of_senders(self.rooms(), room, among, &state, &state).await?;
            let members: BTreeSet<EventNr> = members.into_values().collect();
            let others = state.others().map(|(_, entry)| entry.event());
            others.chain(members).collect()
        } else {
            let state = self.state_after(room, last, Question::AllMembers).await?;
            state.entries().map(|(_, entry)| entry.event()).collect()
        };
        self.state_events(&request.viewer, room, &wanted).await
    }

    /// The state after a timeline event, if it can answer a question. Waits for the resync of a partial join,
    /// for a limited time.
    async fn state_after(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        question: Question,
    ) -> Result<State, SyncError> {
        let answering = |event: &Event| event.before()?.answering(question);
        let mut snapshot = answering(event);
        if snapshot.is_none() {
            self.rooms().wait_for_full(room, FULL_STATE_WAIT).await?;
            let later = room.events(self.rooms(), [event.nr]).await?;
            snapshot = later.get(&event.nr).and_then(|event| answering(event));
        }
        let snapshot = snapshot.ok_or(SyncError::StillPartial)?;
        let state = room.state(self.rooms(), snapshot).await?;
        Ok(with_event(room, state, event))
    }
}
