//! Devices, passwords and the end of an account: what a user has to show its password for.

use std::time::Duration;

use axum::{body::Body, extract::Request};
use http::{Method, StatusCode, header};
use myelin_api::Peer;
use myelin_storage::{
    Priority, StorageError, account_data, accounts,
    testing::{Fresh, on_each_engine},
};
use ruma::{OwnedUserId, user_id};
use serde_json::{Value, json};

use crate::{Site, read};

const DEVICES: &str = "/_matrix/client/v3/devices";
const DELETE_DEVICES: &str = "/_matrix/client/v3/delete_devices";
const PASSWORD: &str = "/_matrix/client/v3/account/password";
const DEACTIVATE: &str = "/_matrix/client/v3/account/deactivate";
const WHO_AM_I: &str = "/_matrix/client/v3/account/whoami";

/// What shows a password.
fn shown(user: &str, password: &str, session: &Value) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
        "session": session,
    })
}

impl Site {
    /// Logs in with a password; answers status and body.
    async fn log_in(&self, user: &str, password: &str) -> (StatusCode, Value) {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
        });
        let login = "/_matrix/client/v3/login";
        self.call(Method::POST, login, None, body).await
    }

    /// Another session of a user.
    async fn another_token(&self, user: &str) -> String {
        let (status, answer) = self.log_in(user, "secret").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Sends a request for which something has to be shown, first without that and then with a password.
    async fn confirmed(
        &self,
        (method, target): (Method, &str),
        token: &str,
        mut body: Value,
        (user, password): (&str, &str),
    ) -> (StatusCode, Value) {
        let asked = self.call(method.clone(), target, Some(token), body.clone());
        let (status, asked) = asked.await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{asked}");
        assert_eq!(asked["flows"], json!([{ "stages": ["m.login.password"] }]));
        assert!(asked.get("errcode").is_none(), "{asked}");
        body["auth"] = shown(user, password, &asked["session"]);
        self.call(method, target, Some(token), body).await
    }

    async fn is_logged_in(&self, token: &str) -> bool {
        let (status, _) = self
            .call(Method::GET, WHO_AM_I, Some(token), Value::Null)
            .await;
        status == StatusCode::OK
    }
}

fn is_error(status: StatusCode, code: &str, (got, answer): (StatusCode, Value)) {
    assert_eq!(
        (got, &answer["errcode"]),
        (status, &json!(code)),
        "{answer}"
    );
}

#[tokio::test]
async fn a_user_sees_and_names_its_own_devices_only() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let laptop = site.another_token("alice").await;
        site.token("bob").await;
        let (status, list) = site
            .call(Method::GET, DEVICES, Some(&token), Value::Null)
            .await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(list["devices"].as_array().unwrap().len(), 2, "{list}");
        let phone = format!("{DEVICES}/PHONE");
        let name = json!({ "display_name": "My phone" });
        let (status, answer) = site
            .call(Method::PUT, &phone, Some(&laptop), name.clone())
            .await;
        assert_eq!((status, answer), (StatusCode::OK, json!({})));
        // Without a name nothing changes.
        let (status, _) = site
            .call(Method::PUT, &phone, Some(&token), json!({}))
            .await;
        assert_eq!(status, StatusCode::OK);
        let get = |target: String, token: String| {
            let site = &site;
            async move {
                site.call(Method::GET, &target, Some(&token), Value::Null)
                    .await
            }
        };
        let (_, device) = get(phone.clone(), token.clone()).await;
        assert_eq!(device["display_name"], "My phone");
        let seen = device["last_seen_ts"].as_u64();
        assert!(
            seen.is_none_or(|seen| seen == fresh.env.clock.now_ms()),
            "{device}"
        );
        let bob = site.another_token("bob").await;
        let (_, of_bob) = get(phone.clone(), bob).await;
        assert_eq!(of_bob.get("display_name"), None, "it is another PHONE");
        let nothing = format!("{DEVICES}/NOTHING");
        is_error(
            StatusCode::NOT_FOUND,
            "M_NOT_FOUND",
            get(nothing.clone(), token.clone()).await,
        );
        let renamed = site.call(Method::PUT, &nothing, Some(&token), name).await;
        is_error(StatusCode::NOT_FOUND, "M_NOT_FOUND", renamed);
        for (name, code) in [
            (json!({ "display_name": 5 }), "M_BAD_JSON"),
            (
                json!({ "display_name": "x".repeat(256) }),
                "M_INVALID_PARAM",
            ),
        ] {
            let renamed = site.call(Method::PUT, &phone, Some(&token), name).await;
            is_error(StatusCode::BAD_REQUEST, code, renamed);
        }
        let nobody = site.call(Method::GET, DEVICES, None, Value::Null).await;
        is_error(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", nobody);
    })
    .await;
}

#[tokio::test]
async fn the_use_of_a_device_is_noted_now_and_then() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let start_ms = fresh.env.clock.now_ms();
        let seen = async || {
            let (_, list) = site
                .call(Method::GET, DEVICES, Some(&token), Value::Null)
                .await;
            list["devices"][0]["last_seen_ts"].as_u64()
        };
        // It is written beside the request; every request looks again.
        while seen().await.is_none() {
            tokio::task::yield_now().await;
        }
        fresh.env.clock.advance(Duration::from_secs(60));
        assert_eq!(seen().await, Some(start_ms));
        fresh.env.clock.advance(Duration::from_secs(240));
        while seen().await == Some(start_ms) {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen().await, Some(start_ms + 300_000));
    })
    .await;
}

#[tokio::test]
async fn a_device_is_shown_with_the_address_and_the_program_that_used_it() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let ask = async |target: &str| {
            let request = Request::get(target)
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .header(header::USER_AGENT, "Kettle/1.0")
                .extension(Peer([192, 0, 2, 7].into()));
            read(site.send(request.body(Body::empty()).unwrap()).await)
                .await
                .1
        };
        // It is written beside the request; every request looks again.
        let device = loop {
            let device = ask(DEVICES).await["devices"][0].clone();
            if device["last_seen_ts"].is_u64() {
                break device;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(device["last_seen_ip"], "192.0.2.7");
        let who = ask("/_matrix/client/v3/admin/whois/@alice:example.org").await;
        let connection = &who["devices"]["PHONE"]["sessions"][0]["connections"][0];
        let expected = json!({
            "ip": "192.0.2.7", "last_seen": device["last_seen_ts"], "user_agent": "Kettle/1.0",
        });
        assert_eq!(*connection, expected);
    })
    .await;
}

#[tokio::test]
async fn a_device_is_removed_with_its_session_by_whoever_knows_the_password() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let laptop = site.another_token("alice").await;
        let bob = site.token("bob").await;
        let remove = (Method::DELETE, &*format!("{DEVICES}/PHONE"));
        for (user, password) in [("alice", "wrong"), ("bob", "secret"), ("nobody", "secret")] {
            let refused = site.confirmed(remove.clone(), &laptop, json!({}), (user, password));
            let (status, refused) = refused.await;
            assert_eq!(
                (status, &refused["errcode"]),
                (StatusCode::UNAUTHORIZED, &json!("M_FORBIDDEN"))
            );
            assert_eq!(refused["completed"], json!([]), "{refused}");
        }
        assert!(site.is_logged_in(&token).await);
        let removed = site.confirmed(remove.clone(), &laptop, json!({}), ("alice", "secret"));
        assert_eq!(removed.await, (StatusCode::OK, json!({})));
        assert!(!site.is_logged_in(&token).await);
        assert!(site.is_logged_in(&bob).await, "the PHONE of somebody else");
        let again = site.confirmed(remove, &laptop, json!({}), ("alice", "secret"));
        assert_eq!(again.await, (StatusCode::OK, json!({})), "removed before");
        let third = site.another_token("alice").await;
        let (_, me) = site
            .call(Method::GET, WHO_AM_I, Some(&third), Value::Null)
            .await;
        let wish = json!({ "devices": [me["device_id"], "NOTHING"] });
        let several = (Method::POST, DELETE_DEVICES);
        let removed = site.confirmed(several, &laptop, wish, ("@alice:example.org", "secret"));
        assert_eq!(removed.await, (StatusCode::OK, json!({})));
        assert!(!site.is_logged_in(&third).await);
        for (wish, code) in [
            (json!({}), "M_BAD_JSON"),
            (json!({ "devices": "PHONE" }), "M_BAD_JSON"),
            (json!({ "devices": vec!["X"; 1001] }), "M_INVALID_PARAM"),
        ] {
            let refused = site
                .call(Method::POST, DELETE_DEVICES, Some(&laptop), wish)
                .await;
            is_error(StatusCode::BAD_REQUEST, code, refused);
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_shown_for_one_thing_is_good_for_that_once() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let token = site.token("alice").await;
    let devices = |ids: Value, auth: Value| {
        let body = json!({ "devices": ids, "auth": auth });
        site.call(Method::POST, DELETE_DEVICES, Some(&token), body)
    };
    let (_, asked) = devices(json!(["A"]), Value::Null).await;
    let auth = shown("alice", "secret", &asked["session"]);
    assert_eq!(devices(json!(["A"]), auth).await.0, StatusCode::OK);
    let only_session = json!({ "session": asked["session"] });
    let (status, again) = devices(json!(["A"]), only_session).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_ne!(again["session"], asked["session"], "it is used up");
    // Shown for one list of devices, in a session that was begun for another.
    let auth = shown("alice", "wrong", &again["session"]);
    devices(json!(["A"]), auth).await;
    let (status, other) = devices(json!(["B"]), json!({ "session": again["session"] })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_ne!(other["session"], again["session"]);
    for (auth, code) in [
        (
            json!({ "type": "m.login.password", "password": "secret" }),
            "M_MISSING_PARAM",
        ),
        (
            json!({ "type": "m.login.password", "user": "alice" }),
            "M_MISSING_PARAM",
        ),
        (
            json!({ "type": "m.login.password", "identifier": { "type": "m.id.phone" } }),
            "M_UNKNOWN",
        ),
        (json!({ "type": 5 }), "M_BAD_JSON"),
    ] {
        is_error(
            StatusCode::BAD_REQUEST,
            code,
            devices(json!(["A"]), auth).await,
        );
    }
    let dummy = json!({ "type": "m.login.dummy" });
    let (status, answer) = devices(json!(["A"]), dummy).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_unless_they_shall_stay() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let phone = site.token("alice").await;
        let laptop = site.another_token("alice").await;
        let change = (Method::POST, PASSWORD);
        for (wish, code) in [
            (json!({}), "M_MISSING_PARAM"),
            (json!({ "new_password": "" }), "M_INVALID_PARAM"),
            (json!({ "new_password": 5 }), "M_BAD_JSON"),
        ] {
            let refused = site.call(Method::POST, PASSWORD, Some(&phone), wish).await;
            is_error(StatusCode::BAD_REQUEST, code, refused);
        }
        let wish = json!({ "new_password": "new", "logout_devices": false });
        let changed = site.confirmed(change.clone(), &phone, wish, ("alice", "secret"));
        assert_eq!(changed.await, (StatusCode::OK, json!({})));
        is_error(
            StatusCode::FORBIDDEN,
            "M_FORBIDDEN",
            site.log_in("alice", "secret").await,
        );
        assert_eq!(site.log_in("alice", "new").await.0, StatusCode::OK);
        assert!(site.is_logged_in(&laptop).await);
        let wish = json!({ "new_password": "newer" });
        let refused = site.confirmed(change.clone(), &phone, wish.clone(), ("alice", "secret"));
        assert_eq!(refused.await.0, StatusCode::UNAUTHORIZED, "the old one");
        let changed = site.confirmed(change, &phone, wish, ("alice", "new"));
        assert_eq!(changed.await, (StatusCode::OK, json!({})));
        assert!(site.is_logged_in(&phone).await && !site.is_logged_in(&laptop).await);
    })
    .await;
}

/// Alice's room, in which bob is.
async fn room_of(site: &Site, alice: &str, bob: &str) -> String {
    let wish = json!({ "preset": "public_chat" });
    let create = "/_matrix/client/v3/createRoom";
    let (_, room) = site.call(Method::POST, create, Some(alice), wish).await;
    let room = room["room_id"].as_str().unwrap().to_owned();
    let join = format!("/_matrix/client/v3/join/{room}");
    let (status, joined) = site.call(Method::POST, &join, Some(bob), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{joined}");
    room
}

/// Waits until a user is shown that alice left a room.
async fn until_left(site: &Site, viewer: &str, room: &str) {
    let mut since = String::new();
    loop {
        let target = format!("/_matrix/client/v3/sync?timeout=30000{since}");
        let (_, answer) = site
            .call(Method::GET, &target, Some(viewer), Value::Null)
            .await;
        let events = &answer["rooms"]["join"][room]["timeline"]["events"];
        let left = |event: &Value| {
            event["state_key"] == "@alice:example.org" && event["content"]["membership"] == "leave"
        };
        if events
            .as_array()
            .is_some_and(|events| events.iter().any(left))
        {
            return;
        }
        since = format!("&since={}", answer["next_batch"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_closed_account_lets_nobody_in_leaves_its_rooms_and_keeps_its_name() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let bob = site.token("bob").await;
        let room = room_of(&site, &alice, &bob).await;
        let name = "/_matrix/client/v3/profile/@alice:example.org/displayname";
        let named = json!({ "displayname": "Alice" });
        site.call(Method::PUT, name, Some(&alice), named).await;
        let close = (Method::POST, DEACTIVATE);
        let refused = site.confirmed(close.clone(), &alice, json!({}), ("alice", "wrong"));
        assert_eq!(refused.await.0, StatusCode::UNAUTHORIZED);
        let bad = site
            .call(
                Method::POST,
                DEACTIVATE,
                Some(&alice),
                json!({ "erase": 5 }),
            )
            .await;
        is_error(StatusCode::BAD_REQUEST, "M_BAD_JSON", bad);
        let wish = json!({ "erase": true });
        let closed = site
            .confirmed(close, &alice, wish, ("alice", "secret"))
            .await;
        let expected = json!({ "id_server_unbind_result": "success" });
        assert_eq!(closed, (StatusCode::OK, expected));
        until_left(&site, &bob, &room).await;
        assert!(!site.is_logged_in(&alice).await);
        let refused = site.log_in("alice", "secret").await;
        is_error(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", refused);
        let available = "/_matrix/client/v3/register/available?username=alice";
        let taken = site.call(Method::GET, available, None, Value::Null).await;
        is_error(StatusCode::BAD_REQUEST, "M_USER_IN_USE", taken);
        let profile = site.call(Method::GET, name, None, Value::Null).await;
        is_error(StatusCode::NOT_FOUND, "M_NOT_FOUND", profile);
    })
    .await;
}

#[tokio::test]
async fn what_clients_kept_for_a_user_is_erased_if_the_user_wants_that() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        for (user, erase) in [("alice", true), ("bob", false)] {
            let token = site.token(user).await;
            let user_id = format!("@{user}:example.org");
            let target = format!("/_matrix/client/v3/user/{user_id}/account_data/org.example");
            let kept = site.call(Method::PUT, &target, Some(&token), json!({ "a": 1 }));
            assert_eq!(kept.await.0, StatusCode::OK);
            let close = (Method::POST, DEACTIVATE);
            let wish = json!({ "erase": erase });
            let closed = site.confirmed(close, &token, wish, (user, "secret"));
            assert_eq!(closed.await.0, StatusCode::OK);
            let owner = OwnedUserId::try_from(user_id).unwrap();
            let left = fresh.database.read("account data", move |tx| {
                Box::pin(
                    async move { account_data::content(tx, &owner, None, "org.example").await },
                )
            });
            let left: Result<_, StorageError> = left.await;
            let left = String::from_utf8(left.unwrap().unwrap()).unwrap();
            assert_eq!(left == "{}", erase, "{left}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_wants_to_be_forgotten_is_read_by_those_only_who_were_there() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        for erase in [false, true] {
            let name = |user: &str| format!("{user}{erase}");
            let alice = site.token(&name("alice")).await;
            let bob = site.token(&name("bob")).await;
            let carol = site.token(&name("carol")).await;
            let room = room_of(&site, &alice, &bob).await;
            let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
            let message = json!({ "msgtype": "m.text", "body": "Mine alone" });
            let sent = site.call(Method::PUT, &send, Some(&alice), message.clone());
            let sent = sent.await.1["event_id"].as_str().unwrap().to_owned();
            let join = format!("/_matrix/client/v3/join/{room}");
            let joined = site.call(Method::POST, &join, Some(&carol), json!({}));
            assert_eq!(joined.await.0, StatusCode::OK);
            let close = (Method::POST, DEACTIVATE);
            let wish = json!({ "erase": erase });
            let owner = name("alice");
            let closed = site.confirmed(close, &alice, wish, (&owner, "secret"));
            assert_eq!(closed.await.0, StatusCode::OK);
            let page = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100");
            for (viewer, was_there) in [(&bob, true), (&carol, false)] {
                let page = site.call(Method::GET, &page, Some(viewer), Value::Null);
                let (_, page) = page.await;
                let chunk = page["chunk"].as_array().unwrap();
                let seen = chunk.iter().find(|event| event["event_id"] == *sent);
                let content = &seen.unwrap()["content"];
                let expected = match was_there || !erase {
                    true => &message,
                    false => &json!({}),
                };
                assert_eq!(content, expected, "erased: {erase}, there: {was_there}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_closed_an_account_before_a_crash_leaves_its_rooms_after_it() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let bob = site.token("bob").await;
        let room = room_of(&site, &alice, &bob).await;
        // The account is closed, and nobody gets to tell the rooms.
        let database = fresh.database.clone();
        let close = database.write("close", Priority::Interactive, |tx| {
            Box::pin(
                async move { accounts::close(tx, user_id!("@alice:example.org"), false).await },
            )
        });
        let closed: Result<(), StorageError> = close.await;
        closed.unwrap();
        let site = Site::start(&fresh).await;
        until_left(&site, &bob, &room).await;
    })
    .await;
}
