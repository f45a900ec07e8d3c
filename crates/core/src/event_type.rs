//! Types of events, told apart by how they are written.

use std::{collections::BTreeMap, fmt};

use ruma::events::{StateEventType, TimelineEventType};
use serde_json::value::RawValue;

use crate::key_table::StateKey;

/// Stands before names that ruma would rename, and before those that begin with it.
const MARK: char = '=';

/// The type of an event. Two are equal if they are written alike.
///
/// ruma's enumeration, which its authorisation rules and state resolution want, takes an unstable name
/// for the stable one: two pieces of state would be one. Such names are marked here, so that ruma does
/// not recognise them; what it has to compare with them is marked alike.
#[derive(Clone, PartialEq, Eq)]
pub struct EventType(TimelineEventType);

impl EventType {
    /// What ruma is told. Not for anybody else: the name may be marked.
    pub(crate) fn for_ruma(&self) -> &TimelineEventType {
        &self.0
    }
}

impl From<&str> for EventType {
    fn from(written: &str) -> Self {
        let known = TimelineEventType::from(written);
        if written.starts_with(MARK) || known.to_string() != written {
            Self(TimelineEventType::from(format!("{MARK}{written}")))
        } else {
            Self(known)
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(unmarked(&self.0.to_string()))
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

/// For the types that the specification names; none of them is marked.
impl PartialEq<TimelineEventType> for EventType {
    fn eq(&self, other: &TimelineEventType) -> bool {
        self.0 == *other
    }
}

fn unmarked(name: &str) -> &str {
    name.strip_prefix(MARK).unwrap_or(name)
}

/// The key of a piece of state as ruma is told it.
pub(crate) fn key_for_ruma(name: &StateKey) -> (StateEventType, String) {
    let event_type = EventType::from(&*name.event_type).0.to_string();
    (event_type.into(), name.state_key.clone())
}

/// The key of a piece of state as ruma tells it.
pub(crate) fn key_from_ruma((event_type, state_key): (StateEventType, String)) -> StateKey {
    StateKey::new(unmarked(&event_type.to_string()), state_key)
}

/// The content of a power levels event with the types in it as ruma is told them; `None` if it is
/// the same.
pub(crate) fn levels_for_ruma(content: &RawValue) -> Option<Box<RawValue>> {
    type Fields = BTreeMap<String, Box<RawValue>>;
    let mut fields: Fields = serde_json::from_str(content.get()).ok()?;
    let events: Fields = serde_json::from_str(fields.get("events")?.get()).ok()?;
    let mut marked = Fields::new();
    for (written, level) in &events {
        marked.insert(EventType::from(&**written).0.to_string(), level.clone());
    }
    if marked.keys().eq(events.keys()) {
        return None;
    }
    fields.insert(
        "events".to_owned(),
        serde_json::value::to_raw_value(&marked).ok()?,
    );
    serde_json::value::to_raw_value(&fields).ok()
}

#[cfg(test)]
mod tests {
    use super::{EventType, TimelineEventType, key_for_ruma, key_from_ruma, levels_for_ruma};
    use crate::key_table::StateKey;
    use serde_json::{json, value::to_raw_value};

    const RENAMED: &str = "org.matrix.call.sdp_stream_metadata_changed";
    const STABLE: &str = "m.call.sdp_stream_metadata_changed";

    #[test]
    fn types_are_equal_if_they_are_written_alike() {
        // Otherwise there is nothing to test any more.
        let known = TimelineEventType::from(RENAMED);
        assert_eq!(known, TimelineEventType::from(STABLE));
        let names = [
            RENAMED,
            STABLE,
            "m.room.topic",
            "=",
            "=m.room.topic",
            "x.y",
            "",
        ];
        for one in names {
            for other in names {
                let equal = EventType::from(one) == EventType::from(other);
                assert_eq!(equal, one == other, "{one} {other}");
            }
            assert_eq!(EventType::from(one).to_string(), one);
            let key = StateKey::new(one, "k");
            assert_eq!(key_from_ruma(key_for_ruma(&key)), key);
        }
        assert_eq!(
            EventType::from("m.room.member"),
            TimelineEventType::RoomMember
        );
    }

    #[test]
    fn power_levels_name_types_as_events_do() {
        let content = |events| to_raw_value(&json!({"events": events, "ban": 7})).expect("JSON");
        let plain = content(json!({"m.room.name": 50}));
        assert!(levels_for_ruma(&plain).is_none());
        let both = content(json!({RENAMED: 1, STABLE: 2}));
        let told = levels_for_ruma(&both).expect("changed");
        let told: serde_json::Value = serde_json::from_str(told.get()).expect("JSON");
        let marked = EventType::from(RENAMED).for_ruma().to_string();
        assert_eq!(told, json!({"events": {marked: 1, STABLE: 2}, "ban": 7}));
    }
}
