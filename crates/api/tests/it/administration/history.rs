//! What was said in rooms, as administrators read it.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use super::Office;

/// Anna's room, in which only those who are in it read, and the two messages in it; the second is redacted.
async fn closed_room(office: &Office) -> (String, [String; 2]) {
    let anna = office.site.token("anna").await;
    let visibility = json!({ "history_visibility": "joined" });
    let visibility =
        json!({ "type": "m.room.history_visibility", "state_key": "", "content": visibility });
    let room = office
        .create(&anna, json!({ "initial_state": [visibility] }))
        .await;
    let mut said = Vec::new();
    for words in ["tea", "milk"] {
        let end = format!("rooms/{room}/send/m.room.message/{words}");
        let message = json!({ "msgtype": "m.text", "body": words });
        let (_, sent) = office.client(&anna, Method::PUT, &end, message).await;
        said.push(sent["event_id"].as_str().unwrap().to_owned());
    }
    let end = format!("rooms/{room}/redact/{}/1", said[1]);
    let (status, _) = office.client(&anna, Method::PUT, &end, json!({})).await;
    assert_eq!(status, 200);
    (room, said.try_into().unwrap())
}

#[tokio::test]
async fn an_administrator_reads_rooms_without_being_in_them() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (room, [tea, milk]) = closed_room(&office).await;
        let as_user = format!("rooms/{room}/messages?dir=b");
        let refused = office
            .client(&office.root, Method::GET, &as_user, Value::Null)
            .await;
        assert_eq!(refused.0, 403);
        let base = format!("v1/rooms/{room}");
        let ids = |events: &Value| -> Vec<String> {
            let events = events.as_array().unwrap().iter();
            events
                .map(|event| event["event_id"].as_str().unwrap().to_owned())
                .collect()
        };
        let newest = office.get(&format!("{base}/messages?dir=b&limit=3")).await;
        assert_eq!(ids(&newest["chunk"])[1..], [milk.clone(), tea.clone()]);
        assert_eq!(newest["chunk"][1]["content"], json!({}), "redacted");
        let first = office.get(&format!("{base}/messages?limit=1")).await;
        assert_eq!(first["chunk"][0]["type"], "m.room.create");
        let on = first["end"].as_str().unwrap();
        let next = office
            .get(&format!("{base}/messages?limit=1&from={on}"))
            .await;
        assert_eq!(next["chunk"][0]["type"], "m.room.member");
        let around = office.get(&format!("{base}/context/{milk}?limit=2")).await;
        assert_eq!(around["event"]["event_id"], milk);
        assert_eq!(ids(&around["events_before"]), std::slice::from_ref(&tea));
        let at = office.get(&format!("{base}/timestamp_to_event?ts=0")).await;
        assert_eq!(at["event_id"], first["chunk"][0]["event_id"]);
        for (end, error) in [
            (
                "v1/rooms/!no:example.org/messages".to_owned(),
                "M_NOT_FOUND Room not found",
            ),
            (format!("{base}/context/$no"), "M_NOT_FOUND No such event"),
            (
                format!("v1/rooms/!no:example.org/context/{tea}"),
                "M_NOT_FOUND Room not found",
            ),
            (
                "v1/rooms/!no:example.org/timestamp_to_event?ts=0".to_owned(),
                "M_NOT_FOUND Room not found",
            ),
        ] {
            let refused = office.refused(Method::GET, &end, Value::Null).await;
            assert_eq!(refused, (404, error.to_owned()), "{end}");
        }
        for end in [
            "messages?dir=x",
            "messages?from=x",
            "timestamp_to_event",
            "timestamp_to_event?ts=x",
        ] {
            let (status, _) = office
                .refused(Method::GET, &format!("{base}/{end}"), Value::Null)
                .await;
            assert_eq!(status, 400, "{end}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_administrator_fetches_an_event_as_it_was_sent() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (room, [_, milk]) = closed_room(&office).await;
        let (status, found) = office
            .ask(Method::GET, &format!("v1/fetch_event/{milk}"), Value::Null)
            .await;
        assert_eq!(status, StatusCode::OK, "{found}");
        let event = &found["event"];
        assert_eq!(
            (&event["event_id"], &event["room_id"]),
            (&json!(milk), &json!(room))
        );
        assert_eq!(event["content"]["body"], "milk");
        assert!(event["signatures"]["example.org"].is_object() && event["prev_events"].is_array());
        let missing = office
            .refused(Method::GET, "v1/fetch_event/$no", Value::Null)
            .await;
        assert_eq!(missing, (404, "M_NOT_FOUND Event not found".to_owned()));
    })
    .await;
}
