//! What a client wants to hear of. Client-server API, "Filtering".

use std::sync::Arc;

use myelin_core::pdu::Pdu;
use ruma::{RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::SyncError;

/// How many timeline events a room gets if the client doesn't say.
const DEFAULT_LIMIT: usize = 10;

/// How many it gets at most.
pub(crate) const MAX_LIMIT: usize = 100;

/// A filter for `/sync`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Which parts of each event to send; all if absent.
    pub event_fields: Option<EventFields>,
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
    pub senders: Option<Vec<String>>,
    /// Not from these users.
    pub not_senders: Option<Vec<String>>,
}

/// What to send of rooms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    /// Only these rooms.
    pub rooms: Option<Vec<String>>,
    /// Not these rooms.
    pub not_rooms: Option<Vec<String>>,
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
    pub senders: Option<Vec<String>>,
    /// Not from these users.
    pub not_senders: Option<Vec<String>>,
    /// Only in these rooms.
    pub rooms: Option<Vec<String>>,
    /// Not in these rooms.
    pub not_rooms: Option<Vec<String>>,
    /// Only those with a `url` in their content, or only those without.
    pub contains_url: Option<bool>,
    /// Send the memberships of those only who are the senders of events in the timeline.
    pub lazy_load_members: bool,
    /// Send those memberships also if they were sent before.
    pub include_redundant_members: bool,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`SyncError::InvalidParam`] if a field is not of its type. Unknown fields are passed over.
    pub fn parse(json: &str) -> Result<Self, SyncError> {
        parse(json)
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
        let is_type = |pattern: &str| matches(pattern, event_type);
        among(self.types.as_ref(), self.not_types.as_ref(), is_type)
    }

    /// Whether events of a user are wanted.
    pub(crate) fn wants_sender(&self, sender: &UserId) -> bool {
        let is_sender = |user: &str| user == sender.as_str();
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
        among(self.rooms.as_ref(), self.not_rooms.as_ref(), |name| {
            name == room_id.as_str()
        })
    }

    /// Whether events of a type are wanted in a room that is.
    pub(crate) fn wants_type(&self, room_id: &RoomId, event_type: &str) -> bool {
        let is_type = |pattern: &str| matches(pattern, event_type);
        self.wants_room(room_id) && among(self.types.as_ref(), self.not_types.as_ref(), is_type)
    }

    /// Whether an event of a wanted room is wanted.
    pub(crate) fn wants(&self, pdu: &Pdu) -> bool {
        let event_type = match self.types.is_some() || self.not_types.is_some() {
            true => pdu.event_type.to_string(),
            false => String::new(),
        };
        let is_type = |pattern: &str| matches(pattern, &event_type);
        let is_sender = |user: &str| user == pdu.sender.as_str();
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
        among(self.rooms.as_ref(), self.not_rooms.as_ref(), |name| {
            name == room_id.as_str()
        })
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
fn among(only: Option<&Vec<String>>, not: Option<&Vec<String>>, is: impl Fn(&str) -> bool) -> bool {
    only.is_none_or(|list| list.iter().any(|item| is(item)))
        && !not.is_some_and(|list| list.iter().any(|item| is(item)))
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
mod tests {
    use super::{EventFields, Filter, RoomEventFilter, matches};
    use myelin_core::{pdu::Pdu, room_version::RoomVersion};
    use ruma::{OwnedEventId, room_id};
    use serde_json::json;

    fn event(event_type: &str, sender: &str, content: serde_json::Value) -> Pdu {
        let json = json!({
            "type": event_type, "sender": sender, "content": content, "room_id": "!r:x.example",
            "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 1,
        });
        let id = OwnedEventId::try_from("$e").expect("an ID");
        Pdu::from_stored(RoomVersion::V11, id, json.to_string()).expect("a PDU")
    }

    #[test]
    fn patterns_match_whole_types() {
        let fits = [
            ("m.room.message", "m.room.message"),
            ("*", ""),
            ("*", "m.room.message"),
            ("m.room.*", "m.room.message"),
            ("*.message", "m.room.message"),
            ("m.*.message", "m.room.message"),
            ("m*o*e", "m.room.message"),
            ("**", "x"),
        ];
        for (pattern, text) in fits {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        let others = [
            ("m.room", "m.room.message"),
            ("", "m"),
            ("m.room.*", "m.roo"),
            ("*.x.*", "m.room"),
            ("ab*ba", "aba"),
            ("m.room.message*x", "m.room.message"),
        ];
        for (pattern, text) in others {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn each_field_of_a_filter_keeps_events_out() {
        let message = event("m.room.message", "@a:x.example", json!({"body": "b"}));
        let image = event(
            "m.room.message",
            "@b:x.example",
            json!({"url": "mxc://x/y"}),
        );
        let cases = [
            (json!({}), true, true),
            (json!({"types": null}), true, true),
            (json!({"types": []}), false, false),
            (json!({"types": ["m.room.*"]}), true, true),
            (json!({"types": ["m.room.name"]}), false, false),
            (json!({"not_types": ["m.room.message"]}), false, false),
            (
                json!({"types": ["*"], "not_types": ["*.message"]}),
                false,
                false,
            ),
            (json!({"senders": ["@a:x.example"]}), true, false),
            (json!({"not_senders": ["@a:x.example"]}), false, true),
            (json!({"contains_url": true}), false, true),
            (json!({"contains_url": false}), true, false),
        ];
        for (filter, first, second) in cases {
            let parsed = RoomEventFilter::parse(&filter.to_string()).expect("a filter");
            assert_eq!(parsed.wants(&message), first, "{filter}");
            assert_eq!(parsed.wants(&image), second, "{filter}");
        }
    }

    #[test]
    fn rooms_are_chosen_by_name() {
        let room = room_id!("!r:x.example");
        let cases = [
            (json!({}), true),
            (json!({"rooms": []}), false),
            (json!({"rooms": ["!r:x.example"]}), true),
            (json!({"not_rooms": ["!r:x.example"]}), false),
            (
                json!({"rooms": ["!r:x.example"], "not_rooms": ["!r:x.example"]}),
                false,
            ),
        ];
        for (filter, wanted) in cases {
            let whole = json!({"room": filter, "unknown": 1}).to_string();
            assert_eq!(
                Filter::parse(&whole).expect("a filter").room.wants(room),
                wanted
            );
            let events = RoomEventFilter::parse(&filter.to_string()).expect("a filter");
            assert_eq!(events.wants_room(room), wanted, "{filter}");
        }
    }

    #[test]
    fn a_limit_has_a_default_and_a_bound() {
        let limit = |json: &str| {
            RoomEventFilter::parse(json)
                .expect("a filter")
                .timeline_limit()
        };
        assert_eq!(limit("{}"), 10);
        assert_eq!(limit(r#"{"limit":0}"#), 0);
        assert_eq!(limit(r#"{"limit":1}"#), 1);
        assert_eq!(limit(r#"{"limit":18446744073709551615}"#), 100);
    }

    #[test]
    fn a_filter_with_a_field_of_another_type_is_refused() {
        for json in [
            "",
            "[]",
            r#"{"room":1}"#,
            r#"{"room":{"timeline":{"limit":-1}}}"#,
        ] {
            assert!(Filter::parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn event_fields_pick_parts_and_keep_their_places() {
        let event = json!({
            "type": "t", "sender": "s", "content": {"body": "b", "a.b": {"c": 1}, "x": 2},
        });
        let paths = [
            r"content.body",
            r"content.a\.b.c",
            "type",
            "missing.key",
            "type.deeper",
        ];
        let fields = EventFields::from(paths.map(str::to_owned).to_vec());
        assert_eq!(
            fields.of(&event),
            json!({"type": "t", "content": {"body": "b", "a.b": {"c": 1}}})
        );
    }
}
