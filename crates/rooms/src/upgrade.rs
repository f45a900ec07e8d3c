//! Replacing a room by one of another version (client-server API, "Room upgrades").

use std::sync::Arc;

use futures_util::future::join_all;
use myelin_core::{
    completeness::Question, number::EventNr, room_version::RoomVersion, state::Membership,
};
use myelin_storage::{Priority, StorageError, aliases, published_rooms};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    CreateRoom, Preset, RoomError, Rooms, alias::CANONICAL_ALIAS, new_event::NewEvent, room::Room,
    turn::Turn,
};

const TOMBSTONE: &str = "m.room.tombstone";
const POWER_LEVELS: &str = "m.room.power_levels";

/// The state that the new room takes over as it is, each with an empty state key.
const TAKEN_OVER: [&str; 8] = [
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
];

/// How many bans are sent together.
const BANS_TOGETHER: usize = 100;

/// A wish to replace a room.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The version of the new room.
    pub version: String,
    /// Who has a creator's power besides whoever upgrades, from room version 12 on.
    pub additional_creators: Vec<OwnedUserId>,
    /// The display name and avatar of whoever upgrades.
    pub profile: Map<String, Value>,
}

/// What is known of the room that is replaced.
struct Old {
    room: Arc<Room>,
    /// Contents by type and state key.
    state: Vec<(String, String, Box<RawValue>)>,
    banned: Vec<OwnedUserId>,
    /// The last event known.
    last: Option<OwnedEventId>,
}

impl Rooms {
    /// Replaces a room: makes the new one with the old one's settings and bans, points from each to
    /// the other, moves this server's aliases and the place in the public directory, and silences
    /// the old room. Returns the new room.
    ///
    /// # Errors
    /// [`RoomError::UnsupportedVersion`], [`RoomError::Forbidden`] for who may not end the room,
    /// [`RoomError::StillPartial`] while its bans are not known. What fails after the old room points
    /// to the new one is logged.
    pub async fn upgrade(
        &self,
        user: &UserId,
        room_id: &RoomId,
        wish: Upgrade,
    ) -> Result<OwnedRoomId, RoomError> {
        let version = RoomVersion::parse(&wish.version)
            .map_err(|_| RoomError::UnsupportedVersion(wish.version.clone()))?;
        let room = self.known_room(room_id).await?;
        self.must_be_joined(&room, user)?;
        if !self.may_set_state(&room, user, TOMBSTONE).await? {
            return Err(RoomError::Forbidden(
                "replacing a room takes the power to end it".into(),
            ));
        }
        let old = self.read_old(room).await?;
        let levels = Levels::plan(&old, user, version, &wish.additional_creators);
        let new_id = self
            .create(user, old.successor(&wish, version, &levels))
            .await?;
        let end = json!({ "body": "This room has been replaced", "replacement_room": new_id });
        let end = NewEvent::state(user, TOMBSTONE, end);
        self.send(room_id, end).await?;
        if let Err(error) = self.move_over(user, &old, &new_id, levels).await {
            tracing::warn!(room = %room_id, new = %new_id, %error, "not all was moved to the new room");
        }
        Ok(new_id)
    }

    async fn read_old(&self, room: Arc<Room>) -> Result<Old, RoomError> {
        let current = room.current().ok_or_else(RoomError::unknown_room)?;
        if current.reference.answering(Question::AllMembers).is_none() {
            return Err(RoomError::StillPartial);
        }
        let (others, banned): (Vec<EventNr>, Vec<OwnedUserId>) = {
            let keys = room.keys();
            let banned = current
                .state
                .members()
                .filter(|(_, entry)| entry.membership() == Some(Membership::Ban))
                .filter_map(|(key, _)| OwnedUserId::try_from(&*keys.name(key)?.state_key).ok());
            let others = current.state.others().map(|(_, entry)| entry.event());
            (others.collect(), banned.collect())
        };
        let last = Turn::take(self, &room)
            .await?
            .graph
            .extremities
            .last()
            .copied();
        let last = room.events(self, last).await?.into_values().next();
        let events = room.events(self, others).await?;
        let mut state = Vec::new();
        for event in events.values().filter(|event| event.redacted_by.is_none()) {
            if let Some(state_key) = &event.pdu.state_key {
                let event_type = event.pdu.event_type.to_string();
                state.push((event_type, state_key.clone(), event.pdu.content.clone()));
            }
        }
        Ok(Old {
            room,
            state,
            banned,
            last: last.map(|event| event.pdu.event_id.clone()),
        })
    }

    /// What follows once the old room points to the new one.
    async fn move_over(
        &self,
        user: &UserId,
        old: &Old,
        new_id: &RoomId,
        levels: Levels,
    ) -> Result<(), RoomError> {
        for banned in old.banned.chunks(BANS_TOGETHER) {
            let bans = banned.iter().map(|target| {
                let content = Map::from_iter([("membership".to_owned(), "ban".into())]);
                self.send(new_id, NewEvent::membership(user, target, content))
            });
            for ban in join_all(bans).await {
                ban?;
            }
        }
        if let Some(lowered) = levels.afterwards {
            let lowered = NewEvent::state(user, POWER_LEVELS, Value::Object(lowered));
            self.send(new_id, lowered).await?;
        }
        self.move_directory(&old.room, new_id).await?;
        self.announce_over(user, old, new_id).await?;
        if let Some(silenced) = old.silenced() {
            let silenced = NewEvent::state(user, POWER_LEVELS, Value::Object(silenced));
            self.send(&old.room.key.room_id, silenced).await?;
        }
        Ok(())
    }

    /// Moves this server's aliases and the place in the public directory, together.
    async fn move_directory(&self, old: &Room, new_id: &RoomId) -> Result<(), RoomError> {
        let new = self.known_room(new_id).await?.key.clone();
        let old = old.key.clone();
        self.database()
            .write("move a room's entries", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    aliases::move_all(tx, &old.room_id, &new.room_id).await?;
                    if published_rooms::contains(tx, old.room).await? {
                        published_rooms::set(tx, old.room, false).await?;
                        published_rooms::set(tx, new.room, true).await?;
                    }
                    Ok::<_, StorageError>(())
                })
            })
            .await?;
        Ok(())
    }

    /// The new room announces those of the old one's aliases that lead to it now, and the old one
    /// the others.
    async fn announce_over(
        &self,
        user: &UserId,
        old: &Old,
        new_id: &RoomId,
    ) -> Result<(), RoomError> {
        let Some(announced) = old.object(CANONICAL_ALIAS) else {
            return Ok(());
        };
        let is_ours = |alias: &Value| {
            let alias = alias
                .as_str()
                .and_then(|alias| RoomAliasId::parse(alias).ok());
            alias.is_some_and(|alias| alias.server_name() == self.server_name())
        };
        let (mut moved, mut left) = (Map::new(), Map::new());
        if let Some(alias) = announced.get("alias") {
            let to = if is_ours(alias) {
                &mut moved
            } else {
                &mut left
            };
            to.insert("alias".to_owned(), alias.clone());
        }
        if let Some(Value::Array(others)) = announced.get("alt_aliases") {
            let (ours, theirs): (Vec<_>, Vec<_>) = others.iter().cloned().partition(is_ours);
            for (to, aliases) in [(&mut moved, ours), (&mut left, theirs)] {
                if !aliases.is_empty() {
                    to.insert("alt_aliases".to_owned(), aliases.into());
                }
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let old_id = &old.room.key.room_id;
        let left = NewEvent::state(user, CANONICAL_ALIAS, Value::Object(left));
        self.send(old_id, left).await?;
        let moved = NewEvent::state(user, CANONICAL_ALIAS, Value::Object(moved));
        self.send(new_id, moved).await?;
        Ok(())
    }
}

impl Old {
    fn content(&self, event_type: &str) -> Option<&RawValue> {
        let mut state = self.state.iter();
        let entry = state.find(|(of, key, _)| of == event_type && key.is_empty())?;
        Some(&entry.2)
    }

    fn object(&self, event_type: &str) -> Option<Map<String, Value>> {
        serde_json::from_str(self.content(event_type)?.get()).ok()
    }

    /// The room that takes this one's place.
    fn successor(&self, wish: &Upgrade, version: RoomVersion, levels: &Levels) -> CreateRoom {
        let mut creation = Map::new();
        let created = self.object("m.room.create").unwrap_or_default();
        for kept in ["type", "m.federate"] {
            if let Some(value) = created.get(kept) {
                creation.insert(kept.to_owned(), value.clone());
            }
        }
        let mut predecessor = json!({ "room_id": self.room.key.room_id });
        // Room version 12 does without (MSC4291).
        if let Some(last) = self
            .last
            .as_ref()
            .filter(|_| !version.room_id_is_create_hash())
        {
            predecessor["event_id"] = json!(last);
        }
        creation.insert("predecessor".to_owned(), predecessor);
        if version.room_id_is_create_hash() && !wish.additional_creators.is_empty() {
            let creators = json!(wish.additional_creators);
            creation.insert("additional_creators".to_owned(), creators);
        }
        let is_space = created.get("type").and_then(Value::as_str) == Some("m.space");
        let taken_over = self.state.iter().filter(|(event_type, key, content)| {
            let is_setting = key.is_empty() && TAKEN_OVER.contains(&&**event_type);
            is_setting || (is_space && event_type == "m.space.child" && has_via(content))
        });
        CreateRoom {
            version: Some(version.as_str().to_owned()),
            preset: Preset::Private,
            creation_content: creation,
            alias_name: None,
            published: false,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            initial_state: taken_over.cloned().collect(),
            power_level_override: levels.at_first.clone(),
            profile: wish.profile.clone(),
        }
    }

    /// Power levels by which only moderators speak and invite; `None` if that is so already.
    fn silenced(&self) -> Option<Map<String, Value>> {
        let mut levels = self.object(POWER_LEVELS).unwrap_or_default();
        let level = |levels: &Map<String, Value>, of: &str| {
            levels.get(of).and_then(Value::as_i64).unwrap_or_default()
        };
        let needed = (level(&levels, "users_default") + 1).max(50);
        let mut changed = false;
        for of in ["events_default", "invite"] {
            if level(&levels, of) < needed {
                levels.insert(of.to_owned(), needed.into());
                changed = true;
            }
        }
        changed.then_some(levels)
    }
}

fn has_via(child: &RawValue) -> bool {
    let content: Result<Value, _> = serde_json::from_str(child.get());
    content.is_ok_and(|content| content["via"].as_array().is_some_and(|via| !via.is_empty()))
}

/// The power levels of a new room.
struct Levels {
    /// While it is made.
    at_first: Map<String, Value>,
    /// Once it is made, if whoever upgrades had not the power for all of that.
    afterwards: Option<Map<String, Value>>,
}

impl Levels {
    fn plan(old: &Old, user: &UserId, version: RoomVersion, creators: &[OwnedUserId]) -> Self {
        let mut levels = old.object(POWER_LEVELS).unwrap_or_default();
        let mut users = match levels.remove("users") {
            Some(Value::Object(users)) => users,
            _ => Map::new(),
        };
        if version.room_id_is_create_hash() {
            // Creators stand above all levels and may not be listed.
            users.remove(user.as_str());
            users.retain(|listed, _| creators.iter().all(|creator| creator != listed.as_str()));
            levels.insert("users".to_owned(), users.into());
            return Self {
                at_first: levels,
                afterwards: None,
            };
        }
        let needed = needed(&levels);
        let listed = users.get(user.as_str()).and_then(Value::as_i64);
        let was_creator = old.room.key.version.room_id_is_create_hash() && listed.is_none();
        let default = levels.get("users_default").and_then(Value::as_i64);
        let own = listed.or(default).unwrap_or_default();
        let mut raised = users.clone();
        raised.insert(user.to_string(), own.max(needed).into());
        let with = |users: Map<String, Value>| {
            let mut levels = levels.clone();
            levels.insert("users".to_owned(), users.into());
            levels
        };
        let is_lower = own < needed && !was_creator;
        Self {
            at_first: with(raised),
            afterwards: is_lower.then(|| with(users)),
        }
    }
}

/// What it takes to make a room with these levels, and to ban in it.
fn needed(levels: &Map<String, Value>) -> i64 {
    let one = |of: &str| levels.get(of).and_then(Value::as_i64).unwrap_or(50);
    let events = levels.get("events").and_then(Value::as_object);
    let events = events.into_iter().flat_map(Map::values);
    let most = events.filter_map(Value::as_i64).max().unwrap_or_default();
    most.max(one("state_default")).max(one("ban"))
}
