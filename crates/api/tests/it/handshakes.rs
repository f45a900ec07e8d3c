//! Memberships that other servers send: `make_*`, `send_*`. The server asks itself, since its own key
//! is the one at hand; the users are of its own.

use http::{Method, StatusCode};
use myelin_core::{build::sign_template, room_version::RoomVersion};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, federation::call};

const V1: &str = "/_matrix/federation/v1";
const V2: &str = "/_matrix/federation/v2";

/// A room of alice's.
async fn room(site: &Site, rule: &str) -> String {
    let token = site.token("alice").await;
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": rule } });
    let body = json!({ "preset": "public_chat", "initial_state": [rules] });
    let create = "/_matrix/client/v3/createRoom";
    let (_, answer) = site.call(Method::POST, create, Some(&token), body).await;
    answer["room_id"].as_str().unwrap().to_owned()
}

/// A template, completed: the event ID and the event.
async fn made(site: &Site, kind: &str, room: &str, user: &str) -> (String, Value) {
    let target = format!("{V1}/make_{kind}/{room}/@{user}:example.org?ver=11&ver=12");
    let (status, template) = call(site, Method::GET, &target, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{template}");
    assert_eq!(template["room_version"], "12");
    let event = serde_json::from_value(template["event"].clone()).unwrap();
    let pdu = sign_template(RoomVersion::V12, &event, site.keys.active()).unwrap();
    (
        pdu.event_id.to_string(),
        serde_json::from_str(&pdu.json).unwrap(),
    )
}

#[tokio::test]
async fn joins_knocks_and_leaves_are_made_and_taken_in_both_versions() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let room = room(&site, "public").await;
        let (id, join) = made(&site, "join", &room, "bob").await;
        let target = format!("{V2}/send_join/{room}/{id}?omit_members=true");
        let (status, answer) = call(&site, Method::PUT, &target, join).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["members_omitted"], true);
        assert_eq!(answer["servers_in_room"], json!(["example.org"]));
        let (id, join) = made(&site, "join", &room, "carol").await;
        let target = format!("{V1}/send_join/{room}/{id}");
        let (status, answer) = call(&site, Method::PUT, &target, join).await;
        assert_eq!((status, &answer[0]), (StatusCode::OK, &json!(200)));
        assert_eq!(answer[1]["members_omitted"], false);
        assert!(answer[1]["state"].as_array().unwrap().len() > 5, "{answer}");
        let (id, leave) = made(&site, "leave", &room, "bob").await;
        let target = format!("{V2}/send_leave/{room}/{id}");
        let answer = call(&site, Method::PUT, &target, leave).await;
        assert_eq!(answer, (StatusCode::OK, json!({})));
        let (id, leave) = made(&site, "leave", &room, "carol").await;
        let target = format!("{V1}/send_leave/{room}/{id}");
        let answer = call(&site, Method::PUT, &target, leave).await;
        assert_eq!(answer, (StatusCode::OK, json!([200, {}])));
    })
    .await;
}

#[tokio::test]
async fn a_knock_is_answered_with_state_that_tells_of_the_room() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let room = room(&site, "knock").await;
        let (id, knock) = made(&site, "knock", &room, "bob").await;
        let target = format!("{V1}/send_knock/{room}/{id}");
        let (status, answer) = call(&site, Method::PUT, &target, knock).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let told = answer["knock_room_state"].as_array().unwrap();
        assert!(told.iter().any(|event| event["type"] == "m.room.create"));
    })
    .await;
}

/// Templates that nobody gets, `ROOM` being one that is by invitation only.
const UNMADE: [(&str, u16, &str); 12] = [
    (
        "make_join/!no:example.org/@bob:example.org?ver=12",
        404,
        "M_NOT_FOUND",
    ),
    (
        "make_knock/!no:example.org/@bob:example.org?ver=12",
        404,
        "M_NOT_FOUND",
    ),
    (
        "make_leave/!no:example.org/@bob:example.org",
        404,
        "M_NOT_FOUND",
    ),
    ("make_join/ROOM/@bob:example.com?ver=12", 403, "M_FORBIDDEN"),
    (
        "make_knock/ROOM/@bob:example.com?ver=12",
        403,
        "M_FORBIDDEN",
    ),
    ("make_leave/ROOM/@bob:example.com", 403, "M_FORBIDDEN"),
    ("make_join/ROOM/@bob:example.org?ver=12", 403, "M_FORBIDDEN"),
    (
        "make_knock/ROOM/@bob:example.org?ver=12",
        403,
        "M_FORBIDDEN",
    ),
    ("make_leave/ROOM/@bob:example.org", 403, "M_FORBIDDEN"),
    ("make_join/ROOM/nobody?ver=12", 400, "M_INVALID_PARAM"),
    (
        "make_join/ROOM/@bob:example.org",
        400,
        "M_INCOMPATIBLE_ROOM_VERSION",
    ),
    (
        "make_knock/ROOM/@bob:example.org?ver=1",
        400,
        "M_INCOMPATIBLE_ROOM_VERSION",
    ),
];

/// Places where no membership is taken.
const UNTAKEN: [(&str, u16, &str); 4] = [
    ("v2/send_join/!no:example.org/$id", 404, "M_NOT_FOUND"),
    ("v1/send_knock/!no:example.org/$id", 404, "M_NOT_FOUND"),
    ("v2/send_leave/!no:example.org/$id", 404, "M_NOT_FOUND"),
    (
        "v2/send_join/ROOM/$id?omit_members=perhaps",
        400,
        "M_INVALID_PARAM",
    ),
];

#[tokio::test]
async fn what_cannot_be_made_or_taken_gets_the_specified_error() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let room = room(&site, "invite").await;
        for (path, status, errcode) in UNMADE {
            let target = format!("{V1}/{}", path.replace("ROOM", &room));
            let (answered, body) = call(&site, Method::GET, &target, Value::Null).await;
            let answered = (answered.as_u16(), &body["errcode"]);
            assert_eq!(answered, (status, &json!(errcode)), "{path}");
            if errcode == "M_INCOMPATIBLE_ROOM_VERSION" {
                assert_eq!(body["room_version"], "12");
            }
        }
        let message = json!({ "type": "m.room.message" });
        for (path, status, errcode) in UNTAKEN {
            let target = format!("/_matrix/federation/{}", path.replace("ROOM", &room));
            let (answered, body) = call(&site, Method::PUT, &target, message.clone()).await;
            let answered = (answered.as_u16(), &body["errcode"]);
            assert_eq!(answered, (status, &json!(errcode)), "{path}");
        }
    })
    .await;
}
