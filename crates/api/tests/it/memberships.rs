//! Who comes, goes, and is put out of a room; and what is refused.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

const CLIENT: &str = "/_matrix/client/v3";
const DONE: (u16, &str) = (200, "");
const FORBIDDEN: (u16, &str) = (403, "M_FORBIDDEN");
const BAD_STATE: (u16, &str) = (403, "M_BAD_STATE");

/// A room of alice's that anybody may enter who knows it, or knock upon; bob and carol stand outside.
struct Scene {
    site: Site,
    room: String,
    tokens: [(&'static str, String); 3],
}

impl Scene {
    async fn set(fresh: &Fresh, rule: &str) -> Self {
        let site = Site::start(fresh).await;
        let mut tokens = Vec::new();
        for user in ["alice", "bob", "carol"] {
            tokens.push((user, site.token(user).await));
        }
        let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": rule } });
        let wish = json!({
            "power_level_content_override": { "invite": 50 }, "initial_state": [rules],
        });
        let create = format!("{CLIENT}/createRoom");
        let (_, created) = site
            .call(Method::POST, &create, Some(&tokens[0].1), wish)
            .await;
        Self {
            room: created["room_id"].as_str().unwrap().to_owned(),
            tokens: tokens.try_into().unwrap(),
            site,
        }
    }

    fn token(&self, user: &str) -> Option<&str> {
        let found = self.tokens.iter().find(|(name, _)| *name == user);
        found.map(|(_, token)| &**token)
    }

    /// The status and error code of an answer. Who has no token is nobody.
    async fn post(&self, user: &str, end: &str, body: Value) -> (u16, String) {
        let target = format!("{CLIENT}/{end}");
        let token = self.token(user);
        let (status, answer) = self.site.call(Method::POST, &target, token, body).await;
        let code = answer["errcode"].as_str().unwrap_or_default();
        (status.as_u16(), code.to_owned())
    }

    /// Takes steps in the room one after the other: who does what to whom, and what is answered.
    async fn play(&self, steps: &[(&str, &str, &str, (u16, &str))]) {
        for (step, (user, action, target, (status, code))) in steps.iter().enumerate() {
            let body = match *target {
                "" => Value::Null,
                target => json!({ "user_id": format!("@{target}:example.org"), "reason": "so" }),
            };
            let end = format!("rooms/{}/{action}", self.room);
            let answered = self.post(user, &end, body).await;
            let expected = (*status, (*code).to_owned());
            assert_eq!(answered, expected, "{step}: {user} {action} {target}");
        }
    }
}

#[tokio::test]
async fn members_are_invited_kicked_banned_and_let_back_in_by_those_who_may() {
    on_each_engine(async |fresh: Fresh| {
        let scene = Scene::set(&fresh, "public").await;
        scene
            .play(&[
                // From outside nothing can be done but to come in.
                ("bob", "invite", "carol", FORBIDDEN),
                ("bob", "kick", "alice", FORBIDDEN),
                ("bob", "ban", "alice", FORBIDDEN),
                ("bob", "leave", "", FORBIDDEN),
                ("bob", "join", "", DONE),
                ("bob", "join", "", DONE),
                // From below neither.
                ("bob", "invite", "carol", FORBIDDEN),
                ("bob", "kick", "alice", FORBIDDEN),
                ("bob", "ban", "carol", FORBIDDEN),
                ("bob", "forget", "", (400, "M_UNKNOWN")),
                ("alice", "kick", "carol", FORBIDDEN),
                ("alice", "unban", "carol", BAD_STATE),
                ("alice", "unban", "bob", BAD_STATE),
                ("alice", "kick", "bob", DONE),
                ("alice", "kick", "bob", FORBIDDEN),
                ("bob", "forget", "", DONE),
                ("bob", "join", "", DONE),
                ("alice", "ban", "bob", DONE),
                ("alice", "ban", "bob", DONE),
                ("bob", "join", "", FORBIDDEN),
                ("alice", "invite", "bob", FORBIDDEN),
                ("alice", "kick", "bob", BAD_STATE),
                ("bob", "unban", "bob", FORBIDDEN),
                ("alice", "unban", "bob", DONE),
                ("alice", "unban", "bob", BAD_STATE),
                // An invite that is taken back.
                ("alice", "invite", "carol", DONE),
                ("carol", "forget", "", (400, "M_UNKNOWN")),
                ("alice", "kick", "carol", DONE),
                ("alice", "invite", "carol", DONE),
                ("carol", "join", "", DONE),
                ("alice", "invite", "carol", FORBIDDEN),
                ("carol", "leave", "", DONE),
                ("carol", "leave", "", DONE),
            ])
            .await;
        let joined = format!("{CLIENT}/joined_rooms");
        for (user, rooms) in [("alice", vec![&scene.room]), ("carol", vec![])] {
            let token = scene.token(user);
            let listed = scene.site.call(Method::GET, &joined, token, Value::Null);
            let expected = json!({ "joined_rooms": rooms });
            assert_eq!(listed.await, (StatusCode::OK, expected), "{user}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_knocks_is_let_in_or_turned_away() {
    on_each_engine(async |fresh: Fresh| {
        let scene = Scene::set(&fresh, "knock").await;
        let knock = format!("knock/{}", scene.room);
        let reason = json!({ "reason": "let me in" });
        let knocked = scene.post("bob", &knock, reason).await;
        assert_eq!(knocked, (200, String::new()));
        scene
            .play(&[
                ("bob", "join", "", FORBIDDEN),
                ("alice", "invite", "bob", DONE),
                ("bob", "join", "", DONE),
            ])
            .await;
        assert_eq!(scene.post("carol", &knock, Value::Null).await.0, 200);
        scene.play(&[("alice", "kick", "carol", DONE)]).await;
        assert_eq!(scene.post("carol", &knock, Value::Null).await.0, 200);
        scene
            .play(&[
                ("carol", "leave", "", DONE),
                ("alice", "ban", "carol", DONE),
            ])
            .await;
        // Those who are in, and those who are kept out, need not knock.
        for user in ["bob", "carol"] {
            let refused = scene.post(user, &knock, Value::Null).await;
            assert_eq!(refused, (403, "M_FORBIDDEN".to_owned()), "{user}");
        }
    })
    .await;
}

#[tokio::test]
async fn malformed_changes_of_membership_are_refused() {
    on_each_engine(async |fresh: Fresh| {
        let scene = Scene::set(&fresh, "public").await;
        let room = &scene.room;
        let bob = || json!({ "user_id": "@bob:example.org" });
        let of = |status: u16, code: &str| (status, code.to_owned());
        for action in ["invite", "kick", "ban", "unban"] {
            let (here, nowhere) = (
                format!("rooms/{room}/{action}"),
                format!("rooms/!no:example.org/{action}"),
            );
            let malformed = format!("rooms/no/{action}");
            for (user, end, body, expected) in [
                ("nobody", &here, bob(), of(401, "M_MISSING_TOKEN")),
                ("alice", &here, Value::Null, of(400, "M_NOT_JSON")),
                ("alice", &here, json!([]), of(400, "M_BAD_JSON")),
                (
                    "alice",
                    &here,
                    json!({ "user_id": "bob" }),
                    of(400, "M_BAD_JSON"),
                ),
                ("alice", &nowhere, bob(), of(404, "M_NOT_FOUND")),
                ("alice", &malformed, bob(), of(400, "M_INVALID_PARAM")),
            ] {
                assert_eq!(scene.post(user, end, body).await, expected, "{end}");
            }
        }
        let strange = json!({ "reason": 5 });
        for (end, expected) in [
            (format!("join/{room}"), of(400, "M_BAD_JSON")),
            (format!("knock/{room}"), of(400, "M_BAD_JSON")),
            (format!("rooms/{room}/join"), of(400, "M_BAD_JSON")),
            (format!("rooms/{room}/leave"), of(400, "M_BAD_JSON")),
            ("join/no".to_owned(), of(400, "M_INVALID_PARAM")),
            ("knock/no".to_owned(), of(400, "M_INVALID_PARAM")),
        ] {
            let answered = scene.post("bob", &end, strange.clone()).await;
            assert_eq!(answered, expected, "{end}");
        }
        let nowhere = format!("knock/{room}?via=%20");
        let answered = scene.post("bob", &nowhere, Value::Null).await;
        assert_eq!(answered, of(400, "M_INVALID_PARAM"));
        for end in [
            "join/%23no:example.org",
            "knock/%23no:example.org",
            "join/!no",
            "knock/!no",
            "rooms/!no:example.org/leave",
            "rooms/!no:example.org/forget",
        ] {
            let answered = scene.post("bob", end, Value::Null).await;
            assert_eq!(answered, of(404, "M_NOT_FOUND"), "{end}");
        }
    })
    .await;
}
