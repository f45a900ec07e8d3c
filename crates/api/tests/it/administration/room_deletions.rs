//! Deleting rooms.

use http::{Method, StatusCode};
use myelin_storage::{
    Priority, StorageError,
    room_deletions::{self, RoomDeletion, Status},
    testing::{Fresh, on_each_engine},
};
use ruma::RoomId;
use serde_json::{Value, json};

use super::Office;

const KEPT: &str = "Sharing illegal content on this server is not permitted and rooms in violation will be blocked.";

/// What is written of a deletion itself, and of requests that a client may repeat.
const OF_REQUESTS: [&str; 2] = ["room_deletions", "client_transactions"];

impl Office {
    /// Fills a room with what users leave in one. They are Anna, who made it, and Bert.
    async fn use_room(&self, room: &str, (anna, bert): (&str, &str)) {
        let say = format!("rooms/{room}/send/m.room.message");
        let message = json!({ "msgtype": "m.text", "body": "tea" });
        let (_, sent) = self
            .client(anna, Method::PUT, &format!("{say}/1"), message)
            .await;
        let event = sent["event_id"].as_str().unwrap();
        let thread = json!({ "rel_type": "m.thread", "event_id": event });
        let answer = json!({ "msgtype": "m.text", "body": "milk", "m.relates_to": thread });
        let pin = json!({ "events": [event] });
        let search = json!({ "search_categories": { "room_events": { "search_term": "tea" } } });
        for (token, method, end, body) in [
            (bert, Method::POST, format!("join/{room}"), json!({})),
            (bert, Method::PUT, format!("{say}/2"), answer),
            (
                bert,
                Method::POST,
                format!("rooms/{room}/receipt/m.read/{event}"),
                json!({}),
            ),
            (
                bert,
                Method::PUT,
                format!("user/@bert:example.org/rooms/{room}/tags/u.tea"),
                json!({}),
            ),
            (
                anna,
                Method::PUT,
                format!("rooms/{room}/state/m.room.pinned_events"),
                pin,
            ),
            (
                bert,
                Method::POST,
                format!("rooms/{room}/report/{event}"),
                json!({ "reason": "hot" }),
            ),
            (
                anna,
                Method::PUT,
                format!("rooms/{room}/redact/{event}/3"),
                json!({}),
            ),
            (anna, Method::POST, "search".to_owned(), search),
        ] {
            let (status, answer) = self.client(token, method, &end, body).await;
            assert_eq!(status, 200, "{end}: {answer}");
        }
    }

    async fn deletion(&self, id: &str) -> Value {
        self.get(&format!("v2/rooms/delete_status/{id}")).await
    }
}

#[tokio::test]
async fn a_deleted_room_leaves_nothing_behind() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (anna, bert) = (office.site.token("anna").await, office.site.token("bert").await);
        let open = |name: &str| json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": name });
        let other = office.create(&anna, open("other")).await;
        office.use_room(&other, (&anna, &bert)).await;
        let before = office.site.stored().await;
        let room = office.create(&anna, open("tea")).await;
        office.use_room(&room, (&anna, &bert)).await;
        let (status, done) = office.ask(Method::DELETE, &format!("v1/rooms/{room}"), json!({})).await;
        assert_eq!(status, StatusCode::OK, "{done}");
        let nothing_new = json!({
            "kicked_users": ["@anna:example.org", "@bert:example.org"],
            "failed_to_kick_users": [], "local_aliases": [], "new_room_id": null,
        });
        assert_eq!(done, nothing_new);
        let after = office.site.stored().await;
        for (table, rows) in &before {
            if !OF_REQUESTS.contains(&&table[..]) {
                assert_eq!(after[table], *rows, "{table}");
            }
        }
        let gone = office.refused(Method::GET, &format!("v1/rooms/{room}"), Value::Null).await;
        assert_eq!(gone, (404, "M_NOT_FOUND Room not found".to_owned()));
        assert!(office.is_in("anna", &other).await);
        for (end, expected) in [
            (format!("rooms/{room}/messages?dir=b"), 403),
            (format!("rooms/{room}/state"), 403),
            ("directory/room/%23tea:example.org".to_owned(), 404),
            ("directory/room/%23other:example.org".to_owned(), 200),
            (format!("rooms/{other}/messages?dir=b"), 200),
        ] {
            let (status, answer) = office.client(&anna, Method::GET, &end, Value::Null).await;
            assert_eq!(status, expected, "{end}: {answer}");
        }
        let again = office.refused(Method::DELETE, &format!("v1/rooms/{room}"), json!({})).await;
        assert_eq!(again, (404, "M_NOT_FOUND Room not found".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_room_that_is_only_shut_down_keeps_its_history_and_can_be_blocked() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office
            .create(&anna, json!({ "preset": "public_chat" }))
            .await;
        let wish = json!({ "purge": false, "block": true });
        let (status, done) = office
            .ask(Method::DELETE, &format!("v1/rooms/{room}"), wish)
            .await;
        assert_eq!(
            (status, &done["kicked_users"]),
            (StatusCode::OK, &json!(["@anna:example.org"]))
        );
        assert!(!office.is_in("anna", &room).await);
        let join = format!("join/{room}");
        let refused = office.client(&anna, Method::POST, &join, json!({}));
        assert_eq!(refused.await.0, 403);
        let state = office.get(&format!("v1/rooms/{room}/state")).await;
        assert!(!state["state"].as_array().unwrap().is_empty());
        // Of a room that is not known here there is nothing but that.
        let strange = "v1/rooms/!strange:example.com";
        let (status, done) = office
            .ask(Method::DELETE, strange, json!({ "block": true }))
            .await;
        assert_eq!(
            (status, &done["kicked_users"]),
            (StatusCode::OK, &json!([]))
        );
        assert_eq!(office.get(&format!("{strange}/block")).await["block"], true);
    })
    .await;
}

#[tokio::test]
async fn users_and_aliases_of_a_deleted_room_are_moved_to_another() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (anna, bert) = (
            office.site.token("anna").await,
            office.site.token("bert").await,
        );
        let wish = json!({ "room_alias_name": "tea", "invite": ["@bert:example.org"] });
        let room = office.create(&anna, wish).await;
        let wish = json!({ "new_room_user_id": "@root:example.org", "room_name": "Closed" });
        let (status, begun) = office
            .ask(Method::DELETE, &format!("v2/rooms/{room}"), wish)
            .await;
        assert_eq!(status, StatusCode::OK, "{begun}");
        let id = begun["delete_id"].as_str().unwrap();
        office.site.rooms.deletion_ended(id).await.unwrap();
        let done = office.deletion(id).await;
        let new = done["shutdown_room"]["new_room_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let expected = json!({
            "delete_id": id, "room_id": room, "status": "complete",
            "shutdown_room": {
                "kicked_users": ["@anna:example.org", "@bert:example.org"],
                "failed_to_kick_users": [],
                "local_aliases": ["#tea:example.org"],
                "new_room_id": new,
            },
        });
        assert_eq!(done, expected);
        let of_room = office.get(&format!("v2/rooms/{room}/delete_status")).await;
        assert_eq!(of_room, json!({ "results": [expected] }));
        assert!(office.is_in("anna", &new).await);
        // Only invited, and so not moved.
        assert!(!office.is_in("bert", &new).await);
        let (_, found) = office
            .client(
                &bert,
                Method::GET,
                "directory/room/%23tea:example.org",
                Value::Null,
            )
            .await;
        assert_eq!(found["room_id"], new);
        let details = office.get(&format!("v1/rooms/{new}")).await;
        assert_eq!(
            (&details["name"], &details["creator"]),
            (&json!("Closed"), &json!("@root:example.org"))
        );
        let last = format!(
            "rooms/{new}/messages?dir=b&filter=%7B%22types%22%3A%5B%22m.room.message%22%5D%7D"
        );
        let (_, said) = office.client(&anna, Method::GET, &last, Value::Null).await;
        assert_eq!(said["chunk"][0]["content"]["body"], KEPT);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_deleted_is_refused_with_the_reason() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office.create(&anna, json!({})).await;
        let (v1, v2) = (format!("v1/rooms/{room}"), format!("v2/rooms/{room}"));
        let foreign = json!({ "new_room_user_id": "@no:example.com" });
        for end in [&v1, &v2] {
            let refused = office.refused(Method::DELETE, end, foreign.clone()).await;
            let why = "M_UNKNOWN User must be our own: @no:example.com";
            assert_eq!(refused, (400, why.to_owned()));
        }
        let of_none = office.refused(Method::GET, &format!("{v2}/delete_status"), Value::Null).await;
        let why = format!("M_NOT_FOUND No delete task for room_id '{room}' found");
        assert_eq!(of_none, (404, why));
        let none = office.refused(Method::GET, "v2/rooms/delete_status/no", Value::Null).await;
        assert_eq!(none, (404, "M_NOT_FOUND delete id 'no' not found".to_owned()));

        // One that goes on, as far as is known.
        let active = RoomDeletion {
            id: "first".to_owned(),
            room_id: RoomId::parse(&*room).unwrap(),
            status: Status::Active,
            wish: Vec::new(),
            outcome: br#"{"kicked_users":[],"failed_to_kick_users":[],"local_aliases":[],"new_room_id":null}"#.to_vec(),
            error: None,
            remains: None,
        };
        fresh
            .database
            .write("a deletion", Priority::Bulk, move |tx| {
                Box::pin(async move {
                    room_deletions::put(tx, &active, 0).await?;
                    Ok::<_, StorageError>(())
                })
            })
            .await
            .unwrap();
        assert_eq!(office.deletion("first").await["status"], "active");
        for end in [&v1, &v2] {
            let refused = office.refused(Method::DELETE, end, json!({})).await;
            let why = format!("M_UNKNOWN Purge already in progress for {room}");
            assert_eq!(refused, (400, why));
        }
        assert!(office.is_in("anna", &room).await);
    })
    .await;
}
