//! Searches for messages and users over HTTP.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

const SEARCH: &str = "/_matrix/client/v3/search";

async fn search(site: &Site, token: &str, query: &str, criteria: Value) -> (StatusCode, Value) {
    let body = json!({ "search_categories": { "room_events": criteria } });
    let target = format!("{SEARCH}{query}");
    let (status, mut answer) = site.call(Method::POST, &target, Some(token), body).await;
    let found = match status {
        StatusCode::OK => answer["search_categories"]["room_events"].take(),
        _ => answer,
    };
    (status, found)
}

/// A room of alice's with two messages, and bob, who isn't in it.
async fn room(fresh: &Fresh) -> (Site, String, String, String) {
    let site = Site::start(fresh).await;
    let (alice, bob) = (site.token("alice").await, site.token("bob").await);
    let wish = json!({ "preset": "public_chat", "name": "Kettles" });
    let create = "/_matrix/client/v3/createRoom";
    let (_, created) = site.call(Method::POST, create, Some(&alice), wish).await;
    let room = created["room_id"].as_str().unwrap().to_owned();
    for (number, words) in ["one kettle", "two kettles"].iter().enumerate() {
        let target = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
        let body = json!({ "msgtype": "m.text", "body": words });
        let sent = site.call(Method::PUT, &target, Some(&alice), body).await;
        assert_eq!(sent.0, StatusCode::OK, "{}", sent.1);
    }
    (site, alice, bob, room)
}

#[tokio::test]
async fn who_is_in_a_room_finds_its_messages_and_nobody_else_does() {
    on_each_engine(async |fresh: Fresh| {
        let (site, alice, bob, room) = room(&fresh).await;
        let criteria = json!({
            "search_term": "Kettle", "order_by": "recent", "filter": { "limit": 2 },
            "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
            "include_state": true,
            "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
        });
        let (status, found) = search(&site, &alice, "", criteria.clone()).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        let bodies = |found: &Value| -> Vec<Value> {
            let results = found["results"].as_array().unwrap().iter();
            results
                .map(|result| result["result"]["content"].clone())
                .collect()
        };
        let message = |body: &str| json!({ "msgtype": "m.text", "body": body });
        assert_eq!(
            bodies(&found),
            [message("two kettles"), message("one kettle")]
        );
        assert_eq!(found["count"], 3);
        assert_eq!(found["highlights"], json!(["kettle", "kettles"]));
        assert_eq!(
            found["groups"]["room_id"][&room]["results"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert!(found["state"][&room].is_array());
        let next = format!("?next_batch={}", found["next_batch"].as_str().unwrap());
        let (status, rest) = search(&site, &alice, &next, criteria.clone()).await;
        assert_eq!(
            (status, bodies(&rest)),
            (StatusCode::OK, vec![json!({ "name": "Kettles" })])
        );
        assert_eq!(rest["next_batch"], Value::Null);
        let (status, found) = search(&site, &bob, "", criteria).await;
        assert_eq!((status, bodies(&found)), (StatusCode::OK, vec![]));
        assert_eq!(found["count"], 0);
        // Of no kind nothing is found.
        let nothing = json!({ "search_categories": {} });
        let (status, found) = site
            .call(Method::POST, SEARCH, Some(&alice), nothing.clone())
            .await;
        assert_eq!((status, found), (StatusCode::OK, nothing));
    })
    .await;
}

#[tokio::test]
async fn who_searches_wrongly_is_told_so() {
    on_each_engine(async |fresh: Fresh| {
        let (site, alice, ..) = room(&fresh).await;
        let good = json!({ "search_term": "kettle" });
        let with = |field: &str, value: Value| {
            let mut criteria = good.clone();
            criteria[field] = value;
            criteria
        };
        let no_key = json!({ "group_by": [{ "key": "age" }] });
        for (query, criteria, errcode) in [
            ("", with("search_term", json!("")), "M_INVALID_PARAM"),
            ("", with("search_term", json!(" \t")), "M_INVALID_PARAM"),
            ("", with("filter", json!({ "limit": 0 })), "M_INVALID_PARAM"),
            ("?next_batch=x", good.clone(), "M_INVALID_PARAM"),
            ("?next_batch=q1_1", good.clone(), "M_INVALID_PARAM"),
            ("?next_batch=q1_1_-1", good.clone(), "M_INVALID_PARAM"),
            ("?next_batch=n1_1", good.clone(), "M_INVALID_PARAM"),
            ("", json!({}), "M_BAD_JSON"),
            ("", with("search_term", json!(1)), "M_BAD_JSON"),
            ("", with("keys", json!(["content.colour"])), "M_BAD_JSON"),
            ("", with("keys", json!("content.body")), "M_BAD_JSON"),
            ("", with("order_by", json!("size")), "M_BAD_JSON"),
            ("", with("filter", json!({ "limit": -1 })), "M_BAD_JSON"),
            (
                "",
                with("filter", json!({ "rooms": ["kettle"] })),
                "M_BAD_JSON",
            ),
            (
                "",
                with("event_context", json!({ "before_limit": -1 })),
                "M_BAD_JSON",
            ),
            ("", with("groupings", no_key), "M_BAD_JSON"),
            ("", with("include_state", json!("yes")), "M_BAD_JSON"),
        ] {
            let (status, refused) = search(&site, &alice, query, criteria.clone()).await;
            assert_eq!(
                (status, &refused["errcode"]),
                (StatusCode::BAD_REQUEST, &json!(errcode)),
                "{query} {criteria} {refused}"
            );
        }
        let (status, refused) = site
            .call(Method::POST, SEARCH, Some(&alice), json!({}))
            .await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON"))
        );
    })
    .await;
}

const USERS: &str = "/_matrix/client/v3/user_directory/search";

#[tokio::test]
async fn users_of_public_rooms_are_found_and_wrong_wishes_refused() {
    on_each_engine(async |fresh: Fresh| {
        let (site, _, bob, _) = room(&fresh).await;
        let ask = async |body: Value| site.call(Method::POST, USERS, Some(&bob), body).await;
        let (status, answer) = ask(json!({ "search_term": "ALI" })).await;
        let found = json!([{ "user_id": "@alice:example.org" }]);
        assert_eq!(
            (status, &answer["results"]),
            (StatusCode::OK, &found),
            "{answer}"
        );
        assert_eq!(answer["limited"], false);
        let (status, answer) = ask(json!({ "search_term": "bob", "limit": 5 })).await;
        assert_eq!((status, &answer["results"]), (StatusCode::OK, &json!([])));
        let (status, answer) = ask(json!({ "search_term": "" })).await;
        assert_eq!((status, &answer["results"]), (StatusCode::OK, &json!([])));
        for body in [
            json!({}),
            json!({ "search_term": 1 }),
            json!({ "search_term": "a", "limit": -1 }),
            json!({ "search_term": "a", "limit": "5" }),
            json!([]),
        ] {
            let (status, refused) = ask(body.clone()).await;
            let expected = (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON"));
            assert_eq!((status, &refused["errcode"]), expected, "{body} {refused}");
        }
    })
    .await;
}
