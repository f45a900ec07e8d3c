//! Who sees which events.

use std::sync::Arc;

use myelin_core::{
    event::{Event, Verdict},
    room_version::RoomVersion,
    state::Membership,
    visibility::{
        HistoryVisibility, ServerFacts, TYING, UserFacts, server_may_see,
        server_may_see_while_partial, user_may_see,
    },
};
use ruma::{server_name, user_id};
use serde_json::json;

use crate::room::{Room, Sketch, stored};

use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};

fn event(sketch: Sketch) -> Arc<Event> {
    let room = Room::with_members(RoomVersion::V11, "invite");
    stored(room.make(sketch), 50, Verdict::Accepted)
}

fn message() -> Arc<Event> {
    event(("@u:u", "m.room.message", None, json!({"body": "b"})))
}

fn member(membership: &str) -> Arc<Event> {
    let content = json!({"membership": membership});
    event(("@n:n", "m.room.member", Some("@n:n"), content))
}

fn visibility(value: serde_json::Value) -> Arc<Event> {
    let content = json!({"history_visibility": value});
    event(("@c:c", "m.room.history_visibility", Some(""), content))
}

#[test]
fn users_see_events_by_visibility_and_membership_at_the_event() {
    // Visibility, membership at the event, joined later, seen.
    let cases = [
        (WorldReadable, None, false, true),
        (WorldReadable, Some(Membership::Ban), false, true),
        (Shared, None, false, false),
        (Shared, Some(Membership::Leave), false, false),
        (Shared, Some(Membership::Invite), false, false),
        (Shared, None, true, true),
        (Shared, Some(Membership::Join), false, true),
        (Invited, None, true, false),
        (Invited, Some(Membership::Invite), false, true),
        (Invited, Some(Membership::Knock), true, false),
        (Invited, Some(Membership::Join), false, true),
        (Joined, Some(Membership::Invite), true, false),
        (Joined, None, true, false),
        (Joined, Some(Membership::Join), false, true),
        (Joined, Some(Membership::Ban), true, false),
    ];
    let message = message();
    for (visibility, membership, joined_later, seen) in cases {
        let facts = UserFacts {
            visibility,
            membership,
            joined_later,
        };
        assert_eq!(
            user_may_see(user_id!("@n:n"), &message, &facts),
            seen,
            "{facts:?}"
        );
    }
}

#[test]
fn a_users_own_membership_is_seen_by_what_it_was_or_becomes() {
    let facts = |membership| UserFacts {
        visibility: Joined,
        membership,
        joined_later: false,
    };
    let sees = |event: &Arc<Event>, user, before| user_may_see(user, event, &facts(before));
    let (me, other) = (user_id!("@n:n"), user_id!("@o:o"));
    assert!(sees(&member("join"), me, None));
    assert!(sees(&member("leave"), me, Some(Membership::Join)));
    assert!(!sees(&member("invite"), me, None));
    assert!(!sees(&member("join"), other, None));
    let invited = UserFacts {
        visibility: Invited,
        ..facts(None)
    };
    assert!(user_may_see(me, &member("invite"), &invited));
}

#[test]
fn a_change_of_visibility_is_seen_by_the_more_open_of_both() {
    let facts = |visibility| UserFacts {
        visibility,
        membership: None,
        joined_later: false,
    };
    let stranger = user_id!("@x:x");
    let open = visibility(json!("world_readable"));
    assert!(user_may_see(stranger, &open, &facts(Joined)));
    let close = visibility(json!("joined"));
    assert!(user_may_see(stranger, &close, &facts(WorldReadable)));
    assert!(!user_may_see(stranger, &close, &facts(Joined)));
    let rejected = stored(open.pdu.clone(), 51, Verdict::Rejected);
    assert!(!user_may_see(stranger, &rejected, &facts(Joined)));
    let content = json!({"history_visibility": "world_readable"});
    let other = event(("@c:c", "m.room.history_visibility", Some("x"), content));
    assert!(!user_may_see(stranger, &other, &facts(Joined)));
}

#[test]
fn an_event_that_only_ties_others_together_is_shown_to_nobody() {
    let facts = UserFacts {
        visibility: WorldReadable,
        membership: Some(Membership::Join),
        joined_later: true,
    };
    let tying = event(("@u:u", TYING, None, json!({})));
    assert!(!user_may_see(user_id!("@u:u"), &tying, &facts));
}

#[test]
fn history_is_shared_unless_a_known_value_says_otherwise() {
    let read = |value| HistoryVisibility::read(Some(&visibility(value).pdu));
    assert_eq!(HistoryVisibility::read(None), Shared);
    assert_eq!(read(json!("joined")), Joined);
    assert_eq!(read(json!("invited")), Invited);
    assert_eq!(read(json!("shared")), Shared);
    assert_eq!(read(json!("world_readable")), WorldReadable);
    assert_eq!(read(json!("x")), Shared);
    assert_eq!(read(json!(1)), Shared);
}

/// R60.
#[test]
fn servers_see_events_by_visibility_and_their_users_at_the_event() {
    // Visibility, has joined users, has invited users, seen.
    let cases = [
        (WorldReadable, false, false, true),
        (Shared, false, false, true),
        (Invited, false, false, false),
        (Invited, false, true, true),
        (Invited, true, false, true),
        (Joined, false, true, false),
        (Joined, true, false, true),
    ];
    let message = message();
    for (visibility, has_joined, has_invited, seen) in cases {
        let facts = ServerFacts {
            visibility,
            has_joined,
            has_invited,
        };
        assert_eq!(
            server_may_see(server_name!("n"), &message, &facts),
            seen,
            "{facts:?}"
        );
    }
    let nobody = ServerFacts {
        visibility: Joined,
        has_joined: false,
        has_invited: false,
    };
    assert!(
        server_may_see(server_name!("u"), &message, &nobody),
        "its own event"
    );
    assert!(server_may_see(server_name!("n"), &member("join"), &nobody));
}

#[test]
fn a_server_sees_the_invite_of_its_user() {
    let content = json!({"membership": "invite"});
    let invite = event(("@m:m", "m.room.member", Some("@n:n"), content));
    let nobody = ServerFacts {
        visibility: Invited,
        has_joined: false,
        has_invited: false,
    };
    assert!(server_may_see(server_name!("n"), &invite, &nobody));
    assert!(!server_may_see(server_name!("o"), &invite, &nobody));
}

#[test]
fn while_the_state_is_partial_only_our_own_events_are_served_in_full() {
    assert!(server_may_see_while_partial(server_name!("u"), &message()));
    assert!(!server_may_see_while_partial(server_name!("c"), &message()));
}
