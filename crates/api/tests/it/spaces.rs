//! The tree of a space, for clients and servers.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, federation};

#[tokio::test]
async fn a_space_and_its_rooms_are_described() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = async |wish: Value| {
            let target = "/_matrix/client/v3/createRoom";
            let (_, created) = site.call(Method::POST, target, Some(&alice), wish).await;
            created["room_id"].as_str().unwrap().to_owned()
        };
        let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
        let space = create(space).await;
        let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
        let child =
            json!({ "preset": "public_chat", "name": "Tea", "initial_state": [encryption] });
        let child = create(child).await;
        let secret = create(json!({ "preset": "private_chat" })).await;
        let state = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}");
        let content = json!({ "via": ["example.org"] });
        site.call(Method::PUT, &state, Some(&alice), content.clone())
            .await;

        let tree = format!("/_matrix/client/v1/rooms/{space}/hierarchy");
        let (status, shown) = site.call(Method::GET, &tree, Some(&bob), Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{shown}");
        let root = &shown["rooms"][0];
        assert_eq!(root["room_type"], "m.space");
        assert_eq!(root["children_state"][0]["content"], content);
        assert!(root["children_state"][0]["origin_server_ts"].is_u64());
        let room = json!({
            "room_id": child, "name": "Tea", "num_joined_members": 1, "join_rule": "public",
            "world_readable": false, "guest_can_join": false, "room_version": "12",
            "encryption": "m.megolm.v1.aes-sha2", "children_state": [],
        });
        assert_eq!(shown["rooms"][1], room);

        let asked = format!("/_matrix/federation/v1/hierarchy/{space}?suggested_only=false");
        let (_, served) = federation::call(&site, Method::GET, &asked, Value::Null).await;
        assert_eq!(&served["room"], root);
        assert_eq!(served["children"][0]["name"], "Tea");
        assert_eq!(served["inaccessible_children"], json!([]));

        let hidden = format!("/_matrix/client/v1/rooms/{secret}/hierarchy");
        let too_few = format!("{tree}?limit=0");
        let strange = format!("{tree}?from=x");
        for (target, token, expected) in [
            (&hidden, Some(&*bob), (403, "M_FORBIDDEN")),
            (&tree, None, (401, "M_MISSING_TOKEN")),
            (&too_few, Some(&*bob), (400, "M_INVALID_PARAM")),
            (&strange, Some(&*bob), (400, "M_INVALID_PARAM")),
        ] {
            let (status, refused) = site.call(Method::GET, target, token, Value::Null).await;
            let code = refused["errcode"].as_str().unwrap_or_default();
            assert_eq!((status.as_u16(), code), expected, "{target}");
        }
        let unknown = "/_matrix/federation/v1/hierarchy/!nowhere:example.org";
        let (status, refused) = federation::call(&site, Method::GET, unknown, Value::Null).await;
        assert_eq!(
            (status.as_u16(), &refused["errcode"]),
            (404, &json!("M_NOT_FOUND"))
        );
    })
    .await;
}
