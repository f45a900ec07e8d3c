//! What users report, what is known of them, and networks that this server has no bridge to.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

fn is_error(status: StatusCode, code: &str, (got, answer): (StatusCode, Value)) {
    assert_eq!(
        (got, &answer["errcode"]),
        (status, &json!(code)),
        "{answer}"
    );
}

/// A room of alice's with an event in it, and the tokens of alice and of bob, who is not there.
struct Scene {
    room: String,
    event: String,
    alice: String,
    bob: String,
}

impl Scene {
    async fn set(site: &Site) -> Self {
        let alice = site.token("alice").await;
        let bob = site.token("bob").await;
        let create = "/_matrix/client/v3/createRoom";
        let created = site.call(Method::POST, create, Some(&alice), json!({}));
        let room = created.await.1["room_id"].as_str().unwrap().to_owned();
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let words = json!({ "msgtype": "m.text", "body": "spam" });
        let sent = site.call(Method::PUT, &send, Some(&alice), words).await;
        let event = sent.1["event_id"].as_str().unwrap().to_owned();
        Self {
            room,
            event,
            alice,
            bob,
        }
    }

    fn of_room(&self) -> String {
        format!("rooms/{}/report", self.room)
    }

    fn of_event(&self) -> String {
        format!("rooms/{}/report/{}", self.room, self.event)
    }
}

impl Site {
    async fn report(&self, token: &str, what: &str, body: Value) -> (StatusCode, Value) {
        let target = format!("/_matrix/client/v3/{what}");
        self.call(Method::POST, &target, Some(token), body).await
    }
}

#[tokio::test]
async fn a_report_is_kept_for_the_administrators() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let scene = Scene::set(&site).await;
        let why = json!({ "reason": "it makes me sad" });
        let blank = json!({ "reason": "" });
        let (alice, bob) = (&scene.alice, &scene.bob);
        for (token, what, body) in [
            (alice, &*scene.of_event(), json!({})),
            (bob, &*scene.of_room(), why.clone()),
            (bob, "users/@alice:example.org/report", why),
            (bob, "users/@eve:example.com/report", blank),
        ] {
            let answer = site.report(token, what, body).await;
            assert_eq!(answer, (StatusCode::OK, json!({})), "{what}");
        }
        let kept = site.users.reports(100).await.unwrap();
        let mut kept: Vec<Value> = kept
            .into_iter()
            .map(|kept| {
                json!([
                    kept.reporter,
                    kept.room_id,
                    kept.event_id,
                    kept.user_id,
                    kept.reason
                ])
            })
            .collect();
        kept.sort_by_key(Value::to_string);
        let (alice, bob, why) = ("@alice:example.org", "@bob:example.org", "it makes me sad");
        let mut expected = vec![
            json!([alice, scene.room, scene.event, alice, null]),
            json!([bob, scene.room, null, null, why]),
            json!([bob, null, null, alice, why]),
            json!([bob, null, null, "@eve:example.com", ""]),
        ];
        expected.sort_by_key(Value::to_string);
        assert_eq!(kept, expected);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_or_not_seen_cannot_be_reported() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let scene = Scene::set(&site).await;
    let why = json!({ "reason": "it makes me sad" });
    let (alice, bob) = (&scene.alice, &scene.bob);
    for (token, what) in [
        (bob, scene.of_event()),
        (alice, format!("{}/$nothing", scene.of_room())),
        (alice, "rooms/!nothing:example.org/report".to_owned()),
        (alice, "users/@nobody:example.org/report".to_owned()),
    ] {
        let refused = site.report(token, &what, why.clone()).await;
        is_error(StatusCode::NOT_FOUND, "M_NOT_FOUND", refused);
    }
    let user = "users/@alice:example.org/report";
    let long = json!({ "reason": "x".repeat(5000) });
    for (what, body, code) in [
        (&*scene.of_room(), json!({}), "M_MISSING_PARAM"),
        (user, json!({}), "M_MISSING_PARAM"),
        (&*scene.of_event(), json!({ "reason": 5 }), "M_BAD_JSON"),
        (user, long, "M_INVALID_PARAM"),
        ("users/alice/report", why.clone(), "M_INVALID_PARAM"),
    ] {
        let refused = site.report(alice, what, body).await;
        is_error(StatusCode::BAD_REQUEST, code, refused);
    }
    assert_eq!(site.users.reports(100).await.unwrap(), []);
}

#[tokio::test]
async fn who_a_user_is_is_for_the_user_and_for_administrators() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let bob = site.token("bob").await;
        let root = site.admin("root").await;
        let ask = async |token: &str, user: &str| {
            let target = format!("/_matrix/client/v3/admin/whois/{user}");
            site.call(Method::GET, &target, Some(token), Value::Null)
                .await
        };
        let alice_id = "@alice:example.org";
        is_error(
            StatusCode::FORBIDDEN,
            "M_FORBIDDEN",
            ask(&bob, alice_id).await,
        );
        for token in [&alice, &root] {
            let (status, known) = ask(token, alice_id).await;
            assert_eq!(
                (status, &known["user_id"]),
                (StatusCode::OK, &json!(alice_id))
            );
            assert!(known["devices"]["PHONE"]["sessions"].is_array(), "{known}");
        }
        let nobody = ask(&root, "@nobody:example.org").await;
        is_error(StatusCode::NOT_FOUND, "M_NOT_FOUND", nobody);
        is_error(
            StatusCode::BAD_REQUEST,
            "M_INVALID_PARAM",
            ask(&alice, "alice").await,
        );
    })
    .await;
}

#[tokio::test]
async fn there_are_no_third_party_networks() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let token = site.token("alice").await;
    let ask = async |what: &str| {
        let target = format!("/_matrix/client/v3/thirdparty/{what}");
        site.call(Method::GET, &target, Some(&token), Value::Null)
            .await
    };
    assert_eq!(ask("protocols").await, (StatusCode::OK, json!({})));
    is_error(
        StatusCode::NOT_FOUND,
        "M_NOT_FOUND",
        ask("protocol/irc").await,
    );
    for what in [
        "location?alias=%23a:b",
        "location/irc",
        "user?userid=@a:b",
        "user/irc",
    ] {
        assert_eq!(ask(what).await, (StatusCode::OK, json!([])), "{what}");
    }
}
