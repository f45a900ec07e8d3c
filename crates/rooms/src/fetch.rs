//! Getting from other servers what an event refers to: missing events, auth events, and the state at
//! the edge of a gap. Nothing here holds a room's turn while it waits for the network.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use myelin_core::{
    completeness::Completeness,
    event::{Event, Verdict},
    receive::{Decision, KnownState, Placement, RemoteNeed},
    state::{Entry, State},
    validate::ValidPdu,
};
use myelin_federation::{MissingEvents, PduList, StateIds};
use myelin_storage::{Priority, events::Known, joins};
use ruma::{EventId, OwnedEventId, ServerName};

use crate::{
    RoomError, Rooms,
    outliers::{Outliers, remote},
    room::Room,
    turn::{Candidate, Turn},
};

/// How many missing events are asked for at once (R48).
const MISSING_EVENTS: u32 = 10;

/// How often more of them are asked for while a gap is open. What is left is bridged by the state at
/// its edge.
const MISSING_ROUNDS: usize = 10;

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
    /// Asks `server` for the events between what we hold and `event`, and takes them.
    pub(crate) async fn fetch_missing(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        event: &ValidPdu,
    ) -> Result<(), RoomError> {
        let (extremities, min_depth) = {
            let turn = Turn::take(self, room).await?;
            (turn.graph.extremities.clone(), turn.graph.min_depth)
        };
        let held = room.events(self, extremities).await?;
        let mut earliest: Vec<OwnedEventId> = held
            .values()
            .map(|event| event.pdu.event_id.clone())
            .collect();
        let parents = room
            .known_events(self, event.prev_events.iter().cloned())
            .await?;
        earliest.extend(parents.into_values().filter_map(|known| match known {
            Known::Held(parent) if parent.in_timeline() => Some(parent.pdu.event_id.clone()),
            _ => None,
        }));
        earliest.sort_unstable();
        earliest.dedup();
        let mut found: BTreeMap<OwnedEventId, ValidPdu> = BTreeMap::new();
        let mut latest = vec![event.event_id.clone()];
        for _ in 0..MISSING_ROUNDS {
            let wanted = MissingEvents {
                earliest_events: &earliest,
                latest_events: &latest,
                limit: MISSING_EVENTS,
                min_depth,
            };
            let new = match self.ask_for_missing(room, server, &wanted, &found).await {
                Ok(new) if new.is_empty() => break,
                Ok(new) => new,
                Err(error) if found.is_empty() => return Err(error),
                Err(error) => {
                    // The gap is smaller by what came until now.
                    tracing::info!(room = %room.key.room_id, %server, %error, "a gap stays open");
                    break;
                }
            };
            found.extend(new.into_iter().map(|pdu| (pdu.event_id.clone(), pdu)));
            latest = self.still_open(room, &found).await?;
            if latest.is_empty() {
                break;
            }
        }
        self.take_pulled(room, server, found.into_values().collect(), false)
            .await
    }

    async fn ask_for_missing(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        wanted: &MissingEvents<'_>,
        found: &BTreeMap<OwnedEventId, ValidPdu>,
    ) -> Result<Vec<ValidPdu>, RoomError> {
        let key = &room.key;
        let answer = self
            .asking()
            .get_missing_events(server, &key.room_id, wanted)
            .await
            .map_err(remote)?;
        let pdus = self.validate(key.version, &key.room_id, answer).await;
        Ok(pdus
            .into_iter()
            .flatten()
            .filter(|pdu| !found.contains_key(&pdu.event_id))
            .collect())
    }

    /// Which of the events that were found have parents that are neither found nor in the timeline.
    async fn still_open(
        &self,
        room: &Arc<Room>,
        found: &BTreeMap<OwnedEventId, ValidPdu>,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let parents: BTreeSet<OwnedEventId> = found
            .values()
            .flat_map(|pdu| pdu.prev_events.iter().cloned())
            .collect();
        let known = room.known_events(self, parents).await?;
        let placed = |id: &OwnedEventId| {
            found.contains_key(id)
                || matches!(known.get(id), Some(Known::Held(parent)) if parent.in_timeline())
        };
        let open = found
            .values()
            .filter(|pdu| !pdu.prev_events.iter().all(placed));
        Ok(open.map(|pdu| pdu.event_id.clone()).collect())
    }

    /// Takes events that were asked for, parents first. One that can't be placed does not keep the
    /// others from being taken.
    pub(crate) async fn take_pulled(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        mut pdus: Vec<ValidPdu>,
        backfilled: bool,
    ) -> Result<(), RoomError> {
        pdus.sort_by_key(|pdu| pdu.depth);
        for pdu in pdus {
            if self.rests(room, &pdu).await? {
                continue;
            }
            let id = pdu.event_id.clone();
            match self.pull(room, server, pdu, backfilled).await {
                Ok(()) => self.forget_failed_pulls(&id).await?,
                Err(RoomError::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(room = %room.key.room_id, event = %id, %error, "pull failed");
                    self.note_failed_pull(&id, &error).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether an event can wait because it failed, or because a parent that is missing did: the state
    /// there would have to be asked for again.
    async fn rests(&self, room: &Arc<Room>, pdu: &ValidPdu) -> Result<bool, RoomError> {
        let parents = room
            .known_events(self, pdu.prev_events.iter().cloned())
            .await?;
        let in_timeline = |id: &OwnedEventId| matches!(parents.get(id), Some(Known::Held(parent)) if parent.in_timeline());
        let missing = pdu.prev_events.iter().filter(|id| !in_timeline(id));
        for id in missing.chain([&pdu.event_id]) {
            if self.is_backed_off(id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// After n failures an event is not pulled for 2^min(n, 8) hours (R59).
    async fn is_backed_off(&self, id: &EventId) -> Result<bool, RoomError> {
        let Some((attempts, last_ms)) = self.pull_failure(id).await? else {
            return Ok(false);
        };
        let wait_ms = (1_u64 << attempts.min(8)) * 3_600_000;
        Ok(self.env().clock.now_ms() < last_ms + wait_ms)
    }

    /// How often an event failed, and when it did last, in Unix milliseconds.
    async fn pull_failure(&self, id: &EventId) -> Result<Option<(u32, u64)>, RoomError> {
        let wanted = id.to_owned();
        self.database()
            .read("pull failures", move |tx| {
                Box::pin(async move { joins::pull_failure(tx, &wanted).await })
            })
            .await
            .map_err(RoomError::Storage)
    }

    async fn note_failed_pull(&self, id: &EventId, error: &RoomError) -> Result<(), RoomError> {
        let id = id.to_owned();
        let error = error.to_string();
        let now_ms = self.env().clock.now_ms();
        self.database()
            .write("note a failed pull", Priority::Bulk, move |tx| {
                Box::pin(async move { joins::put_pull_failure(tx, &id, now_ms, &error).await })
            })
            .await
            .map_err(RoomError::Storage)
    }

    async fn forget_failed_pulls(&self, id: &EventId) -> Result<(), RoomError> {
        if self.pull_failure(id).await?.is_none() {
            return Ok(());
        }
        let id = id.to_owned();
        self.database()
            .write("an event was pulled", Priority::Bulk, move |tx| {
                Box::pin(async move { joins::delete_pull_failure(tx, &id).await })
            })
            .await
            .map_err(RoomError::Storage)
    }

    /// Takes one event that was asked for. Parents that can't be had are replaced by the state after
    /// them, as `server` gives it (R55).
    async fn pull(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        pdu: ValidPdu,
        backfilled: bool,
    ) -> Result<(), RoomError> {
        let mut after_missing = BTreeMap::new();
        let mut asked_for_auth = false;
        loop {
            let mut turn = Turn::take(self, room).await?;
            let placement = Placement::Pulled {
                backfilled,
                after_missing: after_missing.clone(),
            };
            let need = match turn
                .decide(Candidate {
                    pdu: pdu.clone(),
                    placement,
                })
                .await?
            {
                Decision::Done(plan) => {
                    turn.accept(plan).await?;
                    return Ok(turn.commit().await?);
                }
                Decision::Drop(_) => return Ok(()),
                Decision::NeedRemote(need) => need,
                other => return Err(RoomError::Internal(format!("a pull ended in {other:?}"))),
            };
            drop(turn);
            match need {
                RemoteNeed::AuthEvents(missing) if asked_for_auth => {
                    return Err(RoomError::NoServer(format!("no auth events {missing:?}")));
                }
                RemoteNeed::AuthEvents(_) => {
                    asked_for_auth = true;
                    self.fetch_auth_events(room, server, &pdu.event_id).await?;
                }
                RemoteNeed::StatesAfter(parents) | RemoteNeed::Parents(parents) => {
                    for parent in parents {
                        let fetched = self.fetch_state_after(room, server, &parent).await?;
                        after_missing.insert(parent, fetched.state);
                    }
                }
            }
        }
    }

    /// Asks a server for the auth chain of an event, and stores it.
    pub(crate) async fn fetch_auth_events(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<(), RoomError> {
        let room_id = &room.key.room_id;
        let chain = self
            .asking()
            .event_auth(server, room_id, event_id)
            .await
            .map_err(remote)?;
        let mut outliers = Outliers::new(self, room);
        for json in chain {
            outliers.push(PduList::AuthChain, json).await?;
        }
        outliers.finish().await?;
        Ok(())
    }

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
        let mut wanted: HashSet<OwnedEventId> = ids
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
    ) -> Result<HashMap<OwnedEventId, myelin_core::number::EventNr>, RoomError> {
        let room = room.key.room;
        let held = self
            .database()
            .read("held events", move |tx| {
                Box::pin(async move { myelin_storage::events::held(tx, room, &ids).await })
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
                let name = myelin_core::key_table::StateKey::new(
                    event.pdu.event_type.to_string(),
                    state_key,
                );
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
            let name =
                myelin_core::key_table::StateKey::new(event.pdu.event_type.to_string(), state_key);
            room.intern([name]);
        }
        myelin_core::receive::apply(
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
