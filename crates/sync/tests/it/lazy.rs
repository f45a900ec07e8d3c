//! Lazy loading of members.

use myelin_storage::testing::on_each_engine;
use serde_json::json;

use crate::house::{
    House, alice, bob, carol, filtered, joined, lazy, messages_request, request, said, since,
    sorted,
};
use myelin_sync::{Direction, MessagesRequest, RoomEventFilter, SyncRequest};

/// Only the members among some events.
fn members(events: &serde_json::Value) -> Vec<String> {
    sorted(
        said(events)
            .into_iter()
            .filter(|event| event.starts_with('@'))
            .collect(),
    )
}

/// A filter with lazy loading, names for the room so that it has no heroes, and few events.
fn few() -> serde_json::Value {
    json!({"room": {"state": {"lazy_load_members": true}, "timeline": {"limit": 2}}})
}

async fn house_with_three(fresh: myelin_storage::testing::Fresh) -> (House, ruma::OwnedRoomId) {
    let house = House::open(fresh).await;
    let room = house.room().await;
    house
        .send(
            &room,
            alice(),
            "m.room.name",
            Some(""),
            json!({"name": "Room"}),
        )
        .await;
    house.join(&room, bob()).await;
    house.join(&room, carol()).await;
    (house, room)
}

#[tokio::test]
async fn only_the_senders_and_the_user_are_among_the_members() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_three(fresh).await;
        house.say(&room, bob(), "m1").await;
        house.say(&room, bob(), "m2").await;
        let answer = house.synced(&filtered(request(alice()), &few())).await;
        let section = joined(&answer, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["m1", "m2"]);
        let state = &section["state"]["events"];
        assert_eq!(
            members(state),
            ["@alice:x.example join", "@bob:x.example join"]
        );
        assert!(said(state).contains(&"m.room.name".to_owned()));
        assert_eq!(section["summary"]["m.joined_member_count"], 3);
    })
    .await;
}

#[tokio::test]
async fn a_member_is_sent_once_unless_the_answer_got_lost() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_three(fresh).await;
        for body in ["m1", "m2"] {
            house.say(&room, alice(), body).await;
        }
        let sync = async |last, filter| {
            let answer = house
                .synced(&filtered(since(request(alice()), last), filter))
                .await;
            let sent = members(&joined(&answer, &room)["state"]["events"]);
            (answer, sent)
        };
        let filter = few();
        let first = house.synced(&filtered(request(alice()), &filter)).await;
        house.say(&room, alice(), "m3").await;
        let (second, sent) = sync(&first, &filter).await;
        assert_eq!(
            sent, [""; 0],
            "the user's own membership came with the room"
        );
        house.say(&room, bob(), "m4").await;
        let (third, sent) = sync(&second, &filter).await;
        let bobs = ["@bob:x.example join"];
        assert_eq!(sent, bobs);
        let (_, sent) = sync(&second, &filter).await;
        assert_eq!(sent, bobs, "the answer got lost");
        house.say(&room, bob(), "m5").await;
        let (fourth, sent) = sync(&third, &filter).await;
        assert_eq!(sent, [""; 0], "the answer was received");
        house.say(&room, bob(), "m6").await;
        let mut redundant = few();
        redundant["room"]["state"]["include_redundant_members"] = true.into();
        let (_, sent) = sync(&fourth, &redundant).await;
        assert_eq!(sent, bobs, "wanted although redundant");
    })
    .await;
}

#[tokio::test]
async fn memberships_that_changed_in_a_gap_are_sent() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_three(fresh).await;
        let first = house.synced(&filtered(request(alice()), &few())).await;
        house.leave(&room, carol()).await;
        for body in ["m1", "m2", "m3"] {
            house.say(&room, alice(), body).await;
        }
        let second = house
            .synced(&filtered(since(request(alice()), &first), &few()))
            .await;
        let section = joined(&second, &room);
        assert_eq!(section["timeline"]["limited"], true);
        assert_eq!(
            members(&section["state"]["events"]),
            ["@carol:x.example leave"]
        );
    })
    .await;
}

#[tokio::test]
async fn the_heroes_of_a_nameless_room_are_among_the_members() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        for number in 0..10 {
            house.say(&room, alice(), &format!("m{number}")).await;
        }
        let answer = house.synced(&filtered(request(alice()), &lazy())).await;
        let section = joined(&answer, &room);
        assert_eq!(section["summary"]["m.heroes"], json!([bob().as_str()]));
        let state = members(&section["state"]["events"]);
        assert_eq!(state, ["@alice:x.example join", "@bob:x.example join"]);
    })
    .await;
}

#[tokio::test]
async fn a_page_of_history_comes_with_its_senders() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_three(fresh).await;
        house.say(&room, bob(), "m1").await;
        house.say(&room, bob(), "m2").await;
        let filter = RoomEventFilter::parse(r#"{"lazy_load_members": true}"#).unwrap();
        let request = MessagesRequest {
            limit: Some(2),
            filter,
            ..messages_request(&room, carol(), Direction::Backward, None)
        };
        let page = serde_json::to_value(house.sync.messages(&request).await.unwrap()).unwrap();
        assert_eq!(said(&page["chunk"]), ["m2", "m1"]);
        assert_eq!(said(&page["state"]), ["@bob:x.example join"]);
    })
    .await;
}

#[tokio::test]
async fn the_state_after_a_timeline_has_the_members_that_joined_in_it() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.say(&room, bob(), "hello").await;
        let after = SyncRequest {
            use_state_after: true,
            ..filtered(request(alice()), &lazy())
        };
        let answer = house.synced(&after).await;
        let section = joined(&answer, &room);
        let timeline = said(&section["timeline"]["events"]);
        assert!(
            timeline.contains(&"@bob:x.example join".to_owned()),
            "{timeline:?}"
        );
        // The state events of the timeline don't count for who asks for this.
        let state = said(&section["state_after"]["events"]);
        assert!(
            state.contains(&"@bob:x.example join".to_owned()),
            "{state:?}"
        );
    })
    .await;
}
