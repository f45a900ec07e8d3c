//! What relates to an event (client-server API, "Relationships API").

use myelin_storage::{events::Direction, relations::Related, timelines::HistoryPlace};
use myelin_users::Requester;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Serialize;

use crate::{
    EventJson, Sync, SyncError,
    access::{Asking, placed},
    client_event::{Form, client_events},
    filter::{MAX_LIMIT, RoomEventFilter},
    ignored_users::ignored_by,
    messages::{DEFAULT_LIMIT, Page, Reading, after, range},
    token::PageToken,
    wanted::Wanted,
};

/// Over how many relations indirect ones are followed.
const RECURSION_DEPTH: u32 = 3;

/// What a client asks of `/relations`.
#[derive(Clone, Debug)]
pub struct RelationsRequest {
    /// Who asks.
    pub viewer: Requester,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event to which others relate.
    pub event_id: OwnedEventId,
    /// Only relations of this kind.
    pub rel_type: Option<String>,
    /// Only events of this type.
    pub event_type: Option<String>,
    /// Which way to go.
    pub direction: Direction,
    /// Where to begin; the last or the first event if absent.
    pub from: Option<String>,
    /// Where to stop.
    pub to: Option<String>,
    /// How many events at most.
    pub limit: Option<u64>,
    /// Whether what relates to what relates to the event is wanted, too, if the client said.
    pub recurse: Option<bool>,
}

/// Events that relate to another.
#[derive(Clone, Debug, Serialize)]
pub struct Relations {
    /// The events, in the direction that was asked for.
    pub chunk: Vec<EventJson>,
    /// Where the next page begins; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where this page began, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// Over how many relations indirect ones were followed, if the client asked about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursion_depth: Option<u32>,
}

impl Sync {
    /// A page of the events that relate to another, in topological order.
    ///
    /// # Errors
    /// [`SyncError::NotFound`] if there is no such event or the user may not see it,
    /// [`SyncError::InvalidParam`], [`SyncError::Storage`].
    pub async fn relations(&self, request: &RelationsRequest) -> Result<Relations, SyncError> {
        let rooms = self.rooms();
        let from: Option<PageToken> = request.from.as_deref().map(str::parse).transpose()?;
        let to: Option<PageToken> = request.to.as_deref().map(str::parse).transpose()?;
        let RelationsRequest { viewer, .. } = request;
        let by = (viewer, Asking::AsUser);
        let found = self.seen_event(by, &request.room_id, &request.event_id);
        let (room, access, _) = found.await?;
        let newest = access.upto(rooms.events_stream().readable());
        let start = from.unwrap_or_else(|| PageToken::first(request.direction, newest));
        let range = range(request.direction, start, to, newest);
        let levels = request.recurse.map(|recurse| match recurse {
            true => RECURSION_DEPTH,
            false => 1,
        });
        let related = Related {
            parent: request.event_id.clone(),
            rel_type: request.rel_type.clone(),
            event_type: request.event_type.clone(),
            levels: levels.unwrap_or(1),
        };
        let limit = request.limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let limit = limit.clamp(1, MAX_LIMIT);
        let reading = Reading {
            viewer: &viewer.user_id,
            direction: request.direction,
            wanted: Wanted {
                filter: &RoomEventFilter::default(),
                ignored: &ignored_by(rooms, &viewer.user_id).await?,
            },
            related: Some(&related),
            // One more, to know whether there is one more.
            limit: limit + 1,
        };
        let mut page = self.page(reading, (&room, access), range).await?;
        let next = page.cut(limit, request.direction);
        let form = Form::alone(viewer).bundled(access);
        Ok(Relations {
            chunk: client_events(rooms, &room, &page.seen, form).await?,
            next_batch: next.map(|place| {
                let upto = range.upto;
                PageToken::History { place, upto }.to_string()
            }),
            prev_batch: request.from.clone(),
            recursion_depth: levels,
        })
    }
}

impl Page {
    /// Keeps the first events only. Returns where the rest begins, if there is one.
    fn cut(&mut self, limit: usize, direction: Direction) -> Option<HistoryPlace> {
        if self.seen.len() <= limit {
            return (!self.exhausted).then_some(self.next);
        }
        self.seen.truncate(limit);
        let last = &self.seen.last()?.event;
        let (position, _) = placed(last)?;
        let depth = last.pdu.depth;
        let place = HistoryPlace { depth, position };
        Some(match direction {
            Direction::Backward => place,
            Direction::Forward => after(place),
        })
    }
}
