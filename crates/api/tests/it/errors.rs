use std::time::Duration;

use axum::{body::Body, extract::Request};
use http::{Method, StatusCode, header};
use myelin_api::{Access, routes};
use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{ACCESS_TOKEN_LIFETIME_MS, NewDevice};
use ruma::user_id;
use serde_json::{Value, json};

use crate::{Site, read};

/// A path with its parameters filled in, and a query, with values of the right form.
pub(crate) fn example(path: &str) -> String {
    let query = "?event_id=$event&user_id=@alice:example.org&room_alias=%23a:example.org&v=$event&limit=1&dir=b&ts=1";
    filled_in(path) + query
}

/// Fills a path's parameters in with values of the right form.
pub(crate) fn filled_in(path: &str) -> String {
    let values = [
        ("{user_id}", "@alice:example.org"),
        ("{room_id}", "!room:example.org"),
        ("{room_id_or_alias}", "!room:example.org"),
        ("{room_alias}", "%23alias:example.org"),
        ("{event_id}", "$event"),
        ("{event_type}", "m.room.message"),
        ("{rel_type}", "m.thread"),
        ("{state_key}", "key"),
        ("{key_name}", "displayname"),
        ("{filter_id}", "0"),
        ("{txn_id}", "1"),
        ("{receipt_type}", "m.read"),
        ("{device_id}", "PHONE"),
        ("{protocol}", "irc"),
        ("{type}", "org.example.kettle"),
        ("{tag}", "m.favourite"),
        ("{token}", "abcd"),
        ("{report_id}", "1"),
        ("{delete_id}", "d"),
        ("{purge_id}", "p"),
        ("{server}", "other.example"),
        ("{server_name}", "127.0.0.1:1"),
        ("{kind}", "content"),
        ("{rule_id}", "kettle"),
    ];
    let path = values.iter().fold(path.to_owned(), |path, (name, value)| {
        path.replace(name, value)
    });
    assert!(!path.contains('{'), "no example for {path}");
    path
}

#[tokio::test]
async fn nobody_passes_without_credentials() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let ended = ended_session(&site).await;
        for route in routes() {
            let paths = [
                Some(example(route.path)),
                route.legacy_path().map(|path| example(&path)),
            ];
            for path in paths.into_iter().flatten() {
                let cases = match route.access {
                    Access::Public => vec![],
                    Access::Guest | Access::User | Access::Admin => {
                        vec![
                            (None, "M_MISSING_TOKEN", None),
                            (Some("x"), "M_UNKNOWN_TOKEN", Some(false)),
                            (Some(&*ended), "M_UNKNOWN_TOKEN", Some(true)),
                        ]
                    }
                    Access::Server => vec![
                        (None, "M_UNAUTHORIZED", None),
                        (Some("x"), "M_UNAUTHORIZED", None),
                    ],
                };
                for (token, errcode, soft) in cases {
                    let answer = site
                        .call(route.method.clone(), &path, token, Value::Null)
                        .await;
                    let (status, body) = answer;
                    assert_eq!(
                        status,
                        StatusCode::UNAUTHORIZED,
                        "{} {path} {body}",
                        route.method
                    );
                    assert_eq!(body["errcode"], errcode, "{} {path}", route.method);
                    assert_eq!(body["soft_logout"], json!(soft), "{} {path}", route.method);
                    assert!(body["error"].is_string(), "{} {path}", route.method);
                }
            }
        }
    })
    .await;
}

/// The token of a session that can be renewed, and has to be.
async fn ended_session(site: &Site) -> String {
    site.token("alice").await;
    let device = NewDevice {
        renewable: true,
        ..NewDevice::default()
    };
    let alice = user_id!("@alice:example.org").to_owned();
    let session = site.users.start_session(alice, device).await.unwrap();
    let lifetime = Duration::from_millis(ACCESS_TOKEN_LIFETIME_MS + 1);
    site.fresh.env.clock.advance(lifetime);
    session.access_token
}

#[tokio::test]
async fn every_path_has_its_methods_only() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let all = ["GET", "PUT", "POST", "DELETE", "PATCH"].map(|name| name.parse::<Method>().unwrap());
    for route in routes() {
        for method in &all {
            let is_there = routes()
                .iter()
                .any(|other| other.path == route.path && other.method == method);
            if is_there {
                continue;
            }
            let path = filled_in(route.path);
            let (status, body) = site.call(method.clone(), &path, None, Value::Null).await;
            let found = (status, &body["errcode"]);
            let expected = (StatusCode::METHOD_NOT_ALLOWED, &json!("M_UNRECOGNIZED"));
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_unrecognized() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let cases = [
            (Method::GET, "/_matrix/client/v3/nothing", 404),
            (Method::POST, "/_matrix/federation/v1/nothing", 404),
            (Method::GET, "/_matrix/key/v3/server", 404),
            (Method::GET, "/_matrix", 404),
            (Method::GET, "/nothing", 404),
            (Method::DELETE, "/_matrix/client/versions", 405),
            (Method::POST, "/_matrix/client/v3/sync", 405),
            (Method::GET, "/_matrix/federation/v1/send/1", 405),
            (Method::PATCH, "/_matrix/key/v2/server", 405),
        ];
        for (method, path, status) in cases {
            let (answered, body) = site.call(method, path, None, Value::Null).await;
            assert_eq!(answered.as_u16(), status, "{path}");
            assert_eq!(body["errcode"], "M_UNRECOGNIZED", "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_no_json_differs_from_json_of_another_form() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let cases: [(&[u8], &str); 7] = [
            (b"", "M_NOT_JSON"),
            (b"{", "M_NOT_JSON"),
            (b"{\"type\": 5", "M_NOT_JSON"),
            (b"{\"type\": \"\xff\"}", "M_NOT_JSON"),
            (b"[]", "M_BAD_JSON"),
            (b"{}", "M_BAD_JSON"),
            (b"{\"type\": 5}", "M_BAD_JSON"),
        ];
        for (body, errcode) in cases {
            let request = Request::post("/_matrix/client/v3/login").body(Body::from(body));
            let (status, answer) = read(site.send(request.unwrap()).await).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert_eq!(
                answer["errcode"],
                errcode,
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let body = format!("\"{}\"", "x".repeat(5 * 1024 * 1024));
    let request = Request::post("/_matrix/client/v3/login").body(Body::from(body));
    let (status, answer) = read(site.send(request.unwrap()).await).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer["errcode"], "M_TOO_LARGE");
}

#[tokio::test]
async fn what_no_name_of_anything_could_be_is_invalid_in_every_path() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let tokens = [site.token("alice").await, site.admin("root").await];
    for name in [
        "{room_id}",
        "{room_id_or_alias}",
        "{room_alias}",
        "{user_id}",
        "{event_id}",
    ] {
        for route in routes() {
            let token = match route.access {
                Access::Guest | Access::User => &tokens[0],
                Access::Admin => &tokens[1],
                Access::Public | Access::Server => continue,
            };
            if !route.path.contains(name) {
                continue;
            }
            let target = example(&route.path.replace(name, "no"));
            let answer = site
                .call(route.method, &target, Some(token), json!({}))
                .await;
            let found = (answer.0, &answer.1["errcode"]);
            let expected = (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM"));
            assert_eq!(found, expected, "{target}");
        }
    }
}

#[tokio::test]
async fn parameters_of_a_wrong_form_are_invalid() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let token = site.token("alice").await;
    for target in [
        "/_matrix/client/v3/rooms/room/state",
        "/_matrix/client/v3/join/room",
        "/_matrix/client/v3/join/!room:example.org?via=%20",
        "/_matrix/client/v3/rooms/!room:example.org/messages?dir=x",
        "/_matrix/client/v3/rooms/!room:example.org/messages",
        "/_matrix/client/v1/rooms/!room:example.org/timestamp_to_event?dir=f",
        "/_matrix/client/v1/rooms/!room:example.org/timestamp_to_event?ts=1",
        "/_matrix/client/v1/rooms/!room:example.org/timestamp_to_event?ts=1&dir=x",
        "/_matrix/client/v1/rooms/!room:example.org/timestamp_to_event?ts=x&dir=f",
        "/_matrix/client/v3/sync?timeout=x",
        "/_matrix/client/v3/sync?since=x",
        "/_matrix/client/v3/notifications?from=x",
        "/_matrix/client/v3/notifications?limit=x",
        "/_matrix/client/v3/profile/alice",
        "/_matrix/client/v3/register/available",
    ] {
        let method = if target.contains("/join/") {
            Method::POST
        } else {
            Method::GET
        };
        let (status, answer) = site.call(method, target, Some(&token), Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{target}");
        assert_eq!(answer["errcode"], "M_INVALID_PARAM", "{target}");
    }
}

#[tokio::test]
async fn browsers_may_ask_from_any_page() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let preflight = Request::options("/_matrix/client/v3/login")
        .header(header::ORIGIN, "https://app.example")
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .body(Body::empty());
    let answer = site.send(preflight.unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let allowed = |name| answer.headers()[name].to_str().unwrap().to_lowercase();
    assert_eq!(allowed(header::ACCESS_CONTROL_ALLOW_ORIGIN), "*");
    for method in ["get", "head", "post", "put", "delete", "options"] {
        assert!(
            allowed(header::ACCESS_CONTROL_ALLOW_METHODS).contains(method),
            "{method}"
        );
    }
    for name in ["x-requested-with", "content-type", "authorization"] {
        assert!(
            allowed(header::ACCESS_CONTROL_ALLOW_HEADERS).contains(name),
            "{name}"
        );
    }
    for path in [
        "/_matrix/client/versions",
        "/_matrix/client/v3/sync",
        "/_matrix/client/v3/nothing",
    ] {
        let request = Request::get(path).header(header::ORIGIN, "https://app.example");
        let answer = site.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(
            answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN],
            "*",
            "{path}"
        );
    }
}
