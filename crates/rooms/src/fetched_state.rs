//! The state at the edge of a gap, or of a room that was joined partially, as another server gives it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use myelin_core::{
    completeness::Completeness,
    event::{Event, Verdict},
    key_table::StateKey,
    number::EventNr,
    receive::{KnownState, apply},
    state::{Entry, State},
};
use myelin_federation::{PduList, StateIds};
use myelin_storage::events::{self, Known};
use ruma::{EventId, OwnedEventId, ServerName};

use crate::{
    RoomError, Rooms,
    outliers::{Outliers, remote},
    room::Room,
};

/// How many `/event` requests run at once (R56).
const PARALLEL_EVENTS: usize = 5;

/// How many event IDs are looked up in one query.
const LOOKED_UP_TOGETHER: usize = 1_000;

/// A state as another server gave it.
pub(crate) struct Fetched {
    pub(crate) state: KnownState,
    /// How many of its events were of no use.
    pub(crate) left_out: usize,
}

impl Rooms {
    /// The state after an event that we can't place, as a server gives it: everything that it lists,
    /// or an error (R58). Only what it gave and nobody could verify is left out, and counted, or a room
    /// with one such event would never be complete.
    pub(crate) async fn fetch_state_after(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Fetched, RoomError> {
        let room_id = &room.key.room_id;
        let ids = self
            .asking()
            .state_ids(server, room_id, event_id)
            .await
            .map_err(remote)?;
        let missing = self.not_held(room, event_id, &ids).await?;
        // Above a tenth, one large answer is cheaper than many small ones (R56).
        let (state, left_out) =
            if missing.len() * 10 >= ids.pdu_ids.len() + ids.auth_chain_ids.len() {
                self.fetch_whole_state(room, server, event_id, &ids).await?
            } else {
                let left_out = self.fetch_events(room, server, missing).await?;
                self.state_of_ids(room, &ids, &left_out).await?
            };
        // A room without it is none.
        if state.get_named(&room.keys(), "m.room.create", "").is_none() {
            let why = format!("{server} gave a state without a create event");
            return Err(RoomError::NoServer(why));
        }
        let state = self.with_event(room, server, event_id, state).await?;
        Ok(Fetched { state, left_out })
    }

    /// Which events of a state, its auth chain and the event itself we don't hold.
    async fn not_held(
        &self,
        room: &Arc<Room>,
        event_id: &EventId,
        ids: &StateIds,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        // In order: what is asked for of others does not follow the order of a hash map.
        let mut wanted: BTreeSet<OwnedEventId> = ids
            .pdu_ids
            .iter()
            .chain(&ids.auth_chain_ids)
            .cloned()
            .collect();
        wanted.insert(event_id.to_owned());
        let wanted: Vec<_> = wanted.into_iter().collect();
        let mut missing = Vec::new();
        for piece in wanted.chunks(LOOKED_UP_TOGETHER) {
            let held = self.held_ids(room, piece.to_vec()).await?;
            missing.extend(piece.iter().filter(|id| !held.contains_key(*id)).cloned());
        }
        Ok(missing)
    }

    /// The numbers of those events that are held. Only existence is looked at (L25).
    async fn held_ids(
        &self,
        room: &Arc<Room>,
        ids: Vec<OwnedEventId>,
    ) -> Result<HashMap<OwnedEventId, EventNr>, RoomError> {
        let room = room.key.room;
        let held = self
            .database()
            .look_up("held events", move |tx| {
                Box::pin(async move { events::held(tx, room, &ids).await })
            })
            .await?;
        Ok(held.into_iter().collect())
    }

    /// The state in one answer, and how much of it was left out.
    async fn fetch_whole_state(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        event_id: &EventId,
        ids: &StateIds,
    ) -> Result<(State, usize), RoomError> {
        let room_id = &room.key.room_id;
        let stream = self
            .asking()
            .state_stream(server, room_id, event_id)
            .await
            .map_err(remote)?;
        let mut outliers = Outliers::new(self, room).expecting(&ids.pdu_ids);
        outliers.read(stream).await?;
        let listed = outliers.finish().await?;
        let absent = ids.pdu_ids.iter().filter(|id| !listed.stored.contains(*id));
        let left_out = left_out(absent, &listed.left_out)?;
        Ok((listed.into_state(room), left_out))
    }

    /// Asks for events one by one, and tells which came but could not be stored.
    async fn fetch_events(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        ids: Vec<OwnedEventId>,
    ) -> Result<HashSet<OwnedEventId>, RoomError> {
        let answers: Vec<_> = stream::iter(ids)
            .map(|id| async move { self.asking().event(server, &id).await })
            .buffer_unordered(PARALLEL_EVENTS)
            .collect()
            .await;
        let mut outliers = Outliers::new(self, room);
        for answer in answers {
            match answer {
                Ok(json) => outliers.push(PduList::AuthChain, json).await?,
                Err(error) => tracing::debug!(%server, %error, "an event could not be fetched"),
            }
        }
        Ok(outliers.finish().await?.left_out)
    }

    /// The state that is made of these events, and how many of them were left out.
    async fn state_of_ids(
        &self,
        room: &Arc<Room>,
        ids: &StateIds,
        unusable: &HashSet<OwnedEventId>,
    ) -> Result<(State, usize), RoomError> {
        let mut entries = Vec::new();
        let mut absent = Vec::new();
        for piece in ids.pdu_ids.chunks(LOOKED_UP_TOGETHER) {
            let known = room.known_events(self, piece.iter().cloned()).await?;
            for id in piece {
                let Some(Known::Held(event)) = known.get(id) else {
                    absent.push(id);
                    continue;
                };
                let Some(state_key) = event.pdu.state_key.clone() else {
                    continue;
                };
                if event.verdict == Verdict::Rejected {
                    continue;
                }
                let name = StateKey::new(event.pdu.event_type.to_string(), state_key);
                room.intern([name.clone()]);
                if let Some(key) = room.keys().number(&name.event_type, &name.state_key) {
                    entries.push((key, Entry::new(event.nr, event.pdu.membership)));
                }
            }
        }
        let left_out = left_out(absent.into_iter(), unusable)?;
        entries.sort_unstable();
        entries.dedup_by_key(|(key, _)| *key);
        let state = State::from_entries(room.hash_key, &room.keys(), entries);
        Ok((state, left_out))
    }

    /// Adds the event itself, which must be had, to the state before it.
    async fn with_event(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        event_id: &EventId,
        mut state: State,
    ) -> Result<KnownState, RoomError> {
        let event: Arc<Event> = match room.event_by_id(self, event_id).await? {
            Some(event) => event,
            None => {
                self.fetch_events(room, server, vec![event_id.to_owned()])
                    .await?;
                room.event_by_id(self, event_id)
                    .await?
                    .ok_or_else(|| RoomError::NoServer(format!("event {event_id} can't be had")))?
            }
        };
        if let Some(state_key) = &event.pdu.state_key {
            let name = StateKey::new(event.pdu.event_type.to_string(), state_key);
            room.intern([name]);
        }
        apply(
            &room.keys(),
            &mut state,
            event.nr,
            &event.pdu,
            event.verdict,
        );
        Ok(KnownState {
            state,
            completeness: Completeness::FULL,
        })
    }
}

/// How many events of a list are not held because they came and were unusable. One that did not come
/// makes the list be of no use.
fn left_out<'e>(
    absent: impl Iterator<Item = &'e OwnedEventId>,
    unusable: &HashSet<OwnedEventId>,
) -> Result<usize, RoomError> {
    let mut left_out = 0;
    for id in absent {
        if !unusable.contains(id) {
            return Err(RoomError::NoServer(format!(
                "state event {id} can't be had"
            )));
        }
        left_out += 1;
    }
    Ok(left_out)
}
