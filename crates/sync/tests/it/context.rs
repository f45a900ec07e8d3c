//! What was said around an event.

use myelin_storage::testing::on_each_engine;
use myelin_sync::{Asking, ContextRequest, Direction, RoomEventFilter, SyncError};
use ruma::{EventId, RoomId, UserId, event_id};
use serde_json::{Value, json};

use crate::house::{House, alice, bob, carol, said, viewer};

fn around(room: &RoomId, user: &UserId, event: &EventId, limit: u64) -> ContextRequest {
    ContextRequest {
        asking: Asking::AsUser,
        viewer: viewer(user),
        room_id: room.to_owned(),
        event_id: event.to_owned(),
        limit: Some(limit),
        filter: RoomEventFilter::default(),
    }
}

async fn read(house: &House, request: &ContextRequest) -> Value {
    let context = house.sync.context(request).await.unwrap();
    serde_json::to_value(context).unwrap()
}

#[tokio::test]
async fn an_event_stands_between_those_before_and_after_it_and_reading_goes_on_from_there() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let mut events = Vec::new();
        for number in 0..9 {
            events.push(house.say(&room, alice(), &format!("m{number}")).await);
        }
        for (limit, before, after) in [
            (0, vec![], vec![]),
            (1, vec![], vec!["m5"]),
            (4, vec!["m3", "m2"], vec!["m5", "m6"]),
            (5, vec!["m3", "m2"], vec!["m5", "m6", "m7"]),
        ] {
            let context = read(&house, &around(&room, alice(), &events[4], limit)).await;
            assert_eq!(context["event"]["content"]["body"], "m4");
            assert_eq!(said(&context["events_before"]), before, "{limit}");
            assert_eq!(said(&context["events_after"]), after, "{limit}");
        }
        let context = read(&house, &around(&room, alice(), &events[4], 4)).await;
        for (token, direction, expected) in [
            ("start", Direction::Backward, "m1"),
            ("end", Direction::Forward, "m7"),
        ] {
            let from = context[token].as_str();
            let page = house.messages(&room, alice(), direction, from).await;
            let chunk = serde_json::to_value(&page.unwrap().chunk).unwrap();
            assert_eq!(said(&chunk)[0], expected);
        }
    })
    .await;
}

#[tokio::test]
async fn the_state_is_that_after_the_last_event_shown() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.join(&room, carol()).await;
        house.topic(&room, "before").await;
        let middle = house.say(&room, bob(), "middle").await;
        house.topic(&room, "after").await;
        house.topic(&room, "later").await;
        let topic = |context: &Value| {
            let state = context["state"].as_array().unwrap().clone();
            let found = state.into_iter().find(|of| of["type"] == "m.room.topic");
            found.unwrap()["content"]["topic"].clone()
        };
        for (limit, expected) in [(0, "before"), (1, "after"), (4, "later")] {
            let context = read(&house, &around(&room, alice(), &middle, limit)).await;
            assert_eq!(topic(&context), expected, "{limit}");
        }
        let mut lazy = around(&room, alice(), &middle, 0);
        let members = |context: &Value| {
            let state = context["state"].as_array().unwrap().clone();
            let members = state.into_iter().filter(|of| of["type"] == "m.room.member");
            members
                .map(|of| of["state_key"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(members(&read(&house, &lazy).await).len(), 3);
        lazy.filter = RoomEventFilter::parse(r#"{"lazy_load_members": true}"#).unwrap();
        assert_eq!(members(&read(&house, &lazy).await), [json!(bob())]);
    })
    .await;
}

#[tokio::test]
async fn a_filter_is_about_the_events_around_and_the_one_asked_for_is_shown_anyway() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.say(&room, bob(), "first").await;
        house.say(&room, alice(), "second").await;
        let middle = house.say(&room, alice(), "third").await;
        house.say(&room, alice(), "fourth").await;
        house.say(&room, bob(), "fifth").await;
        let mut request = around(&room, alice(), &middle, 2);
        request.filter = RoomEventFilter::parse(r#"{"senders": ["@bob:x.example"]}"#).unwrap();
        let context = read(&house, &request).await;
        assert_eq!(context["event"]["content"]["body"], "third");
        assert_eq!(said(&context["events_before"]), ["first"]);
        assert_eq!(said(&context["events_after"]), ["fifth"]);
    })
    .await;
}

#[tokio::test]
async fn what_a_user_may_not_see_has_no_context() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let other = house.room().await;
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "among us").await;
        house.leave(&room, bob()).await;
        let later = house.say(&room, alice(), "about bob").await;
        let unknown = event_id!("$none:x.example");
        for (room, user, event) in [
            (&room, carol(), &*event),
            (&room, bob(), &*later),
            (&room, alice(), unknown),
            (&other, alice(), &*event),
        ] {
            let refused = house.sync.context(&around(room, user, event, 4)).await;
            assert!(
                matches!(refused, Err(SyncError::NotFound(_))),
                "{refused:?}"
            );
        }
        let context = read(&house, &around(&room, bob(), &event, 9)).await;
        assert_eq!(said(&context["events_after"]).len(), 1, "up to bob's leave");
    })
    .await;
}
