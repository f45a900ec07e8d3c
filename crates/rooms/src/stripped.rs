//! What somebody who is invited, or who knocks, may know of a room (client-server API, "Stripped
//! state").

use myelin_core::{key_table::MEMBER, number::EventNr, room_version::RoomVersion, state::State};
use ruma::{OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Rooms, room::Room};

/// How many events a user outside of a room is told by another server.
const MOST_TOLD: usize = 100;

/// The types that tell what a room is, of those with an empty state key.
const TELLING: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
];

impl Room {
    /// The events of a state that tell what the room is, and who `sender` is in it.
    pub fn telling_events(&self, state: &State, sender: &UserId) -> Vec<EventNr> {
        let keys = self.keys();
        let telling = TELLING
            .iter()
            .filter_map(|of| state.get_named(&keys, of, ""));
        let sender = state.get_named(&keys, MEMBER, sender.as_str());
        telling.chain(sender).map(|entry| entry.event()).collect()
    }
}

/// What another server tells a user who is outside of a room.
pub(crate) struct Told {
    /// As clients get it.
    pub(crate) stripped: Vec<Box<RawValue>>,
    /// What was wrong with some of it.
    pub(crate) problem: Option<String>,
}

/// A stripped state event.
#[derive(Deserialize, Serialize)]
struct Stripped {
    content: Box<RawValue>,
    sender: OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    event_type: String,
}

impl Rooms {
    /// Reads what another server tells of a room. From room version 12 on these have to be PDUs of the
    /// room, since its create event proves its ID (MSC4311); others are left out.
    pub(crate) async fn told(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        events: Vec<Box<RawValue>>,
    ) -> Told {
        let mut events = events;
        events.truncate(MOST_TOLD);
        let mut problem = None;
        let mut stripped = Vec::with_capacity(events.len());
        let checked = match version.room_id_is_create_hash() {
            true => self.validate(version, room_id, events.clone()).await,
            false => Vec::new(),
        };
        let mut checked = checked.into_iter();
        let mut has_create = false;
        for event in events {
            let json = match checked.next() {
                None => event.get().to_owned(),
                Some(Ok(pdu)) => pdu.json.to_string(),
                Some(Err(reason)) => {
                    problem = Some(reason.to_string());
                    continue;
                }
            };
            let parsed = serde_json::from_str::<Stripped>(&json);
            let written = parsed.and_then(|event| {
                has_create |= event.event_type == TELLING[0];
                to_raw_value(&event)
            });
            match written {
                Ok(event) => stripped.push(event),
                Err(error) => problem = Some(error.to_string()),
            }
        }
        if !has_create {
            problem = Some("the create event is missing".to_owned());
        }
        Told { stripped, problem }
    }
}
