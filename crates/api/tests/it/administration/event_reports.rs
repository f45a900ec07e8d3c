//! Reported events, as administrators see them.

use std::time::Duration;

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use super::Office;

/// Two events of anna's room, each reported by her, and the room.
async fn reported(office: &Office) -> (String, Vec<String>) {
    let anna = office.site.token("anna").await;
    let call = async |method, end: &str, body| {
        let target = format!("/_matrix/client/v3/{end}");
        let (status, answer) = office.site.call(method, &target, Some(&anna), body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let room = call(Method::POST, "createRoom", json!({ "name": "Tea" })).await;
    let room = room["room_id"].as_str().unwrap().to_owned();
    let mut events = Vec::new();
    for number in 0..2 {
        let send = format!("rooms/{room}/send/m.room.message/{number}");
        let sent = call(Method::PUT, &send, json!({ "body": "spam" })).await;
        let event = sent["event_id"].as_str().unwrap().to_owned();
        let reason = json!({ "reason": format!("reason {number}") });
        call(
            Method::POST,
            &format!("rooms/{room}/report/{event}"),
            reason,
        )
        .await;
        events.push(event);
        office.site.fresh.env.clock.advance(Duration::from_secs(1));
    }
    let all = json!({ "reason": "all of it" });
    call(Method::POST, &format!("rooms/{room}/report"), all).await;
    (room, events)
}

#[tokio::test]
async fn reported_events_are_listed_by_age_and_kind() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (room, events) = reported(&office).await;
        let newest = office.get("v1/event_reports?limit=1").await;
        let counts = (&newest["total"], &newest["next_token"]);
        assert_eq!(counts, (&json!(2), &json!(1)));
        for (field, value) in [
            ("event_id", &*events[1]),
            ("reason", "reason 1"),
            ("user_id", "@anna:example.org"),
            ("sender", "@anna:example.org"),
            ("name", "Tea"),
            ("room_id", &room),
        ] {
            assert_eq!(newest["event_reports"][0][field], value, "{field}");
        }
        let oldest = office
            .get("v1/event_reports?dir=f&from=0&user_id=@anna:example.org")
            .await;
        assert_eq!(oldest["event_reports"][0]["event_id"], *events[0]);
        for filter in [
            "user_id=@bert:example.org",
            "event_sender_user_id=@bert:example.org",
            "room_id=!no:example.org",
        ] {
            let none = office.get(&format!("v1/event_reports?{filter}")).await;
            assert_eq!(none["total"], 0, "{filter}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_reported_event_is_shown_to_who_is_not_in_its_room_until_the_report_goes() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        reported(&office).await;
        let list = office.get("v1/event_reports").await;
        let one = format!("v1/event_reports/{}", list["event_reports"][0]["id"]);
        let shown = office.get(&one).await;
        assert_eq!(shown["event_json"]["content"]["body"], "spam");
        office.done(Method::DELETE, &one, Value::Null).await;
        let gone = (404, "M_NOT_FOUND Event report not found".to_owned());
        for method in [Method::GET, Method::DELETE] {
            assert_eq!(office.refused(method, &one, Value::Null).await, gone);
        }
        assert_eq!(office.get("v1/event_reports").await["total"], 1);
        let bad = office.refused(Method::GET, "v1/event_reports/x", Value::Null);
        let (status, error) = bad.await;
        assert!(
            status == 400 && error.starts_with("M_INVALID_PARAM"),
            "{error}"
        );
    })
    .await;
}
