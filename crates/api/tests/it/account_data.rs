//! What clients keep for their users.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, edus::sync};

const ROOT: &str = "/_matrix/client/v3/user/@alice:example.org";

/// The settings in a section of an answer, by type.
fn settings(section: &Value) -> Vec<(&str, &Value)> {
    let events = section["account_data"]["events"].as_array().unwrap();
    let types = events
        .iter()
        .filter(|event| event["type"] != "m.push_rules");
    types
        .map(|event| (event["type"].as_str().unwrap(), &event["content"]))
        .collect()
}

#[tokio::test]
async fn settings_are_kept_and_come_with_the_next_sync() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let (_, created) = site
            .call(Method::POST, create, Some(&alice), json!({}))
            .await;
        let room_id = created["room_id"].as_str().unwrap();
        let before = sync(&site, &alice, None).await;
        let theme = format!("{ROOT}/account_data/org.example.theme");
        let colour = format!("{ROOT}/rooms/{room_id}/account_data/org.example.colour");
        for (target, content) in [
            (&theme, json!({ "dark": false })),
            (&theme, json!({ "dark": true })),
            (&colour, json!({ "red": 5 })),
        ] {
            let put = site.call(Method::PUT, target, Some(&alice), content.clone());
            assert_eq!(put.await, (StatusCode::OK, json!({})));
            let got = site.call(Method::GET, target, Some(&alice), Value::Null);
            assert_eq!(got.await, (StatusCode::OK, content));
        }
        let since = before["next_batch"].as_str();
        let news = sync(&site, &alice, since).await;
        let dark = json!({ "dark": true });
        let red = json!({ "red": 5 });
        let room = &news["rooms"]["join"][room_id];
        assert_eq!(settings(&news), [("org.example.theme", &dark)]);
        assert_eq!(settings(room), [("org.example.colour", &red)]);
        assert_eq!(room["timeline"]["events"], json!([]));
        let nothing = sync(&site, &alice, news["next_batch"].as_str()).await;
        assert_eq!(settings(&nothing), []);
        assert_eq!(nothing["rooms"]["join"][room_id], Value::Null);
        let all = sync(&site, &alice, None).await;
        assert_eq!(settings(&all), [("org.example.theme", &dark)]);
        assert_eq!(
            settings(&all["rooms"]["join"][room_id]),
            [("org.example.colour", &red)]
        );
        assert_eq!(settings(&sync(&site, &bob, None).await), []);
    })
    .await;
}

#[tokio::test]
async fn rooms_are_tagged_and_tags_taken_off() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let root = format!("{ROOT}/rooms/!r:example.org/tags");
        let call = async |method, end: &str, body| {
            let target = format!("{root}{end}");
            site.call(method, &target, Some(&alice), body).await
        };
        let empty = (StatusCode::OK, json!({ "tags": {} }));
        assert_eq!(call(Method::GET, "", Value::Null).await, empty);
        let favourite = json!({ "order": 0.25 });
        for (tag, about) in [("m.favourite", &favourite), ("u.work", &json!({}))] {
            let put = call(Method::PUT, &format!("/{tag}"), about.clone()).await;
            assert_eq!(put, (StatusCode::OK, json!({})));
        }
        let both = json!({ "tags": { "m.favourite": favourite, "u.work": {} } });
        assert_eq!(
            call(Method::GET, "", Value::Null).await,
            (StatusCode::OK, both.clone())
        );
        let data = format!("{ROOT}/rooms/!r:example.org/account_data/m.tag");
        let (_, stored) = site
            .call(Method::GET, &data, Some(&alice), Value::Null)
            .await;
        assert_eq!(stored, both);
        for _ in 0..2 {
            let removed = call(Method::DELETE, "/u.work", Value::Null).await;
            assert_eq!(removed, (StatusCode::OK, json!({})));
        }
        let one = json!({ "tags": { "m.favourite": favourite } });
        assert_eq!(
            call(Method::GET, "", Value::Null).await,
            (StatusCode::OK, one)
        );
        // A client may write anything there.
        let spoilt = json!({ "tags": "none" });
        site.call(Method::PUT, &data, Some(&alice), spoilt).await;
        assert_eq!(call(Method::GET, "", Value::Null).await, empty);
    })
    .await;
}

#[tokio::test]
async fn tags_set_at_the_same_time_are_all_kept() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let root = format!("{ROOT}/rooms/!r:example.org/tags");
        let set = (0..20).map(|number| {
            let target = format!("{root}/u.{number}");
            let (site, alice) = (&site, &alice);
            async move {
                site.call(Method::PUT, &target, Some(alice), json!({}))
                    .await
            }
        });
        for (status, answer) in futures_util::future::join_all(set).await {
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
        let (_, all) = site
            .call(Method::GET, &root, Some(&alice), Value::Null)
            .await;
        assert_eq!(all["tags"].as_object().unwrap().len(), 20);
    })
    .await;
}

/// What is wrong in itself, by method and the end of the path.
fn wrong() -> Vec<(Method, String, Value, u16, &'static str)> {
    let (get, put) = (Method::GET, Method::PUT);
    let long = "x".repeat(256);
    let room = "/rooms/!r:example.org";
    let order = json!({ "order": "1" });
    let refused = "M_INVALID_PARAM";
    [
        (
            &get,
            "/account_data/none".to_owned(),
            Value::Null,
            404,
            "M_NOT_FOUND",
        ),
        (
            &get,
            format!("{room}/account_data/none"),
            Value::Null,
            404,
            "M_NOT_FOUND",
        ),
        (
            &put,
            "/account_data/m.push_rules".to_owned(),
            json!({}),
            405,
            "M_BAD_JSON",
        ),
        (
            &put,
            format!("{room}/account_data/m.fully_read"),
            json!({}),
            405,
            "M_BAD_JSON",
        ),
        (
            &put,
            "/account_data/a".to_owned(),
            json!([]),
            400,
            "M_BAD_JSON",
        ),
        (
            &put,
            format!("{room}/account_data/a"),
            json!(5),
            400,
            "M_BAD_JSON",
        ),
        (
            &put,
            "/rooms/nowhere/account_data/a".to_owned(),
            json!({}),
            400,
            refused,
        ),
        (&put, format!("{room}/tags/a"), order, 400, refused),
        (&put, format!("{room}/tags/a"), json!([]), 400, "M_BAD_JSON"),
        (
            &put,
            format!("/account_data/{long}"),
            json!({}),
            400,
            refused,
        ),
        (&put, format!("{room}/tags/{long}"), json!({}), 400, refused),
    ]
    .map(|(method, end, body, status, code)| (method.clone(), end, body, status, code))
    .into()
}

#[tokio::test]
async fn settings_of_wrong_types_and_in_wrong_forms_are_refused() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        for (method, end, body, status, code) in wrong() {
            let target = format!("{ROOT}{end}");
            let call = site.call(method.clone(), &target, Some(&alice), body.clone());
            let (found, answer) = call.await;
            let found = (found.as_u16(), &answer["errcode"]);
            assert_eq!(found, (status, &json!(code)), "{method} {end}");
            let (found, answer) = site.call(method.clone(), &target, None, body).await;
            let missing = (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN"));
            assert_eq!((found, &answer["errcode"]), missing, "{method} {end}");
        }
        assert_eq!(settings(&sync(&site, &alice, None).await), []);
    })
    .await;
}

#[tokio::test]
async fn settings_are_nobody_elses_business() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        for (method, end) in [
            (Method::GET, "/account_data/a"),
            (Method::PUT, "/account_data/a"),
            (Method::GET, "/rooms/!r:example.org/account_data/a"),
            (Method::PUT, "/rooms/!r:example.org/account_data/a"),
            (Method::GET, "/rooms/!r:example.org/tags"),
            (Method::PUT, "/rooms/!r:example.org/tags/a"),
            (Method::DELETE, "/rooms/!r:example.org/tags/a"),
        ] {
            let target = format!("{ROOT}{end}");
            let call = site.call(method.clone(), &target, Some(&bob), json!({}));
            let (found, answer) = call.await;
            let forbidden = (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN"));
            assert_eq!((found, &answer["errcode"]), forbidden, "{method} {end}");
        }
        assert_eq!(settings(&sync(&site, &alice, None).await), []);
    })
    .await;
}
