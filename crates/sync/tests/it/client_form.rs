//! The form in which clients get events.

use std::time::Duration;

use myelin_storage::testing::on_each_engine;
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};

use crate::house::{House, alice, bob, filtered, joined, request, viewer};
use myelin_sync::SyncRequest;
use myelin_users::Requester;

async fn event(house: &House, room_id: &RoomId, event_id: &OwnedEventId) -> Value {
    let event = house
        .sync
        .event(&viewer(alice()), room_id, event_id)
        .await
        .unwrap();
    serde_json::from_str(event.get()).unwrap()
}

#[tokio::test]
async fn an_event_has_what_clients_need_and_nothing_of_the_graph() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let sent = house.say(&room, alice(), "hello").await;
        house.fresh.env.clock.advance(Duration::from_millis(1500));
        let expected = json!({
            "content": {"body": "hello", "msgtype": "m.text"},
            "event_id": sent.as_str(),
            "origin_server_ts": myelin_storage::testing::START_MS,
            "room_id": room.as_str(),
            "sender": alice().as_str(),
            "type": "m.room.message",
            "unsigned": {"age": 1500, "membership": "join", "transaction_id": "hello"},
        });
        assert_eq!(event(&house, &room, &sent).await, expected);
    })
    .await;
}

#[tokio::test]
async fn only_the_device_that_sent_an_event_knows_its_transaction() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "hello").await;
        let tablet = Requester {
            device_id: "TABLET".into(),
            ..viewer(alice())
        };
        for (viewer, expected) in [
            (viewer(alice()), json!("hello")),
            (tablet, Value::Null),
            (viewer(bob()), Value::Null),
        ] {
            let request = SyncRequest {
                viewer,
                ..request(alice())
            };
            let answer = house.synced(&request).await;
            let events = joined(&answer, &room)["timeline"]["events"]
                .as_array()
                .unwrap()
                .clone();
            assert_eq!(
                events.last().unwrap()["unsigned"]["transaction_id"],
                expected
            );
            assert!(events.last().unwrap().get("room_id").is_none());
        }
    })
    .await;
}

#[tokio::test]
async fn state_says_what_it_replaced() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let first = house.topic(&room, "first").await;
        let second = house.topic(&room, "second").await;
        let unsigned = event(&house, &room, &first).await["unsigned"].clone();
        assert!(unsigned.get("prev_content").is_none(), "{unsigned}");
        let unsigned = event(&house, &room, &second).await["unsigned"].clone();
        assert_eq!(unsigned["prev_content"], json!({"topic": "first"}));
        assert_eq!(unsigned["replaces_state"], first.as_str());
        assert_eq!(unsigned["prev_sender"], alice().as_str());
        house.redact(&room, alice(), &first).await;
        let unsigned = event(&house, &room, &second).await["unsigned"].clone();
        assert_eq!(unsigned["prev_content"], json!({}));
    })
    .await;
}

#[tokio::test]
async fn a_redacted_event_is_pruned_and_says_why() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        for version in ["1", "3", "9", "10", "11", "12"] {
            let room = house.room_of_version(version).await;
            let sent = house.say(&room, alice(), "secret").await;
            let redaction = house.redact(&room, alice(), &sent).await;
            let pruned = event(&house, &room, &sent).await;
            assert_eq!(pruned["content"], json!({}), "{version}");
            let because = &pruned["unsigned"]["redacted_because"];
            assert_eq!(because["event_id"], redaction.as_str(), "{version}");
            assert_eq!(because["content"]["reason"], "spam");
            // Clients of either age find what was redacted, whatever the room version.
            let redaction = event(&house, &room, &redaction).await;
            assert_eq!(redaction["redacts"], sent.as_str(), "{version}");
            assert_eq!(redaction["content"]["redacts"], sent.as_str(), "{version}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_redacted_topic_is_empty_in_the_state() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let topic = house.topic(&room, "secret").await;
        house.redact(&room, alice(), &topic).await;
        let entry = house
            .sync
            .state_entry(&viewer(alice()), &room, "m.room.topic", "")
            .await;
        assert_eq!(entry.unwrap().get(), "{}");
    })
    .await;
}

#[tokio::test]
async fn a_client_may_ask_for_events_as_they_travel_between_servers() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let kept = house.say(&room, alice(), "kept").await;
        let redacted = house.say(&room, alice(), "redacted").await;
        house.redact(&room, alice(), &redacted).await;
        let filter = json!({"event_format": "federation"});
        let answer = house.synced(&filtered(request(alice()), &filter)).await;
        let events = joined(&answer, &room)["timeline"]["events"]
            .as_array()
            .unwrap();
        for (id, content) in [
            (kept, json!({"body": "kept", "msgtype": "m.text"})),
            (redacted, json!({})),
        ] {
            let event = events
                .iter()
                .find(|event| event["event_id"] == id.as_str())
                .unwrap();
            assert_eq!(event["content"], content);
            assert_eq!(event["room_id"], room.as_str());
            for field in [
                "auth_events",
                "prev_events",
                "depth",
                "hashes",
                "signatures",
                "unsigned",
            ] {
                assert!(event.get(field).is_some(), "{field} {event}");
            }
        }
    })
    .await;
}
