use http::{Method, StatusCode};
use myelin_api::{Access, Effect, routes};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{
    Site,
    peer::{Ask, known},
};

const V1: &str = "/_matrix/federation/v1/";

/// Sends a request of the server to itself.
pub(crate) async fn call(
    site: &Site,
    method: Method,
    target: &str,
    body: Value,
) -> (StatusCode, Value) {
    let ask = Ask::new(method, target, body);
    ask.by(site.keys.active(), site).await
}

#[tokio::test]
async fn servers_learn_about_this_one_and_its_users() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let get = |target: &'static str| call(&site, Method::GET, target, Value::Null);
        let (_, version) = get("/_matrix/federation/v1/version").await;
        assert_eq!(version["server"]["name"], "Myelin");
        let (_, keys) = get("/_matrix/key/v2/server").await;
        assert_eq!(keys["server_name"], "example.org");
        let devices = "/_matrix/federation/v1/user/devices/@alice:example.org";
        let (_, list) = get(devices).await;
        assert_eq!(
            (&list["user_id"], &list["devices"]),
            (&json!("@alice:example.org"), &json!([]))
        );
        let keys = json!({
            "user_id": "@alice:example.org", "device_id": "PHONE",
            "algorithms": [], "keys": {}, "signatures": {},
        });
        let upload = "/_matrix/client/v3/keys/upload";
        let body = json!({ "device_keys": keys });
        site.call(Method::POST, upload, Some(&token), body).await;
        let (_, after) = get(devices).await;
        assert_eq!(
            after["devices"],
            json!([{ "device_id": "PHONE", "keys": keys }])
        );
        assert!(after["stream_id"].as_i64() > list["stream_id"].as_i64());
    })
    .await;
}

#[tokio::test]
async fn a_profile_query_answers_what_was_asked_for() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let (name, face) = (
            json!({ "displayname": "Alice" }),
            json!({ "avatar_url": "mxc://example.org/a" }),
        );
        let zone = json!({ "m.tz": "Europe/London" });
        for (field, value) in [
            ("displayname", &name),
            ("avatar_url", &face),
            ("m.tz", &zone),
        ] {
            let path = format!("/_matrix/client/v3/profile/@alice:example.org/{field}");
            let set = site.call(Method::PUT, &path, Some(&token), value.clone());
            assert_eq!(set.await, (StatusCode::OK, json!({})));
        }
        let all = json!({
            "displayname": "Alice", "avatar_url": "mxc://example.org/a", "m.tz": "Europe/London",
        });
        for (field, expected) in [
            ("", all),
            ("&field=m.tz", zone),
            ("&field=displayname", name),
            ("&field=avatar_url", face),
            ("&field=unheard_of", json!({})),
        ] {
            let target =
                format!("/_matrix/federation/v1/query/profile?user_id=@alice:example.org{field}");
            let answer = call(&site, Method::GET, &target, Value::Null).await;
            assert_eq!(answer, (StatusCode::OK, expected));
        }
        let target = "/_matrix/federation/v1/query/profile?user_id=alice";
        let (status, refused) = call(&site, Method::GET, target, Value::Null).await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM"))
        );
    })
    .await;
}

/// What a server asks that is not in the room, which is a private one, and what it is answered: paths
/// below `/_matrix/federation/v1/`.
const UNANSWERED: [(&str, u16, &str); 40] = [
    ("event/EVENT", 403, "M_FORBIDDEN"),
    ("event/$unknown", 404, "M_NOT_FOUND"),
    ("event/no", 400, "M_INVALID_PARAM"),
    ("state/ROOM?event_id=EVENT", 403, "M_FORBIDDEN"),
    ("state/!no:example.org?event_id=EVENT", 404, "M_NOT_FOUND"),
    ("state/ROOM", 400, "M_INVALID_PARAM"),
    ("state/ROOM?event_id=no", 400, "M_INVALID_PARAM"),
    ("state_ids/ROOM?event_id=EVENT", 403, "M_FORBIDDEN"),
    (
        "state_ids/!no:example.org?event_id=EVENT",
        404,
        "M_NOT_FOUND",
    ),
    ("state_ids/ROOM", 400, "M_INVALID_PARAM"),
    ("event_auth/ROOM/EVENT", 403, "M_FORBIDDEN"),
    ("event_auth/!no:example.org/EVENT", 404, "M_NOT_FOUND"),
    ("event_auth/ROOM/no", 400, "M_INVALID_PARAM"),
    ("backfill/ROOM?v=EVENT&limit=5", 403, "M_FORBIDDEN"),
    (
        "backfill/!no:example.org?v=EVENT&limit=5",
        404,
        "M_NOT_FOUND",
    ),
    ("backfill/ROOM?limit=5", 400, "M_MISSING_PARAM"),
    ("backfill/ROOM?v=EVENT", 400, "M_MISSING_PARAM"),
    ("backfill/ROOM?v=no&limit=5", 400, "M_INVALID_PARAM"),
    ("backfill/ROOM?v=EVENT&limit=x", 400, "M_INVALID_PARAM"),
    ("timestamp_to_event/ROOM?ts=1&dir=f", 403, "M_FORBIDDEN"),
    (
        "timestamp_to_event/!no:example.org?ts=1&dir=f",
        404,
        "M_NOT_FOUND",
    ),
    ("timestamp_to_event/ROOM?ts=x&dir=f", 400, "M_INVALID_PARAM"),
    ("timestamp_to_event/ROOM?ts=1&dir=x", 400, "M_INVALID_PARAM"),
    ("hierarchy/ROOM", 404, "M_NOT_FOUND"),
    (
        "hierarchy/ROOM?suggested_only=perhaps",
        400,
        "M_INVALID_PARAM",
    ),
    ("make_join/ROOM/@bob:127.0.0.1:1?ver=12", 403, "M_FORBIDDEN"),
    (
        "make_knock/ROOM/@bob:127.0.0.1:1?ver=12",
        403,
        "M_FORBIDDEN",
    ),
    ("make_leave/ROOM/@bob:127.0.0.1:1", 403, "M_FORBIDDEN"),
    (
        "query/profile?user_id=@nobody:example.org",
        404,
        "M_NOT_FOUND",
    ),
    (
        "query/profile?user_id=@alice:example.com",
        404,
        "M_NOT_FOUND",
    ),
    ("query/profile?user_id=alice", 400, "M_INVALID_PARAM"),
    ("query/profile", 400, "M_INVALID_PARAM"),
    (
        "query/directory?room_alias=%23no:example.org",
        404,
        "M_NOT_FOUND",
    ),
    (
        "query/directory?room_alias=%23no:example.com",
        404,
        "M_NOT_FOUND",
    ),
    ("query/directory?room_alias=no", 400, "M_INVALID_PARAM"),
    ("publicRooms?limit=x", 400, "M_INVALID_PARAM"),
    ("publicRooms?since=x", 400, "M_INVALID_PARAM"),
    ("user/devices/@nobody:example.org", 404, "M_NOT_FOUND"),
    ("user/devices/@alice:example.com", 404, "M_NOT_FOUND"),
    ("user/devices/alice", 400, "M_INVALID_PARAM"),
];

#[tokio::test]
async fn a_stranger_is_told_nothing_and_what_is_malformed_is_said() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let stranger = known(&fresh, "127.0.0.1:1").await;
        let token = site.token("alice").await;
        let create = "/_matrix/client/v3/createRoom";
        let created = site.call(Method::POST, create, Some(&token), Value::Null);
        let room = created.await.1["room_id"].as_str().unwrap().to_owned();
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let sent = site.call(Method::PUT, &send, Some(&token), json!({}));
        let event = sent.await.1["event_id"].as_str().unwrap().to_owned();

        let posts = [
            (
                "get_missing_events/ROOM",
                json!({ "latest_events": [event], "earliest_events": [] }),
                403,
                "M_FORBIDDEN",
            ),
            (
                "get_missing_events/!no:example.org",
                json!({ "latest_events": [event], "earliest_events": [] }),
                404,
                "M_NOT_FOUND",
            ),
            ("get_missing_events/ROOM", json!({}), 400, "M_BAD_JSON"),
            (
                "get_missing_events/ROOM",
                json!({ "latest_events": ["no"], "earliest_events": [] }),
                400,
                "M_BAD_JSON",
            ),
            ("get_missing_events/ROOM", Value::Null, 400, "M_NOT_JSON"),
            ("publicRooms", json!({ "limit": "x" }), 400, "M_BAD_JSON"),
            (
                "publicRooms",
                json!({ "since": "x" }),
                400,
                "M_INVALID_PARAM",
            ),
            ("publicRooms", json!([]), 400, "M_BAD_JSON"),
        ];
        let gets =
            UNANSWERED.map(|(path, status, code)| (Method::GET, path, Value::Null, (status, code)));
        let posts =
            posts.map(|(path, body, status, code)| (Method::POST, path, body, (status, code)));
        let all: Vec<_> = gets.into_iter().chain(posts).collect();
        for (method, path, body, expected) in &all {
            let path = path.replace("ROOM", &room).replace("EVENT", &event);
            let ask = Ask::new(method.clone(), format!("{V1}{path}"), body.clone());
            let (status, answer) = ask.by(&stranger, &site).await;
            let found = (
                status.as_u16(),
                answer["errcode"].as_str().unwrap_or_default(),
            );
            assert_eq!(found, *expected, "{path} {body}: {answer}");
        }
        // No endpoint for reading was left out.
        for route in routes() {
            if route.access == Access::Server && route.effect == Effect::Read {
                let fixed = route.path.split('{').next().unwrap();
                let covers = |path: &str| format!("{V1}{path}").starts_with(fixed);
                let is_covered = all
                    .iter()
                    .any(|(method, path, ..)| *method == route.method && covers(path));
                assert!(is_covered, "{} {}", route.method, route.path);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_transaction_is_taken_or_refused_as_a_whole() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let peer = known(&fresh, "127.0.0.1:1").await;
        let empty = json!({ "origin": "127.0.0.1:1", "origin_server_ts": 1, "pdus": [] });
        let with = |field: &str, value: Value| {
            let mut body = empty.clone();
            body[field] = value;
            body
        };
        let edu = json!({ "edu_type": "m.typing", "content": {} });
        let before = site.stored().await;
        for (body, code) in [
            (with("pdus", json!(vec![json!({}); 51])), "M_UNKNOWN"),
            (with("edus", json!(vec![edu; 101])), "M_UNKNOWN"),
            (with("pdus", json!({})), "M_BAD_JSON"),
            (with("edus", json!({})), "M_BAD_JSON"),
            (json!([]), "M_BAD_JSON"),
            (Value::Null, "M_NOT_JSON"),
        ] {
            let ask = Ask::put(format!("{V1}send/1"), body);
            let (status, answer) = ask.by(&peer, &site).await;
            let found = (status.as_u16(), &answer["errcode"]);
            assert_eq!(found, (400, &json!(code)), "{answer}");
        }
        assert_eq!(site.stored().await, before);
        let taken = Ask::put(format!("{V1}send/1"), empty);
        let answer = taken.by(&peer, &site).await;
        assert_eq!(answer, (StatusCode::OK, json!({ "pdus": {} })));
    })
    .await;
}
