//! Aliases and the public room directory.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, federation};

const CLIENT: &str = "/_matrix/client/v3";

/// Makes a room and returns its ID.
async fn create(site: &Site, token: &str, wish: Value) -> String {
    let target = format!("{CLIENT}/createRoom");
    let (status, created) = site.call(Method::POST, &target, Some(token), wish).await;
    assert_eq!(status, StatusCode::OK, "{created}");
    created["room_id"].as_str().unwrap().to_owned()
}

/// The status and error code of an answer.
async fn refusal(
    site: &Site,
    method: Method,
    end: &str,
    token: Option<&str>,
    body: Value,
) -> (u16, String) {
    let (status, answer) = site
        .call(method, &format!("{CLIENT}/{end}"), token, body)
        .await;
    let code = answer["errcode"].as_str().unwrap_or_default();
    (status.as_u16(), code.to_owned())
}

fn of(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn aliases_are_made_by_members_and_ended_by_those_who_may() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let room_id = create(&site, &alice, json!({ "preset": "public_chat" })).await;
        let (alice, bob) = (Some(&*alice), Some(&*bob));
        let alias = "directory/room/%23tea:example.org";
        let body = || json!({ "room_id": room_id });
        let put = |end: &'static str, token, body| {
            let site = &site;
            async move { refusal(site, Method::PUT, end, token, body).await }
        };
        assert_eq!(put(alias, bob, body()).await, of(403, "M_FORBIDDEN"));
        assert_eq!(put(alias, None, body()).await, of(401, "M_MISSING_TOKEN"));
        assert_eq!(put(alias, alice, json!({})).await, of(400, "M_BAD_JSON"));
        let strange = json!({ "room_id": "!nowhere:example.org" });
        assert_eq!(put(alias, alice, strange).await, of(404, "M_NOT_FOUND"));
        for bad in [
            "directory/room/tea",
            "directory/room/%23tea:example.com",
            "directory/room/%23two%20words:example.org",
        ] {
            assert_eq!(
                put(bad, alice, body()).await,
                of(400, "M_INVALID_PARAM"),
                "{bad}"
            );
        }
        assert_eq!(put(alias, alice, body()).await, of(200, ""));
        assert_eq!(put(alias, alice, body()).await, of(409, "M_UNKNOWN"));

        let resolve = format!("{CLIENT}/{alias}");
        let (_, found) = site.call(Method::GET, &resolve, None, Value::Null).await;
        assert_eq!(
            found,
            json!({ "room_id": room_id, "servers": ["example.org"] })
        );
        let aliases = format!("{CLIENT}/rooms/{room_id}/aliases");
        let (_, listed) = site.call(Method::GET, &aliases, alice, Value::Null).await;
        assert_eq!(listed, json!({ "aliases": ["#tea:example.org"] }));
        let (status, _) = site.call(Method::GET, &aliases, bob, Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);

        let delete = |token| refusal(&site, Method::DELETE, alias, token, Value::Null);
        assert_eq!(delete(bob).await, of(403, "M_FORBIDDEN"));
        assert_eq!(delete(alice).await, of(200, ""));
        assert_eq!(delete(alice).await, of(404, "M_NOT_FOUND"));
    })
    .await;
}

#[tokio::test]
async fn a_room_announces_its_own_aliases_only_and_forgets_those_that_end() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let token = &*token;
        let wish = json!({ "room_alias_name": "tea" });
        let room_id = create(&site, token, wish).await;
        create(&site, token, json!({ "room_alias_name": "coffee" })).await;
        let state = format!("rooms/{room_id}/state/m.room.canonical_alias");
        let announce = |content| refusal(&site, Method::PUT, &state, Some(token), content);
        let main = "#tea:example.org";
        for (content, expected) in [
            (
                json!({ "alias": "#coffee:example.org" }),
                of(400, "M_BAD_ALIAS"),
            ),
            (
                json!({ "alias": "#nothing:example.org" }),
                of(400, "M_BAD_ALIAS"),
            ),
            (
                json!({ "alias": main, "alt_aliases": ["tea"] }),
                of(400, "M_INVALID_PARAM"),
            ),
            (json!({ "alias": 5 }), of(400, "M_BAD_JSON")),
            (json!({ "alias": "", "alt_aliases": [main] }), of(200, "")),
        ] {
            assert_eq!(announce(content.clone()).await, expected, "{content}");
        }
        let end = "directory/room/%23tea:example.org";
        let ended = refusal(&site, Method::DELETE, end, Some(token), Value::Null).await;
        assert_eq!(ended, of(200, ""));
        let target = format!("{CLIENT}/{state}");
        let (_, content) = site
            .call(Method::GET, &target, Some(token), Value::Null)
            .await;
        assert_eq!(content, json!({ "alias": "", "alt_aliases": [] }));
    })
    .await;
}

#[tokio::test]
async fn published_rooms_are_listed_for_clients_and_servers() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let (alice, bob) = (&*alice, &*bob);
        let wish = json!({
            "visibility": "public", "name": "Tea", "topic": "Leaves", "room_alias_name": "tea",
        });
        let tea = create(&site, alice, wish).await;
        let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
        let space = create(&site, alice, space).await;
        let hidden = create(&site, alice, json!({ "preset": "private_chat" })).await;
        let join = format!("{CLIENT}/join/{tea}");
        site.call(Method::POST, &join, Some(bob), Value::Null).await;

        for room_id in [&space, &hidden] {
            let end = format!("directory/list/room/{room_id}");
            refusal(&site, Method::PUT, &end, Some(alice), json!({})).await;
        }
        let rooms = format!("{CLIENT}/publicRooms");
        let (_, all) = site.call(Method::GET, &rooms, None, Value::Null).await;
        assert_eq!(all["total_room_count_estimate"], 2, "{all}");
        assert_eq!(
            all["chunk"][0],
            json!({
                "room_id": tea, "name": "Tea", "topic": "Leaves", "num_joined_members": 2,
                "canonical_alias": "#tea:example.org", "join_rule": "public",
                "world_readable": false, "guest_can_join": false,
            })
        );
        assert_eq!(all["chunk"][1]["room_type"], "m.space");
        let search = json!({ "filter": { "generic_search_term": "LEAV", "room_types": [null] } });
        let (_, found) = site
            .call(Method::POST, &rooms, Some(alice), search.clone())
            .await;
        assert_eq!(found["total_room_count_estimate"], 1);
        let remote = "/_matrix/federation/v1/publicRooms";
        let (_, asked) = federation::call(&site, Method::POST, remote, search).await;
        assert_eq!(asked, found);

        let (_, first) = federation::call(
            &site,
            Method::GET,
            &format!("{remote}?limit=1"),
            Value::Null,
        )
        .await;
        let since = first["next_batch"].as_str().unwrap();
        let target = format!("{rooms}?limit=1&since={since}");
        let (_, second) = site.call(Method::GET, &target, None, Value::Null).await;
        assert_eq!(second["chunk"], json!([all["chunk"][1]]));
        for end in [
            "publicRooms?since=x",
            "publicRooms?limit=0",
            "publicRooms?server=%20",
            "directory/list/room/tea",
            "directory/room/tea",
        ] {
            let refused = refusal(&site, Method::GET, end, None, Value::Null).await;
            assert_eq!(refused, of(400, "M_INVALID_PARAM"), "{end}");
        }
        // An address that this server may not connect to.
        let inside = "publicRooms?server=127.0.0.1:1";
        let refused = refusal(&site, Method::GET, inside, None, Value::Null).await;
        assert_eq!(refused, of(403, "M_FORBIDDEN"));
        let wish = json!({ "limit": "x" });
        let refused = refusal(&site, Method::POST, "publicRooms", Some(alice), wish).await;
        assert_eq!(refused, of(400, "M_BAD_JSON"));
        let anonymous = refusal(&site, Method::POST, "publicRooms", None, json!({})).await;
        assert_eq!(anonymous, of(401, "M_MISSING_TOKEN"));
    })
    .await;
}

#[tokio::test]
async fn whoever_may_announce_aliases_publishes_a_room() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let room_id = create(&site, &alice, json!({ "preset": "public_chat" })).await;
        let join = format!("{CLIENT}/join/{room_id}");
        site.call(Method::POST, &join, Some(&bob), Value::Null)
            .await;
        let entry = format!("directory/list/room/{room_id}");
        let publish = |token, visibility: &str| {
            let body = json!({ "visibility": visibility });
            refusal(&site, Method::PUT, &entry, token, body)
        };
        let (alice, bob) = (Some(&*alice), Some(&*bob));
        assert_eq!(publish(bob, "public").await, of(403, "M_FORBIDDEN"));
        assert_eq!(publish(alice, "both").await, of(400, "M_BAD_JSON"));
        let target = format!("{CLIENT}/{entry}");
        for wished in ["public", "private", "public"] {
            assert_eq!(publish(alice, wished).await, of(200, ""));
            let (_, shown) = site.call(Method::GET, &target, None, Value::Null).await;
            assert_eq!(shown, json!({ "visibility": wished }));
        }
        let strange = "directory/list/room/!nowhere:example.org";
        for (method, token) in [(Method::GET, None), (Method::PUT, alice)] {
            let unknown = refusal(&site, method, strange, token, json!({})).await;
            assert_eq!(unknown, of(404, "M_NOT_FOUND"));
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_publishes_where_the_operator_does_not_allow_it() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start_with(&fresh, |config, _| config.allow_publishing = false).await;
        let token = site.token("alice").await;
        let wish = json!({ "visibility": "public" });
        let refused = refusal(&site, Method::POST, "createRoom", Some(&token), wish).await;
        assert_eq!(refused, of(403, "M_FORBIDDEN"));
        let room_id = create(&site, &token, json!({ "preset": "public_chat" })).await;
        let entry = format!("directory/list/room/{room_id}");
        let published = refusal(&site, Method::PUT, &entry, Some(&token), json!({})).await;
        assert_eq!(published, of(403, "M_FORBIDDEN"));
        let hide = json!({ "visibility": "private" });
        let hidden = refusal(&site, Method::PUT, &entry, Some(&token), hide).await;
        assert_eq!(hidden, of(200, ""));
    })
    .await;
}
