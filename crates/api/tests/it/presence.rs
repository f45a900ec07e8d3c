//! Who is there: the endpoints, and what of it other servers may say.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{
    Site,
    edus::{receive, refused, room, sync},
};

const ALICE: &str = "/_matrix/client/v3/presence/@alice:example.org/status";

async fn status(site: &Site, token: &str, target: &str) -> Value {
    let (status, answer) = site
        .call(Method::GET, target, Some(token), Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

async fn set(site: &Site, token: &str, target: &str, body: Value) {
    let (status, answer) = site.call(Method::PUT, target, Some(token), body).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
}

#[tokio::test]
async fn users_say_how_they_are_and_see_how_those_in_their_rooms_are() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let (room, _) = room(&site, &alice).await;
        // Sending a message made nobody online who doesn't sync.
        let offline = json!({ "presence": "offline", "last_active_ago": 0 });
        assert_eq!(status(&site, &alice, ALICE).await, offline);
        let body = json!({ "presence": "unavailable", "status_msg": "back soon" });
        set(&site, &alice, ALICE, body).await;
        let shown = json!({
            "presence": "unavailable", "status_msg": "back soon", "last_active_ago": 0,
        });
        assert_eq!(status(&site, &alice, ALICE).await, shown);
        let hidden = (403, "M_FORBIDDEN");
        refused(
            &site,
            (Method::GET, ALICE),
            Some(&bob),
            &Value::Null,
            hidden,
        )
        .await;
        let invite = json!({ "user_id": "@bob:example.org" });
        let target = format!("{room}/invite");
        site.call(Method::POST, &target, Some(&alice), invite).await;
        let join = format!("{room}/join");
        site.call(Method::POST, &join, Some(&bob), json!({})).await;
        assert_eq!(status(&site, &bob, ALICE).await, shown);
        let body = json!({ "presence": "online", "status_msg": null });
        set(&site, &alice, ALICE, body).await;
        let shown = json!({ "presence": "online", "last_active_ago": 0, "currently_active": true });
        assert_eq!(status(&site, &bob, ALICE).await, shown);
    })
    .await;
}

#[tokio::test]
async fn presence_that_cannot_be_is_refused() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let online = json!({ "presence": "online" });
        let nobody = "/_matrix/client/v3/presence/alice/status";
        for (target, token, body, expected) in [
            (ALICE, Some(&bob), &online, (403, "M_FORBIDDEN")),
            (ALICE, None, &online, (401, "M_MISSING_TOKEN")),
            (nobody, Some(&alice), &online, (400, "M_INVALID_PARAM")),
            (ALICE, Some(&alice), &json!({}), (400, "M_BAD_JSON")),
            (
                ALICE,
                Some(&alice),
                &json!({ "presence": "busy" }),
                (400, "M_BAD_JSON"),
            ),
            (
                ALICE,
                Some(&alice),
                &json!({ "presence": "online", "status_msg": 5 }),
                (400, "M_BAD_JSON"),
            ),
            (
                ALICE,
                Some(&alice),
                &json!({ "presence": "online", "status_msg": "x".repeat(4_097) }),
                (400, "M_INVALID_PARAM"),
            ),
        ] {
            let token = token.map(String::as_str);
            refused(&site, (Method::PUT, target), token, body, expected).await;
        }
        let get = (Method::GET, ALICE);
        refused(&site, get, None, &Value::Null, (401, "M_MISSING_TOKEN")).await;
        let target = "/_matrix/client/v3/sync?set_presence=busy";
        let invalid = (400, "M_INVALID_PARAM");
        refused(
            &site,
            (Method::GET, target),
            Some(&alice),
            &Value::Null,
            invalid,
        )
        .await;
        assert_eq!(
            status(&site, &alice, ALICE).await,
            json!({ "presence": "offline" })
        );
    })
    .await;
}

#[tokio::test]
async fn who_syncs_is_online_unless_it_says_otherwise() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        for (set_presence, expected) in [
            ("offline", "offline"),
            ("unavailable", "unavailable"),
            ("online", "online"),
            ("unavailable", "unavailable"),
        ] {
            let target = format!("/_matrix/client/v3/sync?set_presence={set_presence}");
            let (_, answer) = site
                .call(Method::GET, &target, Some(&alice), Value::Null)
                .await;
            let own = &answer["presence"]["events"][0];
            match expected {
                "offline" => assert_eq!(own, &Value::Null),
                _ => assert_eq!(own["content"]["presence"], expected),
            }
            assert_eq!(status(&site, &alice, ALICE).await["presence"], expected);
        }
        sync(&site, &alice, None).await;
        assert_eq!(status(&site, &alice, ALICE).await["presence"], "online");
    })
    .await;
}

#[tokio::test]
async fn without_presence_everybody_seems_offline_and_what_is_said_is_ignored() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start_with(&fresh, |config, _| config.presence = false).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        room(&site, &alice).await;
        let body = json!({ "presence": "online", "status_msg": "here" });
        set(&site, &alice, ALICE, body).await;
        let push = json!([{ "user_id": "@alice:example.org", "presence": "online" }]);
        let edu = json!({ "edu_type": "m.presence", "content": { "push": push } });
        assert_eq!(receive(&site, "1", &[edu]).await, StatusCode::OK);
        let shown = sync(&site, &alice, None).await;
        assert_eq!(shown["presence"]["events"], json!([]));
        let offline = json!({ "presence": "offline" });
        assert_eq!(status(&site, &alice, ALICE).await, offline);
        // Nobody is told who shares rooms with whom, either.
        assert_eq!(status(&site, &bob, ALICE).await, offline);
        let other = (403, "M_FORBIDDEN");
        let body = json!({ "presence": "online" });
        refused(&site, (Method::PUT, ALICE), Some(&bob), &body, other).await;
    })
    .await;
}
