use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, peer::Ask};

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
        let keys = json!({ "user_id": "@alice:example.org", "device_id": "PHONE", "keys": {} });
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
        for (field, value) in [("displayname", &name), ("avatar_url", &face)] {
            let path = format!("/_matrix/client/v3/profile/@alice:example.org/{field}");
            let set = site.call(Method::PUT, &path, Some(&token), value.clone());
            assert_eq!(set.await, (StatusCode::OK, json!({})));
        }
        let both = json!({ "displayname": "Alice", "avatar_url": "mxc://example.org/a" });
        for (field, expected) in [
            ("", both),
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

/// Paths below `/_matrix/federation/v1/`, and the status of their answers.
const UNANSWERABLE: [(&str, u16); 12] = [
    ("user/devices/@nobody:example.org", 404),
    ("query/profile?user_id=@nobody:example.org", 404),
    ("query/profile", 400),
    ("query/directory?room_alias=%23no:example.org", 404),
    ("query/directory?room_alias=%23no:example.com", 404),
    ("event/$unknown", 404),
    ("state/!no:example.org?event_id=$unknown", 404),
    ("state_ids/!no:example.org?event_id=$unknown", 404),
    ("event_auth/!no:example.org/$unknown", 404),
    ("backfill/!no:example.org?v=$unknown&limit=5", 404),
    ("backfill/!no:example.org?limit=5", 400),
    ("backfill/!no:example.org?v=$unknown", 400),
];

#[tokio::test]
async fn what_is_not_known_is_not_found_and_what_is_missing_is_asked_for() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        for (path, status) in UNANSWERABLE {
            let target = format!("/_matrix/federation/v1/{path}");
            let (answered, body) = call(&site, Method::GET, &target, Value::Null).await;
            assert_eq!(answered.as_u16(), status, "{path} {body}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_transaction_is_taken_or_refused_as_a_whole() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let send = "/_matrix/federation/v1/send/1";
        let empty = json!({ "origin": "example.org", "origin_server_ts": 1, "pdus": [] });
        let (status, answer) = call(&site, Method::PUT, send, empty).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({ "pdus": {} })));
        let too_many =
            json!({ "origin": "example.org", "origin_server_ts": 1, "pdus": vec![json!({}); 51] });
        let (status, _) = call(
            &site,
            Method::PUT,
            "/_matrix/federation/v1/send/2",
            too_many,
        )
        .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let (status, refused) = call(
            &site,
            Method::PUT,
            "/_matrix/federation/v1/send/3",
            json!([]),
        )
        .await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON"))
        );
    })
    .await;
}
