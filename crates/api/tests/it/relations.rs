//! Relations and threads over HTTP, what may not be related, and filters.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

/// A room of alice's that bob is in, with an event of hers.
struct Scene {
    site: Site,
    alice: String,
    bob: String,
    room_id: String,
    event: String,
}

impl Scene {
    async fn open(fresh: &Fresh, version: &str) -> Self {
        let site = Site::start(fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let wish = json!({"preset": "public_chat", "room_version": version});
        let create = "/_matrix/client/v3/createRoom";
        let (_, created) = site.call(Method::POST, create, Some(&alice), wish).await;
        let room_id = created["room_id"].as_str().unwrap().to_owned();
        let join = format!("/_matrix/client/v3/join/{room_id}");
        site.call(Method::POST, &join, Some(&bob), json!({})).await;
        let mut scene = Self {
            site,
            alice,
            bob,
            room_id,
            event: String::new(),
        };
        let token = scene.alice.clone();
        let (_, sent) = scene
            .send(&token, "m.room.message", "1", json!({"body": "b"}))
            .await;
        scene.event = sent["event_id"].as_str().unwrap().to_owned();
        scene
    }

    async fn send(
        &self,
        token: &str,
        kind: &str,
        txn: &str,
        content: Value,
    ) -> (StatusCode, Value) {
        let target = format!(
            "/_matrix/client/v3/rooms/{}/send/{kind}/{txn}",
            self.room_id
        );
        self.site
            .call(Method::PUT, &target, Some(token), content)
            .await
    }

    async fn relate(&self, rel_type: &str, parent: &str, txn: &str) -> (StatusCode, Value) {
        let relates_to = json!({"rel_type": rel_type, "event_id": parent, "key": "+"});
        let content = json!({"body": "b", "m.relates_to": relates_to});
        self.send(&self.bob, "m.room.message", txn, content).await
    }

    async fn get(&self, token: &str, end: &str) -> (StatusCode, Value) {
        let target = format!("/_matrix/client/v1/rooms/{}/{end}", self.room_id);
        self.site
            .call(Method::GET, &target, Some(token), Value::Null)
            .await
    }
}

#[tokio::test]
async fn relations_and_threads_are_read_by_who_may_see_the_room() {
    on_each_engine(async |fresh: Fresh| {
        let scene = Scene::open(&fresh, "12").await;
        let (_, reply) = scene.relate("m.thread", &scene.event, "1").await;
        let (_, reaction) = scene.relate("m.annotation", &scene.event, "2").await;
        let relations = format!("relations/{}", scene.event);
        let cases = [
            ("", vec![&reaction, &reply]),
            ("?dir=f&recurse=true", vec![&reply, &reaction]),
            ("/m.thread", vec![&reply]),
            ("/m.annotation/m.room.message?limit=1", vec![&reaction]),
            ("/m.annotation/m.reaction", vec![]),
        ];
        for (end, expected) in cases {
            let (status, found) = scene.get(&scene.alice, &format!("{relations}{end}")).await;
            let chunk = found["chunk"].as_array().unwrap();
            let ids: Vec<&Value> = chunk.iter().map(|event| &event["event_id"]).collect();
            let expected: Vec<&Value> = expected.iter().map(|sent| &sent["event_id"]).collect();
            assert_eq!((status, ids), (StatusCode::OK, expected), "{end}");
        }
        let (status, found) = scene
            .get(&scene.bob, "threads?include=participated&limit=5")
            .await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(found["chunk"][0]["event_id"], scene.event);
        let thread = &found["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
        assert_eq!(thread["latest_event"]["event_id"], reply["event_id"]);
    })
    .await;
}

#[tokio::test]
async fn who_asks_wrongly_for_relations_or_may_not_is_told_so() {
    on_each_engine(async |fresh: Fresh| {
        let scene = Scene::open(&fresh, "12").await;
        let relations = format!("relations/{}", scene.event);
        let stranger = scene.site.token("carol").await;
        let nothing = (StatusCode::NOT_FOUND, json!("M_NOT_FOUND"));
        let closed = (StatusCode::FORBIDDEN, json!("M_FORBIDDEN"));
        let of_kind = format!("{relations}/m.thread");
        for (token, end, expected) in [
            (&stranger, &*relations, &nothing),
            (&stranger, &of_kind, &nothing),
            (&stranger, "threads", &closed),
            (&scene.bob, "relations/$none", &nothing),
        ] {
            let (status, mut refused) = scene.get(token, end).await;
            assert_eq!(&(status, refused["errcode"].take()), expected, "{end}");
        }
        let wrong = ["dir=x", "limit=x", "recurse=x", "from=x", "to=x"];
        let wrong = wrong.map(|parameter| format!("{relations}?{parameter}"));
        let wrong_threads = ["include=x", "limit=0", "limit=x", "from=x"];
        let wrong_threads = wrong_threads.map(|parameter| format!("threads?{parameter}"));
        let no_id = "relations/none".to_owned();
        for end in wrong.into_iter().chain(wrong_threads).chain([no_id]) {
            let (status, refused) = scene.get(&scene.bob, &end).await;
            let found = (status, &refused["errcode"]);
            let expected = (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM"));
            assert_eq!(found, expected, "{end}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_may_not_relate_is_refused_with_the_code_for_it() {
    on_each_engine(async |fresh: Fresh| {
        let scene = Scene::open(&fresh, "12").await;
        let (_, reply) = scene.relate("m.thread", &scene.event, "1").await;
        let reply = reply["event_id"].as_str().unwrap();
        let (first, _) = scene.relate("m.annotation", &scene.event, "2").await;
        assert_eq!(first, StatusCode::OK);
        let (again, _) = scene.relate("m.annotation", &scene.event, "2").await;
        assert_eq!(again, StatusCode::OK, "the same request");
        let invalid = StatusCode::BAD_REQUEST;
        let (status, refused) = scene.relate("m.annotation", &scene.event, "3").await;
        assert_eq!(
            (status, &refused["errcode"]),
            (invalid, &json!("M_DUPLICATE_ANNOTATION"))
        );
        let (status, refused) = scene.relate("m.thread", reply, "4").await;
        assert_eq!(
            (status, &refused["errcode"]),
            (invalid, &json!("M_UNKNOWN"))
        );
    })
    .await;
}

#[tokio::test]
async fn what_would_ruin_a_room_is_not_redacted_even_by_its_creator() {
    for version in ["10", "12"] {
        on_each_engine(async |fresh: Fresh| {
            let scene = Scene::open(&fresh, version).await;
            let room = format!("/_matrix/client/v3/rooms/{}", scene.room_id);
            let alice = Some(&*scene.alice);
            let acl = format!("{room}/state/m.room.server_acl");
            let (_, acl) = scene
                .site
                .call(Method::PUT, &acl, alice, json!({ "allow": ["*"] }))
                .await;
            let create = format!("{room}/state/m.room.create/?format=event");
            let (_, create) = scene
                .site
                .call(Method::GET, &create, alice, Value::Null)
                .await;
            for (number, event) in [acl, create].iter().enumerate() {
                let event = event["event_id"].as_str().unwrap();
                let redact = format!("{room}/redact/{event}/{number}");
                let (status, refused) = scene
                    .site
                    .call(Method::PUT, &redact, alice, json!({}))
                    .await;
                let found = (status, &refused["errcode"]);
                assert_eq!(found, (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn events_are_redacted_through_either_endpoint_by_who_may() {
    for version in ["10", "12"] {
        on_each_engine(async |fresh: Fresh| {
            let scene = Scene::open(&fresh, version).await;
            let redacts = json!({"redacts": scene.event, "reason": "cold"});
            let kind = "m.room.redaction";
            let (status, refused) = scene.send(&scene.bob, kind, "2", redacts.clone()).await;
            assert_eq!(
                (status, &refused["errcode"]),
                (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN"))
            );
            let (status, refused) = scene
                .send(&scene.bob, kind, "3", json!({"redacts": "$none"}))
                .await;
            assert_eq!(
                (status, &refused["errcode"]),
                (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND"))
            );
            let (status, refused) = scene
                .send(&scene.bob, kind, "4", json!({"redacts": 5}))
                .await;
            assert_eq!(
                (status, &refused["errcode"]),
                (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON"))
            );
            let redact = format!(
                "/_matrix/client/v3/rooms/{}/redact/{}/5",
                scene.room_id, scene.event
            );
            let (status, _) = scene
                .site
                .call(Method::PUT, &redact, Some(&scene.bob), json!({}))
                .await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            let (status, sent) = scene.send(&scene.alice, kind, "6", redacts).await;
            assert_eq!(status, StatusCode::OK);
            let event = format!(
                "/_matrix/client/v3/rooms/{}/event/{}",
                scene.room_id, scene.event
            );
            let (_, seen) = scene
                .site
                .call(Method::GET, &event, Some(&scene.bob), Value::Null)
                .await;
            assert_eq!(seen["content"], json!({}));
            let because = &seen["unsigned"]["redacted_because"];
            assert_eq!(because["event_id"], sent["event_id"]);
            assert_eq!(
                (&because["redacts"], &because["content"]["redacts"]),
                (&json!(scene.event), &json!(scene.event))
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_not_stored() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let target = "/_matrix/client/v3/user/@alice:example.org/filter";
        for wrong in [
            json!({"room": []}),
            json!({"room": {"timeline": {"senders": ["alice"]}}}),
            json!({"room": {"not_rooms": ["room"]}}),
            json!({"event_format": "x"}),
            json!({"presence": {"limit": "many"}}),
        ] {
            let (status, refused) = site
                .call(Method::POST, target, Some(&token), wrong.clone())
                .await;
            let found = (status, &refused["errcode"]);
            assert_eq!(
                found,
                (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON")),
                "{wrong}"
            );
        }
        let right = json!({"event_format": "federation", "room": {"include_leave": true}, "x": 1});
        let (status, stored) = site
            .call(Method::POST, target, Some(&token), right.clone())
            .await;
        assert_eq!(status, StatusCode::OK);
        let target = format!("{target}/{}", stored["filter_id"].as_str().unwrap());
        let (_, read) = site
            .call(Method::GET, &target, Some(&token), Value::Null)
            .await;
        assert_eq!(read, right);
    })
    .await;
}
