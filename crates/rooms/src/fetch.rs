//! Getting from other servers what an event refers to: missing events and auth events. Nothing here
//! holds a room's turn while it waits for the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use myelin_core::validate::ValidPdu;
use myelin_federation::{MissingEvents, PduList};
use myelin_storage::events::Known;
use ruma::{EventId, OwnedEventId, ServerName};

use crate::{
    RoomError, Rooms,
    outliers::{Outliers, remote},
    room::Room,
    turn::Turn,
    validation::foreign,
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
        self.take_pulled(room, server, found.into_values().collect())
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
        let foreign = foreign(&pdus);
        if foreign > 0 {
            tracing::warn!(room = %key.room_id, %server, foreign, "a gap had another room's events");
        }
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
