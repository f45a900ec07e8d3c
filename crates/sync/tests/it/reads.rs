//! Single events, state and members.

use myelin_core::state::Membership;
use myelin_storage::testing::on_each_engine;
use myelin_sync::{EventJson, MembersRequest, SyncError};
use ruma::{RoomId, event_id, room_id};
use serde_json::{Value, json};

use crate::house::{House, alice, bob, carol, said, sorted, viewer};

fn values(events: &[EventJson]) -> Value {
    serde_json::to_value(events).unwrap()
}

fn all_members(room_id: &RoomId) -> MembersRequest {
    MembersRequest {
        room_id: room_id.to_owned(),
        at: None,
        membership: None,
        not_membership: None,
    }
}

#[tokio::test]
async fn an_event_is_found_by_who_may_see_it() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        let closed = json!({"history_visibility": "joined"});
        house
            .send(
                &room,
                alice(),
                "m.room.history_visibility",
                Some(""),
                closed,
            )
            .await;
        let early = house.say(&room, alice(), "early").await;
        house.join(&room, bob()).await;
        let late = house.say(&room, alice(), "late").await;
        let found = house
            .sync
            .event(&viewer(alice()), &room, &early)
            .await
            .unwrap();
        let found: Value = serde_json::from_str(found.get()).unwrap();
        assert_eq!(found["event_id"], early.as_str());
        assert_eq!(found["room_id"], room.as_str());
        assert!(house.sync.event(&viewer(bob()), &room, &late).await.is_ok());
        let nowhere = room_id!("!none:x.example");
        let nothing = event_id!("$none");
        let cases = [
            (bob(), &*room, &*early),
            (carol(), &room, &late),
            (alice(), &other, &late),
            (alice(), &room, nothing),
            (alice(), nowhere, &late),
        ];
        for (user, room_id, event_id) in cases {
            let answer = house.sync.event(&viewer(user), room_id, event_id).await;
            assert!(
                matches!(answer, Err(SyncError::NotFound(_))),
                "{user} {answer:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn state_is_that_of_now_or_of_the_time_when_one_left() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.topic(&room, "old").await;
        house.leave(&room, bob()).await;
        let topic = house.topic(&room, "new").await;
        let topic_for = async |user| {
            let entry = house
                .sync
                .state_entry(&viewer(user), &room, "m.room.topic", "")
                .await;
            let entry: Value = serde_json::from_str(entry.unwrap().get()).unwrap();
            entry["topic"].clone()
        };
        assert_eq!(topic_for(alice()).await, "new");
        assert_eq!(topic_for(bob()).await, "old");
        let whole = house
            .sync
            .state_entry_event(&viewer(alice()), &room, "m.room.topic", "")
            .await
            .unwrap();
        let whole: Value = serde_json::from_str(whole.get()).unwrap();
        assert_eq!(whole["event_id"], topic.as_str());
        let state = house.sync.state(&viewer(bob()), &room).await.unwrap();
        assert!(said(&values(&state)).contains(&"@bob:x.example leave".to_owned()));
        let missing = house
            .sync
            .state_entry(&viewer(alice()), &room, "m.room.topic", "x")
            .await;
        assert!(
            matches!(missing, Err(SyncError::NotFound(_))),
            "{missing:?}"
        );
        let stranger = house.sync.state(&viewer(carol()), &room).await;
        assert!(
            matches!(stranger, Err(SyncError::Forbidden(_))),
            "{stranger:?}"
        );
        let stranger = house
            .sync
            .state_entry(&viewer(carol()), &room, "m.room.topic", "")
            .await;
        assert!(
            matches!(stranger, Err(SyncError::Forbidden(_))),
            "{stranger:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn who_was_only_invited_reads_no_state() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.set_membership(&room, bob(), Membership::Invite).await;
        let invited = house.sync.state(&viewer(bob()), &room).await;
        assert!(
            matches!(invited, Err(SyncError::Forbidden(_))),
            "{invited:?}"
        );
        house.leave(&room, bob()).await;
        let rejected = house.sync.state(&viewer(bob()), &room).await;
        assert!(
            matches!(rejected, Err(SyncError::Forbidden(_))),
            "{rejected:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn members_are_chosen_by_membership_and_time() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let then = house.first_sync(alice()).await;
        house.leave(&room, bob()).await;
        house
            .set_membership(&room, carol(), Membership::Invite)
            .await;
        let (stays, left, invited) = (
            "@alice:x.example join",
            "@bob:x.example leave",
            "@carol:x.example invite",
        );
        let name = |membership: &str| Some(membership.to_owned());
        let cases = [
            (all_members(&room), vec![stays, left, invited]),
            (
                MembersRequest {
                    membership: name("join"),
                    ..all_members(&room)
                },
                vec![stays],
            ),
            (
                MembersRequest {
                    not_membership: name("leave"),
                    ..all_members(&room)
                },
                vec![stays, invited],
            ),
            (
                MembersRequest {
                    at: name(then["next_batch"].as_str().unwrap()),
                    ..all_members(&room)
                },
                vec![stays, "@bob:x.example join"],
            ),
        ];
        for (request, expected) in cases {
            let members = house
                .sync
                .members(&viewer(alice()), &request)
                .await
                .unwrap();
            assert_eq!(sorted(said(&values(&members))), expected, "{request:?}");
        }
        let wrong = MembersRequest {
            membership: name("x"),
            ..all_members(&room)
        };
        let wrong = house.sync.members(&viewer(alice()), &wrong).await;
        assert!(
            matches!(wrong, Err(SyncError::InvalidParam(_))),
            "{wrong:?}"
        );
        // Who left sees the members of that time, whatever it asks for.
        let now = house.first_sync(alice()).await;
        let at = now["next_batch"].as_str().map(str::to_owned);
        for at in [None, at] {
            let request = MembersRequest {
                at,
                ..all_members(&room)
            };
            let members = house.sync.members(&viewer(bob()), &request).await.unwrap();
            assert_eq!(sorted(said(&values(&members))), [stays, left]);
        }
    })
    .await;
}

#[tokio::test]
async fn joined_members_have_both_keys_of_a_profile() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let profile = json!({"membership": "join", "displayname": "Bob"});
        house
            .send(&room, bob(), "m.room.member", Some(bob().as_str()), profile)
            .await;
        house
            .set_membership(&room, carol(), Membership::Invite)
            .await;
        let members = house
            .sync
            .joined_members(&viewer(alice()), &room)
            .await
            .unwrap();
        let members: Value = serde_json::from_str(members.get()).unwrap();
        let expected = json!({
            alice().as_str(): {"display_name": null, "avatar_url": null},
            bob().as_str(): {"display_name": "Bob", "avatar_url": null},
        });
        assert_eq!(members, expected);
        let invited = house.sync.joined_members(&viewer(carol()), &room).await;
        assert!(
            matches!(invited, Err(SyncError::Forbidden(_))),
            "{invited:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn joined_rooms_are_those_where_one_is() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, left, invited) = (house.room().await, house.room().await, house.room().await);
        for room in [&room, &left] {
            house.join(room, bob()).await;
        }
        house.leave(&left, bob()).await;
        house
            .set_membership(&invited, bob(), Membership::Invite)
            .await;
        assert_eq!(house.sync.joined_rooms(bob()).await.unwrap(), [room]);
    })
    .await;
}
