//! Client-server API, "Guest access".

use http::{Method, StatusCode};
use myelin_api::{Access, routes};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, errors::example};

const REGISTER: &str = "/_matrix/client/v3/register";
const WHO_AM_I: &str = "/_matrix/client/v3/account/whoami";

/// `example.org`, open to guests.
async fn inn(fresh: &Fresh) -> Site {
    Site::start_with(fresh, |_, users| users.guests = true).await
}

/// A new guest as the server answers it.
async fn guest(site: &Site, wish: Value) -> Value {
    let target = format!("{REGISTER}?kind=guest");
    let (status, guest) = site.call(Method::POST, &target, None, wish).await;
    assert_eq!(status, StatusCode::OK, "{guest}");
    guest
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn guests_are_let_in_where_the_operator_wants_them() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let wish = json!({
            "username": "queen", "password": "secret", "device_id": "CROWN", "refresh_token": true,
            "inhibit_login": true, "initial_device_display_name": "phone",
        });
        let login = guest(&site, wish).await;
        assert_ne!(login["user_id"], "@queen:example.org");
        assert_ne!(login["device_id"], "CROWN");
        assert_eq!(login.get("refresh_token"), None);
        let token = text(&login["access_token"]);
        let get = async |target: &str| {
            site.call(Method::GET, target, Some(token), Value::Null)
                .await
        };
        let me = json!({
            "user_id": login["user_id"], "device_id": login["device_id"], "is_guest": true,
        });
        assert_eq!(get(WHO_AM_I).await, (StatusCode::OK, me));
        let (_, devices) = get("/_matrix/client/v3/devices").await;
        assert_eq!(devices["devices"][0]["display_name"], "phone");
        let other = guest(&site, Value::Null).await;
        assert_ne!(login["user_id"], other["user_id"]);

        let user = site.token("alice").await;
        let (_, me) = site
            .call(Method::GET, WHO_AM_I, Some(&user), Value::Null)
            .await;
        assert_eq!(me["is_guest"], false);
    })
    .await;
}

#[tokio::test]
async fn guests_are_not_let_in_elsewhere() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    for (kind, status, errcode) in [
        ("guest", StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN"),
        ("ghost", StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
    ] {
        let target = format!("{REGISTER}?kind={kind}");
        let answer = site.call(Method::POST, &target, None, json!({})).await;
        assert_eq!((answer.0, &answer.1["errcode"]), (status, &json!(errcode)));
    }
}

/// What the specification lets guests do, as far as this server does it; and joins by an alias, which say more
/// of where the room is.
const FOR_GUESTS: [&str; 25] = [
    "DELETE /_matrix/client/v3/profile/{user_id}/{key_name}",
    "GET /_matrix/client/v3/account/whoami",
    "GET /_matrix/client/v3/devices",
    "GET /_matrix/client/v3/devices/{device_id}",
    "GET /_matrix/client/v3/rooms/{room_id}/context/{event_id}",
    "GET /_matrix/client/v3/rooms/{room_id}/event/{event_id}",
    "GET /_matrix/client/v3/rooms/{room_id}/members",
    "GET /_matrix/client/v3/rooms/{room_id}/messages",
    "GET /_matrix/client/v3/rooms/{room_id}/state",
    "GET /_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    "GET /_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
    "GET /_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
    "GET /_matrix/client/v3/sync",
    "POST /_matrix/client/v3/join/{room_id_or_alias}",
    "POST /_matrix/client/v3/keys/query",
    "POST /_matrix/client/v3/keys/upload",
    "POST /_matrix/client/v3/rooms/{room_id}/join",
    "POST /_matrix/client/v3/rooms/{room_id}/leave",
    "PUT /_matrix/client/v3/devices/{device_id}",
    "PUT /_matrix/client/v3/profile/{user_id}/{key_name}",
    "PUT /_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
    "PUT /_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    "PUT /_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
    "PUT /_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
    "PUT /_matrix/client/v3/sendToDevice/{event_type}/{txn_id}",
];

#[tokio::test]
async fn guests_may_do_what_the_specification_lists_and_nothing_else() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let login = guest(&site, Value::Null).await;
        let token = Some(text(&login["access_token"]));
        let mut allowed = Vec::new();
        for route in routes() {
            let target = example(route.path);
            let asks = matches!(route.access, Access::Guest | Access::User | Access::Admin);
            if !asks {
                continue;
            }
            let answer = site.call(route.method.clone(), &target, token, json!({}));
            let (status, answer) = answer.await;
            if answer["errcode"] == "M_GUEST_ACCESS_FORBIDDEN" {
                assert_eq!(status, StatusCode::FORBIDDEN, "{target}");
            } else {
                allowed.push(format!("{} {}", route.method, route.path));
            }
        }
        allowed.sort();
        assert_eq!(allowed, FOR_GUESTS);
    })
    .await;
}

#[tokio::test]
async fn guests_change_nothing_of_their_profiles_but_the_name() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let login = guest(&site, Value::Null).await;
        let token = Some(text(&login["access_token"]));
        let profile = format!("/_matrix/client/v3/profile/{}", text(&login["user_id"]));
        for method in [Method::PUT, Method::DELETE] {
            for (field, status) in [
                ("displayname", StatusCode::OK),
                ("avatar_url", StatusCode::FORBIDDEN),
                ("m.tz", StatusCode::FORBIDDEN),
            ] {
                let (target, body) = (format!("{profile}/{field}"), json!({ field: "mxc://a/b" }));
                let answer = site.call(method.clone(), &target, token, body).await;
                assert_eq!(answer.0, status, "{method} {target}");
                if status == StatusCode::FORBIDDEN {
                    assert_eq!(answer.1["errcode"], "M_GUEST_ACCESS_FORBIDDEN");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_guest_registers_and_keeps_the_name() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let (login, other) = (
            guest(&site, Value::Null).await,
            guest(&site, Value::Null).await,
        );
        let user = site.token("alice").await;
        let name = |login: &Value| {
            let name = text(&login["user_id"]).strip_prefix('@').unwrap();
            name.split(':').next().unwrap().to_owned()
        };
        let register = async |username: Option<&str>, token: &Value| {
            let body = json!({
                "username": username, "password": "secret", "guest_access_token": token,
                "auth": { "type": "m.login.dummy" },
            });
            site.call(Method::POST, REGISTER, None, body).await
        };
        let (name, others) = (name(&login), name(&other));
        let token = &login["access_token"];
        for (username, token, status, errcode) in [
            (None, token, 400, "M_MISSING_PARAM"),
            (Some(&*name), &Value::Null, 400, "M_USER_IN_USE"),
            (Some(&*name), &json!("x"), 403, "M_FORBIDDEN"),
            (Some(&*others), token, 403, "M_FORBIDDEN"),
            (Some("somebody"), token, 403, "M_FORBIDDEN"),
            (Some("alice"), &json!(user), 403, "M_FORBIDDEN"),
        ] {
            let (found, answer) = register(username, token).await;
            let found = (found.as_u16(), &answer["errcode"]);
            assert_eq!(found, (status, &json!(errcode)), "{username:?}");
        }
        let (status, registered) = register(Some(&name), token).await;
        assert_eq!(status, StatusCode::OK, "{registered}");
        assert_eq!(registered["user_id"], login["user_id"]);
        let who = async |token: &Value| {
            site.call(Method::GET, WHO_AM_I, token.as_str(), Value::Null)
                .await
        };
        assert_eq!(who(&registered["access_token"]).await.1["is_guest"], false);
        assert_eq!(who(token).await.1["errcode"], "M_UNKNOWN_TOKEN");
        assert_eq!(
            register(Some(&name), token).await.1["errcode"],
            "M_FORBIDDEN"
        );
        let login = json!({ "type": "m.login.password", "user": name, "password": "secret" });
        let logged_in = site.call(Method::POST, "/_matrix/client/v3/login", None, login);
        assert_eq!(logged_in.await.0, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn administrators_see_who_is_a_guest() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let root = site.admin("root").await;
        let login = guest(&site, Value::Null).await;
        let guest = text(&login["user_id"]);
        let get = async |end: &str| {
            let target = format!("/_synapse/admin/{end}");
            site.call(Method::GET, &target, Some(&root), Value::Null)
                .await
                .1
        };
        assert_eq!(get(&format!("v2/users/{guest}")).await["is_guest"], true);
        for (end, expected) in [
            (
                "v2/users?order_by=is_guest",
                vec!["@root:example.org", guest],
            ),
            (
                "v3/users?order_by=is_guest&dir=b",
                vec![guest, "@root:example.org"],
            ),
            (
                "v2/users?order_by=is_guest&guests=true",
                vec!["@root:example.org", guest],
            ),
            ("v2/users?guests=false", vec!["@root:example.org"]),
            ("v3/users?guests=false", vec!["@root:example.org"]),
        ] {
            let list = get(end).await;
            assert_eq!(list["total"], expected.len(), "{end}");
            let users = list["users"].as_array().unwrap();
            let names: Vec<_> = users.iter().map(|user| text(&user["name"])).collect();
            assert_eq!(names, expected, "{end}");
            let is_guest = |user: &Value| user["is_guest"] == (user["name"] == guest);
            assert!(users.iter().all(is_guest), "{end}: {list}");
        }
    })
    .await;
}

#[tokio::test]
async fn guests_do_not_take_the_place_of_the_first_account() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let token = site.users.first_account_token().await.unwrap();
        assert!(token.is_some());
        guest(&site, Value::Null).await;
        assert_eq!(site.users.first_account_token().await.unwrap(), token);
        site.token("alice").await;
        assert_eq!(site.users.first_account_token().await.unwrap(), None);
    })
    .await;
}
