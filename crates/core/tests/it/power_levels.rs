//! Questions about power.

use myelin_core::{
    key_table::StateKey,
    power_levels::{Level, PowerLevels},
    room_version::RoomVersion,
};
use ruma::user_id;
use serde_json::json;

use crate::room::Room;

fn read(room: &Room) -> PowerLevels {
    let levels = room.state.get(&StateKey::new("m.room.power_levels", ""));
    PowerLevels::read(room.version, &room.create, levels).unwrap()
}

#[test]
fn levels_come_from_the_event_and_creators_stand_above_it_in_version_12() {
    for version in RoomVersion::supported() {
        let levels = read(&Room::with_members(version, "invite"));
        let creator = levels.level_of(user_id!("@c:c"));
        let infinite = version == RoomVersion::V12;
        assert_eq!(
            creator,
            if infinite {
                Level::Infinite
            } else {
                Level::Finite(100)
            }
        );
        assert_eq!(levels.level_of(user_id!("@m:m")), Level::Finite(50));
        assert_eq!(levels.level_of(user_id!("@u:u")), Level::Finite(0));
        assert!(Level::Infinite > Level::Finite(i64::MAX));
    }
}

#[test]
fn without_power_levels_the_creator_has_100_and_the_defaults_hold() {
    for version in RoomVersion::supported() {
        let levels = read(&Room::new(version, json!({})));
        let creator = levels.level_of(user_id!("@c:c"));
        let infinite = version == RoomVersion::V12;
        assert_eq!(
            creator,
            if infinite {
                Level::Infinite
            } else {
                Level::Finite(100)
            }
        );
        assert_eq!(levels.level_of(user_id!("@m:m")), Level::Finite(0));
        assert_eq!(levels.needed_to_send(&"m.room.name".into(), true), 50);
        assert_eq!(levels.needed_to_send(&"m.room.message".into(), false), 0);
        assert!(levels.may_invite(user_id!("@m:m")));
        assert!(!levels.may_ban(user_id!("@m:m"), user_id!("@u:u")));
    }
}

#[test]
fn a_creator_whom_the_power_levels_leave_out_has_the_default_before_version_12() {
    let mut room = Room::with_members(RoomVersion::V11, "invite");
    room.put((
        "@c:c",
        "m.room.power_levels",
        Some(""),
        json!({"users_default": 7}),
    ));
    assert_eq!(read(&room).level_of(user_id!("@c:c")), Level::Finite(7));
}

#[test]
fn what_users_may_do_follows_their_level_and_that_of_the_target() {
    let levels = read(&Room::with_members(RoomVersion::V11, "invite"));
    let (creator, moderator, member) = (user_id!("@c:c"), user_id!("@m:m"), user_id!("@u:u"));
    assert!(levels.may_invite(moderator) && !levels.may_invite(member));
    assert!(levels.may_kick(moderator, member) && !levels.may_kick(moderator, moderator));
    assert!(!levels.may_kick(moderator, creator) && levels.may_kick(creator, moderator));
    assert!(levels.may_ban(moderator, member) && !levels.may_ban(member, moderator));
    assert!(!levels.may_ban(moderator, moderator) && !levels.may_ban(moderator, creator));
    assert!(levels.may_send(moderator, &"m.room.name".into(), true));
    assert!(!levels.may_send(member, &"m.room.name".into(), true));
    assert!(levels.may_send(member, &"m.room.message".into(), false));
    assert!(levels.may_redact(moderator, member) && !levels.may_redact(member, moderator));
    assert!(
        levels.may_redact(member, user_id!("@other:u")),
        "same server"
    );
}

/// ruma takes the first for the second.
#[test]
fn levels_are_of_types_as_they_are_written() {
    let unstable = "org.matrix.call.sdp_stream_metadata_changed";
    let stable = "m.call.sdp_stream_metadata_changed";
    let mut room = Room::with_members(RoomVersion::V11, "invite");
    let content = json!({"events": {unstable: 60, "m.room.name": 40}});
    room.put(("@c:c", "m.room.power_levels", Some(""), content));
    for (event_type, needed) in [(unstable, 60), (stable, 0)] {
        let levels = read(&room);
        assert_eq!(levels.needed_to_send(&event_type.into(), false), needed);
        let event = room.make(("@u:u", event_type, None, json!({})));
        assert_eq!(room.judge(&event).is_ok(), needed == 0, "{event_type}");
    }
}

#[test]
fn before_version_10_text_counts_as_its_number() {
    let mut room = Room::with_members(RoomVersion::V9, "invite");
    room.put((
        "@c:c",
        "m.room.power_levels",
        Some(""),
        json!({"users": {"@u:u": "30"}, "ban": "30", "events": {"m.room.name": "31"}}),
    ));
    let levels = read(&room);
    assert_eq!(levels.level_of(user_id!("@u:u")), Level::Finite(30));
    assert!(levels.may_ban(user_id!("@u:u"), user_id!("@m:m")));
    assert!(!levels.may_send(user_id!("@u:u"), &"m.room.name".into(), true));
}

#[test]
fn malformed_power_levels_are_an_error_and_no_default() {
    let mut room = Room::with_members(RoomVersion::V11, "invite");
    let event = room.put((
        "@c:c",
        "m.room.power_levels",
        Some(""),
        json!({"ban": "50"}),
    ));
    assert!(PowerLevels::read(room.version, &room.create, Some(&event)).is_err());
}
