//! `/sync` when the user's own membership changes.

use myelin_core::state::Membership;
use myelin_storage::{Priority, StorageError, rooms as room_table, testing::on_each_engine};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::house::{House, alice, bob, filtered, joined, request, said};

fn section<'a>(answer: &'a Value, kind: &str, room_id: &RoomId) -> &'a Value {
    &answer["rooms"][kind][room_id.as_str()]
}

/// In how many rooms something is told, by kind of section.
fn counts(answer: &Value) -> [usize; 4] {
    ["join", "invite", "knock", "leave"]
        .map(|kind| answer["rooms"][kind].as_object().unwrap().len())
}

#[tokio::test]
async fn an_invite_tells_what_the_room_is_and_no_more() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.topic(&room, "topic").await;
        let first = house.first_sync(bob()).await;
        assert_eq!(counts(&first), [0, 0, 0, 0]);
        house.set_membership(&room, bob(), Membership::Invite).await;
        let second = house.next_sync(bob(), &first).await;
        assert_eq!(counts(&second), [0, 1, 0, 0]);
        let state = &section(&second, "invite", &room)["invite_state"]["events"];
        let told = said(state);
        for expected in ["m.room.create", "m.room.topic", "@alice:x.example join"] {
            assert!(told.contains(&expected.to_owned()), "{told:?}");
        }
        assert_eq!(told.last().unwrap(), "@bob:x.example invite");
        assert!(
            !told.contains(&"m.room.power_levels".to_owned()),
            "{told:?}"
        );
        for event in state.as_array().unwrap() {
            let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["content", "sender", "state_key", "type"]);
        }
        assert_eq!(counts(&house.next_sync(bob(), &second).await), [0, 0, 0, 0]);
        assert_eq!(counts(&house.first_sync(bob()).await), [0, 1, 0, 0]);
    })
    .await;
}

#[tokio::test]
async fn a_joined_room_is_new_and_a_left_one_ends_with_the_leave() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let first = house.first_sync(bob()).await;
        for number in 0..12 {
            house.say(&room, alice(), &format!("m{number}")).await;
        }
        house.join(&room, bob()).await;
        let second = house.next_sync(bob(), &first).await;
        assert_eq!(counts(&second), [1, 0, 0, 0]);
        let new = joined(&second, &room);
        assert_eq!(new["timeline"]["limited"], true);
        assert!(said(&new["state"]["events"]).contains(&"m.room.create".to_owned()));
        house.say(&room, alice(), "while there").await;
        house.leave(&room, bob()).await;
        house.say(&room, alice(), "behind his back").await;
        let third = house.next_sync(bob(), &second).await;
        assert_eq!(counts(&third), [0, 0, 0, 1]);
        let left = section(&third, "leave", &room);
        let timeline = said(&left["timeline"]["events"]);
        assert_eq!(timeline, ["while there", "@bob:x.example leave"]);
        assert_eq!(counts(&house.next_sync(bob(), &third).await), [0, 0, 0, 0]);
        assert_eq!(counts(&house.first_sync(bob()).await), [0, 0, 0, 0]);
        let with_left = json!({"room": {"include_leave": true}});
        let all = house.synced(&filtered(request(bob()), &with_left)).await;
        assert_eq!(counts(&all), [0, 0, 0, 1]);
        let timeline = said(&section(&all, "leave", &room)["timeline"]["events"]);
        assert_eq!(timeline.last().unwrap(), "@bob:x.example leave");
    })
    .await;
}

#[tokio::test]
async fn kicks_and_bans_are_leaves() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for (membership, seen) in [(Membership::Leave, "leave"), (Membership::Ban, "ban")] {
            house.join(&room, bob()).await;
            let first = house.first_sync(bob()).await;
            house.set_membership(&room, bob(), membership).await;
            let second = house.next_sync(bob(), &first).await;
            assert_eq!(counts(&second), [0, 0, 0, 1]);
            let timeline = said(&section(&second, "leave", &room)["timeline"]["events"]);
            assert_eq!(timeline, [format!("@bob:x.example {seen}")]);
        }
    })
    .await;
}

#[tokio::test]
async fn who_rejects_an_invite_sees_nothing_of_the_room() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.set_membership(&room, bob(), Membership::Invite).await;
        let first = house.first_sync(bob()).await;
        house.say(&room, alice(), "secret").await;
        house.leave(&room, bob()).await;
        let second = house.next_sync(bob(), &first).await;
        let left = section(&second, "leave", &room);
        assert_eq!(said(&left["timeline"]["events"]), ["@bob:x.example leave"]);
        assert_eq!(left["state"]["events"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn who_comes_back_between_two_syncs_gets_the_room_anew() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        house.leave(&room, bob()).await;
        house.topic(&room, "meanwhile").await;
        house.join(&room, bob()).await;
        let second = house.next_sync(bob(), &first).await;
        let new = joined(&second, &room);
        let all: Vec<String> = [&new["state"]["events"], &new["timeline"]["events"]]
            .into_iter()
            .flat_map(said)
            .collect();
        for expected in ["m.room.create", "m.room.topic", "@alice:x.example join"] {
            assert!(all.contains(&expected.to_owned()), "{all:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_profile_is_no_new_room() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        let profile = json!({"membership": "join", "displayname": "Bob"});
        house
            .send(&room, bob(), "m.room.member", Some(bob().as_str()), profile)
            .await;
        let second = house.next_sync(bob(), &first).await;
        let section = joined(&second, &room);
        assert_eq!(section["timeline"]["limited"], false);
        assert_eq!(
            said(&section["timeline"]["events"]),
            ["@bob:x.example join"]
        );
        assert_eq!(section["state"]["events"], json!([]));
        let event = &section["timeline"]["events"][0];
        assert_eq!(event["unsigned"]["prev_content"]["membership"], "join");
    })
    .await;
}

#[tokio::test]
async fn a_join_that_a_resolution_undid_is_the_end_of_the_room() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room_id = house.room().await;
        house.join(&room_id, bob()).await;
        let first = house.first_sync(bob()).await;
        assert_eq!(counts(&first), [1, 0, 0, 0]);
        // As a commit does when bob's join is not in the current state any more.
        let room = house.rooms.room(&room_id).await.unwrap().unwrap();
        let state = room.current().unwrap().state;
        let join = state.get_named(&room.keys(), "m.room.member", bob().as_str());
        let (nr, join) = (room.key.room, join.unwrap().event());
        let allocation = house.rooms.events_stream().allocate(1);
        let position = allocation.positions().next().unwrap();
        let put: Result<(), StorageError> = house
            .fresh
            .database
            .write("undone", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let leave = Membership::Leave;
                    room_table::put_local_membership(tx, nr, bob(), leave, join, position).await
                })
            })
            .await;
        put.unwrap();
        drop(allocation);
        house.topic(&room_id, "without bob").await;
        let second = house.next_sync(bob(), &first).await;
        assert_eq!(counts(&second), [0, 0, 0, 1]);
        let timeline = said(&section(&second, "leave", &room_id)["timeline"]["events"]);
        assert!(timeline.is_empty(), "{timeline:?}");
        assert_eq!(counts(&house.next_sync(bob(), &second).await), [0, 0, 0, 0]);
        assert_eq!(counts(&house.first_sync(bob()).await), [0, 0, 0, 0]);
        // What there was until then stays bob's to read.
        let page = house
            .messages(&room_id, bob(), myelin_sync::Direction::Backward, None)
            .await;
        assert_eq!(
            said(&serde_json::to_value(page.unwrap().chunk).unwrap())[0],
            "@bob:x.example join"
        );
    })
    .await;
}

#[tokio::test]
async fn a_room_that_was_left_long_ago_comes_with_its_end_and_the_settings_for_it() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.topic(&room, "old").await;
        let content = serde_json::value::to_raw_value(&json!({"kept": true})).unwrap();
        let put = house
            .users
            .put_account_data(bob(), Some(room.clone()), "org.example", &content);
        put.await.unwrap();
        house.leave(&room, bob()).await;
        house.topic(&room, "new").await;
        let with_left = json!({"room": {"include_leave": true, "timeline": {"limit": 1}}});
        let all = house.synced(&filtered(request(bob()), &with_left)).await;
        let left = section(&all, "leave", &room);
        assert_eq!(said(&left["timeline"]["events"]), ["@bob:x.example leave"]);
        let state = left["state"]["events"].as_array().unwrap();
        let topic = state
            .iter()
            .find(|event| event["type"] == "m.room.topic")
            .unwrap();
        assert_eq!(topic["content"]["topic"], "old");
        assert_eq!(left["account_data"]["events"][0]["content"]["kept"], true);
        let from = left["timeline"]["prev_batch"].as_str().unwrap();
        let page = house
            .messages(&room, bob(), myelin_sync::Direction::Backward, Some(from))
            .await;
        assert_eq!(
            said(&serde_json::to_value(page.unwrap().chunk).unwrap())[0],
            "m.room.topic"
        );
    })
    .await;
}
