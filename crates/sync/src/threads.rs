//! The threads of a room (client-server API, "Querying threads in a room").

use std::collections::HashMap;
use std::sync::Arc;

use myelin_core::number::{EventNr, StreamPosition};
use myelin_rooms::Room;
use myelin_storage::{
    events::Direction,
    relations::{self, Thread},
    timelines::HistoryPlace,
};
use myelin_users::Requester;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    EventJson, Sync, SyncError,
    access::{Access, access},
    client_event::{Form, Seen, client_events},
    filter::MAX_LIMIT,
    ignored_users::ignored_by,
    messages::DEFAULT_LIMIT,
    token::PageToken,
    visibility::visible,
};

/// How often more threads are read because too few of those read are wanted.
const MAX_ROUNDS: usize = 8;

/// How many are read at once at least.
const MIN_READ: usize = 50;

/// Which threads are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Include {
    /// All of them.
    #[default]
    All,
    /// Those which the user began or wrote in.
    Participated,
}

/// What a client asks of `/threads`.
#[derive(Clone, Debug)]
pub struct ThreadsRequest {
    /// Who asks.
    pub viewer: Requester,
    /// The room.
    pub room_id: OwnedRoomId,
    /// Which threads.
    pub include: Include,
    /// How many at most.
    pub limit: Option<u64>,
    /// Where to begin; with the latest if absent.
    pub from: Option<String>,
}

/// A page of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Threads {
    /// The events with which the threads began, those with the latest last event first.
    pub chunk: Vec<EventJson>,
    /// Where the next page begins; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

/// What was read of a room's threads.
struct Page {
    roots: Vec<(Seen, HistoryPlace)>,
    /// The next page begins here, if there is one.
    next: Option<HistoryPlace>,
}

impl Sync {
    /// A page of a room's threads.
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] if the user may not read the room, [`SyncError::InvalidParam`],
    /// [`SyncError::Storage`].
    pub async fn threads(&self, request: &ThreadsRequest) -> Result<Threads, SyncError> {
        let limit = match request.limit {
            Some(0) => {
                let message = "The limit has to be greater than zero";
                return Err(SyncError::InvalidParam(message.to_owned()));
            }
            Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_LIMIT),
            None => DEFAULT_LIMIT,
        };
        let (rooms, viewer) = (self.rooms(), &request.viewer);
        let from: Option<PageToken> = request.from.as_deref().map(str::parse).transpose()?;
        let (room, access) = access(rooms, &viewer.user_id, &request.room_id).await?;
        let newest = access.upto(rooms.events_stream().readable());
        let from = from.unwrap_or_else(|| PageToken::first(Direction::Backward, newest));
        let (before, upto) = match from {
            PageToken::Stream(upto) => (HistoryPlace::END, upto.min(newest)),
            PageToken::History { place, upto } => (place, upto.min(newest)),
        };
        let ignored = ignored_by(rooms, &viewer.user_id).await?;
        let reader = (&room, access, &ignored[..]);
        let page = self.thread_page(request, reader, (before, upto), limit);
        let page = page.await?;
        let roots: Vec<Seen> = page
            .roots
            .into_iter()
            .map(|(mut root, _)| {
                // As if the client had put the thread together from what it may see.
                root.pruned = ignored.contains(&root.event.pdu.sender);
                root
            })
            .collect();
        let form = Form::alone(viewer).bundled(access);
        Ok(Threads {
            chunk: client_events(rooms, &room, &roots, form).await?,
            next_batch: page
                .next
                .map(|place| PageToken::History { place, upto }.to_string()),
        })
    }

    /// Reads threads until there are as many as asked for.
    async fn thread_page(
        &self,
        request: &ThreadsRequest,
        (room, access, ignored): (&Arc<Room>, Access, &[OwnedUserId]),
        (mut before, upto): (HistoryPlace, StreamPosition),
        limit: usize,
    ) -> Result<Page, SyncError> {
        let user = &request.viewer.user_id;
        let count = (limit + 1).max(MIN_READ);
        let mut roots: Vec<(Seen, HistoryPlace)> = Vec::new();
        let mut next = None;
        for _ in 0..MAX_ROUNDS {
            let found = self.read_threads((room, ignored), request, (before, upto), count);
            let found = found.await?;
            let last = found.last().filter(|_| found.len() == count);
            next = last.map(|thread| thread.root.place);
            let threads: HashMap<EventNr, Thread> = found
                .iter()
                .map(|thread| (thread.root.event, *thread))
                .collect();
            let events = self.load(room, found.iter().map(|thread| thread.root.event));
            let seen = visible(self.rooms(), room, user, access, events.await?).await?;
            roots.extend(seen.into_iter().filter_map(|seen| {
                let thread = threads.get(&seen.event.nr)?;
                let takes_part = thread.participated || seen.event.pdu.sender == *user;
                let wanted = request.include == Include::All || takes_part;
                wanted.then_some((seen, thread.root.place))
            }));
            match next {
                Some(place) if roots.len() <= limit => before = place,
                _ => break,
            }
        }
        if roots.len() > limit {
            roots.truncate(limit);
            next = roots.last().map(|(_, place)| *place);
        }
        Ok(Page { roots, next })
    }

    async fn read_threads(
        &self,
        (room, ignored): (&Arc<Room>, &[OwnedUserId]),
        request: &ThreadsRequest,
        span: (HistoryPlace, StreamPosition),
        count: usize,
    ) -> Result<Vec<Thread>, SyncError> {
        let (nr, user) = (room.key.room, request.viewer.user_id.clone());
        let ignored = ignored.to_vec();
        let found = self.rooms().database().look_up("threads", move |tx| {
            Box::pin(
                async move { relations::threads(tx, nr, span, (&user, &ignored), count).await },
            )
        });
        Ok(found.await?)
    }
}
