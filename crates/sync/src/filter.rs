//! What a client wants to hear of. Client-server API, "Filtering".

use std::sync::Arc;

use myelin_core::pdu::Pdu;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::SyncError;

/// How many timeline events a room gets if the client doesn't say.
const DEFAULT_LIMIT: usize = 10;

/// How many it gets at most.
pub(crate) const MAX_LIMIT: usize = 100;

/// In which form events are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// That for clients.
    #[default]
    Client,
    /// That in which they travel between servers.
    Federation,
}

/// A filter for `/sync`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Which parts of each event to send; all if absent.
    pub event_fields: Option<EventFields>,
    /// In which form to send the events of rooms.
    pub event_format: EventFormat,
    /// Which of the user's own settings to send.
    pub account_data: EventFilter,
    /// Of whom to send that they are there.
    pub presence: EventFilter,
    /// What to send of rooms.
    pub room: RoomFilter,
}

/// Which events to send of those that belong to no room.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// How many at most.
    pub limit: Option<u64>,
    /// Only of these types; `*` stands for any characters.
    pub types: Option<Vec<String>>,
    /// Not of these types.
    pub not_types: Option<Vec<String>>,
    /// Only from these users.
    pub senders: Option<Vec<OwnedUserId>>,
    /// Not from these users.
    pub not_senders: Option<Vec<OwnedUserId>>,
}

/// What to send of rooms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    /// Only these rooms.
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// Not these rooms.
    pub not_rooms: Option<Vec<OwnedRoomId>>,
    /// Whether the first sync has rooms that the user left.
    pub include_leave: bool,
    /// Which timeline events to send.
    pub timeline: RoomEventFilter,
    /// Which state events to send.
    pub state: RoomEventFilter,
    /// Which events beside the timeline to send: who types, who has read.
    pub ephemeral: RoomEventFilter,
    /// Which of the user's own settings to send.
    pub account_data: RoomEventFilter,
}

/// Which events of a room to send.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomEventFilter {
    /// How many at most.
    pub limit: Option<u64>,
    /// Only of these types; `*` stands for any characters.
    pub types: Option<Vec<String>>,
    /// Not of these types.
    pub not_types: Option<Vec<String>>,
    /// Only from these users.
    pub senders: Option<Vec<OwnedUserId>>,
    /// Not from these users.
    pub not_senders: Option<Vec<OwnedUserId>>,
    /// Only in these rooms.
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// Not in these rooms.
    pub not_rooms: Option<Vec<OwnedRoomId>>,
    /// Only those with a `url` in their content, or only those without.
    pub contains_url: Option<bool>,
    /// Only those to which others relate in one of these ways.
    pub related_by_rel_types: Option<Vec<String>>,
    /// Only those to which events of one of these users relate.
    pub related_by_senders: Option<Vec<OwnedUserId>>,
    /// Send the memberships of those only who are the senders of events in the timeline.
    pub lazy_load_members: bool,
    /// Send those memberships also if they were sent before.
    pub include_redundant_members: bool,
    /// Count what is unread for each thread (of `/sync`, in the filter of the timeline).
    pub unread_thread_notifications: bool,
}

/// The parts of a filter. serde takes arrays for them, too.
const PARTS: [&str; 7] = [
    "/presence",
    "/account_data",
    "/room",
    "/room/timeline",
    "/room/state",
    "/room/ephemeral",
    "/room/account_data",
];

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`SyncError::InvalidParam`] if a field is not of its type. Unknown fields are passed over.
    pub fn parse(json: &str) -> Result<Self, SyncError> {
        let filter = parse(json)?;
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        for path in PARTS {
            if value.pointer(path).is_some_and(|part| !part.is_object()) {
                return Err(SyncError::InvalidParam(format!(
                    "The filter is invalid: {} is not an object",
                    path[1..].replace('/', ".")
                )));
            }
        }
        Ok(filter)
    }
}

impl EventFilter {
    /// How many events are wanted, `most` at most.
    pub(crate) fn limit_of(&self, most: usize) -> usize {
        let wanted = self
            .limit
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        wanted.unwrap_or(most).min(most)
    }

    /// Whether events of a type are wanted.
    pub(crate) fn wants_type(&self, event_type: &str) -> bool {
        let is_type = |pattern: &String| matches(pattern, event_type);
        among(self.types.as_ref(), self.not_types.as_ref(), is_type)
    }

    /// Whether events of a user are wanted.
    pub(crate) fn wants_sender(&self, sender: &UserId) -> bool {
        let is_sender = |user: &OwnedUserId| user == sender;
        among(self.senders.as_ref(), self.not_senders.as_ref(), is_sender)
    }
}

impl RoomEventFilter {
    /// Reads a filter for `/messages`.
    ///
    /// # Errors
    /// [`SyncError::InvalidParam`] if a field is not of its type. Unknown fields are passed over.
    pub fn parse(json: &str) -> Result<Self, SyncError> {
        parse(json)
    }

    pub(crate) fn timeline_limit(&self) -> usize {
        let wanted = self
            .limit
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        wanted.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
    }

    /// Whether events of a room are wanted at all.
    pub(crate) fn wants_room(&self, room_id: &RoomId) -> bool {
        let is_room = |room: &OwnedRoomId| room == room_id;
        among(self.rooms.as_ref(), self.not_rooms.as_ref(), is_room)
    }

    /// Whether events of a type are wanted in a room that is.
    pub(crate) fn wants_type(&self, room_id: &RoomId, event_type: &str) -> bool {
        let is_type = |pattern: &String| matches(pattern, event_type);
        self.wants_room(room_id) && among(self.types.as_ref(), self.not_types.as_ref(), is_type)
    }

    /// Whether an event of a wanted room is wanted.
    pub(crate) fn wants(&self, pdu: &Pdu) -> bool {
        let event_type = match self.types.is_some() || self.not_types.is_some() {
            true => pdu.event_type.to_string(),
            false => String::new(),
        };
        let is_type = |pattern: &String| matches(pattern, &event_type);
        let is_sender = |user: &OwnedUserId| *user == pdu.sender;
        among(self.types.as_ref(), self.not_types.as_ref(), is_type)
            && among(self.senders.as_ref(), self.not_senders.as_ref(), is_sender)
            && self
                .contains_url
                .is_none_or(|wanted| wanted == has_url(&pdu.content))
    }
}

impl RoomFilter {
    /// Whether a room is wanted at all.
    pub(crate) fn wants(&self, room_id: &RoomId) -> bool {
        let is_room = |room: &OwnedRoomId| room == room_id;
        among(self.rooms.as_ref(), self.not_rooms.as_ref(), is_room)
    }
}

fn parse<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T, SyncError> {
    // serde takes an array for a struct too.
    if !json.trim_start().starts_with('{') {
        return Err(SyncError::InvalidParam(
            "The filter is not an object".to_owned(),
        ));
    }
    serde_json::from_str(json)
        .map_err(|error| SyncError::InvalidParam(format!("The filter is invalid: {error}")))
}

/// Whether something is in the first list, if there is one, and not in the second.
fn among<T>(only: Option<&Vec<T>>, not: Option<&Vec<T>>, is: impl Fn(&T) -> bool) -> bool {
    only.is_none_or(|list| list.iter().any(&is)) && !not.is_some_and(|list| list.iter().any(&is))
}

/// Whether a text fits a pattern in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|start| text.strip_prefix(start)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The first place is as good as any: whatever fits after a later one fits after it too.
        match rest.find(part) {
            Some(start) => rest = &rest[start + part.len()..],
            None => return false,
        }
    }
    true
}

fn has_url(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        url: Option<&'a RawValue>,
    }
    let content: Result<Content<'_>, _> = serde_json::from_str(content.get());
    content.is_ok_and(|content| content.url.is_some_and(|url| url.get().starts_with('"')))
}

/// Parts of events, as paths with dots between their keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct EventFields(Arc<[Vec<String>]>);

impl From<Vec<String>> for EventFields {
    fn from(paths: Vec<String>) -> Self {
        Self(paths.iter().map(|path| split(path)).collect())
    }
}

/// The keys of a path. A dot that belongs to a key stands behind a backslash.
fn split(path: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '.' => keys.push(String::new()),
            '\\' if characters
                .peek()
                .is_some_and(|next| matches!(next, '.' | '\\')) =>
            {
                push(&mut keys, characters.next());
            }
            _ => push(&mut keys, Some(character)),
        }
    }
    keys
}

fn push(keys: &mut [String], character: Option<char>) {
    if let Some(last) = keys.last_mut() {
        last.extend(character);
    }
}

impl EventFields {
    /// What the paths leave of an event.
    pub(crate) fn of(&self, event: &Value) -> Value {
        let mut picked = Value::Object(serde_json::Map::new());
        for path in self.0.iter() {
            let found = path.iter().try_fold(event, |value, key| value.get(key));
            if let Some(value) = found {
                put(&mut picked, path, value);
            }
        }
        picked
    }
}

fn put(into: &mut Value, path: &[String], value: &Value) {
    let mut place = into;
    for key in path {
        let Value::Object(object) = place else { return };
        place = object
            .entry(key)
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    *place = value.clone();
}

#[cfg(test)]
mod tests;
