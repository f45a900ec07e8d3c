//! History from other servers, when somebody reads further back than this server holds (R61–R67).

use std::{collections::BTreeMap, sync::Arc};

use myelin_core::{event::Event, number::EventNr};
use myelin_storage::{
    events,
    extremities::{self, BackwardExtremity},
};
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use crate::{RoomError, Rooms, candidates::named, room::Room, validation::foreign};

/// How many events are asked for.
const ASKED_FOR: u32 = 100;

/// From how many ends of the known history one request goes back (R62).
const MOST_EXTREMITIES: usize = 5;

/// Of how many ends these are chosen.
const MOST_CONSIDERED: usize = 50;

/// After so many servers refused, no more are asked (R64).
const MOST_REFUSALS: usize = 5;

impl Rooms {
    /// Fetches history before `depth`, if this server lacks some there. True if there is more now.
    ///
    /// # Errors
    /// Any storage error. That no server could help is none: there is nothing more then.
    pub async fn maybe_backfill(
        &self,
        room: &Arc<Room>,
        depth: i64,
        limit: usize,
    ) -> Result<bool, RoomError> {
        if self.ends_near(room, depth, limit).await?.is_empty() {
            return Ok(false);
        }
        let _one_at_a_time = room.backfilling.lock().await;
        let near = self.ends_near(room, depth, limit).await?;
        if near.is_empty() {
            // While this one waited, another has fetched what both want (L21).
            return Ok(true);
        }
        let from = self.worth_asking(room, near).await?;
        if from.is_empty() {
            return Ok(false);
        }
        let mut refusals = 0;
        for server in self.servers_to_ask(room) {
            let room_id = &room.key.room_id;
            match self
                .asking()
                .backfill(&server, room_id, &from, ASKED_FOR)
                .await
            {
                Ok(pdus) => {
                    let key = &room.key;
                    let asked = pdus.len();
                    let valid = self.validate(key.version, &key.room_id, pdus).await;
                    // One foreign event voids the whole answer (R63).
                    if foreign(&valid) > 0 {
                        tracing::warn!(%server, room = %room_id, "a backfill had another room's events");
                        continue;
                    }
                    let valid = valid.into_iter().flatten().collect();
                    self.take_history(room, &server, valid).await?;
                    return Ok(asked > 0);
                }
                Err(error) => {
                    tracing::debug!(%server, room = %room_id, %error, "no history from it");
                    let refused = error.remote().is_some_and(|remote| remote.status < 500);
                    refusals += usize::from(refused);
                    if refusals >= MOST_REFUSALS {
                        break;
                    }
                }
            }
        }
        Ok(false)
    }

    /// The ends of the known history around a depth, deepest first.
    async fn ends_near(
        &self,
        room: &Arc<Room>,
        depth: i64,
        limit: usize,
    ) -> Result<Vec<BackwardExtremity>, RoomError> {
        let nr = room.key.room;
        let ends = self
            .database()
            .look_up("backward extremities", move |tx| {
                Box::pin(async move {
                    extremities::backward(tx, nr, depth + 100, MOST_CONSIDERED).await
                })
            })
            .await?;
        let farthest = depth - 2 * limit as i64;
        Ok(ends
            .into_iter()
            .filter(|end| end.depth >= farthest)
            .collect())
    }

    /// Of some ends of the known history the first behind which there may be something for this server to see: it
    /// may see an event that follows.
    async fn worth_asking(
        &self,
        room: &Arc<Room>,
        ends: Vec<BackwardExtremity>,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let numbers: Vec<EventNr> = ends.iter().map(|end| end.event).collect();
        let children = self.database().look_up("children", move |tx| {
            Box::pin(async move { events::children(tx, &numbers).await })
        });
        let children = children.await?.into_iter().map(|(child, _)| child);
        let children: BTreeMap<EventNr, Arc<Event>> =
            room.events(self, children).await?.into_iter().collect();
        let mut worthy = Vec::new();
        for end in ends {
            if worthy.len() == MOST_EXTREMITIES {
                break;
            }
            let names_it = |child: &&Arc<Event>| child.pdu.prev_events.contains(&end.event_id);
            for child in children.values().filter(names_it) {
                // Of this server's users a partial state tells the truth.
                if self.may_see(room, self.server_name(), child).await? {
                    worthy.push(end.event_id);
                    break;
                }
            }
        }
        Ok(worthy)
    }

    /// The servers in the room, those with most users first; while it is partial, those at the join.
    pub(crate) fn servers_to_ask(&self, room: &Arc<Room>) -> Vec<OwnedServerName> {
        let mut servers: Vec<OwnedServerName> = named(&room.servers_at_join()).collect();
        if let Some(current) = room.current() {
            let mut by_users: Vec<_> = current.state.servers().collect();
            by_users.sort_by_key(|(_, users)| std::cmp::Reverse(*users));
            let parsed = by_users
                .into_iter()
                .filter_map(|(name, _)| ServerName::parse(&**name).ok());
            servers.extend(parsed);
        }
        let mut asked: Vec<OwnedServerName> = Vec::new();
        for server in servers {
            if server != self.server_name() && !asked.contains(&server) {
                asked.push(server);
            }
            if asked.len() >= 2 * MOST_REFUSALS {
                break;
            }
        }
        asked
    }
}
