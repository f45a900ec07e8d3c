//! Rooms as administrators see them, whether they are in them or not.

use std::sync::Arc;

use myelin_core::{completeness::Question, number::EventNr, state::Membership};
use myelin_rooms::Room;
use myelin_storage::{extremities, rooms as room_table};
use myelin_users::Requester;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde::Serialize;

use crate::{EventJson, Sync, SyncError};

/// What the current state says about a room beside what it shows of itself.
const TOMBSTONE: &str = "m.room.tombstone";

/// A room as Synapse's admin API describes it.
#[derive(Clone, Debug, Serialize)]
pub struct RoomDetails {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its name.
    pub name: Option<String>,
    /// Its main alias.
    pub canonical_alias: Option<String>,
    /// How many users are in it; while it is partial, those that are known.
    pub joined_members: u64,
    /// How many of them are this server's.
    pub joined_local_members: u64,
    /// Its version.
    pub version: String,
    /// Who made it.
    pub creator: Option<OwnedUserId>,
    /// The algorithm by which messages are encrypted.
    pub encryption: Option<String>,
    /// Whether other servers may be in it.
    pub federatable: bool,
    /// Whether it stands in the public directory.
    pub public: bool,
    /// Who may join.
    pub join_rules: Option<String>,
    /// Whether guests may join.
    pub guest_access: Option<String>,
    /// Who may read what was said before.
    pub history_visibility: Option<String>,
    /// How many entries its state has.
    pub state_events: u64,
    /// Its type, `m.space` for spaces.
    pub room_type: Option<String>,
    /// Its picture.
    pub avatar: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Whether it was given up for another one.
    pub tombstoned: bool,
    /// That other one.
    pub replacement_room: Option<String>,
}

/// An event that no other one names as its parent.
#[derive(Clone, Debug, Serialize)]
pub struct ForwardExtremity {
    /// The event.
    pub event_id: OwnedEventId,
    /// The number of the state before it.
    pub state_group: Option<i64>,
    /// How deep in the graph it is.
    pub depth: i64,
}

impl Sync {
    /// All rooms that this server has a state of, in no particular order. That reads of every room: it is
    /// for administrators.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn all_rooms(&self) -> Result<Vec<RoomDetails>, SyncError> {
        let rooms = self.rooms();
        let ids = rooms.database().look_up("all rooms", |tx| {
            Box::pin(async move { room_table::all_ids(tx).await })
        });
        let ids = ids.await?;
        let published: std::collections::HashSet<_> =
            rooms.published().await?.into_iter().collect();
        let mut found = Vec::with_capacity(ids.len());
        for room_id in ids {
            if let Some(room) = rooms.room(&room_id).await? {
                let is_public = published.contains(&room_id);
                found.extend(self.details_of(&room, is_public).await?);
            }
        }
        Ok(found)
    }

    /// One room.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], [`SyncError::Storage`].
    pub async fn room_details(&self, room_id: &RoomId) -> Result<RoomDetails, SyncError> {
        let room = self.any_room(room_id).await?;
        let is_public = self.rooms().is_published(room_id).await?;
        let found = self.details_of(&room, is_public).await?;
        found.ok_or_else(no_such_room)
    }

    /// Who is in a room; while it is partial, as far as is known.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], [`SyncError::Storage`].
    pub async fn all_members(&self, room_id: &RoomId) -> Result<Vec<String>, SyncError> {
        let room = self.any_room(room_id).await?;
        let current = room.current().ok_or_else(no_such_room)?;
        let keys = room.keys();
        let joined = current
            .state
            .members()
            .filter(|(_, entry)| entry.membership() == Some(Membership::Join));
        let names = joined.filter_map(|(key, _)| Some(keys.name(key)?.state_key.to_string()));
        Ok(names.collect())
    }

    /// The current state of a room, or what it has of one type.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], [`SyncError::Storage`].
    pub async fn all_state(
        &self,
        admin: &Requester,
        room_id: &RoomId,
        event_type: Option<&str>,
    ) -> Result<Vec<EventJson>, SyncError> {
        let room = self.any_room(room_id).await?;
        let current = room.current().ok_or_else(no_such_room)?;
        let wanted: Vec<EventNr> = {
            let keys = room.keys();
            let is_wanted = |key| {
                let name = keys.name(key);
                event_type.is_none_or(|wanted| name.is_some_and(|name| *name.event_type == *wanted))
            };
            let entries = current.state.entries().filter(|(key, _)| is_wanted(*key));
            entries.map(|(_, entry)| entry.event()).collect()
        };
        self.state_events(admin, &room, &wanted).await
    }

    /// The ends of a room's graph.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], [`SyncError::Storage`].
    pub async fn forward_extremities(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<ForwardExtremity>, SyncError> {
        let room = self.any_room(room_id).await?;
        let nr = room.key.room;
        let ends = self
            .rooms()
            .database()
            .read("forward extremities", move |tx| {
                Box::pin(async move { extremities::forward(tx, nr).await })
            });
        let held = room.events(self.rooms(), ends.await?).await?;
        let end = |event: Arc<myelin_core::event::Event>| ForwardExtremity {
            event_id: event.id().to_owned(),
            state_group: event.before().map(|before| before.snapshot().0),
            depth: event.pdu.depth,
        };
        Ok(held.into_values().map(end).collect())
    }

    async fn any_room(&self, room_id: &RoomId) -> Result<Arc<Room>, SyncError> {
        self.rooms().room(room_id).await?.ok_or_else(no_such_room)
    }

    /// `None` if there is no state from which to tell anything.
    async fn details_of(
        &self,
        room: &Arc<Room>,
        public: bool,
    ) -> Result<Option<RoomDetails>, SyncError> {
        let Some(current) = room.current() else {
            return Ok(None);
        };
        if current
            .reference
            .answering(Question::OtherThanMembers)
            .is_none()
        {
            return Ok(None);
        }
        let told = self.told(room, &current.state, &[TOMBSTONE]).await?;
        let local = room.local_users();
        let joined_local = {
            let keys = room.keys();
            let is_joined = |user: &&OwnedUserId| {
                let entry = current
                    .state
                    .get_named(&keys, "m.room.member", user.as_str());
                entry.and_then(|entry| entry.membership()) == Some(Membership::Join)
            };
            local.iter().filter(is_joined).count() as u64
        };
        Ok(Some(RoomDetails {
            room_id: room.key.room_id.clone(),
            name: told.field("m.room.name", "name"),
            canonical_alias: told.field("m.room.canonical_alias", "alias"),
            joined_members: current.state.counts().joined,
            joined_local_members: joined_local,
            version: room.key.version.as_str().to_owned(),
            creator: told.of("m.room.create").map(|create| create.sender.clone()),
            encryption: told.field("m.room.encryption", "algorithm"),
            federatable: told.field("m.room.create", "m.federate").unwrap_or(true),
            public,
            join_rules: told.field("m.room.join_rules", "join_rule"),
            guest_access: told.field("m.room.guest_access", "guest_access"),
            history_visibility: told.field("m.room.history_visibility", "history_visibility"),
            state_events: current.state.len() as u64,
            room_type: told.field("m.room.create", "type"),
            avatar: told.field("m.room.avatar", "url"),
            topic: told.field("m.room.topic", "topic"),
            tombstoned: told.of(TOMBSTONE).is_some(),
            replacement_room: told.field(TOMBSTONE, "replacement_room"),
        }))
    }
}

fn no_such_room() -> SyncError {
    SyncError::NotFound("Room not found".to_owned())
}
