use std::time::Duration;

use http::{Method, StatusCode};
use myelin_api::{Access, Route, routes};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, errors::example};

#[tokio::test]
async fn people_talk_in_a_room() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let wish = json!({
            "name": "Tea", "topic": "Leaves", "preset": "public_chat", "room_alias_name": "tea",
            "initial_state": [{ "type": "org.example.kettle", "state_key": "blue", "content": { "hot": true } }],
        });
        let (status, created) = site.call(Method::POST, create, Some(&alice), wish.clone()).await;
        assert_eq!(status, StatusCode::OK, "{created}");
        let room_id = created["room_id"].as_str().unwrap();
        let room = format!("/_matrix/client/v3/rooms/{room_id}");
        let (status, refused) = site.call(Method::POST, create, Some(&alice), wish).await;
        assert_eq!((status, &refused["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_ROOM_IN_USE")));

        let join = "/_matrix/client/v3/join/%23tea:example.org?via=example.org&server_name=example.com";
        let (status, joined) = site.call(Method::POST, join, Some(&bob), Value::Null).await;
        assert_eq!((status, &joined["room_id"]), (StatusCode::OK, &json!(room_id)));
        let (_, rooms) = site.call(Method::GET, "/_matrix/client/v3/joined_rooms", Some(&bob), Value::Null).await;
        assert_eq!(rooms, json!({ "joined_rooms": [room_id] }));

        let message = json!({ "msgtype": "m.text", "body": "Hello" });
        let send = format!("{room}/send/m.room.message/one");
        let (_, sent) = site.call(Method::PUT, &send, Some(&bob), message.clone()).await;
        let (_, again) = site.call(Method::PUT, &send, Some(&bob), message.clone()).await;
        assert_eq!(sent, again, "a repeated request sends nothing twice");
        let event_id = sent["event_id"].as_str().unwrap();
        let event = format!("{room}/event/{event_id}");
        let (_, seen) = site.call(Method::GET, &event, Some(&alice), Value::Null).await;
        assert_eq!((&seen["content"], &seen["sender"]), (&message, &json!("@bob:example.org")));

        let redact = format!("{room}/redact/{event_id}/two");
        let (status, _) = site.call(Method::PUT, &redact, Some(&alice), json!({ "reason": "Cold" })).await;
        assert_eq!(status, StatusCode::OK);
        let (_, seen) = site.call(Method::GET, &event, Some(&bob), Value::Null).await;
        assert_eq!(seen["content"], json!({}));
        let (_, page) = site.call(Method::GET, &format!("{room}/messages?dir=b&limit=2"), Some(&bob), Value::Null).await;
        assert_eq!(page["chunk"][0]["type"], "m.room.redaction");
        assert_eq!(page["chunk"][1]["event_id"], event_id);

        let (_, around) = site.call(Method::GET, &format!("{room}/context/{event_id}?limit=2"), Some(&bob), Value::Null).await;
        assert_eq!(around["event"]["event_id"], event_id);
        assert_eq!(around["events_after"][0]["event_id"], page["chunk"][0]["event_id"]);
        for (end, status, code) in [
            ("$none", StatusCode::NOT_FOUND, "M_NOT_FOUND"),
            ("none", StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            (&format!("{event_id}?filter=%5B%5D"), StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            (&format!("{event_id}?limit=many"), StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        ] {
            let (found, refused) = site.call(Method::GET, &format!("{room}/context/{end}"), Some(&bob), Value::Null).await;
            assert_eq!((found, &refused["errcode"]), (status, &json!(code)), "{end}");
        }

        let by_time = format!("/_matrix/client/v1/rooms/{room_id}/timestamp_to_event");
        let (_, found) = site.call(Method::GET, &format!("{by_time}?ts=9999999999999&dir=b"), Some(&bob), Value::Null).await;
        assert_eq!(found["event_id"], page["chunk"][0]["event_id"]);
        assert_eq!(found["origin_server_ts"], page["chunk"][0]["origin_server_ts"]);
        let (status, nothing) = site.call(Method::GET, &format!("{by_time}?ts=5&dir=b"), Some(&bob), Value::Null).await;
        let expected = json!({ "errcode": "M_NOT_FOUND", "error": "Unable to find event from 5 in backward direction" });
        assert_eq!((status, nothing), (StatusCode::NOT_FOUND, expected));
    })
    .await;
}

#[tokio::test]
async fn every_form_of_the_state_endpoints_works() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let call = |method, target: String, body| {
            let (site, token) = (&site, &token);
            async move { site.call(method, &target, Some(token), body).await }
        };
        let create = "/_matrix/client/v3/createRoom".to_owned();
        let (_, created) = call(Method::POST, create, Value::Null).await;
        let room = format!(
            "/_matrix/client/v3/rooms/{}",
            created["room_id"].as_str().unwrap()
        );
        for (index, end) in ["m.room.topic", "m.room.topic/"].into_iter().enumerate() {
            let content = json!({ "topic": format!("Leaves {index}") });
            let target = format!("{room}/state/{end}");
            let (status, _) = call(Method::PUT, target, content.clone()).await;
            assert_eq!(status, StatusCode::OK);
            for end in [
                "m.room.topic",
                "m.room.topic/",
                "m.room.topic?format=content",
            ] {
                let (_, read) = call(Method::GET, format!("{room}/state/{end}"), Value::Null).await;
                assert_eq!(read, content, "{end}");
            }
        }
        let keyed = format!("{room}/state/org.example.kettle/blue%2Fgreen");
        call(Method::PUT, keyed.clone(), json!({ "hot": true })).await;
        let (_, event) = call(Method::GET, format!("{keyed}?format=event"), Value::Null).await;
        assert_eq!(
            (&event["state_key"], &event["content"]),
            (&json!("blue/green"), &json!({ "hot": true }))
        );
        let (_, all) = call(Method::GET, format!("{room}/state"), Value::Null).await;
        let all = all.as_array().unwrap();
        assert!(
            all.iter()
                .any(|event| event["type"] == "org.example.kettle")
        );
        let missing = format!("{room}/state/org.example.teapot");
        let (status, _) = call(Method::GET, missing, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let (_, members) = call(Method::GET, format!("{room}/members"), Value::Null).await;
        assert_eq!(members["chunk"][0]["state_key"], "@alice:example.org");
        let (_, joined) = call(Method::GET, format!("{room}/joined_members"), Value::Null).await;
        assert!(
            joined["joined"]["@alice:example.org"].is_object(),
            "{joined}"
        );
    })
    .await;
}

/// Whether an endpoint is asked with access tokens about a room. A room may be reported from outside.
fn is_about_a_room(route: &Route) -> bool {
    matches!(route.access, Access::Guest | Access::User)
        && route.path.contains("{room_id}")
        && !route.path.ends_with("{room_id}/report")
}

/// What is needed to be told more than that the request is malformed.
fn request(path: &str) -> Value {
    match path.rsplit('/').next().unwrap() {
        "invite" | "kick" | "ban" | "unban" => json!({ "user_id": "@alice:example.org" }),
        "upgrade" => json!({ "new_version": "11" }),
        "{user_id}" => json!({ "typing": true }),
        "read_markers" => json!({ "m.read": "$event" }),
        _ => json!({}),
    }
}

#[tokio::test]
async fn rooms_of_others_are_closed() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let (_, created) = site
            .call(Method::POST, create, Some(&alice), Value::Null)
            .await;
        let room = created["room_id"].as_str().unwrap();
        let stored = async || {
            let mut stored = site.stored().await;
            // When a device was last used is noted, whatever it asked for.
            stored.remove("devices");
            stored
        };
        let before = stored().await;
        for route in routes().into_iter().filter(is_about_a_room) {
            let target = example(route.path).replace("!room:example.org", room);
            let body = request(route.path);
            let (status, answer) = site.call(route.method, &target, Some(&bob), body).await;
            let expected = match route.path.rsplit_once("/rooms/{room_id}/") {
                // Whether there is such an event is not for others to know.
                Some((_, "event/{event_id}" | "context/{event_id}" | "report/{event_id}")) => {
                    (404, "M_NOT_FOUND")
                }
                Some((_, of)) if of.starts_with("relations/") => (404, "M_NOT_FOUND"),
                Some((_, "forget")) => (400, "M_UNKNOWN"),
                _ => (403, "M_FORBIDDEN"),
            };
            let found = (
                status.as_u16(),
                answer["errcode"].as_str().unwrap_or_default(),
            );
            assert_eq!(found, expected, "{} {answer}", route.path);
        }
        assert_eq!(stored().await, before);
    })
    .await;
}

#[tokio::test]
async fn the_event_nearest_to_a_moment_is_shown_to_members() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let (_, created) = site
            .call(Method::POST, create, Some(&alice), Value::Null)
            .await;
        let room = created["room_id"].as_str().unwrap();
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        fresh.env.clock.advance(Duration::from_secs(60));
        let (_, sent) = site
            .call(Method::PUT, &send, Some(&alice), json!({ "body": "hi" }))
            .await;
        let now_ms = fresh.env.clock.now_ms();
        let at = |room: &str, ts: u64, dir: &str| {
            format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={dir}")
        };
        let nearest = at(room, now_ms - 1, "f");
        let found = site.call(Method::GET, &nearest, Some(&alice), Value::Null);
        let expected = json!({ "event_id": sent["event_id"], "origin_server_ts": now_ms });
        assert_eq!(found.await, (StatusCode::OK, expected));
        for (target, token, expected) in [
            (nearest, Some(&bob), (403, "M_FORBIDDEN")),
            (at(room, now_ms, "f"), None, (401, "M_MISSING_TOKEN")),
            (
                at(room, now_ms + 1, "f"),
                Some(&alice),
                (404, "M_NOT_FOUND"),
            ),
            (
                at("!no:example.org", now_ms, "f"),
                Some(&alice),
                (403, "M_FORBIDDEN"),
            ),
            (
                at("no", now_ms, "f"),
                Some(&alice),
                (400, "M_INVALID_PARAM"),
            ),
        ] {
            let token = token.map(String::as_str);
            let (status, refused) = site.call(Method::GET, &target, token, Value::Null).await;
            let found = (status.as_u16(), refused["errcode"].as_str().unwrap());
            assert_eq!(found, expected, "{target}");
        }
    })
    .await;
}

#[tokio::test]
async fn malformed_wishes_are_refused() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let token = site.token("alice").await;
    let create = "/_matrix/client/v3/createRoom";
    for (wish, errcode) in [
        (
            json!({ "room_version": "99" }),
            "M_UNSUPPORTED_ROOM_VERSION",
        ),
        (json!({ "preset": "secret_chat" }), "M_BAD_JSON"),
        (json!({ "visibility": "foggy" }), "M_BAD_JSON"),
        (json!({ "invite": ["bob"] }), "M_BAD_JSON"),
        (json!({ "invite_3pid": [{}] }), "M_MISSING_PARAM"),
    ] {
        let (_, refused) = site
            .call(Method::POST, create, Some(&token), wish.clone())
            .await;
        assert_eq!(refused["errcode"], errcode, "{wish}");
    }
    let (_, created) = site
        .call(Method::POST, create, Some(&token), Value::Null)
        .await;
    let room = format!(
        "/_matrix/client/v3/rooms/{}",
        created["room_id"].as_str().unwrap()
    );
    for (end, body, errcode) in [
        ("send/m.room.message/1", json!([]), "M_BAD_JSON"),
        (
            "send/m.room.message/2",
            json!({ "body": "x".repeat(70_000) }),
            "M_TOO_LARGE",
        ),
        (
            "send/m.room.message/3",
            json!({ "number": 0.5 }),
            "M_BAD_JSON",
        ),
    ] {
        let target = format!("{room}/{end}");
        let (_, refused) = site.call(Method::PUT, &target, Some(&token), body).await;
        assert_eq!(refused["errcode"], errcode, "{end}");
    }
}
