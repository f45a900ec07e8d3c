//! Whom a room's `m.room.join_rules` lets in by being members elsewhere (client-server API, "Restricted
//! rooms").

use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::room_version::RoomVersion;

#[derive(Deserialize)]
struct Rules {
    join_rule: String,
    #[serde(default)]
    allow: serde_json::Value,
}

/// The rooms whose members may join, by the content of the room's join rules; `None` if they have no
/// such conditions in this room version. A malformed list lets nobody in.
pub fn allowed_rooms(version: RoomVersion, content: &RawValue) -> Option<Vec<OwnedRoomId>> {
    let rules: Rules = serde_json::from_str(content.get()).ok()?;
    let known = version.authorization();
    let is_restricted = match &rules.join_rule[..] {
        "restricted" => known.restricted_join_rule,
        "knock_restricted" => known.knock_restricted_join_rule,
        _ => false,
    };
    let listed = rules.allow.as_array().into_iter().flatten();
    let rooms = listed
        .filter(|entry| entry["type"] == "m.room_membership")
        .filter_map(|entry| OwnedRoomId::try_from(entry["room_id"].as_str()?).ok());
    is_restricted.then(|| rooms.collect())
}
