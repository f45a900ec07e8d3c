//! Getting from other servers what an event refers to: missing events and auth events. Nothing here
//! holds a room's turn while it waits for the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use myelin_core::{
    receive::{Decision, Placement, RemoteNeed},
    validate::ValidPdu,
};
use myelin_federation::{MissingEvents, PduList};
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
        for candidate in self.seek_recommendations(room, pdus).await? {
            let pdu = &candidate.pdu;
            if self.rests(room, pdu).await? {
                continue;
            }
            let id = pdu.event_id.clone();
            match self.pull(room, server, candidate, backfilled).await {
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
            .look_up("pull failures", move |tx| {
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
        mut candidate: Candidate,
        backfilled: bool,
    ) -> Result<(), RoomError> {
        let mut after_missing = BTreeMap::new();
        let mut asked_for_auth = false;
        loop {
            let mut turn = Turn::take(self, room).await?;
            candidate.placement = Placement::Pulled {
                backfilled,
                after_missing: after_missing.clone(),
            };
            let need = match turn.decide(candidate.clone()).await? {
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
                    let event_id = &candidate.pdu.event_id;
                    self.fetch_auth_events(room, server, event_id).await?;
                }
                RemoteNeed::PolicySignature(server) => {
                    candidate = self.seek_recommendation(room, &server, candidate).await?;
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
}
