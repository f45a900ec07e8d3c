//! The events that a search finds for a user, the newest first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use myelin_core::{
    number::{RoomNr, StreamPosition},
    search::{Indexed, SearchKey, Terms},
};
use myelin_rooms::Room;
use myelin_storage::{
    search_index::{self, Found, Search},
    timelines,
};
use myelin_users::Requester;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;

use crate::{
    Sync, SyncError,
    access::{Access, access, placed},
    client_event::Seen,
    token::SearchToken,
    visibility::visible,
    wanted::Wanted,
};

/// How many results are told apart at most: the best of them are the best there are.
const MAX_HITS: usize = 500;

/// How many events that have the words are judged at most.
const MAX_JUDGED: usize = 1_000;

/// How many are judged together.
const JUDGED_TOGETHER: usize = 200;

/// How many upgrades of a room are followed back.
const MAX_PREDECESSORS: usize = 10;

/// An event that was found, and that the user may see.
pub(crate) struct Hit {
    pub(crate) room: Arc<Room>,
    pub(crate) access: Access,
    pub(crate) seen: Seen,
    pub(crate) position: StreamPosition,
    /// The text by which it was found.
    pub(crate) text: String,
    pub(crate) rank: f64,
}

/// The newest of them, newest first.
pub(crate) struct Hits {
    pub(crate) found: Vec<Hit>,
    /// If there may be more: before this position.
    pub(crate) unread_before: Option<StreamPosition>,
}

/// The rooms in which something was found, if the user was ever in them.
type Readers = HashMap<RoomNr, Option<(Arc<Room>, Access)>>;

#[derive(Deserialize)]
struct CreateContent {
    predecessor: Option<Predecessor>,
}

#[derive(Deserialize)]
struct Predecessor {
    room_id: OwnedRoomId,
}

impl Sync {
    /// The newest events before a place that have all the words, that the user may see, and that are wanted.
    pub(crate) async fn hits(
        &self,
        viewer: &Requester,
        (terms, keys): (&Terms, Vec<SearchKey>),
        wanted: Wanted<'_>,
        from: &SearchToken,
    ) -> Result<Hits, SyncError> {
        let rooms = self.searched_rooms(viewer, wanted, from).await?;
        let search = Search {
            terms: terms.clone(),
            keys,
            rooms,
        };
        let mut readers = Readers::new();
        let mut hits = Hits {
            found: Vec::new(),
            unread_before: Some(from.before),
        };
        let mut judged = 0;
        while let Some(before) = hits.unread_before
            && judged < MAX_JUDGED
            && hits.found.len() < MAX_HITS
        {
            let wish = search.clone();
            let found = self.rooms().database().read("search", move |tx| {
                Box::pin(
                    async move { search_index::find(tx, &wish, before, JUDGED_TOGETHER).await },
                )
            });
            let found = found.await?;
            judged += found.len();
            let last = found.last().filter(|_| found.len() == JUDGED_TOGETHER);
            hits.unread_before = last.map(|last| last.position);
            let judging = self.judge(viewer, &mut readers, found, wanted);
            let mut seen = Box::pin(judging).await?;
            seen.retain_mut(|hit| {
                hit.rank = terms.rank(&hit.text);
                hit.rank > 0.0 && is_in_group(hit, from)
            });
            hits.found.extend(seen);
        }
        Ok(hits)
    }

    /// The rooms that are searched: of those in which the user is anything, the wanted ones, with those that they
    /// were upgraded from.
    async fn searched_rooms(
        &self,
        viewer: &Requester,
        wanted: Wanted<'_>,
        from: &SearchToken,
    ) -> Result<Vec<RoomNr>, SyncError> {
        let user = viewer.user_id.clone();
        let known = self
            .rooms()
            .database()
            .look_up("rooms of a user", move |tx| {
                Box::pin(async move { timelines::user_rooms(tx, &user).await })
            });
        let mut known = known.await?;
        known.retain(|room| !room.forgotten);
        let mut filter = wanted.filter.clone();
        if let Some(named) = &mut filter.rooms {
            let mut older = Vec::new();
            for room in known
                .iter()
                .filter(|room| named.contains(&room.key.room_id))
            {
                older.extend(self.predecessors(&room.key.room_id).await?);
            }
            named.extend(older);
        }
        let group = from.group.as_deref().filter(|group| group.starts_with('!'));
        known.retain(|room| {
            let room_id = &room.key.room_id;
            filter.wants_room(room_id) && group.is_none_or(|group| room_id == group)
        });
        Ok(known.into_iter().map(|room| room.key.room).collect())
    }

    /// The rooms that a room was upgraded from, one after the other.
    async fn predecessors(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomId>, SyncError> {
        let mut found = Vec::new();
        let mut newest = room_id.to_owned();
        for _ in 0..MAX_PREDECESSORS {
            let Some(room) = self.rooms().room(&newest).await? else {
                break;
            };
            let create = room.current().and_then(|current| {
                let entry = current.state.get_named(&room.keys(), "m.room.create", "");
                entry.map(|entry| entry.event())
            });
            let events = room.events(self.rooms(), create).await?;
            let content = events.into_values().next().and_then(|create| {
                serde_json::from_str::<CreateContent>(create.pdu.content.get()).ok()
            });
            let Some(predecessor) = content.and_then(|content| content.predecessor) else {
                break;
            };
            newest = predecessor.room_id;
            found.push(newest.clone());
        }
        Ok(found)
    }

    /// Of some events, those that the user may see and wants, in the same order.
    async fn judge(
        &self,
        viewer: &Requester,
        readers: &mut Readers,
        found: Vec<Found>,
        wanted: Wanted<'_>,
    ) -> Result<Vec<Hit>, SyncError> {
        let mut by_room: BTreeMap<RoomNr, Vec<Found>> = BTreeMap::new();
        for found in found {
            by_room.entry(found.room).or_default().push(found);
        }
        let readable = self.rooms().events_stream().readable();
        let mut hits = Vec::new();
        for (nr, found) in by_room {
            let Some((room, access)) = self.reader(viewer, readers, nr).await? else {
                continue;
            };
            let upto = access.upto(readable);
            let found = found.iter().filter(|found| found.position <= upto);
            let events = self.load(&room, found.map(|found| found.event)).await?;
            let seen = visible(self.rooms(), &room, &viewer.user_id, access, events).await?;
            let seen = wanted.of(self.rooms(), &room, seen).await?;
            hits.extend(seen.into_iter().filter_map(|seen| {
                let event = &seen.event;
                let text = Indexed::text_of(&event.pdu.json)?;
                // It may have been redacted a moment ago.
                event.redacted_by.is_none().then_some(())?;
                let (position, _) = placed(event)?;
                let room = room.clone();
                Some(Hit {
                    room,
                    access,
                    seen,
                    position,
                    text,
                    rank: 0.0,
                })
            }));
        }
        hits.sort_by_key(|hit| std::cmp::Reverse(hit.position));
        Ok(hits)
    }

    /// A room, and by what right the user searches it. Nobody searches rooms that they only could look into.
    async fn reader(
        &self,
        viewer: &Requester,
        readers: &mut Readers,
        nr: RoomNr,
    ) -> Result<Option<(Arc<Room>, Access)>, SyncError> {
        if let Some(known) = readers.get(&nr) {
            return Ok(known.clone());
        }
        let reader = match self.rooms().room_by_nr(nr).await? {
            Some(room) => match access(self.rooms(), &viewer.user_id, &room.key.room_id).await {
                Ok((_, Access::Peeking)) | Err(SyncError::Forbidden(_)) => None,
                reader => Some(reader?),
            },
            None => None,
        };
        readers.insert(nr, reader.clone());
        Ok(reader)
    }
}

/// Whether a hit belongs to the group in which a client goes on.
fn is_in_group(hit: &Hit, from: &SearchToken) -> bool {
    let group = from.group.as_deref();
    group.is_none_or(|group| hit.room.key.room_id == group || hit.seen.event.pdu.sender == group)
}
