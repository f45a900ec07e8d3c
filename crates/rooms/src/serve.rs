//! What other servers may ask about rooms (server-server API, "Retrieving events", "Backfilling and
//! retrieving missing events"; while a room is partial, R106–R108).

use std::{collections::BTreeSet, iter, sync::Arc};

use myelin_core::{
    completeness::Question,
    event::{Event, Verdict},
    number::EventNr,
    pdu,
    state::{Membership, State},
    visibility::{HistoryVisibility, ServerFacts, server_may_see, server_may_see_while_partial},
};
use myelin_storage::{
    StorageError, accounts,
    events::{self, Known},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::json;

use crate::{Rooms, ServeError, pdu_answer::PduAnswer, room::Room};

/// The most events that `get_missing_events` and `backfill` give (R60).
const MOST_MISSING: usize = 20;
const MOST_BACKFILLED: usize = 100;

/// What `get_missing_events` asks for.
#[derive(Clone, Debug, Deserialize)]
struct MissingEventsWanted {
    earliest_events: Vec<OwnedEventId>,
    latest_events: Vec<OwnedEventId>,
    limit: Option<usize>,
    #[serde(default)]
    min_depth: i64,
}

impl Rooms {
    /// `GET /event`: one event, in the form of a transaction.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_event(
        &self,
        origin: &ServerName,
        event_id: &EventId,
    ) -> Result<String, ServeError> {
        let wanted = event_id.to_owned();
        let key = self
            .database()
            .look_up("room of an event", move |tx| {
                Box::pin(async move { events::room_of(tx, &wanted).await })
            })
            .await?
            .ok_or_else(|| unknown_event(event_id))?;
        let room = self.room_for(origin, &key.room_id).await?;
        if room.is_partial() {
            return Err(ServeError::Partial);
        }
        let event = room
            .event_by_id(self, event_id)
            .await?
            .ok_or_else(|| unknown_event(event_id))?;
        let erased = self.erased(iter::once(&*event.pdu.sender)).await?;
        let json = match erased.is_empty() {
            true => self.for_server(&room, origin, &event).await?,
            false => redacted(&room, &event)?,
        };
        Ok(self.transaction(&[json]))
    }

    /// `GET /state_ids`: the state before an event and its auth chain, as IDs.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_state_ids(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<String, ServeError> {
        let room = self.room_for(origin, room_id).await?;
        let state = self.state_before(&room, event_id).await?;
        let numbers: Vec<EventNr> = state.entries().map(|(_, entry)| entry.event()).collect();
        let chain = self.auth_chain(&room, &numbers).await?;
        let pdu_ids = self.ids(numbers).await?;
        let auth_chain_ids = self.ids(chain).await?;
        Ok(json!({ "pdu_ids": pdu_ids, "auth_chain_ids": auth_chain_ids }).to_string())
    }

    /// `GET /state`: the same with the events themselves.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_state(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<PduAnswer, ServeError> {
        let room = self.room_for(origin, room_id).await?;
        let state = self.state_before(&room, event_id).await?;
        let numbers: Vec<EventNr> = state.entries().map(|(_, entry)| entry.event()).collect();
        let chain = self.auth_chain(&room, &numbers).await?;
        let mut answer = PduAnswer::new(self);
        answer.text(r#"{"auth_chain":["#);
        answer.pdus(chain);
        answer.text(r#"],"pdus":["#);
        answer.pdus(numbers);
        answer.text("]}");
        Ok(answer)
    }

    /// `GET /event_auth`: the auth chain of an event.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_event_auth(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<PduAnswer, ServeError> {
        let room = self.room_for(origin, room_id).await?;
        if room.is_partial() {
            return Err(ServeError::Partial);
        }
        let event = room
            .event_by_id(self, event_id)
            .await?
            .ok_or_else(|| unknown_event(event_id))?;
        let claimed = event.pdu.auth_events.iter().cloned();
        let claimed = room.held_numbers(self, claimed).await?;
        let mut chain: BTreeSet<EventNr> = claimed.iter().copied().collect();
        chain.extend(self.auth_chain(&room, &claimed).await?);
        let mut answer = PduAnswer::new(self);
        answer.text(r#"{"auth_chain":["#);
        answer.pdus(chain.into_iter().collect());
        answer.text("]}");
        Ok(answer)
    }

    /// `POST /get_missing_events`: events between those that the asker has and those it got.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_missing_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        body: &[u8],
    ) -> Result<String, ServeError> {
        let wanted: MissingEventsWanted =
            serde_json::from_slice(body).map_err(|error| ServeError::BadJson(error.to_string()))?;
        let room = self.room_for_history(origin, room_id).await?;
        let limit = wanted.limit.unwrap_or(10).min(MOST_MISSING);
        let latest = self.parents_of(&room, &wanted.latest_events).await?;
        let stop = wanted.earliest_events.into_iter().collect();
        let mut found = self
            .walk_back(&room, latest, stop, limit, wanted.min_depth)
            .await?;
        found.sort_by_key(|event| (event.pdu.depth, event.nr));
        let jsons = self.all_for_server(&room, origin, &found).await?.join(",");
        Ok(format!(r#"{{"events":[{jsons}]}}"#))
    }

    /// `GET /backfill`: events before some, those included.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_backfill(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        from: Vec<OwnedEventId>,
        limit: usize,
    ) -> Result<String, ServeError> {
        let room = self.room_for_history(origin, room_id).await?;
        let limit = limit.min(MOST_BACKFILLED);
        let found = self
            .walk_back(&room, from, BTreeSet::new(), limit, 0)
            .await?;
        let jsons = self.all_for_server(&room, origin, &found).await?;
        Ok(self.transaction(&jsons))
    }

    fn transaction(&self, pdus: &[String]) -> String {
        let now = self.env().clock.now_ms();
        let pdus = pdus.join(",");
        let origin = self.server_name();
        format!(r#"{{"origin":"{origin}","origin_server_ts":{now},"pdus":[{pdus}]}}"#)
    }

    /// A room that the asking server is in.
    pub(crate) async fn room_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Arc<Room>, ServeError> {
        let room = self.allowed_room(origin, room_id).await?;
        if room.has_server(origin) {
            return Ok(room);
        }
        // While members are missing it cannot be told.
        if room.is_partial() {
            Err(ServeError::Partial)
        } else {
            Err(not_in_room(origin))
        }
    }

    /// A room whose history the asking server may see at least in part: while it is partial, servers
    /// that were in it at the join count too.
    async fn room_for_history(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Arc<Room>, ServeError> {
        let room = self.allowed_room(origin, room_id).await?;
        let was_in = room
            .servers_at_join()
            .iter()
            .any(|server| server == origin.as_str());
        if was_in || room.has_server(origin) {
            Ok(room)
        } else {
            Err(not_in_room(origin))
        }
    }

    /// The full state before a timeline event.
    async fn state_before(
        &self,
        room: &Arc<Room>,
        event_id: &EventId,
    ) -> Result<State, ServeError> {
        if room.is_partial() {
            return Err(ServeError::Partial);
        }
        let event = room
            .event_by_id(self, event_id)
            .await?
            .ok_or_else(|| unknown_event(event_id))?;
        let before = match event.before() {
            Some(before) if event.verdict != Verdict::Rejected => before,
            _ => {
                return Err(ServeError::NotFound(
                    "there is no state at that event".into(),
                ));
            }
        };
        let snapshot = before
            .answering(Question::ForeignServer)
            .ok_or(ServeError::Partial)?;
        Ok(room.state(self, snapshot).await?)
    }

    /// The auth chain of some state events. Where the room's ID stands for the create event, nobody
    /// cites it, and it belongs to every chain all the same.
    pub(crate) async fn auth_chain(
        &self,
        room: &Room,
        of: &[EventNr],
    ) -> Result<Vec<EventNr>, StorageError> {
        let of = of.to_vec();
        let mut chain = self
            .database()
            .read("auth chain", move |tx| {
                Box::pin(async move { events::auth_chain(tx, &of).await })
            })
            .await?;
        if room.key.version.room_id_is_create_hash()
            && let Some(current) = room.current()
            && let Some(create) = current.state.get_named(&room.keys(), "m.room.create", "")
            && !chain.contains(&create.event())
        {
            chain.insert(0, create.event());
        }
        Ok(chain)
    }

    async fn ids(&self, numbers: Vec<EventNr>) -> Result<Vec<OwnedEventId>, StorageError> {
        self.database()
            .look_up("event IDs", move |tx| {
                Box::pin(async move { events::ids(tx, &numbers).await })
            })
            .await
    }

    async fn parents_of(
        &self,
        room: &Arc<Room>,
        ids: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, StorageError> {
        let known = room.known_events(self, ids.iter().cloned()).await?;
        Ok(known
            .into_values()
            .filter_map(|known| match known {
                Known::Held(event) => Some(event.pdu.prev_events.clone()),
                Known::Referenced(_) => None,
            })
            .flatten()
            .collect())
    }

    /// Timeline events from `from` backwards, nearest first.
    async fn walk_back(
        &self,
        room: &Arc<Room>,
        from: Vec<OwnedEventId>,
        stop: BTreeSet<OwnedEventId>,
        limit: usize,
        min_depth: i64,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        let mut seen = stop;
        let mut found = Vec::new();
        let mut level = from;
        while !level.is_empty() && found.len() < limit {
            level.retain(|id| seen.insert(id.clone()));
            let known = room.known_events(self, level.iter().cloned()).await?;
            let mut next = Vec::new();
            let mut events: Vec<Arc<Event>> = known
                .into_values()
                .filter_map(|known| match known {
                    Known::Held(event) if event.in_timeline() => Some(event),
                    _ => None,
                })
                .filter(|event| event.pdu.depth >= min_depth)
                .collect();
            events.sort_by_key(|event| std::cmp::Reverse((event.pdu.depth, event.nr)));
            for event in events {
                next.extend(event.pdu.prev_events.iter().cloned());
                if event.verdict != Verdict::Rejected && found.len() < limit {
                    found.push(event);
                }
            }
            level = next;
        }
        Ok(found)
    }

    async fn all_for_server(
        &self,
        room: &Arc<Room>,
        origin: &ServerName,
        found: &[Arc<Event>],
    ) -> Result<Vec<String>, StorageError> {
        let mut jsons = Vec::with_capacity(found.len());
        let erased = self.erased(found.iter().map(|event| &*event.pdu.sender));
        let erased = erased.await?;
        for event in found {
            if erased.contains(&event.pdu.sender) {
                jsons.push(redacted(room, event)?);
                continue;
            }
            let before = event
                .before()
                .and_then(|before| before.answering(Question::ForeignServer));
            if before.is_none() && !server_may_see_while_partial(self.server_name(), event) {
                // Who may see it can't be told, and a redacted copy might be stored for good (W15).
                continue;
            }
            jsons.push(match before {
                Some(_) => self.for_server(room, origin, event).await?,
                None => event.pdu.json.to_string(),
            });
        }
        Ok(jsons)
    }

    /// An event as another server may see it: whole, or in redacted form.
    async fn for_server(
        &self,
        room: &Arc<Room>,
        origin: &ServerName,
        event: &Arc<Event>,
    ) -> Result<String, StorageError> {
        if event.redacted_by.is_none() && self.may_see(room, origin, event).await? {
            return Ok(event.pdu.json.to_string());
        }
        redacted(room, event)
    }

    /// Of some users, those of this server who wanted to be forgotten when they closed their accounts. What
    /// they wrote is shown in redacted form to whoever was not there.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn erased(
        &self,
        users: impl Iterator<Item = &UserId>,
    ) -> Result<BTreeSet<OwnedUserId>, StorageError> {
        let local = users.filter(|user| self.is_local(user));
        let local: BTreeSet<OwnedUserId> = local.map(UserId::to_owned).collect();
        if local.is_empty() {
            return Ok(local);
        }
        let local: Vec<OwnedUserId> = local.into_iter().collect();
        let found = self.database().look_up("erased users", move |tx| {
            Box::pin(async move { accounts::erased_among(tx, &local).await })
        });
        Ok(found.await?.into_iter().collect())
    }

    /// Whether another server may see all of an event, by the history visibility at it. At an outlier
    /// none is known.
    pub(crate) async fn may_see(
        &self,
        room: &Arc<Room>,
        origin: &ServerName,
        event: &Event,
    ) -> Result<bool, StorageError> {
        let Some(before) = event.before() else {
            return Ok(true);
        };
        let state = room.state(self, before.snapshot()).await?;
        let visibility_event = {
            let keys = room.keys();
            state
                .get_named(&keys, "m.room.history_visibility", "")
                .map(|entry| entry.event())
        };
        let held = room.events(self, visibility_event).await?;
        let visibility = HistoryVisibility::read(held.values().next().map(|event| &*event.pdu));
        let has_invited = visibility == HistoryVisibility::Invited && invited(room, &state, origin);
        let facts = ServerFacts {
            visibility,
            has_joined: state.has_server(origin.as_str()),
            has_invited,
        };
        Ok(server_may_see(origin, event, &facts))
    }
}

fn redacted(room: &Room, event: &Event) -> Result<String, StorageError> {
    let redacted = pdu::redact(room.key.version, &event.pdu)
        .map_err(|error| StorageError::Corrupt(error.to_string()))?;
    Ok(redacted.json.to_string())
}

fn invited(room: &Room, state: &State, server: &ServerName) -> bool {
    let keys = room.keys();
    state.members().any(|(key, entry)| {
        entry.membership() == Some(Membership::Invite)
            && keys.name(key).and_then(|name| name.member_server()) == Some(server.as_str())
    })
}

fn not_in_room(origin: &ServerName) -> ServeError {
    ServeError::Forbidden(format!("{origin} is not in the room"))
}

fn unknown_event(event_id: &EventId) -> ServeError {
    ServeError::NotFound(format!("this server does not have {event_id}"))
}
