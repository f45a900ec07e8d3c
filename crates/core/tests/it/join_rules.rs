//! The rooms whose members a room lets in.

use myelin_core::{join_rules::allowed_rooms, room_version::RoomVersion};
use serde_json::{json, value::to_raw_value};

#[test]
fn rooms_are_allowed_by_the_rules_that_the_version_knows() {
    let allow = json!([
        { "type": "m.room_membership", "room_id": "!a:x" },
        { "type": "m.room_membership", "room_id": "no room ID" },
        { "type": "m.room_membership" },
        { "type": "other", "room_id": "!b:x" },
        "!c:x",
    ]);
    let (v7, v8, v10) = (RoomVersion::V7, RoomVersion::V8, RoomVersion::V10);
    for (version, rule, allow, rooms) in [
        (v8, "restricted", &allow, Some(&["!a:x"][..])),
        (v7, "restricted", &allow, None),
        (v10, "knock_restricted", &allow, Some(&["!a:x"])),
        (v8, "knock_restricted", &allow, None),
        (v10, "invite", &allow, None),
        (v10, "restricted", &json!("!a:x"), Some(&[])),
    ] {
        let content = to_raw_value(&json!({ "join_rule": rule, "allow": allow })).unwrap();
        let allowed = allowed_rooms(version, &content);
        let allowed = allowed.map(|rooms| rooms.iter().map(ToString::to_string).collect());
        let rooms = rooms.map(|rooms| rooms.iter().map(ToString::to_string).collect());
        assert_eq!(allowed, rooms as Option<Vec<String>>, "{version} {rule}");
    }
    let content = |value| to_raw_value(&value).unwrap();
    let restricted = content(json!({ "join_rule": "restricted" }));
    assert_eq!(allowed_rooms(v8, &restricted), Some(vec![]));
    assert_eq!(allowed_rooms(v8, &content(json!({ "allow": [] }))), None);
}
