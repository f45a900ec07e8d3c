//! Rooms, as administrators see and change them.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use super::Office;
use crate::{federation, invitations::invite};

const BLOCKED: &str = "This room has been blocked on this server";

impl Office {
    /// A request of a user below the client-server API's path.
    pub(super) async fn client(
        &self,
        token: &str,
        method: Method,
        end: &str,
        body: Value,
    ) -> (u16, Value) {
        let target = format!("/_matrix/client/v3/{end}");
        let (status, answer) = self.site.call(method, &target, Some(token), body).await;
        (status.as_u16(), answer)
    }

    pub(super) async fn create(&self, token: &str, wish: Value) -> String {
        let (status, created) = self.client(token, Method::POST, "createRoom", wish).await;
        assert_eq!(status, 200, "{created}");
        created["room_id"].as_str().unwrap().to_owned()
    }

    /// The names of the rooms of a page.
    async fn room_names(&self, end: &str) -> Vec<String> {
        let list = self.get(&format!("v1/rooms{end}")).await;
        let name = |room: &Value| room["name"].as_str().unwrap().to_owned();
        list["rooms"].as_array().unwrap().iter().map(name).collect()
    }

    pub(super) async fn is_in(&self, user: &str, room: &str) -> bool {
        let end = format!("v1/users/@{user}:example.org/joined_rooms");
        let rooms = self.get(&end).await;
        rooms["joined_rooms"]
            .as_array()
            .unwrap()
            .contains(&json!(room))
    }
}

#[tokio::test]
async fn rooms_are_found_by_name_alias_and_id_in_any_order() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (anna, bert) = (office.site.token("anna").await, office.site.token("bert").await);
        let open = json!({
            "name": "Tea", "preset": "public_chat", "visibility": "public", "room_alias_name": "cups",
        });
        let tea = office.create(&anna, open).await;
        for name in ["Coffee", "Milk"] {
            office.create(&anna, json!({ "name": name })).await;
        }
        office.client(&bert, Method::POST, &format!("join/{tea}"), json!({})).await;
        let by_id = format!("?search_term={tea}");
        for (end, expected) in [
            ("", &["Coffee", "Milk", "Tea"][..]),
            ("?dir=b", &["Tea", "Milk", "Coffee"]),
            ("?order_by=joined_members&limit=1", &["Tea"]),
            ("?from=1&limit=1", &["Milk"]),
            ("?search_term=tE", &["Tea"]),
            ("?search_term=cup", &["Tea"]),
            ("?search_term=example", &[]),
            (&by_id, &["Tea"]),
            ("?public_rooms=true", &["Tea"]),
            ("?public_rooms=false", &["Coffee", "Milk"]),
            ("?empty_rooms=true", &[]),
        ] {
            assert_eq!(office.room_names(end).await, expected, "{end}");
        }
        let page = office.get("v1/rooms?from=1&limit=1").await;
        let places = ["offset", "total_rooms", "next_batch", "prev_batch"].map(|name| &page[name]);
        assert_eq!(places, [&json!(1), &json!(3), &json!(2), &json!(0)]);
        let empty = office.refused(Method::GET, "v1/rooms?search_term=", Value::Null).await;
        let why = "M_INVALID_PARAM search_term cannot be an empty string";
        assert_eq!(empty, (400, why.to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_room_is_described_to_who_is_not_in_it() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office
            .create(&anna, json!({ "name": "Tea", "topic": "Hot" }))
            .await;
        let details = office.get(&format!("v1/rooms/{room}")).await;
        for (field, value) in [
            ("room_id", json!(room)),
            ("name", json!("Tea")),
            ("topic", json!("Hot")),
            ("creator", json!("@anna:example.org")),
            ("joined_members", json!(1)),
            ("joined_local_members", json!(1)),
            ("join_rules", json!("invite")),
            ("version", json!("12")),
            ("public", json!(false)),
            ("federatable", json!(true)),
            ("tombstoned", json!(false)),
        ] {
            assert_eq!(details[field], value, "{field}");
        }
        let members = office.get(&format!("v1/rooms/{room}/members")).await;
        assert_eq!(
            members,
            json!({ "members": ["@anna:example.org"], "total": 1 })
        );
        let state = office.get(&format!("v1/rooms/{room}/state")).await;
        assert_eq!(
            json!(state["state"].as_array().unwrap().len()),
            details["state_events"]
        );
        let topic = office
            .get(&format!("v1/rooms/{room}/state?type=m.room.topic"))
            .await;
        assert_eq!(topic["state"][0]["content"]["topic"], "Hot");
        assert_eq!(topic["state"].as_array().unwrap().len(), 1);
        let ends = office
            .get(&format!("v1/rooms/{room}/forward_extremities"))
            .await;
        assert_eq!(ends["count"], 1);
        assert!(ends["results"][0]["event_id"].is_string(), "{ends}");
        for end in ["", "/members", "/state", "/forward_extremities"] {
            let end = format!("v1/rooms/!no:example.org{end}");
            let refused = office.refused(Method::GET, &end, Value::Null).await;
            assert_eq!(
                refused,
                (404, "M_NOT_FOUND Room not found".to_owned()),
                "{end}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_comes_into_a_blocked_room_and_everybody_comes_out() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (anna, bert) = (
            office.site.token("anna").await,
            office.site.token("bert").await,
        );
        let room = office
            .create(&anna, json!({ "preset": "public_chat" }))
            .await;
        let block = format!("v1/rooms/{room}/block");
        assert_eq!(office.get(&block).await, json!({ "block": false }));
        let set = async |block: &str, wish: bool| {
            let body = json!({ "block": wish });
            let done = office.ask(Method::PUT, block, body.clone()).await;
            assert_eq!(done, (StatusCode::OK, body));
        };
        set(&block, true).await;
        let shown = json!({ "block": true, "user_id": "@root:example.org" });
        assert_eq!(office.get(&block).await, shown);
        let guest = json!({ "user_id": "@bert:example.org" });
        let member = format!("rooms/{room}/state/m.room.member/@bert:example.org");
        for (token, method, end, body) in [
            (&bert, Method::POST, format!("join/{room}"), json!({})),
            (&bert, Method::POST, format!("knock/{room}"), json!({})),
            (&bert, Method::PUT, member, json!({ "membership": "join" })),
            (&anna, Method::POST, format!("rooms/{room}/invite"), guest),
        ] {
            let (status, refused) = office.client(token, method, &end, body).await;
            assert_eq!((status, &refused["error"]), (403, &json!(BLOCKED)), "{end}");
        }
        set(&block, false).await;
        for (action, wish) in [("join", true), ("leave", false)] {
            let end = format!("rooms/{room}/{action}");
            let done = office.client(&bert, Method::POST, &end, json!({}));
            assert_eq!(done.await.0, 200, "{action}");
            set(&block, wish).await;
        }

        set("v1/rooms/!strange:example.org/block", true).await;
        let (target, body) = invite(&office.site, "@anna:example.org");
        let send =
            async || federation::call(&office.site, Method::PUT, &target, body.clone()).await;
        let (status, refused) = send().await;
        assert_eq!((status.as_u16(), &refused["error"]), (403, &json!(BLOCKED)));
        set("v1/rooms/!strange:example.org/block", false).await;
        assert_eq!(send().await.0, StatusCode::OK);
        let missing = office.refused(Method::PUT, &block, json!({})).await;
        assert_eq!(missing, (400, "M_MISSING_PARAM Missing block".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn an_administrator_brings_users_into_rooms_and_to_power() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (anna, _) = (
            office.site.token("anna").await,
            office.site.token("bert").await,
        );
        let bert = json!({ "user_id": "@bert:example.org" });
        let open = json!({ "preset": "public_chat", "room_alias_name": "tea" });
        let open = office.create(&anna, open).await;
        let joined = office
            .ask(Method::POST, "v1/join/%23tea:example.org", bert.clone())
            .await;
        assert_eq!(joined, (StatusCode::OK, json!({ "room_id": open })));
        assert!(office.is_in("bert", &open).await);

        for version in ["11", "12"] {
            let closed = office
                .create(&anna, json!({ "room_version": version }))
                .await;
            let join = format!("v1/join/{closed}");
            assert_eq!(
                office.refused(Method::POST, &join, bert.clone()).await.0,
                403
            );
            let make = format!("v1/rooms/{closed}/make_room_admin");
            office.done(Method::POST, &make, json!({})).await;
            let levels = format!("v1/rooms/{closed}/state?type=m.room.power_levels");
            let levels = office.get(&levels).await["state"][0]["content"]["users"].clone();
            assert_eq!(levels["@root:example.org"], 100, "{version}");
            let enter = format!("join/{closed}");
            let entered = office.client(&office.root, Method::POST, &enter, json!({}));
            assert_eq!(entered.await.0, 200, "invited");
            let joined = office.ask(Method::POST, &join, bert.clone()).await;
            assert_eq!(joined, (StatusCode::OK, json!({ "room_id": closed })));
        }
        let nobody = json!({ "user_id": "@no:example.org" });
        let foreign = json!({ "user_id": "@no:example.com" });
        let local = "M_UNKNOWN This endpoint can only be used with local users";
        for (body, status, error) in [
            (json!({}), 400, "M_MISSING_PARAM Missing user_id"),
            (nobody, 404, "M_NOT_FOUND User not found"),
            (foreign, 400, local),
        ] {
            let refused = office
                .refused(Method::POST, &format!("v1/join/{open}"), body)
                .await;
            assert_eq!(refused, (status, error.to_owned()));
        }
    })
    .await;
}

#[tokio::test]
async fn where_none_of_ours_has_power_nobody_gets_it() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office.create(&anna, json!({})).await;
        let leave = format!("rooms/{room}/leave");
        office.client(&anna, Method::POST, &leave, json!({})).await;
        let make = format!("v1/rooms/{room}/make_room_admin");
        let refused = office.refused(Method::POST, &make, json!({})).await;
        assert_eq!(
            refused,
            (400, "M_UNKNOWN No local admin user in room".to_owned())
        );
        let unknown = "v1/rooms/!no:example.org/make_room_admin";
        assert_eq!(
            office.refused(Method::POST, unknown, json!({})).await.0,
            404
        );
    })
    .await;
}
