//! Client-server API, "Guest access".

use http::{Method, StatusCode};
use myelin_api::{Access, routes};
use myelin_core::number::{RoomNr, StreamPosition};
use myelin_storage::{
    guest_departures,
    testing::{Fresh, on_each_engine},
};
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

#[tokio::test]
async fn guests_join_rooms_that_let_them_in_and_are_known_for_guests_there() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let alice = site.token("alice").await;
        let login = guest(&site, Value::Null).await;
        let (token, user) = (text(&login["access_token"]), text(&login["user_id"]));
        let call = async |token: &str, method: Method, path: &str, body: Value| {
            let target = format!("/_matrix/client/v3/{path}");
            site.call(method, &target, Some(token), body).await
        };
        let create = call(
            &alice,
            Method::POST,
            "createRoom",
            json!({ "preset": "public_chat" }),
        );
        let (_, room) = create.await;
        let room = text(&room["room_id"]);
        let member = format!("rooms/{room}/state/m.room.member/{user}");
        let own_join = json!({ "membership": "join" });
        for (method, path, body) in [
            (Method::POST, format!("rooms/{room}/join"), json!({})),
            (Method::POST, format!("join/{room}"), json!({})),
            (Method::PUT, member.clone(), own_join.clone()),
        ] {
            let (status, answer) = call(token, method, &path, body).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
            assert_eq!(answer["errcode"], "M_GUEST_ACCESS_FORBIDDEN", "{path}");
        }
        let access = format!("rooms/{room}/state/m.room.guest_access");
        let set = async |access_is: &str| {
            let body = json!({ "guest_access": access_is });
            let (status, answer) = call(&alice, Method::PUT, &access, body).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        };
        set("can_join").await;
        let content = async || call(&alice, Method::GET, &member, Value::Null).await.1;
        for (method, path, body) in [
            (Method::POST, format!("rooms/{room}/join"), json!({})),
            (Method::PUT, member.clone(), own_join),
        ] {
            let (status, answer) = call(token, method.clone(), &path, body).await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            assert_eq!(content().await["kind"], "guest", "{path}");
            let said = format!("rooms/{room}/send/m.room.message/{method}");
            let message = json!({ "msgtype": "m.text", "body": "hello" });
            assert_eq!(
                call(token, Method::PUT, &said, message).await.0,
                StatusCode::OK
            );
            let leave = format!("rooms/{room}/leave");
            let leave = call(token, Method::POST, &leave, json!({}));
            assert_eq!(leave.await.0, StatusCode::OK);
        }
    })
    .await;
}

/// Waits until the answer to a question is yes.
async fn until(site: &Site, mut question: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !question().await {
            tokio::task::yield_now().await;
        }
    };
    let clock = myelin_env::Clock::real();
    let answered = clock
        .timeout(std::time::Duration::from_secs(60), asking)
        .await;
    answered.unwrap_or_else(|_| panic!("{:?}", site.fresh.env.tasks.running()));
}

#[tokio::test]
async fn who_is_no_guest_any_more_stays_when_the_room_is_closed_to_guests() {
    on_each_engine(async |fresh: Fresh| {
        let site = inn(&fresh).await;
        let alice = site.token("alice").await;
        let (login, other) = (
            guest(&site, Value::Null).await,
            guest(&site, Value::Null).await,
        );
        let call = async |token: Option<&str>, method: Method, path: &str, body: Value| {
            let target = format!("/_matrix/client/v3/{path}");
            let (status, answer) = site.call(method, &target, token, body).await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            answer
        };
        let wish = json!({ "initial_state": [
            { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
        ], "preset": "public_chat" });
        let room = call(Some(&alice), Method::POST, "createRoom", wish).await;
        let room = text(&room["room_id"]);
        for guest in [&login, &other] {
            let token = guest["access_token"].as_str();
            call(
                token,
                Method::POST,
                &format!("rooms/{room}/join"),
                json!({}),
            )
            .await;
        }
        let user = text(&login["user_id"]);
        let username = user.strip_prefix('@').unwrap().split(':').next().unwrap();
        let body = json!({
            "username": username, "password": "secret", "guest_access_token": login["access_token"],
            "auth": { "type": "m.login.dummy" },
        });
        call(None, Method::POST, "register", body).await;
        let membership = async |login: &Value| {
            let member = format!(
                "rooms/{room}/state/m.room.member/{}",
                text(&login["user_id"])
            );
            call(Some(&alice), Method::GET, &member, Value::Null).await
        };
        until(&site, async || {
            membership(&login).await == json!({ "membership": "join" })
        })
        .await;
        let access = format!("rooms/{room}/state/m.room.guest_access");
        call(
            Some(&alice),
            Method::PUT,
            &access,
            json!({ "guest_access": "forbidden" }),
        )
        .await;
        until(&site, async || {
            let all = (RoomNr(0), StreamPosition(i64::MAX));
            let notes = site.fresh.database.look_up("notes", move |tx| {
                Box::pin(guest_departures::open(tx, all.0, all.1, 1))
            });
            notes.await.unwrap().is_empty()
        })
        .await;
        assert_eq!(membership(&other).await["membership"], "leave");
        assert_eq!(membership(&login).await["membership"], "join");
    })
    .await;
}
