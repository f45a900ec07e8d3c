//! Rooms that are replaced by others.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

const CLIENT: &str = "/_matrix/client/v3";

/// One user's requests.
struct Client<'a> {
    site: &'a Site,
    token: String,
}

impl Client<'_> {
    async fn call(&self, method: Method, end: &str, body: Value) -> (StatusCode, Value) {
        let target = format!("{CLIENT}/{end}");
        self.site
            .call(method, &target, Some(&self.token), body)
            .await
    }

    async fn create(&self, wish: Value) -> String {
        let (status, created) = self.call(Method::POST, "createRoom", wish).await;
        assert_eq!(status, StatusCode::OK, "{created}");
        created["room_id"].as_str().unwrap().to_owned()
    }

    async fn state(&self, room_id: &str, end: &str) -> Value {
        let target = format!("rooms/{room_id}/state/{end}");
        self.call(Method::GET, &target, Value::Null).await.1
    }

    async fn upgrade(&self, room_id: &str, body: Value) -> (StatusCode, Value) {
        let target = format!("rooms/{room_id}/upgrade");
        self.call(Method::POST, &target, body).await
    }
}

/// The alias, what announces it, and the place in the public directory are the new room's.
async fn directory_has_moved(alice: &Client<'_>, old: &str, new: &str) {
    let end = "directory/room/%23tea:example.org";
    let (_, found) = alice.call(Method::GET, end, Value::Null).await;
    assert_eq!(found["room_id"], new);
    let announced = alice.state(new, "m.room.canonical_alias").await;
    assert_eq!(announced, json!({ "alias": "#tea:example.org" }));
    assert_eq!(alice.state(old, "m.room.canonical_alias").await, json!({}));
    for (room_id, visibility) in [(old, "private"), (new, "public")] {
        let end = format!("directory/list/room/{room_id}");
        let (_, listed) = alice.call(Method::GET, &end, Value::Null).await;
        assert_eq!(listed["visibility"], visibility);
    }
}

#[tokio::test]
async fn an_upgraded_room_is_continued_in_the_new_one() {
    for (from, to) in [
        ("1", "12"),
        ("10", "11"),
        ("11", "12"),
        ("12", "12"),
        ("12", "11"),
    ] {
        on_each_engine(async |fresh: Fresh| {
            let site = Site::start(&fresh).await;
            let token = site.token("alice").await;
            let alice = Client { site: &site, token };
            let wish = json!({
                "room_version": from, "name": "Tea", "topic": "Leaves", "room_alias_name": "tea",
                "visibility": "public", "creation_content": { "type": "org.example.tea" },
                "power_level_content_override": { "events": { "m.room.name": 60 }, "ban": 70 },
                "initial_state": [
                    { "type": "m.room.server_acl", "content": { "allow": ["*"], "deny": ["bad"] } },
                    { "type": "org.example.kettle", "content": { "hot": true } },
                ],
            });
            let old = alice.create(wish).await;
            let ban = json!({ "user_id": "@mallory:example.org" });
            alice
                .call(Method::POST, &format!("rooms/{old}/ban"), ban)
                .await;
            let (status, answer) = alice.upgrade(&old, json!({ "new_version": to })).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let new = answer["replacement_room"].as_str().unwrap();

            let tombstone = alice.state(&old, "m.room.tombstone").await;
            assert_eq!(tombstone["replacement_room"], new);
            let create = alice.state(new, "m.room.create").await;
            assert_eq!(create["predecessor"]["room_id"], old);
            assert_eq!(create["predecessor"]["event_id"].is_string(), to != "12");
            assert_eq!(
                (&create["type"], &create["room_version"]),
                (&json!("org.example.tea"), &json!(to))
            );
            for same in [
                "m.room.name",
                "m.room.topic",
                "m.room.server_acl",
                "m.room.join_rules",
                "m.room.history_visibility",
                "m.room.guest_access",
            ] {
                let (before, after) = (alice.state(&old, same).await, alice.state(new, same).await);
                assert_eq!(before, after, "{same} of {from} in {to}");
            }
            assert_eq!(
                alice.state(new, "org.example.kettle").await["errcode"],
                "M_NOT_FOUND"
            );
            let banned = alice.state(new, "m.room.member/@mallory:example.org").await;
            assert_eq!(banned["membership"], "ban");
            let levels = alice.state(new, "m.room.power_levels").await;
            assert_eq!(
                (&levels["events"]["m.room.name"], &levels["ban"]),
                (&json!(60), &json!(70))
            );
            let silenced = alice.state(&old, "m.room.power_levels").await;
            assert_eq!(
                (&silenced["events_default"], &silenced["invite"]),
                (&json!(50), &json!(50))
            );

            directory_has_moved(&alice, &old, new).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_moderator_who_upgrades_has_no_more_power_afterwards() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let [alice, bob] = [alice, bob].map(|token| Client { site: &site, token });
        let users = json!({ "@alice:example.org": 100, "@bob:example.org": 50 });
        let levels = json!({ "users": users, "events": { "m.room.tombstone": 50, "m.room.encryption": 100 } });
        let wish = json!({
            "room_version": "10", "preset": "public_chat", "power_level_content_override": levels,
        });
        let old = alice.create(wish).await;
        let to_11 = || json!({ "new_version": "11" });
        let (status, refused) = bob.upgrade(&old, to_11()).await;
        assert_eq!((status, &refused["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
        bob.call(Method::POST, &format!("join/{old}"), Value::Null).await;
        for (body, expected) in [
            (json!({ "new_version": "none" }), (400, "M_UNSUPPORTED_ROOM_VERSION")),
            (json!({}), (400, "M_BAD_JSON")),
        ] {
            let (status, refused) = bob.upgrade(&old, body).await;
            assert_eq!((status.as_u16(), refused["errcode"].as_str().unwrap()), expected);
        }
        let (status, answer) = bob.upgrade(&old, to_11()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let new = answer["replacement_room"].as_str().unwrap();
        let levels = bob.state(new, "m.room.power_levels").await;
        assert_eq!(levels["users"], users);
        let (status, _) = bob.upgrade("!nowhere:example.org", to_11()).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    })
    .await;
}
